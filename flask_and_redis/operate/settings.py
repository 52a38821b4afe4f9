"""The effective settings of a prefix, and where each comes from."""

from __future__ import annotations

import collections.abc as cabc
import enum
import inspect
import textwrap
import typing as t

import redis

from ..engines.checks import OWN_SETTINGS
from ..engines.checks import SENTINEL_SETTINGS
from ..spec.classes import name_of
from ..spec.classes import parameters
from ..spec.spec import Spec
from ..spec.values import SECRETS

#: What is shown in place of a secret.
MASK = "***"

Plain = str | int | float | bool


class Setting(t.NamedTuple):
    """A setting that has a value."""

    #: Its full name, such as ``CACHE_PORT``.
    name: str
    #: For people and JSON. Secrets are masked.
    value: Plain
    #: ``"setting"``, ``"URL"``, ``"option"`` or ``"default"``.
    origin: str


def list_settings(spec: Spec) -> list[Setting]:
    """All settings of a prefix that have a value: first those that somebody has given,
    then the defaults.

    :param spec: The prefix's spec.
    """
    rows = [*_list_classes(spec), *_list_arguments(spec)]
    return sorted(rows, key=lambda row: row.origin == "default")


def _list_classes(spec: Spec) -> cabc.Iterator[Setting]:
    if "url" in spec.given:
        # Without user name and password.
        yield Setting(
            f"{spec.prefix}_URL", spec.engine.describe_address(spec), "setting"
        )

    classes = {"class": spec.client_class, "connection_pool_class": spec.pool_class}

    for name, cls in classes.items():
        if cls is not None:
            origin = "setting" if name in spec.given else "default"
            yield Setting(f"{spec.prefix}_{name.upper()}", name_of(cls), origin)


def _list_arguments(spec: Spec) -> cabc.Iterator[Setting]:
    accepted = spec.engine.accepted(spec.client_class, spec.pool_class)

    for name, parameter in accepted.items():
        value = _find_value(spec, name, parameter)
        setting = f"{spec.prefix}_{name.upper()}"

        if name in spec.values:
            origin = spec.values[name].origin
            shown = MASK if _is_secret(name, value) else _show(value)
            yield Setting(setting, shown, "URL" if origin == "url" else origin)
        elif isinstance(value, (bool, int, float, str)) and _has_default(spec, name):
            # Other defaults are objects, which say nothing to people.
            yield Setting(setting, _show(value), "default")


def _has_default(spec: Spec, name: str) -> bool:
    """Whether the default of an argument has an effect."""
    # A pool of the application has settings of its own.
    own = ("retry_deadline", "optional")
    return "connection_pool" not in spec.arguments or name in own


# Settings that are attributes of a spec.
_ATTRIBUTES = {
    "retry_deadline": "deadline",
    "max_idle": "max_idle",
    "optional": "optional",
}

# Settings that internal objects replace. What was set is shown instead of these.
_REPLACED = (
    *SENTINEL_SETTINGS,
    *("password_file", "credential_provider", "maint_notifications"),
)


def _find_value(spec: Spec, name: str, parameter: inspect.Parameter) -> t.Any:
    """The value of an argument, which is not always the client's."""
    if (attribute := _ATTRIBUTES.get(name)) is not None:
        return getattr(spec, attribute)

    if name == "retry" and spec.retries is not None:
        return spec.retries

    if name in _REPLACED and name in spec.values:
        return spec.values[name].value

    if name == "connection_pool" and name in spec.arguments:
        return f"at {spec.engine.describe_address(spec)}"

    if name in ("host", "port") and _has_other_address(spec):
        return None

    return spec.arguments.get(name, parameter.default)


def _has_other_address(spec: Spec) -> bool:
    """Whether neither host nor port say where the server is."""
    return (
        spec.engine.in_process
        or bool(spec.address.nodes)
        or not {"unix_socket_path", "connection_pool"}.isdisjoint(spec.arguments)
    )


def _is_secret(name: str, value: object) -> bool:
    # The path of the file may be a password that was set by mistake.
    if name in SECRETS or name == "password_file":
        return True

    # The argument of a class of the application may be anything.
    known = (redis.Redis, redis.RedisCluster, redis.BlockingConnectionPool)
    return (
        isinstance(value, str)
        and name not in OWN_SETTINGS
        and not any(name in parameters(cls) for cls in known)
    )


def _show(value: object) -> Plain:
    """A value as people would write it, without the ``repr`` of an object, which may
    show secrets.
    """
    if isinstance(value, enum.Enum):
        return str(value.name)

    if isinstance(value, str):
        # A certificate has many lines.
        is_long = "\n" in value
        return textwrap.shorten(value, 50, placeholder="...") if is_long else value

    if isinstance(value, (bool, int, float)):
        return value

    if isinstance(value, type):
        return name_of(value)

    if inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"

    if isinstance(value, (list, tuple)):
        return ", ".join(str(_show(each)) for each in value)

    if isinstance(value, cabc.Mapping):
        pairs = (
            f"{key}: {MASK if key in SECRETS else _show(each)}"
            for key, each in value.items()
        )
        return ", ".join(pairs)

    return f"an object of {name_of(type(value))}"


def as_text(value: Plain) -> str:
    """A value as it is written in an environment variable."""
    if isinstance(value, bool):
        return str(value).lower()

    return f"{value:g}" if isinstance(value, float) else str(value)
