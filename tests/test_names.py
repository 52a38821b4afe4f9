"""What CLIENT LIST shows of connections, and users that may not change it."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import logging
import typing as t

import pytest
import redis
from flask import Flask

import flask_and_redis
from flask_and_redis import RedisManager
from flask_and_redis.spec.classes import parameters

from .servers import Cluster
from .servers import Sentinels
from .servers import Server
from .test_health import make_manager

HAS_DRIVER_INFO = "driver_info" in parameters(redis.Redis)
needs_driver_info = pytest.mark.skipif(
    not HAS_DRIVER_INFO, reason="This redis-py has no driver_info."
)
#: Those of a user without permission for CLIENT commands.
RIGHTS = ("on", ">pw", "~*", "&*", "+@all", "-client")
OURS = f"flask-and-redis_v{flask_and_redis.__version__}"


def list_clients(server: Server, prefix: str) -> list[dict[str, str]]:
    """The connections whose name begins with a prefix."""
    with server.admin() as client:
        return [each for each in client.client_list() if each["name"][:2] == prefix]


@needs_driver_info
def test_library(app: Flask, each_server: Server, cluster: Cluster) -> None:
    """CLIENT LIST shows the name and the version of this package next to redis-py's."""
    manager = make_manager(
        app,
        A_URL=f"{each_server.url}?client_name=x-a",
        B_URL=each_server.url,
        B_CLIENT_NAME="x-b",
        B_CONNECTION_POOL_CLASS="redis.BlockingConnectionPool",
        C_URL=f"redis+cluster://{cluster.address}",
        C_CLIENT_NAME="y-c",
    )

    with each_server.admin(client_name="x-admin") as admin:
        if "lib-name" not in admin.client_list()[0]:
            pytest.skip("This server does not show libraries.")

    with app.app_context():
        for prefix in ("A", "B", "C"):
            assert manager.get(prefix).set("k", "v")

        shown = list_clients(each_server, "x-")
        assert {each["lib-name"] for each in shown} == {f"redis-py({OURS})"}
        assert {each["lib-ver"] for each in shown} == {redis.__version__}
        shown = list_clients(cluster.master_of("k"), "y-")

        if "lib-name" in shown[0]:
            assert {each["lib-name"] for each in shown} == {f"redis-py({OURS})"}


@needs_driver_info
def test_library_of_a_cluster(app: Flask, cluster: Cluster) -> None:
    """The same for the nodes of a cluster, even if they do not show it."""
    manager = make_manager(app, A_URL=f"redis+cluster://{cluster.address}")

    with app.app_context():
        client: t.Any = manager.get("A").connection

    pool = client.get_redis_connection(client.get_default_node()).connection_pool
    assert OURS in pool.connection_kwargs["driver_info"].formatted_name


def test_no_name(app: Flask) -> None:
    """Without CLIENT_NAME, connections open as redis-py opens them."""
    manager = make_manager(app, A_URL="redis://h", B_URL="redis://h?client_name=b")

    with app.app_context():
        pools = [manager.get(prefix).connection_pool for prefix in ("A", "B")]

    functions = [pool.connection_kwargs.get("redis_connect_func") for pool in pools]
    assert [function is None for function in functions] == [True, False]


@needs_driver_info
def test_empty_library(app: Flask) -> None:
    """DRIVER_INFO is not set if it is empty text, as other settings."""
    manager = make_manager(app, A_URL="redis://h", A_DRIVER_INFO="")

    with app.app_context():
        arguments = manager.get("A").connection_pool.connection_kwargs

    assert OURS in arguments["driver_info"].formatted_name


@needs_driver_info
@pytest.mark.parametrize("is_option", [True, False])
def test_no_library(app: Flask, each_server: Server, is_option: bool) -> None:
    """DRIVER_INFO = None turns that off. An object of the application is used."""
    options: dict[str, t.Any] = {"driver_info": None} if is_option else {}
    app.config["A_URL"] = each_server.url
    other = t.cast(t.Any, redis).DriverInfo("mine", "1")

    if not is_option:
        app.config["A_DRIVER_INFO"] = None
        app.config.update(B_URL=each_server.url, B_DRIVER_INFO=other)

    manager = RedisManager(app, **options)

    with app.app_context():
        assert manager.get("A").client_info().get("lib-name", "") == ""

        if not is_option:
            info = manager.get("B").client_info()
            assert info.get("lib-name", "mine") == "mine"


@needs_driver_info
@pytest.mark.filterwarnings("ignore:.*lib_name:DeprecationWarning")
def test_own_library_name(app: Flask, each_server: Server) -> None:
    """LIB_NAME is shown as it is."""
    manager = make_manager(app, A_URL=each_server.url, A_LIB_NAME="shop")

    with app.app_context():
        assert manager.get("A").client_info().get("lib-name", "shop") == "shop"


@pytest.fixture
def limited(server: Server) -> cabc.Iterator[str]:
    """The address of a server, with a user that has no permission for CLIENT."""
    with server.admin() as admin:
        admin.execute_command("ACL", "SETUSER", "limited", *RIGHTS)
        yield f"limited:pw@{server.address}"
        admin.acl_deluser("limited")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"CONNECTION_POOL_CLASS": "redis.BlockingConnectionPool"},
        {"CLASS": "valkey.Valkey"},
        {"REDIS_CONNECT_FUNC": lambda connection: connection.on_connect()},
        {"PROTOCOL": 3, "HEALTH_CHECK_INTERVAL": 1},
        {"PROTOCOL": 2},
    ],
)
def test_name_without_permission(
    app: Flask, limited: str, config: dict[str, t.Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A user who may not set a name stays without one. It is logged once."""
    config = {f"X_{name}": value for name, value in config.items()}
    config |= {"X_URL": f"redis://{limited}/2", "X_CLIENT_NAME": "shop"}
    manager = make_manager(app, **config)

    with app.app_context():
        for _ in range(2):
            assert manager.get("X").set("k", "v")
            assert manager.ping("X", timeout=10)["X"].ok
            manager.close()

    (record,) = [each for each in caplog.records if each.name == "flask_and_redis"]
    assert record.levelno == logging.WARNING
    assert "refuses the name in 'X_CLIENT_NAME'" in record.getMessage()


def test_async_name_without_permission(
    app: Flask, limited: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The same for asyncio, also with the application's own function."""

    async def connect(connection: t.Any) -> None:
        await connection.on_connect()

    manager = make_manager(
        app,
        X_URL=f"redis://{limited}",
        X_CLIENT_NAME="shop",
        Y_URL=f"redis://{limited}",
        Y_CLIENT_NAME="shop",
        Y_REDIS_CONNECT_FUNC=connect,
    )

    async def use(prefix: str) -> bool:
        async with manager.get_async(prefix) as client:
            return bool(await client.set("k", "v"))

    with app.app_context():
        assert asyncio.run(use("X"))
        assert asyncio.run(use("Y"))

    assert "'X_CLIENT_NAME'" in caplog.text and "'Y_CLIENT_NAME'" in caplog.text


def test_name_in_a_cluster(
    app: Flask, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """The same in a cluster, where a function of the application is called after the
    connection has its name.
    """
    called: list[object] = []

    for node in cluster.nodes:
        with node.admin() as admin:
            admin.execute_command("ACL", "SETUSER", "limited", *RIGHTS)

    config = {"X_CLIENT_NAME": "z-shop", "X_REDIS_CONNECT_FUNC": called.append}
    url = f"redis+cluster://{cluster.address}"
    named = Flask("named")

    try:
        manager = make_manager(named, X_URL=url, **config)

        with named.app_context():
            assert manager.get("X").set("k", "v")
            assert list_clients(cluster.master_of("k"), "z-")

        assert called and not caplog.records
        url = f"redis+cluster://limited:pw@{cluster.address}"
        manager = make_manager(app, X_URL=url, X_CLIENT_NAME="z-shop")

        with app.app_context():
            assert manager.get("X").set("k", "v")

        assert caplog.text.count("'X_CLIENT_NAME'") == 1
    finally:
        for node in cluster.nodes:
            with node.admin() as admin:
                admin.acl_deluser("limited")


def test_name_behind_sentinels(app: Flask, sentinels: Sentinels) -> None:
    """The same behind sentinels."""
    with sentinels.master().admin() as admin:
        admin.execute_command("ACL", "SETUSER", "limited", *RIGHTS)

    url = f"redis+sentinel://limited:pw@{sentinels.address}/mymaster"
    manager = make_manager(app, X_URL=url, X_CLIENT_NAME="shop")

    with app.app_context():
        assert manager.get("X").set("k", "v")


def test_other_refusals_are_errors(
    app: Flask, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that refuses something else while connecting, such as the database, is
    an error.
    """
    with server.admin() as admin:
        admin.execute_command("ACL", "SETUSER", "other", *RIGHTS, "-select")
        admin.execute_command("ACL", "SETUSER", "third", *RIGHTS, "+client", "-select")

    url = f"redis://other:pw@{server.address}/1"
    manager = make_manager(
        app,
        X_URL=url,
        X_CLIENT_NAME="shop",
        Y_URL=url,
        Z_URL=f"redis://third:pw@{server.address}/1",
        Z_CLIENT_NAME="shop",
    )

    async def use() -> None:
        async with manager.get_async("X") as client:
            await client.get("k")

    with app.app_context():
        for prefix in ("X", "Y", "Z"):
            with pytest.raises(redis.exceptions.NoPermissionError, match="select"):
                manager.get(prefix).get("k")

        with pytest.raises(redis.exceptions.NoPermissionError, match="select"):
            asyncio.run(use())

    assert "'X_CLIENT_NAME'" in caplog.text
    # Its name was not refused.
    assert "'Z_CLIENT_NAME'" not in caplog.text

    with server.admin() as admin:
        admin.acl_deluser("other", "third")
