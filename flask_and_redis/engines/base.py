"""What all engines share. An engine is a kind of server. It knows everything that
depends on that kind, so no other module tests for a scheme or a client class.
"""

from __future__ import annotations

import abc
import collections.abc as cabc
import inspect
import typing as t

import redis

from ..exceptions import ConfigError
from ..spec.classes import name_of
from ..spec.classes import parameters
from ..spec.spec import Address
from ..spec.spec import Arguments
from ..spec.spec import Spec
from ..spec.spec import Values
from ..spec.url import Url
from ..spec.values import mask_secrets
from . import adoption
from . import checks
from . import credentials
from . import names
from .commands import Commands
from .internals.pools import disconnect_idle
from .library import Client
from .library import library_name
from .library import library_of
from .library import Pool
from .operations import FakeServers
from .tls import check_tls

# With one of these set, redis-py takes retry=None for "retry once".
_RETRY_ARGUMENTS = frozenset({"retry_on_error", "retry_on_timeout"})


class Engine(Commands, abc.ABC):
    """One kind of server. There is one object of each class, and it has no state."""

    #: The schemes of its URLs that have a path in place of a host.
    schemes_without_host: tuple[str, ...] = ()
    #: The schemes of its URLs that turn TLS on.
    tls_schemes: tuple[str, ...] = ()
    #: The port of a URL without one.
    default_port: int = 6379
    #: Seconds that connecting, and each reply, may take by default. redis-py before 8
    #: has no timeouts.
    timeout: float = 5.0
    #: The counterparts of its client classes in asyncio.
    async_classes: cabc.Mapping[str, str] = {
        "redis.Redis": "redis.asyncio.Redis",
        "valkey.Valkey": "valkey.asyncio.Valkey",
        "fakeredis.FakeRedis": "fakeredis.FakeAsyncRedis",
    }
    #: Whether creating a client opens connections.
    connects_when_made: bool = False
    #: Whether a client cannot be used after ``close()``.
    closes_for_good: bool = False

    # From settings to a spec

    @property
    def client_class(self) -> type[t.Any]:
        """The class of its clients by default."""
        return redis.Redis

    def owns(self, client_class: type[t.Any], pool: object) -> bool:
        """Whether a client class or a pool belongs to this engine, whatever the URL.

        :param client_class: The class that the settings name.
        :param pool: The pool that they name, or None.
        """
        return False

    def read_url(
        self, url: Url, accepted: cabc.Mapping[str, inspect.Parameter]
    ) -> tuple[Address, Values]:
        """Read what a URL says about the address and the client's arguments.

        :param url: The URL. Its scheme is one of this engine's.
        :param accepted: The arguments that the client takes.
        :raises ConfigError: If a part is wrong. The message quotes no part.
        """
        values = url.read_login()

        if url.scheme in self.tls_schemes:
            values["ssl"] = url.value(True)

        address, located, rest = self.read_address(url)
        values |= located
        values |= rest.read_database()
        return address, values | rest.read_query(accepted, values)

    @abc.abstractmethod
    def read_address(self, url: Url) -> tuple[Address, Values, Url]:
        """Read the part of a URL that depends on the engine.

        :param url: The URL.
        :return: The address, the client's arguments, and the URL without the parts of
            its path and query that were read.
        """

    def accepted(
        self, client_class: type[t.Any], pool_class: type[t.Any] | None
    ) -> cabc.Mapping[str, inspect.Parameter]:
        """The arguments that can be set: the client's, those of its pool's class if a
        setting names one, and this package's own.

        :param client_class: The client class.
        :param pool_class: The class of its pool, or None.
        """
        accepted = checks.client_settings(client_class)

        if pool_class is None:
            return accepted

        of_pool = dict(parameters(pool_class))
        of_pool.pop("connection_class", None)
        return of_pool | accepted

    def check_classes(
        self,
        prefix: str,
        scheme: str,
        client_class: type[t.Any],
        pool_class: type[t.Any] | None,
    ) -> None:
        """Check that this engine can use the classes that settings name.

        :param prefix: The prefix.
        :param scheme: The scheme of its URL.
        :param client_class: The client class.
        :param pool_class: The class of its pool, or None.
        :raises ConfigError: If it cannot.
        """
        checks.check_client_class(prefix, client_class)

        if not issubclass(client_class, self.client_class):
            raise ConfigError(
                f"'{prefix}_CLASS' must be derived from {name_of(self.client_class)}"
                f" for a {scheme}:// URL."
            )

        if pool_class is not None:
            checks.check_pool_class(prefix, client_class, pool_class)

    def check(self, spec: Spec, values: Values) -> None:
        """Check settings that depend on each other or on the kind of server.

        :param spec: The spec, with the arguments that were given and no defaults.
        :param values: The values behind the arguments, for the labels in errors.
        :raises ConfigError: If they contradict each other.
        """
        check_tls(spec, values)
        credentials.check_password_file(spec, values)
        checks.check_encoding(spec, values)

    def complete(self, spec: Spec, values: Values) -> None:
        """Add defaults to a spec, and remove what is not an argument of the client.

        :param spec: The spec. It is changed in place.
        :param values: See :meth:`check`.
        :raises ConfigError: If a required setting is missing.
        """
        checks.set_library_defaults(spec, values)
        self.read_sentinel_kwargs(spec, values)
        credentials.read_login(spec, values)

        if "connection_pool" not in spec.arguments:
            for name in self.timeouts_to_set(spec.client_class):
                spec.arguments.setdefault(name, self.timeout)

        checks.check_required(spec, creates_pool=self.creates_pool(spec))

    def read_sentinel_kwargs(self, spec: Spec, values: Values) -> None:
        """Handle settings that only make sense with sentinels."""
        for name in checks.SENTINEL_SETTINGS:
            if spec.arguments.pop(name, None) is not None:
                raise values[name].error("needs a redis+sentinel:// URL.")

    def timeouts_to_set(self, client_class: type[t.Any]) -> list[str]:
        """The timeouts that get :attr:`timeout` if no setting gives them."""
        return checks.timeouts_without_default(client_class)

    def for_asyncio(self, spec: Spec) -> Spec:
        """The same settings for the counterpart of the client class in asyncio.

        :param spec: The spec.
        :raises ConfigError: If the settings have no meaning there.
        """
        return checks.convert_to_async(spec, self.async_classes)

    def creates_pool(self, spec: Spec) -> bool:
        """Whether a client is created with a pool of ours."""
        return spec.pool_class is not None

    # From a spec to a client

    def make(
        self, spec: Spec, client_class: type[t.Any], fake_servers: FakeServers
    ) -> t.Any:
        """Create a client, synchronous or asynchronous.

        :param spec: The spec.
        :param client_class: Its client class, or a class derived from that.
        :param fake_servers: The app's servers of fakeredis. Missing ones are added.
        """
        arguments = self.prepare(spec)

        if "connection_pool" in arguments:
            return client_class(**arguments)

        return self.make_client(spec, client_class, arguments, fake_servers)

    @abc.abstractmethod
    def make_client(
        self,
        spec: Spec,
        client_class: type[t.Any],
        arguments: Arguments,
        fake_servers: FakeServers,
    ) -> t.Any:
        """Create a client without a pool of the application. See :meth:`make`.

        :param arguments: The arguments from :meth:`prepare`.
        """

    def prepare(self, spec: Spec) -> Arguments:
        """The arguments of a client that retries nothing by itself."""
        arguments = dict(spec.arguments)

        if (
            library_name(spec.client_class)
            == spec.client_class.__module__.partition(".")[0]
        ):
            # Not for a class of the application: it may format its password.
            mask_secrets(arguments)

        if "connection_pool" not in arguments:
            self.introduce(spec, arguments)

        if spec.deadline is not None:
            if "retry" in parameters(spec.client_class):
                arguments["retry"] = self.no_retry(spec)

            if spec.pool_class and "timeout" in parameters(spec.pool_class):
                arguments.setdefault("timeout", spec.deadline)

        return arguments

    def introduce(self, spec: Spec, arguments: Arguments) -> None:
        """Add to a client's arguments what ``CLIENT LIST`` shows of its connections.

        :param spec: The spec.
        :param arguments: The arguments. They are changed in place.
        """
        accepted = parameters(spec.client_class)
        names.name_library(arguments, accepted)
        names.allow_refused_name(spec, arguments, accepted)

    def no_retry(self, spec: Spec) -> t.Any:
        """What the client class takes for "no retries"."""
        # None saves an object for each client and connection.
        if _RETRY_ARGUMENTS & spec.arguments.keys():
            return library_of(spec.client_class).no_retry()

        return None

    def adopt(self, spec: Spec, client: Client) -> None:
        """Prepare a new synchronous client for threads that share it, and for forks.

        :param spec: The spec.
        :param client: The client.
        """
        pools = self.all_pools(client)

        if "connection_pool" in spec.arguments:
            for pool in pools:
                adoption.guard_pool(pool)
        else:
            for pool in pools:
                mask_secrets(pool.connection_kwargs)
                adoption.adopt_pool(pool, spec.max_idle)

            # A cluster's client drops the pools of nodes that are gone. Ours has no
            # close() that could disconnect them for other threads.
            if self.pools(client) and not self.closes_for_good:
                adoption.keep_pools_open(client, pools)

        adoption.prepare_for_forks(client, self.all_pools)

    def adopt_async(self, spec: Spec, client: Client) -> None:
        """Prepare a new asynchronous client.

        :param spec: The spec.
        :param client: The client.
        """
        for pool in self.all_pools(client):
            adoption.adopt_pool(pool, spec.max_idle)

    def pools(self, client: Client) -> list[Pool]:
        """The pools of connections to the servers. It is empty if the client's class
        has no pool.

        :param client: The client.
        """
        pool = getattr(client, "connection_pool", None)
        return [] if pool is None else [pool]

    def all_pools(self, client: Client) -> list[Pool]:
        """All pools of a client, including those of connections to sentinels."""
        return self.pools(client)

    def disconnect(self, client: Client, *, in_use: bool) -> None:
        """Disconnect all pools of a client. It connects again when it is used.

        :param client: The client.
        :param in_use: Whether to disconnect connections that other threads are using.
        """
        for pool in self.all_pools(client):
            if in_use:
                pool.disconnect()
            else:
                disconnect_idle(pool)

    async def close_async(self, client: t.Any) -> None:
        """Close an asynchronous client and its connections.

        :param client: The client.
        """
        await client.aclose()

        for pool in self.all_pools(client):
            await pool.disconnect()

    def max_connections(self, spec: Spec) -> int:
        """How many connections a prefix may have.

        :param spec: The spec.
        """
        if (pool := spec.arguments.get("connection_pool")) is not None:
            return int(pool.max_connections)

        default = parameters(spec.pool_class or redis.ConnectionPool)["max_connections"]
        return int(spec.arguments.get("max_connections") or default.default or 100)
