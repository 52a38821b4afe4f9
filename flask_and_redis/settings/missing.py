"""Warnings of prefixes that an app wants and no setting configures."""

from __future__ import annotations

import collections.abc as cabc
import difflib
import os
import typing as t

from ..engines import ENGINES
from ..spec.classes import is_unset
from ..spec.spec import Spec
from ..spec.url import is_service_port
from ..spec.url import scheme_of
from .groups import has_address
from .groups import SUFFIXES

# Any of these says where the server is. A port alone does not.
_HOSTS = frozenset(("host", "unix_socket_path", "connection_pool", "startup_nodes"))

# Settings that a server on the developer's machine seldom needs.
_OF_REMOTE = ("password", "password_file", "username", "credential_provider", "ssl")

# What other applications call the address, as in REDIS_ADDR or REDISHOST.
_ADDRESSES = frozenset(
    "ADDR ADDRESS CONNECTION_STRING DSN ENDPOINT HOST SERVER URL".split()
)

# The default prefix of most managers. Not all of these applications use it.
_USUAL_DEFAULT = "REDIS"


def explain_setting(name: str) -> str:
    """The rest of a sentence about a setting that was given as a prefix.

    :param name: Its name.
    """
    return (
        f"{name!r} is the name of a setting, not a prefix. Leave out its ending, such"
        " as '_URL'."
    )


def warn_about_requested(
    config: cabc.Mapping[str, t.Any],
    default: str | None,
    requested: cabc.Iterable[str],
    configured: cabc.Collection[str],
    skipped: cabc.Mapping[str, str],
) -> cabc.Iterator[str]:
    """A warning for each prefix that the application probably uses, and that is not
    configured.

    :param config: The application's settings.
    :param default: The default prefix. None if the application lists its prefixes.
    :param requested: What was given to ``manager.get()`` before ``init_app``.
    :param configured: The prefixes that have settings, wrong ones too.
    :param skipped: Groups of settings that are no prefix, with the reason.
    """
    starts = {each: f"manager.get({each!r}) was called" for each in requested}

    # Without any prefix, there is another warning.
    if configured and default is not None:
        if default != _USUAL_DEFAULT or _find_flask_variable(config, default):
            starts.setdefault(default, f"The default prefix is {default!r}")

    for prefix, start in starts.items():
        if prefix in configured:
            continue

        if prefix in config and prefix.endswith(SUFFIXES):
            yield f"{start}, but {explain_setting(prefix)}"
        elif has_address(config, prefix) and prefix not in skipped:
            yield f"{start}, but this prefix is not in prefixes=."
        else:
            message = (
                f"{start}, but no setting configures this prefix: set '{prefix}_URL' or"
                f" '{prefix}_HOST'."
            )

            if prefix in skipped:
                yield f"{message} It was skipped: {skipped[prefix]}."
            elif hint := find_variable(config, prefix):
                yield message + hint
            else:
                yield message + _find_near(config, prefix, configured)


def _find_near(
    config: cabc.Mapping[str, t.Any], prefix: str, configured: cabc.Collection[str]
) -> str:
    """A sentence about the setting of a prefix with nearly the same name."""
    sentences = (
        f" '{near}{suffix}' is set: did you mean '{prefix}{suffix}'?"
        for near in difflib.get_close_matches(prefix, configured, 1)
        for suffix in SUFFIXES
        if not is_unset(config.get(near + suffix))
    )
    return next(sentences, "")


def warn_about_nothing(config: cabc.Mapping[str, t.Any], default: str) -> str:
    """The warning that no setting configures any Redis.

    :param config: The application's settings.
    :param default: The default prefix.
    """
    hint = find_variable(config, default)
    return f"No setting configures a Redis: set '{default}_URL', for example.{hint}"


def warn_about_default_address(
    config: cabc.Mapping[str, t.Any],
    spec: Spec,
    usual: str,
    misspellings: cabc.Collection[str],
) -> cabc.Iterator[str]:
    """The warnings about a ``Redis``. If nothing configures its address, and anything
    shows that another one than the default is meant, one of them says so.

    :param config: The application's settings.
    :param spec: The spec of the prefix.
    :param usual: The prefix that the application probably means.
    :param misspellings: Warnings about misspelt settings of the prefix.
    """
    prefix = spec.prefix
    hints: list[str] = []

    if "url" not in spec.given and _HOSTS.isdisjoint(spec.values):
        names = [f"'{prefix}{suffix}'" for suffix in SUFFIXES]
        hints += [each for each in misspellings if any(name in each for name in names)]
        hints = hints or [*_find_traces(config, spec, usual)][:1]

    yield from (each for each in misspellings if each not in hints)

    if hints:
        address = spec.engine.describe_address(spec)
        yield (
            f"No setting says where {prefix!r} is, so {address} is used: set"
            f" '{prefix}_URL' or '{prefix}_HOST'. {' '.join(hints)}"
        )


def _find_traces(
    config: cabc.Mapping[str, t.Any], spec: Spec, usual: str
) -> cabc.Iterator[str]:
    """Sentences about what is only there if a prefix has an address."""
    prefix = spec.prefix

    if hint := find_variable(config, prefix):
        yield hint.strip()

    for key, value in config.items():
        upper = key.upper() if isinstance(key, str) else ""

        if is_unset(value):
            continue

        if suffix := next(filter(upper.endswith, SUFFIXES), ""):
            if _is_near(upper.removesuffix(suffix), prefix):
                yield f"{key!r} is set: did you mean '{prefix}{suffix}'?"
        elif isinstance(value, str) and _is_address(upper, value, prefix):
            yield f"{key!r} is not used."

    for name in (f"{prefix}_URL", f"{prefix}_HOST"):
        if name in config:
            yield f"{name!r} has no value."

    if is_service_port(config.get(f"{prefix}_PORT")):
        yield f"The host in '{prefix}_PORT' is not used."

    for name in _OF_REMOTE:
        # False turns TLS off.
        if name in spec.values and spec.arguments.get(name) is not False:
            yield f"{spec.values[name].label} is set without an address."

    if usual != prefix:
        yield f"The default prefix of this app is {usual!r}."


def _is_near(name: str, prefix: str) -> bool:
    """Whether a name is a prefix as in the environment, or with a letter too many, with
    one missing, or with two that have changed places.
    """
    name = name.removeprefix("FLASK_").rstrip("_")

    if name == prefix:
        return True

    # REDIS2 is another Redis, and so is CACHE_B besides CACHE_A.
    is_numbered = name.rstrip("_0123456789") == prefix.rstrip("_0123456789")
    is_other = len(name) == len(prefix) and sorted(name) != sorted(prefix)
    near = difflib.get_close_matches(name, [prefix], 1, 0.8)
    return bool(near) and not is_numbered and not is_other


def _is_address(name: str, value: str, prefix: str) -> bool:
    """Whether a setting that no prefix uses says where this one is. Those of other
    extensions, such as RATELIMIT_STORAGE_URI, begin with another word.
    """
    if not name.startswith(prefix):
        return False

    rest = name.removeprefix(prefix)
    has_scheme = rest.startswith("_") and scheme_of(value) in ENGINES
    return has_scheme or rest.lstrip("_") in _ADDRESSES


def find_variable(config: cabc.Mapping[str, t.Any], prefix: str) -> str:
    """A sentence about a variable of the environment that configures a prefix, but was
    not read into the application's settings.

    :param config: The application's settings.
    :param prefix: The prefix.
    """
    if hint := _find_flask_variable(config, prefix):
        return hint

    for suffix in SUFFIXES:
        name = prefix + suffix

        if name in os.environ and name not in config:
            return (
                f" {name!r} is in the environment, but app.config.from_prefixed_env()"
                f" reads 'FLASK_{name}'."
            )

    nested = config.get(prefix)

    if isinstance(nested, cabc.Mapping) and any(
        suffix.removeprefix("_") in nested for suffix in SUFFIXES
    ):
        return (
            f" {prefix!r} is a mapping, because from_prefixed_env() read a name with"
            " '__': write a single '_'."
        )

    return ""


def _find_flask_variable(config: cabc.Mapping[str, t.Any], prefix: str) -> str:
    """A sentence about a variable that ``from_prefixed_env()`` would read."""
    for suffix in SUFFIXES:
        name = prefix + suffix

        if f"FLASK_{name}" in os.environ and name not in config:
            return (
                f" 'FLASK_{name}' is in the environment: call"
                " app.config.from_prefixed_env() before init_app."
            )

    return ""
