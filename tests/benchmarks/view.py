"""The same view with plain redis-py and with Flask-And-Redis, for a WSGI server."""

from __future__ import annotations

import os

import redis
from flask import Flask

from flask_and_redis import current_redis
from flask_and_redis import RedisManager


def make_raw() -> Flask:
    app = Flask("raw")
    client = redis.Redis.from_url(os.environ["BENCHMARK_URL"])

    @app.get("/")
    def index() -> dict[str, object]:
        value = client.get("k")
        assert isinstance(value, bytes)
        return {"value": value.decode(), "hits": client.incr("hits")}

    return app


def make_ours() -> Flask:
    app = Flask("ours")
    app.config["REDIS_URL"] = os.environ["BENCHMARK_URL"]
    RedisManager(app)

    @app.get("/")
    def index() -> dict[str, object]:
        value = current_redis.get("k")
        assert isinstance(value, bytes)
        return {"value": value.decode(), "hits": current_redis.incr("hits")}

    return app
