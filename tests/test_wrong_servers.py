"""What operators read if the server is not of the kind that the URL says."""

from __future__ import annotations

import asyncio
import json
import typing as t
from pathlib import Path

import pytest
import redis
from flask import Flask
from redis.exceptions import RedisClusterException

from flask_and_redis import RedisManager

from .conftest import command_of
from .conftest import Starter
from .cutter import Cutter
from .scripted import array
from .scripted import bulk
from .scripted import Scripted
from .servers import Cluster
from .servers import free_ports
from .servers import KINDS
from .servers import Sentinel
from .servers import Sentinels
from .servers import Server
from .servers import wait_until
from .test_health import silent_server
from .test_messages import needs_notes
from .test_messages import notes

pytestmark = pytest.mark.slow

SENTINEL = (
    "The server is a sentinel, which stores no data: use a redis+sentinel:// URL."
)
CLUSTER = "The server is part of a cluster: use a redis+cluster:// URL."


def run(app: Flask, *arguments: str) -> tuple[int, str]:
    """The exit status of a command, and its output as one line."""
    result = app.test_cli_runner().invoke(args=["redis", *arguments])
    return result.exit_code, " ".join(result.output.split())


def make_app(url: str, **config: t.Any) -> Flask:
    app = Flask("shop")
    app.config.update({"REDIS_URL": url, "REDIS_RETRY_DEADLINE": 0.3, **config})
    RedisManager(app)
    return app


def ping_error(url: str, **config: t.Any) -> str | None:
    """The error that a ping reports. Its exit status and its JSON say the same."""
    app = make_app(url, **config)
    status, output = run(app, "ping", "--json", "--timeout", "5")
    error: str | None = json.loads(output)["REDIS"]["error"]
    assert status == (error is not None)
    return error


def requote(error: str | None) -> str:
    """The error with the quotes of Redis 7 instead of the backquotes of 6.2."""
    return str(error).replace("`", "'")


def misled_sentinel(sentinels: Sentinels, directory: Path) -> Sentinel:
    """A sentinel that takes a replica for the master."""
    sentinel = Sentinel(sentinels.command, directory)
    port = sentinels.servers[1].port
    sentinel.configure([f"sentinel monitor mymaster 127.0.0.1 {port} 2"])
    return sentinel


@pytest.mark.parametrize("protocol", [2, 3])
def test_sentinel(shared_sentinels: Sentinels, protocol: int) -> None:
    """A sentinel answers PING and INFO, but no command of the app."""
    url = f"redis://{shared_sentinels.sentinels[0].address}"
    assert ping_error(url, REDIS_PROTOCOL=protocol) == SENTINEL
    assert ping_error(url, REDIS_DECODE_RESPONSES=True) == SENTINEL
    status, output = run(make_app(url, REDIS_PROTOCOL=protocol), "info")
    assert status == 1 and f"error {SENTINEL}" in output


@pytest.mark.server
@pytest.mark.parametrize("kind", KINDS)
def test_info_of_each_sentinel(tmp_path: Path, kind: str) -> None:
    """Valkey has another name for what INFO says of a sentinel."""
    sentinel = Sentinel(command_of(kind), tmp_path)
    sentinel.configure([])

    with sentinel:
        status, output = run(make_app(f"redis://{sentinel.address}"), "info")

    assert status == 1 and f"error {SENTINEL}" in output


def test_sentinel_of_valkey(shared_sentinels: Sentinels) -> None:
    """The same with the other library."""
    pytest.importorskip("valkey")
    url = f"valkey://{shared_sentinels.sentinels[0].address}"
    assert ping_error(url, REDIS_CLASS="valkey.Valkey") == SENTINEL


def test_node_of_a_cluster(cluster: Cluster) -> None:
    """A node redirects most keys, and a replica all of them."""
    for node in (cluster.nodes[0], cluster.nodes[3]):
        assert ping_error(f"redis://{node.address}") == CLUSTER


@needs_notes
@pytest.mark.parametrize(
    ("path", "config", "label"),
    [
        ("/99", {}, "the database in 'REDIS_URL'"),
        ("", {"REDIS_DB": 99}, "'REDIS_DB'"),
        ("?db=99", {}, "'db' in the query of 'REDIS_URL'"),
    ],
)
def test_no_such_database(
    server: Server, path: str, config: dict[str, t.Any], label: str
) -> None:
    """The error of a database that the server does not have names the setting."""
    advice = f"Check {label}: the server has fewer databases."
    url = f"redis://{server.address}{path}"
    assert ping_error(url, **config) == f"DB index is out of range. {advice}"

    with pytest.raises(redis.ResponseError) as caught:
        make_app(url, **config).extensions["redis"]["REDIS"].get("k")

    assert notes(caught.value)[0].endswith(advice)


@needs_notes
def test_database_of_the_application(server: Server, cluster: Cluster) -> None:
    """If the application itself selects a wrong database, no setting is to blame."""
    client = make_app(server.url).extensions["redis"]["REDIS"]

    with pytest.raises(redis.ResponseError, match="out of range") as caught:
        client.execute_command("SELECT", 99)

    assert notes(caught.value) == []
    client = make_app(f"redis+cluster://{cluster.address}").extensions["redis"]["REDIS"]

    # A cluster of Valkey 9 can have several databases.
    with pytest.raises(redis.ResponseError, match="not allowed|out of range") as caught:
        client.execute_command("SELECT", 1, target_nodes=client.get_random_node())

    assert CLUSTER not in "".join(notes(caught.value))


def test_database_of_a_cluster(cluster: Cluster) -> None:
    """A node of a cluster has one database. A URL with another one is of the wrong
    kind. A cluster of Valkey 9 can have several, so that its error is another one.
    """
    node = cluster.nodes[0]

    with node.admin() as client, pytest.raises(redis.ResponseError) as caught:
        client.execute_command("SELECT", 1)

    advice = {
        "SELECT is not allowed in cluster mode": CLUSTER,
        "DB index is out of range": (
            "Check the database in 'REDIS_URL': the server has fewer databases."
        ),
    }[str(caught.value)]
    assert ping_error(f"redis://{node.address}/1") == f"{caught.value}. {advice}"


@pytest.mark.parametrize("kind", KINDS)
def test_cluster_of_one_node(start: Starter, kind: str) -> None:
    """A node with all slots works as a single server. Without any, it refuses keys."""
    port = free_ports(1)[0]
    node = start(Server, "--cluster-enabled", "yes", kind=kind, port=port)
    assert ping_error(node.url) == "The cluster's state is 'fail'."

    with node.admin() as client:
        client.execute_command("CLUSTER ADDSLOTS", *range(16384))
        # A user without the permission to ask gets no false alarm.
        client.acl_setuser(
            "shop", enabled=True, passwords=["+hush"], commands=["+ping"]
        )

    wait_until(lambda: ping_error(node.url) is None, "the node has its slots")
    assert ping_error(f"redis://shop:hush@{node.address}") is None


def test_each_kind_is_ok(each_server: Server) -> None:
    """Servers of all kinds say what they are, also to a user who may only PING."""
    with each_server.admin() as client:
        client.acl_setuser("pings", enabled=True, passwords=["+x"], commands=["+ping"])

        try:
            url = f"redis://pings:x@{each_server.address}"
            assert ping_error(url) is None
            # Operators watch this log: no other command was tried, except for what
            # redis-py says of itself.
            log: t.Any = client.acl_log()
            own = [entry["object"] for entry in log if entry["username"] == "pings"]
            assert {command.partition("|")[0] for command in own} <= {"client"}
        finally:
            client.acl_deluser("pings")


def test_replica_as_the_master(shared_sentinels: Sentinels, tmp_path: Path) -> None:
    """A sentinel that names a replica as the master: all writes fail."""
    replica = shared_sentinels.servers[1]

    with misled_sentinel(shared_sentinels, tmp_path) as misled:
        url = f"redis+sentinel://{misled.address}/mymaster"
        assert ping_error(url) == (
            f"The sentinels name {replica.address} as the master, but it is a replica."
        )


def test_replica_by_address(shared_sentinels: Sentinels) -> None:
    """A replica behind a redis:// URL is ok: it may be for reading only."""
    assert ping_error(shared_sentinels.servers[1].url) is None


def test_other_reply_to_ping(scripted: Scripted) -> None:
    """A server that answers PING with anything but PONG is no Redis."""
    scripted.plan(b"PING", bulk("PING"))
    assert ping_error(scripted.url) == (
        "The server does not answer PING like Redis: check host and port."
    )


@pytest.mark.parametrize(
    "reply", [b"-ERR unknown\r\n", b":1\r\n", array(bulk(b"\xff")), b"HTTP/1.1\r\n"]
)
def test_unknown_kind(scripted: Scripted, reply: bytes) -> None:
    """A server or a proxy that does not say what it is has answered the ping."""
    scripted.plan(b"HELLO", reply)
    assert ping_error(scripted.url, REDIS_PROTOCOL=2) is None


# What a ping says besides the error

TLS = (
    "The server speaks TLS, and no plain text: use a rediss:// URL instead of redis://,"
    " or set 'REDIS_SSL' to true."
)


@pytest.mark.parametrize(
    "url", ["redis://:hush@{}", "redis+cluster://{}", "redis+sentinel://{}/mymaster"]
)
def test_plain_text_to_a_tls_port(tls_server: Server, url: str) -> None:
    """The server only closes the connection."""
    assert ping_error(url.format(tls_server.address)) == TLS


def test_tls_to_another_program() -> None:
    """A server that speaks first, and no TLS."""
    with silent_server(b"SSH-2.0-OpenSSH_9.2\r\n") as ssh:
        error = ping_error(f"rediss://{ssh}") or ""

    assert error.startswith("The server speaks plain text, and no TLS")


def test_closed_connection() -> None:
    """A server that closes all connections does not speak TLS."""
    with Cutter(free_ports(1)[0]) as cutter:
        error = ping_error(cutter.url) or ""

    assert "onnection" in error and "TLS" not in error


@pytest.mark.parametrize(
    "url", ["redis://{}", "redis+cluster://{}", "redis+sentinel://{}/mymaster"]
)
def test_no_redis(url: str) -> None:
    """A server with another protocol. hiredis shows only the first byte of a reply."""
    with silent_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        error = ping_error(url.format(address)) or ""

    assert error.startswith("Protocol ")
    advice = "The server does not speak the protocol of Redis: check its port."
    assert error.endswith(f". {advice}")


def test_sentinel_with_a_database(shared_sentinels: Sentinels) -> None:
    """A sentinel knows no SELECT, so that no connection can be opened."""
    error = ping_error(f"redis://{shared_sentinels.sentinels[0].address}/2")
    assert requote(error) == (
        "unknown command 'SELECT'. If the server is a sentinel, use a"
        " redis+sentinel:// URL."
    )


def test_no_sentinel(server: Server) -> None:
    """The URL of a sentinel with the address of a server."""
    error = ping_error(f"redis+sentinel://{server.address}/mymaster")
    assert requote(error) == (
        "unknown command 'SENTINEL'. The server is not a sentinel: check its port, or"
        " use redis://."
    )


async def exists_async(app: Flask) -> int:
    async with app.extensions["redis"].open_async("REDIS") as client:
        return t.cast(int, await client.exists("k"))


def exists(app: Flask, is_async: bool) -> int:
    if is_async:
        return asyncio.run(exists_async(app))

    return t.cast(int, app.extensions["redis"]["REDIS"].exists("k"))


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("query", ["", "?role=replica"])
def test_one_is_no_sentinel(
    server: Server, shared_sentinels: Sentinels, query: str, is_async: bool
) -> None:
    """The next one is asked."""
    addresses = f"{server.address},{shared_sentinels.sentinels[0].address}"
    url = f"redis+sentinel://{addresses}/mymaster{query}"
    assert ping_error(url) is None
    assert exists(make_app(url), is_async) == 0


@pytest.mark.parametrize("is_async", [False, True])
def test_no_sentinel_names_a_master(
    start: Starter, server: Server, shared_sentinels: Sentinels, is_async: bool
) -> None:
    """If all refuse the command, the first one's error is raised immediately. A
    sentinel that is down may soon be up.
    """
    down = f"127.0.0.1:{free_ports(1)[0]}"

    for others, service, text in (
        (start(Server).address, "mymaster", "^unknown command"),
        (down, "mymaster", "^No master found for 'mymaster'"),
        (shared_sentinels.address, "other", "^No master found for 'other'"),
    ):
        app = make_app(f"redis+sentinel://{server.address},{others}/{service}")

        with pytest.raises(redis.RedisError, match=text):
            exists(app, is_async)

        is_retried = text.startswith("^No master")
        assert app.extensions["redis"].is_down("REDIS") == is_retried


@pytest.mark.parametrize("is_async", [False, True])
def test_application_asks_a_sentinel(server: Server, is_async: bool) -> None:
    """It gets the server's own error."""
    app = make_app(f"redis+sentinel://{server.address}/mymaster")
    registry = app.extensions["redis"]

    async def ask_async() -> None:
        async with registry.open_async("REDIS") as client:
            (sentinel,) = client.connection_pool.sentinel_manager.sentinels
            await sentinel.sentinel_masters()

    with pytest.raises(redis.ResponseError, match="unknown command"):
        if is_async:
            asyncio.run(ask_async())
        else:
            client = registry["REDIS"]
            (sentinel,) = client.connection_pool.sentinel_manager.sentinels
            sentinel.sentinel_masters()


def test_unknown_service(shared_sentinels: Sentinels) -> None:
    """Sentinels that watch another service."""
    advice = "Check the service in 'REDIS_URL', and whether its master is up."
    url = f"redis+sentinel://{shared_sentinels.address}/other"
    assert ping_error(url) == f"No master found for 'other'. {advice}"


@pytest.mark.parametrize("query", ["", "?role=replica"])
def test_refused_behind_sentinels(shared_sentinels: Sentinels, query: str) -> None:
    """The servers refuse a login. For replicas, redis-py's error does not say why."""
    url = f"redis+sentinel://nobody:wrong@{shared_sentinels.address}/mymaster{query}"
    error = ping_error(url) or ""
    assert "The server refuses the login (" in error
    assert error.endswith("): check the password in 'REDIS_URL'.")


@needs_notes
def test_no_sentinel_answers(caplog: pytest.LogCaptureFixture) -> None:
    """The ping and the log say why. No advice is about the service."""
    app = make_app(f"redis+sentinel://127.0.0.1:{free_ports(1)[0]}/mymaster")
    client = app.extensions["redis"]["REDIS"]
    error = json.loads(run(app, "ping", "--json")[1])["REDIS"]["error"]
    assert error.startswith("No master found for 'mymaster': Error ")
    assert error.endswith(" refused.")

    for _ in range(2):
        with pytest.raises(redis.ConnectionError) as caught:
            client.get("k")

        assert "Check the service" not in notes(caught.value)[0]

    assert f"commands fail: {error}" in caplog.text


@needs_notes
def test_no_cluster(server: Server, shared_sentinels: Sentinels) -> None:
    """A cluster's URL with the address of another server."""
    advice = "The server is not part of a cluster: use a redis:// URL."

    for address in (server.address, shared_sentinels.sentinels[0].address):
        url = f"redis+cluster://{address}"
        assert (ping_error(url) or "").endswith(f". {advice}")

        with pytest.raises(RedisClusterException) as caught:
            make_app(url).extensions["redis"]["REDIS"].get("k")

        assert notes(caught.value)[0].endswith(advice)


@pytest.mark.parametrize("password", ["p\xe4ss", "p'ss", 'p"ss', "p\\'\"ss"])
def test_repeated_password(scripted: Scripted, password: str) -> None:
    """A program that repeats what it does not understand. redis-py quotes its reply."""
    reply = b"You said " + password.encode() + b" and 'more'.\r\n"
    scripted.plan(b"AUTH", reply, reply, reply)
    config = {"REDIS_PASSWORD": password, "REDIS_PROTOCOL": 2}
    texts = [ping_error(scripted.url, **config) or ""]
    # To this package, the password of the application's own pool is ordinary text.
    pool = redis.ConnectionPool.from_url(scripted.url, password=password, protocol=2)

    for app in (
        make_app(scripted.url, **config),
        make_app("", REDIS_CONNECTION_POOL=pool),
    ):
        with pytest.raises(redis.InvalidResponse) as caught:
            app.extensions["redis"]["REDIS"].get("k")

        texts.append(str(caught.value))

    for text in texts:
        assert text.startswith("Protocol ")
        assert "ss" not in text


@pytest.mark.parametrize("place", ["file", "provider", "pool", "sentinel"])
def test_repeated_password_of_another_origin(
    scripted: Scripted, tmp_path: Path, place: str
) -> None:
    """The same for passwords that are not settings. The error of a command may name the
    user.
    """
    path = tmp_path / "password"
    path.write_text("hush")
    pool = redis.ConnectionPool.from_url(scripted.url, password="hush", protocol=2)
    provider = redis.UsernamePasswordCredentialProvider("", "hush")
    sentinels = [scripted.server_address]
    kwargs = {"password": "hush", "protocol": 2}
    sentinel = t.cast(t.Any, redis.Sentinel)(sentinels, sentinel_kwargs=kwargs)
    behind = sentinel.master_for("m").connection_pool
    configs: dict[str, dict[str, t.Any]] = {
        "file": {
            "REDIS_USERNAME": "ada",
            "REDIS_PASSWORD_FILE": path,
            "REDIS_PROTOCOL": 2,
        },
        "provider": {"REDIS_CREDENTIAL_PROVIDER": provider, "REDIS_PROTOCOL": 2},
        "pool": {"REDIS_URL": None, "REDIS_CONNECTION_POOL": pool},
        "sentinel": {"REDIS_URL": None, "REDIS_CONNECTION_POOL": behind},
    }
    config = configs[place]
    scripted.plan(b"AUTH", *4 * [b"-ERR ada, not 'hush'\r\n"])
    error = ping_error(scripted.url, **config) or ""
    assert error.endswith(", not '***'")

    with pytest.raises(redis.ResponseError, match=r"^ada, not '\*\*\*'$"):
        make_app(scripted.url, **config).extensions["redis"]["REDIS"].get("k")


def test_replica_without_master(own_server: Server) -> None:
    """A replica that has lost its master still serves its data, which get old."""
    app = make_app(own_server.url)
    assert "no link to its master" not in run(app, "info")[1]

    with own_server.admin() as admin:
        admin.replicaof("127.0.0.1", str(free_ports(1)[0]))

    text = "A replica of REDIS has no link to its master, so its data may be old."
    status, output = run(app, "info")
    assert status == 0 and text in output
