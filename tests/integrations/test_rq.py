from __future__ import annotations

from pathlib import Path

import pytest

from ..servers import Server
from .conftest import Load
from .pages import asking
from .pages import assert_all_ours
from .pages import commands_of
from .pages import need
from .pages import running

need("rq")

from rq import Worker  # noqa: E402
from rq.job import JobStatus  # noqa: E402


def test_page(load: Load, server: Server, directory: Path) -> None:
    """A worker process runs jobs that use current_redis, and uses only our pools. It
    continues after a restart of the server.
    """
    app = load("rq").create_app()
    client = app.test_client()
    pool = app.extensions["redis"]["REDIS"].connection_pool
    _, command = commands_of("rq")

    def add(text: str) -> str:
        reply = client.post("/texts", data=text).json
        assert reply is not None
        return f"/jobs/{reply['job']}"

    def done(path: str, words: int) -> bool:
        reply: object = client.get(path).json
        return reply == {"status": "finished", "words": words}

    def is_idle() -> bool:
        with asking(server) as admin:
            (key,) = admin.smembers("rq:workers")
            state: object = admin.hget(key, "state")
            return state == b"idle"

    first = add("three small words")
    assert client.get("/jobs/unknown").status_code == 404
    assert assert_all_ours(server, pool) == 1

    with running(directory, command) as worker:
        worker.wait_for(lambda: done(first, 3), "the first job is done")
        assert_all_ours(server)
        worker.wait_for(is_idle, "the worker waits")
        server.kill()
        server.start()
        second = add("two words")
        worker.wait_for(lambda: done(second, 2), "the second job is done")
        assert_all_ours(server)


def test_worker_changes_its_pool(load: Load) -> None:
    """A worker raises the socket timeout of its pool, so it needs its own prefix."""
    module = load("rq")
    app = module.create_app()
    clients = app.extensions["redis"]

    def timeout_of(prefix: str) -> object:
        return clients[prefix].connection_pool.connection_kwargs["socket_timeout"]

    assert (timeout_of("REDIS"), timeout_of("WORKER")) == (5, 5)
    Worker([module.queue.name], connection=clients["WORKER"])
    assert (timeout_of("REDIS"), timeout_of("WORKER")) == (5, 415)


def test_decode_responses(load: Load, environment: pytest.MonkeyPatch) -> None:
    """Jobs are compressed: a worker fails on a prefix that decodes replies."""
    environment.setenv("FLASK_REDIS_DECODE_RESPONSES", "true")
    module = load("rq")
    app = module.create_app()

    with app.app_context():
        job = module.queue.enqueue(module.count_words, "two words")
        assert job.get_status() == JobStatus.QUEUED

        with pytest.raises(UnicodeDecodeError):
            module.queue.fetch_job(job.id)
