from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import statistics
import threading
import time
import typing as t
from pathlib import Path

import pytest

from tests.conftest import Starter
from tests.servers import Server
from tests.web import Gunicorn
from tests.web import gunicorn

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

CLIENTS = 64
SECONDS = 60
WORKERS = 2
CONNECTIONS = 8

#: RETRY_DEADLINE and SOCKET_TIMEOUT, and what a busy machine adds.
LONGEST_ANSWER = 5 + 5 + 2


class Answer(t.NamedTuple):
    at: float
    seconds: float
    status: int


class Clients:
    """Threads that ask for a token of their own again and again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._done = threading.Event()
        self._numbers = itertools.count()
        self.answers: list[Answer] = []
        self.pids: set[int] = set()
        self.wrong: list[str] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def _ask(self) -> None:
        try:
            while not self._done.is_set():
                self._ask_some()
        except Exception as error:
            # No worker may drop a connection.
            self.wrong.append(repr(error))

    def _ask_some(self) -> None:
        """Ask over one connection, and for so long only: else one worker may keep all
        connections.
        """
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        ) as connection:
            for _ in range(20):
                token = f"t{next(self._numbers)}"
                started = time.monotonic()
                connection.request("GET", f"/{token}")
                response = connection.getresponse()
                body = response.read()
                now = time.monotonic()
                self.answers.append(Answer(now, now - started, response.status))

                if response.status == 200:
                    said = json.loads(body)
                    self.pids.add(said["pid"])

                    if said["values"] != [token, token]:
                        self.wrong.append(f"{token}: {said}")

                elif response.status != 503:
                    self.wrong.append(f"{token}: {response.status}")

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()

        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()

        for thread in self._threads:
            thread.join()

    def rates(self, since: float, until: float, step: float = 0.5) -> list[int]:
        """How many right answers there were in each half second."""
        counts = [0] * int((until - since) / step)

        for answer in self.answers:
            index = int((answer.at - since) // step)

            if answer.status == 200 and 0 <= index < len(counts):
                counts[index] += 1

        return counts


def restart(server: Server) -> None:
    server.kill()
    time.sleep(2)
    server.start()


def pause(server: Server) -> None:
    server.pause()
    time.sleep(3)
    server.resume()


def kill_clients(server: Server) -> None:
    """Cut connections at random, for 8 s."""
    with server.admin(client_name="killer") as admin:
        for _ in range(80):
            ids = [it["id"] for it in admin.client_list() if it["name"] != "killer"]

            if ids:
                admin.client_kill_filter(_id=random.choice(ids))

            time.sleep(0.1)


def memory_of(workers: set[int]) -> int:
    """Their resident memory in bytes."""
    pages = (int(Path(f"/proc/{it}/statm").read_text().split()[1]) for it in workers)
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    "worker",
    [
        pytest.param(["--threads", "16"], id="threads"),
        pytest.param(["--worker-class", "gevent"], id="gevent"),
    ],
)
def test_load(start: Starter, tmp_path: Path, worker: list[str]) -> None:
    """Under load, whatever Redis does, each request gets its own reply, or an error in
    time; and all is as before soon after.
    """
    if "gevent" in worker:
        pytest.importorskip("gevent")

    server = start(Server)
    environment = {
        "FLASK_REDIS_URL": server.url,
        "FLASK_REDIS_MAX_CONNECTIONS": str(CONNECTIONS),
        "FLASK_REDIS_CLIENT_NAME": "load",
    }
    arguments = ["--workers", str(WORKERS), "--keep-alive", "75", *worker]

    with gunicorn(
        "tests.load.app:app", tmp_path / "log", environment, *arguments
    ) as served:
        put_under_load(served, server)


def put_under_load(served: Gunicorn, server: Server) -> None:
    workers = served.workers()
    assert len(workers) == WORKERS

    with Clients(served.port) as clients:
        started = time.monotonic()
        time.sleep(8)
        usual = statistics.median(clients.rates(started + 2, time.monotonic()))
        memory = memory_of(workers)
        ends = []

        for fault in (restart, pause, kill_clients, restart, pause):
            fault(server)
            ends.append(time.monotonic())
            time.sleep(5)

        time.sleep(max(0, started + SECONDS - time.monotonic()))

    slowest = max(it.seconds for it in clients.answers)
    failed = sum(it.status == 503 for it in clients.answers)
    grown = memory_of(workers) - memory
    after = [max(clients.rates(end, end + 2)) for end in ends]
    print(
        f"{len(clients.answers)} answers, {failed} failed, slowest {slowest:.1f} s;"
        f" usual {usual:g} in half a second, best within 2 s of each fault {after};"
        f" memory {memory >> 20} MiB and {grown / 2**20:+.1f}"
    )
    assert clients.wrong == []
    assert served.workers() == workers == clients.pids
    assert slowest < LONGEST_ANSWER
    assert min(after) > usual / 2
    assert grown < 0.1 * memory

    with server.admin() as admin:
        names = [it["name"] for it in admin.client_list()]

    assert 1 <= names.count("load") <= WORKERS * CONNECTIONS
