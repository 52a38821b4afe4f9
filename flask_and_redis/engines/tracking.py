"""Connections that know whether they are in the right state. They are mixed into the
client library's own classes.
"""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import time
import typing as t

from .library import get_library
from .library import library_name

# Commands that change what later commands on the same connection do. Each of the
# others is safe to follow.
_ALTERING = ("AUTH", "HELLO", "MULTI", "RESET", "SELECT", "WATCH")
_RESTORING = ("DISCARD", "EXEC", "UNWATCH")
_ALTERS = {form: True for name in _ALTERING for form in (name, name.lower())} | {
    form: False for name in _RESTORING for form in (name, name.lower())
}

# The attribute of an error that occurred before the command was sent.
_UNSENT = "_flask_and_redis_unsent"

# The attribute of a pipeline's error if the server ran some of its commands.
_EXECUTED = "_flask_and_redis_executed"


def is_unsent(error: BaseException) -> bool:
    """Whether an error occurred while a connection was being opened or its health was
    being checked, so that the command was not sent.

    :param error: What a command raised.
    """
    return getattr(error, _UNSENT, False)


def _mark_unsent(error: BaseException) -> None:
    # An error of the application may refuse attributes.
    with contextlib.suppress(Exception):
        setattr(error, _UNSENT, True)


def mark_executed(error: BaseException) -> None:
    """Remember that the server ran other commands of a pipeline.

    :param error: The error of one of its commands.
    """
    setattr(error, _EXECUTED, True)


def was_executed(error: BaseException) -> bool:
    """Whether the server ran some commands of the pipeline that raised an error.

    :param error: The error.
    """
    return getattr(error, _EXECUTED, False)


class _Tracked:
    """What connections know about themselves, synchronous or not."""

    #: redis-py's own setting.
    health_check_interval: float
    #: Replies that are still to come. Not 0 after pub/sub and MONITOR, which get more
    #: messages than they sent commands.
    unread: int = 0
    #: Whether the login has ended, and nothing has closed the connection since.
    is_open: bool = False
    #: Whether opening or closing it was interrupted, or redis-py wants it closed.
    is_broken: bool = False
    #: Whether a command has changed the database, the user, or what is watched.
    is_altered: bool = False
    #: When opening it began, by :func:`time.monotonic`.
    opened_at: float = 0.0
    #: The version of the credentials that it logged in with. See :mod:`.credentials`.
    login_version: int = 0
    #: When it was last returned to its pool.
    returned_at: float = 0.0
    #: Looks for data. Set by :func:`.connections.has_data`.
    poll: cabc.Callable[[int], object] | None = None
    _is_opening: bool = False
    # How many replies the next packed command gets, and whether it ends with EXEC.
    _packed: int = 1
    _restores: bool = False

    @property
    def is_dirty(self) -> bool:
        """Whether it must be closed before anybody uses it again."""
        return self.is_broken or self.is_altered or self.unread != 0

    def mark_for_reconnect(self) -> None:
        self.is_broken = True
        super().mark_for_reconnect()  # type: ignore[misc]

    def pack_commands(self, commands: cabc.Iterable[t.Any]) -> t.Any:
        commands = list(commands)
        self._packed = len(commands)
        self._restores = bool(commands) and commands[-1][0] == "EXEC"
        return super().pack_commands(commands)  # type: ignore[misc]

    # A signal handler may raise between any two lines of these methods. The order of
    # the lines then leaves the connection broken.

    def _start_opening(self) -> None:
        self.is_broken = True
        self._is_opening = True
        self.opened_at = time.monotonic()
        # A connection of the application may have no provider.
        provider = getattr(self, "credential_provider", None)
        self.login_version = getattr(provider, "version", 0)

    def _end_opening(self) -> None:
        self._is_opening = False
        self.is_open = True
        self.is_broken = False

    def _end_closing(self) -> None:
        self.unread = 0
        self._packed = 1
        self._restores = self.is_altered = False
        self.poll = None
        self.is_open = False
        # redis-py's own Retry opens it again after closing it.
        self.is_broken = self._is_opening

    def _note_command(self, name: str) -> None:
        if not self._is_opening:
            self._restores = not _ALTERS[name]
            self.is_altered = self.is_altered or _ALTERS[name]

    def _is_reply(self, error: BaseException) -> bool:
        """Whether an error was sent by the server: no other reply is to come."""
        errors = get_library(library_name(type(self))).errors
        return isinstance(error, errors.ResponseError)


class TrackedConnection(_Tracked):
    """Mixed into the class of connections. It counts the replies to come, and closes
    the connection if anything fails while it is opened.

    redis-py closes it only for its own errors. After any other error, such as that of a
    credential provider, commands would run without AUTH and SELECT: as another user, in
    database 0.
    """

    unread: int

    def connect(self, *args: t.Any, **kwargs: t.Any) -> None:
        self._open(super().connect, *args, **kwargs)  # type: ignore[misc]

    def connect_check_health(self, *args: t.Any, **kwargs: t.Any) -> None:
        # redis-py calls this one while it sends.
        self._open(super().connect_check_health, *args, **kwargs)  # type: ignore[misc]

    def _open(
        self, connect: cabc.Callable[..., None], *args: t.Any, **kwargs: t.Any
    ) -> None:
        if self._is_opening:
            connect(*args, **kwargs)
            return

        if self.is_broken:
            self.disconnect()

        if self.is_open:
            return

        try:
            self._start_opening()
            connect(*args, **kwargs)
            self._end_opening()
        except BaseException as error:
            self._is_opening = False

            try:
                self.disconnect()
            finally:
                _mark_unsent(error)

            raise

    def disconnect(self, *args: t.Any, **kwargs: t.Any) -> None:
        self.is_broken = True
        super().disconnect(*args, **kwargs)  # type: ignore[misc]
        self._end_closing()

    def check_health(self) -> None:
        try:
            super().check_health()  # type: ignore[misc]
        except BaseException as error:
            _mark_unsent(error)
            raise

    def send_command(self, *args: t.Any, **kwargs: t.Any) -> None:
        if args[0] in _ALTERS:
            self._note_command(args[0])

        super().send_command(*args, **kwargs)  # type: ignore[misc]

    def send_packed_command(self, command: t.Any, check_health: bool = True) -> None:
        replies, restores = self._packed, self._restores
        self._packed, self._restores = 1, False

        # redis-py would do both after the replies were counted.
        if not (self.is_open or self._is_opening):
            self.connect()

        if self.health_check_interval and check_health and not self._is_opening:
            self.check_health()

        self.unread += replies

        if restores:
            self.is_altered = False

        super().send_packed_command(command, check_health=False)  # type: ignore[misc]

    def read_response(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        try:
            response = super().read_response(*args, **kwargs)  # type: ignore[misc]
        except BaseException as error:
            if self._is_reply(error):
                self.unread -= 1
            elif kwargs.get("disconnect_on_error", True):
                # redis-py's connections behind sentinels leave it open.
                self.disconnect()

            raise

        # A cache and pub/sub read so what the server sends on its own.
        if not kwargs.get("push_request"):
            self.unread -= 1

        return response


class GuardedConnection(TrackedConnection):
    """The same for the pool of an application, which does not close dirty connections.
    It asks ``can_read()``, and closes a connection from which something can be read.
    """

    _is_listening: bool = False

    def register_connect_callback(self, callback: t.Any) -> None:
        # For pub/sub, which waits for messages with can_read().
        self._is_listening = True
        super().register_connect_callback(callback)  # type: ignore[misc]

    def deregister_connect_callback(self, callback: t.Any) -> None:
        self._is_listening = False
        super().deregister_connect_callback(callback)  # type: ignore[misc]

    def can_read(self, *args: t.Any, **kwargs: t.Any) -> bool:
        if self.is_dirty and not self._is_listening:
            return True

        can_read: bool = super().can_read(*args, **kwargs)  # type: ignore[misc]
        return can_read


class AsyncTrackedConnection(_Tracked):
    """The same for connections of asyncio. See :class:`TrackedConnection`."""

    unread: int

    async def connect(self, *args: t.Any, **kwargs: t.Any) -> None:
        await self._open(super().connect, *args, **kwargs)  # type: ignore[misc]

    async def connect_check_health(self, *args: t.Any, **kwargs: t.Any) -> None:
        await self._open(super().connect_check_health, *args, **kwargs)  # type: ignore[misc]

    async def _open(
        self,
        connect: cabc.Callable[..., cabc.Awaitable[None]],
        *args: t.Any,
        **kwargs: t.Any,
    ) -> None:
        if self._is_opening:
            await connect(*args, **kwargs)
            return

        if self.is_broken:
            await self.disconnect(nowait=True)

        if self.is_open:
            return

        try:
            self._start_opening()
            await connect(*args, **kwargs)
            self._end_opening()
        except BaseException as error:
            self._is_opening = False

            try:
                # Without waiting: the task may have been cancelled.
                await self.disconnect(nowait=True)
            finally:
                _mark_unsent(error)

            raise

    async def disconnect(self, *args: t.Any, **kwargs: t.Any) -> None:
        self.is_broken = True
        await super().disconnect(*args, **kwargs)  # type: ignore[misc]
        self._end_closing()

    async def check_health(self) -> None:
        try:
            await super().check_health()  # type: ignore[misc]
        except BaseException as error:
            _mark_unsent(error)
            raise

    async def send_command(self, *args: t.Any, **kwargs: t.Any) -> None:
        if args[0] in _ALTERS:
            self._note_command(args[0])

        await super().send_command(*args, **kwargs)  # type: ignore[misc]

    async def send_packed_command(
        self, command: t.Any, check_health: bool = True
    ) -> None:
        replies, restores = self._packed, self._restores
        self._packed, self._restores = 1, False

        if not (self.is_open or self._is_opening):
            await self.connect()

        if self.health_check_interval and check_health and not self._is_opening:
            await self.check_health()

        self.unread += replies

        if restores:
            self.is_altered = False

        await super().send_packed_command(command, check_health=False)  # type: ignore[misc]

    async def read_response(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        try:
            response = await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except BaseException as error:
            if self._is_reply(error):
                self.unread -= 1
            elif kwargs.get("disconnect_on_error", True):
                await self.disconnect(nowait=True)

            raise

        self.unread -= 1
        return response
