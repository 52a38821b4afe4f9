"""A server that sentinels know."""

from __future__ import annotations

import typing as t

import redis

from ..exceptions import ConfigError
from ..spec.advice import has_placeholder
from ..spec.advice import UNREPLACED
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
from . import checks
from .base import Engine
from .commands import causes
from .credentials import SharedProvider
from .internals.errors import is_refused_by_sentinel
from .internals.sentinels import AsyncReplicaConnection
from .internals.sentinels import list_sentinels
from .internals.sentinels import ReplicaConnection
from .library import Client
from .library import get_library
from .library import library_name
from .library import library_of
from .library import Pool
from .operations import FakeServers
from .operations import Info
from .operations import probe_spec
from .standalone import split_arguments
from .tls import check_files
from .watchers import is_no_master
from .watchers import is_refusal
from .watchers import make_sentinels

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
            raise url.error(UNREPLACED)

        if not service:
            raise url.error(
                "must name the service that the sentinels watch, as in"
                " redis+sentinel://host:26379/mymaster/0."
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

        spec.sentinel_arguments = _read_sentinel_arguments(spec, values)

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
            make_sentinels(spec, client_class),
            is_master=not spec.address.replica,
            ssl=tls,
            **for_pool,
        )

        if spec.address.replica:
            mixin = AsyncReplicaConnection if library.is_async else ReplicaConnection
            pool.connection_class = subclass(mixin, pool.connection_class)

        return client_class(connection_pool=pool, **for_client)

    def all_pools(self, client: Client) -> list[Pool]:
        pool = client.connection_pool
        return [pool, *(each.connection_pool for each in list_sentinels(pool))]

    # Around commands

    def is_transient(
        self, error: BaseException, spec: Spec, handled: BaseException | None = None
    ) -> bool:
        if is_no_master(error):
            # Of the errors of the application's own sentinels, only the text is left.
            if is_refusal(error.__cause__, handled) or is_refused_by_sentinel(error):
                return False

        return super().is_transient(error, spec, handled)

    def is_hang(
        self, error: BaseException, spec: Spec, handled: BaseException | None = None
    ) -> bool:
        # A sentinel may have hung: only the text of their errors is left.
        chain = causes(error, handled)
        return any(map(is_no_master, chain)) or super().is_hang(error, spec, handled)

    # For operators

    def explain_error(self, spec: Spec, error: BaseException) -> str:
        if is_no_master(error) and any(
            self.is_login_error(spec, each) for each in causes(error, None)
        ):
            name = f"'{spec.prefix}_SENTINEL_PASSWORD'"
            return f"Check {name} or '{spec.prefix}_SENTINEL_KWARGS'."

        # After a colon, redis-py lists the sentinels that failed. The service of the
        # application's own sentinels is not in the URL.
        if is_no_master(error) and " : " not in str(error) and spec.address.nodes:
            return (
                f"Check the service in '{spec.prefix}_URL', and whether its master is"
                " up."
            )

        if "unknown command" in str(error) and "SENTINEL" in str(error):
            return "The server is not a sentinel: check its port, or use redis://."

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

    def check_kind(self, client: Client, spec: Spec, kind: Info) -> None:
        # The pool of the application may look for a replica.
        wants_master = spec.address.nodes and not spec.address.replica

        if wants_master and kind.get("role") == "replica":
            address = join_address(*self.ask_address(client))
            raise redis.RedisError(
                f"The sentinels name {address} as the master, but it is a replica."
            )

    def ask_info(self, client: Client) -> Info:
        address = join_address(*self.ask_address(client))
        return {**super().ask_info(client), "address": address}

    def find_login(
        self, spec: Spec, error: BaseException | None
    ) -> tuple[str, str, bool]:
        if not is_no_master(error):
            return super().find_login(spec, error)

        setting = f"'{spec.prefix}_SENTINEL_PASSWORD'"

        if not spec.sentinel_arguments.keys() & {"password", "credential_provider"}:
            return "A sentinel", f"Set {setting}.", False

        advice = f"Check {setting} or '{spec.prefix}_SENTINEL_KWARGS'."
        return "A sentinel", advice, True

    def error_text(self, spec: Spec, error: BaseException) -> str:
        text = super().error_text(spec, error)
        cause = error.__cause__

        if is_no_master(error) and cause and not self.is_login_error(spec, cause):
            # redis-py names only the classes of the sentinels' errors.
            text = f"{text.partition(' : ')[0]}: {super().error_text(spec, cause)}"

        pool = spec.arguments.get("connection_pool")

        if pool is not None:
            # The repr of the application's own sentinels may show their password.
            for sentinel in list_sentinels(pool):
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

    def secret_arguments(self, spec: Spec) -> list[Arguments]:
        # The pool of the application has its own sentinels.
        sentinels = list_sentinels(spec.arguments.get("connection_pool"))
        # A test may have replaced them by objects without a pool.
        pools = [getattr(each, "connection_pool", None) for each in sentinels]
        own = [getattr(pool, "connection_kwargs", {}) for pool in pools]
        return [*super().secret_arguments(spec), *own]

    def has_fixed_address(self, spec: Spec) -> bool:
        return False


def _read_sentinel_arguments(spec: Spec, values: Values) -> Arguments:
    """The arguments of the sentinels' clients. They have the TLS settings of the
    servers, but not the credentials.
    """
    arguments = spec.arguments
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
                    f"and {name!r} in {kwargs.label} are two names of the same setting:"
                    " set only one of them."
                )

            given[name] = value

    for name, value in given.items():
        own[name] = convert(accepted[name], value)

        if name == "credential_provider":
            own[name] = SharedProvider(value._replace(value=own[name]))

    tls = [value for name, value in given.items() if name.startswith("ssl_")]

    if own.get("ssl"):
        if tls:
            check_files(spec.prefix, own, values | given)

        return own

    if tls:
        raise tls[0].error(
            "needs TLS, which is off: use a rediss+sentinel:// URL, or add"
            f" 'ssl': True to {kwargs.label}."
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
                "must have arguments of redis.Redis as its keys, except those for the"
                f" address and for retries.{did_you_mean(str(name), accepted)}"
            )

        if not is_unset(value):
            label = f"{name!r} in {kwargs.label}"
            given[name] = kwargs._replace(label=label, value=value)

    return given


def _is_tls(name: str) -> bool:
    return name.partition("_")[0] == "ssl"


ENGINE: Sentinel = Sentinel()
