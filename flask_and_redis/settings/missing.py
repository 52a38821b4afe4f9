"""Warnings of prefixes that an app wants and no setting configures."""

from __future__ import annotations

import collections.abc as cabc
import difflib
import os
import typing as t

from ..spec.classes import is_unset
from .groups import SUFFIXES


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
    requested: cabc.Iterable[str],
    configured: cabc.Collection[str],
    skipped: cabc.Mapping[str, str],
) -> cabc.Iterator[str]:
    """A warning for each prefix that was requested and is not configured.

    :param config: The application's settings.
    :param requested: What was given to ``manager.get()`` before ``init_app``.
    :param configured: The prefixes that have settings, wrong ones too.
    :param skipped: Groups of settings that are no prefix, with the reason.
    """
    for prefix in requested:
        if prefix in configured:
            continue

        if prefix in config and prefix.endswith(SUFFIXES):
            yield f"manager.get({prefix!r}) was called, but {explain_setting(prefix)}"
        else:
            message = (
                f"manager.get({prefix!r}) was called, but no setting configures this"
                f" prefix: set '{prefix}_URL' or '{prefix}_HOST'."
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


def find_variable(config: cabc.Mapping[str, t.Any], prefix: str) -> str:
    """A sentence about a variable of the environment that configures a prefix, but was
    not read into the application's settings.

    :param config: The application's settings.
    :param prefix: The prefix.
    """
    for suffix in SUFFIXES:
        name = prefix + suffix

        if name in config:
            continue

        if f"FLASK_{name}" in os.environ:
            return (
                f" 'FLASK_{name}' is in the environment: call"
                " app.config.from_prefixed_env() before init_app."
            )

        if name in os.environ:
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
