from __future__ import annotations

import asyncio
import collections.abc as cabc
import contextlib
import gc
import inspect
import re
import ssl
import threading
import time
import typing as t
from urllib.parse import quote

import pytest
import redis
import valkey
from ephemeral_port_reserve import reserve
from flask import Flask

from flask_and_redis import ConfigError
from flask_and_redis import current_redis
from flask_and_redis import RedisManager
from flask_and_redis.spec.classes import parameters

from .conftest import Starter
from .cutter import Cutter
from .objects import CA
from .objects import deadline_of
from .scripted import Scripted
from .servers import Certificates
from .servers import Cluster
from .servers import KINDS
from .servers import Sentinels
from .servers import Server
from .servers import wait_until
from .test_health import silent_server
from .views import create_app

pytestmark = pytest.mark.each

ENGINES = [
    *(f"redis:// {kind}" for kind in KINDS),
    *(f"redis+cluster:// {kind}" for kind in KINDS),
    *(f"redis+sentinel:// {kind}" for kind in KINDS),
    *("valkey://", "unix://", "rediss://", "rediss:// mutual", "valkeys://"),
    *("rediss+sentinel:// mutual", "rediss+cluster:// mutual", "fakeredis://"),
]


TLS: dict[str, type[t.Any]] = {
    "rediss://": Server,
    "valkeys://": Server,
    "rediss+cluster://": Cluster,
    "rediss+sentinel://": Sentinels,
}


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, start: Starter) -> str:
    """The URL of each engine."""
    engine, _, kind = request.param.partition(" ")

    if engine == "fakeredis://":
        return "fakeredis://views/1"

    if engine == "unix://":
        return f"unix://{start(Server).socket}?db=3"

    if engine in TLS:
        certificates: Certificates = request.getfixturevalue("certificates")
        tls: t.Any = start(
            TLS[engine], certificates=certificates, mutual=kind == "mutual"
        )
        return (
            f"{engine}{tls.address}{'/mymaster' if 'sentinel' in engine else ''}"
            f"?ssl_ca_certs={certificates.ca}&ssl_certfile={certificates.client_cert}"
            f"&ssl_keyfile={certificates.client_key}"
        )

    if engine == "redis+cluster://":
        return f"{engine}{start(Cluster, kind=kind).address}"

    if engine == "redis+sentinel://":
        return f"{engine}{start(Sentinels, kind=kind).address}/mymaster/1"

    return f"{engine}{start(Server, kind=kind or 'redis').address}/1"


@pytest.fixture
def app_of_url(url: str, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """The same app for each engine. Only one environment variable differs."""
    monkeypatch.setenv("FLASK_REDIS_URL", url)
    return create_app()


@pytest.mark.untraced
def test_views(app_of_url: Flask) -> None:
    """The same views work on each engine."""
    client = app_of_url.test_client()
    assert client.put("/keys/a", data="ä").json == {"set": True}
    assert client.put("/keys/b", data="x").json == {"set": True}
    assert client.get("/keys/a").json == {"value": "ä"}
    assert client.get("/keys/none").json == {"value": None}
    assert client.get("/scan").json == {"keys": ["a", "b"]}
    assert [client.post("/count").get_json()["count"] for _ in range(3)] == [1, 2, 3]
    assert client.post("/pipeline").json == {"counts": [1, 2]}
    assert client.post("/pipeline").json == {"counts": [2, 4]}
    assert client.post("/transaction").json == {"same": True}
    assert client.post("/script").json == {"sum": 3}
    assert client.post("/lock").json == {"owned": True}

    for n in (0, 3):
        expected = {"counts": [n + 1, n + 2], "next": n + 3}
        assert client.post("/async").json == expected


AWKWARD = "p/a?s#s w:o@r%d[0]&+=é\"'\\"


def quoted(text: str) -> str:
    return quote(text, safe="")


def manage(**config: t.Any) -> tuple[Flask, RedisManager]:
    """Create an app with these settings for the prefix REDIS, and its manager."""
    app = Flask("engines")
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})
    return app, RedisManager(app)


def client_of(**config: t.Any) -> t.Any:
    return manage(**config)[0].extensions["redis"]["REDIS"]


@pytest.fixture(scope="module")
def guarded(_start: Starter) -> Server:
    """A server with an ACL user whose password contains many special characters."""
    server = _start(Server)

    with server.admin() as client:
        client.execute_command(
            "ACL", "SETUSER", "me", "on", f">{AWKWARD}", "~*", "+@all"
        )
        client.execute_command("ACL", "SETUSER", "default", "off")

    return server


@pytest.mark.parametrize(
    "config",
    [
        {"URL": "redis://me:{quoted}@{address}/2"},
        {"URL": "redis://{address}/2?username=me&password={quoted}"},
        {"URL": "redis://{address}/2", "USERNAME": "me", "PASSWORD": AWKWARD},
        {"HOST": "127.0.0.1", "PORT": "{port}", "USER": "me", "PASSWORD": AWKWARD},
        {"URL": "unix://me:{quoted}@{socket}?db=1"},
        {"UNIX_SOCKET_PATH": "{socket}", "USERNAME": "me", "PASSWORD": AWKWARD},
    ],
)
def test_acl_user(guarded: Server, config: dict[str, str]) -> None:
    """A password may contain any character, in each setting that can hold it."""
    values = {
        name: value.format(
            quoted=quoted(AWKWARD),
            address=guarded.address,
            port=guarded.port,
            socket=guarded.socket,
        )
        for name, value in config.items()
    }
    assert client_of(**values).acl_whoami() == "me"


def test_cluster_with_password(start: Starter) -> None:
    """The user and password in a cluster's URL are used for every node."""
    cluster = start(Cluster, password=AWKWARD)
    client = client_of(URL=f"redis+cluster://:{quoted(AWKWARD)}@{cluster.address}")
    assert all(client.set(f"k{n}", n) for n in range(20))


# redis-py deprecates this argument in favour of load_balancing_strategy.
ignore_deprecation = pytest.mark.filterwarnings(
    "ignore:.*read_from_replicas:DeprecationWarning"
)


@ignore_deprecation
@pytest.mark.parametrize(
    "config",
    [
        {"URL": "redis+cluster://{cluster.address}/0"},
        {"URL": "redis://{cluster.nodes[0].address}", "CLASS": "redis.RedisCluster"},
        {
            "HOST": "127.0.0.1",
            "PORT": "{cluster.nodes[0].port}",
            "DB": "0",
            "CLASS": redis.RedisCluster,
        },
    ],
)
def test_cluster_settings(cluster: Cluster, config: dict[str, t.Any]) -> None:
    """Either the scheme or the class selects Redis Cluster. It accepts the arguments of
    redis.Redis as well as its own.
    """
    config |= {
        name: value.format(cluster=cluster)
        for name, value in config.items()
        if isinstance(value, str)
    }
    client = client_of(
        **config,
        DECODE_RESPONSES="true",
        SOCKET_KEEPALIVE="no",
        REINITIALIZE_STEPS="7",
        READ_FROM_REPLICAS="true",
    )
    assert isinstance(client, redis.RedisCluster)
    assert client.set("k", "v")
    assert client.get("k") == "v"
    assert (client.read_from_replicas, client.reinitialize_steps) == (True, 7)
    node = t.cast(t.Any, client).get_random_node().redis_connection
    kwargs = node.connection_pool.connection_kwargs
    assert kwargs["socket_timeout"] == kwargs["socket_connect_timeout"] == 1
    assert kwargs["socket_keepalive"] is False


@ignore_deprecation
def test_read_from_replicas_in_the_url(cluster: Cluster) -> None:
    """read_from_replicas works in a cluster's URL, although redis-py ignores it."""
    url = f"redis+cluster://{cluster.address}?read_from_replicas=true"
    assert client_of(URL=url).read_from_replicas is True


class NarrowCluster(redis.RedisCluster):
    """A cluster's client that passes on nothing."""

    def __init__(self, startup_nodes: t.Any) -> None:
        super().__init__(startup_nodes=startup_nodes)


def test_cluster_errors(cluster: Cluster) -> None:
    """Errors that a retry cannot fix are raised immediately, and do not count as an
    outage.
    """
    client = client_of(URL=f"redis+cluster://{cluster.address}")

    with pytest.raises(redis.exceptions.RedisClusterException, match="same key slot"):
        client.execute_command("MGET", "a", "b")

    app, _ = manage(URL=f"redis+cluster://nobody:wrong@{cluster.address}")

    with app.app_context():
        with pytest.raises(redis.exceptions.RedisClusterException) as info:
            current_redis.get("k")

        assert isinstance(info.value.__cause__, redis.AuthenticationError)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"URL": "redis+cluster://h/1"},
            "The database in 'REDIS_URL' cannot be used: a",
        ),
        ({"URL": "redis+cluster://h", "DB": 1}, "'REDIS_DB' cannot be used: a"),
        ({"URL": "redis+cluster://h", "DB": 0}, None),
        ({"HOST": "h", "DB": 1, "CLASS": "redis.RedisCluster"}, "'REDIS_DB' cannot be"),
        (
            {"HOST": "/s", "CLASS": "redis.RedisCluster"},
            "'REDIS_HOST' cannot be used: a",
        ),
        (
            {"URL": "redis+cluster://h", "CLASS": "redis.Redis"},
            "must be derived from re",
        ),
        (
            {"URL": "redis+cluster://h", "CLASS": NarrowCluster},
            "'REDIS_CLASS' must take **kwargs, and pass them to the constructor of",
        ),
        (
            {"URL": "redis+cluster://h?ssl_ca_certs=x"},
            "needs TLS, which is off: use a",
        ),
        (
            {"URL": "redis+cluster://h?health_check_interval=1"},
            "is not an argument of the",
        ),
        (
            {
                "URL": "redis+cluster://h",
                "CONNECTION_POOL_CLASS": "redis.BlockingConnectionPool",
            },
            "a cluster has its own pool for each node",
        ),
        (
            {"URL": "redis+cluster://h", "HEALTH_CHECK_INTERVAL": 5},
            "'REDIS_HEALTH_CHECK_INTERVAL' needs a client class that takes",
        ),
        ({"URL": "redis+cluster://a:1,b:x"}, "with a port from 1 to 65535"),
        (
            {"URL": "redis+cluster://u:p@a:1,u:p@b:2"},
            "must have its login only once, before",
        ),
        ({"URL": "redis+cluster://a:1,,b"}, "must name a host before each port"),
        (
            {"URL": "redis://a:1,b:2"},
            "several hosts: use redis+cluster:// or redis+sent",
        ),
        (
            {"URL": "redis+sentinel://h"},
            "must name the service that the sentinels watch",
        ),
        (
            {"URL": "redis+sentinel://h/"},
            "must name the service that the sentinels watch",
        ),
        ({"URL": "redis+sentinel://h/m/x"}, "must end in the number of a database"),
        ({"URL": "redis+sentinel://h/m?role=slave"}, "must be master or replica"),
        (
            {"URL": "redis+sentinel://h/m", "CLASS": "redis.RedisCluster"},
            "derived from",
        ),
        (
            {
                "URL": "redis+sentinel://h/m",
                "CONNECTION_POOL_CLASS": "redis.BlockingConnectionPool",
            },
            "must be a class derived from redis.SentinelConnectionPool",
        ),
        (
            {"URL": "redis+sentinel://h/m", "SENTINEL_KWARGS": {"pasword": "x"}},
            "'REDIS_SENTINEL_KWARGS' must have arguments of redis.Redis as its keys,"
            " except those for the address and for retries. Did you mean 'password'?",
        ),
        (
            {"URL": "redis+sentinel://h/m", "SENTINEL_KWARGS": {"retry": 3}},
            "except those for the address and for retries",
        ),
        (
            {"URL": "redis+sentinel://h/m", "SENTINEL_KWARGS": {"password": 1.5}},
            "'password' in 'REDIS_SENTINEL_KWARGS' must be text",
        ),
        (
            {
                "URL": "rediss+sentinel://h/m",
                "SENTINEL_KWARGS": {"ssl_ca_certs": "/ca.pem"},
            },
            "'ssl_ca_certs' in 'REDIS_SENTINEL_KWARGS' must be the path of a file that"
            " exists and can be read.",
        ),
        (
            {
                "URL": "redis+sentinel://h/m",
                "SENTINEL_KWARGS": {"ssl_ca_certs": __file__},
            },
            "'ssl_ca_certs' in 'REDIS_SENTINEL_KWARGS' needs TLS",
        ),
        (
            {
                "URL": "redis+sentinel://h/m",
                "SENTINEL_PASSWORD": "x",
                "SENTINEL_KWARGS": {"password": "x"},
            },
            "'REDIS_SENTINEL_PASSWORD' and 'password' in 'REDIS_SENTINEL_KWARGS' are"
            " two names of the same setting",
        ),
        (
            {"URL": "redis+sentinel://h/m", "SENTINEL_PASSWORD": b"x"},
            "'REDIS_SENTINEL_PASSWORD' must be text",
        ),
        (
            {"URL": "redis+sentinel://h/m?sentinel_password=x"},
            "Option 1 in the query of 'REDIS_URL' cannot be set there: use"
            " 'REDIS_SENTINEL_PASSWORD'.",
        ),
    ],
)
def test_wrong_engines(config: dict[str, t.Any], message: str | None) -> None:
    """Settings that an engine does not support are an error at start-up."""
    app = Flask("wrong")
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})

    if message is None:
        # A cluster has this database.
        RedisManager(app)
        return

    with pytest.raises(ConfigError) as info:
        RedisManager(app)

    assert message in str(info.value)


def test_cluster_that_was_down(start: Starter) -> None:
    """After a cluster was unreachable, the next command tries to connect again."""
    cluster = start(Cluster)
    app, _ = manage(URL=f"redis+cluster://{cluster.address}", RETRY_DEADLINE=0.3)
    cluster.stop()

    with app.app_context():
        for _ in range(2):
            with pytest.raises(redis.exceptions.RedisClusterException):
                current_redis.get("k")

    cluster.start()

    with app.app_context():
        assert current_redis.get("k") is None


def use_during(failover: t.Callable[[], None], app: Flask) -> list[str]:
    """Call an app's views during a failover. Return the responses other than 200."""
    errors: list[str] = []
    rounds: list[int] = []
    done = threading.Event()

    def request() -> None:
        client = app.test_client()

        while not done.is_set() and not errors:
            for view in ("/count", "/pipeline", "/lock"):
                response = client.post(view)

                # A failover may lose the lock, or the reply to its release. The
                # documentation says so.
                lost_lock = view == "/lock" and response.status_code == 409

                if response.status_code != 200 and not lost_lock:
                    errors.append(f"{view}: {response.status}")

            rounds.append(1)

    threads = [threading.Thread(target=request) for _ in range(4)]

    for thread in threads:
        thread.start()

    # The client exists, which takes seconds on a busy machine.
    while not rounds and not errors:
        time.sleep(0.01)

    failover()
    before = len(rounds)

    # Wait for more rounds than were running, so that some started after the failover.
    while len(rounds) < before + 20 and not errors:
        time.sleep(0.01)

    done.set()

    for thread in threads:
        thread.join()

    return errors


def test_sentinel_failover(
    sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views return no errors when a master behind Sentinel dies."""
    url = f"redis+sentinel://{sentinels.address}/mymaster"
    monkeypatch.setenv("FLASK_REDIS_URL", url)
    # On a busy machine, a failover takes longer than the default of 5 s.
    monkeypatch.setenv("FLASK_REDIS_RETRY_DEADLINE", "30")
    app = create_app()
    client: t.Any = app.extensions["redis"]["REDIS"]
    client.set("k", 0)
    # Only a replica that is up to date can become the master.
    wait_until(lambda: client.wait(2, 1000) == 2, "both replicas have the key")
    old = sentinels.master()
    assert use_during(old.kill, app) == []
    assert client.connection_pool.master_address[1] != old.port


def test_cluster_failover(
    fresh_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views return no errors when a master of a cluster dies."""
    url = f"redis+cluster://{fresh_cluster.address}"
    monkeypatch.setenv("FLASK_REDIS_URL", url)
    # On a busy machine, a failover takes longer than the default of 5 s.
    monkeypatch.setenv("FLASK_REDIS_RETRY_DEADLINE", "30")
    old = fresh_cluster.master_of("{n}count")
    assert use_during(old.kill, create_app()) == []
    assert fresh_cluster.master_of("{n}count") is not old


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.pipeline(transaction=True).incr("k").execute()[0] > 0,
        lambda client: client.pipeline(transaction=False).incr("k").execute()[0] > 0,
        lambda client: client.delete("k") in (0, 1),
    ],
)
def test_cluster_failover_of_one_use(
    fresh_cluster: Cluster, use: t.Callable[[t.Any], bool]
) -> None:
    """Transactions, pipelines and commands with several keys find the new master, even
    if no other command has run since the failover.
    """
    client = client_of(URL=f"redis+cluster://{fresh_cluster.address}")
    client.set("k", 1)
    fresh_cluster.master_of("k").kill()
    assert use(client)


def test_cluster_transaction_after_a_planned_failover(fresh_cluster: Cluster) -> None:
    """A transaction works after its slot has moved to another node."""
    client = client_of(URL=f"redis+cluster://{fresh_cluster.address}")
    client.set("k", 1)
    old = fresh_cluster.master_of("k")

    for node in fresh_cluster.nodes:
        with node.admin() as admin:
            if admin.info("replication").get("master_port") == old.port:
                admin.execute_command("CLUSTER", "FAILOVER")

    def moved() -> bool:
        return fresh_cluster.master_of("k") is not old

    wait_until(moved, "the replica took over")
    assert client.pipeline(transaction=True).incr("k").execute() == [2]


def test_with_leaves_a_cluster_alone(cluster: Cluster) -> None:
    """Leaving a with block does not close the cluster's shared client."""
    client = client_of(URL=f"redis+cluster://{cluster.address}")

    for _ in range(2):
        with client as same:
            assert same.set("k", "v")
            assert same.ping()


def test_async_ignores_the_pool_class(server: Server) -> None:
    """Arguments for a pool class have no effect on an asynchronous client."""
    app, manager = manage(
        URL=server.url, CONNECTION_POOL_CLASS=redis.BlockingConnectionPool, TIMEOUT=3
    )

    async def use() -> None:
        async with manager.get_async() as client:
            assert await client.get("k") is None

    with app.app_context():
        asyncio.run(use())


def test_three_hung_sentinels(sentinels: Sentinels) -> None:
    """If all sentinels hang, each attempt asks every sentinel only once."""
    url = f"redis+sentinel://{sentinels.address}/mymaster"
    client = client_of(
        URL=url, RETRY_DEADLINE=0, SENTINEL_KWARGS={"socket_timeout": 0.1}
    )

    for sentinel in sentinels.sentinels:
        sentinel.pause()

    with pytest.raises(redis.sentinel.MasterNotFoundError):
        client.get("k")

    # The first round takes most of the deadline, so the second is the last.
    client = client_of(
        URL=url, RETRY_DEADLINE=0.4, SENTINEL_KWARGS={"socket_timeout": 0.1}
    )

    with pytest.raises(redis.sentinel.MasterNotFoundError):
        client.get("k")

    assert deadline_of(client).down


def test_hung_sentinel_after_another() -> None:
    """The prefix is down if a sentinel hangs, although the error of the first one is
    another.
    """
    with silent_server() as silent:
        client = client_of(
            URL=f"redis+sentinel://127.0.0.1:{reserve()},{silent}/mymaster",
            RETRY_DEADLINE=0.5,
            SENTINEL_KWARGS={"socket_timeout": 0.4},
        )

        with pytest.raises(redis.sentinel.MasterNotFoundError) as info:
            client.get("k")

    assert type(info.value.__cause__) is redis.ConnectionError
    assert deadline_of(client).down


def test_async_failover(sentinels: Sentinels) -> None:
    """An asynchronous client finds the new master behind Sentinel."""
    app, manager = manage(URL=f"redis+sentinel://{sentinels.address}/mymaster")

    async def use() -> None:
        async with manager.get_async() as client:
            await client.set("k", 1)
            sentinels.master().kill()
            assert await client.incr("j") == 1

    with app.app_context():
        asyncio.run(use())


def test_async_cluster_failover(fresh_cluster: Cluster) -> None:
    """An asynchronous pipeline finds the new master of a cluster."""
    app, manager = manage(URL=f"redis+cluster://{fresh_cluster.address}")

    async def use() -> None:
        async with manager.get_async() as client:
            await client.set("k", 1)
            fresh_cluster.master_of("k").kill()
            pipe: t.Any = client.pipeline()
            assert (await pipe.incr("k").execute())[0] > 0

    with app.app_context():
        asyncio.run(use())


def test_sentinel_settings(start: Starter) -> None:
    """Servers and sentinels can have different credentials."""
    password = "p@s/s?w#rd"
    sentinel_password = "s3ntinel-s3cret"
    sentinels = start(Sentinels, password=password, sentinel_password=sentinel_password)
    url = f"redis+sentinel://:{quoted(password)}@{sentinels.address}/mymaster/2"
    app, manager = manage(
        URL=url,
        SENTINEL_PASSWORD=sentinel_password,
        SENTINEL_KWARGS={"username": ""},
        CLIENT_NAME="data",
    )

    async def use() -> None:
        async with manager.get_async() as client:
            assert await client.get("k") == b"v"

    with app.app_context():
        assert current_redis.set("k", "v")
        assert current_redis.client_getname() == "data"
        asyncio.run(use())
        pool: t.Any = current_redis.connection_pool
        kwargs = pool.sentinel_manager.sentinels[0].connection_pool.connection_kwargs
        assert kwargs["socket_timeout"] == kwargs["socket_connect_timeout"] == 1
        assert pool.connection_kwargs["socket_timeout"] == 5

    wrong = client_of(URL=url, SENTINEL_KWARGS={"password": f"not-{sentinel_password}"})

    with pytest.raises(redis.sentinel.MasterNotFoundError) as info:
        wrong.get("k")

    assert password not in str(info.value)
    assert sentinel_password not in str(info.value)
    # If the command had used up the deadline, the prefix would be down.
    assert not deadline_of(wrong).down

    app, manager = manage(
        URL=url, SENTINEL_KWARGS={"password": f"not-{sentinel_password}"}
    )

    async def fail() -> None:
        async with manager.get_async() as client:
            with pytest.raises(redis.asyncio.sentinel.MasterNotFoundError):
                await client.get("k")

            assert not deadline_of(client).down

    with app.app_context():
        asyncio.run(fail())
        # redis-py would also list all arguments of the connection.
        expected = "No master found for 'mymaster' : a sentinel - .*AuthenticationError"
        assert re.match(expected, manager.ping()["REDIS"].error or "")


def test_sentinel_replica(sentinels: Sentinels) -> None:
    """With role=replica, the client reads from a replica."""
    url = f"redis+sentinel://{sentinels.address}/mymaster"
    client_of(URL=url).set("k", "v")
    client = client_of(URL=f"{url}?role=replica&decode_responses=true")
    assert client.role()[0] == "slave"

    with pytest.raises(redis.ReadOnlyError):
        client.set("k", "w")

    with pytest.raises(redis.ResponseError, match="unknown command") as info:
        client.execute_command("HUSH")

    # It is not about sentinels.
    assert not hasattr(info.value, "__notes__")
    assert client_of(URL=f"{url}?role=master").role()[0] == b"master"


def test_sentinel_without_tls(app: Flask) -> None:
    """Sentinels use the TLS settings of the servers, unless SENTINEL_KWARGS changes
    them.
    """
    app.config.update(
        A_URL=f"rediss+sentinel://h/m?ssl_ca_certs={CA}",
        B_URL=f"rediss+sentinel://h/m?ssl_ca_certs={CA}",
        B_SENTINEL_KWARGS={"ssl": "false", "socket_timeout": "0.5"},
        C_URL="redis+sentinel://h:1,[::1]:2,i/m/3",
        C_SENTINEL_KWARGS={"credential_provider": "tests.objects.Provider"},
    )
    RedisManager(app)

    def sentinels_of(prefix: str) -> list[t.Any]:
        pool = app.extensions["redis"][prefix].connection_pool
        return [
            sentinel.connection_pool for sentinel in pool.sentinel_manager.sentinels
        ]

    assert issubclass(sentinels_of("A")[0].connection_class, redis.SSLConnection)
    assert sentinels_of("A")[0].connection_kwargs["ssl_ca_certs"] == CA
    assert not issubclass(sentinels_of("B")[0].connection_class, redis.SSLConnection)
    assert sentinels_of("B")[0].connection_kwargs["socket_timeout"] == 0.5
    provider = sentinels_of("C")[0].connection_kwargs["credential_provider"]
    assert provider.get_credentials() == ("default", "provided")
    assert [
        (pool.connection_kwargs["host"], pool.connection_kwargs["port"])
        for pool in sentinels_of("C")
    ] == [("h", 1), ("::1", 2), ("i", 26379)]
    spec = app.extensions["redis"].get_spec("A")
    assert spec.engine.scheme_name(spec) == "rediss+sentinel"
    assert spec.engine.describe_address(spec) == "m at h:26379"


@pytest.mark.parametrize(
    "wrong",
    [
        {"SSL_CA_CERTS": "{other_ca}"},
        {"SSL_CA_CERTS": "{ca}", "SSL_CERTFILE": "", "SSL_KEYFILE": ""},
    ],
)
def test_refused_certificate_at_once(
    mtls_server: Server, certificates: Certificates, wrong: dict[str, str]
) -> None:
    """If client or server rejects a certificate, this is not an outage, and the client
    does not retry.
    """
    config = {
        "URL": mtls_server.url,
        "SSL_CA_CERTS": "{ca}",
        "SSL_CERTFILE": "{client_cert}",
        "SSL_KEYFILE": "{client_key}",
    }
    values = {k: v.format_map(vars(certificates)) for k, v in config.items()}
    assert client_of(**values).ping()
    values |= {k: v.format_map(vars(certificates)) for k, v in wrong.items()}
    client = client_of(**values)
    deadline = deadline_of(client)

    with pytest.raises(redis.ConnectionError):
        client.ping()

    # Retries would use up the deadline and mark the prefix down. On a busy machine, a
    # client without a certificate may see a lost connection, which is an outage.
    assert not deadline.down or "SSL_CERTFILE" in wrong


def test_valkey_class(server: Server) -> None:
    """valkey-py's class works with its own pools and errors."""
    app, manager = manage(
        URL=f"valkey://{server.address}/4",
        CLASS="valkey.Valkey",
        CONNECTION_POOL_CLASS="valkey.BlockingConnectionPool",
        MAX_CONNECTIONS=3,
    )

    async def use() -> None:
        async with manager.get_async() as client:
            assert await client.get("k") == b"v"

    with app.app_context():
        assert isinstance(current_redis, valkey.Valkey)
        assert current_redis.set("k", "v")
        assert current_redis.pipeline().get("k").execute() == [b"v"]
        asyncio.run(use())
        pool = current_redis.connection_pool
        assert isinstance(pool, valkey.BlockingConnectionPool)

    with pytest.raises(ConfigError, match="a class derived from valkey.ConnectionPool"):
        client_of(
            CLASS=valkey.Valkey, HOST="h", CONNECTION_POOL_CLASS=redis.ConnectionPool
        )

    pool = valkey.ConnectionPool(port=server.port)
    assert client_of(CLASS="valkey.Valkey", CONNECTION_POOL=pool).ping()

    with pytest.raises(ConfigError, match="must be a pool of the same library as re"):
        client_of(CONNECTION_POOL=pool)


def test_what_valkey_lacks() -> None:
    """An argument of redis-py that valkey-py's class does not take is an error."""
    lacking = set(parameters(redis.Redis)) - set(parameters(valkey.Valkey))

    for name in lacking:
        with pytest.raises(ConfigError) as info:
            client_of(HOST="h", CLASS="valkey.Valkey", **{name.upper(): 1})

        assert str(info.value) == (
            f"'REDIS_{name.upper()}' needs a client class that takes {name!r}, and"
            " valkey.Valkey does not."
        )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"URL": "redis://h", "CLASS": "tests.objects.MyRedis"},
            "has no asynchronous c",
        ),
        (
            {"CONNECTION_POOL": redis.ConnectionPool()},
            "'REDIS_CONNECTION_POOL' cannot be used with get_async",
        ),
    ],
)
def test_no_async_twin(config: dict[str, t.Any], message: str) -> None:
    """Settings that asyncio cannot use are an error in get_async."""
    app, manager = manage(**config)

    async def use() -> None:
        async with manager.get_async():
            raise AssertionError("It was opened.")

    with app.app_context(), pytest.raises(ConfigError, match=message):
        asyncio.run(use())


def test_async_needs_a_context(app: Flask) -> None:
    """get_async needs an application context."""
    app.config["REDIS_URL"] = "redis://h"

    with pytest.raises(RuntimeError, match="application context"):
        RedisManager(app).get_async()


def test_async_leaves_no_connection(server: Server) -> None:
    """Each block closes its connections, also with redis-py's own retry object."""
    retry = redis.retry.Retry(redis.backoff.NoBackoff(), 1)
    app, manager = manage(
        URL=server.url, CREDENTIAL_PROVIDER="tests.objects.Nobody", RETRY=retry
    )
    before = server.count_clients()

    async def use() -> None:
        async with manager.get_async() as client:
            await asyncio.gather(*(client.incr("k") for _ in range(10)))

    with app.app_context():
        for _ in range(5):
            asyncio.run(use())

        assert current_redis.get("k") == b"50"

    assert server.count_clients() <= before + 1


async def asked(reply: t.Any) -> t.Any:
    """The reply of a client of either kind."""
    return await reply if inspect.isawaitable(reply) else reply


@contextlib.asynccontextmanager
async def opened(manager: RedisManager, is_async: bool) -> cabc.AsyncIterator[t.Any]:
    """The client of either kind."""
    if is_async:
        async with manager.get_async() as client:
            yield client
    else:
        yield manager.get()


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("query", ["", "?role=replica"])
def test_refused_while_handling_an_error(
    start: Starter, cutter: Cutter, query: str, is_async: bool
) -> None:
    """What the caller is handling is not taken for the error of a sentinel. One closes
    its connections, and the next one refuses the password.
    """
    cutter.lose(b"", times=100)
    lost = cutter.url.removeprefix("redis://")
    locked = start(Server, password="right").address
    kwargs = {"password": "wrong", "socket_timeout": 20, "socket_connect_timeout": 20}
    app, manager = manage(
        URL=f"redis+sentinel://{lost},{locked}/mymaster{query}", SENTINEL_KWARGS=kwargs
    )

    earlier = redis.TimeoutError("of an earlier command")
    earlier.__cause__ = TimeoutError("of a socket")

    async def use(handled: Exception) -> None:
        async with opened(manager, is_async) as client:
            try:
                raise handled
            except (OSError, redis.TimeoutError):
                with pytest.raises(redis.ConnectionError) as info:
                    await asked(client.get("k"))

            assert isinstance(info.value.__cause__, redis.AuthenticationError)
            assert not deadline_of(client).down

    with app.app_context():
        for handled in (OSError(), ssl.SSLCertVerificationError("expired"), earlier):
            asyncio.run(use(handled))


@pytest.mark.parametrize("is_async", [False, True])
def test_first_refusal(server: Server, scripted: Scripted, is_async: bool) -> None:
    """If no server is a sentinel, all are asked, and the first one's error is raised. A
    question of the application itself gets the server's own error afterwards, too.
    """
    scripted.plan(b"SENTINEL", b"-ERR other\r\n")
    other = scripted.url.removeprefix("redis://")
    app, manager = manage(URL=f"redis+sentinel://{server.address},{other}/mymaster")

    async def use() -> None:
        async with opened(manager, is_async) as client:
            with pytest.raises(redis.ResponseError, match="unknown command"):
                await asked(client.get("k"))

            assert b"SENTINEL" in scripted.names()
            sentinel = client.connection_pool.sentinel_manager.sentinels[0]

            with pytest.raises(redis.ResponseError, match="unknown command"):
                await asked(sentinel.sentinel_masters())

    with app.app_context():
        asyncio.run(use())


def connection_errors() -> list[redis.ConnectionError]:
    """Those that exist."""
    return [
        each
        for each in gc.get_objects()
        if issubclass(type(each), redis.ConnectionError)
    ]


@pytest.mark.parametrize("is_async", [False, True])
def test_errors_of_sentinels_are_freed(
    shared_sentinels: Sentinels, is_async: bool
) -> None:
    """They are not kept until the garbage is collected."""
    addresses = f"127.0.0.1:{reserve()},{shared_sentinels.address}"
    app, manager = manage(URL=f"redis+sentinel://{addresses}/mymaster")

    async def use() -> None:
        async with opened(manager, is_async) as client:
            gc.collect()
            # Other tests may have left some that are in use.
            before = connection_errors()
            gc.disable()

            try:
                assert await asked(client.exists("k")) == 0
                assert all(
                    any(error is each for each in before)
                    for error in connection_errors()
                )
            finally:
                gc.enable()

    with app.app_context():
        asyncio.run(use())


@pytest.mark.parametrize("query", ["", "?role=replica"])
def test_refused_by_sentinels(
    start: Starter, certificates: Certificates, query: str
) -> None:
    """If a certificate or a password of the sentinels is refused, the error is raised
    immediately, with its cause.
    """
    sentinels = start(Sentinels, certificates=certificates, sentinel_password="right")
    url = f"rediss+sentinel://{sentinels.address}/mymaster{query}"
    # The long timeouts are for slow machines.
    timeouts = {"socket_timeout": 20, "socket_connect_timeout": 20}
    passwords = {"password": "right", "protocol": 2, **timeouts}
    ca = str(certificates.ca)
    app, manager = manage(
        URL=url, SSL_CA_CERTS=ca, SENTINEL_KWARGS=passwords, RETRY_DEADLINE=20
    )

    async def use_right() -> None:
        async with manager.get_async() as client:
            assert not await client.exists("k")

    with app.app_context():
        assert not current_redis.exists("k")
        asyncio.run(use_right())

    refusals: list[dict[str, t.Any]] = [
        {"SSL_CA_CERTS": str(certificates.other_ca), "SENTINEL_KWARGS": passwords},
        {"SSL_CA_CERTS": ca, "SENTINEL_KWARGS": {**passwords, "password": "wrong"}},
    ]

    def check(error: BaseException, deadline: t.Any) -> None:
        assert error.__cause__ is not None
        assert not deadline.down
        note = getattr(error, "__notes__", [""])[0]
        assert " 1 attempt" in note or not hasattr(error, "add_note")

        if isinstance(error.__cause__, redis.AuthenticationError):
            assert "'REDIS_SENTINEL_KWARGS'" in note or not note
        else:
            assert isinstance(error.__cause__.__context__, ssl.SSLError)

    for config in refusals:
        app, manager = manage(URL=url, **config)
        client: t.Any = app.extensions["redis"]["REDIS"]

        with pytest.raises(redis.ConnectionError) as info:
            client.get("k")

        check(info.value, deadline_of(client))

        async def use(manager: RedisManager = manager) -> None:
            async with manager.get_async() as client:
                with pytest.raises(redis.ConnectionError) as info:
                    await client.get("k")

                check(info.value, deadline_of(client))

            # asyncio closes the socket of a refused handshake a moment later.
            await asyncio.sleep(0.2)

        with app.app_context():
            asyncio.run(use())
