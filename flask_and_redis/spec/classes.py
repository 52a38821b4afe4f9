"""Classes: finding them by name, and reading what their constructors take."""

from __future__ import annotations

import collections.abc as cabc
import difflib
import functools
import importlib.util
import inspect
import types
import typing as t
from weakref import WeakKeyDictionary

from werkzeug.utils import import_string

from ..exceptions import ConfigError

R = t.TypeVar("R")

#: How to install the packages that a setting may name or need.
INSTALL = {
    "cryptography": "pip install 'redis[ocsp]'",
    "fakeredis": "pip install 'Flask-And-Redis[fakeredis]'",
    "OpenSSL": "pip install 'redis[ocsp]'",
    "requests": "pip install 'redis[ocsp]'",
    "valkey": "pip install valkey",
}

_KNOWN_PATHS = (
    "redis.Redis",
    "redis.RedisCluster",
    "redis.StrictRedis",
    "redis.ConnectionPool",
    "redis.BlockingConnectionPool",
    "fakeredis.FakeRedis",
    "valkey.Valkey",
)


def is_unset(value: object) -> bool:
    """Whether a setting counts as not set: None or blank text."""
    return value is None or (isinstance(value, str) and not value.strip())


def did_you_mean(name: str, names: cabc.Iterable[str], form: str = "{!r}") -> str:
    """A sentence that suggests the nearest name, or nothing if none is near."""
    near = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {form.format(near[0])}?" if near else ""


def name_of(cls: type) -> str:
    """The short name of a class, such as ``redis.Redis``."""
    return f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}"


def find_class(label: str, value: object) -> type[t.Any] | None:
    """The class that a setting names, or None if it is not set.

    :param label: What an error calls the setting.
    :param value: A class, or its dotted path.
    :raises ConfigError: If it is not a class or cannot be imported.
    """
    if is_unset(value):
        return None

    cls = import_object(label, value)

    if not isinstance(cls, type):
        raise ConfigError(
            f"{label} must be a class or the dotted path of one, such as 'redis.Redis'."
        )

    return cls


def check_installed(label: str, package: str) -> None:
    """Raise if a client library is missing.

    :param label: The setting that needs it.
    :param package: The library's import name.
    :raises ConfigError: With the command that installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{label} needs the package {package}, which is not installed:"
            f" {INSTALL[package]}"
        )


def import_object(label: str, value: object) -> t.Any:
    """The object that a setting names by its dotted path. Anything but text is
    returned unchanged.

    :param label: What an error calls the setting.
    :param value: The object or its path.
    :raises ConfigError: If the import fails.
    """
    if not isinstance(value, str):
        return value

    path = value.strip()

    if (package := path.partition(".")[0]) in INSTALL:
        check_installed(label, package)

    try:
        return import_string(path)
    except (Exception, SystemExit) as error:
        # A script may call sys.exit(), which must not end this process. The message has
        # only the class of the error: its text may quote the setting, or anything else.
        kind = type(getattr(error, "exception", error)).__name__

    raise ConfigError(
        f"{label} must be the dotted path of something that can be imported"
        f" ({kind}).{did_you_mean(value, _KNOWN_PATHS)}"
    )


def once_per_class(
    function: cabc.Callable[[type[t.Any]], R],
) -> cabc.Callable[[type[t.Any]], R]:
    """Cache what a function returns for a class, for as long as the class lives.

    :param function: The function. Its only argument is the class.
    """
    results: WeakKeyDictionary[type[t.Any], R] = WeakKeyDictionary()

    @functools.wraps(function)
    def cached(cls: type[t.Any]) -> R:
        if (result := results.get(cls)) is None:
            result = results[cls] = function(cls)

        return result

    return cached


@once_per_class
def parameters(cls: type[t.Any]) -> cabc.Mapping[str, inspect.Parameter]:
    """The keyword arguments of a class's constructor, including those that it passes on
    to its base classes.

    :param cls: The class.
    """
    if not issubclass(type(cls), type):
        # Only a test replaces redis.Redis.
        raise RuntimeError(
            "A class of the client library was replaced by a mock. To test without a"
            " server, set the URL to 'fakeredis://', or replace the client with"
            " RedisManager.override."
        )

    accepted: dict[str, inspect.Parameter] = {}
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
                accepted.setdefault(parameter.name, parameter)

        if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in own):
            # Nothing is passed on to the remaining base classes.
            break

    return types.MappingProxyType(accepted)


@once_per_class
def required_parameters(cls: type[t.Any]) -> tuple[str, ...]:
    """The arguments without which an object of a class cannot be created.

    :param cls: The class.
    """
    accepted = parameters(cls).values()
    return tuple(each.name for each in accepted if each.default is each.empty)


_subclasses: dict[tuple[type[t.Any], type[t.Any]], type[t.Any]] = {}


def subclass(mixin: type[t.Any], base: type[t.Any]) -> type[t.Any]:
    """A class with a mixin in front of another class. It is created once, and has the
    name of the other class, because messages show it.

    :param mixin: The mixin.
    :param base: The other class.
    """
    if issubclass(base, mixin):
        return base

    if (mixin, base) not in _subclasses:
        names = ("__module__", "__qualname__", "__doc__")
        namespace = {name: getattr(base, name) for name in names}
        cls = type(base.__name__, (mixin, base), namespace)
        # setdefault, because two threads may do this at once.
        _subclasses.setdefault((mixin, base), cls)

    return _subclasses[mixin, base]
