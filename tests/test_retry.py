from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import valkey
from flask import Flask
from redis.backoff import NoBackoff
from redis.retry import Retry

from flask_and_redis import current_redis
from flask_and_redis import RedisManager
from flask_and_redis.deadline.pipelines import PipelineWithDeadline

from .cutter import Cutter
from .objects import deadline_of
from .objects import take_down
from .scripted import Scripted
from .servers import Cluster
from .servers import Sentinels
from .servers import Server
from .servers import wait_until


class Kept(redis.Redis):
    """An application's own client class, which records each attempt of each command."""

    def __init__(self, **kwargs: t.Any) -> None:
        super().__init__(**kwargs)
        self.tries: list[str] = []

    def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        self.tries.append(args[0])
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


def make(**config: t.Any) -> t.Any:
    """The client of prefix REDIS with these settings."""
    app = Flask("retry")
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})
    RedisManager(app)
    return app.extensions["redis"]["REDIS"]


def is_back(client: t.Any) -> bool:
    """Whether a command succeeds on a prefix that was down."""
    try:
        return client.get("k") is None
    except (redis.ConnectionError, redis.TimeoutError, valkey.TimeoutError):
        return False


class Unrelated:
    """A client class that derives from no library's. Its first command fails."""

    def __init__(self, host: str) -> None:
        self.errors: list[Exception] = [
            redis.ConnectionError("The connection is lost.")
        ]

    def execute_command(self, *args: t.Any) -> str:
        if self.errors:
            raise self.errors.pop()

        return "done"


def test_class_of_no_library() -> None:
    """A class that derives from no library's raises the errors of redis-py."""
    client = make(HOST="h", CLASS=Unrelated)
    assert client.execute_command("PING") == "done"
    assert client.errors == []


def test_restart_is_ridden_out(own_server: Server) -> None:
    """A command that is sent while the server is down succeeds once it is back."""
    client = make(URL=own_server.url)
    client.set("k", 1)
    own_server.stop()

    with own_server.starting_soon():
        assert client.incr("k") == 1


@pytest.mark.parametrize("transaction", [True, False])
def test_pipelines_are_replayed(own_server: Server, transaction: bool) -> None:
    """A pipeline that a restart interrupts is replayed as a whole, with its scripts."""
    client = make(URL=own_server.url)
    script = client.register_script("return redis.call('incr', KEYS[1])")
    script(keys=["n"])

    with client.pipeline(transaction=transaction) as pipe:
        pipe.set("dropped", 1)
        pipe.reset()
        pipe.set("a", 1).incr("a")
        script(keys=["n"], client=pipe)
        own_server.stop()

        with own_server.starting_soon():
            assert pipe.execute() == [True, 2, 1]

        # The pipeline can be used again.
        assert pipe.get("a").get("dropped").execute() == [b"2", None]
        assert pipe.execute() == []

    assert client.pipeline().set("b", 1).get("b").execute() == [True, b"1"]
    own_server.stop()
    pipe = client.pipeline(transaction=transaction).set("b", 2)

    with own_server.starting_soon():
        assert pipe.execute() == [True]


def test_lock_over_a_restart(own_server: Server) -> None:
    """A lock, which uses a script, is acquired once the server is back."""
    client = make(URL=own_server.url)
    client.ping()
    own_server.stop()

    with own_server.starting_soon(), client.lock("lock", timeout=5):
        pass


def test_watch_is_not_replayed(cutter: Cutter) -> None:
    """A transaction after WATCH is not replayed, because it depends on values that were
    read. The caller gets the error.
    """
    client = make(URL=cutter.url)

    with client.pipeline() as pipe:
        pipe.watch("k")
        assert pipe.get("k") is None
        pipe.multi()
        pipe.incr("k")
        cutter.lose(b"EXEC")

        with pytest.raises(redis.ConnectionError):
            pipe.execute()

        # The next transaction of the same pipeline is replayed.
        cutter.lose(b"EXEC")
        assert pipe.incr("k").execute() == [3]

    def increment(pipe: t.Any) -> None:
        pipe.multi()
        pipe.incr("k")

    assert client.transaction(increment, "k") == [4]


@pytest.mark.parametrize("is_async", [False, True])
def test_failed_watch_is_forgotten(own_server: Server, is_async: bool) -> None:
    """After a WATCH that failed, a pipeline has a deadline as before."""
    app = Flask("retry")
    app.config.update(REDIS_URL=own_server.url)
    manager = RedisManager(app)
    client = app.extensions["redis"]["REDIS"]

    def use() -> None:
        pipe = client.pipeline()

        with pytest.raises(redis.ResponseError):
            pipe.watch()

        pipe.set("k", 1)
        own_server.stop()

        with own_server.starting_soon():
            assert pipe.execute() == [True]

    async def use_async() -> None:
        async with manager.get_async() as client:
            pipe: t.Any = client.pipeline()

            with pytest.raises(redis.ResponseError):
                await pipe.watch()

            pipe.set("k", 1)
            own_server.stop()

            with own_server.starting_soon():
                assert await pipe.execute() == [True]

    with app.app_context():
        asyncio.run(use_async()) if is_async else use()


def test_unwatched_is_replayed(cutter: Cutter) -> None:
    """After a reset, a pipeline watches no keys, so it is replayed, also if it had
    nothing to execute meanwhile.
    """
    client = make(URL=cutter.url)

    with client.pipeline() as pipe:
        pipe.watch("k")
        pipe.reset()
        assert pipe.execute() == []
        cutter.lose(b"EXEC")
        assert pipe.incr("k").execute() == [2]


def test_empty_pipeline_tells_nothing(own_server: Server) -> None:
    """An empty pipeline sends nothing, so a prefix that is down stays down."""
    client = make(URL=own_server.url)
    deadline = deadline_of(client)
    take_down(deadline)
    own_server.stop()
    assert client.pipeline().execute() == []
    assert deadline.down


def test_lost_reply_is_asked_for_again(cutter: Cutter) -> None:
    """By default, a command is sent again if its reply was lost: INCR counts twice."""
    client = make(URL=cutter.url)
    cutter.lose(b"INCR")
    assert client.incr("k") == 2
    cutter.lose(b"INCR", times=2)
    assert client.pipeline().incr("k").execute() == [5]


def test_retry_0_sends_once(cutter: Cutter) -> None:
    """With RETRY = 0, a command that may have been sent is not sent again."""
    client = make(URL=cutter.url, RETRY="0")
    cutter.lose(b"INCR")

    with pytest.raises(redis.ConnectionError):
        client.incr("k")

    assert client.get("k") == b"1"
    cutter.lose(b"INCR")

    with pytest.raises(redis.ConnectionError):
        client.pipeline().incr("k").execute()

    assert client.get("k") == b"2"


def test_shutdown(own_server: Server) -> None:
    """A server that starts again is not shut down again."""
    client = make(URL=own_server.url)
    client.ping()

    with own_server.starting_soon():
        client.shutdown(nosave=True)

    assert own_server.alive
    assert client.ping()


def test_shutdown_in_a_pipeline(own_server: Server) -> None:
    """The same with other commands."""
    client = make(URL=own_server.url)
    pipeline = client.pipeline(transaction=False).get("k")

    with own_server.starting_soon(), pytest.raises(redis.ConnectionError):
        pipeline.execute_command("SHUTDOWN", "NOSAVE").execute()

    assert own_server.alive
    assert client.ping()


def test_shutdown_behind_sentinels(sentinels: Sentinels) -> None:
    """Nor is the next master."""
    client = make(URL=f"redis+sentinel://{sentinels.address}/{sentinels.SERVICE}")
    client.set("k", "v")
    client.shutdown(nosave=True)
    wait_until(lambda: client.set("k", "v"), "the failover", timeout=30)
    assert [server.alive for server in sentinels.servers].count(True) == 2


def test_retry_0_with_another_library(cutter: Cutter) -> None:
    """RETRY = 0 works the same with the errors of valkey-py."""
    client = make(URL=cutter.url, CLASS="valkey.Valkey", RETRY=0)
    cutter.lose(b"INCR")

    with pytest.raises(valkey.ConnectionError):
        client.incr("k")

    assert client.get("k") == b"1"


def test_retry_0_while_an_error_is_handled(cutter: Cutter, own_server: Server) -> None:
    """Retries of a command ignore an error that the caller is already handling."""
    first = make(URL=cutter.url, RETRY=0)
    second = make(URL=own_server.url, RETRY=0)
    own_server.stop()
    cutter.lose(b"INCR")

    try:
        first.incr("k")
    except redis.ConnectionError:
        with own_server.starting_soon():
            assert second.incr("k") == 1


def test_retry_0_in_a_cluster(fresh_cluster: Cluster) -> None:
    """With RETRY = 0, a cluster client also retries connecting, but does not send a
    command again.
    """
    client = make(URL=f"redis+cluster://{fresh_cluster.address}", RETRY=0)
    client.set("k", 0)
    owner = fresh_cluster.master_of("k")
    owner.pause()
    timer = threading.Timer(1.5, owner.kill)
    timer.start()

    # The command was sent to a server that did not answer.
    with pytest.raises((redis.TimeoutError, redis.exceptions.RedisClusterException)):
        client.incr("k")

    timer.join()
    deadline = time.monotonic() + 20

    while True:
        try:
            # Now no node serves the key until the replica takes over.
            assert client.incr("k") in (1, 2)
            break
        except (redis.RedisError, redis.exceptions.RedisClusterException):
            assert time.monotonic() < deadline


def test_retry_counts(cutter: Cutter) -> None:
    """With RETRY = n, a command that may have been sent is sent again up to n times."""
    client = make(URL=cutter.url, RETRY=2)
    cutter.lose(b"INCR", times=2)
    assert client.incr("k") == 3
    cutter.lose(b"INCR", times=3)

    with pytest.raises(redis.ConnectionError):
        client.incr("k")

    assert client.get("k") == b"6"


def test_retry_0_still_connects(own_server: Server) -> None:
    """With RETRY = 0, connecting is still retried."""
    client = make(URL=own_server.url, RETRY=0)
    own_server.stop()

    with own_server.starting_soon():
        assert client.incr("k") == 1


def test_one_try_while_down(own_server: Server) -> None:
    """Once a command has reached its deadline, later commands are sent only if a probe
    finds that the server is back.
    """
    client = make(URL=own_server.url, CLASS=Kept, RETRY_DEADLINE="0.2")
    own_server.stop()

    with pytest.raises(redis.ConnectionError):
        client.get("k")

    assert len(client.tries) > 2
    client.tries.clear()
    pipe = client.pipeline().get("k")

    for use in (lambda: client.get("k"), pipe.execute):
        with pytest.raises(redis.ConnectionError):
            use()

    assert client.tries == []
    assert len(pipe) == 0

    own_server.start()
    client.tries.clear()
    wait_until(lambda: client.get("k") is None, "the server is back")
    assert client.tries == ["GET"]
    own_server.stop()

    with pytest.raises(redis.ConnectionError):
        client.get("k")

    assert len(client.tries) > 3


def test_deadline_0(own_server: Server) -> None:
    """With RETRY_DEADLINE = 0, a command has one attempt."""
    client = make(URL=own_server.url, CLASS=Kept, RETRY_DEADLINE=0)
    own_server.stop()

    with pytest.raises(redis.ConnectionError):
        client.get("k")

    assert client.tries == ["GET"]
    assert deadline_of(client).down


def test_deadline_0_sends_once(cutter: Cutter) -> None:
    """With RETRY_DEADLINE = 0, a command whose reply was lost is not sent again."""
    client = make(URL=cutter.url, RETRY_DEADLINE=0)
    client.ping()
    cutter.lose(b"INCR")

    with pytest.raises(redis.ConnectionError):
        client.incr("k")

    assert client.get("k") == b"1"


def test_cut_late_is_not_down(own_server: Server) -> None:
    """If a command blocked for longer than the deadline and then lost its connection,
    the prefix is not down. Other commands are retried for the whole deadline.
    """
    client = make(URL=own_server.url, SOCKET_TIMEOUT=10, RETRY_DEADLINE=0.4)
    deadline = deadline_of(client)

    with ThreadPoolExecutor(1) as threads:
        blocked = threads.submit(client.blpop, "queue", 5)
        time.sleep(1)
        own_server.stop()

        with pytest.raises(redis.ConnectionError):
            blocked.result()

    assert not deadline.down

    with pytest.raises(redis.ConnectionError):
        client.get("k")

    assert deadline.down


def test_answered_error_ends_down(server: Server) -> None:
    """If a server replies with an error, its prefix is no longer down."""
    client = make(URL=server.url)
    deadline = deadline_of(client)
    client.set("k", "v")
    take_down(deadline)

    with pytest.raises(redis.ResponseError):
        client.lpush("k", 1)

    assert not deadline.down


@pytest.mark.parametrize(
    ("error", "is_down"),
    [(redis.ResponseError("wrong type"), False), (redis.DataError("not sent"), True)],
)
def test_error_without_a_probe(error: Exception, is_down: bool) -> None:
    """If there is no pool for probes, the commands ask themselves. Only a reply of the
    server ends the outage.
    """
    client = make(HOST="h", CLASS=Unrelated)
    client.errors[:] = [error]
    deadline = deadline_of(client)
    take_down(deadline)

    with pytest.raises(type(error)):
        client.execute_command("PING")

    assert deadline.down == is_down


def test_full_pool_while_down_asks_once(server: Server) -> None:
    """A command that waits for a free connection probes the server only once."""
    client = make(URL=server.url, MAX_CONNECTIONS=1, RETRY_DEADLINE=0.3)
    deadline = deadline_of(client)
    held = client.connection_pool.get_connection()
    take_down(deadline)

    with server.admin() as admin:

        def count() -> int:
            return int(admin.info("stats")["total_connections_received"])

        before = count()

        with pytest.raises(redis.ConnectionError, match="^All 1 connections"):
            client.get("k")

        assert count() == before + 1

    client.connection_pool.release(held)


def test_causes_in_a_circle(server: Server) -> None:
    """Errors that are each other's causes do not lead to an endless loop."""
    client = make(URL=server.url)
    deadline = deadline_of(client)
    errors: list[BaseException] = []

    for message in ("first", "second", "third"):
        try:
            raise redis.ConnectionError(message)
        except redis.ConnectionError as error:
            errors.append(error)

    first, second, third = errors
    first.__cause__, second.__cause__, third.__cause__ = second, first, first
    assert deadline.engine.is_transient(third, deadline.spec)


def test_commands_added_by_others(cutter: Cutter) -> None:
    """A pipeline is not replayed if some of its commands were not recorded."""
    client = make(URL=cutter.url)
    pipe = client.pipeline()
    pipe.set("a", 1)
    pipe.pipeline_execute_command("SET", "b", 2)
    cutter.lose(b"EXEC")

    with pytest.raises(redis.ConnectionError):
        pipe.execute()

    assert pipe.get("a").execute() == [b"1"]


def test_replay_that_cannot_be_made(fresh_cluster: Cluster) -> None:
    """To replay some commands, a cluster pipeline must ask a node for their keys. If no
    node is available, the pipeline raises an error.
    """
    client = make(URL=f"redis+cluster://{fresh_cluster.address}", RETRY_DEADLINE=0.5)
    pipe = client.pipeline(transaction=True)
    pipe.incr("k")
    pipe.execute_command("ZUNION", 1, "{k}z")
    fresh_cluster.stop()

    with pytest.raises((redis.RedisError, redis.exceptions.RedisClusterException)):
        pipe.execute()


def test_cluster_after_a_failed_transaction(fresh_cluster: Cluster) -> None:
    """After a transaction that found no node, the client still works."""
    client = make(URL=f"redis+cluster://{fresh_cluster.address}", RETRY_DEADLINE=0)
    keys = ["k", "other", "third"]
    masters = {key: fresh_cluster.master_of(key) for key in keys}
    dead = next(iter(masters.values()))
    alive = next(key for key, master in masters.items() if master is not dead)
    client.set(alive, "v")
    dead.kill()

    with pytest.raises((redis.RedisError, redis.exceptions.RedisClusterException)):
        client.pipeline(transaction=True).incr("k").execute()

    assert client.get(alive) == b"v"


def test_hung_server() -> None:
    """A command is retried until its deadline if the server accepts connections but
    never answers.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        client = make(
            HOST="127.0.0.1",
            PORT=port,
            CLASS=Kept,
            SOCKET_TIMEOUT=0.05,
            RETRY_DEADLINE=0.3,
        )

        with pytest.raises((redis.TimeoutError, redis.ConnectionError)):
            client.get("k")

        assert len(client.tries) > 1


@pytest.mark.parametrize("engine", ["redis", "valkey", "unix", "own pool"])
def test_hung_server_while_down(
    own_server: Server, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a hung server is down, commands probe it over a new connection. The probe
    is short, whatever SOCKET_TIMEOUT is.
    """
    monkeypatch.setattr("flask_and_redis.engines.operations.ANSWER_TIMEOUT", 0.1)
    config: dict[str, t.Any] = {"URL": own_server.url, "SOCKET_TIMEOUT": 5}

    if engine == "valkey":
        config["CLASS"] = "valkey.Valkey"
    elif engine == "unix":
        config["URL"] = f"unix://{own_server.socket}"
    elif engine == "own pool":
        config = {"CONNECTION_POOL": redis.ConnectionPool.from_url(own_server.url)}

    client = make(**config)
    deadline = deadline_of(client)
    take_down(deadline)
    own_server.pause()
    started = time.monotonic()

    for _ in range(3):
        with pytest.raises((redis.TimeoutError, valkey.TimeoutError)):
            client.get("k")

    # A single SOCKET_TIMEOUT would take longer.
    assert time.monotonic() - started < 5
    own_server.resume()
    wait_until(lambda: is_back(client), "the server is back")
    assert not deadline.down
    client.connection_pool.disconnect()


def test_probe_needs_a_reply(
    app: Flask, own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With protocol 2, a connection to a server that hangs can be opened."""
    monkeypatch.setattr("flask_and_redis.engines.operations.ANSWER_TIMEOUT", 0.1)
    app.config.update(REDIS_URL=own_server.url, REDIS_PROTOCOL=2)
    manager = RedisManager(app)
    client: t.Any = app.extensions["redis"]["REDIS"]
    engine = deadline_of(client).engine
    own_server.pause()

    async def use() -> None:
        async with manager.get_async() as client:
            with pytest.raises(redis.TimeoutError):
                await engine.probe_async(client)

    with pytest.raises(redis.TimeoutError):
        engine.probe(client)

    with app.app_context():
        asyncio.run(use())

    own_server.resume()


def test_one_hung_try_is_not_all(own_server: Server) -> None:
    """If one attempt used up the deadline, the server is probed once more. If it
    answers, the command is sent again.
    """
    client = make(URL=own_server.url, SOCKET_TIMEOUT=0.5, RETRY_DEADLINE=0.5)
    client.ping()
    own_server.pause()
    timer = threading.Timer(0.7, own_server.resume)
    timer.start()
    assert client.get("k") is None
    timer.join()


def test_down_and_no_right_to_ping(server: Server) -> None:
    """If a server refuses the probe's command, it has answered and is not down."""
    admin = redis.Redis.from_url(server.url)
    admin.execute_command("ACL", "SETUSER", "getter", "on", "nopass", "~*", "+get")  # type: ignore[no-untyped-call]
    client = make(URL=server.url, USERNAME="getter", PASSWORD="any")
    deadline = deadline_of(client)
    take_down(deadline)
    wait_until(lambda: is_back(client), "the server has answered")
    assert not deadline.down
    admin.execute_command("ACL", "DELUSER", "getter")  # type: ignore[no-untyped-call]
    admin.close()


@pytest.mark.parametrize(
    ("user", "password"), [("default", "secret"), ("ada", ""), ("ada", "secret")]
)
def test_login_that_was_forgotten(scripted: Scripted, user: str, password: str) -> None:
    """A proxy may forget who has logged in. The command is sent on a new connection."""
    scripted.users[user] = password
    scripted.plan(b"GET", b"-NOAUTH Authentication required.\r\n")
    login = {"PASSWORD": password, "USERNAME": user if user != "default" else None}
    assert make(URL=scripted.url, RETRY=0, **login).get("k") == f"0 {user} k".encode()
    assert scripted.connections == 2


def test_pause_is_ridden_out(own_server: Server) -> None:
    """If a server stops answering on an open connection, a command succeeds once the
    server answers again.
    """
    client = make(URL=own_server.url, SOCKET_TIMEOUT=0.2)
    client.ping()
    own_server.pause()
    timer = threading.Timer(0.5, own_server.resume)
    timer.start()
    assert client.get("k") is None
    timer.join()


@pytest.mark.parametrize("setting", ["URL", "HOST"])
def test_wrong_password_at_once(server: Server, setting: str) -> None:
    """A wrong password is not retried."""
    addresses: dict[str, dict[str, t.Any]] = {
        "URL": {"URL": server.url.replace("//", "//nobody:wrong@")},
        "HOST": {"HOST": "127.0.0.1", "PORT": server.port, "USER": "nobody"}
        | {"PASSWORD": "wrong"},
    }
    client = make(CLASS=Kept, **addresses[setting])

    with pytest.raises(redis.AuthenticationError):
        client.get("k")

    assert client.tries == ["GET"]


def test_errors_of_a_command(server: Server) -> None:
    """Errors in a command itself are raised immediately."""
    client = make(URL=server.url, CLASS=Kept)
    client.set("k", "v")
    client.tries.clear()

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.lpush("k", 1)

    with pytest.raises(redis.DataError):
        client.set("k", object())

    assert client.tries == ["LPUSH", "SET"]

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.pipeline().lpush("k", 1).execute()

    results = client.pipeline().lpush("k", 1).get("k").execute(raise_on_error=False)
    assert isinstance(results[0], redis.ResponseError)
    assert results[1] == b"v"


def test_retry_on_error(server: Server) -> None:
    """RETRY_ON_ERROR adds errors that are retried."""
    client = make(
        URL=server.url,
        CLASS=Kept,
        RETRY_ON_ERROR=[redis.ResponseError],
        RETRY_DEADLINE=0.1,
    )
    client.set("k", "v")
    client.tries.clear()

    with pytest.raises(redis.ResponseError):
        client.lpush("k", 1)

    assert len(client.tries) > 1


def test_own_retry_object(server: Server) -> None:
    """With redis-py's own Retry object, commands and pipelines have no deadline."""
    retry = Retry(NoBackoff(), 1)
    client = make(URL=server.url, RETRY=retry, CLASS=Kept, MAX_CONNECTIONS=1)
    connection = client.connection_pool.get_connection()

    # With a deadline this would be retried, and end with another message.
    with pytest.raises(redis.ConnectionError, match="^Too many connections$"):
        client.get("k")

    assert client.tries == ["GET"]
    assert not isinstance(client.pipeline(), PipelineWithDeadline)
    client.connection_pool.release(connection)


@pytest.mark.parametrize("pool_class", [None, "redis.BlockingConnectionPool"])
def test_full_pool_is_waited_for(server: Server, pool_class: str | None) -> None:
    """If there are more threads than connections, threads wait for a free connection
    instead of failing.
    """
    client = make(
        URL=server.url,
        MAX_CONNECTIONS=2,
        CONNECTION_POOL_CLASS=pool_class,
        CLIENT_NAME=f"shared-{pool_class}",
    )

    with ThreadPoolExecutor(16) as threads:
        replies = list(threads.map(lambda _: client.incr("k"), range(200)))

    assert sorted(replies) == list(range(1, 201))
    names = [connection["name"] for connection in client.client_list()]
    assert 1 <= names.count(f"shared-{pool_class}") <= 2


@pytest.mark.parametrize("pool_class", [None, "redis.BlockingConnectionPool"])
def test_full_pool_for_too_long(server: Server, pool_class: str | None) -> None:
    """If a pool stays full, an error says which setting to change, and the prefix is
    not marked down.
    """
    client = make(
        URL=server.url,
        MAX_CONNECTIONS=1,
        CONNECTION_POOL_CLASS=pool_class,
        RETRY_DEADLINE=0.2,
    )
    connection = client.connection_pool.get_connection()

    for _ in range(2):
        with pytest.raises(redis.ConnectionError) as info:
            client.get("k")

        assert str(info.value) == (
            "All 1 connections of the Redis 'REDIS' were in use for 0.2 seconds."
            " Increase 'REDIS_MAX_CONNECTIONS', up to the number of threads."
        )

    client.connection_pool.release(connection)
    assert client.get("k") is None


def test_full_pool_of_the_application(server: Server) -> None:
    """The error also shows the size of a pool that the application created."""
    pool = redis.ConnectionPool.from_url(server.url, max_connections=3)
    client = make(CONNECTION_POOL=pool, RETRY_DEADLINE=0)
    connections = [pool.get_connection() for _ in range(3)]

    with pytest.raises(redis.ConnectionError, match="^All 3 .* in use for 0 seconds"):
        client.get("k")

    for connection in connections:
        pool.release(connection)

    pool.disconnect()


def test_pipelines_leave_no_cycle(server: Server) -> None:
    """Deleting a pipeline that watches keys releases its connection immediately."""
    client = make(URL=server.url, MAX_CONNECTIONS=1, RETRY_DEADLINE=0)
    pipe = client.pipeline()
    pipe.watch("k")
    del pipe
    assert client.get("k") is None


def test_pipeline_of_an_own_class(server: Server) -> None:
    """A pipeline is still an instance of its original class."""
    pipe = make(URL=server.url).pipeline()
    assert isinstance(pipe, redis.client.Pipeline)
    assert type(pipe).__name__ == "Pipeline"
    assert not pipe.command_stack
    assert bool(pipe)


def run_async(app: Flask, function: t.Any) -> t.Any:
    """Run a coroutine function with an asynchronous client."""

    async def main() -> t.Any:
        async with app.extensions["manager"].get_async() as client:
            return await function(client)

    with app.app_context():
        return asyncio.run(main())


@pytest.fixture
def async_app(app: Flask, own_server: Server) -> Flask:
    app.config["REDIS_URL"] = own_server.url
    app.extensions["manager"] = RedisManager(app)
    return app


def test_async_restart(async_app: Flask, own_server: Server) -> None:
    """Asynchronous commands and pipelines also succeed after a restart."""

    async def use(client: t.Any) -> None:
        await client.set("a", 1)
        own_server.stop()

        with own_server.starting_soon():
            assert await client.incr("a") == 1

        script = client.register_script("return ARGV[1]")
        pipe = client.pipeline().set("b", 1).incr("b")
        await script(args=["x"], client=pipe)
        own_server.stop()

        with own_server.starting_soon():
            assert await pipe.execute() == [True, 2, b"x"]

        async with client.pipeline() as pipe:
            await pipe.watch("a")
            assert await pipe.get("a") is None
            pipe.multi()
            pipe.incr("a")
            assert await pipe.execute() == [1]

        with pytest.raises(redis.ResponseError):
            await client.lpush("a", 1)

    run_async(async_app, use)


def test_async_while_down(async_app: Flask, own_server: Server) -> None:
    """While a prefix is down, an asynchronous command also probes the server first."""

    async def use(client: t.Any) -> None:
        deadline = deadline_of(client)
        take_down(deadline)
        own_server.stop()

        with pytest.raises(redis.TimeoutError, match="^down"):
            await client.get("k")

        assert deadline.down
        own_server.start()

        while deadline.down:
            with contextlib.suppress(redis.TimeoutError):
                assert await client.pipeline().incr("k").execute() == [1]

        await client.execute_command(
            "ACL", "SETUSER", "getter", "on", "nopass", "~*", "+get"
        )
        client.connection_pool.connection_kwargs.update(username="getter", password="x")
        await client.connection_pool.disconnect()
        take_down(deadline)

        while deadline.down:
            with contextlib.suppress(redis.TimeoutError):
                assert await client.get("k") == b"1"

    run_async(async_app, use)


def test_async_answer_to_a_probe(async_app: Flask) -> None:
    """The answer to a probe ends an outage, whatever becomes of the command."""

    async def use(client: t.Any) -> None:
        take_down(deadline_of(client))

        while True:
            try:
                await client.set("k", object())
            except redis.TimeoutError:
                # The probe has met a busy machine.
                await asyncio.sleep(0.1)
            except redis.DataError:
                break

        assert not deadline_of(client).down

    run_async(async_app, use)


def test_async_shares_what_is_down(app: Flask, own_server: Server) -> None:
    """Synchronous and asynchronous clients share the state of a prefix that is down."""
    own_server.stop()
    app.config.update(REDIS_URL=own_server.url, REDIS_RETRY_DEADLINE=0.2)
    app.extensions["manager"] = RedisManager(app)

    async def use(client: t.Any) -> None:
        with pytest.raises(redis.ConnectionError):
            await client.get("k")

    run_async(app, use)

    with app.app_context():
        deadline = deadline_of(current_redis.connection)
        assert deadline.down
        own_server.start()
        wait_until(lambda: is_back(current_redis), "the server is back")
        assert not deadline.down
