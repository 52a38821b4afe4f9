"""What commands do while a prefix is down."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import redis.asyncio
from flask import Flask

from flask_and_redis import RedisManager
from flask_and_redis.deadline import outage as outages
from flask_and_redis.deadline.outage import Outage

from .objects import deadline_of
from .objects import take_down
from .servers import Cluster
from .servers import Server
from .servers import wait_until
from .test_attempts import Clock
from .test_cluster_nodes import start_migration

pytestmark = pytest.mark.slow

FAILURES = (redis.RedisError, redis.exceptions.RedisClusterException)


class Hung:
    """A server that accepts connections, counts them, and never answers."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._connections: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                self._connections.append(self._listener.accept()[0])
        except OSError:
            return

    @property
    def count(self) -> int:
        return len(self._connections)

    def close(self) -> None:
        # accept() in the other thread only ends with shutdown().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

        for connection in self._connections:
            connection.close()


@pytest.fixture
def hung() -> cabc.Iterator[Hung]:
    server = Hung()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def waits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget how long the thread waited in an earlier test."""
    monkeypatch.setattr(outages, "_waiting", outages._Waiting())


def skip_before_7(server: Server, behavior: str) -> None:
    """Skip the test if an older Redis behaves in another way."""
    with server.admin() as admin:
        version = str(admin.info("server")["redis_version"])

    if int(version.partition(".")[0]) < 7:
        pytest.skip(f"Redis {version} {behavior}.")


def make_app(**config: t.Any) -> Flask:
    app = Flask("outages")
    app.config.update(config)
    app.extensions["manager"] = RedisManager(app)
    return app


def make(**config: t.Any) -> t.Any:
    """The client of prefix REDIS with these settings."""
    app = make_app(**{f"REDIS_{name}": value for name, value in config.items()})
    return app.extensions["redis"]["REDIS"]


def run_async(client_of: Flask, function: t.Any) -> t.Any:
    """Run a coroutine function with the asynchronous client of prefix REDIS."""

    async def main() -> t.Any:
        async with client_of.extensions["manager"].get_async() as client:
            return await function(client)

    with client_of.app_context():
        return asyncio.run(main())


def test_one_thread_asks(hung: Hung) -> None:
    """While a prefix is down, one thread at a time probes its server, at most every
    half second. All others fail immediately.
    """
    client = make(HOST="127.0.0.1", PORT=hung.port)
    take_down(deadline_of(client))

    def request(_: int) -> None:
        for _ in range(4):
            with pytest.raises(redis.TimeoutError, match="^down"):
                client.get("k")

    started = time.monotonic()

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(request, range(16)))

    elapsed = time.monotonic() - started
    # Each probe takes a second. Without the limit there would be 64.
    assert 1 <= hung.count <= elapsed + 1


def test_one_task_asks(hung: Hung) -> None:
    """The same for tasks of asyncio."""

    async def use(client: t.Any) -> None:
        take_down(deadline_of(client))
        started = time.monotonic()
        results = await asyncio.gather(
            *(client.get("k") for _ in range(64)), return_exceptions=True
        )
        assert {str(error) for error in results} == {"down"}
        assert 1 <= hung.count <= time.monotonic() - started + 1

    run_async(make_app(REDIS_URL=f"redis://127.0.0.1:{hung.port}"), use)


def test_four_commands_of_a_request(hung: Hung) -> None:
    """The first command on a hung server takes the deadline and one probe, and the
    others of the same request no time.
    """
    client = make(
        HOST="127.0.0.1", PORT=hung.port, SOCKET_TIMEOUT=0.5, RETRY_DEADLINE=0.5
    )

    for _ in range(4):
        with pytest.raises(redis.TimeoutError, match="Timeout reading"):
            client.get("k")

    # One attempt and one probe, and maybe another one on a slow machine. Without the
    # limit there would be a probe for each command.
    assert 2 <= hung.count < 5


@pytest.mark.parametrize("is_async", [False, True])
def test_many_prefixes(hung: Hung, is_async: bool) -> None:
    """A request that uses many prefixes that are down does not wait for each."""
    prefixes = [f"P{number}" for number in range(100)]
    url = f"redis://127.0.0.1:{hung.port}"
    app = make_app(**{f"{prefix}_URL": url for prefix in prefixes})
    manager = app.extensions["manager"]
    # Before the time is measured: a busy machine takes long to create many clients.
    clients = [app.extensions["redis"][prefix] for prefix in prefixes]

    async def use() -> float:
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(manager.get_async(prefix))
                for prefix in prefixes
            ]
            started = time.monotonic()

            for client in clients:
                with pytest.raises(redis.TimeoutError):
                    await client.get("k")

            return time.monotonic() - started

    for client in clients:
        take_down(deadline_of(client))

    if is_async:
        with app.app_context():
            seconds = asyncio.run(use())
    else:
        started = time.monotonic()

        for client in clients:
            with pytest.raises(redis.TimeoutError):
                client.get("k")

        seconds = time.monotonic() - started

    # A second for each prefix would be 100.
    assert seconds < 30


def test_late_answer(server: Server, hung: Hung) -> None:
    """A probe for whose answer nobody waits still ends an outage."""
    app = make_app(HUNG_URL=f"redis://127.0.0.1:{hung.port}", BACK_URL=server.url)
    clients = app.extensions["redis"]
    take_down(deadline_of(clients["HUNG"]))
    take_down(deadline_of(clients["BACK"]))

    def request() -> bool:
        with pytest.raises(redis.TimeoutError):
            clients["HUNG"].get("k")

        return clients["BACK"].get("k") is None

    wait_until(request, "the second prefix is back")
    assert deadline_of(clients["HUNG"]).down


def test_error_is_copied(hung: Hung) -> None:
    """Each command gets its own copy of the error, without the frames and the notes of
    others.
    """
    client = make(HOST="127.0.0.1", PORT=hung.port)
    deadline = deadline_of(client)

    try:
        raise redis.TimeoutError("down")
    except redis.TimeoutError as error:
        vars(error)["__notes__"] = ["Of the command that noticed the outage."]
        deadline.go_down(None, error)

    raised = []

    for _ in range(3):
        with pytest.raises(redis.TimeoutError, match="^down") as info:
            client.get("k")

        raised.append(info.value)

    assert len(set(map(id, raised))) == 3
    assert max(len(getattr(error, "__notes__", [])) for error in raised) <= 1
    assert len(info.traceback) < 8


class Strange(Exception):
    """An error that cannot be copied."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class RaisesStrange(redis.Redis):
    def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        raise Strange(1, 2)


def test_error_that_cannot_be_copied(hung: Hung) -> None:
    """An error of the application that cannot be copied is raised as another."""
    client = make(
        HOST="127.0.0.1",
        PORT=hung.port,
        CLASS=RaisesStrange,
        RETRY_ON_ERROR=[Strange],
        RETRY_DEADLINE=0,
    )

    with pytest.raises(Strange):
        client.get("k")

    with pytest.raises(redis.ConnectionError, match="^1 and 2"):
        client.get("k")


def test_error_that_is_no_outage(own_server: Server) -> None:
    """If the probe meets an error that a retry cannot fix, such as a wrong password,
    the command meets it too.
    """
    client = make(URL=own_server.url.replace("//", "//nobody:wrong@"))
    take_down(deadline_of(client))

    with pytest.raises(redis.AuthenticationError):
        client.get("k")

    async def use(client: t.Any) -> None:
        take_down(deadline_of(client))

        with pytest.raises(redis.AuthenticationError):
            await client.get("k")

    run_async(make_app(REDIS_URL=own_server.url.replace("//", "//nobody:wrong@")), use)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all outages."""
    clock = Clock()
    monkeypatch.setattr(outages, "time", clock)
    return clock


def test_turns(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn belongs to its process, and ends by itself if it is abandoned. The next
    turn is half a second later.
    """
    outage = Outage(redis.TimeoutError("down"))
    assert outage.take_turn()
    assert not outage.take_turn()

    with monkeypatch.context() as patch:
        pid = os.getpid() + 1
        patch.setattr(os, "getpid", lambda: pid)
        assert outage.take_turn()

    clock.now += 30
    assert not outage.take_turn()
    clock.now += 0.25
    assert outage.take_turn()
    assert not outage.take_turn()
    outage.end_turn()
    clock.now += 0.25
    assert not outage.take_turn()
    clock.now += 0.25
    assert outage.take_turn()


def test_outage_is_forgotten(clock: Clock) -> None:
    """An outage is forgotten a minute after a command has met it."""
    outage = Outage(redis.TimeoutError("down"))
    clock.now += 60
    assert not outage.is_forgotten
    outage.take_turn()
    clock.now += 60
    assert not outage.is_forgotten
    clock.now += 0.25
    assert outage.is_forgotten


def test_waits_of_a_thread(clock: Clock) -> None:
    """A thread waits for a second. Until half a second later, all its waits together
    take a fifth of a second.
    """
    waits: list[float] = []

    def wait(longest: float = 1) -> None:
        with outages._limit_wait() as seconds:
            waits.append(seconds)
            clock.now += min(max(seconds, 0), longest)

    # It gets an answer, so that the next wait may be long, too.
    wait(0.01)

    for _ in range(4):
        wait()

    for _ in range(2):
        clock.now += 0.5
        wait()

    # A busy machine lets it wait for longer.
    with outages._limit_wait():
        clock.now += 0.4

    wait()
    assert waits == pytest.approx([1, 1, 0.1, 0.05, 0.025, 1, 1, -0.1])


def test_next_asynchronous_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a task has asked in vain, another one may ask."""
    monkeypatch.setattr(outages, "INTERVAL", 0)
    outage = Outage(redis.TimeoutError("down"))
    answers = [False, True]

    async def probe() -> bool:
        return answers.pop(0)

    async def use() -> None:
        assert not await outage.ask_async(probe)
        assert await outage.ask_async(probe)

    asyncio.run(use())


def test_answer_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command waits for a probe no longer than it takes."""
    monkeypatch.setattr("flask_and_redis.engines.operations.ANSWER_TIMEOUT", 40)
    started = time.monotonic()
    assert Outage(redis.TimeoutError("down")).ask(lambda: True)
    assert time.monotonic() - started < 30


def test_interrupted_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the start of the thread is interrupted, others may ask later."""
    monkeypatch.setattr(outages, "INTERVAL", 0)
    outage = Outage(redis.TimeoutError("down"))

    def start(self: threading.Thread) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)

        with pytest.raises(KeyboardInterrupt):
            outage.ask(lambda: True)

    assert outage.ask(lambda: True)


def test_thread_that_cannot_start(
    own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no thread can be started, commands fail with the error of the outage. Others
    may ask later.
    """
    monkeypatch.setattr(outages, "INTERVAL", 0)
    client = make(URL=own_server.url)
    take_down(deadline_of(client))

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)

        for _ in range(2):
            with pytest.raises(redis.TimeoutError, match="^down"):
                client.get("k")

    assert client.get("k") is None


def test_hung_probe_delays_no_exit() -> None:
    """A process can exit immediately, even if a probe hangs."""
    code = """
import socket, threading, time
import redis
from flask import Flask
from flask_and_redis import RedisManager
socket.getaddrinfo = lambda *args, **kwargs: time.sleep(60)
app = Flask("x")
app.config["REDIS_URL"] = "redis://h"
RedisManager(app)
client = app.extensions["redis"]["REDIS"]
client._command_deadline.go_down(None, redis.TimeoutError("down"))
try:
    client.get("k")
except redis.TimeoutError as error:
    print(error, threading.active_count())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "down 2\n"


class Tries(redis.RedisCluster):
    """A cluster's client that records each attempt."""

    tries: t.ClassVar[list[t.Any]] = []

    def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        self.tries.append(args[0])
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


def key_elsewhere(cluster: Cluster, key: str) -> str:
    """A key that another master serves."""
    master = cluster.master_of(key)
    return next(each for each in "abcdefgh" if cluster.master_of(each) is not master)


def get_in_pipeline(client: t.Any, key: str) -> t.Any:
    return client.pipeline(transaction=True).get(key).execute()[0]


def get_in_script(client: t.Any, key: str) -> t.Any:
    return client.eval("return redis.call('get', KEYS[1])", 1, key)


def read_stream(client: t.Any, key: str) -> t.Any:
    return client.xread({key: 0}, count=1)


@pytest.mark.parametrize(
    "use",
    [Tries.get, get_in_pipeline, get_in_script, read_stream],
)
def test_shard(cluster: Cluster, use: cabc.Callable[[t.Any, str], t.Any]) -> None:
    """While one shard of a cluster hangs, commands to it fail immediately, and those to
    other shards succeed.
    """
    client = make(
        URL=f"redis+cluster://{cluster.address}",
        CLASS=Tries,
        SOCKET_TIMEOUT=0.3,
        RETRY_DEADLINE=0.5,
    )
    other = key_elsewhere(cluster, "k")
    client.set("k", 1)
    client.set(other, 1)
    node = cluster.master_of("k")
    node.pause()

    try:
        with pytest.raises(FAILURES):
            use(client, "k")

        Tries.tries.clear()
        started = time.monotonic()

        for _ in range(20):
            with pytest.raises(FAILURES):
                client.get("k")

            assert client.get(other) == b"1"

        tries = len(Tries.tries) - 20
        # At most one attempt every half second.
        assert tries <= (time.monotonic() - started) / 0.5 + 1
        assert deadline_of(client).down
        # A pipeline that needs both shards fails immediately, too.
        with pytest.raises(FAILURES):
            client.pipeline().get("k").get(other).execute()
    finally:
        node.resume()

    wait_until(lambda: client.get("k"), "the shard is back")
    assert not deadline_of(client).down


class FailsOnce(redis.RedisCluster):
    """A cluster's client whose first command loses its connection."""

    fails: t.ClassVar[bool] = True

    def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        if args[0] == "GET" and self.fails:
            type(self).fails = False
            raise redis.ConnectionError("lost")

        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


def test_retry_while_another_shard_is_down(cluster: Cluster) -> None:
    """Commands to one shard are retried although another one is down."""
    client = make(URL=f"redis+cluster://{cluster.address}", CLASS=FailsOnce)
    deadline_of(client).go_down("other:1", redis.TimeoutError("down"))
    assert client.get("k") is None
    assert deadline_of(client).down


def test_all_shards(start: t.Any) -> None:
    """If no node answers, commands to all shards fail immediately."""
    cluster: Cluster = start(Cluster)
    client = make(
        URL=f"redis+cluster://{cluster.address}", CLASS=Tries, RETRY_DEADLINE=0.5
    )
    other = key_elsewhere(cluster, "k")
    client.set("k", 1)
    cluster.stop()

    with pytest.raises(FAILURES):
        client.get("k")

    Tries.tries.clear()
    started = time.monotonic()

    for key in ("k", other) * 20:
        with pytest.raises(FAILURES):
            client.get(key)

    assert len(Tries.tries) <= (time.monotonic() - started) / 0.5 + 1
    # Creating another client fails immediately as well.
    deadline = deadline_of(client)
    attempts = deadline.start(None)
    assert attempts.find_outage() is not None


def test_whole_cluster_is_back(cluster: Cluster) -> None:
    """If a whole cluster was down, the answer of one shard means that it is back."""
    client = make(URL=f"redis+cluster://{cluster.address}")
    deadline_of(client).go_down(None, redis.ConnectionError("down"))
    assert client.get("k") is None
    assert not deadline_of(client).down


def test_one_probe_for_each_command(server: Server) -> None:
    """A command asks on a separate connection once. After that, it asks itself."""
    client = make(URL=server.url)
    deadline = deadline_of(client)
    deadline.go_down(None, redis.ConnectionError("down"))
    attempts = deadline.start(client)
    outage = attempts.find_outage()
    assert outage is not None
    assert attempts.may_probe(outage)
    assert not attempts.may_probe(outage)


def test_async_shard(cluster: Cluster) -> None:
    """The same for an asynchronous client of a cluster."""
    other = key_elsewhere(cluster, "k")
    node = cluster.master_of("k")

    async def use(client: t.Any) -> None:
        await client.set("k", 1)
        await client.set(other, 1)
        # A command without a known key says nothing about a shard.
        await client.eval("return 1", 0)
        node.pause()

        try:
            with pytest.raises(FAILURES):
                await client.get("k")

            assert deadline_of(client).down
            results = await asyncio.gather(
                *(client.get(key) for key in ("k", other) * 20), return_exceptions=True
            )
        finally:
            node.resume()

        assert all(isinstance(result, FAILURES) for result in results[::2])
        assert results[1::2] == [b"1"] * 20

        while deadline_of(client).down:
            try:
                assert await client.get("k") == b"1"
            except FAILURES:
                await asyncio.sleep(0.05)

    run_async(
        make_app(
            REDIS_URL=f"redis+cluster://{cluster.address}",
            REDIS_SOCKET_TIMEOUT=0.3,
            REDIS_RETRY_DEADLINE=0.5,
        ),
        use,
    )


def test_forgotten_shard(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outage of a shard that no command needs any more is forgotten."""
    client = make(URL=f"redis+cluster://{cluster.address}")
    deadline = deadline_of(client)
    deadline.go_down("gone:1", redis.TimeoutError("down"))
    client.get("k")
    assert deadline.down
    monkeypatch.setattr(outages, "FORGOTTEN", -1)
    client.get("k")
    assert not deadline.down


def test_interrupted_turn(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the command that asks whether a cluster is back is interrupted, another one
    may ask.
    """
    monkeypatch.setattr(outages, "INTERVAL", 0)
    client = make(URL=f"redis+cluster://{cluster.address}", CLASS=Tries)
    take_down(deadline_of(client))

    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Tries, "execute_command", interrupt)

        with pytest.raises(KeyboardInterrupt):
            client.get("k")

    assert client.get("k") is None


def test_cancelled_turn(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a task of asyncio."""
    monkeypatch.setattr(outages, "INTERVAL", 0)

    async def cancel(*args: object, **options: object) -> None:
        raise asyncio.CancelledError

    async def use(client: t.Any) -> None:
        take_down(deadline_of(client))

        with monkeypatch.context() as patch:
            patch.setattr(redis.asyncio.RedisCluster, "execute_command", cancel)

            with pytest.raises(asyncio.CancelledError):
                await client.get("k")

        assert await client.get("k") is None

    run_async(make_app(REDIS_URL=f"redis+cluster://{cluster.address}"), use)


def test_unknown_shard(cluster: Cluster) -> None:
    """If it is not known which shard a command needs, its failure takes none down."""
    client = make(URL=f"redis+cluster://{cluster.address}", RETRY_DEADLINE=0)
    deadline = deadline_of(client)
    attempts = deadline.start(client, [(("EVAL", "return 1", 0), {})])
    assert not attempts.may_continue(redis.TimeoutError("hung"))
    assert not deadline.down


def set_in_transaction(client: t.Any) -> t.Any:
    return client.pipeline(transaction=True).set("{k}new", 1).execute()


def test_shard_that_redirects(fresh_cluster: Cluster) -> None:
    """A node that redirects a command is not down, and the URL is not wrong. A
    transaction cannot follow it.
    """
    url = f"redis+cluster://{fresh_cluster.address}"
    client = make(URL=url, RETRY_DEADLINE=0)
    client.get("k")
    start_migration(fresh_cluster, "k")
    kinds = set()

    for _ in range(4):
        with pytest.raises(redis.exceptions.AskError) as info:
            set_in_transaction(client)

        kinds.add(type(info.value))
        assert "URL" not in "".join(getattr(info.value, "__notes__", ()))
        assert not deadline_of(client).down

    # The other node has not taken over the slot yet.
    assert redis.exceptions.MovedError in kinds


def test_shard_that_refuses_for_now(fresh_cluster: Cluster) -> None:
    """A node that asks to try again later is not down. If it was, it is back, and the
    command is retried.
    """
    skip_before_7(fresh_cluster.nodes[0], "sends clients to a node without the keys")
    client = make(URL=f"redis+cluster://{fresh_cluster.address}", RETRY_DEADLINE=0.3)
    client.mset({"{k}1": 1, "{k}2": 2})
    start_migration(fresh_cluster, "k", moved=["{k}1"])
    deadline = deadline_of(client)
    (shard,) = deadline.engine.find_parts(client, [("GET", "k")])
    # After a timeout, the node would be asked on a separate connection.
    deadline.go_down(shard, redis.ConnectionError("down"))
    started = time.monotonic()
    transaction = client.pipeline(transaction=True)
    transaction.execute_command("MGET", "{k}1", "{k}2")

    with pytest.raises(redis.exceptions.TryAgainError):
        transaction.execute()

    assert time.monotonic() - started >= 0.3
    assert not deadline.down


def test_several_shards_and_one_answer(cluster: Cluster) -> None:
    """If a pipeline needs several shards, an error does not tell which one has
    answered.
    """
    client = make(URL=f"redis+cluster://{cluster.address}")
    other = key_elsewhere(cluster, "k")
    deadline = deadline_of(client)
    client.set(other, "text")
    (shard,) = deadline.engine.find_parts(client, [("GET", "k")])
    # After a timeout, the node would be asked on a separate connection.
    deadline.go_down(shard, redis.ConnectionError("down"))

    with pytest.raises(redis.ResponseError):
        client.pipeline().get("k").incr(other).execute()

    assert deadline.down


def test_blocking_command_in_a_cluster(cluster: Cluster) -> None:
    """A blocking command that waits for too long keeps no other command from its
    shard.
    """
    client = make(
        URL=f"redis+cluster://{cluster.address}", SOCKET_TIMEOUT=1, RETRY_DEADLINE=0.5
    )

    with pytest.raises(redis.TimeoutError):
        client.blpop(["k"], timeout=5)

    assert deadline_of(client).down

    def is_waiting() -> bool:
        with cluster.master_of("k").admin() as admin:
            return int(admin.info("clients")["blocked_clients"]) > 0

    wait_until(lambda: not is_waiting(), "its connection is closed")

    with ThreadPoolExecutor() as pool:
        blocked = pool.submit(client.blpop, ["k"], timeout=5)
        wait_until(is_waiting, "the next one waits")
        assert client.get("k") is None
        client.rpush("k", 1)
        assert blocked.result() == (b"k", b"1")

    assert not deadline_of(client).down


def test_replica_without_master(
    own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A replica may refuse all commands while its master is down, PING too. It stays
    down: commands do not wait for their deadline again, and the log does not say each
    time that it is back.
    """
    skip_before_7(own_server, "answers PING without its master")

    with own_server.admin() as admin:
        admin.config_set("replica-serve-stale-data", "no")
        admin.replicaof("127.0.0.1", "1")

    app = make_app(REDIS_URL=own_server.url, REDIS_RETRY_DEADLINE=0.3)
    client = app.extensions["redis"]["REDIS"]

    with pytest.raises(redis.exceptions.MasterDownError):
        client.get("k")

    # Longer than the pause between two probes.
    time.sleep(0.6)

    with pytest.raises(redis.exceptions.MasterDownError):
        client.get("k")

    async def get_again(client: t.Any) -> None:
        await asyncio.sleep(0.6)

        with pytest.raises(redis.exceptions.MasterDownError):
            await client.get("k")

    run_async(app, get_again)
    assert " is back" not in caplog.text

    with own_server.admin() as admin:
        admin.replicaof("NO", "ONE")

    wait_until(lambda: client.get("k") is None, "the server is back")
    assert " is back" in caplog.text
