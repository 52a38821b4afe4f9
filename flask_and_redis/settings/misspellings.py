"""Which setting is meant by a name that nothing uses."""

from __future__ import annotations

import collections.abc as cabc
import difflib
import functools
import os
import re

from ..engines import get_engine

#: Names that people use for the address, the credentials and TLS. For any prefix they
#: mean these settings.
OTHER_NAMES = {
    **dict.fromkeys(("hostname", "host_name"), "host"),
    **dict.fromkeys(("port_number", "portnumber"), "port"),
    **dict.fromkeys(("database", "db_index", "db_number", "dbnum"), "db"),
    **dict.fromkeys(("pass", "passwd", "pwd"), "password"),
    **dict.fromkeys(("pass_file", "passwd_file", "password_path"), "password_file"),
    **dict.fromkeys(("socket", "socket_path", "unix_socket"), "unix_socket_path"),
    **dict.fromkeys(("user_name", "username_file"), "username"),
    **dict.fromkeys(("tls", "use_tls", "ssl_enabled"), "ssl"),
    **dict.fromkeys(("ssl_ca", "ssl_ca_cert", "ssl_ca_file"), "ssl_ca_certs"),
    "ssl_cafile": "ssl_ca_certs",
    **dict.fromkeys(("ssl_cert", "ssl_cert_file"), "ssl_certfile"),
    **dict.fromkeys(("ssl_key", "ssl_key_file"), "ssl_keyfile"),
}

# Those that are settings of other software, too. They count for certain prefixes only:
# CELERY_BROKER_USE_SSL, RATELIMIT_STORAGE_URI and QUEUE_MAX_RETRIES are right.
_AMBIGUOUS_NAMES = {
    **dict.fromkeys(("auth", "auth_token"), "password"),
    "connection_timeout": "socket_connect_timeout",
    "deadline": "retry_deadline",
    "decode": "decode_responses",
    **dict.fromkeys(("idle_timeout", "max_idle_time"), "max_idle"),
    **dict.fromkeys(("pool_size", "max_pool_size"), "max_connections"),
    "read_timeout": "socket_timeout",
    **dict.fromkeys(("retries", "max_retries"), "retry"),
    **dict.fromkeys(("ssl_verify", "verify_ssl", "verify_tls"), "ssl_cert_reqs"),
    "uri": "url",
    "use_ssl": "ssl",
}

# What people leave out at the beginning of a name: REDIS_TIMEOUT and REDIS_CA_CERTS.
_LEFT_OUT = ("socket_", "ssl_")

#: The settings that are recognized with a typing mistake, for any prefix.
ADDRESS_NAMES = (
    *("url", "host", "port", "db", "unix_socket_path"),
    *("username", "password", "password_file"),
)

# Settings of other applications that say where sentinels or the nodes of a cluster are,
# and the URL that says it here.
_NODES = re.compile(
    r"(?:use_|is_)?(sentinel|cluster)s?"
    r"(?:_(?:enabled|mode|hosts?|nodes?|urls?|uris?|servers?|addrs?|addresses))?"
)
_URL_OF_NODES = {
    "sentinel": "redis+sentinel://host:26379/mymaster/0",
    "cluster": "redis+cluster://host:7000",
}


def suggest(name: str, names: cabc.Collection[str], *, is_certain: bool) -> str | None:
    """The setting that a name means, or None if it resembles no setting.

    :param name: The name, without its prefix, in lower case.
    :param names: The settings that there are.
    :param is_certain: Whether the prefix is certainly Redis. If not, only settings of
        the address, credentials and TLS count: the others may belong to other software.
    """
    bare = re.sub("^tls_", "ssl_", name.strip("_"))

    if bare in names:
        return bare

    if bare in OTHER_NAMES:
        return OTHER_NAMES[bare]

    if (near := find_typo(bare)) or not is_certain:
        return near

    if bare in _AMBIGUOUS_NAMES:
        return _AMBIGUOUS_NAMES[bare]

    for start in _LEFT_OUT:
        if start + bare in names:
            return start + bare

    return next(iter(difflib.get_close_matches(bare, names, 1, 0.85)), None)


def find_url_of_nodes(name: str) -> str | None:
    """The URL to write instead of a setting that describes sentinels or a cluster.

    :param name: The name, without its prefix, in lower case.
    """
    if name in ("nodes", "startup_nodes"):
        return _URL_OF_NODES["cluster"]

    match = _NODES.fullmatch(name)
    return _URL_OF_NODES[match[1]] if match else None


def is_only_for_clusters(name: str) -> bool:
    """Whether a setting that other clients do not take is one of a cluster's client.

    :param name: The name, without its prefix, in lower case.
    """
    engine = get_engine("", _URL_OF_NODES["cluster"])
    return name in engine.accepted(engine.client_class, None)


def asks_for_replica(name: str, value: object) -> bool:
    """Whether a setting that the URL of sentinels replaces says to read from a replica.

    :param name: The name, without its prefix, in lower case.
    :param value: What it is set to.
    """
    if name == "read_from_replicas":
        return not is_off(value)

    return name == "role" and str(value).strip().lower() != "master"


def is_off(value: object) -> bool:
    """Whether a setting turns something off. It may stay where nothing uses it."""
    return str(value).strip().lower() in ("false", "0", "no", "off")


def can_mean(name: str, value: object, *, is_certain: bool) -> bool:
    """Whether a value may be meant for a setting. A ``DATABASE`` of other software has
    a name as its value, and not a number.

    :param name: The setting, without its prefix, in lower case.
    :param value: What another name is set to.
    :param is_certain: Whether the prefix is certainly Redis.
    """
    if name in ("ssl", "password") and is_off(value):
        return False

    is_number = name in ("db", "port")
    return is_certain or not is_number or str(value).strip().isdecimal()


# Many prefixes have settings of the same name.
@functools.lru_cache(1024)
def find_typo(name: str) -> str | None:
    """The setting of the address or credentials that a name misspells, with a single
    mistake.

    :param name: The name, without its prefix, in lower case.
    """
    for right in ADDRESS_NAMES:
        # The first letter is seldom wrong. It excludes VHOST, COST and SUPPORT.
        if name[:1] == right[0] and abs(len(name) - len(right)) < 2:
            if _is_typo(name, right):
                return right

    return None


def _is_typo(name: str, right: str) -> bool:
    """Whether a letter is missing or too many, two letters have changed places or, in
    a long name, one is wrong.
    """
    start = len(os.path.commonprefix((name, right)))
    ends = name[start:][::-1], right[start:][::-1]
    end = len(os.path.commonprefix(ends))
    given, expected = (text[end:] for text in ends)

    if len(given) + len(expected) == 1:
        # Otherwise DBX would be DB, and UR would be URL.
        return len(right) > 3 or name == f"{right}s"

    if len(given) == len(expected) == 1:
        # POST is not PORT.
        return len(right) > 7

    return len(given) == 2 and given == expected[::-1]
