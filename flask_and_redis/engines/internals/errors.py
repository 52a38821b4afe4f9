"""Errors whose text or class is undocumented."""

from __future__ import annotations

import re
import types

from redis import exceptions as redis_exceptions

#: A command that may have a secret, as redis-py quotes it in the error of a pipeline:
#: one of these words is in the command or the error. A command that the server does not
#: know may be a misspelled one of them, and the name may be an object. The groups are
#: what is before and after the arguments. Versions: all. Without it: passwords are in
#: messages and logs.
QUOTED_COMMAND: re.Pattern[str] = re.compile(
    r"(?=.*(?:ACL|AUTH|CONFIG|HELLO|MIGRATE|SENTINEL|<memory|unknown (?:sub)?command))"
    r"(Command # \d+ \(\s*\S+)\s.*(\) of pipe)",
    re.DOTALL | re.IGNORECASE,
)

#: A command that a cluster's client cannot send, as redis-py quotes it. In asyncio, the
#: name of the command may be missing, so that the first part may be secret, too.
#: Versions: all. Without it: passwords are in messages and logs.
QUOTED_ARGUMENTS: re.Pattern[str] = re.compile(
    r"(found to execute|for command|[Cc]ommand:) \(.*\)", re.DOTALL
)

#: What redis-py raises while it reports an ``OSError`` without arguments. Versions:
#: all. Without it: an exception that the application raises while a command is sent
#: reaches the caller as this one.
ERROR_WHILE_REPORTING: type[Exception] = IndexError


def is_full_pool(error: BaseException) -> bool:
    """Whether an error says that all connections of a pool are in use.

    Why: only redis-py's ordinary pool has a class for it; a blocking pool and valkey-py
    raise a ``ConnectionError`` with these texts. Versions: all. Without it: a full pool
    counts as an outage of the server.

    :param error: What a pool raised.
    """
    return type(error).__name__ == "MaxConnectionsError" or (
        str(error) in ("No connection available.", "Too many connections")
    )


def is_demoted(error: BaseException, errors: types.ModuleType) -> bool:
    """Whether an error says that the server is a replica and refuses to write.

    Why: in scripts of Redis 6 and before it is an error of another class, and redis-py
    gives it another class for servers behind sentinels. Versions: all. Without it:
    writes fail as long as the old master lives.

    :param error: What a command raised.
    :param errors: The library's errors.
    """
    text = str(error)
    return (
        isinstance(error, errors.ReadOnlyError)
        or (isinstance(error, errors.ResponseError) and "-READONLY " in text)
        or text == "The previous master is now a slave"
    )


def is_without_multi(error: BaseException) -> bool:
    """Whether an error says that no transaction has begun.

    Why: it is an ordinary ``ResponseError`` with this text. Versions: all. Without it:
    nothing tells why the server has refused ``MULTI``.

    :param error: What a server replied.
    """
    return str(error) == "EXEC without MULTI"


def is_cache_refused(error: BaseException) -> bool:
    """Whether an error says that a server does not support client-side caching.

    Why: it is an ordinary ``ConnectionError`` with this text. Versions: all. Without
    it: the command is retried until its deadline.

    :param error: What a connection raised.
    """
    return "client-side caching is supported by" in str(error)


def is_uncovered(error: BaseException) -> bool:
    """Whether an error says that no node serves a slot of the cluster.

    Why: while the slots are read it is a ``RedisClusterException`` with this text.
    Everywhere else it has a class of its own. Versions: all. Without it: a failover
    ends commands.

    :param error: What a command or the client's constructor raised.
    """
    return isinstance(error, redis_exceptions.SlotNotCoveredError) or (
        "slots are not covered" in str(error)
    )


#: How errors of sentinels that a retry cannot fix read in a ``MasterNotFoundError``.
_REFUSALS = ("AuthenticationError", "CERTIFICATE_VERIFY_FAILED")


def is_refused_by_sentinel(error: BaseException) -> bool:
    """Whether a sentinel refused the password or the certificate.

    Why: redis-py keeps nothing but the text of the sentinels' errors. Versions: all.
    Without it: a wrong password of a sentinel is retried until the deadline.

    :param error: A ``MasterNotFoundError``.
    """
    return any(refusal in str(error) for refusal in _REFUSALS)
