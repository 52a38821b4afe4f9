from __future__ import annotations

import queue
import typing as t
from pathlib import Path

from ephemeral_port_reserve import reserve

from ..servers import Server
from .conftest import Load
from .pages import commands_of
from .pages import connections
from .pages import need
from .pages import OURS
from .pages import Process
from .pages import running

need("flask_socketio", "socketio", "simple_websocket", "websocket")

import socketio  # noqa: E402


def connect(process: Process, port: int) -> tuple[t.Any, queue.Queue[str]]:
    """Connect to a process. Return the client and the messages that it receives."""
    client = socketio.Client()
    heard: queue.Queue[str] = queue.Queue()
    client.on("said", heard.put)

    def connected() -> bool:
        try:
            client.connect(f"http://127.0.0.1:{port}", transports=["websocket"])
        except socketio.exceptions.ConnectionError:
            return False

        return True

    process.wait_for(connected, "the process serves")
    return client, heard


def test_page(load: Load, server: Server, directory: Path) -> None:
    """A client of one process receives what a client of the other process sends. Each
    process has two connections in addition to those of our pools.
    """
    load("flask-socketio")
    (command,) = commands_of("flask-socketio")
    ports = [reserve("127.0.0.1"), reserve("127.0.0.1")]

    with (
        running(directory, command, "--port", str(ports[0])) as first,
        running(directory, command, "--port", str(ports[1])) as second,
    ):
        one, heard_by_one = connect(first, ports[0])
        two, heard_by_two = connect(second, ports[1])
        one.emit("say", "Hello")
        assert heard_by_one.get(timeout=10) == "1: Hello"
        assert heard_by_two.get(timeout=10) == "1: Hello"
        two.emit("say", "Good bye")
        assert heard_by_one.get(timeout=10) == "2: Good bye"
        assert heard_by_two.get(timeout=10) == "2: Good bye"
        opened = connections(server)
        assert len([each for each in opened if each.user == OURS]) == 2
        others = [each.command for each in opened if each.user != OURS]
        assert sorted(others) == ["publish", "publish", "subscribe", "subscribe"]
        one.disconnect()
        two.disconnect()
