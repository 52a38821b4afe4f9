from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import threading
import time
import types
import typing as t
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from flask import Flask
from redis.credentials import StreamingCredentialProvider
from redis.event import EventDispatcher

import flask_and_redis
from flask_and_redis import Redis
from flask_and_redis import RedisManager
from flask_and_redis import UnknownPrefixError

from .conftest import Starter
from .servers import Server


class Slow(redis.Redis):
    """A client class that is slow to create and records each time it is created."""

    made: t.ClassVar[list[str]] = []
    failures: t.ClassVar[list[BaseException]] = []

    def __init__(self, **kwargs: t.Any) -> None:
        self.made.append(kwargs["client_name"])
        time.sleep(0.1)

        if self.failures:
            raise self.failures.pop()

        super().__init__(**kwargs)


@pytest.fixture
def slow(app: Flask) -> t.Iterator[list[str]]:
    """Configures two prefixes with slow clients. Lists the created clients in order."""
    for prefix in ("REDIS", "REDIS2"):
        app.config[f"{prefix}_HOST"] = "h"
        app.config[f"{prefix}_CLASS"] = Slow
        app.config[f"{prefix}_CLIENT_NAME"] = prefix

    RedisManager(app)
    yield Slow.made
    Slow.made.clear()
    Slow.failures.clear()


def test_mapping(app: Flask) -> None:
    """The registry is a read-only mapping of prefixes to clients."""
    app.config.update(REDIS_URL="redis://h", CACHE_HOST="h", X_URL="http://h")
    RedisManager(app)
    registry = app.extensions["redis"]
    assert list(registry) == ["REDIS", "CACHE"]
    assert len(registry) == 2
    assert "REDIS" in registry
    assert "X" not in registry
    assert repr(registry) == "<Redis registry: REDIS, CACHE>"
    assert registry["REDIS"] is registry["REDIS"]
    assert dict(registry).keys() == {"REDIS", "CACHE"}
    assert registry.get("X") is None

    with pytest.raises(UnknownPrefixError):
        registry["X"]

    with pytest.raises(TypeError):
        registry["X"] = redis.Redis()


def test_created_on_first_use(app: Flask, slow: list[str]) -> None:
    """Inspecting the registry creates no client. A look-up creates only one client."""
    registry = app.extensions["redis"]
    assert (list(registry), len(registry)) == (["REDIS", "REDIS2"], 2)
    assert "REDIS" in registry
    assert slow == []
    assert registry["REDIS2"]
    assert slow == ["REDIS2"]


def test_created_once_by_many_threads(app: Flask, slow: list[str]) -> None:
    """64 threads that first use a prefix simultaneously share one pool."""
    barrier = threading.Barrier(64)

    def first_use(_: int) -> redis.ConnectionPool:
        barrier.wait()
        client: redis.Redis = app.extensions["redis"]["REDIS"]
        return client.connection_pool

    with ThreadPoolExecutor(64) as threads:
        pools = set(threads.map(first_use, range(64)))

    assert len(pools) == 1
    assert slow == ["REDIS"]


def test_prefixes_do_not_wait_for_each_other(app: Flask, slow: list[str]) -> None:
    """While one prefix's client is being created, another client can be created."""
    started = threading.Event()
    proceed = threading.Event()

    class Stuck(Slow):
        def __init__(self, **kwargs: t.Any) -> None:
            started.set()
            assert proceed.wait(10)
            super().__init__(**kwargs)

    app.config["REDIS3_HOST"] = "h"
    app.config["REDIS3_CLASS"] = Stuck
    app.config["REDIS3_CLIENT_NAME"] = "REDIS3"
    Redis(app, "REDIS3")

    with ThreadPoolExecutor(1) as threads:
        stuck = threads.submit(app.extensions["redis"].__getitem__, "REDIS3")
        assert started.wait(10)
        assert app.extensions["redis"]["REDIS2"]
        assert slow == ["REDIS2"]
        proceed.set()
        assert stuck.result() is app.extensions["redis"]["REDIS3"]


def test_failure_is_shared_and_not_kept(app: Flask, slow: list[str]) -> None:
    """Threads that wait for one attempt get its error. The next use tries again."""
    Slow.failures.append(OSError("first"))
    barrier = threading.Barrier(8)

    def first_use(_: int) -> str:
        barrier.wait()

        try:
            app.extensions["redis"]["REDIS"]
        except OSError as error:
            return str(error)

        return "made"

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(first_use, range(8)))

    assert outcomes == ["first"] * 8
    assert app.extensions["redis"]["REDIS"]
    assert slow == ["REDIS", "REDIS"]


def test_interruption_is_not_shared(app: Flask, slow: list[str]) -> None:
    """An interrupt affects only the thread that is creating the client. A waiting
    thread creates the client itself.
    """
    Slow.failures.append(KeyboardInterrupt())

    with ThreadPoolExecutor(1) as threads:
        interrupted = threads.submit(app.extensions["redis"].__getitem__, "REDIS")

        while not slow:
            time.sleep(0.001)

        assert app.extensions["redis"]["REDIS"]

        with pytest.raises(KeyboardInterrupt):
            interrupted.result()

    assert slow == ["REDIS", "REDIS"]


def test_attempt_of_a_moment_ago(app: Flask, slow: list[str]) -> None:
    """A thread that comes just after an attempt ended creates no second client."""
    registry = app.extensions["redis"]
    first = registry["REDIS"]

    class Forgetful(dict[str, redis.Redis]):
        """A cache whose first look-up misses, as if it was too early."""

        misses = 1

        def __getitem__(self, prefix: str) -> redis.Redis:
            if self.misses:
                self.misses -= 1
                raise KeyError(prefix)

            return super().__getitem__(prefix)

    registry.clients = Forgetful(registry.clients)
    assert registry["REDIS"] is first
    assert slow == ["REDIS"]


def test_asked_for_while_it_is_made(app: Flask) -> None:
    """If the constructor of a client class uses its own prefix, it raises an error
    instead of causing a deadlock.
    """

    class Circular(redis.Redis):
        def __init__(self, **kwargs: t.Any) -> None:
            app.extensions["redis"]["REDIS"]

    app.config.update(REDIS_HOST="h", REDIS_CLASS=Circular)
    RedisManager(app)

    with pytest.raises(RuntimeError, match="still being created by this thread"):
        app.extensions["redis"]["REDIS"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system cannot fork.")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_fork_during_creation(app: Flask, slow: list[str]) -> None:
    """A child process that was forked while a thread created a client
    creates its own.
    """
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(app.extensions["redis"].__getitem__, "REDIS")

        while not slow:
            time.sleep(0.001)

        pid = os.fork()

        if not pid:
            try:
                app.extensions["redis"]["REDIS"]
            finally:
                os._exit(0 if slow == ["REDIS", "REDIS"] else 1)

        assert running.result()

    assert os.waitpid(pid, 0)[1] == 0


def test_opens_no_socket(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """init_app and creating the clients open no socket and resolve no host name."""

    def refuse(*args: object, **kwargs: object) -> t.NoReturn:
        raise AssertionError("A socket was opened.")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    app.config.update(REDIS_URL="redis://h", X_URL="rediss://h", Y_URL="unix:///s")
    RedisManager(app)
    assert len(list(app.extensions["redis"].values())) == 3


@pytest.mark.slow
def test_imports_no_unused_library() -> None:
    """A client library is imported only if a prefix uses it."""
    code = """
import sys
from flask import Flask
from flask_and_redis import RedisManager
app = Flask("x")
app.config.update(REDIS_URL="redis://localhost", CACHE_HOST="localhost")
RedisManager(app)
app.extensions["redis"]["REDIS"]
print(sorted({"fakeredis", "lupa", "valkey"} & set(sys.modules)))
app = Flask("x")
app.config.update(REDIS_URL="fakeredis://")
RedisManager(app)
app.extensions["redis"]["REDIS"]
print("fakeredis" in sys.modules)
"""
    assert run(code) == ["[]", "True"]


@pytest.mark.slow
def test_imports_little() -> None:
    """Modules for health checks and the command line are imported only when needed.
    Their names can still be imported from the package.
    """
    code = """
import sys
from flask import Flask
import flask_and_redis
def tell():
    rarely_used = {"flask_and_redis.operate.cli", "flask_and_redis.operate.health"}
    print(sorted(rarely_used & set(sys.modules)))
app = Flask("x")
flask_and_redis.RedisManager(app)
tell()
from flask_and_redis import *
print(PingResult.__name__, PoolStats.__name__)
tell()
print(app.test_cli_runner().invoke(args=["redis", "list"]).exit_code)
tell()
"""
    assert run(code) == [
        "[]",
        "PingResult PoolStats",
        "['flask_and_redis.operate.health']",
        "0",
        "['flask_and_redis.operate.cli', 'flask_and_redis.operate.health']",
    ]

    with pytest.raises(AttributeError, match="'flask_and_redis' has no attribute 'X'"):
        flask_and_redis.X  # type: ignore[attr-defined] # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extension", "url"),
    [
        ("RedisManager(app)", "redis://127.0.0.1:1"),
        ("RedisManager(app)", "redis+cluster://127.0.0.1:1"),
        ("RedisManager(app)", "redis+sentinel://127.0.0.1:1/main"),
        ("RedisManager(app)", "fakeredis://"),
        ("Redis(app, 'X')", "redis://127.0.0.1:1"),
    ],
)
def test_imports_at_init_app(extension: str, url: str) -> None:
    """Few modules are imported with the package, and all others by init_app. None is
    imported by a command: a child that is forked meanwhile would wait for the module
    without end.
    """
    code = f"""
import asyncio
import contextlib
import sys
import redis
from flask import Flask
from flask_and_redis import Redis, RedisManager
def list_modules():
    return {{name for name in sys.modules if name.startswith("flask_and_redis.")}}
print(*sorted(list_modules()))
app = Flask("x")
app.config.update(X_URL="{url}", X_RETRY_DEADLINE=0.1)
{extension}
before = list_modules()
refused = redis.RedisError, redis.exceptions.RedisClusterException
def use():
    with contextlib.suppress(*refused):
        app.extensions["redis"]["X"].pipeline().get("k").execute()
async def use_async():
    with contextlib.suppress(*refused):
        async with app.extensions["redis"].open_async("X") as client:
            await client.pipeline().get("k").execute()
use()
asyncio.run(use_async())
print(len(before), *list_modules() - before)
"""
    at_import, later = run(code)
    modules = [
        *("exceptions", "manager", "proxy", "registry", "signals", "spec"),
        "spec.spec",
    ]
    assert at_import.split() == [f"flask_and_redis.{name}" for name in modules]
    assert int(later) > len(modules)


def run(code: str) -> list[str]:
    """Run code in a new Python process, and return the lines that it prints."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return result.stdout.splitlines()


@pytest.mark.skipif(
    not hasattr(redis.Connection, "is_connected"), reason="Before redis-py 8."
)
def test_connects_once(app: Flask, server: Server) -> None:
    """An open connection is not connected again before each command. A closed
    connection is. Classes look like redis-py's own.
    """
    called: list[str] = []

    def note(frame: types.FrameType, event: str, argument: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    app.config["REDIS_URL"] = server.url
    RedisManager(app)
    client = app.extensions["redis"]["REDIS"]
    pool = client.connection_pool
    assert issubclass(pool.connection_class, redis.Connection)
    assert "<redis.connection.Connection(" in repr(pool)
    assert repr(pool).startswith("<redis.connection.ConnectionPool(")
    counts = []

    for cut in (False, False, True):
        if cut:
            pool.disconnect()

        called.clear()
        sys.setprofile(note)

        try:
            assert client.get("k") is None
        finally:
            sys.setprofile(None)

        counts.append("_connect" in called)
        # Releasing the connection calls no event listener.
        assert "listen" not in called

    assert counts == [True, False, True]


def test_apps_are_forgotten(server: Server) -> None:
    """Deleting an app deletes its clients and closes their connections."""
    manager = RedisManager()
    apps = []

    for _ in range(20):
        app = Flask("dropped")
        app.config["REDIS_URL"] = server.url
        manager.init_app(app)

        # Two connections, one of which is never released and closed at once.
        client = app.extensions["redis"]["REDIS"]
        client.ping()
        client.connection_pool.get_connection()
        client.ping()
        apps.append(weakref.ref(app))

    assert server.count_clients() >= 1
    del app, client
    gc.collect()
    assert [reference for reference in apps if reference() is not None] == []
    deadline = time.monotonic() + 5

    while server.count_clients() and time.monotonic() < deadline:
        time.sleep(0.01)

    assert server.count_clients() == 0


@pytest.mark.parametrize("extension", [Redis, RedisManager])
def test_prefix_instead_of_an_app(extension: t.Any) -> None:
    """The error of a prefix in place of the app says how to name a prefix."""
    with pytest.raises(TypeError, match="Flask object. It is of type str. To name a"):
        extension("CACHE")

    with pytest.raises(TypeError, match="It is of type NoneType"):
        extension().init_app(None)


def test_second_manager(app: Flask) -> None:
    """An app can have only one manager."""
    app.config["REDIS_URL"] = "redis://h"
    RedisManager(app)

    with pytest.raises(RuntimeError, match="'tests' has a RedisManager already"):
        RedisManager(app)


def test_same_manager_again(app: Flask) -> None:
    """The error says that the same manager has the app already, and not another."""
    app.config["REDIS_URL"] = "redis://h"
    manager = RedisManager(app)

    with pytest.raises(RuntimeError) as info:
        manager.init_app(app)

    assert str(info.value) == (
        "init_app was called twice with the app 'tests'. Call it once:"
        " RedisManager(app) calls it, too."
    )


def test_manager_for_several_apps() -> None:
    """One manager can serve several apps, each with its own settings."""
    manager = RedisManager()
    apps = []

    for db in range(3):
        app = Flask(f"app{db}")
        app.config["REDIS_URL"] = f"redis://h/{db}"
        manager.init_app(app)
        apps.append(app)

    for db, app in enumerate(apps):
        with app.app_context():
            kwargs = manager.get().connection.connection_pool.connection_kwargs
            assert kwargs["db"] == db


class Streaming(StreamingCredentialProvider):
    """Sends the user name for the next login, which is also the password. As with
    redis-entraid, only the last listener receives it.
    """

    def __init__(self) -> None:
        self.user = "first"
        self.listener: t.Any = None

    def get_credentials(self) -> tuple[str, str]:
        return self.user, self.user

    def on_next(self, callback: t.Any) -> None:
        self.listener = callback

    def on_error(self, callback: t.Any) -> None:
        pass

    def is_streaming(self) -> bool:
        return True

    def send(self, user: str) -> None:
        self.user = user
        self.listener(types.SimpleNamespace(get_value=lambda: user))


@pytest.mark.parametrize("pool", [None, redis.ConnectionPool])
def test_streamed_credentials(app: Flask, start: Starter, pool: object) -> None:
    """When a provider sends a new password, connections are replaced by new ones before
    their next use.
    """
    server = start(Server)

    with server.admin() as admin:
        for user in ("first", "second"):
            admin.acl_setuser(
                user, enabled=True, passwords=[f"+{user}"], categories=["+@all"]
            )

    provider = Streaming()
    app.config.update(REDIS_URL=server.url, REDIS_CREDENTIAL_PROVIDER=provider)
    app.config["REDIS_CONNECTION_POOL_CLASS"] = pool
    RedisManager(app)
    client: t.Any = app.extensions["redis"]["REDIS"]
    idle, used = (client.connection_pool.get_connection() for _ in range(2))
    client.connection_pool.release(idle)
    assert client.acl_whoami() == "first"
    provider.send("second")
    client.connection_pool.release(used)

    for _ in range(2):
        connection = client.connection_pool.get_connection()
        connection.send_command("ACL", "WHOAMI")
        assert connection.read_response() == b"second"


def test_own_event_dispatcher(app: Flask, server: Server) -> None:
    """An application's own event dispatcher receives redis-py's events."""
    events: list[object] = []

    class Dispatcher(EventDispatcher):
        def dispatch(self, event: object) -> None:
            events.append(event)

    app.config.update(REDIS_URL=server.url, REDIS_EVENT_DISPATCHER=Dispatcher())
    RedisManager(app)
    assert app.extensions["redis"]["REDIS"].ping()
    (event,) = events
    assert type(event).__name__ == "AfterPooledConnectionsInstantiationEvent"
