"""An app whose views work with every engine."""

from __future__ import annotations

import typing as t

from flask import Flask
from flask import request
from redis.exceptions import LockNotOwnedError

from flask_and_redis import current_redis
from flask_and_redis import RedisManager


def create_app() -> Flask:
    """Create the app. Its setting is in the environment: FLASK_REDIS_URL."""
    app = Flask("views")
    app.config.from_prefixed_env()
    manager = RedisManager(app)
    # Any: redis-py's type hints for scripts are incomplete.
    r: t.Any = current_redis

    @app.put("/keys/<key>")
    def put(key: str) -> dict[str, object]:
        return {"set": r.set(key, request.get_data())}

    @app.get("/keys/<key>")
    def get(key: str) -> dict[str, object]:
        value = r.get(key)
        return {"value": None if value is None else value.decode()}

    @app.post("/count")
    def count() -> dict[str, object]:
        return {"count": r.incr("{n}count")}

    @app.post("/pipeline")
    def pipeline() -> dict[str, object]:
        with r.pipeline() as pipe:
            pipe.incr("{n}a").incrby("{n}b", 2)
            return {"counts": pipe.execute()}

    @app.post("/transaction")
    def transaction() -> dict[str, object]:
        with r.pipeline(transaction=True) as pipe:
            pipe.incr("{n}t").get("{n}t")
            first, second = pipe.execute()
            return {"same": first == int(second)}

    @app.post("/script")
    def script() -> dict[str, object]:
        add = r.register_script("return redis.call('incrby', KEYS[1], ARGV[1])")
        return {"sum": add(keys=["{n}sum"], args=[3])}

    @app.post("/lock")
    def lock() -> tuple[dict[str, object], int]:
        try:
            with r.lock("{n}lock", timeout=5) as held:
                return {"owned": held.owned()}, 200
        except LockNotOwnedError:
            return {"owned": False}, 409

    @app.get("/scan")
    def scan() -> dict[str, object]:
        return {"keys": sorted(key.decode() for key in r.scan_iter())}

    @app.post("/async")
    async def count_async() -> dict[str, object]:
        async with manager.get_async() as client:
            async with client.pipeline() as pipe:
                pipe.incr("{n}async")
                pipe.incr("{n}async")
                counts = await pipe.execute()

            return {"counts": counts, "next": await client.incr("{n}async")}

    return app
