"""A server that sentinels know."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import contextvars
import time
import typing as t

import redis

from ..exceptions import ConfigError
from ..spec.advice import has_placeholder
from ..spec.classes import did_you_mean
from ..spec.classes import is_unset
from ..spec.classes import parameters
from ..spec.classes import subclass
from ..spec.spec import ADDRESS
from ..spec.spec import Address
from ..spec.spec import Arguments
from ..spec.spec import Spec
from ..spec.spec import Value
from ..spec.spec import Values
from ..spec.url import join_address
from ..spec.url import Url
from ..spec.values import convert
from ..spec.values import mask_secrets
from . import checks
from . import internals
from . import interruptions
from .base import causes
from .base import Engine
from .base import is_tls_refusal
from .credentials import SharedProvider
from .library import Client
from .library import get_library
from .library import library_name
from .library import library_of
from .library import Pool
from .operations import FakeServers
from .operations import Info
from .operations import probe_spec
from .standalone import split_arguments

# Seconds that connecting to a sentinel, and each of its replies, may take. One attempt
# may visit several sentinels.
_TIMEOUT = 1.0


class Sentinel(Engine):
    """The master or a replica of a service that sentinels watch."""

    tls_schemes: tuple[str, ...] = ("rediss+sentinel",)
    default_port: int = 26379

    # From settings to a spec

    def owns(self, client_class: type[t.Any], pool: object) -> bool:
        if not (name := library_name(client_class)):
            return False

        return isinstance(pool, get_library(name).sentinel.SentinelConnectionPool)

    def read_address(self, url: Url) -> tuple[Address, Values, Url]:
        """Read ``hosts/service[/database]`` and ``role`` in the query."""
        nodes = url.read_nodes(self.default_port)
        service, _, database = url.path.removeprefix("/").partition("/")

        if has_placeholder(service):
            raise url.error(
                "has a placeholder in place of the service, which was not replaced.",
                escape=False,
            )

        if not service:
            raise url.error(
                "must name the service that the sentinels watch, as in"
                " redis+sentinel://host:26379/mymaster/0.",
                escape=False,
            )

        options = url.query.split("&")
        roles = [option for option in options if option.startswith("role=")]

        if roles and roles not in (["role=master"], ["role=replica"]):
            raise ConfigError(
                f"'role' in the query of {url.label} must be master or replica."
            )

        address = Address(
            url.scheme, nodes, url.unquote(service), roles == ["role=replica"]
        )
        query = "&".join(option for option in options if option not in roles)
        return address, {}, url._replace(path=f"/{database}", query=query)

    def check_classes(
        self,
        prefix: str,
        scheme: str,
        client_class: type[t.Any],
        pool_class: type[t.Any] | None,
    ) -> None:
        super().check_classes(prefix, scheme, client_class, None)
        expected = redis.SentinelConnectionPool

        if pool_class is not None and not issubclass(pool_class, expected):
            raise checks.wrong_pool_class(prefix, expected)

    def read_sentinel_kwargs(self, spec: Spec, values: Values) -> None:
        if not spec.address.nodes:
            # The pool of the application has its own sentinels.
            return super().read_sentinel_kwargs(spec, values)

        for name in checks.SENTINEL_SETTINGS:
            spec.arguments.pop(name, None)

        spec.sentinel_arguments = _read_sentinel_arguments(values, spec.arguments)

    def creates_pool(self, spec: Spec) -> bool:
        return True

    # From a spec to a client

    def make_client(
        self,
        spec: Spec,
        client_class: type[t.Any],
        arguments: Arguments,
        fake_servers: FakeServers,
    ) -> t.Any:
        library = library_of(client_class)
        pool_class = spec.pool_class or library.sentinel.SentinelConnectionPool
        tls = arguments.pop("ssl", False)
        # The asynchronous classes name the same arguments.
        for_pool, for_client = split_arguments(
            arguments,
            pool_class,
            redis.ConnectionPool,
            get_library("redis").connection_class(tls=tls),
        )
        pool = pool_class(
            spec.address.service,
            _make_sentinels(spec, client_class),
            is_master=not spec.address.replica,
            ssl=tls,
            **for_pool,
        )
        return client_class(connection_pool=pool, **for_client)

    def all_pools(self, client: Client) -> list[Pool]:
        pool = client.connection_pool
        # A copy of the application's pool has no sentinels of its own.
        manager = getattr(pool, "sentinel_manager", None)
        sentinels = [] if manager is None else manager.sentinels
        return [pool, *(each.connection_pool for each in sentinels)]

    # Around commands

    def is_transient(
        self, error: BaseException, spec: Spec, handled: BaseException | None = None
    ) -> bool:
        if _is_no_master(error):
            # The application's own sentinels leave no more than a text.
            if _is_refusal(error.__cause__) or internals.is_refused_by_sentinel(error):
                return False

        return super().is_transient(error, spec, handled)

    def is_hang(
        self, error: BaseException, spec: Spec, handled: BaseException | None = None
    ) -> bool:
        # Only the text of the sentinels' own errors is left.
        chain = causes(error, handled)
        return any(map(_is_no_master, chain)) or super().is_hang(error, spec, handled)

    # For operators

    def explain_error(self, spec: Spec, error: BaseException) -> str:
        if _is_no_master(error) and any(
            self.is_login_error(spec, each) for each in causes(error, None)
        ):
            name = f"'{spec.prefix}_SENTINEL_PASSWORD'"
            return f"Check {name} or '{spec.prefix}_SENTINEL_KWARGS'."

        return super().explain_error(spec, error)

    def probe_specs(self, spec: Spec, timeout: float) -> list[Spec]:
        """One spec for each sentinel, so that none delays the others."""
        probe = probe_spec(spec, spec.client_class, timeout)

        if not spec.address.nodes:
            # The pool of the application has its own sentinels.
            return [probe]

        timeouts = dict.fromkeys(checks.TIMEOUTS, timeout)
        sentinel_arguments = spec.sentinel_arguments | timeouts
        return [
            probe.replace(
                address=spec.address._replace(nodes=(node,)),
                sentinel_arguments=sentinel_arguments,
            )
            for node in spec.address.nodes
        ]

    def ask_info(self, client: Client) -> Info:
        address = join_address(*self.ask_address(client))
        return {**super().ask_info(client), "address": address}

    def find_login(
        self, spec: Spec, error: BaseException | None
    ) -> tuple[str, str, bool]:
        if not _is_no_master(error):
            return super().find_login(spec, error)

        has_login = spec.sentinel_arguments.get("password") is not None
        return "A sentinel", f"'{spec.prefix}_SENTINEL_KWARGS'", has_login

    def error_text(self, spec: Spec, error: BaseException) -> str:
        text = super().error_text(spec, error)
        pool = spec.arguments.get("connection_pool")

        if pool is not None:
            # The repr of the application's own sentinels may show their password.
            for sentinel in pool.sentinel_manager.sentinels:
                text = text.replace(repr(sentinel), "a sentinel")

        return text

    def scheme_name(self, spec: Spec) -> str:
        return spec.address.scheme if spec.address.nodes else "redis+sentinel"

    def describe_address(self, spec: Spec) -> str:
        nodes = ", ".join(join_address(host, port) for host, port in spec.address.nodes)
        where = f"at {nodes}" if nodes else "behind sentinels"
        kind = "replicas of " if spec.address.replica else ""
        pool = spec.arguments.get("connection_pool")
        service = spec.address.service or getattr(pool, "service_name", "")
        return f"{kind}{service} {where}"

    def has_fixed_address(self, spec: Spec) -> bool:
        return False


class _SafeRepr:
    """Mixed into the class of clients that talk to sentinels. redis-py puts their
    ``repr`` into errors, with all arguments of their connections.
    """

    def __repr__(self) -> str:
        return "a sentinel"


class _SentinelClient(_SafeRepr):
    """Mixed into the class of synchronous clients that talk to sentinels. redis-py
    ignores their errors and asks the next sentinel. It must not ignore an exception of
    the application.
    """

    def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        started = time.monotonic()

        try:
            return super().execute_command(*args, **options)  # type: ignore[misc]
        except Exception as error:
            _raise_interruption(self, error, started)
            _collected.get([]).append(error)
            raise


class _AsyncSentinelClient(_SafeRepr):
    """The same for asynchronous clients."""

    async def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        started = time.monotonic()

        try:
            return await super().execute_command(*args, **options)  # type: ignore[misc]
        except Exception as error:
            _raise_interruption(self, error, started)
            _collected.get([]).append(error)
            raise


class _Sentinels:
    """Mixed into redis-py's class that asks the sentinels. It raises their errors as
    the cause of its own, which has only their text.
    """

    def discover_master(self, service_name: str) -> t.Any:
        with _collect_errors() as errors:
            try:
                return super().discover_master(service_name)  # type: ignore[misc]
            except redis.ConnectionError as error:
                raise error from _find_cause(errors)

    def discover_slaves(self, service_name: str) -> t.Any:
        with _collect_errors() as errors:
            replicas = super().discover_slaves(service_name)  # type: ignore[misc]

        _check_replicas(replicas, errors)
        return replicas


class _AsyncSentinels:
    """The same for asynchronous clients."""

    async def discover_master(self, service_name: str) -> t.Any:
        with _collect_errors() as errors:
            try:
                return await super().discover_master(service_name)  # type: ignore[misc]
            except redis.ConnectionError as error:
                raise error from _find_cause(errors)

    async def discover_slaves(self, service_name: str) -> t.Any:
        with _collect_errors() as errors:
            replicas = await super().discover_slaves(service_name)  # type: ignore[misc]

        _check_replicas(replicas, errors)
        return replicas


# The errors of the sentinels that are asked now.
_collected: contextvars.ContextVar[list[Exception]] = contextvars.ContextVar("errors")


@contextlib.contextmanager
def _collect_errors() -> cabc.Iterator[list[Exception]]:
    errors: list[Exception] = []
    token = _collected.set(errors)

    try:
        yield errors
    finally:
        _collected.reset(token)


def _find_cause(errors: list[Exception]) -> Exception | None:
    """The error that says most: one that a retry cannot fix, or the first."""
    return next(filter(_is_refusal, errors), errors[0] if errors else None)


def _check_replicas(replicas: list[t.Any], errors: list[Exception]) -> None:
    """Raise if there are no replicas because the sentinels refused to answer. redis-py
    would look for the master, and hide the error.
    """
    cause = _find_cause(errors)

    if not replicas and _is_refusal(cause):
        sentinel = get_library("redis").sentinel
        raise sentinel.MasterNotFoundError(f"No replica found: {cause}") from cause


def _is_refusal(error: BaseException | None) -> bool:
    """Whether a sentinel refused the password or the certificate, or its own was."""
    if error is None:
        return False

    errors = get_library("redis").errors
    permanent = (errors.AuthenticationError, errors.AuthorizationError)
    return isinstance(error, permanent) or any(map(is_tls_refusal, causes(error, None)))


def _raise_interruption(client: t.Any, error: Exception, started: float) -> None:
    """Raise the application's own exception, if a sentinel's client hid one."""
    timeouts = map(client.connection_pool.connection_kwargs.get, checks.TIMEOUTS)
    interruptions.raise_interruption(
        causes(error, None),
        library_of(type(client)).errors.TimeoutError,
        time.monotonic() - started,
        min(filter(None, timeouts), default=0),
    )


def _make_sentinels(spec: Spec, client_class: type[t.Any]) -> t.Any:
    """redis-py's object that asks the sentinels of a spec."""
    library = library_of(client_class)
    arguments = {"retry": library.no_retry(), **spec.sentinel_arguments}
    mask_secrets(arguments)
    manager_class = subclass(
        _AsyncSentinels if library.is_async else _Sentinels, library.sentinel.Sentinel
    )
    manager = manager_class([], sentinel_kwargs=arguments)
    mixin = _AsyncSentinelClient if library.is_async else _SentinelClient
    sentinel_class = subclass(mixin, library.client_class)
    manager.sentinels = [
        sentinel_class(host=host, port=port, **arguments)
        for host, port in spec.address.nodes
    ]
    return manager


def _is_no_master(error: BaseException | None) -> bool:
    """Whether no sentinel named a server."""
    classes = tuple(
        get_library("redis", is_async).sentinel.MasterNotFoundError
        for is_async in (False, True)
    )
    return isinstance(error, classes)


def _read_sentinel_arguments(values: Values, arguments: Arguments) -> Arguments:
    """The arguments of the sentinels' clients. TLS is that of the servers. Credentials
    are not.
    """
    own: Arguments = dict.fromkeys(checks.TIMEOUTS, _TIMEOUT)
    own |= {k: v for k, v in arguments.items() if _is_tls(k)}
    own |= {k: v for k, v in arguments.items() if k in checks.LIBRARY_DEFAULTS}
    kwargs = values.get("sentinel_kwargs", Value("", {}))
    given = _read_sentinel_kwargs(kwargs)
    accepted = parameters(redis.Redis)

    for name in ("username", "password"):
        if (value := values.get(f"sentinel_{name}")) is not None:
            if name in given:
                raise value.error(
                    f"and {name!r} in {kwargs.label} are two names for one thing: set"
                    " one of them."
                )

            given[name] = value

    for name, value in given.items():
        own[name] = convert(accepted[name], value)
        checks.check_file(name, value._replace(value=own[name]))

        if name == "credential_provider":
            own[name] = SharedProvider(value._replace(value=own[name]))

    if own.get("ssl"):
        return own

    for name, value in given.items():
        if name.startswith("ssl_"):
            raise value.error(
                "needs TLS, and nothing asks for it: use a rediss+sentinel:// URL, or"
                f" add 'ssl': True to {kwargs.label}."
            )

    # SENTINEL_KWARGS turns TLS off for the sentinels only.
    return {k: v for k, v in own.items() if not _is_tls(k)}


def _read_sentinel_kwargs(kwargs: Value) -> Values:
    """What ``SENTINEL_KWARGS`` says about each argument."""
    accepted = parameters(redis.Redis)
    given: Values = {}

    for name, value in kwargs.value.items():
        # A retry asks the next sentinel, so that "retry" would have no effect.
        if name not in accepted or name in (*ADDRESS, "connection_pool", "retry"):
            raise kwargs.error(
                "must have arguments of redis.Redis as its keys, and none of the"
                f" address or of retries.{did_you_mean(str(name), accepted)}"
            )

        if not is_unset(value):
            label = f"{name!r} in {kwargs.label}"
            given[name] = kwargs._replace(label=label, value=value)

    return given


def _is_tls(name: str) -> bool:
    return name.partition("_")[0] == "ssl"


ENGINE: Sentinel = Sentinel()
