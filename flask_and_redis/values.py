"""One setting's value, to what the client's argument takes."""

from __future__ import annotations

import codecs
import collections.abc as cabc
import difflib
import functools
import inspect
import math
import re
import ssl
import threading
import types
import typing as t
from weakref import WeakKeyDictionary

import redis
from werkzeug.utils import import_string

from .exceptions import ConfigError


class Secret(str):
    """Text that no ``repr`` shows: up to redis-py 7 a pool's own shows its password."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __format__(self, format_spec: str) -> str:
        return format("***", format_spec)


def is_unset(value: t.Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def did_you_mean(
    name: str, names: cabc.Iterable[str], form: str = "{!r}", cutoff: float = 0.6
) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    return f" Did you mean {form.format(near[0])}?" if near else ""


def name_of(cls: type[t.Any]) -> str:
    return f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}"


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


_KNOWN_PATHS = (
    "redis.Redis",
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

    try:
        return import_string(value.strip())
    except Exception as error:
        # The module's own exception may quote anything, and import_string quotes the
        # setting: only what kind of error it was is told.
        kind = type(error).__name__

    raise ConfigError(
        f"{label} must be the dotted path of something that can be imported"
        f" ({kind}).{did_you_mean(value, _KNOWN_PATHS)}"
    )


_parameters: WeakKeyDictionary[type[t.Any], cabc.Mapping[str, inspect.Parameter]]
_parameters = WeakKeyDictionary()


def parameters(cls: type[t.Any]) -> cabc.Mapping[str, inspect.Parameter]:
    """The keyword arguments that a class's constructor takes, those included that it
    hands on to its base classes.

    :param cls: The class.
    """
    if cls not in _parameters:
        _parameters[cls] = types.MappingProxyType(_read_parameters(cls))

    return _parameters[cls]


def _read_parameters(cls: type[t.Any]) -> dict[str, inspect.Parameter]:
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

    return found


def convert(label: str, parameter: inspect.Parameter, value: t.Any) -> t.Any:
    """A setting's value as the argument's type, within the argument's limits.

    :param label: What an error calls the setting.
    :param parameter: The argument.
    :param value: The value.
    :raises ConfigError: If it is none of that type.
    """
    name = parameter.name
    wanted = _types(parameter)
    must_be, to_type = _CONVERTERS.get(
        name, (_describe(wanted), functools.partial(_to_type, wanted))
    )
    must_be, is_within = _LIMITS.get(name, (must_be, lambda _: True))

    try:
        converted = to_type(value)
        valid = is_within(converted)
    except (ValueError, TypeError, LookupError, OverflowError):
        valid = False

    if not valid:
        advice = ""

        if isinstance(value, (bool, float)) and str in wanted:
            advice = " In an environment variable put it into double quotes: it was"
            advice += " read as JSON."

        raise ConfigError(f"{label} must be {must_be}.{advice}")

    if name in ("password", "username", "ssl_password") and isinstance(converted, str):
        return Secret(converted)

    return converted


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


_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


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

    # Celery's spelling, which URLs that both read need.
    word = str(value).strip().lower().removeprefix("cert_")

    if word in ("none", "optional", "required"):
        return word

    raise ValueError


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

    # An unbound LocalProxy of a pool is falsy: redis-py would talk to localhost.
    if not isinstance(pool, redis.ConnectionPool):
        raise ValueError

    return pool


def _to_credential_provider(value: t.Any) -> t.Any:
    provider = import_object("", value)

    if not callable(getattr(provider, "get_credentials", None)):
        raise ValueError

    return provider


_VERIFY_FLAGS = "names of ssl.VerifyFlags, such as VERIFY_X509_STRICT, with commas"

_CONVERTERS: dict[str, tuple[str, cabc.Callable[[t.Any], t.Any]]] = {
    "connection_pool": ("a redis.ConnectionPool or its dotted path", _to_pool),
    "credential_provider": (
        "an object or a class with 'get_credentials', or the dotted path of one",
        _to_credential_provider,
    ),
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
    "db": ("the number of a database, 0 or above", lambda it: it >= 0),
    "max_connections": ("a whole number above 0", lambda it: it > 0),
    "socket_read_size": ("a number of bytes above 0", lambda it: it > 0),
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
