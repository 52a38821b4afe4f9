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

from flask_and_redis import PingResult
from flask_and_redis import PoolStats
from flask_and_redis import Redis
from flask_and_redis import RedisManager
from flask_and_redis import UnknownPrefixError
from flask_and_redis.health import ask

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
    """The address of a server that accepts, and says one thing or nothing at all."""
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
    """What a ping says of the one prefix in some settings."""
    manager = make_manager(app, **config)

    with app.app_context():
        (result,) = manager.ping(timeout=5).values()

    return result


def test_ping_answers(app: Flask, server: Server, tls_server: Server) -> None:
    """Servers that answer are ok, with the time it took, over no pool's connection."""
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
        found = manager.ping(timeout=10)
        assert not any(it.created for it in manager.stats().values())

    assert list(found) == list(app.extensions["redis"])
    assert len(found) == 9

    for result in found.values():
        assert result.ok and result.error is None
        assert result.ms is not None and 0 < result.ms < 10_000

    wait_until(lambda: not server.count_clients(), "no connection is left")
    assert not app.config["OWN_POOL_CONNECTION_POOL"]._available_connections


def test_ping_is_json(app: Flask) -> None:
    """Results and figures are what jsonify takes."""
    manager = make_manager(app, REDIS_URL="fakeredis://")

    with app.app_context():
        (result,) = json.loads(jsonify(manager.ping()).data).values()
        (figures,) = json.loads(jsonify(manager.stats()).data).values()

    assert result == {"ok": True, "ms": result["ms"], "error": None}
    assert figures == {
        "created": False,
        "connections": 0,
        "in_use": 0,
        "idle": 0,
        "maximum": None,
    }


def test_ping_never_waits_longer(
    app: Flask, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers that are stopped, silent or down, and names that are not resolved, take
    the timeout together.
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
            found = manager.ping(timeout=0.5)
            took = time.monotonic() - started

    proceed.set()
    # One after the other they would take 4 s.
    assert took < 2.5
    assert [prefix for prefix, it in found.items() if it.ok] == ["FINE"]
    down = found.pop("DOWN")
    assert down.ms is None and down.error is not None
    assert "refused" in down.error
    found.pop("FINE")
    silence = "No answer within 0.5 s."
    assert {it.error for it in found.values()} == {silence}


def test_ping_of_one_node_is_enough(
    app: Flask, cluster: Cluster, sentinels: Sentinels
) -> None:
    """One live start-up node, or one live sentinel, answers for the others."""
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
            found = manager.ping(timeout=5)

    other = found.pop("OTHER")
    assert all(it.ok for it in found.values()), found
    assert other.error is not None and "'other'" in other.error


def test_answers_are_not_waited_for() -> None:
    """When each name has an answer, what its other functions do is not waited for."""
    failed, hung = threading.Event(), threading.Event()

    def fail() -> str:
        time.sleep(0.1)
        failed.set()
        raise LookupError

    def answer() -> str:
        assert failed.wait(10)
        time.sleep(0.1)
        return "late"

    def hang() -> str:
        hung.wait(30)
        return "never"

    started = time.monotonic()
    found = ask({"a": [lambda: "soon", fail, hang], "b": [answer]}, 20)
    assert time.monotonic() - started < 10
    assert (found["a"].value, found["b"].value) == ("soon", "late")
    hung.set()


def test_ping_of_a_broken_cluster(app: Flask, fresh_cluster: Cluster) -> None:
    """A cluster is not ok while it says that some of its slots are not served."""
    manager = make_manager(app, REDIS_URL=f"redis+cluster://{fresh_cluster.address}")

    with app.app_context():
        assert manager.ping(timeout=5)["REDIS"].ok

        for node in (fresh_cluster.nodes[0], fresh_cluster.nodes[3]):
            node.kill()

        def is_told() -> bool:
            result = manager.ping(timeout=5)["REDIS"]
            return result.error is not None and "of 16384 slots" in result.error

        wait_until(is_told, "the cluster says that slots are missing", timeout=20)


def test_ping_says_nothing_secret(app: Flask, start: Starter) -> None:
    """Refused logins are told in one line, without user name and password."""
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
            found = manager.ping(timeout=10)

    assert SECRET not in repr(found)
    assert found.pop("RIGHT").ok
    errors = {prefix: it.error or "" for prefix, it in found.items()}
    assert all(it and it.isprintable() for it in errors.values())
    assert "invalid username-password" in errors["REDIS"]
    assert errors["NONE"] == "The server asks for a password: set 'NONE_PASSWORD'."
    assert "unknown command 'AUTH'" in errors["OLD"]
    assert "red and ***" in errors["RED"]
    assert errors["PROVIDER"] == "RuntimeError"


def test_provider_sees_the_app(app: Flask, start: Starter) -> None:
    """A credential provider can read the current app's settings in a ping."""
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


def test_ping_leaves_guesses_out(app: Flask, server: Server) -> None:
    """A prefix found by its HOST alone is asked only by name, as it may be another
    kind of server, which shall be sent no password.
    """
    address = {"HOST": "127.0.0.1", "PORT": server.port}
    manager = RedisManager()
    manager.get("ASKED")

    for prefix in ("REDIS", "GUESS", "CACHE", "ASKED", "CLAIMED"):
        app.config.update({f"{prefix}_{name}": it for name, it in address.items()})

    app.config["CACHE_URL"] = server.url
    manager.init_app(app)
    Redis(app, "CLAIMED")

    with app.app_context():
        assert list(manager.ping()) == ["REDIS", "CACHE", "ASKED", "CLAIMED"]
        assert manager.ping("GUESS", "REDIS", "GUESS").keys() == {"GUESS", "REDIS"}
        assert manager.ping("GUESS")["GUESS"].ok


def test_ping_of_wrong_prefixes(app: Flask) -> None:
    """Wrong settings are an error in the result, an unknown prefix one of the call."""
    manager = make_manager(app, REDIS_URL="fakeredis://", BROKER_URL="redis://h/x")

    with app.app_context():
        assert list(manager.ping()) == ["REDIS"]
        error = manager.ping("BROKER")["BROKER"].error
        assert error is not None and error.startswith("'BROKER_URL' must end in")

        with pytest.raises(UnknownPrefixError, match="'NONE'; it has: 'REDIS'"):
            manager.ping("REDIS", "NONE")


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_wrong_timeout(app: Flask, timeout: float) -> None:
    """A timeout must be a number of seconds."""
    manager = make_manager(app, REDIS_URL="fakeredis://")

    with app.app_context(), pytest.raises(ValueError, match="seconds above 0"):
        manager.ping(timeout=timeout)


def test_hung_ping_delays_no_exit(start: Starter) -> None:
    """A process ends at once, whatever hangs in a ping."""
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
    """A health view answers within its timeout while a server is stopped."""
    server = start(Server)
    manager = make_manager(app, REDIS_URL=server.url)

    @app.get("/healthz")
    def healthz() -> tuple[t.Any, int]:
        found = manager.ping(timeout=0.5)
        return jsonify(found), 200 if all(it.ok for it in found.values()) else 503

    client = app.test_client()
    assert client.get("/healthz").status_code == 200
    server.pause()
    started = time.monotonic()
    response = client.get("/healthz")
    # A command would take 10 s.
    assert time.monotonic() - started < 2.5
    assert response.status_code == 503
    assert response.json == {
        "REDIS": {"ok": False, "ms": None, "error": "No answer within 0.5 s."}
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
    """The figures of a pool are those of its connections, before use and after."""
    # Its own: what other tests left may still be connected to another.
    server = start(Server)
    manager = make_manager(
        app,
        REDIS_URL=server.url,
        REDIS_MAX_CONNECTIONS=7,
        REDIS_CONNECTION_POOL_CLASS=pool_class,
    )

    with app.app_context():
        assert manager.stats() == {"REDIS": PoolStats(False, 0, 0, 0, None)}
        pool = manager.get().connection.connection_pool
        assert manager.stats() == {"REDIS": PoolStats(True, 0, 0, 0, 7)}
        held = [pool.get_connection() for _ in range(3)]
        assert manager.stats() == {"REDIS": PoolStats(True, 3, 3, 0, 7)}
        pool.release(held.pop())
        assert manager.stats() == {"REDIS": PoolStats(True, 3, 2, 1, 7)}

        with monkeypatch.context() as patch:
            # As after a fork: these connections are the parent's.
            patch.setattr(os, "getpid", lambda: pool.pid + 1)
            assert manager.stats() == {"REDIS": PoolStats(True, 0, 0, 0, 7)}

        pool.release(held.pop())
        pool.release(held.pop())
        assert manager.stats() == {"REDIS": PoolStats(True, 3, 0, 3, 7)}
        wait_until(lambda: server.count_clients() == 3, "nobody else is connected")
        manager.close()
        assert manager.stats() == {"REDIS": PoolStats(False, 0, 0, 0, None)}
        pool.disconnect()
        assert manager.get().set("k", "v")
        assert manager.stats() == {"REDIS": PoolStats(True, 1, 0, 1, 7)}


def test_stats_of_engines(app: Flask, cluster: Cluster, sentinels: Sentinels) -> None:
    """A cluster's figures are those of all its nodes; behind sentinels they are those
    of the server.
    """
    manager = make_manager(
        app,
        CLUSTER_URL=f"redis+cluster://{cluster.address}?max_connections=5",
        SENTINEL_URL=f"redis+sentinel://{sentinels.address}/mymaster",
        SENTINEL_MAX_CONNECTIONS=4,
    )

    with app.app_context():
        assert {it.created for it in manager.stats().values()} == {False}

        for key in ("a", "b", "c", "d", "e", "f"):
            manager.get("CLUSTER").set(key, 1)

        manager.get("SENTINEL").set("k", 1)
        found = manager.stats()

    of_cluster = found["CLUSTER"]
    assert of_cluster.maximum == 30
    # Of three masters.
    assert of_cluster.idle is not None and of_cluster.idle >= 3
    assert of_cluster.connections == of_cluster.idle
    assert found["SENTINEL"] == PoolStats(True, 1, 0, 1, 4)


class Untold(redis.Redis):
    """A client with a pool of a kind that tells nothing."""

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


def test_stats_of_other_pools(app: Flask, server: Server) -> None:
    """A pool without a limit has no maximum; one that tells nothing has no figures."""
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
        untold = PoolStats(True, None, None, None, None)
        assert manager.get("REDIS").connection
        assert manager.get("REDIS2").connection
        manager.get("VALKEY").set("k", "v")
        assert manager.stats() == {
            "REDIS": untold,
            "REDIS2": untold,
            "VALKEY": PoolStats(True, 1, 0, 1, None),
        }
        assert manager.ping("REDIS2")["REDIS2"].ok
        manager.close()
        assert manager.get("VALKEY").get("k") == b"v"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system cannot fork.")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_fork(app: Flask, server: Server, cluster: Cluster) -> None:
    """A child counts none of its parent's connections, and closing its own leaves the
    parent's alone.
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
    """After close no idle connection is left, and the next use connects again. What is
    in use and what was taken before still works, and fake servers keep their data.
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

        for prefix in ("REDIS", "CLUSTER", "FAKE", "OWN"):
            manager.get(prefix).set("k", "v")

        with t.cast(t.Any, taken).pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe("c")
            pubsub.get_message(timeout=5)
            taken.get("k")
            wait_until(lambda: server.count_clients() == 4, "nobody else is connected")
            manager.close()
            # The other app's, that of the application's own pool, and that in use.
            wait_until(lambda: server.count_clients() == 3, "the pool is closed")
            created = [prefix for prefix, it in manager.stats().items() if it.created]
            assert created == ["OWN"]

            for prefix in ("REDIS", "CLUSTER", "FAKE", "OWN"):
                assert manager.get(prefix).get("k") == b"v"

            assert manager.get().connection is not taken
            taken.publish("c", "news")
            assert pubsub.get_message(timeout=5)["data"] == b"news"

        manager.close()

    pool.disconnect()


def test_close_twice_at_once(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads may close the same app: each client is closed by one of them."""
    urls = {"REDIS_URL": "fakeredis:///0", "OTHER_URL": "fakeredis:///1"}
    manager = make_manager(app, **urls)

    def close() -> None:
        with app.app_context():
            manager.close()

    with app.app_context(), ThreadPoolExecutor() as threads:
        for prefix in ("REDIS", "OTHER"):
            pool: t.Any = manager.get(prefix).connection.connection_pool
            # In the middle of one closing there is another, from start to end.
            monkeypatch.setattr(
                pool, "disconnect", lambda *_: threads.submit(close).result(timeout=5)
            )

        manager.close()
        assert not any(it.created for it in manager.stats().values())


def test_close_after_a_fork(
    app: Flask, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool that blocks does not touch its parent's connections."""
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
    """The sentinels' connections are closed too."""
    url = f"redis+sentinel://{sentinels.address}/mymaster"
    manager = make_manager(app, REDIS_URL=url)
    before = [it.count_clients() for it in sentinels.sentinels]

    with app.app_context():
        manager.get().set("k", "v")
        after = [it.count_clients() for it in sentinels.sentinels]
        assert sum(after) > sum(before)
        manager.close()

        def is_closed() -> bool:
            return [it.count_clients() for it in sentinels.sentinels] <= before

        wait_until(is_closed, "the sentinels' connections are closed")
        assert manager.get().get("k") == b"v"


@pytest.mark.parametrize("pool_class", [None, "redis.BlockingConnectionPool"])
def test_close_while_in_use(app: Flask, server: Server, pool_class: str | None) -> None:
    """Commands that other threads are running are not cut, not even to be repeated."""
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
        running = [threads.submit(work, number) for number in range(4)]

        try:
            with app.app_context():
                for _ in range(50):
                    time.sleep(0.01)
                    manager.close()
        finally:
            done.set()

        assert all(it.result(30) for it in running)


@pytest.fixture
def overridable(app: Flask) -> RedisManager:
    return make_manager(app, REDIS_URL="fakeredis://", CACHE_URL="redis://nowhere:1")


def test_override(app: Flask, overridable: RedisManager) -> None:
    """Every look-up of the prefix finds the override, in all threads of the app and in
    no other app, and afterwards what was there before.
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

    # It was not closed.
    assert fake.ping()


def test_nested_overrides(app: Flask, overridable: RedisManager) -> None:
    """Each block brings back what was there, also when it ends in an error."""
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
    """Blocks of two threads may end in any order: none takes the other's away."""
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
    """A client that another thread finishes making does not undo an override."""
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
    """A proxy, also of the same prefix, stands for its client; what is no client at
    all is handed out too; closing the manager closes no override.
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
    """Tests need no right settings for a prefix that they override."""
    manager = make_manager(app, REDIS_URL="fakeredis://", BROKER_URL="redis://h/x")

    with app.app_context(), manager.override("BROKER", fakeredis.FakeRedis()) as fake:
        assert manager.get("BROKER").connection is fake
        assert isinstance(manager.get("BROKER"), fakeredis.FakeRedis)
        assert manager.ping("BROKER")["BROKER"].ok


def test_handed_sentinel_pool(app: Flask, sentinels: Sentinels) -> None:
    """A pool that the application made for a server behind sentinels is not used by a
    ping, which finds the server all the same.
    """
    addresses = [("127.0.0.1", it.port) for it in sentinels.sentinels]
    finder = t.cast(t.Any, redis.Sentinel)(addresses, socket_timeout=5)
    pool = finder.master_for("mymaster").connection_pool
    assert ping_one(app, REDIS_CONNECTION_POOL=pool).ok
    assert not pool._available_connections


def test_custom_class(app: Flask, server: Server) -> None:
    """A class of the application's own is pinged with its own arguments."""
    config = {"REDIS_URL": server.url, "REDIS_CLASS": objects.MyRedis, "REDIS_FOO": "y"}
    assert ping_one(app, **config).ok
