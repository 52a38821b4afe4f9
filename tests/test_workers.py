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
        result: dict[str, t.Any] = json.loads(body)
        return result
    finally:
        connection.close()


def get_many(port: int, path: str, count: int) -> list[dict[str, t.Any]]:
    """Send many tokens to the app, and check that each response has its own token."""
    tokens = [f"t{number}" for number in range(count)]

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda token: get(port, f"{path}/{token}"), tokens))

    for token, result in zip(tokens, results, strict=True):
        assert set(result["replies"]) == {token}

    return results


def ids_of(server: Server) -> set[str]:
    """The ids of the server's connections, without the one that lists them."""
    with server.admin(client_name="asks") as client:
        return {
            connection["id"]
            for connection in client.client_list()
            if connection["name"] != "asks"
        }


@pytest.fixture(scope="module")
def engines(_start: Starter, certificates: Certificates) -> dict[str, str]:
    """Environment variables that configure a Redis of each kind."""
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
    """Workers receive only their own replies, even if they were forked from a parent
    that used every engine.
    """
    arguments = ["--preload", "--workers", "4", *worker]

    with gunicorn(APP, tmp_path / "log", engines, *arguments) as served:
        results = get_many(served.port, "/echo", 400)

    # 400 requests with two replies from each of four prefixes.
    assert sum(len(result["replies"]) for result in results) == 3200
    assert len({result["pid"] for result in results}) == 4


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
            get_many(served.port, f"/async/{prefix}", 20)

        deadline = time.monotonic() + 10

        # The workers' synchronous pools may have connections. No request may add any.
        while extra := ids_of(server) - before:
            assert time.monotonic() < deadline, extra
            time.sleep(0.05)
