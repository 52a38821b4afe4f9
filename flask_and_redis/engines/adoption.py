"""Gives a new client's pools our classes, and prepares it for threads and forks."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import inspect
import os
import typing as t
import weakref

from ..spec.classes import subclass
from . import connections
from .credentials import Credentials
from .internals.clients import change_class
from .internals.clients import keep_pool_open
from .internals.clients import renew_locks
from .internals.connections import KeepsCancellation
from .internals.connections import ReadsAsDirty
from .internals.pools import disconnect_idle
from .internals.pools import DropsInherited
from .internals.pools import inner_connection
from .internals.pools import is_plain
from .internals.pools import list_connections
from .internals.pools import prepare_state
from .library import Client
from .library import get_library
from .library import library_name
from .library import Pool
from .tracking import AsyncNodeConnection
from .tracking import AsyncTrackedConnection
from .tracking import TrackedConnection


class GuardedConnection(ReadsAsDirty, TrackedConnection):
    """Mixed into the class of connections of an application's pool, which does not
    close dirty connections by itself.
    """


class CancellableConnection(KeepsCancellation, AsyncTrackedConnection):
    """Mixed into the class of connections of an asynchronous pool."""


class CancellableNodeConnection(KeepsCancellation, AsyncNodeConnection):
    """The same for the nodes of a cluster."""


def adopt_pool(pool: t.Any, max_idle: float) -> None:
    """Give a pool that the client library has just created our class.

    :param pool: The pool, synchronous or not.
    :param max_idle: Seconds that a connection may be unused.
    """
    cls = type(pool)
    provider = pool.connection_kwargs.get("credential_provider")

    if not (name := library_name(cls)):
        # The application's client has a pool of another kind.
        guard_pool(pool)
    elif inspect.iscoroutinefunction(cls.release):
        change_class(pool, subclass(connections.AsyncTrackedPool, cls))
        _track(pool, CancellableConnection)
    elif not isinstance(pool, connections.TrackedPool):
        base = subclass(DropsInherited, cls)
        change_class(pool, subclass(connections.TrackedPool, base))
        prepare_state(pool)
        _track(pool, TrackedConnection)
        of_library = get_library(name).pool_class
        pool.is_fast = is_plain(pool) and all(
            getattr(cls, method) is getattr(of_library, method)
            for method in ("get_connection", "release")
        )

    if isinstance(pool, connections.Outdates):
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

    for connection in list_connections(pool):
        change_class(connection, subclass(mixin, type(connection)))


def replace_connections(pool: Pool) -> None:
    """Replace the connections of a pool before their next use.

    :param pool: A pool of ours or of the application.
    """
    if isinstance(pool, connections.Outdates):
        pool.replace_connections()
    else:
        disconnect_idle(pool)


_clients: weakref.WeakKeyDictionary[
    Client, cabc.Callable[[t.Any], cabc.Iterable[object]]
] = weakref.WeakKeyDictionary()


def prepare_for_forks(
    client: Client, find_pools: cabc.Callable[[t.Any], cabc.Iterable[object]]
) -> None:
    """Give a client and its pools new locks in every process that is forked from this
    one, and close their connections there.

    :param client: The client.
    :param find_pools: Returns its pools.
    """
    _clients[client] = find_pools


def _renew_locks() -> None:
    for client, find_pools in list(_clients.items()):
        renew_locks([client, *find_pools(client)])


def _close_inherited() -> None:
    """Close the child's copies of the parent's sockets, which stay open in the parent.

    The pools of the child forget their connections, but a pipeline after ``watch()``
    keeps its own, and would send its next command between those of the parent.
    """
    for client, find_pools in list(_clients.items()):
        for pool in find_pools(client):
            for connection in list_connections(pool):
                # No disconnect(): a thread that is gone may hold a lock that it needs.
                # A pool of the application may have connections of another class.
                paced = getattr(inner_connection(connection), "paced", None)

                if paced is not None:
                    paced.close()


with contextlib.suppress(AttributeError):
    # Windows cannot fork.
    os.register_at_fork(after_in_child=_renew_locks)
    os.register_at_fork(after_in_child=_close_inherited)


def keep_pools_open(client: Client, pools: cabc.Iterable[Pool]) -> None:
    """Let the client's pools stay open for as long as the client lives.

    :param client: The client.
    :param pools: Its pools.
    """
    # All threads share the client: when one of them leaves "with current_redis as r:",
    # the connections of the others must stay open.
    keep_pool_open(client)

    for pool in pools:
        # Connections in use stay open, for example that of pubsub(). They are closed
        # when nothing refers to the pool any more.
        finalizer = weakref.finalize(client, disconnect_idle, pool)
        finalizer.atexit = False
