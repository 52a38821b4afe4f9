"""The metrics for Prometheus tell what the tests did."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import gc
import types
import typing as t
import weakref
from pathlib import Path

import prometheus_client.values
import pytest
import redis
from flask import Flask
from prometheus_client import CollectorRegistry
from prometheus_client import REGISTRY
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from flask_and_redis import command_finished
from flask_and_redis import ConfigError
from flask_and_redis.contrib import prometheus
from flask_and_redis.contrib.prometheus import RedisMetrics

from .cutter import Cutter
from .servers import Server
from .servers import wait_until
from .test_health import make_manager

N = "flask_and_redis_"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


class Samples:
    """The samples of a registry, or of its text."""

    def __init__(self, source: CollectorRegistry | str) -> None:
        if isinstance(source, str):
            families = text_string_to_metric_families(source)
        else:
            families = source.collect()

        self._samples = [sample for family in families for sample in family.samples]

    def get(self, name: str, **labels: str) -> float | None:
        """The sum of the samples with these labels, or None if there are none."""
        values = [
            sample.value
            for sample in self._samples
            if sample.name == N + name and sample.labels.items() >= labels.items()
        ]
        return sum(values) if values else None

    def values(self, name: str, label: str) -> dict[str, float]:
        """The samples by one of their labels."""
        return {
            sample.labels[label]: sample.value
            for sample in self._samples
            if sample.name == N + name
        }

    def figures(self, **labels: str) -> tuple[float | None, ...]:
        """Whether it is up, the clients, and the connections in use, idle, at most."""
        names = ("in_use", "idle", "max")
        pool = (self.get(f"pool_connections_{name}", **labels) for name in names)
        return (self.get("up", **labels), self.get("clients", **labels), *pool)


def test_commands(app: Flask, server: Server, registry: CollectorRegistry) -> None:
    """Commands, errors and durations are counted. Each command of a pipeline counts,
    but a pipeline has one duration.
    """
    manager = make_manager(app, CACHE_URL=server.url)
    RedisMetrics(app, registry=registry)

    with app.app_context():
        cache: t.Any = manager.get("CACHE")
        cache.set("secret-key", "secret-value")
        cache.get("secret-key")
        cache.get("secret-key")
        cache.config_get("maxmemory")
        cache.pipeline().get("a").get("b").set("c", "d").execute()

        with pytest.raises(redis.ResponseError):
            cache.incr("secret-key")

        with pytest.raises(redis.ResponseError):
            cache.pipeline().incr("secret-key").get("a").execute()

    samples = Samples(registry)
    runs = {"SET": 1, "GET": 2, "CONFIG GET": 1, "pipeline": 2, "INCRBY": 1}
    assert samples.values("commands_total", "command") == {
        **{"SET": 2, "GET": 5, "CONFIG GET": 1, "INCRBY": 2}
    }
    count = "command_duration_seconds_count"
    assert samples.values(count, "command") == runs
    assert samples.values("attempts_total", "command") == runs
    assert samples.values("retries_total", "command") == dict.fromkeys(runs, 0)
    assert samples.values("errors_total", "command") == {"INCRBY": 1, "pipeline": 1}
    assert set(samples.values("errors_total", "error")) == {"ResponseError"}
    assert 0 < (samples.get("command_duration_seconds_sum", command="GET") or 0) < 30
    # Alert rules and dashboards depend on them.
    assert list(samples.values("command_duration_seconds_bucket", "le")) == [
        *("0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05"),
        *("0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "+Inf"),
    ]
    assert samples.get(count, flask_app="tests", prefix="CACHE") == 7


def test_async(app: Flask, server: Server, registry: CollectorRegistry) -> None:
    """Commands of asynchronous clients count as well."""
    RedisMetrics(app, registry=registry)
    manager = make_manager(app, REDIS_URL=server.url)

    async def use() -> None:
        async with manager.get_async() as client:
            await client.set("k", "v")

    with app.app_context():
        asyncio.run(use())

    assert Samples(registry).get("commands_total", command="SET") == 1


def test_pool(app: Flask, server: Server, registry: CollectorRegistry) -> None:
    """The figures of a pool are those of the moment when metrics are collected. The
    metrics may be set up before the manager.
    """
    metrics = RedisMetrics(registry=registry)
    metrics.init_app(app)
    assert Samples(registry).figures() == (None,) * 5
    manager = make_manager(app, REDIS_URL=server.url, REDIS_MAX_CONNECTIONS=7)
    assert Samples(registry).figures() == (1, 0, 0, 0, None)

    with app.app_context():
        pool = manager.get().connection.connection_pool

    held = [pool.get_connection() for _ in range(3)]
    assert Samples(registry).figures() == (1, 1, 3, 0, 7)
    pool.release(held.pop())
    assert Samples(registry).figures() == (1, 1, 2, 1, 7)

    for connection in held:
        pool.release(connection)


def test_outage(
    app: Flask, own_server: Server, registry: CollectorRegistry, cutter: Cutter
) -> None:
    """An outage is shown while it lasts, and is counted. It is not hidden by another
    app of the same name.
    """
    manager = make_manager(
        app,
        REDIS_URL=own_server.url,
        REDIS_RETRY_DEADLINE=0.3,
        OTHER_URL=cutter.url,
    )
    RedisMetrics(app, registry=registry)
    other = Flask(app.name)
    make_manager(other, REDIS_URL=cutter.url)
    RedisMetrics(other, registry=registry)
    redis_labels = {"prefix": "REDIS"}

    with app.app_context():
        client: t.Any = manager.get()
        client.set("k", "v")
        manager.get("OTHER").set("k", "v")
        samples = Samples(registry)
        assert samples.get("up", **redis_labels) == 1
        assert samples.values("outages_total", "prefix") == {"REDIS": 0, "OTHER": 0}
        own_server.stop()

        with pytest.raises(redis.ConnectionError):
            client.set("k", "v")

        samples = Samples(registry)
        assert samples.values("up", "prefix") == {"REDIS": 0, "OTHER": 1}
        assert samples.values("outages_total", "prefix") == {"REDIS": 1, "OTHER": 0}
        assert samples.values("errors_total", "error") == {"ConnectionError": 1}
        assert (samples.get("retries_total", **redis_labels) or 0) > 0
        own_server.start()
        wait_until(lambda: client.set("k", "v"), "the server is back", timeout=30)

    samples = Samples(registry)
    assert samples.values("up", "prefix") == {"REDIS": 1, "OTHER": 1}
    assert samples.values("outages_total", "prefix") == {"REDIS": 1, "OTHER": 0}


def test_retries(app: Flask, cutter: Cutter, registry: CollectorRegistry) -> None:
    """Attempts are counted, and those after the first one."""
    manager = make_manager(app, REDIS_URL=cutter.url)
    RedisMetrics(app, registry=registry)

    with app.app_context():
        client: t.Any = manager.get()
        cutter.lose(b"first", 2)
        client.set("first", "v")
        cutter.lose(b"second", 1)
        client.pipeline().set("second", "v").get("second").execute()

    samples = Samples(registry)
    assert samples.values("attempts_total", "command") == {"SET": 3, "pipeline": 2}
    assert samples.values("retries_total", "command") == {"SET": 2, "pipeline": 1}


def test_made_up_names(app: Flask, server: Server, registry: CollectorRegistry) -> None:
    """An application that makes up names of commands or errors adds a limited number
    of series. Names of another form than those of Redis add none.
    """
    manager = make_manager(app, REDIS_URL=server.url)
    RedisMetrics(app, registry=registry)

    with app.app_context():
        client: t.Any = manager.get()
        client.set("k", "v")

        for name in ("user:7", "x" * 100, "\xe4"):
            with pytest.raises(redis.ResponseError):
                client.execute_command(name)

        assert Samples(registry).values("commands_total", "command") == {
            **{"SET": 1, "other": 3}
        }

        for number in range(300):
            with pytest.raises(redis.ResponseError):
                client.execute_command(f"NAME{number}")

        client.set("k", "v")

    values: dict[str, t.Any] = {"commands": ("PING",), "seconds": 0.1, "tries": 1}

    for number in range(300):
        error = type(f"Error{number}", (Exception,), {})()
        command_finished.send(app, prefix="REDIS", error=error, **values)

    samples = Samples(registry)
    commands = samples.values("commands_total", "command")
    assert len(commands) == 201
    assert commands["SET"] == 2
    # One place is taken by SET, and none is left for PING.
    assert commands["other"] == 3 + 300 - 199 + 300
    assert len(samples.values("errors_total", "error")) == 201


def test_several_apps(server: Server, registry: CollectorRegistry) -> None:
    """Apps in one process can share a registry, with an object each or one for all.
    Each has its own figures, and those of apps with the same name are added.
    """
    metrics = RedisMetrics(registry=registry)
    apps = [Flask(name) for name in ("shop", "shop", "admin")]

    for number, app in enumerate(apps):
        settings: dict[str, t.Any] = {"REDIS_URL": server.url}
        manager = make_manager(app, REDIS_MAX_CONNECTIONS=10, **settings)

        if number:
            RedisMetrics(app, registry=registry)
        else:
            metrics.init_app(app)
            # Once more has no effect.
            metrics.init_app(app)

        with app.app_context():
            manager.get().set("k", "v")

    without_redis = Flask("shop")
    metrics.init_app(without_redis)
    samples = Samples(registry)
    assert samples.get("commands_total", flask_app="shop") == 2
    assert samples.get("commands_total", flask_app="admin") == 1
    assert samples.figures(flask_app="shop") == (1, 2, 0, 2, 20)
    assert samples.figures(flask_app="admin") == (1, 1, 0, 1, 10)


def test_several_registries(
    app: Flask, server: Server, registry: CollectorRegistry
) -> None:
    """An app may be in several registries. The default is that of the library."""
    manager = make_manager(app, REDIS_URL=server.url)
    RedisMetrics(app)
    RedisMetrics(app, registry=registry)

    with app.app_context():
        manager.get().set("k", "v")

    for each in (REGISTRY, registry):
        assert Samples(each).get("commands_total", flask_app="tests") == 1


def test_memory(server: Server) -> None:
    """Metrics live as long as the app or the registry, and keep neither."""
    app = Flask("tests")
    registry = CollectorRegistry()
    manager = make_manager(app, REDIS_URL=server.url)
    RedisMetrics(app, registry=registry)
    gc.collect()

    with app.app_context():
        manager.get().set("k", "v")

    assert Samples(registry).get("commands_total") == 1
    of_app, of_registry = weakref.ref(app), weakref.ref(registry)
    del app, manager
    gc.collect()
    assert of_app() is None
    samples = Samples(registry)
    assert samples.get("commands_total") == 1
    assert samples.get("up") is None
    del registry
    gc.collect()
    assert of_registry() is None


@pytest.fixture
def shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> cabc.Iterator[cabc.Callable[[], CollectorRegistry]]:
    """Turns the multi-process mode on. Reads what processes have written."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    client: t.Any = prometheus_client.values
    # The library chooses it when it is imported.
    monkeypatch.setattr(client, "ValueClass", client.MultiProcessValue())

    def read() -> CollectorRegistry:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry

    yield read
    client.close_all_multiprocess_files()


def test_multi_process_mode(
    app: Flask,
    own_server: Server,
    server: Server,
    registry: CollectorRegistry,
    shared: cabc.Callable[[], CollectorRegistry],
) -> None:
    """All metrics are written for other processes: figures of pools after the commands
    that change them, and outages when they begin and end.
    """
    manager = make_manager(
        app,
        REDIS_URL=own_server.url,
        REDIS_MAX_CONNECTIONS=7,
        NO_LIMIT_URL=server.url,
        NO_LIMIT_MAX_CONNECTIONS=2**31,
        REDIS_RETRY_DEADLINE=0.3,
    )
    RedisMetrics(app, registry=registry)
    assert Samples(shared()).figures(prefix="REDIS") == (None,) * 5

    with app.app_context():
        client: t.Any = manager.get()
        pool = client.connection_pool
        held = pool.get_connection()
        client.get("k")
        assert Samples(shared()).figures(prefix="REDIS") == (1, 1, 1, 1, 7)
        manager.get("NO_LIMIT").get("k")
        figures = Samples(shared()).figures(prefix="NO_LIMIT")
        assert figures == (1, 1, 0, 1, None)
        # It is not in use any more, and the end of the last command shows that.
        pool.release(held)
        client.get("k")
        assert Samples(shared()).figures(prefix="REDIS") == (1, 1, 0, 2, 7)
        # Not at each command, if it is not necessary.
        pool.disconnect()
        client.get("k")

        def is_written() -> bool:
            client.get("k")
            return Samples(shared()).figures(prefix="REDIS") == (1, 1, 0, 1, 7)

        wait_until(is_written, "the figures are written")
        own_server.stop()

        with pytest.raises(redis.ConnectionError):
            client.get("k")

        assert Samples(shared()).get("up", prefix="REDIS") == 0
        assert Samples(shared()).get("outages_total", prefix="REDIS") == 1
        own_server.start()
        wait_until(lambda: client.get("k") is None, "it is back", timeout=30)
        assert Samples(shared()).get("up", prefix="REDIS") == 1

    # The registry itself has the figures of this process.
    assert Samples(registry).get("up", prefix="REDIS") == 1


def test_times_of_writing(
    app: Flask,
    own_server: Server,
    registry: CollectorRegistry,
    shared: cabc.Callable[[], CollectorRegistry],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the multi-process mode, commands write the figures every 0.1 s. They write
    them at once in a fork, and if connections were in use. So do outages.
    """
    manager = make_manager(app, REDIS_URL=own_server.url, REDIS_RETRY_DEADLINE=0.3)
    # Another app of the same name, which uses no connections.
    other = Flask(app.name)
    make_manager(other, REDIS_URL=own_server.url)

    for each in (app, other):
        RedisMetrics(each, registry=registry)

    now, process = [0.0], [1]
    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    system = types.SimpleNamespace(getpid=lambda: process[0])
    monkeypatch.setattr(prometheus, "time", clock)
    monkeypatch.setattr(prometheus, "os", system)

    with app.app_context():
        client: t.Any = manager.get()
        pool = client.connection_pool

        def written(name: str) -> float | None:
            return Samples(shared()).get(name)

        def connect(count: int) -> None:
            """Let the pool have so many idle connections."""
            for connection in [pool.get_connection() for _ in range(count)]:
                pool.release(connection)

        client.get("k")
        assert written("pool_connections_idle") == 1
        connect(2)
        client.get("k")
        assert written("pool_connections_idle") == 1
        now[0] = 0.1
        client.get("k")
        assert written("pool_connections_idle") == 2

        connect(3)
        process[0] = 2
        client.get("k")
        assert written("pool_connections_idle") == 3

        now[0] = 0.2
        held = pool.get_connection()
        client.get("k")
        assert written("pool_connections_in_use") == 1
        pool.release(held)
        client.get("k")
        assert written("pool_connections_in_use") == 0

        own_server.stop()

        with pytest.raises(redis.ConnectionError):
            client.get("k")

        assert written("up") == 0
        own_server.start()
        wait_until(lambda: client.get("k") is None, "it is back", timeout=30)
        assert written("up") == 1


def test_dropped_registry(
    app: Flask, server: Server, shared: cabc.Callable[[], CollectorRegistry]
) -> None:
    """In the multi-process mode, nobody needs to keep the registry."""
    manager = make_manager(app, REDIS_URL=server.url)
    RedisMetrics(app, registry=CollectorRegistry())
    gc.collect()

    with app.app_context():
        manager.get().set("k", "v")

    assert Samples(shared()).get("commands_total") == 1


@pytest.mark.parametrize("directory", ["missing", "", "file"])
def test_directory(
    directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the directory of the multi-process mode, the app does not start."""
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", directory)

    with pytest.raises(ConfigError, match="'PROMETHEUS_MULTIPROC_DIR' must be an"):
        RedisMetrics()
