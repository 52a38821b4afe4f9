"""Pools that lend only connections in the right state.

They use the attributes in which the pools of redis-py and valkey-py keep their
connections, which are undocumented: :class:`PoolState` says why. All other uses are in
:mod:`.internals`. ``tests/test_internals.py`` covers both.
"""

from __future__ import annotations

import collections.abc as cabc
import os
import sys
import threading
import time
import types
import typing as t
import weakref

from ..spec.spec import MAX_IDLE
from .credentials import Credentials
from .internals.connections import has_data

# Seconds in which a connection that was returned is lent again without a look at its
# socket. The look takes about 5 % of a whole GET.
_JUST_USED = 0.0001


# redis-py has imported it. Before 7.1 it records no metrics.
_recorder: t.Any = sys.modules.get(
    "redis.observability.recorder", types.SimpleNamespace(_metrics_collector=None)
)


class LentConnections(cabc.MutableSet[t.Any]):
    """The connections that a pool has lent, without keeping them alive.

    Why: a signal handler may raise when a pool has lent a connection and nobody has
    received it yet. Versions: all. Without it: such a connection counts as lent for
    ever.

    :param connections: The connections that are lent already.
    """

    def __init__(self, connections: cabc.Iterable[t.Any] = ()) -> None:
        self._references = {weakref.ref(each) for each in connections}

    def add(self, value: t.Any) -> None:
        self._references.add(weakref.ref(value))

    def remove(self, value: t.Any) -> None:
        self._references.remove(weakref.ref(value))

    def discard(self, value: t.Any) -> None:
        self._references.discard(weakref.ref(value))

    def __contains__(self, value: object) -> bool:
        return weakref.ref(value) in self._references

    def __iter__(self) -> cabc.Iterator[t.Any]:
        lent = []

        for reference in self._references.copy():
            if (connection := reference()) is None:
                self._references.discard(reference)
            else:
                lent.append(connection)

        return iter(lent)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class PoolState:
    """Mixed into the class of a pool. It lends and takes back connections that need no
    more than that, and counts the connections that exist.

    Why: the public methods do more with each connection than a healthy one needs, and
    a count of their own goes wrong if they are interrupted. Versions: all. Without it:
    a whole GET takes 10 % longer, and interruptions use up the pool.
    """

    _available_connections: list[t.Any]
    _in_use_connections: LentConnections
    _lock: t.Any
    pid: int

    if t.TYPE_CHECKING:

        def owns_connection(self, connection: t.Any) -> bool: ...

    @property
    def _created_connections(self) -> int:
        return len(self._available_connections) + len(self._in_use_connections)

    @_created_connections.setter
    def _created_connections(self, value: int) -> None:
        # redis-py counts for itself.
        pass

    def reset(self) -> None:
        """Forget all connections, as redis-py does in a forked child."""
        super().reset()  # type: ignore[misc]
        prepare_state(self)

    def is_unobserved(self) -> bool:
        """Whether connections can be lent without redis-py's methods: this process has
        created them, and redis-py records no metrics.
        """
        return self.pid == os.getpid() and _recorder._metrics_collector is None

    def take_idle(self) -> t.Any:
        """Lend the connection that was returned last, or None if there is none."""
        with self._lock:
            if not self._available_connections:
                return None

            connection = self._available_connections.pop()
            self._in_use_connections.add(connection)

        return connection

    def put_back(self, connection: t.Any) -> bool:
        """Take a connection back.

        :param connection: The connection.
        :return: Whether it can be lent again. If not, the caller disconnects it.
        """
        with self._lock:
            try:
                self._in_use_connections.remove(connection)
            except KeyError:
                # It is not the pool's, or has been returned already.
                return True

            if not self.owns_connection(connection):
                return False

            self._available_connections.append(connection)
            return True


def prepare_state(pool: t.Any) -> None:
    """Prepare a pool for :class:`PoolState`.

    :param pool: The pool.
    """
    # A blocking pool has its own count.
    if hasattr(pool, "_in_use_connections"):
        pool._in_use_connections = LentConnections(pool._in_use_connections)
        # A signal handler may use the pool that it interrupts. valkey-py's cannot.
        pool._lock = threading.RLock()


def is_plain(pool: t.Any) -> bool:
    """Whether a pool has neither a cache nor listeners, so that :class:`PoolState` may
    lend its connections.

    Why: redis-py's methods serve both. Versions: all. Without it: cached values are not
    invalidated, and maintenance notifications close connections.

    :param pool: The pool.
    """
    notifies = getattr(pool, "maint_notifications_enabled", lambda: False)
    return not (
        getattr(pool, "cache", None)
        or pool.connection_kwargs.get("event_dispatcher")
        or notifies()
    )


def inner_connection(connection: t.Any) -> t.Any:
    """The connection itself, if a cache is in front of it.

    Why: what is in front does not pass its attributes on. Versions: all. Without it:
    with a cache, dirty connections are lent again.

    :param connection: What a pool lends.
    """
    return getattr(connection, "_conn", connection)


class Outdates:
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


class TrackedPool(Outdates, PoolState):
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
        tracked = inner_connection(connection)
        tracked.is_counted = _recorder._metrics_collector is not None

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
            return has_data(connection)
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
        tracked = connection if self.is_fast else inner_connection(connection)

        try:
            is_dirty = tracked.unread or tracked.is_broken or tracked.is_altered
        except AttributeError:
            # It is not the pool's.
            return

        if is_dirty:
            connection.disconnect()

        tracked.returned_at = time.monotonic()

        # In a forked child, redis-py forgets the connections of the parent.
        if not self.is_fast or tracked.is_counted or self.pid != os.getpid():
            tracked.is_counted = False
            super().release(connection)  # type: ignore[misc]
        elif not self.put_back(connection):
            connection.disconnect()


class AsyncTrackedPool(Outdates):
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
