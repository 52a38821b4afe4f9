"""Transactions that watch keys, and whose replies are lost."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import contextlib
import re
import ssl
import sys
import time
import typing as t

import pytest
import redis
import valkey
import valkey.backoff
import valkey.retry
from flask import Flask
from redis.backoff import NoBackoff
from redis.retry import Retry

from flask_and_redis import RedisManager

from .conftest import Starter
from .cutter import Cutter
from .servers import Cluster
from .servers import Sentinels
from .servers import Server
from .servers import wait_until
from .test_own_exceptions import Expired
from .test_own_exceptions import interrupted
from .test_own_exceptions import Limit
from .test_own_exceptions import Limited
from .test_own_exceptions import limited  # noqa: F401
from .test_watch import move

Use = cabc.Callable[[t.Any], t.Any]

LIBRARIES = [None, "valkey.Valkey"]
LOST = (redis.ConnectionError, valkey.ConnectionError)
LATE = (redis.TimeoutError, valkey.TimeoutError)
CHANGED = (redis.WatchError, valkey.WatchError)


def make_app(**config: t.Any) -> Flask:
    app = Flask("transactions")
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})
    app.extensions["manager"] = RedisManager(app)
    return app


@pytest.fixture
def make() -> cabc.Iterator[t.Any]:
    """Makes the client of prefix REDIS with some settings."""
    clients = []

    def create(**config: t.Any) -> t.Any:
        client = make_app(**config).extensions["redis"]["REDIS"]
        clients.append(client)
        return client

    yield create

    for client in clients:
        if hasattr(client, "disconnect_connection_pools"):
            client.disconnect_connection_pools()
        elif hasattr(client, "connection_pool"):
            client.connection_pool.disconnect()


def run_async(use: Use, **config: t.Any) -> None:
    """Run a coroutine function with the asynchronous client of prefix REDIS."""
    app = make_app(**config)

    async def main() -> None:
        async with app.extensions["manager"].get_async() as client:
            await use(client)

    with app.app_context():
        asyncio.run(main())


def add(pipe: t.Any) -> None:
    pipe.multi()
    pipe.incr("n")


def add_by_hand(client: t.Any) -> t.Any:
    with client.pipeline() as pipe:
        pipe.watch("k")
        add(pipe)
        return pipe.execute()


async def add_by_hand_async(client: t.Any) -> t.Any:
    async with client.pipeline(transaction=True) as pipe:
        await pipe.watch("k")
        add(pipe)
        return await pipe.execute()


def check_note(error: BaseException, attempts: str = "1 attempt") -> None:
    """An error names the prefix, and says how often the transaction was tried."""
    assert error.__context__ is None or not isinstance(error.__context__, CHANGED)

    if sys.version_info >= (3, 11):
        (note,) = error.__notes__
        assert "Redis 'REDIS'" in note
        assert re.search(f" s, {attempts}[.]", note)


@contextlib.contextmanager
def raises(
    kinds: t.Any, attempts: str = "1 attempt"
) -> cabc.Iterator[pytest.ExceptionInfo[t.Any]]:
    with pytest.raises(kinds) as info:
        yield info

    check_note(info.value, attempts)


# A lost reply


@pytest.mark.parametrize("library", LIBRARIES)
def test_lost_exec(cutter: Cutter, make: t.Any, library: str | None) -> None:
    """With RETRY=0, a transaction whose reply is lost is not sent again: it may have
    run. Its error is not that of a key that has changed.
    """
    client = make(URL=cutter.url, CLASS=library, RETRY=0)
    cutter.lose(b"EXEC")

    with raises(LOST):
        client.transaction(add, "k")

    assert client.get("n") == b"1"
    cutter.lose(b"EXEC")

    with raises(LOST):
        add_by_hand(client)

    assert client.get("n") == b"2"


@pytest.mark.parametrize("library", LIBRARIES)
def test_async_lost_exec(cutter: Cutter, library: str | None) -> None:
    """The same in asyncio."""

    async def use(client: t.Any) -> None:
        cutter.lose(b"EXEC")

        with raises(LOST):
            await client.transaction(add, "k")

        assert await client.get("n") == b"1"
        cutter.lose(b"EXEC")

        with raises(LOST):
            await add_by_hand_async(client)

        assert await client.get("n") == b"2"

    run_async(use, URL=cutter.url, CLASS=library, RETRY=0)


@pytest.mark.parametrize("library", LIBRARIES)
def test_lost_exec_by_default(
    cutter: Cutter,
    make: t.Any,
    caplog: pytest.LogCaptureFixture,
    library: str | None,
) -> None:
    """By default, transaction() starts again, as any command does, and logs this. What
    was written by hand does not.
    """
    client = make(URL=cutter.url, CLASS=library)
    cutter.lose(b"EXEC")
    assert client.transaction(add, "k") == [2]
    assert "fails, and commands are retried" in caplog.text
    cutter.lose(b"EXEC")

    with raises(LOST):
        add_by_hand(client)

    assert client.get("n") == b"3"


@pytest.mark.parametrize("library", LIBRARIES)
def test_async_lost_exec_by_default(
    cutter: Cutter, caplog: pytest.LogCaptureFixture, library: str | None
) -> None:
    """The same in asyncio."""

    async def use(client: t.Any) -> None:
        cutter.lose(b"EXEC")
        assert await client.transaction(add, "k") == [2]
        assert "fails, and commands are retried" in caplog.text
        cutter.lose(b"EXEC")

        with raises(LOST):
            await add_by_hand_async(client)

        assert await client.get("n") == b"3"

    run_async(use, URL=cutter.url, CLASS=library)


@pytest.mark.parametrize("retry", [0, None])
def test_lost_exec_of_a_cluster(
    cluster: Cluster, make: t.Any, monkeypatch: pytest.MonkeyPatch, retry: int | None
) -> None:
    """In a cluster, it is the same."""
    client = make(URL=f"redis+cluster://{cluster.address}", RETRY=retry)
    steps = []

    def use(pipe: t.Any) -> None:
        steps.append(pipe)
        pipe.get("n")
        pipe.multi()
        pipe.incr("n")

        if len(steps) == 1:
            with cluster.master_of("n").admin() as admin:
                admin.client_kill_filter(_type="normal", skipme=True)

    if retry == 0:
        with raises(redis.ConnectionError):
            client.transaction(use, "n")

        assert len(steps) == 1
    else:
        assert client.transaction(use, "n") == [1]
        assert len(steps) == 2


@pytest.mark.parametrize("retry", [0, None])
def test_lost_exec_of_an_async_cluster(cluster: Cluster, retry: int | None) -> None:
    """The same in asyncio."""
    steps = []

    async def step(pipe: t.Any) -> None:
        steps.append(pipe)
        await pipe.get("n")
        add(pipe)

        if len(steps) == 1:
            with cluster.master_of("n").admin() as admin:
                admin.client_kill_filter(_type="normal", skipme=True)

    async def use(client: t.Any) -> None:
        if retry == 0:
            with raises(redis.ConnectionError):
                await client.transaction(step, "n")

            assert len(steps) == 1
        else:
            assert await client.transaction(step, "n") == [1]
            assert len(steps) == 2

    run_async(use, URL=f"redis+cluster://{cluster.address}", RETRY=retry)


@pytest.mark.parametrize("retry", [0, None])
def test_lost_immediate_command(cutter: Cutter, make: t.Any, retry: int | None) -> None:
    """The same for a command that is sent before multi()."""
    client = make(URL=cutter.url, RETRY=retry)

    def use(pipe: t.Any) -> None:
        pipe.incr("n")
        add(pipe)

    cutter.lose(b"INCR")

    if retry == 0:
        with raises(redis.ConnectionError):
            client.transaction(use, "k")
    else:
        assert client.transaction(use, "k") == [3]

    client.set("n", 0)

    with client.pipeline() as pipe:
        pipe.watch("k")
        cutter.lose(b"INCR")

        with raises(redis.ConnectionError):
            pipe.incr("n")

        # It watches nothing any more, so that it can be used for something else.
        assert pipe.get("n").execute() == [b"1"]


@pytest.mark.parametrize("retry", [0, None])
def test_async_lost_immediate_command(cutter: Cutter, retry: int | None) -> None:
    """The same in asyncio."""

    async def step(pipe: t.Any) -> None:
        await pipe.incr("n")
        add(pipe)

    async def use(client: t.Any) -> None:
        cutter.lose(b"INCR")

        if retry == 0:
            with raises(redis.ConnectionError):
                await client.transaction(step, "k")
        else:
            assert await client.transaction(step, "k") == [3]

        await client.set("n", 0)

        async with client.pipeline() as pipe:
            await pipe.watch("k")
            cutter.lose(b"INCR")

            with raises(redis.ConnectionError):
                await pipe.incr("n")

            assert await pipe.get("n").execute() == [b"1"]

    run_async(use, URL=cutter.url, RETRY=retry)


def test_lost_reply_is_not_waited_for_twice(cutter: Cutter, make: t.Any) -> None:
    """A pipeline that was closed is not opened again to stop watching: if the server
    hangs, this would take another SOCKET_TIMEOUT.
    """
    client = make(URL=cutter.url)

    with client.pipeline() as pipe:
        pipe.watch("k")
        cutter.lose(b"EXEC")
        add(pipe)

        with raises(redis.ConnectionError):
            pipe.execute()

    assert cutter.connections == 1


def test_queued_commands_after_unwatch(own_server: Server, make: t.Any) -> None:
    """After unwatch(), a pipeline is not retried, and its error names the prefix."""
    client = make(URL=own_server.url)

    with client.pipeline() as pipe:
        pipe.watch("k")
        pipe.unwatch()
        pipe.get("k")
        client.connection_pool.disconnect()
        own_server.stop()

        with raises(redis.ConnectionError):
            pipe.execute()


def test_async_queued_commands_after_unwatch(server: Server) -> None:
    """In asyncio, commands after unwatch() are queued, too."""

    async def use(client: t.Any) -> None:
        async with client.pipeline() as pipe:
            await pipe.watch("k")
            await pipe.unwatch()
            assert pipe.incr("n") is pipe
            assert await pipe.execute() == [1]

    run_async(use, URL=server.url)


# Without a deadline


def make_retry(library: str | None, retries: int) -> t.Any:
    """A Retry object of a client library."""
    if library is None:
        return Retry(NoBackoff(), retries)

    return valkey.retry.Retry(valkey.backoff.NoBackoff(), retries)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("retries", [0, 2])
def test_lost_exec_without_a_deadline(
    cutter: Cutter, make: t.Any, library: str | None, retries: int
) -> None:
    """With a Retry object, no reply that is lost looks like a change of a watched key
    either. So transaction() does not start again.
    """
    client = make(URL=cutter.url, CLASS=library, RETRY=make_retry(library, retries))
    cutter.lose(b"EXEC")

    with pytest.raises(LOST) as info:
        client.transaction(add, "k")

    assert not isinstance(info.value.__context__, CHANGED)
    assert client.get("n") == b"1"
    cutter.lose(b"EXEC")

    with pytest.raises(LOST):
        add_by_hand(client)

    assert client.get("n") == b"2"

    with client.pipeline() as pipe:
        pipe.watch("k")
        cutter.lose(b"INCR")

        with pytest.raises(LOST):
            pipe.incr("n")

        assert pipe.get("n").execute() == [b"3"]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("retries", [0, 2])
def test_async_lost_exec_without_a_deadline(
    cutter: Cutter, library: str | None, retries: int
) -> None:
    """The same in asyncio."""

    async def use(client: t.Any) -> None:
        cutter.lose(b"EXEC")

        with pytest.raises(LOST) as info:
            await client.transaction(add, "k")

        assert not isinstance(info.value.__context__, CHANGED)
        assert await client.get("n") == b"1"
        cutter.lose(b"EXEC")

        with pytest.raises(LOST):
            await add_by_hand_async(client)

        assert await client.get("n") == b"2"

        async with client.pipeline() as pipe:
            await pipe.watch("k")
            cutter.lose(b"INCR")

            with pytest.raises(LOST):
                await pipe.incr("n")

            assert await pipe.get("n").execute() == [b"3"]

    retry = make_retry(library, retries)
    run_async(use, URL=cutter.url, CLASS=library, RETRY=retry)


@pytest.mark.parametrize("name", ["json", "ft", "ts"])
def test_lost_exec_of_modules(cutter: Cutter, make: t.Any, name: str) -> None:
    """The pipelines of json(), ft() and ts() tell the same."""
    client = make(URL=cutter.url)
    cutter.lose(b"EXEC")

    with pytest.raises(redis.ConnectionError):
        add_by_hand(getattr(client, name)())

    assert client.get("n") == b"1"


def test_changed_key_without_a_deadline(server: Server, make: t.Any) -> None:
    """With a Retry object, a key that has changed is still told, and so is a connection
    that was closed before. transaction() starts again then.
    """
    client = make(URL=server.url, RETRY=Retry(NoBackoff(), 0))
    steps = []

    def use(pipe: t.Any) -> None:
        steps.append(pipe)

        if len(steps) == 1:
            client.incr("k")

        add(pipe)

        if len(steps) == 2:
            client.connection_pool.disconnect()

    try:
        raise redis.ConnectionError("handled")
    except redis.ConnectionError:
        assert client.transaction(use, "k") == [1]

    assert len(steps) == 3


def test_async_changed_key_without_a_deadline(server: Server) -> None:
    """The same in asyncio."""

    async def use(client: t.Any) -> None:
        steps = []

        async def step(pipe: t.Any) -> None:
            steps.append(pipe)

            if len(steps) == 1:
                await client.incr("k")

            add(pipe)

            if len(steps) == 2:
                await client.connection_pool.disconnect()

        try:
            raise redis.ConnectionError("handled")
        except redis.ConnectionError:
            assert await client.transaction(step, "k") == [1]

        assert len(steps) == 3

    run_async(use, URL=server.url, RETRY=Retry(NoBackoff(), 0))


# Watched keys that have changed


@pytest.mark.parametrize("library", LIBRARIES)
def test_changed_key(server: Server, make: t.Any, library: str | None) -> None:
    """If a watched key has changed, a transaction starts again, whatever RETRY is, also
    while the caller handles another error.
    """
    client = make(URL=server.url, CLASS=library, RETRY=0, RETRY_DEADLINE=0.001)
    errors = redis if library is None else valkey
    steps = []

    def use(pipe: t.Any) -> None:
        steps.append(pipe)

        if len(steps) < 5:
            client.incr("k")

        add(pipe)

    def use_by_hand() -> None:
        with client.pipeline() as pipe:
            pipe.watch("k")
            client.incr("k")
            add(pipe)
            pipe.execute()

    try:
        raise errors.ConnectionError("handled")
    except errors.ConnectionError as handled:
        assert client.transaction(use, "k") == [1]

        with pytest.raises(errors.WatchError, match="changed") as info:
            use_by_hand()

        assert info.value.__context__ is handled

    with pytest.raises(errors.WatchError, match="changed"):
        use_by_hand()

    assert len(steps) == 5


def test_async_changed_key(server: Server) -> None:
    """The same in asyncio."""

    async def use(client: t.Any) -> None:
        steps = []

        async def step(pipe: t.Any) -> None:
            steps.append(pipe)

            if len(steps) < 5:
                await client.incr("k")

            add(pipe)

        try:
            raise redis.ConnectionError("handled")
        except redis.ConnectionError:
            assert await client.transaction(step, "k") == [1]

            async with client.pipeline() as pipe:
                await pipe.watch("k")
                await client.incr("k")
                add(pipe)

                with pytest.raises(redis.WatchError, match="changed"):
                    await pipe.execute()

    run_async(use, URL=server.url, RETRY=0, RETRY_DEADLINE=0.001)


@pytest.mark.parametrize("is_async", [False, True])
def test_moved_slot(fresh_cluster: Cluster, make: t.Any, is_async: bool) -> None:
    """In a cluster, a slot that has moved counts as a change: nothing has run."""
    config = {"URL": f"redis+cluster://{fresh_cluster.address}", "RETRY": 0}
    steps = []

    def use(pipe: t.Any) -> None:
        steps.append(pipe)
        pipe.multi()
        pipe.incr("k")

        if len(steps) == 1:
            move(fresh_cluster)

    async def use_async(client: t.Any) -> None:
        await client.set("k", 1)
        await client.wait(1, 1000, target_nodes=client.get_node_from_key("k"))

        async with client.pipeline(transaction=True) as pipe:
            await pipe.watch("k")
            use(pipe)

            with pytest.raises(redis.WatchError, match="Slot"):
                await pipe.execute()

    if is_async:
        run_async(use_async, **config)
        return

    client = make(**config)
    client.set("k", 1)
    client.wait(1, 1000, target_nodes=client.get_node_from_key("k"))
    assert client.transaction(use, "k") == [2]
    assert len(steps) == 2


# A connection that was closed before


def test_closed_before(server: Server, make: t.Any) -> None:
    """If the connection was closed before, nothing has run: the caller starts again.
    transaction() does so even with RETRY=0.
    """
    client = make(URL=server.url, RETRY=0)
    steps = []

    def use(pipe: t.Any) -> None:
        steps.append(pipe)

        if len(steps) == 1:
            client.connection_pool.disconnect()

        pipe.get("k")
        add(pipe)

        if len(steps) == 2:
            client.connection_pool.disconnect()

    assert client.transaction(use, "k") == [1]
    assert len(steps) == 3

    with client.pipeline() as pipe:
        pipe.watch("k")
        add(pipe)
        client.connection_pool.disconnect()

        with pytest.raises(redis.WatchError):
            pipe.execute()

        pipe.watch("k")
        client.connection_pool.disconnect()

        with pytest.raises(redis.WatchError):
            pipe.incr("n")

    assert client.get("n") == b"1"


def test_closed_each_time(server: Server, make: t.Any) -> None:
    """If the connection is closed each time, transaction() ends at its deadline."""
    client = make(URL=server.url, RETRY_DEADLINE=0.3)

    def use(pipe: t.Any) -> None:
        add(pipe)
        client.connection_pool.disconnect()

    with pytest.raises(redis.ConnectionError, match="closed during a transaction"):
        client.transaction(use, "k")

    assert client.get("n") is None


# A server that fails each time


def test_hanging_server(own_server: Server) -> None:
    """If a server hangs, transaction() ends at its deadline, and the prefix is down."""
    app = make_app(URL=own_server.url, SOCKET_TIMEOUT=0.3, RETRY_DEADLINE=1)
    client = app.extensions["redis"]["REDIS"]

    def use(pipe: t.Any) -> None:
        add(pipe)
        own_server.pause()

    with raises(redis.TimeoutError, r"\d+ attempts"):
        client.transaction(use, "k")

    with app.app_context():
        assert app.extensions["manager"].stats()["REDIS"].down

    own_server.resume()
    client.connection_pool.disconnect()


def test_lost_watch_after_lost_exec(cutter: Cutter, make: t.Any) -> None:
    """RETRY counts all that is sent again, also WATCH."""
    client = make(URL=cutter.url, RETRY=1)
    steps = []

    def use(pipe: t.Any) -> None:
        steps.append(pipe)
        cutter.lose(b"both", 2)
        pipe.multi()
        pipe.incr("both")

    with raises(redis.ConnectionError, "2 attempts"):
        client.transaction(use, "both")

    assert len(steps) == 1
    assert client.get("both") == b"1"


def test_lost_watch_after_changed_key(cutter: Cutter, make: t.Any) -> None:
    """If a key has changed since, WATCH has its own attempts."""
    client = make(URL=cutter.url, RETRY=1)
    steps = []

    def use(pipe: t.Any) -> None:
        steps.append(pipe)
        add(pipe)

        if len(steps) == 1:
            cutter.lose(b"EXEC")
        elif len(steps) == 2:
            client.incr("k")
            cutter.lose(b"WATCH")

    assert client.transaction(use, "k") == [2]
    assert len(steps) == 3


@pytest.mark.parametrize("is_async", [False, True])
def test_lost_second_watch(cutter: Cutter, make: t.Any, is_async: bool) -> None:
    """transaction() also starts again if its function watches another key."""
    steps = []

    def use(pipe: t.Any) -> None:
        steps.append(pipe)

        if len(steps) == 1:
            cutter.lose(b"WATCH")

        pipe.watch("j")
        add(pipe)

    async def use_async(pipe: t.Any) -> None:
        steps.append(pipe)

        if len(steps) == 1:
            cutter.lose(b"WATCH")

        await pipe.watch("j")
        add(pipe)

    async def run(client: t.Any) -> None:
        assert await client.transaction(use_async, "k") == [1]

    if is_async:
        run_async(run, URL=cutter.url)
    else:
        assert make(URL=cutter.url).transaction(use, "k") == [1]

    assert len(steps) == 2


def test_large_value(start: Starter, make: t.Any) -> None:
    """If a server closes the connection because a value is too large, transaction()
    ends after the second attempt.
    """
    server = start(Server, "--proto-max-bulk-len", "1mb")
    client = make(URL=server.url)
    steps = []

    def use(pipe: t.Any) -> None:
        steps.append(pipe)
        pipe.multi()
        pipe.set("k", "x" * (2 << 20))

    with raises(redis.ConnectionError, "2 attempts"):
        client.transaction(use, "k")

    assert len(steps) == 2


def test_demoted_master_of_sentinels(sentinels: Sentinels, make: t.Any) -> None:
    """If sentinels name a master that has become a replica, transaction() ends at its
    deadline.
    """
    client = make(
        URL=f"redis+sentinel://{sentinels.address}/mymaster", RETRY_DEADLINE=0.3
    )
    master, other, *_ = sentinels.servers
    client.set("k", 1)

    def use(pipe: t.Any) -> None:
        pipe.multi()
        pipe.set("k", 2)

    def use_at_once(pipe: t.Any) -> None:
        pipe.set("k", 2)

    with master.admin() as admin:
        admin.replicaof("127.0.0.1", str(other.port))

        for function in (use, use_at_once):
            with raises(redis.ConnectionError, r"\d+ attempts?") as info:
                client.transaction(function, "k")

            assert "now a slave" in str(info.value)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("is_immediate", [False, True])
def test_demoted_master(
    server: Server,
    own_server: Server,
    cutter: Cutter,
    make: t.Any,
    is_immediate: bool,
    is_async: bool,
) -> None:
    """A server that has become a replica refuses a transaction. transaction() sends it
    once more on a new connection, even with RETRY=0. This finds the new master.
    """
    steps = []

    def use(pipe: t.Any) -> t.Any:
        steps.append(pipe)
        cutter.upstream = server.port
        return pipe.incr("n") if is_immediate else add(pipe)

    async def run(client: t.Any) -> None:
        await client.transaction(use, "k")

    with own_server.admin() as admin:
        admin.replicaof("127.0.0.1", "1")

    cutter.upstream = own_server.port

    if is_async:
        run_async(run, URL=cutter.url, RETRY=0)
    else:
        make(URL=cutter.url, RETRY=0).transaction(use, "k")

    assert len(steps) == 2

    with server.admin() as admin:
        assert admin.get("n") == b"1"


def test_refused_command(server: Server, make: t.Any) -> None:
    """Other errors of the server are raised as they are."""
    client = make(URL=server.url)
    client.set("n", "text")

    with pytest.raises(redis.ResponseError, match="not an integer"):
        client.transaction(add, "k")

    with pytest.raises(redis.ResponseError, match="not an integer"):
        client.transaction(lambda pipe: pipe.incr("n"), "k")

    with pytest.raises(redis.ResponseError, match="not an integer"):
        add_by_hand(client)


# The application's own exceptions


class Refused(ssl.SSLCertVerificationError):
    """An error that a retry cannot fix, and that the caller is handling."""


def test_lost_while_handling_an_error(cutter: Cutter, make: t.Any) -> None:
    """What a step's caller was handling says nothing about the step."""
    client = make(URL=cutter.url)

    def use(pipe: t.Any) -> None:
        try:
            raise Refused
        except Refused:
            pipe.incr("n")

    cutter.lose(b"INCR")
    client.transaction(use, "k")
    assert client.get("n") == b"2"


def test_lost_watch_while_handling_an_error(cutter: Cutter, make: t.Any) -> None:
    """The same for a WATCH with which a transaction starts again."""
    client = make(URL=cutter.url)
    steps = []

    def use(pipe: t.Any) -> None:
        steps.append(pipe)

        try:
            raise Refused
        except Refused:
            if len(steps) == 2:
                cutter.lose(b"WATCH")

            pipe.watch("k")

        add(pipe)

        if len(steps) == 1:
            cutter.lose(b"EXEC")

    assert client.transaction(use) == [2]
    assert len(steps) == 2


@pytest.mark.parametrize(
    "error",
    [TimeoutError("mine"), ConnectionResetError(), ValueError(), Expired()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("is_explicit", [False, True])
@pytest.mark.parametrize("is_by_hand", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_signal_handler(
    own_server: Server,
    make: t.Any,
    library: str | None,
    is_by_hand: bool,
    is_explicit: bool,
    error: BaseException,
) -> None:
    """An exception of a signal handler ends a transaction, which is not sent again."""
    client = make(URL=own_server.url, CLASS=library)
    error.__traceback__ = None
    steps = []

    def use(pipe: t.Any) -> None:
        steps.append(pipe)
        own_server.pause()

        if is_explicit:
            add(pipe)
        else:
            pipe.incr("n")

    def use_by_hand() -> None:
        with client.pipeline() as pipe:
            pipe.watch("k")
            use(pipe)
            pipe.execute()

    with interrupted(error):
        if is_by_hand:
            use_by_hand()
        else:
            client.transaction(use, "k")

    own_server.resume()
    wait_until(lambda: client.get("n"), "the transaction was run")
    assert client.get("n") == b"1"
    assert len(steps) == 1


def test_early_timeout(
    limited: t.Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A builtin TimeoutError is the application's if the step itself took less than
    SOCKET_TIMEOUT.
    """
    monotonic, waits = time.monotonic, list[float]()
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + sum(waits))

    def use(pipe: t.Any) -> None:
        waits.append(10)
        monkeypatch.setattr(Limited, "ends", True)
        pipe.get("k")

    with pytest.raises(TimeoutError, match="^mine$"):
        limited.transaction(use, "k")


class Odd(Exception):
    """An error of a function."""


def test_error_of_the_function(server: Server, make: t.Any) -> None:
    """An error of the function itself is raised as it is, even one of redis-py."""
    client = make(URL=server.url)

    def use(pipe: t.Any) -> None:
        raise error

    for error in (Odd(), redis.ConnectionError("another server")):
        with pytest.raises(type(error)) as info:
            client.transaction(use, "k")

        assert info.value is error
        assert not hasattr(error, "__notes__")


# client()


def test_client_with_a_connection(
    cutter: Cutter,
    make: t.Any,
    limited: t.Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that keeps its connection sends nothing again. Its errors are those of
    other commands, and its pipelines have a deadline.
    """
    with make(URL=cutter.url).client() as first, first.client() as client:
        cutter.lose(b"INCR")

        with raises(redis.ConnectionError):
            client.incr("n")

        assert client.get("n") == b"1"
        cutter.lose(b"EXEC")
        assert client.transaction(add, "k") == [3]
        cutter.lose(b"INCR")
        assert client.pipeline(transaction=False).incr("n").execute() == [5]

    with limited.client() as client:
        monkeypatch.setattr(Limited, "ends", True)

        with pytest.raises(TimeoutError, match="^mine$"):
            client.incr("k")


def test_async_client_with_a_connection(cutter: Cutter) -> None:
    """The same in asyncio."""

    async def use(shared: t.Any) -> None:
        async with shared.client() as client:
            cutter.lose(b"INCR")

            with raises(redis.ConnectionError):
                await client.incr("n")

            assert await client.get("n") == b"1"
            cutter.lose(b"EXEC")
            assert await client.transaction(add, "k") == [3]
            cutter.lose(b"INCR")
            pipe = client.pipeline(transaction=False)
            assert await pipe.incr("n").execute() == [5]

    run_async(use, URL=cutter.url)


def test_client_while_handling_an_error(cutter: Cutter, make: t.Any) -> None:
    """What its caller handles is not taken for the error of its command."""
    with make(URL=cutter.url).client() as client:
        cutter.lose(b"INCR")

        try:
            raise Limit
        except Limit:
            with pytest.raises(redis.ConnectionError):
                client.incr("n")


def test_client_with_redis_py_retries(cutter: Cutter, make: t.Any) -> None:
    """With a Retry object of redis-py, nothing is added to its errors."""
    with make(URL=cutter.url, RETRY=Retry(NoBackoff(), 0)).client() as client:
        cutter.lose(b"INCR")

        with pytest.raises(redis.ConnectionError) as info:
            client.incr("n")

        assert not hasattr(info.value, "__notes__")


def test_clients_of_clusters(cluster: Cluster, make: t.Any) -> None:
    """A cluster's client cannot keep a connection."""
    assert not hasattr(make(URL=f"redis+cluster://{cluster.address}"), "client")


class Bare:
    """A client of the application. Its methods have names of redis-py."""

    def __init__(self, host: str, port: int = 0) -> None:
        self.host = host

    def execute_command(self, *args: str) -> str:
        return " ".join(args)

    def pipeline(self) -> str:
        return "pipeline"

    def transaction(self) -> str:
        return "transaction"

    @property
    def client(self) -> str:
        return "client"


def test_class_of_the_application(make: t.Any) -> None:
    """The methods of another class are left as they are."""
    client = make(HOST="localhost", CLASS=Bare)
    assert client.pipeline() == "pipeline"
    assert client.transaction() == "transaction"
    assert client.client == "client"
    assert client.execute_command("GET", "k") == "GET k"
