"""Run the apps and commands in the documentation exactly as the pages show them."""

from __future__ import annotations

import ast
import collections.abc as cabc
import importlib
import os
import re
import shlex
import subprocess
import sys
import time
import types
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import pytest
import redis
from ephemeral_port_reserve import reserve
from flask import Flask

import flask_and_redis
from flask_and_redis import command_finished
from flask_and_redis import Redis
from flask_and_redis import RedisManager

from .conftest import Starter
from .pages import commands_of
from .pages import DOCS
from .pages import files_of
from .pages import literals
from .pages import table
from .servers import Sentinels
from .servers import Server
from .test_workers import get_many
from .web import environment
from .web import gunicorn
from .web import serve_script

pytestmark = pytest.mark.once

Load = cabc.Callable[..., types.ModuleType]

# The pages that show Python files. Each is run here, in test_operating.py, in
# test_recipes.py or in integrations/.
RUN = {"quickstart", "apps", "async", "testing", "operating", "observability"}
RUN |= {"recipes"}


def test_all_pages_are_run() -> None:
    """Every page with Python code is run by a test."""
    pages = {
        path.stem
        for path in DOCS.rglob("*.rst")
        if ".. code-block:: python" in path.read_text()
        and path.parent.name != "integrations"
    }
    assert pages == RUN


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cabc.Iterator[Load]:
    """Writes a page's files and imports its app.py."""
    names: set[str] = set()

    def load(page: str, number: int = 0) -> types.ModuleType:
        files = files_of(page)[number]
        names.update(Path(name).stem for name in files)

        for name, text in files.items():
            (tmp_path / name).write_text(text)

        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        return importlib.import_module("app")

    yield load

    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("real", [False, True])
def test_quick_start(server: Server, tmp_path: Path, real: bool) -> None:
    """The commands of the quick start give the promised result, with fakeredis and with
    two databases of one server.
    """
    (tmp_path / "app.py").write_text(files_of("quickstart")[1]["app.py"])
    port = reserve("127.0.0.1")
    lines = commands_of("quickstart")
    exports = [
        line
        for line in lines
        if line.startswith("export ") and ("6379" in line) == real
    ]
    assert len(exports) == 2
    (run,) = {line for line in lines if line.startswith("flask --app app run")}
    script = "\n".join([*exports, f"exec {run} --port {port}"])
    script = script.replace("localhost:6379", server.address)

    with serve_script(script, tmp_path, port) as base, urlopen(base) as response:
        text = response.read().decode()

    assert text == "Report 1"
    assert f"shows ``{text}``" in (DOCS / "quickstart.rst").read_text()


def test_deployment(server: Server, tmp_path: Path) -> None:
    """The command on the deployment page serves the quick start's app."""
    (tmp_path / "app.py").write_text(files_of("quickstart")[1]["app.py"])
    port = reserve("127.0.0.1")
    (run,) = commands_of("deployment")
    exports = [
        f"export FLASK_{prefix}_URL={server.url}/{number}"
        for number, prefix in enumerate(("REDIS", "CACHE"))
    ]
    script = "\n".join([*exports, f"exec {run} --bind 127.0.0.1:{port}"])

    with serve_script(script, tmp_path, port) as base, urlopen(base) as response:
        assert response.read() == b"Report 1"


def test_first_app(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick start's first app counts its reports."""
    monkeypatch.setenv("FLASK_REDIS_URL", "fakeredis:///0")
    client = load("quickstart").create_app().test_client()
    assert client.get("/").text == "Report 1"
    assert client.get("/").text == "Report 2"


def test_apps(load: Load, server: Server, tmp_path: Path) -> None:
    """The page's blueprint, background thread and command share two databases."""
    urls = {"REDIS_URL": f"{server.url}/0", "CACHE_URL": f"{server.url}/1"}
    module = load("apps")
    client = module.create_app(urls).test_client()
    assert client.get("/letters").text == "0"
    assert client.post("/count/hello").status_code == 202
    module.executor.shutdown()
    assert client.get("/letters").text == "0"

    (command,) = commands_of("apps")
    subprocess.run(
        command.split(),
        cwd=tmp_path,
        env={**environment(), **{f"FLASK_{name}": url for name, url in urls.items()}},
        check=True,
    )
    assert client.get("/letters").text == "5"


def test_async(load: Load, server: Server) -> None:
    """The page's asynchronous view works for each request, in a new event loop."""
    module = load("async")
    os.environ["FLASK_REDIS_URL"] = server.url

    try:
        client = module.create_app().test_client()
    finally:
        del os.environ["FLASK_REDIS_URL"]

    assert [client.get("/").text for _ in range(3)] == [
        f"Visitor {number}" for number in (1, 2, 3)
    ]


def test_testing(server: Server, tmp_path: Path) -> None:
    """The tests on the page pass, and fail if the app has a bug. They include tests
    without a server, with a server, and of an outage.
    """
    (files,) = files_of("testing")

    for name, text in files.items():
        (tmp_path / name).write_text(text)

    assert "pytest" in commands_of("testing")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    settings = {**os.environ, "TEST_REDIS_URL": f"{server.url}/15"}
    result = subprocess.run(
        command, cwd=tmp_path, env=settings, capture_output=True, text=True
    )
    assert "4 passed" in result.stdout, result.stdout

    app = tmp_path / "app.py"
    app.write_text(app.read_text().replace("incr('visits')", "incr('visits', 2)"))
    result = subprocess.run(
        command, cwd=tmp_path, env=settings, capture_output=True, text=True
    )
    assert "3 failed" in result.stdout or "2 failed" in result.stdout, result.stdout


def exports_of(page: str, prefix: str) -> dict[str, str]:
    """The settings that a page exports for one prefix."""
    text = (DOCS / f"{page}.rst").read_text()
    exports = re.findall(rf"^    export FLASK_({prefix}_\w+)='?(.*?)'?$", text, re.M)
    return dict(exports)


def test_sentinel(start: Starter, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the page's three settings, the app connects to servers and sentinels that
    have different passwords. Without the third setting, a command immediately raises an
    authentication error.
    """
    exports = exports_of("engines", "REDIS")
    assert len(exports) == 3
    sentinels = start(
        Sentinels,
        password="password-of-the-servers",
        sentinel_password="password-of-the-sentinels",
    )
    exports["REDIS_URL"] = exports["REDIS_URL"].replace(
        "a:26379,b:26379,c:26379", sentinels.address
    )

    for name, value in exports.items():
        monkeypatch.setenv(f"FLASK_{name}", value)

    app.config.from_prefixed_env()
    manager = RedisManager(app)

    with app.app_context():
        assert manager.get().set("k", "v")

    other = Flask("other")
    other.config.update(exports)
    del other.config["REDIS_SENTINEL_PASSWORD"]
    manager = RedisManager(other)
    started = time.monotonic()

    with (
        other.app_context(),
        pytest.raises(redis.RedisError, match="[Aa]uthentication"),
    ):
        manager.get().get("k")

    assert time.monotonic() - started < 4


def test_short_times(start: Starter, app: Flask) -> None:
    """With the page's settings for a cache, a command on a hung server fails after one
    second, or slightly more on a busy machine.
    """
    server = start(Server)
    app.config.update(CACHE_URL=server.url, **exports_of("waits", "CACHE"))
    assert len(app.config["CACHE_RETRY_DEADLINE"]) == 3
    manager = RedisManager(app)
    server.pause()

    try:
        started = time.monotonic()

        with app.app_context(), pytest.raises(redis.TimeoutError):
            manager.get("CACHE").get("k")
    finally:
        server.resume()

    assert 0.9 < time.monotonic() - started < 3


def test_blocking(server: Server, app: Flask) -> None:
    """A command that blocks for longer than the socket timeout fails after two
    attempts. With a longer timeout, it returns None.
    """
    times = {"RETRY_DEADLINE": "1", "SOCKET_TIMEOUT": "1"}
    app.config.update({f"REDIS_{name}": value for name, value in times.items()})
    app.config.update(REDIS_URL=server.url, QUEUE_URL=server.url, QUEUE_RETRY=0)
    manager = RedisManager(app)

    with app.app_context():
        started = time.monotonic()

        with pytest.raises(redis.TimeoutError):
            manager.get().blpop(["nothing"], 3)

        assert 1.5 < time.monotonic() - started
        assert manager.get("QUEUE").blpop(["nothing"], 2) is None


def test_connections(start: Starter, tmp_path: Path) -> None:
    """A server never has more connections than workers, threads and MAX_CONNECTIONS
    allow, however many requests there are.
    """
    server = start(Server)
    workers, threads, maximum = 2, 4, 3
    settings = {
        "FLASK_REDIS_URL": server.url,
        "FLASK_REDIS_MAX_CONNECTIONS": str(maximum),
    }
    arguments = ["--workers", str(workers), "--threads", str(threads)]

    with gunicorn(
        "tests.workers_app:app", tmp_path / "log", settings, *arguments
    ) as served:
        with ThreadPoolExecutor(1) as executor:
            requests = executor.submit(get_many, served.port, "/echo", 400)
            most = 0

            while not requests.done():
                most = max(most, server.count_clients())

            requests.result()

    assert 1 < most <= workers * min(threads, maximum)


def test_rights(server: Server, app: Flask) -> None:
    """The page's ACL user may run the listed commands and no others."""
    line, _ = re.findall(
        r"^    (ACL SETUSER .*)$", (DOCS / "security.rst").read_text(), re.M
    )

    with server.admin() as admin:
        admin.execute_command(*line.split())

    try:
        app.config["REDIS_URL"] = f"redis://shop:s3cret@{server.address}"
        manager = RedisManager(app)

        with app.app_context():
            assert manager.get().incr("shop:visits") == 1
            assert manager.ping()["REDIS"].ok

            for refused in (
                lambda: manager.get().get("other"),
                lambda: manager.get().flushdb(),
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    refused()
    finally:
        with server.admin() as admin:
            admin.acl_deluser("shop")


class MyRedis(redis.Redis):
    """An application's own client class."""


@pytest.mark.parametrize(
    ("name", "row"),
    [
        (name, row)
        for name in ("from-flask-redis", "from-version-1")
        for row in table(name)
    ],
    ids=lambda value: (
        value if isinstance(value, str) else value["after"].replace("\n", " ")
    ),
)
def test_migration(server: Server, app: Flask, name: str, row: dict[str, str]) -> None:
    """Each new line in the migration tables runs in an app that has REDIS and CACHE, or
    that is about to register one of them.
    """
    app.config.update(REDIS_URL=server.url, CACHE_URL=f"{server.url}/1")
    lines = literals(row["after"])
    registers = "(app" in row["after"]
    namespace: dict[str, t.Any] = {"app": app, "Redis": Redis, "MyRedis": MyRedis}

    if not registers:
        namespace["redis"] = namespace["redis_client"] = Redis(app)
        namespace["redis"].set("key", "v")
        Redis(app, "CACHE")

    for line in lines[:-1]:
        exec(line, namespace)

    if " import " in lines[-1] or registers:
        exec(lines[-1], namespace)
        result = None
    else:
        result = eval(lines[-1], namespace)

    assert result is None or result == b"v" or isinstance(result, redis.Redis)

    if registers:
        (prefix,) = app.extensions["redis"]
        client = app.extensions["redis"][prefix]
        assert client.set("k", "v")
        assert prefix == ("CACHE" if '"CACHE"' in row["after"] else "REDIS")
        assert client.get("k") == ("v" if "decode" in row["after"] else b"v")
        assert isinstance(client, MyRedis) == ("MyRedis" in row["after"])


def test_lines_to_migrate(tmp_path: Path) -> None:
    """The command on the page finds the lines of each row of the table."""
    (command,) = commands_of("migrating/flask-redis")
    files = {f"row_{n}.py": row for n, row in enumerate(table("from-flask-redis"))}

    for name, row in files.items():
        (tmp_path / name).write_text("\n".join(literals(row["before"])))

    arguments = shlex.split(command)
    lines = subprocess.check_output(arguments, cwd=tmp_path, text=True).splitlines()
    assert {line.split(":")[0] for line in lines} == {f"./{name}" for name in files}


def imported_modules(path: Path, package: Path) -> set[str]:
    """The modules of the package that a module imports at run time, as paths."""
    tree = ast.parse(path.read_text())
    for_type_checkers = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    modules = set()

    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and node.level
            and node not in for_type_checkers
        ):
            base = path.parents[node.level - 1]
            base = base.joinpath(*(node.module or "").split("."))

            for name in node.names:
                # Either a module of a package, or a name in a module.
                if (base / f"{name.name}.py").exists():
                    module = base / name.name
                elif base.is_dir():
                    module = base / "__init__"
                else:
                    module = base

                modules.add(module.relative_to(package).as_posix())

    return modules


def test_modules() -> None:
    """The design page lists all modules, and each module imports only from modules
    above it in the list.
    """
    pattern = r"^``([\w/]+)``  "
    modules = re.findall(pattern, (DOCS / "design.rst").read_text(), re.M)
    package = Path(flask_and_redis.__file__).parent
    existing = {
        path.relative_to(package).with_suffix("").as_posix()
        for path in package.rglob("*.py")
        # An empty one only makes a folder a package.
        if path.read_text()
    }
    assert {*modules, "__init__"} == existing

    for number, name in enumerate(modules):
        imported = imported_modules(package / f"{name}.py", package)
        assert imported <= {*modules[:number]}, name


def test_slow_commands(caplog: pytest.LogCaptureFixture) -> None:
    """The page's receiver logs commands that take long."""
    (text,) = [files["slow.py"] for files in files_of("observability")]
    names: dict[str, t.Any] = {}
    exec(text, names)
    values: dict[str, t.Any] = {"prefix": "CACHE", "tries": 1, "error": None}

    try:
        for seconds in (0.01, 0.2):
            command_finished.send(
                Flask("slow"), commands=("GET", "SET"), seconds=seconds, **values
            )
    finally:
        command_finished.disconnect(names["warn_if_slow"])

    assert caplog.messages == ["CACHE GET, SET: 0.200 s, 1 tries"]
