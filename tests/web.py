"""Serve apps in separate processes: with gunicorn, or with the commands of a page."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import time
import typing as t
from pathlib import Path
from urllib.error import HTTPError
from urllib.error import URLError
from urllib.request import urlopen

from ephemeral_port_reserve import reserve

from .servers import wait_until


class Gunicorn:
    """A gunicorn process that serves an app, such as ``tests.workers_app:app``."""

    def __init__(
        self, app: str, log: Path, environment: dict[str, str], *arguments: str
    ) -> None:
        self.log = log
        self.port = reserve("127.0.0.1")
        command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{self.port}"]

        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, *arguments, app],
                env={**os.environ, **environment},
                cwd=Path(__file__).parent.parent,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> None:
        """Wait until the app responds, with any status."""
        deadline = time.monotonic() + 30

        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

            try:
                connection.request("GET", "/")
                connection.getresponse().read()
                return
            except (OSError, http.client.HTTPException):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(self.log.read_text()) from None

                time.sleep(0.05)
            finally:
                connection.close()

    def workers(self) -> set[int]:
        """The process ids of the workers. Linux only."""
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return set(map(int, children.split()))

    def stop(self) -> None:
        self._process.terminate()
        # A worker that just starts may miss the signal. Gunicorn kills it after 30 s.
        self._process.wait(40)


@contextlib.contextmanager
def gunicorn(
    app: str, log: Path, environment: dict[str, str], *arguments: str
) -> t.Iterator[Gunicorn]:
    """Serve an app until the end of the ``with`` block."""
    server = Gunicorn(app, log, environment, *arguments)

    try:
        server.wait()
        yield server
    finally:
        server.stop()


def environment() -> dict[str, str]:
    """Environment variables with this Python's own commands first on PATH."""
    directory = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([directory, os.environ["PATH"]])}


@contextlib.contextmanager
def serve_script(script: str, directory: Path, port: int) -> t.Iterator[str]:
    """Serve an app with a shell script, and yield its address.

    :param script: The last command must serve the app on the port, with ``exec``.
    :param directory: Where the script runs.
    :param port: The port of the app.
    """
    with subprocess.Popen(
        ["sh", "-ec", script],
        cwd=directory,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            base = f"http://127.0.0.1:{port}"

            def answers() -> bool:
                assert process.poll() is None

                try:
                    urlopen(f"{base}/no-such-page").close()
                except HTTPError:
                    return True
                except URLError:
                    return False

                return True

            wait_until(answers, "the app answers", timeout=40)
            yield base
        finally:
            process.terminate()
