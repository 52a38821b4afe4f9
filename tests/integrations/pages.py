"""Run the apps on the pages of docs/integrations without any change."""

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

#: The Redis user of each connection that one of our prefixes opens, in any process.
OURS = "ours"


def need(*modules: str) -> None:
    """Skip the test module if a module is missing. If INTEGRATIONS is set, fail instead
    of skipping.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            if os.environ.get("INTEGRATIONS"):
                pytest.fail(f"No {module}.")

            pytest.skip(f"No {module}.", allow_module_level=True)


def files_of(page: str) -> dict[str, str]:
    """Return a page's Python files. The keys are the file names above the code."""
    return pages.files_of(f"integrations/{page}")[0]


def file_of(page: str, name: str) -> str:
    """Return a Python file on a page outside of docs/integrations."""
    (text,) = [files[name] for files in pages.files_of(page) if name in files]
    return text


def commands_of(page: str) -> list[list[str]]:
    """Return the commands on a page, except for the installation."""
    return [line.split() for line in pages.commands_of(f"integrations/{page}")]


@contextlib.contextmanager
def running(
    directory: Path, command: list[str], *arguments: str
) -> cabc.Iterator[Process]:
    """Run a command of a page in the directory of its files."""
    process = Process(directory, [*command, *arguments])

    try:
        yield process
    finally:
        process.stop()


class Process:
    """A process and its output."""

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
        """Stop the process gracefully, as a supervisor does."""
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
    """Return a client whose connection is not counted."""
    return server.admin(client_name="asks")


def connections(server: Server) -> list[Connection]:
    """Return all connections of a server, except for those of ``asking``."""
    with asking(server) as client:
        return [
            Connection(
                info["addr"], info["user"], info["name"], int(info["db"]), info["cmd"]
            )
            for info in client.client_list()
            if info["name"] != "asks"
        ]


def addresses_of(pool: t.Any) -> set[str]:
    """Return the local addresses of a pool's connections."""
    sockets = [
        each._sock
        for each in (*pool._available_connections, *pool._in_use_connections)
        if each is not None and each._sock is not None
    ]
    names = [each.getsockname() for each in sockets]
    return {f"{host}:{port}" for host, port in names}


def assert_all_ours(server: Server, *pools: t.Any) -> int:
    """Assert that a server has connections and that our prefixes opened all of them.

    Each connection must have the user that only the settings of our prefixes contain.

    :param pools: If only this process uses the server: its pools. Each connection must
        also belong to one of them.
    :return: The number of connections.
    """
    opened = connections(server)
    assert opened
    assert {each.user for each in opened} == {OURS}, opened

    if pools:
        own = set().union(*map(addresses_of, pools))
        assert {each.address for each in opened} <= own, opened

    return len(opened)
