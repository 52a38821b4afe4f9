"""Corners of connections and pools, and of the settings about them."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import time
import types
import typing as t

import pytest
import redis
import valkey
from flask import Flask

from flask_and_redis import ConfigError
from flask_and_redis import RedisManager
from flask_and_redis.engines import adoption
from flask_and_redis.operate.settings import list_settings

from .objects import Provider
from .scripted import Scripted
from .servers import Cluster
from .servers import Server

pytestmark = pytest.mark.each


def client_of(**config: t.Any) -> t.Any:
    app = Flask(__name__)
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})
    RedisManager(app)
    return app.extensions["redis"]["REDIS"]


def test_pool_of_the_application(own_server: Server) -> None:
    """A pool of the application closes a connection with a reply to come, but not one
    that is subscribed.
    """
    pool = redis.ConnectionPool(port=own_server.port, max_connections=2, protocol=2)
    client = client_of(CONNECTION_POOL=pool)
    client.set("k", "v")
    connection: t.Any = pool.get_connection()
    connection.send_command("ECHO", "late")
    pool.release(connection)
    assert client.get("k") == b"v"

    with client.pubsub() as pubsub:
        pubsub.subscribe("one", "two")
        messages = [pubsub.get_message(timeout=5) for _ in range(2)]
        assert [message["data"] for message in messages] == [1, 2]
        assert pubsub.get_message(timeout=0.01) is None

    pool.disconnect()


def test_replaced_connections_of_the_application(own_server: Server) -> None:
    """Idle connections of a pool of the application are closed when they must be
    replaced.
    """
    pool = redis.ConnectionPool(port=own_server.port)
    client = client_of(CONNECTION_POOL=pool)
    before = client.client_id()
    adoption.replace_connections(pool)
    assert client.client_id() != before
    pool.disconnect()


def test_replaced_connections_of_a_coarse_clock(
    own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection is replaced even if the clock shows the time at which it was
    opened.
    """
    client = client_of(URL=own_server.url)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    before = client.client_id()
    client.connection_pool.replace_connections()
    assert client.client_id() != before


def test_broken_connection(own_server: Server) -> None:
    """A connection whose opening was interrupted is opened anew."""
    pool = client_of(URL=own_server.url).connection_pool
    connection = pool.get_connection()
    connection.is_broken = True
    connection.connect()
    assert connection.is_open and not connection.is_dirty
    pool.release(connection)


def test_read_of_a_closed_connection(own_server: Server) -> None:
    """An asynchronous read that is to leave the connection open does so."""
    app = Flask(__name__)
    app.config["REDIS_URL"] = own_server.url
    manager = RedisManager(app)

    async def use() -> None:
        async with manager.get_async() as client:
            pool: t.Any = client.connection_pool
            connection = await pool.get_connection()
            await connection.send_command("BLPOP", "none", 5)

            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(
                    connection.read_response(disconnect_on_error=False), 0.1
                )

            assert connection.is_open and connection.is_dirty
            await pool.release(connection)

    with app.app_context():
        asyncio.run(use())


def test_no_wait_for_the_end_of_a_connection(
    own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An asynchronous connection is closed without waiting for the server, which may
    hang. The task may have been cancelled, too.
    """
    app = Flask(__name__)
    app.config.update(REDIS_URL=own_server.url, REDIS_MAX_CONNECTIONS=1)
    manager = RedisManager(app)
    waits: list[str] = []

    async def note(writer: asyncio.StreamWriter) -> None:
        waits.append("The end of a connection.")

    def fail(connection: object) -> t.NoReturn:
        raise LookupError

    async def use() -> None:
        async with manager.get_async() as client:
            pool: t.Any = client.connection_pool

            with monkeypatch.context() as patch:
                patch.setattr(asyncio.StreamWriter, "wait_closed", note)
                connection = await pool.get_connection()
                await connection.send_command("BLPOP", "none", 5)

                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(connection.read_response(), 0.1)

                assert not connection.is_open
                await connection.connect()
                connection.is_broken = True
                await connection.connect()
                await connection.send_command("BLPOP", "none", 5)
                await pool.release(connection)
                assert not connection.is_open

                # It is unused for too long.
                assert await client.ping()
                pool.max_idle = -1
                assert await client.ping()

                # It cannot log in, for a reason that redis-py does not know.
                connection = await pool.get_connection()
                await connection.disconnect(nowait=True)
                connection.redis_connect_func = fail

                with pytest.raises(LookupError):
                    await connection.connect()

                await pool.release(connection)

            assert not waits

    with app.app_context():
        asyncio.run(use())


def test_ping_through_a_pool_of_valkey(own_server: Server) -> None:
    """A pool of valkey-py, which has no notifications, can be pinged."""
    app = Flask(__name__)
    pool = valkey.ConnectionPool(port=own_server.port)
    app.config.update(REDIS_CONNECTION_POOL=pool, REDIS_CLASS="valkey.Valkey")
    manager = RedisManager(app)

    with app.app_context():
        assert manager.ping(timeout=10)["REDIS"].ok


def test_unknown_pool() -> None:
    """A pool of neither library stays as it is."""
    pool = types.SimpleNamespace(connection_kwargs={})
    adoption.adopt_pool(pool, 1)
    assert vars(pool) == {"connection_kwargs": {}}


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"URL": "redis://h", "PROTOCOL": 2}, "needs 'REDIS_PROTOCOL' to be 3."),
        ({"UNIX_SOCKET_PATH": "/s"}, "cannot be used with a socket: "),
    ],
)
@pytest.mark.skipif(redis.VERSION[0] < 8, reason="Older ones have no notifications.")
def test_impossible_notifications(config: dict[str, t.Any], problem: str) -> None:
    """Notifications that cannot be had are an error at start-up."""
    with pytest.raises(ConfigError, match=problem):
        client_of(MAINT_NOTIFICATIONS=True, **config)


def test_notifications_of_valkey() -> None:
    """valkey-py has no notifications."""
    with pytest.raises(ConfigError, match="needs redis-py 7 or newer"):
        client_of(URL="redis://h", CLASS="valkey.Valkey", MAINT_NOTIFICATIONS=True)


def make_provider() -> Provider:
    return Provider()


def test_listed_function() -> None:
    """The list of settings names a function."""
    app = Flask(__name__)
    app.config.update(REDIS_URL="redis://h", REDIS_CREDENTIAL_PROVIDER=make_provider)
    RedisManager(app)
    rows = {
        row.name: row.value
        for row in list_settings(app.extensions["redis"].get_spec("REDIS"))
    }
    assert rows["REDIS_CREDENTIAL_PROVIDER"] == f"{__name__}.make_provider"


#: Commands that select another database, as they can be written.
SELECTS = [("SELECT", 3), ("Select", b"3"), (b"select", 3), ("SELECT 3",)]


def switch(client: t.Any, select: tuple[t.Any, ...]) -> None:
    client.execute_command(*select)


def switch_in_pipeline(client: t.Any, select: tuple[t.Any, ...]) -> None:
    client.pipeline(transaction=False).get("k").execute_command(*select).execute()


def switch_in_transaction(client: t.Any, select: tuple[t.Any, ...]) -> None:
    client.pipeline().execute_command(*select).get("k").execute()


def switch_while_watching(client: t.Any, select: tuple[t.Any, ...]) -> None:
    with client.pipeline() as pipeline:
        pipeline.watch("k")
        pipeline.execute_command(*select)
        pipeline.multi()
        pipeline.get("k").execute()


@pytest.mark.parametrize("select", SELECTS)
@pytest.mark.parametrize("library", ["redis.Redis", "valkey.Valkey"])
@pytest.mark.parametrize(
    "use", [switch, switch_in_pipeline, switch_in_transaction, switch_while_watching]
)
def test_another_database(
    server: Server,
    use: cabc.Callable[[t.Any, tuple[t.Any, ...]], None],
    library: str,
    select: tuple[t.Any, ...],
) -> None:
    """A connection on which another database was selected is not lent again."""
    client = client_of(URL=f"{server.url}/5", CLASS=library, MAX_CONNECTIONS=1)
    assert client.set("k", "5")
    use(client, select)
    assert client.client_info()["db"] in (5, "5")


@pytest.mark.parametrize("select", SELECTS)
@pytest.mark.parametrize("transaction", [None, False, True])
def test_another_database_in_asyncio(
    server: Server, transaction: bool | None, select: tuple[t.Any, ...]
) -> None:
    """The same in asyncio."""
    app = Flask(__name__)
    app.config.update(REDIS_URL=f"{server.url}/5", REDIS_MAX_CONNECTIONS=1)
    manager = RedisManager(app)

    async def use() -> None:
        async with manager.get_async() as other:
            client: t.Any = other

            if transaction is None:
                await client.execute_command(*select)
            else:
                pipeline = client.pipeline(transaction)
                await pipeline.execute_command(*select).get("k").execute()

            assert (await client.client_info())["db"] == 5

    with app.app_context():
        asyncio.run(use())


@pytest.mark.parametrize("name", ["CLUSTER SLOTS", "cluster slots"])
def test_slots_without_a_cluster(server: Server, name: str) -> None:
    """A server without a cluster, and a transaction, reply otherwise to CLUSTER SLOTS.
    The next reply on the connection is not taken for it.
    """
    client = client_of(URL=server.url, MAX_CONNECTIONS=1)
    client.set("k", "v")

    with pytest.raises(redis.ResponseError, match="cluster support disabled"):
        client.execute_command(name)

    assert client.get("k") == b"v"
    app = Flask(__name__)
    app.config.update(REDIS_URL=server.url, REDIS_MAX_CONNECTIONS=1)
    manager = RedisManager(app)

    async def use() -> None:
        async with manager.get_async() as other:
            with pytest.raises(redis.ResponseError, match="cluster support disabled"):
                await t.cast(t.Any, other).execute_command(name)

            assert await other.get("k") == b"v"

    with app.app_context():
        asyncio.run(use())


def test_slots_that_were_not_read(server: Server) -> None:
    """After a connection was closed, the first reply is not taken for the nodes of a
    cluster.
    """
    pool = client_of(URL=server.url).connection_pool
    connection = pool.get_connection()
    connection.send_command("CLUSTER SLOTS")
    connection.disconnect()
    connection.connect()
    connection.send_command("MGET", "a", "b")
    assert connection.read_response() == [None, None]
    pool.release(connection)


def test_queued_slots(cluster: Cluster) -> None:
    """The same within a transaction, where the reply comes later."""
    client = client_of(URL=cluster.nodes[0].url, MAX_CONNECTIONS=1)
    connection = client.connection_pool.get_connection()

    for name, expected in (("MULTI", b"OK"), ("CLUSTER SLOTS", b"QUEUED")):
        connection.send_command(name)
        assert connection.read_response() == expected

    connection.send_command("EXEC")
    ((slots, *_),) = connection.read_response()
    assert slots[:1] == [0]
    client.connection_pool.release(connection)


def test_transactions_keep_their_connection(server: Server) -> None:
    """A transaction that has ended leaves a clean connection, in any spelling."""
    client = client_of(URL=server.url, MAX_CONNECTIONS=1)
    number = client.client_id()

    with client.pipeline() as pipeline:
        pipeline.watch("k")
        pipeline.multi()
        pipeline.get("k").execute()
        pipeline.watch("k")
        pipeline.unwatch()

    connection = client.connection_pool.get_connection()

    for name in ("MULTI", "exec", b"Watch k", "UNWATCH"):
        connection.send_command(name)
        connection.read_response()

    client.connection_pool.release(connection)
    assert client.client_id() == number


@pytest.mark.parametrize("url", ["{}?protocol=2", "{}/5?protocol=2&client_name=worker"])
@pytest.mark.parametrize("library", ["redis.Redis", "valkey.Valkey"])
def test_protocol_of_old_proxies(scripted: Scripted, url: str, library: str) -> None:
    """With PROTOCOL = 2, connections send neither HELLO nor CLIENT SETINFO, on which
    some old proxies close the connection.
    """
    client = client_of(URL=url.format(scripted.url), CLASS=library)
    assert client.get("k") is not None
    words = {b" ".join(arguments[:2]) for _, arguments in scripted.requests}
    assert words <= {b"SELECT 5", b"CLIENT SETNAME", b"GET k"}


def test_protocol_of_old_proxies_in_asyncio(scripted: Scripted) -> None:
    """The same in asyncio."""
    app = Flask(__name__)
    app.config.update(REDIS_URL=scripted.url, REDIS_PROTOCOL="2")
    manager = RedisManager(app)

    async def use() -> None:
        async with manager.get_async() as client:
            assert await client.get("k") is not None

    with app.app_context():
        asyncio.run(use())

    assert scripted.names() == [b"GET"]
