"""The servers of the chaos tests, with a proxy in front of each, and what happens to
them. A failover loses nothing here, so that lost commands are the client's fault.
"""

from __future__ import annotations

import abc
import collections
import collections.abc as cabc
import contextlib
import random
import time
import typing as t
from pathlib import Path

from tests.chaos.proxy import Proxy
from tests.servers import _call
from tests.servers import _fields
from tests.servers import are_linked
from tests.servers import Cluster
from tests.servers import free_ports
from tests.servers import replication
from tests.servers import Sentinels
from tests.servers import Server
from tests.servers import wait_until

if t.TYPE_CHECKING:
    from typing_extensions import Self

#: The clients' settings, in seconds.
DEADLINE = 4.0
TIMEOUT = 0.5

#: What a loaded machine may need for a failover, in seconds.
PATIENCE = 60.0

# Milliseconds until servers cause a failover of their own, which would lose commands.
# They do not in these tests: a loaded machine may pause a server for seconds.
_NEVER = 600_000

# Nothing listens there.
_UNUSED_PORT = 1


class Stage(abc.ABC):
    """Servers, started in a ``with`` block, and the proxies in front of them."""

    #: The database that clients use.
    database: int = 5
    #: Seconds that an attempt of a command may take.
    longest_attempt: float = TIMEOUT

    def __init__(self, command: str, directory: Path, seed: int) -> None:
        #: Draws what happens to the servers, and when.
        self.random: random.Random = random.Random(f"{seed} servers")
        self.proxies: list[Proxy] = []
        self._seed = seed
        self._ports: dict[int, int] = {}
        self._stack = contextlib.ExitStack()

    @property
    @abc.abstractmethod
    def url(self) -> str: ...

    @property
    @abc.abstractmethod
    def servers(self) -> list[Server]:
        """The servers that keep data."""

    @property
    @abc.abstractmethod
    def events(self) -> list[cabc.Callable[[], None]]:
        """What may happen to the servers. Each event waits until all is well again."""

    def shuffled_events(self) -> list[cabc.Callable[[], None]]:
        return self.random.sample(self.events, len(self.events))

    def mark(self) -> None:
        """Set the key "where" in each database to its name."""
        for number in (0, self.database):
            with self.servers[0].admin(db=number) as admin:
                admin.set("where", f"database {number}")

    def count_clients(self, name: str) -> int:
        """How many connections with this name the servers have."""
        count = 0

        for server in self.servers:
            with server.admin() as admin:
                count += [each["name"] for each in admin.client_list()].count(name)

        return count

    def set_wild(self, is_wild: bool) -> None:
        for proxy in self.proxies:
            proxy.is_wild = is_wild

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __str__(self) -> str:
        faults: collections.Counter[str] = collections.Counter()

        for proxy in self.proxies:
            faults += proxy.faults

        return str(dict(faults))

    def _place(self, servers: cabc.Iterable[Server]) -> str:
        """Put proxies in front of servers. Returns their addresses."""
        addresses = []

        for server in servers:
            seed = f"{self._seed} proxy {len(self.proxies)}"
            # A reply may come just before its time is over, or after.
            proxy = Proxy(server.port, seed, 1.5 * TIMEOUT, self._ports)
            self._stack.enter_context(proxy)
            self.proxies.append(proxy)
            self._ports[server.port] = proxy.port
            addresses.append(f"127.0.0.1:{proxy.port}")

        return ",".join(addresses)


class Single(Stage):
    """One server. It writes each change to a file, to have it after a restart."""

    def __init__(self, command: str, directory: Path, seed: int) -> None:
        super().__init__(command, directory, seed)
        arguments = ["--appendonly", "yes", "--appendfsync", "no"]
        (port,) = free_ports(1)
        self._server = Server(command, directory, *arguments, port=port)
        self._stack.enter_context(self._server)
        self._address = self._place([self._server])

    @property
    def url(self) -> str:
        return f"redis://{self._address}/{self.database}"

    @property
    def servers(self) -> list[Server]:
        return [self._server]

    @property
    def events(self) -> list[cabc.Callable[[], None]]:
        return [self._restart, self._pause, self._kill_clients]

    def _restart(self) -> None:
        self._server.kill()
        time.sleep(self.random.uniform(0, 2))
        self._server.start()

    def _pause(self) -> None:
        self._server.pause()
        time.sleep(self.random.uniform(0.1, 1.5 * DEADLINE))
        self._server.resume()

    def _kill_clients(self) -> None:
        with self._server.admin() as admin:
            for _ in range(10):
                admin.client_kill_filter(_type="normal", skipme=True)
                time.sleep(self.random.uniform(0, 0.2))


class WithSentinels(Stage):
    """A master, two replicas and three sentinels."""

    # Each sentinel, and the master, may hang while it is connected, and after that.
    longest_attempt = 2 * 4 * TIMEOUT

    def __init__(self, command: str, directory: Path, seed: int) -> None:
        super().__init__(command, directory, seed)
        self._all = Sentinels(command, directory, down_after=_NEVER)
        self._stack.enter_context(self._all)
        self._place(self._all.servers)
        self._address = self._place(self._all.sentinels)

    @property
    def url(self) -> str:
        service = self._all.SERVICE
        return f"redis+sentinel://{self._address}/{service}/{self.database}"

    @property
    def servers(self) -> list[Server]:
        return self._all.servers

    @property
    def events(self) -> list[cabc.Callable[[], None]]:
        return [self._kill, self._pause]

    def _kill(self) -> None:
        old = self._fence()
        old.kill()
        self._fail_over(old)
        old.start()
        self._join(old)

    def _pause(self) -> None:
        old = self._fence()
        old.pause()
        self._fail_over(old)
        old.resume()
        self._join(old)

    def _fence(self) -> Server:
        """The master, which does not write any more."""
        old = self._all.master()
        fence(old, self._others(old))
        return old

    def _others(self, server: Server) -> list[Server]:
        return [each for each in self.servers if each is not server]

    def _fail_over(self, old: Server) -> None:
        """Let a replica take over, and wait until no sentinel names the old master.
        Otherwise it might get commands when it is back, and lose them.
        """
        time.sleep(self.random.uniform(0, DEADLINE))
        service = self._all.SERVICE

        def ask(sentinel: Server) -> dict[str, str]:
            with sentinel.admin(protocol=2) as admin:
                return _fields(_call(admin, "SENTINEL MASTER", service))

        def is_replaced() -> bool:
            first, *others = self._all.sentinels
            state = ask(first)

            if state["port"] != str(old.port):
                return all(ask(each)["port"] != str(old.port) for each in others)

            # It may have failed: another sentinel may take the new master for one that
            # came back.
            if "failover_in_progress" not in state["flags"]:
                with first.admin(protocol=2) as admin:
                    admin.execute_command("SENTINEL FAILOVER", service)

            return False

        wait_until(is_replaced, "the sentinels name a new master", timeout=PATIENCE)

    def _join(self, old: Server) -> None:
        """Make the old master a replica. Sentinels would do so after 8 s."""
        new = self._all.master()

        with old.admin() as admin:
            admin.replicaof("127.0.0.1", str(new.port))
            admin.client_unpause()

        wait_until(
            lambda: are_linked(new, self._others(new)), "all follow", timeout=PATIENCE
        )


class WithCluster(Stage):
    """Three masters, each with a replica."""

    database = 0
    # Each node may hang while it is connected, and after that.
    longest_attempt = 2 * 6 * TIMEOUT

    def __init__(self, command: str, directory: Path, seed: int) -> None:
        super().__init__(command, directory, seed)
        self._all = Cluster(command, directory, node_timeout=_NEVER)
        self._stack.enter_context(self._all)
        self._address = self._place(self._all.nodes)

    @property
    def url(self) -> str:
        return f"redis+cluster://{self._address}"

    @property
    def servers(self) -> list[Server]:
        return self._all.nodes

    @property
    def events(self) -> list[cabc.Callable[[], None]]:
        return [self._kill, self._move]

    def mark(self) -> None:
        with self._all.master_of("where").admin() as admin:
            admin.set("where", "database 0")

    def _draw_key(self) -> str:
        # In the slot of one thread, see User.
        return f"{{AGAIN-{self.random.randrange(4)}}}"

    def _kill(self) -> None:
        """Kill a master. Its replica takes over, and it comes back as a replica."""
        key = self._draw_key()
        old = self._all.master_of(key)
        new = next(
            node
            for node in self.servers
            if replication(node).get("master_port") == old.port
        )
        fence(old, [new])
        old.kill()
        time.sleep(self.random.uniform(0, DEADLINE))

        with new.admin() as admin:
            # Without votes: a master votes for a shard again only after a while.
            admin.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")

        wait_until(lambda: self._is_master(new, key), "it took over", timeout=PATIENCE)
        # It has lost its data, and until it meets the others, it may still be a master.
        proxy = self.proxies[self.servers.index(old)]
        proxy.upstream = _UNUSED_PORT
        old.start()

        with old.admin() as admin:
            admin.config_set("cluster-node-timeout", _NEVER)

        wait_until(lambda: are_linked(new, [old]), "it follows", timeout=PATIENCE)
        proxy.upstream = old.port
        self._wait_until_agreed()

    def _is_master(self, node: Server, key: str) -> bool:
        try:
            return self._all.master_of(key) is node
        except LookupError:
            return False

    def _move(self) -> None:
        """Move a slot to another master."""
        key = self._draw_key()
        source = self._all.master_of(key)
        masters = [
            node for node in self.servers if replication(node)["role"] == "master"
        ]
        target = self.random.choice([node for node in masters if node is not source])

        with source.admin() as old, target.admin() as new:
            slot = old.execute_command("CLUSTER", "KEYSLOT", key)
            ids = [
                admin.execute_command("CLUSTER", "MYID").decode()
                for admin in (old, new)
            ]
            new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
            old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])

            def is_empty() -> bool:
                keys = old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 50)

                if keys:
                    time.sleep(self.random.uniform(0, 0.05))
                    old.migrate("127.0.0.1", target.port, keys, 0, 5000, replace=True)

                return not keys

            wait_until(is_empty, "the slot's keys have moved", timeout=PATIENCE)

            # The target first: otherwise nobody serves the slot for a while.
            for admin in (new, old):
                admin.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])

        self._wait_until_agreed()

    def _wait_until_agreed(self) -> None:
        """Wait until all nodes know the same masters of all slots."""

        def are_agreed() -> bool:
            views = []

            for node in self.servers:
                with node.admin() as admin:
                    shards = _call(admin, "CLUSTER SLOTS")

                views.append(sorted((*shard[:2], shard[2][1]) for shard in shards))

            return all(view == views[0] for view in views)

        wait_until(are_agreed, "all nodes know the masters", timeout=PATIENCE)


def fence(master: Server, replicas: list[Server]) -> None:
    """Stop writes, and wait until replicas know all that the master has answered."""
    with master.admin() as admin:
        admin.execute_command("CLIENT", "PAUSE", int(1000 * PATIENCE), "WRITE")

    def have_all() -> bool:
        offset = replication(master)["master_repl_offset"]
        return are_linked(master, replicas) and all(
            replication(replica)["slave_repl_offset"] >= offset for replica in replicas
        )

    wait_until(have_all, "the replicas know all", timeout=PATIENCE)


STAGES: dict[str, type[Stage]] = {
    "single": Single,
    "sentinel": WithSentinels,
    "cluster": WithCluster,
}
