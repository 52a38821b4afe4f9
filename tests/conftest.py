from __future__ import annotations

import collections.abc as cabc
import os
from pathlib import Path

import pytest
from flask import Flask

from .servers import find_command
from .servers import KINDS
from .servers import Server


def start_server(kind: str, directory: Path, *arguments: str) -> Server:
    """A running server, or a skip that names what is missing."""
    command = find_command(kind)

    if command is None:
        message = f"No server: {KINDS[kind]} is not there."

        if os.environ.get("CI"):
            pytest.fail(message)

        pytest.skip(message)

    server = Server(command, directory, *arguments)
    server.start()
    return server


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> cabc.Iterator[Server]:
    server = start_server("redis", tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def server(_server: Server) -> Server:
    """An empty Redis, without password."""
    with _server.admin() as client:
        client.flushall()

    return _server


@pytest.fixture(scope="session", params=list(KINDS))
def _each_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> cabc.Iterator[Server]:
    server = start_server(request.param, tmp_path_factory.mktemp(request.param))
    yield server
    server.stop()


@pytest.fixture
def each_server(_each_server: Server) -> Server:
    """An empty server of each kind and version in turn."""
    with _each_server.admin() as client:
        client.flushall()

    return _each_server


@pytest.fixture
def app() -> Flask:
    """An app without any Redis."""
    return Flask("tests")
