"""What all engines share. An engine is a kind of server. It knows everything that
depends on that kind, so no other module tests for a scheme or a client class.
"""

from __future__ import annotations

import abc
import collections.abc as cabc
import inspect
import ssl
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
from . import internals
from . import interruptions
from . import messages
from . import names
from . import tracking
from .library import Client
from .library import library_name
from .library import library_of
from .library import Pool
from .operations import check_answer
from .operations import check_answer_async
from .operations import FakeServers
from .operations import Operations

# Any other TLS error is a refusal. These say that the connection was lost.
_TLS_LOST = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)

# With one of these set, redis-py takes retry=None for "retry once".
_RETRY_ARGUMENTS = frozenset({"retry_on_error", "retry_on_timeout"})


class Engine(Operations, abc.ABC):
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
        :return: The address, the client's arguments, and the URL without what was read
            of its path and query.
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
        checks.check_tls(spec, values)
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

            if self.pools(client):
                adoption.keep_pools_open(client, pools)

        adoption.renew_locks_after_fork(client, self.all_pools)

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
                internals.disconnect_idle(pool)

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

    # Around commands

    def is_transient(
        self, error: BaseException, spec: Spec, handled: BaseException | None = None
    ) -> bool:
        """Whether a retry may succeed.

        :param error: What an attempt raised.
        :param spec: The spec.
        :param handled: The error that the caller was handling when the command
            started. It says nothing about the attempt.
        """
        errors = library_of(spec.client_class).errors
        transient = (
            errors.ConnectionError,
            errors.TimeoutError,
            errors.ClusterDownError,
            errors.TryAgainError,
            *spec.arguments.get("retry_on_error", ()),
        )
        permanent = (errors.AuthenticationError, errors.AuthorizationError)
        return (
            isinstance(error, transient)
            and not isinstance(error, permanent)
            and not internals.is_cache_refused(error)
            and not any(map(is_tls_refusal, causes(error, handled)))
        )

    def hide_secrets(
        self, error: BaseException, spec: Spec, handled: BaseException | None
    ) -> None:
        """Hide secrets in an error and its causes. See :meth:`is_transient`."""
        secrets = messages.find_secrets(
            self.connection_arguments(spec), spec.sentinel_arguments
        )

        for each in causes(error, handled):
            messages.clean_error(each, secrets)

    def complete_error(
        self,
        error: BaseException,
        spec: Spec,
        handled: BaseException | None,
        outcome: str,
    ) -> None:
        """Hide secrets in an error and its causes, and note which Redis failed. See
        :meth:`is_transient`.

        :param outcome: How long the command took, or why it was not sent.
        """
        self.hide_secrets(error, spec, handled)
        advice = self.explain_error(spec, error)
        connection_error = library_of(spec.client_class).errors.ConnectionError

        # Other errors are the command's, such as a wrong type, or the application's.
        if (
            advice
            or isinstance(error, connection_error)
            or self.is_transient(error, spec, handled)
        ):
            where = f"Redis {spec.prefix!r}, {self.describe_address(spec)}"
            messages.add_note(error, f"{where}: {outcome} {advice}".rstrip())

    def may_have_been_sent(self, error: BaseException) -> bool:
        """Whether the server may have received the command.

        :param error: What an attempt raised.
        """
        return not (tracking.is_unsent(error) or internals.is_full_pool(error))

    def is_hang(
        self, error: BaseException, spec: Spec, handled: BaseException | None = None
    ) -> bool:
        """Whether the server did not answer in time. See :meth:`is_transient`."""
        timeout = library_of(spec.client_class).errors.TimeoutError
        return any(isinstance(each, timeout) for each in causes(error, handled))

    def raise_interruption(
        self,
        error: BaseException,
        spec: Spec,
        handled: BaseException | None,
        client: Client | None,
        seconds: float,
    ) -> None:
        """Raise the application's own exception, if the client library took one for an
        error of the socket. See :meth:`is_transient`.

        :param client: The client, or None before it is created.
        :param seconds: How long the attempt took.
        """
        pool = getattr(client, "connection_pool", None)
        arguments = spec.arguments if pool is None else pool.connection_kwargs
        timeouts = [
            each[name]
            for each in (arguments, spec.sentinel_arguments)
            for name in checks.TIMEOUTS
            if each.get(name)
        ]
        interruptions.raise_interruption(
            causes(error, handled),
            library_of(spec.client_class).errors.TimeoutError,
            seconds,
            min(timeouts, default=0),
        )

    def find_parts(
        self, client: Client | None, commands: cabc.Iterable[cabc.Sequence[t.Any]]
    ) -> frozenset[cabc.Hashable]:
        """The parts of the prefix that may be down separately, and that commands need.
        None stands for the whole prefix.

        :param client: The client, or None before it is created.
        :param commands: The arguments of each command.
        """
        return frozenset([None])

    def is_all_down(self, error: BaseException) -> bool:
        """Whether no part of the prefix can be reached.

        :param error: What an attempt raised.
        """
        return True

    def is_reset(self, error: BaseException, handled: BaseException | None) -> bool:
        """Whether the server closed the connection while it received a command. See
        :meth:`is_transient`.
        """
        resets = (ConnectionResetError, BrokenPipeError)
        return any(isinstance(each, resets) for each in causes(error, handled))

    def after_all_down(self, client: Client) -> None:
        """Prepare a client after :meth:`is_all_down`."""

    def can_probe(self, client: Client) -> bool:
        """Whether :meth:`probe` can tell that the server answers.

        :param client: The client, or None before it is created.
        """
        return hasattr(client, "connection_pool")

    def probe(self, client: Client) -> None:
        """Raise unless the server answers, on a separate connection.

        :param client: The client.
        """
        check_answer(client.connection_pool, library_of(type(client)))

    async def probe_async(self, client: Client) -> None:
        """Raise unless the server of an asynchronous client answers."""
        await check_answer_async(client.connection_pool, library_of(type(client)))

    def before_retry(self, client: Client) -> None:
        """Prepare a client for the next attempt."""

    def before_pipeline_retry(self, client: Client) -> t.Any:
        """Prepare a client for the next attempt of a pipeline.

        :return: None or, if the client is asynchronous, maybe an awaitable.
        """

    def after_pipeline(self, client: Client) -> None:
        """Clean up after a pipeline that may have failed."""

    # Refused commands

    def is_refused(self, error: BaseException, spec: Spec) -> bool:
        """Whether the server refused a command, which another connection may run: the
        server's role or the credentials have changed.

        :param error: What an attempt raised.
        :param spec: The spec.
        """
        errors = library_of(spec.client_class).errors

        if not isinstance(error, errors.AuthenticationError):
            return internals.is_demoted(error, errors)

        arguments = self.connection_arguments(spec)

        if arguments.get("credential_provider") is not None:
            return True

        # A wrong password stays wrong.
        has_login = bool(arguments.get("password") or arguments.get("username"))
        return has_login and not tracking.is_unsent(error)

    def replace_connections(self, client: Client) -> None:
        """Replace all connections of a client before their next use.

        :param client: The client.
        """
        for pool in self.pools(client):
            adoption.replace_connections(pool)


def causes(
    error: BaseException | None, handled: BaseException | None
) -> cabc.Iterator[BaseException]:
    """An error, and the errors of the same attempt that led to it.

    :param error: What the attempt raised.
    :param handled: The error that the caller was handling when the command started. It
        and its causes do not belong to the attempt.
    """
    seen = {id(handled)}
    pending: list[BaseException | None] = [error]

    while pending:
        if (each := pending.pop()) is not None and id(each) not in seen:
            seen.add(id(each))
            pending += [each.__cause__, each.__context__]
            yield each


def is_tls_refusal(error: BaseException) -> bool:
    """Whether one side refused TLS, such as the certificate of the other."""
    return isinstance(error, ssl.SSLError) and not isinstance(error, _TLS_LOST)
