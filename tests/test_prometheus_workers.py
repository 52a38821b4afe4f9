"""The metrics of several gunicorn workers, which share a directory."""

from __future__ import annotations

import http.client
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .pages import DOCS
from .servers import Server
from .servers import wait_until
from .test_prometheus import Samples
from .web import Gunicorn
from .web import gunicorn

CONFIG = ("--config", str(DOCS / "observability" / "gunicorn.conf.py"))


def get(served: Gunicorn, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)

    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def scrape(served: Gunicorn) -> Samples:
    texts: list[str] = []

    def is_read() -> bool:
        status, text = get(served, "/metrics")
        texts.append(text)
        return status == 200

    # prometheus_client cannot read a file that another worker creates at that moment.
    wait_until(is_read, "the metrics are read", timeout=30)
    return Samples(texts[-1])


def get_many(served: Gunicorn, count: int) -> list[int]:
    """Send requests from several threads, and return their status."""
    with ThreadPoolExecutor(8) as threads:
        return [
            status for status, _ in threads.map(get, [served] * count, ["/"] * count)
        ]


@pytest.fixture
def environment(own_server: Server, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "metrics").mkdir()
    return {
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
        "FLASK_REDIS_URL": own_server.url,
        "FLASK_REDIS_MAX_CONNECTIONS": "7",
        "FLASK_REDIS_RETRY_DEADLINE": "0.3",
    }


def use_all(served: Gunicorn) -> None:
    """Send requests until each worker has used Redis."""

    def are_used() -> bool:
        assert set(get_many(served, 40)) == {200}
        return scrape(served).get("clients") == 4

    wait_until(are_used, "all workers have used Redis", timeout=30)


@pytest.mark.timeout(180)
def test_four_workers(
    own_server: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    """Any of four workers shows the figures of all: each command, the connections of
    living workers, and an outage.
    """
    app = "docs.observability.metrics:create_app()"

    with gunicorn(app, tmp_path / "log", environment, *CONFIG) as served:
        use_all(served)

        with own_server.admin() as admin:
            visits = int(admin.get("visits") or 0)

        samples = scrape(served)
        assert visits > 40
        assert samples.get("commands_total", command="INCRBY") == visits
        assert samples.get("command_duration_seconds_count") == visits
        assert samples.get("errors_total") is None
        assert samples.figures() == (1, 4, 0, 4, 28)

        own_server.stop()
        wait_until(
            lambda: set(get_many(served, 40)) == {500} and not scrape(served).get("up"),
            "the outage is shown",
            timeout=30,
        )
        samples = scrape(served)
        assert 1 <= (samples.get("outages_total") or 0) <= 4
        assert (samples.get("errors_total", error="ConnectionError") or 0) >= 40

        # One worker that notices the end is enough.
        own_server.start()
        wait_until(lambda: get(served, "/")[0] == 200, "it is back", timeout=30)
        assert scrape(served).get("up") == 1

        # Those of a worker that has ended do not count any more. Its commands do.
        commands = scrape(served).get("commands_total")
        worker = min(served.workers())
        os.kill(worker, signal.SIGTERM)
        wait_until(
            lambda: scrape(served).get("clients") == 3, "it has ended", timeout=30
        )
        samples = scrape(served)
        assert samples.get("pool_connections_max") == 21
        assert samples.get("commands_total") == commands


@pytest.mark.timeout(180)
def test_parent_that_has_used_redis(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Workers that have not used Redis do not show that it is down, although their
    parent has used it, and although they have written other metrics.
    """
    app = "tests.metrics_app:app"
    log = tmp_path / "log"

    with gunicorn(app, log, environment, *CONFIG, "--preload") as served:

        def is_everywhere() -> bool:
            with ThreadPoolExecutor(8) as threads:
                list(threads.map(scrape, [served] * 40))

            directory = Path(environment["PROMETHEUS_MULTIPROC_DIR"])
            files = {path.name for path in directory.iterdir()}
            gauges = {f"gauge_livemostrecent_{pid}.db" for pid in served.workers()}
            return len(gauges) == 4 and gauges <= files

        wait_until(is_everywhere, "all workers have written metrics", timeout=30)
        samples = scrape(served)
        assert samples.get("commands_total", command="SET") == 1
        # Of the parent, and of the worker that gunicorn() has asked for a page.
        assert samples.figures() == (1, 2, 0, 2, 14)
