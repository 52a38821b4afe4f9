"""What happens between two attempts of a command."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
import sys
import time
import types
import typing as t
import weakref

import pytest
import redis
import redis.asyncio
from flask import Flask

from flask_and_redis import RedisManager

from .cutter import Cutter
from .objects import deadline_of
from .objects import take_down
from .scripted import Scripted
from .servers import Certificates
from .servers import Cluster
from .servers import Server
from .servers import wait_until


def make_app(**config: t.Any) -> Flask:
    app = Flask("attempts")
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})
    app.extensions["manager"] = RedisManager(app)
    return app


def make(**config: t.Any) -> t.Any:
    """The client of prefix REDIS with these settings."""
    return make_app(**config).extensions["redis"]["REDIS"]


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        # A new object each time, like that of the real clock.
        return self.now + 0.0

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        assert len(self.pauses) < 10_000, "This would never end."
        self.pauses.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all commands."""
    clock = Clock()

    for module in ("attempts", "client", "deadline"):
        monkeypatch.setattr(f"flask_and_redis.deadline.{module}.time", clock)

    fake_asyncio = types.SimpleNamespace(sleep=clock.sleep_async)
    monkeypatch.setattr("flask_and_redis.deadline.deadline.asyncio", fake_asyncio)
    return clock


class Lost(redis.Redis):
    """A client whose commands lose their connection."""

    def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        raise redis.ConnectionError("lost")


class Full(redis.Redis):
    """A client whose pool is full."""

    def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        raise redis.ConnectionError("Too many connections")


@pytest.mark.parametrize("is_async", [False, True])
def test_pauses(clock: Clock, monkeypatch: pytest.MonkeyPatch, is_async: bool) -> None:
    """The pauses between two attempts grow from 20 ms to half a second, less up to a
    half by chance. Together they take as long as the deadline, whatever error the
    caller is handling.
    """
    app = make_app(
        URL="redis://h", CLASS=redis.Redis if is_async else Lost, RETRY_DEADLINE=5
    )

    async def lose(*args: object, **options: object) -> t.NoReturn:
        raise redis.ConnectionError("lost")

    async def use() -> None:
        monkeypatch.setattr(redis.asyncio.Redis, "execute_command", lose)

        async with app.extensions["manager"].get_async() as client:
            await client.get("k")

    try:
        raise ssl.SSLError("Another server refused TLS.")
    except ssl.SSLError:
        with app.app_context(), pytest.raises(redis.ConnectionError):
            if is_async:
                asyncio.run(use())
            else:
                app.extensions["redis"]["REDIS"].get("k")

    # The last pauses end with the deadline.
    pauses = zip(clock.pauses, [0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5], strict=False)
    assert [pair for pair in pauses if not pair[1] / 2 <= pair[0] <= pair[1]] == []
    assert max(clock.pauses) <= 0.5
    assert clock.now == pytest.approx(1005)


@pytest.mark.parametrize("is_async", [False, True])
def test_interrupted_later(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    """A builtin TimeoutError is the application's if its attempt, and not the whole
    command, took less than SOCKET_TIMEOUT.
    """
    app = make_app(URL="redis://h", SOCKET_TIMEOUT=5, RETRY_DEADLINE=20)
    seconds = [6, 0]

    def fail(*args: object, **options: object) -> t.NoReturn:
        clock.now += seconds.pop(0)
        raise redis.TimeoutError("slow") from TimeoutError("mine")

    async def fail_async(*args: object, **options: object) -> None:
        fail()

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            await client.get("k")

    monkeypatch.setattr(redis.Redis, "execute_command", fail)
    monkeypatch.setattr(redis.asyncio.Redis, "execute_command", fail_async)

    with app.app_context(), pytest.raises(TimeoutError, match="^mine$"):
        if is_async:
            asyncio.run(use())
        else:
            app.extensions["redis"]["REDIS"].get("k")


def test_pauses_of_a_full_pool(clock: Clock) -> None:
    """A full pool is asked again after at most 10 ms, until the deadline."""
    client = make(URL="redis://h", CLASS=Full, RETRY_DEADLINE=1)

    with pytest.raises(redis.ConnectionError, match="were in use for 1 seconds"):
        client.get("k")

    assert min(clock.pauses[:50]) >= 0.005
    assert max(clock.pauses) <= 0.01
    assert clock.now == pytest.approx(1001)


def slow_class(clock: Clock, seconds: list[float], error: Exception) -> type[t.Any]:
    """A class of clients whose next commands fail after these seconds each."""

    class Slow(redis.Redis):
        def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
            if seconds:
                clock.now += seconds.pop(0)
                raise error

            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    return Slow


@pytest.mark.parametrize(
    ("seconds", "succeeds"), [([1.4], True), ([1.5], False), ([0.1, 1.2], False)]
)
def test_one_attempt_took_all(
    server: Server, clock: Clock, seconds: list[float], succeeds: bool
) -> None:
    """If the only attempt took as long as the deadline, or up to a half longer, the
    server is asked whether it is back. If so, the command is sent again immediately.
    """
    cls = slow_class(clock, seconds, redis.TimeoutError("slow"))
    client = make(URL=server.url, CLASS=cls, RETRY_DEADLINE=1)

    if succeeds:
        assert client.get("k") is None
        assert clock.pauses == [0]
    else:
        with pytest.raises(redis.TimeoutError, match="slow"):
            client.get("k")

        assert deadline_of(client).down


@pytest.mark.parametrize(("seconds", "is_down"), [(0.4, True), (0.6, False)])
def test_failure_in_the_second_half(
    clock: Clock, seconds: float, is_down: bool
) -> None:
    """A prefix is down if its server failed for at least half of the deadline."""
    error = redis.ConnectionError("lost")
    cls = slow_class(clock, [seconds] + [0] * 100, error)
    client = make(URL="redis://h", CLASS=cls, RETRY_DEADLINE=1)

    with pytest.raises(redis.ConnectionError, match="lost"):
        client.get("k")

    assert deadline_of(client).down == is_down


class Resets(redis.Redis):
    """A client whose server closes the connection while it receives a command."""

    tries: t.ClassVar[list[str]] = []

    def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        self.tries.append(args[0])
        raise redis.ConnectionError("reset") from ConnectionResetError(
            errno.ECONNRESET, "reset"
        )


@pytest.mark.parametrize(("size", "is_large"), [(2**20, True), (2**20 - 1, False)])
def test_large_values(clock: Clock, size: int, is_large: bool) -> None:
    """After a restart, a value of 1 MiB is sent again. If the server closes the second
    connection as well, the value is probably too large. A smaller one cannot be.
    """
    client = make(URL="redis://h", CLASS=Resets, RETRY_DEADLINE=1)
    Resets.tries.clear()

    with pytest.raises(redis.ConnectionError, match="reset") as info:
        client.set("k", "v" * size)

    assert (len(Resets.tries) == 2) == is_large
    notes = "".join(getattr(info.value, "__notes__", ["proto-max-bulk-len"]))
    assert ("proto-max-bulk-len" in notes) == is_large or sys.version_info < (3, 11)


def test_large_value_in_a_pipeline() -> None:
    """One large value is enough, whatever else a pipeline contains."""
    client = make(URL="redis://h")
    commands: list[t.Any] = [(("SET", "a", "v"), {}), (("SET", "b", "v" * 2**20), {})]
    attempts = deadline_of(client).start(client, commands)
    error = redis.ConnectionError("reset")
    error.__cause__ = ConnectionResetError(errno.ECONNRESET, "reset")
    assert attempts.may_continue(error)
    assert not attempts.may_continue(error)


def test_one_reset_of_a_large_value(clock: Clock) -> None:
    """A restart also closes the connection, so once says nothing about a value."""

    class ResetsOnce(Resets):
        def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
            if self.tries:
                raise redis.ConnectionError("refused")

            return super().execute_command(*args, **options)

    client = make(URL="redis://h", CLASS=ResetsOnce, RETRY_DEADLINE=1)
    Resets.tries.clear()

    with pytest.raises(redis.ConnectionError, match="refused") as info:
        client.set("k", "v" * 2**20)

    assert clock.now == pytest.approx(1001)
    assert "proto-max-bulk-len" not in "".join(getattr(info.value, "__notes__", []))


def test_refused_command_is_sent_again_at_once(server: Server, clock: Clock) -> None:
    """A command that a demoted master refused is sent again without a pause, once."""
    error = redis.exceptions.ReadOnlyError("demoted")
    client = make(URL=server.url, CLASS=slow_class(clock, [0], error))
    assert client.get("k") is None
    assert clock.pauses == [0]
    client = make(URL=server.url, CLASS=slow_class(clock, [0, 0], error))

    with pytest.raises(redis.exceptions.ReadOnlyError):
        client.get("k")


@pytest.mark.parametrize(
    "command", [("auth", "wrong"), ("HELLO", 2, "AUTH", "default", "wrong")]
)
@pytest.mark.parametrize("is_pipeline", [False, True])
def test_login_of_the_application(
    scripted: Scripted, command: tuple[t.Any, ...], is_pipeline: bool
) -> None:
    """A login that the application sends is not tried again if the server refuses it.
    Other connections stay.
    """
    scripted.users = {"default": "right"}
    client = make(URL=scripted.url, PASSWORD="right", PROTOCOL=2)
    other = client.connection_pool.get_connection()
    client.get("k")
    scripted.plan(str(command[0]).upper().encode(), b"-WRONGPASS wrong\r\n")

    with pytest.raises(redis.AuthenticationError):
        if is_pipeline:
            client.pipeline(transaction=False).execute_command(*command).execute()
        else:
            client.execute_command(*command)

    assert sum(b"wrong" in arguments for _, arguments in scripted.requests) == 1
    assert not client.connection_pool.is_superseded(other)
    client.connection_pool.release(other)


@pytest.mark.parametrize(
    "reply",
    [
        b"-CLUSTERDOWN The cluster is down\r\n",
        b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
    ],
)
def test_temporary_errors(scripted: Scripted, reply: bytes) -> None:
    """A command is sent again if the server says that this will help."""
    client = make(URL=scripted.url)
    scripted.plan(b"GET", reply, reply)
    assert client.get("own") == b"0 default own"
    assert scripted.names().count(b"GET") == 3


def test_cut_while_tls_begins(tls_server: Server, certificates: Certificates) -> None:
    """If a connection is lost while TLS begins, neither side has refused the other.
    Another attempt is made.
    """
    with Cutter(tls_server.port) as cutter:
        # A handshake begins with these bytes.
        cutter.lose(b"\x16\x03\x01", times=2)
        url = cutter.url.replace("redis:", "rediss:")
        client = make(URL=url, SSL_CA_CERTS=str(certificates.ca))
        assert client.incr("k") == 1
        assert cutter.connections == 3
        client.connection_pool.disconnect()


# Pipelines


def test_dropped_commands(server: Server) -> None:
    """A pipeline whose commands were dropped has nothing to execute."""
    client = make(URL=server.url)
    pipe = client.pipeline()
    pipe.set("dropped", 1)
    pipe.reset()
    assert pipe.execute() == []
    assert client.get("dropped") is None


class Value(str):
    """A value to which a weak reference is possible."""


def test_dropped_commands_are_forgotten(server: Server) -> None:
    """A pipeline does not keep the values of commands that were dropped."""
    pipe = make(URL=server.url).pipeline()
    value = Value("v")
    reference = weakref.ref(value)
    pipe.set("dropped", value)
    pipe.reset()
    pipe.set("k", 1)
    del value
    assert reference() is None
    assert pipe.execute() == [True]


def test_watch_as_a_command(cutter: Cutter) -> None:
    """A transaction is not replayed either if WATCH was sent by its name: it may depend
    on what was read then.
    """
    client = make(URL=cutter.url)

    with client.pipeline() as pipe:
        pipe.execute_command("WATCH", "k")
        assert pipe.get("k") is None
        pipe.unwatch()
        pipe.incr("k")
        cutter.lose(b"EXEC")

        with pytest.raises(redis.ConnectionError):
            pipe.execute()

    assert client.get("k") == b"1"


def test_refused_pipeline_is_empty(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline that is not sent because its prefix is down has no commands left."""
    monkeypatch.setattr("flask_and_redis.engines.operations.ANSWER_TIMEOUT", 0.1)
    server.pause()

    try:
        app = make_app(URL=server.url)
        client: t.Any = app.extensions["redis"]["REDIS"]
        take_down(deadline_of(client))
        pipe = client.pipeline().set("k", 1)

        with pytest.raises(redis.TimeoutError, match="^down"):
            pipe.execute()

        assert len(pipe) == 0

        async def use() -> None:
            async with app.extensions["manager"].get_async() as client:
                pipe = client.pipeline().set("k", 1)

                with pytest.raises(redis.TimeoutError, match="^down"):
                    await pipe.execute()

                assert len(pipe) == 0

        with app.app_context():
            asyncio.run(use())
    finally:
        server.resume()


@pytest.mark.parametrize("is_async", [False, True])
def test_no_connection_during_a_pause(
    cutter: Cutter, clock: Clock, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    """While a pipeline waits for its next attempt, others may use its connection."""
    app = make_app(URL=cutter.url)
    pools: list[t.Any] = []
    in_use: list[int] = []

    def start(client: t.Any) -> t.Any:
        pools.append(client.connection_pool)
        pipe = client.pipeline()
        pipe.scripts.add(client.register_script("return 1"))
        # A script is loaded first.
        cutter.lose(b"SCRIPT")
        return pipe.incr("k").execute()

    def sleep(seconds: float) -> None:
        in_use.append(len(pools[0]._in_use_connections))

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            assert await start(client) == [1]

    monkeypatch.setattr(clock, "sleep", sleep)

    if is_async:
        with app.app_context():
            asyncio.run(use())
    else:
        assert start(app.extensions["redis"]["REDIS"]) == [1]

    assert in_use == [0]


# Clusters


def test_replay_on_another_node(fresh_cluster: Cluster) -> None:
    """A pipeline is replayed on the nodes that serve its keys now, also if the caller
    named a node.
    """
    client = make(URL=f"redis+cluster://{fresh_cluster.address}", RETRY_DEADLINE=30)
    client.set("k", 1)
    node = client.get_node_from_key("k")
    client.wait(1, 1000, target_nodes=node)
    pipe = client.pipeline(transaction=False)
    pipe.execute_command("GET", "k", target_nodes=node)
    fresh_cluster.master_of("k").kill()
    assert pipe.execute() == [b"1"]


def count_slot_reads(cluster: Cluster) -> int:
    """How often clients have asked the nodes of a cluster about it."""
    count = 0

    for node in cluster.nodes:
        with node.admin() as admin:
            for name, stats in admin.info("commandstats").items():
                count += stats["calls"] if name.startswith("cmdstat_cluster") else 0

    return count


@pytest.mark.parametrize(
    ("name", "is_async"), [("incr", False), ("watch", False), ("incr", True)]
)
def test_slots_before_a_replay(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, name: str, is_async: bool
) -> None:
    """Before a pipeline or its WATCH is sent again, the client asks which nodes serve
    its keys.
    """
    app = make_app(
        URL=f"redis+cluster://{cluster.address}", SOCKET_TIMEOUT=0.3, RETRY_DEADLINE=20
    )
    node = cluster.master_of("k")
    counts: list[int] = []

    def resume(seconds: float) -> None:
        node.resume()
        counts.append(count_slot_reads(cluster))

    async def resume_async(seconds: float) -> None:
        resume(seconds)

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            await client.set("k", 1)
            node.pause()
            await client.pipeline(transaction=True).incr("k").execute()

    for library, sleep in (("time", resume), ("asyncio", resume_async)):
        fake = types.SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
        monkeypatch.setattr(f"flask_and_redis.deadline.deadline.{library}", fake)

    try:
        if is_async:
            with app.app_context():
                asyncio.run(use())
        else:
            client: t.Any = app.extensions["redis"]["REDIS"]
            client.set("k", 1)
            node.pause()

            with client.pipeline(transaction=True) as pipe:
                getattr(pipe, name)("k")
                pipe.execute()

            client.disconnect_connection_pools()
    finally:
        node.resume()

    assert count_slot_reads(cluster) > counts[0]


def test_no_slots_before_the_first_attempt(cluster: Cluster) -> None:
    """Before its first WATCH is sent, an asynchronous client does not ask."""
    app = make_app(URL=f"redis+cluster://{cluster.address}")

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            await client.set("k", 1)
            count = count_slot_reads(cluster)

            async with client.pipeline(transaction=True) as pipe:
                await pipe.watch("k")
                assert count_slot_reads(cluster) == count

    with app.app_context():
        asyncio.run(use())


def test_another_default_node(cluster: Cluster) -> None:
    """A command without a key is retried on another node if its node hangs."""
    client = make(
        URL=f"redis+cluster://{cluster.address}",
        SOCKET_TIMEOUT=0.3,
        # Its replica takes longer to become the master.
        RETRY_DEADLINE=10,
    )
    default = client.get_default_node()
    node = next(node for node in cluster.nodes if node.port == default.port)
    node.pause()

    try:
        assert client.time()
        assert client.get_default_node() != default
    finally:
        node.resume()


# Probes


def recording(base: t.Any, made: list[t.Any]) -> type[t.Any]:
    """A class of connections that adds each one to a list."""

    class Recorded(base):  # type: ignore[misc]
        def __init__(self, **kwargs: t.Any) -> None:
            super().__init__(**kwargs)
            made.append(self)

    return Recorded


@pytest.mark.parametrize("is_async", [False, True])
def test_probe_is_closed(own_server: Server, is_async: bool) -> None:
    """The connection of a probe is closed, and does not wait to be collected."""
    made: list[t.Any] = []
    base = redis.asyncio.Connection if is_async else redis.Connection
    app = make_app(URL=own_server.url, RETRY_DEADLINE=0.2)

    def probe(client: t.Any) -> None:
        client.connection_pool.connection_class = recording(base, made)
        take_down(deadline_of(client))

    if is_async:

        async def use() -> None:
            async with app.extensions["manager"].get_async() as client:
                await client.ping()
                probe(client)

                while deadline_of(client).down:
                    with contextlib.suppress(redis.TimeoutError):
                        assert await client.ping()

        with app.app_context():
            asyncio.run(use())
    else:
        client: t.Any = app.extensions["redis"]["REDIS"]
        client.ping()
        probe(client)
        wait_until(client.ping, "the server is back")

    assert made
    wait_until(lambda: own_server.count_clients() <= 1, "the probe's is closed")


@pytest.mark.parametrize(("timeout", "expected"), [(5, 1), (0.7, 0.7)])
def test_timeouts_of_probes(server: Server, timeout: float, expected: float) -> None:
    """A probe waits for a second, or less if the prefix's own timeouts are shorter. It
    does not try again by itself.
    """
    made: list[t.Any] = []
    client = make(
        URL=server.url, SOCKET_TIMEOUT=timeout, SOCKET_CONNECT_TIMEOUT=timeout
    )
    client.ping()
    client.connection_pool.connection_class = recording(redis.Connection, made)
    take_down(deadline_of(client))
    wait_until(client.ping, "the server is back")
    probe = made[0]
    assert (probe.socket_timeout, probe.socket_connect_timeout) == (expected, expected)
    assert probe.retry.get_retries() == 0
