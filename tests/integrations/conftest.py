from __future__ import annotations

import collections.abc as cabc
import importlib
import sys
import types
from pathlib import Path

import pytest

from ..conftest import Starter
from ..servers import Server
from .pages import files_of
from .pages import OURS

Load = cabc.Callable[[str], types.ModuleType]


@pytest.fixture
def server(start: Starter) -> Server:
    """A Redis for one test: all of its connections are the test's. It has a user for
    our prefixes alone.
    """
    return start(Server, "--user", OURS, "on", ">secret", "~*", "&*", "+@all")


@pytest.fixture
def environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The settings that the pages ask for. Tests may add theirs."""
    monkeypatch.setenv("FLASK_REDIS_URL", f"{server.url}/0")
    monkeypatch.setenv("FLASK_TASKS_URL", f"{server.url}/1")

    for prefix in ("REDIS", "WORKER", "JOBS", "TASKS"):
        # Not in the URLs: who makes connections of their own is another user.
        monkeypatch.setenv(f"FLASK_{prefix}_USERNAME", OURS)
        monkeypatch.setenv(f"FLASK_{prefix}_PASSWORD", "secret")

    return monkeypatch


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the files of the page are."""
    return tmp_path


@pytest.fixture
def load(environment: pytest.MonkeyPatch, directory: Path) -> cabc.Iterator[Load]:
    """Writes a page's files and imports its app.py."""

    def load(page: str) -> types.ModuleType:
        for name, text in files_of(page).items():
            (directory / name).write_text(text)

        environment.syspath_prepend(directory)
        importlib.invalidate_caches()
        return importlib.import_module("app")

    yield load
    sys.modules.pop("app", None)
