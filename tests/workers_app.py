"""What the workers of gunicorn serve. The parent has used every prefix before."""

from __future__ import annotations

import os
import typing as t

from flask import Flask

from flask_and_redis import RedisManager

app = Flask("workers")
app.config.from_prefixed_env()
manager = RedisManager(app)
registry: t.Any = app.extensions["redis"]

# ECHO has no key, which a cluster needs.
ECHO = "return ARGV[1]"

for prefix in registry:
    assert registry[prefix].set("parent", os.getpid())


@app.get("/echo/<token>")
def echo(token: str) -> dict[str, object]:
    """What each prefix makes of a token. A reply of another's would not be it."""
    return {
        "pid": os.getpid(),
        "replies": [
            reply.decode()
            for prefix in registry
            for reply in (
                registry[prefix].eval(ECHO, 1, token, token),
                registry[prefix].pipeline().set(token, token).get(token).execute()[1],
            )
        ],
    }


@app.get("/async/<prefix>/<token>")
async def echo_async(prefix: str, token: str) -> dict[str, object]:
    """The same with the asynchronous client of one prefix."""
    async with manager.get_async(prefix) as client:
        reply = await t.cast(t.Any, client).eval(ECHO, 1, token, token)

    return {"pid": os.getpid(), "replies": [reply.decode()]}
