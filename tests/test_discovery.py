from __future__ import annotations

import json
import logging
import traceback
import typing as t

import pytest
import redis
from flask import Flask

from flask_and_redis import ConfigError
from flask_and_redis import RedisManager
from flask_and_redis import UnknownPrefixError


def discover(
    app: Flask, manager: RedisManager | None = None, **config: t.Any
) -> list[str]:
    """Return the prefixes that a manager discovers in an app's settings."""
    app.config.update(config)
    (manager or RedisManager()).init_app(app)
    return list(app.extensions["redis"])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("X_URL", "redis://localhost:6379/0"),
        ("X_URL", "rediss://localhost"),
        ("X_URL", "unix:///tmp/redis.sock"),
        ("X_URL", "valkey://localhost"),
        ("X_URL", "valkeys://localhost"),
        ("X_URL", "fakeredis://"),
        ("X_URL", " REDIS://localhost\n"),
        ("X_HOST", "localhost"),
        ("X_HOST", "/tmp/redis.sock"),
        ("X_HOST", "file:///tmp/redis.sock"),
        ("X_UNIX_SOCKET_PATH", "/tmp/redis.sock"),
        ("X_CONNECTION_POOL", redis.ConnectionPool()),
        ("X_CONNECTION_POOL", "tests.objects.POOL"),
    ],
)
def test_makes_a_prefix(app: Flask, setting: str, value: object) -> None:
    """A setting with one of these endings defines a prefix: the part before it."""
    assert discover(app, None, **{setting: value}) == ["X"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("X_URL", "postgresql://localhost/x"),
        ("X_URL", "memory://"),
        ("X_URL", "localhost:6379"),
        ("X_URL", "redis:localhost"),
        ("X_URL", ""),
        ("X_URL", "  "),
        ("X_URL", None),
        ("X_URL", ["redis://localhost"]),
        ("X_URL", b"redis://localhost"),
        ("X_HOST", ""),
        ("X_HOST", None),
        ("X_HOST", object()),
        ("X_UNIX_SOCKET_PATH", 1),
        ("X_CONNECTION_POOL", None),
        ("x_url", "redis://localhost"),
        ("X_url", "redis://localhost"),
        ("_URL", "redis://localhost"),
        ("URL", "redis://localhost"),
        ("X_URI", "redis://localhost"),
        ("X_PORT", "6379"),
        ("RUN_HOST", "0.0.0.0"),
        ("DATABASE_REPLICA_HOST", "localhost"),
        ("MAIL_HOST", "localhost"),
    ],
)
def test_makes_no_prefix(app: Flask, setting: str, value: object) -> None:
    """A setting that is not the address of a Redis defines no prefix."""
    assert discover(app, None, **{setting: value}) == []


def test_keys_that_are_no_text(app: Flask) -> None:
    """Config keys that are not strings are ignored."""
    app.config[1] = "redis://localhost"
    assert discover(app) == []


def test_foreign_url_rules_out_the_host(app: Flask) -> None:
    """A prefix whose URL has another scheme is not Redis, even if it has a host."""
    assert discover(app, X_URL="amqp://localhost", X_HOST="localhost") == []


def test_foreign_host_with_redis_url(app: Flask) -> None:
    """Names that other services use are skipped if they have a HOST, but not if they
    have a Redis URL.
    """
    assert discover(app, DB_HOST="localhost", DATABASE_URL="redis://h") == ["DATABASE"]


def test_foreign_host_by_name(app: Flask) -> None:
    """A prefix that the application requested is used, whatever its name is."""
    manager = RedisManager()
    manager.get("DB")
    assert discover(app, manager, DB_HOST="localhost") == ["DB"]


def test_ignore(app: Flask) -> None:
    """Prefixes that match an ignore= pattern are skipped, even if they have wrong
    settings.
    """
    manager = RedisManager(ignore=["X*", "REDIS_OLD"])
    config = {"X_URL": "redis://h", "X2_HOST": "h", "REDIS_OLD_URL": "nonsense"}
    assert discover(app, manager, **config, Y_URL="redis://h") == ["Y"]

    with app.app_context(), pytest.raises(UnknownPrefixError, match="ignore="):
        manager.get("X")


def test_prefixes(app: Flask) -> None:
    """With prefixes=, only the listed prefixes are used."""
    manager = RedisManager(prefixes=["DB", "X", "DB"])
    config = {"DB_HOST": "h", "X_URL": "redis://h", "REDIS_URL": "redis://h"}
    assert discover(app, manager, **config) == ["DB", "X"]


def test_prefixes_must_be_there(app: Flask) -> None:
    """A prefix in prefixes= without an address is an error at start-up."""
    with pytest.raises(ConfigError, match="^'X_URL' must be set"):
        discover(app, RedisManager(prefixes=["X"]), X_PORT="6379")


@pytest.mark.parametrize("name", ["prefixes", "ignore"])
def test_lists_are_no_text(name: str) -> None:
    """A string instead of a list of strings is an error. It would be read as a list of
    letters.
    """
    with pytest.raises(TypeError, match=f"{name}="):
        RedisManager(**{name: "CACHE"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("manager", "prefix"),
    [
        (RedisManager(), "REDIS"),
        (RedisManager(), "REDIS_CACHE"),
        (RedisManager(), "REDISCLOUD"),
        (RedisManager(), "VALKEY2"),
        (RedisManager(default="X"), "X"),
        (RedisManager(prefixes=["X"]), "X"),
    ],
)
@pytest.mark.parametrize(
    ("ending", "value"),
    [("URL", "http://localhost"), ("URL", 1), ("HOST", "a b"), ("HOST", object())],
)
def test_ours_stops_start_up(
    app: Flask, manager: RedisManager, prefix: str, ending: str, value: object
) -> None:
    """A wrong setting of a prefix that is certainly Redis is an error at start-up."""
    with pytest.raises(ConfigError, match=f"^'{prefix}_{ending}' must"):
        discover(app, manager, **{f"{prefix}_{ending}": value})


def test_ours_by_an_earlier_get(app: Flask) -> None:
    """A wrong setting of a prefix that was requested before init_app is an error at
    start-up.
    """
    manager = RedisManager()
    manager.get("X")

    with pytest.raises(ConfigError, match="^'X_URL' must begin with redis://"):
        discover(app, manager, X_URL="http://localhost")


def test_another_is_logged(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong setting that may belong to another library is logged. It raises an error
    when the prefix is used.
    """
    manager = RedisManager()

    with caplog.at_level(logging.WARNING):
        assert discover(app, manager, X_HOST="a b", Y_URL="redis://h/x") == []

    assert [record.name for record in caplog.records] == ["flask_and_redis"] * 2
    assert "'X_HOST' must name a host" in caplog.text
    assert "'Y_URL' must end in the number of a database" in caplog.text

    with app.app_context():
        for _ in range(2):
            with pytest.raises(ConfigError, match="^'X_HOST' must name a host"):
                manager.get("X").ping()

        with pytest.raises(ConfigError, match="^'X_HOST' must name a host") as info:
            app.extensions["redis"]["X"]

        # The traceback must not include init_app, whose frames hold the settings.
        frames = traceback.walk_tb(info.value.__traceback__)
        assert not any("config" in frame.f_locals for frame, _ in frames)

    assert "X" not in app.extensions["redis"]


def test_longest_prefix_wins(app: Flask) -> None:
    """A setting that matches two prefixes belongs to the longer one."""
    assert discover(
        app,
        REDIS_URL="rediss://h",
        REDIS_SSL_URL="redis://h",
        REDIS_SSL_PASSWORD="x",
        REDIS_SSL_CA_CERTS=__file__,
    ) == ["REDIS", "REDIS_SSL"]
    pools = [client.connection_pool for client in app.extensions["redis"].values()]
    assert pools[0].connection_kwargs["ssl_password"] is None
    assert pools[0].connection_kwargs["ssl_ca_certs"] == __file__
    assert pools[1].connection_kwargs["password"] == "x"


@pytest.mark.parametrize("asked", ["by get", "as default"])
def test_absent_prefix_reads_nothing(app: Flask, asked: str) -> None:
    """If a longer prefix has no address, its settings belong to the shorter one."""
    manager = RedisManager(default="REDIS_SSL" if asked == "as default" else "REDIS")
    manager.get("REDIS_SSL")
    settings = {"REDIS_URL": "rediss://h", "REDIS_SSL_PASSWORD": "x"}
    assert discover(app, manager, **settings) == ["REDIS"]
    pool = app.extensions["redis"]["REDIS"].connection_pool
    assert pool.connection_kwargs["ssl_password"] == "x"


def test_read_once(app: Flask) -> None:
    """init_app reads the settings once, and does not change them."""
    app.config["REDIS_URL"] = "redis://h/1"
    before = dict(app.config)
    RedisManager(app)
    assert app.config == before
    app.config["REDIS_URL"] = "redis://h/2"
    pool = app.extensions["redis"]["REDIS"].connection_pool
    assert pool.connection_kwargs["db"] == 1


def test_other_libraries_side_by_side(
    app: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Among the settings of many libraries, only those with a Redis address define a
    prefix.
    """
    environment = {
        "RUN_HOST": "0.0.0.0",
        "RUN_PORT": "8000",
        "DEBUG": "false",
        "REDIS_URL": "redis://:12345@localhost:6379/0",
        "REDIS2_URL": "redis://localhost:6379/1",
        "SESSION_COOKIE_SECURE": "true",
    }

    for name, value in environment.items():
        monkeypatch.setenv(f"FLASK_{name}", value)

    app.config.from_prefixed_env()
    app.config.update(
        # Celery, with the old names that Flask applications use.
        CELERY_BROKER_URL="rediss://:pw@broker:6380/0?ssl_cert_reqs=CERT_NONE",
        CELERY_RESULT_BACKEND="redis://localhost/2",
        CELERY_RESULT_BACKEND_URL="db+sqlite:///results.db",
        CELERY2_BROKER_URL="memory://",
        CELERY3_BROKER_URL="amqp://guest:guest@localhost:5672//",
        CELERY4_BROKER_URL="redis://localhost:6379/3",
        # Flask-Caching
        CACHE_TYPE="RedisCache",
        CACHE_DEFAULT_TIMEOUT=300,
        CACHE_KEY_PREFIX="x",
        CACHE_REDIS_URL="redis://localhost:6379/4",
        CACHE_REDIS_PASSWORD="pw",
        CACHE2_REDIS_HOST=RedisManager().get("REDIS"),
        CACHE_OPTIONS={"socket_timeout": 1},
        CACHE_MEMCACHED_SERVERS=["localhost"],
        # Flask-Limiter
        RATELIMIT_STORAGE_URI="redis://localhost:6379/5",
        RATELIMIT_STORAGE_URL="memory://",
        RATELIMIT_STORAGE_OPTIONS={"socket_connect_timeout": 30},
        # Flask-Session
        SESSION_TYPE="redis",
        SESSION_REDIS=redis.Redis(),
        SESSION_KEY_PREFIX="session:",
        # Flask-SocketIO, RQ and its dashboard
        SOCKETIO_MESSAGE_QUEUE="redis://localhost",
        RQ_DASHBOARD_REDIS_URL=["redis://localhost:6379/6"],
        RQ_REDIS_URL="redis://localhost:6379/7",
        RQ_QUEUES=["default"],
        # Sentry, SQLAlchemy, mail, search, message brokers
        SENTRY_DSN="https://key@sentry.example/1",
        SENTRY_URL="https://sentry.example",
        SQLALCHEMY_DATABASE_URI="postgresql://localhost/x",
        DATABASE_HOST="db",
        POSTGRES_HOST="db",
        MAIL_SERVER="localhost",
        SMTP_HOST="localhost",
        ELASTICSEARCH_URL="http://localhost:9200",
        RABBITMQ_HOST="rabbit",
        # Heroku
        DATABASE_URL="postgres://u:p@host:5432/x",
        HEROKU_POSTGRESQL_BLUE_URL="postgres://u:p@host:5432/y",
        REDIS_TLS_URL="rediss://:p@host:6380",
        HEROKU_REDIS_COPPER_URL="rediss://:p@host:6390",
        PORT="5000",
    )

    with caplog.at_level(logging.DEBUG):
        RedisManager().init_app(app)

    assert set(app.extensions["redis"]) == {
        "REDIS",
        "REDIS2",
        "CELERY_BROKER",
        "CELERY4_BROKER",
        "CACHE_REDIS",
        "RQ_REDIS",
        "REDIS_TLS",
        "HEROKU_REDIS_COPPER",
    }
    assert not caplog.records
    clients = app.extensions["redis"]
    broker = clients["CELERY_BROKER"].connection_pool.connection_kwargs
    assert (broker["host"], broker["ssl_cert_reqs"]) == ("broker", "none")
    cache = clients["CACHE_REDIS"].connection_pool.connection_kwargs
    assert cache["password"] == "pw"


def test_json_environment(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password of digits stays text, although Flask reads the environment as JSON."""
    for name, value in {
        "HOST": "h",
        "PORT": "1",
        "PASSWORD": "0012",
        "DB": "3",
    }.items():
        monkeypatch.setenv(f"FLASK_REDIS_{name}", value)

    monkeypatch.setenv("FLASK_REDIS2_URL", "redis://h")
    monkeypatch.setenv("FLASK_REDIS2_PASSWORD", "123456")
    monkeypatch.setenv("FLASK_REDIS2_DECODE_RESPONSES", "false")
    app.config.from_prefixed_env()
    assert json.loads("123456") == app.config["REDIS2_PASSWORD"]
    RedisManager(app)
    clients = app.extensions["redis"]
    first = clients["REDIS"].connection_pool.connection_kwargs
    second = clients["REDIS2"].connection_pool.connection_kwargs
    assert (first["port"], first["password"], first["db"]) == (1, "0012", 3)
    assert (second["password"], second["decode_responses"]) == ("123456", False)
