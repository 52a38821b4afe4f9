"""The types that type checkers see. mypy and pyright check this file; it never runs."""

from __future__ import annotations

import typing as t

import redis
from flask import Flask
from redis.client import Pipeline

from flask_and_redis import ConfigError
from flask_and_redis import current_redis
from flask_and_redis import Redis
from flask_and_redis import RedisManager
from flask_and_redis import UnknownPrefixError

if t.TYPE_CHECKING:
    from typing_extensions import assert_type

    app = Flask(__name__)
    client = redis.Redis()
    manager = RedisManager(app, default="X", prefixes=["X"], ignore=("Y*",), db=1)
    manager.init_app(app)

    assert_type(manager.get(), Redis)
    assert_type(manager.get("X"), Redis)
    assert_type(current_redis, Redis)
    assert_type(manager.get("X").connection, redis.Redis)

    # Each command has the same type as in redis-py.
    assert_type(client.get("k"), bytes | str | None)
    assert_type(manager.get("X").get("k"), bytes | str | None)
    assert_type(current_redis.get("k"), bytes | str | None)
    assert_type(Redis(app).hset("h", mapping={"a": 1}), int)
    assert_type(current_redis.pipeline(), Pipeline)

    # You can pass a proxy where a client is expected.
    def count(r: redis.Redis) -> None: ...

    count(current_redis)
    count(manager.get("X"))
    count(Redis())

    Redis().init_app(app, "X", decode_responses=True)
    manager.get(1)  # type: ignore[arg-type]
    RedisManager("app")  # type: ignore[arg-type]
    current_redis.no_such_command()  # type: ignore[attr-defined]

    error: ValueError = ConfigError("x")
    unknown: KeyError = UnknownPrefixError("x")
    also: RuntimeError = UnknownPrefixError("x")
