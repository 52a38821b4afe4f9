"""Pools that lend only connections in the right state."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import inspect
import os
import time
import typing as t
import weakref

from ..spec.classes import subclass
from ..spec.spec import MAX_IDLE
from . import internals
from .credentials import Credentials
from .library import Client
from .library import get_library
from .library import library_name
from .library import Pool
from .tracking import AsyncTrackedConnection
from .tracking import GuardedConnection
from .tracking import TrackedConnection

# Seconds in which a connection that was returned is lent again without a look at its
# socket. The look takes about 5 % of a whole GET.
_JUST_USED = 0.0001


class _Outdates:
    """What pools know, synchronous or not."""

    #: Seconds that a connection may be unused.
    max_idle: float = MAX_IDLE
    #: Connections that were opened before are replaced. By :func:`time.monotonic`.
    valid_from: float = 0.0
    #: What may renew the credentials.
    credentials: Credentials | None = None

    def replace_connections(self) -> None:
        """Replace each connection before its next use, as the server's role or the
        credentials have changed.
        """
        self.valid_from = time.monotonic()

    def is_outdated(self, connection: t.Any, now: float) -> bool:
        """Whether an idle connection must be replaced.

        :param connection: The connection.
        :param now: The time, by :func:`time.monotonic`.
        """
        is_unused: bool = now - connection.returned_at > self.max_idle
        return is_unused or self.is_superseded(connection)

    def is_superseded(self, connection: t.Any) -> bool:
        """Whether the server's role or the credentials have changed since a connection
        was opened.

        :param connection: The connection.
        """
        credentials = self.credentials
        is_old: bool = connection.opened_at <= self.valid_from
        return is_old or (
            credentials is not None and connection.login_version != credentials.version
        )


class TrackedPool(_Outdates, internals.PoolState):
    """Mixed into the class of a synchronous pool of ours. It does what redis-py's pool
    does, but skips work that a healthy connection does not need.
    """

    #: Whether nothing needs redis-py's own methods: no cache, no notifications, no
    #: method of the application.
    is_fast: bool = False

    def get_connection(self, *args: t.Any, **options: t.Any) -> t.Any:
        if self.is_fast and self.is_unobserved():
            if (connection := self.take_idle()) is not None:
                return self._make_ready(connection)

        connection = super().get_connection(*args, **options)  # type: ignore[misc]
        tracked = internals.inner_connection(connection)

        # redis-py's pool may have lent an idle one.
        if tracked.returned_at and self.is_outdated(tracked, time.monotonic()):
            self._reconnect(connection)

        return connection

    def _make_ready(self, connection: t.Any) -> t.Any:
        if connection.is_open and not self.is_superseded(connection):
            unused = time.monotonic() - connection.returned_at

            if unused < _JUST_USED:
                return connection

            if unused <= self.max_idle and not self._has_data(connection):
                return connection

        self._reconnect(connection)
        return connection

    def _has_data(self, connection: t.Any) -> bool:
        try:
            return internals.has_data(connection)
        except BaseException:
            self.release(connection)
            raise

    def _reconnect(self, connection: t.Any) -> None:
        try:
            connection.disconnect()
            connection.connect()
        except BaseException:
            self.release(connection)
            raise

    def release(self, connection: t.Any) -> None:
        tracked = connection if self.is_fast else internals.inner_connection(connection)

        if tracked.unread or tracked.is_broken or tracked.is_altered:
            connection.disconnect()

        tracked.returned_at = time.monotonic()

        if not (self.is_fast and self.is_unobserved()):
            super().release(connection)  # type: ignore[misc]
        elif not self.put_back(connection):
            connection.disconnect()


class AsyncTrackedPool(_Outdates):
    """Mixed into the class of an asynchronous pool of ours."""

    async def ensure_connection(self, connection: t.Any) -> None:
        if connection.is_open and self.is_outdated(connection, time.monotonic()):
            await connection.disconnect(nowait=True)

        await super().ensure_connection(connection)  # type: ignore[misc]

    async def release(self, connection: t.Any) -> None:
        if connection.is_dirty:
            await connection.disconnect(nowait=True)

        connection.returned_at = time.monotonic()
        await super().release(connection)  # type: ignore[misc]


def adopt_pool(pool: t.Any, max_idle: float) -> None:
    """Make a pool that the client library has just created one of ours.

    :param pool: The pool, synchronous or not.
    :param max_idle: Seconds that a connection may be unused.
    """
    cls = type(pool)
    provider = pool.connection_kwargs.get("credential_provider")

    if not (name := library_name(cls)):
        # The application's client has a pool of another kind.
        guard_pool(pool)
    elif inspect.iscoroutinefunction(cls.release):
        internals.change_class(pool, subclass(AsyncTrackedPool, cls))
        _track(pool, AsyncTrackedConnection)
    elif not isinstance(pool, TrackedPool):
        internals.change_class(pool, subclass(TrackedPool, cls))
        internals.prepare_state(pool)
        _track(pool, TrackedConnection)
        of_library = get_library(name).pool_class
        pool.is_fast = internals.is_plain(pool) and all(
            getattr(cls, method) is getattr(of_library, method)
            for method in ("get_connection", "release")
        )

    if isinstance(pool, _Outdates):
        pool.max_idle = max_idle
        pool.credentials = provider if isinstance(provider, Credentials) else None


def guard_pool(pool: Pool) -> None:
    """Do what can be done for a pool of the application without changing it: close
    connections that failed to open, and let it close those with unread replies.

    :param pool: The pool.
    """
    # The application's pool may create its connections otherwise.
    if isinstance(getattr(pool, "connection_class", None), type):
        with contextlib.suppress(AttributeError):
            # It may not allow this.
            _track(pool, GuardedConnection)


def _track(pool: Pool, mixin: type[t.Any]) -> None:
    """Add a mixin to the class of a pool's connections, and to those that exist."""
    pool.connection_class = subclass(mixin, pool.connection_class)

    for connection in internals.list_connections(pool):
        internals.change_class(connection, subclass(mixin, type(connection)))


def track_nodes(client: t.Any) -> None:
    """Track the connections of a new asynchronous cluster's client, which has no pools.

    :param client: The client.
    """
    internals.set_node_connections(
        client,
        lambda connection_class: subclass(AsyncTrackedConnection, connection_class),
    )


def replace_connections(pool: t.Any) -> None:
    """Replace the connections of a pool before their next use.

    :param pool: A pool of ours or of the application.
    """
    if isinstance(pool, _Outdates):
        pool.replace_connections()
    else:
        internals.disconnect_idle(pool)


_clients: weakref.WeakKeyDictionary[
    Client, cabc.Callable[[t.Any], cabc.Iterable[object]]
] = weakref.WeakKeyDictionary()


def renew_locks_after_fork(
    client: Client, find_pools: cabc.Callable[[t.Any], cabc.Iterable[object]]
) -> None:
    """Give a client and its pools new locks in every process that is forked from this
    one.

    :param client: The client.
    :param find_pools: Returns its pools.
    """
    _clients[client] = find_pools


def _renew_locks() -> None:
    for client, find_pools in list(_clients.items()):
        internals.renew_locks([client, *find_pools(client)])


with contextlib.suppress(AttributeError):
    # Windows cannot fork.
    os.register_at_fork(after_in_child=_renew_locks)


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
