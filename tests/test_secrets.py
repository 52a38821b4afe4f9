from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import socket
import sys
import traceback
import typing as t
import warnings
from pathlib import Path

import pytest
import redis
from flask import Flask
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from flask_and_redis import ConfigError
from flask_and_redis import current_redis
from flask_and_redis import Redis
from flask_and_redis import RedisManager
from flask_and_redis.engines import ENGINES
from flask_and_redis.operate.settings import list_settings
from flask_and_redis.spec.classes import parameters

from . import objects
from .conftest import Starter
from .servers import Certificates
from .servers import Server

SECRET = "s3cr3t-n0-l34k"

NAMES = [
    *("URL", "HOST", "PORT", "DB", "UNIX_SOCKET_PATH", "CLASS", "CONNECTION_POOL"),
    *("PASSWORD", "USERNAME", "USER", "SSL", "SSL_PASSWORD", "SSL_CA_CERTS", "CHARSET"),
    *("SSL_CERT_REQS", "SSL_MIN_VERSION", "SOCKET_TIMEOUT", "MAX_CONNECTIONS", "RETRY"),
    *("DECODE_RESPONSES", "ENCODING", "ERRORS", "CLIENT_NAME", "PROTOCOL", "TIMEOUT"),
    *("CONNECTION_POOL_CLASS", "CREDENTIAL_PROVIDER", "RETRY_ON_ERROR", "PASWORD"),
    *("RETRY_DEADLINE", "SENTINEL_KWARGS", "READ_FROM_REPLICAS", "STARTUP_NODES"),
    *("PASSWORD_FILE",),
    *("SOCKET_KEEPALIVE_OPTIONS", "HEALTH_CHECK_INTERVAL", "LEGACY_RESPONSES"),
    *("SENTINEL_USERNAME", "SENTINEL_PASSWORD", "SSL_CERTFILE", "SSL_CA_PATH"),
    # Names that nothing uses, but that resemble others.
    *("_URL", "URl", "PROT", "HOSTNAME", "DATABASE", "POOL_SIZE", "USE_SSL", "TLS"),
    *("SENTINELS", "USE_SENTINEL", "CLUSTER_NODES", "SERVICE_HOST", "PORT_1_TCP"),
]

words = st.sampled_from(
    [
        *(SECRET, "", "h", "localhost", "6379", "0", "yes", "default", "a b", "é"),
        *("%ff", "${HOST}", "<host>", "{{ x }}", "tcp://10.0.0.1:6379", "'", "\udc80"),
        *("null", "x" * 300, "ä" * 300, __file__, "/no/such/file"),
    ]
)
glue = st.sampled_from(list(":/@?#&=[]% .-+\\\n\t\0") + ["://", "%2F", "file:///"])
texts = st.lists(words | glue | st.text(max_size=3), max_size=8).map("".join)
options = st.sampled_from(["socket_timeout", "password", "db", "ssl_password", SECRET])
queries = st.lists(st.tuples(options, texts).map("=".join), max_size=3).map("&".join)


@st.composite
def urls(draw: st.DrawFn) -> str:
    """A URL that may be valid, with the secret wherever a password is possible."""
    scheme = draw(st.sampled_from([*ENGINES, "http", "REDIS", SECRET]))
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
    st.builds(objects.SecretStr),
    st.builds(objects.UrlObject),
    st.just(Path("/tmp/r.sock")),
)
prefixes = st.sampled_from(["REDIS", "REDIS_CACHE", "X", "X2", "X_", "X_SERVICE"])
keys = st.tuples(prefixes, st.sampled_from(NAMES)).map("_".join)
letters = st.lists(st.sampled_from(["REDIS", "X", "_", "_URL", "_HOST", "l", "é"]))
configs = st.dictionaries(keys | keys | keys | letters.map("".join), values, max_size=8)


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
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield output
            output.writelines(str(warning.message) for warning in caught)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def local_variables(error: BaseException) -> t.Iterator[str]:
    """What error trackers record of this package's frames."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if "flask_and_redis" in frame.f_code.co_filename:
            yield repr(frame.f_locals)


def register(config: dict[str, t.Any]) -> str:
    """Use settings in an app. Return all logs, warnings, errors and reprs as text."""
    app = Flask("secrets", static_folder=None)
    app.config.update(config)
    manager = RedisManager()
    manager.get("X2")

    with everything_printed() as output:
        try:
            manager.init_app(app)
        except ConfigError as error:
            output.writelines(traceback.format_exception(error))
            output.write(repr(error))
            output.writelines(local_variables(error))
            return output.getvalue()

        registry = app.extensions["redis"]
        output.write(repr(registry) + repr(manager))

        with app.app_context():
            for prefix in [*registry, "X"]:
                with contextlib.suppress(KeyError):
                    try:
                        proxy = manager.get(prefix)
                        output.write(f"{proxy!r} {proxy}")

                        # Creating a cluster client would open connections.
                        if not issubclass(proxy.__class__, redis.RedisCluster):
                            assert proxy.connection is not None
                    except ConfigError as error:
                        output.writelines(traceback.format_exception(error))

            output.write(repr(current_redis))
            output.writelines(repr(registry.get_spec(prefix)) for prefix in registry)

    return output.getvalue()


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.timeout(300)
@settings(max_examples=300, deadline=None)
@given(configs)
@example({"REDIS_URL": f"redis://:{SECRET}/x@h:6379/0"})
@example({"REDIS_URL": f"redis://:12?{SECRET}@h"})
@example({"REDIS_URL": f"redis://h?{SECRET}=1"})
@example({"REDIS_HOST": f"redis://:{SECRET}@h"})
@example({"X_URL": f"redis://:{SECRET}#x@h"})
@example({"REDIS_HOST": "h", "REDIS_CLASS": SECRET})
def test_any_settings(config: dict[str, t.Any]) -> None:
    """Any settings are accepted or raise ConfigError. No output contains the secret."""
    assert SECRET not in register(config)


# Values in which the secret is a credential, and nothing else.
credentials = st.sampled_from([SECRET, f"{SECRET}\n", f"'{SECRET}'", f"x {SECRET}"])
credential_settings = st.sampled_from(
    [
        *("PASSWORD", "USERNAME", "USER", "SSL_PASSWORD", "FOO"),
        *("SENTINEL_USERNAME", "SENTINEL_PASSWORD"),
    ]
)
addresses = st.sampled_from(
    [
        {"URL": f"redis://{SECRET}:{SECRET}@h:1/2?decode_responses=1"},
        {"URL": f"rediss://h?ssl_password={SECRET}"},
        {"URL": f"unix://:{SECRET}@/tmp/r.sock"},
        {"URL": f"redis+sentinel://:{SECRET}@h/m"},
        {
            "URL": "rediss+sentinel://h/m",
            "SENTINEL_KWARGS": {"ssl_password": SECRET, "username": SECRET},
        },
        {"URL": f"redis+cluster://{SECRET}:{SECRET}@h,i"},
        {"URL": "fakeredis://"},
        {"HOST": "h"},
        {"HOST": "h", "CLASS": objects.MyRedis},
        {"HOST": "h", "CONNECTION_POOL_CLASS": redis.BlockingConnectionPool},
    ]
)


@pytest.mark.slow
@pytest.mark.untraced
@settings(max_examples=300, deadline=None)
@given(addresses, st.dictionaries(credential_settings, credentials, max_size=4))
def test_list_of_any_settings(
    address: dict[str, t.Any], others: dict[str, str]
) -> None:
    """The list of all settings of a prefix shows no credentials, wherever they are
    set.
    """
    app = Flask("secrets", static_folder=None)
    config = {f"X_{name}": value for name, value in (address | others).items()}
    app.config.update(config)

    with everything_printed() as output:
        RedisManager(app)
        registry = app.extensions["redis"]

        for prefix in registry:
            rows = list_settings(registry.get_spec(prefix))
            assert len(rows) > 5
            output.write(f"{rows} {json.dumps(rows)}")

    assert SECRET not in output.getvalue()


@pytest.mark.slow
@pytest.mark.untraced
@settings(max_examples=200, deadline=None)
@given(urls())
def test_any_url(url: str) -> None:
    """Any URL is accepted or raises ConfigError. No output contains the secret."""
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
        {"REDIS_URL": f"redis://:{SECRET}@h", "REDIS_CLASS": "tests.objects.MyRedis"},
        {"REDIS_URL": f"valkey://:{SECRET}@h", "REDIS_CLASS": "valkey.Valkey"},
    ],
)
def test_repr_of_the_client(config: dict[str, str]) -> None:
    """The repr of a client, pool or connection contains no secret, although older
    versions of redis-py show passwords. The connection still has the real password.
    """
    app = Flask("secrets", static_folder=None)
    app.config.update(config)
    RedisManager(app)
    client = app.extensions["redis"]["REDIS"]
    pool = client.connection_pool
    connection = pool.make_connection()

    for value in (client, pool, connection, pool.connection_kwargs):
        assert SECRET not in repr(value)
        assert SECRET not in f"{value}"

    assert SECRET not in f"{pool.connection_kwargs['password']}"
    assert connection.password == SECRET


def test_repr_of_sentinels() -> None:
    """Nor do the clients that ask sentinels, and their pools, show a password."""
    app = Flask("secrets", static_folder=None)
    app.config.update(REDIS_URL="redis+sentinel://h/m", REDIS_SENTINEL_PASSWORD=SECRET)
    manager = RedisManager(app)

    def check(client: t.Any) -> None:
        manager = client.connection_pool.sentinel_manager
        (sentinel,) = manager.sentinels
        pool = sentinel.connection_pool

        for value in (sentinel, pool, pool.connection_kwargs, manager.sentinel_kwargs):
            assert SECRET not in repr(value)
            assert SECRET not in f"{value}"

        assert SECRET not in f"{pool.connection_kwargs['password']}"
        assert pool.make_connection().password == SECRET

    async def check_async() -> None:
        async with manager.get_async() as client:
            check(client)

    with app.app_context():
        check(manager.get())
        asyncio.run(check_async())


#: All settings that may contain a dotted path, according to the documentation.
PATHS = ("CLASS", "CONNECTION_POOL", "CONNECTION_POOL_CLASS", "CREDENTIAL_PROVIDER")


@pytest.mark.untraced
def test_nothing_else_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No setting is evaluated as code. Only documented settings import an object."""
    code = "import redis\n\n\nclass Thing(redis.ConnectionPool): pass\n"
    (tmp_path / "bomb.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    names = {*NAMES, *PATHS, "SSL_CIPHERS", "REDIS_CONNECT_FUNC", "EVENT_DISPATCHER"}
    names |= {
        name.upper()
        for source in (redis.Redis, redis.RedisCluster, redis.BlockingConnectionPool)
        for name in parameters(source)
    }
    importing = set()

    for name in names:
        for text in ("bomb.Thing", "bomb:Thing", "__import__('bomb')", "{bomb}"):
            for url in ("redis://h", "redis+sentinel://h/m", "fakeredis://", None):
                register({"REDIS_URL": url, f"REDIS_{name}": text, f"X_{name}": text})

                if sys.modules.pop("bomb", None):
                    importing.add(name)

    assert importing == set(PATHS)


#: For sentinels, which have their own timeout.
BOUND = {"socket_timeout": 0.1}

PLACES: dict[str, t.Callable[[str], dict[str, t.Any]]] = {
    "URL": lambda address: {"URL": f"redis://{SECRET}:{SECRET}@{address}"},
    "setting": lambda address: {"URL": f"redis://{address}", "PASSWORD": SECRET},
    "query": lambda address: {"URL": f"redis://{address}?password={SECRET}"},
    "provider": lambda address: {
        "URL": f"redis://{address}",
        "CREDENTIAL_PROVIDER": redis.UsernamePasswordCredentialProvider(SECRET, SECRET),
    },
    "file": lambda address: {
        "URL": f"redis://{SECRET}@{address}",
        "PASSWORD_FILE": SECRET,
    },
    "sentinels": lambda address: {
        "URL": f"redis+sentinel://:{SECRET}@{address}/m",
        "SENTINEL_KWARGS": {"password": SECRET, "username": SECRET, **BOUND},
    },
    "sentinels' password": lambda address: {
        "URL": f"redis+sentinel://{address}/m",
        "SENTINEL_USERNAME": SECRET,
        "SENTINEL_PASSWORD": SECRET,
        "SENTINEL_KWARGS": BOUND,
    },
    "sentinels' URL": lambda address: {
        "URL": f"redis+sentinel://{SECRET}:{SECRET}@{address}/m",
        "SENTINEL_KWARGS": BOUND,
    },
    "cluster": lambda address: {"URL": f"redis+cluster://:{SECRET}@{address}"},
    "TLS": lambda address: {
        "URL": f"rediss://:{SECRET}@{address}",
        "SSL_PASSWORD": SECRET,
    },
    "blocking pool": lambda address: {
        "URL": f"redis://:{SECRET}@{address}",
        "CONNECTION_POOL_CLASS": "redis.BlockingConnectionPool",
    },
    "valkey": lambda address: {
        "URL": f"redis://:{SECRET}@{address}",
        "CLASS": "valkey.Valkey",
    },
}
BOUNDS = {"RETRY_DEADLINE": 0.1, "SOCKET_TIMEOUT": 0.1, "SOCKET_CONNECT_TIMEOUT": 0.1}


def drive(config: dict[str, t.Any], *, fill: bool = False) -> str:
    """Use a failing prefix in every way. Return all logs, errors, output and reprs."""
    app = Flask("secrets", static_folder=None)
    app.config.update(
        {f"REDIS_{name}": value for name, value in (config | BOUNDS).items()}
    )

    with everything_printed() as output:
        manager = RedisManager(app)
        pool: t.Any = None

        with app.app_context():
            if fill:
                pool = current_redis.connection_pool
                held = pool.make_connection()
                pool.get_connection = lambda *args, **kwargs: refuse(held)

            client: t.Any = current_redis

            for use in (
                lambda: client.set("k", "v"),
                lambda: client.pipeline().set("k", "v").execute(),
                lambda: client.lock("l", timeout=1).acquire(),
                lambda: client.pubsub().subscribe("c"),
                lambda: asyncio.run(set_async(manager)),
            ):
                try:
                    use()
                except Exception as error:
                    output.writelines(traceback.format_exception(error))
                    output.write(f"{error!r} {error} {error.args}")
                else:
                    output.write("It did not fail.")

            output.write(f"{current_redis!r} {app.extensions['redis']!r}")
            output.write(f"{manager.ping(timeout=0.1)} {manager.stats()}")
            runner = app.test_cli_runner()

            for command in (
                *("list --all", "list --json", "list REDIS", "list REDIS --json"),
                *("ping", "ping --json", "info"),
            ):
                timeout = [] if "list" in command else ["--timeout", "0.1"]
                result = runner.invoke(args=["redis", *command.split(), *timeout])
                output.write(result.output)

                if result.exception is not None:
                    output.writelines(traceback.format_exception(result.exception))

            if not issubclass(current_redis.__class__, redis.RedisCluster):
                output.write(f"{current_redis.connection!r}")
                output.write(f"{current_redis.connection_pool.connection_kwargs!r}")

    return output.getvalue()


def refuse(connection: object) -> t.NoReturn:
    raise redis.exceptions.MaxConnectionsError("Too many connections")


async def set_async(manager: RedisManager) -> None:
    async with manager.get_async() as client:
        await client.set("k", "v")


@pytest.mark.untraced
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_errors_of_outages(
    place: str,
    start: Starter,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever the password is set, no error of an outage contains it: connection
    refused, unknown host, hung server, wrong password, full pool.
    """
    config = PLACES[place]
    monkeypatch.chdir(tmp_path)
    Path(SECRET).write_text(SECRET)

    with socket.create_server(("127.0.0.1", 0)) as hung:
        port = hung.getsockname()[1]
        outputs = {
            "refused": drive(config("127.0.0.1:1")),
            "unresolved": drive(config("no-such-host.invalid:1")),
            "hung": drive(config(f"127.0.0.1:{port}")),
            "wrong": drive(config(start(Server, password="right").address)),
        }

    if place in ("setting", "blocking pool"):
        outputs["full"] = drive(config(server.address), fill=True)
        assert "'REDIS_MAX_CONNECTIONS'" in outputs["full"]

    for fault, text in outputs.items():
        assert "Error" in text, fault
        assert SECRET not in text, fault


def test_errors_of_a_server(start: Starter) -> None:
    """If a server accepts the password, its later errors do not contain it: out of
    memory, read-only replica.
    """
    full = start(Server, "--maxmemory", "1", password=SECRET)
    replica = start(Server, "--replicaof", *full.address.split(":"), password=SECRET)
    outputs = {
        "OutOfMemoryError": drive({"URL": f"redis://:{SECRET}@{full.address}"}),
        "ReadOnlyError": drive({"URL": f"redis://:{SECRET}@{replica.address}"}),
    }

    for error, text in outputs.items():
        assert error in text
        assert SECRET not in text


def test_errors_of_certificates(tls_server: Server, certificates: Certificates) -> None:
    """The error about an untrusted certificate contains no password."""
    text = drive(
        {
            "URL": f"rediss://:{SECRET}@{tls_server.address}",
            "SSL_PASSWORD": SECRET,
            "SSL_CA_CERTS": str(certificates.other_ca),
        }
    )
    assert "Error" in text
    assert SECRET not in text


def register_by_redis(app: Flask, options: dict[str, t.Any]) -> None:
    redis_of_app = Redis(config_prefix="REDIS")
    redis_of_app.init_app(app, **options)


@pytest.mark.parametrize(
    "register",
    [
        lambda app, options: RedisManager(app, **options),
        lambda app, options: RedisManager(**options).init_app(app),
        lambda app, options: Redis(app, **options),
        register_by_redis,
    ],
)
@pytest.mark.parametrize(
    "config",
    [
        {"URL": f"redis://:{SECRET}@h/x"},
        {"URL": f"redis://:{SECRET}@h", "PORT": "6379", "DB": "x"},
        {"URL": f"redis://:{SECRET}@h:port"},
        {"HOST": "h", "PASSWORD": SECRET, "PORT": "x"},
        {"HOST": "h", "PASSWORD": [SECRET]},
        {"URL": "redis+sentinel://h/m", "SENTINEL_KWARGS": {"pasword": SECRET}},
        {"HOST": "h", "CLASS": "no.such", "PASSWORD": SECRET},
    ],
)
def test_local_variables(
    config: dict[str, t.Any], register: t.Callable[[Flask, dict[str, t.Any]], None]
) -> None:
    """Error trackers record the local variables of each frame of a traceback. None in
    this package holds a setting or an option.
    """
    app = Flask("secrets", static_folder=None)
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})

    with pytest.raises(ConfigError) as info:
        register(app, {"username": SECRET})

    error: BaseException | None = info.value
    assert error is not None and error.__context__ is None and error.__cause__ is None
    checked = 0

    for frame, _ in traceback.walk_tb(error.__traceback__):
        if "flask_and_redis" in frame.f_code.co_filename:
            checked += 1

            for name, value in frame.f_locals.items():
                assert SECRET not in repr(value), name

    assert checked
