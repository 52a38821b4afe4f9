"""Converts one value to the type of the client's argument, within its limits."""

from __future__ import annotations

import codecs
import collections.abc as cabc
import inspect
import math
import os
import re
import ssl
import threading
import types
import typing as t

import redis.cluster

from .advice import explain_type
from .advice import has_placeholder
from .advice import UNREPLACED
from .classes import import_object
from .classes import name_of
from .spec import Arguments
from .spec import Value

#: The arguments whose values no message may show.
SECRETS = (
    *("username", "password", "ssl_password"),
    *("sentinel_username", "sentinel_password"),
)


class Secret(str):
    """Text that no ``repr`` shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Masked(Secret):
    """A secret that is also hidden when it is formatted. Only the client library may
    get it: older pools format passwords in their own ``repr``.
    """

    __slots__ = ()

    def __format__(self, format_spec: str) -> str:
        return format("***", format_spec)


def clean(text: str) -> str:
    """Text from a server in one line, without characters that control a terminal.

    :param text: The text.
    """
    words = "".join(char if char.isprintable() else " " for char in text).split()
    return " ".join(words)


def mask_secrets(arguments: Arguments) -> None:
    """Keep secrets out of the ``repr`` of pools. In redis-py before 8 and in valkey-py
    it lists all arguments of the connections.

    :param arguments: Arguments of a client of these libraries. It is changed in place.
    """
    for name in SECRETS:
        if isinstance(arguments.get(name), Secret):
            arguments[name] = Masked(arguments[name])


def convert(parameter: inspect.Parameter, value: Value) -> t.Any:
    """Convert a value to the type of an argument.

    :param parameter: The argument.
    :param value: The value.
    :raises ConfigError: If the value has another type or is out of the limits.
    """
    name = parameter.name
    _, to_argument = _CONVERTERS.get(name, ("", None))
    _, is_within_limits = _LIMITS.get(name, ("", None))

    is_converted = False

    try:
        if to_argument is None:
            converted = _to_type(types_of(parameter), value.value)
        else:
            converted = to_argument(value.value)
        is_converted = True
        valid = is_within_limits is None or is_within_limits(converted)
    except (ValueError, TypeError, LookupError, OverflowError):
        valid = False

    if not valid:
        raise value.error(f"must be {_explain(parameter, value, is_converted)}")

    if name in SECRETS and isinstance(converted, str):
        return Secret(converted)

    return converted


def _explain(parameter: inspect.Parameter, value: Value, is_type_right: bool) -> str:
    """What an argument must be, and how to correct a value that it cannot be."""
    name, given = parameter.name, value.value
    expected = types_of(parameter)
    converter = _CONVERTERS.get(name)
    advice = ""

    # Converters accept certain texts only, and not every one that is put in quotes.
    if isinstance(given, (bool, float)) and str in expected and not converter:
        advice = " In an environment variable put it into double quotes: it was read as"
        advice += " JSON."

    if name == "protocol" and isinstance(given, str):
        tls = value.label.replace("_PROTOCOL'", "_SSL'")
        advice = " It is the version of Redis's protocol, RESP. For TLS use a rediss://"
        advice += f" URL, or HOST and {tls}."

    if isinstance(given, str) and has_placeholder(given):
        advice += f" It {UNREPLACED}"

    # With the right type of collection, something in it is wrong.
    if not is_type_right and not isinstance(given, _COLLECTIONS.get(name, ())):
        advice += explain_type(given, wants_text=str in expected)

    text, _ = _LIMITS.get(name) or converter or (describe(expected), None)
    return f"{text}.{advice}"


_SIMPLE = {"bool": bool, "int": int, "float": float, "str": str, "None": type(None)}


def types_of(parameter: inspect.Parameter) -> tuple[type[t.Any], ...]:
    """The run-time types that an argument takes. ``object`` where they are unknown.

    :param parameter: The argument.
    """
    annotation = parameter.annotation

    if annotation is inspect.Parameter.empty:
        # Without an annotation a default of 20 may mean seconds as well.
        known = {int: (int, float), bool: (bool,), float: (float,), str: (str,)}
        return known.get(type(parameter.default), (object,))

    if type(annotation) is type:
        # The most frequent case. The rest of this function takes many times longer.
        return (annotation,)

    if isinstance(annotation, str):
        inner = re.sub(r"^(\w+\.)?Optional\[(.*)\]$", r"\2", annotation.strip("'\""))
        names = [name.strip() for name in inner.split("|")]
        kinds = [_SIMPLE.get(name, object) for name in names]
    else:
        kinds = _runtime_types(annotation)

    return tuple(kind for kind in kinds if kind is not type(None))


def _runtime_types(annotation: t.Any) -> list[type[t.Any]]:
    if type(annotation) is type:
        # Most members of a union are such classes too.
        return [annotation]

    origin = t.get_origin(annotation)

    if origin in (t.Union, types.UnionType):
        members = t.get_args(annotation)
        return [kind for member in members for kind in _runtime_types(member)]

    if origin is list:
        # Any sequence will do.
        return [cabc.Sequence]

    kind = origin or annotation

    try:
        isinstance(None, kind)
    except TypeError:
        # A forward reference, a literal or a protocol cannot be checked.
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


def describe(kinds: tuple[type[t.Any], ...]) -> str:
    """Types in words.

    :param kinds: Types from :func:`types_of`.
    """
    names = [_PLAIN.get(kind, f"an object of {name_of(kind)}") for kind in kinds]
    return " or ".join(dict.fromkeys(names))


def _to_type(kinds: tuple[type[t.Any], ...], value: t.Any) -> t.Any:
    if object in kinds:
        return value

    for kind in kinds:
        # True is an int in Python, but a setting never means it as one.
        if isinstance(value, kind) and isinstance(value, bool) <= (kind is bool):
            return _check_text(value) if kind is str else value

    if str in kinds and isinstance(value, os.PathLike):
        return _to_type(kinds, os.fspath(value))

    for kind in kinds:
        try:
            return _TO_SIMPLE[kind](value)
        except (KeyError, ValueError):
            pass

    raise ValueError


def _to_bool(value: object) -> bool:
    words = dict.fromkeys(("1", "true", "yes", "on", "t", "y"), True)
    words |= dict.fromkeys(("0", "false", "no", "off", "f", "n"), False)
    text = str(value).strip().lower()

    if isinstance(value, (str, int)) and text in words:
        return words[text]

    raise ValueError


def _to_int(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]+\s*", value):
        return int(value)

    raise ValueError


def _to_float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError

    if not math.isfinite(number := float(value)):
        raise ValueError

    return number


def _to_text(value: object) -> str:
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


def _to_verify_mode(value: object) -> ssl.VerifyMode | str:
    if isinstance(value, ssl.VerifyMode):
        return value

    # A name as in redis-py, Celery's spelling of it, or a number as in JSON.
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
    flags = value.strip("[] ").split(",") if isinstance(value, str) else value
    return [
        flag if isinstance(flag, ssl.VerifyFlags) else ssl.VerifyFlags[flag.strip()]
        for flag in flags
    ]


def _to_error_classes(value: t.Any) -> list[type[Exception]]:
    if isinstance(value, str) or not all(issubclass(cls, Exception) for cls in value):
        raise ValueError

    return list(value)


def _to_socket_options(value: t.Any) -> dict[int, t.Any]:
    # The keys of a JSON object are text. An option may be a structure, in bytes.
    return {
        _to_type((int,), key): _to_type((int, bytes), option)
        for key, option in dict(value).items()
    }


def _to_pool(value: object) -> t.Any:
    pool = import_object("", value)
    # Ask the class, so that an unbound LocalProxy is refused instead of raising an
    # error of its own. It is falsy: redis-py would ignore it and connect to localhost.
    get_connection = getattr(pool.__class__, "get_connection", None)

    if not callable(get_connection) or inspect.iscoroutinefunction(get_connection):
        raise ValueError

    return pool


def _to_retry(value: object) -> t.Any:
    call = getattr(type(value), "call_with_retry", None)

    if call is not None and not inspect.iscoroutinefunction(call):
        return value

    if (number := _to_type((int,), value)) < 0:
        raise ValueError

    return number


def _to_credential_provider(value: object) -> t.Any:
    provider = import_object("", value)
    has_method = callable(getattr(provider, "get_credentials", None))

    if has_method and not isinstance(provider, type):
        return provider

    if not has_method and (
        isinstance(provider, type) or inspect.iscoroutinefunction(provider)
    ):
        raise ValueError

    # A class or a function, which is called without arguments.
    inspect.signature(provider).bind()
    return provider


def _to_driver_info(value: object) -> t.Any:
    if isinstance(value, str):
        raise ValueError

    return value


def _to_notifications(value: object) -> t.Any:
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"

    return _to_type((bool,), value)


def _to_load_balancing(value: object) -> t.Any:
    if isinstance(value, str):
        return redis.cluster.LoadBalancingStrategy[value.strip().upper()]

    return value


_VERIFY_FLAGS = "names of ssl.VerifyFlags, such as VERIFY_X509_STRICT, with commas"

#: Arguments whose type the signature does not tell: what they must be, and a function
#: that converts a value or raises.
_CONVERTERS: dict[str, tuple[str, cabc.Callable[[t.Any], t.Any]]] = {
    "connection_pool": ("a redis.ConnectionPool or its dotted path", _to_pool),
    "credential_provider": (
        "an object with 'get_credentials', its class, a function that returns one, or"
        " the dotted path of any of these",
        _to_credential_provider,
    ),
    "driver_info": ("a redis.DriverInfo", _to_driver_info),
    "load_balancing_strategy": (
        "a redis.cluster.LoadBalancingStrategy or its name, such as round_robin",
        _to_load_balancing,
    ),
    "maint_notifications": ("true, false or auto", _to_notifications),
    "retry": ("a whole number, 0 or above, or a redis.retry.Retry", _to_retry),
    "retry_on_error": ("a list of exception classes", _to_error_classes),
    "socket_keepalive_options": (
        "a mapping of socket options' numbers, such as socket.TCP_KEEPINTVL, to whole"
        " numbers",
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


# The collections that some of these functions take.
_COLLECTIONS: dict[str, type | tuple[type, ...]] = {
    "retry_on_error": (list, tuple, set),
    "socket_keepalive_options": cabc.Mapping,
    "ssl_include_verify_flags": (list, tuple, set),
    "ssl_exclude_verify_flags": (list, tuple, set),
}


def _is_seconds(value: float) -> bool:
    return 0 < value <= threading.TIMEOUT_MAX


def _is_duration(value: float) -> bool:
    return 0 <= value <= threading.TIMEOUT_MAX


def _is_path(path: str) -> bool:
    # The system accepts no longer path of a socket, and no NUL character.
    fits = 0 < len(path.encode()) < 108 and "\0" not in path
    return fits and "://" not in path and not has_placeholder(path)


def _is_encoding(value: str) -> bool:
    # "hex" and the like are codecs, but not of text.
    return isinstance("".encode(value), bytes)


_SECONDS = "a number of seconds above 0"

#: Arguments with limits: what they must be, and a function that checks a converted
#: value.
_LIMITS: dict[str, tuple[str, cabc.Callable[[t.Any], bool]]] = {
    "port": ("a port number from 1 to 65535", lambda port: 0 < port < 65536),
    "db": ("the number of a database, 0 or above", lambda db: 0 <= db < 2**31),
    "unix_socket_path": ("the path of a socket, such as /tmp/redis.sock", _is_path),
    "max_connections": ("a whole number above 0", lambda count: count > 0),
    "socket_read_size": ("a number of bytes above 0", lambda size: size > 0),
    "retry_deadline": ("a number of seconds, 0 or above", _is_duration),
    "health_check_interval": ("a number of seconds, 0 or above", _is_duration),
    "max_idle": ("a number of seconds, 0 or above", _is_duration),
    "protocol": ("2 or 3", lambda version: version in (2, 3)),
    "socket_timeout": (_SECONDS, _is_seconds),
    "socket_connect_timeout": (_SECONDS, _is_seconds),
    "timeout": (_SECONDS, _is_seconds),
    "encoding": ("the name of a text encoding, such as utf-8", _is_encoding),
    "encoding_errors": (
        "the name of an error handler, such as strict or replace",
        lambda name: callable(codecs.lookup_error(name)),
    ),
    "client_name": (
        "text of printable ASCII without spaces",
        lambda name: re.fullmatch(r"[!-~]+", name) is not None,
    ),
}
