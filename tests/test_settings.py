from __future__ import annotations

import gc
import socket
import ssl
import threading
import typing as t
import warnings
from pathlib import Path

import pytest
import redis
from flask import Flask
from redis.backoff import AbstractBackoff
from redis.backoff import NoBackoff
from redis.retry import Retry

from flask_and_redis import ConfigError
from flask_and_redis import Redis
from flask_and_redis import RedisManager
from flask_and_redis.spec.classes import parameters

from . import objects
from .objects import deadline_of
from .servers import Server


def make(options: dict[str, t.Any] | None = None, /, **config: t.Any) -> redis.Redis:
    """The client of prefix REDIS with these settings."""
    app = Flask("settings", static_folder=None)
    app.config.update(config)
    RedisManager(app, **(options or {}))
    client: redis.Redis = app.extensions["redis"]["REDIS"]
    return client


def arguments(
    options: dict[str, t.Any] | None = None, /, **config: t.Any
) -> dict[str, t.Any]:
    """The arguments that the client's pool passes to its connections."""
    pool = make(options, **config).connection_pool
    return {"connection_class": pool.connection_class, **pool.connection_kwargs}


def redis_class(connection_class: type) -> type:
    """The redis-py class that a connection class is, or is derived from."""
    cls: type = next(
        base
        for base in connection_class.__mro__
        if getattr(redis, base.__name__, None) is base
    )
    return cls


def comparable(value: t.Any) -> t.Any:
    """Convert arguments to plain values, as two similar Retry objects are not equal."""
    if isinstance(value, dict):
        return {name: comparable(item) for name, item in value.items()}

    if type(value).__module__.startswith("redis.") and hasattr(value, "__dict__"):
        plain = (bool, int, float, str, tuple, AbstractBackoff)
        attributes = {
            name: attribute
            for name, attribute in vars(value).items()
            if isinstance(attribute, plain)
        }
        return type(value), comparable(attributes)

    return value


HOST = {"REDIS_HOST": "h", "REDIS_PORT": "6380", "REDIS_DB": "2"}

needs_read_size = pytest.mark.skipif(
    "socket_read_size" not in parameters(redis.Redis), reason="Before redis-py 8."
)


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("redis://h:6380/2", HOST),
        ("valkey://h:6380/2", HOST),
        ("redis://h", {"REDIS_HOST": "h"}),
        ("redis://h:6380/2?db=2", HOST),
        ("redis://h:6380?db=2", HOST),
        ("redis://h:6380/2/", HOST),
        (
            "redis://u:p%2Fs%23s%3F%40%3A%C3%A4@h:6380/2",
            HOST | {"REDIS_USERNAME": "u", "REDIS_PASSWORD": "p/s#s?@:ä"},
        ),
        ("redis://:p@ss:w%C3%B6rd@h:6380/2", HOST | {"REDIS_PASSWORD": "p@ss:wörd"}),
        ("rediss://h:6380/2", HOST | {"REDIS_SSL": "yes"}),
        (
            f"valkeys://h:6380/2?ssl_cert_reqs=none&ssl_ca_certs={objects.CA}",
            HOST
            | {
                "REDIS_SSL": True,
                "REDIS_SSL_CERT_REQS": "CERT_NONE",
                "REDIS_SSL_CA_CERTS": objects.CA,
            },
        ),
        ("redis://[::1]:6380/2", HOST | {"REDIS_HOST": "::1"}),
        ("unix:///tmp/r.sock?db=2", {"REDIS_HOST": "/tmp/r.sock", "REDIS_DB": 2}),
        ("unix:///tmp/r.sock", {"REDIS_HOST": "file:///tmp/r.sock"}),
        (
            "unix://u:p@/tmp/r%20s.sock",
            {
                "REDIS_UNIX_SOCKET_PATH": "/tmp/r s.sock",
                "REDIS_USER": "u",
                "REDIS_PASSWORD": "p",
            },
        ),
        (
            "redis://h:6380/2?socket_timeout=1.5&decode_responses=on&protocol=3"
            "&encoding=latin-1&health_check_interval=30&client_name=me&username=",
            HOST
            | {
                "REDIS_SOCKET_TIMEOUT": "1.5",
                "REDIS_DECODE_RESPONSES": "1",
                "REDIS_PROTOCOL": 3,
                "REDIS_CHARSET": "latin-1",
                "REDIS_HEALTH_CHECK_INTERVAL": "30",
                "REDIS_CLIENT_NAME": "me",
            },
        ),
    ],
)
def test_url_and_host_make_the_same_client(
    url: str, settings: dict[str, t.Any]
) -> None:
    """A URL and the same settings with HOST create pools with the same arguments."""
    with_url: t.Any = make(REDIS_URL=url).connection_pool
    with_host: t.Any = make(**settings).connection_pool
    assert with_url.connection_class is with_host.connection_class
    assert with_url.max_connections == with_host.max_connections
    assert comparable(with_url.connection_kwargs) == comparable(
        with_host.connection_kwargs
    )
    # redis-py itself must not retry, because the prefix's deadline handles this.
    assert with_url.make_connection().retry.get_retries() == 0
    assert with_host.make_connection().retry.get_retries() == 0


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("redis://h", 6379),
        ("rediss://h", 6379),
        ("valkey://h", 6379),
        ("redis+cluster://h", 6379),
        ("redis+sentinel://h/mymaster", 26379),
    ],
)
def test_default_port(app: Flask, url: str, port: int) -> None:
    """A URL without a port means the usual one of its kind of server."""
    app.config["REDIS_URL"] = url
    RedisManager(app)
    spec = app.extensions["redis"].get_spec("REDIS")
    assert f"h:{port}" in spec.engine.describe_address(spec)


def test_limits_by_default(app: Flask) -> None:
    """A command is retried for 5 s, and a connection is kept for 300 s. A copy of the
    settings may have other limits.
    """
    app.config["REDIS_URL"] = "redis://h"
    RedisManager(app)
    spec = app.extensions["redis"].get_spec("REDIS")
    assert (spec.deadline, spec.retries, spec.max_idle) == (5, None, 300)
    assert not (spec.optional or spec.address.replica)
    copy = spec.replace(max_idle=1)
    assert (spec.max_idle, copy.max_idle, copy.deadline) == (300, 1, 5)


def test_class_of_the_client() -> None:
    """A client's class is made once for each class of the settings, and has its name.
    It may be a setting itself.
    """
    cls = type(make(REDIS_URL="redis://h"))
    assert cls is not redis.Redis and issubclass(cls, redis.Redis)
    assert (cls.__module__, cls.__qualname__) == ("redis.client", "Redis")
    assert cls is type(make(REDIS_URL="redis://h/1"))
    assert cls is type(make(REDIS_URL="redis://h", REDIS_CLASS=cls))


@pytest.mark.parametrize(
    "name", ["db", "health_check_interval", "max_idle", "retry", "retry_deadline"]
)
@pytest.mark.parametrize("value", [0, "0"])
def test_0_is_a_value(name: str, value: object) -> None:
    """These settings can be 0."""
    app = Flask("settings", static_folder=None)
    app.config.update({"REDIS_HOST": "h", f"REDIS_{name.upper()}": value})
    RedisManager(app)
    assert app.extensions["redis"].get_spec("REDIS").values[name].value == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 1),
        ("port", 65535),
        ("db", 2**31 - 1),
        ("max_connections", 1),
        ("socket_timeout", 0.001),
        ("socket_timeout", threading.TIMEOUT_MAX),
        ("retry_deadline", 0.001),
        ("retry_deadline", threading.TIMEOUT_MAX),
        ("unix_socket_path", "r"),
        ("unix_socket_path", "/" + "r" * 106),
        pytest.param("socket_read_size", 1, marks=needs_read_size),
    ],
)
def test_limits(app: Flask, name: str, value: object) -> None:
    """The smallest and the largest value of a setting are accepted."""
    app.config[f"REDIS_{name.upper()}"] = value
    Redis(app)
    assert app.extensions["redis"].get_spec("REDIS").values[name].value == value


@needs_read_size
def test_nothing_is_read_at_once() -> None:
    """Nothing would be read with a size of 0."""
    with pytest.raises(ConfigError, match="must be a number of bytes above 0"):
        make(REDIS_URL="redis://h?socket_read_size=0")


@pytest.mark.parametrize(
    ("value", "enabled"),
    [(True, True), ("yes", True), (" Auto ", "auto"), ("no", False)],
)
def test_maintenance_notifications(app: Flask, value: object, enabled: object) -> None:
    """They are on, off, or on if the server knows them."""
    pytest.importorskip("redis.maint_notifications")
    app.config.update(REDIS_URL="redis://h", REDIS_MAINT_NOTIFICATIONS=value)
    RedisManager(app)
    spec = app.extensions["redis"].get_spec("REDIS")
    config = spec.arguments["maint_notifications_config"]
    assert config.enabled == enabled
    assert not config.is_relaxed_timeouts_enabled()


@pytest.mark.parametrize("option", ["RETRY_ON_ERROR", "RETRY_ON_TIMEOUT"])
@pytest.mark.filterwarnings("ignore:.*retry_on_timeout.*:DeprecationWarning")
def test_errors_to_retry_make_no_retries_of_redis_py(option: str) -> None:
    """These settings do not make redis-py retry a command itself."""
    value: t.Any = [ValueError] if option == "RETRY_ON_ERROR" else True
    client = make(REDIS_URL="redis://h", **{f"REDIS_{option}": value})
    connection: t.Any = client.connection_pool.make_connection()
    assert connection.retry.get_retries() == 0


def test_timeouts_by_default() -> None:
    """With every version of redis-py, a connection and a reply time out after 5 s."""
    kwargs = arguments(REDIS_URL="redis://h")
    assert (kwargs["socket_timeout"], kwargs["socket_connect_timeout"]) == (5, 5)


class OtherLibrary:
    """A client of another library, with a timeout of its own."""

    def __init__(self, host: str = "", port: int = 0, socket_timeout: int = 9) -> None:
        self.socket_timeout = socket_timeout

    def execute_command(self, *args: t.Any) -> None: ...


def test_timeout_of_another_library(app: Flask) -> None:
    """It stays as it is."""
    app.config.update(REDIS_HOST="h", REDIS_CLASS=OtherLibrary)
    RedisManager(app)
    client: t.Any = app.extensions["redis"]["REDIS"]
    assert client.socket_timeout == 9


@pytest.mark.parametrize(
    ("setting", "value", "argument", "expected"),
    [
        ("PORT", "6380", "port", 6380),
        ("PORT", 6380, "port", 6380),
        ("DB", " 3 ", "db", 3),
        ("SOCKET_TIMEOUT", "2", "socket_timeout", 2.0),
        ("SOCKET_TIMEOUT", 2, "socket_timeout", 2.0),
        ("SOCKET_KEEPALIVE", "off", "socket_keepalive", False),
        ("DECODE_RESPONSES", "false", "decode_responses", False),
        ("DECODE_RESPONSES", "No", "decode_responses", False),
        ("DECODE_RESPONSES", "0", "decode_responses", False),
        ("DECODE_RESPONSES", 1, "decode_responses", True),
        ("PASSWORD", 123, "password", "123"),
        ("PASSWORD", " x ", "password", " x "),
        ("CHARSET", "latin-1", "encoding", "latin-1"),
        ("ERRORS", "replace", "encoding_errors", "replace"),
        ("USER", "me", "username", "me"),
        (
            "SOCKET_KEEPALIVE_OPTIONS",
            {str(socket.TCP_KEEPIDLE): 9},
            "socket_keepalive_options",
            {socket.TCP_KEEPIDLE: 9},
        ),
        (
            "SOCKET_KEEPALIVE_OPTIONS",
            {socket.TCP_KEEPIDLE: "9", 1: b"x"},
            "socket_keepalive_options",
            {socket.TCP_KEEPIDLE: 9, 1: b"x"},
        ),
        ("RETRY_ON_ERROR", [OSError], "retry_on_error", [OSError]),
        ("DB", "", "db", 0),
        ("DB", None, "db", 0),
    ],
)
def test_conversion(
    setting: str, value: object, argument: str, expected: object
) -> None:
    """Values are converted to the type of the client's argument."""
    converted = arguments(REDIS_HOST="h", **{f"REDIS_{setting}": value})[argument]
    assert converted == expected
    assert isinstance(converted, type(expected))


@pytest.mark.parametrize(
    ("setting", "value", "argument", "expected"),
    [
        ("CERT_REQS", ssl.CERT_NONE, "ssl_cert_reqs", ssl.CERT_NONE),
        ("CERT_REQS", "CERT_OPTIONAL", "ssl_cert_reqs", "optional"),
        ("CERT_REQS", 0, "ssl_cert_reqs", "none"),
        ("MIN_VERSION", "TLSv1.2", "ssl_min_version", ssl.TLSVersion.TLSv1_2),
        ("MIN_VERSION", 772, "ssl_min_version", ssl.TLSVersion.TLSv1_3),
        ("CHECK_HOSTNAME", "no", "ssl_check_hostname", False),
        ("PASSWORD", 12, "ssl_password", "12"),
    ],
)
def test_tls_conversion(
    setting: str, value: object, argument: str, expected: object
) -> None:
    """TLS settings are converted to the arguments of redis-py's TLS connection."""
    kwargs = arguments(REDIS_URL="rediss://h", **{f"REDIS_SSL_{setting}": value})
    assert redis_class(kwargs["connection_class"]) is redis.SSLConnection
    assert kwargs[argument] == expected


@pytest.mark.skipif(
    "ssl_include_verify_flags" not in redis.SSLConnection.__init__.__code__.co_varnames,
    reason="This redis-py has no ssl_include_verify_flags.",
)
@pytest.mark.parametrize(
    "value",
    [
        "VERIFY_X509_STRICT,VERIFY_X509_PARTIAL_CHAIN",
        "[VERIFY_X509_STRICT, VERIFY_X509_PARTIAL_CHAIN]",
        ["VERIFY_X509_STRICT", ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN],
    ],
)
def test_verify_flags(value: object) -> None:
    """OpenSSL flags have the same names as in Python's ssl module."""
    kwargs = arguments(REDIS_URL="rediss://h", REDIS_SSL_INCLUDE_VERIFY_FLAGS=value)
    assert kwargs["ssl_include_verify_flags"] == [
        ssl.VerifyFlags.VERIFY_X509_STRICT,
        ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN,
    ]


def test_address_comes_from_the_url_alone() -> None:
    """With a URL, settings and options cannot change the server's address. Settings
    that would do so cause a warning.
    """
    with pytest.warns(UserWarning) as log:
        kwargs = arguments(
            {"port": 7},
            REDIS_URL="redis://h",
            REDIS_HOST="other",
            REDIS_PORT="nonsense",
            REDIS_UNIX_SOCKET_PATH="/tmp/other.sock",
        )

    assert (kwargs["host"], kwargs["port"], kwargs["db"]) == ("h", 6379, 0)
    assert redis_class(kwargs["connection_class"]) is redis.Connection
    assert [str(warning.message) for warning in log] == [
        f"'REDIS_{name}' is ignored: 'REDIS_URL' says where the server is."
        for name in ("HOST", "PORT", "UNIX_SOCKET_PATH")
    ]


@pytest.mark.parametrize(
    ("url", "setting", "value"),
    [
        ("redis://h", "PORT", 6390),
        ("redis://h:1", "PORT", "6379"),
        ("redis://h", "HOST", "localhost"),
        ("redis://h", "HOST", "/tmp/r.sock"),
        ("unix:///tmp/r.sock", "HOST", "localhost"),
        ("unix:///tmp/r.sock", "PORT", 6379),
        ("unix:///tmp/r.sock", "UNIX_SOCKET_PATH", "/tmp/s.sock"),
        ("redis+sentinel://h/m", "PORT", 6379),
        ("redis+cluster://a,b", "HOST", "c"),
    ],
)
def test_ignored_address(app: Flask, url: str, setting: str, value: object) -> None:
    """A setting that names another server than the URL causes a warning."""
    app.config.update({"CACHE_URL": url, f"CACHE_{setting}": value})

    with pytest.warns(UserWarning) as log:
        RedisManager(app)

    assert [str(warning.message) for warning in log] == [
        f"'CACHE_{setting}' is ignored: 'CACHE_URL' says where the server is."
    ]


@pytest.mark.parametrize(
    ("url", "setting", "value"),
    [
        ("redis://h", "PORT", 6379),
        ("redis://h:1", "PORT", " 1"),
        ("redis://h:1", "PORT", "tcp://10.0.0.1:6379"),
        ("redis://h", "HOST", "H"),
        ("redis://", "HOST", "localhost"),
        ("unix:///tmp/r.sock", "HOST", "file:///tmp/r.sock"),
        ("unix:///tmp/r.sock", "UNIX_SOCKET_PATH", "/tmp/r.sock"),
        ("redis+sentinel://a,b:1/m", "PORT", "26379"),
        ("redis+cluster://a:1,b", "HOST", "b"),
        ("fakeredis://", "HOST", "h"),
        ("redis://h", "PORT", ""),
    ],
)
def test_same_address(app: Flask, url: str, setting: str, value: object) -> None:
    """A setting that names the same server as the URL causes no warning. Nor do
    settings of the real server next to fakeredis, and what Kubernetes sets.
    """
    app.config.update({"CACHE_URL": url, f"CACHE_{setting}": value})
    RedisManager(app)
    assert list(app.extensions["redis"]) == ["CACHE"]


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://h", "unix:///r", "redis+sentinel://h/m"]
)
def test_database_that_the_url_leaves_out(url: str) -> None:
    """If the URL names no database, the setting or the option does."""
    assert arguments(REDIS_URL=url, REDIS_DB="10")["db"] == 10
    assert arguments({"db": 10}, REDIS_URL=url)["db"] == 10
    assert arguments({"db": 9}, REDIS_URL=url, REDIS_DB="10")["db"] == 10


@pytest.mark.parametrize("url", ["redis://h/3", "redis://h?db=3", "unix:///r?db=3"])
def test_database_in_the_url(url: str) -> None:
    """The database in a URL overrides the setting, which causes a warning."""
    message = "^'REDIS_DB' is ignored: 'REDIS_URL' has another database.$"

    with pytest.warns(UserWarning, match=message):
        assert arguments(REDIS_URL=url, REDIS_DB="10")["db"] == 3


@pytest.mark.parametrize(
    "config",
    [
        {
            "REDIS_URL": "redis://me:secret@h/3",
            "REDIS_USERNAME": "me",
            "REDIS_DB": " 3",
        },
        {"REDIS_URL": "redis://h/0", "REDIS_DB": 0, "REDIS_PASSWORD": "secret"},
        {"REDIS_URL": "redis://:a@h/3", "REDIS_PASSWORD": " ", "REDIS_DB": None},
        {"REDIS_URL": "fakeredis:///3", "REDIS_DB": 0},
        {"REDIS_URL": "rediss://h", "REDIS_SSL": "true"},
        {"REDIS_URL": "redis://h", "REDIS_SSL": "false"},
        {"REDIS_URL": "redis://h?socket_timeout=2.0", "REDIS_SOCKET_TIMEOUT": 2},
        {"REDIS_URL": "redis://:123@h", "REDIS_PASSWORD": 123},
        {"REDIS_URL": "redis://me:x@h?encoding=ascii", "REDIS_CHARSET": "ascii"},
    ],
)
def test_same_as_in_the_url(config: dict[str, t.Any]) -> None:
    """Settings that repeat the URL, that it leaves out or that are not set cause no
    warning. Nor do those of the real server next to fakeredis.
    """
    assert make(**config) is not None


def test_tls_is_turned_off_next_to_a_url() -> None:
    """The scheme turns TLS on. A setting that turns it off is ignored, not silently."""
    message = "^'REDIS_SSL' is ignored: 'REDIS_URL' has a scheme with TLS.$"

    with pytest.warns(UserWarning, match=message):
        kwargs = arguments(REDIS_URL="rediss://h", REDIS_SSL="false")

    assert redis_class(kwargs["connection_class"]) is redis.SSLConnection


@pytest.mark.parametrize("scheme", ["redis", "fakeredis"])
def test_wrong_setting_that_the_url_overrides(scheme: str) -> None:
    """A wrong setting is an error, even if the URL overrides it."""
    with pytest.raises(ConfigError, match="'REDIS_SOCKET_TIMEOUT' must be a number of"):
        make(
            REDIS_URL=f"{scheme}://h?socket_timeout=2", REDIS_SOCKET_TIMEOUT="2 seconds"
        )


@pytest.mark.parametrize("setting", ["tcp://10.0.0.1:6380", " tcp://10.0.0.1:6380"])
def test_port_of_a_service(setting: str) -> None:
    """Kubernetes sets PORT next to a service of the same name. Its number counts,
    unless there is a URL. Settings after it are used.
    """
    assert arguments(REDIS_HOST="redis", REDIS_PORT=setting)["port"] == 6380
    kwargs = arguments(REDIS_URL="redis://h", REDIS_PORT=setting, REDIS_DB=3)
    assert (kwargs["port"], kwargs["db"]) == (6379, 3)


PASSWORD_WARNINGS = {
    "s3cret\n": "'REDIS_PASSWORD' ends with a newline, which counts as a part of it.",
    "s3cret\r": "'REDIS_PASSWORD' ends with a newline, which counts as a part of it.",
    "${PASSWORD}": "'REDIS_PASSWORD' looks like a placeholder that was not replaced.",
    "<password>": "'REDIS_PASSWORD' looks like a placeholder that was not replaced.",
    "'s3cret'": "'REDIS_PASSWORD' has quotes around it, which count as a part of it.",
    "''": "'REDIS_PASSWORD' has quotes around it, which count as a part of it.",
}


@pytest.mark.parametrize("password", PASSWORD_WARNINGS)
def test_doubtful_password(password: str) -> None:
    """A password that is probably a mistake is used, with a warning."""
    with pytest.warns(UserWarning) as log:
        kwargs = arguments(REDIS_HOST="h", REDIS_PASSWORD=password)

    assert kwargs["password"] == password
    assert [str(each.message) for each in log] == [PASSWORD_WARNINGS[password]]


@pytest.mark.parametrize("password", ["$ecret", "'", "'s", "it's", "a}", "x > y", "{}"])
def test_unusual_password(password: str) -> None:
    """A password may have any characters."""
    assert arguments(REDIS_HOST="h", REDIS_PASSWORD=password)["password"] == password


def test_password_in_place_of_the_user() -> None:
    """A password before the '@' without a colon is taken for a user name, which the
    server refuses. If there is no password, this causes a warning.
    """
    with pytest.warns(UserWarning) as log:
        kwargs = arguments(REDIS_URL="redis://s3cret@h")

    assert kwargs["username"] == "s3cret"
    assert [str(warning.message) for warning in log] == [
        "The username in 'REDIS_URL' is without a password. If it is the password, put"
        " a colon before it, as in redis://:password@host."
    ]
    arguments(REDIS_URL="redis://h", REDIS_USERNAME="me")
    make(REDIS_URL="fakeredis://me@h")


def test_url_over_settings_over_options() -> None:
    """The URL overrides settings, and settings override options."""
    with pytest.warns(UserWarning) as caught:
        kwargs = arguments(
            {"socket_timeout": 1, "socket_connect_timeout": 1, "client_name": "option"},
            REDIS_URL="redis://me:secret@h?socket_timeout=3",
            REDIS_SOCKET_TIMEOUT=2,
            REDIS_SOCKET_CONNECT_TIMEOUT=2,
            REDIS_PASSWORD="other",
            REDIS_USERNAME="other",
        )

    assert {str(each.message) for each in caught} == {
        "'REDIS_SOCKET_TIMEOUT' is ignored: 'REDIS_URL' has another value.",
        "'REDIS_USERNAME' is ignored: 'REDIS_URL' has another user name.",
        "'REDIS_PASSWORD' is ignored: 'REDIS_URL' has another password.",
    }
    assert kwargs["socket_timeout"] == 3
    assert kwargs["socket_connect_timeout"] == 2
    assert kwargs["client_name"] == "option"
    assert (kwargs["username"], kwargs["password"]) == ("me", "secret")
    # Only secrets are hidden.
    assert repr([kwargs["client_name"], kwargs["password"]]) == "['option', '***']"


def test_credentials_that_the_url_leaves_out() -> None:
    """If the URL has no user name or password, the settings provide them."""
    config = {"REDIS_USERNAME": "me", "REDIS_PASSWORD": "secret"}
    kwargs = arguments(REDIS_URL="redis://h", **config)
    assert (kwargs["username"], kwargs["password"]) == ("me", "secret")

    with pytest.warns(UserWarning, match="'REDIS_USERNAME' is ignored"):
        kwargs = arguments(REDIS_URL="redis://you@h", **config)

    assert (kwargs["username"], kwargs["password"]) == ("you", "secret")


@pytest.mark.parametrize("value", [objects.MyRedis, "tests.objects.MyRedis"])
def test_custom_class(value: object) -> None:
    """A class gets its own arguments and those of its base classes."""
    client = make(
        REDIS_URL="redis://h/3", REDIS_CLASS=value, REDIS_FOO="y", REDIS_CLIENT_NAME="z"
    )
    assert isinstance(client, objects.MyRedis)
    assert client.foo == "y"
    kwargs = client.connection_pool.connection_kwargs
    assert (kwargs["db"], kwargs["client_name"]) == (3, "z")


def test_custom_class_with_hints_of_many_kinds() -> None:
    """Values are converted according to the type hints or defaults of the class."""

    class Hinted(redis.Redis):
        def __init__(  # type: ignore[no-untyped-def]
            self,
            *,
            flag: bool = False,
            count: "int | None" = None,  # noqa: UP037
            ratio: t.Optional[float] = None,  # noqa: UP045
            words: "t.Optional[str]" = None,  # noqa: UP037, UP045
            mode: t.Literal["a", "b"] = "a",
            plain=2,
            switch=True,
            anything=None,
            **kwargs: t.Any,
        ) -> None:
            super().__init__(**kwargs)
            self.got = (flag, count, ratio, words, mode, plain, switch, anything)

    settings = {
        "FLAG": "on",
        "COUNT": "3",
        "RATIO": "0.5",
        "WORDS": 4,
        "MODE": "b",
        "PLAIN": "2.5",
        "SWITCH": "no",
        "ANYTHING": "x",
    }
    config = {f"REDIS_{name}": value for name, value in settings.items()}
    client = make(REDIS_HOST="h", REDIS_CLASS=Hinted, **config)
    assert isinstance(client, Hinted)
    assert client.got == (True, 3, 0.5, "4", "b", 2.5, False, "x")


def test_class_without_constructor() -> None:
    """A class without its own constructor has the settings of its base classes."""

    class Plain(redis.Redis):
        pass

    client = make(REDIS_URL="redis://h/2", REDIS_CLASS=Plain)
    assert isinstance(client, Plain)
    assert client.connection_pool.connection_kwargs["db"] == 2


def test_class_that_hands_nothing_on() -> None:
    """A constructor without ``**kwargs`` gets only the arguments that it names."""

    class Own(redis.Redis):
        def __init__(self, host: str, extra: int = 0) -> None:
            super().__init__(host=host, port=extra)

    client = make(REDIS_HOST="h", REDIS_CLASS=Own, REDIS_EXTRA="5")
    assert client.connection_pool.connection_kwargs["port"] == 5


@pytest.mark.parametrize("value", [objects.POOL, "tests.objects.POOL"])
def test_connection_pool(value: object) -> None:
    """A pool that the application created is used unchanged."""
    client = make(REDIS_CONNECTION_POOL=value)
    assert client.connection_pool is objects.POOL


def test_own_default_of_a_class() -> None:
    """A class's own default timeout overrides our default."""
    kwargs = arguments(REDIS_HOST="h", REDIS_CLASS=objects.Patient)
    assert (kwargs["socket_timeout"], kwargs["socket_connect_timeout"]) == (60, 5)


def test_class_that_formats_its_password() -> None:
    """An application's own client class gets the password as plain text."""
    kwargs = arguments(REDIS_URL="redis://:secret@h", REDIS_CLASS=objects.Formats)
    assert f"{kwargs['password']}" == "secret"


def test_path_objects() -> None:
    """A path can be a Path object."""
    kwargs = arguments(REDIS_URL="rediss://h", REDIS_SSL_CA_CERTS=Path(objects.CA))
    assert kwargs["ssl_ca_certs"] == objects.CA


def test_pool_class_keeps_retries() -> None:
    """A pool class does not change how a command is retried."""
    client = make(REDIS_HOST="h", REDIS_CONNECTION_POOL_CLASS=redis.ConnectionPool)
    connection: t.Any = client.connection_pool.make_connection()
    assert connection.retry.get_retries() == 0
    assert deadline_of(client).seconds == 5


def test_host_is_stripped_and_slash_is_no_database() -> None:
    """White space around a host and a slash at the end of a URL are ignored."""
    assert arguments(REDIS_HOST=" h\n")["host"] == "h"
    kwargs = arguments(REDIS_URL="redis://h:6380/")
    assert (kwargs["host"], kwargs["port"], kwargs["db"]) == ("h", 6380, 0)


@pytest.mark.parametrize(
    ("config", "ignored"),
    [
        ({"HOST": "h"}, ["HOST"]),
        ({"HOST": "h", "PORT": "6379"}, ["HOST", "PORT"]),
        ({"HOST": "/tmp/other.sock"}, ["HOST"]),
        # It is the same socket, not set, or what Kubernetes sets.
        ({"HOST": "file:///tmp/r.sock"}, []),
        ({"HOST": "", "PORT": None}, []),
        ({"PORT": "tcp://10.0.0.1:6379"}, []),
    ],
)
def test_socket_path_over_host(config: dict[str, t.Any], ignored: list[str]) -> None:
    """UNIX_SOCKET_PATH overrides HOST and PORT, as in redis-py, with a warning."""
    settings = {f"REDIS_{name}": value for name, value in config.items()}

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kwargs = arguments(REDIS_UNIX_SOCKET_PATH="/tmp/r.sock", **settings)

    assert kwargs["path"] == "/tmp/r.sock"
    assert [str(warning.message) for warning in caught] == [
        f"'REDIS_{name}' is ignored: 'REDIS_UNIX_SOCKET_PATH' says where the server is."
        for name in ignored
    ]


def test_socket_path_among_the_options() -> None:
    """Settings override options, also if one of them is a socket."""
    options = {"unix_socket_path": "/tmp/r.sock"}
    assert arguments(options, REDIS_HOST="h", REDIS_PORT=1)["host"] == "h"
    kwargs = arguments({"host": "h"}, REDIS_UNIX_SOCKET_PATH="/tmp/r.sock")
    assert kwargs["path"] == "/tmp/r.sock"


def test_pool_over_socket_path_and_host() -> None:
    """A pool has its own address. There is one warning for each setting of another."""
    with pytest.warns(UserWarning) as log:
        make(
            REDIS_CONNECTION_POOL=redis.ConnectionPool(),
            REDIS_UNIX_SOCKET_PATH="/tmp/r.sock",
            REDIS_HOST="h",
        )

    assert [str(warning.message) for warning in log] == [
        f"'REDIS_{name}' has no effect: 'REDIS_CONNECTION_POOL' has been created with"
        " its own settings."
        for name in ("UNIX_SOCKET_PATH", "HOST")
    ]


def test_cache_with_a_pool_class() -> None:
    """The setting for client-side caching reaches the pool, although the pool's
    constructor does not name this argument.
    """
    with pytest.warns(UserWarning, match="is not safe"):
        client = make(
            REDIS_URL="redis://h?protocol=3",
            REDIS_CACHE_CONFIG=redis.cache.CacheConfig(),
            REDIS_CONNECTION_POOL_CLASS=redis.ConnectionPool,
        )

    assert client.connection_pool.cache is not None


def test_load_balancing_strategy(app: Flask) -> None:
    """A cluster's load balancing strategy has the same names as in redis-py."""
    strategy = redis.cluster.LoadBalancingStrategy.ROUND_ROBIN

    for value in ("round_robin", strategy):
        app = Flask("strategy")
        app.config["REDIS_URL"] = "redis+cluster://h"
        app.config["REDIS_LOAD_BALANCING_STRATEGY"] = value
        RedisManager(app)
        settings = app.extensions["redis"].get_spec("REDIS")
        assert settings.arguments["load_balancing_strategy"] is strategy


def test_connection_pool_outlives_the_client(server: Server) -> None:
    """A pool that the application created stays open after its client is deleted."""
    pool = redis.ConnectionPool.from_url(server.url)
    make(REDIS_CONNECTION_POOL=pool).ping()
    gc.collect()
    assert server.count_clients() == 1
    pool.disconnect()


def test_connection_pool_makes_other_settings_useless() -> None:
    """With an existing pool, settings that have no effect cause a warning."""
    with pytest.warns(UserWarning, match="^'REDIS_PASSWORD' has no effect") as log:
        make(REDIS_CONNECTION_POOL=objects.POOL, REDIS_PASSWORD="x")

    with pytest.warns(UserWarning, match="^'REDIS_MAX_CONNECTIONS' has no effect"):
        make(REDIS_CONNECTION_POOL=objects.POOL, REDIS_MAX_CONNECTIONS=3)

    assert log[0].filename == __file__


def test_retry_has_an_effect_with_a_pool() -> None:
    """RETRY and RETRY_DEADLINE are about commands, so that they may stand beside a pool
    of the application.
    """
    config: dict[str, t.Any] = {"REDIS_RETRY": 0, "REDIS_RETRY_DEADLINE": 2}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client = make(REDIS_CONNECTION_POOL=objects.POOL, **config)

    deadline = deadline_of(client)
    assert (deadline.seconds, deadline.spec.retries) == (2, 0)


@pytest.mark.parametrize(
    ("config", "connection_class"),
    [
        ({"REDIS_HOST": "h"}, redis.Connection),
        ({"REDIS_URL": "redis://h"}, redis.Connection),
        ({"REDIS_URL": "rediss://h"}, redis.SSLConnection),
        ({"REDIS_URL": "unix:///tmp/r.sock"}, redis.UnixDomainSocketConnection),
    ],
)
def test_connection_pool_class(
    config: dict[str, t.Any], connection_class: type
) -> None:
    """The pool, its connections and the client each get their own arguments."""
    client = make(
        REDIS_CONNECTION_POOL_CLASS="redis.BlockingConnectionPool",
        REDIS_TIMEOUT="0.5",
        REDIS_MAX_CONNECTIONS="7",
        REDIS_CLASS=objects.MyRedis,
        REDIS_FOO="y",
        REDIS_PASSWORD="secret",
        **config,
    )
    pool = client.connection_pool
    assert isinstance(pool, redis.BlockingConnectionPool)
    assert (pool.timeout, pool.max_connections) == (0.5, 7)
    assert redis_class(pool.connection_class) is connection_class
    assert pool.connection_kwargs["password"] == "secret"
    assert pool.connection_kwargs["socket_timeout"] == 5
    assert isinstance(client, objects.MyRedis)
    assert client.foo == "y"

    for connection in (pool.connection_class(**pool.connection_kwargs),):
        assert connection.socket_timeout == 5


@pytest.mark.parametrize(
    "value", [objects.Provider, objects.Provider(), "tests.objects.Provider"]
)
def test_credential_provider(value: object) -> None:
    """A credential provider can be an object, a class or a dotted path."""
    provider = arguments(REDIS_HOST="h", REDIS_CREDENTIAL_PROVIDER=value)[
        "credential_provider"
    ]
    assert provider.get_credentials() == ("default", "provided")


def test_retry_object() -> None:
    """A redis-py Retry object reaches the connections, with URL and with HOST."""
    retry = Retry(NoBackoff(), 7)

    for config in ({"REDIS_HOST": "h"}, {"REDIS_URL": "redis://h"}):
        passed = arguments(REDIS_RETRY=retry, **config)["retry"]
        assert vars(passed)["_retries"] == 7


def test_options_of_redis() -> None:
    """Redis takes options like the manager does."""
    app = Flask("options")
    app.config["REDIS_CLIENT_NAME"] = "setting"
    client = Redis(app, client_name="option", decode_responses="true").connection
    kwargs = client.connection_pool.connection_kwargs
    assert (kwargs["client_name"], kwargs["decode_responses"]) == ("setting", True)
    other = Redis()
    other.init_app(app, "OTHER", db=4)

    with app.app_context():
        assert other.connection.connection_pool.connection_kwargs["db"] == 4


def test_unset_options() -> None:
    """An option that is None or blank is ignored, like such a setting."""
    for value in (None, " "):
        kwargs = arguments({"client_name": value}, REDIS_HOST="h")
        assert kwargs["client_name"] is None


@pytest.mark.parametrize(
    "address", [{"HOST": "h"}, {"URL": "redis://h"}, {"URL": "unix:///tmp/r.sock"}]
)
@pytest.mark.parametrize("value", ["none", "CERT_NONE", ssl.CERT_NONE, 0])
@pytest.mark.parametrize("pool_class", [None, redis.ConnectionPool])
def test_certificates_are_not_checked_without_tls(
    address: dict[str, str], value: object, pool_class: object
) -> None:
    """SSL_CERT_REQS=none requires nothing, so that it may stay where TLS is off."""
    settings = {**address, "SSL_CERT_REQS": value, "CONNECTION_POOL_CLASS": pool_class}
    client = make(**{f"REDIS_{name}": each for name, each in settings.items()})
    connection: t.Any = client.connection_pool.make_connection()
    assert not isinstance(connection, redis.SSLConnection)


@pytest.mark.parametrize(
    ("setting", "nearest"),
    [
        ("REDIS_PASWORD", "REDIS_PASSWORD"),
        ("REDIS_SOCKET_TIMEOUTS", "REDIS_SOCKET_TIMEOUT"),
        ("REDIS_HOSTS", "REDIS_HOST"),
        ("REDIS_URI", "REDIS_URL"),
        ("REDIS_USE_SSL", "REDIS_SSL"),
        ("REDIS_DATABASE", "REDIS_DB"),
        ("REDIS_PASS", "REDIS_PASSWORD"),
        ("REDIS_CONECTION_POOL_CLASS", "REDIS_CONNECTION_POOL_CLASS"),
    ],
)
def test_misspelt_setting(setting: str, nearest: str) -> None:
    """A setting that is not used, but is similar to a valid one, causes a warning."""
    with pytest.warns(UserWarning) as log:
        make(REDIS_URL="redis://h", **{setting: "secret"})

    assert [str(warning.message) for warning in log] == [
        f"'{setting}' is not used. Did you mean '{nearest}'?"
    ]
    assert log[0].filename == __file__


def test_misspelt_setting_of_redis(app: Flask) -> None:
    """Redis warns like a manager, at the line that registers the prefix."""
    app.config.update(CACHE_HOSTS="h", QUEUE_PASWORD="x")
    queue = Redis(config_prefix="QUEUE")

    with pytest.warns(UserWarning) as log:
        Redis(app, "CACHE")
        queue.init_app(app)

    assert [str(warning.message) for warning in log] == [
        "No setting says where 'CACHE' is, so localhost:6379 is used: set 'CACHE_URL'"
        " or 'CACHE_HOST'. 'CACHE_HOSTS' is not used. Did you mean 'CACHE_HOST'?",
        "'QUEUE_PASWORD' is not used. Did you mean 'QUEUE_PASSWORD'?",
    ]
    assert {warning.filename for warning in log} == {__file__}


def test_misspelt_setting_where_code_has_no_name(app: Flask) -> None:
    """Code that belongs to no module, such as code in exec(), gets the warning too."""
    app.config.update(REDIS_URL="redis://h", REDIS_HOSTS="h")

    with pytest.warns(UserWarning, match="Did you mean 'REDIS_HOST'"):
        exec("RedisManager(app)", {"RedisManager": RedisManager, "app": app})


def test_misspelt_setting_of_an_absent_default(app: Flask) -> None:
    """A misspelt setting of the default prefix causes a warning, even if the prefix has
    no other setting.
    """
    app.config["REDIS_HOSTS"] = "h"

    with pytest.warns(UserWarning, match="Did you mean 'REDIS_HOST'"):
        RedisManager(app)


def test_no_warning_for_what_others_read(app: Flask) -> None:
    """Settings of other libraries and of the application cause no warning."""
    app.config.update(
        CACHE_URL="redis://h",
        CACHE_DEFAULT_TIMEOUT=300,
        REDIS_URL="redis://h",
        REDIS_KEY_PREFIX="x",
        REDIS_CACHE_URL="redis://h",
        REDIS_CACHE_PASSWORD="x",
    )
    app.config[1] = "x"
    manager = RedisManager()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manager.init_app(app)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("SINGLE_CONNECTION_CLIENT", "true"),
        ("CACHE_CONFIG", redis.cache.CacheConfig()),
    ],
)
def test_hazards(setting: str, value: object) -> None:
    """Settings that are unsafe with threads or forks are used, but cause a warning."""
    app = Flask("hazards")
    app.config.update({"REDIS_URL": "redis://h?protocol=3", f"REDIS_{setting}": value})

    with pytest.warns(UserWarning, match=f"^'REDIS_{setting}' is not safe"):
        RedisManager(app)


def test_single_connection_client_off() -> None:
    """An unsafe setting that is turned off causes no warning."""
    make(REDIS_URL="redis://h", REDIS_SINGLE_CONNECTION_CLIENT="off")
