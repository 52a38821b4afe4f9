"""What ``flask redis info`` makes of what servers say of themselves."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

import pytest
import redis
from flask import Flask

from flask_and_redis import RedisManager
from flask_and_redis.operate import report
from flask_and_redis.operate.health import Answer
from flask_and_redis.registry import Registry
from flask_and_redis.spec.spec import Spec

LARGEST = 2**63 - 1

# What a busy server says.
INFO = {
    "redis_version": "8.0.2",
    "role": "master",
    "connected_slaves": 2,
    "uptime_in_seconds": 86399,
    "used_memory": 2048,
    "maxmemory": 4096,
    "maxmemory_policy": "allkeys-lru",
    "connected_clients": 3,
    "maxclients": 10,
    "blocked_clients": 1,
    "keyspace_hits": 1,
    "keyspace_misses": 3,
    "db0": {"keys": 5, "expires": 1},
}


def make_app(**config: t.Any) -> Flask:
    app = Flask("tests")
    app.config.update(config)
    RedisManager(app)
    return app


def registry_of(**config: t.Any) -> Registry:
    registry: Registry = make_app(**config).extensions["redis"]
    return registry


def spec_of(**config: t.Any) -> Spec:
    """The spec of the only prefix in these settings."""
    registry = registry_of(**config)
    (prefix,) = registry
    return registry.get_spec(prefix)


@pytest.mark.parametrize("name", ["used_memory", "db0"])
@pytest.mark.parametrize(
    ("number", "is_valid"),
    [
        *((0, True), (1, True), (LARGEST, True), (LARGEST + 1, False)),
        *((-1, False), (1.5, False), (True, False), ("1", False), (None, False)),
    ],
)
def test_numbers(name: str, number: object, is_valid: bool) -> None:
    """Numbers that make no sense are left out."""
    value = {"keys": number, "expires": 0} if name == "db0" else number
    read: t.Any = report.read_info({name: value})

    if name == "db0":
        assert read == {"db0": {**({"keys": number} if is_valid else {}), "expires": 0}}
    else:
        assert read == ({name: number} if is_valid else {})


def test_texts() -> None:
    """Texts are cut. Fields of other names, and other values, are left out."""
    info = {
        "redis_version": 7.4,
        "role": "x" * 101,
        "address": "x" * 100,
        "maxmemory_policy": ["lru"],
        "db1": "keys=1",
        "db1234567890": {"keys": 1},
        "dbsize": {"keys": 1},
        "mode": "standalone",
    }
    kept = {"redis_version": "7.4", "role": "x" * 100, "address": "x" * 100}
    assert report.read_info(info) == kept
    assert report.read_info("PONG") == {}


@pytest.mark.parametrize(
    ("info", "facts"),
    [
        (
            INFO,
            {
                "server": "Redis 8.0.2, up 23 h 59 min",
                "role": "master of 2 replicas",
                "memory": "2.0 KiB of 4.0 KiB, policy allkeys-lru",
                "clients": "3 connected of at most 10, 1 blocked",
                "keys": "db0: 5, 1 expiring; db2 (this one): 0",
                "hit rate": "25.0 % of 4 reads",
            },
        ),
        (
            {
                "address": "db.example:6379",
                "valkey_version": "8.1.0",
                "redis_version": "7.2.4",
                "uptime_in_seconds": 180_000,
                "role": "slave",
                "master_host": "::1",
                "master_port": 6380,
                "master_link_status": "up",
                "used_memory": 0,
                "maxmemory": 0,
                "maxmemory_policy": "noeviction",
                "connected_clients": 1,
                "blocked_clients": 0,
                "keyspace_misses": 1,
                "db10": {"keys": 3},
                "db2": {"keys": 2, "expires": 0},
            },
            {
                "address": "db.example:6379",
                "server": "Valkey 8.1.0, up 2 d 2 h",
                "role": "replica of [::1]:6380, link up",
                "memory": "0.0 B without limit, policy noeviction",
                "clients": "1 connected",
                "keys": "db2 (this one): 2; db10: 3",
                "hit rate": "0.0 % of 1 reads",
            },
        ),
        (
            {"role": "slave", "keyspace_hits": 2, "db2": {"expires": 1}},
            {
                "server": "Redis ?, up ?",
                "role": "replica of ?:0, link ?",
                "memory": "?, policy ?",
                "clients": "? connected",
                "keys": "db2 (this one): 0, 1 expiring",
                "hit rate": "100.0 % of 2 reads",
            },
        ),
        (
            {"role": "master", "keyspace_hits": 0},
            {
                "server": "Redis ?, up ?",
                "role": "master of 0 replicas",
                "memory": "?, policy ?",
                "clients": "? connected",
                "keys": "db2 (this one): 0",
                "hit rate": "no reads",
            },
        ),
        (
            {},
            {
                "server": "Redis ?, up ?",
                "role": "?",
                "memory": "?, policy ?",
                "clients": "? connected",
                "keys": "db2 (this one): 0",
                "hit rate": "?",
            },
        ),
    ],
    ids=["busy", "replica", "few", "unused", "none"],
)
def test_facts(info: dict[str, t.Any], facts: dict[str, str]) -> None:
    """What a server does not say is unknown, or 0 where servers leave zeros out."""
    spec = spec_of(REDIS_URL="redis://h/2")
    assert report._list_facts(spec, info) == [list(fact) for fact in facts.items()]


def test_database_of_a_pool() -> None:
    """A pool without a database uses the first one."""
    pool = redis.ConnectionPool(host="h", db=t.cast(t.Any, None))
    facts = dict(report._list_facts(spec_of(REDIS_CONNECTION_POOL=pool), {}))
    assert facts["keys"] == "db0 (this one): 0"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min")),
        *((3600, "1 h 0 min"), (86399, "23 h 59 min"), (86400, "1 d 0 h")),
    ],
)
def test_durations(seconds: int, text: str) -> None:
    """The two largest units are shown."""
    assert report._duration({"uptime_in_seconds": seconds}) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((1023, "1023.0 B"), (1024, "1.0 KiB"), (2**20, "1.0 MiB")),
        *((2**30, "1.0 GiB"), (5 * 2**40, "5120.0 GiB")),
    ],
)
def test_sizes(count: int, text: str) -> None:
    """The largest unit of which there is at least one is shown."""
    assert report._size(count) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 replicas"), (1, "1 replica"), (2, "2 replicas")]
)
def test_replicas(count: int, text: str) -> None:
    info: t.Any = {"role": "master", "connected_slaves": count}
    assert report._role(info) == f"master of {text}"


EVICTS = "looks like a cache, but its server evicts nothing"
NO_LIMIT = {"maxmemory": 0, "maxmemory_policy": "allkeys-lru"}
CLUSTER = {"URL": "redis+cluster://h"}


@pytest.mark.parametrize(
    ("prefix", "config", "info", "texts"),
    [
        ("PAGE_CACHE", {}, {**INFO, **NO_LIMIT}, [EVICTS, "its memory has no limit"]),
        (
            "CACHE",
            {},
            {**INFO, "maxmemory_policy": "noeviction"},
            [EVICTS, "its policy is noeviction"],
        ),
        ("CACHE", {}, {**INFO, "maxmemory": 1}, []),
        ("REDIS", {}, {**INFO, **NO_LIMIT}, []),
        # It does not say whether it has a limit.
        ("CACHE", {}, {"maxmemory_policy": "allkeys-lru"}, []),
        ("CACHE", {}, {}, []),
        ("REDIS", {}, {"cluster_enabled": 1}, ["a single node of a cluster"]),
        ("REDIS", {}, {"cluster_enabled": 0}, []),
        ("REDIS", CLUSTER, {"cluster_enabled": 1}, []),
        ("REDIS", {}, {"role": "slave", "master_link_status": "up"}, []),
        (
            "REDIS",
            {},
            {"role": "slave", "master_link_status": "down"},
            ["no link to its master"],
        ),
        # It does not say whether it has a link.
        ("REDIS", {}, {"role": "slave"}, []),
        ("REDIS", {}, {"role": "master", "master_link_status": "down"}, []),
        ("REDIS", {}, {"redis_version": "7.1.9"}, ["Redis 7.1.9 is older than 7.2, "]),
        ("REDIS", {}, {"redis_version": "7.2.0"}, []),
        ("REDIS", {}, {"redis_version": "10.0"}, []),
        ("REDIS", {}, {"redis_version": "unstable"}, []),
        ("REDIS", {"CLASS": "valkey.Valkey"}, {"redis_version": "6.2.0"}, []),
    ],
)
def test_warnings(
    prefix: str, config: dict[str, str], info: dict[str, t.Any], texts: list[str]
) -> None:
    """What is probably a mistake causes a warning."""
    settings = {"URL": "redis://h", **config}
    spec = spec_of(**{f"{prefix}_{name}": value for name, value in settings.items()})
    warnings = list(report._warn(spec, info))
    assert len(warnings) == bool(texts)
    assert all(text in "".join(warnings) for text in texts)


def test_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node has a line or an error, and each warning is there once."""
    refused = redis.ConnectionError("Connection refused.")
    unlinked = {"role": "slave", "master_link_status": "down"}
    answers = {
        "a:1": Answer[t.Any](1.0, error=refused),
        "a:2": Answer[t.Any](1.0, INFO),
        "a:3": Answer[t.Any](1.0, unlinked),
        "a:4": Answer[t.Any](1.0, unlinked),
        "a:5": Answer[t.Any](1.0, {}),
    }
    monkeypatch.setattr(report, "ask", lambda questions, timeout: answers)
    registry = registry_of(REDIS_URL="redis+cluster://a:1")
    spec = registry.get_spec("REDIS")
    made = report._report_nodes(registry, spec, dict.fromkeys(answers, spec), 1.0)
    text = "23 h 59 min, 2.0 KiB of 4.0 KiB, allkeys-lru, 3, 5, 25.0 %"
    few = "replica, Redis ?, ?, ?, ?, ?, 0, -"
    assert made.has_header
    assert [", ".join(row) for row in made.facts[1:]] == [
        f"a:2, master, Redis 8.0.2, {text}",
        f"a:3, {few}",
        f"a:4, {few}",
        "a:5, ?, Redis ?, ?, ?, ?, ?, 0, -",
    ]
    assert list(made.nodes) == ["a:2", "a:3", "a:4", "a:5"]
    assert made.nodes["a:2"] == INFO
    assert made.errors == ["a:1: Connection refused."]
    assert len(made.warnings) == 1
    assert "no link to its master" in made.warnings[0]


OUTPUT = """\
CACHE  redis  h:6379
  server    Redis 8.0.2, up 1 min
  role      replica of ?:0, link down
  memory    ?, policy ?
  clients   ? connected
  keys      db0 (this one): 0
  hit rate  ?
  warning   A replica of CACHE has no link to its master, so its data may be old.

CARTS  redis+cluster  a:6379
  node  role    server       up   memory  policy  clients  keys  hits
  a:1   master  Redis 8.0.2  5 s  ?       ?       ?        0     -
  error  a:2: refused

DOWN  redis  h:6379
  error  refused

EMPTY  redis+cluster  a:6379
  node  role  server  up  memory  policy  clients  keys  hits
  error  The cluster returned no nodes.

FAKE  fakeredis  this process
  server  fakeredis, inside each process of the app. It has no INFO.
"""


def test_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Facts are aligned with warnings and errors, and the table of nodes is not."""
    version, refused = {"redis_version": "8.0.2"}, redis.ConnectionError("refused")
    node, master = {"flags": "master"}, {"uptime_in_seconds": 5, "role": "master"}
    replica = {"role": "slave", "master_link_status": "down", "uptime_in_seconds": 60}
    answers = {
        "CACHE": Answer[t.Any](1.0, {**version, **replica}),
        "CARTS": Answer[t.Any](1.0, {"a:1": node, "a:2": node}),
        "a:1": Answer[t.Any](1.0, {**version, **master}),
        "a:2": Answer[t.Any](1.0, error=refused),
        "DOWN": Answer[t.Any](1.0, error=refused),
        "EMPTY": Answer[t.Any](1.0, {}),
    }

    def ask(questions: cabc.Iterable[str], timeout: float) -> dict[str, Answer[t.Any]]:
        return {name: answers[name] for name in questions}

    monkeypatch.setattr(report, "ask", ask)
    app = make_app(
        CACHE_URL="redis://h",
        CARTS_URL="redis+cluster://a",
        DOWN_URL="redis://h",
        EMPTY_URL="redis+cluster://a",
        FAKE_URL="fakeredis://",
    )
    result = app.test_cli_runner().invoke(args=["redis", "info"])
    assert (result.output, result.exit_code) == (OUTPUT, 1)


def test_wrong_timeout() -> None:
    """No server is asked if the timeout makes no sense."""
    registry = registry_of(REDIS_URL="redis://127.0.0.1:1")

    with pytest.raises(ValueError, match="seconds above 0"):
        report.report(registry, ["REDIS"], 0)
