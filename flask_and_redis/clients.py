from __future__ import annotations

import collections.abc as cabc
import typing as t
import weakref

import redis

from .config import Settings
from .values import parameters


def make_client(settings: Settings, fake_servers: dict[str, t.Any]) -> redis.Redis:
    """Make the client that a prefix's settings describe. No connection is opened.

    :param settings: The prefix's settings.
    :param fake_servers: The fake servers of the app by name, which is added to.
    """
    arguments = dict(settings.arguments)

    if isinstance(provider := arguments.get("credential_provider"), type):
        arguments["credential_provider"] = provider()

    if settings.fake_server is not None:
        client = _make_fake(settings, arguments, fake_servers)
    elif settings.pool_class is not None and "connection_pool" not in arguments:
        client = _make_with_pool(settings.client_class, settings.pool_class, arguments)
    else:
        client = settings.client_class(**arguments)

    if "connection_pool" not in arguments and hasattr(client, "connection_pool"):
        _own_pool(client)

    return client  # type: ignore[no-any-return]


def _own_pool(client: t.Any) -> None:
    """Let the pool live as long as the client, and no shorter."""
    # All threads share the client: leaving "with current_redis as r:" in one of them
    # must not cut the connections that the others use.
    client.auto_close_connection_pool = False
    weakref.finalize(client, client.connection_pool.disconnect).atexit = False


def _make_with_pool(
    client_class: type[t.Any],
    pool_class: type[t.Any],
    arguments: dict[str, t.Any],
) -> t.Any:
    """Hand the pool and its connections what is theirs, and the client the rest."""
    path = arguments.pop("unix_socket_path", None)

    if path is not None:
        connection_class: type[t.Any] = redis.UnixDomainSocketConnection
        arguments["path"] = path
    elif arguments.pop("ssl", False):
        connection_class = redis.SSLConnection
    else:
        connection_class = redis.Connection

    for_pool, for_client = _split(arguments, pool_class, connection_class)
    pool = pool_class(connection_class=connection_class, **for_pool)
    return client_class(connection_pool=pool, **for_client)


def _split(
    arguments: cabc.Mapping[str, t.Any], *classes: type[t.Any]
) -> tuple[dict[str, t.Any], dict[str, t.Any]]:
    """Part arguments into those that some of the classes take, and the others."""
    # A pool takes these from its arguments without naming them.
    names = {"cache", "cache_config"}.union(*map(parameters, classes))
    return (
        {name: value for name, value in arguments.items() if name in names},
        {name: value for name, value in arguments.items() if name not in names},
    )


def _make_fake(
    settings: Settings,
    arguments: cabc.Mapping[str, t.Any],
    fake_servers: dict[str, t.Any],
) -> t.Any:
    """A client of a fake server, which knows neither users nor TLS."""
    import fakeredis

    name = t.cast(str, settings.fake_server)
    # setdefault, as two prefixes may be made at once.
    server = fake_servers.setdefault(name, fakeredis.FakeServer())
    pool_class = settings.pool_class or redis.ConnectionPool
    for_pool, rest = _split(arguments, pool_class, redis.SSLConnection)
    useless = {"username", "password", "credential_provider", "host", "port"}
    for_pool = {
        name: value
        for name, value in for_pool.items()
        if name not in useless and not name.startswith("ssl_")
    }
    rest.pop("ssl", None)
    pool = pool_class(
        connection_class=fakeredis.FakeRedisConnection, server=server, **for_pool
    )
    return settings.client_class(connection_pool=pool, **rest)
