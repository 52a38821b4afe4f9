"""``app.config``, to the checked settings of each prefix."""

from __future__ import annotations

import collections.abc as cabc
import difflib
import importlib.util
import inspect
import logging
import sys
import typing as t
import warnings
from dataclasses import dataclass
from dataclasses import field
from fnmatch import fnmatchcase

import redis

from .exceptions import ConfigError
from .urls import Given
from .urls import one_of_schemes
from .urls import read_host
from .urls import read_url
from .urls import scheme_of
from .urls import SCHEMES
from .values import as_class
from .values import convert
from .values import did_you_mean
from .values import is_unset
from .values import name_of
from .values import parameters

logger: logging.Logger = logging.getLogger("flask_and_redis")

DEFAULT_PREFIX = "REDIS"

# What makes a prefix. No ending is the end of another one.
ENDINGS = ("URL", "HOST", "UNIX_SOCKET_PATH", "CONNECTION_POOL")

# The groups whose HOST is something else's in most applications.
FOREIGN_HOSTS = (
    *("RUN", "SERVER", "APP", "API", "WEB", "HTTP*", "PROXY", "SITE", "PUBLIC", "BIND"),
    *("DB", "DATABASE*", "SQL*", "MYSQL*", "MARIADB*", "POSTGRES*", "PG*", "MSSQL*"),
    *("ORACLE*", "MONGO*", "CASSANDRA*", "CLICKHOUSE*", "INFLUX*", "NEO4J*", "COUCH*"),
    *("MAIL*", "EMAIL*", "SMTP*", "IMAP*", "POP3*", "FTP*", "SFTP*", "SSH*", "LDAP*"),
    *("RABBITMQ*", "AMQP*", "KAFKA*", "NATS*", "MQTT*", "ZOOKEEPER*", "CONSUL*"),
    *("ELASTIC*", "OPENSEARCH*", "SOLR*", "MEILI*", "TYPESENSE*", "MEMCACHE*"),
    *("STATSD*", "GRAPHITE*", "JAEGER*", "OTEL*", "DD_*", "DATADOG*", "SENTRY*"),
    *("LOGSTASH*", "FLUENT*", "SYSLOG*", "VAULT*", "MINIO*", "S3*", "AWS*", "DOCKER*"),
)

# The names that version 1 had for arguments of the client.
OLD_NAMES = {"charset": "encoding", "errors": "encoding_errors", "user": "username"}

ADDRESS = ("host", "port", "unix_socket_path", "db")

# A web worker must not wait for ever: redis-py before 8 has no timeouts at all.
DEFAULT_TIMEOUTS = {"socket_timeout": 5.0, "socket_connect_timeout": 5.0}

INSTALL = {
    "fakeredis": "pip install 'Flask-And-Redis[fakeredis]'",
    "valkey": "pip install valkey",
}


@dataclass(frozen=True)
class Settings:
    """What the settings of one prefix say, checked: enough to make its client."""

    prefix: str
    client_class: type[t.Any]
    arguments: cabc.Mapping[str, t.Any] = field(repr=False)
    pool_class: type[t.Any] | None = None
    # The name in a fakeredis:// URL. None: a real server.
    fake_server: str | None = field(default=None, repr=False)


@dataclass
class Discovery:
    """What was found in ``app.config``."""

    settings: dict[str, Settings]
    # Prefixes that may be somebody else's and whose settings are wrong.
    wrong: dict[str, ConfigError]
    # Groups that look like a prefix and are none, with the reason.
    skipped: dict[str, str]


def discover(
    config: cabc.Mapping[str, t.Any],
    *,
    default: str,
    wanted: cabc.Collection[str],
    prefixes: cabc.Collection[str] | None,
    ignore: cabc.Collection[str],
    options: cabc.Mapping[str, t.Any],
) -> Discovery:
    """Find and read every prefix of an application's settings.

    :param config: The application's settings.
    :param default: The default prefix.
    :param wanted: Prefixes that the application has asked for by name.
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

    skipped: dict[str, str] = {}

    if prefixes is not None:
        candidates = list(dict.fromkeys(prefixes))
    else:
        candidates = []

        for prefix in _find_groups(config):
            named = prefix == default or prefix in wanted
            reason = _reason_to_skip(config, prefix, is_ours(prefix), named, ignore)

            if reason is None:
                candidates.append(prefix)
            else:
                skipped[prefix] = reason

    found = Discovery({}, {}, skipped)
    groups = group_settings(config, candidates)

    for prefix in candidates:
        try:
            if not _has_address(config, prefix):
                raise ConfigError(
                    f"'{prefix}_URL' must be set, as prefixes= names {prefix!r};"
                    f" or '{prefix}_HOST', '{prefix}_UNIX_SOCKET_PATH' or"
                    f" '{prefix}_CONNECTION_POOL'."
                )

            found.settings[prefix] = read_settings(prefix, groups[prefix], options)
        except ConfigError as error:
            if is_ours(prefix):
                raise

            # Without its traceback, whose frames hold the settings.
            found.wrong[prefix] = ConfigError(*error.args)
            logger.warning("Prefix %r is left out. %s", prefix, error)

    ours = {prefix for prefix in candidates if is_ours(prefix)}
    warn_of_misspellings(config, ours | {default, *wanted}, found.settings)
    return found


def _find_groups(config: cabc.Mapping[str, t.Any]) -> list[str]:
    """The prefixes that some setting could make, in the order of the settings."""
    found: dict[str, None] = {}

    for key, value in config.items():
        if isinstance(key, str) and key.isupper() and not is_unset(value):
            for ending in ENDINGS:
                if key.endswith(f"_{ending}") and len(key) > len(ending) + 1:
                    found[key[: -len(ending) - 1]] = None

    return list(found)


def _reason_to_skip(
    config: cabc.Mapping[str, t.Any],
    prefix: str,
    ours: bool,
    named: bool,
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

    if not named and any(fnmatchcase(prefix, pattern) for pattern in FOREIGN_HOSTS):
        return (
            f"'{prefix}_HOST' usually belongs to something else: set '{prefix}_URL',"
            f" or name {prefix!r} in prefixes="
        )

    return None


def _is_text(config: cabc.Mapping[str, t.Any], key: str) -> bool:
    value = config.get(key)
    return isinstance(value, str) and bool(value.strip())


def _has_address(config: cabc.Mapping[str, t.Any], prefix: str) -> bool:
    return any(not is_unset(config.get(f"{prefix}_{end}")) for end in ENDINGS)


def group_settings(
    config: cabc.Mapping[str, t.Any], prefixes: cabc.Collection[str]
) -> dict[str, dict[str, t.Any]]:
    """Hand each setting to the longest prefix that reads it.

    :param config: The application's settings.
    :param prefixes: The prefixes to read.
    :return: For each prefix its settings, without the prefix, in lower case.
    """
    groups: dict[str, dict[str, t.Any]] = {prefix: {} for prefix in prefixes}
    names = {prefix: _setting_names(config, prefix) for prefix in prefixes}

    for key, value in config.items():
        if not isinstance(key, str) or not key.isupper() or is_unset(value):
            continue

        for prefix, rest in _splits(key):
            if prefix in names and rest in names[prefix]:
                groups[prefix][rest] = value
                break

    return groups


def _splits(key: str) -> cabc.Iterator[tuple[str, str]]:
    """Each way to part a key into prefix and lower-cased name, longest prefix first."""
    end = key.rfind("_")

    while end > 0:
        yield key[:end], key[end + 1 :].lower()
        end = key.rfind("_", 0, end)


def _setting_names(
    config: cabc.Mapping[str, t.Any], prefix: str
) -> cabc.Collection[str]:
    """What may follow a prefix. A class that cannot be had is reported when read."""
    classes = []

    for ending in ("CLASS", "CONNECTION_POOL_CLASS"):
        try:
            classes.append(as_class("", config.get(f"{prefix}_{ending}")))
        except ConfigError:
            classes.append(None)

    accepted = _accepted(classes[0] or redis.Redis, classes[1])
    return {"url", "class", "connection_pool_class", *OLD_NAMES, *accepted}


def read_prefix(
    config: cabc.Mapping[str, t.Any], prefix: str, options: cabc.Mapping[str, t.Any]
) -> Settings:
    """Read one prefix, which without any setting is localhost:6379.

    :param config: The application's settings.
    :param prefix: The prefix.
    :param options: Client arguments that settings override.
    :raises ConfigError: If anything is wrong.
    """
    values = group_settings(config, [prefix])[prefix]
    settings = read_settings(prefix, values, options)
    warn_of_misspellings(config, [prefix], {prefix: settings})
    return settings


def read_settings(
    prefix: str,
    values: cabc.Mapping[str, t.Any],
    options: cabc.Mapping[str, t.Any],
) -> Settings:
    """Check the settings of one prefix.

    :param prefix: The prefix.
    :param values: Its settings, from :func:`group_settings`.
    :param options: Client arguments that settings override.
    :raises ConfigError: If anything is wrong.
    """
    values = dict(values)
    url = values.pop("url", None)
    scheme = "redis"
    client_class = as_class(f"'{prefix}_CLASS'", values.pop("class", None))
    pool_class = as_class(
        f"'{prefix}_CONNECTION_POOL_CLASS'", values.pop("connection_pool_class", None)
    )
    client_class = client_class or redis.Redis
    _check_classes(prefix, client_class, pool_class)
    accepted = _accepted(client_class, pool_class)
    given = _label_values(prefix, values, options, client_class, accepted)
    fake_server = None

    if url is not None:
        if "connection_pool" in given:
            raise ConfigError(
                f"'{prefix}_URL' and {given['connection_pool'][0]} both say where the"
                " server is: set one of them."
            )

        given = {name: it for name, it in given.items() if name not in ADDRESS}
        scheme, fake_server, from_url = read_url(f"'{prefix}_URL'", url, accepted)
        given |= from_url
    elif "unix_socket_path" not in given and "host" in given:
        given |= read_host(*given["host"])

    given = {name: it for name, it in given.items() if it[1] is not None}
    _check_accepted(given, client_class, accepted)
    arguments = {
        name: convert(label, accepted[name], value)
        for name, (label, value) in given.items()
    }
    _check_together(prefix, scheme, given, arguments, accepted)

    if fake_server is not None:
        client_class = _check_fakeredis(prefix, client_class)

    if "connection_pool" not in arguments:
        defaults = {k: v for k, v in DEFAULT_TIMEOUTS.items() if k in accepted}
        arguments = defaults | arguments

    return Settings(prefix, client_class, arguments, pool_class, fake_server)


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
                f"The option {name!r} of RedisManager or Redis is no argument of"
                f" {name_of(client_class)}.{did_you_mean(name, accepted)}"
            )

        if not is_unset(value):
            given[name] = (f"The option {name!r} of RedisManager or Redis", value)

    for name, value in values.items():
        argument = name if name in accepted else OLD_NAMES[name]

        if argument != name and argument in values:
            raise ConfigError(
                f"'{prefix}_{name.upper()}' and '{prefix}_{argument.upper()}' are two"
                " names for one thing: set one of them."
            )

        given[argument] = (f"'{prefix}_{name.upper()}'", value)

    return given


def _check_classes(
    prefix: str, client_class: type[t.Any], pool_class: type[t.Any] | None
) -> None:
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

    if pool_class is not None and not issubclass(pool_class, redis.ConnectionPool):
        raise ConfigError(
            f"'{prefix}_CONNECTION_POOL_CLASS' must be a class derived from"
            " redis.ConnectionPool, such as 'redis.BlockingConnectionPool'."
        )


def _accepted(
    client_class: type[t.Any], pool_class: type[t.Any] | None
) -> cabc.Mapping[str, inspect.Parameter]:
    """What may be set: arguments of the client, and of its pool's class if named."""
    if pool_class is None:
        return parameters(client_class)

    of_pool = {**parameters(pool_class), **parameters(client_class)}
    of_pool.pop("connection_class", None)
    return of_pool


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
    scheme: str,
    given: Given,
    arguments: cabc.Mapping[str, t.Any],
    accepted: cabc.Mapping[str, inspect.Parameter],
) -> None:
    tls = [label for name, (label, _) in given.items() if name.startswith("ssl_")]

    if "unix_socket_path" in arguments and (tls or arguments.get("ssl")):
        raise ConfigError(
            f"{(tls or [given['ssl'][0]])[0]} cannot be used with a socket: TLS needs a"
            " host."
        )

    if tls and not arguments.get("ssl") and scheme != "fakeredis":
        raise ConfigError(
            f"{tls[0]} needs TLS, and nothing asks for it: use a rediss:// URL, or set"
            f" '{prefix}_SSL' to true."
        )

    if "credential_provider" in arguments:
        for name in ("username", "password"):
            if name in arguments:
                raise ConfigError(
                    f"{given[name][0]} and {given['credential_provider'][0]} both say"
                    " who logs in: set one of them."
                )

    if "cache" in arguments or "cache_config" in arguments:
        default = accepted["protocol"].default if "protocol" in accepted else None

        if arguments.get("protocol", default) not in (None, 3):
            raise ConfigError(
                f"'{prefix}_PROTOCOL' must be 3, as client-side caching needs it."
            )

    _warn_of_hazards(prefix, given, arguments)


def _warn_of_hazards(
    prefix: str, given: Given, arguments: cabc.Mapping[str, t.Any]
) -> None:
    for name, hazard in (
        ("single_connection_client", "replies cross after a fork"),
        ("cache_config", "threads wait for each other, and a fork reads stale values"),
        ("cache", "threads wait for each other, and a fork reads stale values"),
    ):
        if arguments.get(name):
            _warn(f"{given[name][0]} is not safe in a web application: {hazard}.")

    if "connection_pool" in arguments:
        of_a_pool = {*parameters(redis.SSLConnection), *ADDRESS, "ssl"}
        of_a_pool |= {"max_connections"}

        for name, (label, _) in given.items():
            if name in of_a_pool:
                _warn(
                    f"{label} is without effect: {given['connection_pool'][0]} was made"
                    " with settings of its own."
                )


def _check_fakeredis(prefix: str, client_class: type[t.Any]) -> type[t.Any]:
    """The class of a client that is to talk to fakeredis."""
    if not issubclass(client_class, redis.Redis):
        raise ConfigError(
            f"'{prefix}_CLASS' must be derived from redis.Redis for a fakeredis:// URL."
        )

    check_installed(f"'{prefix}_URL'", "fakeredis")

    if client_class is redis.Redis:
        import fakeredis

        return fakeredis.FakeRedis

    return client_class


def check_installed(label: str, package: str) -> None:
    """Raise if a client library that a setting asks for is missing.

    :param label: What asks for it.
    :param package: The library's import name.
    :raises ConfigError: With the command that installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{label} needs the package {package}, which is not installed:"
            f" {INSTALL[package]}"
        )


def warn_of_misspellings(
    config: cabc.Mapping[str, t.Any],
    ours: cabc.Collection[str],
    found: cabc.Mapping[str, Settings],
) -> None:
    """Warn of a setting that nothing reads and that is nearly one that something does.

    :param config: The application's settings.
    :param ours: The prefixes that are surely Redis.
    :param found: What was read.
    """
    names = {prefix: _setting_names(config, prefix) for prefix in {*ours, *found}}

    for key in config:
        if not isinstance(key, str) or not key.isupper():
            continue

        splits = [(prefix, rest) for prefix, rest in _splits(key) if prefix in names]

        if any(rest in names[prefix] for prefix, rest in splits):
            continue

        for prefix, rest in splits:
            near = difflib.get_close_matches(rest, names[prefix], n=1, cutoff=0.85)

            if prefix in ours and near:
                _warn(
                    f"{key!r} is read by nothing. Did you mean"
                    f" '{prefix}_{near[0].upper()}'?"
                )
                break


def _warn(message: str) -> None:
    """Warn of a setting, at the line that called into this package."""
    level, frame = 1, sys._getframe()

    while frame.f_back and frame.f_globals["__name__"].startswith(f"{__package__}."):
        level, frame = level + 1, frame.f_back

    warnings.warn(message, stacklevel=level)
