"""``app.config``, to the checked settings of each prefix."""

from __future__ import annotations

import collections.abc as cabc
import difflib
import inspect
import logging
import sys
import typing as t
import warnings
from dataclasses import dataclass
from dataclasses import field
from fnmatch import fnmatchcase

import redis
from redis.cluster import REDIS_ALLOWED_KEYS

from .exceptions import ConfigError
from .urls import Given
from .urls import one_of_schemes
from .urls import Place
from .urls import read_host
from .urls import read_url
from .urls import scheme_of
from .urls import SCHEMES
from .values import as_class
from .values import check_installed
from .values import convert
from .values import did_you_mean
from .values import is_unset
from .values import library_of
from .values import name_of
from .values import once_a_class
from .values import parameters

logger: logging.Logger = logging.getLogger("flask_and_redis")

DEFAULT_PREFIX = "REDIS"

# What makes a prefix. No ending is the end of another one.
ENDINGS = ("URL", "HOST", "UNIX_SOCKET_PATH", "CONNECTION_POOL")

_SUFFIXES = tuple(f"_{ending}" for ending in ENDINGS)

# Those of them that other things than Redis do not use.
_SURE_ENDINGS = ("URL", "UNIX_SOCKET_PATH", "CONNECTION_POOL")

# The groups whose HOST is something else's in most applications.
FOREIGN_HOSTS = (
    *(
        "RUN",
        "SERVER",
        "APP",
        "API",
        "WEB",
        "HTTP*",
        "*PROXY",
        "SITE",
        "PUBLIC",
        "BIND",
    ),
    *(
        "CDN*",
        "DB",
        "*_DB",
        "DATABASE*",
        "SQL*",
        "MYSQL*",
        "MARIADB*",
        "POSTGRES*",
        "PG*",
        "MSSQL*",
    ),
    *("ORACLE*", "MONGO*", "CASSANDRA*", "CLICKHOUSE*", "INFLUX*", "NEO4J*", "COUCH*"),
    *("MAIL*", "EMAIL*", "SMTP*", "IMAP*", "POP3*", "FTP*", "SFTP*", "SSH*", "LDAP*"),
    *("RABBITMQ*", "AMQP*", "KAFKA*", "NATS*", "MQTT*", "ZOOKEEPER*", "CONSUL*"),
    *("ELASTIC*", "OPENSEARCH*", "SOLR*", "MEILI*", "TYPESENSE*", "MEMCACHE*"),
    *("STATSD*", "GRAPHITE*", "JAEGER*", "OTEL*", "DD_*", "DATADOG*", "SENTRY*"),
    *("LOGSTASH*", "FLUENT*", "SYSLOG*", "VAULT*", "MINIO*", "S3*", "AWS*", "DOCKER*"),
)

# The names that version 1 had for arguments of the client.
OLD_NAMES = {"charset": "encoding", "errors": "encoding_errors", "user": "username"}

# What people write instead of the right name, too far from it to be seen as misspelt.
WRONG_NAMES = {
    "connect_timeout": "socket_connect_timeout",
    "database": "db",
    "decode": "decode_responses",
    "pass": "password",
    "sentinel_password": "sentinel_kwargs",
    "sentinel_username": "sentinel_kwargs",
    "timeout": "socket_timeout",
    "tls": "ssl",
    "uri": "url",
    "use_ssl": "ssl",
    "use_tls": "ssl",
}

ADDRESS = ("host", "port", "unix_socket_path", "db")

# A web worker must not wait for ever: redis-py before 8 has no timeouts at all. One try
# may visit several nodes of a cluster, or several sentinels.
TIMEOUT = 5.0
NODE_TIMEOUT = 1.0

# How long a command is tried again, in seconds.
RETRY_DEADLINE = 5.0


def _own(name: str, annotation: t.Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation)


# Settings of ours, which are no arguments of the client.
OWN = {
    "retry": _own("retry", t.Any),
    "retry_deadline": _own("retry_deadline", float),
    "sentinel_kwargs": _own("sentinel_kwargs", cabc.Mapping),
}


# What is not used of a dataclass would cost time at import, and repr tell secrets.
@dataclass(eq=False, repr=False)
class Settings:
    """What the settings of one prefix say, checked: enough to make its client."""

    prefix: str
    client_class: type[t.Any]
    arguments: cabc.Mapping[str, t.Any]
    pool_class: type[t.Any] | None = None
    place: Place = Place()
    # What the clients of the sentinels get.
    sentinel_arguments: cabc.Mapping[str, t.Any] = field(default_factory=dict)
    # Seconds that a command is tried again, or None if redis-py is to see to that.
    deadline: float | None = RETRY_DEADLINE
    # How often it may be tried again once it may have been sent. None: any number.
    retries: int | None = None

    @property
    def is_cluster(self) -> bool:
        return issubclass(self.client_class, redis.RedisCluster)

    @property
    def service(self) -> str:
        """The name by which sentinels know the server, or nothing."""
        pool = self.arguments.get("connection_pool")
        found: str = self.place.service or getattr(pool, "service_name", "")
        return found

    @property
    def nodes(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each start-up node of a cluster, or of each sentinel."""
        given = self.arguments.get("startup_nodes") or ()
        return (
            self.place.nodes
            or tuple((it.host, int(it.port)) for it in given)
            or ((self.connection["host"], self.connection["port"]),)
        )

    @property
    def connection(self) -> dict[str, t.Any]:
        """The arguments of a connection, with the defaults of its address."""
        found: dict[str, t.Any] = {"host": "localhost", "port": 6379, "db": 0}
        pool = self.arguments.get("connection_pool")

        if pool is None:
            taken = parameters(self.client_class)
            found |= {it: taken[it].default or found[it] for it in found if it in taken}
            return found | dict(self.arguments)

        kwargs = dict(pool.connection_kwargs)
        names = {it.__name__ for it in pool.connection_class.__mro__}
        kwargs["unix_socket_path"] = kwargs.pop("path", None)
        kwargs["ssl"] = "SSLConnection" in names
        return found | kwargs


class Discovery:
    """What was found in ``app.config``."""

    def __init__(self) -> None:
        self.settings: dict[str, Settings] = {}
        #: Prefixes that may be somebody else's and whose settings are wrong.
        self.wrong: dict[str, ConfigError] = {}
        #: Groups that look like a prefix and are none, with the reason.
        self.skipped: dict[str, str] = {}
        #: Prefixes that may be somebody else's, as nothing but a HOST speaks for Redis.
        self.guessed: list[str] = []


def discover(
    config: cabc.Mapping[str, t.Any],
    *,
    default: str,
    wanted: cabc.Collection[str],
    registered: cabc.Collection[str],
    prefixes: cabc.Collection[str] | None,
    ignore: cabc.Collection[str],
    options: cabc.Mapping[str, t.Any],
) -> Discovery:
    """Find and read every prefix of an application's settings.

    :param config: The application's settings.
    :param default: The default prefix.
    :param wanted: Prefixes that the application has asked for by name.
    :param registered: Prefixes that have been read before, and are not read again.
    :param prefixes: Read exactly these instead of searching for them.
    :param ignore: Patterns of prefixes to leave alone.
    :param options: Client arguments for every prefix, which settings override.
    :raises ConfigError: If a setting of a prefix that is surely Redis is wrong.
    """

    def is_ours(prefix: str) -> bool:
        return (
            prefix == default
            or prefix in wanted
            or prefixes is not None
            or prefix.startswith(("REDIS", "VALKEY"))
        )

    found = Discovery()
    candidates = prefixes

    if candidates is None:
        groups = {it: is_ours(it) for it in _find_groups(config)}
        reasons = {
            prefix: _reason_to_skip(config, prefix, ours, ignore)
            for prefix, ours in groups.items()
        }
        found.skipped = {it: why for it, why in reasons.items() if why is not None}
        candidates = [it for it, why in reasons.items() if why is None]

    ours = {default, *wanted, *filter(is_ours, candidates)}
    names = _setting_names(config, {*ours, *candidates, *registered})
    parted = _part_keys(config, names)
    values = _group_settings(config, parted, names, {*candidates, *registered})

    for prefix in dict.fromkeys(candidates):
        if prefix not in registered:
            _read_candidate(config, prefix, values[prefix], options, is_ours, found)

    _warn_of_misspellings(parted, names, ours)
    return found


def _read_candidate(
    config: cabc.Mapping[str, t.Any],
    prefix: str,
    values: cabc.Mapping[str, t.Any],
    options: cabc.Mapping[str, t.Any],
    is_ours: cabc.Callable[[str], bool],
    found: Discovery,
) -> None:
    """Add a prefix to what was found, raise if it is ours and wrong, or log it."""
    if not _has_address(config, prefix):
        raise ConfigError(
            f"'{prefix}_URL' must be set, as prefixes= names {prefix!r}; or"
            f" '{prefix}_HOST', '{prefix}_UNIX_SOCKET_PATH' or"
            f" '{prefix}_CONNECTION_POOL'."
        )

    try:
        found.settings[prefix] = read_settings(prefix, values, options)

        if not is_ours(prefix) and not _has_address(config, prefix, _SURE_ENDINGS):
            found.guessed.append(prefix)

        return
    except ConfigError as error:
        # Without its traceback, whose frames hold the settings.
        wrong = ConfigError(*error.args)

    if is_ours(prefix) or str(wrong).startswith(_OPTION):
        raise wrong

    found.wrong[prefix] = wrong
    logger.warning("Prefix %r is left out. %s", prefix, wrong)


# What an error calls a client argument that the application's code gave.
_OPTION = "The option"


def check_prefix(prefix: str) -> str:
    """Check that settings can begin with a prefix.

    :param prefix: The prefix.
    :return: The same.
    :raises ConfigError: If no setting that Flask reads can.
    """
    if not isinstance(prefix, str):
        raise ConfigError(
            f"The prefix must be text, such as {DEFAULT_PREFIX!r}, and is"
            f" {type(prefix).__name__}."
        )

    if not prefix.isupper() or prefix.endswith("_"):
        raise ConfigError(
            f"The prefix {prefix!r} must be in upper case, as Flask's settings are, and"
            " without the '_' after it."
        )

    return prefix


def _find_groups(config: cabc.Mapping[str, t.Any]) -> list[str]:
    """The prefixes that some setting could make, in the order of the settings."""
    found: dict[str, None] = {}

    for key, value in config.items():
        # Most settings end otherwise.
        if isinstance(key, str) and key.endswith(_SUFFIXES):
            prefix = key.removesuffix(next(filter(key.endswith, _SUFFIXES)))

            if prefix and key.isupper() and not is_unset(value):
                found[prefix] = None

    return list(found)


def _reason_to_skip(
    config: cabc.Mapping[str, t.Any],
    prefix: str,
    ours: bool,
    ignore: cabc.Collection[str],
) -> str | None:
    """Why a group of settings is no prefix, or None if it is one."""
    if any(fnmatchcase(prefix, pattern) for pattern in ignore):
        return f"a pattern in ignore= matches {prefix!r}"

    if ours:
        # Whatever is wrong with its settings stops start-up instead.
        return None

    url = config.get(f"{prefix}_URL")

    if isinstance(url, str) and url.strip() and scheme_of(url) not in SCHEMES:
        return f"'{prefix}_URL' does not begin with {one_of_schemes()}"

    if isinstance(url, str) and url.strip():
        return None

    if _is_text(config, f"{prefix}_UNIX_SOCKET_PATH"):
        return None

    if not is_unset(config.get(f"{prefix}_CONNECTION_POOL")):
        return None

    if not _is_text(config, f"{prefix}_HOST"):
        return f"neither '{prefix}_URL' nor '{prefix}_HOST' is text"

    if any(fnmatchcase(prefix, pattern) for pattern in FOREIGN_HOSTS):
        return (
            f"'{prefix}_HOST' usually belongs to something else: set '{prefix}_URL',"
            f" or name {prefix!r} in prefixes="
        )

    return None


def _is_text(config: cabc.Mapping[str, t.Any], key: str) -> bool:
    value = config.get(key)
    return isinstance(value, str) and bool(value.strip())


def _has_address(
    config: cabc.Mapping[str, t.Any],
    prefix: str,
    endings: cabc.Iterable[str] = ENDINGS,
) -> bool:
    return any(not is_unset(config.get(f"{prefix}_{end}")) for end in endings)


# The settings that begin with a prefix, each with all ways to part it into one and the
# lower-cased rest, longest prefix first.
_Parted = list[tuple[str, list[tuple[str, str]]]]


def _part_keys(config: cabc.Iterable[t.Any], prefixes: cabc.Collection[str]) -> _Parted:
    first_words = {it.partition("_")[0] for it in prefixes}
    parted: _Parted = []

    for key in config:
        if (
            isinstance(key, str)
            # Most settings are of nothing that is asked for.
            and key.partition("_")[0] in first_words
            and key.isupper()
        ):
            ends = [place for place, letter in enumerate(key) if letter == "_"]
            splits = [(key[:end], key[end + 1 :].lower()) for end in reversed(ends)]
            parted.append((key, [it for it in splits if it[0] in prefixes]))

    return parted


def _group_settings(
    config: cabc.Mapping[str, t.Any],
    parted: _Parted,
    names: cabc.Mapping[str, cabc.Container[str]],
    prefixes: cabc.Collection[str],
) -> dict[str, dict[str, t.Any]]:
    """Hand each setting to the longest prefix that reads it.

    :param config: The application's settings.
    :param parted: Their keys, from :func:`_part_keys`.
    :param names: What may follow each prefix.
    :param prefixes: The prefixes to read.
    :return: For each prefix its settings, without the prefix, in lower case.
    """
    groups: dict[str, dict[str, t.Any]] = {prefix: {} for prefix in prefixes}

    for key, splits in parted:
        if is_unset(config[key]):
            continue

        for prefix, rest in splits:
            if prefix in groups and rest in names[prefix]:
                groups[prefix][rest] = config[key]
                break

    return groups


def _setting_names(
    config: cabc.Mapping[str, t.Any], prefixes: cabc.Iterable[str]
) -> dict[str, cabc.Collection[str]]:
    """What may follow each prefix. Those of the same classes share one set of names."""
    of_classes: dict[t.Any, cabc.Collection[str]] = {}
    found: dict[str, cabc.Collection[str]] = {}

    for prefix in prefixes:
        classes = _find_classes(config, prefix)

        if classes not in of_classes:
            # Those of redis.Redis as well, so that one which the class does not take is
            # told.
            others = {"url", "class", "connection_pool_class", *OLD_NAMES}
            accepted = {*_accepted(*classes), *parameters(redis.Redis)}
            of_classes[classes] = others | accepted

        found[prefix] = of_classes[classes]

    return found


def _find_classes(
    config: cabc.Mapping[str, t.Any], prefix: str
) -> tuple[type[t.Any], type[t.Any] | None]:
    """The classes of client and pool. One that cannot be had is reported when read."""
    try:
        return _read_classes(
            prefix,
            config.get(f"{prefix}_URL"),
            config.get(f"{prefix}_CLASS"),
            config.get(f"{prefix}_CONNECTION_POOL_CLASS"),
        )
    except ConfigError:
        return redis.Redis, None


def read_prefix(
    config: cabc.Mapping[str, t.Any], prefix: str, options: cabc.Mapping[str, t.Any]
) -> Settings:
    """Read one prefix, which without any setting is localhost:6379.

    :param config: The application's settings.
    :param prefix: The prefix.
    :param options: Client arguments that settings override.
    :raises ConfigError: If anything is wrong.
    """
    if prefix in config and not _has_address(config, prefix):
        raise ConfigError(
            f"{prefix!r} is a setting: its prefix is what stands before the last '_'."
        )

    # REDIS_TEXT_PORT is no setting of REDIS beside REDIS_TEXT_HOST.
    longer = [it for it in _find_groups(config) if it.startswith(f"{prefix}_")]
    names = _setting_names(config, [prefix, *longer])
    parted = _part_keys(config, names)
    values = _group_settings(config, parted, names, names)[prefix]
    settings = read_settings(prefix, values, options)
    _warn_of_misspellings(parted, names, [prefix])
    return settings


def read_settings(
    prefix: str,
    values: cabc.Mapping[str, t.Any],
    options: cabc.Mapping[str, t.Any],
) -> Settings:
    """Check the settings of one prefix.

    :param prefix: The prefix.
    :param values: Its settings, from :func:`_group_settings`.
    :param options: Client arguments that settings override.
    :raises ConfigError: If anything is wrong.
    """
    values = dict(values)
    url = values.pop("url", None)
    client_class, pool_class = _read_classes(
        prefix,
        url,
        values.pop("class", None),
        values.pop("connection_pool_class", None),
    )
    accepted = _accepted(client_class, pool_class)
    given = _label_values(prefix, values, options, client_class, accepted)
    place = Place()

    if url is not None:
        if "connection_pool" in given:
            raise ConfigError(
                f"'{prefix}_URL' and {given['connection_pool'][0]} both say where the"
                " server is: set one of them."
            )

        given = {name: it for name, it in given.items() if name not in ADDRESS}
        place, from_url = read_url(f"'{prefix}_URL'", url, accepted)
        given |= from_url
    elif "unix_socket_path" not in given and "host" in given:
        given |= read_host(*given["host"])

    given = {name: it for name, it in given.items() if it[1] is not None}
    _check_accepted(given, client_class, accepted)
    arguments = {
        name: convert(label, accepted[name], value)
        for name, (label, value) in given.items()
    }
    _check_together(prefix, place, given, arguments, client_class)
    return _make_settings(prefix, client_class, pool_class, place, given, arguments)


def _read_classes(
    prefix: str, url: t.Any, client_class: t.Any, pool_class: t.Any
) -> tuple[type[t.Any], type[t.Any] | None]:
    """The client's class, by default the scheme's, and that of its pool if set."""
    scheme = scheme_of(url) if isinstance(url, str) else ""
    wanted: type[t.Any] = redis.Redis

    if scheme.endswith("+cluster"):
        wanted = redis.RedisCluster

    found = as_class(f"'{prefix}_CLASS'", client_class) or wanted
    pool = as_class(f"'{prefix}_CONNECTION_POOL_CLASS'", pool_class)

    if found is not wanted:
        _check_client_class(prefix, found)

    if scheme.endswith(("+cluster", "+sentinel")) or scheme == "fakeredis":
        if not issubclass(found, wanted):
            raise ConfigError(
                f"'{prefix}_CLASS' must be derived from {name_of(wanted)} for a"
                f" {scheme}:// URL."
            )

    _check_pool_class(prefix, found, pool, scheme)
    return found, pool


def _make_settings(
    prefix: str,
    client_class: type[t.Any],
    pool_class: type[t.Any] | None,
    place: Place,
    given: Given,
    arguments: dict[str, t.Any],
) -> Settings:
    """Part what is ours from the client's arguments, and add what is left out."""
    deadline = arguments.pop("retry_deadline", RETRY_DEADLINE)
    retry = arguments.get("retry")
    retries = arguments.pop("retry") if isinstance(retry, int) else None
    sentinel_kwargs = arguments.pop("sentinel_kwargs", None)
    sentinel_arguments: dict[str, t.Any] = {}
    timeout = TIMEOUT

    if issubclass(client_class, redis.RedisCluster):
        timeout = NODE_TIMEOUT
        arguments.pop("db", None)

    if place.scheme.endswith("+sentinel"):
        sentinel_arguments = _read_sentinel_kwargs(
            *given.get("sentinel_kwargs", ("", {})), arguments
        )
    elif sentinel_kwargs is not None and place.scheme != "fakeredis":
        raise ConfigError(
            f"{given['sentinel_kwargs'][0]} needs a redis+sentinel:// URL."
        )

    if place.scheme == "fakeredis":
        check_installed(f"'{prefix}_URL'", "fakeredis")

        if client_class is redis.Redis:
            import fakeredis

            client_class = fakeredis.FakeRedis

    if "connection_pool" not in arguments:
        for name in _timeouts_without_default(client_class):
            arguments.setdefault(name, timeout)

    _check_required(prefix, client_class, pool_class, place, arguments)
    return Settings(
        prefix,
        client_class,
        arguments,
        pool_class,
        place,
        sentinel_arguments,
        deadline if retry is None or retries is not None else None,
        retries,
    )


@once_a_class
def _timeouts_without_default(client_class: type[t.Any]) -> list[str]:
    """The timeouts that a class takes and for which it has no default of its own."""
    names = ("socket_timeout", "socket_connect_timeout")
    taken = parameters(client_class)

    if issubclass(client_class, redis.RedisCluster):
        return [name for name in names if name not in taken]

    bases = [it for it in client_class.__mro__ if name_of(it) in _CLIENTS]
    return [
        name
        for name in names
        if name in taken
        and any(parameters(it).get(name) == taken[name] for it in bases)
    ]


_CLIENTS = ("redis.Redis", "valkey.Valkey")


@once_a_class
def _required(client_class: type[t.Any]) -> list[str]:
    """The arguments that a class cannot be made without."""
    taken = parameters(client_class).values()
    return [it.name for it in taken if it.default is it.empty]


def _check_required(
    prefix: str,
    client_class: type[t.Any],
    pool_class: type[t.Any] | None,
    place: Place,
    arguments: cabc.Mapping[str, t.Any],
) -> None:
    """Raise for what would be a ``TypeError`` when the client is made."""
    for name in _required(client_class):
        if name not in arguments:
            raise ConfigError(
                f"'{prefix}_{name.upper()}' must be set: {name_of(client_class)} needs"
                f" the argument {name!r}."
            )

    makes_pool = place.scheme == "fakeredis" or place.scheme.endswith("+sentinel")
    makes_pool |= pool_class is not None

    if makes_pool and "connection_pool" not in parameters(client_class):
        raise ConfigError(
            f"'{prefix}_CLASS' must be a class that takes 'connection_pool' for these"
            f" settings, and {name_of(client_class)} does not."
        )


def _read_sentinel_kwargs(
    label: str, value: cabc.Mapping[str, t.Any], arguments: cabc.Mapping[str, t.Any]
) -> dict[str, t.Any]:
    """The arguments of the sentinels' clients: TLS as for the servers, and timeouts
    that let one try visit several of them. Credentials are their own.
    """
    accepted = parameters(redis.Redis)
    found: dict[str, t.Any] = {
        "socket_timeout": NODE_TIMEOUT,
        "socket_connect_timeout": NODE_TIMEOUT,
    }
    found |= {
        name: it for name, it in arguments.items() if name.partition("_")[0] == "ssl"
    }

    for name, it in value.items():
        # One try visits the next sentinel instead of trying one again.
        if name not in accepted or name in (*ADDRESS, "connection_pool", "retry"):
            raise ConfigError(
                f"{label} must have arguments of redis.Redis as its keys, and none of"
                " the address or of retries."
                f"{did_you_mean(str(name), accepted)}"
            )

        if not is_unset(it):
            found[name] = convert(f"{name!r} in {label}", accepted[name], it)

    if not found.get("ssl", False):
        for name in value:
            if name.startswith("ssl_"):
                raise ConfigError(
                    f"{name!r} in {label} needs TLS, and nothing asks for it: use a"
                    f" rediss+sentinel:// URL, or add 'ssl': True to {label}."
                )

        # Explicitly without TLS, behind servers that have it.
        found = {k: it for k, it in found.items() if k.partition("_")[0] != "ssl"}

    return found


def _label_values(
    prefix: str,
    values: cabc.Mapping[str, t.Any],
    options: cabc.Mapping[str, t.Any],
    client_class: type[t.Any],
    accepted: cabc.Mapping[str, inspect.Parameter],
) -> Given:
    """Settings over options, each under the name of the client's argument."""
    given: Given = {}

    for name, value in options.items():
        if name not in accepted:
            raise ConfigError(
                f"{_OPTION} {name!r} of RedisManager or Redis is no argument of"
                f" {name_of(client_class)}.{did_you_mean(name, accepted)}"
            )

        if not is_unset(value):
            given[name] = (f"{_OPTION} {name!r} of RedisManager or Redis", value)

    for name, value in values.items():
        argument = name

        if name not in accepted and name in OLD_NAMES:
            argument = OLD_NAMES[name]

        if argument != name and argument in values:
            raise ConfigError(
                f"'{prefix}_{name.upper()}' and '{prefix}_{argument.upper()}' are two"
                " names for one thing: set one of them."
            )

        given[argument] = (f"'{prefix}_{name.upper()}'", value)

    return given


def _check_client_class(prefix: str, client_class: type[t.Any]) -> None:
    if not callable(execute := getattr(client_class, "execute_command", None)):
        raise ConfigError(
            f"'{prefix}_CLASS' must be a Redis client's class: {name_of(client_class)}"
            " has no 'execute_command'."
        )

    if inspect.iscoroutinefunction(execute):
        raise ConfigError(
            f"'{prefix}_CLASS' must be a synchronous client's class, such as"
            " 'redis.Redis'."
        )


def _check_pool_class(
    prefix: str,
    client_class: type[t.Any],
    pool_class: type[t.Any] | None,
    scheme: str,
) -> None:
    if pool_class is None:
        return

    if issubclass(client_class, redis.RedisCluster):
        raise ConfigError(
            f"'{prefix}_CONNECTION_POOL_CLASS' cannot be used: a cluster makes a pool"
            " for each of its nodes."
        )

    wanted: type[t.Any] = redis.ConnectionPool

    if scheme.endswith("+sentinel"):
        wanted = redis.SentinelConnectionPool
    elif library_of(client_class) == "valkey":
        wanted = sys.modules["valkey"].ConnectionPool

    of_sentinel = issubclass(pool_class, redis.SentinelConnectionPool)

    if not issubclass(pool_class, wanted) or (
        of_sentinel and wanted is not redis.SentinelConnectionPool
    ):
        raise ConfigError(
            f"'{prefix}_CONNECTION_POOL_CLASS' must be a class derived from"
            f" {name_of(wanted)}."
        )


def _accepted(
    client_class: type[t.Any], pool_class: type[t.Any] | None
) -> cabc.Mapping[str, inspect.Parameter]:
    """What may be set: arguments of the client, and of its pool's class if named."""
    accepted = _accepted_by_client(client_class)

    if pool_class is None:
        return accepted

    return {
        **{
            k: it for k, it in parameters(pool_class).items() if k != "connection_class"
        },
        **accepted,
    }


@once_a_class
def _accepted_by_client(
    client_class: type[t.Any],
) -> cabc.Mapping[str, inspect.Parameter]:
    accepted = dict(parameters(client_class)) | OWN

    if issubclass(client_class, redis.RedisCluster):
        # It hands these on to its nodes without naming them.
        of_nodes = parameters(redis.Redis).items()
        accepted |= {k: it for k, it in of_nodes if k in REDIS_ALLOWED_KEYS}

        for name in ("url", "connection_pool"):
            accepted.pop(name)

    return accepted


def _check_accepted(
    given: Given, client_class: type[t.Any], accepted: cabc.Container[str]
) -> None:
    for name, (label, _) in given.items():
        if name not in accepted:
            raise ConfigError(
                f"{label} needs a client class that takes {name!r}, and"
                f" {name_of(client_class)} does not."
            )


# What several settings say together


def _check_together(
    prefix: str,
    place: Place,
    given: Given,
    arguments: cabc.Mapping[str, t.Any],
    client_class: type[t.Any],
) -> None:
    _check_tls(prefix, place, given, arguments)

    if "credential_provider" in arguments:
        for name in ("username", "password"):
            if name in arguments:
                raise ConfigError(
                    f"{given[name][0]} and {given['credential_provider'][0]} both say"
                    " who logs in: set one of them."
                )

    if "cache" in arguments or "cache_config" in arguments:
        accepted = parameters(redis.Redis)
        protocol = arguments.get("protocol", accepted["protocol"].default)

        if protocol not in (None, 3):
            raise ConfigError(
                f"'{prefix}_PROTOCOL' must be 3, as client-side caching needs it."
            )

    if "retry_deadline" in arguments and not isinstance(arguments.get("retry", 0), int):
        raise ConfigError(
            f"{given['retry'][0]} and {given['retry_deadline'][0]} both say how long to"
            " try again: set one of them."
        )

    if issubclass(client_class, redis.RedisCluster):
        for name in ("db", "unix_socket_path"):
            if arguments.get(name):
                raise ConfigError(
                    f"{given[name][0]} cannot be used: a cluster has database 0 alone,"
                    " and no socket."
                )

    if "connection_pool" in arguments:
        _check_pool(given, arguments["connection_pool"], client_class)

    _warn_of_hazards(given, arguments)


def _check_tls(
    prefix: str, place: Place, given: Given, arguments: cabc.Mapping[str, t.Any]
) -> None:
    tls = [label for name, (label, _) in given.items() if name.startswith("ssl_")]

    if "unix_socket_path" in arguments and (tls or arguments.get("ssl")):
        raise ConfigError(
            f"{(tls or [given['ssl'][0]])[0]} cannot be used with a socket: TLS needs a"
            " host."
        )

    if tls and not arguments.get("ssl") and place.scheme != "fakeredis":
        raise ConfigError(
            f"{tls[0]} needs TLS, and nothing asks for it: use a rediss:// URL, or set"
            f" '{prefix}_SSL' to true."
        )


def _check_pool(given: Given, pool: t.Any, client_class: type[t.Any]) -> None:
    label = given["connection_pool"][0]

    if library_of(pool.__class__) != library_of(client_class):
        raise ConfigError(
            f"{label} must be a pool of the same library as {name_of(client_class)}."
        )

    of_a_pool = {*parameters(redis.SSLConnection), *ADDRESS, "ssl", "max_connections"}

    for name, (other, _) in given.items():
        if name in of_a_pool:
            _warn(
                f"{other} is without effect: {label} was made with settings of its own."
            )


def _warn_of_hazards(given: Given, arguments: cabc.Mapping[str, t.Any]) -> None:
    for name, hazard in (
        ("single_connection_client", "replies cross after a fork"),
        ("cache_config", "threads wait for each other, and a fork reads stale values"),
        ("cache", "threads wait for each other, and a fork reads stale values"),
    ):
        if arguments.get(name):
            _warn(f"{given[name][0]} is not safe in a web application: {hazard}.")


def _warn_of_misspellings(
    parted: _Parted,
    names: cabc.Mapping[str, cabc.Collection[str]],
    ours: cabc.Collection[str],
) -> None:
    """Warn of a setting that nothing reads and that is nearly one that something does.

    :param parted: The settings' keys, from :func:`_part_keys`.
    :param names: What may follow each prefix.
    :param ours: The prefixes that are surely Redis.
    """
    for key, splits in parted:
        if any(rest in names[prefix] for prefix, rest in splits):
            continue

        for prefix, rest in splits:
            near = [WRONG_NAMES[rest]] if rest in WRONG_NAMES else []
            near += difflib.get_close_matches(rest, names[prefix], n=1, cutoff=0.85)

            if prefix in ours and near:
                _warn(
                    f"{key!r} is read by nothing. Did you mean"
                    f" '{prefix}_{near[0].upper()}'?"
                )
                break


def _warn(message: str) -> None:
    """Warn of a setting, at the line that called into this package."""
    level, frame, own = 1, sys._getframe(), f"{__package__}."

    # Code that was given to exec() may have no name.
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(own):
        level, frame = level + 1, frame.f_back

    warnings.warn(message, stacklevel=level)
