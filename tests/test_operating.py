from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import time
import types
import typing as t
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_and_redis import RedisManager

from .conftest import Starter
from .servers import Server
from .test_cli import run_process

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parent.parent / "docs" / "operating.rst"


def blocks(language: str) -> list[str]:
    """Return the page's code blocks in one language."""
    matches = re.findall(
        rf"^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", PAGE.read_text(), re.M
    )
    return [textwrap.dedent(block).strip() + "\n" for block in matches]


def normalize(output: str) -> list[list[str]]:
    """Split a table into words, line by line. Each number with its unit becomes 0."""
    output = output.replace("127.0.0.1", "localhost")
    output = re.sub(r"\bup .*", "up 0", output)
    text = re.sub(r"\d+(\.\d+)?( [KM]iB| (d|h|min|s)\b)*", "0", output)
    # Where a long line is wrapped depends on the length of its numbers.
    text = re.sub(r"\n {10,}", " ", text)
    return [line.split() for line in text.splitlines()]


@pytest.fixture
def extensions(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The module where an application keeps its manager."""
    module = types.ModuleType("extensions")
    module.__dict__["manager"] = RedisManager()
    monkeypatch.setitem(sys.modules, "extensions", module)
    return module


@pytest.fixture
def config(server: Server, start: Starter) -> dict[str, str]:
    """Settings for two servers, as on the page."""
    cache = start(Server, kind="redis8")
    return {
        "PAGE_CACHE_URL": f"redis://127.0.0.1:{cache.port}",
        "REDIS_URL": f"{server.url}/2",
    }


def test_list() -> None:
    """The page shows the exact output of the list command."""
    shown = blocks("text")[0].removeprefix("$ flask redis list\n")
    config = {
        "CARTS_URL": "redis+cluster://a:7000,b:7001",
        "PAGE_CACHE_URL": "redis://localhost:6380",
        "PAGE_CACHE_RETRY_DEADLINE": "0.5",
        "REDIS_URL": "redis://:hush@localhost:6379/2",
        "SESSIONS_URL": "redis+sentinel://s:1000/mymaster",
        "DATABASE_URL": "postgresql://h",
    }
    assert run_process(config, "list").output == shown


def test_list_of_a_prefix() -> None:
    """The page shows the beginning of the output of the list command for a prefix."""
    shown = blocks("text")[1].removeprefix("$ flask redis list PAGE_CACHE\n")
    config = {
        "PAGE_CACHE_URL": "redis://localhost:6380",
        "PAGE_CACHE_RETRY_DEADLINE": "0.5",
    }
    output = run_process(config, "list", "PAGE_CACHE").output
    lines = [line.split() for line in shown.removesuffix("...\n").splitlines()]
    assert [line.split() for line in output.splitlines()][: len(lines)] == lines


def test_ping(server: Server) -> None:
    """The page shows what the ping command prints, including a failure."""
    shown = blocks("text")[2].removeprefix("$ flask redis ping\n")
    config = {"PAGE_CACHE_URL": "redis://127.0.0.1:1", "REDIS_URL": server.url}
    assert normalize(run_process(config, "ping").output) == normalize(shown)


def test_info(config: dict[str, str], start: Starter) -> None:
    """The page shows what the info command prints."""
    shown = blocks("text")[3].removeprefix("$ flask redis info\n")
    # A version that causes no warning.
    busy = start(Server, kind="redis8")
    config["REDIS_URL"] = f"{busy.url}/2"

    with busy.admin() as zero, busy.admin(db=2) as two:
        zero.set("k", "v")
        two.set("motd", "hello")
        two.set("k", "v", ex=1000)
        two.get("k")
        two.get("none")

    assert normalize(run_process(config, "info").output) == normalize(shown)


def test_cli(config: dict[str, str], native_client: None) -> None:
    """The page shows what the native client prints."""
    for shown in re.split(r"^\$ ", blocks("text")[4], flags=re.M)[1:]:
        command, _, output = shown.partition("\n")
        arguments = command.removeprefix("flask redis ").split()
        assert run_process(config, *arguments).output == output


def test_healthz(app: Flask, extensions: types.ModuleType, start: Starter) -> None:
    """The page's view answers within its timeout while a server hangs."""
    assert len([line for line in blocks("python")[0].splitlines() if line]) <= 12
    server = start(Server)
    app.config["REDIS_URL"] = server.url
    client = make_health_client(extensions, app)
    response = client.get("/healthz")
    assert response.status_code == 200
    assert t.cast(t.Any, response.json)["redis"]["REDIS"]["ok"] is True
    server.pause()
    started = time.monotonic()
    response = client.get("/healthz")
    # A command would take 10 s.
    assert time.monotonic() - started < 2.5
    assert response.status_code == 503
    body: t.Any = response.json
    assert body["redis"]["REDIS"]["error"] == "No answer within 0.5 s."
    assert body["pools"]["REDIS"]["created"] is False
    server.resume()
    assert client.get("/healthz").status_code == 200


def make_health_client(extensions: types.ModuleType, app: Flask) -> FlaskClient:
    extensions.__dict__["manager"].init_app(app)
    namespace: dict[str, t.Any] = {"__name__": "health"}
    exec(blocks("python")[0], namespace)
    app.register_blueprint(namespace["bp"])
    return app.test_client()


@pytest.mark.filterwarnings("ignore:No setting configures a Redis")
@pytest.mark.parametrize("case", ["dead", "hung", "wrong password", "none"])
def test_healthz_is_not_green(
    case: str, app: Flask, extensions: types.ModuleType, start: Starter
) -> None:
    """The page's view fails, within its timeout, for a dead server that was found by
    its HOST alone, one that hangs, one that refuses the password, and without Redis.
    """
    if case != "none":
        server = start(Server, password="hush" if case == "wrong password" else None)
        app.config.update(CACHE_HOST="127.0.0.1", CACHE_PORT=server.port)
        app.config["CACHE_PASSWORD"] = "wrong" if case == "wrong password" else None

        if case == "dead":
            server.kill()
        elif case == "hung":
            server.pause()

    client = make_health_client(extensions, app)
    started = time.monotonic()
    response = client.get("/healthz")
    assert time.monotonic() - started < 5
    assert response.status_code == 503


def test_healthz_with_optional_prefixes(
    app: Flask, extensions: types.ModuleType, server: Server
) -> None:
    """An outage of an optional prefix is on the page, and does not fail it."""
    app.config.update(REDIS_URL=server.url, CACHE_HOST="127.0.0.1", CACHE_PORT=1)
    app.config["CACHE_OPTIONAL"] = True
    response = make_health_client(extensions, app).get("/healthz")
    assert response.status_code == 200
    assert t.cast(t.Any, response.json)["redis"]["CACHE"]["ok"] is False


def test_fixture(tmp_path: Path, pytester_app: str) -> None:
    """The page's fixture and its test work in a separate test run."""
    (tmp_path / "extensions.py").write_text(
        "from flask_and_redis import RedisManager\nmanager = RedisManager()\n"
    )
    (tmp_path / "conftest.py").write_text(pytester_app)
    (tmp_path / "test_page.py").write_text(blocks("python")[1])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.fixture
def pytester_app() -> str:
    """The conftest.py of an app that keeps its pages in a cache."""
    return """
import pytest
from extensions import manager
from flask import Flask
from flask.testing import FlaskClient

@pytest.fixture
def app():
    app = Flask("pages")
    app.config["PAGE_CACHE_URL"] = "redis://nowhere.invalid"
    manager.init_app(app)

    @app.get("/page")
    def page():
        manager.get("PAGE_CACHE").set("page", "Hello")
        return "Hello"

    return app
"""
