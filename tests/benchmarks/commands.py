"""What a whole GET costs through a proxy, its bound included, beside redis-py alone.

Each round times every contestant once, in turn, as these machines are noisy; the ratio
is the median of the rounds' own ratios.
"""

from __future__ import annotations

import statistics
import tempfile
import timeit
import typing as t
from pathlib import Path

import redis
from flask import Flask
from redis.backoff import NoBackoff
from redis.retry import Retry

from flask_and_redis import RedisManager
from tests.servers import find_command
from tests.servers import Server

ROUNDS = 60
NUMBER = 500


def main() -> None:
    command = find_command("redis")
    assert command is not None, "There is no redis-server."

    with tempfile.TemporaryDirectory() as directory:
        with Server(command, Path(directory)) as server:
            measure(server)


def measure(server: Server) -> None:
    app = Flask("benchmark")
    app.config["REDIS_URL"] = server.url
    proxy: t.Any = RedisManager(app).get()
    raw: t.Any = redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0))
    raw.set("k", "v")
    contestants = {
        "redis-py itself": lambda: raw.get("k"),
        "through a proxy": lambda: proxy.get("k"),
        "redis-py itself, pipeline": lambda: raw.pipeline().get("k").execute(),
        "through a proxy, pipeline": lambda: proxy.pipeline().get("k").execute(),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}

    with app.app_context():
        for _ in range(ROUNDS):
            for name, use in contestants.items():
                seconds = timeit.timeit(use, number=NUMBER)
                times[name].append(seconds / NUMBER * 1e6)

    names = list(contestants)
    print(f"{'a whole GET':28}{'median':>10}{'of redis-py':>14}")

    for index, name in enumerate(names):
        base = times[names[index - index % 2]]
        ratios = [mine / its for mine, its in zip(times[name], base, strict=True)]
        median = statistics.median(times[name])
        print(f"{name:28}{median:7.1f} µs{statistics.median(ratios):14.3f}")


if __name__ == "__main__":
    main()
