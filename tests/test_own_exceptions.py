"""The application's own exceptions, raised while a command waits for its server."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import contextlib
import errno
import os
import signal
import socket
import ssl
import sys
import threading
import time
import typing as t

import pytest
import redis
from flask import Flask

from flask_and_redis import RedisManager
from flask_and_redis.engines.interruptions import raise_interruption
from flask_and_redis.engines.library import get_library

from .servers import Cluster
from .servers import Sentinels
from .servers import Server
from .servers import wait_until


class Expired(BaseException):
    """A time limit that is no Exception, such as gevent's."""


class Limit(OSError):
    """A time limit that redis-py takes for an error of the socket."""


class Frozen(OSError):
    """A time limit that refuses attributes."""

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("__"):
            raise AttributeError(name)

        super().__setattr__(name, value)


def make(**config: t.Any) -> t.Any:
    app = Flask("interruptions")
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})
    RedisManager(app)
    return app.extensions["redis"]["REDIS"]


@contextlib.contextmanager
def interrupted(error: BaseException, seconds: float = 0.15) -> cabc.Iterator[None]:
    """Raise an error in a signal handler soon, while the block waits for a server. It
    must reach the caller unchanged.
    """
    handled = sys.exc_info()[1]

    def handle(number: int, frame: object) -> None:
        raise error

    before = signal.signal(signal.SIGUSR1, handle)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()

    try:
        with pytest.raises(type(error)) as info:
            yield

        assert info.value is error
        assert error.__context__ is handled
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGUSR1, before)


ERRORS = [
    TimeoutError("mine"),
    Limit(),
    Frozen(),
    ConnectionResetError(),
    # The handler's own I/O fails.
    ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
    ValueError(),
    Expired(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", ["redis", "valkey", "unix", "tls", "old"])
def test_signal_handler(
    own_server: Server, tls_server: Server, kind: str, error: BaseException
) -> None:
    """An exception of a signal handler ends a command, which is not retried."""
    server = tls_server if kind == "tls" else own_server
    configs: dict[str, dict[str, t.Any]] = {
        "redis": {"URL": server.url},
        "valkey": {"URL": server.url, "CLASS": "valkey.Valkey"},
        "unix": {"URL": f"unix://{server.socket}"},
        "tls": {"URL": server.url, "SSL_CERT_REQS": "none", "SSL_CHECK_HOSTNAME": "no"},
        # A longer wait than SOCKET_TIMEOUT: the time tells nothing.
        "old": {"URL": server.url, "SOCKET_TIMEOUT": 0.2},
    }
    client = make(**configs[kind])
    client.set("k", 0)
    error.__traceback__ = None
    seconds = 0.3 if kind == "old" else 0.15
    server.pause()

    try:
        with interrupted(error, seconds):
            client.incr("k")

        server.resume()
        wait_until(lambda: client.get("k") != b"0", "the command was run")
        # SOCKET_TIMEOUT of "old" has already passed once.
        assert kind == "old" or client.get("k") == b"1"
        server.pause()

        with interrupted(error, seconds):
            client.pipeline().incr("n").execute()

        server.resume()
        wait_until(lambda: client.get("n"), "the pipeline was run")
        assert kind == "old" or client.get("n") == b"1"
    finally:
        server.resume()
        client.connection_pool.disconnect()


@pytest.mark.parametrize("kind", ["redis", "unix", "tls"])
def test_slow_signal_handler(own_server: Server, tls_server: Server, kind: str) -> None:
    """A command is not retried if its reply arrives before the signal handler ends."""
    server = tls_server if kind == "tls" else own_server
    configs: dict[str, dict[str, t.Any]] = {
        "redis": {"URL": server.url},
        "unix": {"URL": f"unix://{server.socket}"},
        "tls": {"URL": server.url, "SSL_CERT_REQS": "none", "SSL_CHECK_HOSTNAME": "no"},
    }
    client = make(**configs[kind])
    client.set("k", 0)
    server.pause()

    class Slow(ConnectionRefusedError):
        """The handler's own I/O fails, some time later."""

    def handle(*_: object) -> None:
        server.resume()

        with server.admin() as admin:
            wait_until(lambda: admin.get("k") == b"1", "the command was run")

        raise Slow(errno.ECONNREFUSED, "Connection refused")

    before = signal.signal(signal.SIGUSR1, handle)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()

    try:
        with pytest.raises(Slow):
            client.incr("k")
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
        server.resume()

    assert client.get("k") == b"1"
    client.connection_pool.disconnect()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_signal_handler_while_connecting(own_server: Server, error: Exception) -> None:
    """An exception of a signal handler also ends a command that still connects."""
    client = make(URL=own_server.url)
    error.__traceback__ = None
    own_server.pause()

    with interrupted(error):
        client.incr("k")

    own_server.resume()
    assert client.get("k") is None


def test_signal_handler_with_any_arguments(own_server: Server) -> None:
    """A signal handler may take its arguments as a tuple."""
    client = make(URL=own_server.url, SOCKET_TIMEOUT=0.1)
    client.ping()
    own_server.pause()

    def handle(*_: object) -> None:
        raise TimeoutError("mine")

    before = signal.signal(signal.SIGUSR1, handle)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()

    try:
        with pytest.raises(TimeoutError, match="^mine$"):
            client.get("k")
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("error", [TimeoutError("mine"), Limit(), Expired()])
def test_signal_handler_in_a_cluster(
    fresh_cluster: Cluster, error: BaseException
) -> None:
    """An exception of a signal handler ends a command of a cluster."""
    client = make(URL=f"redis+cluster://{fresh_cluster.address}", SOCKET_TIMEOUT=5)
    client.set("k", 0)
    node = fresh_cluster.master_of("k")
    error.__traceback__ = None
    node.pause()

    with interrupted(error):
        client.incr("k")

    node.resume()
    wait_until(lambda: client.get("k") == b"1", "the command was run")
    error.__traceback__ = None
    node.pause()

    # The caller may handle an error of the socket already.
    try:
        raise OSError
    except OSError:
        with interrupted(error):
            client.pipeline().incr("k").execute()

    node.resume()
    wait_until(lambda: client.get("k") != b"1", "the pipeline was run")
    assert client.get("k") == b"2"


def test_signal_handler_with_sentinels(sentinels: Sentinels) -> None:
    """An exception of a signal handler ends a command that still asks sentinels."""
    client = make(
        URL=f"redis+sentinel://{sentinels.address}/mymaster",
        SENTINEL_KWARGS={"socket_timeout": 5},
    )
    first = sentinels.sentinels[0]
    first.pause()

    with interrupted(TimeoutError("mine")):
        client.incr("k")

    assert client.get("k") is None
    first.resume()


class Limited(socket.socket):
    """A socket that raises as gevent does when its time limit ends a read."""

    ends: t.ClassVar[bool] = False
    #: What sending raises.
    error: t.ClassVar[OSError | None] = None

    def wait(self) -> None:
        """What it does before the time limit ends a read."""

    def recv(self, *args: t.Any) -> bytes:
        if self.ends:
            self.wait()
            raise TimeoutError("mine")

        return super().recv(*args)

    def sendall(self, *args: t.Any) -> None:
        if self.error is not None:
            raise self.error

        super().sendall(*args)


class LimitedConnection(redis.Connection):
    def _connect(self) -> t.Any:
        connected: socket.socket = super()._connect()  # type: ignore[no-untyped-call]
        timeout = connected.gettimeout()
        limited = Limited(fileno=connected.detach())
        limited.settimeout(timeout)
        return limited


@pytest.fixture
def limited(server: Server, request: pytest.FixtureRequest) -> cabc.Iterator[t.Any]:
    """A client whose connections have limited sockets, with this timeout."""
    timeout = getattr(request, "param", 5)
    pool = redis.ConnectionPool.from_url(
        server.url, connection_class=LimitedConnection, socket_timeout=timeout
    )
    yield make(CONNECTION_POOL=pool, RETRY_DEADLINE=0.2)
    pool.disconnect()


@pytest.mark.parametrize("limited", [5, None], indirect=True)
def test_early_timeout(limited: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A builtin TimeoutError before SOCKET_TIMEOUT has passed is the application's, and
    so is any if there is no timeout.
    """
    limited.set("k", 0)
    monkeypatch.setattr(Limited, "ends", True)

    with pytest.raises(TimeoutError, match="^mine$"):
        limited.incr("k")

    monkeypatch.setattr(Limited, "ends", False)
    assert limited.get("k") == b"1"


def test_late_timeout(limited: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A builtin TimeoutError shortly before the end of SOCKET_TIMEOUT is the
    application's, too. Its own time limit may be about as long.
    """
    limited.ping()
    monotonic, waits = time.monotonic, list[float]()
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + sum(waits))
    monkeypatch.setattr(Limited, "wait", lambda self: waits.append(4.8))
    monkeypatch.setattr(Limited, "ends", True)

    with pytest.raises(TimeoutError, match="^mine$"):
        limited.incr("k")


@pytest.mark.parametrize(("seconds", "is_early"), [(4.97, True), (4.99, False)])
def test_margin(seconds: float, is_early: bool) -> None:
    """Not all clocks are exact: an attempt that took nearly as long as the timeout may
    have met the socket's own.
    """
    cause = TimeoutError("mine")
    error = redis.TimeoutError()
    error.__cause__ = cause
    raised: list[BaseException] = []

    try:
        raise_interruption([error, cause], get_library("redis"), seconds, 5)
    except TimeoutError as other:
        raised.append(other)

    assert raised == [cause] * is_early


@pytest.mark.parametrize("limited", [None], indirect=True)
def test_no_timeout_while_sending(
    limited: t.Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it sends, a connection of the application may have a timeout that its
    arguments do not tell. The library's own error is left as it is.
    """
    limited.ping()
    monkeypatch.setattr(Limited, "error", TimeoutError("mine"))

    with pytest.raises(redis.TimeoutError):
        limited.incr("k")


@pytest.mark.parametrize("error", [TimeoutError("mine"), Limit()], ids=repr)
def test_while_sending(
    limited: t.Any, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """An exception of the application also ends a command that is being sent."""
    limited.ping()
    monkeypatch.setattr(Limited, "error", error)

    with pytest.raises(type(error)) as info:
        limited.get("k")

    assert info.value is error


@pytest.mark.parametrize(
    "error",
    [BrokenPipeError(errno.EPIPE, "Broken pipe"), ssl.SSLError("lost")],
    ids=repr,
)
def test_lost_while_sending(
    limited: t.Any, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """An error of the system, or of TLS, is the connection's."""
    limited.ping()
    monkeypatch.setattr(Limited, "error", error)

    with pytest.raises(redis.ConnectionError):
        limited.get("k")


class ProxiedConnection(redis.Connection):
    """Connections through a proxy, whose library's errors have no number."""

    def _connect(self) -> t.Any:
        raise Limit


def test_error_of_a_connection_class(server: Server) -> None:
    """An error of the application's own connection class is the connection's."""
    pool = redis.ConnectionPool.from_url(
        server.url, connection_class=ProxiedConnection, socket_timeout=5
    )
    client = make(CONNECTION_POOL=pool, RETRY_DEADLINE=0.2)

    with pytest.raises(redis.ConnectionError):
        client.get("k")


class Handled(OSError):
    """An error without a number that a view handles, such as those of requests."""


def test_full_pool_while_handling_an_error(server: Server) -> None:
    """The error that the caller is handling is not raised instead of the command's."""
    client = make(URL=server.url, MAX_CONNECTIONS=1, RETRY_DEADLINE=0.1)
    connection = client.connection_pool.get_connection()

    try:
        raise Handled
    except Handled:
        with pytest.raises(redis.ConnectionError, match="were in use"):
            client.get("k")

    client.connection_pool.release(connection)


def test_lost_while_handling_an_error(own_server: Server) -> None:
    """A command is retried if the server closes the connection, even if the caller is
    handling an error.
    """
    client = make(URL=own_server.url)
    client.ping()

    with own_server.admin() as admin:
        kill = ("CLIENT", "KILL", "TYPE", "normal")
        timer = threading.Timer(0.3, admin.execute_command, kill)
        timer.start()

        try:
            raise Handled
        except Handled:
            assert client.blpop("k", timeout=1) is None

        timer.join()


@pytest.mark.parametrize(
    "handled", [Handled(), ssl.SSLCertVerificationError("expired")], ids=repr
)
def test_lost_sentinels_while_handling_an_error(
    sentinels: Sentinels, handled: OSError
) -> None:
    """What sentinels raise is not taken for the error that the caller is handling."""
    client = make(
        URL=f"redis+sentinel://{sentinels.address}/mymaster",
        SENTINEL_KWARGS={"socket_timeout": 5},
    )

    for sentinel in sentinels.sentinels:
        sentinel.pause()

    def kill() -> None:
        for sentinel in sentinels.sentinels:
            sentinel.kill()

        sentinels.sentinels[0].start()

    timer = threading.Timer(0.3, kill)
    timer.start()

    try:
        raise handled
    except OSError:
        assert client.get("k") is None

    timer.join()


def run_async(config: dict[str, t.Any], function: t.Any) -> None:
    """Run a coroutine function with the asynchronous client of prefix REDIS."""
    app = Flask("interruptions")
    app.config.update(config)
    manager = RedisManager(app)

    async def main() -> None:
        async with manager.get_async() as client:
            await function(client)

    with app.app_context():
        asyncio.run(main())


def test_async_time_limit(own_server: Server) -> None:
    """A time limit of asyncio ends a command, which is not retried."""

    async def use(client: t.Any) -> None:
        await client.set("k", 0)
        own_server.pause()
        started = time.monotonic()

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.incr("k"), 0.3)

        # Less than the deadline.
        assert time.monotonic() - started < 4
        own_server.resume()
        assert await client.get("k") == b"1"

    run_async({"REDIS_URL": own_server.url}, use)


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="asyncio has its own TimeoutError before 3.11."
)
@pytest.mark.parametrize("scheme", ["redis", "redis+sentinel"])
def test_async_early_timeout(
    sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """A builtin TimeoutError before SOCKET_TIMEOUT has passed is the application's,
    also in asyncio.
    """
    url = sentinels.servers[0].url
    reads = []

    async def read(self: object, *args: object) -> bytes:
        reads.append(args)
        raise TimeoutError("mine")

    if scheme == "redis+sentinel":
        url = f"redis+sentinel://{sentinels.address}/mymaster"

    async def use(client: t.Any) -> None:
        if scheme == "redis":
            await client.ping()

        with monkeypatch.context() as patch:
            patch.setattr(asyncio.StreamReader, "readline", read)

            with pytest.raises(TimeoutError, match="^mine$"):
                await client.incr("k")

        assert len(reads) == 1
        await client.get("k")

    run_async({"REDIS_URL": url}, use)


def test_async_lost_connection(
    own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error without a number is asyncio's own. The command is sent again."""
    drain = asyncio.StreamWriter.drain
    errors = [ConnectionResetError("Connection lost")]

    async def fail(self: asyncio.StreamWriter) -> None:
        if errors:
            raise errors.pop()

        await drain(self)

    async def use(client: t.Any) -> None:
        await client.ping()
        monkeypatch.setattr(asyncio.StreamWriter, "drain", fail)
        assert await client.echo("sent twice") == b"sent twice"
        assert not errors

    run_async({"REDIS_URL": own_server.url}, use)
