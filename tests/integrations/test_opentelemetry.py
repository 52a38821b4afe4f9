"""Traces and redis-py's own metrics with the real OpenTelemetry."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import gc
import importlib
import json
import typing as t
from pathlib import Path

import pytest
import redis
from ephemeral_port_reserve import reserve
from flask import Flask

from flask_and_redis import command_finished
from flask_and_redis import RedisManager

from ..conftest import Starter
from ..objects import deadline_of
from ..objects import take_down
from ..scripted import Scripted
from ..servers import Cluster
from ..servers import Sentinels
from ..servers import Server
from ..test_messages import Echo
from ..test_messages import SECRET
from .commands import use
from .commands import use_async
from .pages import file_of
from .pages import need

need("opentelemetry")

from opentelemetry import metrics  # noqa: E402
from opentelemetry import trace  # noqa: E402
from opentelemetry.instrumentation.redis import RedisInstrumentor  # noqa: E402
from opentelemetry.sdk.metrics import MeterProvider  # noqa: E402
from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: E402
from opentelemetry.sdk.trace import ReadableSpan  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import in_memory_span_exporter  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402

LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"


class Spans:
    """The spans that have ended since they were last taken."""

    def __init__(self) -> None:
        self._exporter = in_memory_span_exporter.InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        # It can be set only once.
        trace.set_tracer_provider(provider)

    def take(self) -> tuple[ReadableSpan, ...]:
        spans = self._exporter.get_finished_spans()
        self._exporter.clear()
        return spans

    def names(self) -> list[str]:
        return [span.name for span in self.take()]

    def results(self) -> list[tuple[str, bool]]:
        """The name of each span, and whether it ended without an error."""
        return [(span.name, span.status.is_unset) for span in self.take()]


@pytest.fixture(scope="module")
def _spans() -> Spans:
    return Spans()


@pytest.fixture
def spans(_spans: Spans) -> cabc.Iterator[Spans]:
    _spans.take()
    yield _spans
    RedisInstrumentor().uninstrument()


@pytest.fixture
def traced(spans: Spans) -> Spans:
    """The spans, with tracing enabled."""
    RedisInstrumentor().instrument()
    return spans


# The cluster's pipelines read keys that they watch in another way.
SYNC = {
    "REDIS": ["SET", "SET GET", "WATCH", "GET", "SET", "EVAL"],
    "CLUSTER": ["SET", "SET GET", "SET", "EVAL"],
}


@pytest.mark.parametrize("prefix", SYNC)
@pytest.mark.parametrize("when", ["before", "after"])
def test_spans(
    app: Flask, server: Server, cluster: Cluster, spans: Spans, prefix: str, when: str
) -> None:
    """Each command and each pipeline has one span, whether tracing was enabled before
    or after the first use of the client. Tracing can be disabled again.
    """
    app.config["REDIS_URL"] = server.url
    app.config["CLUSTER_URL"] = f"redis+cluster://{cluster.address}"
    manager = RedisManager(app)

    with app.app_context():
        if when == "after":
            use(manager, prefix)
            asyncio.run(use_async(manager, prefix))
            assert spans.take() == ()

        RedisInstrumentor().instrument()
        use(manager, prefix)
        names = spans.names()

        if when == "before" and prefix == "CLUSTER":
            # The clients of its nodes read the slots.
            names = [name for name in names if name not in ("CLUSTER SLOTS", "COMMAND")]

        assert names == SYNC[prefix]
        asyncio.run(use_async(manager, prefix))
        names = spans.names()
        assert [name for name in names if name[:3] == "SET"] == ["SET", "SET GET"]
        RedisInstrumentor().uninstrument()
        use(manager, prefix)
        asyncio.run(use_async(manager, prefix))
        assert spans.take() == ()


def test_one_client(app: Flask, server: Server, spans: Spans) -> None:
    """Tracing may be enabled for the client of one prefix, by the proxy too."""
    app.config.update(REDIS_URL=server.url, TASKS_URL=server.url)
    manager = RedisManager(app)

    with app.app_context():
        client = manager.get()
        RedisInstrumentor.instrument_client(client)
        use(manager, "REDIS")
        assert spans.names() == SYNC["REDIS"]
        use(manager, "TASKS")
        assert spans.take() == ()
        RedisInstrumentor.uninstrument_client(client)
        use(manager, "REDIS")
        assert spans.take() == ()


def test_retries(app: Flask, scripted: Scripted, traced: Spans) -> None:
    """Each attempt has a span. Its parent is the application's own span."""
    app.config["REDIS_URL"] = scripted.url
    manager = RedisManager(app)
    tries: list[int] = []

    def count(app: Flask, **values: t.Any) -> None:
        tries.append(values["tries"])

    tracer = trace.get_tracer("tests")

    with app.app_context(), command_finished.connected_to(count):
        with tracer.start_as_current_span("view") as view:
            scripted.plan(b"GET", LOADING, LOADING)
            manager.get().get("k")
            scripted.plan(b"GET", LOADING)
            pipeline: t.Any = manager.get().pipeline(transaction=False)
            pipeline.get("a").get("b").execute()

    assert tries == [3, 2]
    *children, _ = finished = traced.take()
    assert [(span.name, span.status.is_unset) for span in finished] == [
        *(("GET", False), ("GET", False), ("GET", True)),
        *(("GET GET", False), ("GET GET", True)),
        ("view", True),
    ]

    for span in children:
        assert span.parent is not None
        assert span.parent.span_id == view.get_span_context().span_id


def test_retries_of_one_client(app: Flask, scripted: Scripted, spans: Spans) -> None:
    """If tracing is enabled for a client, one span covers all attempts."""
    app.config["REDIS_URL"] = scripted.url
    client = RedisManager(app).get()

    with app.app_context():
        RedisInstrumentor.instrument_client(client)
        scripted.plan(b"GET", LOADING, LOADING)
        client.get("k")

    assert spans.results() == [("GET", True)]


def test_retries_in_asyncio(app: Flask, scripted: Scripted, traced: Spans) -> None:
    app.config["REDIS_URL"] = scripted.url
    manager = RedisManager(app)

    async def main() -> None:
        async with manager.get_async() as client:
            scripted.plan(b"GET", LOADING)
            await client.get("k")
            scripted.plan(b"GET", LOADING)
            pipeline: t.Any = client.pipeline(transaction=False)
            await pipeline.get("a").get("b").execute()

    with app.app_context():
        asyncio.run(main())

    assert traced.results() == [
        *(("GET", False), ("GET", True)),
        *(("GET GET", False), ("GET GET", True)),
    ]


def test_down(app: Flask, traced: Spans) -> None:
    """A command that is not sent because the prefix is down has no span."""
    app.config["REDIS_URL"] = f"redis://127.0.0.1:{reserve('127.0.0.1')}"
    manager = RedisManager(app)

    with app.app_context():
        take_down(deadline_of(app.extensions["redis"]["REDIS"]))

        with pytest.raises(redis.TimeoutError, match="down"):
            manager.get().get("k")

    assert traced.take() == ()


def test_no_secrets(app: Flask, start: Starter, traced: Spans) -> None:
    """No span has a password: not in its attributes, and not in its errors, which
    OpenTelemetry records before the caller receives them.
    """
    locked = start(Server, password=SECRET)

    with Echo() as echo:
        address = f"127.0.0.1:{echo.server_address[1]}"
        app.config.update(
            GOOD_URL=f"redis://:{SECRET}@{locked.address}",
            WRONG_URL=f"redis://:{SECRET}-2@{locked.address}",
            # They repeat the arguments of HELLO and AUTH.
            ECHO_URL=f"redis://:{SECRET}@{address}",
            ECHO2_URL=f"redis://:{SECRET}@{address}?protocol=2",
            WATCHED_URL=f"redis+sentinel://{address}/mymaster",
            WATCHED_SENTINEL_PASSWORD=SECRET,
            WATCHED_RETRY_DEADLINE=0,
        )
        manager = RedisManager(app)

        async def use_async(prefix: str) -> None:
            async with manager.get_async(prefix) as client:
                with pytest.raises(redis.RedisError):
                    await client.get("k")

        with app.app_context():
            good: t.Any = manager.get("GOOD")
            good.set("k", SECRET)
            good.config_set("requirepass", SECRET)

            for transaction in (False, True):
                pipeline = good.pipeline(transaction=transaction)

                with pytest.raises(redis.RedisError):
                    pipeline.config_set("maxmemory", SECRET).execute()

            for prefix in ("WRONG", "ECHO", "ECHO2", "WATCHED"):
                with pytest.raises(redis.RedisError):
                    manager.get(prefix).get("k")

                asyncio.run(use_async(prefix))

            manager.ping()

        echo.shutdown()

    recorded = [span.to_json() for span in traced.take()]
    # Two for each prefix that fails, at least.
    assert sum("exception.message" in text for text in recorded) >= 10
    assert [text for text in recorded if SECRET in text] == []


def test_page(environment: pytest.MonkeyPatch, directory: Path, spans: Spans) -> None:
    """The app on the page has a span for each command of a request."""
    (directory / "traced_app.py").write_text(file_of("observability", "traced_app.py"))
    environment.syspath_prepend(directory)
    app = importlib.import_module("traced_app").create_app()
    assert app.test_client().get("/").json == {"visits": 1}
    assert spans.names() == ["INCRBY"]


Series = dict[str, t.Any]


@pytest.fixture
def reader() -> cabc.Iterator[InMemoryMetricReader]:
    """The reader of redis-py's own metrics, which are on."""
    observability = pytest.importorskip("redis.observability")
    from redis.observability import recorder
    from redis.observability.providers import reset_observability_instance

    # Pools of other tests would be counted when they are freed.
    gc.collect()
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
    groups = list(observability.MetricGroup)
    config = observability.OTelConfig(metric_groups=groups)
    observability.get_observability_instance().init(config)
    yield reader
    reset_observability_instance()
    recorder.reset_collector()


def read(reader: InMemoryMetricReader) -> Series:
    """All series, by name and attributes."""
    data = reader.get_metrics_data()
    assert data is not None
    return {
        f"{metric.name} {json.dumps(dict(point.attributes or {}), default=str)}": (
            getattr(point, "count", None) or getattr(point, "value", None)
        )
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


def test_metrics(
    app: Flask,
    reader: InMemoryMetricReader,
    server: Server,
    cluster: Cluster,
    shared_sentinels: Sentinels,
) -> None:
    """Pings add no series to redis-py's own metrics, and change none, except for the
    number of commands that sentinels got.
    """
    app.config.update(
        REDIS_URL=server.url,
        CLUSTER_URL=f"redis+cluster://{cluster.address}",
        WATCHED_URL=f"redis+sentinel://{shared_sentinels.address}/mymaster",
        POOL_CONNECTION_POOL=redis.ConnectionPool(port=server.port),
    )
    manager = RedisManager(app)

    with app.app_context():
        for prefix in app.extensions["redis"]:
            manager.get(prefix).set("k", "v")
            manager.get(prefix).set("k", "v")

        def ping() -> None:
            results = manager.ping(timeout=20)
            assert all(each.ok for each in results.values()), results

        ping()
        before = read(reader)
        assert len(before) > 10

        for _ in range(20):
            ping()

        after = read(reader)

    # Each sentinel has a series of its own, once a ping has waited for its answer.
    changed = [name for name in after if before.get(name) != after[name]]
    assert [name for name in changed if "SENTINEL MASTERS" not in name] == []
