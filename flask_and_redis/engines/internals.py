"""Every use of undocumented features of redis-py and valkey-py.

Each function says why it is needed, for which versions, and what breaks without it.
``tests/test_internals.py`` fails when one of these features changes.
"""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import contextlib
import os
import queue
import threading
import types
import typing as t

import redis
import redis.cluster
from redis import exceptions as redis_exceptions

from ..spec.classes import once_per_class
from ..spec.spec import Arguments
from .library import library_name
from .library import library_of
from .library import Pool

# Locks


_LOCKS = {type(create()): create for create in (threading.Lock, threading.RLock)}


def renew_locks(roots: cabc.Iterable[object]) -> None:
    """Give objects of the client library new locks, and all that they refer to.

    Why: a forked child inherits locks that threads of the parent hold, and nobody
    releases them. Versions: all; redis-py 8 adds some, such as that of a dispatcher.
    Without it: the child waits forever.

    :param roots: Clients and pools. Objects that share a lock share the new one.
    """
    renewed: dict[int, t.Any] = {}
    seen: set[int] = set()
    pending = list(roots)

    while pending:
        owner = pending.pop()
        seen.add(id(owner))

        for name, value in list(getattr(owner, "__dict__", {}).items()):
            if (create := _LOCKS.get(type(value))) is not None:
                setattr(owner, name, renewed.setdefault(id(value), create()))
            elif id(value) not in seen and library_name(type(value)):
                pending.append(value)


# Pools


def list_idle(pool: t.Any) -> list[t.Any]:
    """The connections of a pool that are not in use.

    Why: there is no public way. Versions: all. Without it: with a pool of the
    application, ``RETRY = 0`` retries connecting only for new connections.

    :param pool: The pool. For a pool of an unknown class the list is empty.
    """
    if hasattr(pool, "_connections"):
        # A blocking pool.
        return [each for each in list(pool.pool.queue) if each is not None]

    return list(getattr(pool, "_available_connections", ()))


def list_connections(pool: t.Any) -> list[t.Any]:
    """The connections of a pool, in use or not.

    Why: there is no public way. Versions: all. Without it: connections that a client
    opens in its constructor do not know their state.

    :param pool: The pool. For a pool of an unknown class the list is empty.
    """
    lent = getattr(pool, "_in_use_connections", ())
    return [*getattr(pool, "_connections", ()), *list_idle(pool), *lent]


def count_connections(pool: t.Any) -> tuple[int, int] | None:
    """How many connections of a pool are in use, and how many are idle and connected.

    Why: redis-py has public counters from 8.0 on only, and valkey-py has none.
    Versions: all. Without it: ``RedisManager.stats`` has no figures.

    :param pool: The pool.
    :return: None if the pool is of a class that does not tell.
    """
    try:
        if pool.pid != os.getpid():
            # They belong to the process that this one was forked from.
            return 0, 0

        idle = list_idle(pool)

        if hasattr(pool, "_connections"):
            in_use = len(pool._connections) - len(idle)
        else:
            in_use = len(pool._in_use_connections)
    except AttributeError:
        return None

    # A disconnected connection stays in the pool, and connects again when it is used.
    return in_use, sum(getattr(each, "_sock", each) is not None for each in idle)


# The limit of a pool that was given none, in redis-py before 8 and in valkey-py.
_NO_LIMIT = 2**31


def find_limit(pool: t.Any) -> int | None:
    """How many connections a pool may have, or None if there is no limit.

    Why: a pool without a limit has a very large one. Versions: valkey-py, and redis-py
    before 8.0. Without it: ``RedisManager.stats`` shows this number.

    :param pool: The pool.
    """
    limit = getattr(pool, "max_connections", _NO_LIMIT)
    return limit if isinstance(limit, int) and limit < _NO_LIMIT else None


def disconnect_idle(pool: t.Any) -> None:
    """Disconnect the connections of a pool that are not in use.

    Why: ``disconnect(inuse_connections=False)`` of a blocking pool fails or disconnects
    all. Versions: valkey-py, and redis-py before 8.0. Without it:
    ``RedisManager.close`` cuts commands of other threads.

    :param pool: The pool.
    """
    if not hasattr(pool, "queue_class"):
        pool.disconnect(False)
        return

    taken = []

    # After a fork they are the parent's.
    if pool.pid == os.getpid():
        with contextlib.suppress(queue.Empty):
            while True:
                taken.append(pool.pool.get_nowait())

    # The queue returns the last one first.
    for connection in reversed(taken):
        if connection is not None:
            connection.disconnect()

        pool.pool.put_nowait(connection)


def is_full_pool(error: BaseException) -> bool:
    """Whether an error says that all connections of a pool are in use.

    Why: only redis-py's ordinary pool has a class for it; a blocking pool and valkey-py
    raise a ``ConnectionError`` with these texts. Versions: all. Without it: a full pool
    counts as an outage of the server.

    :param error: What a pool raised.
    """
    return type(error).__name__ == "MaxConnectionsError" or (
        str(error) in ("No connection available.", "Too many connections")
    )


def is_demoted(error: BaseException, errors: types.ModuleType) -> bool:
    """Whether an error says that the server is a replica and refuses to write.

    Why: in scripts of Redis 6 and before it is an error of another class, and redis-py
    gives it another class for servers behind sentinels. Versions: all. Without it:
    writes fail as long as the old master lives.

    :param error: What a command raised.
    :param errors: The library's errors.
    """
    text = str(error)
    return (
        isinstance(error, errors.ReadOnlyError)
        or (isinstance(error, errors.ResponseError) and "-READONLY " in text)
        or text == "The previous master is now a slave"
    )


#: Arguments that a pool takes through ``**connection_kwargs`` without naming them.
#: Without them: client-side caching is lost next to ``CONNECTION_POOL_CLASS``.
UNNAMED_POOL_ARGUMENTS = frozenset({"cache", "cache_config"})

_ADDED_BY_POOL = ("himport_", "maint_", "orig_", "oss_")


def own_arguments(pool: Pool) -> Arguments:
    """The arguments that a pool was created with.

    Why: the pool adds objects of its own to ``connection_kwargs``. Versions: 7.0 and
    newer. Without it: the connections of a probe would change the settings of the
    prefix's own pool.

    :param pool: The pool.
    """
    return {
        name: value
        for name, value in pool.connection_kwargs.items()
        if not name.startswith(_ADDED_BY_POOL)
    }


# Credential providers


def restart_renewal(provider: t.Any) -> None:
    """Let a provider that streams tokens start to renew them when it is asked next.

    Why: the thread that renews them does not survive a fork, and there is no public way
    to start another. Versions: redis-entraid, all. Without it: a forked child keeps to
    the tokens that it inherits.

    :param provider: The provider. If it is of another kind, nothing is done.
    """
    if hasattr(provider, "_is_streaming"):
        provider._is_streaming = False


def retry_renewal(provider: t.Any, seconds: float) -> None:
    """Let a provider that streams tokens renew them after an error.

    Why: redis-py's ``TokenManager`` gives up after an error. Versions: all. Without it:
    tokens are not renewed any more once the identity provider could not be reached.

    :param provider: The provider, whose ``on_error`` is running. If it is of another
        kind, nothing is done.
    :param seconds: How long to wait.
    """
    manager = getattr(provider, "_token_mgr", None)

    if (renew := getattr(manager, "_renew_token", None)) is not None:
        asyncio.get_running_loop().call_later(seconds, renew)


def is_cache_refused(error: BaseException) -> bool:
    """Whether an error says that a server does not support client-side caching.

    Why: it is an ordinary ``ConnectionError`` with this text. Versions: all. Without
    it: the command is retried until its deadline.

    :param error: What a connection raised.
    """
    return "client-side caching is supported by" in str(error)


# Pipelines


def change_class(instance: object, cls: type) -> None:
    """Make a pipeline or a connection an instance of a subclass of its class.

    Why: ``client.pipeline()`` names the class of the pipeline itself, and no argument
    changes it. A pool of the application may have connections already. Versions: all.
    Without it: pipelines have no deadline.

    :param instance: The pipeline or the connection.
    :param cls: A subclass of its class.
    """
    instance.__class__ = cls


def copy_scripts(pipeline: t.Any) -> set[t.Any]:
    """The scripts that a pipeline loads before it runs its commands.

    Why: ``reset()`` drops them, and a script adds itself only when it is called.
    Versions: all; a cluster's pipelines have none. Without it: a retried pipeline ends
    with ``NOSCRIPT``.

    :param pipeline: The pipeline.
    """
    return set(getattr(pipeline, "scripts", ()))


def restore_scripts(pipeline: t.Any, scripts: set[t.Any]) -> None:
    """Add scripts to a pipeline that was reset. See :func:`copy_scripts`.

    :param pipeline: The pipeline.
    :param scripts: Its scripts before the reset.
    """
    pipeline.scripts |= scripts


# Clusters


#: The arguments of ``redis.Redis`` that ``redis.RedisCluster`` passes on to its nodes
#: without naming them in its signature. Without them: a cluster has no password.
CLUSTER_ARGUMENTS: frozenset[str] = frozenset(redis.cluster.REDIS_ALLOWED_KEYS)


def set_node_connections(
    client: t.Any, convert: cabc.Callable[[type[t.Any]], type[t.Any]]
) -> None:
    """Set the class of connections of a new asynchronous cluster's client.

    Why: its nodes create their connections, and no argument sets the class. Versions:
    all. Without it: a node may get commands without a login.

    :param client: The client.
    :param convert: Returns the class to use for redis-py's.
    """
    # The nodes that it finds later are created with these arguments.
    arguments = client.nodes_manager.connection_kwargs
    arguments["connection_class"] = convert(arguments["connection_class"])

    for node in client.nodes_manager.startup_nodes.values():
        node.connection_class = convert(node.connection_class)


def refresh_slots(client: t.Any) -> t.Any:
    """Read the slots of a cluster again.

    Why: a pipeline does not do it after a failure. Versions: all. Without it: a
    pipeline is retried on the node that is gone.

    :param client: The cluster's client.
    :return: An awaitable if the client is asynchronous.
    """
    return client.nodes_manager.initialize()


def is_uncovered(error: BaseException) -> bool:
    """Whether an error says that no node serves a slot of the cluster.

    Why: while the slots are read it is a ``RedisClusterException`` with this text.
    Everywhere else it has a class of its own. Versions: all. Without it: a failover
    ends commands.

    :param error: What a command or the client's constructor raised.
    """
    return isinstance(error, redis_exceptions.SlotNotCoveredError) or (
        "slots are not covered" in str(error)
    )


def add_startup_nodes(client: t.Any, nodes: cabc.Iterable[tuple[str, int]]) -> None:
    """Add nodes to those that are asked for the slots of a cluster.

    Why: the client keeps only the nodes that the cluster names, and forgets those that
    it was created with. Versions: all. Without it: a cluster whose nodes were all
    replaced is never found again.

    :param client: The cluster's client.
    :param nodes: Host and port of each node.
    """
    manager = client.nodes_manager
    library = library_of(type(client))
    arguments = manager.connection_kwargs if library.is_async else {}
    added = [library.cluster.ClusterNode(*node, **arguments) for node in nodes]
    # A new dict: the client uses the same one for the nodes that it knows.
    manager.startup_nodes = {node.name: node for node in added} | manager.startup_nodes


# Instead of a node and its pool.
_NOBODY = types.SimpleNamespace(release=lambda connection: connection.disconnect())
_NOBODY.redis_connection = _NOBODY.connection_pool = _NOBODY


@once_per_class
def _follows_nodes(cls: type[t.Any]) -> type[t.Any]:
    def get_node(
        self: t.Any,
        host: str | None = None,
        port: int | None = None,
        node_name: str | None = None,
    ) -> t.Any:
        if (name := node_name or f"{host}:{port}")[0] != ":":
            return cls.get_node(self, host, port, node_name)

        nodes = self.nodes_cache.values()
        return next((node for node in nodes if f":{node.port}" == name), None)

    def update_moved_exception(self: t.Any, error: Exception) -> None:
        if isinstance(error, redis_exceptions.AskError):
            self._moved_exception = error

    def find_connection_owner(self: t.Any, connection: t.Any) -> t.Any:
        return cls.find_connection_owner(self, connection) or _NOBODY

    # With slots, and no mixin: the objects' layout must stay the same.
    methods = (get_node, update_moved_exception, find_connection_owner)
    names = {method.__name__: method for method in methods}
    return type(cls.__name__, (cls,), {"__slots__": (), **names})


def follow_nodes(client: t.Any) -> None:
    """Let a cluster's client follow redirections without a host, and survive others.

    Why: a cluster behind a single address leaves it out. A transaction takes any error
    for a redirection, and expects its node to be still there. Versions: all; the latter
    6.4. Without it: it connects to localhost, or ends with an ``AttributeError``.

    :param client: The cluster's client.
    """
    manager = client.nodes_manager
    change_class(manager, _follows_nodes(type(manager)))


def find_shard(
    client: t.Any, command: cabc.Sequence[t.Any], position: int | None = None
) -> str | None:
    """The shard that serves a command, as the name of its master.

    Why: the public ways raise errors or ask a node, which may be down. Versions: all.
    Without it: while one shard hangs, each command to it waits for its deadline.

    :param client: The cluster's client.
    :param command: The arguments of the command.
    :param position: The position of its first key, if this is known.
    :return: None if the position is not known.
    """
    if position is None:
        details = client.commands_parser.commands.get(str(command[0]).lower(), {})
        position = t.cast(int, details.get("first_key_pos", 0))

    if not 0 < position < len(command):
        return None

    nodes = client.nodes_manager.slots_cache.get(client.keyslot(command[position]))
    return nodes[0].name if nodes else None


# Sentinel


#: How errors of sentinels that a retry cannot fix read in a ``MasterNotFoundError``.
_REFUSALS = ("AuthenticationError", "CERTIFICATE_VERIFY_FAILED")


def is_refused_by_sentinel(error: BaseException) -> bool:
    """Whether a sentinel refused the password or the certificate.

    Why: redis-py keeps nothing but the text of the sentinels' errors. Versions: all.
    Without it: a wrong password of a sentinel is retried until the deadline.

    :param error: A ``MasterNotFoundError``.
    """
    return any(refusal in str(error) for refusal in _REFUSALS)
