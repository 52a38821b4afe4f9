"""Whether an app's Redis servers answer, and how full its pools are."""

from __future__ import annotations

import collections.abc as cabc
import contextvars
import functools
import os
import queue
import re
import threading
import time
import typing as t
from dataclasses import dataclass

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from .clients import open_probe
from .clients import pools_of
from .clients import split_for_probes
from .config import Settings
from .exceptions import ConfigError
from .registry import Registry
from .values import library_of
from .values import Secret

R = t.TypeVar("R")


@dataclass(frozen=True)
class PingResult:
    """What became of the ping of one prefix. :func:`flask.jsonify` takes it.

    :param ok: Whether its server answered; of a cluster, whether it says that all of
        its slots are served.
    :param ms: Milliseconds until the answer, connecting included, or None.
    :param error: Why there was none, in one line without user name or password, or
        None.

    .. versionadded:: 2.0
    """

    ok: bool
    ms: float | None
    error: str | None


@dataclass(frozen=True)
class PoolStats:
    """How full the pool of one prefix is, in this process. In a cluster, the pools of
    all nodes together. :func:`flask.jsonify` takes it.

    :param created: Whether the prefix's client has been made, by its first use.
    :param connections: How many connections there are. Like the next two None if the
        pool is of a class that does not tell.
    :param in_use: How many of them are lent out.
    :param idle: How many of them are connected and wait for use.
    :param maximum: How many there may be; None without a limit, and before there is a
        pool.

    .. versionadded:: 2.0
    """

    created: bool
    connections: int | None
    in_use: int | None
    idle: int | None
    maximum: int | None


def ping(
    registry: Registry, prefixes: cabc.Collection[str], timeout: float
) -> dict[str, PingResult]:
    """Ask the servers of some prefixes, all at once, whether they answer.

    :param registry: The app's registry.
    :param prefixes: The prefixes. Without any, all that are surely Redis.
    :param timeout: Seconds until this returns at the latest.
    :raises UnknownPrefixError: If the app has no such prefix.
    :raises ValueError: If the timeout is no number of seconds above 0.
    """
    check_timeout(timeout)
    wanted = dict.fromkeys(prefixes or registry.list_surely_redis())

    for prefix in wanted:
        registry.check_known(prefix)

    asked = {it: _make_pings(registry, it, timeout) for it in wanted}
    answers = ask(asked, timeout).items()
    return {prefix: _read_ping(registry, prefix, answer) for prefix, answer in answers}


def _make_pings(
    registry: Registry, prefix: str, timeout: float
) -> list[cabc.Callable[[], object]]:
    if prefix in registry.overridden:
        # Looked up when asked, as the override may end, or know no ping.
        return [lambda: registry[prefix].ping()]

    try:
        settings = registry.get_settings(prefix)
    except ConfigError as error:
        return [functools.partial(_raise, error)]

    return make_questions(registry, settings, timeout, _ping)


def _raise(error: ConfigError) -> t.NoReturn:
    raise error


def _ping(settings: Settings, client: t.Any) -> None:
    if not settings.is_cluster:
        client.execute_command("PING")
        return

    found = client.execute_command("CLUSTER INFO")
    state, served = found["cluster_state"], int(found["cluster_slots_ok"])

    if state != "ok" or served != REDIS_CLUSTER_HASH_SLOTS:
        raise redis.RedisError(
            f"The cluster's state is {state!r}: {served} of {REDIS_CLUSTER_HASH_SLOTS}"
            " slots are served."
        )


def _read_ping(registry: Registry, prefix: str, answer: Answer[object]) -> PingResult:
    if answer.error is None:
        return PingResult(True, round(answer.seconds * 1000, 3), None)

    return PingResult(False, None, explain(registry, prefix, answer.error))


@dataclass(eq=False, repr=False)
class Answer(t.Generic[R]):
    """What became of a question: a value, or an error."""

    seconds: float
    value: R | None = None
    error: BaseException | None = None


def make_questions(
    registry: Registry,
    settings: Settings,
    timeout: float,
    question: cabc.Callable[[Settings, t.Any], R],
) -> list[cabc.Callable[[], R]]:
    """Functions for :func:`ask`, each of which puts a question to the servers of a
    prefix over a short-lived connection of its own.

    :param registry: The app's registry.
    :param settings: The prefix's settings.
    :param timeout: Seconds that connecting, and each reply, may take.
    :param question: Gets the prefix's settings and the client to ask.
    """

    def put(probe: Settings) -> R:
        with open_probe(probe, registry.fake_servers) as client:
            return question(settings, client)

    return [functools.partial(put, it) for it in split_for_probes(settings, timeout)]


def ask(
    questions: cabc.Mapping[str, cabc.Sequence[cabc.Callable[[], R]]], timeout: float
) -> dict[str, Answer[R]]:
    """Put all questions at once, and return when each has an answer or the time is up.

    :param questions: For each name functions, the first to succeed of which answers.
    :param timeout: Seconds.
    """
    ends = time.monotonic() + timeout
    replies: queue.SimpleQueue[tuple[str, Answer[R]]] = queue.SimpleQueue()

    def run(name: str, function: cabc.Callable[[], R]) -> None:
        answer: Answer[R] = Answer(0)
        begun = time.monotonic()

        try:
            answer.value = function()
        except BaseException as error:
            answer.error = error

        answer.seconds = time.monotonic() - begun
        replies.put((name, answer))

    for name, functions in questions.items():
        for function in functions:
            # The context: a credential provider may want the current app. A daemon, as
            # one that hangs, in the resolution of a name maybe, must not delay the end
            # of the process.
            run_in_context = contextvars.copy_context().run
            arguments = (run, name, function)
            threading.Thread(target=run_in_context, args=arguments, daemon=True).start()

    return _collect(questions, replies, ends, timeout)


def _collect(
    questions: cabc.Mapping[str, cabc.Sequence[object]],
    replies: queue.SimpleQueue[tuple[str, Answer[R]]],
    ends: float,
    timeout: float,
) -> dict[str, Answer[R]]:
    silence = TimeoutError(f"No answer within {timeout:g} s.")
    found = {name: Answer[R](timeout, error=silence) for name in questions}
    left = {name: len(functions) for name, functions in questions.items()}

    while any(left.values()):
        try:
            name, answer = replies.get(timeout=max(ends - time.monotonic(), 0))
        except queue.Empty:
            break

        left[name] = max(left[name] - 1, 0)

        if answer.error is None:
            left[name] = 0

        if found[name].error is silence or (found[name].error and not answer.error):
            found[name] = answer

    return found


def explain(registry: Registry, prefix: str, error: BaseException | None) -> str:
    """Say what went wrong with a server, in one line that holds no secret.

    :param registry: The app's registry.
    :param prefix: The prefix.
    :param error: The error.
    """
    if library_of(type(error)) or isinstance(error, (ConfigError, OSError)):
        # A server that knows no AUTH repeats what it was sent.
        text = str(error).partition(", with args beginning")[0]
        text = _SENTINEL.sub("a sentinel", text)
    else:
        # That of a credential provider, say, may quote anything.
        text = ""

    known = _list_arguments(registry, prefix)

    if type(error).__name__ == "AuthenticationError" and not _LOGIN & {*dict(known)}:
        # Redis 7 would say this of HELLO, which nobody called.
        return f"The server asks for a password: set '{prefix}_PASSWORD'."

    for _, value in known:
        if isinstance(value, Secret) and value:
            text = text.replace(value, "***")

    # A server's words may hold what a terminal obeys.
    words = "".join(it if it.isprintable() else " " for it in text).split()
    return " ".join(words) or type(error).__name__


_LOGIN = {"password", "credential_provider"}

# How redis-py names a sentinel in its errors: by all arguments of its connections.
_SENTINEL = re.compile(r"<redis\.client\.Redis\(.*?\)>\)>\)>")


def _list_arguments(registry: Registry, prefix: str) -> list[tuple[str, t.Any]]:
    """What the connections of a prefix are made with."""
    try:
        settings = registry.get_settings(prefix)
    except ConfigError:
        return []

    found = [*settings.connection.items(), *settings.sentinel_arguments.items()]
    return [(name, value) for name, value in found if value is not None]


def check_timeout(timeout: float) -> None:
    """Raise if a timeout is none.

    :param timeout: Seconds.
    :raises ValueError: If it is no number above 0, or too large for the system.
    """
    if not 0 < timeout <= threading.TIMEOUT_MAX:
        raise ValueError("The timeout must be a number of seconds above 0.")


def stats(registry: Registry) -> dict[str, PoolStats]:
    """How full the pool of each prefix is. No client is made for it.

    :param registry: The app's registry.
    """
    return {prefix: _count(registry.find_client(prefix)) for prefix in registry}


def _count(client: t.Any) -> PoolStats:
    if client is None:
        return PoolStats(False, 0, 0, 0, None)

    counts = [_count_pool(it) for it in pools_of(client)]

    if None in counts or not counts:
        return PoolStats(True, None, None, None, None)

    lent, idle, limits = zip(*filter(None, counts), strict=True)
    in_use, waiting = sum(lent), sum(idle)
    maximum = None if None in limits else sum(limits)
    return PoolStats(True, in_use + waiting, in_use, waiting, maximum)


# The limit of a pool of redis-py before 8, and of valkey-py, that was given none.
_NO_LIMIT = 2**31


def _count_pool(pool: t.Any) -> tuple[int, int, int | None] | None:
    """Connections in use, those idle, and their limit, or None if it does not tell."""
    maximum = getattr(pool, "max_connections", _NO_LIMIT)
    limit = maximum if maximum < _NO_LIMIT else None

    try:
        if pool.pid != os.getpid():
            # Those of the process that this one was forked from.
            return 0, 0, limit

        if hasattr(pool, "_connections"):
            idle = [it for it in list(pool.pool.queue) if it is not None]
            in_use = len(pool._connections) - len(idle)
        else:
            idle = list(pool._available_connections)
            in_use = len(pool._in_use_connections)
    except AttributeError:
        return None

    # One that was disconnected stays in the pool, and connects again.
    return in_use, sum(getattr(it, "_sock", it) is not None for it in idle), limit
