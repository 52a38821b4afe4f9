"""What errors say: which Redis failed, and no secret."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import re
import socket
import socketserver
import sys
import threading
import traceback
import typing as t

import pytest
import redis
import valkey
from flask import Flask
from redis.backoff import NoBackoff
from redis.cache import CacheConfig
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from flask_and_redis import ConfigError
from flask_and_redis import RedisManager
from flask_and_redis.engines.messages import hide_secrets

from .conftest import Starter
from .objects import deadline_of
from .objects import MyRedis
from .objects import Provider
from .objects import take_down
from .servers import Cluster
from .servers import Server
from .servers import wait_until

SECRET = "s3cr3t-n0-l34k"

needs_notes = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Python 3.10 has no notes."
)


def make_app(**config: t.Any) -> Flask:
    app = Flask("messages")
    app.config.update(config)
    app.extensions["manager"] = RedisManager(app)
    return app


def make(**config: t.Any) -> t.Any:
    """The client of prefix CACHE with these settings."""
    app = make_app(**{f"CACHE_{name}": value for name, value in config.items()})
    return app.extensions["redis"]["CACHE"]


def run_async(app: Flask, function: t.Any) -> t.Any:
    async def main() -> t.Any:
        async with app.extensions["manager"].get_async("CACHE") as client:
            return await function(client)

    with app.app_context():
        return asyncio.run(main())


def notes(error: BaseException) -> list[str]:
    texts: list[str] = getattr(error, "__notes__", [])
    return texts


def everything(error: BaseException) -> str:
    """All that a log shows of an error."""
    return "".join(traceback.format_exception(error)) + repr(error)


class Echo(socketserver.ThreadingTCPServer):
    """A server that knows no command, and repeats the arguments as Redis does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _EchoHandler)
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()


class _EchoHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while line := self.rfile.readline():
                words = []

                for _ in range(int(line[1:])):
                    length = int(self.rfile.readline()[1:])
                    words.append(self.rfile.read(length + 2)[:-2].decode())

                name, *rest = words
                quoted = " ".join(f"'{word}'" for word in rest)
                reply = f"unknown command '{name}', with args beginning with: {quoted}"
                self.wfile.write(f"-ERR {reply}\r\n".encode())


@pytest.fixture
def echo() -> t.Iterator[str]:
    with Echo() as server:
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("kind", ["url", "provider", "pool", "cluster", "valkey"])
def test_unknown_login_command(echo: str, kind: str, protocol: int) -> None:
    """A server that does not know AUTH or HELLO repeats their arguments. The error does
    not.
    """
    url = f"redis://:{SECRET}@{echo}"
    pool = redis.ConnectionPool.from_url(url, protocol=protocol)

    class Secrets(Provider):
        def get_credentials(self) -> tuple[str, str]:
            return ("default", SECRET)

    configs: dict[str, dict[str, t.Any]] = {
        "url": {"URL": url, "PROTOCOL": protocol},
        "provider": {"URL": f"redis://{echo}", "CREDENTIAL_PROVIDER": Secrets()},
        "pool": {"CONNECTION_POOL": pool},
        "cluster": {"URL": url.replace("redis:", "redis+cluster:")},
        "valkey": {"URL": url, "CLASS": "valkey.Valkey", "PROTOCOL": protocol},
    }

    with pytest.raises(Exception, match="unknown command|Cluster") as info:
        make(RETRY_DEADLINE=0, **configs[kind]).get("k")

    assert SECRET not in everything(info.value)
    pool.disconnect()


def test_unknown_command_in_traces(echo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing replaces methods of redis-py's classes, so that it sees errors before our
    client does. They have no secret either.
    """
    seen: list[str] = []

    def trace(cls: type[t.Any], name: str) -> None:
        traced = getattr(cls, name)

        def call(self: t.Any, *args: t.Any, **options: t.Any) -> t.Any:
            try:
                return traced(self, *args, **options)
            except redis.RedisError as error:
                seen.append(everything(error))
                raise

        monkeypatch.setattr(cls, name, call)

    trace(redis.Redis, "execute_command")
    trace(redis.client.Pipeline, "execute")
    client = make(URL=f"redis://:{SECRET}@{echo}")

    with pytest.raises(redis.ResponseError, match="unknown command 'HELLO'|'AUTH'"):
        client.get("k")

    client = make(URL=f"redis://{echo}", PROTOCOL=2)

    with pytest.raises(redis.ResponseError, match="unknown command"):
        client.pipeline(transaction=False).config_set("requirepass", SECRET).execute()

    # A ping asks sentinels.
    app = make_app(
        CACHE_URL=f"redis+sentinel://{echo}/mymaster", CACHE_SENTINEL_PASSWORD=SECRET
    )

    with app.app_context():
        assert not app.extensions["manager"].ping(timeout=10)["CACHE"].ok

    assert len(seen) == 3
    assert SECRET not in "".join(seen)


def test_unknown_command_in_asyncio(echo: str) -> None:
    async def use(client: t.Any) -> None:
        with pytest.raises(redis.ResponseError, match="unknown command") as info:
            await client.get("k")

        assert SECRET not in everything(info.value)

        with pytest.raises(redis.ResponseError) as info:
            await client.pipeline().get("k").execute(raise_on_error=False)

        assert SECRET not in everything(info.value)

    run_async(make_app(CACHE_URL=f"redis://:{SECRET}@{echo}"), use)


def test_commands_with_secrets(own_server: Server) -> None:
    """Errors of commands that carry a secret do not repeat it, in a pipeline or not."""
    client = make(URL=own_server.url)
    commands = [
        ("AUTH", "nobody", SECRET),
        ("ACL", "SETUSER", "bob", f"#{SECRET}"),
        ("CONFIG", "SET", "maxmemory", SECRET),
        ("HELLO", "3", SECRET),
        ("LOGIN", SECRET),
    ]

    for command in commands:
        with pytest.raises(redis.RedisError) as info:
            client.execute_command(*command)

        assert SECRET not in everything(info.value)

        with pytest.raises(redis.RedisError) as info:
            client.pipeline(transaction=False).execute_command(*command).execute()

        # redis-py repeats the command.
        assert SECRET not in str(info.value)
        pipe = client.pipeline(transaction=False).execute_command(*command)

        with contextlib.suppress(redis.AuthenticationError):
            assert SECRET not in repr(pipe.execute(raise_on_error=False))

    async def use(client: t.Any) -> None:
        pipe = client.pipeline(transaction=False).execute_command("LOGIN", SECRET)
        assert SECRET not in repr(await pipe.execute(raise_on_error=False))

    run_async(make_app(CACHE_URL=own_server.url), use)


def test_secrets_in_a_transaction(server: Server) -> None:
    """The reply to a transaction contains the errors of its commands. They do not
    repeat secrets, however the caller asks for them.
    """
    command = ("ACL", "SETUSER", "bob", f"#{SECRET}")
    arguments: list[tuple[tuple[t.Any, ...], dict[str, t.Any]]] = [
        ((False,), {}),
        ((), {"raise_on_error": False}),
    ]
    client = make(URL=server.url)

    for args, options in arguments:
        pipe = client.pipeline().execute_command(*command)
        (error,) = pipe.execute(*args, **options)
        assert "modifier ***" in str(error)

    async def use(client: t.Any) -> None:
        for args, options in arguments:
            pipe = client.pipeline().execute_command(*command)
            (error,) = await pipe.execute(*args, **options)
            assert "modifier ***" in str(error)

    run_async(make_app(CACHE_URL=server.url), use)


class Name(str, enum.Enum):
    """Names of commands. redis-py quotes the name of the member."""

    MIGRATE = "MIGRATE"


@pytest.mark.parametrize("library", ["redis.Redis", "valkey.Valkey"])
def test_any_command_of_a_pipeline(server: Server, library: str) -> None:
    """The error of a pipeline shows the name of a command, however it is written, and
    none of its arguments.
    """
    client = make(URL=server.url, CLASS=library)
    target = ("127.0.0.1", 1, "k", 0, 10, "AUTH", SECRET)
    commands: list[tuple[tuple[t.Any, ...], str]] = [
        ((Name.MIGRATE, *target), "Name.MIGRATE"),
        ((memoryview(b"MIGRATE"), *target), "<memory"),
        (("ACL", memoryview(b"SETUSER"), "bob", SECRET), "ACL"),
        (("ACL SETUSERS", "bob", SECRET), "ACL"),
        (("CONFIG SETT", "requirepass", SECRET), "CONFIG"),
        (("AUTHH", SECRET), "AUTHH"),
        (("MIGRATE\t", *target), "MIGRATE"),
    ]
    client.set("k", "v")

    for command, name in commands:
        pipe = client.pipeline(transaction=False).get("k").execute_command(*command)

        with pytest.raises(Exception, match="caused error") as info:
            pipe.execute()

        assert f"Command # 2 ({name} ***) of pipeline" in str(info.value)
        assert SECRET not in str(info.value)

    async def use(client: t.Any) -> None:
        for command, name in commands:
            pipe = client.pipeline(transaction=False).execute_command(*command)

            with pytest.raises(redis.ResponseError) as info:
                await pipe.execute()

            assert f"Command # 1 ({name} ***) of pipeline" in str(info.value)
            assert SECRET not in str(info.value)

    run_async(make_app(CACHE_URL=server.url), use)


# A cluster's client finds no node for them.
KEYLESS = [("HELLO", "3", "AUTH", "bob", SECRET), ("EVAL", SECRET)]


@pytest.mark.parametrize("transaction", [None, False, True])
def test_command_without_a_node(cluster: Cluster, transaction: bool | None) -> None:
    """The error about a command that a cluster's client cannot send does not repeat its
    arguments, also if it is raised when the command is queued.
    """
    client = make(URL=f"redis+cluster://{cluster.address}")

    for command in KEYLESS:
        with pytest.raises((redis.RedisError, RedisClusterException)) as info:
            if transaction is None:
                client.execute_command(*command)
            else:
                pipe = client.pipeline(transaction=transaction)
                pipe.execute_command(*command).execute()

        assert SECRET not in everything(info.value)
        # Without a transaction, a pipeline sends HELLO, and the server refuses it.
        assert "***" in str(info.value) or command[0] == "EVAL"


@pytest.mark.parametrize("transaction", [None, False, True])
def test_command_without_a_node_in_asyncio(
    cluster: Cluster, transaction: bool | None
) -> None:
    async def use(client: t.Any) -> None:
        # redis-py finds the node of a queued command in a loop of its own.
        await client.get("k")

        for command in KEYLESS:
            with pytest.raises(RedisClusterException) as info:
                if transaction is None:
                    await client.execute_command(*command)
                else:
                    pipe = client.pipeline(transaction=transaction)
                    await pipe.execute_command(*command).execute()

            assert SECRET not in everything(info.value)
            assert "ommand: ***" in str(info.value)

    run_async(make_app(CACHE_URL=f"redis+cluster://{cluster.address}"), use)


def test_command_without_a_node_in_traces(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the error that tracing records."""
    seen: list[str] = []
    execute: t.Any = redis.RedisCluster.execute_command

    def trace(self: t.Any, *args: t.Any, **options: t.Any) -> t.Any:
        try:
            return execute(self, *args, **options)
        except RedisClusterException as error:
            seen.append(everything(error))
            raise

    monkeypatch.setattr(redis.RedisCluster, "execute_command", trace)

    with pytest.raises(RedisClusterException, match="Command: "):
        make(URL=f"redis+cluster://{cluster.address}").execute_command(*KEYLESS[0])

    assert seen
    assert SECRET not in "".join(seen)


OWN_RETRY = Retry(NoBackoff(), 0)

# Pipelines that are not retried.
PLAIN: dict[str, tuple[dict[str, t.Any], t.Callable[[t.Any], t.Any]]] = {
    "Retry": ({"RETRY": OWN_RETRY}, lambda client: client),
    "client()": ({"RETRY": OWN_RETRY}, lambda client: client.client()),
    "json()": ({}, lambda client: client.json()),
    "ft()": ({}, lambda client: client.ft()),
    "ts()": ({}, lambda client: client.ts()),
    "valkey": ({"CLASS": "valkey.Valkey"}, lambda client: client.json()),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_pipelines_without_a_deadline(
    start: Starter, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Pipelines without a deadline hide secrets, too: with redis-py's own Retry, and
    those of modules. Tracing sees none either.
    """
    seen: list[str] = []
    pipeline_class = (
        valkey.client.Pipeline if kind == "valkey" else redis.client.Pipeline
    )
    traced: t.Any = pipeline_class.execute

    def trace(self: t.Any, *args: t.Any, **kwargs: t.Any) -> t.Any:
        try:
            return traced(self, *args, **kwargs)
        except Exception as error:
            seen.append(everything(error))
            raise

    monkeypatch.setattr(pipeline_class, "execute", trace)
    server = start(Server, password=SECRET)
    config, find = PLAIN[kind]
    creator = find(make(URL=f"redis://:{SECRET}@{server.address}", **config))
    acl = ("ACL", "SETUSER", "bob", f"#{SECRET}-2")
    pipe = creator.pipeline().execute_command(*acl)

    with pytest.raises(Exception, match=r"\(ACL \*\*\*\) of pipeline") as info:
        pipe.execute()

    assert "modifier ***" in str(info.value)
    assert "(ACL ***) of pipeline" in seen[0]
    assert SECRET not in seen[0]
    pipe = creator.pipeline().execute_command(*acl)
    (error,) = pipe.execute(raise_on_error=False)
    assert "modifier ***" in str(error)
    # The server repeats the name of a command. Here, it is the password.
    pipe = creator.pipeline(transaction=False).execute_command(SECRET)

    with pytest.raises(Exception, match="unknown command") as info:
        pipe.execute()

    assert SECRET not in everything(info.value)


def test_commands_without_a_deadline(start: Starter) -> None:
    """Nor do commands show a password with redis-py's own Retry, in ``client()`` or
    not.
    """
    server = start(Server, password=SECRET)
    url = f"redis://:{SECRET}@{server.address}"
    client = make(URL=url, RETRY=OWN_RETRY)

    for each in (client, client.client()):
        with pytest.raises(redis.ResponseError, match="unknown command") as info:
            each.execute_command(SECRET)

        assert SECRET not in everything(info.value)

    async def use(client: t.Any) -> None:
        with pytest.raises(redis.ResponseError, match="unknown command") as info:
            await client.execute_command(SECRET)

        assert SECRET not in everything(info.value)
        acl = ("ACL", "SETUSER", "bob", f"#{SECRET}-2")

        for creator in (client, client.client(), client.ft()):
            pipe = creator.pipeline().execute_command(*acl)
            (error,) = await pipe.execute(raise_on_error=False)
            assert "modifier ***" in str(error)
            pipe = creator.pipeline().execute_command(*acl)

            with pytest.raises(redis.ResponseError, match="caused error") as info:
                await pipe.execute()

            assert SECRET not in everything(info.value)
            pipe = creator.pipeline(transaction=False).execute_command(SECRET)

            with pytest.raises(redis.ResponseError, match="caused error") as info:
                await pipe.execute()

            assert SECRET not in everything(info.value)

    run_async(make_app(CACHE_URL=url, CACHE_RETRY=OWN_RETRY), use)


# redis-py's json() uses it itself.
@pytest.mark.filterwarnings("ignore:.*cluster_error_retry_attempts")
def test_cluster_without_a_deadline(cluster: Cluster) -> None:
    """A cluster's pipelines quote the command as well."""
    client = make(URL=f"redis+cluster://{cluster.address}", RETRY=OWN_RETRY)
    (node, *_) = client.get_primaries()
    acl = ("ACL", "SETUSER", "bob", f"!{SECRET}")

    for creator in (client, client.json()):
        pipe = creator.pipeline().execute_command(*acl, target_nodes=node)

        with pytest.raises(redis.ResponseError, match="modifier") as info:
            pipe.execute()

        assert SECRET not in everything(info.value)
        assert "(ACL ***) of pipeline" in str(info.value)


class Eager(redis.Redis):
    """A client class whose constructor runs a command."""

    def __init__(self, **kwargs: t.Any) -> None:
        super().__init__(**kwargs)
        self.get("k")


def test_error_in_the_constructor() -> None:
    """A command that fails in the constructor raises its own error."""
    with pytest.raises(redis.ConnectionError, match="connecting"):
        make(HOST="127.0.0.1", PORT=1, CLASS=Eager, RETRY=OWN_RETRY)


def test_replaced_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test may replace the methods for modules."""
    client = make(HOST="h")

    for name in ("json", "ft", "ts"):
        monkeypatch.setattr(redis.Redis, name, lambda self, value: value)
        assert getattr(client, name)("replaced") == "replaced"
        assert getattr(client, name)(value="replaced") == "replaced"


@pytest.mark.parametrize("is_queued", [False, True])
def test_secret_after_a_space(each_server: Server, is_queued: bool) -> None:
    """Nor does the error repeat the second word of a password without quotes."""
    client = make(URL=each_server.url)
    command = f"CONFIG SET requirepass my {SECRET} password"

    with pytest.raises(redis.ResponseError) as info:
        if is_queued:
            client.pipeline(transaction=False).execute_command(command).execute()
        else:
            client.execute_command(command)

    assert SECRET not in str(info.value)


def test_what_is_hidden() -> None:
    """Secrets in the texts of older servers are hidden. Other texts stay the same."""
    texts = {
        "Invalid argument 'x y' for CONFIG SET 'requirepass'": "Invalid argument ***",
        "Command # 1 (config set requirepass x) of pipeline caused error: no": "Command"
        " # 1 (config ***) of pipeline caused error: no",
        "Command # 12 (AUTH k (v\n) of pipeline w) of pipeline caused error: no": ""
        "Command # 12 (AUTH ***) of pipeline caused error: no",
        "Command # 1 (ATUH x) of pipeline caused error: unknown command 'ATUH'": ""
        "Command # 1 (ATUH ***) of pipeline caused error: unknown command 'ATUH'",
        "Command # 1 (A B x) of pipeline caused error: unknown subcommand 'B'": ""
        "Command # 1 (A ***) of pipeline caused error: unknown subcommand 'B'",
        "Command # 2 (SET k (v)) of pipeline caused error: no": "",
        "Command # 1 ( AUTH x) of pipeline caused error: no": "Command # 1 ( AUTH ***)"
        " of pipeline caused error: no",
        "Command # 1 (EXEC) of pipeline caused error: (a b)": "",
        "Unknown option or number of arguments for SENTINEL SET 'x'": "Unknown option"
        " or number of arguments for SENTINEL SET ***",
        "a script's error (k v) of pipeline": "",
        "Invalid args in command: ('EVAL', 'x\n')": "Invalid args in command: ***",
        "Too many targets for command ('GET', ')')": "Too many targets for command ***",
        "No targets were found to execute ('x',) command on {}": "No targets were found"
        " to execute *** command on {}",
        "Cannot identify slot number for command: GET,it cannot (x)": "",
        "WRONGTYPE Operation against a key": "",
    }

    for text, hidden in texts.items():
        assert hide_secrets(text) == (hidden or text)


@pytest.mark.parametrize("secret", ["hush", "hü'sh", 'h"u\\sh', "h'u\"sh"])
def test_secret_in_a_reply(secret: str) -> None:
    """Nothing is left of a secret that redis-py shows as text or as bytes."""
    reply = f"-{secret}.".encode()
    text = f"Protocol Error: {secret}, {reply!r}"
    hidden = hide_secrets(text, [secret])
    quote = text[-1]
    assert hidden == f"Protocol Error: ***, b{quote}-***.{quote}"


def format_arguments(client: t.Any) -> str:
    """The arguments of connections, as the ``repr`` of older pools shows them."""
    arguments = client.connection_pool.connection_kwargs
    assert "password" in arguments
    return ", ".join(f"{name}={value}" for name, value in arguments.items())


@pytest.mark.parametrize("client_class", [None, MyRedis])
def test_arguments_of_a_pool(client_class: type | None) -> None:
    """They show no password, whoever formats them."""
    client = make(HOST="h", PASSWORD=SECRET, CLASS=client_class)
    assert SECRET not in format_arguments(client)


def test_arguments_of_a_pool_in_asyncio() -> None:
    async def use(client: t.Any) -> None:
        assert SECRET not in format_arguments(client)

    run_async(make_app(CACHE_HOST="h", CACHE_PASSWORD=SECRET), use)


@needs_notes
def test_note_after_the_deadline(own_server: Server) -> None:
    """An error says which Redis failed, where it is, and for how long it was tried."""
    client = make(URL=own_server.url, RETRY_DEADLINE=0.3, PASSWORD=SECRET)
    own_server.stop()

    with pytest.raises(redis.ConnectionError) as info:
        client.get("k")

    # Of the settings, only secrets are hidden in redis-py's message.
    assert f" {own_server.address}. " in str(info.value)
    (note,) = notes(info.value)
    where = f"Redis 'CACHE', {own_server.address}: "
    assert note.startswith(f"{where}failed after 0.")
    assert note.endswith(" attempts.")

    with pytest.raises(redis.ConnectionError) as info:
        client.pipeline().get("k").execute()

    (note,) = notes(info.value)
    text = r"down for \d{1,2}\.\d s\. The command was not sent\."
    assert re.fullmatch(re.escape(where) + text, note)
    assert SECRET not in everything(info.value)

    async def use(client: t.Any) -> None:
        with pytest.raises(redis.ConnectionError) as info:
            await client.get("k")

        assert notes(info.value)[0].startswith(where)

    run_async(make_app(CACHE_URL=own_server.url, CACHE_RETRY_DEADLINE=0), use)


@needs_notes
def test_note_if_a_server_hangs(own_server: Server) -> None:
    """A command that was sent has no note that it was not sent. The server may run it
    later.
    """
    client = make(URL=own_server.url, RETRY_DEADLINE=0.8, SOCKET_TIMEOUT=1)
    client.set("k", 1)
    own_server.pause()

    with pytest.raises(redis.TimeoutError) as info:
        client.incr("k")

    with pytest.raises(redis.TimeoutError) as later_info:
        client.incr("k")

    own_server.resume()

    with own_server.admin() as admin:
        wait_until(lambda: admin.get("k") == b"2", "the late command")

    where = f"Redis 'CACHE', {own_server.address}: "
    (note,) = notes(info.value)
    assert note.startswith(f"{where}failed after ")
    assert note.endswith(" s, 1 attempt.")
    assert notes(later_info.value)[0].endswith(" s. The command was not sent.")


@needs_notes
def test_note_of_other_engines() -> None:
    """A note names the nodes of a cluster, and the service behind sentinels."""
    with pytest.raises(RedisClusterException) as cluster_info:
        make(URL="redis+cluster://127.0.0.1:1,127.0.0.1:2", RETRY_DEADLINE=0)

    assert "'CACHE', 127.0.0.1:1, 127.0.0.1:2: " in notes(cluster_info.value)[0]
    client = make(URL="redis+sentinel://127.0.0.1:1/shop", RETRY_DEADLINE=0)

    with pytest.raises(redis.ConnectionError) as info:
        client.get("k")

    assert "'CACHE', shop at 127.0.0.1:1: failed" in notes(info.value)[0]


@needs_notes
@pytest.mark.filterwarnings("ignore:The username in 'CACHE_URL' is without a password")
@pytest.mark.parametrize(
    ("config", "advice"),
    [
        ({"PASSWORD": SECRET}, "Check 'CACHE_PASSWORD'."),
        ({"URL": f"redis://:{SECRET}@"}, "Check the password in 'CACHE_URL'."),
        ({"URL": f"redis://nobody:{SECRET}@"}, "Check the password in 'CACHE_URL'."),
        ({"CREDENTIAL_PROVIDER": Provider()}, "Check 'CACHE_CREDENTIAL_PROVIDER'."),
        ({"PASSWORD_FILE": __file__}, "Check 'CACHE_PASSWORD_FILE'."),
        ({"CONNECTION_POOL": None}, "Check 'CACHE_CONNECTION_POOL'."),
        ({}, "Set 'CACHE_PASSWORD'."),
        ({"USERNAME": "default"}, "Set 'CACHE_PASSWORD'."),
        (
            {"URL": f"redis://{SECRET}@"},
            "'CACHE_URL' has a user name and no password. If it is the password, a"
            " colon must precede it: redis://:password@host.",
        ),
    ],
)
def test_note_about_a_login(
    start: Starter, config: dict[str, t.Any], advice: str
) -> None:
    """An error about a login names the setting that the password comes from."""
    server = start(Server, password="right")

    if "CONNECTION_POOL" in config:
        config = {"CONNECTION_POOL": redis.ConnectionPool(port=server.port)}
    else:
        config = {**config, "URL": f"{config.get('URL', 'redis://')}{server.address}"}

    with pytest.raises(redis.AuthenticationError) as info:
        make(**config).get("k")

    (note,) = notes(info.value)
    # A provider is asked once more, and a file is read once more.
    renewable = {"CREDENTIAL_PROVIDER", "PASSWORD_FILE"} & config.keys()
    attempts = "2 attempts" if renewable else "1 attempt"
    assert note.endswith(f" {attempts}. {advice}")
    assert SECRET not in everything(info.value)


@needs_notes
def test_note_about_the_login_of_a_cluster(cluster: Cluster) -> None:
    """The same for the error of the node that was asked for the slots."""
    with pytest.raises(RedisClusterException) as info:
        make(URL=f"redis+cluster://nobody:{SECRET}@{cluster.address}")

    assert notes(info.value)[0].endswith(" Check the password in 'CACHE_URL'.")


@needs_notes
def test_other_errors_have_no_note(own_server: Server) -> None:
    """An error of the command itself has no note."""
    client = make(URL=own_server.url)
    client.set("k", "v")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE") as info:
        client.lpush("k", 1)

    with pytest.raises(redis.DataError) as data_info:
        client.set("k", object())

    assert notes(info.value) == notes(data_info.value) == []


@needs_notes
def test_note_is_added_once() -> None:
    """An error that passes two commands has one note of each outcome."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = make(HOST="127.0.0.1", PORT=listener.getsockname()[1])
        deadline = deadline_of(client)
        take_down(deadline)
        error = redis.ConnectionError("x")

        for _ in range(2):
            deadline.engine.complete_error(error, deadline.spec, None, "failed.")

        assert len(notes(error)) == 1


@needs_notes
def test_advice_about_hello(echo: str) -> None:
    """For a server that does not know HELLO, a note names the setting to change."""
    with pytest.raises(redis.ResponseError, match="unknown command 'HELLO'") as info:
        make(URL=f"redis://{echo}", PROTOCOL=3).get("k")

    assert notes(info.value)[0].endswith("HELLO: set 'CACHE_PROTOCOL' to 2.")


def test_single_node_of_a_cluster(cluster: Cluster) -> None:
    """A plain URL of a cluster is an error immediately. "flask redis info" warns."""
    key = next(each for each in "abc" if cluster.master_of(each) != cluster.nodes[0])
    app = make_app(CACHE_URL=cluster.nodes[0].url)
    client: t.Any = app.extensions["redis"]["CACHE"]

    with pytest.raises(redis.ResponseError) as info:
        client.get(key)

    assert type(info.value).__name__ == "MovedError"
    advice = "cluster: use a redis+cluster:// URL."
    assert notes(info.value) == [] or notes(info.value)[0].endswith(advice)
    result = app.test_cli_runner().invoke(args=["redis", "info", "--timeout", "20"])
    assert "is a single node of a cluster" in " ".join(result.output.split())

    app = make_app(CACHE_URL=f"redis+cluster://{cluster.address}")
    result = app.test_cli_runner().invoke(args=["redis", "info", "--timeout", "20"])
    assert "is a single node of a cluster" not in " ".join(result.output.split())


def test_no_permission_for_slots(cluster: Cluster) -> None:
    """If the user may not read a cluster's slots, the error is raised immediately."""
    for node in cluster.nodes:
        with node.admin() as admin:
            rights = ("on", "nopass", "~*", "+@all", "-cluster")
            admin.execute_command("ACL", "SETUSER", "blind", *rights)

    with pytest.raises(RedisClusterException) as info:
        make(URL=f"redis+cluster://blind:any@{cluster.address}")

    assert sys.version_info < (3, 11) or notes(info.value)[0].endswith(
        " 1 attempt. The user needs the permission +cluster|slots."
    )

    for node in cluster.nodes:
        with node.admin() as admin:
            admin.execute_command("ACL", "DELUSER", "blind")


def test_no_client_side_caching(server: Server) -> None:
    """A server without client-side caching is an error immediately."""
    with server.admin() as admin:
        version = str(admin.info("server")["redis_version"]).split(".")

    if tuple(map(int, version[:2])) >= (7, 4):
        pytest.skip("The server has it.")

    with pytest.warns(UserWarning, match="is not safe in a web application"):
        client = make(URL=server.url, CACHE_CONFIG=CacheConfig(), PROTOCOL=3)

    with pytest.raises(redis.ConnectionError, match="client-side caching"):
        client.get("k")

    assert not deadline_of(client).down


def test_encoding_with_hiredis(monkeypatch: pytest.MonkeyPatch) -> None:
    """hiredis only writes UTF-8, so no other encoding is accepted with it."""
    monkeypatch.setattr(redis.utils, "HIREDIS_AVAILABLE", True)

    with pytest.raises(ConfigError, match="^'CACHE_ENCODING' must be utf-8 while"):
        make(URL="redis://localhost", ENCODING="latin-1")

    make(URL="redis://localhost", ENCODING="UTF8")
    make(URL="redis://localhost", ENCODING="latin-1", CLASS="valkey.Valkey")
    monkeypatch.setattr(redis.utils, "HIREDIS_AVAILABLE", False)
    make(URL="redis://localhost", ENCODING="latin-1")


@pytest.fixture
def small_server(start: Starter) -> Server:
    """A server that takes values up to 1 MiB."""
    return start(Server, "--proto-max-bulk-len", "1mb")


@pytest.mark.parametrize("kind", ["redis", "valkey", "unix", "pipeline", "text"])
def test_too_large(small_server: Server, kind: str) -> None:
    """A value that is too large for the server is not retried until the deadline."""
    value: t.Any = "x" * 2**25 if kind == "text" else b"x" * 2**25
    url = f"unix://{small_server.socket}" if kind == "unix" else small_server.url
    client = make(
        URL=url, CLASS="valkey.Valkey" if kind == "valkey" else None, RETRY_DEADLINE=60
    )
    client.set("k", "v")

    with small_server.admin() as admin:
        before = admin.info("stats")["total_connections_received"]

        with pytest.raises(Exception, match=".") as info:
            if kind == "pipeline":
                client.pipeline().set("k", value).execute()
            else:
                client.set("k", value)

        # If all was sent before the server closed it, the server's reply is the error.
        errors = ("ConnectionError", "ResponseError")
        assert type(info.value).__name__ in errors
        after = admin.info("stats")["total_connections_received"]

    assert after - before <= 3
    assert not deadline_of(client).down
    assert client.get("k") == b"v"

    if type(info.value).__name__ == "ConnectionError" and notes(info.value):
        assert "proto-max-bulk-len" in notes(info.value)[0]


def test_too_large_in_asyncio(small_server: Server) -> None:
    async def use(client: t.Any) -> None:
        with pytest.raises((redis.ConnectionError, redis.ResponseError)):
            await client.set("k", b"x" * 2**25)

        assert not deadline_of(client).down

    run_async(make_app(CACHE_URL=small_server.url, CACHE_RETRY_DEADLINE=60), use)


def test_reset_of_another_command() -> None:
    """A lost connection is not the fault of a small value."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = make(HOST="127.0.0.1", PORT=listener.getsockname()[1])
        deadline = deadline_of(client)
        attempts = deadline.start(client, [(("SET", "k", "v", 1), {})])

        for _ in range(3):
            try:
                raise redis.ConnectionError("reset") from ConnectionResetError(104, "")
            except redis.ConnectionError as error:
                assert attempts.may_continue(error)
