"""What fails in the measurement of outages, and what is asked of the servers."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import dataclasses
import socket
import threading
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import redis

from tests.scripted import Scripted
from tests.servers import Certificates
from tests.servers import Cluster
from tests.servers import find_command
from tests.servers import find_tls_command
from tests.servers import Sentinels
from tests.servers import Server


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
    #: Whether the request is one that follows another, which also fails.
    second: bool = False
    #: Settings of Flask-And-Redis only.
    settings: dict[str, t.Any] = dataclasses.field(default_factory=dict)


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


def get_four(client: t.Any) -> None:
    for key in "abc":
        with contextlib.suppress(redis.RedisError):
            client.get(key)

    client.get("d")


@case("four commands in one request to a stopped server")
def four_commands(directory: Path) -> cabc.Iterator[t.Any]:
    yield from pause(directory, use=get_four)


@case("four commands in the next request to a stopped server")
def four_more_commands(directory: Path) -> cabc.Iterator[t.Any]:
    yield from pause(directory, use=get_four, second=True)


def get_in_threads(client: t.Any) -> None:
    """One command in each of 16 threads. This takes as long as the slowest."""
    with ThreadPoolExecutor(16) as threads:
        for future in [threads.submit(client.get, "k") for _ in range(16)]:
            future.exception()

    future.result()


@case("16 threads at once on a stopped server, the slowest")
def many_threads(directory: Path) -> cabc.Iterator[t.Any]:
    yield from pause(directory, use=get_in_threads)


@case("16 threads again on a stopped server, the slowest")
def many_threads_again(directory: Path) -> cabc.Iterator[t.Any]:
    yield from pause(directory, use=get_in_threads, second=True)


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
    yield Target(relay.url)
    relay.stop_reading()

    with socket.socket() as listener, fill(listener, relay.port):
        yield

    server.stop()


@case("idle connection that a firewall has dropped (MAX_IDLE = 1 s)")
def dropped(directory: Path) -> cabc.Iterator[t.Any]:
    server = make_server(directory)
    relay = Relay(server.port)
    yield Target(relay.url, settings={"REDIS_MAX_IDLE": 1})
    relay.drop_connections()
    time.sleep(2)
    yield
    server.stop()


class Relay:
    """Forwards bytes to a server, until it stops without closing anything."""

    def __init__(self, upstream: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        #: The port of the server that new connections lead to.
        self.upstream = upstream
        self._dropped: set[socket.socket] = set()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listener.accept()[0]
            except OSError:
                return

            try:
                far = socket.create_connection(("127.0.0.1", self.upstream))
            except OSError:
                near.close()
                continue

            self._open += [near, far]

            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while received := source.recv(65536):
                if source not in self._dropped:
                    sink.sendall(received)

        if source not in self._dropped:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

    def drop_connections(self) -> None:
        """Forward nothing more of what existing connections send."""
        self._dropped.update(self._open)

    def stop_reading(self) -> None:
        """The same, and accept no new ones."""
        self.drop_connections()
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
    # A pool forgets a connection that nothing refers to.
    lent: list[object] = []
    yield Target(
        server.url,
        {"max_connections": 1},
        connected=False,
        prepare=lambda client: lent.append(client.connection_pool.get_connection()),
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


@case("write after the address has moved to a new master")
def moved_address(directory: Path) -> cabc.Iterator[t.Any]:
    (directory / "new").mkdir()
    old, new = make_server(directory), make_server(directory / "new")
    relay = Relay(old.port)
    yield Target(relay.url, use=lambda client: client.set("k", "v"))

    with old.admin() as admin:
        admin.replicaof("127.0.0.1", str(new.port))

    relay.upstream = new.port
    yield
    old.stop()
    new.stop()


class Token(redis.CredentialProvider):
    """A token that is renewed."""

    password = "first"

    def get_credentials(self) -> tuple[str, str]:
        return "app", self.password


@case("token of a credential provider that has expired")
def expired_token(directory: Path) -> cabc.Iterator[t.Any]:
    token = Token()

    # A real server does not forget a login.
    with Scripted() as server:
        server.users = {"app": token.password}
        yield Target(server.url, {"credential_provider": token})
        token.password = server.users["app"] = "second"

        for session in server.sessions:
            session.is_known = False

        yield


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


@case("Cluster: all nodes replaced behind one name")
def cluster_replaced(directory: Path) -> cabc.Iterator[t.Any]:
    for name in ("old", "new"):
        (directory / name).mkdir()

    old, new = make_cluster(directory / "old"), make_cluster(directory / "new")
    relay = Relay(old.nodes[0].port)
    yield Target(relay.url.replace("redis:", "redis+cluster:"))
    old.stop()
    relay.upstream = new.nodes[0].port
    yield
    new.stop()


def pause_cluster(directory: Path, connected: bool) -> cabc.Iterator[t.Any]:
    cluster = make_cluster(directory)
    yield Target(f"redis+cluster://{cluster.address}", connected=connected)

    for node in cluster.nodes:
        node.pause()

    yield
    cluster.stop()
