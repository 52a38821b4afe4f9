from __future__ import annotations

import builtins
import collections.abc as cabc
import importlib.util
import re
import sys
import typing as t
from pathlib import Path

import pytest
import redis
from flask import Flask
from redis.backoff import NoBackoff
from redis.retry import Retry
from werkzeug.local import LocalProxy

from flask_and_redis import ConfigError
from flask_and_redis import Redis
from flask_and_redis import RedisManager
from flask_and_redis.spec.classes import parameters
from flask_and_redis.spec.spec import Value
from flask_and_redis.spec.url import split_url

from . import objects

ESCAPE = "must be percent-encoded"


def error(
    config: dict[str, t.Any],
    manager: cabc.Callable[[], RedisManager] = RedisManager,
    app: Flask | None = None,
) -> str:
    """Return the message of the ConfigError that settings raise at start-up."""
    app = app or Flask("errors", static_folder=None)
    app.config.update(config)

    with pytest.raises(ConfigError) as info:
        manager().init_app(app)

    assert info.value.__cause__ is None
    assert info.value.__context__ is None
    return str(info.value)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("PORT", "abc", "must be a port number from 1 to 65535."),
        ("PORT", "0", "must be a port number from 1 to 65535."),
        ("PORT", 65536, "must be a port number from 1 to 65535."),
        ("PORT", True, "must be a port number from 1 to 65535."),
        ("PORT", 6379.0, "must be a port number from 1 to 65535."),
        ("DB", "cache", "must be the number of a database, 0 or above."),
        ("DB", "-1", "must be the number of a database, 0 or above."),
        ("DB", "1_0", "must be the number of a database, 0 or above."),
        ("DB", [1], "must be the number of a database, 0 or above."),
        ("SOCKET_TIMEOUT", "5s", "must be a number of seconds above 0."),
        ("SOCKET_TIMEOUT", 0, "must be a number of seconds above 0."),
        ("SOCKET_TIMEOUT", "nan", "must be a number of seconds above 0."),
        ("SOCKET_TIMEOUT", "1e400", "must be a number of seconds above 0."),
        ("SOCKET_TIMEOUT", 10**400, "must be a number of seconds above 0."),
        ("SOCKET_TIMEOUT", True, "must be a number of seconds above 0."),
        ("SOCKET_CONNECT_TIMEOUT", -1.0, "must be a number of seconds above 0."),
        ("MAX_CONNECTIONS", "0", "must be a whole number above 0."),
        ("HEALTH_CHECK_INTERVAL", -1, "must be a number of seconds, 0 or above."),
        ("PROTOCOL", "4", "must be 2 or 3."),
        ("DECODE_RESPONSES", "tru", "must be true or false."),
        ("DECODE_RESPONSES", 2, "must be true or false."),
        ("DECODE_RESPONSES", 1.0, "must be true or false."),
        ("DECODE_RESPONSES", Path("on"), "must be true or false."),
        ("ENCODING", "utf-9", "must be the name of a text encoding, such as utf-8."),
        ("ENCODING", "hex", "must be the name of a text encoding, such as utf-8."),
        ("CHARSET", "x\0y", "must be the name of a text encoding, such as utf-8."),
        ("ERRORS", "never", "must be the name of an error handler, such as strict"),
        ("CLIENT_NAME", "two words", "must be text of printable ASCII without spaces."),
        (
            "PASSWORD",
            1e5,
            "must be text. In an environment variable put it into double",
        ),
        ("PASSWORD", True, "must be text. In an environment variable put it into"),
        ("PASSWORD", b"x", "must be text."),
        ("PASSWORD", "\udc80", "must be text."),
        ("USER", ["x"], "must be text."),
        ("RETRY", "-1", "must be a whole number, 0 or above, or a redis.retry.Retry."),
        ("RETRY", 0.5, "must be a whole number, 0 or above, or a redis.retry.Retry."),
        ("RETRY", True, "must be a whole number, 0 or above, or a redis.retry.Retry."),
        ("RETRY_DEADLINE", "-1", "must be a number of seconds, 0 or above."),
        ("SENTINEL_KWARGS", {}, "needs a redis+sentinel:// URL."),
        ("SENTINEL_KWARGS", "x", "must be a mapping."),
        ("SENTINEL_PASSWORD", "x", "needs a redis+sentinel:// URL."),
        ("SENTINEL_USERNAME", "x", "needs a redis+sentinel:// URL."),
        ("RETRY_ON_ERROR", "OSError", "must be a list of exception classes."),
        ("RETRY_ON_ERROR", [int], "must be a list of exception classes."),
        ("RETRY_ON_ERROR", [OSError, int], "must be a list of exception classes."),
        ("RETRY_ON_ERROR", 5, "must be a list of exception classes."),
        ("SOCKET_KEEPALIVE_OPTIONS", "x", "must be a mapping of socket options'"),
        ("SOCKET_KEEPALIVE_OPTIONS", {"x": 1}, "must be a mapping of socket options'"),
        ("REDIS_CONNECT_FUNC", "x", "must be a function."),
        ("CREDENTIAL_PROVIDER", object(), "must be an object with"),
        ("CREDENTIAL_PROVIDER", object, "must be an object with"),
        ("CREDENTIAL_PROVIDER", "tests.objects.NONE", "must be an object with"),
        ("HOST", "localhost:6379", "must name a host, such as localhost"),
        ("HOST", "redis://localhost", "must name a host, such as localhost"),
        ("HOST", "me@localhost", "must name a host, such as localhost"),
        ("HOST", "[::1]", "must name a host, such as localhost"),
        ("HOST", "a..b", "must name a host, such as localhost"),
        ("HOST", "x" * 64, "must name a host, such as localhost"),
        ("HOST", 127, "must be text: the name of a host."),
        (
            "UNIX_SOCKET_PATH",
            1.5,
            "must be the path of a socket, such as /tmp/redis.so",
        ),
        ("UNIX_SOCKET_PATH", "redis://:secret@h/0", "must be the path of a socket"),
        ("HOST", "file://", "must be the path of a socket"),
        ("DB", 2**31, "must be the number of a database, 0 or above."),
        ("CREDENTIAL_PROVIDER", "tests.objects.Needy", "must be an object with"),
        ("SSL_CERT_REQS", 3, "must be none, optional or required."),
        (
            "CONNECTION_POOL_CLASS",
            "redis.SentinelConnectionPool",
            "derived from redis.",
        ),
        ("SOCKET_TIMEOUT", float("inf"), "must be a number of seconds above 0."),
        ("CONNECTION_POOL", object(), "must be a redis.ConnectionPool or its dotted"),
        ("CONNECTION_POOL", "tests.objects", "must be a redis.ConnectionPool or its"),
        ("CONNECTION_POOL", "tests.nothing", "must be a redis.ConnectionPool or its"),
        ("CLASS", "redis.Rediss", "must be the dotted path of something that can be"),
        ("CLASS", "redis.Rediss", "Did you mean 'redis.Redis'?"),
        ("CLASS", "tests.objects", "must be a class or the dotted path of one"),
        ("CLASS", redis.Redis(), "must be a class or the dotted path of one"),
        ("CLASS", "collections.OrderedDict", "must be a Redis client's class:"),
        ("CLASS", int, "must be a Redis client's class: builtins.int has no"),
        ("CLASS", "redis.asyncio.Redis", "must be a synchronous client's class"),
        ("CLASS", "redis.sentinel.Sentinel", "use a redis+sentinel:// URL instead."),
        ("CLASS", "valkey.Sentinel", "use a redis+sentinel:// URL instead."),
        ("CONNECTION_POOL_CLASS", "redis.Redis", "must be a class derived from redis."),
        ("CONNECTION_POOL_CLASS", "redis.Pool", "must be the dotted path of something"),
        ("CACHE", "x", "must be an object of redis.CacheInterface."),
        ("RETRY_DEADLINE", float("inf"), "must be a number of seconds, 0 or above."),
        ("RETRY_DEADLINE", float("nan"), "must be a number of seconds, 0 or above."),
        ("HEALTH_CHECK_INTERVAL", float("inf"), "must be a number of seconds, 0 or"),
        ("UNIX_SOCKET_PATH", "/tmp/r\0.sock", "must be the path of a socket"),
        ("UNIX_SOCKET_PATH", "/tmp/" + "x" * 103, "must be the path of a socket"),
        ("UNIX_SOCKET_PATH", "${DIR}/r.sock", "must be the path of a socket"),
        ("UNIX_SOCKET_PATH", "${DIR}/r.sock", "It has a placeholder that was not"),
        ("DB", "$DB", "0 or above. It has a placeholder that was not replaced."),
        ("PORT", "${PORT}", "to 65535. It has a placeholder that was not replaced."),
        ("SOCKET_TIMEOUT", "${T}", "above 0. It has a placeholder that was not"),
        ("DECODE_RESPONSES", "{{ decode }}", "or false. It has a placeholder that"),
        ("PROTOCOL", "<protocol>", "It has a placeholder that was not replaced."),
        ("HOST", "/tmp/r\0.sock", "must be the path of a socket"),
        ("HOST", "ä" * 20_000, "must name a host, such as localhost"),
        ("HOST", "a'b", "must name a host, such as localhost"),
        ("HOST", "'localhost'", "starts with a quote: remove the quotes around it."),
        ("HOST", "${REDIS_HOST}", "has a placeholder that was not"),
        ("HOST", "$REDIS_HOST", "has a placeholder that was not"),
        ("HOST", "{{ host }}", "has a placeholder that was not"),
        ("PROTOCOL", "redis", "For TLS use a rediss:// URL, or HOST and 'REDIS_SSL'."),
        ("PROTOCOL", "rediss", "It is the version of Redis's protocol, RESP."),
        # What was given instead of text, and how to write it.
        ("PASSWORD", b"x", "must be text. It is of type bytes: use value.decode()."),
        ("PASSWORD", objects.SecretStr(), "SecretStr: use value.get_secret_value()."),
        ("PASSWORD", True, "It is of type bool."),
        ("PASSWORD", ["x"], "must be text. It is of type list."),
        ("HOST", b"h", "the name of a host. It is of type bytes: use value.decode()."),
        ("PORT", 6379.0, "It is of type float."),
        ("URL", b"redis://h", "It is of type bytes: use value.decode()."),
        ("URL", objects.SecretStr(), "SecretStr: use value.get_secret_value()."),
        ("URL", objects.UrlObject(), "tests.UrlObject: use str(value)."),
        ("URL", ["redis://h"], "redis://localhost:6379/0. It is of type list."),
        ("CLASS", "tests.exits.Client", "that can be imported (SystemExit)."),
        ("CREDENTIAL_PROVIDER", "tests.exits.P", "must be an object with"),
    ],
)
def test_wrong_value(setting: str, value: object, message: str) -> None:
    """A wrong value is an error that names the setting and says what it must be."""
    text = error({"REDIS_HOST": "localhost", f"REDIS_{setting}": value})
    assert f"'REDIS_{setting}' " in text
    assert message in text


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[("SOCKET_TIMEOUT", 0), ("PORT", -1), ("PROTOCOL", 4), ("MAX_IDLE", -0.5)],
        ("SOCKET_KEEPALIVE_OPTIONS", {"TCP_KEEPINTVL": 60}),
        ("SOCKET_KEEPALIVE_OPTIONS", {4: 60.0}),
        ("SOCKET_KEEPALIVE_OPTIONS", {4: "1 min"}),
        ("RETRY_ON_ERROR", ["OSError"]),
    ],
)
def test_wrong_value_of_the_right_type(setting: str, value: object) -> None:
    """If only the value or a part of it is wrong, the error does not name its type."""
    assert "type" not in error({"REDIS_HOST": "h", f"REDIS_{setting}": value})


def test_wrong_type_of_collection() -> None:
    """Otherwise it does."""
    config = {"REDIS_HOST": "h", "REDIS_SOCKET_KEEPALIVE_OPTIONS": [4, 60]}
    assert error(config).endswith(
        "must be a mapping of socket options' numbers, such as socket.TCP_KEEPINTVL, to"
        " whole numbers. It is of type list."
    )


def test_boolean_that_is_not_helped_by_quotes() -> None:
    """The error only advises quotes if the text in them may be right."""
    text = error({"REDIS_HOST": "h", "REDIS_SSL": True, "REDIS_SSL_CERT_REQS": False})
    assert "must be none, optional or required." in text
    assert "quotes" not in text


def test_module_that_exits(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """A module that exits while it is imported does not end start-up. The setting may
    belong to other software.
    """
    app.config.update(X_URL="redis://h", X_CLASS="tests.exits.Client")
    RedisManager(app)
    assert "'X_CLASS' must be the dotted path" in caplog.text


@pytest.mark.timeout(20)
def test_long_hosts() -> None:
    """A host that is too long is refused before any slow work."""
    for host in ("ä" * 200_000, "${" * 100_000, "<" * 200_000, "{{" * 100_000):
        assert "'REDIS_HOST' must name a host" in error({"REDIS_HOST": host})
        assert "'REDIS_URL' " in error({"REDIS_URL": f"redis://{host}"})


def test_unbound_pool() -> None:
    """A proxy that is not bound to a pool is an error. redis-py would connect to
    localhost instead.
    """
    pool = LocalProxy(lambda: objects.POOL if False else t.cast(t.Any, None))
    assert "must be a redis.ConnectionPool" in error({"REDIS_CONNECTION_POOL": pool})


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://h", "'REDIS_URL' must begin with redis://, rediss://, unix://"),
        ("rdis://h", "Did you mean redis://?"),
        ("redis:/h", "'REDIS_URL' must begin with redis://"),
        ("localhost", "'REDIS_URL' must begin with redis://"),
        ("redis://h:port/0", "a port from 1 to 65535"),
        ("redis://h:65536/0", "a port from 1 to 65535"),
        ("redis://h:0/0", "a port from 1 to 65535"),
        ("redis://h:/0", "a port from 1 to 65535"),
        ("redis://[::1]:", "a port from 1 to 65535"),
        ("redis+cluster://a:,b:6380", "a port from 1 to 65535"),
        ("redis+sentinel://a:/mymaster/0", "a port from 1 to 65535"),
        ("redis://[::1/0", "'REDIS_URL' must be like redis://user:password@host"),
        ("redis://h/cache", "must end in the number of a database"),
        ("redis://h/-1", "must end in the number of a database"),
        ("redis://h/0/1", "must end in the number of a database"),
        ("redis://h/٣", "must end in the number of a database"),
        ("redis://h/0?db=1", "'REDIS_URL' names two databases"),
        ("redis://h?db=x", "'db' in the query of 'REDIS_URL' must be the number"),
        ("redis://:pa/ss@h:6379/0", ESCAPE),
        ("redis://:1/ss@h:6379/0", ESCAPE),
        ("redis://:pa#ss@h:6379/0", ESCAPE),
        ("redis://:1#ss@h:6379/0", ESCAPE),
        ("redis://:pa?ss@h:6379/0", ESCAPE),
        ("redis://:1?ss@h:6379/0", ESCAPE),
        ("redis://u:1?s=s@h:6379/0", ESCAPE),
        ("redis://:pa ss@h:6379/0", ESCAPE),
        ("redis://:pa\tss@h:6379/0", ESCAPE),
        ("redis://:1?ss@h:6379/x", ESCAPE),
        ("redis+cluster://u:p@ss@a,b", ESCAPE),
        ("redis+cluster://u:p@a,v:q@b", ESCAPE),
        ("redis://h#0", "it has a character that no URL has, such as a space or a '#'"),
        ("redis://:%ff@h", "has percent-encoded text that is not UTF-8"),
        ("redis://h/0?client_name=%ff", "Option 1 in the query of 'REDIS_URL'"),
        ("redis://:secret@", "'REDIS_URL' must name a host after the '@'"),
        ("redis://:secret@:6379/0", "must name a host before each port"),
        ("redis://:6379/0", "must name a host before each port"),
        ("redis://a%2Fb", "must name a host, such as localhost"),
        ("redis://a..b", "must name a host, such as localhost"),
        ("redis://h?socket_timout=1", "Did you mean 'socket_timeout'?"),
        (
            "redis://h?decode_responses",
            "'decode_responses' in the query of 'REDIS_URL'",
        ),
        ("redis://h?protocol=2&db", "has no value: add '=' and the value."),
        ("fakeredis://?decode_responses", "has no value: add '=' and the value."),
        (
            "redis+sentinel://h/m?role=replica&db",
            "has no value: add '=' and the value.",
        ),
        ("redis+sentinel://h/m?role", "is not an argument of the client"),
        ("redis://h?xyzzy", "Option 1 in the query of 'REDIS_URL' is not an"),
        ("redis://h?socket_timeout=x", "'socket_timeout' in the query of 'REDIS_URL'"),
        ("redis://h?host=other", "belongs in the part before the query"),
        ("redis://h?ssl=true", "belongs in the part before the query"),
        ("redis://h?protocol=2&protocol=3", "Option 2 in the query of 'REDIS_URL' rep"),
        ("redis://u:p@h?password=x", "repeats an earlier part of the URL"),
        ("redis://h?timeout=5", "is not an argument of the client"),
        (
            "redis://h?ssl_ca_certs=/x",
            "'ssl_ca_certs' in the query of 'REDIS_URL' need",
        ),
        ("unix://tmp/redis.sock", "must be like unix:///path/to/redis.sock"),
        ("unix://:pa/ss@/tmp/redis.sock", ESCAPE),
        ("unix://:1/ss@/tmp/redis.sock", ESCAPE),
        ("unix://", "must be like unix:///path/to/redis.sock"),
        ("unix:///", "must be like unix:///path/to/redis.sock"),
        ("unix:///tmp/x?ssl_ca_certs=/x", "cannot be used with a socket"),
        ("fakeredis://h:6379/0", "must be like fakeredis://name/0"),
        ("fakeredis://u:p@h", "must be like fakeredis://name/0"),
        ("fakeredis:///x", "must end in the number of a database"),
        ("fakeredis://?decode_response=1", "Did you mean 'decode_responses'?"),
        (6379, "'REDIS_URL' must be text"),
        ("redis://${REDIS_HOST}:6379/0", "has a placeholder that was not"),
        ("redis://${REDIS_HOST:-localhost}:6379", "has a placeholder that was not"),
        ("redis://:pw@$(HOST)", "has a placeholder that was not"),
        ("redis://<host>:6379", "has a placeholder that was not"),
        ("redis://{{ redis_host }}:6379", "has a placeholder that was not"),
        ("redis://{host}:6379", "has a placeholder that was not"),
        ("redis://%(host)s", "has a placeholder that was not"),
        ("redis://%3Chost%3E", "has a placeholder that was not"),
        ("redis://h:${PORT}/0", "'REDIS_URL' has a placeholder that was not replaced."),
        ("redis://h:6379/${DB}", "'REDIS_URL' has a placeholder that was not"),
        ("redis://h/{{ db }}", "'REDIS_URL' has a placeholder that was not replaced."),
        ("redis://h?db=$DB", "0 or above. It has a placeholder that was not"),
        ("fakeredis:///${DB}", "'REDIS_URL' has a placeholder that was not replaced."),
        ("redis+sentinel://h/m/${DB}", "'REDIS_URL' has a placeholder that was not"),
        ("redis+cluster://a,${B}", "has a placeholder that was not"),
        ("redis+sentinel://h/${SERVICE}", "has a placeholder that was not"),
        ("${REDIS_URL}", "'REDIS_URL' is a placeholder that was not replaced."),
        ("redis://%HOST%", "must name a host, such as localhost"),
        ("redis+socket:///tmp/r.sock", "Use unix:// instead."),
        ("redis+ssl://h", "Use rediss:// instead."),
        ("'redis://h'", "'REDIS_URL' starts with a quote: remove the quotes"),
        ('"redis://h"', "'REDIS_URL' starts with a quote: remove the quotes"),
        ("redis+sentinel://h/\udc80", "'REDIS_URL' cannot be read"),
        ("redis://\udc80:x@h", "'REDIS_URL' cannot be read"),
        ("unix:///tmp/r%00.sock", "must be the path of a socket"),
    ],
)
def test_wrong_url(url: object, message: str) -> None:
    """A wrong URL is an error that says what is wrong, and does not quote it."""
    text = error({"REDIS_URL": url})
    assert message in text
    assert "'REDIS_URL'" in text


@pytest.mark.parametrize(
    "url",
    [
        *("redis://a,b", "redis://${HOST}", "redis://${HOST}:1", "redis://h_:${PORT}"),
        *("redis://h/${DB}", "redis://h/{{ db }}"),
        *("redis://h/1?db=2", "redis://%ff", "redis://h=x", "fakeredis://h:1"),
        *("redis+sentinel://h/${SERVICE}", "redis+sentinel://h"),
        # Without an '@' there is no login, and after one login there is no rest of it.
        *("redis://h/shop", "redis://h:63799999", "redis://h?timeout=2", "redis://:1"),
        *("redis://u:p@h/shop", "redis://u:p@h:65536", "redis://u:p@h?timeout=2"),
        *("redis://h h", "redis://h#0", "redis://h/\n0", "redis://u:p@"),
    ],
)
def test_advice_about_special_characters(url: str) -> None:
    """If a URL cannot have the rest of a password, its error says nothing of them."""
    assert "must be percent-encoded" not in error({"REDIS_URL": url})


# A name has at most 253 characters, and each of its labels at most 63.
LONGEST = ".".join(["a" * 63] * 3 + ["b" * 61])


def test_longest_host() -> None:
    """The longest name that can be resolved is accepted, and no longer one."""
    app = Flask("errors", static_folder=None)
    app.config.update(A_HOST=LONGEST, REDIS_URL=f"redis://{LONGEST}:65535")
    RedisManager(app)
    specs = app.extensions["redis"]
    assert specs.get_spec("A").arguments["host"] == LONGEST
    assert specs.get_spec("REDIS").arguments["port"] == 65535
    assert "must name a host" in error({"REDIS_HOST": f"{LONGEST}b"})
    placeholder = "${A}" + LONGEST[4:]
    assert "placeholder" in error({"REDIS_HOST": placeholder})
    assert "must name a host" in error({"REDIS_HOST": f"{placeholder}b"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"REDIS_URL": "redis://h", "REDIS_SSL_CA_CERTS": "/x"},
            "'REDIS_SSL_CA_CERTS' needs TLS, which is off: use a rediss:// URL,"
            " or set 'REDIS_SSL' to true.",
        ),
        (
            {"REDIS_HOST": "h", "REDIS_SSL": "no", "REDIS_SSL_CERT_REQS": "optional"},
            "'REDIS_SSL_CERT_REQS' needs TLS",
        ),
        (
            {"REDIS_HOST": "/tmp/redis.sock", "REDIS_SSL": "yes"},
            "'REDIS_SSL' cannot be used with a socket",
        ),
        (
            {"REDIS_URL": "redis://h", "REDIS_CONNECTION_POOL": objects.POOL},
            "'REDIS_URL' and 'REDIS_CONNECTION_POOL' both say where the server is",
        ),
        (
            {"REDIS_HOST": "h", "REDIS_CHARSET": "x", "REDIS_ENCODING": "y"},
            "'REDIS_CHARSET' and 'REDIS_ENCODING' are two names of the same setting",
        ),
        (
            {"REDIS_URL": "redis://h", "REDIS_DB": "cache"},
            "'REDIS_DB' must be the number of a database, 0 or above.",
        ),
        (
            {"REDIS_URL": "redis://h/3", "REDIS_DB": "cache"},
            "'REDIS_DB' must be the number of a database, 0 or above.",
        ),
        (
            {"REDIS_URL": "redis+cluster://h", "REDIS_DB": 1},
            "'REDIS_DB' cannot be used: a cluster has only database 0",
        ),
        (
            {
                "REDIS_URL": "redis://:secret@h",
                "REDIS_CREDENTIAL_PROVIDER": objects.Provider,
            },
            "The password in 'REDIS_URL' and 'REDIS_CREDENTIAL_PROVIDER' both set the",
        ),
        (
            {
                "REDIS_URL": "redis://h?protocol=2",
                "REDIS_CACHE_CONFIG": redis.cache.CacheConfig(),
            },
            "'REDIS_PROTOCOL' must be 3",
        ),
        (
            {
                "REDIS_HOST": "h",
                "REDIS_RETRY": Retry(NoBackoff(), 1),
                "REDIS_RETRY_DEADLINE": 3,
            },
            "'REDIS_RETRY' and 'REDIS_RETRY_DEADLINE' both say how long to retry",
        ),
        (
            {"REDIS_URL": "fakeredis://", "REDIS_CLASS": "tests.test_errors.NoRedis"},
            "'REDIS_CLASS' must be derived from redis.Redis for a fakeredis:// URL.",
        ),
        (
            {
                "REDIS_URL": "fakeredis://",
                "REDIS_CONNECTION_POOL_CLASS": "valkey.ConnectionPool",
            },
            "'REDIS_CONNECTION_POOL_CLASS' must be a class derived from redis.",
        ),
        (
            {"REDIS_URL": "redis://h/1", "REDIS_CLASS": "tests.test_errors.NoRedis"},
            "The database in 'REDIS_URL' needs a client class that takes 'db', and"
            " tests.NoRedis does not.",
        ),
        (
            {
                "REDIS_HOST": "h",
                "REDIS_CLASS": "tests.test_errors.NoRedis",
                "REDIS_DB": 1,
            },
            "'REDIS_DB' needs a client class that takes 'db', and tests.NoRedis does",
        ),
    ],
)
def test_settings_that_do_not_fit_together(
    config: dict[str, t.Any], message: str
) -> None:
    """Settings that contradict each other are an error that names both."""
    assert message in error(config)


class NoRedis:
    """A client of another library, which takes few arguments."""

    def __init__(self, host: str = "") -> None:
        self.host = host

    def execute_command(self, *args: t.Any) -> None: ...


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", None])
def test_cluster_class_of_valkey(scheme: str | None) -> None:
    """valkey-py's cluster is refused, with the class to use instead."""
    address = {"REDIS_URL": f"{scheme}://h"} if scheme else {"REDIS_HOST": "h"}
    message = error({**address, "REDIS_CLASS": "valkey.ValkeyCluster"})
    assert message.startswith("'REDIS_CLASS' must")
    assert "redis.RedisCluster" in message


def test_sentinel_kwargs_with_a_pool() -> None:
    """A pool of the application has its own sentinels."""
    sentinel_class: t.Any = redis.sentinel.Sentinel
    pool_class: t.Any = redis.SentinelConnectionPool
    pool = pool_class("mymaster", sentinel_class([("h", 1)]))
    config = {"REDIS_CONNECTION_POOL": pool, "REDIS_SENTINEL_KWARGS": {"db": 1}}
    assert error(config) == ("'REDIS_SENTINEL_KWARGS' needs a redis+sentinel:// URL.")


def test_options_that_contradict_a_setting() -> None:
    """An option that contradicts a setting of an uncertain prefix stops start-up."""
    address = {"CACHE_URL": "redis://h"}
    provider = {"CACHE_CREDENTIAL_PROVIDER": objects.Provider}
    message = error(address | provider, lambda: RedisManager(username="me"))
    assert message.startswith("The option 'username' of RedisManager or Redis and ")
    retry = Retry(NoBackoff(), 1)
    deadline = {"CACHE_RETRY_DEADLINE": 3}
    message = error(address | deadline, lambda: RedisManager(retry=retry))
    assert message.startswith("The option 'retry' of RedisManager or Redis and ")


@pytest.mark.parametrize(
    "options", [{"socket_timeout": "x"}, {"nothing": 1}, {"port": "x"}]
)
def test_wrong_option_of_an_uncertain_prefix(options: dict[str, t.Any]) -> None:
    """A wrong option is a mistake in the application's code. It stops start-up,
    although a wrong setting of the same prefix would not.
    """
    # A URL would override the options of the address.
    address = {"X_CLASS": "redis.Redis", "X_UNIX_SOCKET_PATH": "/tmp/redis.sock"}
    message = error(address, lambda: RedisManager(**options))
    assert message.startswith("The option ")


def test_class_of_another_library(app: Flask) -> None:
    """A class gets only the arguments that its constructor accepts. This includes the
    default timeouts.
    """
    app.config.update(REDIS_HOST="h", REDIS_CLASS=NoRedis)
    RedisManager(app)
    client: t.Any = app.extensions["redis"]["REDIS"]
    assert isinstance(client, NoRedis)
    assert client.host == "h"


def test_wrong_option() -> None:
    """An option that is not an argument of the client is an error, like a setting."""
    text = error(
        {"REDIS_URL": "redis://h"}, lambda: RedisManager(socket_timout="secret")
    )
    assert text == (
        "The option 'socket_timout' of RedisManager or Redis is not an argument of"
        " redis.Redis. Did you mean 'socket_timeout'? The prefix is 'REDIS'."
    )


@pytest.mark.parametrize("option", ["health_check_interval", "db"])
def test_option_that_one_prefix_refuses(option: str) -> None:
    """The error of an option names the prefix whose client does not take it."""
    config = {"REDIS_URL": "redis://h", "CARTS_URL": "redis+cluster://h"}
    options: dict[str, t.Any] = {option: 3}
    text = error(config, lambda: RedisManager(**options))
    assert text.startswith(f"The option '{option}' of RedisManager or Redis ")
    assert text.endswith(" The prefix is 'CARTS'.")


def test_url_as_an_option() -> None:
    """The class of clusters takes a URL, which is for the setting to say."""
    config = {"REDIS_URL": "redis+cluster://h"}
    message = error(config, lambda: RedisManager(url="redis://i"))
    assert "is not an argument of redis.RedisCluster." in message


def test_wrong_value_of_an_option() -> None:
    """A wrong value of an option is an error that names the option."""
    text = error({"REDIS_URL": "redis://h"}, lambda: RedisManager(socket_timeout="x"))
    assert text == (
        "The option 'socket_timeout' of RedisManager or Redis must be a number of"
        " seconds above 0. The prefix is 'REDIS'."
    )


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("ssl_cert_reqs", "to accept any certificate write 'none'."),
        ("socket_timeout", "write a number of seconds, or leave it out."),
        ("socket_connect_timeout", "write a number of seconds, or leave it out."),
    ],
)
def test_none_that_means_something_to_redis_py(name: str, advice: str) -> None:
    """An option that is None is an error if redis-py would not take its default."""
    options: dict[str, t.Any] = {name: None}
    text = error({"REDIS_URL": "rediss://h"}, lambda: RedisManager(**options))
    assert f"must not be None: {advice}" in text


@pytest.mark.parametrize("name", ["CA_CERTS", "CA_PATH", "CERTFILE", "KEYFILE"])
@pytest.mark.parametrize("value", ["/no/such/file", "~/no.pem", "x\0y"])
def test_missing_file(name: str, value: str) -> None:
    """A file that is missing is an error at start-up. At the first command its error
    would look like that of a connection.
    """
    kind = "directory" if name == "CA_PATH" else "file"
    text = error({"REDIS_URL": "rediss://h", f"REDIS_SSL_{name}": value})
    assert text == (
        f"'REDIS_SSL_{name}' must be the path of a {kind} that exists and can be read."
    )


def test_wrong_option_of_redis(app: Flask) -> None:
    """Redis checks its options as the manager does."""
    with pytest.raises(ConfigError, match="The option 'foo' of RedisManager or Redis"):
        Redis(app, foo=1)


def test_import_error_is_not_quoted(
    monkeypatch: pytest.MonkeyPatch, app: Flask
) -> None:
    """The error of an imported module is not quoted, because it may contain secrets."""

    class Finder:
        def find_spec(self, name: str, *args: object) -> None:
            if name.startswith("nomodule"):
                raise RuntimeError("secret")

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    text = error({"REDIS_HOST": "h", "REDIS_CLASS": "nomodule.X"}, app=app)
    assert "(RuntimeError)" in text
    assert "secret" not in text


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing client library is an error that shows the command to install it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert error({"REDIS_URL": "fakeredis://"}) == (
        "'REDIS_URL' needs the package fakeredis, which is not installed:"
        " pip install 'Flask-And-Redis[fakeredis]'"
    )


def test_protocol_classes_are_not_checked(app: Flask) -> None:
    """A type hint that cannot be checked at run time accepts every object."""

    class Quacks(t.Protocol):
        def quack(self) -> None: ...

    class Client(redis.Redis):
        def __init__(self, duck: Quacks | None = None, **kwargs: t.Any) -> None:
            super().__init__(**kwargs)
            self.duck = duck

    Client.__init__.__annotations__["duck"] = Quacks
    duck = object()
    app.config.update(REDIS_HOST="h", REDIS_CLASS=Client, REDIS_DUCK=duck)
    RedisManager(app)
    assert t.cast(Client, app.extensions["redis"]["REDIS"]).duck is duck


def test_no_module_but_the_documented_is_imported(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only settings that are documented as dotted paths are imported."""
    imported: list[str] = []
    real = builtins.__import__

    def spy(name: str, *args: t.Any, **kwargs: t.Any) -> t.Any:
        imported.append(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", spy)
    path = "tests.objects.NOT_A_CLASS"
    app.config.update(REDIS_URL="redis://h", REDIS_PASSWORD=path, OTHER=path)
    app.config.update(REDIS_CLIENT_NAME=path, REDIS_USERNAME=path, X_HOST=path)
    RedisManager(app)
    assert not [name for name in imported if re.search("tests", name)]


def test_retry_of_another_kind_is_an_error() -> None:
    """redis-py's asynchronous retry object is an error for the synchronous client."""
    from redis.asyncio.retry import Retry as AsyncRetry

    assert isinstance(Retry(NoBackoff(), 0), Retry)
    retry = AsyncRetry(t.cast(t.Any, NoBackoff()), 0)
    assert "must be a whole number, 0 or above, or a redis.retry" in error(
        {"REDIS_HOST": "h", "REDIS_RETRY": retry}
    )


def test_what_a_constructor_needs() -> None:
    """A missing argument that a class requires is an error at start-up."""
    config = {"REDIS_URL": "redis://h", "REDIS_CLASS": "tests.objects.NeedsTenant"}
    assert error(config) == (
        "'REDIS_TENANT' must be set: tests.NeedsTenant needs the argument 'tenant'."
    )


@pytest.mark.parametrize(
    "config",
    [
        {"REDIS_URL": "fakeredis://"},
        {"REDIS_URL": "redis+sentinel://h/m"},
        {"REDIS_HOST": "h", "REDIS_CONNECTION_POOL_CLASS": redis.ConnectionPool},
    ],
)
def test_class_that_takes_no_pool(config: dict[str, t.Any]) -> None:
    """Settings that need a pool are an error if the class does not accept a pool."""
    assert error({**config, "REDIS_CLASS": "tests.objects.NoPool"}) == (
        "'REDIS_CLASS' must be a class that takes 'connection_pool' for these settings,"
        " and tests.NoPool does not."
    )


@pytest.mark.skipif(
    "driver_info" not in parameters(redis.Redis),
    reason="This redis-py has no driver_info.",
)
def test_driver_info_is_no_text(app: Flask) -> None:
    """A driver_info that is not a redis.DriverInfo is an error. redis-py would accept
    it and fail later.
    """
    message = "'REDIS_DRIVER_INFO' must be a redis.DriverInfo."
    assert error({"REDIS_HOST": "h", "REDIS_DRIVER_INFO": "x"}) == message
    app.config.update(REDIS_HOST="h", REDIS_DRIVER_INFO=redis.DriverInfo("me", "1"))
    RedisManager(app)
    assert app.extensions["redis"]["REDIS"]


def test_lower_case_prefix(app: Flask) -> None:
    """A prefix in lower case is an error. No setting can match it, so its client would
    connect to localhost.
    """
    for use in (
        lambda: RedisManager(default="cache"),
        lambda: RedisManager(prefixes=["cache"]),
        lambda: RedisManager().get("Cache"),
        lambda: Redis(app, "cache"),
        lambda: Redis(app, "CACHE_"),
        lambda: Redis().init_app(app, "cache"),
    ):
        with pytest.raises(ConfigError, match="must be in upper case"):
            use()


def test_prefix_that_is_no_text(app: Flask) -> None:
    """A prefix that is not a string is an error. In version 0.0.4, this argument was
    ``strict``.
    """
    with pytest.raises(ConfigError, match="such as 'REDIS'. It is of type bool"):
        Redis(app, t.cast(t.Any, True))


def test_setting_for_a_prefix(app: Flask) -> None:
    """The full name of a setting instead of its prefix is an error. Its client would
    connect to localhost.
    """
    app.config["CACHE_URL"] = "redis://h"

    with pytest.raises(ConfigError, match="'CACHE_URL' is the name of a"):
        Redis(app, "CACHE_URL")

    app.config["REDIS"] = {"URL": "redis://h"}

    with pytest.raises(ConfigError, match="^'REDIS' is a mapping, because .* single"):
        Redis(app)


def test_foreign_setting_with_our_name() -> None:
    """If another program's setting looks like ours, the error says how to ignore it."""
    text = error({"REDIS_EXPORTER_URL": "http://h"})
    assert text.endswith("not Redis, add its prefix to RedisManager(ignore=...).")


def test_option_for_a_stranger() -> None:
    """A wrong option is an error at start-up for every prefix, because the application
    itself set the option.
    """
    assert "Did you mean 'decode_responses'?" in error(
        {"CACHE_URL": "redis://h"}, lambda: RedisManager(decod_responses=True)
    )


def test_missing_valkey(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class from a library that is not installed is an error that shows the command
    to install it.
    """
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert error({"REDIS_HOST": "h", "REDIS_CLASS": "valkey.Valkey"}) == (
        "'REDIS_CLASS' needs the package valkey, which is not installed:"
        " pip install valkey"
    )


def test_value_shows_no_secret() -> None:
    """The repr of a value that was read shows where it came from, not what it is."""
    value = Value("'REDIS_PASSWORD'", "secret")
    assert repr(value) == "<Value 'REDIS_PASSWORD'>"
    assert repr({"password": value}) == "{'password': <Value 'REDIS_PASSWORD'>}"
    url = split_url("'REDIS_URL'", "redis://:secret@h")
    assert (url.login, repr(url)) == (":secret", "<Url 'REDIS_URL'>")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://a:1,b:2", "several hosts: use redis+cluster://"),
        ("unix:///tmp/redis.sock", "a cluster has only database 0, and no socket"),
        ("redis://h/1", "The database in 'REDIS_URL' cannot be used"),
        ("redis://h?ssl_ca_certs=/x", "needs TLS, which is off"),
    ],
)
def test_single_server_url_with_a_cluster_class(url: str, message: str) -> None:
    """With the class of a cluster, a URL is still read as its scheme says."""
    config = {"REDIS_URL": url, "REDIS_CLASS": "redis.RedisCluster"}
    assert message in error(config)


def test_asynchronous_class_behind_sentinels() -> None:
    """The error says what is wrong with the class, whatever the scheme."""
    config = {"REDIS_URL": "redis+sentinel://h/m", "REDIS_CLASS": "redis.asyncio.Redis"}
    assert "must be a synchronous client's class" in error(config)
