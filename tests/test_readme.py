from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest
from flask import Flask

pytestmark = pytest.mark.once

README = Path(__file__).parent.parent / "README.rst"


def python_blocks() -> list[str]:
    """The Python code blocks of the README."""
    blocks = re.findall(
        r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", README.read_text(), re.M
    )
    return [re.sub(r"^    ", "", block, flags=re.M) for block in blocks]


def test_quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The app in the README runs without changes."""
    monkeypatch.setenv("FLASK_REDIS_URL", "fakeredis:///0")
    monkeypatch.setenv("FLASK_CACHE_URL", "fakeredis:///1")
    namespace: dict[str, t.Any] = {"__name__": "readme"}
    (code,) = python_blocks()
    exec(code, namespace)
    app: Flask = namespace["create_app"]()
    client = app.test_client()
    assert client.get("/").text == "Welcome, visitor 1"

    with app.app_context():
        namespace["cache"].set("motd", "Hello")

    assert client.get("/").text == "Hello, visitor 2"
