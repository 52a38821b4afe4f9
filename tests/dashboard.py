"""Draw the dashboard of the docs: ``python -m tests.dashboard``.

A small app runs for five minutes. One of its servers restarts, and another one is down
for a while. Prometheus, which must be on the PATH, collects the metrics and evaluates
the queries of the dashboard. The results are drawn without Grafana.
"""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import json
import logging
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import typing as t
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from unittest import mock

import redis
from ephemeral_port_reserve import reserve
from flask import Flask

from docs.observability import metrics
from flask_and_redis import RedisManager

from .browser import serve
from .pages import DOCS
from .panels import draw_dashboard
from .panels import name_series
from .panels import Series
from .panels import Span
from .servers import find_command
from .servers import Server
from .servers import wait_until

DASHBOARD = json.loads((DOCS / "observability" / "dashboard.json").read_text())
PICTURE = DOCS / "images" / "dashboard.svg"

#: Seconds between two scrapes, and between two points in the picture.
SCRAPE = 2
#: Grafana's rule for $__rate_interval.
RATE_INTERVAL = f"{4 * SCRAPE}s"
USERS = 6

# What happens, in seconds. The restart is shorter than RETRY_DEADLINE, and the outage
# is longer.
BEFORE, RESTART, BETWEEN, OUTAGE, AFTER = 80, 3, 70, 75, 80
LENGTH = BEFORE + RESTART + BETWEEN + OUTAGE + AFTER

CONFIG = """\
global:
  scrape_interval: {scrape}s
scrape_configs:
  - job_name: shop
    static_configs:
      - targets: ["{target}"]
"""


class Prometheus:
    """The HTTP API of a Prometheus server.

    :param url: Its address.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def get(self, path: str, **parameters: str) -> t.Any:
        query = urllib.parse.urlencode(parameters)

        try:
            address = f"{self.url}/api/v1/{path}?{query}"
            with urllib.request.urlopen(address, timeout=30) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            # It says what is wrong with the query.
            sys.exit(f"{parameters}: {error.read().decode()}")

    def evaluate(self, target: t.Any, span: Span) -> list[Series]:
        """Evaluate a query of a panel as Grafana does."""
        start, end = map(str, span)
        expression = fill_in(target["expr"])
        data = self.get(
            "query_range", query=expression, start=start, end=end, step=str(SCRAPE)
        )
        return [
            Series(
                name_series(target["legendFormat"], result["metric"]),
                [
                    (when, float(value))
                    for when, value in result["values"]
                    # A quantile is NaN while there are no commands.
                    if not math.isnan(float(value))
                ],
            )
            for result in data["result"]
        ]

    def list_values(self, query: str) -> list[str]:
        """Return the values of a variable of the dashboard."""
        match = re.fullmatch(r"label_values\((.*), (\w+)\)", query)
        assert match is not None, query
        expression, label = match.groups()
        parameters = {"match[]": fill_in(expression)}
        values: list[str] = self.get(f"label/{label}/values", **parameters)
        return values


@contextlib.contextmanager
def run_prometheus(
    command: str, directory: Path, target: str
) -> cabc.Iterator[Prometheus]:
    """Run a Prometheus server that scrapes one address.

    :param command: What starts it.
    :param directory: An empty directory.
    :param target: A host and a port.
    """
    config = directory / "prometheus.yml"
    config.write_text(CONFIG.format(scrape=SCRAPE, target=target))
    address = f"127.0.0.1:{reserve('127.0.0.1')}"
    process = subprocess.Popen(
        [
            *(command, "--log.level=warn", f"--config.file={config}"),
            *(f"--storage.tsdb.path={directory}", f"--web.listen-address={address}"),
        ]
    )

    try:
        server = Prometheus(f"http://{address}")
        wait_until(server.is_ready, "Prometheus is ready", timeout=60)
        yield server
    finally:
        process.terminate()
        process.wait()


def fill_in(expression: str) -> str:
    """Replace the variables of a query as Grafana does if all values are chosen."""
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            expression = expression.replace(
                f"${variable['name']}", variable["allValue"]
            )

    return expression.replace("$__rate_interval", RATE_INTERVAL)


def visit(app: Flask, number: int, stop: threading.Event) -> None:
    """Use the shop until it closes, more often at some times than at others."""
    chance = random.Random(number)
    manager = t.cast(RedisManager, t.cast(t.Any, metrics).manager)
    carts, cache = manager.get(), manager.get("CACHE")

    while not stop.wait(chance.uniform(0.01, 0.06) * (2 + math.sin(time.time() / 25))):
        product, cart = chance.randrange(50), f"cart:{chance.randrange(500)}"

        with app.app_context():
            with contextlib.suppress(redis.RedisError):
                if cache.get(f"page:{product}") is None:
                    cache.set(f"page:{product}", 1000 * "x", ex=5)

            with contextlib.suppress(redis.RedisError):
                if chance.random() < 0.6:
                    carts.hgetall(cart)

                if chance.random() < 0.2:
                    with carts.pipeline() as pipeline:
                        pipeline.hincrby(cart, str(product))
                        pipeline.hincrby(cart, "products")
                        pipeline.expire(cart, 3600)
                        pipeline.execute()


@contextlib.contextmanager
def open_shop(carts: Server, cache: Server) -> cabc.Iterator[str]:
    """Run the app of the page, with users, and yield its address."""
    settings = {
        "FLASK_REDIS_URL": carts.url,
        "FLASK_REDIS_MAX_CONNECTIONS": "10",
        "FLASK_CACHE_URL": cache.url,
        "FLASK_CACHE_MAX_CONNECTIONS": "8",
        "FLASK_CACHE_RETRY_DEADLINE": "0.5",
    }

    with mock.patch.dict(os.environ, settings):
        app: Flask = t.cast(t.Any, metrics).create_app()

    stop = threading.Event()
    threads = [
        threading.Thread(target=visit, args=[app, number, stop])
        for number in range(USERS)
    ]

    with serve(app) as url:
        for thread in threads:
            thread.start()

        try:
            yield url
        finally:
            stop.set()

            for thread in threads:
                thread.join()


def let_servers_fail(carts: Server, cache: Server) -> None:
    """Restart one server, and later let another one be down for a while."""
    for pause, server, seconds in (
        (BEFORE, carts, RESTART),
        (BETWEEN, cache, OUTAGE),
    ):
        time.sleep(pause)
        server.kill()
        time.sleep(seconds)
        server.start()

    time.sleep(AFTER)


def evaluate_all(prometheus: Prometheus, span: Span) -> dict[int, list[Series]]:
    """Return the results of each panel. Each query must have one."""
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]["query"]
            assert prometheus.list_values(query), f"No values: {query}"

    results: dict[int, list[Series]] = {}

    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            series = prometheus.evaluate(target, span)
            assert any(each.points for each in series), f"No data: {target['expr']}"
            results.setdefault(panel["id"], []).extend(series)

    return results


def main() -> None:
    if (prometheus_command := shutil.which("prometheus")) is None:
        sys.exit("Prometheus is missing.")

    if (redis_command := find_command("redis")) is None:
        sys.exit("Redis is missing.")

    # Otherwise, there is a line for each scrape.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)

    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directories = [Path(name, part) for part in ("carts", "cache", "prometheus")]

        for directory in directories:
            directory.mkdir()

        carts, cache = (
            stack.enter_context(Server(redis_command, directory))
            for directory in directories[:2]
        )
        url = stack.enter_context(open_shop(carts, cache))
        prometheus = stack.enter_context(
            run_prometheus(
                prometheus_command, directories[2], urllib.parse.urlsplit(url).netloc
            )
        )
        # Until all queries have enough scrapes.
        time.sleep(5 * SCRAPE)
        let_servers_fail(carts, cache)
        end = time.time() // SCRAPE * SCRAPE
        span = (end - LENGTH // SCRAPE * SCRAPE, end)
        results = evaluate_all(prometheus, span)

    PICTURE.write_text(draw_dashboard(DASHBOARD, results, span))


if __name__ == "__main__":
    main()
