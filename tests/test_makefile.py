"""The targets of the Makefile that serve the example."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import miss

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        miss("No make: it is not there.")

    # If make runs the tests, its variables must not reach this one.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PORT")
    }
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help() -> None:
    """The help shows how to choose another port."""
    (line,) = [line for line in make("help").stdout.splitlines() if "make run " in line]
    assert "PORT=8080" in line


@pytest.mark.parametrize("target", ["run", "run-gunicorn"])
def test_taken_port(target: str, tmp_path: Path) -> None:
    """If another program uses the port, the message shows how to choose another one."""
    # An environment in which everything is installed.
    (tmp_path / "bin").symlink_to(Path(sys.executable).parent)

    for name in (".venv", ".run"):
        (tmp_path / name).touch()

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = make(target, f"VENV={tmp_path}", f"PORT={port}")

    assert done.returncode != 0
    assert f"Port {port} is in use" in done.stderr
    assert f"make {target} PORT=8080" in done.stderr
    assert "Traceback" not in done.stderr
