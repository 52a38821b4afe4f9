"""One group of settings, to a spec."""

from __future__ import annotations

import collections.abc as cabc
import inspect
import typing as t

import redis

from ..engines import find_engine
from ..engines import get_engine
from ..engines.base import Engine
from ..engines.credentials import check_login
from ..engines.library import library_name
from ..exceptions import ConfigError
from ..spec.classes import did_you_mean
from ..spec.classes import find_class
from ..spec.classes import is_unset
from ..spec.classes import name_of
from ..spec.classes import parameters
from ..spec.spec import ADDRESS
from ..spec.spec import Address
from ..spec.spec import MAX_IDLE
from ..spec.spec import NO_URL
from ..spec.spec import RETRY_DEADLINE
from ..spec.spec import Spec
from ..spec.spec import Value
from ..spec.spec import Values
from ..spec.url import is_service_port
from ..spec.url import read_host
from ..spec.url import scheme_of
from ..spec.url import split_url
from ..spec.values import convert
from .hints import warn_about_address
from .hints import warn_about_login
from .hints import warn_about_overridden
from .hints import warn_about_sentinels

#: The names that version 1 had for arguments of the client.
OLD_NAMES = {"charset": "encoding", "errors": "encoding_errors", "user": "username"}

#: Settings that choose classes. They are not arguments of the client.
CLASS_SETTINGS = ("class", "connection_pool_class")

# Settings of pools that are no arguments of their connections.
_OF_OWN_POOLS = (
    *("ssl", "max_connections", "max_idle", "maint_notifications"),
    "password_file",
)

# If there is a URL, only the URL says these, even if it leaves out the port.
_WHERE = ("host", "port", "unix_socket_path")

_CACHE_HAZARD = "threads wait for each other, and forked processes read stale values"
_HAZARDS = {
    "single_connection_client": "forked processes get each other's replies",
    "cache_config": _CACHE_HAZARD,
    "cache": _CACHE_HAZARD,
}


# Options for which None means something to redis-py, and what to write instead. Any
# other option that is None counts as not set.
_NONE_MEANS = {
    "ssl_cert_reqs": "to accept any certificate write 'none'.",
    "socket_timeout": "write a number of seconds, or leave it out.",
    "socket_connect_timeout": "write a number of seconds, or leave it out.",
}


class Kind(t.NamedTuple):
    """The engine and the classes that the settings of a prefix choose."""

    engine: Engine
    client_class: type[t.Any]
    pool_class: type[t.Any] | None

    @property
    def accepted(self) -> cabc.Mapping[str, inspect.Parameter]:
        """The arguments that can be set."""
        return self.engine.accepted(self.client_class, self.pool_class)


def read_kind(
    prefix: str, url: object, client_class: object, pool_class: object
) -> Kind:
    """Find the engine and the classes of a prefix.

    :param prefix: The prefix.
    :param url: The setting ``URL``, or None.
    :param client_class: The setting ``CLASS``, or None.
    :param pool_class: The setting ``CONNECTION_POOL_CLASS``, or None.
    :raises ConfigError: If the engine cannot use a class, or one cannot be imported.
    """
    own_class = find_class(f"'{prefix}_CLASS'", client_class)
    pool = find_class(f"'{prefix}_CONNECTION_POOL_CLASS'", pool_class)
    engine = find_engine(url, own_class or redis.Redis)
    cls = own_class or engine.client_class

    # Most prefixes set neither.
    if own_class is not None or pool is not None:
        engine.check_classes(prefix, scheme_of(url), cls, pool)

    return Kind(engine, cls, pool)


# The arguments that an error about the login names.
_LOGIN = (
    *("connection_pool", "credential_provider"),
    *("username", "password", "password_file"),
)


def read_group(
    prefix: str,
    group: cabc.Mapping[str, t.Any],
    options: cabc.Mapping[str, t.Any],
    warn: cabc.Callable[[str], None],
) -> Spec:
    """Read the settings of one prefix.

    :param prefix: The prefix.
    :param group: Its settings, by names without the prefix in lower case.
    :param options: Client arguments that settings override.
    :param warn: Is called with each warning.
    :raises ConfigError: If a setting is wrong.
    """
    url = group.get("url")
    kind = read_kind(prefix, url, *map(group.get, CLASS_SETTINGS))
    accepted = kind.accepted
    values = _read_options(options, kind)

    if "host" in group:
        # It overrides options, and a socket would override it.
        values.pop("unix_socket_path", None)

    settings = values | _read_settings(prefix, group, accepted)
    address, values, ignored = _read_address(prefix, url, accepted, settings)
    spec = _convert(prefix, kind, values, address)
    spec.given = group
    values = spec.values
    warn_about_overridden(spec, settings, accepted, warn)

    if (pool := spec.arguments.get("connection_pool")) is not None:
        spec.engine = find_engine(url, spec.client_class, pool)

    spec.optional = spec.arguments.pop("optional", False)
    spec.engine.check(spec, values)
    _check_together(spec, values)
    _warn_about(spec, values, warn)

    if ignored:
        warn_about_address(spec, ignored, warn)

    warn_about_login(spec, values, warn)
    warn_about_sentinels(spec, warn)
    _read_own(spec)
    spec.engine.complete(spec, values)
    return spec


def _convert(prefix: str, kind: Kind, values: Values, address: Address) -> Spec:
    """A spec with the values that are set, converted to the types of the arguments."""
    spec = Spec(
        prefix,
        kind.engine,
        kind.client_class,
        pool_class=kind.pool_class,
        address=address,
    )
    accepted = kind.accepted
    spec.values = {
        name: value
        for name, value in values.items()
        if value.value is not None or name == "driver_info"
    }

    for name, value in spec.values.items():
        if name not in accepted:
            raise value.error(
                f"needs a client class that takes {name!r}, and"
                f" {name_of(kind.client_class)} does not."
            )

        spec.arguments[name] = convert(accepted[name], value)

        if name in _LOGIN:
            spec.labels[name] = value.label

    return spec


def _read_options(options: cabc.Mapping[str, t.Any], kind: Kind) -> Values:
    values: Values = {}

    for name, value in options.items():
        label = f"The option {name!r} of RedisManager or Redis"
        each = Value(label, value, "option")

        if name not in kind.accepted:
            raise each.error(
                f"is not an argument of {name_of(kind.client_class)}."
                f"{did_you_mean(name, kind.accepted)}"
            )

        if value is None and name in _NONE_MEANS:
            raise each.error(f"must not be None: {_NONE_MEANS[name]}")

        if not is_unset(value) or name == "driver_info":
            values[name] = each

    return values


def _read_settings(
    prefix: str, group: cabc.Mapping[str, t.Any], accepted: cabc.Container[str]
) -> Values:
    values: Values = {}

    for name, value in group.items():
        if name == "url" or name in CLASS_SETTINGS:
            continue

        if name == "port" and is_service_port(value):
            if "url" in group or "unix_socket_path" in group:
                continue

            value = value.rpartition(":")[2]

        argument = name

        if name not in accepted and name in OLD_NAMES:
            argument = OLD_NAMES[name]

            if argument in group:
                raise ConfigError(
                    f"'{prefix}_{name.upper()}' and '{prefix}_{argument.upper()}' are"
                    " two names of the same setting: set only one of them."
                )

        values[argument] = Value(f"'{prefix}_{name.upper()}'", value)

    return values


def _read_address(
    prefix: str,
    url: object,
    accepted: cabc.Mapping[str, inspect.Parameter],
    values: Values,
) -> tuple[Address, Values, Values]:
    """The address in the URL, all values, and those that say where the server is and
    are overridden. With a URL, these are removed from the values.
    """
    if url is not None:
        ignored = {name: values.pop(name) for name in _WHERE if name in values}
        return *_read_url(prefix, url, accepted, values), ignored

    if "unix_socket_path" not in values:
        host = read_host(values["host"]) if "host" in values else {}
        return NO_URL, values | host, {}

    # A pool overrides the socket, too, which is another warning.
    names = () if "connection_pool" in values else ("host", "port")
    return NO_URL, values, {name: values[name] for name in names if name in values}


def _read_url(
    prefix: str,
    url: object,
    accepted: cabc.Mapping[str, inspect.Parameter],
    values: Values,
) -> tuple[Address, Values]:
    """The address, and all values. The URL overrides settings and options."""
    label = f"'{prefix}_URL'"

    if "connection_pool" in values:
        raise ConfigError(
            f"{label} and {values['connection_pool'].label} both say where the server"
            " is: set only one of them."
        )

    # Another engine may own the client class, but the scheme says how to read the URL.
    engine = get_engine(label, url)
    parts = split_url(label, str(url), engine.schemes_without_host)
    address, from_url = engine.read_url(parts, accepted)
    return address, values | from_url


def _check_together(spec: Spec, values: Values) -> None:
    """Check settings that contradict each other with every engine."""
    arguments = spec.arguments
    check_login(spec, values)

    if "cache" in arguments or "cache_config" in arguments:
        default = parameters(redis.Redis)["protocol"].default

        if arguments.get("protocol", default) not in (None, 3):
            raise ConfigError(
                f"'{spec.prefix}_PROTOCOL' must be 3, as client-side caching needs it."
            )

    if "retry_deadline" in arguments and not isinstance(arguments.get("retry", 0), int):
        raise values["retry"].error(
            f"and {values['retry_deadline'].label} both say how long to retry: set only"
            " one of them."
        )

    if (pool := arguments.get("connection_pool")) is not None:
        if library_name(pool.__class__) != library_name(spec.client_class):
            raise values["connection_pool"].error(
                f"must be a pool of the same library as {name_of(spec.client_class)}."
            )


def _warn_about(spec: Spec, values: Values, warn: cabc.Callable[[str], None]) -> None:
    """Warn of settings that have no effect, or a dangerous one."""
    if "connection_pool" in spec.arguments:
        of_pool = {*parameters(redis.SSLConnection), *ADDRESS, *_OF_OWN_POOLS}
        pool = values["connection_pool"].label

        for name, value in values.items():
            # RETRY has an effect: it is about commands.
            if name in of_pool and name != "retry":
                warn(
                    f"{value.label} has no effect: {pool} has been created with its own"
                    " settings."
                )

    for name, hazard in _HAZARDS.items():
        if spec.arguments.get(name):
            warn(f"{values[name].label} is not safe in a web application: {hazard}.")


def _read_own(spec: Spec) -> None:
    """Take the settings of this package out of the client's arguments."""
    spec.deadline = spec.arguments.pop("retry_deadline", RETRY_DEADLINE)
    spec.max_idle = spec.arguments.pop("max_idle", MAX_IDLE)
    retry = spec.arguments.get("retry")

    if isinstance(retry, int):
        spec.retries = spec.arguments.pop("retry")
    elif retry is not None:
        # redis-py's own Retry object.
        spec.deadline = None
