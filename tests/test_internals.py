"""The undocumented features of redis-py and valkey-py that ``engines/internals/`` uses.
A test fails when one of them changes, or is not needed any more.
"""

from __future__ import annotations

import ast
import asyncio
import collections
import contextlib
import errno
import gc
import os
import queue
import select
import socket
import ssl
import struct
import sys
import threading
import time
import types
import typing as t
from pathlib import Path
from unittest import mock

import pytest
import redis
import redis.asyncio
import redis.cache
import valkey
from redis.event import EventDispatcher

import flask_and_redis
from flask_and_redis.engines.adoption import adopt_pool
from flask_and_redis.engines.internals import clients
from flask_and_redis.engines.internals import clusters
from flask_and_redis.engines.internals import connections
from flask_and_redis.engines.internals import errors
from flask_and_redis.engines.internals import pools
from flask_and_redis.engines.internals import probes
from flask_and_redis.engines.internals import sentinels
from flask_and_redis.engines.library import get_library
from flask_and_redis.engines.tracking import AsyncTrackedConnection
from flask_and_redis.engines.tracking import TrackedConnection
from flask_and_redis.spec.classes import parameters
from flask_and_redis.spec.classes import subclass
from flask_and_redis.spec.spec import MAX_IDLE

from .conftest import Starter
from .identity import CONFIG
from .identity import Issuer
from .identity import Streaming
from .servers import Cluster
from .servers import Server
from .servers import wait_until

pytestmark = pytest.mark.each

POOLS = [
    redis.ConnectionPool,
    redis.BlockingConnectionPool,
    valkey.ConnectionPool,
    valkey.BlockingConnectionPool,
]


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest, server: Server) -> t.Iterator[t.Any]:
    """A pool of each class, with at most two connections."""
    options = {"timeout": 0.1} if "Blocking" in request.param.__name__ else {}
    # With protocol 3, redis-py asks for maintenance notifications.
    pool = request.param(
        host="127.0.0.1", port=server.port, protocol=2, max_connections=2, **options
    )
    yield pool
    pool.disconnect()


PACKAGE = Path(flask_and_redis.__file__).parent
OTHER_MODULES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if PACKAGE / "engines" / "internals" not in path.parents
)
#: The classes whose methods this package overrides.
CLASSES: list[t.Any] = [
    *(redis.Connection, redis.ConnectionPool, redis.Redis, redis.client.Pipeline),
    *(redis.RedisCluster, redis.cluster.ClusterPipeline),
    *(redis.lock.Lock, redis.sentinel.Sentinel),
    *(redis.asyncio.Connection, redis.asyncio.ConnectionPool),
]
#: Documented attributes of a named tuple and of a proxy.
DOCUMENTED = {"_replace", "_get_current_object"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("path", OTHER_MODULES, ids=lambda path: path.stem)
def test_other_modules(path: Path) -> None:
    """No other module uses an attribute with an underscore that it does not set itself,
    or overrides a method that is not documented.
    """
    nodes = [*ast.walk(ast.parse(path.read_text()))]
    functions = [
        node
        for node in nodes
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    own = {function.name for function in functions} | {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in nodes
        if isinstance(node, (ast.Attribute, ast.Name))
        and isinstance(node.ctx, ast.Store)
    }
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert {*filter(is_private, used)} <= own | DOCUMENTED

    for function in functions:
        methods = [getattr(cls, function.name, None) for cls in CLASSES]
        is_override = f"super().{function.name}" in ast.unparse(function)

        if is_override and any(methods):
            documented = [method for method in methods if method and method.__doc__]
            assert documented, function.name
            assert not is_private(function.name)


def take(pool: t.Any) -> t.Any:
    """A connection of a pool. valkey-py wants the name of a command."""
    of_valkey = type(pool).__module__.startswith("valkey")
    return pool.get_connection("PING") if of_valkey else pool.get_connection()


def locks_of(*owners: t.Any) -> dict[tuple[int, str], t.Any]:
    """The locks among the attributes of objects."""
    kinds = (type(threading.Lock()), type(threading.RLock()))
    return {
        (index, name): value
        for index, owner in enumerate(owners)
        for name, value in vars(owner).items()
        if isinstance(value, kinds)
    }


def test_renew_locks(cluster: Cluster) -> None:
    """Clients of redis-py have locks that a fork does not renew, and so have the
    objects that they refer to. Objects that share a lock share the new one.
    """
    host, port = cluster.address.split(",")[0].split(":")
    client: t.Any = redis.RedisCluster(host=host, port=int(port))
    pool = client.get_nodes()[0].redis_connection.connection_pool
    owners = [client, client.nodes_manager, pool, *pools.list_connections(pool)]
    before = locks_of(*owners)
    assert {index for index, _ in before} >= {1, 2}
    other = type("Other", (), {})()
    other.lock = next(iter(locks_of(pool).values()))
    clients.renew_locks([client, pool, other, object()])
    after = locks_of(*owners)
    assert before.keys() == after.keys()

    for key, lock in after.items():
        assert type(lock) is type(before[key])
        assert lock is not before[key]

    assert other.lock in locks_of(pool).values()
    client.close()


def test_lent_connections() -> None:
    """Lent connections are a set that does not keep them alive."""

    class Connection:
        pass

    first, second = Connection(), Connection()
    lent = pools.LentConnections([first])
    lent.add(second)
    assert set(lent) == {first, second}
    lent.remove(first)
    assert first not in lent
    assert list(lent) == [second]

    with pytest.raises(KeyError):
        lent.remove(first)

    lent.discard(first)
    lent.add(first)
    lent.discard(first)
    assert list(lent) == [second]
    del second
    assert len(lent) == 0
    # Nor does it keep what has referred to them.
    assert not lent._references


def test_pool_state(pool: t.Any) -> None:
    """The pools of the libraries have the state that ours uses."""
    of_lists = not hasattr(pool, "_connections")
    kept = take(pool)
    clients.change_class(pool, subclass(pools.PoolState, type(pool)))
    pools.prepare_state(pool)
    lent = take(pool)
    assert pool.is_unobserved()
    assert pools.is_plain(pool)

    with pytest.raises((redis.ConnectionError, valkey.ConnectionError)):
        take(pool)

    if of_lists:
        assert pool.put_back(kept)
        # A second time does nothing.
        assert pool.put_back(kept)
        assert pool.take_idle() is kept
        assert pool.take_idle() is None
        kept.pid = -1
        assert not pool.put_back(kept)
        # A lost connection frees its place.
        del lent
        assert len({take(pool), take(pool)}) == 2
    else:
        pool.release(lent)
        assert take(pool) is lent

    pool.reset()
    assert pool.is_unobserved()
    assert pools.count_connections(pool) == (0, 0)

    if of_lists:
        # A lost connection still frees its place.
        lost = take(pool)
        del lost
        assert len({take(pool), take(pool)}) == 2
        pool.reset()

    pool.pid = os.getpid() + 1
    assert not pool.is_unobserved()

    if of_lists:
        # As in a process that was forked: redis-py prepares the pool for it.
        assert pool.put_back(kept)
        assert pool.is_unobserved()


@pytest.mark.skipif(redis.VERSION < (7, 1), reason="Older ones record no metrics.")
def test_metrics(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py records metrics once there is a collector."""
    from redis.observability import recorder

    pool: t.Any = redis.ConnectionPool(port=server.port)
    clients.change_class(pool, subclass(pools.PoolState, redis.ConnectionPool))
    assert pool.is_unobserved()
    assert not pools.is_recording()
    monkeypatch.setattr(recorder, "_get_or_create_collector", object)
    monkeypatch.setattr(recorder, "_metrics_collector", None)
    recorder.record_error_count(error_type=ValueError())
    assert not pool.is_unobserved()
    assert pools.is_recording()


def test_inner_connection(server: Server) -> None:
    """With a cache, a pool lends an object in front of the connection."""
    options: dict[str, t.Any] = {"port": server.port, "protocol": 3}
    pool = redis.ConnectionPool(cache_config=redis.cache.CacheConfig(), **options)
    connection = pool.make_connection()
    assert not isinstance(connection, redis.Connection)
    inner = pools.inner_connection(connection)
    assert isinstance(inner, redis.Connection)
    assert pools.inner_connection(inner) is inner
    assert not pools.is_plain(pool)


def test_is_plain() -> None:
    """A pool with listeners is not plain."""
    listened = redis.ConnectionPool(protocol=2, event_dispatcher=EventDispatcher())
    assert not pools.is_plain(listened)
    notified = redis.ConnectionPool(protocol=3)
    assert pools.is_plain(notified) == (redis.VERSION[0] < 7)


def test_count_connections(pool: t.Any) -> None:
    """Connections in use and connected idle ones are counted."""
    assert pools.count_connections(pool) == (0, 0)
    first, second = take(pool), take(pool)
    assert pools.count_connections(pool) == (2, 0)
    pool.release(first)
    assert pools.count_connections(pool) == (1, 1)
    first.disconnect()
    assert pools.count_connections(pool) == (1, 0)
    pool.release(second)
    # As in a process that was forked.
    pool.pid = os.getpid() + 1
    assert pools.count_connections(pool) == (0, 0)
    pool.pid = os.getpid()


def test_count_connections_of_other_classes() -> None:
    """Another class of pools need not tell."""
    assert pools.count_connections(object()) is None


def test_list_idle(pool: t.Any) -> None:
    """Only connections that are not in use are listed."""
    used, idle = take(pool), take(pool)
    pool.release(idle)
    assert pools.list_idle(pool) == [idle]
    pool.release(used)
    assert pools.list_idle(object()) == []


def test_find_limit(pool: t.Any) -> None:
    """A pool without a limit has a very large one, which is not shown."""
    assert pools.find_limit(pool) == 2
    assert pools.find_limit(valkey.ConnectionPool()) is None
    large: t.Any = valkey.ConnectionPool(max_connections=2**31 - 1)
    assert pools.find_limit(large) == 2**31 - 1
    assert pools.find_limit(object()) is None


def test_disconnect_idle(pool: t.Any) -> None:
    """Idle connections are disconnected, and those in use are not."""
    used, idle = take(pool), take(pool)
    pool.release(idle)
    pools.disconnect_idle(pool)
    assert (used._sock is None, idle._sock is None) == (False, True)
    pool.release(used)
    assert pools.count_connections(pool) == (0, 1)


def test_disconnect_idle_keeps_the_order(pool: t.Any) -> None:
    """The connection that was returned last is still lent first."""
    first, last = take(pool), take(pool)
    pool.release(first)
    pool.release(last)
    pools.disconnect_idle(pool)
    assert [take(pool), take(pool)] == [last, first]


def test_is_full_pool(pool: t.Any) -> None:
    """The error of a full pool is recognized, and that of a server is not."""
    lent = [take(pool), take(pool)]

    with pytest.raises((redis.ConnectionError, valkey.ConnectionError)) as info:
        take(pool)

    assert errors.is_full_pool(info.value)
    assert not errors.is_full_pool(redis.ConnectionError("Connection refused."))

    for connection in lent:
        pool.release(connection)


def test_is_without_multi(server: Server) -> None:
    """The server says that no transaction has begun."""
    with redis.Redis(port=server.port) as client:
        for command, expected in (("EXEC", True), ("EXEC x", False)):
            with pytest.raises(redis.ResponseError) as info:
                client.execute_command(*command.split())

            assert errors.is_without_multi(info.value) == expected


def test_is_demoted(start: Starter) -> None:
    """A replica refuses to write with three errors: of a command, of a script and of a
    pool behind sentinels.
    """
    server = start(Server, "--replicaof", "127.0.0.1", "1")
    client: t.Any = redis.Redis(port=server.port)
    # All that the pool needs of redis-py's object that asks the sentinels.
    manager: t.Any = types.SimpleNamespace(
        discover_master=lambda service: ("127.0.0.1", server.port)
    )
    pool_class: t.Any = redis.SentinelConnectionPool
    pool = pool_class("mymaster", manager)
    behind_sentinels: t.Any = redis.Redis(connection_pool=pool)

    for writer, *command in (
        (client, "SET", "k", "v"),
        (client, "EVAL", "return redis.call('SET', 'k', 'v')", 0),
        (behind_sentinels, "SET", "k", "v"),
    ):
        with pytest.raises(redis.RedisError) as info:
            writer.execute_command(*command)

        assert errors.is_demoted(info.value, redis.exceptions)

    assert not isinstance(info.value, redis.ReadOnlyError)
    other = redis.ResponseError("wrong type")
    assert not errors.is_demoted(other, redis.exceptions)
    client.close()
    pool.disconnect()


def test_unnamed_pool_arguments() -> None:
    """A pool takes these arguments, though its signature does not name them."""
    pool = redis.ConnectionPool(protocol=3, cache_config=redis.cache.CacheConfig())
    assert pool.cache is not None
    names = pools.UNNAMED_POOL_ARGUMENTS
    assert names.isdisjoint(parameters(redis.ConnectionPool))
    assert names.isdisjoint(parameters(redis.Connection))


def test_own_arguments() -> None:
    """What a pool adds to the arguments of its connections is left out, and nothing
    else is.
    """
    pool = redis.ConnectionPool(host="h", db=3, protocol=3)
    arguments = pools.own_arguments(pool)
    assert {"host": "h", "db": 3, "protocol": 3}.items() <= arguments.items()
    added = pool.connection_kwargs.keys() - arguments.keys()
    assert bool(added) == (redis.VERSION[0] >= 7)
    assert arguments.keys() <= parameters(redis.Connection).keys() | {"protocol"}


def test_change_class(server: Server) -> None:
    """A client's class does not choose the class of its pipelines."""

    class Client(redis.Redis):
        pass

    class Pipeline(redis.client.Pipeline):
        pass

    client: t.Any = Client(port=server.port)
    pipeline: t.Any = client.pipeline()
    assert type(pipeline) is redis.client.Pipeline
    clients.change_class(pipeline, Pipeline)
    assert t.cast(object, type(pipeline)) is Pipeline
    pipeline.set("k", "v")
    assert pipeline.execute() == [True]
    client.close()


@pytest.mark.parametrize("library", [redis, valkey])
def test_keep_pool_open(server: Server, library: t.Any) -> None:
    """A client that is closed closes its pool."""
    cls = get_library(library.__name__).client_class

    for keeps in (False, True):
        client = cls(port=server.port)

        if keeps:
            clients.keep_pool_open(client)

        assert client.ping()
        client.close()
        counts = pools.count_connections(client.connection_pool)
        assert counts == (0, 1 if keeps else 0)
        client.connection_pool.disconnect()


class Noted(clients.PipelineErrors):
    """Mixed into the class of pipelines. It notes errors before they are raised."""

    noted: list[tuple[str, list[object]]]

    def note_first_error(self, error: Exception, replies: t.Sequence[object]) -> None:
        self.noted.append((str(error), [*replies]))


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("library", ["redis", "valkey"])
def test_lends_connections(server: Server, library: str, is_async: bool) -> None:
    """A client of client() has no attributes of the client that created it."""

    class Lends(clients.LendsConnections):
        def note_lent(self, client: t.Any) -> None:
            client.lender = self

    base = get_library(library, is_async).client_class
    client: t.Any = subclass(Lends, base)(port=server.port)
    client.own = True
    lent = client.client()
    assert isinstance(lent, type(client))
    assert lent.lender is client
    assert not hasattr(lent, "own")

    if not is_async:
        lent.close()
        client.close()


@pytest.mark.parametrize("library", [redis, valkey])
def test_pipeline_errors(server: Server, library: t.Any) -> None:
    """redis-py quotes a command in its error, and raises the first error."""
    client = get_library(library.__name__).client_class(port=server.port)
    pipeline = client.pipeline(transaction=False)
    clients.change_class(pipeline, subclass(Noted, type(pipeline)))
    pipeline.noted = []
    pipeline.set("k", "v").execute_command("CONFIG SET", "requirepass")

    with pytest.raises((redis.ResponseError, valkey.ResponseError)) as info:
        pipeline.execute()

    ((text, replies),) = pipeline.noted
    assert text == str(info.value)
    assert "(CONFIG ***) of pipeline" in text
    assert replies == [True, info.value]
    client.close()


class NotesPipelines(clients.ModulePipelines):
    """Mixed into the class of clients. It notes the pipelines of modules."""

    noted: list[object]

    def note_pipeline(self, pipeline: object) -> None:
        self.noted.append(pipeline)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("library", ["redis", "valkey"])
@pytest.mark.parametrize("name", ["json", "ft", "ts"])
def test_module_pipelines(library: str, name: str, is_async: bool) -> None:
    """The pipelines of modules are not those of ``pipeline()``."""
    base = get_library(library, is_async).client_class

    with mock.patch.object(base, "pipeline", side_effect=AssertionError):
        assert getattr(base(), name)().pipeline()
        client: t.Any = subclass(NotesPipelines, base)()
        client.noted = []

        for arguments, is_transaction in ([], True), ([False], False):
            for options in ({}, {"shard_hint": "x"}):
                pipeline = getattr(client, name)().pipeline(*arguments, **options)
                assert client.noted.pop() is pipeline
                values = vars(pipeline)
                assert values.get("transaction", is_transaction) is is_transaction
                assert values.get("is_transaction", is_transaction) is is_transaction
                assert values["shard_hint"] == options.get("shard_hint")


QUOTED = "'HELLO', '3', 'AUTH', 'bob', 'hush'"


def test_slot_errors(cluster: Cluster) -> None:
    """redis-py quotes a command for which it finds no node."""
    plain = redis.RedisCluster

    for cls in (plain, subclass(clusters.SlotErrors, plain)):
        with cls(host="127.0.0.1", port=cluster.nodes[0].port) as client:
            pipeline = client.pipeline(transaction=True)
            is_plain = cls is plain

            if not is_plain:
                mixed = subclass(clusters.SlotErrors, type(pipeline))
                clients.change_class(pipeline, mixed)

            for used in (client, pipeline):
                with pytest.raises(redis.exceptions.RedisClusterException) as info:
                    used.execute_command("HELLO", "3", "AUTH", "bob", "hush")

                text = f"({QUOTED})" if is_plain else "***"
                assert str(info.value).endswith(f"Command: {text}")


def test_slot_errors_in_asyncio(cluster: Cluster) -> None:
    """The same in asyncio. The pipelines ask the client."""
    plain = redis.asyncio.RedisCluster

    async def use(cls: type[t.Any]) -> None:
        async with cls(host="127.0.0.1", port=cluster.nodes[0].port) as client:
            await client.get("k")

            with pytest.raises(redis.exceptions.RedisClusterException) as info:
                client.pipeline(transaction=True).execute_command("EVAL", "hush")

            text = "('EVAL', 'hush')" if cls is plain else "***"
            assert str(info.value).endswith(f"command: {text}")

    asyncio.run(use(plain))
    asyncio.run(use(subclass(clusters.SlotErrors, plain)))


def test_pipeline_errors_in_asyncio(server: Server) -> None:
    """The same in asyncio."""

    async def execute() -> None:
        client: t.Any = redis.asyncio.Redis(port=server.port)
        pipeline = client.pipeline(transaction=False)
        clients.change_class(pipeline, subclass(Noted, type(pipeline)))
        pipeline.noted = []
        pipeline.set("k", "v").execute_command("CONFIG SET", "requirepass")

        with pytest.raises(redis.ResponseError) as info:
            await pipeline.execute()

        ((text, replies),) = pipeline.noted
        assert text == str(info.value)
        assert "(CONFIG ***) of pipeline" in text
        assert replies == [True, info.value]
        await client.aclose()

    asyncio.run(execute())


@pytest.mark.parametrize("library", [redis, valkey])
def test_find_loss(server: Server, library: t.Any) -> None:
    """Once keys are watched, a lost connection is a WatchError, whose context it is."""
    client = get_library(library.__name__).client_class(port=server.port)
    handled = ValueError()

    def execute(use: t.Callable[[t.Any], object]) -> Exception | None:
        pipeline = client.pipeline()
        pipeline.watch("k")
        use(pipeline)
        pipeline.multi()
        pipeline.get("k")

        try:
            raise handled
        except ValueError:
            with pytest.raises((redis.WatchError, valkey.WatchError)) as info:
                pipeline.execute()

        return clients.find_loss(info.value, handled)

    def lose(pipeline: t.Any) -> None:
        client.client_kill_filter(_id=pipeline.client_id())

    assert isinstance(execute(lose), library.ConnectionError)
    # The key has changed.
    assert execute(lambda _: client.incr("k")) is None
    client.close()


def test_find_loss_in_asyncio(server: Server) -> None:
    """The same in asyncio."""

    async def execute(change: t.Callable[[t.Any], t.Any]) -> Exception | None:
        async with client.pipeline() as pipeline:
            await pipeline.watch("k")
            await change(pipeline)
            pipeline.multi()
            pipeline.get("k")

            with pytest.raises(redis.WatchError) as info:
                await pipeline.execute()

            return clients.find_loss(info.value, None)

    async def lose(pipeline: t.Any) -> None:
        await client.client_kill_filter(_id=await pipeline.client_id())

    async def run() -> None:
        assert isinstance(await execute(lose), redis.ConnectionError)
        assert await execute(lambda _: client.incr("k")) is None
        await client.aclose()

    client: t.Any = redis.asyncio.Redis(port=server.port)
    asyncio.run(run())


@pytest.mark.parametrize(
    "cause", [redis.exceptions.AskError, redis.exceptions.MovedError]
)
def test_find_loss_of_a_moved_slot(cause: type[Exception]) -> None:
    """In a cluster, a slot that has moved is a WatchError, too."""
    error = redis.WatchError("Slot rebalancing occurred while watching keys")
    error.__context__ = cause("1 127.0.0.1:1")
    assert clients.find_loss(error, None) is None
    error.__context__ = KeyboardInterrupt()
    assert clients.find_loss(error, None) is None


@pytest.mark.parametrize("library", [redis, valkey])
def test_forget_watch(server: Server, library: t.Any) -> None:
    """A pipeline opens a closed connection again to send UNWATCH."""
    client = get_library(library.__name__).client_class(port=server.port)

    with client.pipeline() as pipeline:
        for is_open in (True, False):
            pipeline.watch("k")
            connection = pipeline.connection
            connection.is_open = is_open
            connection.disconnect()
            clients.forget_watch(pipeline)
            pipeline.reset()
            assert (connection._sock is not None) is is_open
            connection.disconnect()

        # A connection of another kind does not tell.
        del connection.is_open
        pipeline.watch("k")
        clients.forget_watch(pipeline)
        assert pipeline.watching

    client.close()


@pytest.mark.parametrize("library", [redis, valkey])
def test_lock_steps(server: Server, library: t.Any) -> None:
    """A lock makes each attempt with the same method, with or without asyncio."""
    steps: list[str] = []

    class Noted(clients.LockSteps):
        def acquire_once(self, acquire: t.Any, token: bytes) -> t.Any:
            steps.append("acquire")
            return acquire(token)

        def release_once(self, release: t.Any, token: bytes) -> t.Any:
            steps.append("release")
            return release(token)

    client = get_library(library.__name__).client_class(port=server.port)
    lock = client.lock("lock")
    clients.change_class(lock, subclass(Noted, type(lock)))

    with lock:
        assert lock.locked()

    assert not lock.locked()
    client.close()

    async def use() -> None:
        client = get_library(library.__name__, is_async=True).client_class(
            port=server.port
        )
        lock = client.lock("lock")
        clients.change_class(lock, subclass(Noted, type(lock)))

        async with lock:
            assert await lock.locked()

        assert not await lock.locked()
        await client.aclose()

    asyncio.run(use())
    assert steps == ["acquire", "release"] * 2


def test_scripts(server: Server) -> None:
    """reset() drops the scripts of a pipeline, and they can be restored."""
    client = redis.Redis(port=server.port)
    script: t.Any = client.register_script("return 1")
    pipeline: t.Any = client.pipeline()
    script(client=pipeline)
    scripts = clients.copy_scripts(pipeline)
    assert scripts == {script}
    pipeline.reset()
    assert clients.copy_scripts(pipeline) == set()
    clients.restore_scripts(pipeline, scripts)
    assert clients.copy_scripts(pipeline) == {script}
    client.close()


def test_cluster_arguments() -> None:
    """RedisCluster accepts these arguments, though its signature names few of them."""
    unnamed = {"password", "username", "ssl", "socket_timeout", "decode_responses"}
    assert unnamed <= clusters.CLUSTER_ARGUMENTS
    assert unnamed.isdisjoint(parameters(redis.RedisCluster))


def test_create_pools_with(cluster: Cluster) -> None:
    """The function creates the pool of each node. A client of asyncio has no pools."""
    made: list[redis.ConnectionPool] = []

    def make_pool(**arguments: t.Any) -> redis.ConnectionPool:
        made.append(redis.ConnectionPool(**arguments))
        return made[-1]

    arguments: dict[str, t.Any] = {}
    address = ("127.0.0.1", cluster.nodes[0].port)
    clusters.create_pools_with(make_pool, address, arguments)
    client: t.Any = redis.RedisCluster(**arguments)
    client.ping(target_nodes=client.ALL_NODES)
    in_use = clusters.list_node_pools(client)
    assert len(in_use) == len(cluster.nodes)
    assert {*map(id, in_use)} <= {*map(id, made)}
    client.close()
    other: t.Any = redis.asyncio.RedisCluster(host="127.0.0.1", port=address[1])
    assert clusters.list_node_pools(other) == []


def test_set_node_connections(cluster: Cluster) -> None:
    """The nodes of an asynchronous client create connections of the class, whether they
    are given or found.
    """

    class Marked:
        pass

    async def open_connections() -> list[t.Any]:
        port = cluster.nodes[0].port
        client: t.Any = redis.asyncio.RedisCluster(host="127.0.0.1", port=port)
        clusters.set_node_connections(client, lambda cls: subclass(Marked, cls))
        (given,) = client.nodes_manager.startup_nodes.values()
        assert issubclass(given.connection_class, Marked)
        await client.ping(target_nodes=client.ALL_NODES)
        nodes = client.get_nodes()
        await client.aclose()
        return [each for node in nodes for each in node._connections]

    opened = asyncio.run(open_connections())
    assert len(opened) >= len(cluster.nodes)
    assert {isinstance(each, Marked) for each in opened} == {True}


def test_lend_through(cluster: Cluster) -> None:
    """Each node tells before it lends a connection, and after it was returned. A
    connection that could not be checked is not lost.
    """
    events: list[tuple[str, t.Any]] = []
    lender: t.Any = types.SimpleNamespace()

    class Asking:
        is_asking = False

    lender.make_ready = lambda connection: events.append(("lent", connection))
    lender.take_back = lambda connection: events.append(("returned", connection))

    async def use() -> None:
        port = cluster.nodes[0].port
        client: t.Any = redis.asyncio.RedisCluster(
            host="127.0.0.1", port=port, max_connections=1
        )
        clusters.set_node_connections(client, lambda cls: subclass(Asking, cls))
        clusters.lend_through(client, lender)
        await client.initialize()
        await client.nodes_manager.initialize()

        for node in client.get_nodes():
            await client.ping(target_nodes=node)
            (connection,) = node._connections
            events.clear()
            await client.ping(target_nodes=node)
            pipeline = client.pipeline(transaction=False)
            await pipeline.execute_command("PING", target_nodes=node).execute()
            assert events == [("lent", connection), ("returned", connection)] * 2
            assert node.acquire_connection() is connection

            with mock.patch.object(lender, "take_back", side_effect=OSError):
                with pytest.raises(OSError):
                    node.release(connection)

            with mock.patch.object(lender, "make_ready", side_effect=OSError):
                with pytest.raises(OSError):
                    node.acquire_connection()

            assert node.acquire_connection() is connection
            node.release(connection)

        # Nodes that are not in the new ones stay by default.
        old = {"other": node}
        client.nodes_manager.set_nodes(old, {})
        assert old == {"other": node}
        await client.aclose()

    asyncio.run(use())


def test_idle_connections() -> None:
    """The idle connections that a node has already are kept. A mock that a test has put
    in is not checked.
    """
    events: list[t.Any] = []
    lender: t.Any = types.SimpleNamespace(
        make_ready=events.append, take_back=events.append
    )
    first, fake = types.SimpleNamespace(is_asking=False), mock.Mock(spec=[])
    idle = clusters._Idle(lender, collections.deque([first], 5))
    assert (list(idle), idle.maxlen) == ([first], 5)
    idle.append(fake)
    assert idle.popleft() is first
    idle.append(first)
    assert idle.popleft() is fake
    assert events == [first, first]


def test_refresh_slots(cluster: Cluster) -> None:
    """The slots are read again: a node that was forgotten is found."""
    host, port = cluster.address.split(",")[0].split(":")
    client: t.Any = redis.RedisCluster(host=host, port=int(port))
    nodes = len(client.get_nodes())
    client.nodes_manager.nodes_cache = {}
    assert not client.get_nodes()
    clusters.refresh_slots(client)
    assert len(client.get_nodes()) == nodes
    client.close()


def test_is_uncovered(start: Starter) -> None:
    """A cluster whose slots nobody serves is recognized by the text of the error."""
    server = start(Server, "--cluster-enabled", "yes")

    with pytest.raises(redis.exceptions.RedisClusterException) as info:
        redis.RedisCluster(host="127.0.0.1", port=server.port)

    assert not isinstance(info.value, redis.exceptions.SlotNotCoveredError)
    assert errors.is_uncovered(info.value)
    by_class = redis.exceptions.SlotNotCoveredError("of a command")
    assert errors.is_uncovered(by_class)
    other = redis.exceptions.RedisClusterException("keys must map to the same slot")
    assert not errors.is_uncovered(other)


def test_is_refused_by_sentinel(start: Starter) -> None:
    """The text of redis-py's error tells that a sentinel has refused the password, and
    has nothing else that does.
    """
    # Any server with a password will do: it refuses in the same way.
    server = start(Server, password="right")

    def error_of(port: int, password: str) -> BaseException:
        sentinel_class: t.Any = redis.sentinel.Sentinel
        sentinel = sentinel_class(
            [("127.0.0.1", port)], sentinel_kwargs={"password": password, "retry": None}
        )

        with pytest.raises(redis.sentinel.MasterNotFoundError) as info:
            sentinel.discover_master("mymaster")

        return info.value

    refused = error_of(server.port, "wrong")
    assert errors.is_refused_by_sentinel(refused)
    assert refused.__cause__ is None
    assert not errors.is_refused_by_sentinel(error_of(1, "wrong"))


def test_sentinels() -> None:
    """redis-py's object asks the clients that are set."""
    manager_class: t.Any = redis.sentinel.Sentinel
    manager = manager_class([])
    pool: t.Any = manager.master_for("mymaster").connection_pool
    assert sentinels.list_sentinels(pool) == []
    client = mock.Mock()
    client.sentinel_masters.return_value = {
        "mymaster": {
            **dict.fromkeys(("is_sdown", "is_odown", "num-other-sentinels"), 0),
            "is_master": True,
            "ip": "127.0.0.1",
            "port": 6379,
        }
    }
    sentinels.set_sentinels(manager, [client])
    assert sentinels.list_sentinels(pool) == [client]
    assert sentinels.count_sentinels(manager) == 1
    assert manager.discover_master("mymaster") == ("127.0.0.1", 6379)
    assert sentinels.list_sentinels(redis.ConnectionPool()) == []


@pytest.mark.parametrize("is_async", [False, True])
def test_replica_connection(start: Starter, is_async: bool) -> None:
    """A connection to a replica asks each server that sentinels name, in their order,
    for its role. The first one has become the master.
    """
    promoted = start(Server)
    replica = start(Server, "--replicaof", "127.0.0.1", "1")
    addresses = [("127.0.0.1", each.port) for each in (promoted, replica)]
    manager = mock.AsyncMock() if is_async else mock.Mock()
    manager.discover_slaves.return_value = addresses
    manager.discover_master.return_value = ("127.0.0.1", 1)
    library = get_library("redis", is_async)
    pool = library.sentinel.SentinelConnectionPool("mymaster", manager, is_master=False)
    mixins = (sentinels.ReplicaConnection, sentinels.AsyncReplicaConnection)
    pool.connection_class = subclass(mixins[is_async], pool.connection_class)

    async def connect() -> int:
        connection = pool.get_connection()

        if not is_async:
            connection.disconnect()
            return int(connection.port)

        connection = await connection
        await connection.disconnect()
        return int(connection.port)

    # redis-py begins with any of them, and continues with the next one.
    for _ in range(2):
        assert asyncio.run(connect()) == replica.port
        # asyncio closes a connection a moment later.
        wait_until(lambda: promoted.count_clients() == 0, "the master is left")


@pytest.mark.parametrize("redis_entraid", [False, True])
def test_restart_renewal(issuer: Issuer, redis_entraid: bool) -> None:
    """A provider that believes that it renews tokens starts no renewal."""
    provider: t.Any = Streaming(issuer)

    if redis_entraid:
        package = pytest.importorskip("redis_entraid.cred_provider")
        provider = package.EntraIdCredentialsProvider(issuer, CONFIG)

    received: list[object] = []
    provider.on_next(received.append)
    provider.on_error(received.append)
    provider.get_credentials()
    # As after a fork, when the thread is gone.
    provider._token_mgr.stop()
    received.clear()
    provider.get_credentials()
    time.sleep(0.5)
    assert received == []
    clients.restart_renewal(provider)
    provider.get_credentials()
    wait_until(lambda: received, "a token is renewed")
    provider._token_mgr.stop()
    clients.restart_renewal(object())


@pytest.mark.parametrize("retry", [False, True])
def test_retry_renewal(issuer: Issuer, retry: bool) -> None:
    """A provider renews no token any more after an error."""
    provider = Streaming(issuer)
    tokens: list[object] = []
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        issuer.error = ""

        if retry:
            clients.retry_renewal(provider, 0.01)

        tokens.clear()
        failures.append(error)

    provider.on_next(tokens.append)
    provider.on_error(fail)
    provider.get_credentials()
    issuer.error = "unreachable"
    wait_until(lambda: failures, "the renewal fails")

    if retry:
        wait_until(lambda: tokens, "a token is renewed")
    else:
        time.sleep(0.5)
        assert tokens == []

    provider._token_mgr.stop()
    clients.retry_renewal(object(), 1)


def test_limit_has_passed() -> None:
    """A socket may wait for a moment: with 0 it would not wait, or without end."""
    assert 0 < probes.Limit(time.monotonic() - 60).left < 0.1


@pytest.mark.parametrize(
    ("method", "argument"), [("recv", 1), ("recv_into", bytearray(1))]
)
def test_limited_socket(method: str, argument: t.Any) -> None:
    """Each read of a limited socket may only take what is left of the time, but one
    that must not wait at all does not wait.
    """
    one, other = socket.socketpair()

    with one, other:
        one.settimeout(5)
        limit = probes.Limit(time.monotonic() + 0.1)
        limited = t.cast(t.Any, probes._LimitedSocket(one, limit))
        read = getattr(limited, method)
        other.sendall(b"x")
        assert read(argument)
        assert limited.gettimeout() <= 0.1

        with pytest.raises(TimeoutError):
            read(argument)

        limited.setblocking(False)

        with pytest.raises(BlockingIOError):
            read(argument)


@pytest.mark.skipif(redis.VERSION < (7, 1), reason="Older ones record no metrics.")
@pytest.mark.parametrize("is_probe", [False, True])
def test_leave_no_series(
    server: Server, monkeypatch: pytest.MonkeyPatch, is_probe: bool
) -> None:
    """redis-py records what a pool, a connection and a command do, but not what those
    of a probe do.
    """
    from redis.observability import recorder

    # Pools of other tests would be recorded when they are freed.
    gc.collect()
    collector = mock.Mock()
    monkeypatch.setattr(recorder, "_metrics_collector", collector)
    client: t.Any = redis.Redis(port=server.port)
    pool = client.connection_pool

    if is_probe:
        probes.leave_no_series(pool)
        probes.limit_connections(pool, probes.Limit(time.monotonic() + 20))

    connection = pool.get_connection()
    assert connection._sock is not None
    assert probes.ask_once(client, "PING") is True
    pool.disconnect()
    assert connection._sock is None
    recorded = {name for name, _, _ in collector.mock_calls}
    assert recorded == set() if is_probe else len(recorded) >= 3
    client.close()


def test_connections_have_a_socket(server: Server) -> None:
    """A connection gets its socket from _connect(), with the timeouts that are set on
    it at that time. No error repeats what was sent.
    """
    for library in (redis, valkey):
        pool: t.Any = library.ConnectionPool.from_url(server.url)
        limit = probes.Limit(time.monotonic() + 20)
        probes.limit_connections(pool, limit)
        connection = pool.make_connection()
        connection.connect()
        connection.send_command("PING")
        assert connection.read_response() in (b"PONG", "PONG")
        connected = connection._sock
        assert isinstance(connected, probes._LimitedSocket)
        assert 0 < connected.gettimeout() <= 20
        assert 0 < connection.socket_connect_timeout <= 20
        connection.send_command("HUSH", "secret")

        with pytest.raises((redis.ResponseError, valkey.ResponseError)) as info:
            connection.read_response()

        assert "HUSH" in str(info.value) and "secret" not in str(info.value)
        limit.ends = time.monotonic()
        connection.send_command("BLPOP", "none", 5)

        with pytest.raises((redis.TimeoutError, valkey.TimeoutError)):
            connection.read_response()

        assert isinstance(limit.failures[-1], (redis.TimeoutError, valkey.TimeoutError))
        connection.disconnect()
        # Both the socket and the parser are closed.
        assert connected.fileno() == -1
        assert connection._parser._sock is None


def test_other_connections_have_no_limit() -> None:
    """A client of the application may have a pool of any kind."""
    pool: t.Any = types.SimpleNamespace(connection_class=object)
    probes.limit_connections(pool, probes.Limit(time.monotonic()))
    assert pool.connection_class is object


def test_connecting_counts() -> None:
    """A server must show that it speaks plain text in what connecting to it leaves of
    the time. This one says nothing.
    """

    class Shrinking(probes.Limit):
        seconds: t.ClassVar = [10, 0.1]

        @property
        def left(self) -> float:
            return self.seconds.pop(0)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        port = silent.getsockname()[1]
        assert not probes._speaks_plain_text("127.0.0.1", port, Shrinking(0))

    assert time.monotonic() - started < 5


@pytest.mark.parametrize("library", [redis, valkey])
def test_paced_connection(server: Server, library: t.Any) -> None:
    """A connection gets its socket from _connect(), and its parser reads from it."""
    cls: t.Any = subclass(connections.PacedConnection, library.Connection)
    connection = cls(port=server.port)
    connection.connect()
    assert connection._sock is connection.paced
    connection.paced.is_first = True
    connection.send_command("PING")
    assert connection.read_response() in (b"PONG", "PONG")
    assert not connection.paced.is_first
    connection.disconnect()


@pytest.mark.parametrize("library", [redis, valkey])
def test_notes_pushes(server: Server, library: t.Any) -> None:
    """A parser calls a method of its own for each push, also if the protocol changes
    its class.
    """
    cls: t.Any = subclass(connections.PacedConnection, library.Connection)
    connection = cls(port=server.port, protocol=3)
    connection.connect()
    connection._parser.set_invalidation_push_handler(lambda _: None)
    noted: list[None] = []
    connection.paced.note_push = lambda: noted.append(None)
    connection.send_command("CLIENT", "TRACKING", "ON", "BCAST")
    connection.read_response()

    with server.admin() as admin:
        admin.set("key", "value")

    assert connection.can_read(10)
    connection.send_command("PING")
    assert connection.read_response() in (b"PONG", "PONG")
    assert noted == [None]
    connection.disconnect()


def test_pushes_without_a_socket() -> None:
    """Parsers of other connections, such as those of fakeredis, are left alone."""
    parser: t.Any = subclass(connections.NotesPushes, Parser)()
    assert parser.handle_push_response("message") == "message"


class Parser:
    """A parser that reads something else than a socket."""

    _sock = None

    def handle_push_response(self, response: str) -> str:
        return response


class Raising(socket.socket):
    """A socket whose reads are interrupted by a signal handler that raises this."""

    error: t.ClassVar[OSError]

    def recv(self, *args: object) -> bytes:
        raise self.error


@pytest.mark.parametrize(
    ("state", "error", "is_foreign"),
    [
        ("waiting", OSError("mine"), True),
        ("data", OSError("mine"), True),
        ("closed by the server", OSError("mine"), False),
        ("reset by the server", OSError("mine"), False),
        ("closed", OSError("mine"), False),
        # The system has waited in vain.
        ("closed", TimeoutError(errno.ETIMEDOUT, "mine"), False),
        # Sockets raise these while they are open.
        ("waiting", ssl.SSLError("mine"), False),
        ("waiting", BlockingIOError("mine"), False),
    ],
)
def test_foreign_error(
    monkeypatch: pytest.MonkeyPatch, state: str, error: OSError, is_foreign: bool
) -> None:
    """An error of a read is not the socket's own while the connection is open."""
    monkeypatch.setattr(Raising, "error", error, raising=False)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        connected = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()

    with Raising(fileno=connected.detach()) as sock, server:
        if state == "data":
            server.sendall(b"+OK")
        elif state == "reset by the server":
            linger = struct.pack("ii", 1, 0)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        if state.endswith("by the server"):
            server.close()
        elif state == "closed":
            sock.close()

        if state not in ("waiting", "closed"):
            assert select.select([sock], [], [], 10)[0]

        with pytest.raises(OSError, match="mine"):
            connections.PacedSocket(sock).recv(1)

    assert connections.is_foreign(error) is is_foreign


def test_foreign_error_without_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``poll``, nothing tells whose error it is. It counts as the socket's."""
    monkeypatch.delattr(select, "poll")
    error = OSError("mine")
    monkeypatch.setattr(Raising, "error", error, raising=False)

    with Raising() as sock, pytest.raises(OSError, match="mine"):
        connections.PacedSocket(sock).recv(1)

    assert connections.is_foreign(error) is False


@pytest.mark.parametrize("library", [redis, valkey])
def test_error_while_reporting(server: Server, library: t.Any) -> None:
    """If sending raises an OSError without arguments, another error hides it."""
    connection = library.Connection(port=server.port)
    connection.connect()
    error = OSError()
    connected, connection._sock = connection._sock, mock.Mock()
    connection._sock.sendall.side_effect = error

    with pytest.raises(errors.ERROR_WHILE_REPORTING) as caught:
        connection.send_command("PING")

    assert caught.value.__context__ is error
    connected.close()
    connection.disconnect()


def test_opening(server: Server) -> None:
    """redis-py does not call connect() if it misses the socket while it sends."""
    opened: list[object] = []

    class Recorded(connections.Opening):
        def open_with(self, connect: t.Any, *args: t.Any, **kwargs: t.Any) -> t.Any:
            opened.append(self)
            return connect(*args, **kwargs)

        def connect(self) -> t.NoReturn:
            raise AssertionError

    async def send() -> None:
        cls: t.Any = subclass(Recorded, redis.asyncio.Connection)
        connection = cls(port=server.port)
        await connection.send_command("PING")
        assert opened == [connection]
        await connection.disconnect()

    asyncio.run(send())
    opened.clear()
    cls: t.Any = subclass(Recorded, redis.Connection)
    connection = cls(port=server.port)
    connection.send_command("PING")
    assert opened == [connection]
    connection.disconnect()


@pytest.mark.skipif(redis.VERSION < (7,), reason="Older ones mark no connections.")
def test_reconnect_mark(server: Server) -> None:
    """redis-py marks connections in use whose server moves, also in our pools. It does
    not close them before they are returned.
    """
    pool: t.Any = redis.ConnectionPool(port=server.port, protocol=2)
    adopt_pool(pool, MAX_IDLE)
    assert pool.is_fast
    connection = pool.get_connection()
    pool.update_active_connections_for_reconnect()
    assert connection.is_broken
    assert connection.should_reconnect()
    assert connection._sock is not None
    pool.release(connection)
    assert connection._sock is None
    pool.disconnect()


class Dirty(connections.ReadsAsDirty):
    """Mixed into the class of connections."""

    is_dirty = False

    def disconnect(self, *args: t.Any) -> None:
        self.is_dirty = False
        super().disconnect(*args)  # type: ignore[misc]


def test_reads_as_dirty(pool: t.Any) -> None:
    """A pool closes an idle connection from which something can be read. Pub/sub does
    not take it for a message.
    """
    pool.connection_class = subclass(Dirty, pool.connection_class)
    connection = take(pool)
    socket = connection._sock
    pool.release(connection)
    assert take(pool) is connection
    assert connection._sock is socket
    connection.is_dirty = True
    pool.release(connection)
    assert take(pool) is connection
    assert connection._sock is not socket
    pool.release(connection)
    client_class = get_library(type(pool).__module__.partition(".")[0]).client_class

    with client_class(connection_pool=pool).pubsub() as pubsub:
        pubsub.subscribe("news")
        assert pubsub.get_message(timeout=5)["type"] == "subscribe"
        connection = pubsub.connection
        connection.is_dirty = True
        assert pubsub.get_message(timeout=0.1) is None
        # It subscribes again if it is opened again.
        connection.disconnect()
        connection.connect()
        assert pubsub.get_message(timeout=5)["type"] == "subscribe"

    # Later users of the connection do not.
    assert not connection._connect_callbacks
    connection.is_dirty = True
    assert connection.can_read(0)


def test_close_now(server: Server) -> None:
    """An asynchronous connection is closed in the first step of ``disconnect()``."""

    async def use() -> None:
        cls: t.Any = subclass(AsyncTrackedConnection, redis.asyncio.Connection)
        connection = cls(port=server.port)
        await connection.connect()
        connections.close_now(connection)
        assert not connection.is_connected
        assert not connection.is_open
        assert not connection.is_broken
        # It can be closed twice, and opened again.
        connections.close_now(connection)
        await connection.send_command("PING")
        assert await connection.read_response() in ("PONG", b"PONG")
        await connection.disconnect()

    asyncio.run(use())


@pytest.mark.parametrize("library", [redis, valkey])
def test_has_data(server: Server, library: t.Any) -> None:
    """The socket of a connection shows what has arrived, or that it is closed."""
    cls: t.Any = subclass(TrackedConnection, library.Connection)
    connection = cls(port=server.port)
    connection.connect()
    assert not connections.has_data(connection)
    connection.send_command("PING")
    wait_until(lambda: connections.has_data(connection), "the reply arrives")
    connection.read_response()
    assert not connections.has_data(connection)

    with server.admin() as admin:
        admin.client_kill_filter(_type="normal", skipme=True)

    wait_until(lambda: connections.has_data(connection), "the connection is closed")
    connection.disconnect()
    connection.connect()
    # Another thread closes it before the first look.
    connection.paced.close()
    assert connections.has_data(connection)
    connection.disconnect()


def test_closed_meanwhile(server: Server) -> None:
    """A connection that another thread closes during the first look has data."""
    connection: t.Any = subclass(TrackedConnection, redis.Connection)(port=server.port)
    connection.connect()
    sock = connection.paced.connected

    def close_after_look() -> int:
        descriptor: int = sock.fileno()
        sock.close()
        return descriptor

    connection.paced.fileno = close_after_look
    assert connections.has_data(connection)
    # The next socket is not looked for under the number of this one.
    assert connection.poll is None
    connection.disconnect()


@pytest.mark.parametrize("library", [redis, valkey])
def test_has_data_without_poll(
    monkeypatch: pytest.MonkeyPatch, server: Server, library: t.Any
) -> None:
    """eventlet removes ``poll`` from the module when it patches it, at any time."""
    monkeypatch.delattr(select, "poll")
    connection: t.Any = subclass(TrackedConnection, library.Connection)(
        port=server.port
    )
    connection.connect()
    assert not connections.has_data(connection)
    connection.send_command("PING")
    wait_until(lambda: connections.has_data(connection), "the reply arrives")
    connection.read_response()
    assert not connections.has_data(connection)
    connection.disconnect()


@pytest.mark.parametrize("library", [redis, valkey])
def test_inherited_connection(server: Server, library: t.Any) -> None:
    """A forked child closes a connection of its parent that is returned to a blocking
    pool. redis-py adds an empty place to the full queue of the pool.
    """
    cls = library.BlockingConnectionPool

    for is_ours in (False, True):
        pool = (subclass(pools.DropsInherited, cls) if is_ours else cls)(
            port=server.port
        )
        # The pool was reset after the fork.
        inherited = pool.connection_class(port=server.port)
        inherited.connect()
        inherited.pid = 0
        full = contextlib.nullcontext() if is_ours else pytest.raises(queue.Full)

        with full:
            pool.release(inherited)

        assert inherited._sock is None
        assert pool.pool.qsize() == pool.max_connections


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not count.")
@pytest.mark.parametrize("is_lost", [False, True])
def test_keeps_cancellation(is_lost: bool) -> None:
    """A cancellation that was dropped while a command was sent ends the command. One
    from before does not.
    """
    closed = []

    class Connection:
        async def send_packed_command(
            self, command: object, check_health: bool
        ) -> None:
            assert (command, check_health) == (b"PING", False)

            if is_lost:
                await drop_cancellation()

        async def disconnect(self, nowait: bool = False) -> None:
            closed.append(nowait)

    async def drop_cancellation() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    async def use() -> str:
        await drop_cancellation()
        cls: t.Any = subclass(connections.KeepsCancellation, Connection)
        await cls().send_packed_command(b"PING", check_health=False)
        return "sent"

    async def main() -> None:
        task = asyncio.ensure_future(use())

        # The task goes on to its next wait meanwhile.
        for _ in range(2):
            await asyncio.sleep(0)
            task.cancel()

            for _ in range(2):
                await asyncio.sleep(0)

        await asyncio.wait([task])
        assert task.cancelled() == is_lost
        assert closed == ([True] if is_lost else [])
        assert is_lost or task.result() == "sent"

    asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not count.")
def test_cancelled_while_sending() -> None:
    """The same if the task did not wait, so that Python has not delivered it yet."""
    closed = []

    class Connection:
        async def send_packed_command(self, command: object) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

        async def disconnect(self, nowait: bool = False) -> None:
            closed.append(nowait)

    async def use() -> None:
        cls: t.Any = subclass(connections.KeepsCancellation, Connection)

        with pytest.raises(asyncio.CancelledError):
            await cls().send_packed_command(b"PING")

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(use())

    assert closed == [True]


def test_add_startup_nodes(cluster: Cluster) -> None:
    """The client of a cluster forgets the nodes that it was created with."""
    host, port = cluster.nodes[0].address.split(":")
    client: t.Any = redis.RedisCluster(host="localhost", port=int(port))
    manager = client.nodes_manager
    known = dict(manager.startup_nodes)
    manager.startup_nodes = {}
    clusters.add_startup_nodes(client, [("localhost", int(port))])
    assert list(manager.startup_nodes) == [f"{host}:{port}"]
    manager.initialize()
    assert manager.startup_nodes.keys() == known.keys()
    client.close()


def test_follow_nodes(cluster: Cluster) -> None:
    """Without it, a redirection without a host finds no node."""
    client: t.Any = redis.RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port)
    port = client.get_default_node().port
    assert client.get_node(node_name=f":{port}") is None
    clusters.follow_nodes(client)
    assert client.get_node(node_name=f":{port}").port == port
    assert client.get_node("", port).port == port
    assert client.get_node("127.0.0.1", port).port == port
    assert client.get_node("", 1) is None
    client.close()


def test_follow_nodes_after_other_errors(cluster: Cluster) -> None:
    """redis-py 6 takes any error of a transaction for a redirection, and raises an
    ``AttributeError`` from the commands of all threads. Redirections are followed.
    """
    client: t.Any = redis.RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port)
    clusters.follow_nodes(client)
    client.set("k", "v")
    client.nodes_manager.update_moved_exception(redis.ConnectionError("lost"))
    # Newer ones never look at it.
    assert getattr(client.nodes_manager, "_moved_exception", None) is None
    assert client.get("k") == b"v"
    master = cluster.master_of("k")
    moved = redis.exceptions.MovedError(f"{client.keyslot('k')} {master.address}")
    client.nodes_manager.update_moved_exception(moved)
    assert client.get("k") == b"v"
    client.close()


def test_follow_nodes_that_are_gone(cluster: Cluster) -> None:
    """The connection of a transaction is closed if its node is gone meanwhile. redis-py
    6 raises an ``AttributeError``.
    """
    client: t.Any = redis.RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port)
    clusters.follow_nodes(client)
    pool = client.get_redis_connection(client.get_default_node()).connection_pool
    connection = pool.get_connection()
    manager = client.nodes_manager
    assert manager.find_connection_owner(connection) is client.get_default_node()
    known, manager.nodes_cache = manager.nodes_cache, {}
    node = manager.find_connection_owner(connection)
    node.redis_connection.connection_pool.release(connection)
    assert connection._sock is None
    manager.nodes_cache = known
    pool.release(connection)
    client.close()


@pytest.mark.parametrize("is_changed", [False, True])
def test_resend_only_redirected(cluster: Cluster, is_changed: bool) -> None:
    """Without it, a pipeline sends commands again whose replies were lost. What a node
    has redirected is sent to the right one.
    """
    client: t.Any = redis.RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port)
    node = client.get_redis_connection(client.get_node_from_key("n"))
    parse, lost = node.parse_response, redis.TimeoutError("lost")
    failures = [lost]

    def parse_response(*args: t.Any, **options: t.Any) -> t.Any:
        reply = parse(*args, **options)

        if failures:
            raise failures.pop()

        return reply

    pipe = client.pipeline()

    if is_changed:
        clusters.resend_only_redirected(pipe)

    node.parse_response = parse_response
    results = pipe.incr("n").execute(raise_on_error=False)
    assert results == ([lost] if is_changed else [2])
    slots = client.nodes_manager.slots_cache
    assert slots[client.keyslot("n")] != slots[client.keyslot("k")]
    slots[client.keyslot("n")] = slots[client.keyslot("k")]
    assert pipe.incr("n").execute() == [2 if is_changed else 3]
    client.close()


def test_closes_a_mock_at_once() -> None:
    """A mock in place of a connection needs no socket."""

    class Mock:
        closed = False

        async def disconnect(self) -> None:
            self.closed = True

    mocked: t.Any = subclass(connections.ClosesAtOnce, Mock)()
    asyncio.run(mocked.disconnect())
    assert mocked.closed


class Commands(list[t.Any]):
    """The commands of a pipeline. They are read only once."""

    def __iter__(self) -> t.Iterator[t.Any]:
        commands = list[t.Any](super().__iter__())
        self.clear()
        return iter(commands)


def test_resend_after_a_failure() -> None:
    """Once a node has failed, nothing is sent. The failure keeps its causes, while the
    caller handles another error.
    """
    cause, context, sent = ValueError(), KeyError(), list[t.Any]()
    redirected = redis.exceptions.MovedError("0 h:1")
    strategy: t.Any = types.SimpleNamespace()
    pipe: t.Any = types.SimpleNamespace(_execution_strategy=strategy)

    def send(*args: t.Any, **options: t.Any) -> None:
        sent.append((args, options))

        if len(sent) > 1:
            raise redis.ConnectionError("lost")

    pipe.parent_execute_command = send
    clusters.resend_only_redirected(pipe)
    send = pipe.parent_execute_command

    def plan(*results: object) -> None:
        found = (types.SimpleNamespace(result=result) for result in results)
        strategy.command_queue = Commands(found)

    plan(redirected, b"1", redis.ResponseError())
    send("GET", "k", keys=["k"])
    assert sent == [(("GET", "k"), {"keys": ["k"]})]

    for _ in range(2):
        with pytest.raises(redis.ConnectionError, match="lost"):
            send("GET", "k")

    assert len(sent) == 2

    for failure in (redis.ConnectionError(), redis.TimeoutError()):
        for each in (None, cause):
            failure.__cause__, failure.__context__ = each, context
            plan(redirected, failure, redis.ConnectionError())

            for _ in range(2):
                try:
                    raise RuntimeError("handled")
                except RuntimeError:
                    with pytest.raises(type(failure)) as info:
                        send("GET", "k")

                assert info.value is failure
                assert failure.__cause__ is (each or context)

    assert len(sent) == 2
    clusters.resend_only_redirected(other := object())
    assert not hasattr(other, "parent_execute_command")


def test_find_shard(cluster: Cluster) -> None:
    """The position of a key is known for most commands."""
    client: t.Any = redis.RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port)
    master = f"127.0.0.1:{cluster.master_of('k').port}"
    assert clusters.find_shard(client, ("GET", "k")) == master
    assert clusters.find_shard(client, ("set", b"k", 1)) == master

    for command in (("PING",), ("GET",), ("EVAL", "return 1", 0), ("UNKNOWN", "k")):
        assert clusters.find_shard(client, command) is None

    assert clusters.find_shard(client, ("EVAL", "return 1", 1, "k"), 3) == master
    shard = clusters.find_shard(client, ("GET", "k"))
    assert shard is not None
    assert shard.slot == client.keyslot("k")
    assert clusters.find_shard_of_slot(client, shard.slot) == master
    client.nodes_manager.slots_cache = {}
    assert clusters.find_shard(client, ("GET", "k")) is None
    assert clusters.find_shard_of_slot(client, shard.slot) is None
    client.close()


def test_find_node_pool(cluster: Cluster) -> None:
    """A node of a synchronous client has a pool, one of an asynchronous client is like
    one.
    """
    host, port = "127.0.0.1", cluster.nodes[0].port
    name = f"{host}:{port}"
    client: t.Any = redis.RedisCluster(host=host, port=port)
    pool = clusters.find_node_pool(client, name)
    assert pool.connection_kwargs["port"] == port
    assert isinstance(pool.make_connection(), pool.connection_class)
    assert clusters.find_node_pool(client, "gone:1") is None
    client.get_node(node_name=name).redis_connection = None
    assert clusters.find_node_pool(client, name) is None
    client.close()

    async def use() -> None:
        async with redis.asyncio.RedisCluster(host=host, port=port) as other:
            node = clusters.find_node_pool(other, name)
            connection = node.connection_class(**node.connection_kwargs)
            assert (connection.host, connection.port) == (host, port)
            assert clusters.find_node_pool(other, "gone:1") is None

    asyncio.run(use())


def test_is_cache_refused(server: Server) -> None:
    """The text of redis-py's error tells that a server does not support caching."""
    client = redis.Redis(
        port=server.port, protocol=3, cache_config=redis.cache.CacheConfig()
    )

    try:
        client.ping()
    except redis.ConnectionError as error:
        assert errors.is_cache_refused(error)
    else:
        # From Redis 7.4 on it does.
        assert client.get_cache() is not None

    client.close()
    assert not errors.is_cache_refused(redis.ConnectionError("refused"))


def test_packs_with_hiredis() -> None:
    """redis-py's own attribute says whether hiredis is used."""
    connection_class: t.Any = redis.Connection
    packer = connection_class()._construct_command_packer(None)
    assert clients.packs_with_hiredis() == ("Hiredis" in type(packer).__name__)
