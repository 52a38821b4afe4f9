"""Short-lived clients and connections that ask a server whether it answers."""

from __future__ import annotations

import dataclasses
import typing as t

from ..spec.classes import parameters
from ..spec.spec import Spec
from . import internals
from .library import Library
from .library import library_of
from .library import Pool

#: Seconds in which a server that is down must answer.
ANSWER_TIMEOUT = 1.0

# A client with a single connection has no use for these, or shares them with others.
_NOT_FOR_PROBES = {"cache", "cache_config", "retry", "single_connection_client"}


def ping(pool: Pool, library: Library) -> None:
    """Raise unless a server answers, on a separate connection.

    :param pool: The pool whose server is asked.
    :param library: The pool's library.
    """
    connection = _make_connection(pool)

    try:
        connection.connect()
        connection.send_command("PING")
        connection.read_response()
    except library.errors.ResponseError:
        # The user has no permission to PING: the server has answered.
        pass
    finally:
        connection.disconnect()


async def ping_async(pool: Pool, library: Library) -> None:
    """Raise unless the server of an asynchronous pool answers. See :func:`ping`."""
    connection = _make_connection(pool)

    try:
        await connection.connect()
        await connection.send_command("PING")
        await connection.read_response()
    except library.errors.ResponseError:
        pass
    finally:
        await connection.disconnect()


def _make_connection(pool: Pool) -> t.Any:
    """A connection like those of a pool, but with short timeouts."""
    kwargs = dict(pool.connection_kwargs)

    for name in ("socket_timeout", "socket_connect_timeout"):
        kwargs[name] = min(kwargs.get(name) or ANSWER_TIMEOUT, ANSWER_TIMEOUT)

    return pool.connection_class(**kwargs)


def probe_spec(spec: Spec, client_class: type[t.Any], timeout: float) -> Spec:
    """A spec for a client that tries once, and has a pool of its own.

    :param spec: The prefix's spec.
    :param client_class: The client class.
    :param timeout: Seconds that connecting, and each reply, may take.
    """
    accepted = parameters(client_class)
    timeouts = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    arguments = {
        name: value
        for name, value in {**spec.arguments, **timeouts}.items()
        if name in accepted and name not in _NOT_FOR_PROBES
    }

    if (pool := arguments.get("connection_pool")) is not None:
        library = library_of(spec.client_class)
        arguments["connection_pool"] = _copy_pool(pool, library, timeouts)

    return dataclasses.replace(
        spec,
        client_class=client_class,
        arguments=arguments,
        pool_class=None,
        deadline=0.0,
        retries=None,
    )


def _copy_pool(pool: Pool, library: Library, timeouts: dict[str, float]) -> t.Any:
    arguments = {**internals.own_arguments(pool), **timeouts}
    arguments["retry"] = library.no_retry()
    return library.pool_class(connection_class=pool.connection_class, **arguments)
