from __future__ import annotations

import logging
import typing as t
import warnings

import pytest
from flask import Flask

from flask_and_redis import ConfigError
from flask_and_redis import RedisManager
from flask_and_redis.settings.misspellings import suggest

from .test_discovery import warnings_of


def report(config: dict[str, t.Any], caplog: pytest.LogCaptureFixture) -> str:
    """What start-up says about settings: an error, or warnings and log messages."""
    app = Flask("typing", static_folder=None)
    app.config.update(config)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        try:
            RedisManager(app)
        except ConfigError as error:
            return str(error)

    return "\n".join([*(str(each.message) for each in caught), *caplog.messages])


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("PROT", "PORT"),
        ("PORTS", "PORT"),
        ("PRT", "PORT"),
        ("PORT_NUMBER", "PORT"),
        ("HOSTNAME", "HOST"),
        ("HSOT", "HOST"),
        ("HOSTS", "HOST"),
        ("PASSWROD", "PASSWORD"),
        ("PASWORD", "PASSWORD"),
        ("PASSWORT", "PASSWORD"),
        ("PASSWD", "PASSWORD"),
        ("PASS", "PASSWORD"),
        ("PASSWORD_", "PASSWORD"),
        ("PASSWORD_FIL", "PASSWORD_FILE"),
        ("PASSWORT_FILE", "PASSWORD_FILE"),
        ("PASS_FILE", "PASSWORD_FILE"),
        ("PASSWORD_PATH", "PASSWORD_FILE"),
        ("USERNAME_FILE", "USERNAME"),
        ("USERNMAE", "USERNAME"),
        ("USER_NAME", "USERNAME"),
        ("DATABASE", "DB"),
        ("DBS", "DB"),
        ("DB_INDEX", "DB"),
        ("SSL_CA", "SSL_CA_CERTS"),
        ("SSL_CERT", "SSL_CERTFILE"),
        ("SSL_KEY", "SSL_KEYFILE"),
        ("SSL_CAFILE", "SSL_CA_CERTS"),
        ("TLS", "SSL"),
        ("TLS_ENABLED", "SSL"),
        ("TLS_CA_CERTS", "SSL_CA_CERTS"),
        ("TLS_CERT", "SSL_CERTFILE"),
        ("_URL", "URL"),
        ("URLS", "URL"),
        ("ULR", "URL"),
        ("URl", "URL"),
        ("password", "PASSWORD"),
        ("SOCKET_PATH", "UNIX_SOCKET_PATH"),
        ("UNIX_SOKET_PATH", "UNIX_SOCKET_PATH"),
    ],
)
@pytest.mark.parametrize("address", [{"HOST": "h"}, {"URL": "redis://h"}])
@pytest.mark.parametrize("prefix", ["CACHE", "REDIS", "REDIS_CACHE"])
def test_any_prefix(
    prefix: str, address: dict[str, str], name: str, right: str
) -> None:
    """A setting of the address, credentials or TLS that is misspelt causes a warning,
    whatever the prefix is.
    """
    config = {f"{prefix}_{each}": value for each, value in address.items()}
    assert warnings_of(config | {f"{prefix}_{name}": "17111"}) == [
        f"'{prefix}_{name}' is not used. Did you mean '{prefix}_{right}'?"
    ]


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("DEADLINE", "RETRY_DEADLINE"),
        ("RETRIES", "RETRY"),
        ("MAX_RETRIES", "RETRY"),
        ("POOL_SIZE", "MAX_CONNECTIONS"),
        ("AUTH", "PASSWORD"),
        ("AUTH_TOKEN", "PASSWORD"),
        ("CONNECTION_TIMEOUT", "SOCKET_CONNECT_TIMEOUT"),
        ("CONNECT_TIMEOUT", "SOCKET_CONNECT_TIMEOUT"),
        ("READ_TIMEOUT", "SOCKET_TIMEOUT"),
        ("IDLE_TIMEOUT", "MAX_IDLE"),
        ("KEEPALIVE", "SOCKET_KEEPALIVE"),
        ("SSL_VERIFY", "SSL_CERT_REQS"),
        ("TLS_VERIFY", "SSL_CERT_REQS"),
        ("VERIFY_SSL", "SSL_CERT_REQS"),
        ("CA_CERTS", "SSL_CA_CERTS"),
    ],
)
def test_certain_prefix(name: str, right: str) -> None:
    """Names that other software uses, too, cause a warning if the prefix is certainly
    Redis.
    """
    assert warnings_of({"REDIS_HOST": "h", f"REDIS_{name}": "1"}) == [
        f"'REDIS_{name}' is not used. Did you mean 'REDIS_{right}'?"
    ]
    assert warnings_of({"JOBS_URL": "redis://h", f"JOBS_{name}": "1"}) == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"REDIS_URL": "rdis://h"}, "Did you mean redis://?"),
        ({"CACHE_URL": "redi://h"}, "Did you mean redis://?"),
        ({"REDIS_URL": "redis:/h"}, "'REDIS_URL' must begin with redis://"),
        ({"REDIS_URL": "redis//h"}, "'REDIS_URL' must begin with redis://"),
        ({"CACHE_URL": "redis:6379"}, "'CACHE_URL' must begin with redis://"),
        ({"REDIS_URL": "localhost:6379"}, "'REDIS_URL' must begin with redis://"),
        ({"REDIS_URL": "redis://h:637g"}, "a port from 1 to 65535"),
        ({"REDIS_URL": "redis://h:63790"}, "No report: it may be right."),
        ({"REDIS_URL": "redis://h/O"}, "must end in the number of a database"),
        ({"REDIS_URL": "redis://h/0/"}, "No report: it is right."),
        ({"REDIS_URL": "redis://h,i"}, "several hosts: use redis+cluster://"),
        ({"REDIS_URL": "redis://pw@h"}, "The username in 'REDIS_URL' is without a"),
        ({"REDIS_URL": "redis://:p#w@h"}, "must be percent-encoded"),
        ({"REDIS_URL": "redis://h?socket_timout=1"}, "Did you mean 'socket_timeout'?"),
        ({"REDIS_URL": "'redis://h'"}, "'REDIS_URL' starts with a quote"),
        ({"REDIS_URL": "redis://h h"}, "'REDIS_URL' cannot be read"),
        ({"REDIS_URL": "redis://.h"}, "must name a host"),
        ({"REDIS_URL": "redis://<host>"}, "has a placeholder"),
        ({"REDIS_HOST": "h:6379"}, "without scheme, port, brackets"),
        ({"REDIS_HOST": "redis://h"}, "without scheme, port, brackets"),
        ({"CACHE_HOST": "redis://h"}, "without scheme, port, brackets"),
        ({"REDIS_HOST": "h", "REDIS_PORT": "6379/0"}, "must be a port number"),
        ({"REDIS_HOST": "h", "REDIS_PORT": "637 9"}, "must be a port number"),
        ({"REDIS_HOST": "h", "REDIS_DB": "O"}, "must be the number of a database"),
        ({"REDIS_HOST": "h", "REDIS_SSL": "ture"}, "must be true or false"),
        ({"REDIS_HOST": "h", "REDIS_PROTOCOL": "RESP3"}, "must be 2 or 3"),
        ({"REDIS_HOST": "h", "REDIS_SOCKET_TIMEOUT": "5s"}, "a number of seconds"),
        ({"REDIS_HOST": "h", "REDIS_CLASS": "redis.Reids"}, "Did you mean 'redis.Red"),
        ({"REDIS_HOST": "h", "REDIS_USE_SSL": "true"}, "Did you mean 'REDIS_SSL'?"),
        ({"REDIS_HOST": "h", "REDIS_URI": "redis://h"}, "Did you mean 'REDIS_URL'?"),
        ({"REDIS_URl": "redis://h"}, "Did you mean 'REDIS_URL'?"),
        ({"redis_url": "redis://h"}, "Did you mean 'REDIS_URL'?"),
        ({"REDIS_URL": "redis://h", "redis_db": "1"}, "Did you mean 'REDIS_DB'?"),
        ({"REDIS__URL": "redis://h"}, "Did you mean 'REDIS_URL'?"),
        ({"RDIS_URI": "redis://h"}, "No setting configures a Redis"),
        (
            {"REDIS_HOST": "h", "REDIS_DECODE_RESPONSE": "true"},
            "Did you mean 'REDIS_DECODE_RESPONSES'?",
        ),
        (
            {"REDIS_HOST": "h", "REDIS_SOCKET_CONECT_TIMEOUT": "1"},
            "Did you mean 'REDIS_SOCKET_CONNECT_TIMEOUT'?",
        ),
        (
            {"REDIS_HOST": "h", "REDIS_TIMEOUT": "1"},
            "Did you mean 'REDIS_SOCKET_TIMEOUT'?",
        ),
        (
            {"REDIS_HOST": "h", "REDIS_PASSWORD": "pw\n"},
            "'REDIS_PASSWORD' ends with a newline",
        ),
        (
            {"REDIS_URL": "redis+sentinel://h"},
            "must name the service that the sentinels watch",
        ),
        (
            {"REDIS_URL": "rediss://h", "REDIS_SSL_CA_CERTS": "/no/such.pem"},
            "must be the path of a file",
        ),
    ],
)
def test_typing_mistake(
    config: dict[str, t.Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A typing mistake that can be seen without a server is reported at start-up."""
    with caplog.at_level(logging.WARNING):
        text = report(config, caplog)

    if message.startswith("No report"):
        assert text == ""
    else:
        assert message in text


SENTINEL = "'REDIS_URL' = 'redis+sentinel://host:26379/mymaster/0'"
CLUSTER = "'REDIS_URL' = 'redis+cluster://host:7000'"


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("USE_SENTINEL", "true", SENTINEL),
        ("SENTINELS", "a:26379,b:26379", SENTINEL),
        ("SENTINELS", [("a", 26379)], SENTINEL),
        ("SENTINEL_HOSTS", "a,b", SENTINEL),
        ("SENTINEL_NODES", "a,b", SENTINEL),
        ("SENTINEL", "a", SENTINEL),
        ("CLUSTER_NODES", "a:7000", CLUSTER),
        ("USE_CLUSTERS", True, CLUSTER),
        ("CLUSTER", "yes", CLUSTER),
        ("NODES", "a:7000,b:7000", CLUSTER),
        ("STARTUP_NODES", ["a:7000"], CLUSTER),
    ],
)
def test_other_words_for_sentinels(name: str, value: object, right: str) -> None:
    """Settings that describe sentinels or a cluster in other words cause a warning: the
    client would use HOST.
    """
    config = {"REDIS_HOST": "h", f"REDIS_{name}": value}
    assert warnings_of(config) == [f"'REDIS_{name}' is not used. Did you mean {right}?"]


@pytest.mark.parametrize("name", ["READ_FROM_REPLICAS", "REQUIRE_FULL_COVERAGE"])
@pytest.mark.parametrize("url", ["redis://h", "unix:///tmp/r.sock"])
def test_setting_of_a_cluster(url: str, name: str) -> None:
    """A setting that only the client of a cluster takes causes a warning."""
    assert warnings_of({"REDIS_URL": url, f"REDIS_{name}": "true"}) == [
        f"'REDIS_{name}' is not used: it is only for clusters, with a redis+cluster://"
        " URL."
    ]


@pytest.mark.parametrize(
    ("name", "value"), [("ROLE", "replica"), ("READ_FROM_REPLICAS", "true")]
)
def test_role_as_a_setting(name: str, value: str) -> None:
    """Only the URL of sentinels says that replicas are read. In other URLs, the role
    has another meaning.
    """
    url = "redis+sentinel://h/m"
    assert warnings_of({"CACHE_URL": url, f"CACHE_{name}": value}) == [
        f"'CACHE_{name}' is not used. Did you mean '?role=replica' at the end of"
        " 'CACHE_URL'?"
    ]
    said = {"REDIS_URL": f"{url}?role=replica", f"REDIS_{name}": value}
    assert warnings_of(said) == []
    assert warnings_of({"REDIS_URL": "redis://h", "REDIS_ROLE": value}) == []


@pytest.mark.parametrize("service", ["0", "12"])
def test_database_in_place_of_the_service(service: str) -> None:
    """A number is seldom the name of a service."""
    url = f"redis+sentinel://h/{service}"
    assert warnings_of({"REDIS_URL": url}) == [
        "The service in 'REDIS_URL' is a number. If it is the database, put the service"
        " before it, as in redis+sentinel://host:26379/mymaster/0."
    ]
    assert warnings_of({"REDIS_URL": f"redis+sentinel://h/m{service}"}) == []


def test_setting_in_lower_case() -> None:
    """A setting in lower case that has a value is not used. Others before it may have
    none.
    """
    config = {"REDIS_URL": "redis://h", "redis_db": "", "redis_password": "x"}
    assert warnings_of(config) == [
        "'redis_password' is not used. Did you mean 'REDIS_PASSWORD'?"
    ]


def test_host_of_a_sentinel() -> None:
    """REDIS_SENTINEL_HOST makes a prefix, which is probably not meant."""
    config = {"REDIS_SENTINEL_HOST": "h", "REDIS_SENTINEL_PORT": "26379"}
    assert warnings_of(config) == [
        "'REDIS_SENTINEL_HOST' is used as a separate Redis server. If it is a sentinel,"
        " set 'REDIS_URL' to 'redis+sentinel://host:26379/mymaster/0' instead."
    ]
    assert warnings_of({"REDIS_SENTINEL_URL": "redis://h"}) == []
    assert warnings_of({"MY_SENTINEL_HOST": "h"}) == []


@pytest.mark.parametrize(
    "config",
    [
        {"REDIS_HOST": "h", "REDIS_USE_SENTINEL": "false", "REDIS_SENTINELS": ""},
        {"REDIS_HOST": "h", "REDIS_SENTINEL_SOCKET_TIMEOUT": "0.1"},
        {"REDIS_HOST": "h", "REDIS_USE_CLUSTERS": False},
        {"REDIS_URL": "redis+sentinel://h/m", "REDIS_SENTINELS": "h:26379"},
        {"REDIS_URL": "redis+sentinel://h/m", "REDIS_ROLE": "master"},
        {"REDIS_URL": "redis+sentinel://h/m", "REDIS_READ_FROM_REPLICAS": "false"},
        {"REDIS_URL": "redis://h", "REDIS_READ_FROM_REPLICAS": "false"},
        {"CACHE_URL": "redis://h", "CACHE_READ_FROM_REPLICAS": "true"},
        {"REDIS_URL": "redis+cluster://h", "REDIS_READ_FROM_REPLICAS": "true"},
        # Settings of the real servers.
        {"REDIS_URL": "fakeredis://", "REDIS_CLUSTER_NODES": "h:7000"},
        {"REDIS_URL": "fakeredis://", "REDIS_READ_FROM_REPLICAS": "true"},
        {"REDIS_URL": "rediss+cluster://h", "REDIS_CLUSTER_NODES": "h:7000"},
        {"REDIS_URL": "redis+cluster://h", "REDIS_NODES": "h:7000"},
        {"REDIS_URL": "redis://h", "REDIS_AUTH": "false"},
        {"REDIS_URL": "redis://h", "REDIS_USE_SSL": "", "REDIS_DATABASE": None},
        {"REDIS_URL": "redis://h", "REDIS_USE_SSL": "false", "REDIS_TLS": 0},
        # Other software: its database has a name.
        {"STOCK_HOST": "h", "STOCK_DATABASE": "default", "STOCK_USERS": "me"},
        {"CACHE_URL": "redis://h", "CACHE_POST": "x", "CACHE_COST": "1"},
        {"CACHE_URL": "redis://h", "CACHE_HOAX": "x"},
        {"CACHE_URL": "redis://h", "CACHE_HOSTS": ["h"], "CACHE_URLS": {"a": "b"}},
        {
            "CACHE_URL": "redis://h",
            "CACHE_TIMEOUT": 5,
            "CACHE_URI": "x",
            "CACHE_UR": "x",
        },
        {"REDIS_URL": "redis://h", "REDIS_Colour": "red", "redis_colour": "red"},
        {"REDIS_URL": "redis://h", "redis_url": "redis://h", "redis_password": ""},
        # Celery's settings.
        {"REDIS_URL": "redis://h", "broker_url": "redis://h", "broker_pool_limit": 3},
    ],
)
def test_no_false_alarm(config: dict[str, t.Any]) -> None:
    """There is no warning about a setting that is turned off, that repeats the URL, or
    that belongs to other software.
    """
    assert warnings_of(config) == []


def test_empty_settings_end_nothing() -> None:
    """Settings after an empty one are used, or reported, as those before it."""
    config = {
        "REDIS_URL": "redis://h",
        "REDIS_PASSWORD": "",
        "REDIS_PASWORD": "",
        "REDIS_DB": "3",
        "REDIS_HOTS": "h",
    }
    assert warnings_of(config) == [
        "'REDIS_HOTS' is not used. Did you mean 'REDIS_HOST'?"
    ]
    app = Flask("misspelt")
    app.config.update({name: config[name] for name in list(config)[:4]})
    RedisManager(app)
    assert app.extensions["redis"].get_spec("REDIS").arguments["db"] == 3


def test_one_warning_for_each_setting() -> None:
    """A setting that may belong to two prefixes is reported for the longer one."""
    urls = {"REDIS_URL": "redis://h", "REDIS_UNIX_URL": "redis://h"}
    assert warnings_of({**urls, "REDIS_UNIX_SOCKET": "/redis.sock"}) == [
        "'REDIS_UNIX_SOCKET' is not used. Did you mean 'REDIS_UNIX_UNIX_SOCKET_PATH'?"
    ]


def test_sentinels_of_a_cluster() -> None:
    """A URL of a cluster says nothing of sentinels."""
    config = {"REDIS_URL": "redis+cluster://h", "REDIS_SENTINELS": "h:26379"}
    (warning,) = warnings_of(config)
    assert "'REDIS_URL' = 'redis+sentinel://" in warning


#: The settings of libraries that share an app with this extension.
LIBRARIES: dict[str, dict[str, t.Any]] = {
    "Flask-Caching": {
        "CACHE_TYPE": "RedisCache",
        "CACHE_NO_NULL_WARNING": True,
        "CACHE_ARGS": [],
        "CACHE_OPTIONS": {"socket_timeout": 1},
        "CACHE_DEFAULT_TIMEOUT": 300,
        "CACHE_IGNORE_ERRORS": True,
        "CACHE_THRESHOLD": 500,
        "CACHE_KEY_PREFIX": "x",
        "CACHE_SOURCE_CHECK": True,
        "CACHE_UWSGI_NAME": "x",
        "CACHE_MEMCACHED_SERVERS": ["h"],
        "CACHE_MEMCACHED_USERNAME": "me",
        "CACHE_MEMCACHED_PASSWORD": "pw",
        "CACHE_REDIS_HOST": "h",
        "CACHE_REDIS_PORT": 6379,
        "CACHE_REDIS_PASSWORD": "pw",
        "CACHE_REDIS_DB": 0,
        "CACHE_REDIS_SENTINELS": [("h", 26379)],
        "CACHE_REDIS_SENTINEL_MASTER": "mymaster",
        "CACHE_REDIS_SENTINEL_DB": 0,
        "CACHE_REDIS_CLUSTER": "h:7000",
        "CACHE_DIR": "/tmp",
        "CACHE_ROUTE": "x",
    },
    "Flask-Caching with a URL": {
        "CACHE_REDIS_URL": "redis://h",
        "CACHE_REDIS_SSL": False,
        "CACHE_URL": "redis://h",
        "CACHE_DEFAULT_TIMEOUT": 300,
        "CACHE_OPTIONS": {},
    },
    "Flask-Session": {
        "SESSION_URL": "redis://h",
        "SESSION_TYPE": "redis",
        "SESSION_PERMANENT": True,
        "SESSION_USE_SIGNER": False,
        "SESSION_KEY_PREFIX": "x",
        "SESSION_ID_LENGTH": 32,
        "SESSION_SERIALIZATION_FORMAT": "msgpack",
        "SESSION_REDIS": object(),
        "SESSION_MEMCACHED": None,
        "SESSION_CACHELIB": None,
        "SESSION_FILE_DIR": "/tmp",
        "SESSION_FILE_THRESHOLD": 500,
        "SESSION_MONGODB_DB": "x",
        "SESSION_SQLALCHEMY_TABLE": "x",
        "SESSION_DYNAMODB_URL": "http://localhost:8000",
        "SESSION_COOKIE_NAME": "session",
        "SESSION_COOKIE_DOMAIN": "h",
        "SESSION_COOKIE_PATH": "/",
        "SESSION_COOKIE_SECURE": True,
        "SESSION_CLEANUP_N_REQUESTS": 5,
    },
    "Flask-Limiter": {
        "RATELIMIT_STORAGE_URI": "redis://h",
        "RATELIMIT_STORAGE_URL": "redis://h",
        "RATELIMIT_STORAGE_OPTIONS": {"socket_timeout": 1},
        "RATELIMIT_DEFAULT": "5/minute",
        "RATELIMIT_STRATEGY": "moving-window",
        "RATELIMIT_HEADERS_ENABLED": True,
        "RATELIMIT_ENABLED": True,
        "RATELIMIT_HEADER_RESET": "x",
        "RATELIMIT_KEY_PREFIX": "x",
        "RATELIMIT_IN_MEMORY_FALLBACK": "1/minute",
        "RATELIMIT_REQUEST_IDENTIFIER": None,
    },
    "Flask-SocketIO": {
        "SOCKETIO_MESSAGE_QUEUE": "redis://h",
        "SOCKETIO_URL": "redis://h",
        "SOCKETIO_ASYNC_MODE": "threading",
        "SOCKETIO_PATH": "socket.io",
        "SOCKETIO_CORS_ALLOWED_ORIGINS": "*",
        "SOCKETIO_PING_TIMEOUT": 5,
        "SOCKETIO_CHANNEL": "x",
    },
    "Celery": {
        "CELERY_BROKER_URL": "redis://h/1",
        "CELERY_BROKER_READ_URL": "redis://h/1",
        "CELERY_BROKER_WRITE_URL": "redis://h/1",
        "CELERY_BROKER_USE_SSL": True,
        "CELERY_BROKER_LOGIN_METHOD": "x",
        "CELERY_BROKER_POOL_LIMIT": 10,
        "CELERY_BROKER_HEARTBEAT": 1,
        "CELERY_BROKER_VHOST": "x",
        "CELERY_BROKER_USER": "",
        "CELERY_BROKER_TRANSPORT": "redis",
        "CELERY_BROKER_TRANSPORT_OPTIONS": {"visibility_timeout": 60},
        "CELERY_BROKER_CONNECTION_TIMEOUT": 4,
        "CELERY_BROKER_CONNECTION_RETRY": True,
        "CELERY_BROKER_CONNECTION_MAX_RETRIES": 100,
        "CELERY_BROKER_FAILOVER_STRATEGY": "round-robin",
        "CELERY_RESULT_BACKEND": "redis://h/2",
        "CELERY_RESULT_BACKEND_URL": "redis://h/2",
        "CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS": {},
        "CELERY_REDIS_HOST": "h",
        "CELERY_REDIS_PORT": 6379,
        "CELERY_REDIS_DB": 0,
        "CELERY_REDIS_PASSWORD": "pw",
        "CELERY_REDIS_MAX_CONNECTIONS": 20,
        "CELERY_REDIS_BACKEND_USE_SSL": {},
        "CELERY_REDIS_BACKEND_HEALTH_CHECK_INTERVAL": 5,
        "CELERY_REDIS_SOCKET_TIMEOUT": 120.0,
        "CELERY_REDIS_RETRY_ON_TIMEOUT": False,
        "CELERY_TASK_SERIALIZER": "json",
        "BROKER_URL": "redis://h",
        "BROKER_POOL_LIMIT": 3,
        "BROKER_TRANSPORT_OPTIONS": {},
        "BROKER_USE_SSL": {"keyfile": "x"},
        "BROKER_CONNECTION_TIMEOUT": 4,
    },
    "RQ": {
        "RQ_REDIS_URL": "redis://h",
        "RQ_URL": "redis://h",
        "RQ_QUEUES": ["default"],
        "RQ_QUEUE_CLASS": "rq.Queue",
        "RQ_ASYNC": True,
        "RQ_CONNECTION": {"host": "h"},
        "RQ_CONNECTION_CLASS": "redis.Redis",
        "RQ_WORKER_CLASS": "rq.Worker",
        "RQ_JOB_CLASS": "rq.job.Job",
        "RQ_SCHEDULER_QUEUE": "x",
        "RQ_DEFAULT_URL": "redis://h",
        "RQ_DASHBOARD_REDIS_URL": ["redis://h", "redis://i"],
        "RQ_DASHBOARD_USERNAME": "me",
        "RQ_DASHBOARD_PASSWORD": "pw",
        "RQ_POLL_INTERVAL": 2500,
        "REDIS_SENTINELS": None,
    },
    "Sentry": {
        "SENTRY_URL": "redis://h",
        "SENTRY_DSN": "https://key@sentry.example/1",
        "SENTRY_ENVIRONMENT": "production",
        "SENTRY_RELEASE": "1",
        "SENTRY_TRACES_SAMPLE_RATE": 0.5,
        "SENTRY_SEND_DEFAULT_PII": True,
        "SENTRY_HTTP_PROXY": "http://proxy:3128",
        "SENTRY_SERVER_NAME": "h",
        "SENTRY_TRANSPORT": "x",
        "SENTRY_USER_ATTRS": ["name"],
    },
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_settings_of_libraries(library: str, caplog: pytest.LogCaptureFixture) -> None:
    """Settings of other libraries cause no warning and no log message."""
    config = {"REDIS_URL": "redis://h", **LIBRARIES[library]}
    assert warnings_of(config) == []
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("", None),
        ("u", None),
        ("password", "password"),
        ("hots", "host"),
        ("pasword", "password"),
        ("usernamee", "username"),
        ("unix_socket_path2", "unix_socket_path"),
        ("user", None),
        ("key", None),
        ("upload_path", None),
    ],
)
def test_suggestions(name: str, right: str | None) -> None:
    """One wrong letter is recognized, and a different word is not."""
    assert suggest(name, ["password"], is_certain=False) == right
