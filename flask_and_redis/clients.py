from __future__ import annotations

import collections.abc as cabc
import contextlib
import dataclasses
import inspect
import os
import queue
import sys
import threading
import types
import typing as t
import weakref

import redis
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from redis.event import EventDispatcher
from werkzeug.utils import import_string

from .config import Settings
from .exceptions import ConfigError
from .retry import Bound
from .retry import bound_async_client
from .retry import bound_client
from .retry import Link
from .retry import mix
from .retry import nothing
from .urls import Place
from .values import library_of
from .values import Masked
from .values import name_of
from .values import parameters
from .values import Secret
from .values import SECRETS

# Seconds in which a server that is down must answer to be up again.
ANSWER_TIMEOUT = 1.0

_CLUSTERS = (redis.RedisCluster, redis.asyncio.RedisCluster)

# What redis-py is told to try again after.
_RETRIES = frozenset({"retry_on_error", "retry_on_timeout"})

# A pool takes these from its arguments without naming them.
_OF_POOL = frozenset({"cache", "cache_config"})


def make_client(
    settings: Settings, bound: Bound, fake_servers: dict[str, t.Any]
) -> redis.Redis:
    """Make the client that a prefix's settings describe. Only that of a cluster opens
    connections.

    :param settings: The prefix's settings.
    :param bound: How long its commands may be tried again.
    :param fake_servers: The fake servers of the app by name, which is added to.
    """
    arguments = _prepare(settings, settings.client_class)

    if settings.is_cluster:
        client = bound.bind(Link(), _make_cluster)(settings, arguments)
        # As with a pool: leaving "with current_redis as r:" would take the nodes from
        # all threads, and for good.
        client.close = nothing
    else:
        client = _make_without_bound(settings, arguments, fake_servers)

    if "connection_pool" not in arguments and hasattr(client, "connection_pool"):
        _own_pools(client)

    if (pool := getattr(client, "connection_pool", None)) is not None:
        _mask(pool.connection_kwargs)

    if settings.deadline is not None:
        bound_client(client, bound, lambda: _ask(client))

    _clients.add(client)
    return client  # type: ignore[no-any-return]


def _make_without_bound(
    settings: Settings, arguments: dict[str, t.Any], fake_servers: dict[str, t.Any]
) -> t.Any:
    """A client of any engine but a cluster, whose constructor connects."""
    if settings.place.scheme == "fakeredis":
        return _make_fake(settings, arguments, fake_servers)

    if settings.place.scheme.endswith("+sentinel"):
        return _make_behind_sentinels(settings, arguments)

    if settings.pool_class is not None and "connection_pool" not in arguments:
        return _make_with_pool(settings, settings.pool_class, arguments)

    return settings.client_class(**arguments)


def _prepare(settings: Settings, client_class: type[t.Any]) -> dict[str, t.Any]:
    """The arguments of a client, in which redis-py tries nothing again by itself."""
    arguments = dict(settings.arguments)

    if library_of(client_class) == name_of(client_class).partition(".")[0]:
        # A class of the application's own may want to format them.
        _mask(arguments)

    if isinstance(provider := arguments.get("credential_provider"), type):
        arguments["credential_provider"] = provider()

    if settings.deadline is not None:
        if "retry" in parameters(client_class):
            arguments["retry"] = None

            # To these None means some retries. To others it means none, and nothing to
            # copy for each client and connection.
            if issubclass(client_class, _CLUSTERS) or _RETRIES & arguments.keys():
                arguments["retry"] = _no_retry(client_class)

        if settings.pool_class and "timeout" in parameters(settings.pool_class):
            arguments.setdefault("timeout", settings.deadline)

    return arguments


def _mask(arguments: dict[str, t.Any]) -> None:
    """Keep secrets out of the ``repr`` of a pool, which redis-py before 8 and valkey-py
    make of all that they hand to connections.
    """
    for name in SECRETS:
        if isinstance(arguments.get(name), Secret):
            arguments[name] = Masked(arguments[name])


def _no_retry(client_class: type[t.Any]) -> t.Any:
    library = library_of(client_class)
    is_async = inspect.iscoroutinefunction(client_class.execute_command)
    kind = f"{library}.asyncio" if is_async else library
    no_backoff = sys.modules[f"{library}.backoff"].NoBackoff()
    return sys.modules[f"{kind}.retry"].Retry(no_backoff, 0)


def _ask(client: t.Any) -> None:
    """Raise unless the server of a client answers, over a connection of its own."""
    connection = _make_connection(client.connection_pool)

    try:
        connection.connect()
        connection.send_command("PING")
        connection.read_response()
    except _errors_of(client).ResponseError:
        # It has answered.
        pass
    finally:
        connection.disconnect()


async def _ask_async(client: t.Any) -> None:
    connection = _make_connection(client.connection_pool)

    try:
        await connection.connect()
        await connection.send_command("PING")
        await connection.read_response()
    except _errors_of(client).ResponseError:
        pass
    finally:
        await connection.disconnect()


def _errors_of(client: t.Any) -> t.Any:
    return sys.modules[f"{library_of(type(client)) or 'redis'}.exceptions"]


def _make_connection(pool: t.Any) -> t.Any:
    """A connection as the pool would make one, which waits a short time only."""
    kwargs = dict(pool.connection_kwargs)

    for name in ("socket_timeout", "socket_connect_timeout"):
        kwargs[name] = min(kwargs.get(name) or ANSWER_TIMEOUT, ANSWER_TIMEOUT)

    return pool.connection_class(**kwargs)


def _own_pools(client: t.Any) -> None:
    """Let the client's pools live as long as the client, and no shorter."""
    # All threads share the client: leaving "with current_redis as r:" in one of them
    # must not cut the connections that the others use.
    client.auto_close_connection_pool = False

    for pool in (client.connection_pool, *_pools_of_sentinels(client)):
        weakref.finalize(client, pool.disconnect).atexit = False

    kind: t.Any = getattr(client.connection_pool, "connection_class", None)

    # Before redis-py 8 there is nothing to ask, and less to save.
    if hasattr(kind, "is_connected") and kind.__module__.startswith("redis."):
        client.connection_pool.connection_class = mix(_ConnectingOnce, kind)

    _skip_listeners(client.connection_pool)


class _NoListeners(EventDispatcher):
    """Dispatches nothing. A pool of redis-py tells its dispatcher of each connection
    that is given back, for 3 % of the whole command, so that one logs in anew whose
    provider of credentials has sent a new password.
    """

    def dispatch(self, event: object) -> None:
        pass


_NO_LISTENERS = _NoListeners()


def _skip_listeners(pool: t.Any) -> None:
    kwargs = pool.connection_kwargs

    if not (kwargs.get("credential_provider") or kwargs.get("event_dispatcher")):
        for name, it in list(vars(pool).items()):
            if type(it) is EventDispatcher:
                setattr(pool, name, _NO_LISTENERS)


class _ConnectingOnce:
    """Mixed into the class of a pool's connections. The pool connects each of them
    before each command, in which redis-py finds by way of its retries, for 3 % of the
    whole command, that there is nothing to do.
    """

    is_connected: bool

    def connect(self) -> None:
        if not self.is_connected:
            super().connect()  # type: ignore[misc]


_clients: weakref.WeakSet[t.Any] = weakref.WeakSet()

_LOCKS = {type(make()): make for make in (threading.Lock, threading.RLock)}


def _renew_locks() -> None:
    """Give each client new locks in a process that has just been forked. A thread of
    the parent may have held one, and is not here to release it: redis-py begins its
    pools anew in a child, but waits for their locks without end.
    """
    renewed: dict[int, t.Any] = {}

    for client in list(_clients):
        pools = (*pools_of(client), *_pools_of_sentinels(client))

        for owner in (client, getattr(client, "nodes_manager", None), *pools):
            for name, it in list(getattr(owner, "__dict__", {}).items()):
                if (make := _LOCKS.get(type(it))) is not None:
                    setattr(owner, name, renewed.setdefault(id(it), make()))


# Where there is no fork, there is nothing to register either.
getattr(os, "register_at_fork", nothing)(after_in_child=_renew_locks)


def pools_of(client: t.Any) -> list[t.Any]:
    """The pools of connections to the servers: one or, of a cluster, one a node. None
    if it keeps its connections otherwise.

    :param client: A client.
    """
    if isinstance(client, redis.RedisCluster):
        nodes = client.nodes_manager.nodes_cache.values()
        connections = [it.redis_connection for it in list(nodes)]
        return [it.connection_pool for it in connections if it is not None]

    pool = getattr(client, "connection_pool", None)
    return [] if pool is None else [pool]


def _pools_of_sentinels(client: t.Any) -> list[t.Any]:
    pool = getattr(client, "connection_pool", None)

    if isinstance(pool, redis.SentinelConnectionPool):
        return [it.connection_pool for it in pool.sentinel_manager.sentinels]

    return []


def disconnect(client: t.Any, *, in_use: bool) -> None:
    """Disconnect all pools of a client. It connects again when it is used.

    :param client: The client.
    :param in_use: Whether to cut connections that are lent out. In another thread that
        is more than an error of the connection to redis-py.
    """
    for pool in (*pools_of(client), *_pools_of_sentinels(client)):
        if in_use:
            pool.disconnect()
        elif hasattr(pool, "queue_class"):
            _disconnect_idle(pool)
        else:
            pool.disconnect(False)


def _disconnect_idle(pool: t.Any) -> None:
    """Disconnect what a blocking pool has not lent out, which it cannot by itself with
    every library.
    """
    taken = []

    # After a fork they are the parent's.
    if pool.pid == os.getpid():
        with contextlib.suppress(queue.Empty):
            while True:
                taken.append(pool.pool.get_nowait())

    # The last ones are those that are lent first.
    for connection in reversed(taken):
        if connection is not None:
            connection.disconnect()

        pool.pool.put_nowait(connection)


def split_for_probes(settings: Settings, timeout: float) -> list[Settings]:
    """Settings for short-lived clients that try once, for :func:`open_probe`. In a
    cluster, and behind sentinels, there is one for each start-up node or sentinel: what
    one of them says will do, and none of them keeps the others waiting.

    :param settings: The prefix's settings.
    :param timeout: Seconds that connecting, and each reply, may take.
    """
    timeouts = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    probe = dataclasses.replace(
        settings,
        # In a cluster each node is asked for itself.
        client_class=redis.Redis if settings.is_cluster else settings.client_class,
        pool_class=None,
        deadline=0.0,
        retries=None,
    )
    taken = parameters(probe.client_class)
    arguments = {
        name: it
        for name, it in {**settings.arguments, **timeouts}.items()
        if name in taken and name not in _NOT_OF_PROBES
    }

    if (pool := arguments.get("connection_pool")) is not None:
        arguments["connection_pool"] = _copy_pool(pool, settings.client_class, timeouts)

    if settings.is_cluster:
        return [
            dataclasses.replace(
                probe, arguments=arguments | {"host": host, "port": port}, place=Place()
            )
            for host, port in settings.nodes
        ]

    if settings.place.scheme.endswith("+sentinel"):
        return [
            dataclasses.replace(
                probe,
                arguments=arguments,
                place=settings.place._replace(nodes=(node,)),
                sentinel_arguments={**settings.sentinel_arguments, **timeouts},
            )
            for node in settings.place.nodes
        ]

    return [dataclasses.replace(probe, arguments=arguments)]


# What a client with a single connection has no use for, or shares with others.
_NOT_OF_PROBES = {"cache", "cache_config", "retry", "single_connection_client"}


_OF_OTHER_POOL = ("himport_", "maint_", "orig_", "oss_")


def _copy_pool(
    pool: t.Any, client_class: type[t.Any], timeouts: cabc.Mapping[str, float]
) -> t.Any:
    """A pool of its own to the same server."""
    # redis-py adds some that belong to the other pool.
    known = {
        name: it
        for name, it in pool.connection_kwargs.items()
        if not name.startswith(_OF_OTHER_POOL)
    }
    library = sys.modules[library_of(client_class)]
    return library.ConnectionPool(
        connection_class=pool.connection_class,
        **{**known, **timeouts, "retry": _no_retry(client_class)},
    )


def find_address(client: t.Any) -> tuple[str, int]:
    """Host and port of the server that a client is connected to: behind sentinels, the
    one that they name.

    :param client: The client.
    """
    connection = client.connection_pool.get_connection()

    try:
        return connection.host, int(connection.port)
    finally:
        client.connection_pool.release(connection)


@contextlib.contextmanager
def open_probe(
    settings: Settings, fake_servers: dict[str, t.Any]
) -> cabc.Iterator[t.Any]:
    """A client apart from the prefix's own, and from its pool, disconnected at the end.

    :param settings: Settings from :func:`split_for_probes`.
    :param fake_servers: The fake servers of the app by name, which is added to.
    """
    arguments = _prepare(settings, settings.client_class)
    client = _make_without_bound(settings, arguments, fake_servers)

    try:
        yield client
    finally:
        disconnect(client, in_use=True)


def _make_with_pool(
    settings: Settings, pool_class: type[t.Any], arguments: dict[str, t.Any]
) -> t.Any:
    """Hand the pool and its connections what is theirs, and the client the rest."""
    library = sys.modules[library_of(settings.client_class)]
    path = arguments.pop("unix_socket_path", None)

    if path is not None:
        connection_class: type[t.Any] = library.UnixDomainSocketConnection
        arguments["path"] = path
    elif arguments.pop("ssl", False):
        connection_class = library.SSLConnection
    else:
        connection_class = library.Connection

    for_pool, for_client = _split(arguments, pool_class, connection_class)
    pool = pool_class(connection_class=connection_class, **for_pool)
    return settings.client_class(connection_pool=pool, **for_client)


def _split(
    arguments: cabc.Mapping[str, t.Any], *classes: type[t.Any]
) -> tuple[dict[str, t.Any], dict[str, t.Any]]:
    """Part arguments into those that some of the classes take, and the others."""
    names = _OF_POOL.union(*map(parameters, classes))
    # The client tells a provider that sends new passwords of the pool.
    of_both = {"credential_provider"}
    return (
        {name: value for name, value in arguments.items() if name in names},
        {name: it for name, it in arguments.items() if name not in names - of_both},
    )


def _make_cluster(settings: Settings, arguments: dict[str, t.Any]) -> t.Any:
    arguments = dict(arguments)

    if settings.place.nodes:
        # Made anew each time, as the cluster changes its start-up nodes.
        arguments["startup_nodes"] = [
            redis.cluster.ClusterNode(host, port)  # type: ignore[no-untyped-call]
            for host, port in settings.place.nodes
        ]

    return settings.client_class(**arguments)


def _make_behind_sentinels(settings: Settings, arguments: dict[str, t.Any]) -> t.Any:
    """A client, synchronous or not, that asks sentinels for its server."""
    client_class = settings.client_class
    kind = _sentinels_of(client_class)
    sentinel_kwargs = {"retry": _no_retry(client_class), **settings.sentinel_arguments}
    _mask(sentinel_kwargs)

    if isinstance(provider := sentinel_kwargs.get("credential_provider"), type):
        sentinel_kwargs["credential_provider"] = provider()

    sentinel = kind.Sentinel(settings.place.nodes, sentinel_kwargs=sentinel_kwargs)
    pool_class = settings.pool_class or kind.SentinelConnectionPool
    tls = arguments.pop("ssl", False)
    for_pool, for_client = _split(
        arguments,
        pool_class,
        # Of which the asynchronous ones name what matters here no less.
        redis.ConnectionPool,
        redis.SSLConnection if tls else redis.Connection,
    )
    pool = pool_class(
        settings.place.service,
        sentinel,
        is_master=not settings.place.replica,
        ssl=tls,
        **for_pool,
    )
    return client_class(connection_pool=pool, **for_client)


def _sentinels_of(client_class: type[t.Any]) -> types.ModuleType:
    if issubclass(client_class, redis.asyncio.Redis):
        return redis.asyncio.sentinel

    return redis.sentinel


def _make_fake(
    settings: Settings,
    arguments: cabc.Mapping[str, t.Any],
    fake_servers: dict[str, t.Any],
) -> t.Any:
    """A client, synchronous or not, of a fake server, which knows neither users nor
    TLS.
    """
    import fakeredis

    # setdefault, as two prefixes may be made at once.
    name = settings.place.fake_server
    server = fake_servers.setdefault(name, fakeredis.FakeServer())
    pool_class: type[t.Any] = settings.pool_class or redis.ConnectionPool
    connection_class: type[t.Any] = fakeredis.FakeRedisConnection

    if issubclass(settings.client_class, redis.asyncio.Redis):
        pool_class = redis.asyncio.ConnectionPool
        connection_class = fakeredis.FakeAsyncRedisConnection

    for_pool, rest = _split(arguments, pool_class, redis.SSLConnection)
    useless = {"username", "password", "credential_provider", "host", "port"}
    for_pool = {
        name: value
        for name, value in for_pool.items()
        if name not in useless and not name.startswith("ssl_")
    }
    rest = {name: it for name, it in rest.items() if name not in useless | {"ssl"}}
    pool = pool_class(connection_class=connection_class, server=server, **for_pool)
    return settings.client_class(connection_pool=pool, **rest)


@contextlib.asynccontextmanager
async def open_async_client(
    settings: Settings, bound: Bound, fake_servers: dict[str, t.Any]
) -> cabc.AsyncIterator[redis.asyncio.Redis]:
    """A client of asyncio for the same settings, closed at the end.

    :param settings: The prefix's settings.
    :param bound: How long its commands may be tried again.
    :param fake_servers: The fake servers of the app by name, which is added to.
    :raises ConfigError: If the settings have no meaning for asyncio.
    """
    client = _make_async(_for_asyncio(settings), fake_servers)

    if settings.deadline is not None:
        bound_async_client(client, bound, lambda: _ask_async(client))

    try:
        yield client
    finally:
        await client.aclose()

        if (pool := getattr(client, "connection_pool", None)) is not None:
            await pool.disconnect()

            for sentinel in getattr(pool, "sentinel_manager", _NO_SENTINELS).sentinels:
                await sentinel.aclose()


_NO_SENTINELS = types.SimpleNamespace(sentinels=())


def _make_async(settings: Settings, fake_servers: dict[str, t.Any]) -> t.Any:
    arguments = _prepare(settings, settings.client_class)

    if settings.place.scheme == "fakeredis":
        return _make_fake(settings, arguments, fake_servers)

    if settings.place.scheme.endswith("+sentinel"):
        return _make_behind_sentinels(settings, arguments)

    if settings.place.nodes:
        arguments["startup_nodes"] = [
            redis.asyncio.cluster.ClusterNode(host, port)
            for host, port in settings.place.nodes
        ]

    return settings.client_class(**arguments)


# Classes of clients, to those for asyncio.
_TWINS = {
    "redis.Redis": "redis.asyncio.Redis",
    "redis.RedisCluster": "redis.asyncio.RedisCluster",
    "fakeredis.FakeRedis": "fakeredis.FakeAsyncRedis",
    "valkey.Valkey": "valkey.asyncio.Valkey",
}


def _for_asyncio(settings: Settings) -> Settings:
    """The settings with the asynchronous twin of the client's class."""
    path = _TWINS.get(name_of(settings.client_class))

    if path is None:
        raise ConfigError(
            f"'{settings.prefix}_CLASS' must be a class of redis-py or valkey-py for"
            f" get_async: {name_of(settings.client_class)} has no asynchronous twin."
        )

    found: type[t.Any] = import_string(path)
    arguments = dict(settings.arguments)
    # redis-py's own object is of the synchronous kind.
    arguments.pop("retry", None)
    taken = parameters(found)

    if settings.pool_class is not None:
        # The pool lives as long as the client, so its class makes no difference.
        of_client = parameters(settings.client_class)
        arguments = {name: it for name, it in arguments.items() if name in of_client}

    for name in arguments:
        if name not in taken or name == "connection_pool":
            raise ConfigError(
                f"'{settings.prefix}_{name.upper()}' cannot be used with get_async:"
                f" {found.__module__}.{found.__qualname__} has no such argument."
            )

    return dataclasses.replace(
        settings, client_class=found, arguments=arguments, pool_class=None
    )
