from __future__ import annotations

from pathlib import Path

import pytest

from ..servers import Server
from .conftest import Load
from .pages import assert_all_ours
from .pages import commands_of
from .pages import need
from .pages import running

need("flask_rq")


def test_page(load: Load, server: Server, directory: Path) -> None:
    """A worker process runs a job that uses current_redis, and uses only our pools."""
    app = load("flask-rq").create_app()
    client = app.test_client()
    pool = app.extensions["redis"]["JOBS"].connection_pool
    _, command = commands_of("flask-rq")

    reply = client.post("/texts", data="three small words").json
    assert reply is not None
    path = f"/jobs/{reply['job']}"
    assert client.get("/jobs/unknown").status_code == 404
    assert assert_all_ours(server, pool) == 1

    with running(directory, command) as worker:
        worker.wait_for(
            lambda: client.get(path).json == {"status": "finished", "words": 3},
            "the job is done",
        )
        assert_all_ours(server)


def test_worker_changes_its_pool(load: Load) -> None:
    """A worker raises the socket timeout of its pool, so it needs its own prefix."""
    module = load("flask-rq")
    app = module.create_app()
    clients = app.extensions["redis"]

    def timeout_of(prefix: str) -> object:
        return clients[prefix].connection_pool.connection_kwargs["socket_timeout"]

    with app.app_context():
        module.rq.make_worker()

    assert (timeout_of("REDIS"), timeout_of("JOBS")) == (5, 415)


def test_decode_responses(load: Load, environment: pytest.MonkeyPatch) -> None:
    """Jobs are compressed: they fail on a prefix that decodes replies."""
    environment.setenv("FLASK_JOBS_DECODE_RESPONSES", "true")
    module = load("flask-rq")
    app = module.create_app()

    with app.app_context():
        job = module.count_words.enqueue("two words")

        with pytest.raises(UnicodeDecodeError):
            module.rq.queue.fetch_job(job.id)
