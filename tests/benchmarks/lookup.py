"""What finding a command on a proxy costs, beside the alternatives.

Rounds of all contestants are interleaved, as these machines are noisy; ratios are of
the medians.
"""

from __future__ import annotations

import statistics
import timeit
import typing as t

import flask_redis
from flask import current_app
from flask import Flask
from werkzeug.local import LocalProxy

from flask_and_redis import current_redis
from flask_and_redis import RedisManager

ROUNDS = 25
NUMBER = 20_000


def main() -> None:
    app = Flask("benchmark")
    app.config["REDIS_URL"] = "redis://localhost"
    manager = RedisManager(app)
    other = flask_redis.FlaskRedis()
    other.init_app(Flask("other"))
    bare: t.Any = LocalProxy(lambda: current_app.extensions["redis"]["REDIS"])
    proxy = manager.get()
    client = app.extensions["redis"]["REDIS"]
    contestants = {
        "redis-py itself": lambda: client.get,
        "Flask-Redis 0.4": lambda: other.get,
        "bare LocalProxy": lambda: bare.get,
        "manager.get() once": lambda: proxy.get,
        "current_redis": lambda: current_redis.get,
        "manager.get() each time": lambda: manager.get().get,
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}

    with app.app_context():
        assert proxy.connection is client

        for _ in range(ROUNDS):
            for name, look_up in contestants.items():
                seconds = timeit.timeit(look_up, number=NUMBER)
                times[name].append(seconds / NUMBER * 1e9)

    medians = {name: statistics.median(it) for name, it in times.items()}
    print(f"{'look-up of a command':26}{'median':>10}{'of Flask-Redis':>18}")

    for name, median in medians.items():
        ratio = median / medians["Flask-Redis 0.4"]
        print(f"{name:26}{median:7.0f} ns{ratio:18.2f}")


if __name__ == "__main__":
    main()
