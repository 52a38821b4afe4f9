"""Finds which groups of settings in ``app.config`` are prefixes, and reads them."""

from __future__ import annotations

import collections.abc as cabc
import difflib
import logging
import typing as t
from fnmatch import fnmatchcase

import redis

from ..engines import ENGINES
from ..engines import find_engine
from ..engines import list_schemes
from ..exceptions import ConfigError
from ..spec.classes import is_unset
from ..spec.classes import parameters
from ..spec.spec import Spec
from ..spec.url import scheme_of
from .reader import CLASS_SETTINGS
from .reader import Kind
from .reader import OLD_NAMES
from .reader import read_group
from .reader import read_kind

logger: logging.Logger = logging.getLogger("flask_and_redis")

#: What makes a group of settings a prefix. No suffix is the end of another one.
SUFFIXES = ("_URL", "_HOST", "_UNIX_SOCKET_PATH", "_CONNECTION_POOL")

#: Settings that None turns off. For any other it means "not set".
NONE_COUNTS = ("_DRIVER_INFO",)

#: Patterns of groups whose ``HOST`` belongs to other software in most applications.
FOREIGN_HOSTS = (
    *("RUN", "SERVER", "APP", "API", "WEB", "HTTP*", "*PROXY", "SITE", "PUBLIC"),
    *("BIND", "CDN*", "DB", "*_DB", "DATABASE*", "SQL*", "MYSQL*", "MARIADB*"),
    *("POSTGRES*", "PG*", "MSSQL*", "ORACLE*", "MONGO*", "CASSANDRA*", "CLICKHOUSE*"),
    *("INFLUX*", "NEO4J*", "COUCH*", "MAIL*", "EMAIL*", "SMTP*", "IMAP*", "POP3*"),
    *("FTP*", "SFTP*", "SSH*", "LDAP*", "RABBITMQ*", "AMQP*", "KAFKA*", "NATS*"),
    *("MQTT*", "ZOOKEEPER*", "CONSUL*", "ELASTIC*", "OPENSEARCH*", "SOLR*", "MEILI*"),
    *("TYPESENSE*", "MEMCACHE*", "STATSD*", "GRAPHITE*", "JAEGER*", "OTEL*", "DD_*"),
    *("DATADOG*", "SENTRY*", "LOGSTASH*", "FLUENT*", "SYSLOG*", "VAULT*", "MINIO*"),
    *("S3*", "AWS*", "DOCKER*"),
)

#: Names that people use instead of the right one, which are too different from it to be
#: recognized as misspelt.
WRONG_NAMES = {
    "connect_timeout": "socket_connect_timeout",
    "database": "db",
    "decode": "decode_responses",
    "pass": "password",
    "timeout": "socket_timeout",
    "tls": "ssl",
    "uri": "url",
    "use_ssl": "ssl",
    "use_tls": "ssl",
}

Config = cabc.Mapping[str, t.Any]

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
    registered: cabc.Collection[str],
    prefixes: cabc.Collection[str] | None,
    ignore: cabc.Collection[str],
    options: cabc.Mapping[str, t.Any],
) -> Discovery:
    """Find and read all prefixes.

    :param config: The application's settings.
    :param default: The default prefix.
    :param requested: Prefixes that the application has requested by name.
    :param registered: Prefixes that were read before. They are not read again.
    :param prefixes: Read exactly these prefixes, and do not search for others.
    :param ignore: Patterns of prefixes to skip.
    :param options: Client arguments for all prefixes. Settings override them.
    :raises ConfigError: If a setting of a certain prefix is wrong.
    """

    def is_certain(prefix: str) -> bool:
        return (
            prefix == default
            or prefix in requested
            or prefixes is not None
            or prefix.startswith(("REDIS", "VALKEY"))
        )

    discovery = Discovery()
    names = prefixes

    if names is None:
        reasons = {
            prefix: _reason_to_skip(config, prefix, is_certain(prefix), ignore)
            for prefix in _find_groups(config)
        }
        names = [prefix for prefix, reason in reasons.items() if reason is None]
        discovery.skipped = {
            prefix: reason for prefix, reason in reasons.items() if reason is not None
        }

    certain = {default, *requested, *filter(is_certain, names)}
    groups = Groups(config, {*names, *registered}, certain)

    for prefix in dict.fromkeys(names):
        if prefix not in registered:
            if prefixes is not None:
                _check_address(config, prefix)

            _read(prefix, groups, options, prefix in certain, discovery)

    discovery.warnings += groups.find_misspellings(certain)
    return discovery


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
        # Without its traceback, whose frames hold the settings.
        wrong = ConfigError(*error.args)
        wrong.origin = error.origin
    else:
        discovery.specs[prefix] = spec
        return

    if is_certain or wrong.origin == "option":
        raise wrong

    discovery.wrong[prefix] = wrong
    logger.warning("Prefix %r is left out. %s", prefix, wrong)


def read_prefix(
    config: Config,
    prefix: str,
    options: cabc.Mapping[str, t.Any],
    warn: cabc.Callable[[str], None],
) -> Spec:
    """Read one prefix. Without any setting it is localhost:6379.

    :param config: The application's settings.
    :param prefix: The prefix.
    :param options: Client arguments that settings override.
    :param warn: Is called with each warning.
    :raises ConfigError: If a setting is wrong.
    """
    if prefix in config and not _has_address(config, prefix):
        raise ConfigError(
            f"{prefix!r} is a setting: its prefix is what stands before the last '_'."
        )

    # REDIS_TEXT_PORT is not a setting of REDIS if there is a REDIS_TEXT_HOST.
    longer = [name for name in _find_groups(config) if name.startswith(f"{prefix}_")]
    groups = Groups(config, {prefix, *longer}, ())
    spec = read_group(prefix, groups.of(prefix), options, warn)

    for message in groups.find_misspellings({prefix}):
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


def _reason_to_skip(
    config: Config, prefix: str, is_certain: bool, ignore: cabc.Collection[str]
) -> str | None:
    """Why a group of settings is not a prefix, or None if it is one."""
    if any(fnmatchcase(prefix, pattern) for pattern in ignore):
        return f"a pattern in ignore= matches {prefix!r}"

    if is_certain:
        # Wrong settings of a certain prefix stop start-up instead.
        return None

    if _is_text(url := config.get(f"{prefix}_URL")):
        if scheme_of(url) not in ENGINES:
            return f"'{prefix}_URL' does not begin with {list_schemes()}"

        return None

    if _is_text(config.get(f"{prefix}_UNIX_SOCKET_PATH")):
        return None

    if not is_unset(config.get(f"{prefix}_CONNECTION_POOL")):
        return None

    if not _is_text(config.get(f"{prefix}_HOST")):
        return f"neither '{prefix}_URL' nor '{prefix}_HOST' is text"

    if any(fnmatchcase(prefix, pattern) for pattern in FOREIGN_HOSTS):
        return (
            f"'{prefix}_HOST' usually belongs to something else: set '{prefix}_URL',"
            f" or name {prefix!r} in prefixes="
        )

    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _has_address(config: Config, prefix: str) -> bool:
    """Whether any setting of a prefix says where the server is."""
    return any(not is_unset(config.get(prefix + suffix)) for suffix in SUFFIXES)


def _check_address(config: Config, prefix: str) -> None:
    if not _has_address(config, prefix):
        raise ConfigError(
            f"'{prefix}_URL' must be set, as prefixes= names {prefix!r}; or"
            f" '{prefix}_HOST', '{prefix}_UNIX_SOCKET_PATH' or"
            f" '{prefix}_CONNECTION_POOL'."
        )


class Groups:
    """The settings of some prefixes. Each setting belongs to the longest prefix that
    has a setting of that name.

    :param config: The application's settings.
    :param prefixes: The prefixes to read.
    :param others: Prefixes whose misspelt settings matter, though they are not read.
    """

    def __init__(
        self,
        config: Config,
        prefixes: cabc.Collection[str],
        others: cabc.Collection[str],
    ) -> None:
        self._groups: dict[str, dict[str, t.Any]] = {each: {} for each in prefixes}
        self._names = _list_settings(config, {*prefixes, *others})
        self._keys = _split_keys(config, self._names)

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

    def find_misspellings(self, certain: cabc.Collection[str]) -> cabc.Iterator[str]:
        """A warning for each setting that is not used and looks like one that is.

        :param certain: The prefixes whose settings are checked.
        """
        for key, splits in self._keys:
            if any(rest in self._names[prefix] for prefix, rest in splits):
                continue

            for prefix, rest in splits:
                if prefix in certain and (name := self._suggest(prefix, rest)):
                    yield (
                        f"{key!r} is read by nothing. Did you mean"
                        f" '{prefix}_{name.upper()}'?"
                    )
                    break

    def _suggest(self, prefix: str, name: str) -> str | None:
        if name in WRONG_NAMES:
            return WRONG_NAMES[name]

        names = self._names[prefix]
        return next(iter(difflib.get_close_matches(name, names, 1, 0.85)), None)


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
            # Those of redis.Redis as well: one that the class does not take must be an
            # error.
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


def _split_keys(config: Config, prefixes: cabc.Collection[str]) -> list[_Key]:
    """The settings that begin with one of the prefixes."""
    first_words = {prefix.partition("_")[0] for prefix in prefixes}
    keys: list[_Key] = []

    for name in config:
        # Most settings belong to no prefix. Test the cheapest condition first.
        if (
            isinstance(name, str)
            and name.partition("_")[0] in first_words
            and name.isupper()
        ):
            ends = [index for index, letter in enumerate(name) if letter == "_"]
            splits = [(name[:end], name[end + 1 :].lower()) for end in reversed(ends)]
            keys.append((name, [each for each in splits if each[0] in prefixes]))

    return keys
