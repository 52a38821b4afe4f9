"""Replicas that sentinels name, and that become the master."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import typing as t
from pathlib import Path

import pytest
from flask import Flask

from flask_and_redis import RedisManager

from .servers import Sentinel
from .servers import Sentinels
from .servers import Server
from .servers import wait_until


@pytest.fixture
def manager(sentinels: Sentinels) -> cabc.Iterator[RedisManager]:
    app = Flask("replicas")
    app.config["REDIS_URL"] = (
        f"redis+sentinel://{sentinels.address}/mymaster?role=replica&decode_responses=1"
    )
    manager = RedisManager(app)

    with app.app_context():
        yield manager


def promote(sentinels: Sentinels, port: int) -> None:
    """Make a replica a master, as sentinels do, before they know of it."""
    server = next(each for each in sentinels.servers if each.port == port)

    with server.admin() as admin:
        admin.replicaof("NO", "ONE")
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal")


def test_promoted_replica(sentinels: Sentinels, manager: RedisManager) -> None:
    """A replica that was promoted is left, also while sentinels still name it."""
    client = manager.get()
    pool = client.connection_pool
    promote(sentinels, client.info("server")["tcp_port"])

    # Sentinels name one replica after the other.
    for _ in range(6):
        assert client.role()[0] == "slave"
        pool.disconnect()


def test_promoted_replica_in_asyncio(
    sentinels: Sentinels, manager: RedisManager
) -> None:
    """The same in asyncio."""

    async def use() -> None:
        async with manager.get_async() as client:
            pool: t.Any = client.connection_pool
            info = await client.info("server")
            await asyncio.to_thread(promote, sentinels, info["tcp_port"])

            for _ in range(6):
                assert (await client.role())[0] == "slave"
                await pool.disconnect()

    asyncio.run(use())


def test_no_replica_is_left(sentinels: Sentinels, manager: RedisManager) -> None:
    """If there is no replica, the master is used, as redis-py does."""

    async def use() -> None:
        async with manager.get_async() as client:
            assert (await client.role())[0] == "master"

    for server in sentinels.servers[1:]:
        server.stop()

    client = manager.get()
    wait_until(lambda: client.role()[0] == "master", "the master answers", timeout=20)
    asyncio.run(use())


def test_service_without_replicas(own_server: Server, tmp_path: Path) -> None:
    """The same if the sentinels know no replica."""
    sentinel = Sentinel(own_server.command, tmp_path)
    sentinel.configure([f"sentinel monitor mymaster 127.0.0.1 {own_server.port} 1"])
    app = Flask("replicas")
    app.config["REDIS_URL"] = (
        f"redis+sentinel://{sentinel.address}/mymaster?role=replica"
    )
    manager = RedisManager(app)

    async def use() -> None:
        async with manager.get_async() as client:
            assert (await client.role())[0] == b"master"

    with sentinel, app.app_context():
        assert manager.get().role()[0] == b"master"
        asyncio.run(use())


def test_role_is_not_permitted(sentinels: Sentinels, manager: RedisManager) -> None:
    """A user who may not ask for the role can use a replica all the same."""
    for server in sentinels.servers[1:]:
        with server.admin() as admin:
            admin.acl_setuser("default", enabled=True, commands=["-role"])

    async def use() -> None:
        async with manager.get_async() as client:
            assert await client.get("k") is None

    assert manager.get().get("k") is None
    asyncio.run(use())
