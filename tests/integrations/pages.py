"""The apps in the pages of docs/integrations, run as they stand there."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import importlib.util
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import redis

from .. import pages
from ..servers import Server
from ..servers import wait_until

#: The server's user in each connection that one of our prefixes made, in any process.
OURS = "ours"


def need(*modules: str) -> None:
    """Skip a test module by the name of what is missing. Where these tests are asked
    for nothing may be missing.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            if os.environ.get("INTEGRATIONS"):
                pytest.fail(f"No {module}.")

            pytest.skip(f"No {module}.", allow_module_level=True)


def files_of(page: str) -> dict[str, str]:
    """A page's Python, by the file names that stand above it."""
    return pages.files_of(f"integrations/{page}")[0]


def commands_of(page: str) -> list[list[str]]:
    """What a page tells to type, the installation aside."""
    return [line.split() for line in pages.commands_of(f"integrations/{page}")]


@contextlib.contextmanager
def running(
    directory: Path, command: list[str], *arguments: str
) -> cabc.Iterator[Process]:
    """A command of a page, running in the directory of its files."""
    process = Process(directory, [*command, *arguments])

    try:
        yield process
    finally:
        process.stop()


class Process:
    """A process and what it has written."""

    def __init__(self, directory: Path, command: list[str]) -> None:
        own = str(Path(sys.executable).parent)
        self.command = command
        self._log = directory / f"{len(list(directory.iterdir()))}.log"

        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env={
                    **os.environ,
                    "PATH": os.pathsep.join([own, os.environ["PATH"]]),
                    "PYTHONPATH": str(directory),
                    "PYTHONUNBUFFERED": "1",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, check: cabc.Callable[[], t.Any], what: str) -> None:
        """Poll until the check is true, while the process runs."""

        def running_and_true() -> t.Any:
            assert self._process.poll() is None, self.output
            return check()

        try:
            wait_until(running_and_true, what, timeout=30)
        except TimeoutError as error:
            raise AssertionError(self.output) from error

    def stop(self) -> None:
        """Let it end in good order, as a supervisor does."""
        self._process.terminate()

        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"Did not stop: {self.output}") from None


class Connection(t.NamedTuple):
    """A connection as a server sees it."""

    address: str
    user: str
    name: str
    db: int
    command: str


def asking(server: Server) -> redis.Redis:
    """A client that does not count as a connection."""
    return server.admin(client_name="asks")


def connections(server: Server) -> list[Connection]:
    """All connections of a server, but those that ask."""
    with asking(server) as client:
        return [
            Connection(it["addr"], it["user"], it["name"], int(it["db"]), it["cmd"])
            for it in client.client_list()
            if it["name"] != "asks"
        ]


def addresses_of(pool: t.Any) -> set[str]:
    """The local ends of a pool's connections."""
    sockets = [
        each._sock
        for each in (*pool._available_connections, *pool._in_use_connections)
        if each is not None and each._sock is not None
    ]
    names = [each.getsockname() for each in sockets]
    return {f"{host}:{port}" for host, port in names}


def assert_all_ours(server: Server, *pools: t.Any) -> int:
    """Assert that a server has connections, and none but those of our prefixes: each
    is of the user that only a prefix's settings name. With pools, where all happened
    in this process, each is also one of theirs.

    :return: How many there are.
    """
    found = connections(server)
    assert found
    assert {each.user for each in found} == {OURS}, found

    if pools:
        own = set().union(*map(addresses_of, pools))
        assert {each.address for each in found} <= own, found

    return len(found)
