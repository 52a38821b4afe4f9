"""Undocumented features of connections: how they open, and their sockets."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import contextlib
import select
import socket
import ssl
import time
import typing as t

from ...spec.classes import subclass

# A reply makes progress if so many bytes of it arrive within the socket's timeout.
_PROGRESS = 1024

# Seconds before the end of the socket's timeout in which a TimeoutError may already be
# the socket's own: not all clocks are exact.
MARGIN = 0.02

# What the standard library's timeouts say, and gevent's.
_TIMED_OUT = "timed out"

# The attribute of an error of a socket: whether something else raised it.
_FOREIGN = "_flask_and_redis_foreign"


def is_foreign(error: OSError) -> bool | None:
    """Whether something else than a socket raised an error that came out of it, such as
    a signal handler. None if it did not come out of a socket.

    :param error: An error.
    """
    return getattr(error, _FOREIGN, None)


class PacedSocket:
    """A socket that stops reading a reply that makes no progress.

    Why: the timeout of a socket starts again with every byte. Versions: all. Without
    it: a server that sends a byte now and then keeps a command waiting forever.

    :param connected: The socket.
    """

    def __init__(self, connected: t.Any) -> None:
        self.connected: t.Any = connected
        #: Whether the next read is the first one of a reply. The server may need all of
        #: the timeout until it answers.
        self.is_first: bool = True
        # redis-py calls these for each command: they are faster than __getattr__.
        self.sendall: cabc.Callable[..., None] = connected.sendall
        self._recv: cabc.Callable[..., bytes] = connected.recv
        self._recv_into: cabc.Callable[..., int] = connected.recv_into
        self._received = 0
        # When the reply began, or last made progress, by time.monotonic(). It must end,
        # or make progress again, within the socket's timeout.
        self._started = 0.0
        # When the wait for the reply began.
        self._waited_since = 0.0

    def __getattr__(self, name: str) -> t.Any:
        return getattr(self.connected, name)

    def recv(self, size: int) -> bytes:
        try:
            if self.is_first:
                self._start()
                return self._recv(size)

            with self._shortened():
                data = self._recv(size)
        except OSError as error:
            self._judge(error)
            raise

        self._received += len(data)
        return data

    def recv_into(self, buffer: object) -> int:
        try:
            if self.is_first:
                self._start()
                return self._recv_into(buffer)

            with self._shortened():
                size = self._recv_into(buffer)
        except OSError as error:
            self._judge(error)
            raise

        self._received += size
        return size

    def note_push(self) -> None:
        """What has arrived was a push, and not the reply, which has as much time to
        begin as without it.
        """
        # With its next byte, the reply begins.
        self._received = _PROGRESS - 1
        self._started = self._waited_since

    def _start(self) -> None:
        self.is_first = False
        self._received = _PROGRESS
        self._started = self._waited_since = time.monotonic()

    @contextlib.contextmanager
    def _shortened(self) -> cabc.Iterator[None]:
        """Shorten the socket's timeout to the time that is left."""
        timeout = self.connected.gettimeout()

        # None: a subscriber waits without limit. 0: redis-py only looks for data.
        if not timeout:
            yield
            return

        now = time.monotonic()

        if self._received >= _PROGRESS:
            self._received = 0
            self._started = now

        left = self._started + timeout - now

        if left <= 0:
            raise TimeoutError(_TIMED_OUT)

        try:
            self.connected.settimeout(left)
            yield
        finally:
            self.connected.settimeout(timeout)

    def _judge(self, error: OSError) -> None:
        """Mark an error if the socket cannot have raised it, so that a signal handler
        did. A timeout is not the socket's before its time is over. Any other error is
        not the socket's while the connection is open.
        """
        if isinstance(error, TimeoutError) and error.errno is None:
            timeout = self.connected.gettimeout()
            seconds = time.monotonic() - self._started
            margin = MARGIN if _TIMED_OUT in str(error) else 0
            is_foreign = not timeout or seconds < timeout - margin
        else:
            is_foreign = not isinstance(error, _OWN) and _is_open(self.connected)

        # A class of the application may not allow to set attributes.
        object.__setattr__(error, _FOREIGN, is_foreign)


class Opening:
    """Mixed into the class of connections, synchronous or not. If redis-py opens one
    without ``connect()``, ``open_with()`` does it.

    Why: redis-py does so while it sends, if the connection has lost its socket, for
    example because closing it was interrupted. Versions: redis-py, all. Without it:
    such a connection may be used after its login has failed, without AUTH and SELECT.
    """

    if t.TYPE_CHECKING:

        def open_with(
            self, connect: cabc.Callable[..., t.Any], *args: t.Any, **kwargs: t.Any
        ) -> t.Any: ...

    def connect_check_health(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        connect = super().connect_check_health  # type: ignore[misc]
        return self.open_with(connect, *args, **kwargs)


class ReconnectMark:
    """Mixed into the class of connections, synchronous or not. A connection that
    redis-py marks to be closed, because its server moves, counts as broken.

    Why: redis-py's ``release()`` closes it, but our pools do not always call that: a
    cluster enables notifications when its pools exist already. Versions: 7.0 and newer.
    Without it: commands are sent to the old server.
    """

    is_broken: bool

    def mark_for_reconnect(self) -> None:
        self.is_broken = True
        super().mark_for_reconnect()  # type: ignore[misc]


class PacedConnection:
    """Mixed into the class of synchronous connections. They read from a paced socket.

    Why: redis-py creates the socket in ``_connect()``. Versions: all. Without it: see
    :class:`PacedSocket`.
    """

    #: The socket. None if it is closed, or if it is not one, as with fakeredis.
    paced: PacedSocket | None = None

    def _connect(self) -> t.Any:
        try:
            connected = super()._connect()  # type: ignore[misc]
        except OSError as error:
            # The application's own connection class may raise any error.
            object.__setattr__(error, _FOREIGN, False)
            raise

        if not isinstance(connected, socket.socket):
            return connected

        self.paced = PacedSocket(connected)
        return self.paced

    def set_parser(self, parser_class: type[t.Any]) -> None:
        super().set_parser(subclass(NotesPushes, parser_class))  # type: ignore[misc]


class NotesPushes:
    """Mixed into the class of a synchronous connection's parser. It tells the paced
    socket that a push is not the reply.

    Why: a parser goes on to read the reply after a push. Versions: all. Without it: a
    server that sends pushes and no reply keeps a command waiting forever.
    """

    _sock: object

    def handle_push_response(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        if isinstance(self._sock, PacedSocket):
            self._sock.note_push()

        return super().handle_push_response(*args, **kwargs)  # type: ignore[misc]


class KeepsCancellation:
    """Mixed into the class of asynchronous connections. If a task is cancelled while it
    sends a command, the command ends.

    Why: redis-py sends with ``asyncio.wait_for()``, which drops a cancellation that
    arrives when the command has just been sent. Versions: all, before Python 3.12.
    Python 3.10 does not tell that it was dropped. Without it: the task waits for the
    reply, whatever the time limit.
    """

    if t.TYPE_CHECKING:

        async def disconnect(self, *args: t.Any, **kwargs: t.Any) -> None: ...

    async def send_packed_command(self, *args: t.Any, **kwargs: t.Any) -> None:
        count = getattr(asyncio.current_task(), "cancelling", int)
        before = count()
        await super().send_packed_command(*args, **kwargs)  # type: ignore[misc]

        if count() > before:
            await self.disconnect(nowait=True)
            raise asyncio.CancelledError


class ClosesAtOnce:
    """Mixed into the class of asynchronous connections. Closing one never waits.

    Why: redis-py waits until the server has closed its side, too, which TLS requires.
    With ``nowait``, it does not wait, but the socket stays open until then. Versions:
    all. Without it: if a server hangs, the end of an async view takes as long as
    connecting may take, and its result is replaced by a ``TimeoutError``.
    """

    if t.TYPE_CHECKING:

        @property
        def is_uncounted(self) -> bool: ...

    async def disconnect(
        self, nowait: object = None, *args: t.Any, **kwargs: t.Any
    ) -> None:
        # It is closed already, or a mock.
        if (writer := getattr(self, "_writer", None)) is None:
            await super().disconnect(*args, **kwargs)  # type: ignore[misc]
            return

        await super().disconnect(True, *args, **kwargs)  # type: ignore[misc]

        # fakeredis has a class of its own. What gets no reply may still be on its way:
        # asyncio closes the socket after it was sent.
        if isinstance(writer, asyncio.StreamWriter) and not self.is_uncounted:
            writer.transport.abort()


class ReadsAsDirty:
    """Mixed into the class of synchronous connections. A pool finds that a dirty one
    has something to read, and closes it.

    Why: redis-py's pools ask ``can_read()`` before they lend a connection, and have no
    other question. Pub/sub, which waits for messages with it, registers itself first.
    Versions: all. Without it: the application's own pool lends dirty connections.
    """

    is_dirty: bool
    _is_listening: bool = False

    def register_connect_callback(self, callback: object) -> None:
        self._is_listening = True
        super().register_connect_callback(callback)  # type: ignore[misc]

    def deregister_connect_callback(self, callback: object) -> None:
        self._is_listening = False
        super().deregister_connect_callback(callback)  # type: ignore[misc]

    def can_read(self, *args: t.Any, **kwargs: t.Any) -> bool:
        if self.is_dirty and not self._is_listening:
            return True

        can_read: bool = super().can_read(*args, **kwargs)  # type: ignore[misc]
        return can_read


def close_now(connection: t.Any) -> None:
    """Close an asynchronous connection outside of a coroutine.

    Why: a node of a cluster lends and takes back connections in functions, and there
    ``disconnect()`` cannot be awaited. It never waits, so its first step is also the
    last. Versions: all. Without it: the server goes on watching keys or sending
    messages until the connection is used again.

    :param connection: A connection of :mod:`.tracking`.
    """
    with contextlib.suppress(StopIteration):
        connection.disconnect().send(None)


def has_data(connection: t.Any) -> bool:
    """Whether something has arrived on an idle connection, or the server has closed it.

    Why: ``can_read()`` takes longer, and takes a ``TimeoutError`` that a signal handler
    raises for one of its own. Versions: all. Without it: closed connections are lent.

    :param connection: A connection of :mod:`.tracking`.
    """
    # Another thread may close the connection meanwhile.
    if (poll := connection.poll) is None:
        sock = connection._sock

        # fakeredis has no sockets, and an interrupted connection may have lost its own.
        if not (_has_poll() and isinstance(sock, PacedSocket)):
            return bool(connection.can_read())

        if (descriptor := sock.fileno()) < 0:
            return True

        connection.poll = poll = _make_poll(sock.connected, descriptor)

        # It was closed meanwhile. Its number may be that of another socket by now.
        if sock.fileno() < 0:
            connection.poll = None
            return True

    return bool(poll(0))


def _has_poll() -> bool:
    # Windows has none, and eventlet removes it when it patches the module.
    return hasattr(select, "poll")


# Errors that a socket raises while it is open.
_OWN = (BlockingIOError, ssl.SSLError)


def _is_open(sock: socket.socket) -> bool:
    """Whether neither side has closed a socket, as far as its next bytes tell."""
    if not _has_poll() or (descriptor := sock.fileno()) < 0:
        return False

    poller = select.poll()
    poller.register(descriptor, select.POLLIN)

    try:
        # The first byte of a reply, or of TLS, or nothing if the server has closed it.
        return not poller.poll(0) or bool(socket.socket.recv(sock, 1, socket.MSG_PEEK))
    except OSError:
        return False


def _make_poll(sock: socket.socket, descriptor: int) -> cabc.Callable[[int], object]:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)

    if isinstance(sock, ssl.SSLSocket):
        return lambda timeout: sock.pending() or poller.poll(timeout)

    return poller.poll
