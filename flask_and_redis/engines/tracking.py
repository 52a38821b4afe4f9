"""Connections that know whether they are in the right state. They are mixed into the
client library's own classes.
"""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import threading
import time
import typing as t

from .changes import change
from .changes import CONTAINERS
from .changes import DEMOTED
from .changes import find_kind
from .changes import NAMES_NODES
from .changes import RELIED_ON
from .changes import SENDS_MORE
from .changes import SWITCHED
from .changes import TRANSACTION
from .changes import UNCOUNTED
from .changes import UNSURE
from .changes import UNWATCHES
from .internals.connections import ClosesAtOnce
from .internals.connections import Opening
from .internals.connections import PacedConnection
from .internals.connections import PacedSocket
from .internals.connections import ReconnectMark
from .internals.errors import is_demoted
from .internals.errors import is_without_multi
from .library import get_library
from .library import library_name
from .library import to_text
from .marks import mark_lost
from .marks import mark_unsent
from .messages import clean_error

#: What CLUSTER SLOTS says instead of a host for nodes at the address that replies.
HOSTLESS: tuple[str | None, ...] = (None, "", "?")


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
    #: What commands have changed: the database, the user, what is watched or what the
    #: server sends. The bits are in :mod:`.changes`.
    altered: int = 0
    # The same, once the server has accepted the command that is sent next, or those
    # that were sent. None if they change nothing.
    _noted: int | None = None
    _expected: int | None = None
    # The first error among the replies to these commands.
    _refusal: str = ""
    #: What was altered when it was closed, which its user may not know.
    lost: int = 0
    # Whether the next reply names the nodes of a cluster.
    _names_nodes: bool = False
    #: When opening it began, by :func:`time.monotonic`.
    opened_at: float = 0.0
    #: The version of the credentials that it logged in with. See :mod:`.credentials`.
    login_version: int = 0
    #: When it was last returned to its pool.
    returned_at: float = 0.0
    #: Whether redis-py's metrics have counted that it was lent.
    is_counted: bool = False
    #: Looks for data. Set by :func:`.internals.connections.has_data`.
    poll: cabc.Callable[[int], object] | None = None
    _is_opening: bool = False
    # The first thread or task that has closed it since it was opened.
    _closed_by: int = 0
    # How many replies the next packed command gets.
    _packed: int = 1

    @property
    def is_dirty(self) -> bool:
        """Whether it must be closed before anybody uses it again."""
        return self.is_broken or self.altered != 0 or self.unread != 0

    @property
    def is_uncounted(self) -> bool:
        """Whether its commands may get no reply, as after ``CLIENT REPLY OFF``."""
        return bool(self.altered & UNCOUNTED)

    @property
    def is_demoted(self) -> bool:
        """Whether its server has refused a command because it has become a replica."""
        return bool(self.altered & DEMOTED)

    def pack_command(self, *args: t.Any) -> t.Any:
        kind = find_kind(args[0])
        self._check_interrupted(kind)
        packed = super().pack_command(*args)  # type: ignore[misc]
        self._noted = None

        # The asynchronous nodes of clusters do not call send_command().
        if kind:
            self._note_command(kind, args)

        return packed

    def pack_commands(self, commands: cabc.Iterable[t.Any]) -> t.Any:
        self._check_interrupted()
        commands = list(commands)
        packed = super().pack_commands(commands)  # type: ignore[misc]
        self._packed = len(commands)
        self._noted = None

        for command in commands:
            if kind := find_kind(command[0]):
                self._note_command(kind, command)

        # The next reply is that of the first command, and not that of CLUSTER SLOTS.
        self._names_nodes = False
        return packed

    # A signal handler may raise between any two lines of these methods. The order of
    # the lines then leaves the connection broken.

    def _start_opening(self) -> None:
        self.is_broken = True
        self._is_opening = True
        self._closed_by = 0
        self.lost = 0
        self.opened_at = time.monotonic()
        # A connection of the application may have no provider.
        provider = getattr(self, "credential_provider", None)
        self.login_version = getattr(provider, "version", 0)

    def _end_opening(self) -> None:
        self._is_opening = False
        self.is_open = True
        self.is_broken = False

    def _start_closing(self, current: int) -> None:
        self._closed_by = self._closed_by or current

        if self.is_open:
            # Without what a command has begun or ended whose reply was not read.
            expected = self.altered if self._expected is None else self._expected
            self.lost = self.altered & expected & RELIED_ON
        elif not self.is_broken:
            # Whoever closes it once more knows that no transaction goes on.
            self.lost &= SWITCHED

        self.is_broken = True
        self.is_open = False

    def _end_closing(self) -> None:
        self.unread = 0
        self._packed = 1
        self.altered = 0
        self._expected = None
        self._refusal = ""
        self._names_nodes = False
        self.poll = None
        self.is_open = False
        # redis-py's own Retry opens it again after closing it.
        self.is_broken = self._is_opening

    def _note_command(
        self, kind: tuple[str, ...] | None, command: cabc.Sequence[object]
    ) -> None:
        if kind is CONTAINERS:
            kind = find_kind(" ".join(map(to_text, command[:3])))

        if kind is SENDS_MORE:
            # Pub/sub subscribes again while the connection is opened.
            self.altered |= UNCOUNTED

        # The server refuses CLIENT alone.
        if self._is_opening or kind in (None, CONTAINERS):
            return

        self._names_nodes = kind is NAMES_NODES

        if not self._names_nodes:
            altered = self.altered if self._expected is None else self._expected
            self._noted = change(altered if self._noted is None else self._noted, kind)

    def _check_interrupted(self, kind: tuple[str, ...] | None = None) -> None:
        """Before a command, raise an error if the connection was closed after WATCH,
        MULTI or SELECT, for example: the command would run on a new one, without them.
        The client library's pipelines turn the error into a ``WatchError``.
        """
        if (lost := self.lost) and not self.is_open:
            self.lost = 0
            text = "The connection was closed, and its database or user with it."

            if not lost & SWITCHED:
                text = "The connection was closed during a transaction."

                # Nothing is watched on a new connection.
                if kind is UNWATCHES:
                    return

            errors = get_library(library_name(type(self))).errors
            error = errors.ConnectionError(text)
            mark_unsent(error)
            mark_lost(error)
            raise error

    def _name_nodes(self, slots: object) -> t.Any:
        """The reply to CLUSTER SLOTS, with the hosts that it leaves out."""
        # CLUSTER SLOTS is packed before the connection opens. This is another reply.
        if self._is_opening:
            return slots

        self._names_nodes = False

        # In a transaction, the reply is "QUEUED".
        if not isinstance(slots, list):
            return slots

        for _, _, *nodes in slots:
            for node in nodes:
                host = node[0].decode() if isinstance(node[0], bytes) else node[0]
                # A socket has no host.
                node[0] = getattr(self, "host", None) if host in HOSTLESS else host

        return slots

    def _take_error(self, error: BaseException) -> bool:
        """Whether the server sent an error: no other reply is to come."""
        errors = get_library(library_name(type(self))).errors

        if not isinstance(error, errors.ResponseError):
            return False

        # Here, because tracing records the error before the client sees it.
        clean_error(error)

        if is_demoted(error, errors):
            self.altered |= DEMOTED

        if (expected := self._expected) is not None:
            # If this is the last reply, nothing has begun after the transaction.
            if self.unread == 1 and isinstance(error, errors.ExecAbortError):
                self._settle(expected & ~TRANSACTION)
            else:
                if self._refusal and is_without_multi(error):
                    # The client library drops the error of MULTI.
                    error.args = (f"{error}: {self._refusal}",)

                self._refusal = self._refusal or str(error)
                self._settle(expected | self.altered | UNSURE)

        self.unread -= 1

        if not self._is_opening:
            self._names_nodes = False

        return True

    def _settle(self, expected: int) -> None:
        """Note what is altered after a reply, once there are no others to come. The
        reply is counted later: until then, the connection is dirty.

        :param expected: What is altered if the server accepts the other commands.
        """
        if self.unread == 1:
            self.altered = expected
            self._expected = None
            self._refusal = ""
        else:
            self._expected = expected

    def _check_closed(self, error: BaseException, current: int) -> None:
        """Raise an error of the client library if another thread or task has closed the
        connection during a command. redis-py then uses a closed buffer or no socket,
        which raises a ``ValueError`` or an ``AttributeError``.

        :param error: The command's error.
        :param current: The thread or task that runs the command.
        """
        if isinstance(error, (AttributeError, ValueError)) and (
            self._closed_by not in (0, current)
        ):
            errors = get_library(library_name(type(self))).errors
            raise errors.ConnectionError(
                "Another thread or task closed the connection."
            ) from error


class _SyncTracked(_Tracked):
    unread: int
    paced: PacedSocket | None

    def connect(self, *args: t.Any, **kwargs: t.Any) -> None:
        self.open_with(super().connect, *args, **kwargs)  # type: ignore[misc]

    def open_with(
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
                mark_unsent(error)

            raise

    def disconnect(self, *args: t.Any, **kwargs: t.Any) -> None:
        self._start_closing(threading.get_ident())
        super().disconnect(*args, **kwargs)  # type: ignore[misc]
        self.paced = None
        self._end_closing()

    def check_health(self) -> None:
        try:
            super().check_health()  # type: ignore[misc]
        except BaseException as error:
            mark_unsent(error)
            raise

    def _check_interrupted(self, kind: tuple[str, ...] | None = None) -> None:
        # redis-py closes nothing if it was interrupted before it read the reply.
        if self.unread and not (self._is_opening or self.is_uncounted):
            self.disconnect()

        super()._check_interrupted(kind)

    def send_command(self, *args: t.Any, **kwargs: t.Any) -> None:
        kind = find_kind(args[0])

        if self.unread or not self.is_open:
            self._check_interrupted(kind)

        # A command before it could not be packed, or was interrupted.
        self._noted = None

        if kind:
            self._note_command(kind, args)

        super().send_command(*args, **kwargs)  # type: ignore[misc]

    def send_packed_command(self, command: object, check_health: bool = True) -> None:
        replies, self._packed = self._packed, 1

        # The commands of a login may come first.
        noted = self._noted

        # redis-py's method does both, too, but only after the replies are counted here.
        if not (self.is_open or self._is_opening):
            self.connect()

        if self.health_check_interval and check_health and not self._is_opening:
            self.check_health()

        self.unread += replies

        if noted is not None:
            self._expected = noted

        try:
            super().send_packed_command(command, check_health=False)  # type: ignore[misc]
        except BaseException as error:
            self._check_closed(error, threading.get_ident())
            raise

    def can_read(self, *args: t.Any, **kwargs: t.Any) -> bool:
        # A subscriber waits for each message with it.
        if (paced := self.paced) is not None:
            paced.is_first = True

        try:
            can_read: bool = super().can_read(*args, **kwargs)  # type: ignore[misc]
        except BaseException as error:
            self._check_closed(error, threading.get_ident())
            raise

        return can_read

    def read_response(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        if (paced := self.paced) is not None:
            paced.is_first = True

        try:
            response = super().read_response(*args, **kwargs)  # type: ignore[misc]
        except BaseException as error:
            is_reply = self._take_error(error)

            # redis-py's connections behind sentinels leave it open.
            if (
                not is_reply
                and (self.is_open or self.is_broken)
                and kwargs.get("disconnect_on_error", True)
            ):
                self.disconnect()

            self._check_closed(error, threading.get_ident())
            raise

        # With this, a cache and pub/sub read messages that are no replies.
        if not kwargs.get("push_request"):
            if (expected := self._expected) is not None:
                self._settle(expected)

            self.unread -= 1

        return self._name_nodes(response) if self._names_nodes else response


def _current_task() -> int:
    return id(asyncio.current_task())


class _AsyncTracked(_Tracked):
    unread: int

    async def connect(self, *args: t.Any, **kwargs: t.Any) -> None:
        await self.open_with(super().connect, *args, **kwargs)  # type: ignore[misc]

    async def open_with(
        self,
        connect: cabc.Callable[..., cabc.Awaitable[None]],
        *args: t.Any,
        **kwargs: t.Any,
    ) -> None:
        if self._is_opening:
            await connect(*args, **kwargs)
            return

        if self.is_broken:
            await self.disconnect()

        if self.is_open:
            return

        try:
            self._start_opening()
            await connect(*args, **kwargs)
            self._end_opening()
        except BaseException as error:
            self._is_opening = False

            try:
                # The task may have been cancelled, but this never waits.
                await self.disconnect()
            finally:
                mark_unsent(error)

            raise

    async def disconnect(self, *args: t.Any, **kwargs: t.Any) -> None:
        self._start_closing(_current_task())
        await super().disconnect(*args, **kwargs)  # type: ignore[misc]
        self._end_closing()

    async def check_health(self) -> None:
        try:
            await super().check_health()  # type: ignore[misc]
        except BaseException as error:
            mark_unsent(error)
            raise

    async def send_packed_command(
        self, command: object, check_health: bool = True
    ) -> None:
        replies, self._packed = self._packed, 1

        # The commands of a login may come first.
        noted = self._noted

        if not (self.is_open or self._is_opening):
            await self.connect()

        if self.health_check_interval and check_health and not self._is_opening:
            await self.check_health()

        self.unread += replies

        if noted is not None:
            self._expected = noted

        try:
            await super().send_packed_command(command, check_health=False)  # type: ignore[misc]
        except BaseException as error:
            self._check_closed(error, _current_task())
            raise

    async def read_response(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        try:
            response = await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except BaseException as error:
            # In asyncio, each client library closes it, also behind sentinels.
            self._take_error(error)
            self._check_closed(error, _current_task())
            raise

        # With this, None may say that no reply has arrived.
        if response is not None or kwargs.get("timeout") is None:
            if (expected := self._expected) is not None:
                self._settle(expected)

            self.unread -= 1

        return self._name_nodes(response) if self._names_nodes else response


# The order of the bases makes super() faster in the methods that each command calls.


class TrackedConnection(Opening, ReconnectMark, PacedConnection, _SyncTracked):
    """Mixed into the class of connections. It counts the replies to come, and closes
    the connection if anything fails while it is opened.

    redis-py closes it only for its own errors. After any other error, such as that of a
    credential provider, commands would run without AUTH and SELECT: as another user, in
    database 0.
    """


class AsyncTrackedConnection(Opening, ReconnectMark, _AsyncTracked, ClosesAtOnce):
    """The same for connections of asyncio. See :class:`TrackedConnection`."""


class AsyncNodeConnection(AsyncTrackedConnection):
    """The same for the nodes of a cluster."""

    #: Whether it was returned after ASKING. The command that follows must use the same
    #: connection.
    is_asking: bool = False

    def pack_command(self, *args: t.Any) -> t.Any:
        if args[0] == "ASKING":
            self.is_asking = True

        return super().pack_command(*args)
