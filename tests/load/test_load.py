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
from tests.servers import wait_until
from tests.web import Gunicorn
from tests.web import gunicorn

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

CLIENTS = 64
SECONDS = 60
WORKERS = 2
CONNECTIONS = 8

#: RETRY_DEADLINE plus SOCKET_TIMEOUT, plus 2 s for a busy machine.
LONGEST_ANSWER = 5 + 5 + 2


class Answer(t.NamedTuple):
    at: float
    seconds: float
    status: int


class Clients:
    """Threads that send requests in a loop, each with a token of its own."""

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
            # A worker must not drop a connection.
            self.wrong.append(repr(error))

    def _ask_some(self) -> None:
        """Send some requests over one connection.

        Their number is limited. Otherwise one worker might keep all connections.
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
        """Return the number of successful answers in each step of time."""
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
    """Kill random connections for 8 s."""
    with server.admin(client_name="killer") as admin:
        for _ in range(80):
            ids = [
                client["id"]
                for client in admin.client_list()
                if client["name"] != "killer"
            ]

            if ids:
                admin.client_kill_filter(_id=random.choice(ids))

            time.sleep(0.1)


def memory_of(workers: set[int]) -> int:
    """Return the resident memory of the workers in bytes."""
    pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in workers)
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    "worker",
    [
        pytest.param(["--threads", "16"], id="threads"),
        pytest.param(["--worker-class", "gevent"], id="gevent"),
    ],
)
def test_load(start: Starter, tmp_path: Path, worker: list[str]) -> None:
    """While Redis fails under load, each request gets its own reply, or an error in
    time. Soon after each fault, the app is as fast as before.
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
    # The first worker may answer before the second one starts.
    wait_until(lambda: len(served.workers()) == WORKERS, "the workers have started")
    workers = served.workers()

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

    slowest = max(answer.seconds for answer in clients.answers)
    failed = sum(answer.status == 503 for answer in clients.answers)
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
    # Other load on the machine sometimes halves the rate of one step.
    assert min(after) > usual / 3
    assert grown < 0.1 * memory

    with server.admin() as admin:
        names = [client["name"] for client in admin.client_list()]

    assert 1 <= names.count("load") <= WORKERS * CONNECTIONS
