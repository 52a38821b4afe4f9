"""Measure how long a request waits when Redis fails.

The contestants are Flask-And-Redis, plain redis-py and Flask-Redis. Each case starts
its own servers, and every contestant creates its client. Then the case causes the
fault, and one request of each contestant is timed. These requests run in parallel. A
request that reaches the time limit is abandoned and reported as such.

``python -m tests.benchmarks.outages [--runs 3] [--only WORD] [--csv FILE]``
"""

from __future__ import annotations

import argparse
import collections
import collections.abc as cabc
import contextlib
import csv
import dataclasses
import functools
import socket
import statistics
import sys
import tempfile
import threading
import time
import typing as t
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import flask_redis
import redis
import redis.cluster
import redis.sentinel
from flask import Flask

from flask_and_redis import RedisManager
from tests.servers import Certificates
from tests.servers import Cluster
from tests.servers import find_command
from tests.servers import find_tls_command
from tests.servers import Sentinels
from tests.servers import Server

#: Seconds after which a request is abandoned.
LIMIT = 120.0

#: The number of cases that run in parallel. They mostly wait.
AT_ONCE = 4


@dataclasses.dataclass
class Target:
    """What the contestants of a case connect to."""

    url: str
    options: dict[str, t.Any] = dataclasses.field(default_factory=dict)
    #: Whether each contestant connects before the fault.
    connected: bool = True
    #: What a request does.
    use: cabc.Callable[[t.Any], object] = lambda client: client.get("k")
    #: A function that is called with each client before the fault.
    prepare: cabc.Callable[[t.Any], object] | None = None


#: A case first yields its target, then causes the fault and yields again.
Case = cabc.Callable[[Path], cabc.Iterator[t.Any]]
CASES: dict[str, Case] = {}


def case(name: str) -> cabc.Callable[[Case], Case]:
    def add(function: Case) -> Case:
        CASES[name] = function
        return function

    return add


def make_server(directory: Path, *arguments: str, **options: t.Any) -> Server:
    command = find_tls_command() if "certificates" in options else find_command("redis")
    assert command is not None, "There is no redis-server."
    server = Server(command, directory, *arguments, **options)
    server.start()
    return server


@case("refused port")
def refused(directory: Path) -> cabc.Iterator[t.Any]:
    server = make_server(directory)
    server.stop()
    yield Target(server.url, connected=False)
    yield


@case("name that does not resolve")
def unresolvable(directory: Path) -> cabc.Iterator[t.Any]:
    yield Target("redis://no-such-host.invalid", connected=False)
    yield


@case("stopped server (SIGSTOP), new connection")
def stopped(directory: Path) -> cabc.Iterator[t.Any]:
    yield from pause(directory, connected=False)


@case("stopped server (SIGSTOP), existing connection")
def stopped_later(directory: Path) -> cabc.Iterator[t.Any]:
    yield from pause(directory)


@case("four commands in one request to a stopped server")
def four_commands(directory: Path) -> cabc.Iterator[t.Any]:
    def use(client: t.Any) -> None:
        for key in "abc":
            with contextlib.suppress(redis.RedisError):
                client.get(key)

        client.get("d")

    yield from pause(directory, use=use)


def pause(directory: Path, **target: t.Any) -> cabc.Iterator[t.Any]:
    server = make_server(directory)
    yield Target(server.url, **target)
    server.pause()
    yield
    server.stop()


@case("black hole, new connection")
def black_hole(directory: Path) -> cabc.Iterator[t.Any]:
    with socket.socket() as listener, fill(listener) as url:
        yield Target(url, connected=False)
        yield


@contextlib.contextmanager
def fill(listener: socket.socket, port: int = 0) -> cabc.Iterator[str]:
    """Fill the queue of a listener, so that new connections hang. Yield its URL."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(0)
    address = listener.getsockname()

    with contextlib.ExitStack() as stack:
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)

        time.sleep(0.1)
        yield f"redis://127.0.0.1:{address[1]}"


@case("black hole, existing connection")
def black_hole_later(directory: Path) -> cabc.Iterator[t.Any]:
    server = make_server(directory)
    relay = Relay(server.port)
    yield Target(f"redis://127.0.0.1:{relay.port}")
    relay.stop_reading()

    with socket.socket() as listener, fill(listener, relay.port):
        yield

    server.stop()


class Relay:
    """Forwards bytes to a server until it stops reading and accepting."""

    def __init__(self, upstream: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._upstream = upstream
        self._stopped = False
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listener.accept()[0]
            except OSError:
                return

            far = socket.create_connection(("127.0.0.1", self._upstream))
            self._open += [near, far]

            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (received := source.recv(65536)) and not self._stopped:
                sink.sendall(received)

    def stop_reading(self) -> None:
        self._stopped = True
        # This wakes the thread that accepts connections.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@case("restart that takes 3 s")
def restart(directory: Path) -> cabc.Iterator[t.Any]:
    server = make_server(directory)
    yield Target(server.url)
    server.stop()
    timer = threading.Timer(3, server.start)
    timer.start()
    yield
    timer.join()
    server.stop()


@case("wrong password")
def wrong_password(directory: Path) -> cabc.Iterator[t.Any]:
    server = make_server(directory, password="right")
    yield Target(server.url, {"password": "wrong"}, connected=False)
    yield
    server.stop()


@case("certificate of an unknown authority")
def bad_certificate(directory: Path) -> cabc.Iterator[t.Any]:
    certificates = Certificates(directory)
    server = make_server(directory, certificates=certificates)
    options = {"ssl_ca_certs": str(certificates.other_ca)}
    yield Target(server.url, options, connected=False)
    yield
    server.stop()


@case("full pool")
def full_pool(directory: Path) -> cabc.Iterator[t.Any]:
    server = make_server(directory)
    yield Target(
        server.url,
        {"max_connections": 1},
        connected=False,
        prepare=lambda client: client.connection_pool.get_connection(),
    )
    yield
    server.stop()


@case("Redis loads its data for 3 s")
def loading(directory: Path) -> cabc.Iterator[t.Any]:
    server = make_server(directory)
    yield Target(server.url)
    count = 3000

    with server.admin() as client:
        client.mset({f"key{number}": "v" for number in range(count)})
        client.save()

    server.stop()
    # The delay per key, in microseconds: 3 s in total.
    server.arguments = ("--key-load-delay", str(3_000_000 // count))
    server.arguments += ("--loading-process-events-interval-bytes", "1024")
    server.launch()
    yield
    server.stop()


@case("out of memory (noeviction)")
def out_of_memory(directory: Path) -> cabc.Iterator[t.Any]:
    server = make_server(directory, "--maxmemory", "1")
    yield Target(server.url, connected=False, use=lambda client: client.set("k", "v"))
    yield
    server.stop()


@case("write to a read-only replica")
def read_only(directory: Path) -> cabc.Iterator[t.Any]:
    master = make_server(directory)
    (directory / "replica").mkdir()
    replica = make_server(
        directory / "replica", "--replicaof", "127.0.0.1", str(master.port)
    )
    yield Target(replica.url, connected=False, use=lambda client: client.set("k", "v"))
    yield
    replica.stop()
    master.stop()


def make_sentinels(directory: Path) -> Sentinels:
    command = find_command("redis")
    assert command is not None
    sentinels = Sentinels(command, directory)
    sentinels.start()
    return sentinels


def behind(sentinels: Sentinels) -> Target:
    return Target(f"redis+sentinel://{sentinels.address}/mymaster")


@case("Sentinel: master killed")
def sentinel_kill(directory: Path) -> cabc.Iterator[t.Any]:
    sentinels = make_sentinels(directory)
    yield behind(sentinels)
    sentinels.master().kill()
    yield
    sentinels.stop()


@case("Sentinel: master stopped (SIGSTOP)")
def sentinel_pause(directory: Path) -> cabc.Iterator[t.Any]:
    sentinels = make_sentinels(directory)
    yield behind(sentinels)
    sentinels.master().pause()
    yield
    sentinels.stop()


@case("Sentinel: all three sentinels stopped, new connection")
def sentinels_hung(directory: Path) -> cabc.Iterator[t.Any]:
    sentinels = make_sentinels(directory)
    target = behind(sentinels)
    target.connected = False
    yield target

    for each in sentinels.sentinels:
        each.pause()

    yield
    sentinels.stop()


def make_cluster(directory: Path) -> Cluster:
    command = find_command("redis")
    assert command is not None
    cluster = Cluster(command, directory)
    cluster.start()
    return cluster


@case("Cluster: a master killed")
def cluster_kill(directory: Path) -> cabc.Iterator[t.Any]:
    cluster = make_cluster(directory)
    yield Target(f"redis+cluster://{cluster.address}")
    cluster.master_of("k").kill()
    yield
    cluster.stop()


@case("Cluster: a master stopped (SIGSTOP)")
def cluster_pause(directory: Path) -> cabc.Iterator[t.Any]:
    cluster = make_cluster(directory)
    yield Target(f"redis+cluster://{cluster.address}")
    cluster.master_of("k").pause()
    yield
    cluster.stop()


@case("Cluster: all nodes stopped, existing connections")
def cluster_hung(directory: Path) -> cabc.Iterator[t.Any]:
    yield from pause_cluster(directory, connected=True)


@case("Cluster: all nodes stopped, first use")
def cluster_hung_first(directory: Path) -> cabc.Iterator[t.Any]:
    yield from pause_cluster(directory, connected=False)


def pause_cluster(directory: Path, connected: bool) -> cabc.Iterator[t.Any]:
    cluster = make_cluster(directory)
    yield Target(f"redis+cluster://{cluster.address}", connected=connected)

    for node in cluster.nodes:
        node.pause()

    yield
    cluster.stop()


def make_request(name: str, target: Target) -> cabc.Callable[[], object] | None:
    """Return a contestant's request, or None if it does not support the engine."""
    app = Flask("outages")
    get_client = CONTESTANTS[name](target, app)

    if get_client is None:
        return None

    def request() -> object:
        with app.app_context():
            return target.use(get_client())

    if target.connected:
        request()

    if target.prepare is not None:
        with app.app_context():
            target.prepare(get_client())

    return request


def ours(target: Target, app: Flask) -> cabc.Callable[[], t.Any]:
    app.config["REDIS_URL"] = target.url
    app.config.update({f"REDIS_{k.upper()}": v for k, v in target.options.items()})
    proxy = RedisManager(app).get()
    return lambda: proxy


def by_url(target: Target, app: Flask) -> cabc.Callable[[], t.Any] | None:
    if "+" in target.url:
        # redis-py does not support such URLs.
        return None

    client = redis.Redis.from_url(target.url, **target.options)
    return lambda: client


def by_host(target: Target, app: Flask) -> cabc.Callable[[], t.Any]:
    scheme, _, rest = target.url.partition("://")
    addresses, _, service = rest.partition("/")
    nodes = []

    for address in addresses.split(","):
        host, _, port = address.partition(":")
        nodes.append((host, int(port or 6379)))

    if scheme == "redis+cluster":
        start = [redis.cluster.ClusterNode(*node) for node in nodes]  # type: ignore[no-untyped-call]
        # Creating the client connects, so it is part of the first request.
        return functools.cache(lambda: redis.RedisCluster(startup_nodes=start))

    if scheme == "redis+sentinel":
        client = redis.sentinel.Sentinel(nodes).master_for(service)  # type: ignore[no-untyped-call]
    else:
        client = redis.Redis(*nodes[0], ssl=scheme == "rediss", **target.options)

    return lambda: client


def by_flask_redis(target: Target, app: Flask) -> cabc.Callable[[], t.Any] | None:
    if "+" in target.url:
        return None

    app.config["REDIS_URL"] = target.url
    client = flask_redis.FlaskRedis(app, **target.options)
    return lambda: client


CONTESTANTS: dict[str, t.Any] = {
    "Flask-And-Redis": ours,
    "redis-py, URL": by_url,
    "redis-py, HOST": by_host,
    "Flask-Redis": by_flask_redis,
}

Outcome = tuple[float, str]


def run(name: str) -> dict[str, Outcome | None]:
    """Run one case and return the outcome of each contestant."""
    outcomes: dict[str, Outcome | None] = dict.fromkeys(CONTESTANTS)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        steps = CASES[name](Path(directory))
        target = next(steps)
        requests = {each: make_request(each, target) for each in CONTESTANTS}
        next(steps)
        threads = []

        for each, request in requests.items():
            if request is not None:
                outcomes[each] = (LIMIT, "")
                thread = threading.Thread(
                    target=measure, args=(request, outcomes, each), daemon=True
                )
                thread.start()
                threads.append(thread)

        ends = time.monotonic() + LIMIT

        for thread in threads:
            thread.join(max(0, ends - time.monotonic()))

        outcomes = dict(outcomes)
        next(steps, None)

    print(".", end="", file=sys.stderr, flush=True)
    return outcomes


def measure(
    request: cabc.Callable[[], object], outcomes: dict[str, Outcome | None], name: str
) -> None:
    started = time.monotonic()

    try:
        request()
        outcome = "done"
    except Exception as error:
        outcome = type(error).__name__

    outcomes[name] = (time.monotonic() - started, outcome)


def describe(outcomes: list[Outcome | None]) -> str:
    """Describe the median, the worst time if it differs, and how the requests ended."""
    known = [outcome for outcome in outcomes if outcome is not None]

    if not known:
        return "–"

    seconds = [outcome[0] for outcome in known]
    median, worst = statistics.median(seconds), max(seconds)

    if median >= LIMIT:
        return f"over {LIMIT:g} s"

    ends = collections.Counter(
        outcome[1] for outcome in known if outcome[1]
    ).most_common()
    text = ", ".join(end for end, _ in ends)
    time_text = f"{median:.1f} s"

    if f"{worst:.1f}" != f"{median:.1f}":
        time_text += f" (worst {worst:.1f})"

    return f"{time_text}: {text}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    names = [name for name in CASES if arguments.only in name]

    with ThreadPoolExecutor(AT_ONCE) as threads:
        runs = [(name, threads.submit(run, name)) for name in names * arguments.runs]

    print(file=sys.stderr)
    rows = [["what fails", *CONTESTANTS]]

    for name in names:
        outcomes = [future.result() for each, future in runs if each == name]
        rows.append(
            [
                name,
                *(describe([outcome[c] for outcome in outcomes]) for c in CONTESTANTS),
            ]
        )

    for row in rows:
        print(f"{row[0]:55}" + "".join(f"{cell:36}" for cell in row[1:]))

    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
