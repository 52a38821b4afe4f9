"""Undocumented features of clients of clusters."""

from __future__ import annotations

import collections
import collections.abc as cabc
import types
import typing as t

import redis.cluster
from redis import exceptions as redis_exceptions

from ...spec.classes import once_per_class
from ...spec.spec import Arguments
from ...spec.url import join_address
from ..library import library_of
from ..messages import clean_error
from .clients import change_class

#: The arguments of ``redis.Redis`` that ``redis.RedisCluster`` passes on to its nodes
#: without naming them in its signature. Without them: a cluster has no password.
CLUSTER_ARGUMENTS: frozenset[str] = frozenset(redis.cluster.REDIS_ALLOWED_KEYS)


class SlotErrors:
    """Mixed into the class of a cluster's clients, and of its synchronous pipelines. It
    sees errors before tracing does.

    Why: redis-py raises an error that quotes the command if it has no key. In a
    transaction, it does so when the command is queued. Versions: all; the second method
    is that of asyncio. Without it: traces show passwords, and so do the errors of
    transactions.
    """

    def determine_slot(self, *args: t.Any) -> t.Any:
        try:
            return super().determine_slot(*args)  # type: ignore[misc]
        except Exception as error:
            clean_error(error)
            raise

    async def _determine_slot(self, *args: t.Any) -> t.Any:
        try:
            return await super()._determine_slot(*args)  # type: ignore[misc]
        except Exception as error:
            clean_error(error)
            raise


def create_pools_with(
    make_pool: cabc.Callable[..., t.Any], address: tuple[str, int], arguments: Arguments
) -> None:
    """Let a new synchronous client of a cluster create the pools of its nodes with a
    function.

    Why: it takes a class of pools only together with a URL, and does nothing but call
    it. Versions: all. Without it: the pools of nodes lend connections in the wrong
    state.

    :param make_pool: The function. It gets the arguments of a pool.
    :param address: Host and port of a start-up node, for the URL.
    :param arguments: The arguments of the client. They are changed in place.
    """
    arguments["url"] = f"redis://{join_address(*address)}"
    arguments["connection_pool_class"] = make_pool


def list_node_pools(client: t.Any) -> list[t.Any]:
    """The pools of a cluster's nodes.

    Why: the public way creates the clients of all nodes. Versions: all. Without it:
    there is none to close, to replace or to count.

    :param client: The cluster's client. A node of an asynchronous one has no pool, and
        a node of a synchronous one none before its first use.
    """
    clients = [getattr(node, "redis_connection", None) for node in client.get_nodes()]
    return [each.connection_pool for each in clients if each is not None]


def find_node_pool(client: t.Any, name: str) -> t.Any:
    """The pool of a cluster's node. A node of an asynchronous client is like a pool.

    Why: the public way creates the client of a node that was never used, and there is
    none for asyncio. Versions: all. Without it: a shard cannot be probed.

    :param client: The cluster's client.
    :param name: The name of the node.
    :return: None if the node is not known, or was never used.
    """
    node = client.get_node(node_name=name)

    if library_of(type(client)).is_async:
        return node

    node_client = getattr(node, "redis_connection", None)
    return None if node_client is None else node_client.connection_pool


def set_node_connections(
    client: t.Any, convert: cabc.Callable[[type[t.Any]], type[t.Any]]
) -> None:
    """Set the class of connections of a new asynchronous cluster's client.

    Why: its nodes create their connections, and no argument sets the class. Versions:
    all. Without it: a node may get commands without a login.

    :param client: The client.
    :param convert: Returns the class to use for redis-py's.
    """
    # The nodes that it finds later are created with these arguments.
    arguments = client.nodes_manager.connection_kwargs
    arguments["connection_class"] = convert(arguments["connection_class"])

    for node in client.nodes_manager.startup_nodes.values():
        node.connection_class = convert(node.connection_class)


class Lender(t.Protocol):
    """Checks the connections of a cluster's nodes."""

    def make_ready(self, connection: t.Any) -> None:
        """Called before a connection is lent."""

    def take_back(self, connection: t.Any) -> None:
        """Called when a connection was returned."""


class _Idle(collections.deque[t.Any]):
    """The idle connections of a node.

    :param lender: What checks them.
    :param connections: Those that the node has already.
    """

    def __init__(self, lender: Lender, connections: collections.deque[t.Any]) -> None:
        super().__init__(connections, connections.maxlen)
        self.lender = lender

    def popleft(self) -> t.Any:
        # A test may have put in a mock.
        if hasattr(self[0], "is_asking"):
            # If this fails, the node keeps the connection.
            self.lender.make_ready(self[0])

        return super().popleft()

    def append(self, connection: t.Any) -> None:
        if not hasattr(connection, "is_asking"):
            super().append(connection)
            return

        # The node lends the first one next. The command after ASKING needs this one.
        put_back = super().appendleft if connection.is_asking else super().append

        try:
            self.lender.take_back(connection)
        finally:
            put_back(connection)


def _lend_through(lender: Lender, nodes: cabc.Iterable[t.Any]) -> None:
    for node in nodes:
        if not isinstance(node._free, _Idle):
            node._free = _Idle(lender, node._free)


@once_per_class
def _adopts_nodes(cls: type[t.Any]) -> type[t.Any]:
    def set_nodes(
        self: t.Any,
        old: dict[str, t.Any],
        new: dict[str, t.Any],
        remove_old: bool = False,
    ) -> None:
        # The manager cannot keep the lender: it has no attributes of ours. It always
        # knows some nodes that have it.
        known = (*self.startup_nodes.values(), *self.nodes_cache.values())
        idle = next(node._free for node in known if isinstance(node._free, _Idle))
        _lend_through(idle.lender, new.values())
        cls.set_nodes(self, old, new, remove_old)

    # See _follows_nodes.
    names = {"__slots__": (), "set_nodes": set_nodes}
    return type(cls.__name__, (cls,), names)


def lend_through(client: t.Any, lender: Lender) -> None:
    """Check the connections of a new asynchronous cluster's client when its nodes lend
    them, and when they are returned.

    Why: the nodes have no pools, and check nothing. redis-py 6.4 does not even call
    their ``release()``. They lend the connection that was unused for longest, also
    after ASKING. Versions: all. Without it: a connection that a command has altered is
    used for the commands of others, and a command that was redirected fails.

    :param client: The client. Its connections must have the attribute ``is_asking``.
    :param lender: What checks them.
    """
    manager = client.nodes_manager
    _lend_through(lender, manager.startup_nodes.values())
    change_class(manager, _adopts_nodes(type(manager)))


def refresh_slots(client: t.Any) -> t.Any:
    """Read the slots of a cluster again.

    Why: a pipeline does not do it after a failure. Versions: all. Without it: a
    pipeline is retried on the node that is gone.

    :param client: The cluster's client.
    :return: An awaitable if the client is asynchronous.
    """
    return client.nodes_manager.initialize()


def add_startup_nodes(client: t.Any, nodes: cabc.Iterable[tuple[str, int]]) -> None:
    """Add nodes to those that are asked for the slots of a cluster.

    Why: the client keeps only the nodes that the cluster names, and forgets those that
    it was created with. Versions: all. Without it: a cluster whose nodes were all
    replaced is never found again.

    :param client: The cluster's client.
    :param nodes: Host and port of each node.
    """
    manager = client.nodes_manager
    library = library_of(type(client))
    arguments = manager.connection_kwargs if library.is_async else {}
    added = [library.cluster.ClusterNode(*node, **arguments) for node in nodes]
    # A new dict: the client uses the same one for the nodes that it knows.
    manager.startup_nodes = {node.name: node for node in added} | manager.startup_nodes


# Stands for a node that is gone, and for its client and pool. A connection that is
# returned to it is closed.
_NOBODY = types.SimpleNamespace(release=lambda connection: connection.disconnect())
_NOBODY.redis_connection = _NOBODY.connection_pool = _NOBODY


@once_per_class
def _follows_nodes(cls: type[t.Any]) -> type[t.Any]:
    def get_node(
        self: t.Any,
        host: str | None = None,
        port: int | None = None,
        node_name: str | None = None,
    ) -> t.Any:
        if (name := node_name or f"{host}:{port}")[0] != ":":
            return cls.get_node(self, host, port, node_name)

        nodes = self.nodes_cache.values()
        return next((node for node in nodes if f":{node.port}" == name), None)

    def update_moved_exception(self: t.Any, error: Exception) -> None:
        if isinstance(error, redis_exceptions.AskError):
            self._moved_exception = error

    def find_connection_owner(self: t.Any, connection: object) -> t.Any:
        return cls.find_connection_owner(self, connection) or _NOBODY

    # Assigning __class__ needs a class with the same memory layout: without a __dict__
    # of its own, and without a second base class.
    methods = (get_node, update_moved_exception, find_connection_owner)
    names = {method.__name__: method for method in methods}
    return type(cls.__name__, (cls,), {"__slots__": (), **names})


def follow_nodes(client: t.Any) -> None:
    """Let a cluster's client follow redirections without a host, and survive others.

    Why: a cluster behind a single address sends redirections without a host. A
    transaction takes any error for a redirection and, with redis-py 6.4, expects that
    its node still exists. Versions: all. Without it: the client connects to localhost,
    or a transaction ends with an ``AttributeError``.

    :param client: The cluster's client.
    """
    manager = client.nodes_manager
    change_class(manager, _follows_nodes(type(manager)))


_FAILURES = (redis_exceptions.ConnectionError, redis_exceptions.TimeoutError)


class _Resend:
    """Sends the commands of a cluster's pipeline again that no node has run.

    :param pipeline: The pipeline.
    :param send: Sends one command.
    """

    def __init__(self, pipeline: t.Any, send: cabc.Callable[..., t.Any]) -> None:
        self._pipeline = pipeline
        self._send = send
        self._commands: t.Any = None
        self._failure: Exception | None = None

    def __call__(self, *args: t.Any, **options: t.Any) -> t.Any:
        commands = self._pipeline._execution_strategy.command_queue

        # Each execution has a new list. It may be long: it is read only once.
        if commands is not self._commands:
            self._commands = commands
            results = (command.result for command in commands)
            failures = (each for each in results if isinstance(each, _FAILURES))
            self._failure = next(failures, None)

        if (failure := self._failure) is not None:
            # redis-py replaces its context when it raises it again.
            raise failure from failure.__cause__ or failure.__context__

        try:
            return self._send(*args, **options)
        except _FAILURES as error:
            self._failure = error
            raise


def resend_only_redirected(pipeline: t.Any) -> None:
    """Let a synchronous pipeline of a cluster send only those commands again that a
    node has redirected, and none after a node has failed.

    Why: unless the pipeline is a transaction, redis-py sends its commands again one by
    one after their replies were lost or late, whatever the number of retries is.
    Versions: all; an asynchronous pipeline does not do so. Without it: commands run
    twice although ``RETRY`` is 0, nothing is logged, and each command waits for a node
    that hangs.

    :param pipeline: The pipeline. If it is of another kind, nothing is done.
    """
    if (send := getattr(pipeline, "parent_execute_command", None)) is not None:
        # This is a reference cycle, as redis-py's own cluster pipelines have.
        pipeline.parent_execute_command = _Resend(pipeline, send)


class Shard(str):
    """A shard of a cluster, as the name of its master. A failover ends it: another
    master with another name serves its slots.

    :param name: The name of the master.
    :param slot: One of its slots.
    """

    slot: int

    def __new__(cls, name: str, slot: int) -> Shard:
        shard = super().__new__(cls, name)
        shard.slot = slot
        return shard


def find_shard(
    client: t.Any, command: cabc.Sequence[t.Any], position: int | None = None
) -> Shard | None:
    """The shard that serves a command.

    Why: the public ways raise errors or ask a node, which may be down. Versions: all.
    Without it: while one shard hangs, each command to it waits for its deadline.

    :param client: The cluster's client.
    :param command: The arguments of the command.
    :param position: The position of its first key, if this is known.
    :return: None if the position is not known.
    """
    if position is None:
        details = client.commands_parser.commands.get(str(command[0]).lower(), {})
        position = t.cast(int, details.get("first_key_pos", 0))

    if not 0 < position < len(command):
        return None

    return find_shard_of_slot(client, client.keyslot(command[position]))


def find_shard_of_slot(client: t.Any, slot: int) -> Shard | None:
    """The shard that serves a slot. See :func:`find_shard`."""
    nodes = client.nodes_manager.slots_cache.get(slot)
    return Shard(nodes[0].name, slot) if nodes else None
