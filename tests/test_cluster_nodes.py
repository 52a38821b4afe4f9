"""Clusters whose nodes change, or have no names."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import contextlib
import functools
import gc
import time
import typing as t

import pytest
import redis
from ephemeral_port_reserve import reserve
from flask import Flask
from redis.backoff import NoBackoff
from redis.retry import Retry

from flask_and_redis import command_finished
from flask_and_redis import RedisManager
from flask_and_redis.engines.internals.clusters import Shard

from .conftest import Starter
from .cutter import Cutter
from .identity import Issuer
from .identity import Streaming
from .objects import deadline_of
from .servers import Cluster
from .servers import free_ports
from .servers import Server
from .servers import wait_until

FAILURES = (redis.RedisError, redis.exceptions.RedisClusterException)


def make_app(**config: t.Any) -> Flask:
    app = Flask("nodes")
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})
    app.extensions["manager"] = RedisManager(app)
    return app


def is_back(client: t.Any) -> bool:
    try:
        return client.get("k") is None
    except FAILURES:
        return False


def test_all_nodes_replaced(start: Starter) -> None:
    """If all nodes of a cluster were replaced, its client asks the nodes of the URL."""
    first, second = start(Cluster), start(Cluster)

    # The stable name of both clusters.
    with Cutter(first.nodes[0].port) as name:
        url = name.url.replace("redis:", "redis+cluster:")
        # For slow machines. Nodes that are gone refuse connections.
        timeouts = {"SOCKET_TIMEOUT": 10, "SOCKET_CONNECT_TIMEOUT": 10}
        app = make_app(URL=url, RETRY_DEADLINE=1, **timeouts)
        client: t.Any = app.extensions["redis"]["REDIS"]

        async def use() -> None:
            async with app.extensions["manager"].get_async() as other:
                assert client.get("k") is await other.get("k") is None
                first.stop()

                with pytest.raises(FAILURES):
                    await other.get("k")

                name.upstream = second.nodes[0].port
                deadline = time.monotonic() + 20

                while True:
                    try:
                        assert await other.get("k") is None
                        break
                    except FAILURES:
                        assert time.monotonic() < deadline
                        await asyncio.sleep(0.1)

        with app.app_context():
            asyncio.run(use())

        wait_until(lambda: is_back(client), "the new cluster is found", timeout=20)


def test_node_that_left(fresh_cluster: Cluster) -> None:
    """The connections to a node that has left the cluster are closed."""
    url = f"redis+cluster://{fresh_cluster.address}"
    client: t.Any = make_app(URL=url, CLIENT_NAME="left").extensions["redis"]["REDIS"]
    client.ping(target_nodes=client.get_replicas())
    *others, leaving = fresh_cluster.nodes

    with leaving.admin() as admin:
        node = admin.execute_command("CLUSTER", "MYID").decode()

    def count() -> int:
        with leaving.admin() as admin:
            return [each["name"] for each in admin.client_list()].count("left")

    assert count() > 0

    for other in others:
        with other.admin() as admin:
            admin.execute_command("CLUSTER", "FORGET", node)

    def is_left() -> bool:
        # As after a failure.
        client.nodes_manager.initialize()
        gc.collect()
        return count() == 0

    wait_until(is_left, "the connections are closed")
    assert client.set("k", 1)


class Flaky(redis.CredentialProvider):
    """Credentials whose source can sometimes not be reached."""

    is_down = False
    failures = 0

    def get_credentials(self) -> tuple[str, str]:
        if self.is_down:
            self.failures += 1
            raise OSError("no route")

        return "ada", "secret"


def test_no_command_without_login_in_asyncio(cluster: Cluster) -> None:
    """If the login to a node fails, the next command to it logs in."""
    for node in cluster.nodes:
        with node.admin() as admin:
            admin.acl_setuser("ada", True, passwords=["+secret"], commands=["+@all"])

    url, provider = f"redis+cluster://{cluster.address}", Flaky()
    app = make_app(URL=url, CREDENTIAL_PROVIDER=provider)

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            await client.initialize()

            for node in client.get_nodes():
                ask = functools.partial(
                    client.execute_command, "ACL WHOAMI", target_nodes=node
                )
                provider.is_down = True

                with contextlib.suppress(OSError):
                    await ask()

                provider.is_down = False
                assert await ask() in ("ada", b"ada")

    with app.app_context():
        asyncio.run(use())

    assert provider.failures

    for node in cluster.nodes:
        with node.admin() as admin:
            admin.acl_deluser("ada")


@pytest.fixture
def unnamed(fresh_cluster: Cluster) -> Cluster:
    """A cluster that leaves out the hosts of its nodes."""
    for node in fresh_cluster.nodes:
        with node.admin() as admin:
            try:
                admin.config_set("cluster-preferred-endpoint-type", "unknown-endpoint")
            except redis.ResponseError:
                pytest.skip("Redis before 7.0 always names them.")

    return fresh_cluster


@pytest.fixture(params=["empty", "unknown-endpoint"])
def single(request: pytest.FixtureRequest, start: Starter) -> Server:
    """A cluster of one node, which does not name its host."""
    arguments = ["--cluster-enabled", "yes"]

    if request.param != "empty":
        arguments += ["--cluster-preferred-endpoint-type", request.param]

    try:
        server = start(Server, *arguments, port=free_ports(1)[0])
    except RuntimeError:
        pytest.skip("Redis before 7.0 always names them.")

    with server.admin() as admin:
        admin.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        ask = functools.partial(admin.execute_command, "CLUSTER", "INFO")
        wait_until(lambda: "cluster_state:ok" in str(ask()), "the slots are served")

    return server


def start_migration(cluster: Cluster, key: str, moved: t.Iterable[str] = ()) -> None:
    """Begin to move the slot of a key, and some keys of it. Its node redirects with ASK
    for keys that it does not have.
    """
    source = cluster.master_of(key)
    target = next(node for node in cluster.nodes[:3] if node is not source)

    with source.admin() as old, target.admin() as new:
        slot = old.execute_command("CLUSTER", "KEYSLOT", key)
        ids = [
            admin.execute_command("CLUSTER", "MYID").decode() for admin in (old, new)
        ]
        new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])

        for each in moved:
            old.migrate("127.0.0.1", target.port, each, 0, 5000)


def finish_migration(cluster: Cluster, key: str) -> None:
    """Finish it, with all keys, so that the old node redirects with MOVED."""
    source = cluster.master_of(key)
    target = next(node for node in cluster.nodes[:3] if node is not source)

    with source.admin() as old, target.admin() as new:
        slot = old.execute_command("CLUSTER", "KEYSLOT", key)
        node = new.execute_command("CLUSTER", "MYID").decode()

        for each in old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
            old.migrate("127.0.0.1", target.port, each, 0, 5000)

        for admin in (new, old):
            admin.execute_command("CLUSTER", "SETSLOT", slot, "NODE", node)


def test_unnamed_nodes(unnamed: Cluster) -> None:
    """Nodes without a host are at the address of the URL, also in redirections."""
    app = make_app(URL=f"redis+cluster://{unnamed.nodes[0].address}")
    client: t.Any = app.extensions["redis"]["REDIS"]

    async def use() -> None:
        async with app.extensions["manager"].get_async() as other:
            assert await other.set("k", 1)
            assert await other.set("a", 1)
            assert client.get("k") == client.get("a") == b"1"
            assert {node.host for node in client.get_nodes()} == {"127.0.0.1"}
            start_migration(unnamed, "k")
            assert await other.set("{k}new", 1)
            assert client.get("{k}new") == b"1"
            assert client.getdel("{k}new") == client.getdel("k") == b"1"
            finish_migration(unnamed, "k")
            assert await other.get("k") is None
            assert client.get("k") is None

    with app.app_context():
        asyncio.run(use())


@pytest.mark.parametrize("is_async", [False, True])
def test_keys_of_a_slot_that_moves(
    fresh_cluster: Cluster, caplog: pytest.LogCaptureFixture, is_async: bool
) -> None:
    """A command whose keys are on two nodes succeeds once the slot has been moved."""
    url = f"redis+cluster://{fresh_cluster.address}"
    app = make_app(URL=url, RETRY_DEADLINE=30)
    client: t.Any = app.extensions["redis"]["REDIS"]
    keys = ["{k}1", "{k}2"]
    client.mset(dict.fromkeys(keys, 1))
    start_migration(fresh_cluster, "k", moved=keys[:1])

    def finish() -> None:
        wait_until(lambda: "are retried: TTL" in caplog.text, "the command fails")
        finish_migration(fresh_cluster, "k")

    async def use() -> None:
        async with app.extensions["manager"].get_async() as other:
            if is_async:
                command = other.mget(keys)
            else:
                command = asyncio.to_thread(client.mget, keys)

            result, _ = await asyncio.gather(command, asyncio.to_thread(finish))
            assert result == [b"1", b"1"]

    with app.app_context():
        asyncio.run(use())


def test_single_unnamed_node(single: Server) -> None:
    """The same if it is the only one."""
    app = make_app(URL=f"redis+cluster://{single.address}")
    client: t.Any = app.extensions["redis"]["REDIS"]

    async def use() -> None:
        async with app.extensions["manager"].get_async() as other:
            assert await other.set("k", 1)
            assert client.get("k") == b"1"
            assert [node.host for node in other.get_nodes()] == ["127.0.0.1"]

    with app.app_context():
        asyncio.run(use())
        assert app.extensions["manager"].ping(timeout=10)["REDIS"].ok


def test_slots_that_nobody_serves(start: Starter) -> None:
    """A ping fails although the cluster accepts commands for the other slots."""
    arguments = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")
    server = start(Server, *arguments, port=free_ports(1)[0])

    with server.admin() as admin:
        admin.execute_command("CLUSTER", "ADDSLOTS", *range(10))
        ask = functools.partial(admin.execute_command, "CLUSTER", "INFO")
        wait_until(lambda: "cluster_state:ok" in str(ask()), "some slots are served")

    app = make_app(URL=f"redis+cluster://{server.address}")

    with app.app_context():
        error = app.extensions["manager"].ping(timeout=10)["REDIS"].error

    assert error == "The cluster's state is 'ok': 10 of 16384 slots are served."


def test_unnamed_nodes_behind_several_addresses(unnamed: Cluster) -> None:
    """Nodes without a host are at the address that replied, not at one that is down."""
    down = f"127.0.0.2:{reserve('127.0.0.2')}"
    app = make_app(URL=f"redis+cluster://{down},{unnamed.nodes[1].address}")
    client: t.Any = app.extensions["redis"]["REDIS"]

    async def use() -> None:
        async with app.extensions["manager"].get_async() as other:
            for key in "abcd":
                assert await other.set(key, key)
                assert client.get(key) == key.encode()

    with app.app_context():
        asyncio.run(use())
        assert app.extensions["manager"].ping(timeout=10)["REDIS"].ok


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "k"),
        ("EVAL", "return 1", 1, "k"),
        ("evalsha_ro", "ffff", "3", "k", "{k}2", "{k}3"),
        ("FCALL", "f", 1, "k", "0"),
        ("XREAD", "COUNT", 1, b"STREAMS", "k", "0"),
        ("xreadgroup", "GROUP", "k1", "k2", "streams", "k", ">"),
    ],
)
def test_shard_of_a_command(cluster: Cluster, command: tuple[object, ...]) -> None:
    """Only the node that has the first key can run a command."""
    app = make_app(URL=f"redis+cluster://{cluster.address}")
    client: t.Any = app.extensions["redis"]["REDIS"]
    parts = deadline_of(client).engine.find_parts(client, [("PING",), command])
    assert parts == {f"127.0.0.1:{cluster.master_of('k').port}"}


@pytest.mark.parametrize(
    "command", [("EVAL", "return 1", 0), ("EVAL", "return 1", "0", "k"), ("XREAD", "k")]
)
def test_no_shard_of_a_command(cluster: Cluster, command: tuple[object, ...]) -> None:
    """Any node may run a command without keys."""
    app = make_app(URL=f"redis+cluster://{cluster.address}")
    client: t.Any = app.extensions["redis"]["REDIS"]
    assert deadline_of(client).engine.find_parts(client, [command]) == frozenset()


def test_successor_of_a_shard(cluster: Cluster) -> None:
    """Without a client, it is not known which shard serves a slot now."""
    app = make_app(URL=f"redis+cluster://{cluster.address}")
    client: t.Any = app.extensions["redis"]["REDIS"]
    engine = deadline_of(client).engine
    gone = Shard("gone:1", client.keyslot("k"))
    master = f"127.0.0.1:{cluster.master_of('k').port}"
    assert engine.find_successor(client, gone) == master
    assert engine.find_successor(None, gone) is gone
    assert engine.find_successor(client, None) is None


def remap(address: tuple[str, int]) -> tuple[str, int]:
    return ("localhost", address[1])


def test_own_remap(cluster: Cluster) -> None:
    """The application's own function is still called."""
    app = make_app(URL=f"redis+cluster://{cluster.address}", ADDRESS_REMAP=remap)
    client: t.Any = app.extensions["redis"]["REDIS"]
    assert client.get("k") is None


#: Commands after which the server treats a connection in another way.
CHANGES: list[tuple[t.Any, ...]] = [
    *(("AUTH", "other", "pw"), ("MULTI",), ("WATCH", "k"), ("MONITOR",)),
    *(("READONLY",), ("CLIENT", "NO-EVICT", "ON"), ("SUBSCRIBE", "c")),
]


@pytest.mark.parametrize("in_pipeline", [False, True])
@pytest.mark.parametrize("command", CHANGES, ids=repr)
def test_changed_connection_in_asyncio(
    cluster: Cluster, command: tuple[t.Any, ...], in_pipeline: bool
) -> None:
    """A connection that the server treats in another way is closed, and not used for
    the next command. Others remain open.
    """
    url = f"redis+cluster://{cluster.nodes[0].address}"
    app = make_app(URL=url, PROTOCOL=2, MAX_CONNECTIONS=1)

    for node in cluster.nodes:
        with node.admin() as admin:
            admin.acl_setuser("other", True, passwords=["+pw"], commands=["+@all"])

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            # Two of these were not in the URL.
            for node in (await client.initialize()).get_primaries():
                number = await client.client_id(target_nodes=node)
                assert await client.client_id(target_nodes=node) == number

                if in_pipeline:
                    pipeline = client.pipeline(transaction=False)
                    pipeline.execute_command(*command, target_nodes=node)
                    await pipeline.execute(raise_on_error=False)
                else:
                    # The key "k" is on another node, and Redis 6.2 does not know all
                    # commands.
                    with contextlib.suppress(redis.ResponseError):
                        await node.execute_command(*command)

                # At once, not at the next command.
                (connection,) = node._connections
                assert not connection.is_connected
                name = await client.execute_command("ACL WHOAMI", target_nodes=node)
                assert name in ("default", b"default")
                assert await client.client_id(target_nodes=node) != number

    with app.app_context():
        asyncio.run(use())

    for node in cluster.nodes:
        with node.admin() as admin:
            admin.acl_deluser("other")


def test_unread_reply_in_asyncio(cluster: Cluster) -> None:
    """A connection with a reply to come is closed."""
    app = make_app(URL=f"redis+cluster://{cluster.address}", MAX_CONNECTIONS=1)

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            await client.set("k", "v")
            node = client.get_node_from_key("k")
            connection = node.acquire_connection()
            await connection.send_command("ECHO", "late")
            node.release(connection)
            assert await client.get("k") in ("v", b"v")

    with app.app_context():
        asyncio.run(use())


def test_transactions_in_asyncio(cluster: Cluster) -> None:
    """A transaction keeps its connection, whether it succeeds or fails. One that does
    not end leaves nothing on the connection.
    """
    app = make_app(URL=f"redis+cluster://{cluster.address}", MAX_CONNECTIONS=1)

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            node = (await client.initialize()).get_node_from_key("k")
            number = await client.client_id(target_nodes=node)

            async with client.pipeline(transaction=True) as pipeline:
                await pipeline.watch("k")
                pipeline.multi()
                assert await pipeline.set("k", 1).incr("k").execute() == [True, 2]

            async with client.pipeline(transaction=True) as pipeline:
                with pytest.raises(redis.ResponseError):
                    await pipeline.set("k", "v").incr("k").execute()

            async with client.pipeline(transaction=True) as pipeline:
                await pipeline.watch("k")

            assert await client.client_id(target_nodes=node) == number
            pipeline = client.pipeline(transaction=True)
            await pipeline.watch("k")
            # As if redis-py did not send UNWATCH.
            node.release(pipeline._execution_strategy._transaction_connection)
            assert await client.client_id(target_nodes=node) != number

    with app.app_context():
        asyncio.run(use())


def test_idle_connections_in_asyncio(cluster: Cluster) -> None:
    """A connection that was unused for MAX_IDLE seconds is replaced."""
    url = f"redis+cluster://{cluster.nodes[0].address}"
    app = make_app(URL=url, MAX_IDLE=0, MAX_CONNECTIONS=1)

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            for node in (await client.initialize()).get_nodes():
                number = await client.client_id(target_nodes=node)
                assert await client.client_id(target_nodes=node) != number

    with app.app_context():
        asyncio.run(use())


def test_redirection_of_idle_connections_in_asyncio(fresh_cluster: Cluster) -> None:
    """The command after ASKING uses the same connection, even if each is replaced."""
    url = f"redis+cluster://{fresh_cluster.address}"
    app = make_app(URL=url, MAX_IDLE=0, MAX_CONNECTIONS=1)
    start_migration(fresh_cluster, "k")

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            assert await client.set("k", "v")
            assert await client.get("k") in ("v", b"v")

    with app.app_context():
        asyncio.run(use())


def test_redirection_of_many_tasks(fresh_cluster: Cluster) -> None:
    """The command after ASKING uses the same connection, even if there are others."""
    app = make_app(URL=f"redis+cluster://{fresh_cluster.address}")
    start_migration(fresh_cluster, "k")

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            for node in (await client.initialize()).get_nodes():
                pings = [client.ping(target_nodes=node) for _ in range(2)]
                await asyncio.gather(*pings)
                assert len(node._connections) == 2

            assert await client.set("k", "v")
            keys = await asyncio.gather(*[client.get("k") for _ in range(20)])
            assert set(keys) <= {"v", b"v"}

    with app.app_context():
        asyncio.run(use())


def test_asking_as_a_value(cluster: Cluster) -> None:
    """Only the command itself means that the next one uses the same connection."""
    app = make_app(URL=f"redis+cluster://{cluster.address}")

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            assert await client.set("k", "v")
            (connection,) = client.get_node_from_key("k")._connections
            connection.pack_command("SET", "k", "ASKING")
            assert not connection.is_asking
            connection.pack_command("ASKING")
            assert connection.is_asking

    with app.app_context():
        asyncio.run(use())


def test_replaced_connections(cluster: Cluster) -> None:
    """All connections are replaced after the credentials or the server's role have
    changed. So are those of asyncio.
    """
    app = make_app(URL=f"redis+cluster://{cluster.address}", MAX_CONNECTIONS=1)
    sync_client: t.Any = app.extensions["redis"]["REDIS"]
    node = sync_client.get_primaries()[0]
    number = sync_client.client_id(target_nodes=node)
    deadline_of(sync_client).engine.replace_connections(sync_client)
    assert sync_client.client_id(target_nodes=node) != number

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            nodes = (await client.initialize()).get_nodes()
            numbers = [await client.client_id(target_nodes=node) for node in nodes]
            deadline_of(client).engine.replace_connections(client)

            for node, number in zip(nodes, numbers, strict=True):
                new = await client.client_id(target_nodes=node)
                assert new != number
                assert await client.client_id(target_nodes=node) == new

    with app.app_context():
        asyncio.run(use())


def test_renewed_tokens_in_asyncio(start: Starter) -> None:
    """Each node gets renewed tokens."""
    server = start(Server, "--cluster-enabled", "yes", port=free_ports(1)[0])

    with server.admin() as admin:
        admin.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        ask = functools.partial(admin.execute_command, "CLUSTER", "INFO")
        wait_until(lambda: "cluster_state:ok" in str(ask()), "the slots are served")

    issuer = Issuer(server)
    url = f"redis+cluster://{server.address}"
    app = make_app(URL=url, CREDENTIAL_PROVIDER=Streaming(issuer))

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            user = await client.execute_command("ACL WHOAMI")

            while user == await client.execute_command("ACL WHOAMI"):
                await asyncio.sleep(0.01)

    try:
        with app.app_context():
            asyncio.run(asyncio.wait_for(use(), 30))
    finally:
        issuer.close()


def test_no_wait_for_the_end_of_a_connection_in_asyncio(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connections of a node are closed without waiting for the server."""
    app = make_app(URL=f"redis+cluster://{cluster.address}", MAX_CONNECTIONS=1)

    async def wait_closed(writer: asyncio.StreamWriter) -> t.NoReturn:
        raise AssertionError

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            await client.set("k", "v")
            node = client.get_node_from_key("k")
            (connection,) = node._connections

            with monkeypatch.context() as patch:
                patch.setattr(asyncio.StreamWriter, "wait_closed", wait_closed)
                await node.disconnect()

            assert not connection.is_connected
            assert await client.get("k") in ("v", b"v")

    with app.app_context():
        asyncio.run(use())


# Pipelines whose replies are lost


def find_other(cluster: Cluster) -> str:
    """A key that is not on the node of the key ``n``."""
    node = cluster.master_of("n")
    keys = map(str, range(100))
    return next(key for key in keys if cluster.master_of(key) is not node)


@contextlib.contextmanager
def losing(
    cluster: Cluster, **config: t.Any
) -> cabc.Iterator[tuple[Flask, Cutter, str]]:
    """An app, what can lose replies to commands for the key ``n``, and a key of another
    node.
    """
    node = cluster.master_of("n")

    with Cutter(node.port) as cutter:

        def remap(address: tuple[str, int]) -> tuple[str, int]:
            host, port = address
            return host, cutter.server_address[1] if port == node.port else port

        url = f"redis+cluster://{cluster.address}"
        app = make_app(URL=url, ADDRESS_REMAP=remap, **config)
        yield app, cutter, find_other(cluster)


def read(cluster: Cluster, key: str) -> int:
    with cluster.master_of(key).admin() as admin:
        return int(admin.get(key) or 0)


def redirect(client: t.Any, other: str) -> None:
    """Let a client send commands for the key ``n`` to the node of another key."""
    slots = client.nodes_manager.slots_cache
    slots[client.keyslot("n")] = slots[client.keyslot(other)]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("raises", [True, False])
def test_lost_reply_of_a_pipeline(
    cluster: Cluster, is_async: bool, raises: bool
) -> None:
    """With RETRY=0, no command of a cluster's pipeline is sent again after its reply
    was lost. Its error is raised, or is its result.
    """
    with losing(cluster, RETRY=0) as (app, cutter, other):
        client: t.Any = app.extensions["redis"]["REDIS"]
        cutter.lose(b"INCR")

        async def use() -> list[t.Any]:
            async with app.extensions["manager"].get_async() as client:
                pipe = client.pipeline().incr("n").incr(other).incr("n")
                return t.cast(list[t.Any], await pipe.execute(raises))

        def run() -> list[t.Any]:
            if is_async:
                return asyncio.run(use())

            pipe = client.pipeline().incr("n").incr(other).incr("n")
            return t.cast(list[t.Any], pipe.execute(raises))

        with app.app_context():
            if raises:
                with pytest.raises(redis.ConnectionError):
                    run()
            else:
                first, second, third = run()
                assert second == 1

                for result in (first, third):
                    assert isinstance(result, redis.ConnectionError)

        assert (read(cluster, "n"), read(cluster, other)) == (2, 1)


def test_lost_reply_of_a_pipeline_by_default(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """By default, a cluster's pipeline is sent again as a whole, as any other. This is
    logged and counted.
    """
    with losing(cluster) as (app, cutter, other):
        client: t.Any = app.extensions["redis"]["REDIS"]
        tries = []

        def receive(app: Flask, **values: t.Any) -> None:
            tries.append(values["tries"])

        cutter.lose(b"INCR")

        with command_finished.connected_to(receive, sender=app):
            assert client.pipeline().incr("n").incr(other).execute() == [2, 2]

        assert tries == [2]
        assert "fails, and commands are retried" in caplog.text


# redis-py's json() and ts() use it themselves.
@pytest.mark.filterwarnings("ignore:.*cluster_error_retry_attempts")
@pytest.mark.parametrize("retry", [None, 0])
@pytest.mark.parametrize("name", ["json", "ts"])
def test_lost_reply_of_modules(cluster: Cluster, name: str, retry: int | None) -> None:
    """The pipelines of json() and ts() are not sent again either. They are not retried,
    whatever RETRY is.
    """
    with losing(cluster, RETRY=retry) as (app, cutter, _):
        client: t.Any = app.extensions["redis"]["REDIS"]
        cutter.lose(b"INCR")

        with pytest.raises(redis.ConnectionError):
            getattr(client, name)().pipeline().incr("n").execute()

        assert read(cluster, "n") == 1


@pytest.mark.filterwarnings("ignore:.*cluster_error_retry_attempts")
@pytest.mark.parametrize("name", ["json", "ts", None])
def test_lost_reply_with_a_retry_object(cluster: Cluster, name: str | None) -> None:
    """With redis-py's own Retry, its rules apply: it sends the commands again."""
    with losing(cluster, RETRY=Retry(NoBackoff(), 0)) as (app, cutter, _):
        client: t.Any = app.extensions["redis"]["REDIS"]
        creator = client if name is None else getattr(client, name)()
        cutter.lose(b"INCR")
        assert creator.pipeline().incr("n").execute() == [2]


def test_redirected_pipeline(cluster: Cluster) -> None:
    """What a node redirects is sent to the right one, even with RETRY=0, and also if
    the pipeline has failed before.
    """
    with losing(cluster, RETRY=0) as (app, cutter, other):
        client: t.Any = app.extensions["redis"]["REDIS"]
        pipe = client.pipeline()
        cutter.lose(b"INCR")

        with pytest.raises(redis.ConnectionError):
            pipe.incr("n").execute()

        redirect(client, other)
        assert pipe.incr("n").incr(other).incr("n").execute() == [2, 1, 3]


def test_redirected_pipeline_to_a_node_that_hangs(cluster: Cluster) -> None:
    """If redirected commands reach a node that hangs, the others are not sent: each one
    would wait for its SOCKET_TIMEOUT.
    """
    app = make_app(URL=f"redis+cluster://{cluster.address}", RETRY=0)
    client: t.Any = app.extensions["redis"]["REDIS"]
    # It is connected to the node.
    client.set("n", 0)
    redirect(client, find_other(cluster))
    pipe = client.pipeline()

    for _ in range(20):
        pipe.incr("n")

    node = cluster.master_of("n")
    node.pause()
    started = time.monotonic()

    try:
        with pytest.raises(redis.TimeoutError):
            pipe.execute()
    finally:
        node.resume()

    # Each SOCKET_TIMEOUT is a second.
    assert time.monotonic() - started < 15
    wait_until(lambda: read(cluster, "n") == 1, "the first command was run")
