from __future__ import annotations

from pathlib import Path

import pytest

from ..servers import Server
from .conftest import Load
from .pages import assert_all_ours
from .pages import commands_of
from .pages import need
from .pages import running

need("huey")


def test_page(load: Load, server: Server, directory: Path) -> None:
    """A consumer process runs a task that uses current_redis, and uses only our pool.
    It continues after a restart of the server.
    """
    app = load("huey").create_app()
    client = app.test_client()
    pool = app.extensions["redis"]["REDIS"].connection_pool
    _, command = commands_of("huey")

    def add(text: str) -> str:
        reply = client.post("/texts", data=text).json
        assert reply is not None
        return f"/tasks/{reply['task']}"

    first = add("three small words")
    assert assert_all_ours(server, pool) == 1

    with running(directory, command) as consumer:
        consumer.wait_for(
            lambda: client.get(first).json == {"words": 3}, "the first is done"
        )
        assert_all_ours(server)
        server.kill()
        server.start()
        second = add("two words")
        consumer.wait_for(
            lambda: client.get(second).json == {"words": 2}, "the second is done"
        )
        assert_all_ours(server)


def test_decode_responses(
    load: Load, environment: pytest.MonkeyPatch, directory: Path
) -> None:
    """Tasks are pickled: a consumer fails on a prefix that decodes replies."""
    environment.setenv("FLASK_REDIS_DECODE_RESPONSES", "true")
    client = load("huey").create_app().test_client()
    reply = client.post("/texts", data="two words").json
    assert reply is not None
    _, command = commands_of("huey")

    with running(directory, command) as consumer:
        consumer.wait_for(lambda: "UnicodeDecodeError" in consumer.output, "an error")

    assert client.get(f"/tasks/{reply['task']}").json == {"words": None}
