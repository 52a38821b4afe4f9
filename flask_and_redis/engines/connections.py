"""Connections and their pools: what is changed in those of the client library."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import inspect
import os
import typing as t
import weakref

from ..spec.classes import subclass
from . import internals
from .library import Client
from .library import Pool

# The attribute of an error that occurred before anything was sent.
_UNSENT = "_flask_and_redis_unsent"


def is_unsent(error: BaseException) -> bool:
    """Whether an error occurred while a connection was being opened, so that the
    command was not sent.

    :param error: What a command raised.
    """
    return getattr(error, _UNSENT, False)


def _mark_unsent(error: BaseException) -> None:
    # An error of the application may refuse attributes.
    with contextlib.suppress(Exception):
        setattr(error, _UNSENT, True)


class _ClosesAfterFailure:
    """Mixed into the class of a pool's connections. If anything fails while connecting,
    it closes the connection, and marks the error for :func:`is_unsent`.

    redis-py closes it only for its own errors. After any other error, such as that of a
    credential provider, commands would run without AUTH and SELECT: as another user, in
    database 0.
    """

    def connect(self, *args: t.Any, **kwargs: t.Any) -> None:
        try:
            super().connect(*args, **kwargs)  # type: ignore[misc]
        except BaseException as error:
            try:
                t.cast(t.Any, self).disconnect()
            finally:
                _mark_unsent(error)

            raise


class _ClosesAfterFailureAsync:
    """The same for connections of asyncio."""

    async def connect(self, *args: t.Any, **kwargs: t.Any) -> None:
        try:
            await super().connect(*args, **kwargs)  # type: ignore[misc]
        except BaseException as error:
            try:
                # Without waiting: the task may have been cancelled.
                await t.cast(t.Any, self).disconnect(nowait=True)
            finally:
                _mark_unsent(error)

            raise


class _ConnectsOnce(_ClosesAfterFailure):
    """Mixed into the class of connections of our own pools. redis-py connects a
    connection before each command. If it is connected already, finding that out takes
    3 % of the whole command.
    """

    is_connected: bool

    def connect(self, *args: t.Any, **kwargs: t.Any) -> None:
        if not self.is_connected:
            super().connect(*args, **kwargs)


def close_failed_connections(pool: Pool, *, is_own: bool) -> None:
    """Make the connections of a pool close if anything fails while they are opened, and
    mark the error. This affects idle connections, and those that the pool creates from
    now on.

    :param pool: The pool.
    :param is_own: Whether the pool is ours, and not the application's.
    """
    cls = getattr(pool, "connection_class", None)

    if not isinstance(cls, type):
        # The application's pool may create its connections otherwise.
        return

    mixin: type[t.Any] = _ClosesAfterFailure

    if inspect.iscoroutinefunction(getattr(cls, "connect", None)):
        mixin = _ClosesAfterFailureAsync
    elif is_own and hasattr(cls, "is_connected") and cls.__module__[:6] == "redis.":
        # From redis-py 8.0 on.
        mixin = _ConnectsOnce

    with contextlib.suppress(AttributeError):
        # A pool of the application may not allow this.
        pool.connection_class = subclass(mixin, cls)

    for connection in internals.list_idle(pool):
        internals.change_class(connection, subclass(mixin, type(connection)))


def keep_pools_open(client: t.Any, pools: cabc.Iterable[Pool]) -> None:
    """Let the client's pools stay open for as long as the client lives.

    :param client: The client.
    :param pools: Its pools.
    """
    # All threads share the client: when one of them leaves "with current_redis as r:",
    # the connections of the others must stay open.
    client.auto_close_connection_pool = False

    for pool in pools:
        # Connections in use stay open, for example that of pubsub(). They are closed
        # when nothing refers to the pool any more.
        finalizer = weakref.finalize(client, internals.disconnect_idle, pool)
        finalizer.atexit = False


def skip_listeners(pool: Pool) -> None:
    """Skip a pool's events where nobody listens to them.

    :param pool: The pool.
    """
    kwargs = pool.connection_kwargs

    if not (kwargs.get("credential_provider") or kwargs.get("event_dispatcher")):
        internals.silence_dispatcher(pool)


_clients: weakref.WeakKeyDictionary[
    Client, cabc.Callable[[t.Any], cabc.Iterable[object]]
] = weakref.WeakKeyDictionary()


def renew_locks_after_fork(
    client: Client, find_owners: cabc.Callable[[t.Any], cabc.Iterable[object]]
) -> None:
    """Give a client new locks in every process that is forked from this one.

    :param client: The client.
    :param find_owners: Returns the objects that have its locks.
    """
    _clients[client] = find_owners


def _renew_locks() -> None:
    for client, find_owners in list(_clients.items()):
        internals.renew_locks([client, *find_owners(client)])


with contextlib.suppress(AttributeError):
    # Windows cannot fork.
    os.register_at_fork(after_in_child=_renew_locks)
