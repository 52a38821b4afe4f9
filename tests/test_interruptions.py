"""Commands that are interrupted leave no connection in a wrong state."""

from __future__ import annotations

import collections.abc as cabc
import itertools
import signal
import threading
import time
import typing as t

import pytest
import redis
import valkey

from .interrupter import interrupt_everywhere
from .interrupter import Interrupted
from .interrupter import Stopped
from .prefixes import DATABASE
from .prefixes import KEYS
from .prefixes import make_prefix
from .prefixes import PASSWORD
from .prefixes import Prefix
from .prefixes import USER
from .scripted import Scripted
from .servers import wait_until

# The socket of an interrupted connect() is closed when it is collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

#: Each protocol with one kind of error.
PROTOCOLS = [(2, Interrupted), (3, Stopped)]


# Each function makes a prefix use its connection in one way.


def get(prefix: Prefix) -> None:
    assert prefix.client.get("own") == prefix.value("own")


def pipeline(prefix: Prefix, transaction: bool = False) -> None:
    commands = prefix.client.pipeline(transaction=transaction)
    values = [prefix.value("own"), prefix.value("a")]
    # In a cluster, a transaction has the keys of one node.
    keys = ("own", "own") if transaction else ("own", "a")
    expected = values[:1] * 2 if transaction else values
    assert commands.get(keys[0]).get(keys[1]).execute() == expected


def transaction(prefix: Prefix) -> None:
    pipeline(prefix, transaction=True)


def log_in(prefix: Prefix) -> None:
    get(prefix)


def watch(prefix: Prefix) -> None:
    with prefix.client.pipeline() as commands:
        commands.watch("watched")
        assert commands.get("own") == prefix.value("own")
        commands.multi()
        assert commands.get("a").execute() == [prefix.value("a")]


def subscribe(prefix: Prefix) -> None:
    with prefix.client.pubsub() as pubsub:
        pubsub.subscribe("channel")
        assert pubsub.get_message(timeout=5)["type"] == "subscribe"


def interrupt(
    prefix: Prefix,
    use: cabc.Callable[[Prefix], None],
    error: type[BaseException],
    step: int = 1,
) -> None:
    """Interrupt a use of the connection everywhere, and check the prefix each time."""
    prefix.check()

    def prepare() -> None:
        if use is log_in:
            prefix.disconnect()

    moments = interrupt_everywhere(
        error, lambda: use(prefix), prefix.check, prepare=prepare, step=step
    )
    # Otherwise nothing was tested.
    assert moments > 30 / step


@pytest.mark.parametrize("error", [Interrupted, Stopped])
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("use", [get, pipeline, transaction, log_in])
def test_every_moment(
    request: pytest.FixtureRequest,
    use: cabc.Callable[[Prefix], None],
    protocol: int,
    error: type[BaseException],
) -> None:
    """Whenever a signal handler raises, the next commands get their own replies, from
    the right database, as the right user. The pool's one connection is not lost.
    """
    step = 3 if use is log_in else 1
    interrupt(make_prefix(request, "server", PROTOCOL=protocol), use, error, step)


@pytest.mark.untraced
@pytest.mark.parametrize(("protocol", "error"), PROTOCOLS)
@pytest.mark.parametrize("use", [get, pipeline, transaction, log_in])
@pytest.mark.parametrize(
    "engine", ["unix", "tls", "sentinel", "cluster", "valkey", "fake"]
)
def test_each_engine(
    request: pytest.FixtureRequest,
    engine: str,
    use: cabc.Callable[[Prefix], None],
    protocol: int,
    error: type[BaseException],
) -> None:
    """The same for the other engines, at some of the moments."""
    # Connecting takes long with TLS, and to a cluster's node.
    first, each = {"tls": (43, 7), "cluster": (11, 5)}.get(engine, (7, 2))
    step = first if use is log_in else each
    interrupt(make_prefix(request, engine, PROTOCOL=protocol), use, error, step)


@pytest.mark.untraced
@pytest.mark.parametrize(("protocol", "error"), PROTOCOLS)
@pytest.mark.parametrize("engine", ["server", "sentinel", "valkey", "fake"])
def test_watch(
    request: pytest.FixtureRequest,
    engine: str,
    protocol: int,
    error: type[BaseException],
) -> None:
    """An interrupted transaction leaves no WATCH to the next user of its connection."""
    prefix = make_prefix(request, engine, PROTOCOL=protocol, MAX_CONNECTIONS=2)
    numbers = itertools.count()

    def check() -> None:
        client = prefix.client
        client.set("watched", next(numbers))
        assert client.pipeline().get("a").execute() == [prefix.value("a")]
        prefix.check()

    check()
    moments = interrupt_everywhere(error, lambda: watch(prefix), check, step=5)
    assert moments > 20


@pytest.mark.untraced
@pytest.mark.filterwarnings("ignore:.*SINGLE_CONNECTION_CLIENT:UserWarning")
@pytest.mark.parametrize(("protocol", "error"), PROTOCOLS)
@pytest.mark.parametrize("is_single", [False, True])
@pytest.mark.parametrize("engine", ["server", "sentinel", "valkey", "fake"])
def test_client_with_a_connection(
    request: pytest.FixtureRequest,
    engine: str,
    is_single: bool,
    protocol: int,
    error: type[BaseException],
) -> None:
    """A client that keeps its connection does not take a reply that it has not read for
    that of the next command.
    """
    config = {"SINGLE_CONNECTION_CLIENT": True} if is_single else {}
    prefix = make_prefix(request, engine, PROTOCOL=protocol, **config)
    client = prefix.client if is_single else prefix.client.client()

    def use() -> None:
        assert client.get("own") == prefix.value("own")

    def check() -> None:
        for key in KEYS[1:]:
            assert client.get(key) == prefix.value(key)

    check()
    step = 1 if engine == "server" else 3
    assert interrupt_everywhere(error, use, check, step=step) > 30 / step
    client.close()


@pytest.mark.untraced
@pytest.mark.parametrize(("protocol", "error"), PROTOCOLS)
@pytest.mark.parametrize("engine", ["server", "sentinel", "valkey", "fake"])
def test_watch_that_goes_on(
    request: pytest.FixtureRequest,
    engine: str,
    protocol: int,
    error: type[BaseException],
) -> None:
    """If a pipeline goes on after an interruption, it gets its own replies, and does
    not ignore that a key was changed that it has watched.
    """
    prefix = make_prefix(request, engine, PROTOCOL=protocol, MAX_CONNECTIONS=2)
    numbers = itertools.count()
    commands = prefix.client.pipeline()

    def prepare() -> None:
        commands.reset()
        commands.watch("watched")

    def use() -> None:
        assert commands.get("own") == prefix.value("own")

    def check() -> None:
        prefix.client.set("watched", next(numbers))

        with pytest.raises((redis.WatchError, valkey.WatchError)):
            assert commands.get("a") == prefix.value("a")
            commands.multi()
            commands.get("own").execute()

        # Its connection is in the right state.
        assert commands.get("b").execute() == [prefix.value("b")]

    moments = interrupt_everywhere(error, use, check, prepare=prepare, step=5)
    assert moments > 6
    prefix.check()


@pytest.mark.parametrize(("protocol", "error"), PROTOCOLS)
@pytest.mark.parametrize("engine", ["server", "valkey", "fake"])
def test_subscription(
    request: pytest.FixtureRequest,
    engine: str,
    protocol: int,
    error: type[BaseException],
) -> None:
    """An interrupted subscription is not left to the next user of its connection."""
    prefix = make_prefix(request, engine, PROTOCOL=protocol)

    interrupt(prefix, subscribe, error, step=5)


class Alarm:
    """Raises an error in the main thread, as a job's time limit does, once the server
    has got the command whose reply is late.
    """

    def __init__(self, error: type[BaseException], slow: Scripted) -> None:
        self.error = error
        self.slow = slow

    def _raise(self, *args: object) -> None:
        raise self.error

    def _wait(self, delayed: int) -> None:
        wait_until(lambda: self.slow.delayed > delayed, "the server got the command")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    def __enter__(self) -> None:
        self._handler = signal.signal(signal.SIGALRM, self._raise)
        self._thread = threading.Thread(target=self._wait, args=[self.slow.delayed])
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._thread.join()
        signal.signal(signal.SIGALRM, self._handler)


@pytest.fixture
def slow(scripted: Scripted) -> Scripted:
    """A server that requires a login. Tests make it answer late."""
    scripted.users = {USER: PASSWORD}
    return scripted


def make_slow(slow: Scripted, protocol: int, library: str) -> t.Any:
    """A client of the server that answers late."""
    prefix = Prefix(
        URL=f"{slow.url}/{DATABASE}",
        USERNAME=USER,
        PASSWORD=PASSWORD,
        PROTOCOL=protocol,
        CLASS={"redis": "redis.Redis", "valkey": "valkey.Valkey"}[library],
    )
    return prefix.client


def wait_for_late(slow: Scripted, count: int) -> None:
    wait_until(lambda: slow.late > count, "the late reply was sent")


def check_slow(client: t.Any) -> None:
    for key in KEYS:
        assert client.get(key) == f"{DATABASE} {USER} {key}".encode()


@pytest.mark.skipif(
    not hasattr(signal, "pthread_kill"), reason="Windows has no signals for threads."
)
@pytest.mark.parametrize(("protocol", "error"), PROTOCOLS)
@pytest.mark.parametrize("library", ["redis", "valkey"])
@pytest.mark.parametrize(
    "command", [b"GET", b"EXEC", b"pipeline", b"SELECT", b"HELLO", b"AUTH"]
)
def test_late_reply(
    slow: Scripted,
    command: bytes,
    library: str,
    protocol: int,
    error: type[BaseException],
) -> None:
    """A reply that arrives after the interruption is not taken for that of the next
    command: neither if that one is sent before it arrives, nor after.
    """
    if command == (b"AUTH" if protocol == 3 else b"HELLO"):
        pytest.skip("This protocol logs in with another command.")

    client = make_slow(slow, protocol, library)
    use: cabc.Callable[[], t.Any] = lambda: client.get("own")  # noqa: E731

    if command in (b"EXEC", b"pipeline"):
        commands = client.pipeline(transaction=command == b"EXEC")
        use = commands.get("own").get("other").execute

    if command in (b"GET", b"EXEC", b"pipeline"):
        check_slow(client)

    for wait in (False, True):
        late = slow.late
        slow.plan(command if command != b"pipeline" else b"GET", 0.3)

        if command not in (b"GET", b"EXEC", b"pipeline"):
            client.connection_pool.disconnect()

        with pytest.raises(error), Alarm(error, slow):
            use()

        if wait:
            wait_for_late(slow, late)
            time.sleep(0.05)

        check_slow(client)
        wait_for_late(slow, late)
        check_slow(client)

        if command in (b"EXEC", b"pipeline"):
            use = client.pipeline().get("own").get("other").execute


def raise_interrupted(*args: object, **options: object) -> None:
    raise Interrupted


@pytest.mark.untraced
@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    "engine", ["server", "unix", "tls", "sentinel", "cluster", "valkey", "fake"]
)
def test_callback_raises(
    request: pytest.FixtureRequest, engine: str, protocol: int, transaction: bool
) -> None:
    """If a response callback raises inside a pipeline, the replies that were not read
    are not taken for those of later commands.
    """
    prefix = make_prefix(request, engine, PROTOCOL=protocol)
    client = prefix.client
    prefix.check()
    client.set_response_callback("STRLEN", raise_interrupted)

    for number in range(5):
        commands = client.pipeline(transaction=transaction)
        commands.get("own").strlen("own")

        for _ in range(number):
            commands.get("own")

        with pytest.raises(Interrupted):
            commands.execute()

        prefix.check()
