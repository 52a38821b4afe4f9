"""What the runbooks on the operating page show happens, and their commands work."""

from __future__ import annotations

import logging
import re
import textwrap
import typing as t
from pathlib import Path

import pytest
import redis
from flask import Flask

from flask_and_redis import prefix_down
from flask_and_redis import prefix_up
from flask_and_redis import RedisManager

from .conftest import Starter
from .pages import DOCS
from .servers import Sentinels
from .servers import Server
from .servers import wait_until
from .test_signals import receiving

pytestmark = pytest.mark.once

PAGE = (DOCS / "operating.rst").read_text()


def runbook(title: str) -> str:
    """The text of a runbook."""
    _, _, rest = PAGE.partition(f"\nRunbook: {title}\n---")
    assert rest
    return rest.partition("\nRunbook: ")[0]


def blocks(text: str, language: str) -> list[str]:
    """Its code blocks in one language."""
    pattern = rf"^( *)\.\. code-block:: {language}\n\n((?:\1    .*\n|\n)+)"
    blocks = re.findall(pattern, text, re.M)
    return [textwrap.dedent(each).strip() for _, each in blocks]


def normalize(text: str) -> str:
    """A text with other addresses, numbers and servers."""
    text = text.replace("Valkey", "Redis")
    text = re.sub(r"[\w.]+:\d+", "host:0", text)
    return re.sub(r"\d+(\.\d+)?", "0", text)


def test_failover(
    sentinels: Sentinels, app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    """A failover that takes longer than the deadline is logged and sent as the page
    says. The commands on the page show when it is over.
    """
    log, info = blocks(runbook("failover"), "text")
    (wait,) = blocks(runbook("failover"), "console")
    service = f"{sentinels.address}/{sentinels.SERVICE}"
    app.config.update(REDIS_URL=f"redis+sentinel://{service}", REDIS_RETRY_DEADLINE=0.1)
    manager = RedisManager(app)
    runner = app.test_cli_runner()

    with app.app_context(), receiving(prefix_down, prefix_up) as sent:
        client = manager.get()
        client.set("k", "v")
        old = sentinels.master()
        old.kill()

        with pytest.raises(redis.ConnectionError):
            client.set("k", "v")

        assert manager.stats()["REDIS"].down
        assert not manager.ping(timeout=0.5)["REDIS"].ok
        words = wait.removeprefix("$ flask ").split()
        assert runner.invoke(args=words).exit_code == 0
        wait_until(lambda: client.set("k", "v"), "the process notices", timeout=30)
        assert not manager.stats()["REDIS"].down

        def is_shown() -> bool:
            lines = runner.invoke(args=["redis", "info", "REDIS"]).output.splitlines()
            shown = info.removesuffix("\n  ...").splitlines()[1:]
            shown = [normalize(each.partition(", up ")[0]) for each in shown]
            return shown == [
                normalize(each.partition(", up ")[0]) for each in lines[: len(shown)]
            ]

        wait_until(is_shown, "the new master has a replica", timeout=30)

    wait_until(lambda: sentinels.master() is not old, "the sentinels agree", timeout=30)
    assert [each.signal for each in sent] == [prefix_down, prefix_up]
    shown = re.escape(normalize(log)).replace(r"\.\.\.", ".*")
    logged = [
        f"{logging.getLevelName(level)} {message}"
        for name, level, message in caplog.record_tuples
        if name == "flask_and_redis"
    ]
    assert re.fullmatch(shown, normalize("\n".join(logged))), logged


@pytest.mark.parametrize("user", ["shop", "default"])
def test_password_change(start: Starter, app: Flask, tmp_path: Path, user: str) -> None:
    """The steps on the page change a password, and no command fails meanwhile. A user
    of a server with requirepass needs other commands.
    """
    text = runbook("change a password")
    add, remove, only = blocks(text, "text")
    (check,) = blocks(text, "console")
    secret = tmp_path / "password"
    secret.write_text("old-password\n")
    server = start(Server, password="old-password")

    if user == "shop":
        setup = "ACL SETUSER shop on >old-password ~* +@all"
    else:
        setup, add, remove = "PING", add.replace("shop", user), only
        assert add in text.replace("\n", " ")

    with server.admin() as admin:
        admin.execute_command(*setup.split())
        app.config["REDIS_URL"] = f"redis://{user}@{server.address}"
        app.config["REDIS_PASSWORD_FILE"] = str(secret)
        manager = RedisManager(app)
        runner = app.test_cli_runner()

        with app.app_context():
            client = manager.get()
            number = client.client_id()

            assert admin.execute_command(*add.split())
            assert client.incr("n") == 1
            (tmp_path / "new").write_text("new-password\n")
            (tmp_path / "new").replace(secret)
            assert client.incr("n") == 2
            assert admin.execute_command(*remove.split())

            # The open connection stays logged in. New ones use the new password.
            assert client.incr("n") == 3
            assert client.client_id() == number
            words = check.removeprefix("$ flask ").split()
            assert runner.invoke(args=words).exit_code == 0
            manager.close()
            assert manager.get().incr("n") == 4
            assert manager.get().client_id() != number

    old = server.admin(username=user, password="old-password")

    with pytest.raises(redis.AuthenticationError):
        old.ping()

    assert server.admin(username=user, password="new-password").ping()


@pytest.mark.timeout(120)
def test_password_of_replicas(start: Starter, app: Flask, tmp_path: Path) -> None:
    """If replicas and sentinels have the new password, too, the other replica and the
    old master follow the new master after a failover.
    """
    text = " ".join(runbook("change a password").split())
    (masterauth,) = re.findall("``(CONFIG SET masterauth .*?)``", text)
    (auth_pass,) = re.findall("``(SENTINEL SET .*?)``", text)
    (add,) = re.findall("``(ACL SETUSER default .*?)``", text)
    (only,) = re.findall("CONFIG SET requirepass [a-z-]+", text)
    secret = tmp_path / "password"
    secret.write_text("old-password")
    sentinels = start(Sentinels, password="old-password")

    for command in (add, masterauth):
        for server in sentinels.servers:
            with server.admin() as admin:
                admin.execute_command(*command.split())

    for sentinel in sentinels.sentinels:
        with sentinel.admin(protocol=2) as untyped:
            watcher: t.Any = untyped
            name, _, rest = auth_pass.partition(" SET ")
            watcher.execute_command(f"{name} SET", *rest.split())

    service = f"{sentinels.address}/{sentinels.SERVICE}"
    app.config["REDIS_URL"] = f"redis+sentinel://{service}"
    app.config["REDIS_PASSWORD_FILE"] = str(secret)
    manager = RedisManager(app)

    with app.app_context():
        client = manager.get()
        client.set("k", "v")
        secret.write_text("new-password")

        for server in sentinels.servers:
            with server.admin() as admin:
                admin.execute_command(*only.split())

            server.password = "new-password"

        old = sentinels.master()
        old.kill()
        wait_until(lambda: client.set("k", "v"), "the failover", timeout=30)
        old.start()

        def is_complete() -> bool:
            replicas: t.Any = client.info("replication")
            states = [replicas.get(f"slave{number}") for number in (0, 1)]
            return all(each and each["state"] == "online" for each in states)

        wait_until(is_complete, "the old master and the other replica", timeout=45)
