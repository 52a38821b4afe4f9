from __future__ import annotations

import collections
import collections.abc as cabc
import contextlib
import gc
import os
import signal
import threading
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import valkey
from flask import Flask

from flask_and_redis import current_redis
from flask_and_redis import RedisManager
from flask_and_redis.deadline.deadline import Deadline
from flask_and_redis.engines import adoption
from flask_and_redis.engines.adoption import _renew_locks
from flask_and_redis.engines.internals.pools import list_connections

from .objects import deadline_of
from .prefixes import make_prefix
from .servers import Server

NAME = "concurrent"


@pytest.fixture
def small_pool(app: Flask, server: Server) -> Flask:
    """An app whose pool has fewer connections than these tests have threads."""
    app.config.update(
        REDIS_URL=server.url, REDIS_MAX_CONNECTIONS=8, REDIS_CLIENT_NAME=NAME
    )
    # 64 threads take turns, and some wait long on a busy machine.
    app.config["REDIS_RETRY_DEADLINE"] = 30
    RedisManager(app)
    return app


def count_connections(server: Server) -> int:
    with server.admin() as admin:
        return [connection["name"] for connection in admin.client_list()].count(NAME)


@pytest.mark.untraced
def test_64_threads_on_8_connections(small_pool: Flask, server: Server) -> None:
    """64 threads start together and create the client with their first command. Each
    gets its own replies, over no more than the 8 connections of the pool.
    """
    together = threading.Barrier(64)

    def use(number: int) -> list[str]:
        together.wait()
        wrong = []

        for turn in range(8):
            token = f"{number}-{turn}"

            with small_pool.app_context():
                current_redis.set(token, token)
                value: t.Any = current_redis.get(token)

                # Nested contexts in one thread do not affect each other.
                with small_pool.app_context():
                    pipe: t.Any = current_redis.pipeline()
                    replies = pipe.echo(token).get(token).execute()

            if {value, *replies} != {token.encode()}:
                wrong.append(token)

        return wrong

    with ThreadPoolExecutor(64) as threads:
        assert list(threads.map(use, range(64))) == [[]] * 64

    assert 1 <= count_connections(server) <= 8


@pytest.mark.untraced
@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system cannot fork.")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_fork_while_threads_are_busy(small_pool: Flask) -> None:
    """After a fork, parent and child never get each other's replies. The child does not
    wait for threads that exist only in the parent.
    """
    client: t.Any = small_pool.extensions["redis"]["REDIS"]
    done = threading.Event()

    def use(name: str) -> bool:
        return all(
            client.echo(f"{name}-{turn}") == f"{name}-{turn}".encode()
            for turn in range(20)
        )

    def keep_using(number: int) -> bool:
        right = True

        while not done.is_set():
            right = use(f"parent-{number}") and right

        return right

    with ThreadPoolExecutor(16) as threads:
        futures = [threads.submit(keep_using, number) for number in range(16)]
        children = []

        for _ in range(10):
            time.sleep(0.02)

            if not (pid := os.fork()):
                right = False

                try:
                    right = use(f"child-{os.getpid()}")
                finally:
                    os._exit(0 if right else 1)

            children.append(pid)

        statuses = [os.waitpid(pid, 0)[1] for pid in children]
        done.set()
        assert statuses == [0] * 10
        assert all(future.result() for future in futures)


def find_locks(client: t.Any) -> list[t.Any]:
    """The locks of a client, of its node manager, and of its servers' and sentinels'
    pools.
    """
    pools = deadline_of(client).engine.pools(client)
    manager = getattr(pools[0], "sentinel_manager", None)
    sentinels = [node.connection_pool for node in getattr(manager, "sentinels", [])]
    owners = [client, getattr(client, "nodes_manager", None), *pools, *sentinels]
    kinds = (type(threading.Lock()), type(threading.RLock()))
    attributes = [
        value for owner in filter(None, owners) for value in vars(owner).values()
    ]
    return [value for value in attributes if isinstance(value, kinds)]


@contextlib.contextmanager
def hold(locks: list[t.Any]) -> cabc.Iterator[None]:
    """Hold locks in another thread."""
    held, done = threading.Event(), threading.Event()

    def wait() -> None:
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)

            held.set()
            done.wait()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(wait)
        held.wait()

        try:
            yield
        finally:
            done.set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system cannot fork.")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("engine", ["server", "blocking", "cluster", "sentinels"])
def test_fork_while_locks_are_held(
    app: Flask, engine: str, request: pytest.FixtureRequest
) -> None:
    """A forked child does not wait for client locks held by a thread of the parent."""
    servers = request.getfixturevalue("server" if engine == "blocking" else engine)
    forms = {
        "cluster": "redis+cluster://{}",
        "sentinels": "redis+sentinel://{}/mymaster",
    }
    app.config["REDIS_URL"] = forms.get(engine, "redis://{}").format(servers.address)

    if engine == "blocking":
        app.config["REDIS_CONNECTION_POOL_CLASS"] = "redis.BlockingConnectionPool"

    RedisManager(app)
    client: t.Any = app.extensions["redis"]["REDIS"]
    assert client.set("k", "v")
    locks = find_locks(client)
    assert locks

    with hold(locks):
        if not (pid := os.fork()):
            # Ends the child if it hangs.
            signal.alarm(10)
            right = False

            try:
                right = client.get("k") == b"v"
            finally:
                os._exit(0 if right else 1)

        assert os.waitpid(pid, 0)[1] == 0
        # In this process, too, the client works once its locks are replaced.
        _renew_locks()
        assert client.get("k") == b"v"


def make(**config: t.Any) -> t.Any:
    """The client of prefix REDIS with these settings."""
    app = Flask("forked")
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})
    RedisManager(app)
    return app.extensions["redis"]["REDIS"]


def in_child(function: cabc.Callable[[], object]) -> str:
    """The name of the class of what a function returns or raises in a forked child."""
    reads, writes = os.pipe()

    if not (pid := os.fork()):
        # Ends the child if it hangs. pytest-timeout has a handler of its own.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        result: object = None

        try:
            result = function()
        except BaseException as error:
            # pytest's own exceptions are no Exception.
            result = error
        finally:
            os.write(writes, type(result).__name__.encode())
            os._exit(0)

    os.close(writes)

    with open(reads) as pipe:
        name = pipe.read()

    assert os.waitpid(pid, 0)[1] == 0
    return name


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system cannot fork.")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
@pytest.mark.untraced
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    ("engine", "pool_class"),
    [
        ("server", None),
        ("server", "redis.BlockingConnectionPool"),
        ("unix", None),
        ("tls", None),
        ("sentinel", None),
        ("valkey", None),
        ("valkey", "valkey.BlockingConnectionPool"),
    ],
)
def test_fork_while_keys_are_watched(
    request: pytest.FixtureRequest,
    engine: str,
    pool_class: str | None,
    protocol: int,
) -> None:
    """A forked child cannot end or change a transaction of its parent."""
    prefix = make_prefix(
        request, engine, PROTOCOL=protocol, CONNECTION_POOL_CLASS=pool_class
    )
    transaction = prefix.client.pipeline()

    def execute() -> t.Any:
        transaction.multi()
        return transaction.set("own", "child").execute()

    with transaction:
        transaction.watch("a")
        assert in_child(transaction.reset) == "NoneType"
        assert in_child(execute) == "ConnectionError"
        assert in_child(lambda: prefix.client.get("a")) == "bytes"
        # The watch is still there, and the replies are its own.
        assert transaction.get("own") == prefix.value("own")
        assert in_child(lambda: prefix.client.set("a", "changed")) == "bool"
        transaction.multi()

        with pytest.raises((redis.WatchError, valkey.WatchError)):
            transaction.get("a").execute()

    prefix.client.set("a", prefix.value("a"))
    prefix.check()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system cannot fork.")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
@pytest.mark.untraced
def test_fork_with_subscriptions(server: Server) -> None:
    """A forked child does not take the messages of its parent's subscriber. Its own
    first read fails, and the next one subscribes again.
    """
    client = make(URL=server.url)

    with client.pubsub() as pubsub, server.admin() as admin:
        pubsub.subscribe("news")
        assert pubsub.get_message(timeout=5)["type"] == "subscribe"

        def read() -> object:
            with pytest.raises(redis.ConnectionError):
                pubsub.get_message(timeout=5)

            return pubsub.get_message(timeout=5)

        assert in_child(read) == "dict"
        admin.publish("news", "hello")
        assert pubsub.get_message(timeout=5)["data"] == b"hello"


class Fixed(redis.ConnectionPool):
    """A pool of the application that does not let its connections be adopted."""

    connection_class = property(lambda _: redis.Connection, lambda *_: None)


def test_inherited_connections(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a forked child does: it closes all inherited connections, except those of
    another class.
    """
    clients = [
        make(CONNECTION_POOL=Fixed(port=server.port)),
        make(URL="fakeredis://"),
        make(URL=server.url, CONNECTION_POOL_CLASS="redis.BlockingConnectionPool"),
        make(URL=server.url),
    ]
    connections = []

    for client in clients:
        client.get("key")
        connections += list_connections(client.connection_pool)

    monkeypatch.setattr(
        adoption,
        "_clients",
        {client: lambda client: [client.connection_pool] for client in clients},
    )
    adoption._close_inherited()
    others, fake, *ours = connections
    assert others._sock.fileno() >= 0
    assert fake._sock is not None
    assert {each._sock.fileno() for each in ours} == {-1}

    for client in clients:
        assert client.get("key") is None


@pytest.mark.untraced
def test_1000_apps(server: Server) -> None:
    """Apps that are created, used and dropped leave no connection, thread or object
    behind.
    """
    threads = threading.active_count()
    kinds = (Flask, redis.Redis, redis.ConnectionPool, redis.Connection, Deadline)
    manager = RedisManager()

    def count_objects() -> collections.Counter[str]:
        # Collecting a client also closes its pool, which frees more objects.
        while gc.collect():
            pass

        return collections.Counter(
            kind.__name__
            for candidate in gc.get_objects()
            for kind in kinds
            if type(candidate) is kind
        )

    def use_one() -> None:
        app = Flask("dropped")
        app.config.update(REDIS_URL=server.url, REDIS_CLIENT_NAME=NAME)
        manager.init_app(app)

        with app.app_context():
            assert current_redis.ping()

    # The first app creates objects that are kept, such as types.
    use_one()
    before = count_objects()

    for _ in range(1000):
        use_one()

    # Objects of earlier tests may have gone meanwhile.
    assert count_objects() <= before
    assert threading.active_count() <= threads
    deadline = time.monotonic() + 5

    # The server needs a moment to notice that the connections are closed.
    while count_connections(server) and time.monotonic() < deadline:
        time.sleep(0.01)

    assert count_connections(server) == 0
