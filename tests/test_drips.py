"""Replies that arrive in drops: each byte begins the timeout of a socket again."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import threading
import time
import types
import typing as t

import pytest
import redis
import valkey
from flask import Flask

from flask_and_redis.engines.internals import connections
from flask_and_redis.engines.internals.connections import PacedSocket

from .servers import Server
from .servers import wait_until
from .test_health import make_manager
from .test_pings import Dripping

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "config",
    [
        {"URL": "redis://{}"},
        {"URL": "redis://{}", "PROTOCOL": "2"},
        {"URL": "valkey://{}", "CLASS": "valkey.Valkey"},
        {"URL": "redis+cluster://{}"},
        {"URL": "redis+sentinel://{}/mymaster"},
    ],
    ids=str,
)
def test_commands_end(app: Flask, config: dict[str, str]) -> None:
    """A command fails, although the next byte always arrives in time: whether it is
    the login, a question to a sentinel, or the command itself that gets no whole reply.
    """
    with Dripping() as server:
        config = {f"X_{name}": value for name, value in config.items()}
        config["X_URL"] = config["X_URL"].format(server.address)
        times = {"X_SOCKET_TIMEOUT": 0.3, "X_RETRY_DEADLINE": 0.5}
        manager = make_manager(app, **config, **times)

        with app.app_context(), pytest.raises(Exception) as raised:
            manager.get("X").get("key")

    names = {cls.__name__ for cls in type(raised.value).mro()}
    assert names & {"RedisError", "RedisClusterException", "ValkeyError"}


def test_commands_end_with_a_pool(app: Flask) -> None:
    """The same if the application made the pool."""
    with Dripping() as server:
        pool_class: t.Any = redis.BlockingConnectionPool
        url = f"redis://{server.address}"
        pool = pool_class.from_url(url, protocol=2, socket_timeout=0.3)
        manager = make_manager(app, X_CONNECTION_POOL=pool, X_RETRY_DEADLINE=0.5)

        with app.app_context(), pytest.raises(redis.TimeoutError):
            manager.get("X").get("key")


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("library", ["redis.Redis", "valkey.Valkey"])
def test_subscribers_wait(server: Server, library: str, protocol: int) -> None:
    """A subscriber waits for its messages, however long there was none. It notices that
    the connection is lost.
    """
    app = Flask("subscribers")
    config = {"X_URL": server.url, "X_CLASS": library, "X_PROTOCOL": protocol}
    manager = make_manager(app, **config)

    client: t.Any = manager.get("X")

    with app.app_context(), client.pubsub() as pubsub:
        pubsub.subscribe("news")
        assert pubsub.get_message(timeout=5)["type"] == "subscribe"
        started = time.monotonic()

        for _ in range(5):
            assert pubsub.get_message(timeout=0.1) is None

        assert time.monotonic() - started >= 0.4

        with server.admin() as admin:
            admin.publish("news", "hello")
            assert pubsub.get_message(timeout=5)["data"] == b"hello"
            admin.client_kill_filter(_type="pubsub")

        wait_until(lambda: is_lost(pubsub), "the loss is noticed")


def is_lost(pubsub: t.Any) -> bool:
    try:
        pubsub.get_message(timeout=0.1)
    except Exception as error:
        return type(error).__name__ == "ConnectionError"

    return False


class SlowSocket:
    """A socket that gets so many bytes, each time after so many seconds."""

    def __init__(self, size: int, seconds: float, timeout: float | None) -> None:
        self.size = size
        self.seconds = seconds
        self.timeout = timeout
        self.now = 100.0

    def sendall(self, data: bytes) -> None: ...

    def gettimeout(self) -> float | None:
        return self.timeout

    def settimeout(self, timeout: float | None) -> None:
        self.timeout = timeout

    def recv(self, size: int) -> bytes:
        return bytes(self.recv_into(bytearray(size)))

    def recv_into(self, buffer: bytearray) -> int:
        if self.timeout and self.seconds > self.timeout:
            self.now += self.timeout
            raise TimeoutError("timed out")

        self.now += self.seconds
        return self.size


@pytest.fixture(params=["recv", "recv_into"])
def read(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> cabc.Callable[..., SlowSocket]:
    """Reads so many parts of a reply, as redis-py's parser or hiredis would."""

    def read(*args: t.Any, parts: int, replies: int = 1) -> SlowSocket:
        slow = SlowSocket(*args)
        clock = types.SimpleNamespace(monotonic=lambda: slow.now)
        monkeypatch.setattr(connections, "time", clock)
        paced = PacedSocket(slow)
        argument = 65536 if request.param == "recv" else bytearray(65536)

        for _ in range(replies):
            paced.is_first = True

            for _ in range(parts):
                getattr(paced, request.param)(argument)

        return slow

    return read


def test_drops(read: cabc.Callable[..., SlowSocket]) -> None:
    """After the first part, a short reply has one timeout."""
    assert read(1, 0.4, 1.0, parts=3).now == pytest.approx(101.2)

    with pytest.raises(TimeoutError):
        read(1, 0.4, 1.0, parts=4)

    # Each part takes the whole timeout.
    assert read(1, 1.0, 1.0, parts=2).now == 102

    with pytest.raises(TimeoutError):
        read(1, 1.0, 1.0, parts=3)


def test_progress(read: cabc.Callable[..., SlowSocket]) -> None:
    """A long reply may take any time, and short ones may too if there are many."""
    assert read(1024, 0.9, 1.0, parts=100).now == pytest.approx(190)
    assert read(400, 0.3, 1.0, parts=100).now == pytest.approx(130)
    assert read(5, 0.9, 1.0, parts=2, replies=50).now == pytest.approx(190)

    with pytest.raises(TimeoutError):
        read(1023, 0.6, 1.0, parts=3)


def read_pushes(slow: SlowSocket, pushes: int, parts: int) -> None:
    """Read so many pushes of one part each, and then so many parts of a reply."""
    paced = PacedSocket(slow)

    for _ in range(pushes):
        paced.recv(65536)
        paced.note_push()

    for _ in range(parts):
        paced.recv(65536)


@pytest.mark.parametrize(
    ("size", "seconds", "pushes", "parts", "ends"),
    [
        # The reply must begin in time, however much of something else arrives.
        (200, 0.3, 20, 0, 1.0),
        (5000, 0.3, 20, 0, 1.0),
        (5000, 0.3, 3, 1, 1.0),
        # From its first byte on, it has one timeout.
        (1, 0.4, 1, 4, 1.8),
        (1023, 0.4, 1, 9, None),
    ],
)
def test_pushes_are_no_progress(
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    seconds: float,
    pushes: int,
    parts: int,
    ends: float | None,
) -> None:
    """A server that sends pushes in place of a reply does not prolong the wait."""
    slow = SlowSocket(size, seconds, 1.0)
    clock = types.SimpleNamespace(monotonic=lambda: slow.now)
    monkeypatch.setattr(connections, "time", clock)

    if ends is None:
        read_pushes(slow, pushes, parts)
        return

    with pytest.raises(TimeoutError):
        read_pushes(slow, pushes, parts)

    assert slow.now == pytest.approx(100 + ends)


@contextlib.contextmanager
def changing(server: Server) -> cabc.Iterator[threading.Event]:
    """Change a key again and again, for a few seconds at most. Yields whether it has
    ended.
    """
    ended = threading.Event()

    def change() -> None:
        with server.admin() as admin:
            for number in range(500):
                admin.set("changed", number)

                if ended.wait(0.01):
                    return

        ended.set()

    thread = threading.Thread(target=change)
    thread.start()

    try:
        yield ended
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("library", ["redis.Redis", "valkey.Valkey"])
def test_pushes(app: Flask, server: Server, library: str) -> None:
    """A command whose reply does not arrive ends, although the server sends pushes
    meanwhile. They do not end a command that the server answers in time.
    """
    config = {"X_URL": server.url, "X_CLASS": library, "X_PROTOCOL": 3}
    manager = make_manager(app, **config, X_SOCKET_TIMEOUT=0.5)
    shared: t.Any = manager.get("X")

    with (
        app.app_context(),
        shared.client() as client,
        changing(server) as ended,
    ):
        # Without a handler, valkey-py raises an AttributeError.
        client.connection._parser.set_invalidation_push_handler(lambda _: None)
        client.execute_command("CLIENT TRACKING", "ON", "BCAST")
        assert client.blpop(["none"], 0.1) is None

        with pytest.raises((redis.TimeoutError, valkey.TimeoutError)):
            client.blpop(["none"], 60)

        assert not ended.is_set()


def test_timeout_stays(read: cabc.Callable[..., SlowSocket]) -> None:
    """The timeout of the socket is what it was."""
    assert read(1, 0.4, 1.0, parts=3).timeout == 1.0


@pytest.mark.parametrize(
    ("text", "seconds", "is_foreign"),
    [
        ("timed out", 0.97, True),
        # Not all clocks are exact.
        ("timed out", 0.99, False),
        ("timed out", 1.0, False),
        ("mine", 0.99, True),
        ("mine", 1.0, False),
    ],
)
@pytest.mark.parametrize("method", ["recv", "recv_into"])
def test_time_limits(
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    text: str,
    seconds: float,
    is_foreign: bool,
) -> None:
    """A TimeoutError before the end of the socket's timeout is not the socket's. One
    that says what the socket's says must be earlier.
    """
    slow = SlowSocket(1, 0, 1.0)
    clock = types.SimpleNamespace(monotonic=lambda: slow.now)
    monkeypatch.setattr(connections, "time", clock)
    error = TimeoutError(text)

    def fail(argument: object) -> t.NoReturn:
        slow.now += seconds
        raise error

    monkeypatch.setattr(slow, method, fail)

    with pytest.raises(TimeoutError, match=text):
        getattr(PacedSocket(slow), method)(1)

    assert connections.is_foreign(error) is is_foreign


@pytest.mark.parametrize("timeout", [None, 0.0])
def test_no_timeout(
    read: cabc.Callable[..., SlowSocket], timeout: float | None
) -> None:
    """A subscriber waits for as long as it wants, and a look for data does not wait."""
    slow = read(1, 60, timeout, parts=100)
    assert slow.now == 6100
    assert slow.timeout == timeout
