"""An app for gunicorn workers. The parent process uses every prefix before it forks."""

from __future__ import annotations

import os
import typing as t

from flask import Flask

from flask_and_redis import RedisManager

app = Flask("workers")
app.config.from_prefixed_env()
manager = RedisManager(app)
registry: t.Any = app.extensions["redis"]

# A script instead of the ECHO command, which has no key. A cluster needs a key.
ECHO = "return ARGV[1]"

for prefix in registry:
    assert registry[prefix].set("parent", os.getpid())


@app.get("/echo/<token>")
def echo(token: str) -> dict[str, object]:
    """Send a token through each prefix. If a reply belongs to another request, it
    differs from the token.
    """
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
    """Do the same with the asynchronous client of one prefix."""
    async with manager.get_async(prefix) as client:
        reply = await t.cast(t.Any, client).eval(ECHO, 1, token, token)

    return {"pid": os.getpid(), "replies": [reply.decode()]}
