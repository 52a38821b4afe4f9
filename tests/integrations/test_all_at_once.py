from __future__ import annotations

import http.client
import json
import typing as t
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from ephemeral_port_reserve import reserve

from ..servers import Server
from .conftest import Load
from .pages import asking
from .pages import commands_of
from .pages import connections
from .pages import files_of
from .pages import need
from .pages import OURS
from .pages import running

need(
    *("celery", "flask_caching", "flask_limiter", "flask_rq", "flask_session"),
    *("flask_socketio", "huey", "redis_lock", "rq"),
)

THREADS = 6
REQUESTS = 60


def get(port: int) -> dict[str, t.Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        reply: dict[str, t.Any] = json.loads(body)
        return reply
    finally:
        connection.close()


def test_all_at_once(
    directory: Path, server: Server, environment: pytest.MonkeyPatch
) -> None:
    """Each request uses all libraries. The prefix that they share has no more
    connections than there are threads. Only our prefixes and the libraries that take a
    URL have connections.
    """
    for name, text in files_of("index").items():
        (directory / name).write_text(text)

    serve, work = commands_of("index")
    assert serve[1:3] == ["--threads", str(THREADS)]
    port = reserve("127.0.0.1")
    # The worker process gets other names below.
    environment.setenv("FLASK_REDIS_CLIENT_NAME", "web")
    environment.setenv("FLASK_JOBS_CLIENT_NAME", "web-jobs")

    with running(directory, serve, "--bind", f"127.0.0.1:{port}") as web:
        environment.setenv("FLASK_REDIS_CLIENT_NAME", "worker")
        environment.setenv("FLASK_JOBS_CLIENT_NAME", "worker-jobs")

        with running(directory, work) as worker, asking(server) as admin:
            web.wait_for(lambda: "Listening at" in web.output, "the app serves")

            with ThreadPoolExecutor(THREADS) as threads:
                replies = list(threads.map(lambda _: get(port), range(REQUESTS)))

            assert [each["visit"] for each in replies] == [1] * REQUESTS
            assert [each["cached"] for each in replies] == [1] * REQUESTS
            worker.wait_for(
                lambda: admin.get("done by RQ") == b"%d" % REQUESTS, "RQ did all"
            )
            seen = connections(server)

    count = Counter(each.name for each in seen if each.user == OURS)
    assert 0 < count["web"] <= THREADS, seen
    # The prefix for jobs has a second pool, because a worker changes its pool.
    assert 0 < count["web-jobs"] <= THREADS, seen
    assert 0 < count["worker-jobs"], seen
    # The worker runs each job in a child process, which may still be running.
    assert count["worker"] <= 1, seen
    # Celery and Flask-SocketIO use the database in their URL.
    assert {each.db for each in seen if each.user != OURS} == {1}, seen

    with server.admin() as admin, server.admin(db=1) as tasks:
        assert len(admin.keys("session:*")) == REQUESTS
        assert len(admin.keys("LIMITS:*")) == 1
        assert admin.llen("rq:queue:default") == REQUESTS
        assert admin.llen("huey.redis.app") == REQUESTS
        assert tasks.llen("celery") == REQUESTS


@pytest.mark.parametrize(
    ("page", "method", "path"),
    [
        ("flask-caching", "GET", "/squares/7"),
        ("flask-session", "GET", "/"),
        ("rq", "POST", "/texts"),
        ("python-redis-lock", "POST", "/reports/0"),
    ],
)
def test_with_the_deadline(
    load: Load, server: Server, page: str, method: str, path: str
) -> None:
    """A library that uses the client survives a restart of the server."""
    client = load(page).create_app().test_client()
    server.kill()

    with ThreadPoolExecutor() as threads:
        request = threads.submit(client.open, path, method=method)

        with pytest.raises(TimeoutError):
            request.result(timeout=0.3)

        server.start()
        assert request.result().status_code in (200, 202)


@pytest.mark.parametrize(
    ("page", "method", "path"),
    [
        ("flask-limiter", "GET", "/"),
        ("flask-rq", "POST", "/texts"),
        ("huey", "POST", "/texts"),
    ],
)
def test_with_socket_timeouts(
    load: Load,
    server: Server,
    environment: pytest.MonkeyPatch,
    page: str,
    method: str,
    path: str,
) -> None:
    """A library that uses only the pool waits for the socket timeout and does not
    retry.
    """
    for prefix in ("REDIS", "JOBS"):
        environment.setenv(f"FLASK_{prefix}_SOCKET_TIMEOUT", "0.3")
        environment.setenv(f"FLASK_{prefix}_RETRY_DEADLINE", "300")

    app = load(page).create_app()
    app.testing = True
    client = app.test_client()
    assert client.open(path, method=method).status_code in (200, 202)
    server.pause()

    try:
        with pytest.raises(redis.TimeoutError):
            client.open(path, method=method)
    finally:
        server.resume()

    server.kill()

    with pytest.raises(redis.ConnectionError):
        client.open(path, method=method)
