"""Whether an app's servers answer, and how full its pools are."""

from __future__ import annotations

import collections.abc as cabc
import contextvars
import functools
import queue
import threading
import time
import typing as t
from dataclasses import dataclass

import redis

from ..engines import find_engine
from ..engines.internals.pools import count_connections
from ..engines.internals.pools import find_limit
from ..engines.library import Client
from ..engines.operations import is_silence
from ..exceptions import ConfigError
from ..registry import Registry
from ..spec.spec import Spec
from .explain import explain

R = t.TypeVar("R")

# Seconds between two pings while waiting.
_WAIT_PAUSE = 0.2


@dataclass(frozen=True)
class PingResult:
    """The result of one prefix's ping. :func:`flask.jsonify` accepts it.

    :param ok: Whether its server answered, and is of the kind that the URL says. For a
        cluster, whether it says that all of its slots are served, and each master
        answers at the address that the cluster announces.
    :param ms: Milliseconds until the answer, including connecting, or None.
    :param error: Why there was no answer, in one line without user name or password, or
        None.
    :param required: Whether a health check should fail if there was no answer. It is
        False if ``<P>_OPTIONAL`` is true.

    .. versionadded:: 2.0
    """

    ok: bool
    ms: float | None
    error: str | None
    required: bool


@dataclass(frozen=True)
class PoolStats:
    """How full the pool of one prefix is, in this process. For a cluster, these are the
    pools of all nodes together. :func:`flask.jsonify` accepts it.

    :param created: Whether the prefix's client has been created by its first use.
    :param connections: How many connections there are. This and the next two are None
        if the class of the pool has no such figures.
    :param in_use: How many of them are in use.
    :param idle: How many of them are connected and not in use.
    :param maximum: How many there may be. None without a limit, and before there is a
        pool.
    :param down: Whether a command of this process has used up ``<P>_RETRY_DEADLINE``
        because of the server, and none has succeeded since.

    .. versionadded:: 2.0
    """

    created: bool
    connections: int | None
    in_use: int | None
    idle: int | None
    maximum: int | None
    down: bool


def ping(
    registry: Registry, prefixes: cabc.Collection[str], timeout: float
) -> dict[str, PingResult]:
    """Ask the servers of some prefixes whether they answer, all at the same time.

    :param registry: The app's registry.
    :param prefixes: The prefixes. The default is all that the app needs.
    :param timeout: Seconds after which this returns at the latest.
    :raises UnknownPrefixError: If the app has no such prefix.
    :raises ValueError: If the timeout is not a number of seconds above 0.
    """
    check_timeout(timeout)
    wanted = dict.fromkeys(prefixes or registry.needed)
    questions = {prefix: _make_pings(registry, prefix, timeout) for prefix in wanted}
    answers = ask(questions, timeout).items()
    return {prefix: _read_ping(registry, prefix, answer) for prefix, answer in answers}


def wait(
    registry: Registry, prefixes: cabc.Collection[str], timeout: float, seconds: float
) -> dict[str, PingResult]:
    """Ping until all required prefixes answer, or the time is over.

    :param registry: See :func:`ping`.
    :param prefixes: See :func:`ping`.
    :param timeout: Seconds that each ping may take.
    :param seconds: How long to wait at most. 0 pings once.
    :return: The last results.
    """
    ends = time.monotonic() + seconds

    while True:
        results = ping(registry, prefixes, timeout)
        left = ends - time.monotonic()

        if is_healthy(results) or left <= 0:
            return results

        time.sleep(min(left, _WAIT_PAUSE))
        timeout = min(timeout, max(ends - time.monotonic(), _WAIT_PAUSE))


def is_healthy(results: cabc.Mapping[str, PingResult]) -> bool:
    """Whether there is a Redis, and all required ones answered."""
    return bool(results) and all(
        each.ok or not each.required for each in results.values()
    )


def _make_pings(
    registry: Registry, prefix: str, timeout: float
) -> list[cabc.Callable[[], object]]:
    if prefix in registry.overridden:
        # Look the client up when it is asked: the override may end before, and a client
        # without a ping is a failure.
        return [lambda: registry[prefix].ping()]

    try:
        spec = registry.get_spec(prefix)
    except ConfigError as error:
        return [functools.partial(_raise, error)]

    def check(client: Client) -> None:
        spec.engine.check_health(client, spec)

    return make_questions(registry, spec, timeout, check)


def _raise(error: ConfigError) -> t.NoReturn:
    raise error


def _read_ping(registry: Registry, prefix: str, answer: Answer[object]) -> PingResult:
    required = not registry.is_optional(prefix)

    if answer.error is None:
        return PingResult(True, round(answer.seconds * 1000, 3), None, required)

    return PingResult(False, None, explain(registry, prefix, answer.error), required)


@dataclass(eq=False, repr=False)
class Answer(t.Generic[R]):
    """The answer to a question: a value or an error."""

    seconds: float
    value: R | None = None
    error: BaseException | None = None


def make_questions(
    registry: Registry,
    spec: Spec,
    timeout: float,
    question: cabc.Callable[[Client], R],
) -> list[cabc.Callable[[], R]]:
    """Functions for :func:`ask`. Each asks one server of a prefix the same question, on
    a short-lived connection.

    :param registry: The app's registry.
    :param spec: The prefix's spec.
    :param timeout: Seconds that connecting, and each reply, may take.
    :param question: Asks a client: a method of the prefix's engine.
    """

    def put(probe: Spec) -> R:
        with probe.engine.open_probe(probe, registry.fake_servers, timeout) as client:
            return question(client)

    return [
        functools.partial(put, probe)
        for probe in spec.engine.probe_specs(spec, timeout)
    ]


def ask(
    questions: cabc.Mapping[str, cabc.Sequence[cabc.Callable[[], R]]], timeout: float
) -> dict[str, Answer[R]]:
    """Ask all questions at the same time. Return when each has an answer, or the
    timeout has passed.

    :param questions: For each name some functions. The first success is the answer. If
        there is none, the error of a server that replied is.
    :param timeout: Seconds.
    """
    ends = time.monotonic() + timeout
    replies: queue.SimpleQueue[tuple[str, Answer[R]]] = queue.SimpleQueue()

    def run(name: str, function: cabc.Callable[[], R]) -> None:
        value: R | None = None
        failure: BaseException | None = None
        started = time.monotonic()

        try:
            value = function()
        except BaseException as error:
            failure = error

        replies.put((name, Answer(time.monotonic() - started, value, failure)))

    for name, functions in questions.items():
        for function in functions:
            # A copy of the context: a credential provider may need the current app. A
            # daemon thread: one that hangs, for example while a name is resolved, must
            # not delay the end of the process.
            run_in_context = contextvars.copy_context().run
            arguments = (run, name, function)
            thread = threading.Thread(
                target=run_in_context, args=arguments, daemon=True
            )

            try:
                thread.start()
            except RuntimeError as error:
                # The process can start no more threads, or is about to end.
                failure = redis.ConnectionError(f"The server was not asked: {error}.")
                replies.put((name, Answer(0, error=failure)))

    return _collect(questions, replies, ends, timeout)


def _collect(
    questions: cabc.Mapping[str, cabc.Sequence[object]],
    replies: queue.SimpleQueue[tuple[str, Answer[R]]],
    ends: float,
    timeout: float,
) -> dict[str, Answer[R]]:
    silence = TimeoutError(f"No answer within {timeout:g} s.")
    answers = {name: Answer[R](timeout, error=silence) for name in questions}
    pending = {name: len(functions) for name, functions in questions.items()}

    while any(pending.values()):
        try:
            name, answer = replies.get(timeout=max(ends - time.monotonic(), 0))
        except queue.Empty:
            break

        pending[name] = max(pending[name] - 1, 0)

        if answer.error is not None and answer.seconds >= timeout:
            # It failed because the time was over.
            answer.error = silence

        if answer.error is None:
            pending[name] = 0

        if answers[name].error is silence or _says_more(answer, answers[name]):
            answers[name] = answer

    return answers


def _says_more(answer: Answer[R], other: Answer[R]) -> bool:
    """Whether an answer is of more use than the one that came before it."""
    if answer.error is None or other.error is None:
        return other.error is not None

    return is_silence(other.error) and not is_silence(answer.error)


def check_timeout(timeout: float) -> None:
    """Raise if a timeout is not valid.

    :param timeout: Seconds.
    :raises ValueError: If it is not a number above 0, or too large for the system.
    """
    if not 0 < timeout <= threading.TIMEOUT_MAX:
        raise ValueError("The timeout must be a number of seconds above 0.")


def stats(registry: Registry) -> dict[str, PoolStats]:
    """How full the pool of each prefix is. It creates no client.

    :param registry: The app's registry.
    """
    return {prefix: count_pool(registry, prefix) for prefix in registry}


def count_pool(registry: Registry, prefix: str) -> PoolStats:
    """How full the pool of one prefix is. See :func:`stats`.

    :param registry: The app's registry.
    :param prefix: The prefix.
    """
    client = registry.find_client(prefix)
    down = registry.is_down(prefix)

    if client is None:
        return PoolStats(False, 0, 0, 0, None, down)

    if prefix in registry.overridden:
        # Its client may be of another kind, and has no deadline.
        engine, down = find_engine(None, type(client)), False
    else:
        engine = registry.get_spec(prefix).engine

    pools = engine.pools(client)
    counts = [count_connections(pool) for pool in pools]
    known = [count for count in counts if count is not None]

    if not known or len(known) < len(counts):
        return PoolStats(True, None, None, None, None, down)

    in_use, idle = (sum(column) for column in zip(*known, strict=True))
    limits = [find_limit(pool) for pool in pools]
    maximum = None if None in limits else sum(filter(None, limits))
    return PoolStats(True, in_use + idle, in_use, idle, maximum, down)
