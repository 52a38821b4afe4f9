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
    """A Redis server for one test: all of its connections belong to the test. It has a
    user that only our prefixes use.
    """
    return start(Server, "--user", OURS, "on", ">secret", "~*", "&*", "+@all")


@pytest.fixture
def environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Set the settings that the pages require. Tests may set more."""
    monkeypatch.setenv("FLASK_REDIS_URL", f"{server.url}/0")
    monkeypatch.setenv("FLASK_TASKS_URL", f"{server.url}/1")

    for prefix in ("REDIS", "WORKER", "JOBS", "TASKS"):
        # Not in the URLs: a library that connects by URL must not have this user.
        monkeypatch.setenv(f"FLASK_{prefix}_USERNAME", OURS)
        monkeypatch.setenv(f"FLASK_{prefix}_PASSWORD", "secret")

    return monkeypatch


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The directory of the page's files."""
    return tmp_path


@pytest.fixture
def load(environment: pytest.MonkeyPatch, directory: Path) -> cabc.Iterator[Load]:
    """Return a function that writes a page's files and imports its app.py."""

    def load(page: str) -> types.ModuleType:
        for name, text in files_of(page).items():
            (directory / name).write_text(text)

        environment.syspath_prepend(directory)
        importlib.invalidate_caches()
        return importlib.import_module("app")

    yield load
    sys.modules.pop("app", None)
