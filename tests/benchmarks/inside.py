"""Benchmarks that run in one process."""

from __future__ import annotations

import collections.abc as cabc
import gc
import statistics
import threading
import time
import tracemalloc
import typing as t

import flask_redis
import redis
from flask import current_app
from flask import Flask
from werkzeug.local import LocalProxy

from flask_and_redis import command_finished
from flask_and_redis import RedisManager

from .rounds import each
from .rounds import interleave
from .rounds import median
from .rounds import Times

GETS = 50


def make_app(url: str) -> tuple[Flask, RedisManager]:
    app = Flask("benchmark")
    app.config["REDIS_URL"] = url
    return app, RedisManager(app)


def look_ups(url: str) -> Times:
    """Measure the look-up of a command, without the call."""
    app, manager = make_app(url)
    other = flask_redis.FlaskRedis()
    other.init_app(Flask("other"))
    bare: t.Any = LocalProxy(lambda: current_app.extensions["redis"]["REDIS"])
    proxy = manager.get()
    client = app.extensions["redis"]["REDIS"]
    contestants = {
        "redis-py": lambda: client.get,
        "Flask-Redis": lambda: other.get,
        "LocalProxy": lambda: bare.get,
        "proxy": lambda: proxy.get,
        "manager.get": lambda: manager.get("REDIS"),
        "manager.get and look-up": lambda: manager.get("REDIS").get,
    }

    with app.app_context():
        assert proxy.connection is client
        return interleave({name: each(f, 5000) for name, f in contestants.items()}, 100)


def commands(url: str) -> Times:
    """Measure whole commands, one at a time and in pipelines of 1 and of 100."""
    app, manager = make_app(url)
    proxy: t.Any = manager.get()
    raw: t.Any = redis.Redis.from_url(url)

    def pipe(client: t.Any, count: int) -> cabc.Callable[[], object]:
        def execute() -> None:
            pipeline = client.pipeline(transaction=False)

            for _ in range(count):
                pipeline.get("k")

            pipeline.execute()

        return execute

    with app.app_context():
        times = interleave(
            {
                "redis-py": each(lambda: raw.get("k"), 200),
                "proxy": each(lambda: proxy.get("k"), 200),
            },
            300,
        )
        return times | interleave(
            {
                "redis-py, pipeline of 1": each(pipe(raw, 1), 20),
                "proxy, pipeline of 1": each(pipe(proxy, 1), 20),
                "redis-py, pipeline of 100": each(pipe(raw, 100), 2),
                "proxy, pipeline of 100": each(pipe(proxy, 100), 2),
            },
            100,
        )


def receivers(url: str) -> Times:
    """Measure a GET with and without a receiver of ``command_finished``, and the check
    for receivers that each command makes.
    """
    app, manager = make_app(url)
    proxy: t.Any = manager.get()
    get = each(lambda: proxy.get("k"), 200)

    def receive(app: Flask, **arguments: t.Any) -> None:
        pass

    def get_and_send() -> float:
        with command_finished.connected_to(receive):
            return get()

    contestants = {
        "nobody": get,
        "receiver": get_and_send,
        "check": each(lambda: command_finished.receivers and None, 5000),
    }

    with app.app_context():
        return interleave(contestants, 300)


def threads(url: str, count: int) -> Times:
    """Measure the GETs per second of all threads together."""
    app, manager = make_app(url)
    proxy: t.Any = manager.get()
    raw: t.Any = redis.Redis.from_url(url)

    def run(client: t.Any) -> float:
        start = threading.Barrier(count + 1)

        def work() -> None:
            # redis-py gets a context, too: only the clients are compared.
            with app.app_context():
                start.wait()

                for _ in range(GETS):
                    client.get("k")

        workers = [threading.Thread(target=work) for _ in range(count)]

        for each_ in workers:
            each_.start()

        start.wait()
        began = time.perf_counter()

        for each_ in workers:
            each_.join()

        return count * GETS / (time.perf_counter() - began)

    return interleave({"redis-py": lambda: run(raw), "proxy": lambda: run(proxy)}, 300)


def first_use(url: str) -> Times:
    """Measure the first command of a prefix: it creates the client and connects."""

    def ours() -> float:
        app, manager = make_app(url)
        proxy = manager.get()

        with app.app_context():
            return time_ping(lambda: proxy)

    def raw() -> float:
        return time_ping(lambda: redis.Redis.from_url(url))

    return interleave({"redis-py": raw, "proxy": ours}, 400)


def client_seconds() -> float:
    """Return the seconds that redis-py needs to create a client.

    This figure allows you to compare machines.
    """
    seconds = each(lambda: redis.Redis.from_url("redis://localhost"), 100)
    return statistics.median(seconds() for _ in range(20))


def time_ping(make: cabc.Callable[[], redis.Redis]) -> float:
    began = time.perf_counter()
    client = make()
    client.ping()
    seconds = time.perf_counter() - began
    client.connection_pool.disconnect()
    return seconds


def many_settings(prefixes: int, settings: int) -> Flask:
    app = Flask("many")
    app.config |= {
        f"STORE{number}_URL": f"redis://host{number}:6379/0"
        for number in range(prefixes)
    }
    app.config |= {
        f"OTHER_{number}_SETTING": "x" for number in range(settings - len(app.config))
    }
    return app


def init_app() -> Times:
    """Measure reading few settings and many settings."""

    def read(prefixes: int, settings: int) -> float:
        app = many_settings(prefixes, settings)
        # Collect the garbage of the previous round before the measurement.
        gc.collect()
        began = time.perf_counter()
        RedisManager(app)
        return time.perf_counter() - began

    return interleave(
        {"100": lambda: read(100, 2000), "1000": lambda: read(1000, 20_000)}, 15
    )


def bytes_kept() -> float:
    """Return the bytes of memory that a prefix uses before its first use."""
    app = many_settings(1000, 20_000)
    # Signatures are read only once: do not count their memory.
    RedisManager(many_settings(1, 100))
    gc.collect()
    tracemalloc.start()
    manager = RedisManager(app)
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert manager is not None and len(app.extensions["redis"]) == 1000
    return kept / 1000


def pools(url: str) -> dict[int, dict[str, float]]:
    """Measure what open connections cost.

    The result is the time of a GET, the memory here and the memory of the server.
    """
    figures: dict[int, dict[str, float]] = {}
    clients: dict[int, redis.Redis] = {}
    admin = redis.Redis.from_url(url)

    for size in (1, 100, 400):
        before = used_memory(admin)
        gc.collect()
        tracemalloc.start()
        client = redis.Redis.from_url(url, max_connections=size)
        pool = client.connection_pool

        for connection in [pool.get_connection() for _ in range(size)]:
            pool.release(connection)

        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        clients[size] = client
        figures[size] = {
            "kept": kept / size,
            "kept by the server": (used_memory(admin) - before) / size,
        }

    contestants = {
        str(size): each(lambda client=client: client.get("k"), 50)  # type: ignore[misc]
        for size, client in clients.items()
    }
    times = interleave(contestants, 100)

    for size, client in clients.items():
        figures[size]["get"] = median(times, str(size))
        client.close()

    return figures


def used_memory(admin: redis.Redis) -> float:
    info: t.Any = admin.info("memory")
    return float(info["used_memory"])


def replies(url: str) -> dict[str, float]:
    """Return the seconds for a short and a long reply, with the installed parser."""
    client: t.Any = redis.Redis.from_url(url)
    client.delete("list")
    client.rpush("list", *range(1000))
    contestants = {
        "GET": each(lambda: client.get("k"), 200),
        "LRANGE of 1,000": each(lambda: client.lrange("list", 0, -1), 10),
    }
    times = interleave(contestants, 20)
    return {name: statistics.median(seconds) for name, seconds in times.items()}
