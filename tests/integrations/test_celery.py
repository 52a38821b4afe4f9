from __future__ import annotations

import typing as t
from pathlib import Path

from flask import Flask

from flask_and_redis import RedisManager

from ..servers import Server
from .conftest import Load
from .pages import commands_of
from .pages import connections
from .pages import need
from .pages import OURS
from .pages import running

need("celery")

from kombu.connection import Connection  # noqa: E402
from kombu.transport.redis import Channel  # noqa: E402
from kombu.transport.redis import Transport  # noqa: E402


def test_page(load: Load, server: Server, directory: Path) -> None:
    """A worker process does a task that uses current_redis, and keeps its own
    connections, to the database that the prefix's URL says, apart from ours.
    """
    app = load("celery").create_app()
    client = app.test_client()
    reply = client.post("/texts", data="three small words").json
    assert reply is not None
    _, command = commands_of("celery")

    def has_result() -> t.Any:
        found = client.get(f"/tasks/{reply['task']}").json
        return found == {"status": "SUCCESS", "words": 3}

    with running(directory, command, "--concurrency", "1") as worker:
        worker.wait_for(has_result, "the task is done")
        found = connections(server)
        # Our one is that of the process that did the task.
        assert [each.db for each in found if each.user == OURS] == [0]
        assert {each.db for each in found if each.user != OURS} == {1}

    with server.admin() as admin:
        assert admin.get("words") == b"3"


def test_closing_disconnects_a_shared_pool(server: Server, app: Flask) -> None:
    """Why Celery gets no pool: a connection that it closes disconnects all of it."""
    app.config["REDIS_URL"] = server.url
    RedisManager(app)
    client = app.extensions["redis"]["REDIS"]
    before = client.client_id()

    class SharingChannel(Channel):
        def _get_pool(self, asynchronous: bool = False) -> t.Any:
            return client.connection_pool

    class SharingTransport(Transport):
        Channel = SharingChannel

    connection: t.Any = Connection(server.url, transport=SharingTransport)  # type: ignore[no-untyped-call]

    with connection:
        connection.default_channel.client.ping()
        assert client.client_id() == before

    assert client.client_id() != before
