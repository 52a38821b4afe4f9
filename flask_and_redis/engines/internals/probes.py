"""Undocumented features for short-lived clients: their connections end in time, and
leave no trace.
"""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import socket
import ssl
import time
import typing as t

from ...spec.classes import subclass
from ..library import library_name
from ..library import library_of
from ..library import Pool
from ..messages import clean_error
from .clients import change_class


class Limit:
    """When a short-lived client must be done, and how its connections failed.

    :param ends: The time, by :func:`time.monotonic`.
    """

    def __init__(self, ends: float) -> None:
        self.ends: float = ends
        self.failures: list[Exception] = []

    @property
    def left(self) -> float:
        """The seconds that are left, and never 0: no socket may wait forever."""
        return max(self.ends - time.monotonic(), 0.001)

    @contextlib.contextmanager
    def noting_failure(self) -> cabc.Iterator[None]:
        try:
            yield
        except Exception as error:
            clean_error(error)
            self.failures.append(error)
            raise


class PlainText(OSError):
    """A port that was to speak TLS answered in plain text."""


class NeedsTls(OSError):
    """A port that was to speak plain text speaks TLS."""


class _LimitedSocket:
    """A socket whose reads end in time together."""

    def __init__(self, connected: socket.socket, limit: Limit) -> None:
        self._socket = connected
        self._limit = limit

    def __getattr__(self, name: str) -> t.Any:
        return getattr(self._socket, name)

    def recv(self, *args: t.Any) -> bytes:
        self._shorten()
        return self._socket.recv(*args)

    def recv_into(self, *args: t.Any) -> int:
        self._shorten()
        return self._socket.recv_into(*args)

    def _shorten(self) -> None:
        timeout = self._socket.gettimeout() or 0
        self._socket.settimeout(min(timeout, self._limit.left))


# The part of the time that TLS may take to connect. The rest is for finding out whether
# the server speaks plain text: it waits in silence for the end of a first command.
_TLS_SHARE = 0.8


class _LimitedConnection:
    """Mixed into the class of a short-lived client's connections."""

    host: str
    port: int
    _sock: t.Any

    def __init__(self, *args: t.Any, probe_limit: Limit, **kwargs: t.Any) -> None:
        super().__init__(*args, **kwargs)
        self._limit = probe_limit

    def connect(self, *args: t.Any, **kwargs: t.Any) -> None:
        with self._limit.noting_failure():
            super().connect(*args, **kwargs)  # type: ignore[misc]

    def read_response(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        with self._limit.noting_failure(), self._finding_tls():
            return super().read_response(*args, **kwargs)  # type: ignore[misc]

    def send_packed_command(self, *args: t.Any, **kwargs: t.Any) -> None:
        with self._finding_tls():
            super().send_packed_command(*args, **kwargs)  # type: ignore[misc]

    @contextlib.contextmanager
    def _finding_tls(self) -> cabc.Iterator[None]:
        try:
            yield
        except Exception as error:
            # A port with TLS closes the connection at the first command.
            is_lost = type(error).__name__ == "ConnectionError"

            if is_lost and self._uses_plain_text() and self._speaks_tls():
                raise error from NeedsTls("The server speaks TLS.")

            raise

    def _uses_plain_text(self) -> bool:
        return hasattr(self, "port") and not hasattr(self, "cert_reqs")

    def _speaks_tls(self) -> bool:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Nothing is sent over this connection.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        # Another program may wait in silence for the end of a command.
        seconds = self._limit.left / 2

        try:
            with socket.create_connection((self.host, self.port), seconds) as connected:
                context.wrap_socket(connected).close()
        except OSError:
            return False

        return True

    def _connect(self) -> t.Any:
        uses_tls = hasattr(self, "cert_reqs")
        seconds = self._limit.left * (_TLS_SHARE if uses_tls else 1)
        self.socket_timeout = self.socket_connect_timeout = seconds

        try:
            connected = super()._connect()  # type: ignore[misc]
        except TimeoutError:
            if uses_tls and _speaks_plain_text(self.host, self.port, self._limit):
                raise PlainText("The server speaks plain text, not TLS.") from None

            raise

        return _LimitedSocket(connected, self._limit)

    def disconnect(self, *args: t.Any, **kwargs: t.Any) -> None:
        connected, self._sock = self._sock, None
        # Without a socket, redis-py does not count this in its metrics.
        super().disconnect(*args, **kwargs)  # type: ignore[misc]

        if connected is not None:
            connected.close()


def _speaks_plain_text(host: str, port: int, limit: Limit) -> bool:
    try:
        with socket.create_connection((host, port), limit.left) as connected:
            connected.settimeout(limit.left)
            connected.sendall(b"PING\r\n")
            return connected.recv(1) in (b"+", b"-")
    except OSError:
        return False


def limit_connections(pool: Pool, limit: Limit) -> None:
    """Make the connections of a short-lived client end in time.

    Why: a socket's timeout is for each read, and starts again with every byte that
    arrives. Versions: all. Without it: a server that drips its reply keeps the thread
    and the connection of each ping.

    :param pool: A pool of that client, without connections.
    :param limit: When they end.
    """
    cls = getattr(pool, "connection_class", None)

    # A client of the application may have any kind of pool.
    if isinstance(cls, type) and hasattr(cls, "_connect"):
        pool.connection_class = subclass(_LimitedConnection, cls)
        pool.connection_kwargs["probe_limit"] = limit


class _SinglePool:
    """Mixed into the class of a short-lived client's pool. It has one connection."""

    connection_class: type[t.Any]
    connection_kwargs: dict[str, t.Any]
    _opened: tuple[t.Any, ...] = ()

    # valkey-py names a command here.
    def get_connection(self, *args: t.Any, **options: t.Any) -> t.Any:
        if not self._opened:
            self._opened = (self.connection_class(**self.connection_kwargs),)

        (connection,) = self._opened
        connection.connect()
        return connection

    def release(self, connection: t.Any) -> None:
        pass

    def disconnect(self, inuse_connections: bool = True) -> None:
        for connection in self._opened:
            connection.disconnect()


def leave_no_series(pool: Pool) -> None:
    """Let the pool of a short-lived client record none of redis-py's metrics.

    Why: the series of a pool are named by a random number, and stay for as long as the
    process. Versions: redis-py 7.1 and newer. Without it: each ping adds three series.

    :param pool: The pool, without connections.
    """
    # A client of the application may have any kind of pool.
    if library_name(type(pool)):
        change_class(pool, subclass(_SinglePool, type(pool)))


def ask_kind(client: t.Any) -> dict[str, str]:
    """The mode of a server, such as ``sentinel``, and its role. Every user may ask for
    them. Empty if it does not say.

    :param client: A short-lived client.
    """
    # An unknown class may not be able to send this.
    if not isinstance(getattr(client, "connection_pool", None), _SinglePool):
        return {}

    try:
        reply = ask_once(client, "HELLO")
    except library_of(type(client)).errors.RedisError:
        # Redis 6.0 and some proxies do not know the command, or not without arguments.
        return {}

    if isinstance(reply, cabc.Mapping):
        # The same as a list, as with RESP2.
        reply = [word for pair in reply.items() for word in pair]

    # The server is not trusted: it may be any program.
    words = [_text(word) for word in reply] if isinstance(reply, list) else []
    return dict(zip(words[::2], words[1::2], strict=False))


def _text(word: object) -> str:
    return word.decode(errors="replace") if isinstance(word, bytes) else str(word)


def ask_once(client: t.Any, command: str) -> t.Any:
    """The reply to a command without arguments.

    ``execute_command`` would record it in redis-py's metrics, and in traces.

    :param client: A short-lived client.
    :param command: The command.
    """
    pool = getattr(client, "connection_pool", None)

    if not isinstance(pool, _SinglePool):
        return client.execute_command(command)

    connection = pool.get_connection()
    connection.send_command(command)
    return client.parse_response(connection, command)
