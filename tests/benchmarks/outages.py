"""Measure how long a request waits when Redis fails.

The contestants are Flask-And-Redis, plain redis-py and Flask-Redis. Each case starts
its own servers, and every contestant creates its client. Then the case causes the
fault, and one request of each contestant is timed. These requests run in parallel. A
request that reaches the time limit is abandoned and reported as such.

``python -m tests.benchmarks.outages [--runs 3] [--only WORD] [--csv FILE]``
"""

from __future__ import annotations

import argparse
import collections
import collections.abc as cabc
import contextlib
import csv
import functools
import statistics
import sys
import tempfile
import threading
import time
import typing as t
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import flask_redis
import redis
import redis.cluster
import redis.sentinel
from flask import Flask

from flask_and_redis import RedisManager

from .faults import CASES
from .faults import Target

#: Seconds after which a request is abandoned.
LIMIT = 120.0

#: The number of cases that run in parallel. They mostly wait.
AT_ONCE = 4


def make_request(name: str, target: Target) -> cabc.Callable[[], object] | None:
    """Return a contestant's request, or None if it does not support the engine."""
    app = Flask("outages")
    get_client = CONTESTANTS[name](target, app)

    if get_client is None:
        return None

    def request() -> object:
        with app.app_context():
            return target.use(get_client())

    if target.connected:
        request()

    if target.prepare is not None:
        with app.app_context():
            target.prepare(get_client())

    return request


def ours(target: Target, app: Flask) -> cabc.Callable[[], t.Any]:
    app.config["REDIS_URL"] = target.url
    app.config.update({f"REDIS_{k.upper()}": v for k, v in target.options.items()})
    app.config.update(target.settings)
    proxy = RedisManager(app).get()
    return lambda: proxy


def by_url(target: Target, app: Flask) -> cabc.Callable[[], t.Any] | None:
    if "+" in target.url:
        # redis-py does not support such URLs.
        return None

    client = redis.Redis.from_url(target.url, **target.options)
    return lambda: client


def by_host(target: Target, app: Flask) -> cabc.Callable[[], t.Any]:
    scheme, _, rest = target.url.partition("://")
    addresses, _, service = rest.partition("/")
    nodes = []

    for address in addresses.split(","):
        host, _, port = address.partition(":")
        nodes.append((host, int(port or 6379)))

    if scheme == "redis+cluster":
        start = [redis.cluster.ClusterNode(*node) for node in nodes]  # type: ignore[no-untyped-call]
        # Creating the client connects, so it is part of the first request.
        return functools.cache(lambda: redis.RedisCluster(startup_nodes=start))

    if scheme == "redis+sentinel":
        client = redis.sentinel.Sentinel(nodes).master_for(service)  # type: ignore[no-untyped-call]
    else:
        client = redis.Redis(*nodes[0], ssl=scheme == "rediss", **target.options)

    return lambda: client


def by_flask_redis(target: Target, app: Flask) -> cabc.Callable[[], t.Any] | None:
    if "+" in target.url:
        return None

    app.config["REDIS_URL"] = target.url
    client = flask_redis.FlaskRedis(app, **target.options)
    return lambda: client


CONTESTANTS: dict[str, t.Any] = {
    "Flask-And-Redis": ours,
    "redis-py, URL": by_url,
    "redis-py, HOST": by_host,
    "Flask-Redis": by_flask_redis,
}

Outcome = tuple[float, str]


def run(name: str) -> dict[str, Outcome | None]:
    """Run one case and return the outcome of each contestant."""
    outcomes: dict[str, Outcome | None] = dict.fromkeys(CONTESTANTS)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        steps = CASES[name](Path(directory))
        target = next(steps)
        requests = {each: make_request(each, target) for each in CONTESTANTS}
        next(steps)
        threads = []

        for each, request in requests.items():
            if request is not None:
                outcomes[each] = (LIMIT, "")
                arguments = request, outcomes, each, target.second
                thread = threading.Thread(target=measure, args=arguments, daemon=True)
                thread.start()
                threads.append(thread)

        ends = time.monotonic() + LIMIT

        for thread in threads:
            thread.join(max(0, ends - time.monotonic()))

        outcomes = dict(outcomes)
        next(steps, None)

    print(".", end="", file=sys.stderr, flush=True)
    return outcomes


def measure(
    request: cabc.Callable[[], object],
    outcomes: dict[str, Outcome | None],
    name: str,
    second: bool,
) -> None:
    if second:
        with contextlib.suppress(redis.RedisError):
            request()

    started = time.monotonic()

    try:
        request()
        outcome = "done"
    except Exception as error:
        outcome = type(error).__name__

    outcomes[name] = (time.monotonic() - started, outcome)


def describe(outcomes: list[Outcome | None]) -> str:
    """Describe the median, the worst time if it differs, and how the requests ended."""
    known = [outcome for outcome in outcomes if outcome is not None]

    if not known:
        return "–"

    seconds = [outcome[0] for outcome in known]
    median, worst = statistics.median(seconds), max(seconds)

    if median >= LIMIT:
        return f"over {LIMIT:g} s"

    ends = collections.Counter(
        outcome[1] for outcome in known if outcome[1]
    ).most_common()
    text = ", ".join(end for end, _ in ends)
    time_text = f"{median:.1f} s"

    if f"{worst:.1f}" != f"{median:.1f}":
        time_text += f" (worst {worst:.1f})"

    return f"{time_text}: {text}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    names = [name for name in CASES if arguments.only in name]

    with ThreadPoolExecutor(AT_ONCE) as threads:
        runs = [(name, threads.submit(run, name)) for name in names * arguments.runs]

    print(file=sys.stderr)
    rows = [["what fails", *CONTESTANTS]]

    for name in names:
        outcomes = [future.result() for each, future in runs if each == name]
        rows.append(
            [
                name,
                *(describe([outcome[c] for outcome in outcomes]) for c in CONTESTANTS),
            ]
        )

    for row in rows:
        print(f"{row[0]:55}" + "".join(f"{cell:36}" for cell in row[1:]))

    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
