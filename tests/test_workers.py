from __future__ import annotations

import http.client
import json
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .conftest import Starter
from .servers import Certificates
from .servers import Cluster
from .servers import Sentinels
from .servers import Server
from .web import gunicorn

APP = "tests.workers_app:app"


def get(port: int, path: str) -> dict[str, t.Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        found: dict[str, t.Any] = json.loads(body)
        return found
    finally:
        connection.close()


def get_many(port: int, path: str, count: int) -> list[dict[str, t.Any]]:
    """What the app says to many tokens, of which each gets its own."""
    tokens = [f"t{number}" for number in range(count)]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda token: get(port, f"{path}/{token}"), tokens))

    for token, said in zip(tokens, found, strict=True):
        assert set(said["replies"]) == {token}

    return found


def ids_of(server: Server) -> set[str]:
    """The connections of a server, but the one that asks."""
    with server.admin(client_name="asks") as client:
        return {it["id"] for it in client.client_list() if it["name"] != "asks"}


@pytest.fixture(scope="module")
def engines(_start: Starter, certificates: Certificates) -> dict[str, str]:
    """An environment that names a Redis of each kind."""
    sentinels = _start(Sentinels)
    tls = _start(Server, certificates=certificates)
    return {
        "FLASK_REDIS_URL": _start(Server).url,
        "FLASK_CLUSTER_URL": f"redis+cluster://{_start(Cluster).address}",
        "FLASK_SENTINEL_URL": f"redis+sentinel://{sentinels.address}/mymaster",
        "FLASK_TLS_URL": f"{tls.url}?ssl_ca_certs={certificates.ca}",
    }


@pytest.mark.parametrize("worker", [["--threads", "1"], ["--threads", "4"]])
def test_forked_workers(
    engines: dict[str, str], tmp_path: Path, worker: list[str]
) -> None:
    """Workers forked from a parent that used every engine get their own replies."""
    arguments = ["--preload", "--workers", "4", *worker]

    with gunicorn(APP, tmp_path / "log", engines, *arguments) as served:
        found = get_many(served.port, "/echo", 800)

    # Four prefixes with two replies each, twice: 6,400 a run of this test.
    assert sum(len(said["replies"]) for said in found) == 6400
    assert len({said["pid"] for said in found}) == 4


@pytest.mark.parametrize("worker", [["--threads", "1"], ["--threads", "4"]])
def test_async_views(
    engines: dict[str, str], server: Server, tmp_path: Path, worker: list[str]
) -> None:
    """Asynchronous views work in each kind of worker and leave no connection open."""
    environment = {**engines, "FLASK_REDIS_URL": server.url}

    arguments = ["--preload", "--workers", "2", *worker]

    with gunicorn(APP, tmp_path / "log", environment, *arguments) as served:
        before = ids_of(server)

        for prefix in ("REDIS", "CLUSTER", "SENTINEL", "TLS"):
            get_many(served.port, f"/async/{prefix}", 50)

        deadline = time.monotonic() + 10

        # The workers' synchronous pools may be open. No request added to them.
        while extra := ids_of(server) - before:
            assert time.monotonic() < deadline, extra
            time.sleep(0.05)
