"""Run redis-py's own tests, with redis-py alone and with this package's clients.

What passes with redis-py alone must pass with this package, or be listed in listed.txt
with the reason. A listed test must fail. One with a question mark may also pass.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import re
import socket
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import redis

from ..servers import BUS
from ..servers import Cluster
from ..servers import find_command
from ..servers import Sentinels
from ..servers import Server

HERE = Path(__file__).parent

#: The names of redis-py's files whose tests run.
NAMES = [
    *("client", "cluster", "cluster_transaction", "command_parser"),
    *("command_policies", "connect", "connection", "connection_pool", "cwe_404"),
    *("encoding", "keyspace_notifications", "lock", "max_connections_error", "monitor"),
    *("multiprocessing", "pipeline", "pubsub", "retry", "scripting", "sentinel"),
    *("sentinel_managed_connection", "usage_counter"),
]

# The others need modules of the server, TLS or other services.
_WANTED = "not redismod and not ssl and not cp_integration and not multidb_integration"

#: The ports of the first two nodes of the cluster in redis-py's tests.
NODES = (16_379, 16_380)

#: How far the ports of proxies are from those of the nodes that they stand for.
PROXIES = 1000

_WITH_PORT = r'\1[0], "port": master_host[1]}'

#: Milliseconds until a server counts as down. They are many, so that a slow machine
#: causes no failover.
PATIENCE = 15_000

#: Whether each test passed, without those that were skipped.
Results = dict[str, bool]

#: The tests that are listed, and whether each must fail.
Listed = dict[str, bool]


class Service(Sentinels):
    """Sentinels that watch the service that redis-py's tests name."""

    SERVICE = "redis-py-test"


class AdjacentCluster(Cluster):
    """A cluster whose nodes have adjacent ports, as redis-py's tests expect."""

    def __init__(self, command: str, directory: Path, *arguments: str) -> None:
        super().__init__(command, directory, *arguments, node_timeout=PATIENCE)

        for node, port in zip(self.nodes, adjacent_ports(len(self.nodes)), strict=True):
            node.port = port


def adjacent_ports(count: int) -> range:
    """Adjacent ports that are free. Those of their buses and proxies are free too."""
    for first in range(NODES[0], 20_000, count):
        ports = range(first, first + count)

        if all(
            is_free(port + offset) for port in ports for offset in (0, PROXIES, BUS)
        ):
            return ports

    raise RuntimeError("Too few free ports.")


def is_free(port: int) -> bool:
    """Whether a server can use a port."""
    with socket.socket() as listener, contextlib.suppress(OSError):
        listener.bind(("127.0.0.1", port))
        return True

    return False


class Servers:
    """The servers that redis-py's tests need.

    :param command: The command that starts Redis.
    :param directory: Where to put their files.
    :param stack: Stops them.
    """

    def __init__(
        self, command: str, directory: Path, stack: contextlib.ExitStack
    ) -> None:
        for name in ("server", "sentinels", "cluster"):
            (directory / name).mkdir()

        # They stop the server while it loads, for example.
        debug = ("--enable-debug-command", "yes")
        server = Server(command, directory / "server", *debug)
        self.server = stack.enter_context(server)
        cluster = AdjacentCluster(command, directory / "cluster", *debug)
        self.cluster = stack.enter_context(cluster)
        sentinels = Service(command, directory / "sentinels", down_after=PATIENCE)
        self.sentinels = stack.enter_context(sentinels)


def download(directory: Path) -> Path:
    """Download the source distribution of the installed redis-py, and unpack its tests.

    :param directory: Where to put them.
    :return: The directory above the tests.
    """
    name = f"redis-{redis.__version__}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    options = ["--no-binary", "redis", "--dest", str(directory)]
    subprocess.run([*pip, *options, f"redis=={redis.__version__}"], check=True)

    with tarfile.open(directory / f"{name}.tar.gz") as archive:
        # Not redis itself: the installed one is tested.
        wanted = tuple(f"{name}/{part}" for part in ("tests/", "pyproject.toml"))
        members = [each for each in archive if each.name.startswith(wanted)]
        archive.extractall(directory, members, filter="data")

    return directory / name


def adapt(root: Path, servers: Servers) -> None:
    """Change redis-py's tests where they name ports, and one setting that makes them
    slow.

    :param root: The directory above the tests.
    :param servers: The servers.
    """
    nodes = {
        rf"\b{port}\b": str(node.port)
        for port, node in zip(NODES, servers.cluster.nodes, strict=False)
    }
    changes = {
        "conftest": {r"tracemalloc\.start\(\)": "pass"},
        "test_cluster": nodes,
        "test_cwe_404": nodes,
        "test_connection_pool": {r'("host": master_host)\[0\]}': _WITH_PORT},
        "test_sentinel": {r"\b6379\b": str(servers.server.port)},
    }

    for name, changed in changes.items():
        for path in root.glob(f"tests/**/{name}.py"):
            text = path.read_text()

            for pattern, new in changed.items():
                text = re.sub(pattern, new, text)

            path.write_text(text)


def run_all(root: Path, servers: Servers, *arguments: str) -> Results:
    """Run redis-py's tests: first those that need no cluster, then the others.

    :param root: The directory above the tests.
    :param servers: The servers.
    :param arguments: Further arguments of pytest.
    """
    sentinels = servers.sentinels.address.replace("127.0.0.1", "localhost")
    results: Results = {}

    for condition, server in {
        "not onlycluster": servers.server,
        "onlycluster": servers.cluster.nodes[0],
    }.items():
        addresses = [
            f"--sentinels={sentinels}",
            f"--redis-url=redis://localhost:{server.port}/0",
        ]
        wanted = ["-m", f"{condition} and {_WANTED}"]
        results |= run(root, *wanted, *addresses, *arguments)

    return results


def run(root: Path, *arguments: str) -> Results:
    """Run redis-py's tests once.

    :param root: The directory above the tests.
    :param arguments: Further arguments of pytest.
    :raises RuntimeError: If pytest did not run to the end.
    """
    report = root / "report.xml"
    options = ["-o", "junit_family=xunit1", f"--junitxml={report}", "-o", "addopts="]
    paths = [
        path
        for part in ("", "test_asyncio/")
        for name in NAMES
        if (root / (path := f"tests/{part}test_{name}.py")).exists()
    ]
    places = [str(HERE), os.environ.get("PYTHONPATH", "")]
    pytest = [sys.executable, "-m", "pytest", "-q", "--tb=native"]
    # Some tests depend on how fast the machine is.
    patience = ["--reruns=2", "--timeout=300"]
    process = subprocess.run(
        [*pytest, *patience, *options, *arguments, *paths],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
    )

    # 1 means that tests failed.
    if process.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {process.returncode}.")

    results: Results = {}

    for case in ElementTree.parse(report).iter("testcase"):
        name = _name_of(case)
        outcomes = {child.tag for child in case}
        passed = not outcomes & {"failure", "error"}

        if "skipped" in outcomes:
            results.pop(name, None)
        else:
            # There is another one for each run, and for an error after the test.
            results[name] = passed and results.get(name, True)

    return results


def _name_of(case: ElementTree.Element) -> str:
    """The name of a test, as pytest takes it."""
    file = case.attrib["file"]
    module = file.removesuffix(".py").replace("/", ".")
    cls = case.attrib["classname"].removeprefix(module).replace(".", "::")
    return f"{file}{cls}::{case.attrib['name']}"


def read_list() -> Listed:
    """The tests that are listed. The other lines are the reasons."""
    lines = (HERE / "listed.txt").read_text().splitlines()
    return {line.strip(" ?"): "?" not in line for line in lines if line[:1] == " "}


def compare(alone: Results, ours: Results, listed: Listed) -> list[str]:
    """What is wrong.

    :param alone: The results with redis-py alone.
    :param ours: Those with this package.
    :param listed: The tests that fail with this package.
    """
    broken = [name for name, passed in alone.items() if passed and not ours.get(name)]
    missing = [name for name in broken if not listed.keys() & _ways_to_list(name)]
    ways = {
        outcome: {
            way for name in ours if ours[name] is outcome for way in _ways_to_list(name)
        }
        for outcome in (True, False)
    }
    fails = ways[False] - ways[True]
    outdated = [name for name, must in listed.items() if must and name not in fails]
    unknown = listed.keys() - ways[False] - ways[True]
    return [
        *(f"Fails, and is not listed: {name}" for name in missing),
        *(f"Is listed, and did not run: {name}" for name in sorted(unknown)),
        *(f"Is listed, and does not fail: {name}" for name in outdated),
    ]


def _ways_to_list(name: str) -> set[str]:
    """How to list a test: with its parameters, or without them if it fails with all."""
    return {name, name.partition("[")[0]}


def write_report(path: Path, alone: Results, ours: Results, listed: Listed) -> None:
    """Write how many tests of each file passed, and how many are listed.

    :param path: Where to write it.
    """
    columns = [
        [name for name, passed in alone.items() if passed],
        [name for name, passed in ours.items() if passed],
        [name for name in alone if listed.keys() & _ways_to_list(name)],
    ]
    counts = [Counter(name.partition("::")[0] for name in names) for names in columns]

    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "redis-py alone", "Flask-And-Redis", "listed"])
        names = sorted(counts[0])
        writer.writerows([name, *(each[name] for each in counts)] for name in names)


def main() -> str | None:
    """Run everything. Return what is wrong."""
    parser = argparse.ArgumentParser("tests.upstream", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()

    # The list is that of one version.
    if (command := find_command("redis8")) is None:
        return "Set REDIS8_SERVER to a server of Redis 8."

    root = download(arguments.directory)

    with contextlib.ExitStack() as stack:
        servers = Servers(command, arguments.directory, stack)
        adapt(root, servers)
        alone = run_all(root, servers)
        ours = run_all(root, servers, "-p", "clients")

    listed = read_list()

    if arguments.csv is not None:
        write_report(arguments.csv, alone, ours, listed)

    return "\n".join(compare(alone, ours, listed)) or None


if __name__ == "__main__":
    sys.exit(main())
