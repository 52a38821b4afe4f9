"""A Redis or Valkey Cluster."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import functools
import inspect
import re
import typing as t

import redis
from redis import exceptions as redis_exceptions

from ..exceptions import ConfigError
from ..spec.classes import name_of
from ..spec.classes import once_per_class
from ..spec.classes import parameters
from ..spec.classes import subclass
from ..spec.spec import Address
from ..spec.spec import Arguments
from ..spec.spec import Spec
from ..spec.spec import Values
from ..spec.url import join_address
from ..spec.url import Url
from . import adoption
from . import names
from .base import Engine
from .checks import client_settings
from .checks import TIMEOUTS
from .commands import causes
from .connections import NodeLender
from .internals.clusters import add_startup_nodes
from .internals.clusters import CLUSTER_ARGUMENTS
from .internals.clusters import create_pools_with
from .internals.clusters import find_node_pool
from .internals.clusters import find_shard
from .internals.clusters import find_shard_of_slot
from .internals.clusters import follow_nodes
from .internals.clusters import lend_through
from .internals.clusters import list_node_pools
from .internals.clusters import refresh_slots
from .internals.clusters import set_node_connections
from .internals.clusters import Shard
from .internals.errors import is_uncovered
from .internals.probes import ask_once
from .internals.probes import leave_no_series
from .library import Client
from .library import get_library
from .library import library_of
from .operations import check_answer
from .operations import check_answer_async
from .operations import copy_pool
from .operations import FakeServers
from .operations import Info
from .operations import probe_spec
from .standalone import ENGINE as STANDALONE
from .standalone import split_arguments
from .tracking import HOSTLESS

SLOTS = 16384


class Cluster(Engine):
    """Nodes that share the keys. The client finds all nodes from any one of them."""

    tls_schemes: tuple[str, ...] = ("rediss+cluster",)
    # One attempt may visit several nodes.
    timeout: float = 1.0
    async_classes: cabc.Mapping[str, str] = {
        "redis.RedisCluster": "redis.asyncio.RedisCluster"
    }
    connects_when_made: bool = True
    closes_for_good: bool = True
    knows_nodes: bool = True

    # From settings to a spec

    @property
    def client_class(self) -> type[t.Any]:
        return redis.RedisCluster

    def owns(self, client_class: type[t.Any], pool: object) -> bool:
        return issubclass(client_class, self.client_class)

    def read_address(self, url: Url) -> tuple[Address, Values, Url]:
        return Address(url.scheme, url.read_nodes(self.default_port)), {}, url

    def accepted(
        self, client_class: type[t.Any], pool_class: type[t.Any] | None
    ) -> cabc.Mapping[str, inspect.Parameter]:
        return _accepted(client_class)

    def check_classes(
        self,
        prefix: str,
        scheme: str,
        client_class: type[t.Any],
        pool_class: type[t.Any] | None,
    ) -> None:
        super().check_classes(prefix, scheme, client_class, None)

        if pool_class is not None:
            raise ConfigError(
                f"'{prefix}_CONNECTION_POOL_CLASS' cannot be used: a cluster has its"
                " own pool for each node."
            )

        # Other classes get the timeouts through their pool.
        if parameters(self.client_class).keys() - parameters(client_class).keys():
            raise ConfigError(
                f"'{prefix}_CLASS' must take **kwargs, and pass them to the constructor"
                f" of {name_of(self.client_class)}, which makes connections with them."
            )

    def check(self, spec: Spec, values: Values) -> None:
        super().check(spec, values)

        for name in ("db", "unix_socket_path"):
            if spec.arguments.get(name):
                raise values[name].error(
                    "cannot be used: a cluster has only database 0, and no socket."
                )

    def complete(self, spec: Spec, values: Values) -> None:
        spec.arguments.pop("db", None)
        super().complete(spec, values)

    def timeouts_to_set(self, client_class: type[t.Any]) -> list[str]:
        # redis-py's own class does not name them. One that does has its own defaults.
        accepted = parameters(client_class)
        return [name for name in TIMEOUTS if name not in accepted]

    # From a spec to a client

    def make_client(
        self,
        spec: Spec,
        client_class: type[t.Any],
        arguments: Arguments,
        fake_servers: FakeServers,
    ) -> t.Any:
        library = library_of(client_class)

        if not library.is_async and "url" in parameters(client_class):
            make_pool = functools.partial(_make_pool, spec.max_idle)
            create_pools_with(make_pool, self.nodes(spec)[0], arguments)

        if spec.address.nodes:
            # New objects each time, because the client changes them.
            node_class = library.cluster.ClusterNode
            arguments["startup_nodes"] = [
                node_class(host, port) for host, port in spec.address.nodes
            ]

        client = client_class(**arguments)
        follow_nodes(client)
        # Its nodes_manager forgets them.
        client._start_up_nodes = self.nodes(spec)
        return client

    def introduce(self, spec: Spec, arguments: Arguments) -> None:
        library = library_of(spec.client_class)
        accepted = parameters(spec.client_class).keys() | CLUSTER_ARGUMENTS
        names.name_library(arguments, accepted)

        # The asynchronous class calls no function for a new connection.
        if not library.is_async:
            names.name_after_connecting(spec, arguments)

    def no_retry(self, spec: Spec) -> t.Any:
        # To a cluster's client None means several retries.
        return library_of(spec.client_class).no_retry()

    def pools(self, client: t.Any) -> list[t.Any]:
        return list_node_pools(client)

    def adopt_async(self, spec: Spec, client: t.Any) -> None:
        # Its nodes have connections, but no pools.
        mixin = adoption.CancellableNodeConnection
        set_node_connections(client, functools.partial(subclass, mixin))
        provider = spec.arguments.get("credential_provider")
        client._node_lender = NodeLender(spec.max_idle, provider)
        lend_through(client, client._node_lender)

    async def close_async(self, client: t.Any) -> None:
        # This closes the nodes as well.
        await client.aclose()

    # Around commands

    def is_transient(
        self, error: BaseException, spec: Spec, handled: BaseException | None = None
    ) -> bool:
        if isinstance(error, redis_exceptions.RedisClusterException):
            # redis-py raises it in three cases: slots are not covered, no node can be
            # reached, and keys are in different slots, which a retry cannot fix.
            cause = error.__cause__
            return is_uncovered(error) or (
                cause is not None and self.is_transient(cause, spec, handled)
            )

        return (
            _is_redirection(error)
            or _is_redirected_too_often(error)
            or super().is_transient(error, spec, handled)
        )

    def is_answer(self, error: BaseException, spec: Spec) -> bool:
        return _is_redirected_too_often(error) or super().is_answer(error, spec)

    def may_have_been_sent(self, error: BaseException) -> bool:
        # With any other error, another node may have received the command.
        return not _is_redirection(error)

    def find_parts(
        self, client: t.Any, commands: cabc.Iterable[cabc.Sequence[t.Any]]
    ) -> frozenset[cabc.Hashable]:
        if client is None:
            return frozenset([None])

        shards = (
            find_shard(client, command, _find_key(command)) for command in commands
        )
        return frozenset(shard for shard in shards if shard is not None)

    def find_successor(self, client: t.Any, part: cabc.Hashable) -> cabc.Hashable:
        if client is None or not isinstance(part, Shard):
            return part

        return find_shard_of_slot(client, part.slot)

    def is_all_down(self, error: BaseException) -> bool:
        # It means that no node has answered when the slots were read.
        return isinstance(
            error, redis_exceptions.RedisClusterException
        ) and not is_uncovered(error)

    def after_all_down(self, client: t.Any) -> None:
        add_startup_nodes(client, client._start_up_nodes)

    def can_probe(self, client: t.Any) -> bool:
        # The next command is the probe, because it also reads the slots again.
        return False

    def can_probe_part(
        self, client: t.Any, part: cabc.Hashable, error: BaseException
    ) -> bool:
        # A blocking command may have waited for too long. The next one, as the probe,
        # would take the shard away from all others meanwhile.
        return (
            isinstance(part, Shard)
            and isinstance(error, redis.TimeoutError)
            and find_node_pool(client, part) is not None
        )

    def probe(self, client: t.Any, part: t.Any = None) -> None:
        try:
            check_answer(find_node_pool(client, part), library_of(type(client)))
        except Exception:
            # Another node may have taken over. The next command uses that one.
            with contextlib.suppress(Exception):
                refresh_slots(client)

            raise

    async def probe_async(self, client: t.Any, part: t.Any = None) -> None:
        try:
            pool = find_node_pool(client, part)
            await check_answer_async(pool, library_of(type(client)))
        except Exception:
            with contextlib.suppress(Exception):
                await refresh_slots(client)

            raise

    def before_retry(self, client: t.Any) -> None:
        client.replace_default_node()

    def before_pipeline_retry(self, client: t.Any) -> t.Any:
        return refresh_slots(client)

    def replace_connections(self, client: t.Any) -> None:
        super().replace_connections(client)

        # Only an asynchronous client has it.
        if (lender := getattr(client, "_node_lender", None)) is not None:
            lender.replace_connections()

    # For operators

    def nodes(self, spec: Spec) -> tuple[tuple[str, int], ...]:
        """Host and port of each start-up node.

        :param spec: The spec.
        """
        given = spec.arguments.get("startup_nodes") or ()
        connection = self.connection_arguments(spec)
        return (
            spec.address.nodes
            or tuple((node.host, int(node.port)) for node in given)
            or ((connection["host"], connection["port"]),)
        )

    def probe_specs(self, spec: Spec, timeout: float) -> list[Spec]:
        """One spec for each start-up node, so that none delays the others."""
        probe = probe_spec(spec, redis.Redis, timeout)
        return [
            probe.replace(
                engine=STANDALONE,
                address=Address(),
                arguments={**probe.arguments, "host": host, "port": port},
            )
            for host, port in self.nodes(spec)
        ]

    def check_health(self, client: t.Any, spec: Spec) -> None:
        _check_slots(client)
        pool = client.connection_pool
        own_host: str = pool.connection_kwargs["host"]
        own = (own_host, pool.connection_kwargs["port"])

        # Commands go to the addresses that nodes announce, which may be others than
        # those in the settings: behind NAT, for example, and in containers.
        for host, port in _announced_masters(client, own_host, spec) - {own}:
            changes: Arguments = {"host": host, "port": port}
            copied = copy_pool(pool, library_of(type(client)), changes)
            leave_no_series(copied)

            try:
                _check_slots(redis.Redis(connection_pool=copied))
            except redis.RedisError as error:
                raise redis.RedisError(
                    f"A master is announced at {join_address(host, port)}: {error}"
                ) from error
            finally:
                copied.disconnect()

    def ask_info(self, client: t.Any) -> Info:
        nodes: Info = client.execute_command("CLUSTER NODES")
        return nodes

    def explain_error(self, spec: Spec, error: BaseException) -> str:
        no_permission = redis_exceptions.NoPermissionError

        if isinstance(error, redis_exceptions.RedisClusterException):
            # redis-py's message says that cluster mode is not enabled, which is wrong.
            if any(isinstance(each, no_permission) for each in causes(error, None)):
                return "The user needs the permission +cluster|slots."

        texts = map(str, causes(error, None))

        if any(
            re.search("cluster support disabled|command .CLUSTER", each)
            for each in texts
        ):
            return "The server is not part of a cluster: use a redis:// URL."

        if isinstance(error, redis_exceptions.RedisClusterException):
            # The error of the last node that was asked.
            error = error.__cause__ or error

        if _is_redirection(error):
            # On a single server, it means that the URL is wrong.
            return ""

        return super().explain_error(spec, error)

    def node_specs(self, spec: Spec, info: Info) -> dict[str, Spec]:
        """A spec for each node, by its address, masters first."""
        specs = {}

        for name, node in sorted(info.items(), key=_masters_first):
            host, _, port = name.rpartition(":")

            if "noaddr" not in node["flags"] and re.fullmatch("[0-9]{1,5}", port):
                # A node that does not know its own address leaves the host out.
                node_address = (host or self.nodes(spec)[0][0], int(port))
                address = spec.address._replace(nodes=(node_address,))
                specs[join_address(*node_address)] = spec.replace(address=address)

        return specs

    def scheme_name(self, spec: Spec) -> str:
        return spec.address.scheme if spec.address.nodes else "redis+cluster"

    def describe_address(self, spec: Spec) -> str:
        return ", ".join(join_address(host, port) for host, port in self.nodes(spec))

    def has_fixed_address(self, spec: Spec) -> bool:
        return False

    def native_arguments(self, spec: Spec) -> list[str]:
        # Follow redirections to the node that has the key.
        return ["-c"]


def _make_pool(max_idle: float, **arguments: t.Any) -> redis.ConnectionPool:
    """The pool of a node."""
    tls = arguments.pop("ssl", False)
    arguments.pop("connection_class", None)
    connection_class = get_library("redis").connection_class(tls=tls)
    for_pool, _ = split_arguments(arguments, redis.ConnectionPool, connection_class)
    pool = redis.ConnectionPool(connection_class=connection_class, **for_pool)
    adoption.adopt_pool(pool, max_idle)
    return pool


@once_per_class
def _accepted(client_class: type[t.Any]) -> dict[str, inspect.Parameter]:
    accepted = dict(client_settings(client_class))
    of_nodes = parameters(redis.Redis).items()
    accepted |= {
        name: parameter for name, parameter in of_nodes if name in CLUSTER_ARGUMENTS
    }

    for name in ("url", "connection_pool"):
        accepted.pop(name, None)

    return accepted


def _check_slots(client: Client) -> None:
    """Raise unless a node says that all slots are served."""
    info = ask_once(client, "CLUSTER INFO")
    state, served = info.get("cluster_state"), info.get("cluster_slots_ok")

    if state != "ok" or served != str(SLOTS):
        raise redis.RedisError(
            f"The cluster's state is {state!r}: {served} of {SLOTS} slots are served."
        )


def _announced_masters(
    client: Client, own_host: str, spec: Spec
) -> set[tuple[str, int]]:
    """Host and port of each master, as the cluster tells them to its clients."""
    remap = spec.arguments.get("address_remap") or (lambda address: address)
    addresses = set()

    for _, _, (name, port, *_), *_ in ask_once(client, "CLUSTER SLOTS"):
        host = name.decode() if isinstance(name, bytes) else name
        # A node without a host is at the address that replied.
        addresses.add(remap((own_host if host in HOSTLESS else host, int(port))))

    return addresses


def _find_key(command: cabc.Sequence[t.Any]) -> int | None:
    """The position of the first key, if the name of the command alone does not tell it.
    0 if there is no key.
    """
    name = str(command[0]).upper()

    if name in _SCRIPTS:
        return 0 if [str(count) for count in command[2:3]] == ["0"] else 3

    if name in _STREAMS:
        keys = (n for n, word in enumerate(command, 1) if word in _BEFORE_KEYS)
        return next(keys, 0)

    return None


# The number of keys follows the script.
_SCRIPTS = ("EVAL", "EVALSHA", "EVALSHA_RO", "EVAL_RO", "FCALL", "FCALL_RO")
_STREAMS = ("XREAD", "XREADGROUP")
# redis-py's own methods pass bytes.
_BEFORE_KEYS = ("STREAMS", b"STREAMS", "streams", b"streams")


def _is_redirection(error: BaseException) -> bool:
    """Whether a node did nothing because it does not have the slot."""
    return isinstance(error, redis_exceptions.AskError)


def _is_redirected_too_often(error: BaseException) -> bool:
    """Whether nodes have answered redirections and ``TRYAGAIN`` until redis-py gave up,
    which it does after 16 of them. They end when the slot has been moved.
    """
    # A node that answers CLUSTERDOWN raises a derived class.
    return type(error) is redis_exceptions.ClusterError


def _masters_first(item: tuple[str, cabc.Mapping[str, t.Any]]) -> bool:
    _, node = item
    return "master" not in node["flags"]


ENGINE: Cluster = Cluster()
