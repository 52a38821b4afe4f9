"""Transactions that watch keys, while servers fail."""

from __future__ import annotations

import asyncio
import typing as t

import pytest
import redis
from flask import Flask
from redis.backoff import NoBackoff
from redis.retry import Retry

from flask_and_redis import RedisManager

from .cutter import Cutter
from .servers import Cluster
from .servers import Server
from .servers import wait_until


def make_app(**config: t.Any) -> Flask:
    app = Flask("watch")
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})
    app.extensions["manager"] = RedisManager(app)
    return app


def make(**config: t.Any) -> t.Any:
    """The client of prefix REDIS with these settings."""
    return make_app(**config).extensions["redis"]["REDIS"]


def increment(client: t.Any) -> list[t.Any]:
    """Increment a key in a transaction that watches it."""

    def use(pipe: t.Any) -> None:
        value = int(pipe.get("k"))
        pipe.multi()
        pipe.set("k", value + 1)
        pipe.get("k")

    result: list[t.Any] = client.transaction(use, "k")
    return result


async def increment_async(client: t.Any) -> list[t.Any]:
    """The same with an asynchronous client."""
    while True:
        try:
            async with client.pipeline(transaction=True) as pipe:
                await pipe.watch("k")
                value = int(await pipe.get("k"))
                pipe.multi()
                pipe.set("k", value + 1)
                pipe.get("k")
                result: list[t.Any] = await pipe.execute()
                return result
        except redis.WatchError:
            # The slot moved meanwhile. transaction() starts again, too.
            continue


def move(cluster: Cluster) -> None:
    """Let a replica take over from the master of a key, which becomes its replica."""
    old = cluster.master_of("k")

    for node in cluster.nodes:
        with node.admin() as admin:
            if admin.info("replication").get("master_port") == old.port:
                admin.execute_command("CLUSTER", "FAILOVER")

    wait_until(lambda: cluster.master_of("k") is not old, "the replica took over")


def kill(cluster: Cluster) -> None:
    cluster.master_of("k").kill()


@pytest.mark.parametrize("fail", [kill, move])
def test_cluster(fresh_cluster: Cluster, fail: t.Callable[[Cluster], None]) -> None:
    """A transaction finds the new master of a cluster, even if no other command has run
    since the failover.
    """
    client = make(URL=f"redis+cluster://{fresh_cluster.address}", RETRY_DEADLINE=20)
    client.set("k", 1)
    assert increment(client)[-1] == b"2"
    client.wait(1, 1000, target_nodes=client.get_node_from_key("k"))
    fail(fresh_cluster)
    assert increment(client)[-1] == b"3"


@pytest.mark.parametrize("fail", [kill, move])
def test_async_cluster(
    fresh_cluster: Cluster, fail: t.Callable[[Cluster], None]
) -> None:
    """The same with an asynchronous client."""
    app = make_app(
        URL=f"redis+cluster://{fresh_cluster.address}", RETRY_DEADLINE=20, RETRY=None
    )

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            await client.set("k", 1)
            assert (await increment_async(client))[-1] == b"2"
            node = client.get_node_from_key("k")
            await client.wait(1, 1000, target_nodes=node)
            fail(fresh_cluster)
            assert (await increment_async(client))[-1] == b"3"

    with app.app_context():
        asyncio.run(use())


def test_restart(own_server: Server) -> None:
    """WATCH is retried while a server restarts. What follows it is not."""
    client = make(URL=own_server.url)
    client.ping()
    own_server.stop()

    with client.pipeline() as pipe:
        with own_server.starting_soon():
            pipe.watch("k", "j")
            pipe.watch("i")

        pipe.multi()
        own_server.stop()

        with pytest.raises(redis.RedisError):
            pipe.incr("k").execute()


def test_async_restart(own_server: Server) -> None:
    """The same with an asynchronous client."""
    app = make_app(URL=own_server.url)

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            await client.ping()
            own_server.stop()

            async with client.pipeline() as pipe:
                with own_server.starting_soon():
                    await pipe.watch("k")
                    await pipe.watch("j")

                pipe.multi()
                assert await pipe.incr("k").execute() == [1]

    with app.app_context():
        asyncio.run(use())


def test_lost_connection_of_a_cluster(cluster: Cluster) -> None:
    """A transaction that watches keys of a cluster is not sent again."""
    client = make(URL=f"redis+cluster://{cluster.address}")
    pipe = client.pipeline(transaction=True)
    pipe.watch("k")
    pipe.multi()
    pipe.incr("k")

    with cluster.master_of("k").admin() as admin:
        admin.client_kill_filter(_type="normal", skipme=True)

    with pytest.raises(redis.RedisError):
        pipe.execute()

    assert client.get("k") is None
    client.disconnect_connection_pools()


@pytest.mark.parametrize("first", ["watch", "incr"])
def test_second_step(cutter: Cutter, first: str) -> None:
    """WATCH is not sent again if keys are watched or commands are queued already."""
    client = make(URL=cutter.url)

    with client.pipeline() as pipe:
        getattr(pipe, first)("k")
        cutter.lose(b"WATCH")

        with pytest.raises(redis.RedisError):
            pipe.watch("j")


@pytest.mark.parametrize("retry", [None, Retry(NoBackoff(), 1)])
def test_close_of_a_pipeline(cluster: Cluster, retry: Retry | None) -> None:
    """close() of a cluster's pipeline does not take the nodes from the client."""
    client = make(URL=f"redis+cluster://{cluster.address}", RETRY=retry)
    pipe = client.pipeline()
    pipe.set("k", 1)
    pipe.close()
    assert len(pipe) == 0
    assert client.get_default_node() is not None
    assert client.get("k") is None
    assert pipe.set("k", 1).execute() == [True]


def test_pipeline_of_a_test(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test puts in the place of a cluster's pipelines is returned as it is."""
    client = make(URL=f"redis+cluster://{cluster.address}")
    monkeypatch.setattr(redis.RedisCluster, "pipeline", lambda self: "fake")
    assert client.pipeline() == "fake"
