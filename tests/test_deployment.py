"""What the deployment page says about time limits is true."""

from __future__ import annotations

import csv
import http.client
import re
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import redis
from ephemeral_port_reserve import reserve
from flask import Flask

from flask_and_redis import RedisManager

from .conftest import Starter
from .cutter import Cutter
from .pages import DOCS
from .pages import files_of
from .servers import Server
from .web import serve_script

pytestmark = pytest.mark.once


class Counter(Cutter):
    """Counts the commands that wait for an element."""

    calls = 0

    def loses(self, request: bytes) -> bool:
        self.calls += request.count(b"BLPOP")
        return super().loses(request)


def test_false_outage(
    server: Server, app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    """A command that blocks for too long marks its prefix as down, until a probe is
    answered. With RETRY = 0, it does not, and is sent only once.
    """
    for prefix in ("REDIS", "QUEUE"):
        for name in ("RETRY_DEADLINE", "SOCKET_TIMEOUT"):
            app.config[f"{prefix}_{name}"] = 2

    with Counter(server.port) as counter:
        app.config.update(REDIS_URL=counter.url, QUEUE_URL=counter.url, QUEUE_RETRY=0)
        manager = RedisManager(app)

        with app.app_context():
            with pytest.raises(redis.TimeoutError):
                manager.get("QUEUE").blpop(["nothing"], 10)

            assert not manager.stats()["QUEUE"].down
            assert counter.calls == 1
            assert caplog.messages == []

            with pytest.raises(redis.TimeoutError):
                manager.get().blpop(["nothing"], 10)

            assert manager.stats()["REDIS"].down
            assert counter.calls == 3
            assert manager.get().ping()
            assert not manager.stats()["REDIS"].down

    down, back, *_ = caplog.messages
    assert "'REDIS'" in down and "is down" in down
    assert "'REDIS'" in back and "is back" in back


def longest_wait(retry_deadline: float, timeout: float) -> float:
    """The result of the function on the deployment page."""
    text = (DOCS / "deployment.rst").read_text()
    (formula,) = re.findall(r"^    \.\.\.     return (.*)$", text, re.M)
    variables = {"retry_deadline": retry_deadline, "timeout": timeout}
    result: float = eval(formula, {}, variables)
    return result


def test_longest_wait() -> None:
    """No measured wait was longer than the formula of the deployment page says."""
    with (DOCS / "measured" / "outages.csv").open(newline="") as file:
        cells = [row["Flask-And-Redis"] for row in csv.DictReader(file)]

    seconds = [float(each) for cell in cells for each in re.findall(r"[\d.]+", cell)]
    assert 6 < max(seconds) < longest_wait(5, 5)
    assert longest_wait(5, 5) * 3 == 33


@pytest.mark.parametrize("threads", [1, 2])
def test_timeout_of_gunicorn(start: Starter, tmp_path: Path, threads: int) -> None:
    """gunicorn kills a worker whose request waits for longer than its timeout, unless
    the worker has threads.
    """
    (tmp_path / "app.py").write_text(files_of("quickstart")[1]["app.py"])
    log = tmp_path / "log"
    port = reserve("127.0.0.1")
    server = start(Server)
    script = f"""
export FLASK_REDIS_URL={server.url}/0 FLASK_CACHE_URL={server.url}/1
exec gunicorn --timeout 3 --threads {threads} --bind 127.0.0.1:{port} \\
  --error-logfile {log} 'app:create_app()'
"""

    with serve_script(script, tmp_path, port) as base:
        server.pause()

        # The command would wait for 6 seconds, and raise an error.
        with pytest.raises((HTTPError, http.client.RemoteDisconnected)):
            urlopen(base)

        assert ("WORKER TIMEOUT" in log.read_text()) == (threads == 1)
