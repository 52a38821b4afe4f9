"""Corners of connections and pools, and of the settings about them."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import contextlib
import enum
import time
import types
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
import valkey
from flask import Flask

from flask_and_redis import ConfigError
from flask_and_redis import RedisManager
from flask_and_redis.engines import adoption
from flask_and_redis.engines.internals import connections as internals
from flask_and_redis.engines.marks import is_unsent
from flask_and_redis.operate.settings import list_settings

from .conftest import Starter
from .objects import Provider
from .scripted import array
from .scripted import bulk
from .scripted import Scripted
from .servers import Certificates
from .servers import Cluster
from .servers import KINDS
from .servers import Sentinels
from .servers import Server

pytestmark = pytest.mark.each


def client_of(**config: t.Any) -> t.Any:
    app = Flask(__name__)
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})
    RedisManager(app)
    return app.extensions["redis"]["REDIS"]


def run_async(
    use: cabc.Callable[[t.Any], cabc.Coroutine[t.Any, t.Any, None]], **config: t.Any
) -> None:
    """Call a function with the asynchronous client of prefix REDIS."""
    app = Flask(__name__)
    app.config.update(config)
    manager = RedisManager(app)

    async def main() -> None:
        async with manager.get_async() as client:
            await use(client)

    with app.app_context():
        asyncio.run(main())


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


def test_existing_connections_of_the_application(server: Server) -> None:
    """Connections that a pool of the application has already opened are kept."""
    pool = redis.ConnectionPool(port=server.port)
    before = redis.Redis(connection_pool=pool).client_id()
    client = client_of(CONNECTION_POOL=pool)
    assert [client.client_id(), client.client_id()] == [before] * 2
    pool.disconnect()


@pytest.mark.parametrize("pool_class", ["ConnectionPool", "BlockingConnectionPool"])
def test_replaced_connections_of_a_coarse_clock(
    server: Server, monkeypatch: pytest.MonkeyPatch, pool_class: str
) -> None:
    """A connection is replaced once, even if the clock shows the time at which it was
    opened.
    """
    client = client_of(URL=server.url, CONNECTION_POOL_CLASS=f"redis.{pool_class}")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    before = client.client_id()
    assert client.client_id() == before
    client.connection_pool.replace_connections()
    now += 1
    connection = client.connection_pool.get_connection()
    assert connection.is_open
    client.connection_pool.release(connection)
    after = client.client_id()
    assert after != before
    assert client.client_id() == after


def test_connection_with_current_credentials(server: Server, tmp_path: Path) -> None:
    """A connection whose credentials have not been renewed is kept."""
    # Without one, this user may have any password.
    (tmp_path / "password").write_text("any")
    config = {"USERNAME": "default", "PASSWORD_FILE": str(tmp_path / "password")}
    client = client_of(URL=server.url, **config)
    assert client.client_id() == client.client_id()


@pytest.mark.parametrize("pool_class", ["ConnectionPool", "BlockingConnectionPool"])
def test_new_connection(scripted: Scripted, pool_class: str) -> None:
    """A new connection is opened once."""
    client = client_of(URL=scripted.url, CONNECTION_POOL_CLASS=f"redis.{pool_class}")

    for _ in range(2):
        assert client.get("k") == b"0 default k"

    assert scripted.connections == 1


@pytest.mark.parametrize("is_open", [True, False])
def test_broken_connection(own_server: Server, is_open: bool) -> None:
    """A connection whose opening or closing was interrupted is opened anew."""
    pool = client_of(URL=own_server.url).connection_pool
    connection = pool.get_connection()

    if not is_open:
        connection.disconnect()

    connection.is_broken = True

    if is_open:
        connection.connect()

    connection.send_command("PING")
    assert connection.read_response() in (b"PONG", "PONG")
    assert connection.is_open and not connection.is_dirty
    pool.release(connection)
    assert pool.get_connection() is connection and connection.is_open


def test_failed_opening(server: Server) -> None:
    """A connection that cannot log in is closed at once, for whatever reason."""
    pool = client_of(URL=server.url).connection_pool
    connection = pool.get_connection()
    connection.disconnect()

    def fail(connection: object) -> t.NoReturn:
        raise LookupError

    connection.redis_connect_func = fail

    with pytest.raises(LookupError):
        connection.connect()

    assert connection.paced is None and not connection.is_dirty
    pool.release(connection)


def test_error_of_a_connection(server: Server) -> None:
    """The arguments of a command are hidden before tracing sees the error."""
    pool = client_of(URL=server.url).connection_pool
    connection = pool.get_connection()
    connection.send_command("UNKNOWN", "s3cret")

    with pytest.raises(redis.ResponseError, match="unknown command") as raised:
        connection.read_response()

    assert "s3cret" not in str(raised.value)
    assert connection.is_open and not connection.is_dirty
    pool.release(connection)


def test_marked_connection(server: Server) -> None:
    """A connection that redis-py marks to be closed is used until it is returned."""
    client = client_of(URL=server.url, MAX_CONNECTIONS=1)
    number = client.client_id()
    connection = client.connection_pool.get_connection()
    connection.is_broken = True
    connection.send_command("CLIENT", "ID")
    assert connection.read_response() == number
    client.connection_pool.release(connection)
    assert client.client_id() != number
    app = Flask(__name__)
    app.config.update(REDIS_URL=server.url, REDIS_MAX_CONNECTIONS=1)
    manager = RedisManager(app)

    async def use() -> None:
        async with manager.get_async() as other:
            client: t.Any = other
            number = await client.client_id()
            connection = await client.connection_pool.get_connection()
            connection.is_broken = True
            await connection.send_command("CLIENT", "ID")
            assert await connection.read_response() == number
            await client.connection_pool.release(connection)
            assert await client.client_id() != number

    with app.app_context():
        asyncio.run(use())


def test_half_closed_connection(server: Server) -> None:
    """A connection whose closing was interrupted is closed before it notes what the
    next command changes.
    """
    pool = client_of(URL=server.url).connection_pool
    connection = pool.get_connection()
    paced = connection.paced

    def fail() -> t.NoReturn:
        raise LookupError

    paced.close = fail

    with pytest.raises(LookupError):
        connection.disconnect()

    connection.send_command("SELECT", 1)
    assert connection.read_response() in (b"OK", "OK", True)
    assert connection.is_dirty
    pool.release(connection)
    paced.connected.close()


def test_lost_watch_of_a_half_closed_connection(server: Server) -> None:
    """A connection whose closing was interrupted still knows that it was watching."""
    pool = client_of(URL=server.url).connection_pool
    connection = pool.get_connection()
    connection.send_command("WATCH", "k")
    connection.read_response()
    paced = connection.paced

    def fail() -> t.NoReturn:
        raise LookupError

    paced.close = fail

    with pytest.raises(LookupError):
        connection.disconnect()

    with pytest.raises(redis.ConnectionError, match="during a transaction"):
        connection.send_command("GET", "k")

    pool.release(connection)
    paced.connected.close()


def test_lost_watch(server: Server) -> None:
    """A pipeline notices that its connection was closed after WATCH."""
    with client_of(URL=server.url, MAX_CONNECTIONS=1).pipeline() as pipe:
        pipe.watch("k")
        pipe.connection.disconnect()

        with pytest.raises(redis.WatchError):
            pipe.get("k")

        assert pipe.get("k").execute() == [None]
        pipe.watch("k")
        pipe.connection.disconnect()
        # It needs no error.
        assert pipe.unwatch()
        assert pipe.get("k").execute() == [None]


def test_renewed_subscription(server: Server) -> None:
    """Pub/sub may subscribe to more before it has read what it gets for subscribing
    again.
    """
    with client_of(URL=server.url).pubsub() as pubsub:
        pubsub.subscribe("a", "b")
        pubsub.connection.disconnect()
        pubsub.connection.connect()
        paced = pubsub.connection.paced
        pubsub.subscribe("c")
        channels = [pubsub.get_message(timeout=5)["channel"] for _ in range(3)]
        assert channels == [b"a", b"b", b"c"]
        assert pubsub.connection.paced is paced


def test_connection_of_the_parent(server: Server) -> None:
    """A connection that another process has opened is closed when it is returned."""
    pool = client_of(URL=server.url).connection_pool
    connection = pool.get_connection()
    pid, connection.pid = connection.pid, -1
    pool.release(connection)
    assert not connection.is_open
    connection.pid = pid
    other = pool.get_connection()
    assert other is not connection
    pool.release(other)


@pytest.mark.parametrize("is_open", [True, False])
def test_failure_of_an_idle_connection(server: Server, is_open: bool) -> None:
    """A connection is not lost if nobody can look whether it is alive, or open it
    again. Who handles the error may use the pool.
    """
    client = client_of(URL=server.url, MAX_CONNECTIONS=1)
    connection = client.connection_pool.get_connection()
    client.connection_pool.release(connection)

    def fail(argument: object) -> t.NoReturn:
        connection.poll = connection.redis_connect_func = None
        raise LookupError

    if is_open:
        connection.poll = fail
        # Otherwise it is lent without a look.
        time.sleep(0.01)
    else:
        connection.redis_connect_func = fail
        connection.disconnect()

    with pytest.raises(LookupError) as raised:
        client.ping()

    assert client.ping()
    assert is_unsent(raised.value) == (not is_open)
    assert client.connection_pool.get_connection() is connection
    # The error refers to it.
    connection.disconnect()


@pytest.mark.parametrize("is_tls", [False, True])
def test_closed_by_the_server_a_moment_ago(
    server: Server, tls_server: Server, is_tls: bool
) -> None:
    """A connection that the server closes right after its use is not lent."""
    config = {"SSL_CERT_REQS": "none", "SSL_CHECK_HOSTNAME": "no"} if is_tls else {}
    used = tls_server if is_tls else server
    client = client_of(URL=used.url, RETRY=0, **config)
    client.ping()

    with used.admin() as admin:
        admin.client_kill_filter(_type="normal", skipme=True)

    assert client.ping()


@pytest.mark.parametrize("is_opening", [True, False])
def test_closing_is_interrupted(server: Server, is_opening: bool) -> None:
    """A connection that could not be closed, also while it was opened, is closed when
    it is returned.
    """
    client = client_of(URL=server.url, MAX_CONNECTIONS=1)
    pool = client.connection_pool
    connection = pool.get_connection()
    paced = connection.paced

    def fail(*args: object, **options: object) -> t.NoReturn:
        raise LookupError

    def use() -> None:
        if is_opening:
            connection.disconnect()
            connection.redis_connect_func = connection.disconnect = fail
            connection.connect()
        else:
            paced.close = fail
            connection.disconnect()

    with pytest.raises(LookupError):
        use()

    assert connection.is_dirty
    vars(connection).pop("disconnect", None)
    connection.redis_connect_func = None
    pool.release(connection)
    assert not connection.is_dirty
    assert client.ping()
    paced.connected.close()


@pytest.mark.parametrize("is_opening", [True, False])
def test_closing_is_interrupted_in_asyncio(
    server: Server, monkeypatch: pytest.MonkeyPatch, is_opening: bool
) -> None:
    """The same in asyncio."""
    app = Flask(__name__)
    app.config.update(REDIS_URL=server.url, REDIS_MAX_CONNECTIONS=1)
    manager = RedisManager(app)

    def fail(*args: object, **options: object) -> t.NoReturn:
        raise LookupError

    async def use(connection: t.Any) -> None:
        if is_opening:
            await connection.disconnect()
            connection.redis_connect_func = connection.disconnect = fail
            await connection.connect()
        else:
            with monkeypatch.context() as patch:
                patch.setattr(asyncio.StreamWriter, "close", fail)
                await connection.disconnect()

    async def main() -> None:
        async with manager.get_async() as client:
            pool: t.Any = client.connection_pool
            connection = await pool.get_connection()
            writer = connection._writer

            with pytest.raises(LookupError):
                await use(connection)

            assert connection.is_dirty
            vars(connection).pop("disconnect", None)
            connection.redis_connect_func = None
            await pool.release(connection)
            assert not connection.is_dirty
            assert await client.ping()
            writer.close()

    with app.app_context():
        asyncio.run(main())


def test_long_pauses(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a connection was unused, the next reply may take all of its time,
    and so may the next message.
    """
    now = 1000.0
    clock = types.SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(internals, "time", clock)
    client = client_of(URL=server.url, RETRY=0)

    with client.pubsub() as pubsub:
        pubsub.subscribe("news")
        assert pubsub.get_message(timeout=5)["type"] == "subscribe"

        for _ in range(4):
            now += 100
            assert client.publish("news", "text") == 1
            now += 100
            assert pubsub.get_message(timeout=5)["data"] == b"text"


def test_fake_connection() -> None:
    """A connection without a socket is lent, too, after some time."""
    client = client_of(URL="fakeredis://")
    client.set("k", "v")
    time.sleep(0.01)
    assert client.get("k") == b"v"


def test_health_check(scripted: Scripted) -> None:
    """A connection is checked before a command or a pipeline, but not before each. If
    that fails, the command is sent on another one, even with RETRY = 0.
    """
    config = {"URL": scripted.url, "PROTOCOL": 2, "RETRY": 0}
    app = Flask(__name__)
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})
    app.config["REDIS_HEALTH_CHECK_INTERVAL"] = 1000
    manager = RedisManager(app)

    def prepare(connection: t.Any, answer: list[bytes]) -> None:
        # The next check is due.
        connection.next_health_check = 0
        scripted.plan(b"PING", *answer)
        scripted.requests.clear()

    def check(number: int, answer: list[bytes]) -> None:
        commands = [] if answer else [b"GET", b"GET"]
        assert scripted.names(number) == [b"PING", *commands]
        assert scripted.names().count(b"GET") == 2

    loading = [b"-LOADING\r\n"]

    def use(client: t.Any) -> None:
        pool, number = client.connection_pool, scripted.connections + 1
        connection = pool.get_connection()
        pool.release(connection)
        client.get("k")

        for pipelined, answer in ((False, []), (True, []), (False, loading)):
            prepare(connection, answer)

            if pipelined:
                client.pipeline(transaction=False).get("k").execute()
            else:
                client.get("k")

            client.get("k")
            check(number, answer)

    async def use_async() -> None:
        async with manager.get_async() as other:
            client: t.Any = other
            pool, number = client.connection_pool, scripted.connections + 1
            connection = await pool.get_connection()
            await pool.release(connection)
            await client.get("k")

            for pipelined, answer in ((False, []), (True, []), (False, loading)):
                prepare(connection, answer)

                if pipelined:
                    await client.pipeline(transaction=False).get("k").execute()
                else:
                    await client.get("k")

                await client.get("k")
                check(number, answer)

    with app.app_context():
        use(manager.get())
        asyncio.run(use_async())


#: What redis-py raises when it meets a closed buffer, or no socket.
ERRORS = [ValueError("none"), AttributeError("none")]
#: What the connection's socket does meanwhile.
STEPS = ["send", "receive"]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("step", STEPS)
def test_closed_while_in_use(server: Server, step: str, error: Exception) -> None:
    """An error of a command is that of a lost connection if another thread has closed
    the connection meanwhile, and only then.
    """
    pool = client_of(URL=server.url).connection_pool
    connection = pool.get_connection()

    def fail(*args: object) -> t.NoReturn:
        raise error

    def fail_closed(*args: object) -> t.NoReturn:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(connection.disconnect).result()

        raise error

    def use(function: cabc.Callable[..., t.NoReturn]) -> None:
        connection.connect()

        for name in ("sendall",) if step == "send" else ("recv", "recv_into"):
            setattr(connection.paced, name, function)

        connection.send_command("PING")
        connection.read_response(disconnect_on_error=False)

    with pytest.raises(type(error), match="none"):
        use(fail)

    connection.disconnect()

    with pytest.raises(redis.ConnectionError, match="Another thread or task"):
        use(fail_closed)

    pool.release(connection)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("step", STEPS)
def test_closed_while_in_use_in_asyncio(
    server: Server, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    """The same for tasks of asyncio."""
    app = Flask(__name__)
    app.config["REDIS_URL"] = server.url
    manager = RedisManager(app)

    async def main() -> None:
        async with manager.get_async() as client:
            pool: t.Any = client.connection_pool
            connection = await pool.get_connection()

            async def fail(*args: object) -> t.NoReturn:
                raise error

            async def fail_closed(*args: object) -> t.NoReturn:
                await asyncio.create_task(connection.disconnect(nowait=True))
                raise error

            async def use(function: cabc.Callable[..., t.Any]) -> None:
                await connection.connect()

                with monkeypatch.context() as patch:
                    if step == "send":
                        patch.setattr(asyncio.StreamWriter, "drain", function)
                    else:
                        patch.setattr(asyncio.StreamReader, "read", function)
                        patch.setattr(asyncio.StreamReader, "readline", function)

                    await connection.send_command("PING")
                    await connection.read_response(disconnect_on_error=False)

            with pytest.raises(type(error), match="none"):
                await use(fail)

            await connection.disconnect(nowait=True)

            with pytest.raises(redis.ConnectionError, match="Another thread or task"):
                await use(fail_closed)

            await pool.release(connection)

    with app.app_context():
        asyncio.run(main())


def test_error_behind_sentinels(
    shared_sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection is closed if reading a reply fails, also behind sentinels, where
    redis-py leaves it open.
    """
    url = f"redis+sentinel://{shared_sentinels.address}/mymaster"
    pool = client_of(URL=url).connection_pool
    connection = pool.get_connection()
    app = Flask(__name__)
    app.config["REDIS_URL"] = url
    manager = RedisManager(app)

    def fail(*args: object) -> t.NoReturn:
        raise LookupError

    connection.paced.recv = connection.paced.recv_into = fail
    connection.send_command("PING")

    with pytest.raises(LookupError):
        connection.read_response()

    assert not connection.is_open
    pool.release(connection)

    async def use() -> None:
        async with manager.get_async() as client:
            pool: t.Any = client.connection_pool
            connection = await pool.get_connection()
            await connection.send_command("PING")

            with monkeypatch.context() as patch:
                patch.setattr(asyncio.StreamReader, "read", fail)
                patch.setattr(asyncio.StreamReader, "readline", fail)
                # It is closed without waiting.
                patch.setattr(asyncio.StreamWriter, "wait_closed", fail)

                with pytest.raises(LookupError):
                    await connection.read_response()

            assert not connection.is_open
            await pool.release(connection)

    with app.app_context():
        asyncio.run(use())


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


def test_reply_that_is_still_to_come(own_server: Server) -> None:
    """With a time limit, an asynchronous read returns None if no reply has arrived. The
    reply is not taken for that of the next command.
    """
    app = Flask(__name__)
    app.config.update(REDIS_URL=own_server.url, REDIS_MAX_CONNECTIONS=1)
    manager = RedisManager(app)

    async def use() -> None:
        async with manager.get_async() as other:
            client: t.Any = other
            pool = client.connection_pool
            connection = await pool.get_connection()
            await connection.send_command("BLPOP", "none", 0.1)
            assert await connection.read_response(timeout=0) is None
            await pool.release(connection)
            assert await client.echo("mine") == b"mine"
            number = await client.client_id()
            connection = await pool.get_connection()
            await connection.send_command("PING")
            assert await connection.read_response(timeout=5) in (b"PONG", "PONG")
            await pool.release(connection)
            assert await client.client_id() == number
            # This reply looks the same.
            connection = await pool.get_connection()
            await connection.send_command("GET", "none")
            assert await connection.read_response(timeout=5) is None
            await pool.release(connection)
            assert await client.client_id() != number

    with app.app_context():
        asyncio.run(use())


@pytest.mark.parametrize("library", ["redis.Redis", "valkey.Valkey"])
@pytest.mark.parametrize("error", [None, LookupError()], ids=repr)
def test_leaving_while_the_server_hangs(
    start: Starter, certificates: Certificates, library: str, error: Exception | None
) -> None:
    """The end of the block does not wait for the server, as TLS would. So a view does
    not lose its result, or its own exception. The sockets are closed.
    """
    server = start(Server, certificates=certificates)
    app = Flask(__name__)
    app.config.update(REDIS_URL=server.url, REDIS_CLASS=library)
    app.config["REDIS_SSL_CA_CERTS"] = str(certificates.ca)
    manager = RedisManager(app)
    sockets: list[t.Any] = []

    async def view() -> str:
        async with manager.get_async() as client:
            pool: t.Any = client.connection_pool
            # Only valkey-py needs the name of a command.
            arguments = ["PING"] if library == "valkey.Valkey" else []
            connections = [await pool.get_connection(*arguments) for _ in range(2)]
            await pool.release(connections[0])
            assert await client.ping()
            sockets.extend(
                connection._writer.get_extra_info("socket")
                for connection in connections
            )
            server.pause()

            if error is not None:
                raise error

        return "result"

    with app.app_context():
        if error is None:
            assert asyncio.run(view()) == "result"
        else:
            with pytest.raises(LookupError):
                asyncio.run(view())

    assert [socket.fileno() for socket in sockets] == [-1, -1]


def test_commands_without_replies_in_asyncio(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of them is still sent after their connection has been closed."""
    value = b"x" * 32_000_000

    async def drain(writer: asyncio.StreamWriter) -> None:
        pass

    async def use(client: t.Any) -> None:
        pool: t.Any = client.connection_pool
        connection = await pool.get_connection()
        await connection.send_command("CLIENT", "REPLY", "OFF")

        with monkeypatch.context() as patch:
            patch.setattr(asyncio.StreamWriter, "drain", drain)
            await connection.send_command("SET", "k", value)

        transport = connection._writer.transport
        await pool.release(connection)
        assert transport.get_write_buffer_size()

        while await client.strlen("k") != len(value):
            await asyncio.sleep(0.01)

    async def use_in_time(client: t.Any) -> None:
        await asyncio.wait_for(use(client), 20)

    run_async(use_in_time, REDIS_URL=server.url)


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
                assert not connection.is_dirty

                # Closing it was interrupted.
                await connection.disconnect(nowait=True)
                connection.is_broken = True
                await connection.send_command("PING")
                assert await connection.read_response() in (b"PONG", "PONG")
                assert not connection.is_dirty
                await connection.send_command("BLPOP", "none", 5)
                await pool.release(connection)
                assert not connection.is_open

                # It is unused for too long.
                assert await client.ping()
                pool.max_idle = -1
                assert await client.ping()

                # It cannot log in, for a reason that redis-py does not know.
                connection = await pool.get_connection()
                assert connection.is_open
                await connection.disconnect(nowait=True)
                connection.redis_connect_func = fail

                with pytest.raises(LookupError) as raised:
                    await connection.connect()

                assert is_unsent(raised.value)
                assert not connection.is_dirty
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


class Name(str, enum.Enum):
    """Names of commands and their parts."""

    CHOOSE = "SELECT"
    CONTAINER = "CLIENT"
    FOLLOW = "TRACKING"


#: Commands that select another database, as they can be written.
SELECTS: list[tuple[t.Any, ...]] = [
    *(("SELECT", 3), ("Select", b"3"), (b"select", 3), ("SELECT 3",)),
    # The client library drops an empty name.
    *((Name.CHOOSE, 3), (memoryview(b"SELECT"), 3), ("", "SELECT", 3)),
    ("  ", Name.CHOOSE, 3),
]


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

    # The client library cannot look for the callback of a memoryview.
    with contextlib.suppress(AttributeError):
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

            with contextlib.suppress(AttributeError):
                if transaction is None:
                    await client.execute_command(*select)
                else:
                    pipeline = client.pipeline(transaction)
                    await pipeline.execute_command(*select).get("k").execute()

            assert (await client.client_info())["db"] == 5

    with app.app_context():
        asyncio.run(use())


def test_other_connections_are_kept(server: Server) -> None:
    """A connection that must be closed says nothing about the others."""
    app = Flask(__name__)
    app.config.update(REDIS_URL=server.url)
    manager = RedisManager(app)
    pool = app.extensions["redis"]["REDIS"].connection_pool
    altered, other = pool.get_connection(), pool.get_connection()
    altered.send_command("SELECT", 1)
    altered.read_response()
    pool.release(altered)
    assert not altered.is_open
    assert not pool.is_superseded(other)
    pool.release(other)

    async def use() -> None:
        async with manager.get_async() as client:
            pool: t.Any = client.connection_pool
            altered, other = [await pool.get_connection() for _ in range(2)]
            await altered.send_command("SELECT", 1)
            await altered.read_response()
            await pool.release(altered)
            assert not altered.is_open
            assert not pool.is_superseded(other)
            await pool.release(other)

    with app.app_context():
        asyncio.run(use())


#: Commands after which the server treats the connection in another way.
CHANGES: list[tuple[t.Any, ...]] = [
    *(("MONITOR",), ("SUBSCRIBE", "c"), ("psubscribe", "c"), (b"SSUBSCRIBE", "c")),
    *(("UNSUBSCRIBE", "c"), ("PUNSUBSCRIBE", "c"), ("SUNSUBSCRIBE", "c")),
    *(("READONLY",), ("READWRITE",), ("REPLCONF", "listening-port", 1)),
    *(("SCRIPT DEBUG", "YES"), ("script", b"debug", "yes")),
    *(("CLIENT TRACKING", "ON"), ("client", "tracking", "on")),
    *(("CLIENT\tTRACKING ON",), ("CLIENT", "REPLY", "ON")),
    *((Name.CONTAINER, Name.FOLLOW, "ON"), ("CLIENT", memoryview(b"TRACKING"), "ON")),
    *(("CLIENT", bytearray(b"TRACKING"), "ON"), ("", "CLIENT", "TRACKING", "ON")),
    *((b"CLIENT", b"NO-EVICT", "ON"), ("CLIENT NO-TOUCH", "ON")),
    ("CLIENT CACHING", "YES"),
    *(("CLIENT CAPA", "redirect"), ("CLIENT IMPORT-SOURCE", "ON")),
    *(("CLIENT", "KILL", "ID", 0), ("CLIENT KILL", "ID", 0)),
]


def run_in_pipeline(client: t.Any, command: tuple[t.Any, ...]) -> None:
    client.pipeline(transaction=False).execute_command(*command).execute()


def show(command: tuple[t.Any, ...]) -> str:
    """A command without addresses of objects."""
    return " ".join(
        repr(bytes(part)) if isinstance(part, memoryview) else repr(part)
        for part in command
    )


@pytest.mark.parametrize("command", CHANGES, ids=show)
@pytest.mark.parametrize("use", [switch, run_in_pipeline])
def test_changed_connection(
    server: Server,
    use: cabc.Callable[[t.Any, tuple[t.Any, ...]], None],
    command: tuple[t.Any, ...],
) -> None:
    """A connection that the server treats in another way is not lent again."""
    client = client_of(URL=server.url, PROTOCOL=2, MAX_CONNECTIONS=1)
    number = client.client_id()

    try:
        use(client, command)
    except redis.ResponseError:
        # Some servers do not know all of the commands.
        pass
    except redis.DataError:
        pytest.skip("Without hiredis, a bytearray cannot be sent.")

    with server.admin() as admin:
        # After SCRIPT DEBUG YES, Valkey 9.1 crashes at the next script of any client.
        admin.execute_command("SCRIPT DEBUG", "NO")

    assert client.client_id() != number


#: Commands that would end the server, or let it wait.
ENDS = {
    *("SHUTDOWN", "DEBUG", "FAILOVER", "REPLICAOF", "SLAVEOF", "PFSELFTEST"),
    "CLIENT|PAUSE",
}


@pytest.mark.parametrize("pool_class", ["ConnectionPool", "BlockingConnectionPool"])
def test_ended_connection(server: Server, pool_class: str) -> None:
    """A connection is not lent after a command that lets the server close it, whether
    or not it has done so.
    """
    pool = client_of(
        URL=server.url, CONNECTION_POOL_CLASS=f"redis.{pool_class}"
    ).connection_pool
    connection = pool.get_connection()

    for command in (("QUIT",), ("CLIENT", "KILL", "ID", "{}", "SKIPME", "no")):
        connection.connect()
        connection.send_command("CLIENT", "ID")
        number = connection.read_response()
        connection.send_command(*(part.format(number) for part in command))
        assert connection.read_response() in (b"OK", 1)
        pool.release(connection)
        assert not connection.is_open


def test_command_after_the_end(server: Server) -> None:
    """After QUIT, no transaction and no database is lost: the next command opens the
    connection again.
    """
    pool = client_of(URL=server.url).connection_pool
    connection = pool.get_connection()
    connection.send_command("QUIT")
    assert connection.read_response() == b"OK"
    connection.disconnect()
    connection.send_command("PING")
    assert connection.read_response() in (b"PONG", True)
    pool.release(connection)


def test_other_connections_stay(server: Server) -> None:
    """Only a refusal of a replica, and not a watch, replaces the connections of the
    pool.
    """
    client = client_of(URL=server.url)
    idle, watching = client.client(), client.client()
    number = idle.client_id()
    watching.execute_command("WATCH", "k")
    watching.close()
    idle.close()
    assert client.client_id() == number


def test_ended_connection_in_asyncio(server: Server) -> None:
    """The same in asyncio."""

    async def use(client: t.Any) -> None:
        pool: t.Any = client.connection_pool
        connection = await pool.get_connection()
        await connection.send_command("QUIT")
        assert await connection.read_response() == b"OK"
        await pool.release(connection)
        assert not connection.is_open

    run_async(use, REDIS_URL=server.url)


def test_client_that_ends_its_connection(server: Server) -> None:
    """A client that keeps its connection loses nothing but the connection."""
    with client_of(URL=server.url).client() as held:
        assert held.execute_command("QUIT")

        with pytest.raises(redis.ConnectionError):
            held.get("k")

        assert held.get("k") is None


def list_commands(server: Server) -> list[str]:
    """The commands that a server has, with those of containers such as CLIENT."""
    with server.admin(decode_responses=True) as admin:
        # Older versions of redis-py do not understand the reply.
        admin.response_callbacks.clear()
        commands: list[list[t.Any]] = admin.execute_command("COMMAND")

    # Before Redis 7, there are fewer columns.
    parts = [part for command in commands for part in [*command, [], [], []][9]]
    names = [command[0] for command in [*commands, *parts]]
    return [
        each.upper().replace("|", " ") for each in names if each.upper() not in ENDS
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_after_each_command(start: Starter, kind: str) -> None:
    """Whatever commands a server has, those that come later are not affected by what
    one has done to its connection.
    """
    server = start(Server, kind=kind)
    # SYNC gets no reply.
    times = {"SOCKET_TIMEOUT": 1, "RETRY_DEADLINE": 2}
    client = client_of(URL=server.url, PROTOCOL=2, MAX_CONNECTIONS=1, **times)

    def find_state() -> object:
        info = client.client_info()
        names = ("db", "flags", "multi", "psub", "redir", "resp", "sub", "user")
        return {name: info.get(name) for name in (*names, "ssub", "watch", "capa")}

    before = find_state()
    changes = {}

    for command in list_commands(server):
        for arguments in ("", "ON", "YES", "k", "k v"):
            # redis-py fails to read some replies, too.
            with contextlib.suppress(Exception):
                client.execute_command(*command.split(), *arguments.split())

        if (after := find_state()) != before:
            changes[command] = after
            client.connection_pool.disconnect()

    assert changes == {}


def test_changed_connections_in_asyncio(server: Server) -> None:
    """The same in asyncio."""
    app = Flask(__name__)
    app.config.update(REDIS_URL=server.url, REDIS_PROTOCOL=2, REDIS_MAX_CONNECTIONS=1)
    manager = RedisManager(app)

    async def use() -> None:
        async with manager.get_async() as other:
            client: t.Any = other
            number = await client.client_id()
            await client.execute_command("MONITOR")
            assert await client.client_id() != number

    with app.app_context():
        asyncio.run(use())


@pytest.mark.parametrize(
    "command",
    [
        *(("CLIENT SETNAME", "x"), ("CLIENT", "SETNAME", "x"), ("CLIENT", "LIST")),
        *(("CLUSTER", "INFO"), ("SCRIPT", "EXISTS", "x"), ("SCRIPT FLUSH",)),
        *(("GET SELECT",), ("CLIENT",)),
    ],
)
def test_unchanged_connection(server: Server, command: tuple[t.Any, ...]) -> None:
    """Other commands with such names, or for such a key, leave the connection open."""
    client = client_of(URL=server.url, MAX_CONNECTIONS=1)
    number = client.client_id()

    # The server is no cluster.
    with contextlib.suppress(redis.ResponseError):
        client.execute_command(*command)

    assert client.client_id() == number


@pytest.mark.parametrize("name", ["CLUSTER SLOTS", "cluster slots"])
def test_slots_without_a_cluster(server: Server, name: str) -> None:
    """A server without a cluster, and a transaction, reply otherwise to CLUSTER SLOTS.
    The next reply on the connection is not taken for it.
    """
    client = client_of(URL=server.url, MAX_CONNECTIONS=1)
    number = client.client_id()
    client.set("k", "v")

    with pytest.raises(redis.ResponseError, match="cluster support disabled"):
        client.execute_command(name)

    assert client.mget("k", "k") == [b"v", b"v"]
    assert client.client_id() == number
    app = Flask(__name__)
    app.config.update(REDIS_URL=server.url, REDIS_MAX_CONNECTIONS=1)
    manager = RedisManager(app)

    async def use() -> None:
        async with manager.get_async() as other:
            number = await other.client_id()

            with pytest.raises(redis.ResponseError, match="cluster support disabled"):
                await t.cast(t.Any, other).execute_command(name)

            assert await other.mget("k", "k") == [b"v", b"v"]
            assert await other.client_id() == number

    with app.app_context():
        asyncio.run(use())


def test_slots_that_were_not_read(server: Server) -> None:
    """After a connection was closed, the first reply is not taken for the nodes of a
    cluster.
    """
    client = client_of(URL=server.url)
    pool = client.connection_pool
    # The first one of all is not either, nor that of a pipeline.
    assert client.mget("a", "b") == [None, None]
    pipeline = client.pipeline(transaction=False)
    assert pipeline.mget("a", "b").execute() == [[None, None]]
    connection = pool.get_connection()
    connection.send_command("CLUSTER SLOTS")
    connection.disconnect()
    connection.connect()
    connection.send_command("MGET", "a", "b")
    assert connection.read_response() == [None, None]
    pool.release(connection)


#: The nodes of some slots: without a host in three ways, and with one.
SLOTS = array(
    *(b":0\r\n", b":16383\r\n"),
    *(array(host, b":6379\r\n", bulk("id")) for host in (bulk(""), bulk("?"))),
    *(array(host, b":6379\r\n", bulk("id")) for host in (b"$-1\r\n", bulk("h"))),
)


@pytest.mark.parametrize("decode", [False, True])
def test_slots_without_hosts(scripted: Scripted, decode: bool) -> None:
    """CLUSTER SLOTS names the host that replies for nodes without one, also if it is
    the first command of a connection. The next reply is left as it is.
    """
    config = {"URL": scripted.url, "PROTOCOL": 2, "DECODE_RESPONSES": decode}
    pool = client_of(**config).connection_pool
    connection = pool.get_connection()
    app = Flask(__name__)
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})
    manager = RedisManager(app)

    def check(slots: t.Any, other: t.Any) -> None:
        ((first, last, *nodes),) = slots
        assert (first, last) == (0, 16383)
        assert [node[0] for node in nodes] == ["127.0.0.1"] * 3 + ["h"]
        assert [node[1] for node in nodes] == [6379] * 4
        assert other[0][2][0] in ("", b"")

    async def use() -> None:
        async with manager.get_async() as client:
            pool: t.Any = client.connection_pool
            connection = await pool.get_connection()

            for name in (("CLUSTER SLOTS",), ("CLUSTER", "SLOTS")):
                await connection.disconnect()
                scripted.plan(b"CLUSTER SLOTS", array(SLOTS))
                scripted.plan(b"GET", array(SLOTS))
                await connection.send_command(*name)
                slots = await connection.read_response()
                await connection.send_command("GET", "k")
                check(slots, await connection.read_response())

            await pool.release(connection)

    for name in (("CLUSTER SLOTS",), ("CLUSTER", "SLOTS")):
        connection.disconnect()
        scripted.plan(b"CLUSTER SLOTS", array(SLOTS))
        scripted.plan(b"GET", array(SLOTS))
        connection.send_command(*name)
        slots = connection.read_response()
        connection.send_command("GET", "k")
        check(slots, connection.read_response())

    pool.release(connection)

    with app.app_context():
        asyncio.run(use())


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


@pytest.mark.parametrize(
    ("begin", "end"), [(("MULTI",), "DISCARD"), (("WATCH", "k"), "UNWATCH")]
)
def test_refused_end_of_a_transaction(
    own_server: Server, begin: tuple[str, ...], end: str
) -> None:
    """A transaction goes on if the user may not end it, so its connection is closed."""
    with own_server.admin() as admin:
        admin.acl_setuser(
            "app", enabled=True, nopass=True, keys="*", commands=["+@all", f"-{end}"]
        )

    app = Flask(__name__)
    app.config.update(REDIS_URL=f"redis://app:any@{own_server.address}")
    manager = RedisManager(app)
    pool = app.extensions["redis"]["REDIS"].connection_pool
    connection = pool.get_connection()
    connection.send_command(*begin)
    assert connection.read_response() == b"OK"
    connection.send_command(end)

    with pytest.raises(redis.exceptions.NoPermissionError):
        connection.read_response()

    pool.release(connection)
    assert not connection.is_open

    async def use() -> None:
        async with manager.get_async() as client:
            pool: t.Any = client.connection_pool
            connection = await pool.get_connection()
            await connection.send_command(*begin)
            assert await connection.read_response() == b"OK"
            await connection.send_command(end)

            with pytest.raises(redis.exceptions.NoPermissionError):
                await connection.read_response()

            await pool.release(connection)
            assert not connection.is_open

    with app.app_context():
        asyncio.run(use())


def run_one_by_one(connection: t.Any, commands: list[str]) -> None:
    for command in commands:
        connection.send_command(*command.split())

        with contextlib.suppress(redis.ResponseError, valkey.ResponseError):
            connection.read_response()


def run_packed(connection: t.Any, commands: list[str]) -> None:
    for command in commands:
        connection.send_packed_command(connection.pack_command(*command.split()))

        with contextlib.suppress(redis.ResponseError, valkey.ResponseError):
            connection.read_response()


def run_at_once(connection: t.Any, commands: list[str]) -> None:
    connection.send_packed_command(connection.pack_commands(map(str.split, commands)))

    for _ in commands:
        with contextlib.suppress(redis.ResponseError, valkey.ResponseError):
            connection.read_response()


async def run_one_by_one_async(connection: t.Any, commands: list[str]) -> None:
    for command in commands:
        await connection.send_command(*command.split())

        with contextlib.suppress(redis.ResponseError):
            await connection.read_response()


async def run_at_once_async(connection: t.Any, commands: list[str]) -> None:
    packed = connection.pack_commands(map(str.split, commands))
    await connection.send_packed_command(packed)

    for _ in commands:
        with contextlib.suppress(redis.ResponseError):
            await connection.read_response()


ALL_POOLS = [
    ("redis.Redis", "redis.ConnectionPool"),
    ("redis.Redis", "redis.BlockingConnectionPool"),
    ("valkey.Valkey", "valkey.ConnectionPool"),
]
#: Commands that do not end a transaction, because the server refuses some of them.
NOT_ENDED = [
    ["MULTI", "DISCARD x"],
    ["MULTI", "DISCARD x", "GET k"],
    ["WATCH k", "UNWATCH x"],
    ["WATCH k", "MULTI x", "EXEC"],
    ["WATCH k", "MULTI x", "DISCARD"],
    ["MULTI", "GET", "EXEC", "MULTI"],
    ["SELECT 1", "MULTI", "GET", "EXEC"],
]


@pytest.mark.parametrize("run", [run_one_by_one, run_packed, run_at_once])
@pytest.mark.parametrize(("library", "pool_class"), ALL_POOLS)
@pytest.mark.parametrize("commands", NOT_ENDED)
def test_transaction_that_is_not_ended(
    server: Server,
    commands: list[str],
    library: str,
    pool_class: str,
    run: cabc.Callable[[t.Any, list[str]], None],
) -> None:
    """If the server refuses to begin or to end a transaction, the connection is closed,
    because it goes on watching or queueing.
    """
    config = {"CLASS": library, "CONNECTION_POOL_CLASS": pool_class}
    client = client_of(URL=server.url, MAX_CONNECTIONS=1, **config)
    client.set("k", "v")
    connection = client.connection_pool.get_connection()
    run(connection, commands)
    client.connection_pool.release(connection)
    assert not connection.is_open
    assert client.get("k") == b"v"


@pytest.mark.parametrize("run", [run_one_by_one_async, run_at_once_async])
@pytest.mark.parametrize("commands", NOT_ENDED)
def test_transaction_that_is_not_ended_in_asyncio(
    server: Server,
    commands: list[str],
    run: cabc.Callable[[t.Any, list[str]], cabc.Awaitable[None]],
) -> None:
    """The same in asyncio."""

    async def use(client: t.Any) -> None:
        pool: t.Any = client.connection_pool
        connection = await pool.get_connection()
        await run(connection, commands)
        await pool.release(connection)
        assert not connection.is_open

    run_async(use, REDIS_URL=server.url, REDIS_MAX_CONNECTIONS=1)


@pytest.mark.parametrize("library", ["redis.Redis", "valkey.Valkey"])
def test_transaction_that_is_ended_after_an_error(server: Server, library: str) -> None:
    """EXEC ends a transaction with a command that the server has refused. The next one
    that is not refused ends what may go on.
    """
    config = {"URL": server.url, "CLASS": library, "MAX_CONNECTIONS": 1}
    client = client_of(**config)
    pool = client.connection_pool
    number = client.client_id()

    for run in (run_one_by_one, run_packed, run_at_once):
        connection = pool.get_connection()
        run(connection, ["WATCH k", "MULTI", "GET", "GET", "EXEC"])
        pool.release(connection)
        assert client.client_id() == number

    connection = pool.get_connection()
    run_one_by_one(connection, ["MULTI x", "MULTI", "EXEC"])
    pool.release(connection)
    assert client.client_id() == number


def test_transaction_that_is_ended_after_an_error_in_asyncio(server: Server) -> None:
    """The same in asyncio."""
    app = Flask(__name__)
    app.config.update(REDIS_URL=server.url, REDIS_MAX_CONNECTIONS=1)
    manager = RedisManager(app)

    async def use() -> None:
        async with manager.get_async() as other:
            client: t.Any = other
            number = await client.client_id()
            connection = await client.connection_pool.get_connection()
            await run_at_once_async(connection, ["WATCH k", "MULTI", "GET", "EXEC"])
            await client.connection_pool.release(connection)
            assert await client.client_id() == number

    with app.app_context():
        asyncio.run(use())


def test_end_that_is_not_sent(server: Server) -> None:
    """A command that cannot be packed, or that is interrupted before it is sent, does
    not end a transaction.
    """
    pool = client_of(URL=server.url).connection_pool

    def pack(connection: t.Any) -> None:
        connection.pack_commands([("DISCARD",)])

    def pack_others(connection: t.Any) -> None:
        pack(connection)
        packed = connection.pack_commands([("GET", "k")])
        connection.send_packed_command(packed)
        assert connection.read_response() == b"QUEUED"

    def pack_one_by_one(connection: t.Any) -> None:
        connection.pack_command("DISCARD")
        run_packed(connection, ["GET k"])

    def send_what_cannot_be_packed(connection: t.Any) -> None:
        with pytest.raises(redis.DataError):
            connection.send_command("DISCARD", object())

    for fail in (pack, pack_others, pack_one_by_one, send_what_cannot_be_packed):
        connection = pool.get_connection()
        run_one_by_one(connection, ["MULTI"])
        fail(connection)
        run_one_by_one(connection, ["GET k"])
        pool.release(connection)
        assert not connection.is_open

    # Nothing has begun either.
    connection = pool.get_connection()

    with pytest.raises(redis.DataError):
        connection.send_command("MULTI", object())

    run_one_by_one(connection, ["GET k"])
    pool.release(connection)
    assert connection.is_open


@pytest.mark.parametrize("library", ["redis.Redis", "valkey.Valkey"])
def test_packed_command(server: Server, library: str) -> None:
    """A command that is packed alone is like any other: it does not get the reply to an
    interrupted one, nor runs outside of the transaction that it belongs to.
    """
    client = client_of(URL=server.url, CLASS=library, MAX_CONNECTIONS=1)
    client.set("k", "v")
    pool = client.connection_pool
    connection = pool.get_connection()
    connection.send_command("ECHO", "late")
    connection.send_packed_command(connection.pack_command("GET", "k"))
    assert connection.read_response() == b"v"
    run_packed(connection, ["MULTI"])
    connection.disconnect()

    with pytest.raises(
        (redis.ConnectionError, valkey.ConnectionError), match="a transaction"
    ):
        connection.pack_command("DEL", "k")

    run_packed(connection, ["WATCH k"])
    connection.disconnect()
    # Nothing is watched any more.
    run_packed(connection, ["UNWATCH"])
    run_packed(connection, ["SELECT 1"])
    pool.release(connection)
    assert client.get("k") == b"v"


def test_end_that_is_not_sent_in_asyncio(server: Server) -> None:
    """The same in asyncio."""

    async def use(client: t.Any) -> None:
        pool: t.Any = client.connection_pool
        connection = await pool.get_connection()
        await run_one_by_one_async(connection, ["MULTI"])
        connection.pack_command("DISCARD")

        with pytest.raises(redis.DataError):
            connection.pack_command("DISCARD", object())

        await run_one_by_one_async(connection, ["GET k"])
        await pool.release(connection)
        assert not connection.is_open

    run_async(use, REDIS_URL=server.url)


def test_replies_that_were_not_read(server: Server) -> None:
    """In asyncio, commands may be sent before the replies to others are read."""

    async def use(client: t.Any) -> None:
        pool: t.Any = client.connection_pool

        for commands, is_clean in (
            (["MULTI", "GET k", "EXEC"], True),
            (["WATCH k", "UNWATCH"], True),
            (["SELECT 1", "WATCH k", "UNWATCH"], False),
            (["MULTI", "UNWATCH"], False),
        ):
            connection = await pool.get_connection()

            for command in commands:
                await connection.send_command(*command.split())

            for _ in commands:
                await connection.read_response()

            await pool.release(connection)
            assert connection.is_open == is_clean

    run_async(use, REDIS_URL=server.url)


TRANSACTION = "The connection was closed during a transaction."
DATABASE = "The connection was closed, and its database or user with it."


@pytest.mark.parametrize(
    ("commands", "last", "text"),
    [
        # The first ones were answered, the last one was not.
        (["WATCH k"], "GET k", TRANSACTION),
        (["MULTI"], "GET k", TRANSACTION),
        (["SELECT 1"], "GET k", DATABASE),
        (["AUTH default any"], "GET k", DATABASE),
        # Each of the changes counts.
        (["WATCH k", "SELECT 1"], "GET k", DATABASE),
        (["SELECT 1", "WATCH k"], "GET k", DATABASE),
        (["SELECT 1", "WATCH k"], "UNWATCH", DATABASE),
        # The server has refused the second one.
        (["WATCH k", "EXEC"], "GET k", TRANSACTION),
        # The caller knows that the last one was not answered.
        (["WATCH k"], "UNWATCH", None),
        (["MULTI"], "EXEC", None),
        ([], "WATCH k", None),
        ([], "SELECT 1", None),
        (["WATCH k", "UNWATCH"], "GET k", None),
    ],
)
def test_lost_state(
    server: Server,
    commands: list[str],
    last: str,
    text: str | None,
) -> None:
    """After an interruption, one command raises an error if the connection has lost a
    transaction, its database or its user.
    """
    pool = client_of(URL=server.url).connection_pool
    connection = pool.get_connection()
    run_one_by_one(connection, commands)
    connection.send_command(*last.split())

    if text is not None:
        with pytest.raises(redis.ConnectionError) as raised:
            connection.send_command("GET", "k")

        assert str(raised.value) == text
        assert is_unsent(raised.value)

    connection.send_command("GET", "k")
    assert connection.read_response() is None
    assert not connection.is_dirty
    pool.release(connection)


def test_lost_database_of_a_refused_command(server: Server) -> None:
    """The other commands that were sent together with a refused one have their effect,
    until the connection is closed.
    """
    pool = client_of(URL=server.url).connection_pool
    connection = pool.get_connection()
    run_at_once(connection, ["SELECT 1", "GET"])
    connection.send_command("GET", "k")

    with pytest.raises(redis.ConnectionError, match="its database or user"):
        connection.send_command("GET", "k")

    pool.release(connection)


@pytest.mark.parametrize("library", ["redis.Redis", "valkey.Valkey"])
def test_lost_database(server: Server, library: str) -> None:
    """A client that keeps its connection does not continue in another database when the
    connection was lost. Nothing is watched any more, which it is told once.
    """
    client = client_of(URL=server.url, CLASS=library)
    lost = (redis.ConnectionError, valkey.ConnectionError)

    with client.client() as held:
        for command in ("SELECT 1", "WATCH k"):
            assert held.execute_command(*command.split())
            client.client_kill_filter(_id=held.client_id())

            with pytest.raises(lost):
                held.set("k", "1")

            if command == "SELECT 1":
                with pytest.raises(lost, match="its database or user"):
                    held.set("k", "1")

            assert held.get("k") is None


def test_lost_database_in_asyncio(server: Server) -> None:
    """The same in asyncio, after a time limit."""

    async def use(client: t.Any) -> None:
        held: t.Any
        async with client.client() as held:
            await held.select(1)

            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(held.blpop("none", 5), 0.1)

            with pytest.raises(redis.ConnectionError, match="its database or user"):
                await held.set("k", "1")

            assert await held.get("k") is None

    run_async(use, REDIS_URL=server.url)


@pytest.mark.filterwarnings("ignore:.*SINGLE_CONNECTION_CLIENT:UserWarning")
def test_lost_database_is_not_retried(server: Server) -> None:
    """A client with a single connection, which has a deadline, does not try again."""
    client = client_of(URL=server.url, SINGLE_CONNECTION_CLIENT=True)
    client.select(1)
    client.connection.send_command("BLPOP", "none", 5)

    with pytest.raises(redis.ConnectionError, match="its database or user"):
        client.set("k", "1")

    assert client.get("k") is None
    client.close()


@pytest.mark.parametrize("name", ["ConnectionPool", "BlockingConnectionPool"])
@pytest.mark.parametrize("is_own", [False, True])
def test_another_database_of_a_pool(server: Server, name: str, is_own: bool) -> None:
    """The next user of a connection has lost nothing."""
    config: dict[str, t.Any] = {
        "URL": server.url,
        "CONNECTION_POOL_CLASS": f"redis.{name}",
        "MAX_CONNECTIONS": 1,
    }

    if is_own:
        pool = getattr(redis, name)(port=server.port, max_connections=1, protocol=2)
        config = {"CONNECTION_POOL": pool}

    client = client_of(**config)

    for _ in range(2):
        client.execute_command("SELECT", 1)
        assert client.client_info()["db"] == 0

    client.connection_pool.disconnect()


@pytest.mark.parametrize("command", ["SELECT 0", "CLIENT NO-TOUCH ON"])
def test_lost_watch_after_a_change(server: Server, command: str) -> None:
    """A pipeline that goes on after an interruption does not ignore that a key was
    changed that it has watched, also if it has changed its connection meanwhile.
    """
    client = client_of(URL=server.url)
    client.set("k", "1")

    with client.pipeline() as pipe:
        pipe.watch("k")

        # Some servers do not know all of the commands.
        with contextlib.suppress(redis.ResponseError):
            pipe.execute_command(*command.split())

        pipe.connection.send_command("BLPOP", "none", 5)
        client.set("k", "2")
        pipe.multi()

        with pytest.raises((redis.WatchError, redis.ConnectionError)):
            pipe.set("k", "3").execute()

    assert client.get("k") == b"2"


def test_lost_watch_after_a_change_in_asyncio(server: Server) -> None:
    """The same in asyncio."""

    async def use(client: t.Any) -> None:
        await client.set("k", "1")
        pipe: t.Any

        async with client.pipeline() as pipe:
            await pipe.watch("k")
            await pipe.execute_command("SELECT", 0)

            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(pipe.blpop("none", 5), 0.05)

            await client.set("k", "2")
            pipe.multi()

            with pytest.raises((redis.WatchError, redis.ConnectionError)):
                await pipe.set("k", "3").execute()

        assert await client.get("k") == b"2"

    run_async(use, REDIS_URL=server.url)


def test_refused_transaction(own_server: Server) -> None:
    """If the server refuses MULTI, the error of EXEC says why. Later errors do not."""
    with own_server.admin() as admin:
        admin.acl_setuser(
            "app", enabled=True, nopass=True, keys="*", commands=["+@all", "-multi"]
        )

    app = Flask(__name__)
    app.config.update(REDIS_URL=f"redis://app:any@{own_server.address}")
    manager = RedisManager(app)
    expected = r"^EXEC without MULTI: .*permission"

    async def use() -> None:
        async with manager.get_async() as client:
            pipeline: t.Any = client.pipeline()

            with pytest.raises(redis.ResponseError, match=expected):
                await pipeline.get("k").execute()

    with app.app_context():
        client: t.Any = manager.get()

        with pytest.raises(redis.ResponseError, match=expected):
            client.pipeline().get("k").execute()

        # The first refusal counts.
        pipeline = client.pipeline()
        pipeline.execute_command("GET")

        with pytest.raises(redis.ResponseError, match=expected):
            pipeline.execute()

        with client.client() as held:
            with pytest.raises(redis.ResponseError):
                held.execute_command("UNWATCH", "x")

            with pytest.raises(redis.ResponseError, match="^EXEC without MULTI$"):
                held.execute_command("EXEC")

            # Another error does not say it.
            packed = held.connection.pack_commands([("UNWATCH", "x"), ("GET",)])
            held.connection.send_packed_command(packed)

            for name in ("unwatch", "get"):
                with pytest.raises(redis.ResponseError, match=f"'{name}' command$"):
                    held.connection.read_response()

            # The connection is closed before the second reply is read.
            packed = held.connection.pack_commands([("UNWATCH", "x"), ("GET", "k")])
            held.connection.send_packed_command(packed)

            with pytest.raises(redis.ResponseError):
                held.connection.read_response()

            for _ in range(2):
                with pytest.raises(redis.ResponseError, match="^EXEC without MULTI$"):
                    held.execute_command("EXEC")

                held.connection.disconnect()

        asyncio.run(use())


def test_error_after_a_transaction(own_server: Server) -> None:
    """A command that is refused later does not close the connection."""
    with own_server.admin() as admin:
        admin.acl_setuser(
            "app", enabled=True, nopass=True, keys="*", commands=["+@all", "-incrby"]
        )

    client = client_of(URL=f"redis://app:any@{own_server.address}", MAX_CONNECTIONS=1)
    number = client.client_id()
    assert client.pipeline().get("k").execute() == [None]

    with pytest.raises(redis.exceptions.NoPermissionError):
        client.incr("k")

    assert client.client_id() == number


def test_transactions_keep_their_connection(server: Server) -> None:
    """A transaction that has ended leaves a clean connection, in any spelling."""
    client = client_of(URL=server.url, MAX_CONNECTIONS=1)
    number = client.client_id()

    with client.pipeline() as pipeline:
        pipeline.watch("k")
        pipeline.unwatch()

    with client.pipeline() as pipeline:
        pipeline.watch("k")
        pipeline.multi()
        pipeline.get("k").execute()

    connection = client.connection_pool.get_connection()

    for name in ("MULTI", "exec", b"Watch k", "UNWATCH"):
        connection.send_command(name)
        connection.read_response()

    client.connection_pool.release(connection)
    assert client.client_id() == number

    # One that has not ended does not.
    connection = client.connection_pool.get_connection()

    for arguments in (("WATCH", "k"), ("GET", "k")):
        connection.send_command(*arguments)
        connection.read_response()

    client.connection_pool.release(connection)
    assert client.client_id() != number


def test_unwatch_within_a_transaction(server: Server) -> None:
    """UNWATCH does not end a transaction, so its connection is closed."""
    client = client_of(URL=server.url, MAX_CONNECTIONS=1)
    client.set("k", "v")
    pipeline = client.pipeline(transaction=False)

    for name in ("MULTI", "UNWATCH", "UNWATCH"):
        pipeline.execute_command(name)

    assert len(pipeline.execute()) == 3
    assert client.get("k") == b"v"
    number = client.client_id()
    connection = client.connection_pool.get_connection()

    for name in ("MULTI", "UNWATCH", "EXEC", "WATCH k", "UNWATCH"):
        connection.send_command(*name.split())
        connection.read_response()

    client.connection_pool.release(connection)
    assert client.client_id() == number


@pytest.mark.parametrize("name", ["DISCARD", "EXEC"])
def test_end_without_a_transaction(server: Server, name: str) -> None:
    """Without MULTI, the server refuses these, and goes on watching, so the connection
    is closed.
    """
    pool = client_of(URL=server.url, MAX_CONNECTIONS=1).connection_pool
    connection = pool.get_connection()
    connection.send_command("WATCH", "k")
    connection.read_response()
    connection.send_command(name)

    with pytest.raises(redis.ResponseError, match="without MULTI"):
        connection.read_response()

    pool.release(connection)
    assert not connection.is_open


def test_transactions_keep_their_connection_in_asyncio(server: Server) -> None:
    """The same in asyncio."""
    app = Flask(__name__)
    app.config.update(REDIS_URL=server.url, REDIS_MAX_CONNECTIONS=1)
    manager = RedisManager(app)

    async def use() -> None:
        async with manager.get_async() as other:
            client: t.Any = other
            number = await client.client_id()
            assert await client.pipeline().get("k").execute() == [None]
            assert await client.client_id() == number
            connection = await client.connection_pool.get_connection()

            for arguments in (("WATCH", "k"), ("GET", "k")):
                await connection.send_command(*arguments)
                await connection.read_response()

            await client.connection_pool.release(connection)
            assert await client.client_id() != number

    with app.app_context():
        asyncio.run(use())


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

    async def use(client: t.Any) -> None:
        assert await client.get("k") is not None

    run_async(use, REDIS_URL=scripted.url, REDIS_PROTOCOL="2")

    assert scripted.names() == [b"GET"]
