"""Every use of undocumented features of redis-py and valkey-py.

Each function says why it is needed, for which versions, and what breaks without it.
``tests/test_internals.py`` fails when one of these features changes.
"""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import os
import queue
import threading
import typing as t

import redis
import redis.cluster
from redis import exceptions as redis_exceptions
from redis.event import EventDispatcher

from ..spec.spec import Arguments
from .library import Pool

# Locks


_LOCKS = {type(create()): create for create in (threading.Lock, threading.RLock)}


def renew_locks(owners: cabc.Iterable[object]) -> None:
    """Give objects of redis-py new locks in place of those that they have.

    Why: a forked child inherits locks that threads of the parent hold, and nobody
    releases them. Versions: all; from 8.0 on a pool's ``reset()`` waits for its lock.
    Without it: the child waits forever.

    :param owners: Clients, pools and the like. Objects that share a lock share the new
        one.
    """
    renewed: dict[int, t.Any] = {}

    for owner in owners:
        for name, value in list(getattr(owner, "__dict__", {}).items()):
            if (create := _LOCKS.get(type(value))) is not None:
                setattr(owner, name, renewed.setdefault(id(value), create()))


# Pools


class _SilentDispatcher(EventDispatcher):
    """Dispatches nothing."""

    def dispatch(self, event: object) -> None:
        pass


_SILENT_DISPATCHER = _SilentDispatcher()


def silence_dispatcher(pool: Pool) -> None:
    """Stop a pool from dispatching an event for each released connection.

    Why: only a streaming credential provider listens. Versions: 6.0 and newer.
    Without it: a whole GET takes 3 % longer.

    :param pool: A pool of ours, whose dispatcher the application did not set.
    """
    for name, value in list(vars(pool).items()):
        if type(value) is EventDispatcher:
            setattr(pool, name, _SILENT_DISPATCHER)


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


def refresh_slots(client: t.Any) -> t.Any:
    """Read the slots of a cluster again.

    Why: a pipeline does not do it after a failure. Versions: all. Without it: a
    pipeline is retried on the node that is gone.

    :param client: The cluster's client.
    :return: An awaitable if the client is asynchronous.
    """
    return client.nodes_manager.initialize()


def forget_redirection(client: t.Any) -> None:
    """Clear the redirection that a cluster's transaction leaves behind.

    Why: redis-py keeps the error of the transaction, and raises it from later commands
    of the client. Versions: 6.4. Without it: they fail until the client is closed.

    :param client: The cluster's client.
    """
    manager = client.nodes_manager
    getattr(manager, "update_moved_exception", lambda error: None)(None)


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


def cluster_locks(client: t.Any) -> list[object]:
    """The objects that hold locks of a cluster's client, beside the client and its
    pools. See :func:`renew_locks`.

    :param client: The cluster's client.
    """
    return [client.nodes_manager]


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
