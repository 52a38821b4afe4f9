"""Pools that lend only connections in the right state."""

from __future__ import annotations

import time
import typing as t

from ..spec.spec import MAX_IDLE
from .credentials import Credentials
from .internals.connections import close_now
from .internals.connections import has_data
from .internals.pools import inner_connection
from .internals.pools import is_recording
from .internals.pools import PoolState

# Seconds in which a connection that was returned is lent again without a look at its
# socket. The look takes about 5 % of a whole GET. Within less than a round trip, nobody
# has told the server to close it.
_JUST_USED = 0.000025


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
        tracked.is_counted = is_recording()

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
            is_dirty = tracked.unread or tracked.is_broken or tracked.altered
        except AttributeError:
            # The pool has not created this connection.
            return

        if is_dirty:
            if tracked.is_demoted:
                self.replace_connections()

            connection.disconnect()

        tracked.returned_at = time.monotonic()

        if not self.is_fast or tracked.is_counted:
            tracked.is_counted = False
            super().release(connection)  # type: ignore[misc]
        elif not self.put_back(connection):
            connection.disconnect()


class AsyncTrackedPool(Outdates):
    """Mixed into the class of an asynchronous pool of ours."""

    async def ensure_connection(self, connection: t.Any) -> None:
        if connection.is_open and self.is_outdated(connection, time.monotonic()):
            await connection.disconnect()

        await super().ensure_connection(connection)  # type: ignore[misc]

    async def release(self, connection: t.Any) -> None:
        if connection.is_dirty:
            if connection.is_demoted:
                self.replace_connections()

            await connection.disconnect()

        connection.returned_at = time.monotonic()
        await super().release(connection)  # type: ignore[misc]


class NodeLender(Outdates):
    """Does the same for all nodes of an asynchronous cluster's client, which have no
    pools.

    :param max_idle: Seconds that a connection may be unused.
    :param provider: The credential provider, if there is one.
    """

    def __init__(self, max_idle: float, provider: object) -> None:
        self.max_idle = max_idle
        self.credentials: Credentials | None = (
            provider if isinstance(provider, Credentials) else None
        )

    def make_ready(self, connection: t.Any) -> None:
        """Close a connection that must not be lent as it is. Its next command opens it
        again.

        :param connection: The connection.
        """
        is_asking, connection.is_asking = connection.is_asking, False

        # redis-py marks idle connections, too, when it has read the slots again.
        if connection.is_dirty or (
            connection.is_open
            and not is_asking
            and self.is_outdated(connection, time.monotonic())
        ):
            close_now(connection)

        # Its next user has watched nothing.
        connection.lost = 0

    def take_back(self, connection: t.Any) -> None:
        """Close a connection that must not be lent again as it is.

        :param connection: The connection.
        """
        if connection.is_dirty:
            close_now(connection)

        connection.returned_at = time.monotonic()
