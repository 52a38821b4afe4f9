"""Run redis-py's own tests, with redis-py alone and with this package's clients.

What passes with redis-py alone must pass with this package, or be listed in listed.txt
with the reason. A listed test must fail.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import redis

from ..servers import find_command
from ..servers import Sentinels
from ..servers import Server

HERE = Path(__file__).parent

#: The names of redis-py's files whose tests run.
NAMES = [
    *("connection_pool", "lock", "max_connections_error", "multiprocessing"),
    *("pipeline", "pubsub", "sentinel", "sentinel_managed_connection"),
]

# The others need a cluster, modules of the server, TLS or other services.
_WANTED = (
    "not onlycluster and not redismod and not ssl and not cp_integration and not"
    " multidb_integration"
)

_WITH_PORT = r'\1[0], "port": master_host[1]}'

#: Whether each test passed, without those that were skipped.
Results = dict[str, bool]


class Service(Sentinels):
    """Sentinels that watch the service that redis-py's tests name."""

    SERVICE = "redis-py-test"


class Servers:
    """The servers that redis-py's tests need.

    :param command: The command that starts Redis.
    :param directory: Where to put their files.
    :param stack: Stops them.
    """

    def __init__(
        self, command: str, directory: Path, stack: contextlib.ExitStack
    ) -> None:
        for name in ("server", "sentinels"):
            (directory / name).mkdir()

        # They stop the server while it loads, for example.
        server = Server(command, directory / "server", "--enable-debug-command", "yes")
        self.server = stack.enter_context(server)
        # The timeout is long, so that a slow machine does not cause a failover.
        sentinels = Service(command, directory / "sentinels", down_after=15_000)
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
    changes = {
        "conftest": {r"tracemalloc\.start\(\)": "pass"},
        "test_connection_pool": {r'("host": master_host)\[0\]}': _WITH_PORT},
        "test_sentinel": {r"\b6379\b": str(servers.server.port)},
    }

    for name, changed in changes.items():
        for path in root.glob(f"tests/**/{name}.py"):
            text = path.read_text()

            for pattern, new in changed.items():
                text = re.sub(pattern, new, text)

            path.write_text(text)


def run(root: Path, servers: Servers, *arguments: str) -> Results:
    """Run redis-py's tests.

    :param root: The directory above the tests.
    :param servers: The servers.
    :param arguments: Further arguments of pytest.
    """
    sentinels = servers.sentinels.address.replace("127.0.0.1", "localhost")
    addresses = [
        f"--sentinels={sentinels}",
        f"--redis-url=redis://localhost:{servers.server.port}/0",
    ]
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
    patience = ["--reruns=2", "--timeout=300", "-m", _WANTED]
    subprocess.run(
        [*pytest, *patience, *options, *addresses, *arguments, *paths],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
    )
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


def read_list() -> set[str]:
    """The tests that are listed. The other lines are the reasons."""
    lines = (HERE / "listed.txt").read_text().splitlines()
    return {line.strip() for line in lines if line.startswith(" ")}


def compare(alone: Results, ours: Results, listed: set[str]) -> list[str]:
    """What is wrong.

    :param alone: The results with redis-py alone.
    :param ours: Those with this package.
    :param listed: The tests that must fail with this package.
    """
    broken = [name for name, passed in alone.items() if passed and not ours.get(name)]
    missing = [name for name in broken if not listed & _ways_to_list(name)]
    ways = {
        outcome: {
            way for name in ours if ours[name] is outcome for way in _ways_to_list(name)
        }
        for outcome in (True, False)
    }
    outdated = sorted(listed - (ways[False] - ways[True]))
    return [
        *(f"Fails, and is not listed: {name}" for name in missing),
        *(f"Is listed, and does not fail: {name}" for name in outdated),
    ]


def _ways_to_list(name: str) -> set[str]:
    """How to list a test: with its parameters, or without them if it fails with all."""
    return {name, name.partition("[")[0]}


def write_report(path: Path, alone: Results, ours: Results, listed: set[str]) -> None:
    """Write how many tests of each file passed, and how many are listed.

    :param path: Where to write it.
    """
    columns = [
        [name for name, passed in alone.items() if passed],
        [name for name, passed in ours.items() if passed],
        [name for name in alone if listed & _ways_to_list(name)],
    ]
    counts = [Counter(name.partition("::")[0] for name in names) for names in columns]

    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "redis-py alone", "Flask-And-Redis", "listed"])
        writer.writerows([name, *(each[name] for each in counts)] for name in counts[0])


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
        alone = run(root, servers)
        ours = run(root, servers, "-p", "clients")

    listed = read_list()

    if arguments.csv is not None:
        write_report(arguments.csv, alone, ours, listed)

    return "\n".join(compare(alone, ours, listed)) or None


if __name__ == "__main__":
    sys.exit(main())
