"""What is under load."""

from __future__ import annotations

import os
import typing as t

import redis
from flask import Flask

from flask_and_redis import current_redis
from flask_and_redis import RedisManager

app = Flask("load")
app.config.from_prefixed_env()
RedisManager(app)


@app.get("/<token>")
def use(token: str) -> dict[str, object]:
    """What Redis makes of a token: the reply to another request would not be it."""
    first: t.Any = current_redis.echo(token)
    pipe: t.Any = current_redis.pipeline()
    # A restart between two commands may lose what the first has set.
    _, _, second = pipe.incr("count").set(token, token, ex=120).get(token).execute()
    return {"pid": os.getpid(), "values": [first.decode(), second.decode()]}


@app.errorhandler(redis.RedisError)
def answer_outage(error: redis.RedisError) -> tuple[dict[str, object], int]:
    return {"error": type(error).__name__}, 503
