from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import socketserver
import ssl
import subprocess
import sys
import threading
import time
import typing as t
import warnings
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import redis
from ephemeral_port_reserve import reserve
from flask import Flask
from redis.backoff import NoBackoff
from redis.retry import Retry

from flask_and_redis import Redis
from flask_and_redis import RedisManager
from flask_and_redis.operate import health
from flask_and_redis.operate import report
from flask_and_redis.operate.text import print_table
from flask_and_redis.operate.text import wrap
from flask_and_redis.operate.text import wrap_error

from . import objects
from .conftest import miss
from .conftest import Starter
from .servers import Certificates
from .servers import Cluster
from .servers import Sentinels
from .servers import Server
from .test_health import Poolless
from .test_health import silent_server

SECRET = "s3cr3t-n0-l34k"
COMMAND = [sys.executable, "-m", "flask", "--app", "tests.operate_app", "redis"]
ROOT = Path(__file__).parent.parent


@dataclass
class Done:
    """The result of a command."""

    code: int
    output: str

    @property
    def lines(self) -> list[str]:
        """The output's lines, where ' | ' replaces the spaces between columns."""
        return [
            re.sub(" {2,}", " | ", line.rstrip()) for line in self.output.splitlines()
        ]


Run = t.Callable[..., Done]


def run_process(config: dict[str, str], *arguments: str) -> Done:
    environment = {f"FLASK_{name}": value for name, value in config.items()}
    done = subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, **environment},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
    )
    return check(Done(done.returncode, done.stdout))


def check(done: Done) -> Done:
    """Check that a command prints no secret, no traceback and no overlong line."""
    assert SECRET not in done.output
    assert "Traceback" not in done.output

    for line in done.output.splitlines():
        # Messages at start-up and JSON may have longer lines.
        assert len(line) <= 100 or re.search("^(Prefix '|    )|Warning: ", line)

    return done


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in the test's process with Flask's CLI runner."""

    def execute(path: str, arguments: list[str], environment: dict[str, str]) -> None:
        # execve() would replace the test's process. Run a subprocess instead.
        done = subprocess.run(
            arguments, executable=path, env=environment, capture_output=True, text=True
        )
        click.echo(done.stdout + done.stderr, nl=False)
        raise SystemExit(done.returncode)

    def run(config: dict[str, t.Any], *arguments: str) -> Done:
        app = Flask("operate")
        app.config.update(config)

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No setting configures a Redis")
            RedisManager(app)

        result = app.test_cli_runner().invoke(args=["redis", *arguments])
        return check(Done(result.exit_code, result.output))

    monkeypatch.setattr(os, "execve", execute)
    return run


def write_script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture(params=["process", "runner"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a command, once in a separate process and once with Flask's CLI runner.

    A process takes a second, so most tests are content with the runner.
    """
    if request.param == "process":
        return run_process

    invoke: Run = request.getfixturevalue("runner")
    return invoke


@pytest.mark.parametrize("command", ["list", "ping", "info", "cli"])
def test_help(runner: Run, command: str) -> None:
    """The group lists each command, and the help of each command shows examples."""
    assert command in runner({}).output
    done = runner({}, command, "--help")
    assert done.code == 0
    assert f"Examples:\n    flask redis {command}\n" in done.output


CONFIG = {
    "REDIS_URL": f"redis://{SECRET}:{SECRET}@db.example:7000/2",
    "CACHE_HOST": "::1",
    "CACHE_RETRY_DEADLINE": "0.5",
    "CACHE_PASSWORD": SECRET,
    "CARTS_URL": f"rediss+cluster://:{SECRET}@a:7000,b:7001",
    "NODE_HOST": "a",
    "NODE_CLASS": "redis.RedisCluster",
    "LOCAL_HOST": "/run/redis.sock",
    "FAKE_URL": "fakeredis://shop/1",
    "SESSIONS_URL": f"redis+sentinel://:{SECRET}@s:1,t/mymaster/3?role=replica",
    "DATABASE_URL": f"postgresql://u:{SECRET}@h/x",
}
LISTED = [
    "PREFIX | ENGINE | ADDRESS | DB | CLASS | TLS | DEADLINE",
    "REDIS * | redis | db.example:7000 | 2 | redis.Redis | no | 5 s",
    "CACHE | redis | [::1]:6379 | 0 | redis.Redis | no | 0.5 s",
    "CARTS | rediss+cluster | a:7000, b:7001 | 0 | redis.RedisCluster | yes | 5 s",
    "NODE | redis+cluster | a:6379 | 0 | redis.RedisCluster | no | 5 s",
    "LOCAL | unix | /run/redis.sock | 0 | redis.Redis | no | 5 s",
    "FAKE | fakeredis | this process, server shop | 1 | fakeredis.FakeRedis | no | 5 s",
]


def test_list(run: Run) -> None:
    """The list shows the address of each Redis, and no secrets."""
    done = run(CONFIG, "list")
    assert done.code == 0
    assert set(LISTED) < {*done.lines}
    # This row is too long for one line, so it is wrapped.
    text = " ".join(done.lines)
    assert "SESSIONS | redis+sentinel | replicas of mymaster at s:1, | 3 |" in text
    assert done.lines[-3:] == [
        "* the default",
        "",
        "Skipped: 1. See 'flask redis list --all'.",
    ]


def test_list_all(runner: Run) -> None:
    """With --all, the list also shows skipped prefixes and wrong settings, with the
    reason.
    """
    config = {**CONFIG, "X_HOST": "h:1"}
    done = runner({**config, "ZZ_URL": "redis://h/x"}, "list", "--all")
    assert done.code == 0
    assert (
        "DATABASE | 'DATABASE_URL' does not begin with redis://,"
        in done.output.replace("  ", " | ")
    )
    assert "\n\nSkipped:\n" in done.output
    assert "'X_HOST' must name a host" in done.output
    assert "'ZZ_URL' must end in the number" in done.output
    assert "Skipped" not in runner({"REDIS_URL": "redis://h"}, "list", "--all").output


def test_list_as_json(runner: Run) -> None:
    """With --json, the list is a JSON object with one key per prefix."""
    listed = json.loads(runner(CONFIG, "list", "--json", "--all").output)
    assert list(listed) == [
        *("REDIS", "CACHE", "CARTS", "NODE", "LOCAL", "FAKE", "SESSIONS", "DATABASE"),
    ]
    assert listed["CARTS"] == {
        "engine": "rediss+cluster",
        "address": "a:7000, b:7001",
        "database": 0,
        "class": "redis.RedisCluster",
        "tls": True,
        "deadline": 5.0,
        "default": False,
    }
    assert listed["DATABASE"].keys() == {"skipped"}
    assert "DATABASE" not in json.loads(runner(CONFIG, "list", "--json").output)


@pytest.mark.parametrize("arguments", [["list"], ["list", "REDIS"], ["ping"], ["info"]])
def test_json_is_indented(runner: Run, arguments: list[str]) -> None:
    """People can read the JSON, too."""
    output = runner({"REDIS_URL": "fakeredis://"}, *arguments, "--json").output
    assert output == json.dumps(json.loads(output), indent=2) + "\n"


def test_wide_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """A table has at most 100 columns. If it is wider, its widest column is narrowed.
    Words with hyphens, such as the names of hosts, stay whole.
    """

    def printed(cell: str, **options: t.Any) -> list[str]:
        print_table([["a", "b", cell]], **options)
        return capsys.readouterr().out.splitlines()

    fits = 94 * "x"
    assert printed(fits) == [f"a  b  {fits}"]
    assert printed(f"{fits}y") == [f"a  b  {fits}", "      y"]
    assert printed(fits[2:], indent=2) == [f"  a  b  {fits[2:]}"]
    assert printed(fits[1:], indent=2) == [f"  a  b  {fits[2:]}", "        x"]
    assert printed(f"{fits[7:]} my-host") == [f"a  b  {fits[7:]}", "      my-host"]


def test_long_lines() -> None:
    """Lines are wrapped after 100 columns, and errors so that "Error: " fits in front
    of them. Words with hyphens stay whole.
    """
    fits = 93 * "x"
    assert wrap(f"{fits} 123456") == f"{fits} 123456"
    assert wrap(f"{fits} 1234567") == f"{fits}\n  1234567"
    assert wrap(f"{fits} a-host") == f"{fits} a-host"
    assert wrap(f"{fits} my-host") == f"{fits}\n  my-host"
    assert wrap_error(f"{fits[:-3]} ab") == f"{fits[:-3]} ab"
    assert wrap_error(f"{fits[:-3]} abc") == f"{fits[:-3]}\nabc"
    assert wrap_error(f"{fits[:-7]} my-host") == f"{fits[:-7]}\nmy-host"


def test_list_of_objects(runner: Run) -> None:
    """The list shows the addresses of pools and nodes that the application created."""
    sentinel = t.cast(t.Any, redis.Sentinel)([("s", 1)])
    config = {
        "POOL_CONNECTION_POOL": redis.ConnectionPool(host="h", port=1, db=2),
        "NONE_CONNECTION_POOL": redis.ConnectionPool(db=None),
        "TLS_CONNECTION_POOL": redis.ConnectionPool.from_url("rediss://h:2"),
        "SOCKET_CONNECTION_POOL": redis.ConnectionPool.from_url("unix:///s"),
        "FOUND_CONNECTION_POOL": sentinel.master_for("m").connection_pool,
        "NODES_STARTUP_NODES": [t.cast(t.Any, redis.cluster.ClusterNode)("n", 7)],
        "NODES_CLASS": "redis.RedisCluster",
        "NODES_HOST": "a",
        "OWN_HOST": "h",
        "OWN_RETRY": redis.retry.Retry(redis.backoff.NoBackoff(), 1),
        "OWN_CLASS": objects.MyRedis,
    }
    lines = runner(config, "list").lines
    assert "POOL | redis | h:1 | 2 | redis.Redis | no | 5 s" in lines
    assert "NONE | redis | localhost:6379 | 0 | redis.Redis | no | 5 s" in lines
    assert "TLS | redis | h:2 | 0 | redis.Redis | yes | 5 s" in lines
    assert "SOCKET | unix | /s | 0 | redis.Redis | no | 5 s" in lines
    assert (
        "FOUND | redis+sentinel | m behind sentinels | 0 | redis.Redis | no | 5 s"
        in lines
    )
    assert "NODES | redis+cluster | n:7 | 0 | redis.RedisCluster | no | 5 s" in lines
    assert "OWN | redis | h:6379 | 0 | tests.MyRedis | no | redis-py's" in lines


def test_no_redis(runner: Run) -> None:
    """Without Redis, the commands say so. To ping nothing is a failure."""
    message = "This app has no Redis: set 'REDIS_URL', for example.\n"
    assert runner({}, "list") == Done(0, message)

    for command in ("ping", "info"):
        assert runner({}, command) == Done(1, message)
        # The message is on stderr, so that the JSON can be read.
        assert runner({}, command, "--json") == Done(1, "{}\n" + message)


def test_ping(run: Run, server: Server, start: Starter) -> None:
    """Each server gets one line, and the exit status is 1 if any server fails. All
    servers are pinged at the same time.
    """
    stopped, locked = start(Server), start(Server, password=SECRET)
    stopped.pause()

    with silent_server() as silent:
        config = {
            "REDIS_URL": server.url,
            "FAKE_URL": "fakeredis://",
            "LOCKED_URL": locked.url,
            "WRONG_URL": f"redis://:x{SECRET}@{locked.address}",
            "RIGHT_URL": f"redis://:{SECRET}@{locked.address}",
            "STOPPED_URL": stopped.url,
            "SILENT_URL": f"redis://{silent}",
            "DOWN_URL": f"redis://127.0.0.1:{reserve()}",
            "NAME_URL": "redis://nowhere.invalid",
            "GUESS_HOST": "127.0.0.1",
            "GUESS_PORT": str(reserve()),
        }
        started = time.monotonic()
        done = run(config, "ping", "--timeout", "1")
        took = time.monotonic() - started

    # One ping after another would take 3 s, plus the time that Python needs to start.
    assert took < 10
    assert done.code == 1
    results = {
        line.partition(" | ")[0]: line.partition(" | ")[2] for line in done.lines
    }
    assert [prefix for prefix in results if results[prefix].startswith("ok |")] == [
        prefix for prefix in results if prefix in ("REDIS", "FAKE", "RIGHT")
    ]
    assert re.fullmatch(r"ok \| [0-9.]+ ms", results["REDIS"])
    assert results["STOPPED"] == results["SILENT"] == "failed | No answer within 1 s."
    assert "refused" in results["DOWN"]
    assert results["NAME"].startswith("failed | ")
    assert "set 'LOCKED_PASSWORD'" in results["LOCKED"]
    assert "invalid username-password" in results["WRONG"]
    assert "refused" in results["GUESS"]
    assert run(config, "ping", "REDIS", "FAKE").code == 0
    assert run(config, "ping", "REDIS", "DOWN").code == 1


def test_ping_as_json(runner: Run, server: Server) -> None:
    """With --json, the results are a JSON object with one key per prefix."""
    config = {"REDIS_URL": server.url, "DOWN_URL": f"redis://127.0.0.1:{reserve()}"}
    done = runner(config, "ping", "--json")
    assert done.code == 1
    results = json.loads(done.output)
    assert results["REDIS"] == {
        "ok": True,
        "ms": results["REDIS"]["ms"],
        "error": None,
        "required": True,
    }
    assert results["DOWN"]["ok"] is False


def test_optional_prefixes(runner: Run, server: Server) -> None:
    """An outage of an optional prefix is reported, and the exit status is 0."""
    config = {
        "REDIS_URL": server.url,
        "CACHE_URL": f"redis://127.0.0.1:{reserve()}",
        "CACHE_OPTIONAL": True,
    }
    done = runner(config, "ping")
    assert done.code == 0
    assert done.lines[1].startswith("CACHE | optional | Error 111 connecting")
    done = runner(config, "info", "CACHE")
    assert (done.code, " | error | " in done.lines[1]) == (0, True)
    config["CACHE_OPTIONAL"] = False
    assert runner(config, "ping").code == runner(config, "info").code == 1


def test_defaults_of_times(
    runner: Run, native_client_prints: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without options, servers are pinged once, and must answer within a second. To
    find the server of the native client, sentinels have five seconds.
    """
    timeouts: list[float] = []

    def ask(questions: t.Any, timeout: float) -> t.Any:
        timeouts.append(timeout)
        return original(questions, timeout)

    original = health.ask
    monkeypatch.setattr(health, "ask", ask)
    config = {"REDIS_URL": f"redis+sentinel://127.0.0.1:{reserve()}/mymaster"}

    for command in ("ping", "cli"):
        assert runner(config, command).code == 1

    assert timeouts == [1, 5]


def test_ping_waits(run: Run, own_server: Server) -> None:
    """With --wait, the servers are pinged until all required ones answer."""
    own_server.stop()
    config = {
        "REDIS_URL": own_server.url,
        "CACHE_URL": f"redis://127.0.0.1:{reserve()}",
        "CACHE_OPTIONAL": "true",
    }
    timer = threading.Timer(1, own_server.start)
    timer.start()
    done = run(config, "ping", "--wait", "40")
    timer.join()
    assert done.code == 0
    # Only the last results are shown.
    assert sorted(line.split(" | ")[:2] for line in done.lines) == [
        ["CACHE", "optional"],
        ["REDIS", "ok"],
    ]


def test_ping_waits_in_vain(runner: Run) -> None:
    """After that time the command fails. A single ping takes no longer than what is
    left of it.
    """
    with silent_server() as silent:
        config = {"REDIS_URL": f"redis://{silent}"}
        started = time.monotonic()
        done = runner(config, "ping", "--wait", "0.5", "--timeout", "0.3", "--json")
        took = time.monotonic() - started

    assert done.code == 1
    error = json.loads(done.output)["REDIS"]["error"]
    assert re.fullmatch(r"No answer within 0\.[23]\d* s\.", error)
    assert 0.5 <= took < 10


@pytest.mark.parametrize("command", ["ping", "info", "cli"])
def test_unknown_prefix(runner: Run, command: str) -> None:
    """An unknown prefix is an error that lists the known prefixes."""
    done = runner(
        {"REDIS_URL": "fakeredis://", "A_URL": "fakeredis://"}, command, "NONE"
    )
    assert done.code == 2
    assert "Error: This app has no Redis with the prefix 'NONE'; it has:" in done.output
    assert "'REDIS'" in done.output and "'A'" in done.output


@pytest.mark.parametrize("command", ["list", "ping", "info", "cli"])
def test_empty_prefix(runner: Run, command: str) -> None:
    """An empty prefix, from a variable that is not set, is not the default one."""
    done = runner({"REDIS_URL": "fakeredis://"}, command, "")
    assert done.code == 2
    assert "Error: This app has no Redis with the prefix ''; it has:" in done.output


@pytest.mark.parametrize("command", ["info", "cli"])
def test_wrong_prefix(runner: Run, command: str) -> None:
    """A prefix with a wrong setting is an error that names the setting."""
    config = {"REDIS_URL": "fakeredis://", "BROKER_URL": f"redis://{SECRET}@h/x"}
    done = runner(config, command, "BROKER")
    assert done.code == 2
    assert "Error: 'BROKER_URL' must end in the number" in done.output


@pytest.mark.parametrize(
    ("option", "right", "wrong"),
    [
        ("--timeout", ["0.001", "3600"], ["0", "-1", "x", "inf", "3600.5"]),
        ("--wait", ["0", "86400"], ["-0.5", "x", "inf", "86400.5"]),
    ],
)
def test_limits_of_times(
    runner: Run, option: str, right: list[str], wrong: list[str]
) -> None:
    """A time is a number of seconds, and not too large by mistake."""
    config = {"REDIS_URL": "fakeredis://"}

    for value in right:
        assert runner(config, "ping", option, value).code != 2

    for value in wrong:
        done = runner(config, "ping", option, value)
        assert done.code == 2
        assert f"Invalid value for '{option}': " in done.output


@pytest.mark.parametrize("command", ["ping", "info"])
def test_timeout_that_is_no_number(runner: Run, command: str) -> None:
    """The number that is none is refused, too."""
    config = {"REDIS_URL": "redis://127.0.0.1:1"}
    done = runner(config, command, "--timeout", "nan")
    assert done.code == 2
    assert "The timeout must be a number of seconds above 0." in done.output


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colors_on_a_terminal(server: Server, no_color: str) -> None:
    """Output to a terminal is coloured, unless NO_COLOR is set."""
    reader, terminal = pty.openpty()
    config = {
        "FLASK_REDIS_URL": server.url,
        "FLASK_DOWN_URL": f"redis://127.0.0.1:{reserve()}",
        "NO_COLOR": no_color,
    }
    subprocess.run(
        [*COMMAND, "ping"],
        env={**os.environ, **config},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        timeout=30,
    )
    os.close(terminal)
    output = os.read(reader, 10_000).decode()
    os.close(reader)
    assert ("\x1b[32mREDIS" in output) is (not no_color)
    assert ("\x1b[31mDOWN" in output) is (not no_color)
    assert "REDIS" in output
    assert "DOWN" in output


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colors(
    app: Flask, server: Server, monkeypatch: pytest.MonkeyPatch, no_color: str
) -> None:
    """The color of a line says whether the server answered."""
    monkeypatch.setenv("NO_COLOR", no_color)
    down = f"redis://127.0.0.1:{reserve()}"
    app.config.update(REDIS_URL=server.url, DOWN_URL=down, CACHE_URL=down)
    app.config["CACHE_OPTIONAL"] = True
    RedisManager(app)
    invoke = app.test_cli_runner().invoke
    pings = invoke(args=["redis", "ping", "--timeout", "20"], color=True).output
    info = invoke(args=["redis", "info", "DOWN"], color=True).output

    for text in ("\x1b[32mREDIS", "\x1b[31mDOWN", "\x1b[33mCACHE", "\x1b[31m  error"):
        assert (text in pings + info) is (not no_color)


def test_info(runner: Run, each_server: Server) -> None:
    """The command shows the version, role, memory, clients, keys and hit rate of each
    kind of server, and warns about risky settings.
    """
    with each_server.admin() as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_resetstat()
        client.set("k", "v")
        client.get("k")
        client.get("none")
        version = client.info("server")
        client.select(3)
        client.set("k", "v", ex=1000)
        client.select(0)

    kind, number = "Redis", str(version["redis_version"])

    if "valkey_version" in version:
        kind, number = "Valkey", str(version["valkey_version"])

    config = {"REDIS_URL": f"{each_server.url}/3", "CACHE_URL": each_server.url}
    done = runner(config, "info", "REDIS")
    assert done.code == 0
    title, server, role, memory, clients, keys, rate, *warnings = done.lines
    assert title == f"REDIS | redis | {each_server.address}"
    assert server.startswith(f" | server | {kind} {number}, up ")
    assert role == " | role | master of 0 replicas"
    assert memory.endswith(" of 100.0 MiB, policy noeviction")
    assert re.fullmatch(r" \| clients \| \d+ connected of at most 10000", clients)
    assert keys == " | keys | db0: 1; db3 (this one): 1, 1 expiring"
    assert rate == " | hit rate | 50.0 % of 2 reads"
    is_old = kind == "Redis" and tuple(map(int, number.split(".")[:2])) < (7, 2)
    assert ("is older than 7.2" in " ".join(warnings)) == is_old

    def info_of_cache() -> str:
        # A long warning is wrapped.
        done = runner(config, "info", "CACHE", "--timeout", "20")
        return " ".join(done.output.split())

    assert "evicts nothing, because its policy is noeviction" in info_of_cache()

    with each_server.admin() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert "evicts nothing" not in info_of_cache()
        client.config_set("maxmemory", 0)
        assert "because its memory has no limit" in info_of_cache()
        client.config_set("maxmemory-policy", "noeviction")


def test_info_of_a_cluster(runner: Run, fresh_cluster: Cluster) -> None:
    """A cluster gets one line for each node, even if a node does not answer."""
    fresh_cluster.nodes[4].kill()
    done = runner({"CARTS_URL": f"redis+cluster://{fresh_cluster.address}"}, "info")
    assert done.code == 1

    for number, node in enumerate(fresh_cluster.nodes):
        role = "master" if number < 3 else "replica"
        start = " | error" if number == 4 else f" | {node.address} | {role} | "
        lines = [line for line in done.lines if line.startswith(start)]
        assert any(node.address in line for line in lines), done.output


def test_info_behind_sentinels(runner: Run, sentinels: Sentinels) -> None:
    """Behind Sentinel, the command shows the server that the sentinels name, or an
    error if they know none.
    """
    url = f"redis+sentinel://{sentinels.address}/mymaster"
    config = {"REDIS_URL": url, "READ_URL": f"{url}?role=replica"}
    done = runner(config, "info")
    assert done.code == 0
    assert f" | address | {sentinels.servers[0].address}" in done.lines
    assert " | role | master of 2 replicas" in done.lines
    master = sentinels.servers[0].address
    assert f" | role | replica of {master}, link up" in done.lines
    other = {"REDIS_URL": f"redis+sentinel://{sentinels.address}/other"}
    assert "'other'" in runner(other, "info").output


def test_info_of_other_servers(runner: Run, start: Starter) -> None:
    """Servers that have no INFO, refuse the login or do not answer are reported."""
    stopped, locked = start(Server), start(Server, password=SECRET)
    stopped.pause()

    with silent_server() as silent:
        config = {
            "FAKE_URL": "fakeredis://",
            "LOCKED_URL": f"redis://:x{SECRET}@{locked.address}",
            "STOPPED_URL": stopped.url,
            "SILENT_URL": f"redis+cluster://{silent}",
            "GUESS_HOST": "127.0.0.1",
            "GUESS_PORT": str(reserve()),
        }
        done = runner(config, "info")

    assert done.code == 1
    assert "It has no INFO" in done.output
    errors = [line for line in done.lines if " | error | " in line]
    assert len(errors) == 4
    # The socket's timeout may expire just before the command's timeout.
    silent_errors = [
        error for error in errors if "No answer" in error or "Timeout" in error
    ]
    assert len(silent_errors) == 2
    assert "invalid username-password" in done.output
    assert "refused" in done.output
    fake = runner(config, "info", "FAKE")
    assert fake.code == 0


def test_info_as_json(runner: Run, server: Server, cluster: Cluster) -> None:
    """With --json, the command prints what each node says of itself, as numbers."""
    config = {
        "REDIS_URL": server.url,
        "CARTS_URL": f"redis+cluster://{cluster.address}",
        "FAKE_URL": "fakeredis://",
    }

    with server.admin() as client:
        client.set("k", "v")

    done = runner(config, "info", "--json")
    assert done.code == 0
    reports = json.loads(done.output)
    assert list(reports) == ["REDIS", "CARTS", "FAKE"]
    single = reports["REDIS"]
    assert (single["engine"], single["address"]) == ("redis", server.address)
    assert single["errors"] == []
    info = single["nodes"][server.address]
    assert info["role"] == "master"
    assert info["db0"] == {"keys": 1, "expires": 0}
    assert info["used_memory"] > 0
    assert reports["CARTS"]["nodes"].keys() == {node.address for node in cluster.nodes}
    assert reports["FAKE"]["nodes"] == {}
    failing = {"REDIS_URL": f"redis://127.0.0.1:{reserve()}"}
    done = runner(failing, "info", "--json")
    assert done.code == 1
    assert "refused" in json.loads(done.output)["REDIS"]["errors"][0]


def bulk(*lines: str) -> bytes:
    body = "\r\n".join(lines).encode()
    return b"$%d\r\n%b\r\n" % (len(body), body)


@contextlib.contextmanager
def lying_server(reply: bytes) -> t.Iterator[str]:
    """Run a server that accepts every command but INFO and CLUSTER, to which it sends
    one reply. Yield its address.
    """

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                words = [self.rfile.readline() and self.rfile.readline().strip()]
                words += [
                    self.rfile.readline() and self.rfile.readline().strip()
                    for _ in range(int(line[1:]) - 1)
                ]
                lies = words[0] in (b"INFO", b"CLUSTER")
                no_hello = b"-ERR unknown command\r\n"
                other = no_hello if words[0] == b"HELLO" else b"+OK\r\n"
                self.wfile.write(reply if lies else other)

    class Threads(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Threads(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


LIES = (
    *("redis_version:7.2.4\x1b]0;owned\x07\x1b[31m", "role:slave\u202e"),
    *("master_host:\x1b[2Jh", "master_port:x", "master_link_status:up\x08"),
    *("uptime_in_seconds:soon", "used_memory:-1", "maxmemory:99999999999999999999999"),
    *("maxmemory_policy:" + 500 * "x", "connected_clients:1.5", "maxclients:\x1b"),
    *("blocked_clients:a=1", "connected_slaves:,", "keyspace_hits:1e3"),
    *("keyspace_misses:" + 5000 * "9", "db0:keys,expires=\x1b", "db1:1"),
    *("db99999999999999999999:keys=1,expires=1", "\x1b[31m", "db2:keys=3,expires=x"),
)


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_info_of_a_liar(runner: Run, arguments: list[str]) -> None:
    """What a server says of itself neither controls the terminal nor ends the command.
    What makes no sense is left out.
    """
    with lying_server(bulk(*LIES)) as liar:
        done = runner({"REDIS_URL": f"redis://{liar}?protocol=2"}, "info", *arguments)

    assert done.code == 0
    assert all(char.isprintable() or char == "\n" for char in done.output)
    assert "7.2.4 ]0;owned [31m" in done.output
    assert "owned" in done.output and "99999" not in done.output

    if not arguments:
        assert " | server | Redis 7.2.4 ]0;owned [31m, up ?" in done.lines
        assert "db2: 3" in done.output


def test_info_of_a_lying_cluster(runner: Run) -> None:
    """The same for the nodes that a cluster names."""
    nodes = (
        "id1 \x1b[31mhost:1@2 master - 0 0 1 connected 0-16383",
        "id2 127.0.0.1:port@x master - 0 0 1 connected",
        "id3 127.0.0.1:99999999999@x slave id1 0 0 1 connected",
    )

    with lying_server(bulk(*nodes)) as liar:
        config = {"REDIS_URL": f"redis+cluster://{liar}?protocol=2"}
        done = runner(config, "info")

    assert done.code == 1
    assert all(char.isprintable() or char == "\n" for char in done.output)
    assert "\n  node  role " in done.output
    assert "\n  error  [31mhost:1: " in done.output

    with lying_server(bulk(nodes[1])) as liar:
        config = {"REDIS_URL": f"redis+cluster://{liar}?protocol=2"}
        done = runner(config, "info")

    assert (done.code, "The cluster returned no nodes." in done.output) == (1, True)


def test_info_of_another_kind(runner: Run) -> None:
    """A client that does not parse INFO gives no facts."""
    done = runner({"REDIS_HOST": "h", "REDIS_CLASS": Poolless}, "info")
    assert done.code == 0
    assert "\n  server    Redis ?, up ?\n" in done.output


def test_words_for_facts() -> None:
    """Durations, sizes and counts are formatted for people. Values that a server does
    not report are shown as a question mark or a dash.
    """
    durations = {
        seconds: report._duration({"uptime_in_seconds": seconds})
        for seconds in (5, 65, 3700, 90_000)
    }
    assert list(durations.values()) == ["5 s", "1 min", "1 h 1 min", "1 d 1 h"]
    sizes = [report._size(2**exponent) for exponent in (3, 13, 23, 33)]
    assert sizes == ["8.0 B", "8.0 KiB", "8.0 MiB", "8.0 GiB"]
    assert report._server({}) == "Redis ?"
    valkey = {"redis_version": "7.2.4", "valkey_version": "8.1.0"}
    assert report._server(valkey) == "Valkey 8.1.0"
    assert report._clients({}) == "? connected"
    assert report._clients({"connected_clients": 3, "blocked_clients": 1}) == (
        "3 connected, 1 blocked"
    )
    assert (
        report._role({"role": "master", "connected_slaves": 1}) == "master of 1 replica"
    )
    assert report._hit_rate({}) == "-"


@pytest.mark.parametrize(
    ("version", "is_old"), [("6.2.14", True), ("7.2.0", False), ("8.0.2", False)]
)
def test_old_servers_are_named(app: Flask, version: str, is_old: bool) -> None:
    """A Redis version that redis-py no longer supports causes a warning. The test makes
    up the version, so it needs no such server.
    """
    app.config["REDIS_URL"] = "redis://127.0.0.1"
    RedisManager(app)
    spec = app.extensions["redis"].get_spec("REDIS")
    warnings = list(report._warn(spec, {"redis_version": version}))
    assert ["is older than 7.2" in warning for warning in warnings] == [True] * is_old


def test_nodes_without_addresses(app: Flask) -> None:
    """A cluster node that does not know its own address is reached at the host from the
    settings. A node whose address is unknown is skipped.
    """
    app.config["REDIS_URL"] = f"redis+cluster://127.0.0.1:{(port := reserve())}"
    RedisManager(app)
    spec = app.extensions["redis"].get_spec("REDIS")
    nodes = {f":{port}": {"flags": "myself,master"}, ":0": {"flags": "slave,noaddr"}}
    specs = spec.engine.node_specs(spec, nodes)
    assert list(specs) == [f"127.0.0.1:{port}"]
    assert specs[f"127.0.0.1:{port}"].address.nodes == (("127.0.0.1", port),)


def test_cli(run: Run, native_client: None, server: Server) -> None:
    """The native client runs a command in the prefix's database. Its output and its
    exit status are passed on.
    """
    config = {"REDIS_URL": f"{server.url}/3", "S_URL": f"unix://{server.socket}?db=4"}
    assert run(config, "cli", "--", "SET", "k", "--v").output == "OK\n"
    assert run(config, "cli", "REDIS", "--", "GET", "k") == Done(0, "--v\n")
    assert run(config, "cli", "S", "--", "SET", "k", "s").output == "OK\n"

    with server.admin(db=3) as three, server.admin(db=4) as four:
        assert (three.get("k"), four.get("k")) == (b"--v", b"s")

    assert run(config, "cli", "S", "--", "--no-such-option").code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SET", "a", "b"], "Got unexpected extra arguments (a b)."),
        (["REDIS", "GET", "a"], "Got unexpected extra arguments (GET a)."),
        (["--scan"], "No such option"),
        (["--help=x"], "Option '--help' does not take a value."),
        (["PING"], "Set 'PING_URL' or 'PING_HOST' before init_app."),
        (["get"], "This app has no Redis with the prefix 'get'; it has: 'REDIS'."),
    ],
)
def test_cli_without_dashes(runner: Run, arguments: list[str], message: str) -> None:
    """The error of a command without ``--`` says where to put it."""
    done = runner({"REDIS_URL": "redis://h"}, "cli", *arguments)
    text = " ".join(done.output.split())
    assert done.code == 2
    assert message in text
    assert text.endswith(
        " Put '--' before a command, as in 'flask redis cli -- GET user:1'."
    )
    done = runner({"REDIS_URL": "redis://h"}, "cli", *arguments[:2], "--", "PING")
    assert (done.code, "Put '--'" in done.output) == (2, False)


def test_cli_logs_in(
    run: Run, native_client: None, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The native client logs in as the prefix's user. A password in the shell's
    environment is not used.
    """
    locked = start(Server, password=SECRET)

    with locked.admin() as client:
        client.acl_setuser("ada", True, passwords=[f"+{SECRET}2"], commands=["+@all"])
        client.acl_setuser("bob", True, nopass=True, commands=["+@all"])

    monkeypatch.setenv("REDISCLI_AUTH", "another")
    config = {
        "REDIS_URL": f"redis://:{SECRET}@{locked.address}",
        "USER_URL": f"redis://ada:{SECRET}2@{locked.address}",
        "OPEN_URL": locked.url,
        "OPEN_USERNAME": "bob",
        "NONE_URL": locked.url,
    }
    assert run(config, "cli", "--", "ACL", "WHOAMI").output == "default\n"
    assert run(config, "cli", "USER", "--", "ACL", "WHOAMI").output == "ada\n"
    assert run(config, "cli", "OPEN", "--", "ACL", "WHOAMI").output == "bob\n"
    refused = run(config, "cli", "NONE", "--", "PING").output
    assert refused.startswith("NOAUTH")


def test_cli_asks_the_provider(
    runner: Run, native_client: None, start: Starter, server: Server
) -> None:
    """The password comes from the credential provider, which may return none. The text
    of a provider's error is not shown.
    """
    locked = start(Server, password="provided")

    class Broken(redis.CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            raise LookupError(SECRET)

    config = {
        "REDIS_URL": locked.url,
        "REDIS_CREDENTIAL_PROVIDER": objects.Provider,
        "NOBODY_URL": server.url,
        "NOBODY_CREDENTIAL_PROVIDER": objects.Nobody,
        "BROKEN_URL": locked.url,
        "BROKEN_CREDENTIAL_PROVIDER": Broken(),
    }
    assert runner(config, "cli", "--", "PING").output == "PONG\n"
    assert runner(config, "cli", "NOBODY", "--", "PING").output == "PONG\n"
    done = runner(config, "cli", "BROKEN", "--", "PING")
    assert done.code == 1
    assert "'BROKEN_CREDENTIAL_PROVIDER' gives no password (LookupError)" in done.output


def test_cli_reads_the_password_file(
    runner: Run, native_client: None, start: Starter, tmp_path: Path
) -> None:
    """The password comes from the file. If it is gone, the error names the setting."""
    server = start(Server)

    with server.admin() as admin:
        admin.acl_setuser("ada", enabled=True, passwords=["+s3"], categories=["+@all"])

    path = tmp_path / SECRET
    path.write_text("s3\n")
    config = {
        "REDIS_URL": f"redis://ada@{server.address}",
        "REDIS_PASSWORD_FILE": str(path),
    }
    assert runner(config, "cli", "--", "ACL", "WHOAMI").output == "ada\n"
    app = Flask("operate")
    app.config.update(config)
    RedisManager(app)
    path.unlink()
    result = app.test_cli_runner().invoke(args=["redis", "cli", "--", "PING"])
    done = check(Done(result.exit_code, result.output))
    assert done.code == 1
    assert "'REDIS_PASSWORD_FILE' must be the path of a file" in done.output


def test_cli_on_a_server_that_fails(
    run: Run, native_client: None, start: Starter
) -> None:
    """The native client itself reports that a server is down. If a server hangs, the
    client waits until the server continues.
    """
    server = start(Server, password=SECRET)
    config = {"REDIS_URL": f"redis://:{SECRET}@{server.address}"}
    server.pause()
    timer = threading.Timer(2, server.resume)
    timer.start()
    assert "PONG" in run(config, "cli", "--", "PING").output
    timer.join()
    server.stop()
    done = run(config, "cli", "--", "PING")
    assert done.code == 1
    assert "Could not connect" in done.output
    # The list opens no connection, so it works while the server is down.
    assert run(config, "list").code == 0


@pytest.mark.parametrize("is_valkey", [False, True])
def test_cli_without_its_session(
    runner: Run, native_client: None, server: Server, is_valkey: bool
) -> None:
    """If the server refuses the database or the login, no command is run. redis-cli
    would run it in database 0, or as the default user.
    """
    with server.admin() as admin:
        # It may not even use PING.
        admin.acl_setuser(
            "ada", enabled=True, passwords=["+s3"], keys=["*"], commands=["+get"]
        )

    config = {
        "DB_URL": f"{server.url}/99",
        "UNIX_URL": f"unix://{server.socket}?db=99",
        "LOGIN_URL": f"redis://ada:{SECRET}@{server.address}",
        "SELECT_URL": f"redis://ada:s3@{server.address}/1",
        "RIGHT_URL": f"redis://ada:s3@{server.address}",
    }

    if is_valkey:
        config |= dict.fromkeys(
            [name.replace("URL", "CLASS") for name in config], "valkey.Valkey"
        )

    def refuse(prefix: str) -> str:
        done = runner(config, "cli", prefix, "--", "SET", "k", "v")
        assert done.code == 1
        return " ".join(done.output.split())

    try:
        assert refuse("DB") == (
            f"Error: DB, {server.address}: DB index is out of range. Check the database"
            " in 'DB_URL': the server has fewer databases."
        )
        assert refuse("UNIX").startswith(f"Error: UNIX, {server.socket}: ")
        assert "The server refuses the login (" in refuse("LOGIN")
        assert "permissions" in refuse("SELECT")
        assert runner(config, "cli", "RIGHT", "--", "GET", "k") == Done(0, "\n")
    finally:
        with server.admin() as admin:
            admin.acl_deluser("ada")
            keys = admin.keys()

    assert keys == []


def test_cli_keeps_the_password_off_the_command_line(
    runner: Run, native_client: None, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password is not on the command line, where other users of the machine could
    read it.
    """
    locked = start(Server, password=SECRET)
    seen: list[t.Any] = []
    monkeypatch.setattr(os, "execve", lambda *args: seen.extend(args))
    config = {"REDIS_URL": f"redis://:{SECRET}@{locked.address}/2"}
    assert runner(config, "cli", "--", "GET", "k").code == 0
    program, arguments, environment = seen
    address = ["-h", "127.0.0.1", "-p", str(locked.port), "-n", "2"]
    assert arguments == [program, *address, "GET", "k"]
    assert environment["REDISCLI_AUTH"] == environment["VALKEYCLI_AUTH"] == SECRET


def test_output_before_the_client(
    runner: Run, native_client_prints: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the application prints first is not lost when the client starts."""

    class Talkative(objects.Provider):
        def get_credentials(self) -> tuple[str, str]:
            print("asked")
            return super().get_credentials()

    seen: list[bytes] = []

    def execute(*args: object) -> None:
        seen.append(t.cast(t.Any, sys.stdout).buffer.getvalue())

    monkeypatch.setattr(os, "execve", execute)
    config = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": reserve()}
    runner({**config, "REDIS_CREDENTIAL_PROVIDER": Talkative}, "cli")
    assert seen == [b"asked\n"]


def test_cli_on_a_cluster(runner: Run, native_client: None, cluster: Cluster) -> None:
    """In a cluster, the native client follows redirects to the key's node."""
    config = {"REDIS_URL": f"redis+cluster://127.0.0.1:{reserve()},{cluster.address}"}

    for key in ("a", "b", "c"):
        assert runner(config, "cli", "--", "SET", key, "v").output == "OK\n"


def test_cli_behind_sentinels(
    runner: Run, native_client: None, sentinels: Sentinels
) -> None:
    """Behind Sentinel, the native client connects to the server that the sentinels
    name.
    """
    url = f"redis+sentinel://{sentinels.address}"
    config = {
        "REDIS_URL": f"{url}/mymaster/1",
        "READ_URL": f"{url}/mymaster?role=replica",
        "OTHER_URL": f"{url}/other",
    }
    assert runner(config, "cli", "--", "SET", "k", "v").output == "OK\n"
    assert "role:slave" in runner(config, "cli", "READ", "--", "INFO").output
    done = runner(config, "cli", "OTHER", "--", "PING")
    assert done.code == 1
    assert "Error: OTHER, other at 127.0.0.1:" in done.output


@pytest.fixture
def native_client_prints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replaces redis-cli with a script that prints its arguments."""
    write_script(tmp_path / "redis-cli", 'echo "$@"')
    monkeypatch.setenv("PATH", str(tmp_path))


def tls_client() -> str:
    """The directory of a redis-cli that supports TLS. The one in the wheel does not."""
    for path in os.get_exec_path():
        if command := shutil.which("redis-cli", path=path):
            done = subprocess.run([command, "--help"], capture_output=True, text=True)

            if "--tls" in done.stdout + done.stderr:
                return path

    miss("a redis-cli with TLS.")


def test_cli_over_tls(
    run: Run,
    mtls_server: Server,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The native client uses the certificates from the settings."""
    path = os.pathsep.join([tls_client(), os.environ["PATH"]])
    monkeypatch.setenv("PATH", path)
    config = {
        "REDIS_HOST": "localhost",
        "REDIS_PORT": str(mtls_server.port),
        "REDIS_SSL": "true",
        "REDIS_SSL_CA_CERTS": str(certificates.ca),
        "REDIS_SSL_CERTFILE": str(certificates.client_cert),
        "REDIS_SSL_KEYFILE": str(certificates.client_key),
    }
    assert run(config, "cli", "--", "PING").output == "PONG\n"
    wrong = {**config, "REDIS_SSL_CA_CERTS": str(certificates.other_ca)}
    assert "PONG" not in run(wrong, "cli", "--", "PING").output
    unverified = {**wrong, "REDIS_SSL_CERT_REQS": "none", "REDIS_HOST": "127.0.0.1"}
    assert run(unverified, "cli", "--", "PING").output == "PONG\n"


def test_cli_is_told_of_tls(
    runner: Run,
    native_client_prints: None,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TLS settings are passed to the native client as options. A setting that has no
    such option is an error.
    """
    config = {
        "REDIS_URL": "rediss://h",
        "REDIS_SSL_CA_CERTS": "ca.pem",
        "REDIS_SSL_CERTFILE": "client.pem",
        "REDIS_SSL_KEYFILE": "client.key",
    }
    monkeypatch.chdir(certificates.ca.parent)
    files = "--tls --cacert ca.pem --cert client.pem --key client.key"
    assert runner(config, "cli").output == f"-h h -p 6379 {files} --sni h\n"
    unverified = {"REDIS_URL": "rediss://[::1]:7000/2", "REDIS_SSL_CERT_REQS": "none"}
    expected = "-h ::1 -p 7000 --tls --insecure -n 2\n"
    assert runner(unverified, "cli").output == expected
    data = certificates.ca.read_text()
    done = runner({**config, "REDIS_SSL_CA_DATA": data}, "cli")
    assert done.code == 1
    assert "'REDIS_SSL_CA_DATA' cannot be passed" in done.output


def test_cli_of_a_fake(runner: Run, native_client: None) -> None:
    """A fakeredis prefix is an error, because there is no server to connect to."""
    done = runner({"REDIS_URL": "fakeredis://"}, "cli")
    assert done.code == 1
    assert "Error: REDIS is fakeredis" in done.output


def test_cli_without_a_client(
    runner: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a native client, the error names the missing programs. Redis prefers
    redis-cli, and Valkey prefers valkey-cli.
    """
    monkeypatch.setenv("PATH", str(tmp_path))
    config = {"REDIS_URL": "redis://h", "VALKEY_URL": "valkey://h"}
    done = runner(config, "cli")
    assert done.code == 1
    assert "Error: Neither redis-cli nor valkey-cli is on the PATH." in done.output

    for name in ("redis-cli", "valkey-cli"):
        write_script(tmp_path / name, f"echo {name}\nexit 3")

    assert runner(config, "cli") == Done(3, "redis-cli\n")
    assert runner(config, "cli", "VALKEY") == Done(3, "valkey-cli\n")
    (tmp_path / "valkey-cli").unlink()
    assert runner(config, "cli", "VALKEY") == Done(3, "redis-cli\n")


@pytest.mark.slow
def test_shell_context(app: Flask) -> None:
    """A Flask shell provides the default prefix's client and the manager."""
    app.config["REDIS_URL"] = "fakeredis://"
    manager = RedisManager(app)
    context = app.make_shell_context()
    assert context["redis_manager"] is manager

    with app.app_context():
        assert context["current_redis"].set("k", "v")

    done = subprocess.run(
        [*COMMAND[:-1], "shell"],
        input="current_redis.set('k', 5), list(redis_manager.ping())\n",
        env={**os.environ, "FLASK_REDIS_URL": "fakeredis://"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "(True, ['REDIS'])" in done.stdout


@pytest.mark.filterwarnings("ignore:No setting configures a Redis")
def test_own_command_stays(app: Flask) -> None:
    """If the application already has a command named 'redis', it is not replaced. A
    warning says that ours are missing.
    """
    app.cli.command("redis")(lambda: click.echo("mine"))

    with pytest.warns(UserWarning, match="its own command 'flask redis', so") as log:
        RedisManager(app)

    assert log[-1].filename == __file__
    assert app.test_cli_runner().invoke(args=["redis"]).output == "mine\n"


@pytest.mark.filterwarnings("ignore:No setting configures a Redis")
def test_own_command_beside_ours(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application can add its own command to the group."""
    RedisManager(app)
    group = app.cli.commands["redis"]
    assert isinstance(group, click.Group)
    mine = click.Command("flush", callback=lambda: click.echo("mine"))
    monkeypatch.setitem(group.commands, "flush", mine)
    invoke = app.test_cli_runner().invoke
    assert invoke(args=["redis", "flush"]).output == "mine\n"
    assert invoke(args=["redis", "list"]).output.startswith("This app has no Redis")


@pytest.mark.filterwarnings("ignore:No setting configures a Redis")
def test_each_app_has_its_own_group(app: Flask) -> None:
    """A command that one app adds to the group does not appear in another app."""
    other = Flask("other")
    RedisManager(app)
    RedisManager(other)
    group = app.cli.commands["redis"]
    assert isinstance(group, click.Group)
    group.add_command(click.Command("flush"))
    assert "flush" in app.test_cli_runner().invoke(args=["redis"]).output
    output = other.test_cli_runner().invoke(args=["redis"]).output
    assert "ping" in output
    assert "flush" not in output


def test_single_redis_is_listed(app: Flask) -> None:
    """The commands also show prefixes that Redis(app) registered."""
    Redis(app, "OTHER")
    RedisManager(app)
    output = app.test_cli_runner().invoke(args=["redis", "list"]).output
    assert "OTHER   redis   localhost:6379" in output


def rows_of(done: Done) -> dict[str, tuple[str, str]]:
    """The values and origins that "list PREFIX" prints, by setting."""
    assert done.code == 0, done.output
    assert done.lines[0] == "SETTING | VALUE | ORIGIN"
    rows = [line.split(" | ") for line in done.lines[1:]]
    return {name: (value, origin) for name, value, origin in rows}


def test_list_of_a_prefix(runner: Run) -> None:
    """Every setting that has a value is listed with its origin. What somebody has given
    comes first.
    """
    config = {
        "CACHE_URL": f"redis://{SECRET}:{SECRET}@h:7000?socket_timeout=2.5",
        "CACHE_DB": "3",
        "CACHE_CHARSET": "latin-1",
        "CACHE_DECODE_RESPONSES": "yes",
        "CACHE_RETRY": "0",
        "CACHE_RETRY_DEADLINE": "1",
    }
    rows = rows_of(runner(config, "list", "CACHE"))
    given = {
        "CACHE_URL": ("h:7000", "setting"),
        "CACHE_HOST": ("h", "URL"),
        "CACHE_PORT": ("7000", "URL"),
        "CACHE_DB": ("3", "setting"),
        "CACHE_USERNAME": ("***", "URL"),
        "CACHE_PASSWORD": ("***", "URL"),
        "CACHE_SOCKET_TIMEOUT": ("2.5", "URL"),
        "CACHE_ENCODING": ("latin-1", "setting"),
        "CACHE_DECODE_RESPONSES": ("true", "setting"),
        "CACHE_RETRY": ("0", "setting"),
        "CACHE_RETRY_DEADLINE": ("1", "setting"),
    }
    assert set(list(rows)[: len(given)]) == set(given)
    assert rows.items() >= given.items()
    assert rows["CACHE_CLASS"] == ("redis.Redis", "default")
    assert rows["CACHE_SOCKET_CONNECT_TIMEOUT"] == ("5", "default")
    assert rows["CACHE_SSL"] == ("false", "default")


def test_list_of_a_prefix_as_json(runner: Run) -> None:
    """As JSON, values keep their type."""
    done = runner({"CACHE_HOST": "h"}, "list", "CACHE", "--json")
    rows = json.loads(done.output)
    assert rows["CACHE_HOST"] == {"value": "h", "origin": "setting"}
    assert rows["CACHE_PORT"] == {"value": 6379, "origin": "default"}
    assert rows["CACHE_RETRY_DEADLINE"] == {"value": 5.0, "origin": "default"}
    assert rows["CACHE_SSL"] == {"value": False, "origin": "default"}


@pytest.mark.parametrize(
    ("config", "rows", "absent"),
    [
        (
            {
                "URL": "rediss+sentinel://a,b:1/mymaster/2",
                "SENTINEL_USERNAME": SECRET,
                "SENTINEL_KWARGS": {"ssl_password": SECRET, "socket_timeout": 0.5},
                "SSL_MIN_VERSION": "TLSv1.2",
                "SSL_CERT_REQS": ssl.CERT_OPTIONAL,
            },
            {
                "URL": ("mymaster at a:26379, b:1", "setting"),
                "DB": ("2", "URL"),
                "SSL": ("true", "URL"),
                "SSL_MIN_VERSION": ("TLSv1_2", "setting"),
                "SSL_CERT_REQS": ("CERT_OPTIONAL", "setting"),
                "SENTINEL_USERNAME": ("***", "setting"),
                "SENTINEL_KWARGS": (
                    "ssl_password: ***, socket_timeout: 0.5",
                    "setting",
                ),
            },
            ["HOST", "PORT"],
        ),
        (
            {"URL": "redis+cluster://a,b"},
            {
                "URL": ("a:6379, b:6379", "setting"),
                "CLASS": ("redis.RedisCluster", "default"),
                "SOCKET_TIMEOUT": ("1", "default"),
            },
            ["HOST", "PORT", "RETRY"],
        ),
        (
            {
                "HOST": "/run/r.sock",
                "CLASS": objects.MyRedis,
                "FOO": SECRET,
                "CONNECTION_POOL_CLASS": redis.BlockingConnectionPool,
                "RETRY_ON_ERROR": [OSError, ValueError],
                "CREDENTIAL_PROVIDER": objects.Provider(),
            },
            {
                "UNIX_SOCKET_PATH": ("/run/r.sock", "setting"),
                "CLASS": ("tests.MyRedis", "setting"),
                "CONNECTION_POOL_CLASS": ("redis.BlockingConnectionPool", "setting"),
                "FOO": ("***", "setting"),
                "RETRY_ON_ERROR": ("builtins.OSError, builtins.ValueError", "setting"),
                "CREDENTIAL_PROVIDER": ("an object of tests.Provider", "setting"),
            },
            ["HOST", "PORT"],
        ),
        (
            {"CONNECTION_POOL": objects.POOL},
            {
                "CONNECTION_POOL": ("at localhost:6399", "setting"),
                "RETRY_DEADLINE": ("5", "default"),
                "OPTIONAL": ("false", "default"),
            },
            ["HOST", "PORT", "SOCKET_TIMEOUT", "MAX_IDLE"],
        ),
        (
            {"URL": "fakeredis://stock"},
            {"URL": ("this process, server stock", "setting")},
            ["HOST", "PORT"],
        ),
        (
            {"URL": "rediss://h", "SSL_CA_DATA": Path(objects.CA).read_text()},
            {"SSL_CA_DATA": ("-----BEGIN CERTIFICATE-----...", "setting")},
            [],
        ),
    ],
)
def test_list_of_each_kind(
    runner: Run,
    config: dict[str, t.Any],
    rows: dict[str, tuple[str, str]],
    absent: list[str],
) -> None:
    """Each kind of server lists the settings that have a meaning for it."""
    config = {f"CACHE_{name}": value for name, value in config.items()}
    listed = rows_of(runner(config, "list", "CACHE"))
    assert listed.items() >= {f"CACHE_{k}": row for k, row in rows.items()}.items()
    assert not listed.keys() & {f"CACHE_{name}" for name in absent}


def test_list_of_an_option(app: Flask) -> None:
    """An option of the manager is an origin of its own."""
    app.config["REDIS_URL"] = "redis://h"
    retry = Retry(NoBackoff(), 1)
    RedisManager(app, client_name="shop", retry=retry)
    result = app.test_cli_runner().invoke(args=["redis", "list", "REDIS"])
    rows = rows_of(check(Done(result.exit_code, result.output)))
    assert rows["REDIS_CLIENT_NAME"] == ("shop", "option")
    assert rows["REDIS_RETRY"] == ("an object of redis.Retry", "option")
    assert "REDIS_RETRY_DEADLINE" not in rows


def test_list_of_an_unknown_prefix(runner: Run) -> None:
    """A prefix that is unknown, skipped or wrong is an error that says why."""
    config = {"REDIS_URL": "redis://h", "X_URL": "http://h", "Y_URL": "redis://h/x"}

    for prefix, message in {
        "CACHE": "no Redis with the prefix 'CACHE'",
        "X": "'X_URL' does not begin with",
        "Y": "'Y_URL' must end in the number of a database",
    }.items():
        done = runner(config, "list", prefix)
        assert done.code == 2
        assert message in " ".join(done.output.split())
