"""Passwords in files, and credential providers."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import logging
import traceback
import typing as t
from pathlib import Path

import pytest
import redis
from flask import Flask

from flask_and_redis import ConfigError
from flask_and_redis import RedisManager
from flask_and_redis.engines.credentials import PasswordFile
from flask_and_redis.spec.spec import Value

from .conftest import Starter
from .servers import Certificates
from .servers import Cluster
from .servers import Sentinels
from .servers import Server

SECRET = "s3cr3t-n0-l34k"


def manage(**config: t.Any) -> tuple[Flask, RedisManager]:
    """An app with these settings of the prefix ``REDIS``, and its manager."""
    app = Flask("tests")
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})
    return app, RedisManager(app)


def client_of(**config: t.Any) -> t.Any:
    """The client of an app with these settings."""
    app, _ = manage(**config)
    return app.extensions["redis"]["REDIS"]


def error(**config: t.Any) -> str:
    """The error that these settings cause at start-up. Nothing secret is in it."""
    with pytest.raises(ConfigError) as caught:
        manage(**config)

    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown.partition("ConfigError")[2]
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """A file with the password ``secret``."""
    path = tmp_path / "password"
    path.write_text("secret\n")
    return path


def allow(client: t.Any, user: str, *passwords: str) -> None:
    """Let a user log in with these passwords only."""
    client.acl_setuser(
        user,
        enabled=True,
        reset_passwords=True,
        passwords=[f"+{password}" for password in passwords],
        categories=["+@all"],
        keys=["*"],
    )


@pytest.fixture
def ada(server: Server) -> cabc.Iterator[Server]:
    """A server with a user ``ada``, whose password is ``secret``."""
    with server.admin() as admin:
        allow(admin, "ada", "secret")
        yield server
        admin.acl_deluser("ada")


KINDS: dict[str, dict[str, t.Any]] = {
    "plain": {},
    "blocking": {"CONNECTION_POOL_CLASS": redis.BlockingConnectionPool},
    "valkey": {"CLASS": "valkey.Valkey"},
    "RESP2": {"PROTOCOL": 2},
    "RESP3": {"PROTOCOL": 3},
}


@pytest.mark.parametrize("kind", KINDS)
def test_password_file(ada: Server, password_file: Path, kind: str) -> None:
    """The password is in a file, and the user name in a setting or the URL."""
    config = KINDS[kind] | {"PASSWORD_FILE": str(password_file)}
    client = client_of(URL=ada.url, USERNAME="ada", **config)
    assert client.execute_command("ACL WHOAMI") in ("ada", b"ada")
    client = client_of(URL=f"redis://ada@{ada.address}", **config)
    assert client.execute_command("ACL WHOAMI") in ("ada", b"ada")


def test_password_file_without_a_user(start: Starter, password_file: Path) -> None:
    """Without a user name the file has the server's password. A path object is fine,
    and the prefix may have a host, or a socket.
    """
    server = start(Server, password="secret")
    config = {"HOST": "127.0.0.1", "PORT": server.port, "PASSWORD_FILE": password_file}
    assert client_of(**config).ping()
    assert client_of(UNIX_SOCKET_PATH=server.socket, PASSWORD_FILE=password_file).ping()


def test_password_file_with_tls(
    start: Starter, certificates: Certificates, password_file: Path
) -> None:
    """It works with TLS."""
    server = start(Server, certificates=certificates, password="secret")
    config = {"SSL_CA_CERTS": str(certificates.ca), "PASSWORD_FILE": password_file}
    assert client_of(URL=server.url, **config).ping()


def test_password_file_of_a_cluster(cluster: Cluster, password_file: Path) -> None:
    """It works with a cluster."""
    for node in cluster.nodes:
        with node.admin() as admin:
            allow(admin, "ada", "secret")

    url = f"redis+cluster://ada@{cluster.address}"
    client = client_of(URL=url, PASSWORD_FILE=password_file)

    for key in "abc":
        assert client.set(key, key)

    assert {client.get(key) for key in "abc"} == {b"a", b"b", b"c"}


def test_password_file_behind_sentinels(
    sentinels: Sentinels, password_file: Path
) -> None:
    """It works with the server that sentinels know."""
    with sentinels.master().admin() as admin:
        allow(admin, "ada", "secret")

    url = f"redis+sentinel://ada@{sentinels.address}/mymaster"
    client = client_of(URL=url, PASSWORD_FILE=password_file)
    assert client.acl_whoami() in ("ada", b"ada")


@pytest.mark.parametrize("kind", ["plain", "valkey"])
def test_password_file_in_asyncio(
    ada: Server, password_file: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It works with asyncio, and nothing is logged."""
    app, manager = manage(
        URL=f"redis://ada@{ada.address}", PASSWORD_FILE=password_file, **KINDS[kind]
    )

    async def ask() -> object:
        with app.app_context():
            async with manager.get_async() as client:
                return await client.execute_command("ACL WHOAMI")

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(ask()) in ("ada", b"ada")

    assert caplog.records == []


def test_password_file_is_read_again(ada: Server, password_file: Path) -> None:
    """New connections use a password that was changed. The others stay connected."""
    client = client_of(URL=f"redis://ada@{ada.address}", PASSWORD_FILE=password_file)
    number = client.client_id()

    with ada.admin() as admin:
        allow(admin, "ada", "changed")

    password_file.write_text("changed\r\nsecond line\r\n")
    assert client.client_id() == number
    client.connection_pool.disconnect()
    assert client.client_id() != number
    assert client.acl_whoami() in ("ada", b"ada")


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"secret", "secret"),
        (b"secret\n", "secret"),
        (b"secret\r\n", "secret"),
        (b"secret\nsecond\n", "secret"),
        (b" se cret \n", " se cret "),
        (b"\xef\xbb\xbfsecret\n", "secret"),
        ("pâss".encode(), "pâss"),
    ],
)
def test_first_line(password_file: Path, content: bytes, password: str) -> None:
    """The password is the first line without its end. Spaces belong to it."""
    password_file.write_bytes(content)
    provider = PasswordFile(Value("'X'", str(password_file)))
    assert provider.get_credentials() == (password,)


def test_relative_path(
    password_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may change its directory after start-up."""
    monkeypatch.chdir(tmp_path)
    provider = PasswordFile(Value("'X'", password_file.name))
    monkeypatch.chdir("/")
    assert provider.get_credentials() == ("secret",)


START = "'REDIS_PASSWORD_FILE' must be the path of a file whose first line is the"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory."),
        (b"", "Its first line is empty."),
        (b"\n" + SECRET.encode(), "Its first line is empty."),
        (SECRET.encode() + b"\xff\n", "It is not UTF-8 text."),
    ],
)
def test_wrong_password_file(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    """A file without a password stops start-up. The path and the content are not
    shown.
    """
    path = tmp_path / SECRET

    if content is not None:
        path.write_bytes(content)

    assert error(URL="redis://h", PASSWORD_FILE=str(path)) == (
        f"{START} password. {problem}"
    )


@pytest.mark.parametrize(
    ("path", "problem"),
    [("/", "It is not a file."), (f"{SECRET}\0", "It is not a path.")],
)
def test_wrong_path(path: str, problem: str) -> None:
    """A directory is not a file, and not every text is a path."""
    assert error(URL="redis://h", PASSWORD_FILE=path) == f"{START} password. {problem}"


def test_password_file_must_be_text() -> None:
    """A value of another type is an error that shows no value."""
    assert error(URL="redis://h", PASSWORD_FILE=1.5).startswith(
        "'REDIS_PASSWORD_FILE' must be text."
    )


def test_missing_password_file_of_fakeredis(tmp_path: Path) -> None:
    """A developer without the file can use fakeredis."""
    path = str(tmp_path / "nothing")
    app, manager = manage(URL="fakeredis://", USERNAME="ada", PASSWORD_FILE=path)
    assert app.extensions["redis"]["REDIS"].ping()

    async def ask() -> object:
        with app.app_context():
            async with manager.get_async() as client:
                return await client.get("k")

    assert asyncio.run(ask()) is None


def test_password_file_that_disappears(ada: Server, password_file: Path) -> None:
    """A file that cannot be read any more is an error of the command, and of a ping,
    that names the setting. Afterwards, everything works again.
    """
    app, manager = manage(
        URL=f"redis://ada@{ada.address}/1", PASSWORD_FILE=password_file
    )
    client: t.Any = app.extensions["redis"]["REDIS"]
    password_file.unlink()
    message = f"{START} password. No such file or directory."

    with pytest.raises(ConfigError) as caught:
        client.get("k")

    assert str(caught.value) == message

    with app.app_context():
        assert manager.ping(timeout=10)["REDIS"].error == message

    password_file.write_text("secret")
    assert client.acl_whoami() in ("ada", b"ada")


def test_wrong_password_in_a_file(ada: Server, password_file: Path) -> None:
    """A wrong password is an error that does not show it."""
    password_file.write_text(SECRET)
    app, manager = manage(URL=f"redis://ada@{ada.address}", PASSWORD_FILE=password_file)

    with pytest.raises(redis.AuthenticationError) as caught:
        app.extensions["redis"]["REDIS"].ping()

    assert SECRET not in "".join(traceback.format_exception(caught.value))

    with app.app_context():
        (result,) = manager.ping(timeout=10).values()

    assert result.error is not None
    assert "WRONGPASS" in result.error or "invalid username-password" in result.error
    spec = app.extensions["redis"].get_spec("REDIS")
    pool = app.extensions["redis"]["REDIS"].connection_pool

    for value in (spec.arguments, pool, pool.connection_kwargs):
        assert SECRET not in repr(value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"PASSWORD": SECRET},
            "'REDIS_PASSWORD' and 'REDIS_PASSWORD_FILE' both say who logs in",
        ),
        (
            {"URL": f"redis://:{SECRET}@h"},
            "The password in 'REDIS_URL' and 'REDIS_PASSWORD_FILE' both say who logs",
        ),
        (
            {"CREDENTIAL_PROVIDER": "tests.objects.Provider"},
            "'REDIS_PASSWORD_FILE' and 'REDIS_CREDENTIAL_PROVIDER' both say who logs",
        ),
        (
            {"CLASS": "tests.objects.NoPool", "URL": None, "HOST": "h"},
            "'REDIS_PASSWORD_FILE' needs a client class that takes",
        ),
    ],
)
def test_password_file_next_to_others(
    password_file: Path, config: dict[str, t.Any], message: str
) -> None:
    """Only one setting may say what the password is."""
    config = {"URL": "redis://h", "PASSWORD_FILE": str(password_file)} | config
    assert error(**config).startswith(message)


def test_password_file_and_options(ada: Server, password_file: Path) -> None:
    """A setting overrides an option, also where they are two ways to give a password.
    Two options contradict each other.
    """
    app = Flask("tests")
    app.config["FILE_URL"] = app.config["TEXT_URL"] = f"redis://ada@{ada.address}"
    app.config["FILE_PASSWORD_FILE"] = str(password_file)
    app.config["TEXT_PASSWORD"] = "secret"
    options = {"A": {"password": "wrong"}, "B": {"password_file": str(password_file)}}

    for name, option in options.items():
        other = Flask(name)
        other.config.update(app.config)
        RedisManager(other, prefixes=["FILE", "TEXT"], **option)

        for client in other.extensions["redis"].values():
            assert client.ping()

    app = Flask("both")
    app.config["REDIS_URL"] = "redis://h"

    with pytest.raises(ConfigError, match="The option 'password' of RedisManager"):
        RedisManager(app, **options["A"], **options["B"])


def test_password_file_of_a_pool(password_file: Path) -> None:
    """A pool of the application has its own password."""
    pool = redis.ConnectionPool()

    with pytest.warns(UserWarning, match="'REDIS_PASSWORD_FILE' is without effect"):
        manage(CONNECTION_POOL=pool, PASSWORD_FILE=str(password_file))


def test_repr_of_a_password_file(password_file: Path) -> None:
    """Neither the path nor the content is in the ``repr``."""
    provider = PasswordFile(Value("'X_PASSWORD_FILE'", str(password_file)), "ada")
    provider.get_credentials()
    assert repr(provider) == "<PasswordFile 'X_PASSWORD_FILE'>"
    assert "secret" not in repr(provider.secrets)
