"""The app that is put under load."""

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
    """Return the token as Redis sends it back.

    A different value would be the reply to another request.
    """
    first: t.Any = current_redis.echo(token)
    pipe: t.Any = current_redis.pipeline()
    # In a transaction: a restart between two commands may lose the first one's value.
    _, _, second = pipe.incr("count").set(token, token, ex=120).get(token).execute()
    return {"pid": os.getpid(), "values": [first.decode(), second.decode()]}


@app.errorhandler(redis.RedisError)
def answer_outage(error: redis.RedisError) -> tuple[dict[str, object], int]:
    return {"error": type(error).__name__}, 503
