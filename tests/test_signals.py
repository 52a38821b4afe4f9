"""What the signals and the log tell about commands and outages."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import contextlib
import enum
import gc
import logging
import re
import threading
import typing as t
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from blinker import Signal
from ephemeral_port_reserve import reserve
from flask import Flask

from flask_and_redis import command_finished
from flask_and_redis import prefix_down
from flask_and_redis import prefix_up
from flask_and_redis.deadline import outage
from flask_and_redis.deadline.report import name_of
from flask_and_redis.deadline.report import note_retry
from flask_and_redis.deadline.report import Reporter
from flask_and_redis.deadline.report import watch_retries

from .cutter import Cutter
from .objects import deadline_of
from .servers import Cluster
from .servers import Server
from .servers import wait_until
from .test_attempts import Clock
from .test_health import make_manager


class Sent(t.NamedTuple):
    """One signal that was sent."""

    signal: Signal
    app: Flask
    values: dict[str, t.Any]


@contextlib.contextmanager
def receiving(*signals: Signal) -> cabc.Iterator[list[Sent]]:
    """Yield a list to which each sent signal is added."""
    sent: list[Sent] = []

    with contextlib.ExitStack() as stack:
        for signal in signals:

            def receive(app: Flask, _signal: Signal = signal, **values: t.Any) -> None:
                sent.append(Sent(_signal, app, values))

            stack.enter_context(signal.connected_to(receive))

        yield sent


def names(sent: list[Sent]) -> list[tuple[str, ...]]:
    return [each.values["commands"] for each in sent]


def test_commands(app: Flask, server: Server) -> None:
    """The signal of a command has its prefix, its name and how long it took."""
    manager = make_manager(app, CACHE_URL=server.url)

    with app.app_context(), receiving(command_finished) as sent:
        cache: t.Any = manager.get("CACHE")
        cache.set("secret-key", "secret-value")
        cache.get("secret-key")

        with pytest.raises(redis.ResponseError):
            cache.incr("secret-key")

    assert names(sent) == [("SET",), ("GET",), ("INCRBY",)]
    assert {each.app for each in sent} == {app}

    for each in sent:
        assert each.values.keys() == {
            *("prefix", "commands", "seconds", "tries", "error")
        }
        assert (each.values["prefix"], each.values["tries"]) == ("CACHE", 1)
        assert 0 < each.values["seconds"] < 30

    assert [each.values["error"] for each in sent[:2]] == [None, None]
    assert isinstance(sent[2].values["error"], redis.ResponseError)


def test_other_apps(app: Flask, server: Server) -> None:
    """The sender is the app, so that a receiver can choose one."""
    other = Flask("other")
    manager = make_manager(app, REDIS_URL=server.url)
    other.config["REDIS_URL"] = server.url
    manager.init_app(other)
    sent: list[Flask] = []

    def receive(app: Flask, **values: t.Any) -> None:
        sent.append(app)

    with command_finished.connected_to(receive, sender=other):
        for each in (app, other):
            with each.app_context():
                manager.get().set("k", "v")

    assert sent == [other]


class Command(str, enum.Enum):
    """What the client library sends is the value, and not the name."""

    STOP = "shutdown"


@pytest.mark.parametrize(
    ("first", "name"),
    [
        ("get", "GET"),
        (b"Get", "GET"),
        ("SET key value", "SET"),
        ("CLIENT SETNAME", "CLIENT SETNAME"),
        ("config get password", "CONFIG GET"),
        ("OBJECT ENCODING key", "OBJECT ENCODING"),
        (b"\xff", "\ufffd"),
        (Command.STOP, "SHUTDOWN"),
        (memoryview(b"get"), "GET"),
        ("", ""),
        (1, "1"),
    ],
)
def test_names_without_arguments(first: object, name: str) -> None:
    """redis-py takes a whole command in one text. Its arguments are left out."""
    assert name_of(first) == name


def test_pipelines_locks_and_scripts(app: Flask, server: Server) -> None:
    """A pipeline sends one signal, with the names of all its commands. The commands of
    locks and scripts send signals, too.
    """
    manager = make_manager(app, REDIS_URL=server.url)

    with app.app_context(), receiving(command_finished) as sent:
        client: t.Any = manager.get()

        with client.pipeline() as pipeline:
            pipeline.set("k", "v").get("k").execute()
            pipeline.execute()
            # The second use of the same pipeline.
            pipeline.get("k").execute()

        assert names(sent) == [("SET", "GET"), ("GET",)]
        del sent[:]

        with client.lock("lock", timeout=10):
            pass

        assert ("SET",) in names(sent) and ("EVALSHA",) in names(sent)
        del sent[:]
        script: t.Any = client.register_script("return redis.call('get', KEYS[1])")
        assert script(keys=["k"]) == b"v"
        assert ("EVALSHA",) in names(sent)
        del sent[:]

        with client.pipeline() as pipeline:
            pipeline.watch("k")
            pipeline.multi()
            pipeline.set("k", "w")
            pipeline.execute()

        assert names(sent) == [("WATCH",), ("SET",)]


def test_async(app: Flask, server: Server) -> None:
    """The same for asyncio."""
    manager = make_manager(app, REDIS_URL=server.url)

    async def use() -> None:
        async with manager.get_async() as client:
            await client.set("k", "v")
            pipeline: t.Any = client.pipeline()
            await pipeline.execute()
            await pipeline.get("k").incr("n").execute()
            await pipeline.watch("k")
            pipeline.multi()
            await pipeline.get("k").execute()

            with pytest.raises(redis.ResponseError):
                await client.incr("k")

    with app.app_context(), receiving(command_finished) as sent:
        asyncio.run(use())

    assert names(sent) == [
        *[("SET",), ("GET", "INCRBY"), ("WATCH",), ("GET",), ("INCRBY",)]
    ]
    assert [each.values["tries"] for each in sent] == [1] * 5
    assert isinstance(sent[-1].values["error"], redis.ResponseError)


class Counter:
    """Counts commands with a method."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, app: Flask, **values: t.Any) -> None:
        self.count += 1


class Slotted:
    """Counts commands, and cannot be referred to weakly."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, app: Flask, **values: t.Any) -> int:
        self.count += 1
        # Nobody needs it, as with the signal's own send().
        return self.count


def test_receivers_come_and_go(app: Flask, server: Server) -> None:
    """The receivers that are connected when a command ends are called, whatever they
    are. Those that nothing refers to any more are not.
    """
    manager = make_manager(app, REDIS_URL=server.url)
    counter, forgotten, slotted, other = Counter(), Counter(), Slotted(), Counter()

    with app.app_context():
        client = manager.get()
        command_finished.connect(counter.add, sender=app)
        command_finished.connect(other.add, sender=Flask("other"))
        client.get("k")
        command_finished.connect(forgotten.add)
        command_finished.connect(slotted, weak=False)
        client.get("k")
        reference = weakref.ref(forgotten)
        del forgotten
        gc.collect()
        assert reference() is None
        client.get("k")
        command_finished.disconnect(slotted)
        client.get("k")
        command_finished.disconnect(counter.add)
        client.get("k")

    assert (counter.count, slotted.count, other.count) == (4, 2, 0)


def test_forgotten_receiver(app: Flask, server: Server) -> None:
    """A receiver that nothing refers to any more does not keep others from a call."""
    manager = make_manager(app, REDIS_URL=server.url)
    called: list[int] = []

    def receiver(number: int) -> cabc.Callable[..., None]:
        return lambda app, **values: called.append(number)

    receivers = {number: receiver(number) for number in range(3)}

    for number in receivers:
        command_finished.connect(receivers[number])

    with app.app_context():
        manager.get().get("k")
        # The others come after this one.
        del receivers[called[0]]
        gc.collect()
        manager.get().get("k")

    assert sorted(called[:3]) == [0, 1, 2]
    assert called[3:] == called[1:3]


def test_coroutine_function(app: Flask, server: Server) -> None:
    """A receiver that is a coroutine function is an error, as in blinker, unless the
    signal is muted.
    """
    manager = make_manager(app, REDIS_URL=server.url)

    async def receive(app: Flask, **values: t.Any) -> None:
        raise AssertionError

    with app.app_context(), command_finished.connected_to(receive):
        with pytest.raises(RuntimeError, match="cannot be a coroutine function"):
            manager.get().get("k")

        with command_finished.muted():
            assert manager.get().get("k") is None


def test_cluster(app: Flask, cluster: Cluster) -> None:
    """The same in a cluster."""
    manager = make_manager(app, REDIS_URL=f"redis+cluster://{cluster.address}")

    with app.app_context():
        client: t.Any = manager.get()
        client.set("k", "v")

        with receiving(command_finished) as sent:
            client.set("k", "v")
            client.pipeline().get("k").get("l").execute()

    assert names(sent) == [("SET",), ("GET", "GET")]


def test_tries(app: Flask, cutter: Cutter) -> None:
    """Each try is counted, of commands and of pipelines."""
    manager = make_manager(app, REDIS_URL=cutter.url)

    with app.app_context(), receiving(command_finished) as sent:
        client: t.Any = manager.get()
        cutter.lose(b"first", 2)
        client.set("first", "v")
        cutter.lose(b"second", 1)
        client.pipeline().set("second", "v").execute()

    assert [each.values["tries"] for each in sent] == [3, 2]
    assert names(sent) == [("SET",), ("SET",)]
    assert [each.values["error"] for each in sent] == [None, None]


def test_own_retries_are_not_told(app: Flask, server: Server) -> None:
    """A prefix with a Retry object of redis-py has no deadline and no signals."""
    retry: t.Any = redis.retry.Retry(redis.backoff.NoBackoff(), 1)
    manager = make_manager(app, REDIS_URL=server.url, REDIS_RETRY=retry)

    with app.app_context(), receiving(command_finished) as sent:
        client: t.Any = manager.get()
        assert client.set("k", "v")
        assert client.pipeline().get("k").execute() == [b"v"]

    assert sent == []


def test_outage(
    app: Flask, own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage causes three log lines and two signals, although many threads fail."""
    manager = make_manager(app, REDIS_URL=own_server.url, REDIS_RETRY_DEADLINE=0.3)
    done = threading.Event()

    def work() -> None:
        with app.app_context():
            while not done.is_set():
                with contextlib.suppress(redis.RedisError):
                    manager.get().set("k", "v")

                done.wait(0.01)

    def is_down() -> bool:
        with app.app_context():
            return manager.stats()["REDIS"].down

    with ThreadPoolExecutor(8) as threads, receiving(prefix_down, prefix_up) as sent:
        for _ in range(8):
            threads.submit(work)

        try:
            own_server.kill()
            wait_until(is_down, "the prefix is down", timeout=30)
            own_server.start()
            wait_until(lambda: not is_down(), "the prefix is up", timeout=30)
        finally:
            done.set()

    records = [each for each in caplog.records if each.name == "flask_and_redis"]
    levels = [each.levelno for each in records]
    assert levels == [logging.WARNING, logging.ERROR, logging.WARNING]
    where = f"The Redis 'REDIS' ({own_server.address}) "
    texts = [each.getMessage() for each in records]
    assert all(text.startswith(where) for text in texts)
    assert "commands are retried: " in texts[0]
    assert "is down." in texts[1]
    assert "is back. It was down for " in texts[2]
    assert [each.signal for each in sent] == [prefix_down, prefix_up]
    assert {each.app for each in sent} == {app}
    assert sent[0].values["prefix"] == sent[1].values["prefix"] == "REDIS"
    assert isinstance(sent[0].values["error"], redis.RedisError)
    assert sent[1].values["seconds"] > 0


def test_shard(app: Flask, cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """A cluster is down while one of its shards is. The log says which one."""
    manager = make_manager(
        app,
        REDIS_URL=f"redis+cluster://{cluster.address}",
        REDIS_SOCKET_TIMEOUT=0.3,
        REDIS_RETRY_DEADLINE=0.5,
    )
    node = cluster.master_of("k")

    with app.app_context(), receiving(prefix_down, prefix_up) as sent:
        client: t.Any = manager.get()
        client.set("k", "v")
        node.pause()

        try:
            with pytest.raises(redis.RedisError):
                client.get("k")
        finally:
            node.resume()

        def is_back() -> bool:
            with contextlib.suppress(redis.RedisError):
                client.get("k")

            return not manager.stats()["REDIS"].down

        wait_until(is_back, "the shard is back", timeout=30)

    assert [each.signal for each in sent] == [prefix_down, prefix_up]
    where = rf"is partly down, at \S+:{node.port}\. Until it answers"
    assert re.search(where, caplog.text)


def find_neighbour(cluster: Cluster, key: str) -> tuple[Server, str]:
    """The master of a key, and another key that it serves."""
    master = cluster.master_of(key)
    keys = (f"{key}{number}" for number in range(100))
    return master, next(each for each in keys if cluster.master_of(each) is master)


def allow_failover(cluster: Cluster, is_allowed: bool) -> None:
    for replica in cluster.nodes[cluster.MASTERS :]:
        with replica.admin() as admin:
            answer = "no" if is_allowed else "yes"
            admin.config_set("cluster-replica-no-failover", answer)


@pytest.mark.parametrize("stop", [Server.kill, Server.pause])
def test_failover_of_a_shard(
    app: Flask,
    fresh_cluster: Cluster,
    caplog: pytest.LogCaptureFixture,
    stop: t.Callable[[Server], None],
) -> None:
    """A shard is back once another master serves its slots."""
    manager = make_manager(
        app,
        REDIS_URL=f"redis+cluster://{fresh_cluster.address}",
        REDIS_RETRY_DEADLINE=0.3,
    )
    master, neighbour = find_neighbour(fresh_cluster, "k")

    with app.app_context(), receiving(prefix_down, prefix_up) as sent:
        client: t.Any = manager.get()
        client.get("k")
        allow_failover(fresh_cluster, False)
        stop(master)

        with pytest.raises(redis.RedisError):
            client.get("k")

        assert [each.signal for each in sent] == [prefix_down]
        allow_failover(fresh_cluster, True)

        def is_served() -> bool:
            with contextlib.suppress(
                redis.RedisError, redis.exceptions.RedisClusterException
            ):
                # Of another slot than the command that failed.
                return client.get(neighbour) is None

            return False

        wait_until(is_served, "the new master serves", timeout=30)
        assert not manager.stats()["REDIS"].down

    assert [each.signal for each in sent] == [prefix_down, prefix_up]
    assert " is back. It was down for " in caplog.text


def test_failover_of_a_shard_in_asyncio(app: Flask, fresh_cluster: Cluster) -> None:
    """The same for an asynchronous client. No command is sent before a probe has had
    an answer.
    """
    manager = make_manager(
        app,
        REDIS_URL=f"redis+cluster://{fresh_cluster.address}",
        REDIS_RETRY_DEADLINE=0.3,
    )
    master, neighbour = find_neighbour(fresh_cluster, "k")

    async def use(client: t.Any) -> None:
        await client.get("k")
        allow_failover(fresh_cluster, False)
        master.pause()

        with pytest.raises(redis.RedisError):
            await client.get("k")

        with receiving(command_finished) as refused:
            commands = [client.get("k") for _ in range(5)]
            await asyncio.gather(*commands, return_exceptions=True)

        assert [each.values["tries"] for each in refused] == [0] * 5
        allow_failover(fresh_cluster, True)
        is_served = False

        for _ in range(300):
            with contextlib.suppress(
                redis.RedisError, redis.exceptions.RedisClusterException
            ):
                is_served = await client.get(neighbour) is None
                break

            await asyncio.sleep(0.1)

        assert is_served

    async def main() -> None:
        async with manager.get_async() as client:
            await use(client)

    with app.app_context(), receiving(prefix_down, prefix_up) as sent:
        asyncio.run(main())

    assert [each.signal for each in sent] == [prefix_down, prefix_up]


def test_several_shards(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first shard that goes down and the last one that comes back are
    reported. A shard whose outage is forgotten is not reported as back.
    """
    clock = Clock()
    monkeypatch.setattr(outage, "time", clock)
    manager = make_manager(app, REDIS_URL="fakeredis://")
    error = redis.ConnectionError("down")

    with app.app_context(), receiving(prefix_down, prefix_up) as sent:
        deadline = deadline_of(manager.get())
        deadline.go_down("a:1", error)
        deadline.go_down("b:1", error)
        deadline.go_up(["a:1"])
        assert [each.signal for each in sent] == [prefix_down]
        deadline.go_up(["b:1"])
        deadline.go_up(["b:1"])
        assert [each.signal for each in sent] == [prefix_down, prefix_up]
        del sent[:]
        deadline.go_down("a:1", error)
        clock.now += 61
        deadline.go_down("b:1", error)
        # Forgets only the first one.
        assert deadline.find_outage(["b:1"]) is not None
        deadline.go_up(["b:1"])
        assert [each.signal for each in sent] == [prefix_down, prefix_up]
        del sent[:]
        deadline.go_down("a:1", error)
        deadline.go_down("b:1", error)
        clock.now += 61
        assert deadline.find_outage(["c:1"]) is None
        assert [each.signal for each in sent] == [prefix_down]
        deadline.go_down("a:1", error)
        assert [each.signal for each in sent] == [prefix_down, prefix_down]


def test_refused_command(
    app: Flask, own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The log tells why a command is sent again that a demoted master has refused."""
    manager = make_manager(app, REDIS_URL=own_server.url)

    with own_server.admin() as admin:
        admin.execute_command("REPLICAOF", "127.0.0.1", reserve())

    with app.app_context(), receiving(command_finished) as sent:
        for use in (manager.get(), manager.get().pipeline()):
            with pytest.raises(redis.exceptions.ReadOnlyError):
                use.set("k", "v")
                t.cast(t.Any, use).execute()

    assert [each.values["tries"] for each in sent] == [2, 2]
    (record,) = [each for each in caplog.records if each.name == "flask_and_redis"]
    assert "commands are retried: You can't write against" in record.getMessage()


def test_receiver_that_fails(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """A command raises its own error, and not that of a receiver of an outage. Those of
    other receivers reach the caller.
    """
    url = f"redis://127.0.0.1:{reserve()}"
    manager = make_manager(app, REDIS_URL=url, REDIS_RETRY_DEADLINE=0.1)

    def fail(app: Flask, **values: t.Any) -> None:
        raise LookupError("of a receiver")

    with app.app_context():
        with prefix_down.connected_to(fail), pytest.raises(redis.ConnectionError):
            manager.get().get("k")

        assert "LookupError: of a receiver" in caplog.text

        with command_finished.connected_to(fail), pytest.raises(LookupError):
            manager.get().get("k")


class Quotes(redis.Redis):
    """A client whose errors quote the password."""

    def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        raise redis.ConnectionError("The password is s3cret.")


def test_secrets(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """No password is in a signal or in the log."""
    manager = make_manager(
        app,
        REDIS_URL="redis://:s3cret@localhost",
        REDIS_CLASS=Quotes,
        REDIS_RETRY_DEADLINE=0.1,
    )
    told: list[str] = []

    def receive(app: Flask, error: Exception, **values: t.Any) -> None:
        told.append(str(error))

    with app.app_context(), prefix_down.connected_to(receive):
        with pytest.raises(redis.ConnectionError):
            manager.get().get("k")

    assert told == ["The password is ***."]
    assert "commands are retried: The password is ***." in caplog.text
    assert "commands fail: The password is ***." in caplog.text


def test_down_commands(app: Flask) -> None:
    """A command that fails because the prefix is down was not tried."""
    url = f"redis://127.0.0.1:{reserve()}"
    manager = make_manager(app, REDIS_URL=url, REDIS_RETRY_DEADLINE=0.1)

    with app.app_context(), receiving(command_finished) as sent:
        for _ in range(2):
            with pytest.raises(redis.ConnectionError):
                manager.get().get("k")

    assert names(sent) == [("GET",)] * 2
    assert sent[0].values["tries"] > 1
    assert sent[1].values["tries"] == 0
    assert isinstance(sent[1].values["error"], redis.ConnectionError)


def test_log_quotes_nothing(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """The log has no text of errors that are not the library's, and no control
    characters.
    """
    make_manager(app, REDIS_URL="redis://h")
    reporter = Reporter(app.extensions["redis"].get_spec("REDIS"), weakref.ref(app))
    reporter.go_down(None, LookupError("s3cret"))
    reporter.go_up()
    reporter.go_down(None, redis.ConnectionError("\x1b[31mred"))
    assert "s3cret" not in caplog.text and "LookupError" in caplog.text
    assert "\x1b" not in caplog.text and "[31mred" in caplog.text


def test_seconds_of_an_outage(
    app: Flask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log and the signal tell how long an outage took."""
    clock = Clock()
    monkeypatch.setattr("flask_and_redis.deadline.report.time", clock)
    make_manager(app, REDIS_URL="redis://h")
    reporter = Reporter(app.extensions["redis"].get_spec("REDIS"), weakref.ref(app))

    with receiving(prefix_up) as sent:
        reporter.go_down(None, redis.ConnectionError("lost"))
        clock.now += 2.5
        reporter.go_up()

    assert [each.values["seconds"] for each in sent] == [2.5]
    assert "is back. It was down for 2.5 seconds." in caplog.text


def test_retries_are_told_once(
    app: Flask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one thread logs a retry, others do not. Retries that are at most 10 s apart
    are logged once.
    """
    clock = Clock()
    monkeypatch.setattr("flask_and_redis.deadline.report.time", clock)
    make_manager(app, REDIS_URL="redis://h")
    reporter = Reporter(app.extensions["redis"].get_spec("REDIS"), weakref.ref(app))

    with reporter._retrying:
        reporter.retry(redis.ConnectionError("first"))

    assert not caplog.records
    reporter.retry(redis.ConnectionError("second"))
    clock.now += 10
    reporter.retry(redis.ConnectionError("third"))
    assert [each.getMessage()[-6:] for each in caplog.records] == ["second"]
    clock.now += 10.25
    reporter.retry(redis.ConnectionError("fourth"))
    assert len(caplog.records) == 2


def test_retries_of_a_block() -> None:
    """Only the retries in a block are collected."""
    with watch_retries() as retries:
        note_retry()

    note_retry()
    assert retries == [True]
