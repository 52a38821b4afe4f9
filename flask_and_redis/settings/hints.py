"""Warnings of values that are accepted, but were probably not meant."""

from __future__ import annotations

import collections.abc as cabc
import inspect

from ..spec.advice import is_placeholder
from ..spec.advice import is_quoted
from ..spec.spec import Spec
from ..spec.spec import Value
from ..spec.spec import Values
from ..spec.values import convert
from ..spec.values import SECRETS

Warn = cabc.Callable[[str], None]

_SECRETS = frozenset(SECRETS)


def warn_about_address(spec: Spec, ignored: Values, warn: Warn) -> None:
    """Warn of settings that a URL or a socket overrides, if they name another server.

    :param spec: The spec.
    :param ignored: What settings and options say in addition to it.
    :param warn: Is called with each warning.
    """
    if spec.engine.in_process:
        # Settings of the real server may stay in tests.
        return

    has_url = "url" in spec.given
    label = f"'{spec.prefix}_URL'" if has_url else spec.values["unix_socket_path"].label

    for name, value in ignored.items():
        # Options are defaults for prefixes without a URL.
        if value.origin == "setting" and not _names_same_server(spec, name, value):
            warn(f"{value.label} is ignored: {label} says where the server is.")


# What a URL has instead of a setting that it overrides.
_OVERRIDING = {
    "db": "another database",
    "username": "another user name",
    "password": "another password",
    "ssl": "a scheme with TLS",
}


def warn_about_overridden(
    spec: Spec,
    settings: Values,
    accepted: cabc.Mapping[str, inspect.Parameter],
    warn: Warn,
) -> None:
    """Warn of settings that are not used, because the URL has another value.

    :param spec: The spec.
    :param settings: The values before the URL was read.
    :param accepted: The arguments that the client takes.
    :param warn: Is called with each warning.
    :raises ConfigError: If such a setting is wrong.
    """
    for name, value in settings.items():
        used = spec.values.get(name)

        if value.origin != "setting" or used is None or used.origin != "url":
            continue

        is_same = convert(accepted[name], value) == spec.arguments[name]

        # Settings of the real server may stay in tests.
        if not is_same and not spec.engine.in_process:
            what = _OVERRIDING.get(name, "another value")
            warn(f"{value.label} is ignored: '{spec.prefix}_URL' has {what}.")


def _names_same_server(spec: Spec, name: str, value: Value) -> bool:
    arguments = spec.arguments
    path = str(arguments.get("unix_socket_path"))
    text = str(value.value).strip().removeprefix("file://")

    if name == "unix_socket_path" or "unix_socket_path" in arguments:
        return text == path

    host_and_port = arguments.get("host"), arguments.get("port", 6379)
    hosts, ports = zip(*(spec.address.nodes or [host_and_port]), strict=True)

    if name == "host":
        return text.lower() in hosts

    return text in map(str, ports)


def warn_about_sentinels(spec: Spec, warn: Warn) -> None:
    """Warn of a database in place of the service, and of ``REDIS_SENTINEL_HOST``, which
    configures a separate prefix.

    :param spec: The spec.
    :param warn: Is called with each warning.
    """
    if spec.address.service.isdecimal():
        warn(
            f"The service in '{spec.prefix}_URL' is a number. If it is the database,"
            " put the service before it, as in redis+sentinel://host:26379/mymaster/0."
        )

    if spec.prefix.endswith(("_SENTINEL", "_SENTINELS")) and "url" not in spec.given:
        name = spec.prefix.rpartition("_")[0]

        if name.startswith(("REDIS", "VALKEY")):
            warn(
                f"'{spec.prefix}_HOST' is used as a separate Redis server. If it is a"
                f" sentinel, set '{name}_URL' to"
                " 'redis+sentinel://host:26379/mymaster/0' instead."
            )


def warn_about_login(spec: Spec, values: Values, warn: Warn) -> None:
    """Warn of a user name or password that the server will probably refuse.

    :param spec: The spec.
    :param values: The values behind its arguments.
    :param warn: Is called with each warning.
    """
    if _SECRETS.isdisjoint(values):
        return

    for name in SECRETS:
        text = spec.arguments.get(name)

        if not isinstance(text, str):
            continue

        label = values[name].label

        if text.endswith(("\n", "\r")):
            warn(f"{label} ends with a newline, which counts as a part of it.")
        elif text.endswith(("}", ")", ">")) and is_placeholder(text):
            warn(f"{label} looks like a placeholder that was not replaced.")
        elif is_quoted(text) and text[-1:] == text[0] and len(text) > 1:
            warn(f"{label} has quotes around it, which count as a part of it.")

    username = values.get("username")

    if username is None or username.origin != "url" or spec.engine.in_process:
        return

    if not {"password", "password_file"} & values.keys():
        warn(
            f"{username.label} is without a password. If it is the password, put a"
            " colon before it, as in redis://:password@host."
        )
