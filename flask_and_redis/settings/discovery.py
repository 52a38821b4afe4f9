"""Finds which groups of settings in ``app.config`` are prefixes, and reads them."""

from __future__ import annotations

import collections.abc as cabc
import logging
import os
import typing as t

import redis

from ..engines import ENGINES
from ..engines import find_engine
from ..exceptions import ConfigError
from ..exceptions import without_traceback
from ..spec.classes import is_unset
from ..spec.classes import parameters
from ..spec.spec import Spec
from ..spec.url import scheme_of
from .groups import Config
from .groups import has_address
from .groups import reason_to_skip
from .groups import SUFFIXES
from .missing import explain_setting
from .missing import find_variable
from .missing import warn_about_default_address
from .missing import warn_about_nothing
from .missing import warn_about_requested
from .misspellings import asks_for_replica
from .misspellings import can_mean
from .misspellings import find_url_of_nodes
from .misspellings import is_off
from .misspellings import is_only_for_clusters
from .misspellings import suggest
from .reader import CLASS_SETTINGS
from .reader import Kind
from .reader import OLD_NAMES
from .reader import read_group
from .reader import read_kind

logger: logging.Logger = logging.getLogger("flask_and_redis")

#: Settings that None turns off. For any other it means "not set".
NONE_COUNTS = ("_DRIVER_INFO",)

# Prefixes that begin with one of these are certainly Redis.
_CERTAIN = ("REDIS", "VALKEY")

# The longest name of a setting.
_LONGEST_NAME = 255

# A setting, and the ways to split its name: prefixes with the lower-case rest of the
# name, the longest prefix first.
_Key = tuple[str, list[tuple[str, str]]]


class Discovery:
    """What was found in ``app.config``."""

    def __init__(self) -> None:
        self.specs: dict[str, Spec] = {}
        #: Prefixes with a wrong setting that may belong to other software.
        self.wrong: dict[str, ConfigError] = {}
        #: Groups that look like a prefix but are skipped, with the reason.
        self.skipped: dict[str, str] = {}
        #: Warnings for the caller to issue.
        self.warnings: list[str] = []


def discover(
    config: Config,
    *,
    default: str,
    requested: cabc.Collection[str],
    expected: cabc.Collection[str],
    registered: cabc.Collection[str],
    prefixes: cabc.Collection[str] | None,
    ignore: cabc.Collection[str],
    options: cabc.Mapping[str, t.Any],
) -> Discovery:
    """Find and read all prefixes.

    :param config: The application's settings.
    :param default: The default prefix.
    :param requested: Prefixes that the application has requested by name.
    :param expected: Those of them that were requested before there was an app.
    :param registered: Prefixes that were read before. They are not read again.
    :param prefixes: Read exactly these prefixes, and do not search for others.
    :param ignore: Patterns of prefixes to skip.
    :param options: Client arguments for all prefixes. Settings override them.
    :raises ConfigError: If a setting of a certain prefix is wrong.
    """
    discovery = Discovery()
    certain = {default, *requested, *(prefixes or ())}
    names = prefixes

    if names is None:
        names = _find_prefixes(config, certain, ignore, discovery.skipped)
        certain.update(name for name in names if name.startswith(_CERTAIN))

    groups = Groups(config, {*names, *registered}, certain)

    for prefix in dict.fromkeys(names):
        if prefix not in registered:
            if prefixes is not None:
                _check_address(config, prefix)

            _read(prefix, groups, options, prefix in certain, discovery)

    discovery.warnings += groups.find_misspellings({*names, *certain}, certain)
    discovery.warnings += _warn_about_missing(
        config,
        default if prefixes is None else None,
        expected,
        {*registered, *names},
        discovery.skipped,
    )

    if prefixes is None and not (names or registered or discovery.warnings):
        discovery.warnings.append(warn_about_nothing(config, default))

    # A setting may resemble those of two prefixes.
    discovery.warnings = list(dict.fromkeys(discovery.warnings))
    return discovery


def _find_prefixes(
    config: Config,
    certain: cabc.Container[str],
    ignore: cabc.Collection[str],
    skipped: dict[str, str],
) -> list[str]:
    """The groups of settings that are prefixes. Add the reasons why the others are not
    to a dict.
    """
    names = []

    def find_reason(config: Config, name: str) -> str | None:
        is_certain = name in certain or name.startswith(_CERTAIN)
        return reason_to_skip(config, name, is_certain, ignore)

    for name in _find_groups(config):
        if (reason := find_reason(config, name)) is None:
            names.append(name)
        else:
            skipped[name] = reason

    for key, name in _find_lower_case(config):
        if name not in names and not find_reason({key.upper(): config[key]}, name):
            skipped.setdefault(name, f"{key!r} is not in upper case")

    return names


def _read(
    prefix: str,
    groups: Groups,
    options: cabc.Mapping[str, t.Any],
    is_certain: bool,
    discovery: Discovery,
) -> None:
    """Add a prefix to what was found. If a setting is wrong, raise or log it."""
    try:
        warn = discovery.warnings.append
        spec = read_group(prefix, groups.of(prefix), options, warn)
    except ConfigError as error:
        wrong = without_traceback(error)
    else:
        discovery.specs[prefix] = spec
        return

    if wrong.origin == "option":
        # An option is for all prefixes, and this one may have another client class.
        wrong.args = (f"{wrong} The prefix is {prefix!r}.",)
        raise wrong

    if is_certain:
        raise wrong

    discovery.wrong[prefix] = wrong
    logger.warning("Using the prefix %r will raise an error: %s", prefix, wrong)


def _warn_about_missing(
    config: Config,
    default: str | None,
    expected: cabc.Collection[str],
    configured: cabc.Collection[str],
    skipped: cabc.Mapping[str, str],
) -> cabc.Iterator[str]:
    """Warnings about prefixes that no setting configures, and about settings whose
    prefix ends with '_'.
    """
    for prefix in skipped:
        name = prefix.rstrip("_")

        if name != prefix and name not in configured:
            # It is certainly meant for Redis.
            if scheme_of(config.get(f"{prefix}_URL")) in ENGINES:
                yield f"'{prefix}_URL' is not used. Did you mean '{name}_URL'?"

    yield from warn_about_requested(config, default, expected, configured, skipped)


def read_prefix(
    config: Config,
    prefix: str,
    usual: str,
    options: cabc.Mapping[str, t.Any],
    warn: cabc.Callable[[str], None],
) -> Spec:
    """Read one prefix. Without any setting it is localhost:6379.

    :param config: The application's settings.
    :param prefix: The prefix.
    :param usual: The prefix that the application probably means.
    :param options: Client arguments that settings override.
    :param warn: Is called with each warning.
    :raises ConfigError: If a setting is wrong.
    """
    if prefix in config and not has_address(config, prefix):
        hint = find_variable(config, prefix).strip()
        raise ConfigError(hint or explain_setting(prefix))

    # REDIS_TEXT_PORT is not a setting of REDIS if there is a REDIS_TEXT_HOST.
    longer = [name for name in _find_groups(config) if name.startswith(f"{prefix}_")]
    groups = Groups(config, {prefix, *longer}, ())
    spec = read_group(prefix, groups.of(prefix), options, warn)

    misspellings = list(groups.find_misspellings({prefix}, {prefix}))

    for message in warn_about_default_address(config, spec, usual, misspellings):
        warn(message)

    return spec


def _find_groups(config: Config) -> list[str]:
    """The prefixes that a setting with one of the suffixes could make."""
    groups: dict[str, None] = {}

    for key, value in config.items():
        # Most settings have another suffix.
        if isinstance(key, str) and key.endswith(SUFFIXES):
            prefix = key.removesuffix(next(filter(key.endswith, SUFFIXES)))

            if prefix and key.isupper() and not is_unset(value):
                groups[prefix] = None

    return list(groups)


def _find_lower_case(config: Config) -> cabc.Iterator[tuple[str, str]]:
    """Settings that could make a prefix if their names were in upper case, with this
    prefix.
    """
    for key, value in config.items():
        # Most settings are in upper case.
        if isinstance(key, str) and not key.isupper() and not is_unset(value):
            for name in _find_groups({key.upper(): value}):
                yield key, name


def _check_address(config: Config, prefix: str) -> None:
    if not has_address(config, prefix):
        raise ConfigError(
            f"The prefix {prefix!r} in prefixes= has no address. Set '{prefix}_URL',"
            f" '{prefix}_HOST', '{prefix}_UNIX_SOCKET_PATH' or"
            f" '{prefix}_CONNECTION_POOL'."
        )


class Groups:
    """The settings of some prefixes. Each setting belongs to the longest prefix that
    has a setting of that name.

    :param config: The application's settings.
    :param prefixes: The prefixes to read.
    :param others: Other prefixes whose settings are checked for misspellings.
    """

    def __init__(
        self,
        config: Config,
        prefixes: cabc.Collection[str],
        others: cabc.Collection[str],
    ) -> None:
        self._config = config
        self._groups: dict[str, dict[str, t.Any]] = {each: {} for each in prefixes}
        self._names = _list_settings(config, {*prefixes, *others})
        self._keys, self._not_upper = _split_keys(config, self._names)

        for key, splits in self._keys:
            is_none = config[key] is None and key.endswith(NONE_COUNTS)

            if is_unset(config[key]) and not is_none:
                continue

            for prefix, rest in splits:
                if prefix in self._groups and rest in self._names[prefix]:
                    self._groups[prefix][rest] = config[key]
                    break

    def of(self, prefix: str) -> dict[str, t.Any]:
        """The settings of a prefix, by their names without it in lower case.

        :param prefix: The prefix.
        """
        return self._groups[prefix]

    def find_misspellings(
        self, checked: cabc.Collection[str], certain: cabc.Collection[str]
    ) -> cabc.Iterator[str]:
        """A warning for each setting that is not used and looks like one that is.

        :param checked: The prefixes whose address and credentials are checked.
        :param certain: Those of them for which all settings are checked.
        """
        for key, splits in self._keys:
            if any(rest in self._names[prefix] for prefix, rest in splits):
                continue

            if is_unset(value := self._config[key]):
                continue

            for prefix, rest in splits:
                if prefix in checked and (
                    advice := self._advise(prefix, rest, value, prefix in certain)
                ):
                    yield f"{key!r} is not used{advice}"
                    break

        yield from self._find_lower_case(checked)

    def _find_lower_case(self, checked: cabc.Collection[str]) -> cabc.Iterator[str]:
        """A warning for each setting that would be used if it were in upper case."""
        for key in self._not_upper:
            upper = key.upper()
            value = self._config[key]

            # The application may copy its settings to names in upper case.
            if is_unset(value) or str(value) == str(self._config.get(upper)):
                continue

            splits = _split_key(upper, checked)

            if any(rest in self._names[prefix] for prefix, rest in splits):
                yield f"{key!r} is not used. Did you mean {upper!r}?"

    def _advise(
        self, prefix: str, rest: str, value: object, is_certain: bool
    ) -> str | None:
        """The end of a sentence that begins with "'REDIS_X' is not used". None if there
        is nothing to say.
        """
        label = f"'{prefix}_URL'"
        given = self._config.get(f"{prefix}_URL")

        if "sentinel" in scheme_of(given) and asks_for_replica(rest, value):
            is_said = "role=replica" in str(given)
            right = f"'?role=replica' at the end of {label}"
            return None if is_said else f". Did you mean {right}?"

        is_on = is_certain and not is_off(value)

        # Settings of the real servers may stay in tests.
        if is_on and not find_engine(given, redis.Redis).in_process:
            if url := find_url_of_nodes(rest):
                is_said = scheme_of(url).partition("+")[2] in scheme_of(given)
                return None if is_said else f". Did you mean {label} = '{url}'?"

            if is_only_for_clusters(rest):
                return ": it is only for clusters, with a redis+cluster:// URL."

        # Settings of other software are often lists or mappings.
        if is_certain or isinstance(value, (str, int, os.PathLike)):
            name = suggest(rest, self._names[prefix], is_certain=is_certain)

            if name and can_mean(name, value, is_certain=is_certain):
                return f". Did you mean '{prefix}_{name.upper()}'?"

        return None


def _list_settings(
    config: Config, prefixes: cabc.Iterable[str]
) -> dict[str, cabc.Collection[str]]:
    """The names of settings that each prefix has. Prefixes of one kind share them."""
    of_kind: dict[Kind, cabc.Collection[str]] = {}
    names: dict[str, cabc.Collection[str]] = {}

    for prefix in prefixes:
        kind = _guess_kind(config, prefix)

        if kind not in of_kind:
            own = {"url", *CLASS_SETTINGS, *OLD_NAMES}
            # The arguments of redis.Redis, too: it must be an error if one is set that
            # the class does not take.
            of_kind[kind] = own | kind.accepted.keys() | parameters(redis.Redis).keys()

        names[prefix] = of_kind[kind]

    return names


def _guess_kind(config: Config, prefix: str) -> Kind:
    names = ("URL", "CLASS", "CONNECTION_POOL_CLASS")

    try:
        return read_kind(prefix, *(config.get(f"{prefix}_{name}") for name in names))
    except ConfigError:
        # It is reported when the prefix is read.
        return Kind(find_engine(None, redis.Redis), redis.Redis, None)


def _split_keys(
    config: Config, prefixes: cabc.Collection[str]
) -> tuple[list[_Key], list[str]]:
    """The settings that begin with one of the prefixes; and those that would if they
    were in upper case.
    """
    first_words = {prefix.partition("_")[0] for prefix in prefixes}
    keys: list[_Key] = []
    not_upper: list[str] = []

    for name in config:
        # Most settings belong to no prefix. Test the cheapest condition first.
        if (
            isinstance(name, str)
            and name.partition("_")[0].upper() in first_words
            and len(name) <= _LONGEST_NAME
        ):
            if name.isupper():
                keys.append((name, _split_key(name, prefixes)))
            else:
                not_upper.append(name)

    return keys, not_upper


def _split_key(name: str, prefixes: cabc.Container[str]) -> list[tuple[str, str]]:
    ends = [index for index, letter in enumerate(name) if letter == "_"]
    return [
        (name[:end], name[end + 1 :].lower())
        for end in reversed(ends)
        if name[:end] in prefixes
    ]
