"""Which groups of settings are a prefix, and why the others are not."""

from __future__ import annotations

import collections.abc as cabc
import difflib
import os
import typing as t
from fnmatch import fnmatchcase

from ..engines import ENGINES
from ..engines import list_schemes
from ..spec.advice import explain_type
from ..spec.advice import is_quoted
from ..spec.classes import is_unset
from ..spec.spec import LONGEST_PREFIX
from ..spec.url import is_service_port
from ..spec.url import scheme_of

#: What makes a group of settings a prefix. No suffix is the end of another one.
SUFFIXES = ("_URL", "_HOST", "_UNIX_SOCKET_PATH", "_CONNECTION_POOL")

#: Words that are so general that their ``HOST`` belongs to something else.
FOREIGN_NAMES = (
    *("RUN", "SERVER", "APP", "API", "WEB", "HTTP*", "*PROXY", "SITE", "PUBLIC"),
    *("BIND", "CDN*", "*_DB", "DB_*"),
)

#: Patterns of other software. Its name may follow other words: ``SHOP_MAIL_HOST``.
FOREIGN_SOFTWARE = (
    *("DB", "DATABASE*", "SQL*", "MYSQL*", "MARIADB*"),
    *("POSTGRES*", "PG*", "MSSQL*", "ORACLE*", "MONGO*", "CASSANDRA*", "CLICKHOUSE*"),
    *("INFLUX*", "NEO4J*", "COUCH*", "MAIL*", "EMAIL*", "SMTP*", "IMAP*", "POP3*"),
    *("FTP*", "SFTP*", "SSH*", "LDAP*", "RABBITMQ*", "AMQP*", "KAFKA*", "NATS*"),
    *("MQTT*", "ZOOKEEPER*", "CONSUL*", "ELASTIC*", "ES", "OPENSEARCH*", "SOLR*"),
    *("MEILI*", "TYPESENSE*", "MEMCACHE*", "STATSD*", "GRAPHITE*", "JAEGER*", "OTEL*"),
    *("DD_*", "DATADOG*", "SENTRY*", "LOGSTASH*", "FLUENT*", "SYSLOG*", "VAULT*"),
    *("MINIO*", "S3*", "AWS*", "DOCKER*", "CHROMA*", "MILVUS*", "QDRANT*"),
    *("VECTOR*", "WEAVIATE*"),
)

#: The application's settings.
Config = cabc.Mapping[str, t.Any]


def reason_to_skip(
    config: Config, prefix: str, is_certain: bool, ignore: cabc.Collection[str]
) -> str | None:
    """Why a group of settings is not a prefix, or None if it is one."""
    if any(fnmatchcase(prefix, pattern) for pattern in ignore):
        return f"a pattern in ignore= matches {prefix!r}"

    if reason := _reason_by_name(config, prefix):
        return reason

    if is_certain:
        # Wrong settings of a certain prefix stop start-up instead.
        return None

    url = config.get(f"{prefix}_URL")

    if _is_redis_url(url):
        return None

    if _is_text(url):
        return f"'{prefix}_URL' does not begin with {list_schemes()}"

    path = config.get(f"{prefix}_UNIX_SOCKET_PATH")

    if _is_text(path) or isinstance(path, os.PathLike):
        return None

    if not is_unset(config.get(f"{prefix}_CONNECTION_POOL")):
        return None

    if not _is_text(host := config.get(f"{prefix}_HOST")):
        given = {"URL": url, "HOST": host, "UNIX_SOCKET_PATH": path}
        name = next(name for name, value in given.items() if not is_unset(value))
        advice = explain_type(given[name], wants_text=True).rstrip(".")
        return f"'{prefix}_{name}' is not text.{advice}"

    if scheme_of(host) not in ("", "file", *ENGINES):
        return f"'{prefix}_HOST' is a URL of something else"

    if str(host).strip().isdecimal():
        return f"'{prefix}_HOST' is a number"

    if _is_foreign(prefix):
        return (
            f"'{prefix}_HOST' usually belongs to something else: set '{prefix}_URL',"
            f" or name {prefix!r} in prefixes="
        )

    return None


def _is_foreign(prefix: str) -> bool:
    """Whether other software usually has a ``HOST`` with this name."""
    if any(fnmatchcase(prefix, pattern) for pattern in FOREIGN_NAMES):
        return True

    words = prefix.split("_")
    ends = ["_".join(words[number:]) for number in range(len(words))]
    return any(fnmatchcase(end, name) for end in ends for name in FOREIGN_SOFTWARE)


def _reason_by_name(config: Config, prefix: str) -> str | None:
    """Why a group of settings cannot be a prefix because of its name."""
    if len(prefix) > LONGEST_PREFIX:
        return f"a prefix has at most {LONGEST_PREFIX} letters"

    if prefix.endswith("_"):
        return "a prefix does not end with '_'"

    if prefix.endswith("_SERVICE") and not has_address(config, prefix, but="_HOST"):
        port = f"{prefix.removesuffix('_SERVICE')}_PORT"

        if is_service_port(config.get(port)):
            return (
                f"Kubernetes set '{prefix}_HOST' for a service of this name, as"
                f" {port!r} shows"
            )

    return None


#: Schemes that are recognized with a typing mistake.
_SIMPLE_SCHEMES = ("redis", "rediss", "valkey", "valkeys")


def _is_redis_url(url: object) -> bool:
    """Whether a value is the URL of a Redis, or is certainly meant as one. A wrong one
    is not skipped, but causes an error.
    """
    if isinstance(url, (bytes, bytearray)):
        return scheme_of(url.decode("latin-1")) in ENGINES

    if not isinstance(url, str):
        # A URL object of another library.
        return (
            hasattr(type(url), "scheme") and str(t.cast(t.Any, url).scheme) in ENGINES
        )

    if (scheme := scheme_of(url)) in ENGINES:
        return True

    if is_quoted(url):
        return scheme.lstrip("'\"") in ENGINES

    if scheme:
        return bool(difflib.get_close_matches(scheme, _SIMPLE_SCHEMES, 1, 0.8))

    # "redis:/host" or "redis:6379"
    return url.strip().lower().partition(":")[0] in _SIMPLE_SCHEMES and ":" in url


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def has_address(config: Config, prefix: str, but: str = "") -> bool:
    """Whether a setting of a prefix, other than the excluded one, says where the server
    is.
    """
    return any(
        not is_unset(config.get(prefix + suffix))
        for suffix in SUFFIXES
        if suffix != but
    )
