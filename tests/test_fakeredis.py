from __future__ import annotations

import typing as t

import fakeredis
import pytest
import redis
from flask import Flask

from flask_and_redis import current_redis
from flask_and_redis import RedisManager

from . import objects


@pytest.fixture
def manager(app: Flask) -> RedisManager:
    """A manager with two databases of one fake server, and one database of another."""
    app.config.update(
        REDIS_URL="fakeredis:///0",
        SECOND_URL="fakeredis:///1",
        OTHER_URL="fakeredis://other/0",
    )
    return RedisManager(app)


def test_databases_of_one_server(app: Flask, manager: RedisManager) -> None:
    """Prefixes with the same server name share a fake server. Its databases are
    separate.
    """
    with app.app_context():
        current_redis.set("k", "v")
        assert isinstance(current_redis, fakeredis.FakeRedis)
        assert manager.get("SECOND").get("k") is None
        assert manager.get("OTHER").get("k") is None
        manager.get("SECOND").swapdb(0, 1)
        assert current_redis.get("k") is None
        assert manager.get("SECOND").get("k") == b"v"
        manager.get("OTHER").flushall()
        assert manager.get("SECOND").get("k") == b"v"


def test_apps_share_nothing(app: Flask, manager: RedisManager) -> None:
    """Two apps never share a fake server."""
    other = Flask("other")
    other.config["REDIS_URL"] = "fakeredis:///0"
    manager.init_app(other)

    with app.app_context():
        current_redis.set("k", "v")

    with other.app_context():
        assert current_redis.get("k") is None


@pytest.mark.parametrize("client_class", [None, objects.MyRedis])
def test_settings_of_sentinels(app: Flask, client_class: type | None) -> None:
    """A test can override only the URL. Settings of sentinels then have no effect."""
    app.config["REDIS_URL"] = "fakeredis://"
    app.config["REDIS_CLASS"] = client_class
    app.config["REDIS_SENTINEL_KWARGS"] = {"socket_timeout": 1}
    app.config["REDIS_SENTINEL_PASSWORD"] = "s3ntinel"
    manager = RedisManager(app)

    with app.app_context():
        assert manager.get().ping()


def test_locks_and_scripts(app: Flask, manager: RedisManager) -> None:
    """Locks, Lua scripts and pub/sub work with a fake server."""
    with app.app_context():
        with current_redis.lock("lock", timeout=1) as lock:
            assert lock.owned()

        assert current_redis.eval("return ARGV[1]", 0, "x") == b"x"

        with t.cast(t.Any, current_redis).pubsub(
            ignore_subscribe_messages=True
        ) as pubsub:
            pubsub.subscribe("c")
            pubsub.get_message(timeout=1)
            current_redis.publish("c", "news")
            assert pubsub.get_message(timeout=1)["data"] == b"news"


@pytest.mark.parametrize(
    "config",
    [
        {"REDIS_URL": "fakeredis://?decode_responses=true"},
        {"REDIS_URL": "fakeredis://", "REDIS_DECODE_RESPONSES": "true"},
        {
            "REDIS_URL": "fakeredis://",
            "REDIS_DECODE_RESPONSES": "true",
            "REDIS_CONNECTION_POOL_CLASS": redis.BlockingConnectionPool,
            "REDIS_MAX_CONNECTIONS": 3,
        },
    ],
)
def test_settings_have_effect(app: Flask, config: dict[str, t.Any]) -> None:
    """Client settings work with a fake server as they do with a real one."""
    app.config.update(config)
    RedisManager(app)

    with app.app_context():
        current_redis.set("k", "ä")
        assert t.cast(t.Any, current_redis.get("k")) == "ä"


def test_settings_of_a_real_server(app: Flask) -> None:
    """The settings of a real server may stay set. Login and TLS have no effect."""
    app.config.update(
        REDIS_URL="fakeredis:///2",
        REDIS_HOST="elsewhere",
        REDIS_USERNAME="me",
        REDIS_PASSWORD="secret",
        REDIS_SSL="true",
        REDIS_SSL_CA_CERTS="/ca.pem",
        REDIS_CLIENT_NAME="app",
    )
    RedisManager(app)

    with app.app_context():
        assert current_redis.ping()
        assert current_redis.client_getname() == "app"


def test_custom_class(app: Flask) -> None:
    """The application's own client class also works with a fake server."""
    app.config.update(
        REDIS_URL="fakeredis:///0",
        REDIS2_URL="fakeredis:///0",
        REDIS_CLASS=objects.MyRedis,
        REDIS_FOO="y",
    )
    manager = RedisManager(app)

    with app.app_context():
        assert isinstance(current_redis, objects.MyRedis)
        assert current_redis.foo == "y"
        manager.get("REDIS2").set("k", "v")
        assert current_redis.get("k") == b"v"
