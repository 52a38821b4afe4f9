"""The pool never lends a connection that is half open, stale or dead."""

from __future__ import annotations

import asyncio
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
from unittest import mock

import pytest
import redis
import valkey
from flask import Flask
from redis.cache import CacheConfig

from flask_and_redis import ConfigError
from flask_and_redis import RedisManager

from .conftest import Starter
from .cutter import Cutter
from .prefixes import DATABASE
from .prefixes import KEYS
from .prefixes import make_prefix
from .prefixes import NAMES
from .prefixes import PASSWORD
from .prefixes import Prefix
from .prefixes import prepare_server
from .prefixes import USER
from .scripted import push
from .scripted import Scripted
from .servers import Sentinels
from .servers import Server
from .servers import wait_until

CLASSES = {"redis": "redis.Redis", "valkey": "valkey.Valkey"}
#: In scripts of Redis 6.2, this is not a ReadOnlyError.
READ_ONLY = (redis.ResponseError, valkey.exceptions.ResponseError)
ENGINES = ["server", "unix", "tls", "sentinel", "cluster", "valkey"]


def run_async(prefix: Prefix, use: cabc.Callable[[t.Any], t.Any]) -> t.Any:
    """Run a coroutine function with an asynchronous client."""

    async def main() -> t.Any:
        async with prefix.manager.get_async() as client:
            return await use(client)

    with prefix.app.app_context():
        return asyncio.run(main())


# Half open


class Vault(redis.CredentialProvider):
    """A credential provider whose source is unreachable the next so many times."""

    def __init__(self) -> None:
        self.failures = 0

    def get_credentials(self) -> tuple[str, str]:
        if self.failures:
            self.failures -= 1
            raise OSError("The vault is unreachable.")

        return USER, PASSWORD


class ValkeyVault(valkey.CredentialProvider):
    """The same for valkey-py."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault

    def get_credentials(self) -> tuple[str, str]:
        return self.vault.get_credentials()


def with_vault(
    request: pytest.FixtureRequest, engine: str, protocol: int
) -> tuple[Prefix, Vault]:
    """A prefix that logs in with credentials of a vault."""
    vault = Vault()
    provider: t.Any = ValkeyVault(vault) if engine == "valkey" else vault

    if engine == "cluster":
        for node in request.getfixturevalue("cluster").nodes[:3]:
            prepare_server(node, keys=False)

    prefix = make_prefix(
        request,
        engine,
        PROTOCOL=protocol,
        CREDENTIAL_PROVIDER=provider,
        USERNAME=None,
        PASSWORD=None,
    )
    return prefix, vault


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("engine", ENGINES)
def test_provider_fails_once(
    request: pytest.FixtureRequest, engine: str, protocol: int
) -> None:
    """After the credential provider has raised, the next command logs in, and selects
    the database.
    """
    prefix, vault = with_vault(request, engine, protocol)
    prefix.check()

    for use in (
        prefix.client.get,
        lambda key: prefix.client.pipeline().get(key).execute(),
    ):
        prefix.disconnect()
        vault.failures = 1

        with pytest.raises(OSError, match="The vault is unreachable"):
            use("a")

        assert vault.failures == 0
        prefix.check()


@pytest.mark.parametrize("engine", ["server", "unix", "sentinel", "valkey"])
def test_provider_fails_once_in_asyncio(
    request: pytest.FixtureRequest, engine: str
) -> None:
    """The same in asyncio."""
    prefix, vault = with_vault(request, engine, 3)

    async def use(client: t.Any) -> None:
        vault.failures = 1

        # On a Unix socket, this is a failure to connect, which is retried.
        with contextlib.suppress(OSError):
            await client.get("a")

        assert vault.failures == 0

        for key in KEYS:
            assert await client.get(key) == prefix.value(key)

        assert await client.execute_command("ACL WHOAMI") in NAMES

    run_async(prefix, use)


def make_scripted(scripted: Scripted, **config: t.Any) -> t.Any:
    """A client of a scripted server that requires a login."""
    scripted.users = {USER: PASSWORD}
    app = Flask("scripted")
    defaults = {
        "URL": f"{scripted.url}/{DATABASE}",
        "USERNAME": USER,
        "PASSWORD": PASSWORD,
        "SOCKET_TIMEOUT": 0.3,
        "RETRY_DEADLINE": 2,
    }
    app.config.update(
        {f"REDIS_{name}": value for name, value in (defaults | config).items()}
    )
    RedisManager(app)
    return app.extensions["redis"]["REDIS"]


def check_scripted(client: t.Any) -> None:
    for key in KEYS:
        assert client.get(key) == f"{DATABASE} {USER} {key}".encode()


@pytest.mark.parametrize("fault", [b"-ERR refused\r\n", b"-LOADING\r\n", None])
@pytest.mark.parametrize(
    ("protocol", "command"),
    [(2, b"AUTH"), (3, b"HELLO"), (2, b"SELECT"), (3, b"SELECT")],
)
@pytest.mark.parametrize("library", CLASSES)
def test_login_fails(
    scripted: Scripted,
    library: str,
    protocol: int,
    command: bytes,
    fault: bytes | None,
) -> None:
    """Whatever goes wrong in a login, no command runs as another user or in another
    database.
    """
    client = make_scripted(scripted, PROTOCOL=protocol, CLASS=CLASSES[library])
    scripted.plan(command, fault)

    try:
        # A login that was not answered is tried again.
        assert client.get("own") == f"{DATABASE} {USER} own".encode()
    except (redis.RedisError, valkey.ValkeyError) as error:
        assert fault is not None, error

    check_scripted(client)
    used = {number for number, (name, *_) in scripted.requests if name == b"GET"}
    assert used == {scripted.connections}


# Stale: the server is no longer the master


@pytest.fixture
def moved(
    cutter: Cutter, own_server: Server, server: Server
) -> cabc.Callable[[], None]:
    """Moves the cutter's address from one server to another, which becomes its master.
    Connections to the first one stay open.
    """
    cutter.upstream = own_server.port

    def move() -> None:
        with own_server.admin() as admin:
            admin.replicaof("127.0.0.1", str(server.port))

        # It refuses writes from now on, even before it has copied the data.
        cutter.upstream = server.port

    return move


def increment(client: t.Any) -> int:
    value: int = client.incr("n")
    return value


def increment_in_pipeline(client: t.Any) -> int:
    return int(client.pipeline(transaction=False).incr("n").set("k", 1).execute()[0])


def increment_in_transaction(client: t.Any) -> int:
    return int(client.pipeline().get("n").incr("n").get("n").execute()[1])


def increment_in_script(client: t.Any) -> int:
    script = client.register_script("return redis.call('incr', KEYS[1])")
    return int(script(keys=["n"]))


def increment_in_eval(client: t.Any) -> int:
    return int(client.eval("return redis.call('incr', KEYS[1])", 1, "n"))


def increment_in_scripted_pipeline(client: t.Any) -> int:
    script = client.register_script("return redis.call('incr', KEYS[1])")
    pipeline = client.pipeline()
    script(keys=["n"], client=pipeline)
    return int(pipeline.execute()[0])


WRITES = [
    increment,
    increment_in_pipeline,
    increment_in_transaction,
    increment_in_script,
    increment_in_eval,
    increment_in_scripted_pipeline,
]


def make_client(url: str, **config: t.Any) -> t.Any:
    return Prefix(URL=url, MAX_CONNECTIONS=None, **config).client


@pytest.mark.parametrize("retry", [None, 0])
@pytest.mark.parametrize("write", WRITES)
def test_moved_address(
    cutter: Cutter,
    moved: cabc.Callable[[], None],
    write: cabc.Callable[[t.Any], int],
    retry: int | None,
) -> None:
    """After a failover by address, a write that the old master refuses is sent to the
    new one, even with RETRY = 0. It is counted once.
    """
    client = make_client(cutter.url, RETRY=retry)
    assert write(client) == 1
    moved()
    connections = cutter.connections
    client_n = write(client)
    assert client_n == increment(client) - 1 == 1
    assert cutter.connections == connections + 1


def test_moved_address_and_other_commands(
    cutter: Cutter, moved: cabc.Callable[[], None]
) -> None:
    """With RETRY = 0, a pipeline is not sent again if the old master ran a part of it.
    The next one reaches the new master.
    """
    client = make_client(cutter.url, RETRY=0)
    client.ping()
    moved()

    with pytest.raises(redis.ReadOnlyError):
        client.pipeline(transaction=False).publish("c", "m").incr("n").execute()

    pipeline = client.pipeline(transaction=False).publish("c", "m").incr("n")
    assert pipeline.execute() == [0, 1]


def test_moved_address_and_an_asynchronous_pipeline(
    cutter: Cutter, moved: cabc.Callable[[], None]
) -> None:
    """An asynchronous pipeline that the old master refuses is sent to the new one, also
    if its errors are replies. The first one counts.
    """
    app = Flask(__name__)
    app.config.update(REDIS_URL=cutter.url, REDIS_RETRY=0)
    manager = RedisManager(app)

    async def use() -> None:
        async with manager.get_async() as client:
            await client.ping()
            moved()
            pipeline: t.Any = client.pipeline(transaction=False)
            pipeline.incr("n").execute_command("INCR")
            first, second = await pipeline.execute(raise_on_error=False)
            assert first == 1 and isinstance(second, redis.ResponseError)

    with app.app_context():
        asyncio.run(use())


@pytest.mark.parametrize("raise_on_error", [True, False])
@pytest.mark.parametrize("transaction", [True, False])
def test_moved_address_and_errors_as_replies(
    cutter: Cutter,
    moved: cabc.Callable[[], None],
    transaction: bool,
    raise_on_error: bool,
) -> None:
    """A pipeline that is to return errors reaches the new master, too."""
    client = make_client(cutter.url)
    client.ping()
    moved()
    pipeline = client.pipeline(transaction=transaction)
    pipeline.incr("n").incr("n")
    assert pipeline.execute(raise_on_error=raise_on_error) == [1, 2]


def test_moved_address_and_a_wrong_command(
    cutter: Cutter, moved: cabc.Callable[[], None]
) -> None:
    """The first error tells that the old master refuses a pipeline."""
    client = make_client(cutter.url)
    client.ping()
    moved()
    pipeline = client.pipeline(transaction=False).incr("n")
    pipeline.execute_command("INCR")
    first, second = pipeline.execute(raise_on_error=False)
    assert first == 1 and isinstance(second, redis.ResponseError)


def test_moved_address_and_one_reply(
    cutter: Cutter, moved: cabc.Callable[[], None]
) -> None:
    """A pipeline of which the old master has run a part is not sent again."""
    client = make_client(cutter.url)
    client.ping()
    moved()
    pipeline = client.pipeline(transaction=False).incr("n").get("n")
    first, second = pipeline.execute(raise_on_error=False)
    assert isinstance(first, redis.ReadOnlyError) and second is None
    assert increment(client) == 1


FAILS = "redis.call('INCR', 'n') return redis.error_reply('ERR no')"


def test_pipeline_of_which_all_fails(server: Server) -> None:
    """It is not sent again if the errors are those of the commands."""
    client = make_client(server.url)
    pipeline = client.pipeline(transaction=False).eval(FAILS, 0).execute_command("INCR")
    assert all(
        isinstance(reply, redis.ResponseError)
        for reply in pipeline.execute(raise_on_error=False)
    )
    assert client.get("n") == b"1"


def test_failing_pipelines_in_asyncio(
    cutter: Cutter, moved: cabc.Callable[[], None]
) -> None:
    """Neither is sent again in asyncio."""
    prefix = Prefix(URL=cutter.url)

    async def use(client: t.Any) -> None:
        pipeline = client.pipeline(transaction=False)
        pipeline.eval(FAILS, 0).execute_command("GET")
        replies = await pipeline.execute(raise_on_error=False)
        assert [type(reply) for reply in replies] == [redis.ResponseError] * 2
        assert await client.get("n") == b"1"
        await asyncio.to_thread(moved)
        pipeline = client.pipeline(transaction=False).incr("n").get("k")
        first, second = await pipeline.execute(raise_on_error=False)
        assert isinstance(first, redis.ReadOnlyError) and second is None

    run_async(prefix, use)


@pytest.mark.parametrize("library", CLASSES)
@pytest.mark.parametrize("protocol", [2, 3])
def test_moved_address_of_many_connections(
    cutter: Cutter, moved: cabc.Callable[[], None], protocol: int, library: str
) -> None:
    """Each of the connections to the old master is replaced. No write fails."""
    client = make_client(cutter.url, RETRY=0, PROTOCOL=protocol, CLASS=CLASSES[library])
    together = threading.Barrier(4)

    def write(_: int) -> int:
        together.wait()
        client.eval("for n = 1, 1e5 do end return 1", 0)
        together.wait()
        return increment(client)

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(write, range(4))) == [1, 2, 3, 4]
        moved()
        assert sorted(threads.map(write, range(4))) == [1, 2, 3, 4]


def test_moved_address_in_asyncio(
    cutter: Cutter, moved: cabc.Callable[[], None]
) -> None:
    """The same in asyncio."""
    prefix = Prefix(URL=cutter.url, RETRY=0)

    async def use(client: t.Any) -> None:
        for transaction in (False, True):
            assert await client.pipeline(transaction).incr("p").execute() == [
                transaction + 1
            ]

        await asyncio.to_thread(moved)
        assert await client.incr("n") == 1
        assert await client.eval("return redis.call('incr', KEYS[1])", 1, "n") == 2

        for transaction in (False, True):
            pipeline = client.pipeline(transaction).incr("n")
            assert await pipeline.execute() == [transaction + 3]

    run_async(prefix, use)


def write_after_watch(client: t.Any) -> None:
    with client.pipeline() as pipeline:
        pipeline.watch("k")
        pipeline.multi()
        pipeline.incr("n").execute()


def write_and_return_errors(client: t.Any) -> None:
    pipeline = client.pipeline(transaction=False).get("k").incr("n")
    _, reply = pipeline.execute(raise_on_error=False)

    if isinstance(reply, Exception):
        raise reply


def write_on_one_connection(client: t.Any) -> None:
    with client.client() as held:
        held.incr("n")


@pytest.mark.parametrize("library", CLASSES)
@pytest.mark.parametrize("name", ["ConnectionPool", "BlockingConnectionPool"])
@pytest.mark.parametrize(
    "write", [write_after_watch, write_and_return_errors, write_on_one_connection]
)
def test_moved_address_and_commands_that_are_not_retried(
    cutter: Cutter,
    moved: cabc.Callable[[], None],
    write: cabc.Callable[[t.Any], None],
    name: str,
    library: str,
) -> None:
    """A command fails once if it is refused and not retried. The next ones reach the
    new master, on all connections.
    """
    config = {"CLASS": CLASSES[library], "CONNECTION_POOL_CLASS": f"{library}.{name}"}
    client = make_client(cutter.url, **config)
    pool = client.connection_pool
    # valkey-py wants a name.
    arguments = ["_"] if library == "valkey" else []
    used = [pool.get_connection(*arguments) for _ in range(2)]

    for connection in used:
        pool.release(connection)

    moved()

    with pytest.raises(READ_ONLY):
        write(client)

    used = [pool.get_connection(*arguments) for _ in range(2)]

    for connection in used:
        connection.send_command("INCR", "n")
        connection.read_response()
        pool.release(connection)

    write(client)
    assert client.get("n") == b"3"


def test_moved_address_and_async_commands_that_are_not_retried(
    cutter: Cutter, moved: cabc.Callable[[], None]
) -> None:
    """The same in asyncio."""
    prefix = Prefix(URL=cutter.url, MAX_CONNECTIONS=2)

    async def use(client: t.Any) -> None:
        pool = client.connection_pool
        used = [await pool.get_connection() for _ in range(2)]

        for connection in used:
            await pool.release(connection)

        await asyncio.to_thread(moved)

        with pytest.raises(redis.ReadOnlyError):
            async with client.client() as held:
                await held.incr("n")

        used = [await pool.get_connection() for _ in range(2)]

        for connection in used:
            await connection.send_command("INCR", "n")
            await connection.read_response()
            await pool.release(connection)

        assert await client.get("n") == b"2"

    run_async(prefix, use)


@pytest.mark.parametrize("library", CLASSES)
@pytest.mark.parametrize("retry", [None, 0])
@pytest.mark.parametrize("write", WRITES)
def test_replica_on_purpose(
    cutter: Cutter,
    moved: cabc.Callable[[], None],
    own_server: Server,
    write: cabc.Callable[[t.Any], int],
    retry: int | None,
    library: str,
) -> None:
    """A write to a replica fails after one new connection. Reads work."""
    moved()
    cutter.upstream = own_server.port
    client = make_client(cutter.url, RETRY=retry, CLASS=CLASSES[library])
    assert client.get("n") is None
    connections = cutter.connections

    with pytest.raises(READ_ONLY, match="You can't write against a read only replica"):
        write(client)

    assert cutter.connections == connections + 1
    assert client.get("n") is None


@pytest.mark.parametrize("protocol", [2, 3])
def test_replica_behind_sentinels(
    request: pytest.FixtureRequest, protocol: int
) -> None:
    """The same for a replica that sentinels name."""
    sentinels = request.getfixturevalue("shared_sentinels")
    url = f"redis+sentinel://{sentinels.address}/mymaster?role=replica"
    client = make_client(url, PROTOCOL=protocol, RETRY=0)

    # Each new connection may lead to another replica, which has other scripts.
    for write in (increment, increment_in_pipeline, increment_in_transaction):
        with pytest.raises(redis.ReadOnlyError):
            write(client)

    assert client.get("n") is None


def test_pipeline_to_a_replaced_master(sentinels: Sentinels) -> None:
    """With RETRY = 0, a pipeline is not sent again if a command after its first one is
    refused, because the master behind sentinels has become a replica.
    """
    url = f"redis+sentinel://{sentinels.address}/mymaster"
    client = make_client(url, RETRY=0)
    client.set("k", "v")
    old, new, _ = sentinels.servers

    with new.admin() as admin:
        admin.replicaof("NO", "ONE")

    with old.admin() as admin:
        admin.replicaof("127.0.0.1", new.port)
        admin.config_resetstat()

    with pytest.raises(redis.ConnectionError):
        client.pipeline(transaction=False).publish("c", "x").set("k", "v").execute()

    with old.admin() as admin:
        assert admin.info("commandstats")["cmdstat_publish"]["calls"] == 1


# Stale: idle for too long


def connection_id(client: t.Any) -> int:
    """The number of the connection that a command uses."""
    options = {}

    if hasattr(client, "get_node_from_key"):
        options = {"target_nodes": client.get_node_from_key("a")}

    return int(client.client_id(**options))


@pytest.mark.parametrize("engine", ENGINES)
def test_max_idle(
    request: pytest.FixtureRequest, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was idle for longer than MAX_IDLE is replaced before its next
    use, and closed.
    """
    prefix = make_prefix(request, engine, MAX_IDLE="0.5", RETRY=0)
    client = prefix.client
    real, shift = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: real() + shift)
    first = connection_id(client)
    shift += 0.7
    second = connection_id(client)
    assert second != first
    prefix.check()
    shift += 0.7
    assert client.pipeline().get("a").execute() == [prefix.value("a")]
    assert connection_id(client) != second
    prefix.check()


def test_max_idle_is_not_reached(request: pytest.FixtureRequest) -> None:
    """A connection that is used often enough is kept."""
    prefix = make_prefix(request, "server", MAX_IDLE=30)
    first = connection_id(prefix.client)

    for _ in range(3):
        time.sleep(0.1)
        assert connection_id(prefix.client) == first


def test_max_idle_closes_connections(server: Server) -> None:
    """The server does not keep connections that were replaced."""
    client = make_client(server.url, MAX_IDLE=0.3, CLIENT_NAME="idle")
    together = threading.Barrier(3)

    def use(_: int) -> None:
        together.wait()
        client.eval("for n = 1, 1e6 do end return 1", 0)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(use, range(3)))
        time.sleep(0.5)
        list(threads.map(use, range(3)))

    def names() -> list[str]:
        with server.admin() as admin:
            return [connection["name"] for connection in admin.client_list()]

    wait_until(lambda: names().count("idle") <= 3, "old connections are closed")


def test_max_idle_default(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default, a connection is replaced after 300 s."""
    prefix = make_prefix(request, "server")
    real, shift = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: real() + shift)
    first = connection_id(prefix.client)
    shift += 280
    assert connection_id(prefix.client) == first
    shift += 310
    assert connection_id(prefix.client) != first


def test_max_idle_in_asyncio(request: pytest.FixtureRequest) -> None:
    """Connections of asyncio are replaced, too."""
    prefix = make_prefix(request, "server", MAX_IDLE=0.3)

    async def use(client: t.Any) -> None:
        first = await client.client_id()
        assert await client.client_id() == first
        await asyncio.sleep(0.5)
        assert await client.client_id() != first

    run_async(prefix, use)


def test_max_idle_behind_a_firewall(scripted: Scripted) -> None:
    """No command is sent on a connection that a firewall may have dropped silently."""
    client = make_scripted(scripted, MAX_IDLE=0.3, RETRY=0)
    check_scripted(client)
    first = scripted.connections
    sent = scripted.names(first)
    time.sleep(0.5)
    check_scripted(client)
    assert scripted.names(first) == sent


def test_max_idle_of_a_fake_server() -> None:
    """The setting may stay in tests."""
    client = make_client("fakeredis://", MAX_IDLE=0.01)
    client.set("a", 1)
    time.sleep(0.1)
    assert client.get("a") == b"1"


def test_max_idle_must_be_a_number(app: Flask) -> None:
    app.config.update(REDIS_URL="redis://h", REDIS_MAX_IDLE="soon")

    with pytest.raises(ConfigError, match="'REDIS_MAX_IDLE'"):
        RedisManager(app)


@pytest.mark.parametrize("engine", ENGINES)
def test_closed_by_the_server(request: pytest.FixtureRequest, engine: str) -> None:
    """A connection that the server has closed since its last use is replaced, so that
    no command fails, even with RETRY = 0. This may be a moment after that use.
    """
    prefix = make_prefix(request, engine, RETRY=0)
    prefix.check()

    if engine == "cluster":
        servers = request.getfixturevalue("cluster").nodes[:3]
    elif engine == "sentinel":
        servers = request.getfixturevalue("shared_sentinels").servers[:1]
    else:
        servers = [
            request.getfixturevalue("tls_server" if engine == "tls" else "server")
        ]

    admins = [server.admin() for server in servers]

    for _ in range(10):
        for admin in admins:
            admin.client_kill_filter(_type="normal", skipme=True)

        prefix.check()

    for admin in admins:
        admin.close()


def test_closed_by_the_server_at_once(
    request: pytest.FixtureRequest, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, 0.05 ms after its last use. Within a round trip, nobody looks."""
    prefix = make_prefix(request, "server", RETRY=0)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    prefix.check()

    with server.admin() as admin:
        admin.client_kill_filter(_type="normal", skipme=True)

    now += 0.00005
    prefix.check()


# Health checks


@pytest.mark.parametrize("library", CLASSES)
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("answer", [None, b"-LOADING\r\n"])
def test_health_check_is_not_answered(
    scripted: Scripted, answer: bytes | None, protocol: int, library: str
) -> None:
    """If the PING of a health check is not answered, the command was not sent. It is
    sent on a new connection, even with RETRY = 0.
    """
    config = {"RETRY": 0, "PROTOCOL": protocol, "HEALTH_CHECK_INTERVAL": 1}
    clients = [
        make_scripted(scripted, CLASS=CLASSES[library], **config) for _ in range(2)
    ]

    def use(client: t.Any) -> t.Any:
        return client.get("own")

    def use_pipeline(client: t.Any) -> t.Any:
        return client.pipeline().get("own").execute()[0]

    for client in clients:
        check_scripted(client)

    time.sleep(1.1)

    for number, (client, function) in enumerate(
        zip(clients, (use, use_pipeline), strict=True), start=1
    ):
        scripted.plan(b"PING", answer)
        opened = scripted.connections
        before = scripted.names().count(b"GET")
        assert function(client) == f"{DATABASE} {USER} own".encode()
        assert scripted.names(number)[-1] == b"PING"
        assert scripted.connections == opened + 1
        assert scripted.names().count(b"GET") == before + 1


def test_health_check_in_asyncio(scripted: Scripted) -> None:
    """The same in asyncio."""
    scripted.users = {}
    prefix = Prefix(
        URL=scripted.url, RETRY=0, HEALTH_CHECK_INTERVAL=1, SOCKET_TIMEOUT=0.3
    )

    async def use(client: t.Any) -> None:
        assert await client.get("own") == b"0 default own"
        await asyncio.sleep(1.1)
        scripted.plan(b"PING", None)
        assert await client.get("a") == b"0 default a"
        assert scripted.names().count(b"GET") == 2

    run_async(prefix, use)


# Pushes and maintenance notifications


@pytest.mark.parametrize("library", CLASSES)
def test_push_to_an_idle_connection(scripted: Scripted, library: str) -> None:
    """A push that arrives between two commands is not taken for a reply."""
    client = make_scripted(scripted, PROTOCOL=3, RETRY=0, CLASS=CLASSES[library])

    for _ in range(3):
        check_scripted(client)
        scripted.push(push("message", "channel", "text"))
        time.sleep(0.05)

    check_scripted(client)


def maintenance_requests(scripted: Scripted) -> list[list[bytes]]:
    return [
        arguments
        for _, arguments in scripted.requests
        if arguments[:2] == [b"CLIENT", b"MAINT_NOTIFICATIONS"]
    ]


def test_interrupted_after_an_invalidation(start: Starter) -> None:
    """With a cache, what the server sends to invalidate a value is not taken for the
    reply of a command, and does not close the connection.
    """
    server = start(Server, kind="redis8")
    app = Flask(__name__)
    app.config.update(REDIS_URL=server.url, REDIS_CACHE_CONFIG=CacheConfig())
    app.config["REDIS_PROTOCOL"] = 3

    with pytest.warns(UserWarning, match="'REDIS_CACHE_CONFIG' is not safe"):
        manager = RedisManager(app)

    with app.app_context(), redis.Redis(port=server.port) as other:
        client: t.Any = manager.get()
        other.mset({"kept": "1", "changed": "1", "next": "1"})
        assert client.get("kept") == client.get("changed") == b"1"
        number = client.client_id()
        other.set("changed", "2")
        wait_until(lambda: client.get("changed") == b"2", "the invalidation")
        assert client.client_id() == number

        # Only the invalidation is read before this command, whose reply comes late.
        other.set("changed", "3")
        connection = client.connection_pool.get_connection()
        wait_until(connection.can_read, "the invalidation")
        connection.send_command("BLPOP", "nothing", 1)
        client.connection_pool.release(connection)
        assert client.get("next") == b"1"


def test_connection_of_another_pool(server: Server) -> None:
    """A connection that is not the pool's is ignored when it is returned, as by
    redis-py.
    """
    app = Flask(__name__)
    app.config["REDIS_URL"] = server.url
    RedisManager(app)
    pool = app.extensions["redis"]["REDIS"].connection_pool
    connection = t.cast(t.Any, redis.Connection)(port=server.port)
    pool.release(connection)
    assert pool.get_connection() is not connection


@pytest.mark.parametrize("value", [None, False, "false", "no"])
def test_no_maintenance_notifications(scripted: Scripted, value: t.Any) -> None:
    """By default, a connection does not ask for them."""
    client = make_scripted(scripted, PROTOCOL=3, MAINT_NOTIFICATIONS=value)
    check_scripted(client)
    assert maintenance_requests(scripted) == []


def test_no_maintenance_notifications_in_asyncio(scripted: Scripted) -> None:
    prefix = Prefix(URL=scripted.url, PROTOCOL=3)

    async def use(client: t.Any) -> None:
        assert await client.get("own") == b"0 default own"

    run_async(prefix, use)
    assert maintenance_requests(scripted) == []


def test_no_maintenance_notifications_of_a_ping(scripted: Scripted, app: Flask) -> None:
    """A ping does not ask for them, even if the application's own pool does."""
    pytest.importorskip("redis.maint_notifications")
    app.config["REDIS_CONNECTION_POOL"] = redis.ConnectionPool.from_url(
        scripted.url, protocol=3
    )
    manager = RedisManager(app)

    with app.app_context():
        assert manager.get().get("own") == b"0 default own"
        assert len(maintenance_requests(scripted)) == 1
        assert manager.ping()["REDIS"].ok

    assert len(maintenance_requests(scripted)) == 1


@pytest.mark.parametrize("value", [True, "true", "auto"])
def test_maintenance_notifications(scripted: Scripted, value: t.Any) -> None:
    """A setting turns them on."""
    pytest.importorskip("redis.maint_notifications")
    client = make_scripted(scripted, PROTOCOL=3, MAINT_NOTIFICATIONS=value)
    check_scripted(client)
    assert maintenance_requests(scripted) != []


def test_maintenance_notifications_are_refused(scripted: Scripted) -> None:
    """With "auto", a server may refuse them."""
    pytest.importorskip("redis.maint_notifications")
    client = make_scripted(scripted, PROTOCOL=3, MAINT_NOTIFICATIONS="auto")
    scripted.plan(b"CLIENT MAINT_NOTIFICATIONS", *[b"-ERR unknown subcommand\r\n"] * 9)
    check_scripted(client)


def test_maintenance_notifications_value(app: Flask) -> None:
    app.config.update(REDIS_URL="redis://h", REDIS_MAINT_NOTIFICATIONS="sometimes")

    with pytest.raises(ConfigError, match="'REDIS_MAINT_NOTIFICATIONS'"):
        RedisManager(app)


@pytest.mark.parametrize("value", [True, "auto"])
@pytest.mark.parametrize(
    "message",
    [
        push("MIGRATING", 1, 30, "0"),
        push("FAILING_OVER", 2, 30, "0"),
        push("MOVING", 3, 30, ""),
    ],
    ids=["migrating", "failing-over", "moving"],
)
def test_wait_during_maintenance(
    scripted: Scripted, message: bytes, value: t.Any
) -> None:
    """During maintenance, no command waits longer than the prefix's own limits."""
    pytest.importorskip("redis.maint_notifications")
    client = make_scripted(
        scripted, PROTOCOL=3, MAINT_NOTIFICATIONS=value, RETRY_DEADLINE=0.5
    )
    check_scripted(client)
    scripted.push(message)
    check_scripted(client)
    scripted.plan(b"GET", *[None] * 99)
    started = time.monotonic()

    for _ in range(2):
        with pytest.raises((redis.TimeoutError, redis.ConnectionError)):
            client.get("own")

    # redis-py waits 10 s for each.
    assert time.monotonic() - started < 8


@pytest.mark.skipif(redis.VERSION < (7, 1), reason="Older ones record no metrics.")
def test_metrics_are_enabled_late(
    app: Flask, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If redis-py's metrics are enabled while connections exist, or while one is lent,
    it counts each of them as lent as often as returned.
    """
    from redis.observability import recorder

    app.config["REDIS_URL"] = server.url
    RedisManager(app)
    client = app.extensions["redis"]["REDIS"]
    client.get("k")
    # Pools of other tests would be counted when they are freed.
    gc.collect()
    collector = mock.Mock()
    monkeypatch.setattr(recorder, "_metrics_collector", None)
    monkeypatch.setattr(recorder, "_get_or_create_collector", lambda: collector)

    for _ in range(3):
        client.get("k")

    with monkeypatch.context() as disabled:
        disabled.setattr(recorder, "_metrics_collector", None)
        disabled.setattr(recorder, "_get_or_create_collector", lambda: None)
        connection = client.connection_pool.get_connection()

    client.connection_pool.release(connection)
    counts: collections.Counter[str] = collections.Counter()

    for call in collector.record_connection_count.call_args_list:
        counts[call.kwargs["connection_state"].value] += call.kwargs["counter"]

    assert counts == {"idle": 0, "used": 0}


# Forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system cannot fork.")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
# coverage has a lock that a child cannot use if another thread had it.
@pytest.mark.untraced
# OpenSSL may hang in a child if another thread creates a context while it is forked.
@pytest.mark.parametrize("engine", [each for each in ENGINES if each != "tls"])
def test_fork_while_threads_are_busy(
    request: pytest.FixtureRequest, engine: str
) -> None:
    """A child that is forked while threads use all connections works, with threads of
    its own. Parent and child never get each other's replies.
    """
    prefix = make_prefix(request, engine, MAX_CONNECTIONS=4, RETRY_DEADLINE=10)
    prefix.check()
    done = threading.Event()

    def use(number: int) -> None:
        key = KEYS[number % len(KEYS)]

        for _ in range(20):
            assert prefix.client.get(key) == prefix.value(key)
            pipeline = prefix.client.pipeline(transaction=False)
            assert pipeline.get(key).execute() == [prefix.value(key)]

    def keep_using(number: int) -> None:
        while not done.is_set():
            use(number)

    def run_child() -> None:
        # Ends the child if it hangs. pytest-timeout has a handler of its own.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(use, range(4)))

    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(keep_using, number) for number in range(8)]
        children = []

        try:
            for _ in range(8):
                time.sleep(0.02)

                if not (pid := os.fork()):
                    status = 1

                    try:
                        run_child()
                        status = 0
                    finally:
                        os._exit(status)

                children.append(pid)

            statuses = [os.waitpid(pid, 0)[1] for pid in children]
        finally:
            done.set()

        assert statuses == [0] * len(children)

        for future in futures:
            future.result()

    prefix.check()


@pytest.mark.parametrize("retry", [None, 0])
@pytest.mark.parametrize("library", CLASSES)
def test_closed_by_another_thread(
    server: Server, library: str, retry: int | None
) -> None:
    """A command whose connection another thread closes is retried, as if the server had
    closed it. redis-py 6 closes connections of other threads itself, in a cluster.
    """
    client = make_client(
        server.url, CLASS=CLASSES[library], RETRY=retry, SOCKET_TIMEOUT=30
    )

    with ThreadPoolExecutor(1) as threads, server.admin() as admin:

        def find_waiting() -> list[str]:
            return [
                each["id"] for each in admin.client_list() if each["cmd"] == "blpop"
            ]

        future = threads.submit(client.blpop, ["list"], 20)
        wait_until(find_waiting, "the command waits")
        first = find_waiting()
        client.connection_pool.disconnect()

        if retry == 0:
            with pytest.raises((redis.ConnectionError, valkey.ConnectionError)):
                future.result()
        else:
            wait_until(lambda: set(find_waiting()) - set(first), "it is retried")
            wait_until(lambda: first[0] not in find_waiting(), "the first has ended")
            admin.rpush("list", "value")
            assert future.result() == (b"list", b"value")


@pytest.mark.parametrize("library", CLASSES)
def test_subscription_closed_by_another_thread(server: Server, library: str) -> None:
    """Waiting for a message ends with an error of the client library."""
    client = make_client(server.url, CLASS=CLASSES[library])
    pubsub = client.pubsub()
    pubsub.subscribe("channel")
    assert pubsub.get_message(timeout=5)["type"] == "subscribe"
    paced = pubsub.connection.paced
    receive = paced.recv

    with ThreadPoolExecutor(1) as threads:

        def close(size: int) -> bytes:
            threads.submit(pubsub.close).result()
            data: bytes = receive(size)
            return data

        paced.recv = close

        with pytest.raises(
            (redis.ConnectionError, valkey.ConnectionError), match="Another thread"
        ):
            pubsub.get_message(timeout=5)

    assert client.ping()
    client.connection_pool.disconnect()


@pytest.mark.parametrize("library", CLASSES)
def test_closed_by_another_task(server: Server, library: str) -> None:
    """A task whose connection another one closes gets an error that can be retried.
    redis-py 8 closes connections of other tasks itself, in a cluster.
    """
    prefix = Prefix(URL=server.url, CLASS=CLASSES[library])
    # Only valkey-py needs the name of a command.
    arguments = ["PING"] if library == "valkey" else []

    async def use(client: t.Any) -> None:
        connection = await client.connection_pool.get_connection(*arguments)
        closing = asyncio.create_task(connection.disconnect(nowait=True))

        with pytest.raises((redis.ConnectionError, valkey.ConnectionError)):
            # Until Python 3.11, it starts to send in a task that runs after the other.
            await connection.send_command("PING")
            await connection.read_response()

        await closing
        await client.connection_pool.release(connection)
        assert await client.ping()

    run_async(prefix, use)
