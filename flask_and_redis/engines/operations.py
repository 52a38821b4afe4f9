"""The part of an engine that operators use: health checks, reports, and the commands of
``flask redis``.
"""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import re
import time
import typing as t

import redis

from ..spec.classes import parameters
from ..spec.spec import Arguments
from ..spec.spec import Spec
from ..spec.url import join_address
from .checks import maint_config
from .checks import TIMEOUTS
from .internals.pools import own_arguments
from .internals.probes import ask_kind
from .internals.probes import ask_once
from .internals.probes import leave_no_series
from .internals.probes import Limit
from .internals.probes import limit_connections
from .library import Client
from .library import Connection
from .library import Library
from .library import library_name
from .library import library_of
from .library import Pool
from .messages import explain_login
from .messages import hide_secrets
from .messages import lower_first

#: The servers of fakeredis of one app, by name.
FakeServers = dict[str, t.Any]

#: What a server says of itself.
Info = cabc.Mapping[str, t.Any]

#: Seconds in which a server that is down must answer a probe.
ANSWER_TIMEOUT = 1.0

# What a redis:// URL may lead to by mistake.
_SENTINEL = (
    "The server is a sentinel, which stores no data: use a redis+sentinel:// URL."
)
_CLUSTER = "The server is part of a cluster: use a redis+cluster:// URL."

# A probe has a single connection. It does not need these, or must not share them.
_NOT_FOR_PROBES = {"cache", "cache_config", "retry", "single_connection_client"}


class Operations:
    """Base class of :class:`.Engine`."""

    #: Whether the data are in this process, so that there is no server to ask.
    in_process: bool = False
    #: Whether clients know all nodes of a cluster.
    knows_nodes: bool = False

    if t.TYPE_CHECKING:

        def make(
            self, spec: Spec, client_class: type[t.Any], fake_servers: FakeServers
        ) -> t.Any: ...

        def all_pools(self, client: Client) -> list[Pool]: ...

        def disconnect(self, client: Client, *, in_use: bool) -> None: ...

    def probe_specs(self, spec: Spec, timeout: float) -> list[Spec]:
        """Specs for short-lived clients that try once. If there are several, the first
        answer counts.

        :param spec: The spec.
        :param timeout: Seconds that connecting, and each reply, may take.
        """
        return [probe_spec(spec, spec.client_class, timeout)]

    @contextlib.contextmanager
    def open_probe(
        self, spec: Spec, fake_servers: FakeServers, seconds: float
    ) -> cabc.Iterator[t.Any]:
        """A short-lived client, which is disconnected at the end of the block.

        :param spec: A spec from :meth:`probe_specs`.
        :param fake_servers: See :meth:`make`.
        :param seconds: How long connecting and all replies together may take.
        """
        limit = Limit(time.monotonic() + seconds)
        client = self.make(spec, spec.client_class, fake_servers)

        for pool in self.all_pools(client):
            leave_no_series(pool)

            if not self.in_process:
                limit_connections(pool, limit)

        try:
            yield client
        except Exception as error:
            others = [each for each in limit.failures if each is not error]

            if error.__context__ is None and others:
                # redis-py drops the errors of the sentinels.
                error.__context__ = others[-1]

            raise
        finally:
            self.disconnect(client, in_use=True)

    def check_health(self, client: Client, spec: Spec) -> None:
        """Raise unless the server is healthy, and of the kind that the URL says.

        :param client: A client from :meth:`open_probe`.
        :param spec: The prefix's spec.
        """
        if ask_once(client, "PING") is False:
            raise redis.RedisError(
                "The server does not answer PING like Redis: check host and port."
            )

        if not self.in_process:
            self.check_kind(client, spec, ask_kind(client))

    def check_kind(self, client: Client, spec: Spec, kind: Info) -> None:
        """Raise if the server answers, but cannot run the commands of the prefix.

        :param client: A client from :meth:`open_probe`.
        :param spec: The prefix's spec.
        :param kind: What the server says of itself, or nothing.
        """
        if kind.get("mode") == "sentinel":
            raise redis.RedisError(_SENTINEL)

        if kind.get("mode") == "cluster":
            _check_node(client, kind)

    def ask_info(self, client: Client) -> Info:
        """What a server says of itself. For a server with nodes, it is a description of
        each node by address.

        :param client: A client from :meth:`open_probe`.
        """
        return self.ask_node_info(client)

    def ask_node_info(self, client: Client) -> Info:
        """What one node says of itself.

        :param client: A client from :meth:`open_probe`, of a spec from
            :meth:`node_specs`.
        """
        info: Info = client.execute_command("INFO")

        # The server is not trusted: it may be any program. Valkey says server_mode.
        if isinstance(info, cabc.Mapping) and "sentinel" in (
            info.get("redis_mode"),
            info.get("server_mode"),
        ):
            raise redis.RedisError(_SENTINEL)

        return info

    def node_specs(self, spec: Spec, info: Info) -> dict[str, Spec] | None:
        """A spec for each node, by its address. None if the server has no nodes.

        :param spec: The spec.
        :param info: What :meth:`ask_info` returned.
        """
        return None

    def is_login_error(self, spec: Spec, error: BaseException) -> bool:
        """Whether a server refused the credentials, or asks for them.

        :param spec: The spec.
        :param error: The error.
        """
        errors = library_of(spec.client_class).errors
        return isinstance(error, errors.AuthenticationError)

    def find_login(
        self, spec: Spec, error: BaseException | None
    ) -> tuple[str, str, bool]:
        """Who refused a login, what to do, and whether there was a login.

        :param spec: The spec.
        :param error: What a command raised because of the refusal.
        """
        arguments = self.connection_arguments(spec)
        # With a user name only, the client library logs in with an empty password.
        names = ("username", "password", "credential_provider")
        logs_in = any(arguments.get(name) is not None for name in names)
        return "The server", explain_login(spec), logs_in

    def error_text(self, spec: Spec, error: BaseException) -> str:
        """The message of an error of the client library, without secrets that the
        library or a server put into it.

        :param spec: The spec.
        :param error: The error.
        """
        return hide_secrets(str(error))

    def explain_error(self, spec: Spec, error: BaseException) -> str:
        """What to do about an error that a retry cannot fix, or nothing.

        :param spec: The spec.
        :param error: The error.
        """
        if self.is_login_error(spec, error):
            return explain_login(spec)

        if "unknown command" in str(error) and "HELLO" in str(error):
            return f"The server does not know HELLO: set '{spec.prefix}_PROTOCOL' to 2."

        errors = library_of(spec.client_class).errors

        if isinstance(error, errors.MovedError):
            return _CLUSTER

        if isinstance(error, errors.InvalidResponse):
            return "The server does not speak the protocol of Redis: check its port."

        if re.search("unknown command .(GET|SELECT|SET)\\b", str(error)):
            return "If the server is a sentinel, use a redis+sentinel:// URL."

        # Every server has database 0.
        return explain_database(spec, error) if spec.arguments.get("db") else ""

    def scheme_name(self, spec: Spec) -> str:
        """The kind of server in a word: a scheme."""
        return spec.address.scheme

    def describe_address(self, spec: Spec) -> str:
        """Where the server is, for people."""
        connection = self.connection_arguments(spec)
        return join_address(connection["host"], connection["port"])

    def connection_arguments(self, spec: Spec) -> Arguments:
        """The arguments of a connection, with the defaults of the address.

        :param spec: The spec.
        """
        arguments: Arguments = {"host": "localhost", "port": 6379, "db": 0}
        pool = spec.arguments.get("connection_pool")

        if pool is None:
            accepted = parameters(spec.client_class)
            defaults = {
                name: accepted[name].default or value
                for name, value in arguments.items()
                if name in accepted
            }
            return arguments | defaults | spec.arguments

        kwargs = dict(pool.connection_kwargs)
        kwargs["unix_socket_path"] = kwargs.pop("path", None)
        names = {cls.__name__ for cls in pool.connection_class.__mro__}
        kwargs["ssl"] = "SSLConnection" in names
        return arguments | kwargs

    def secret_arguments(self, spec: Spec) -> list[Arguments]:
        """The arguments of all connections, to hide their secrets.

        :param spec: The spec.
        """
        return [self.connection_arguments(spec), spec.sentinel_arguments]

    def has_fixed_address(self, spec: Spec) -> bool:
        """Whether the settings say where the server is. Otherwise it must be asked."""
        return True

    def ask_address(self, client: Client) -> tuple[str, int]:
        """Host and port of the server that a client talks to.

        :param client: A client from :meth:`open_probe`.
        """
        connection: Connection = client.connection_pool.get_connection()

        try:
            return connection.host, int(connection.port)
        finally:
            client.connection_pool.release(connection)

    def check_session(self, client: Client) -> None:
        """Raise if a server refuses the login or the database.

        :param client: A client from :meth:`open_probe`.
        """
        pool = client.connection_pool
        pool.release(pool.get_connection())

    def refuses_session(self, spec: Spec, error: BaseException | None) -> bool:
        """Whether :meth:`check_session` failed because the server refused something.

        :param spec: The spec.
        :param error: Its error, or None.
        """
        errors = library_of(spec.client_class).errors
        return isinstance(error, (errors.AuthenticationError, errors.ResponseError))

    def native_clients(self, spec: Spec) -> list[str]:
        """Names of command line clients, the most suitable first."""
        names = ["redis-cli", "valkey-cli"]
        prefers_valkey = (
            spec.address.scheme.startswith("valkey")
            or library_name(spec.client_class) == "valkey"
        )
        return names[::-1] if prefers_valkey else names

    def native_arguments(self, spec: Spec) -> list[str]:
        """Arguments of the command line client besides address and credentials."""
        database = self.connection_arguments(spec)["db"]
        return ["-n", str(database)] if database else []


def _check_node(client: Client, kind: Info) -> None:
    """Raise unless a node of a cluster is the only one, and serves."""
    info: Info = {"cluster_size": "1", "cluster_state": "ok"}

    # The user may have no permission to ask.
    with contextlib.suppress(library_of(type(client)).errors.ResponseError):
        info = ask_once(client, "CLUSTER INFO")

    # A replica redirects all commands, those that read too. The size is the number of
    # masters with slots, but Redis says 1 in its first two seconds.
    if kind.get("role") == "replica" or info.get("cluster_size") not in ("0", "1"):
        raise redis.RedisError(_CLUSTER)

    if (state := info.get("cluster_state")) != "ok":
        raise redis.RedisError(f"The cluster's state is {state!r}.")


def explain_database(spec: Spec, error: BaseException) -> str:
    """Which setting to check after a server has refused a database, or nothing.

    :param spec: The spec.
    :param error: The error.
    """
    if "DB index is out of range" in str(error):
        label = spec.values["db"].label
        return f"Check {lower_first(label)}: the server has fewer databases."

    return _CLUSTER if "SELECT is not allowed in cluster" in str(error) else ""


def check_answer(pool: Pool, library: Library) -> None:
    """Raise unless a server answers, on a separate connection.

    :param pool: The pool whose server is asked.
    :param library: The pool's library.
    """
    connection = _make_connection(pool)

    try:
        connection.connect()
        connection.send_command("PING")
        connection.read_response()
    except library.errors.ClusterDownError:
        # A replica whose master is down refuses all commands.
        raise
    except library.errors.ResponseError:
        # The user has no permission to PING: the server has answered.
        pass
    finally:
        connection.disconnect()


async def check_answer_async(pool: Pool, library: Library) -> None:
    """The same for an asynchronous pool. See :func:`check_answer`."""
    connection = _make_connection(pool)

    try:
        await connection.connect()
        await connection.send_command("PING")
        await connection.read_response()
    except library.errors.ClusterDownError:
        raise
    except library.errors.ResponseError:
        pass
    finally:
        await connection.disconnect()


def _make_connection(pool: Pool) -> Connection:
    """A connection like those of a pool, but with short timeouts."""
    kwargs = dict(pool.connection_kwargs)

    for name in TIMEOUTS:
        kwargs[name] = min(kwargs.get(name) or ANSWER_TIMEOUT, ANSWER_TIMEOUT)

    connection: Connection = pool.connection_class(**kwargs)
    return connection


def is_silence(error: BaseException) -> bool:
    """Whether an error of a probe means that no server replied.

    :param error: The error.
    """
    # Of the classes that are derived from these, some mean a reply.
    return type(error) in (redis.ConnectionError, redis.TimeoutError)


def probe_spec(spec: Spec, client_class: type[t.Any], timeout: float) -> Spec:
    """A spec for a client that tries once, and has a pool of its own.

    :param spec: The prefix's spec.
    :param client_class: The client class.
    :param timeout: Seconds that connecting, and each reply, may take.
    """
    accepted = parameters(client_class)
    timeouts: Arguments = dict.fromkeys(TIMEOUTS, timeout)
    arguments = {
        name: value
        for name, value in {**spec.arguments, **timeouts}.items()
        if name in accepted and name not in _NOT_FOR_PROBES
    }

    if (pool := arguments.get("connection_pool")) is not None:
        library = library_of(spec.client_class)
        arguments["connection_pool"] = copy_pool(pool, library, timeouts)

    return spec.replace(
        client_class=client_class,
        arguments=arguments,
        pool_class=None,
        deadline=0.0,
        retries=None,
    )


def copy_pool(pool: Pool, library: Library, changes: Arguments) -> t.Any:
    """A pool without connections, whose connections try once.

    :param pool: The pool to copy.
    :param library: Its library.
    :param changes: Other values for some arguments of its connections.
    """
    arguments = {**own_arguments(pool), **changes}

    if "maint_notifications_config" in parameters(library.pool_class):
        # A short-lived client has no use for notifications.
        arguments["maint_notifications_config"] = maint_config(False)

    arguments["retry"] = library.no_retry()
    return library.pool_class(connection_class=pool.connection_class, **arguments)
