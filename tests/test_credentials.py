"""Passwords in files, and credential providers."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import functools
import logging
import os
import signal
import threading
import traceback
import types
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from flask import current_app
from flask import Flask

from flask_and_redis import ConfigError
from flask_and_redis import RedisManager
from flask_and_redis.engines import credentials
from flask_and_redis.engines.credentials import PasswordFile
from flask_and_redis.engines.credentials import SharedProvider
from flask_and_redis.spec.spec import Value

from .conftest import Starter
from .identity import Issuer
from .identity import Streaming
from .servers import Certificates
from .servers import Cluster
from .servers import Sentinels
from .servers import Server
from .servers import wait_until

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
            async with manager.get_async() as opened:
                client: t.Any = opened
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
            "'REDIS_PASSWORD' and 'REDIS_PASSWORD_FILE' both set the login",
        ),
        (
            {"URL": f"redis://:{SECRET}@h"},
            "The password in 'REDIS_URL' and 'REDIS_PASSWORD_FILE' both set the login",
        ),
        (
            {"CREDENTIAL_PROVIDER": "tests.objects.Provider"},
            "'REDIS_PASSWORD_FILE' and 'REDIS_CREDENTIAL_PROVIDER' both set the login",
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

        # What is not used is neither listed nor named in an error.
        for prefix in ("FILE", "TEXT"):
            spec = other.extensions["redis"].get_spec(prefix)
            used = {"FILE": "password_file", "TEXT": "password"}[prefix]
            assert spec.labels.keys() == {"username", used}
            assert {"password", "password_file"} & spec.values.keys() == {used}

    app = Flask("both")
    app.config["REDIS_URL"] = "redis://h"

    with pytest.raises(ConfigError, match="The option 'password' of RedisManager"):
        RedisManager(app, **options["A"], **options["B"])


def test_password_file_of_a_pool(password_file: Path) -> None:
    """A pool of the application has its own password."""
    pool = redis.ConnectionPool()

    with pytest.warns(UserWarning, match="'REDIS_PASSWORD_FILE' has no effect"):
        manage(CONNECTION_POOL=pool, PASSWORD_FILE=str(password_file))


def test_repr_of_a_password_file(password_file: Path) -> None:
    """Neither the path nor the content is in the ``repr``."""
    provider = PasswordFile(Value("'X_PASSWORD_FILE'", str(password_file)), "ada")
    provider.get_credentials()
    assert repr(provider) == "<PasswordFile 'X_PASSWORD_FILE'>"
    assert "secret" not in repr(provider.secrets)


class Calls:
    """Counts how often a function is called, and a class created."""

    def __init__(self) -> None:
        self.count = 0

    def function(self) -> redis.CredentialProvider:
        self.count += 1
        return redis.UsernamePasswordCredentialProvider("ada", "secret")

    @property
    def cls(self) -> type[redis.CredentialProvider]:
        calls = self

        class Provider(redis.UsernamePasswordCredentialProvider):
            def __init__(self) -> None:
                calls.count += 1
                super().__init__("ada", "secret")

        return Provider


@pytest.mark.parametrize("kind", ["function", "method", "partial", "class", "path"])
@pytest.mark.parametrize("engine", ["standalone", "fakeredis"])
def test_called_once(
    ada: Server, kind: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function or class is called at first use, and once for all prefixes with it,
    pings and asynchronous blocks. It is not called for fakeredis.
    """
    calls = Calls()
    cls = calls.cls
    makers: dict[str, t.Callable[[], object]] = {
        # The same function for each setting.
        "function": functools.partial(getattr, calls, "function"),
        # Each access returns another object.
        "method": lambda: calls.function,
        "partial": functools.partial(lambda value: value, functools.partial(cls)),
        "class": lambda: cls,
        "path": lambda: "tests.objects.make_provider",
    }
    make = makers[kind]
    monkeypatch.setattr("tests.objects.make_provider", calls.function, raising=False)
    app = Flask("tests")

    for prefix in ("REDIS", "CACHE"):
        app.config[f"{prefix}_URL"] = f"redis://{ada.address}"
        app.config[f"{prefix}_CREDENTIAL_PROVIDER"] = make()

        if engine == "fakeredis":
            app.config[f"{prefix}_URL"] = "fakeredis://"

    manager = RedisManager(app)
    assert calls.count == 0

    async def use() -> None:
        async with manager.get_async("CACHE") as client:
            assert await client.get("k") is None

    with app.app_context():
        for _ in range(3):
            assert all(result.ok for result in manager.ping(timeout=20).values())
            assert manager.get("REDIS").ping() and manager.get("CACHE").ping()
            asyncio.run(use())

    assert calls.count == (1 if engine == "standalone" else 0)


async def coroutine() -> None: ...


class Nothing:
    """Provides nothing."""


@pytest.mark.parametrize(
    "value", [coroutine, Nothing, lambda name: name, 5, "tests.test_credentials.SECRET"]
)
def test_not_a_provider(value: object) -> None:
    """Anything that cannot give a provider is an error at start-up."""
    assert error(URL="redis://h", CREDENTIAL_PROVIDER=value).startswith(
        "'REDIS_CREDENTIAL_PROVIDER' must be an object with 'get_credentials', its"
        " class, a function that returns one, or the dotted path of any of these."
    )


def test_function_that_fails(ada: Server) -> None:
    """An error of the function names the setting of the prefix. The next command calls
    the function again.
    """
    errors: list[Exception] = [OSError(SECRET), OSError(SECRET)]

    def make() -> redis.CredentialProvider:
        if errors:
            raise errors.pop()

        return redis.UsernamePasswordCredentialProvider("ada", "secret")

    app = Flask("tests")

    for prefix in ("A", "B"):
        app.config[f"{prefix}_URL"] = ada.url + "/3"
        app.config[f"{prefix}_CREDENTIAL_PROVIDER"] = make

    manager = RedisManager(app)
    message = "'A_CREDENTIAL_PROVIDER' returned no provider: it raised OSError."

    with pytest.raises(ConfigError) as caught:
        app.extensions["redis"]["A"].ping()

    assert str(caught.value) == message
    assert isinstance(caught.value.__cause__, OSError)

    with app.app_context():
        message = message.replace("A_", "B_")
        assert manager.ping("B", timeout=20)["B"].error == message
        assert manager.ping("B", timeout=20)["B"].ok

    client: t.Any = app.extensions["redis"]["A"]
    assert client.client_info()["db"] == 3


def test_function_that_returns_something_else() -> None:
    """What the function returns must be a provider."""
    provider = SharedProvider(Value("'X'", lambda: SECRET))

    with pytest.raises(ConfigError) as caught:
        provider.get_credentials()

    assert str(caught.value) == "'X' must return an object with 'get_credentials'."


class Waiting:
    """A function that waits until other threads wait for it, and then fails once."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, threads: int, error: BaseException
    ) -> None:
        self.calls = 0
        self.error: BaseException | None = error
        self.entered = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.threads = threads
        result = credentials._Attempt.result

        def wait(attempt: t.Any, timeout: float | None = None) -> t.Any:
            self.waiting.release()
            return result(attempt, timeout)

        monkeypatch.setattr(credentials._Attempt, "result", wait)

    def __call__(self) -> redis.CredentialProvider:
        self.calls += 1
        self.entered.set()

        if (error := self.error) is None:
            return redis.UsernamePasswordCredentialProvider("ada", "secret")

        self.error = None

        for _ in range(self.threads):
            assert self.waiting.acquire(timeout=30)

        raise error


def test_threads_share_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that need the provider at the same time share one call, and its error."""
    waiting = Waiting(monkeypatch, 7, OSError("unreachable"))
    provider = SharedProvider(Value("'X'", waiting))

    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(provider.get_credentials) for _ in range(8)]
        errors = {str(future.exception()) for future in futures}

    assert errors == {"'X' returned no provider: it raised OSError."}
    assert waiting.calls == 1
    assert provider.get_credentials() == ("ada", "secret")


def test_interrupted_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the thread that calls the function is interrupted, another one calls it."""
    waiting = Waiting(monkeypatch, 1, KeyboardInterrupt())
    provider = SharedProvider(Value("'X'", waiting))

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(provider.get_credentials)
        assert waiting.entered.wait(30)
        second = threads.submit(provider.get_credentials)
        assert isinstance(first.exception(), KeyboardInterrupt)
        assert second.result() == ("ada", "secret")

    assert waiting.calls == 2


def test_function_that_needs_itself(ada: Server) -> None:
    """A function that uses the prefix whose password it provides does not wait without
    end.
    """
    client: t.Any = None

    def make() -> redis.CredentialProvider:
        client.get("password")
        raise AssertionError

    client = client_of(URL=ada.url, CREDENTIAL_PROVIDER=make)

    with pytest.raises(ConfigError, match="it raised RuntimeError") as caught:
        client.ping()

    assert str(caught.value.__cause__) == (
        "'REDIS_CREDENTIAL_PROVIDER' must not use the prefix whose password it"
        " provides."
    )


def test_thread_of_the_function() -> None:
    """Without a running loop, the function is called in the thread that needs it."""
    threads = []

    def make() -> redis.CredentialProvider:
        threads.append(threading.current_thread())
        return redis.UsernamePasswordCredentialProvider("ada", "secret")

    SharedProvider(Value("'X'", make)).get_credentials()
    assert threads == [threading.current_thread()]


def test_loop_does_not_wait(ada: Server) -> None:
    """In asyncio, other tasks run while the function and a synchronous provider wait.
    Both can use the current app.
    """
    called, asked = threading.Event(), threading.Event()
    names = []

    class Provider(redis.CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            names.append(current_app.name)
            assert asked.wait(30)
            return "ada", "secret"

    def make() -> redis.CredentialProvider:
        names.append(current_app.name)
        assert called.wait(30)
        return Provider()

    app, manager = manage(URL=ada.url, CREDENTIAL_PROVIDER=make, SOCKET_TIMEOUT=30)

    async def use() -> object:
        async with manager.get_async() as client:
            return await client.acl_whoami()

    async def run() -> object:
        with app.app_context():
            task = asyncio.create_task(use())

            for number, event in enumerate((called, asked), 1):
                while len(names) < number:
                    await asyncio.sleep(0.01)

                event.set()

            return await task

    assert asyncio.run(run()) in ("ada", b"ada")
    assert names == ["tests", "tests"]


def test_asynchronous_provider(ada: Server) -> None:
    """A provider with an asynchronous method is asked in the loop."""

    class Provider(redis.CredentialProvider):
        async def get_credentials_async(self) -> tuple[str, str]:
            await asyncio.sleep(0)
            return "ada", "secret"

    app, manager = manage(URL=ada.url, CREDENTIAL_PROVIDER=Provider())

    async def use() -> object:
        with app.app_context():
            async with manager.get_async() as client:
                return await client.acl_whoami()

    assert asyncio.run(use()) in ("ada", b"ada")


def test_repr_of_a_provider(ada: Server) -> None:
    """A provider's own ``repr`` may show its password, so ours does not use it."""

    class Shows(redis.UsernamePasswordCredentialProvider):
        def __repr__(self) -> str:
            return SECRET

    client = client_of(URL=ada.url, CREDENTIAL_PROVIDER=Shows("ada", "secret"))
    assert client.ping()
    kwargs = client.connection_pool.connection_kwargs
    provider = kwargs["credential_provider"]
    assert repr(provider) == "<SharedProvider 'REDIS_CREDENTIAL_PROVIDER'>"
    assert SECRET not in repr(client.connection_pool) + repr(kwargs)
    assert "secret" not in repr(provider.secrets)


def child_result(check: t.Callable[[], bool]) -> int:
    """Fork. Return the exit code of the child, which is 0 if the check is true."""
    if not (pid := os.fork()):
        right = False
        # A child that waits without end must not outlive the test.
        signal.alarm(50)

        try:
            right = check()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0 if right else 1)

    return os.waitpid(pid, 0)[1]


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="This system cannot fork.")
may_fork = pytest.mark.filterwarnings(
    "ignore:This process.*multi-threaded:DeprecationWarning"
)


@forks
@may_fork
def test_function_in_a_forked_child(
    ada: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child calls the function once more, also if a thread of the parent is just
    calling it.
    """
    waiting = Waiting(monkeypatch, 1, OSError("unreachable"))
    client = client_of(URL=ada.url, CREDENTIAL_PROVIDER=waiting)

    def use() -> bool:
        waiting.error = None
        return all(client.ping() for _ in range(3)) and waiting.calls == 2

    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(client.ping)
        assert waiting.entered.wait(30)
        assert child_result(use) == 0
        waiting.waiting.release()
        assert isinstance(future.exception(), ConfigError)

    assert waiting.calls == 1


def test_start_again() -> None:
    """What happens in a child."""
    calls = Calls()
    provider = SharedProvider(Value("'X'", calls.function))
    assert provider.get_credentials() == ("ada", "secret")
    credentials._start_all_again()
    assert provider.get_credentials() == ("ada", "secret")
    assert calls.count == 2


def renews(client: t.Any, times: int = 2) -> bool:
    """Whether the connections of a client log in with renewed tokens."""
    for _ in range(times):
        user = client.acl_whoami()
        wait_until(
            lambda user=user: client.acl_whoami() != user,  # type: ignore[misc]
            "a connection uses a renewed token",
            timeout=20,
        )

    return True


STREAMING_POOLS: dict[str, dict[str, t.Any]] = {
    "plain": {},
    "blocking": {"CONNECTION_POOL_CLASS": redis.BlockingConnectionPool},
    "RESP2": {"PROTOCOL": 2},
}


@pytest.mark.parametrize("kind", STREAMING_POOLS)
def test_renewed_tokens(server: Server, issuer: Issuer, kind: str) -> None:
    """Renewed tokens reach the pools of all prefixes with the provider, whatever pings,
    asynchronous blocks and subscribers there are.
    """
    app = Flask("tests")
    provider = Streaming(issuer)

    for prefix in ("REDIS", "CACHE"):
        app.config[f"{prefix}_URL"] = server.url
        app.config[f"{prefix}_CREDENTIAL_PROVIDER"] = provider

        for name, value in STREAMING_POOLS[kind].items():
            app.config[f"{prefix}_{name}"] = value

    manager = RedisManager(app)
    clients = app.extensions["redis"]

    async def use() -> None:
        async with manager.get_async() as client:
            assert await client.ping()

    with app.app_context():
        for client in clients.values():
            assert client.ping()

        pubsub: t.Any = clients["REDIS"].pubsub()
        pubsub.subscribe("news")
        asyncio.run(use())
        assert all(result.ok for result in manager.ping(timeout=20).values())

        for client in clients.values():
            assert renews(client)

        pubsub.close()


def test_renewed_tokens_in_asyncio(server: Server, issuer: Issuer) -> None:
    """An asynchronous block that lasts longer than a token uses renewed ones. The
    renewal does not end with the block's loop.
    """
    app, manager = manage(URL=server.url, CREDENTIAL_PROVIDER=Streaming(issuer))

    async def use() -> bool:
        async with manager.get_async() as client:
            user = await client.acl_whoami()

            while user == await client.acl_whoami():
                await asyncio.sleep(0.01)

        return True

    with app.app_context():
        assert asyncio.run(asyncio.wait_for(use(), 30))

    assert renews(app.extensions["redis"]["REDIS"])


def test_first_token_within_a_loop(server: Server, issuer: Issuer) -> None:
    """A synchronous client that is first used in an asynchronous view does not wait
    without end, and tokens are renewed when the view's loop has ended.
    """
    client = client_of(URL=server.url, CREDENTIAL_PROVIDER=Streaming(issuer))

    async def view() -> bool:
        return bool(client.ping())

    assert asyncio.run(view())
    assert renews(client)


def test_pings_leave_no_threads(server: Server, issuer: Issuer) -> None:
    """There is one thread that renews tokens, also if the provider is given as a
    function.
    """
    app, manager = manage(URL=server.url, CREDENTIAL_PROVIDER=lambda: Streaming(issuer))

    def renewing() -> list[threading.Thread]:
        # Pings have a thread each, which may end later.
        return [each for each in threading.enumerate() if "loop" in each.name]

    before = len(renewing())

    with app.app_context():
        for _ in range(10):
            assert manager.ping(timeout=20)["REDIS"].ok

    assert len(renewing()) == before + 1


@forks
@may_fork
@pytest.mark.parametrize("kind", ["object", "function"])
def test_renewed_tokens_in_a_forked_child(
    server: Server, issuer: Issuer, kind: str
) -> None:
    """Renewal starts again in a child, and goes on in the parent."""
    value: t.Any = Streaming(issuer) if kind == "object" else lambda: Streaming(issuer)
    client = client_of(URL=server.url, CREDENTIAL_PROVIDER=value)
    assert client.ping()
    assert child_result(functools.partial(renews, client)) == 0
    assert renews(client)


def test_renewal_after_an_error(
    server: Server,
    issuer: Issuer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If a token cannot be renewed, that is logged once without the error's text, and
    tried again until it succeeds.
    """
    # The documentation says so.
    assert credentials.RENEWAL_PAUSE == 5
    monkeypatch.setattr(credentials, "RENEWAL_PAUSE", 0.01)
    client = client_of(URL=server.url, CREDENTIAL_PROVIDER=Streaming(issuer))
    assert client.ping()

    for outage in (1, 2):
        issuer.error, issuer.failures = SECRET, 0
        # Three renewals, each of which asks twice.
        wait_until(lambda: issuer.failures > 6, "renewals fail", timeout=20)
        issuer.error = ""
        assert renews(client)
        records = [record for record in caplog.records if "flask" in record.name]
        assert len(records) == outage

    assert records[0].getMessage() == (
        "'REDIS_CREDENTIAL_PROVIDER' cannot renew its credentials (RequestTokenErr). It"
        " tries again every 0.01 s."
    )


class Manual(Streaming):
    """A streaming provider of another kind, which sends what a test wants."""

    def __init__(self, login: t.Any = None) -> None:
        self.login = login
        self.receive: t.Any = None
        self.fail: t.Any = None

    def get_credentials(self) -> t.Any:
        return self.login

    def send(self, token: str) -> None:
        self.receive(types.SimpleNamespace(get_value=lambda: token))

    def on_next(self, callback: t.Any) -> None:
        self.receive = callback

    def on_error(self, callback: t.Any) -> None:
        self.fail = callback


def test_failed_renewal_keeps_connections(server: Server) -> None:
    """A connection is used as before while its token cannot be renewed."""
    manual = Manual()
    client = client_of(URL=server.url, CREDENTIAL_PROVIDER=manual)
    connection = client.client_id()
    manual.fail(OSError("unreachable"))
    assert client.client_id() == connection


@pytest.mark.parametrize("login", [("ada", "a"), ("a",)])
def test_first_token(login: tuple[str, ...]) -> None:
    """A provider may also send the token that it gave at the first login: no connection
    must log in again. The login may have no user name.
    """
    manual = Manual(login)
    provider = SharedProvider(Value("'X'", manual))
    assert provider.get_credentials() == login
    manual.send("a")
    assert provider.version == 0
    manual.send("b")
    assert provider.version == 1


def test_version() -> None:
    """The version increases with each new token, but not if it is the same again. An
    error of a provider of any kind is no problem.
    """
    manual = Manual()
    provider = SharedProvider(Value("'X'", manual))
    other = SharedProvider(Value("'Y'", manual))
    assert PasswordFile(Value("'Z'", "file")).version == 0
    assert provider.get_credentials() is None
    versions = []

    for token in "aabb":
        manual.send(token)
        assert provider.version == other.version
        versions.append(provider.version)

    assert versions == [1, 1, 2, 2]
    manual.fail(OSError("unreachable"))
    assert provider.version == 2
