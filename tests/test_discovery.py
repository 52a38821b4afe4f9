from __future__ import annotations

import json
import logging
import os
import traceback
import typing as t
import warnings
from pathlib import Path
from urllib.parse import SplitResult

import pytest
import redis
from flask import Flask

from flask_and_redis import ConfigError
from flask_and_redis import current_redis
from flask_and_redis import Redis
from flask_and_redis import RedisManager
from flask_and_redis import UnknownPrefixError

from . import objects


def discover(
    app: Flask, manager: RedisManager | None = None, **config: t.Any
) -> list[str]:
    """Return the prefixes that a manager discovers in an app's settings."""
    app.config.update(config)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No setting configures a Redis")
        (manager or RedisManager()).init_app(app)

    return list(app.extensions["redis"])


def warnings_of(
    config: dict[str, t.Any], *requested: str, **options: t.Any
) -> list[str]:
    """The warnings of a manager for these settings. Some prefixes were requested before
    there is an app.
    """
    app = Flask("warnings", static_folder=None)
    app.config.update(config)
    manager = RedisManager(**options)

    for prefix in requested:
        manager.get(prefix)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manager.init_app(app)

    assert {warning.filename for warning in caught} <= {__file__}
    return [str(warning.message) for warning in caught]


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
        ("X_UNIX_SOCKET_PATH", Path("/tmp/redis.sock")),
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
        ("_URL", "redis://localhost"),
        ("X__HOST", "localhost"),
        ("X_HOST", "http://localhost:8000"),
        ("X_HOST", "tcp://localhost"),
        ("X_HOST", "5000"),
        ("SHOP_MAIL_HOST", "localhost"),
        ("SHOP_WRITE_MYSQL_HOST", "localhost"),
        ("DB_REPLICA_HOST", "localhost"),
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


#: Hosts of other software, as its documentation or its images name them.
FOREIGN_HOSTS = """
    RUN SERVER APP API WEB HTTP HTTP_PROXY NO_PROXY SITE PUBLIC BIND CDN CDN_ASSETS
    SHOP_DB DB_REPLICA DB DATABASE SQLALCHEMY MYSQL MARIADB POSTGRES PGBOUNCER MSSQL
    ORACLE MONGODB CASSANDRA CLICKHOUSE INFLUXDB NEO4J COUCHDB MAIL EMAIL SMTP IMAP POP3
    FTP SFTP SSH LDAP RABBITMQ AMQP KAFKA NATS MQTT ZOOKEEPER CONSUL ELASTICSEARCH
    ES SHOP_ES OPENSEARCH SOLR MEILI MEILISEARCH TYPESENSE MEMCACHED STATSD GRAPHITE
    JAEGER_AGENT OTEL DD_AGENT DATADOG SENTRY LOGSTASH FLUENTD SYSLOG VAULT MINIO S3 AWS
    DOCKER CHROMA MILVUS QDRANT VECTOR_STORE WEAVIATE
"""


@pytest.mark.parametrize("prefix", FOREIGN_HOSTS.split())
def test_hosts_of_other_software(app: Flask, prefix: str) -> None:
    """The host of other software defines no prefix."""
    assert discover(app, None, **{f"{prefix}_HOST": "localhost"}) == []


@pytest.mark.parametrize("prefix", ["APPLE", "SHOP_APP", "BINDER", "SITES", "ESTATE"])
def test_hosts_with_similar_names(app: Flask, prefix: str) -> None:
    """A name that only begins or ends like one of other software defines a prefix."""
    assert discover(app, None, **{f"{prefix}_HOST": "localhost"}) == [prefix]


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


def test_ignore_in_lower_case() -> None:
    """A pattern in lower case, which matches no prefix, is an error."""
    message = "^The pattern 'x_Old[*]' in ignore= must be in upper case, like all pre"

    with pytest.raises(ConfigError, match=message):
        RedisManager(ignore=["CACHE", "x_Old*"])

    app = Flask(__name__)
    manager = RedisManager(ignore=["[!a-z]_1", "?2", "3*"])
    config = {"X_1_URL": "redis://h", "X2_HOST": "h", "Y_URL": "redis://h"}
    assert discover(app, manager, **config) == ["Y"]


def test_prefixes(app: Flask) -> None:
    """With prefixes=, only the listed prefixes are used."""
    manager = RedisManager(prefixes=["DB", "X", "DB"])
    config = {"DB_HOST": "h", "X_URL": "redis://h", "REDIS_URL": "redis://h"}
    assert discover(app, manager, **config) == ["DB", "X"]


def test_prefixes_must_be_there(app: Flask) -> None:
    """A prefix in prefixes= without an address is an error at start-up."""
    with pytest.raises(ConfigError, match="prefix 'X' in prefixes= has no address"):
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
        REDIS_SSL_CA_CERTS=objects.CA,
    ) == ["REDIS", "REDIS_SSL"]
    pools = [client.connection_pool for client in app.extensions["redis"].values()]
    assert pools[0].connection_kwargs["ssl_password"] is None
    assert pools[0].connection_kwargs["ssl_ca_certs"] == objects.CA
    assert pools[1].connection_kwargs["password"] == "x"


@pytest.mark.parametrize("asked", ["by get", "as default"])
def test_absent_prefix_reads_nothing(app: Flask, asked: str) -> None:
    """If a longer prefix has no address, its settings belong to the shorter one."""
    manager = RedisManager(default="REDIS_SSL" if asked == "as default" else "REDIS")
    manager.get("REDIS_SSL")
    settings = {"REDIS_URL": "rediss://h", "REDIS_SSL_PASSWORD": "x"}

    with pytest.warns(UserWarning, match="no setting configures this prefix"):
        assert discover(app, manager, **settings) == ["REDIS"]

    pool = app.extensions["redis"]["REDIS"].connection_pool
    assert pool.connection_kwargs["ssl_password"] == "x"


def test_read_once(app: Flask) -> None:
    """init_app reads the settings once, and does not change them. If an address changes
    later, the first use of its prefix warns.
    """
    app.config.update(REDIS_URL="redis://h/1", CACHE_HOST="h", X_HOST="h")
    before = dict(app.config)
    manager = RedisManager(app)
    assert app.config == before
    app.config.update(REDIS_URL="fakeredis://", CACHE_DB=3, X_PORT="", X_PASSWORD="x")

    with app.app_context():
        with pytest.warns(UserWarning) as log:
            assert callable(current_redis.get)
            assert manager.get("CACHE").connection

        pool = current_redis.connection_pool
        assert pool.connection_kwargs["db"] == 1
        assert manager.get("X").connection
        assert [str(warning.message) for warning in log] == [
            f"{setting!r} was changed in app.config after init_app, so the change has"
            " no effect. Set it before init_app, or use RedisManager.override."
            for setting in ("REDIS_URL", "CACHE_DB")
        ]
        assert {warning.filename for warning in log} == {__file__}
        # One warning is enough.
        manager.close()
        assert current_redis.connection is not None


@pytest.mark.parametrize(
    "use",
    [
        lambda app: current_redis.response_callbacks,
        lambda app: current_redis.connection,
        lambda app: hasattr(current_redis, "no_such_command"),
        lambda app: dir(current_redis),
        lambda app: app.extensions["redis"]["REDIS"],
        lambda app: app.extensions["redis"].get("REDIS"),
        lambda app: dict(app.extensions["redis"]),
    ],
)
def test_change_names_the_first_use(
    app: Flask, use: t.Callable[[Flask], object]
) -> None:
    """Whatever the first use is, the warning names its line."""
    app.config["REDIS_HOST"] = "h"
    RedisManager(app)
    app.config["REDIS_HOST"] = "other"

    with app.app_context(), pytest.warns(UserWarning, match="'REDIS_HOST' was") as log:
        use(app)

    code = t.cast(t.Any, use).__code__
    place = (code.co_filename, code.co_firstlineno)
    assert [(warning.filename, warning.lineno) for warning in log] == [place]


def test_change_of_an_override(app: Flask) -> None:
    """A prefix with an override does not warn: its settings are not used."""
    app.config["REDIS_URL"] = "redis://h"
    manager = RedisManager(app)
    app.config["REDIS_URL"] = "fakeredis://"

    with app.app_context(), manager.override("REDIS", redis.Redis()) as client:
        assert current_redis.connection is client


def test_change_before_an_asynchronous_use(app: Flask) -> None:
    """The first use may be asynchronous."""
    app.config["REDIS_HOST"] = "h"
    manager = RedisManager(app)
    app.config["REDIS_URL"] = "fakeredis://"

    with app.app_context(), pytest.warns(UserWarning, match="'REDIS_URL' was") as log:
        manager.get_async()

    assert [warning.filename for warning in log] == [__file__]


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


@pytest.mark.parametrize(
    ("prefix", "config"),
    [
        ("REDIS", {}),
        ("CACHE", {}),
        ("REDIS", {"REDIS_PORT_6379_TCP_ADDR": "10.0.0.1"}),
        ("REDIS", {"REDIS_SERVICE_PORT_REDIS": "6379"}),
        ("KUBE_DNS", {"KUBE_DNS_PORT": "udp://10.0.0.1:53"}),
    ],
)
def test_kubernetes_service(app: Flask, prefix: str, config: dict[str, str]) -> None:
    """The variables that Kubernetes sets for a service make no prefix, and cause no
    warning. The list of what was skipped tells the reason.
    """
    app.config.update({"STORE_URL": "redis://h", f"{prefix}_SERVICE_HOST": "10.0.0.1"})
    app.config.update(
        {f"{prefix}_SERVICE_PORT": "6379", f"{prefix}_PORT": "tcp://10.0.0.1:6379"}
    )
    app.config.update(config)
    RedisManager(app)
    registry = app.extensions["redis"]
    assert list(registry) == ["STORE"]
    assert registry.skipped == {
        f"{prefix}_SERVICE": f"Kubernetes set '{prefix}_SERVICE_HOST' for a service of"
        f" this name, as '{prefix}_PORT' shows"
    }


def test_kubernetes_environment(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service named flask-redis reaches from_prefixed_env(). Its address can be used
    by a setting of the application.
    """
    for name, value in {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "KUBERNETES_PORT": "tcp://10.0.0.1:443",
        "FLASK_REDIS_SERVICE_HOST": "10.0.0.2",
        "FLASK_REDIS_SERVICE_PORT": "6379",
        "FLASK_REDIS_PORT": "tcp://10.0.0.2:6380",
        "FLASK_REDIS_PORT_6379_TCP": "tcp://10.0.0.2:6380",
        "FLASK_REDIS_HOST": "flask-redis",
    }.items():
        monkeypatch.setenv(name, value)

    app.config.from_prefixed_env()
    RedisManager(app)
    assert list(app.extensions["redis"]) == ["REDIS"]
    arguments = app.extensions["redis"].get_spec("REDIS").arguments
    assert (arguments["host"], arguments["port"]) == ("flask-redis", 6380)
    # The whole environment may be the settings, too.
    other = Flask("other")
    other.config.from_mapping(os.environ, REDIS_URL="redis://h")
    RedisManager(other)
    assert "KUBERNETES_SERVICE" not in other.extensions["redis"]


def test_service_that_is_ours(app: Flask) -> None:
    """A prefix may end with SERVICE if it is not Kubernetes' own."""
    config = {"REDIS_SERVICE_HOST": "h", "MY_SERVICE_URL": "redis://h"}
    config |= {"MY_SERVICE_HOST": "h", "MY_PORT": "tcp://10.0.0.1:6379"}
    assert discover(app, None, **config) == ["REDIS_SERVICE", "MY_SERVICE"]


@pytest.mark.parametrize(
    "url",
    [
        "'redis://h'",
        '"rediss://h"',
        "rdis://h",
        "reddis://h",
        "valky://h",
        "redis:/h",
        "redis:6379",
        b"redis://h",
        SplitResult("redis", "h", "", "", ""),
    ],
)
def test_url_that_is_meant_as_ours(
    app: Flask, url: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A URL that is nearly one of a Redis is not skipped without a word."""
    assert discover(app, None, X_URL=url) == []
    assert "Using the prefix 'X' will raise an error: 'X_URL' " in caplog.text

    with app.app_context(), pytest.raises(ConfigError, match="^'X_URL' "):
        RedisManager().get("X").ping()


@pytest.mark.parametrize(
    "url",
    [
        "redis+socket:///tmp/r.sock",
        "sentinel://h:26379",
        "async+redis://h",
        "http://redis:6379",
        "'http://h'",
        "rabbit:5672",
        "radius://h",
        ["redis://h"],
        objects.SecretStr(),
    ],
)
def test_url_of_something_else(
    app: Flask, url: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A URL that other libraries use is skipped."""
    assert discover(app, None, X_URL=url) == []
    assert not caplog.records


def test_reason_names_the_type(app: Flask) -> None:
    """If an address is skipped because it is no text, the reason names its type."""
    discover(app, None, X_URL=objects.SecretStr(), Y_HOST=b"h")
    assert app.extensions["redis"].skipped == {
        "X": "'X_URL' is not text. It is of type tests.SecretStr:"
        " use value.get_secret_value()",
        "Y": "'Y_HOST' is not text. It is of type bytes: use value.decode()",
    }


def test_prefix_that_ends_with_an_underscore(app: Flask) -> None:
    """A prefix cannot end with '_', wherever it comes from."""
    manager = RedisManager()

    with pytest.raises(ConfigError, match="must not end with '_'"):
        manager.get("X_")

    app.config.update(Y_URL="redis://h", X__HOST="h")
    manager.init_app(app)
    assert list(app.extensions["redis"]) == ["Y"]
    reasons = {"X_": "a prefix does not end with '_'"}
    assert app.extensions["redis"].skipped == reasons


@pytest.mark.parametrize("prefix", ["X", "REDIS", "REDIS_CACHE"])
def test_two_underscores(prefix: str) -> None:
    """A URL of a Redis whose name has one '_' too many causes one warning."""
    assert warnings_of({f"{prefix}__URL": "redis://h"}) == [
        f"'{prefix}__URL' is not used. Did you mean '{prefix}_URL'?"
    ]


def test_lower_case(app: Flask) -> None:
    """An address in lower case is skipped for this reason, if it would make a prefix in
    upper case.
    """
    app.config.update(
        cache_url="redis://h", Jobs_Host="h", x_url="redis://h", X_HOST="h"
    )
    app.config.update(
        db_url="postgresql://h", mail_host="h", empty_url="", _url="redis://"
    )
    app.config.update(Y_URL="http://h", y_url="redis://h", ignored_url="redis://h")

    with pytest.warns(UserWarning, match="'x_url' is not used. Did you mean 'X_URL'?"):
        manager = RedisManager(app, ignore=["IGNORED*"])

    registry = app.extensions["redis"]
    assert list(registry) == ["X"]
    assert list(registry.skipped) == ["Y", "CACHE", "JOBS"]
    assert registry.skipped["CACHE"] == "'cache_url' is not in upper case"
    assert "does not begin with redis://" in registry.skipped["Y"]

    with app.app_context(), pytest.raises(UnknownPrefixError) as info:
        manager.get("CACHE")

    assert str(info.value).endswith(
        " 'CACHE' was skipped: 'cache_url' is not in upper case."
    )
    assert warnings_of(
        {"cache_url": "redis://h", "REDIS_URL": "redis://h"}, "CACHE"
    ) == [
        "'cache_url' is not used. Did you mean 'CACHE_URL'?",
        "manager.get('CACHE') was called, but no setting configures this prefix: set"
        " 'CACHE_URL' or 'CACHE_HOST'. It was skipped: 'cache_url' is not in upper"
        " case.",
    ]


def test_long_prefix(app: Flask) -> None:
    """A prefix has a limited length, wherever it comes from."""
    prefix = "X" * 200
    assert discover(app, None, **{f"{prefix}_URL": "redis://h"}) == [prefix]
    assert RedisManager().get(prefix)

    with pytest.raises(
        ConfigError, match="'XXXXXXXXXXXXXXXXXXXX...' must have at most"
    ):
        RedisManager().get(f"{prefix}X")

    other = Flask("other")
    assert discover(other, None, **{f"{prefix}X_URL": "redis://h"}) == []
    assert other.extensions["redis"].skipped == {
        f"{prefix}X": "a prefix has at most 200 letters"
    }


@pytest.mark.timeout(30)
def test_many_long_names(app: Flask) -> None:
    """The time to read settings does not depend on the square of their lengths."""
    nested = {"A_" * number + "URL": "redis://h" for number in range(1, 2000)}
    long = {f"A{'_' * 40_000}B": "x", f"A_{'b_' * 20_000}URL": "x", "A_" * 20_000: "x"}
    prefixes = discover(app, None, **nested, **long)
    assert 50 < len(prefixes) <= 100


def test_nothing_is_configured() -> None:
    """A manager that finds no Redis warns, unless prefixes= turns the search off."""
    message = "No setting configures a Redis: set '{}_URL', for example."
    assert warnings_of({"DATABASE_URL": "postgresql://h"}) == [message.format("REDIS")]
    assert warnings_of({"X_URL": "redis://h/x"}) == []

    with pytest.warns(UserWarning, match=message.format("CACHE")) as log:
        manager = RedisManager(Flask("default"), default="CACHE")
        manager.init_app(Flask("second"))
        RedisManager(default="CACHE").init_app(Flask("third"))

    assert [warning.filename for warning in log] == [__file__] * 3

    RedisManager(Flask("none"), prefixes=[])
    app = Flask("registered")
    Redis(app)
    RedisManager(app)


@pytest.mark.parametrize("ending", ["HOST", "UNIX_SOCKET_PATH", "CONNECTION_POOL"])
def test_variable_besides_an_empty_setting(
    monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """Each setting with an address is found, also if another one is set to nothing."""
    monkeypatch.setenv(f"REDIS_{ending}", "x")
    (warning,) = warnings_of({"REDIS_URL": ""})
    assert f"'REDIS_{ending}' is in the environment, but" in warning


def test_warnings_name_the_caller() -> None:
    """Warnings name the line that creates an extension for an app, or adds an app."""
    with pytest.warns(UserWarning) as log:
        for extension in (RedisManager, Redis):
            apps = [Flask("first"), Flask("second")]

            for app in apps:
                app.config["REDIS_SOKET_TIMEOUT"] = 1

            extension(apps[0]).init_app(apps[1])

    assert len(log) == 4
    assert {warning.filename for warning in log} == {__file__}


def test_variable_without_flask(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the environment has a variable that from_prefixed_env() does not read, or was
    not read at all, the warning names it.
    """
    monkeypatch.setenv("REDIS_URL", "redis://:s3cret@h")
    monkeypatch.setenv("FLASK_CACHE_HOST", "h")
    assert warnings_of({}) == [
        "No setting configures a Redis: set 'REDIS_URL', for example. 'REDIS_URL' is in"
        " the environment, but app.config.from_prefixed_env() reads 'FLASK_REDIS_URL'."
    ]
    assert warnings_of({}, "CACHE") == [
        "manager.get('CACHE') was called, but no setting configures this prefix: set"
        " 'CACHE_URL' or 'CACHE_HOST'. 'FLASK_CACHE_HOST' is in the environment: call"
        " app.config.from_prefixed_env() before init_app."
    ]
    # It was read, but is empty.
    assert "environment" not in warnings_of({"REDIS_URL": "", "REDIS_HOST": ""})[0]


def test_mapping_from_the_environment(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flask makes a mapping of a variable with two underscores."""
    monkeypatch.setenv("FLASK_REDIS__URL", "redis://h")
    app.config.from_prefixed_env()

    with pytest.warns(
        UserWarning, match="'REDIS' is a mapping, .*: write a single '_'"
    ):
        RedisManager(app)


def test_requested_but_not_configured() -> None:
    """A prefix that was requested before init_app and is not configured causes a
    warning with the nearest setting.
    """
    start = (
        "manager.get('CACHE') was called, but no setting configures this prefix: set"
        " 'CACHE_URL' or 'CACHE_HOST'."
    )
    assert warnings_of({"CACH_URL": "redis://h"}, "CACHE") == [
        f"{start} 'CACH_URL' is set: did you mean 'CACHE_URL'?"
    ]
    assert warnings_of({"CACHES_HOST": "h"}, "CACHE") == [
        f"{start} 'CACHES_HOST' is set: did you mean 'CACHE_HOST'?"
    ]
    assert warnings_of({"STORE_URL": "redis://h"}, "CACHE", "STORE") == [start]
    assert warnings_of({"CACHE_URL": "redis://h"}, "CACHE") == []
    assert warnings_of({"STORE_URL": "redis://h"}, "STORE", "CACHE") == [start]
    # Neither of these is a setting of Redis.
    assert warnings_of({"STORE_URL": "redis://h", "CACHE": 1}, "CACHE") == [start]
    assert "no setting" in warnings_of({"CACHE_URL": "redis://h"}, "CACHE_HOST")[0]
    assert warnings_of({"CACHE_URL": "redis://h"}, "CACHE_URL") == [
        "manager.get('CACHE_URL') was called, but 'CACHE_URL' is the name of a setting,"
        " not a prefix. Leave out its ending, such as '_URL'."
    ]
    kubernetes = {"CACHE_SERVICE_HOST": "10.0.0.1", "CACHE_PORT": "tcp://10.0.0.1:1"}
    assert warnings_of(kubernetes, "CACHE_SERVICE") == [
        "manager.get('CACHE_SERVICE') was called, but no setting configures this"
        " prefix: set 'CACHE_SERVICE_URL' or 'CACHE_SERVICE_HOST'. It was skipped:"
        " Kubernetes set 'CACHE_SERVICE_HOST' for a service of this name, as"
        " 'CACHE_PORT' shows."
    ]


def test_default_but_not_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default prefix that the application has chosen, or that is in the environment,
    and that is not configured, causes a warning.
    """
    config = {"MAIN_URL": "redis://h"}
    start = (
        "The default prefix is {0!r}, but no setting configures this prefix: set"
        " '{0}_URL' or '{0}_HOST'."
    )
    assert warnings_of(config, default="MAINE") == [
        f"{start.format('MAINE')} 'MAIN_URL' is set: did you mean 'MAINE_URL'?"
    ]
    ignored = start.format("X") + " It was skipped: a pattern in ignore= matches 'X'."
    assert warnings_of({**config, "X_HOST": "h"}, default="X", ignore=["X"]) == [
        ignored
    ]
    assert warnings_of(config, default="MAIN") == []
    # Not every application uses REDIS, and some platforms set REDIS_URL.
    monkeypatch.setenv("REDIS_URL", "redis://h")
    assert warnings_of(config) == []
    monkeypatch.setenv("FLASK_REDIS_URL", "redis://h")
    assert warnings_of(config) == [
        f"{start.format('REDIS')} 'FLASK_REDIS_URL' is in the environment: call"
        " app.config.from_prefixed_env() before init_app."
    ]
    assert warnings_of(config, prefixes=["MAIN"]) == []
    assert warnings_of(config | {"REDIS_URL": ""}) == []


def test_requested_but_not_listed() -> None:
    """If a prefix is configured and not in prefixes=, the warning says so."""
    config = {"A_URL": "redis://h", "B_URL": "redis://h"}
    assert warnings_of(config, "B", prefixes=["A"]) == [
        "manager.get('B') was called, but this prefix is not in prefixes=."
    ]


def test_requested_of_a_registered_prefix(app: Flask) -> None:
    """A prefix that a Redis or a pool configures is configured."""
    manager = RedisManager()
    manager.get("X")
    manager.get("Y")
    Redis(app, "X")
    app.config["Y_CONNECTION_POOL"] = redis.ConnectionPool()
    manager.init_app(app)


def test_requested_of_another_app() -> None:
    """A prefix that was requested in the context of one app may be missing in
    another.
    """
    manager = RedisManager()
    first, second = Flask("first"), Flask("second")
    first.config.update(REDIS_URL="redis://h", A_URL="redis://a")
    second.config.update(REDIS_URL="redis://h")
    manager.init_app(first)

    with first.app_context():
        manager.get("A")

    manager.init_app(second)
