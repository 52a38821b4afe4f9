"""The documentation is correct: its tables match the code, and its examples run
unchanged.
"""

from __future__ import annotations

import collections.abc as cabc
import inspect
import logging
import sys
import types
import typing as t
import warnings
from pathlib import Path

import pytest
import redis
import redis.cache
import redis.event
from flask import Flask
from redis.cluster import ClusterNode

from flask_and_redis import ConfigError
from flask_and_redis import RedisManager
from flask_and_redis import UnknownPrefixError
from flask_and_redis.engines import find_engine
from flask_and_redis.settings.reader import OLD_NAMES
from flask_and_redis.settings.reader import read_group
from flask_and_redis.spec.values import describe
from flask_and_redis.spec.values import types_of

from .pages import literals
from .pages import table
from .servers import Certificates
from .servers import Cluster

GROUPS = (
    *("address", "login", "waiting", "pool", "replies", "tls", "cluster"),
    "objects",
)
ROWS = [{"group": group, **row} for group in GROUPS for row in table(group)]
SETTINGS = {literals(row["setting"])[0]: row for row in ROWS}

# Settings that are not arguments of a client.
OURS = {"URL", "CLASS", "CONNECTION_POOL_CLASS"}


def accepted(
    client_class: type, pool_class: type | None = None
) -> cabc.Mapping[str, inspect.Parameter]:
    """The arguments that can be set with a client class."""
    return find_engine(None, client_class).accepted(client_class, pool_class)


STANDALONE = accepted(redis.Redis, redis.BlockingConnectionPool)
ACCEPTED = {**accepted(redis.RedisCluster), **STANDALONE}

# Arguments of a pool class that are not settings: the pool sets them itself.
OF_POOL = {"queue_class", "cache_factory"}


def base_of(name: str) -> dict[str, t.Any]:
    """The other settings that a setting requires, in lower case."""
    if SETTINGS[name]["group"] == "address":
        return {"host": "localhost"} if name in ("PORT", "DB", "CLASS") else {}

    if name.startswith("SENTINEL_"):
        return {"url": "redis+sentinel://localhost/mymaster"}

    if name == "TIMEOUT":
        return {
            "url": "redis://localhost",
            "connection_pool_class": redis.BlockingConnectionPool,
        }

    if name == "SSL":
        return {"host": "localhost"}

    if name.startswith("SSL_"):
        return {"url": "rediss://localhost"}

    if name in ("CACHE", "CACHE_CONFIG"):
        return {"url": "redis://localhost", "protocol": 3}

    if name in OURS or name.lower() in STANDALONE:
        return {"url": "redis://localhost"}

    return {"url": "redis+cluster://localhost"}


def is_later(row: dict[str, str]) -> bool:
    """Whether a setting needs a newer redis-py than the installed one."""
    _, separator, version = row["meaning"].partition("From redis-py ")
    return bool(separator) and redis.VERSION[0] < int(version)


def test_every_setting_is_documented() -> None:
    """The tables list every argument of redis-py's clients and nothing else. If the
    installed redis-py lacks an argument, its row names the version that has it.
    """
    documented = set(SETTINGS)
    assert len(documented) == len(ROWS)
    existing = {name.upper() for name in ACCEPTED if name not in OF_POOL} | OURS
    assert existing - documented == set()
    missing = documented - existing
    assert {name for name in missing if not is_later(SETTINGS[name])} == set()


def test_common_settings() -> None:
    """The first table has the ten most used settings, with the same defaults and
    examples as the complete tables.
    """
    rows = table("common")
    assert len(rows) == 10

    for row in rows:
        complete = SETTINGS[literals(row["setting"])[0]]
        assert row["default"] == complete["default"]
        assert row["example"] == complete["example"]


def test_old_names_are_documented() -> None:
    """The row of each setting also documents its old name."""
    for old, new in OLD_NAMES.items():
        assert f"``{old.upper()}`` is the same" in SETTINGS[new.upper()]["meaning"]


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in OURS])
def test_type_and_unit(name: str) -> None:
    """The documented type matches the signature, and the units seconds and bytes are
    documented.
    """
    if is_later(SETTINGS[name]):
        pytest.skip("No argument of this redis-py.")

    documented = SETTINGS[name]["type and unit"]
    described = describe(types_of(ACCEPTED[name.lower()]))
    simple = {
        "true or false": "true or false",
        "a whole number": "whole number",
        "a number": "number",
    }

    if described in simple:
        assert documented.split(",")[0] == simple[described]

    # The error for an invalid value names the unit.
    wrong = dict.fromkeys(base_of(name)) | base_of(name) | {name.lower(): "-1 x"}

    try:
        read_group("X", wrong, {}, warnings.warn)
    except ConfigError as error:
        for unit in ("seconds", "bytes"):
            if unit in str(error):
                assert documented.endswith(f", {unit}")


@pytest.mark.skipif(redis.VERSION[0] < 8, reason="Older ones have other defaults.")
@pytest.mark.parametrize("name", SETTINGS)
def test_default(name: str) -> None:
    """The documented default is the value that the client gets."""
    documented = SETTINGS[name]["default"]
    settings = read_group("X", {"host": "localhost"} | base_of(name), {}, warnings.warn)

    if name == "CLASS":
        assert documented == f"``{settings.client_class.__module__[:5]}.Redis``"
    elif name == "RETRY_DEADLINE":
        assert documented == f"``{settings.deadline:g}``"
    elif name == "MAX_IDLE":
        assert documented == f"``{settings.max_idle:g}``"
    elif name == "MAINT_NOTIFICATIONS":
        config = settings.arguments["maint_notifications_config"]
        assert documented == f"``{str(config.enabled).lower()}``"
    elif name == "TIMEOUT":
        # This default is added when the client is created.
        app = Flask("timeouts")
        app.config.update(
            {f"X_{key.upper()}": base for key, base in base_of(name).items()}
        )
        app.config["X_RETRY_DEADLINE"] = 3
        RedisManager(app)
        assert documented == "``RETRY_DEADLINE``"
        assert app.extensions["redis"]["X"].connection_pool.timeout == 3
    elif name not in OURS and not documented.startswith("redis-py's"):
        default = ACCEPTED[name.lower()].default
        value = settings.arguments.get(name.lower(), default)

        if name == "HOST":
            # This test itself sets the host.
            value = default

        if isinstance(value, (bool, int, float, str)):
            text = str(value).lower() if isinstance(value, bool) else f"{value}"
            assert documented == f"``{text.removesuffix('.0')}``"
        else:
            assert value is None or type(value) is object or value is inspect._empty
            assert documented == "not set"


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The application that the dotted paths in the examples refer to."""
    extensions = types.ModuleType("shop.extensions")
    extensions.pool = redis.ConnectionPool()  # type: ignore[attr-defined]
    passwords = types.ModuleType("shop.passwords")

    class Provider(redis.CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            return ("shop", "s3cret")

    passwords.Provider = Provider  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop", types.ModuleType("shop"))
    monkeypatch.setitem(sys.modules, "shop.extensions", extensions)
    monkeypatch.setitem(sys.modules, "shop.passwords", passwords)


@pytest.fixture
def files(certificates: Certificates, tmp_path: Path) -> dict[str, str]:
    """Values in place of examples with files, which do not exist."""
    (tmp_path / "password").write_text("s3cret\n")
    return {
        "PASSWORD_FILE": str(tmp_path / "password"),
        "SSL_CA_CERTS": str(certificates.ca),
        "SSL_CA_PATH": str(tmp_path),
        "SSL_CA_DATA": certificates.ca.read_text(),
        "SSL_CERTFILE": str(certificates.client_cert),
        "SSL_KEYFILE": str(certificates.client_key),
    }


@pytest.mark.usefixtures("shop", "ocsp_packages")
@pytest.mark.parametrize("name", SETTINGS)
def test_example(
    name: str, app: Flask, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]
) -> None:
    """Each example is read from the environment and reaches the client. Examples of
    objects are Python code.
    """
    row = SETTINGS[name]

    if is_later(row):
        pytest.skip("No argument of this redis-py.")

    example = literals(row["example"])[0]
    app.config.update(
        {f"X_{key.upper()}": value for key, value in base_of(name).items()}
    )

    if name in ("SSL_CERTFILE", "SSL_KEYFILE", "SSL_VALIDATE_OCSP_STAPLED"):
        # They need each other.
        for each in ("SSL_CERTFILE", "SSL_KEYFILE"):
            app.config[f"X_{each}"] = files[each]

    if row["group"] == "objects":
        namespace = {"redis": redis, "ClusterNode": ClusterNode}
        app.config[f"X_{name}"] = eval(example, namespace)
    else:
        monkeypatch.setenv(f"FLASK_X_{name}", files.get(name, example))
        app.config.from_prefixed_env()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        RedisManager(app)

    assert [
        str(warning.message)
        for warning in caught
        if "not safe" not in str(warning.message)
    ] == []
    settings = app.extensions["redis"].get_spec("X")
    # Settings that do not become a client argument of the same name.
    reached = {
        "URL": settings.arguments.get("host"),
        "CLASS": settings.client_class.__module__.startswith("valkey"),
        "CONNECTION_POOL_CLASS": settings.pool_class,
        "RETRY_DEADLINE": settings.deadline != 5,
        "RETRY": settings.retries == 0,
        "MAX_IDLE": settings.max_idle == 60,
        "MAINT_NOTIFICATIONS": (
            "maint_notifications_config" not in settings.arguments
            or settings.arguments["maint_notifications_config"].enabled == "auto"
        ),
        "PASSWORD_FILE": "credential_provider" in settings.arguments,
        "OPTIONAL": settings.optional,
        "SENTINEL_USERNAME": "username" in settings.sentinel_arguments,
        "SENTINEL_PASSWORD": "password" in settings.sentinel_arguments,
        "SENTINEL_KWARGS": settings.sentinel_arguments.get("socket_timeout") == 0.5,
        "STARTUP_NODES": settings.engine.describe_address(settings),
    }
    assert example == "None" or reached.get(name, name.lower() in settings.arguments)


def test_several_keys_of_a_cluster(app: Flask, cluster: Cluster) -> None:
    """What the page about engines says about slots."""
    app.config["REDIS_URL"] = f"redis+cluster://{cluster.address}"
    manager = RedisManager(app)
    together = ("{user:1}:name", "{user:1}:mail")

    with app.app_context():
        client: t.Any = manager.get()
        assert client.mset(dict.fromkeys(together, "v"))
        assert client.mget(together) == [b"v", b"v"]

        with pytest.raises(redis.exceptions.RedisClusterException):
            client.mget(["a", "b"])

        assert client.pipeline().set("a", 1).set("b", 2).execute() == [True, True]

        for keys in (("a", "b"), together):
            with client.pipeline(transaction=True) as pipe:
                for key in keys:
                    pipe.get(key)

                if keys == together:
                    assert pipe.execute() == [b"v", b"v"]
                else:
                    with pytest.raises(redis.exceptions.CrossSlotTransactionError):
                        pipe.execute()


@pytest.mark.parametrize("row", table("discovery"), ids=lambda row: row["settings"])
def test_discovery(
    row: dict[str, str], app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    """The table of prefixes documents the correct outcome for its example settings."""
    manager = RedisManager()

    for setting in literals(row["settings"]):
        name, value = setting.split(" = ")
        app.config[name] = eval(value, {"redis": redis, "manager": RedisManager()})

    outcome, _, prefixes = row["outcome"].partition(": ")

    if outcome == "error at start-up":
        with pytest.raises(ConfigError):
            manager.init_app(app)

        return

    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No setting configures a Redis")
        manager.init_app(app)

    assert list(app.extensions["redis"]) == (prefixes.split(", ") if prefixes else [])
    assert bool(caplog.records) == (outcome == "error at first use")
    prefix = literals(row["settings"].upper())[0].split("_HOST")[0].split("_URL")[0]

    with app.app_context():
        if outcome == "skipped":
            assert list(app.extensions["redis"].skipped) == [prefix]

            with pytest.raises(UnknownPrefixError, match=f"'{prefix}' (was|must) "):
                manager.get(prefix)
        elif outcome == "no address":
            assert not app.extensions["redis"].skipped

            with pytest.raises(UnknownPrefixError):
                manager.get("CACHE")
        elif outcome == "error at first use":
            with pytest.raises(ConfigError):
                manager.get(prefix).get("k")
        else:
            assert outcome == "found"
