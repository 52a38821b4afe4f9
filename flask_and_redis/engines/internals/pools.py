"""Undocumented features of connection pools."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import os
import queue
import sys
import threading
import types
import typing as t
import weakref

from ...spec.spec import Arguments
from ..library import Pool


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


# redis-py has imported it. Before 7.1 it records no metrics.
_recorder: t.Any = sys.modules.get(
    "redis.observability.recorder", types.SimpleNamespace(_metrics_collector=None)
)


def is_recording() -> bool:
    """Whether redis-py records metrics.

    Why: its own methods count a connection that is lent, and once more when it is
    returned. Versions: 7.1 and newer. Without it: the figures are wrong.
    """
    return _recorder._metrics_collector is not None


class LentConnections(cabc.MutableSet[t.Any]):
    """The connections that a pool has lent, without keeping them alive.

    Why: a signal handler may raise when a pool has lent a connection and nobody has
    received it yet. Versions: all. Without it: such a connection counts as lent for
    ever.

    :param connections: The connections that are lent already.
    """

    def __init__(self, connections: cabc.Iterable[t.Any] = ()) -> None:
        self._references = {weakref.ref(each) for each in connections}

    def add(self, value: object) -> None:
        self._references.add(weakref.ref(value))

    def remove(self, value: object) -> None:
        self._references.remove(weakref.ref(value))

    def discard(self, value: object) -> None:
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


class DropsInherited:
    """Mixed into the class of a synchronous pool. In a forked child, it drops a
    connection of the parent that is returned.

    Why: a blocking pool takes it for one of its own. Versions: all. Without it: it
    raises ``queue.Full``, or later lends one connection too many.
    """

    def release(self, connection: t.Any) -> None:
        if connection.pid == os.getpid():
            super().release(connection)  # type: ignore[misc]
        else:
            connection.disconnect()


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
        if self.pid != os.getpid():
            # In a forked child, redis-py forgets the connections of the parent.
            super().release(connection)  # type: ignore[misc]
            return True

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
        # A signal handler may use the pool that it interrupts. valkey-py's own lock
        # would make it wait forever.
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


def inner_connection(connection: object) -> t.Any:
    """The connection itself, if a cache is in front of it.

    Why: what is in front does not pass its attributes on. Versions: all. Without it:
    with a cache, dirty connections are lent again.

    :param connection: What a pool lends.
    """
    return getattr(connection, "_conn", connection)
