from __future__ import annotations

import contextlib
import io
import logging
import traceback
import typing as t
import warnings

import pytest
import redis
from flask import Flask
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from flask_and_redis import ConfigError
from flask_and_redis import current_redis
from flask_and_redis import RedisManager
from flask_and_redis.urls import SCHEMES

from . import objects

SECRET = "s3cr3t-n0-l34k"

NAMES = [
    *("URL", "HOST", "PORT", "DB", "UNIX_SOCKET_PATH", "CLASS", "CONNECTION_POOL"),
    *("PASSWORD", "USERNAME", "USER", "SSL", "SSL_PASSWORD", "SSL_CA_CERTS", "CHARSET"),
    *("SSL_CERT_REQS", "SSL_MIN_VERSION", "SOCKET_TIMEOUT", "MAX_CONNECTIONS", "RETRY"),
    *("DECODE_RESPONSES", "ENCODING", "ERRORS", "CLIENT_NAME", "PROTOCOL", "TIMEOUT"),
    *("CONNECTION_POOL_CLASS", "CREDENTIAL_PROVIDER", "RETRY_ON_ERROR", "PASWORD"),
    *("RETRY_DEADLINE", "SENTINEL_KWARGS", "READ_FROM_REPLICAS", "STARTUP_NODES"),
    *("SOCKET_KEEPALIVE_OPTIONS", "HEALTH_CHECK_INTERVAL", "LEGACY_RESPONSES"),
]

words = st.sampled_from(
    [SECRET, "", "h", "localhost", "6379", "0", "yes", "default", "a b", "é", "%ff"]
)
glue = st.sampled_from(list(":/@?#&=[]% .-+\\\n\t\0") + ["://", "%2F", "file:///"])
texts = st.lists(words | glue | st.text(max_size=3), max_size=8).map("".join)
options = st.sampled_from(["socket_timeout", "password", "db", "ssl_password", SECRET])
queries = st.lists(st.tuples(options, texts).map("=".join), max_size=3).map("&".join)


@st.composite
def urls(draw: st.DrawFn) -> str:
    """A URL that may be right, with the secret where a password can stand."""
    scheme = draw(st.sampled_from([*SCHEMES, "http", "REDIS", SECRET]))
    login = draw(st.sampled_from(["", f"{SECRET}@", f":{SECRET}@", f"u:{SECRET}@"]))
    rest = draw(texts | st.sampled_from(["h", "h:1", "[::1]:2", "", SECRET]))
    path = draw(texts | st.sampled_from(["/0", "", "/", "/x", f"/{SECRET}"]))
    query = draw(queries)
    return f"{scheme}://{login}{rest}{path}" + (f"?{query}" if query else "")


values = st.one_of(
    texts,
    urls(),
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.binary(max_size=4),
    st.lists(texts, max_size=2),
    st.dictionaries(texts, texts, max_size=2),
    st.sampled_from(["redis.Redis", "redis.BlockingConnectionPool", objects.POOL]),
    st.sampled_from([objects.MyRedis, objects.Provider, "tests.objects.Provider"]),
    st.builds(object),
)
prefixes = st.sampled_from(["REDIS", "REDIS_CACHE", "X", "X2"])
configs = st.dictionaries(
    st.tuples(prefixes, st.sampled_from(NAMES)).map("_".join), values, max_size=8
)


@contextlib.contextmanager
def everything_printed() -> t.Iterator[io.StringIO]:
    """All log records at DEBUG and all warnings, as text."""
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)

    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            yield output
            output.writelines(str(it.message) for it in found)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def register(config: dict[str, t.Any]) -> str:
    """Use settings in an app, and return all that was said about it."""
    app = Flask("secrets")
    app.config.update(config)
    manager = RedisManager()

    with everything_printed() as output:
        try:
            manager.init_app(app)
        except ConfigError as error:
            output.writelines(traceback.format_exception(error))
            output.write(repr(error))
            return output.getvalue()

        registry = app.extensions["redis"]
        output.write(repr(registry) + repr(manager))

        with app.app_context():
            for prefix in [*registry, "X"]:
                with contextlib.suppress(KeyError):
                    try:
                        proxy = manager.get(prefix)
                        output.write(f"{proxy!r} {proxy}")

                        # That of a cluster would open connections.
                        if not issubclass(proxy.__class__, redis.RedisCluster):
                            assert proxy.connection is not None
                    except ConfigError as error:
                        output.writelines(traceback.format_exception(error))

            output.write(repr(current_redis))
            output.writelines(
                repr(registry.get_settings(prefix)) for prefix in registry
            )

    return output.getvalue()


@settings(max_examples=1500, deadline=None)
@given(configs)
@example({"REDIS_URL": f"redis://:{SECRET}/x@h:6379/0"})
@example({"REDIS_URL": f"redis://:12?{SECRET}@h"})
@example({"REDIS_URL": f"redis://h?{SECRET}=1"})
@example({"REDIS_HOST": f"redis://:{SECRET}@h"})
@example({"X_URL": f"redis://:{SECRET}#x@h"})
@example({"REDIS_HOST": "h", "REDIS_CLASS": SECRET})
def test_any_settings(config: dict[str, t.Any]) -> None:
    """Whatever the settings, they are registered or a ConfigError, and nothing says
    the secret in them.
    """
    assert SECRET not in register(config)


@settings(max_examples=500, deadline=None)
@given(urls())
def test_any_url(url: str) -> None:
    """Whatever the URL, it is registered or a ConfigError that does not quote it."""
    assert SECRET not in register({"REDIS_URL": url})


@pytest.mark.parametrize(
    "config",
    [
        {"REDIS_URL": f"redis://{SECRET}:{SECRET}@h"},
        {"REDIS_HOST": "h", "REDIS_PASSWORD": SECRET, "REDIS_USERNAME": SECRET},
        {"REDIS_URL": f"rediss://h?ssl_password={SECRET}&password={SECRET}"},
        {
            "REDIS_URL": f"redis://{SECRET}:{SECRET}@h",
            "REDIS_CONNECTION_POOL_CLASS": "redis.BlockingConnectionPool",
        },
    ],
)
def test_repr_of_the_client(config: dict[str, str]) -> None:
    """Not even the client's own repr, which older redis-py wrote passwords into, says
    a secret. A connection gets it all the same.
    """
    app = Flask("secrets")
    app.config.update(config)
    RedisManager(app)
    client = app.extensions["redis"]["REDIS"]
    pool = client.connection_pool
    connection = pool.make_connection()

    for it in (client, pool, connection, pool.connection_kwargs):
        assert SECRET not in repr(it)
        assert SECRET not in f"{it}"

    assert SECRET not in f"{pool.connection_kwargs['password']}"
    assert connection.password == SECRET
