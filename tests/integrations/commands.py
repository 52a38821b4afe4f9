"""Commands for tests of tracing."""

from __future__ import annotations

import typing as t

from flask_and_redis import RedisManager


def use(manager: RedisManager, prefix: str) -> None:
    """Send a command, a pipeline, a transaction that watches a key, and a script."""
    client: t.Any = manager.get(prefix)
    client.set("k", "v")
    client.pipeline(transaction=False).set("k", "v").get("k").execute()

    with client.pipeline(transaction=True) as pipeline:
        pipeline.watch("k")
        pipeline.get("k")
        pipeline.multi()
        pipeline.set("k", "v")
        pipeline.execute()

    client.eval("return 1", 1, "k")


async def use_async(manager: RedisManager, prefix: str) -> None:
    async with manager.get_async(prefix) as redis_client:
        client: t.Any = redis_client
        await client.set("k", "v")
        await client.pipeline(transaction=False).set("k", "v").get("k").execute()
