"""One setting's value, to what the client's argument takes."""

from __future__ import annotations

import codecs
import collections.abc as cabc
import difflib
import functools
import importlib.util
import inspect
import math
import os
import re
import ssl
import threading
import types
import typing as t
from weakref import WeakKeyDictionary

import redis.cluster
from werkzeug.utils import import_string

from .exceptions import ConfigError

R = t.TypeVar("R")


class Secret(str):
    """Text that no ``repr`` shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Masked(Secret):
    """Text that is not even shown where it is formatted, which older pools do in their
    own ``repr``. Nothing but the client library may get it.
    """

    __slots__ = ()

    def __format__(self, format_spec: str) -> str:
        return format("***", format_spec)


SECRETS = ("username", "password", "ssl_password")


def is_unset(value: t.Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def did_you_mean(
    name: str, names: cabc.Iterable[str], form: str = "{!r}", cutoff: float = 0.6
) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    return f" Did you mean {form.format(near[0])}?" if near else ""


def name_of(cls: type[t.Any]) -> str:
    return f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}"


def library_of(cls: type[t.Any]) -> str:
    """The library that a class comes from, maybe by way of the application's own.

    :param cls: A class of clients or pools.
    :return: ``"redis"``, ``"valkey"``, or nothing if it is another.
    """
    roots = (base.__module__.partition(".")[0] for base in cls.__mro__)
    return next((root for root in roots if root in ("redis", "valkey")), "")


def as_class(label: str, value: t.Any) -> type[t.Any] | None:
    """The class that a setting names, or None if it is not set."""
    if is_unset(value):
        return None

    found = import_object(label, value)

    if not isinstance(found, type):
        raise ConfigError(
            f"{label} must be a class or the dotted path of one, such as 'redis.Redis'."
        )

    return found


INSTALL = {
    "fakeredis": "pip install 'Flask-And-Redis[fakeredis]'",
    "valkey": "pip install valkey",
}


def check_installed(label: str, package: str) -> None:
    """Raise if a client library that a setting asks for is missing.

    :param label: What asks for it.
    :param package: The library's import name.
    :raises ConfigError: With the command that installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{label} needs the package {package}, which is not installed:"
            f" {INSTALL[package]}"
        )


_KNOWN_PATHS = (
    "redis.Redis",
    "redis.RedisCluster",
    "redis.StrictRedis",
    "redis.ConnectionPool",
    "redis.BlockingConnectionPool",
    "fakeredis.FakeRedis",
    "valkey.Valkey",
)


def import_object(label: str, value: t.Any) -> t.Any:
    """The object that a setting names by its dotted path, or is."""
    if not isinstance(value, str):
        return value

    path = value.strip()

    if (package := path.partition(".")[0]) in INSTALL:
        check_installed(label, package)

    try:
        return import_string(path)
    except Exception as error:
        # The module's own exception may quote anything, and import_string quotes the
        # setting: only what kind of error it was is told.
        kind = type(getattr(error, "exception", error)).__name__

    raise ConfigError(
        f"{label} must be the dotted path of something that can be imported"
        f" ({kind}).{did_you_mean(value, _KNOWN_PATHS)}"
    )


def once_a_class(
    function: cabc.Callable[[type[t.Any]], R],
) -> cabc.Callable[[type[t.Any]], R]:
    """A function that remembers what another says of a class, while the class lives.

    :param function: The other function.
    """
    said: WeakKeyDictionary[type[t.Any], R] = WeakKeyDictionary()

    @functools.wraps(function)
    def remember(cls: type[t.Any]) -> R:
        if cls not in said:
            said[cls] = function(cls)

        return said[cls]

    return remember


@once_a_class
def parameters(cls: type[t.Any]) -> cabc.Mapping[str, inspect.Parameter]:
    """The keyword arguments that a class's constructor takes, those included that it
    hands on to its base classes.

    :param cls: The class.
    """
    found: dict[str, inspect.Parameter] = {}
    keywords = (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )

    for base in cls.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue

        own = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]

        for parameter in own:
            if parameter.kind in keywords:
                found.setdefault(parameter.name, parameter)

        if not any(it.kind is inspect.Parameter.VAR_KEYWORD for it in own):
            # Nothing reaches the classes behind this one.
            break

    return types.MappingProxyType(found)


def convert(label: str, parameter: inspect.Parameter, value: t.Any) -> t.Any:
    """A setting's value as the argument's type, within the argument's limits.

    :param label: What an error calls the setting.
    :param parameter: The argument.
    :param value: The value.
    :raises ConfigError: If it is none of that type.
    """
    name = parameter.name

    try:
        if name in _CONVERTERS:
            converted = _CONVERTERS[name][1](value)
        else:
            converted = _to_type(_types(parameter), value)

        valid = name not in _LIMITS or _LIMITS[name][1](converted)
    except (ValueError, TypeError, LookupError, OverflowError):
        valid = False

    if not valid:
        raise ConfigError(f"{label} must be {_explain(parameter, value)}")

    if name in SECRETS and isinstance(converted, str):
        return Secret(converted)

    return converted


def _explain(parameter: inspect.Parameter, value: t.Any) -> str:
    """What an argument must be, and what to do about a value that it cannot be."""
    name = parameter.name
    wanted = _types(parameter)
    advice = ""

    if isinstance(value, (bool, float)) and str in wanted:
        advice = " In an environment variable put it into double quotes: it was read as"
        advice += " JSON."

    known = _LIMITS.get(name) or _CONVERTERS.get(name)
    return f"{known[0] if known else _describe(wanted)}.{advice}"


_SIMPLE = {"bool": bool, "int": int, "float": float, "str": str, "None": type(None)}


def _types(parameter: inspect.Parameter) -> tuple[type[t.Any], ...]:
    """The run-time types that a parameter takes; ``object`` where that is unknown."""
    annotation = parameter.annotation

    if annotation is inspect.Parameter.empty:
        kind = type(parameter.default)
        # Without an annotation a default of 20 may stand for seconds as well.
        known = {int: (int, float), bool: (bool,), float: (float,), str: (str,)}
        return known.get(kind, (object,))

    if isinstance(annotation, str):
        inner = re.sub(r"^(\w+\.)?Optional\[(.*)\]$", r"\2", annotation.strip("'\""))
        names = [name.strip() for name in inner.split("|")]
        found = [_SIMPLE.get(name, object) for name in names]
    else:
        found = _runtime_types(annotation)

    return tuple(kind for kind in found if kind is not type(None))


def _runtime_types(annotation: t.Any) -> list[type[t.Any]]:
    if type(annotation) is type:
        # Most are. What follows takes many times longer.
        return [annotation]

    origin = t.get_origin(annotation)

    if origin in (t.Union, types.UnionType):
        return [kind for it in t.get_args(annotation) for kind in _runtime_types(it)]

    if origin is list:
        # Any sequence will do.
        return [cabc.Sequence]

    kind = origin or annotation

    try:
        isinstance(None, kind)
    except TypeError:
        # A forward reference, a literal, a protocol: nothing to check against.
        return [object]

    return [kind]


_PLAIN: dict[t.Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    cabc.Callable: "a function",
    cabc.Mapping: "a mapping",
    cabc.Sequence: "a list",
}


def _describe(wanted: tuple[type[t.Any], ...]) -> str:
    names = [_PLAIN.get(it, f"an object of {name_of(it)}") for it in wanted]
    return " or ".join(dict.fromkeys(names))


def _to_type(wanted: tuple[type[t.Any], ...], value: t.Any) -> t.Any:
    if object in wanted:
        return value

    for kind in wanted:
        # True is an int to Python, and never meant as one in a setting.
        if isinstance(value, kind) and isinstance(value, bool) <= (kind is bool):
            return _check_text(value) if kind is str else value

    if str in wanted and isinstance(value, os.PathLike):
        return _to_type(wanted, os.fspath(value))

    for kind in wanted:
        try:
            return _TO_SIMPLE[kind](value)
        except (KeyError, ValueError):
            pass

    raise ValueError


def _to_bool(value: t.Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "t": True, "y": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    words |= {"f": False, "n": False}
    text = str(value).strip().lower()

    if isinstance(value, (str, int)) and text in words:
        return words[text]

    raise ValueError


def _to_int(value: t.Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]+\s*", value):
        return int(value)

    raise ValueError


def _to_float(value: t.Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError

    if not math.isfinite(number := float(value)):
        raise ValueError

    return number


def _to_text(value: t.Any) -> str:
    # A password of digits comes from the environment as a number.
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)

    raise ValueError


_TO_SIMPLE: dict[type[t.Any], cabc.Callable[[t.Any], t.Any]] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _to_text,
}


def _check_text(value: str) -> str:
    value.encode()
    return value


def _to_verify_mode(value: t.Any) -> t.Any:
    if isinstance(value, ssl.VerifyMode):
        return value

    # By name as in redis-py, with Celery's spelling, or by number as in JSON.
    names = ("none", "optional", "required")
    word = str(value).strip().lower().removeprefix("cert_")
    return names[names.index(word)] if word in names else names[_to_index(word)]


def _to_index(word: str) -> int:
    if word not in ("0", "1", "2"):
        raise ValueError

    return int(word)


def _to_tls_version(value: t.Any) -> ssl.TLSVersion:
    if isinstance(value, str) and not value.strip().isdecimal():
        return ssl.TLSVersion[value.strip().replace(".", "_")]

    return ssl.TLSVersion(int(value))


def _to_verify_flags(value: t.Any) -> list[ssl.VerifyFlags]:
    names = value.strip("[] ").split(",") if isinstance(value, str) else value
    return [
        it if isinstance(it, ssl.VerifyFlags) else ssl.VerifyFlags[it.strip()]
        for it in names
    ]


def _to_error_classes(value: t.Any) -> list[type[Exception]]:
    if isinstance(value, str) or not all(issubclass(it, Exception) for it in value):
        raise ValueError

    return list(value)


def _to_socket_options(value: t.Any) -> dict[int, t.Any]:
    # The keys of a JSON object are text.
    return {int(key): option for key, option in dict(value).items()}


def _to_pool(value: t.Any) -> t.Any:
    pool = import_object("", value)
    # An unbound LocalProxy of a pool is falsy: redis-py would talk to localhost. It has
    # a class of its own, as nothing else can be asked of it.
    get_connection = getattr(pool.__class__, "get_connection", None)

    if not callable(get_connection) or inspect.iscoroutinefunction(get_connection):
        raise ValueError

    return pool


def _to_retry(value: t.Any) -> t.Any:
    call = getattr(type(value), "call_with_retry", None)

    if call is not None and not inspect.iscoroutinefunction(call):
        return value

    if (number := _to_type((int,), value)) < 0:
        raise ValueError

    return number


def _to_credential_provider(value: t.Any) -> t.Any:
    provider = import_object("", value)

    if not callable(getattr(provider, "get_credentials", None)):
        raise ValueError

    if isinstance(provider, type):
        # It is made without arguments.
        inspect.signature(provider).bind()

    return provider


def _to_driver_info(value: t.Any) -> t.Any:
    if isinstance(value, str):
        raise ValueError

    return value


def _to_load_balancing(value: t.Any) -> t.Any:
    if isinstance(value, str):
        return redis.cluster.LoadBalancingStrategy[value.strip().upper()]

    return value


_VERIFY_FLAGS = "names of ssl.VerifyFlags, such as VERIFY_X509_STRICT, with commas"

_CONVERTERS: dict[str, tuple[str, cabc.Callable[[t.Any], t.Any]]] = {
    "connection_pool": ("a redis.ConnectionPool or its dotted path", _to_pool),
    "credential_provider": (
        "an object with 'get_credentials', or its class, or the dotted path of one",
        _to_credential_provider,
    ),
    "driver_info": ("a redis.DriverInfo", _to_driver_info),
    "load_balancing_strategy": (
        "a redis.cluster.LoadBalancingStrategy or its name, such as round_robin",
        _to_load_balancing,
    ),
    "retry": ("a whole number, 0 or above, or a redis.retry.Retry", _to_retry),
    "retry_on_error": ("a list of exception classes", _to_error_classes),
    "socket_keepalive_options": (
        "a mapping of socket options' numbers to their values",
        _to_socket_options,
    ),
    "ssl_cert_reqs": ("none, optional or required", _to_verify_mode),
    "ssl_min_version": (
        "a ssl.TLSVersion or its name, such as TLSv1_2",
        _to_tls_version,
    ),
    "ssl_include_verify_flags": (_VERIFY_FLAGS, _to_verify_flags),
    "ssl_exclude_verify_flags": (_VERIFY_FLAGS, _to_verify_flags),
}


def _is_seconds(value: float) -> bool:
    return 0 < value <= threading.TIMEOUT_MAX


def _is_encoding(value: str) -> bool:
    # "hex" and the like are codecs, but not of text.
    return isinstance("".encode(value), bytes)


_SECONDS = "a number of seconds above 0"

_LIMITS: dict[str, tuple[str, cabc.Callable[[t.Any], bool]]] = {
    "port": ("a port number from 1 to 65535", lambda it: 0 < it < 65536),
    "db": ("the number of a database, 0 or above", lambda it: 0 <= it < 2**31),
    "unix_socket_path": (
        "the path of a socket, such as /tmp/redis.sock",
        lambda it: bool(it) and "://" not in it,
    ),
    "max_connections": ("a whole number above 0", lambda it: it > 0),
    "socket_read_size": ("a number of bytes above 0", lambda it: it > 0),
    "retry_deadline": ("a number of seconds, 0 or above", lambda it: it >= 0),
    "health_check_interval": ("a number of seconds, 0 or above", lambda it: it >= 0),
    "protocol": ("2 or 3", lambda it: it in (2, 3)),
    "socket_timeout": (_SECONDS, _is_seconds),
    "socket_connect_timeout": (_SECONDS, _is_seconds),
    "timeout": (_SECONDS, _is_seconds),
    "encoding": ("the name of a text encoding, such as utf-8", _is_encoding),
    "encoding_errors": (
        "the name of an error handler, such as strict or replace",
        lambda it: callable(codecs.lookup_error(it)),
    ),
    "client_name": (
        "text of printable ASCII without spaces",
        lambda it: re.fullmatch(r"[!-~]+", it) is not None,
    ),
}
