"""Clients behave like those of redis-py: they can be copied, dropped, patched and
traced.
"""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import copy
import dataclasses
import gc
import threading
import typing as t
import weakref
from unittest import mock

import fakeredis
import pytest
import redis
import valkey
import valkey.sentinel
from flask import Flask

from flask_and_redis import current_redis
from flask_and_redis import Redis
from flask_and_redis import RedisManager

from .conftest import Starter
from .cutter import Cutter
from .objects import deadline_of
from .servers import Cluster
from .servers import Sentinels
from .servers import Server
from .servers import wait_until

Use = cabc.Callable[[t.Any], object]


def manage(**config: t.Any) -> tuple[Flask, RedisManager]:
    """An app with these settings of prefix REDIS."""
    app = Flask("clients")
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})
    return app, RedisManager(app)


def client_of(**config: t.Any) -> t.Any:
    """The client of prefix REDIS with these settings."""
    return manage(**config)[0].extensions["redis"]["REDIS"]


@pytest.fixture(params=["server", "valkey", "cluster", "sentinels", "fakeredis"])
def config(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings of each engine."""
    if request.param == "fakeredis":
        return {"URL": "fakeredis://"}

    if request.param == "valkey":
        server: Server = request.getfixturevalue("server")
        return {"URL": server.url, "CLASS": "valkey.Valkey"}

    if request.param == "cluster":
        cluster: Cluster = request.getfixturevalue("cluster")
        return {"URL": f"redis+cluster://{cluster.address}"}

    if request.param == "sentinels":
        sentinels: Sentinels = request.getfixturevalue("sentinels")
        return {"URL": f"redis+sentinel://{sentinels.address}/mymaster"}

    return {"URL": request.getfixturevalue("server").url}


def test_copy_runs_its_own_commands(server: Server) -> None:
    """A copy of a client uses its own pool, and not that of the original. It has the
    same deadline.
    """
    client = client_of(URL=f"{server.url}/1")
    other = copy.copy(client)
    other.connection_pool = redis.ConnectionPool.from_url(f"{server.url}/2")
    client.set("k", "one")
    other.set("k", "two")
    assert client.get("k") == b"one"
    assert other.pipeline().get("k").execute() == [b"two"]
    other.connection_pool.disconnect()

    with Cutter(server.port) as cutter:
        other.connection_pool = redis.ConnectionPool.from_url(cutter.url)
        cutter.lose(b"INCR")
        # The reply to the first attempt was lost.
        assert other.incr("n") == 2
        other.connection_pool.disconnect()


def test_closed_client_is_freed_at_once(config: dict[str, str]) -> None:
    """Nothing but the registry refers to a client, so that closing frees it, without
    help of the garbage collector.
    """
    app, manager = manage(**config)
    client = app.extensions["redis"]["REDIS"]
    client.set("k", "v")
    client.pipeline().get("k").execute()
    reference = weakref.ref(client)
    gc.disable()

    try:
        with app.app_context():
            manager.close()

        del client
        # A cluster's client of redis-py refers to itself.
        assert reference() is None or isinstance(reference(), redis.RedisCluster)
    finally:
        gc.enable()


def record_commands(
    monkeypatch: pytest.MonkeyPatch, cls: type[t.Any], method: str
) -> list[object]:
    """Replace a method of a class as tracing libraries do. Return what it records."""
    recorded: list[object] = []
    original = getattr(cls, method)

    def traced(self: t.Any, *args: t.Any, **kwargs: t.Any) -> t.Any:
        recorded.append(args[0] if args else method)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(cls, method, traced)
    return recorded


@pytest.mark.parametrize(
    ("extra", "cls", "pipeline_class"),
    [
        ({}, redis.Redis, redis.client.Pipeline),
        ({"CLASS": "valkey.Valkey"}, valkey.Valkey, valkey.client.Pipeline),
    ],
)
def test_tracing_may_start_late(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    extra: dict[str, str],
    cls: type,
    pipeline_class: type,
) -> None:
    """Methods of redis-py's classes can be replaced after a client was created, as
    tracing does. Every attempt is seen.
    """
    with Cutter(server.port) as cutter:
        client = client_of(URL=cutter.url, **extra)
        client.ping()
        commands = record_commands(monkeypatch, cls, "execute_command")
        executions = record_commands(monkeypatch, pipeline_class, "execute")
        cutter.lose(b"INCR")
        client.incr("k")
        cutter.lose(b"INCR")
        client.pipeline().incr("k").execute()
        assert commands == ["INCRBY", "INCRBY"]
        assert executions == ["execute", "execute"]
        monkeypatch.undo()
        assert client.incr("k") == 5
        assert len(commands) == 2
        client.connection_pool.disconnect()


def test_tracing_of_a_cluster(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same holds for a cluster's client."""
    client = client_of(URL=f"redis+cluster://{cluster.address}")
    commands = record_commands(monkeypatch, redis.RedisCluster, "execute_command")
    client.set("k", "v")
    assert commands == ["SET"]


def test_mock_of_a_method(server: Server) -> None:
    """A method of a client can be replaced by a mock, and is restored."""
    client = client_of(URL=server.url)

    with mock.patch.object(client, "execute_command", return_value=b"mocked"):
        assert client.get("k") == b"mocked"

    assert client.get("k") is None
    assert "execute_command" not in vars(client)


def test_class_of_a_client(config: dict[str, str]) -> None:
    """A client is an instance of the class in the settings, and looks like one."""
    app, _ = manage(**config)

    with app.app_context():
        expected = current_redis.__class__
        client = current_redis.connection
        assert isinstance(client, expected)
        assert current_redis.__class__ is expected
        assert type(client).__name__ == expected.__name__
        assert type(client).__module__ == expected.__module__
        # Created once.
        assert type(client) is type(client_of(**config))


POOLS: dict[str, tuple[type[t.Any], str]] = {
    "plain": (redis.ConnectionPool, "redis.Redis"),
    "blocking": (redis.BlockingConnectionPool, "redis.Redis"),
    "valkey": (valkey.ConnectionPool, "valkey.Valkey"),
}


@pytest.mark.parametrize("kind", POOLS)
def test_retry_0_with_a_pool_of_the_application(own_server: Server, kind: str) -> None:
    """With RETRY = 0 connecting is retried with a pool of the application too. What was
    sent is not retried.
    """
    pool_class, client_class = POOLS[kind]

    with Cutter(own_server.port) as cutter:
        pool = pool_class(host="127.0.0.1", port=cutter.server_address[1])
        client = client_of(CONNECTION_POOL=pool, CLASS=client_class, RETRY=0)
        cutter.lose(b"INCR")

        with pytest.raises((redis.ConnectionError, valkey.ConnectionError)):
            client.incr("k")

        assert client.get("k") == b"1"
        pool.disconnect()

    pool = pool_class(host="127.0.0.1", port=own_server.port)
    client = client_of(CONNECTION_POOL=pool, CLASS=client_class, RETRY=0)
    client.ping()
    own_server.stop()

    with own_server.starting_soon():
        assert client.incr("k") == 1
    pool.disconnect()


def test_retry_0_in_asyncio(server: Server, own_server: Server) -> None:
    """Asynchronous clients as well retry connecting, but not what was sent."""
    app, manager = manage(URL=own_server.url, RETRY=0)

    async def use() -> None:
        async with manager.get_async() as client:
            own_server.stop()

            with own_server.starting_soon():
                assert await client.incr("k") == 1

    with Cutter(server.port) as cutter:
        cut_app, cut_manager = manage(URL=cutter.url, RETRY=0)

        async def lose() -> None:
            async with cut_manager.get_async() as client:
                cutter.lose(b"INCR")

                with pytest.raises(redis.ConnectionError):
                    await client.incr("k")

                assert await client.get("k") == b"1"

        with app.app_context():
            asyncio.run(use())

        with cut_app.app_context():
            asyncio.run(lose())


def test_retry_0_after_an_idle_connection_was_lost(
    own_server: Server,
) -> None:
    """If a restart has closed the idle connections of the pool, nothing was sent, and
    connecting is retried.
    """
    client = client_of(URL=own_server.url, RETRY=0)
    client.ping()
    own_server.stop()

    with own_server.starting_soon():
        assert client.incr("k") == 1


def test_pool_with_a_function_for_connections(server: Server) -> None:
    """A pool of the application may create its connections with a function."""

    def connect(**kwargs: t.Any) -> redis.Connection:
        connection_class: t.Any = redis.Connection
        return t.cast(redis.Connection, connection_class(**kwargs))

    pool = redis.ConnectionPool(
        connection_class=connect,
        host="127.0.0.1",
        port=server.port,
    )
    assert client_of(CONNECTION_POOL=pool).ping()
    assert pool.connection_class is connect
    pool.disconnect()


def test_class_of_connections(server: Server) -> None:
    """The address determines it, and no setting of a pool's class does."""
    unused = "'REDIS_CONNECTION_CLASS' is not used"

    with pytest.warns(UserWarning, match=unused):
        client = client_of(
            URL=server.url,
            CONNECTION_POOL_CLASS=redis.ConnectionPool,
            CONNECTION_CLASS=redis.SSLConnection,
        )

    assert client.ping()


@pytest.mark.parametrize("name", ["get_connection", "release"])
def test_pool_class_with_one_own_method(server: Server, name: str) -> None:
    """A method of the application's pool class is called each time, whichever it is."""
    calls = []

    def count(self: object, *args: t.Any, **options: t.Any) -> t.Any:
        calls.append(name)
        return getattr(redis.ConnectionPool, name)(self, *args, **options)

    pool_class = type("OneMethod", (redis.ConnectionPool,), {name: count})
    client = client_of(URL=server.url, CONNECTION_POOL_CLASS=pool_class)
    assert client.ping() and client.ping()
    assert len(calls) == 2


def test_client_without_pipelines(server: Server) -> None:
    """A class that has no pipelines gets none, and one that delegates still does."""

    class Minimal:
        def __init__(self, host: str, port: int) -> None:
            self.port = port

        def execute_command(self, *args: str) -> str:
            return " ".join(args)

    client = client_of(HOST="h", PORT="1", CLASS=Minimal)
    assert client.execute_command("PING", "x") == "PING x"
    assert not hasattr(client, "pipeline")

    class Delegating(Minimal):
        def __init__(self, host: str, port: int) -> None:
            self.inner = redis.Redis(host=host, port=port)

        def __getattr__(self, name: str) -> t.Any:
            return getattr(self.inner, name)

    client = client_of(HOST="127.0.0.1", PORT=server.port, CLASS=Delegating)
    assert client.pipeline().set("k", "v").execute() == [True]
    client.inner.close()


def test_pipeline_of_a_mock(server: Server) -> None:
    """A test may replace ``pipeline`` by anything."""
    client = client_of(URL=server.url)

    with mock.patch.object(redis.Redis, "pipeline", return_value="fake"):
        assert client.pipeline() == "fake"


def test_retry_0_with_connections_of_the_application(
    own_server: Server,
) -> None:
    """A pool of the application may have connections already."""
    pool = redis.ConnectionPool(host="127.0.0.1", port=own_server.port)
    assert redis.Redis(connection_pool=pool).ping()
    client = client_of(CONNECTION_POOL=pool, RETRY=0)
    client.ping()
    own_server.stop()

    with own_server.starting_soon():
        assert client.incr("k") == 1
    pool.disconnect()


def test_pool_that_allows_no_change(server: Server) -> None:
    """A pool of the application may have a fixed connection class."""

    class Fixed(redis.ConnectionPool):
        connection_class: t.Any = property(lambda self: redis.Connection)

        def __init__(self, **kwargs: t.Any) -> None:
            self.options = kwargs

        def get_connection(self, *args: t.Any) -> t.Any:
            connection: t.Any = redis.Connection
            return connection(**self.options)

        def release(self, connection: t.Any) -> None:
            connection.disconnect()

        def disconnect(self, inuse_connections: bool = True) -> None:
            pass

    pool = Fixed(host="127.0.0.1", port=server.port)
    pool.connection_kwargs = {}
    pool.max_connections = 1
    assert client_of(CONNECTION_POOL=pool, SINGLE_CONNECTION_CLIENT=False).ping()


def test_close_does_not_interrupt(server: Server) -> None:
    """Closing, which drops the client, does not interrupt what uses its pool."""
    app, manager = manage(URL=server.url)

    with app.app_context():
        pubsub: t.Any = t.cast(t.Any, current_redis).pubsub()
        pubsub.subscribe("c")
        assert pubsub.get_message(timeout=1)
        other = copy.copy(current_redis.connection)
        assert other.ping()
        manager.close()
        current_redis.publish("c", "text")
        message = pubsub.get_message(timeout=1)
        assert message is not None and message["data"] == b"text"
        assert other.ping()
        pubsub.close()


def test_dropped_client_closes_idle_connections(start: Starter) -> None:
    """If something else still uses the pool of a client that is dropped, the idle
    connections of the pool are closed.
    """
    server = start(Server)
    client = client_of(URL=server.url)
    pubsub = client.pubsub()
    pubsub.subscribe("c")
    assert pubsub.get_message(timeout=5)
    client.ping()
    assert server.count_clients() == 2
    del client
    gc.collect()
    wait_until(lambda: server.count_clients() == 1, "the idle connection is closed")
    pubsub.close()


class Flaky(redis.CredentialProvider):
    """Credentials whose source cannot be reached at first."""

    def __init__(self, error: BaseException) -> None:
        self.errors = [error]

    def get_credentials(self) -> tuple[str, str]:
        if self.errors:
            raise self.errors.pop()

        return "ada", "secret"


class Interruption(BaseException):
    """What a time limit might raise."""


class OwnPool:
    """A pool that derives from no library's, with a single connection."""

    connection_class: type[t.Any] = redis.Connection

    def __init__(self, **kwargs: t.Any) -> None:
        self.connection_kwargs = kwargs
        self._made: list[t.Any] = []

    def get_connection(self, *args: object) -> t.Any:
        if not self._made:
            self._made.append(self.connection_class(**self.connection_kwargs))

        self._made[0].connect()
        return self._made[0]

    def release(self, connection: object) -> None:
        pass

    def disconnect(self, inuse_connections: bool = True) -> None:
        for connection in self._made:
            connection.disconnect()


class HasOwnPool(redis.Redis):
    """A client class with a pool of the application."""

    def __init__(self, **kwargs: t.Any) -> None:
        super().__init__(connection_pool=t.cast(t.Any, OwnPool(**kwargs)))


WHOLE: dict[str, dict[str, t.Any]] = {
    "plain": {},
    "client with its own pool": {"CLASS": HasOwnPool},
    "blocking": {"CONNECTION_POOL_CLASS": redis.BlockingConnectionPool},
    "valkey": {"CLASS": "valkey.Valkey"},
    "pool of the application": {},
}


@pytest.fixture
def ada(server: Server) -> t.Iterator[str]:
    """The address of a server with a user who has a password."""
    with server.admin() as admin:
        admin.acl_setuser("ada", True, passwords=["+secret"], commands=["+@all"])
        yield server.address
        admin.acl_deluser("ada")


@pytest.mark.parametrize("error", [OSError("no route"), Interruption("time is up")])
@pytest.mark.parametrize("kind", WHOLE)
def test_no_command_without_login(ada: str, kind: str, error: BaseException) -> None:
    """If the credential provider fails while a connection is opened, the connection is
    not used: the next command logs in, and uses the right database.
    """
    config = {"URL": f"redis://{ada}/5", "CREDENTIAL_PROVIDER": Flaky(error)}

    if kind == "pool of the application":
        url = config.pop("URL")
        pool = redis.ConnectionPool.from_url(
            str(url), credential_provider=config.pop("CREDENTIAL_PROVIDER")
        )
        config["CONNECTION_POOL"] = pool
    else:
        config |= WHOLE[kind]

    client = client_of(**config)

    with pytest.raises(type(error)):
        client.ping()

    assert client.acl_whoami() in ("ada", b"ada")
    assert "db=5" in str(client.execute_command("CLIENT", "INFO"))
    client.connection_pool.disconnect()


@pytest.mark.parametrize("error", [OSError("no route"), Interruption("time is up")])
def test_no_command_without_login_in_asyncio(ada: str, error: BaseException) -> None:
    """The same holds for an asynchronous client."""
    app, manager = manage(URL=f"redis://{ada}/5", CREDENTIAL_PROVIDER=Flaky(error))

    async def use() -> None:
        async with manager.get_async() as client:
            with pytest.raises(type(error)):
                await client.ping()

            assert await client.acl_whoami() == "ada"
            info: t.Any = await t.cast(t.Any, client).client_info()
            assert int(info["db"]) == 5

    with app.app_context():
        asyncio.run(use())


def test_no_command_without_login_behind_sentinels(sentinels: Sentinels) -> None:
    """The same holds for a server behind sentinels."""
    with sentinels.master().admin() as admin:
        admin.acl_setuser("ada", True, passwords=["+secret"], commands=["+@all"])

    client = client_of(
        URL=f"redis+sentinel://{sentinels.address}/mymaster/5",
        CREDENTIAL_PROVIDER=Flaky(OSError("no route")),
    )

    with pytest.raises(OSError, match="no route"):
        client.ping()

    assert client.acl_whoami() == "ada"
    assert client.client_info()["db"] == 5


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """An error that refuses attributes."""

    code: int = 1


def test_no_command_without_login_after_a_frozen_error(ada: str) -> None:
    """The error may be of any kind, and the next command logs in."""
    provider = Flaky(Frozen())
    client = client_of(URL=f"redis://{ada}/5", CREDENTIAL_PROVIDER=provider)

    # The exception's own class refuses the traceback that Python sets.
    with pytest.raises((Frozen, dataclasses.FrozenInstanceError)):
        client.ping()

    assert client.acl_whoami() == "ada"


@pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey", "valkeys"])
def test_tls_of_a_cluster_class(scheme: str) -> None:
    """With the class of a cluster, the scheme still turns TLS on."""
    app, _ = manage(URL=f"{scheme}://h:7000", CLASS="redis.RedisCluster")
    spec = app.extensions["redis"].get_spec("REDIS")
    assert spec.arguments.get("ssl", False) == (scheme in ("rediss", "valkeys"))
    assert (spec.arguments["host"], spec.arguments["port"]) == ("h", 7000)
    assert spec.engine.scheme_name(spec) == "redis+cluster"


def test_only_a_pool_is_full(server: Server) -> None:
    """An error of the application is not taken for that of a full pool."""
    calls = []

    class Busy(redis.Redis):
        def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
            calls.append(args)
            raise RuntimeError("Too many connections")

    with pytest.raises(RuntimeError, match="^Too many connections$"):
        client_of(URL=server.url, CLASS=Busy).get("k")

    assert len(calls) == 1


def test_full_pool_of_a_node_with_retry_0(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command for several nodes may have run on one of them before the pool of
    another one was full. With RETRY = 0 it is not repeated.
    """
    client = client_of(URL=f"redis+cluster://{cluster.address}", RETRY=0)
    calls = record_commands(monkeypatch, redis.RedisCluster, "execute_command")
    node = client.get_primaries()[-1]
    pool = client.get_redis_connection(node).connection_pool

    def refuse(*args: object) -> t.NoReturn:
        raise redis.exceptions.MaxConnectionsError("Too many connections")

    monkeypatch.setattr(pool, "get_connection", refuse)

    with pytest.raises(redis.exceptions.MaxConnectionsError):
        client.flushall()

    assert calls == ["FLUSHALL"]


def test_full_pool_with_retry_0(server: Server) -> None:
    """With RETRY = 0 a command of a single server waits for a connection."""
    client = client_of(URL=server.url, RETRY=0, MAX_CONNECTIONS=1)
    connection = client.connection_pool.get_connection()
    timer = threading.Timer(0.2, client.connection_pool.release, [connection])
    timer.start()
    assert client.get("k") is None
    timer.join()


@pytest.mark.parametrize(
    "config",
    [
        {"HOST": "h"},
        {"HOST": "h", "MAX_CONNECTIONS": 3},
        {"HOST": "h", "CONNECTION_POOL_CLASS": redis.BlockingConnectionPool},
        {"CONNECTION_POOL": redis.ConnectionPool(max_connections=4)},
    ],
)
def test_limit_of_a_pool(config: dict[str, t.Any]) -> None:
    """The error of a full pool says how many connections it may have."""
    client = client_of(**config)
    deadline = deadline_of(client)
    limit = client.connection_pool.max_connections
    # By default, a pool of redis-py before 8 is never full.
    assert limit in (deadline.engine.max_connections(deadline.spec), 2**31)


@pytest.mark.parametrize(
    ("config", "seconds"), [({}, 5), ({"RETRY_DEADLINE": 3}, 3), ({"TIMEOUT": 9}, 9)]
)
def test_wait_of_a_blocking_pool(config: dict[str, t.Any], seconds: float) -> None:
    """By default, a command waits for a connection until its deadline."""
    pool_class = redis.BlockingConnectionPool
    client = client_of(HOST="h", CONNECTION_POOL_CLASS=pool_class, **config)
    assert client.connection_pool.timeout == seconds


@pytest.mark.parametrize("transaction", [True, False])
def test_explicit_transaction_is_replayed_as_one(
    server: Server, transaction: bool
) -> None:
    """A pipeline with multi() is a transaction in each attempt."""
    with server.admin() as admin, Cutter(server.port) as cutter:
        admin.config_resetstat()
        client = client_of(URL=cutter.url)
        pipeline = client.pipeline(transaction=transaction)
        pipeline.multi()
        pipeline.incr("k")
        cutter.lose(b"EXEC")
        assert pipeline.execute() == [2]
        assert admin.info("commandstats")["cmdstat_exec"]["calls"] == 2
        # The next use begins as usual.
        cutter.lose(b"INCR")
        assert pipeline.incr("k").execute() == [4]
        stats = admin.info("commandstats")
        assert stats["cmdstat_exec"]["calls"] == 2 + 2 * transaction
        client.connection_pool.disconnect()


def test_own_attributes_stay(server: Server) -> None:
    """A client class of the application may have attributes of any usual name."""

    class Own(redis.Redis):
        def __init__(self, **kwargs: t.Any) -> None:
            super().__init__(**kwargs)
            self._deadline = "mine"
            self._client = "mine"

    client = client_of(URL=server.url, CLASS=Own)
    assert client.ping()
    assert (client._deadline, client._client) == ("mine", "mine")


def test_pool_of_sentinels_with_valkey() -> None:
    """A pool of valkey-py that asks sentinels is recognized."""
    module: t.Any = valkey.sentinel
    sentinel = module.Sentinel([("h", 1)])
    pool = module.SentinelConnectionPool("mymaster", sentinel)
    app, _ = manage(CONNECTION_POOL=pool, CLASS="valkey.Valkey")
    spec = app.extensions["redis"].get_spec("REDIS")
    assert spec.engine.describe_address(spec) == "mymaster behind sentinels"
    assert not spec.engine.has_fixed_address(spec)
    assert spec.engine.native_clients(spec)[0] == "valkey-cli"


def test_replaced_sentinels() -> None:
    """Errors are shown also if a test has replaced the sentinels of a pool by objects
    that have no pool.
    """
    sentinel_class: t.Any = redis.sentinel.Sentinel
    sentinel = sentinel_class([("h", 1)])
    sentinel.sentinels = [object(), *sentinel.sentinels]
    pool = redis.SentinelConnectionPool("m", sentinel, password="s3cret")  # type: ignore[no-untyped-call]
    app, _ = manage(CONNECTION_POOL=pool)
    spec = app.extensions["redis"].get_spec("REDIS")
    assert spec.engine.find_secrets(spec) == ["s3cret"]


class Elsewhere(redis.Redis):
    """A client class with another port by default."""

    def __init__(self, *, port: int = 7000, **kwargs: t.Any) -> None:
        super().__init__(port=port, **kwargs)


@pytest.mark.parametrize(
    ("config", "address"),
    [
        ({"HOST": "h", "CLASS": Elsewhere}, "h:7000"),
        ({"CONNECTION_POOL": redis.ConnectionPool()}, "localhost:6379"),
    ],
)
def test_address_by_default(config: dict[str, t.Any], address: str) -> None:
    """What no setting says is what the class or the pool has by default."""
    client = client_of(**config)
    deadline = deadline_of(client)
    assert deadline.engine.describe_address(deadline.spec) == address
    connection = client.connection_pool.make_connection()
    assert f"{connection.host}:{connection.port}" == address


def test_probe_is_disconnected(server: Server) -> None:
    """A short-lived client has no connection any more, even if it is still used."""
    deadline = deadline_of(client_of(URL=server.url))
    (spec,) = deadline.engine.probe_specs(deadline.spec, 5)
    before = server.count_clients()

    with deadline.engine.open_probe(spec, {}, 5) as probe:
        assert probe.ping()
        assert server.count_clients() == before + 1

    wait_until(lambda: server.count_clients() == before, "it is disconnected")
    assert probe.connection_pool


def test_ping_through_a_pool_of_sentinels() -> None:
    """The error of a ping names no argument of the application's sentinels."""
    sentinel_class: t.Any = redis.sentinel.Sentinel
    options = {"password": "s3cret", "socket_timeout": 0.1, "retry": None}
    sentinel = sentinel_class([("127.0.0.1", 1)], sentinel_kwargs=options)
    pool_class: t.Any = redis.SentinelConnectionPool
    app, manager = manage(CONNECTION_POOL=pool_class("mymaster", sentinel))

    with app.app_context():
        error = manager.ping()["REDIS"].error or ""

    assert error.startswith("No master found for 'mymaster' : a sentinel - ")
    assert "s3cret" not in error
    assert "host=" not in error


def test_async_with_the_class_of_fakeredis(server: Server) -> None:
    """The class of fakeredis has an asynchronous counterpart with each scheme."""
    app, _ = manage(URL=server.url, CLASS="fakeredis.FakeRedis")
    spec = app.extensions["redis"].get_spec("REDIS")
    cls = spec.engine.for_asyncio(spec).client_class
    assert cls is fakeredis.FakeAsyncRedis


class OwnManager(RedisManager):
    """A manager that does more in ``init_app``."""

    def init_app(self, app: Flask) -> None:
        super().init_app(app)
        app.extensions["own"] = True


def test_subclass_of_the_manager(app: Flask) -> None:
    """``RedisManager(app)`` calls the ``init_app`` of a subclass."""
    app.config["REDIS_URL"] = "redis://h"
    OwnManager(app)
    assert app.extensions["own"]


def test_subclass_of_redis(app: Flask) -> None:
    """``Redis(app)`` calls the ``init_app`` of a subclass."""
    called = []

    class OwnRedis(Redis):
        def init_app(self, *args: t.Any, **options: t.Any) -> None:
            called.append(args)
            super().init_app(*args, **options)

    OwnRedis(app)
    assert called == [(app,)]


@pytest.mark.parametrize("register", [RedisManager, Redis])
def test_warning_as_error_registers_nothing(
    app: Flask, register: cabc.Callable[[Flask], object]
) -> None:
    """If warnings are errors, a second attempt gives the same warning."""
    app.config.update(REDIS_URL="redis://h", REDIS_PASWORD="x")

    for _ in range(2):
        with pytest.raises(UserWarning, match="Did you mean 'REDIS_PASSWORD'"):
            register(app)
