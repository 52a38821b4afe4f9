"""Checks and defaults of settings that several engines share."""

from __future__ import annotations

import codecs
import collections.abc as cabc
import functools
import inspect
import typing as t

import redis
from werkzeug.utils import import_string

from ..exceptions import ConfigError
from ..spec.classes import name_of
from ..spec.classes import once_per_class
from ..spec.classes import parameters
from ..spec.classes import required_parameters
from ..spec.spec import Spec
from ..spec.spec import Value
from ..spec.spec import Values
from .internals.clients import packs_with_hiredis
from .library import get_library
from .library import library_name

_KEYWORD = inspect.Parameter.KEYWORD_ONLY

#: Settings of this package, which are not arguments of the client.
OWN_SETTINGS = {
    "password_file": inspect.Parameter("password_file", _KEYWORD, annotation=str),
    "optional": inspect.Parameter("optional", _KEYWORD, default=False, annotation=bool),
    "retry": inspect.Parameter("retry", _KEYWORD),
    "retry_deadline": inspect.Parameter("retry_deadline", _KEYWORD, annotation=float),
    "max_idle": inspect.Parameter("max_idle", _KEYWORD, annotation=float),
    "maint_notifications": inspect.Parameter("maint_notifications", _KEYWORD),
    "sentinel_kwargs": inspect.Parameter(
        "sentinel_kwargs", _KEYWORD, annotation=cabc.Mapping
    ),
    "sentinel_username": inspect.Parameter(
        "sentinel_username", _KEYWORD, annotation=str
    ),
    "sentinel_password": inspect.Parameter(
        "sentinel_password", _KEYWORD, annotation=str
    ),
}

#: What :func:`set_library_defaults` sets. The asynchronous class of some versions of
#: redis-py does not take it. It is left out then.
LIBRARY_DEFAULTS = {"maint_notifications_config"}

#: Settings of the connections to sentinels.
SENTINEL_SETTINGS: tuple[str, ...] = (
    "sentinel_username",
    "sentinel_password",
    "sentinel_kwargs",
)

#: The arguments that limit how long connecting, and each reply, may take.
TIMEOUTS: tuple[str, ...] = ("socket_timeout", "socket_connect_timeout")


@once_per_class
def client_settings(client_class: type[t.Any]) -> dict[str, inspect.Parameter]:
    """The arguments of a client class, and :data:`OWN_SETTINGS`.

    :param client_class: The client class.
    """
    return {**parameters(client_class), **OWN_SETTINGS}


@once_per_class
def timeouts_without_default(client_class: type[t.Any]) -> list[str]:
    """The timeouts that a class takes and for which it has no default of its own.

    :param client_class: A client class, but not that of a cluster.
    """
    accepted = parameters(client_class)
    libraries = [
        parameters(base)
        for base in client_class.__mro__
        if name_of(base) in ("redis.Redis", "valkey.Valkey")
    ]
    return [
        name
        for name in TIMEOUTS
        if name in accepted
        and any(library.get(name) == accepted[name] for library in libraries)
    ]


def set_library_defaults(spec: Spec, values: Values) -> None:
    """Set arguments whose defaults in redis-py do not suit a web application.

    :param spec: The spec. It is changed in place.
    :param values: The values behind its arguments.
    :raises ConfigError: If a setting asks for notifications that cannot be had.
    """
    enabled = spec.arguments.pop("maint_notifications", False)

    if "connection_pool" in spec.arguments:
        return

    accepted = parameters(spec.client_class)

    if "maint_notifications_config" in accepted:
        if enabled is True:
            _check_notifications(spec, values["maint_notifications"])

        spec.arguments.setdefault("maint_notifications_config", maint_config(enabled))
    elif enabled is True:
        raise values["maint_notifications"].error(
            "needs redis-py 7 or newer, and a client class that takes"
            f" 'maint_notifications_config': {name_of(spec.client_class)} does not."
        )


def _check_notifications(spec: Spec, value: Value) -> None:
    if spec.arguments.get("protocol") == 2:
        raise value.error(f"needs '{spec.prefix}_PROTOCOL' to be 3.")

    if "unix_socket_path" in spec.arguments:
        raise value.error("cannot be used with a socket: notifications need a host.")


@functools.cache
def maint_config(enabled: bool | t.Literal["auto"]) -> t.Any:
    """redis-py's settings of maintenance notifications, without longer timeouts: they
    would exceed those of the prefix.

    :param enabled: Whether to ask the server for them.
    """
    from redis.maint_notifications import MaintNotificationsConfig

    return MaintNotificationsConfig(enabled, relaxed_timeout=-1)


def check_encoding(spec: Spec, values: Values) -> None:
    """Check that commands are written in the encoding that is set.

    :param spec: The spec.
    :param values: The values behind its arguments.
    :raises ConfigError: If hiredis would write them as UTF-8.
    """
    encoding = codecs.lookup(spec.arguments.get("encoding", "utf-8")).name
    is_other = encoding not in ("utf-8", "ascii")

    if is_other and library_name(spec.client_class) == "redis":
        if packs_with_hiredis():
            raise values["encoding"].error(
                "must be utf-8 while hiredis is installed, because hiredis only writes"
                " UTF-8. Uninstall hiredis, or encode and decode in the application."
            )


def check_client_class(prefix: str, client_class: type[t.Any]) -> None:
    """Check that a class is that of a synchronous client.

    :param prefix: The prefix.
    :param client_class: The class.
    :raises ConfigError: If it has no commands, or they are asynchronous or those of a
        sentinel.
    """
    if not callable(execute := getattr(client_class, "execute_command", None)):
        raise ConfigError(
            f"'{prefix}_CLASS' must be a Redis client's class: {name_of(client_class)}"
            " has no 'execute_command'."
        )

    if inspect.iscoroutinefunction(execute):
        raise ConfigError(
            f"'{prefix}_CLASS' must be a synchronous client's class, such as"
            " 'redis.Redis'."
        )

    if name := library_name(client_class):
        if issubclass(client_class, get_library(name).sentinel.Sentinel):
            raise ConfigError(
                f"'{prefix}_CLASS' must be the class of the server's client, and"
                f" {name_of(client_class)} is for sentinels: use a redis+sentinel://"
                " URL instead."
            )


def check_pool_class(
    prefix: str, client_class: type[t.Any], pool_class: type[t.Any]
) -> None:
    """Check the class of a pool that connects to one address.

    :param prefix: The prefix.
    :param client_class: The client class, from whose library the pool must be.
    :param pool_class: The class that ``<P>_CONNECTION_POOL_CLASS`` names.
    :raises ConfigError: If it is a class of something else.
    """
    expected = get_library(library_name(client_class) or "redis").pool_class
    asks_sentinels = issubclass(pool_class, redis.SentinelConnectionPool)

    if asks_sentinels or not issubclass(pool_class, expected):
        raise wrong_pool_class(prefix, expected)


def wrong_pool_class(prefix: str, expected: type[t.Any]) -> ConfigError:
    """The error about a pool class that an engine cannot use."""
    return ConfigError(
        f"'{prefix}_CONNECTION_POOL_CLASS' must be a class derived from"
        f" {name_of(expected)}."
    )


def check_required(spec: Spec, *, creates_pool: bool) -> None:
    """Raise for what would be a ``TypeError`` when the client is created.

    :param spec: The spec.
    :param creates_pool: Whether the client is created with a pool of ours.
    :raises ConfigError: If an argument is missing, or the class takes no pool.
    """
    for name in required_parameters(spec.client_class):
        if name not in spec.arguments:
            raise ConfigError(
                f"'{spec.prefix}_{name.upper()}' must be set:"
                f" {name_of(spec.client_class)} needs the argument {name!r}."
            )

    if creates_pool and "connection_pool" not in parameters(spec.client_class):
        raise ConfigError(
            f"'{spec.prefix}_CLASS' must be a class that takes 'connection_pool' for"
            f" these settings, and {name_of(spec.client_class)} does not."
        )


def convert_to_async(spec: Spec, classes: cabc.Mapping[str, str]) -> Spec:
    """The same settings for the counterpart of the client class in asyncio.

    :param spec: The spec.
    :param classes: The dotted paths of these counterparts, by client class.
    :raises ConfigError: If there is none, or it does not take an argument.
    """
    path = classes.get(name_of(spec.client_class))

    if path is None:
        raise ConfigError(
            f"'{spec.prefix}_CLASS' must be a class of redis-py or valkey-py for"
            f" get_async: {name_of(spec.client_class)} has no asynchronous counterpart."
        )

    cls: type[t.Any] = import_string(path)
    accepted = parameters(cls)
    # redis-py's own Retry object is of the synchronous kind.
    arguments = {k: v for k, v in spec.arguments.items() if k != "retry"}

    if spec.pool_class is not None:
        # The pool lives as long as the client, so its class makes no difference.
        of_client = parameters(spec.client_class)
        arguments = {k: v for k, v in arguments.items() if k in of_client}

    for name in LIBRARY_DEFAULTS - accepted.keys():
        arguments.pop(name, None)

    for name in arguments:
        if name not in accepted or name == "connection_pool":
            raise ConfigError(
                f"'{spec.prefix}_{name.upper()}' cannot be used with get_async:"
                f" {cls.__module__}.{cls.__qualname__} has no such argument."
            )

    return spec.replace(client_class=cls, arguments=arguments, pool_class=None)
