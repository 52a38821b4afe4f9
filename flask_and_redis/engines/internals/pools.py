"""Undocumented features of connection pools."""

from __future__ import annotations

import contextlib
import os
import queue
import typing as t

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
