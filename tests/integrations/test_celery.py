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
    """A worker process runs a task that uses current_redis. Celery has its own
    connections, apart from ours. They use the database in the prefix's URL.
    """
    app = load("celery").create_app()
    client = app.test_client()
    reply = client.post("/texts", data="three small words").json
    assert reply is not None
    _, command = commands_of("celery")

    def has_result() -> t.Any:
        result = client.get(f"/tasks/{reply['task']}").json
        return result == {"status": "SUCCESS", "words": 3}

    with running(directory, command, "--concurrency", "1") as worker:
        worker.wait_for(has_result, "the task is done")
        opened = connections(server)
        # Our only connection is in the process that ran the task.
        assert [each.db for each in opened if each.user == OURS] == [0]
        assert {each.db for each in opened if each.user != OURS} == {1}

    with server.admin() as admin:
        assert admin.get("words") == b"3"


def test_closing_disconnects_a_shared_pool(server: Server, app: Flask) -> None:
    """Celery must not share our pool: it disconnects the pool when it closes."""
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
