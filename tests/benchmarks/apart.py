"""Benchmarks that run in separate processes.

Run as a program, this module is one of these processes. It prints its result as JSON.
"""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import gc
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import typing as t
from pathlib import Path

import psutil
from ephemeral_port_reserve import reserve

from .rounds import interleave
from .rounds import Times

THREADS = 8
REQUESTS = 25
APPS = 10_000


def ask(what: str, *arguments: str, **environment: str) -> t.Any:
    """Call one of the functions below in a new process and return its result."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, what, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def views(url: str) -> Times:
    """Measure the requests per second of a Flask view, under gunicorn with threads.

    Two processes that do the same differ by 4 %, so many pairs of them are measured.
    """
    factories = [("redis-py", "make_raw"), ("proxy", "make_ours")]
    times: Times = {name: [] for name, _ in factories}

    for _ in range(25):
        factories.reverse()

        with contextlib.ExitStack() as stack:
            rates = {
                name: stack.enter_context(serve(factory, url))
                for name, factory in factories
            }
            pair = interleave(rates, 6)

        for name in times:
            times[name] += pair[name]

    return times


@contextlib.contextmanager
def serve(factory: str, url: str) -> cabc.Iterator[cabc.Callable[[], float]]:
    """Run a server. Yield a function that measures it under load."""
    port = reserve("127.0.0.1")
    arguments = ["--threads", str(THREADS), "--keep-alive", "75", "--log-level=error"]
    # Two servers run at the same time, and would use the same control socket.
    arguments += ["--no-control-socket"]
    arguments += ["--bind", f"127.0.0.1:{port}", f"tests.benchmarks.view:{factory}()"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", *arguments],
        env={**os.environ, "BENCHMARK_URL": url},
    )

    try:
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(connect(port)) for _ in range(THREADS)]
            yield lambda: measure_load(connections)
    finally:
        process.terminate()
        process.wait()


def connect(port: int) -> socket.socket:
    for _ in range(1000):
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), timeout=30)

        time.sleep(0.01)

    raise TimeoutError("gunicorn does not listen.")


def measure_load(connections: list[socket.socket]) -> float:
    """Return the requests per second over all connections."""
    failures: list[bytes] = []

    def work(connection: socket.socket) -> None:
        for _ in range(REQUESTS):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            reply = b""

            # The view's JSON ends with a brace and a newline.
            while not reply.endswith(b"}\n"):
                if not (part := connection.recv(4096)):
                    break

                reply += part

            if not reply.startswith(b"HTTP/1.1 200"):
                failures.append(reply)

    workers = [
        threading.Thread(target=work, args=(connection,)) for connection in connections
    ]
    began = time.perf_counter()

    for each in workers:
        each.start()

    for each in workers:
        each.join()

    seconds = time.perf_counter() - began
    assert not failures, failures[0]
    return len(connections) * REQUESTS / seconds


def imports() -> tuple[float, list[str]]:
    """Return the seconds of an import, and the modules that it imported too early."""
    with tempfile.TemporaryDirectory() as directory:
        # The first import compiles the code. The others use it, as if installed.
        environment = {"PYTHONPYCACHEPREFIX": directory, "PYTHONDONTWRITEBYTECODE": ""}
        results = [ask("import", **environment) for _ in range(26)][1:]

    seconds = [result["seconds"] for result in results]
    return statistics.median(seconds), results[0]["too early"]


def import_once() -> t.Any:
    import flask
    import redis

    assert flask is not None and redis is not None
    before = set(sys.modules)
    began = time.perf_counter()
    import flask_and_redis

    seconds = time.perf_counter() - began
    assert flask_and_redis is not None
    # redis-py has imported hiredis, if that is there.
    roots = {name.partition(".")[0] for name in set(sys.modules) - before}
    early = roots & {"fakeredis", "lupa", "valkey", "hiredis", "opentelemetry"}
    return {"seconds": seconds, "too early": sorted(early)}


def make_apps(url: str) -> t.Any:
    """Create, use and drop many apps. Return by how many bytes the process grew after
    the first tenth of them, by the median of the other tenths: a table of the
    interpreter that grows once is no leak.
    """
    from .inside import make_app

    def use_app() -> None:
        app, manager = make_app(url)

        with app.app_context():
            manager.get().get("k")

    def size() -> int:
        gc.collect()
        return int(psutil.Process().memory_info().rss)

    sizes = []

    for _ in range(10):
        for _ in range(APPS // 10):
            use_app()

        sizes.append(size())

    steps = [after - before for before, after in itertools.pairwise(sizes)]
    return statistics.median(steps) * len(steps)


def parsers(url: str, hiredis: Path) -> dict[str, Times]:
    """Return the seconds for replies with redis-py's own parser and with hiredis.

    redis-py uses hiredis whenever it can import it. So hiredis is in a separate
    directory.
    """
    paths = {"redis-py": "", "hiredis": str(hiredis)}
    results: dict[str, Times] = {}

    for _ in range(5):
        for parser, path in paths.items():
            for reply, seconds in ask("replies", url, PYTHONPATH=path).items():
                times = results.setdefault(reply, {name: [] for name in paths})
                times[parser].append(seconds)

    return results


def main(what: str, *arguments: str) -> t.Any:
    if what == "import":
        return import_once()

    if what == "apps":
        return make_apps(*arguments)

    from .inside import replies

    return replies(*arguments)


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
