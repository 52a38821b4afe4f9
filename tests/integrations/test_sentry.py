"""Traces with the real Sentry, whose server is in this process."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import gzip
import http.server
import json
import subprocess
import sys
import threading
import typing as t
from pathlib import Path
from urllib.request import urlopen

import pytest
from ephemeral_port_reserve import reserve

from ..scripted import Scripted
from ..servers import Cluster
from ..servers import Server
from ..servers import wait_until
from ..test_messages import Echo
from ..test_messages import SECRET
from .pages import file_of
from .pages import need
from .pages import running

need("sentry_sdk")

LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"

Item = dict[str, t.Any]


class Sentry(http.server.ThreadingHTTPServer):
    """Receives what Sentry's SDK sends."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _SentryHandler)
        self.received: list[bytes] = []

    @property
    def dsn(self) -> str:
        return f"http://key@127.0.0.1:{self.server_port}/1"

    def items(self) -> list[Item]:
        """The events and transactions. An envelope has one JSON object in a line."""
        lines = b"\n".join(self.received).splitlines()
        items = [json.loads(line) for line in lines if line.startswith(b"{")]
        return [item for item in items if "event_id" in item and "contexts" in item]

    def spans(self) -> dict[str, list[str]]:
        """What the spans of each transaction are about."""
        return {
            item["transaction"]: list(map(_describe, item["spans"]))
            for item in self.items()
            if "spans" in item
        }


def _describe(span: Item) -> str:
    if span["description"] == "redis.pipeline.execute":
        commands = span["data"]["redis.commands"]["first_ten"]
        return " ".join(command.partition(" ")[0] for command in commands)

    return str(span["description"]).partition(" ")[0]


class _SentryHandler(http.server.BaseHTTPRequestHandler):
    server: Sentry

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))

        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)

        self.server.received.append(body)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def sentry(environment: pytest.MonkeyPatch) -> cabc.Iterator[Sentry]:
    with Sentry() as sentry:
        thread = threading.Thread(target=sentry.serve_forever, args=[0.01])
        thread.start()
        environment.setenv("SENTRY_DSN", sentry.dsn)
        yield sentry
        sentry.shutdown()
        thread.join()


SYNC = {
    # Sentry does not know the commands of a pipeline that are sent at once.
    "REDIS": ["SET", "SET GET", "SET", "EVAL"],
    "CLUSTER": ["SET", "SET GET", "SET", "EVAL"],
}


@pytest.mark.parametrize("when", ["before", "after"])
def test_spans(
    environment: pytest.MonkeyPatch,
    sentry: Sentry,
    server: Server,
    cluster: Cluster,
    scripted: Scripted,
    when: str,
) -> None:
    """Each command and each pipeline has one span, whether Sentry was enabled before or
    after the first use of the clients. Nothing is sent after it was disabled, and
    nothing has a password.
    """
    environment.setenv("FLASK_REDIS_PASSWORD", SECRET)

    with server.admin() as admin:
        admin.acl_setuser("ours", True, passwords=[f"+{SECRET}"])

    environment.setenv("FLASK_CLUSTER_URL", f"redis+cluster://{cluster.address}")
    environment.setenv("FLASK_FAILING_URL", scripted.url)
    environment.setenv("FLASK_WRONG_URL", f"redis://ours:{SECRET}-2@{server.address}")
    scripted.plan(b"GET", LOADING)

    with Echo() as echo:
        address = f"127.0.0.1:{echo.server_address[1]}"
        environment.setenv("FLASK_ECHO_URL", f"redis://:{SECRET}@{address}")
        run = [sys.executable, "-m", "tests.integrations.traced", when]
        subprocess.run(run, cwd=Path(__file__).parents[2], check=True, timeout=50)
        echo.shutdown()

    # Each transaction once: those after the end are not there.
    names = [item["transaction"] for item in sentry.items() if "spans" in item]
    assert sorted(names) == sorted(set(names))
    spans = sentry.spans()

    for prefix, expected in SYNC.items():
        shown = [name for name in spans[prefix] if name not in ("CLUSTER", "COMMAND")]
        assert shown == expected
        in_asyncio = spans[f"{prefix} in asyncio"]
        assert [name for name in in_asyncio if "SET" in name] == ["SET", "SET GET"]

    # Version 2 of Sentry's SDK drops the span of an attempt that failed.
    assert "GET" in spans["retry"]
    assert len(spans["retry"]) <= 2

    errors = [item for item in sentry.items() if "exception" in item]
    assert len(errors) == 2
    assert [body for body in sentry.received if SECRET.encode() in body] == []


def test_page(sentry: Sentry, directory: Path) -> None:
    """The app on the page sends a span for each command of a request."""
    (directory / "sentry_app.py").write_text(file_of("observability", "sentry_app.py"))
    port = reserve("127.0.0.1")
    serve = ["flask", "--app", "sentry_app", "run", "--port", str(port)]

    with running(directory, serve) as process:

        def answers() -> bool:
            with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/"):
                return True

            return False

        process.wait_for(answers, "the app answers")
        wait_until(sentry.spans, "a transaction arrives", timeout=30)

    assert sentry.spans() == {"index": ["INCRBY"]}
