from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import types
import typing as t
from concurrent.futures import ThreadPoolExecutor

import fakeredis
import pytest
import redis
from ephemeral_port_reserve import reserve
from flask import current_app
from flask import Flask
from flask import jsonify

from flask_and_redis import ConfigError
from flask_and_redis import PingResult
from flask_and_redis import PoolStats
from flask_and_redis import Redis
from flask_and_redis import RedisManager
from flask_and_redis import UnknownPrefixError

from . import objects
from .conftest import Starter
from .servers import Certificates
from .servers import Cluster
from .servers import Sentinels
from .servers import Server
from .servers import wait_until

SECRET = "s3cr3t-n0-l34k"


@contextlib.contextmanager
def silent_server(reply: bytes = b"") -> t.Iterator[str]:
    """Run a server that accepts connections, and sends one reply or nothing. Yield its
    address.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = listener.accept()[0]
                    accepted.append(connection)
                    connection.sendall(reply)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        # Wakes accept().
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)

        for connection in accepted:
            connection.close()


def make_manager(app: Flask, **config: t.Any) -> RedisManager:
    app.config.update(config)
    return RedisManager(app)


def ping_one(app: Flask, **config: t.Any) -> PingResult:
    """Return the ping result of the only prefix in these settings."""
    manager = make_manager(app, **config)

    with app.app_context():
        (result,) = manager.ping(timeout=5).values()

    return result


def test_ping_answers(app: Flask, server: Server, tls_server: Server) -> None:
    """Servers that answer are reported as ok, with the time it took. A ping does not
    use the connections of a pool.
    """
    manager = make_manager(
        app,
        REDIS_URL=f"{server.url}/3",
        SOCKET_URL=f"unix://{server.socket}",
        FAKE_URL="fakeredis://",
        VALKEY_HOST="127.0.0.1",
        VALKEY_PORT=server.port,
        VALKEY_CLASS="valkey.Valkey",
        BLOCKING_URL=server.url,
        BLOCKING_CONNECTION_POOL_CLASS="redis.BlockingConnectionPool",
        BLOCKING_TIMEOUT=9,
        CACHED_URL=tls_server.url,
        CACHED_SSL_CA_CERTS=str(t.cast(Certificates, tls_server.certificates).ca),
        RETRY_URL=server.url,
        RETRY_RETRY=redis.retry.Retry(redis.backoff.NoBackoff(), 1),
        OWN_POOL_CONNECTION_POOL=redis.ConnectionPool(port=server.port),
        OWN_CONNECTION_POOL=redis.BlockingConnectionPool.from_url(
            f"unix://{server.socket}"
        ),
    )

    with app.app_context():
        results = manager.ping(timeout=10)
        assert not any(stats.created for stats in manager.stats().values())

    assert list(results) == list(app.extensions["redis"])
    assert len(results) == 9

    for result in results.values():
        assert result.ok and result.error is None
        assert result.ms is not None and 0 < result.ms < 10_000

    wait_until(lambda: not server.count_clients(), "no connection is left")
    assert not app.config["OWN_POOL_CONNECTION_POOL"]._available_connections


def test_ping_is_json(app: Flask) -> None:
    """Ping results and pool statistics can be passed to jsonify."""
    manager = make_manager(app, REDIS_URL="fakeredis://")

    with app.app_context():
        (result,) = json.loads(jsonify(manager.ping()).data).values()
        (figures,) = json.loads(jsonify(manager.stats()).data).values()

    assert result == {
        "ok": True,
        "ms": result["ms"],
        "error": None,
        "required": True,
    }
    assert figures == {
        "created": False,
        "connections": 0,
        "in_use": 0,
        "idle": 0,
        "maximum": None,
        "down": False,
    }


def test_ping_never_waits_longer(
    app: Flask, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All pings together take no longer than the timeout. This holds for servers that
    are paused, silent or down, and for names that do not resolve.
    """
    stopped = start(Server)
    stopped.pause()
    resolve, proceed = socket.getaddrinfo, threading.Event()

    def hang(host: str, *args: t.Any, **kwargs: t.Any) -> t.Any:
        if host == "unresolvable.example":
            proceed.wait(30)
            raise socket.gaierror("no such host")

        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", hang)

    with silent_server() as silent:
        manager = make_manager(
            app,
            STOPPED_URL=stopped.url,
            SOCKET_URL=f"unix://{stopped.socket}",
            SILENT_URL=f"redis://{silent}",
            TLS_URL=f"rediss://{silent}",
            DOWN_URL=f"redis://127.0.0.1:{reserve()}",
            NAME_URL="redis://unresolvable.example",
            CLUSTER_URL=f"redis+cluster://{stopped.address},{silent}",
            SENTINEL_URL=f"redis+sentinel://{stopped.address},{silent}/mymaster",
            FINE_URL="fakeredis://",
        )

        with app.app_context():
            started = time.monotonic()
            results = manager.ping(timeout=2)
            took = time.monotonic() - started

    proceed.set()
    # One ping after another would take 16 s.
    assert took < 8
    assert [prefix for prefix, result in results.items() if result.ok] == ["FINE"]
    down = results.pop("DOWN")
    assert down.ms is None and down.error is not None
    assert "refused" in down.error
    results.pop("FINE")
    silence = "No answer within 2 s."
    assert {result.error for result in results.values()} == {silence}


def test_ping_of_one_node_is_enough(
    app: Flask, cluster: Cluster, sentinels: Sentinels
) -> None:
    """A ping is ok if one start-up node or one sentinel answers."""
    with silent_server() as silent:
        manager = make_manager(
            app,
            CLUSTER_URL=f"redis+cluster://{silent},{silent},{cluster.address}",
            BY_CLASS_URL=cluster.nodes[1].url,
            BY_CLASS_CLASS="redis.RedisCluster",
            NODES_URL=f"redis+cluster://127.0.0.1:{reserve()},{cluster.address}",
            MASTER_URL=f"redis+sentinel://{silent},{sentinels.address}/mymaster",
            REPLICA_URL=f"redis+sentinel://{sentinels.address}/mymaster?role=replica",
            OTHER_URL=f"redis+sentinel://{sentinels.address}/other",
        )

        with app.app_context():
            results = manager.ping(timeout=5)

    other = results.pop("OTHER")
    assert all(result.ok for result in results.values()), results
    assert other.error is not None and "'other'" in other.error


def test_ping_of_a_broken_cluster(app: Flask, fresh_cluster: Cluster) -> None:
    """A cluster is not ok while it reports that some slots are not served."""
    manager = make_manager(app, REDIS_URL=f"redis+cluster://{fresh_cluster.address}")

    with app.app_context():
        assert manager.ping(timeout=5)["REDIS"].ok

        for node in (fresh_cluster.nodes[0], fresh_cluster.nodes[3]):
            node.kill()

        def is_reported() -> bool:
            result = manager.ping(timeout=5)["REDIS"]
            return result.error is not None and "of 16384 slots" in result.error

        wait_until(is_reported, "the cluster says that slots are missing", timeout=20)


def test_ping_says_nothing_secret(app: Flask, start: Starter) -> None:
    """A refused login is reported in one line, without user name and password."""
    server = start(Server, password=SECRET)
    reply = f"-ERR unknown command 'AUTH', with args beginning with: '{SECRET}'\r\n"
    weird = b"-ERR \x1b[31mred\tand " + SECRET.encode() + b"\r\n"

    class Provider(redis.CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            raise RuntimeError(f"{SECRET} of {current_app.name}")

    with silent_server(reply.encode()) as old, silent_server(weird) as red:
        manager = make_manager(
            app,
            REDIS_URL=f"redis://{SECRET}:wrong{SECRET}@{server.address}",
            NONE_URL=server.url,
            OLD_URL=f"redis://:{SECRET}@{old}",
            RED_URL=f"redis://:{SECRET}@{red}",
            PROVIDER_URL=server.url,
            PROVIDER_CREDENTIAL_PROVIDER=Provider(),
            RIGHT_URL=f"redis://:{SECRET}@{server.address}",
        )

        with app.app_context():
            results = manager.ping(timeout=10)

    assert SECRET not in repr(results)
    assert results.pop("RIGHT").ok
    errors = {prefix: result.error or "" for prefix, result in results.items()}
    assert all(error and error.isprintable() for error in errors.values())
    assert errors["REDIS"] == (
        "The server refuses the login (invalid username-password pair or user is"
        " disabled): check the password in 'REDIS_URL'."
    )
    assert errors["NONE"] == "The server asks for a password: set 'NONE_PASSWORD'."
    assert "unknown command 'AUTH'" in errors["OLD"]
    assert "red and ***" in errors["RED"]
    assert errors["PROVIDER"] == "RuntimeError"


def test_provider_sees_the_app(app: Flask, start: Starter) -> None:
    """During a ping, a credential provider can read the current app's settings."""
    server = start(Server, password=SECRET)

    class Provider(redis.CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            return ("default", current_app.config["VAULT"])

    assert ping_one(
        app,
        VAULT=SECRET,
        REDIS_URL=server.url,
        REDIS_CREDENTIAL_PROVIDER=Provider,
    ).ok


def test_ping_covers_every_prefix(app: Flask, server: Server) -> None:
    """Without arguments, prefixes that were found by their HOST alone are pinged too. A
    dead one is not left out.
    """
    manager = make_manager(
        app,
        REDIS_URL=server.url,
        GUESS_HOST="127.0.0.1",
        GUESS_PORT=server.port,
        DEAD_HOST="127.0.0.1",
        DEAD_PORT=reserve(),
    )
    Redis(app, "CLAIMED", host="127.0.0.1", port=server.port)

    with app.app_context():
        results = manager.ping(timeout=10)
        assert list(results) == ["REDIS", "GUESS", "DEAD", "CLAIMED"]
        assert [prefix for prefix in results if not results[prefix].ok] == ["DEAD"]
        assert manager.ping("GUESS", "REDIS", "GUESS").keys() == {"GUESS", "REDIS"}


@pytest.mark.parametrize(
    ("optional", "required"), [(True, False), ("true", False), ("0", True)]
)
def test_optional_prefix(app: Flask, optional: object, required: bool) -> None:
    """The result of an optional prefix says that it is not required."""
    config = {"CACHE_HOST": "127.0.0.1", "CACHE_PORT": reserve()}
    result = ping_one(app, **config, CACHE_OPTIONAL=optional)
    assert (result.ok, result.required) == (False, required)


def test_optional_is_no_argument(app: Flask, server: Server) -> None:
    """OPTIONAL works in a URL and as an option, and does not reach the client."""
    app.config.update(REDIS_URL=f"{server.url}?optional=true", X_URL=server.url)
    manager = RedisManager(app, optional=True)

    with app.app_context():
        assert not any(result.required for result in manager.ping().values())
        assert manager.get().set("k", "v")


def test_ping_of_wrong_prefixes(app: Flask) -> None:
    """Wrong settings are reported in the result. An unknown prefix raises an error."""
    manager = make_manager(app, REDIS_URL="fakeredis://", BROKER_URL="redis://h/x")

    with app.app_context():
        assert list(manager.ping()) == ["REDIS"]
        result = manager.ping("BROKER")["BROKER"]
        assert (result.error or "").startswith("'BROKER_URL' must end in")
        assert result.required

        with pytest.raises(UnknownPrefixError, match="'NONE'; it has: 'REDIS'"):
            manager.ping("REDIS", "NONE")


def test_ping_of_requested_wrong_prefixes(app: Flask) -> None:
    """A health check fails if settings are wrong that the application needs, also if
    it requests them only after init_app.
    """
    manager = make_manager(app, BROKER_URL="redis://h/x", OTHER_URL="redis://h/x")
    assert app.test_cli_runner().invoke(args=["redis", "ping"]).exit_code == 1
    broker = manager.get("BROKER")

    with app.app_context():
        with pytest.raises(ConfigError):
            broker.get("k")

        assert list(manager.ping()) == ["BROKER"]
        result = manager.ping()["BROKER"]

    assert not result.ok
    assert (result.error or "").startswith("'BROKER_URL' must end in")
    done = app.test_cli_runner().invoke(args=["redis", "ping"])
    assert done.exit_code == 1
    assert "'BROKER_URL' must end in" in done.output


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_wrong_timeout(app: Flask, timeout: float) -> None:
    """A timeout must be a number of seconds."""
    manager = make_manager(app, REDIS_URL="fakeredis://")

    with app.app_context(), pytest.raises(ValueError, match="seconds above 0"):
        manager.ping(timeout=timeout)


def test_timeout_by_default(app: Flask) -> None:
    """A ping waits for a second."""
    with silent_server() as address:
        manager = make_manager(app, REDIS_URL=f"redis://{address}")

        with app.app_context():
            assert manager.ping()["REDIS"].error == "No answer within 1 s."


def test_hung_ping_delays_no_exit(start: Starter) -> None:
    """A process can exit immediately, even if a ping hangs."""
    code = """
import socket, sys, time
from flask import Flask
from flask_and_redis import RedisManager
socket.getaddrinfo = lambda *args: time.sleep(60)
app = Flask("x")
app.config["REDIS_URL"] = "redis://h"
manager = RedisManager(app)
with app.app_context():
    print(manager.ping(timeout=0.1)["REDIS"].error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "No answer within 0.1 s.\n"


def test_healthz(app: Flask, start: Starter) -> None:
    """A health view answers within its timeout while a server hangs."""
    server = start(Server)
    manager = make_manager(app, REDIS_URL=server.url)

    @app.get("/healthz")
    def healthz() -> tuple[t.Any, int]:
        pings = manager.ping(timeout=0.5)
        return jsonify(pings), 200 if all(ping.ok for ping in pings.values()) else 503

    client = app.test_client()
    assert client.get("/healthz").status_code == 200
    server.pause()
    started = time.monotonic()
    response = client.get("/healthz")
    # A command would take 10 s.
    assert time.monotonic() - started < 2.5
    assert response.status_code == 503
    assert response.json == {
        "REDIS": {
            "ok": False,
            "ms": None,
            "error": "No answer within 0.5 s.",
            "required": True,
        }
    }
    server.resume()
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "pool_class", [None, "redis.BlockingConnectionPool", "redis.ConnectionPool"]
)
def test_stats(
    app: Flask,
    start: Starter,
    pool_class: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The statistics of a pool match its connections, before, during and after use."""
    # A new server, because other tests may still be connected to a shared one.
    server = start(Server)
    manager = make_manager(
        app,
        REDIS_URL=server.url,
        REDIS_MAX_CONNECTIONS=7,
        REDIS_CONNECTION_POOL_CLASS=pool_class,
    )

    with app.app_context():
        assert manager.stats() == {"REDIS": PoolStats(False, 0, 0, 0, None, False)}
        pool = manager.get().connection.connection_pool
        assert manager.stats() == {"REDIS": PoolStats(True, 0, 0, 0, 7, False)}
        held = [pool.get_connection() for _ in range(3)]
        assert manager.stats() == {"REDIS": PoolStats(True, 3, 3, 0, 7, False)}
        pool.release(held.pop())
        assert manager.stats() == {"REDIS": PoolStats(True, 3, 2, 1, 7, False)}

        with monkeypatch.context() as patch:
            # As in a forked child: the connections belong to the parent.
            patch.setattr(os, "getpid", lambda: pool.pid + 1)
            assert manager.stats() == {"REDIS": PoolStats(True, 0, 0, 0, 7, False)}

        pool.release(held.pop())
        pool.release(held.pop())
        assert manager.stats() == {"REDIS": PoolStats(True, 3, 0, 3, 7, False)}
        wait_until(lambda: server.count_clients() == 3, "nobody else is connected")
        manager.close()
        assert manager.stats() == {"REDIS": PoolStats(False, 0, 0, 0, None, False)}
        pool.disconnect()
        assert manager.get().set("k", "v")
        assert manager.stats() == {"REDIS": PoolStats(True, 1, 0, 1, 7, False)}


def test_stats_of_engines(app: Flask, cluster: Cluster, sentinels: Sentinels) -> None:
    """The statistics of a cluster include all its nodes. Behind Sentinel, they are
    those of the server's pool.
    """
    manager = make_manager(
        app,
        CLUSTER_URL=f"redis+cluster://{cluster.address}?max_connections=5",
        SENTINEL_URL=f"redis+sentinel://{sentinels.address}/mymaster",
        SENTINEL_MAX_CONNECTIONS=4,
    )

    with app.app_context():
        assert {stats.created for stats in manager.stats().values()} == {False}

        for key in ("a", "b", "c", "d", "e", "f"):
            manager.get("CLUSTER").set(key, 1)

        manager.get("SENTINEL").set("k", 1)
        figures = manager.stats()

    of_cluster = figures["CLUSTER"]
    assert of_cluster.maximum == 30
    # One connection for each of three masters.
    assert of_cluster.idle is not None and of_cluster.idle >= 3
    assert of_cluster.connections == of_cluster.idle
    assert figures["SENTINEL"] == PoolStats(True, 1, 0, 1, 4, False)


class Untold(redis.Redis):
    """A client whose pool has no statistics."""

    def __init__(self, **kwargs: t.Any) -> None:
        super().__init__(**kwargs)
        pool = types.SimpleNamespace(connection_kwargs={}, disconnect=print)
        self.connection_pool = t.cast(t.Any, pool)


class Poolless:
    """A client without a pool."""

    def __init__(self, host: str = "h") -> None:
        self.host = host

    def execute_command(self, *args: t.Any) -> str:
        return "PONG"


def test_stats_of_an_override(app: Flask) -> None:
    """The client of an override may be of another kind than the prefix's own."""
    manager = make_manager(app, REDIS_URL="redis+cluster://h", X_URL="redis://h")
    client = redis.Redis(max_connections=3)

    with app.app_context(), manager.override("REDIS", client):
        with manager.override("X", object()):
            assert manager.stats() == {
                "REDIS": PoolStats(True, 0, 0, 0, 3, False),
                "X": PoolStats(True, None, None, None, None, False),
            }


@pytest.mark.parametrize(
    ("limits", "figures"),
    [
        ((3, 4), (0, 0, 0, 7)),
        ((3, 2**31), (0, 0, 0, None)),
        ((3, None), (None, None, None, None)),
    ],
)
def test_stats_of_several_pools(
    app: Flask,
    monkeypatch: pytest.MonkeyPatch,
    limits: tuple[int | None, ...],
    figures: tuple[int | None, int | None, int | None, int | None],
) -> None:
    """If one of several pools has no limit or no statistics, all together have none."""
    manager = make_manager(app, REDIS_URL="fakeredis://")
    engine = app.extensions["redis"].get_spec("REDIS").engine
    pools = [
        redis.ConnectionPool(max_connections=limit) if limit else object()
        for limit in limits
    ]

    with app.app_context():
        assert manager.get().connection
        monkeypatch.setattr(engine, "pools", lambda client: pools)
        assert manager.stats()["REDIS"] == PoolStats(True, *figures, False)


def test_stats_of_other_pools(app: Flask, server: Server) -> None:
    """A pool without a limit has no maximum. If a pool has no statistics, they are
    None.
    """
    manager = make_manager(
        app,
        REDIS_HOST="h",
        REDIS_CLASS=Untold,
        REDIS2_HOST="h",
        REDIS2_CLASS=Poolless,
        VALKEY_HOST="127.0.0.1",
        VALKEY_PORT=server.port,
        VALKEY_CLASS="valkey.Valkey",
    )

    with app.app_context():
        unknown = PoolStats(True, None, None, None, None, False)
        assert manager.get("REDIS").connection
        assert manager.get("REDIS2").connection
        manager.get("VALKEY").set("k", "v")
        assert manager.stats() == {
            "REDIS": unknown,
            "REDIS2": unknown,
            "VALKEY": PoolStats(True, 1, 0, 1, None, False),
        }
        assert manager.ping("REDIS2")["REDIS2"].ok
        manager.close()
        assert manager.get("VALKEY").get("k") == b"v"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system cannot fork.")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_fork(app: Flask, server: Server, cluster: Cluster) -> None:
    """A forked child does not count its parent's connections. close() in the child does
    not close them.
    """
    manager = make_manager(
        app,
        REDIS_URL=server.url,
        CLUSTER_URL=f"redis+cluster://{cluster.address}",
        BLOCKING_URL=server.url,
        BLOCKING_CONNECTION_POOL_CLASS="redis.BlockingConnectionPool",
    )

    with app.app_context():
        manager.get().set("k", "v")
        manager.get("CLUSTER").set("k", "v")
        blocking = manager.get("BLOCKING").client_id()
        before = manager.get().client_id()
        pid = os.fork()

        if not pid:
            status = 1

            try:
                assert manager.stats()["REDIS"].connections == 0
                assert manager.stats()["CLUSTER"].connections == 0
                manager.close()
                assert manager.get().client_id() != before
                assert manager.get("BLOCKING").client_id() != blocking
                assert manager.get("CLUSTER").get("k") == b"v"
                status = 0
            finally:
                os._exit(status)

        assert os.waitpid(pid, 0)[1] == 0
        assert manager.stats()["REDIS"].connections == 1
        assert manager.get().client_id() == before
        assert manager.get("BLOCKING").client_id() == blocking


def test_close(app: Flask, start: Starter, cluster: Cluster) -> None:
    """close() closes idle connections, and the next command connects again. Connections
    in use and clients taken before still work, and fake servers keep their data.
    """
    server = start(Server)
    pool = redis.ConnectionPool(port=server.port)
    manager = make_manager(
        app,
        REDIS_URL=server.url,
        CLUSTER_URL=f"redis+cluster://{cluster.address}",
        FAKE_URL="fakeredis://",
        UNUSED_URL=server.url,
        OWN_CONNECTION_POOL=pool,
    )
    other = Flask("other")
    other.config["REDIS_URL"] = server.url
    manager.init_app(other)

    with other.app_context():
        manager.get().ping()

    with app.app_context():
        taken = manager.get().connection

        for prefix in ("OWN", "REDIS", "CLUSTER", "FAKE"):
            manager.get(prefix).set("k", "v")

        with t.cast(t.Any, taken).pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe("c")
            pubsub.get_message(timeout=5)
            taken.get("k")
            wait_until(lambda: server.count_clients() == 4, "nobody else is connected")
            manager.close()
            # Left are the other app's, the application's own pool's and the one in use.
            wait_until(lambda: server.count_clients() == 3, "the pool is closed")
            created = [
                prefix for prefix, stats in manager.stats().items() if stats.created
            ]
            assert created == ["OWN"]

            for prefix in ("REDIS", "CLUSTER", "FAKE", "OWN"):
                assert manager.get(prefix).get("k") == b"v"

            assert manager.get().connection is not taken
            taken.publish("c", "news")
            assert pubsub.get_message(timeout=5)["data"] == b"news"

        manager.close()

    pool.disconnect()


def test_close_twice_at_once(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads can close an app at the same time. Each client is closed once."""
    urls = {"REDIS_URL": "fakeredis:///0", "OTHER_URL": "fakeredis:///1"}
    manager = make_manager(app, **urls)

    def close() -> None:
        with app.app_context():
            manager.close()

    with app.app_context(), ThreadPoolExecutor() as threads:
        for prefix in ("REDIS", "OTHER"):
            pool: t.Any = manager.get(prefix).connection.connection_pool
            # While the first close() runs, another one runs from start to end.
            monkeypatch.setattr(
                pool, "disconnect", lambda *_: threads.submit(close).result(timeout=5)
            )

        manager.close()
        assert not any(stats.created for stats in manager.stats().values())


def test_close_after_a_fork(
    app: Flask, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a fork, closing a blocking pool does not touch the parent's connections."""
    server = start(Server)
    manager = make_manager(
        app,
        REDIS_URL=server.url,
        REDIS_CONNECTION_POOL_CLASS="redis.BlockingConnectionPool",
    )

    with app.app_context():
        client = manager.get().connection
        own = client.client_id()

        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: client.connection_pool.pid + 1)
            manager.close()

        assert client.client_id() == own


def test_close_behind_sentinels(app: Flask, sentinels: Sentinels) -> None:
    """close() also closes the connections to the sentinels."""
    url = f"redis+sentinel://{sentinels.address}/mymaster"
    manager = make_manager(app, REDIS_URL=url)
    before = [node.count_clients() for node in sentinels.sentinels]

    with app.app_context():
        # Its pools are not closed because nothing refers to them.
        taken = manager.get().connection
        taken.set("k", "v")
        after = [node.count_clients() for node in sentinels.sentinels]
        assert sum(after) > sum(before)
        manager.close()

        def is_closed() -> bool:
            return [node.count_clients() for node in sentinels.sentinels] <= before

        wait_until(is_closed, "the sentinels' connections are closed")
        assert manager.get().get("k") == taken.get("k") == b"v"


@pytest.mark.parametrize("pool_class", [None, "redis.BlockingConnectionPool"])
def test_close_while_in_use(app: Flask, server: Server, pool_class: str | None) -> None:
    """close() does not interrupt commands of other threads, so they need no retry."""
    manager = make_manager(
        app,
        REDIS_URL=server.url,
        REDIS_RETRY_DEADLINE=0,
        REDIS_CONNECTION_POOL_CLASS=pool_class,
    )
    done = threading.Event()

    def work(number: int) -> int:
        count = 0

        with app.app_context():
            while not done.is_set():
                count += 1
                assert manager.get().incr(f"k{number}") == count

        return count

    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(work, number) for number in range(4)]

        try:
            with app.app_context():
                for _ in range(50):
                    time.sleep(0.01)
                    manager.close()
        finally:
            done.set()

        assert all(future.result(30) for future in futures)


@pytest.fixture
def overridable(app: Flask) -> RedisManager:
    return make_manager(app, REDIS_URL="fakeredis://", CACHE_URL="redis://nowhere:1")


def test_override(app: Flask, overridable: RedisManager) -> None:
    """In the block, every lookup of the prefix returns the override, in all threads of
    the app and in no other app. Afterwards, the previous client is back.
    """
    cache = overridable.get("CACHE")
    registry = app.extensions["redis"]
    other = Flask("other")
    other.config.update(CACHE_URL="fakeredis://")
    overridable.init_app(other)
    fake = fakeredis.FakeRedis()

    with app.app_context():
        overriding = overridable.override("CACHE", fake)

    with overriding as given:
        assert given is fake

        with app.app_context():
            assert cache.connection is fake
            assert registry["CACHE"] is fake
            assert isinstance(cache, fakeredis.FakeRedis)
            assert repr(cache) == "<flask_and_redis.Redis 'CACHE'>"
            assert overridable.ping("CACHE")["CACHE"].ok
            assert overridable.stats()["CACHE"].created
            assert overridable.get().set("k", "v")
            assert cache.get("k") is None
            assert overridable.get().connection is registry["REDIS"]

        with other.app_context():
            assert cache.connection is not fake

        def look_up() -> object:
            with app.app_context():
                return cache.connection

        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(look_up).result() is fake

    with app.app_context():
        assert cache.connection is not fake
        assert not isinstance(cache, fakeredis.FakeRedis)
        assert overridable.get().get("k") == b"v"

    # The override was not closed.
    assert fake.ping()


def test_nested_overrides(app: Flask, overridable: RedisManager) -> None:
    """Each block restores the previous client, even if the block raises an error."""
    cache = overridable.get("CACHE")
    first, second = fakeredis.FakeRedis(), fakeredis.FakeRedis()

    with app.app_context():
        own = cache.connection

        with overridable.override("CACHE", first):
            with pytest.raises(LookupError), overridable.override("CACHE", second):
                assert cache.connection is second
                raise LookupError

            assert cache.connection is first

            with overridable.override("REDIS", second):
                assert cache.connection is first
                assert overridable.get().connection is second

        assert cache.connection is own


def test_overrides_that_cross(app: Flask, overridable: RedisManager) -> None:
    """The blocks of two threads can end in any order. The end of one block does not
    remove the other's override.
    """
    cache = overridable.get("CACHE")
    first, second = fakeredis.FakeRedis(), fakeredis.FakeRedis()

    with app.app_context():
        own = cache.connection
        outer = overridable.override("CACHE", first)
        inner = overridable.override("CACHE", second)
        outer.__enter__()
        inner.__enter__()
        outer.__exit__(None, None, None)
        assert cache.connection is second
        inner.__exit__(None, None, None)
        assert cache.connection is own


def test_override_while_the_client_is_made(app: Flask) -> None:
    """If another thread finishes creating a client, the override stays in place."""
    started, proceed = threading.Event(), threading.Event()

    class Stuck(redis.Redis):
        def __init__(self, **kwargs: t.Any) -> None:
            started.set()
            assert proceed.wait(10)
            super().__init__(**kwargs)

    manager = make_manager(app, REDIS_HOST="h", REDIS_CLASS=Stuck)
    registry = app.extensions["redis"]

    with ThreadPoolExecutor(1) as threads, app.app_context():
        making = threads.submit(registry.__getitem__, "REDIS")
        assert started.wait(10)

        with manager.override("REDIS", fakeredis.FakeRedis()) as fake:
            proceed.set()
            own = making.result(10)
            assert registry["REDIS"] is fake
            assert manager.stats()["REDIS"].created

        assert registry["REDIS"] is own


def test_override_with_anything(app: Flask, overridable: RedisManager) -> None:
    """If the override is a proxy, even of the same prefix, its client is used. Any
    other object works as an override too. Closing the manager closes no override.
    """

    class Stub:
        closed = False

        def disconnect(self) -> None:
            self.closed = True

        def ping(self) -> None:
            raise LookupError("hidden")

    with app.app_context():
        own = overridable.get().connection

        with overridable.override("REDIS", overridable.get()) as client:
            assert client is own
            assert overridable.get().connection is own

        with overridable.override("REDIS", Stub()) as stub:
            assert isinstance(overridable.get(), Stub)
            assert overridable.ping("REDIS")["REDIS"].error == "LookupError"
            assert overridable.stats()["REDIS"].connections is None
            overridable.close()
            assert not stub.closed

        with overridable.override("REDIS", object()):
            assert overridable.ping("REDIS")["REDIS"].error == "AttributeError"

        with pytest.raises(UnknownPrefixError):
            overridable.override("NONE", Stub())


def test_override_of_a_wrong_prefix(app: Flask) -> None:
    """A test can override a prefix that has wrong settings."""
    manager = make_manager(app, REDIS_URL="fakeredis://", BROKER_URL="redis://h/x")

    with app.app_context(), manager.override("BROKER", fakeredis.FakeRedis()) as fake:
        assert manager.get("BROKER").connection is fake
        assert isinstance(manager.get("BROKER"), fakeredis.FakeRedis)
        assert manager.ping("BROKER")["BROKER"].ok


def test_handed_sentinel_pool(app: Flask, sentinels: Sentinels) -> None:
    """If the application created the pool for a server behind Sentinel, a ping finds
    the server without using that pool.
    """
    addresses = [("127.0.0.1", sentinel.port) for sentinel in sentinels.sentinels]
    client = t.cast(t.Any, redis.Sentinel)(addresses, socket_timeout=5)
    pool = client.master_for("mymaster").connection_pool
    assert ping_one(app, REDIS_CONNECTION_POOL=pool).ok
    assert not pool._available_connections


def test_custom_class(app: Flask, server: Server) -> None:
    """A ping works with the application's own client class and its arguments."""
    config = {"REDIS_URL": server.url, "REDIS_CLASS": objects.MyRedis, "REDIS_FOO": "y"}
    assert ping_one(app, **config).ok
