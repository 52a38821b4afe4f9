"""Sends signals and writes log lines about commands and outages."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import contextvars
import functools
import inspect
import logging
import threading
import time
import types
import typing as t
import weakref

from blinker import Signal
from flask import Flask

from ..engines.library import library_name
from ..engines.library import to_text
from ..signals import command_finished
from ..signals import prefix_down
from ..signals import prefix_up
from ..spec.spec import Spec
from ..spec.values import clean

P = t.ParamSpec("P")
R = t.TypeVar("R")

Receiver = cabc.Callable[..., t.Any]

logger: logging.Logger = logging.getLogger("flask_and_redis")

# Retries that are less than this many seconds apart belong to one outage.
_QUIET = 10.0

# Commands whose second word is not an argument.
_CONTAINERS = frozenset(
    "ACL CLIENT CLUSTER COMMAND CONFIG DEBUG FUNCTION LATENCY MEMORY MODULE OBJECT"
    " PUBSUB SCRIPT SENTINEL SLOWLOG XGROUP XINFO".split()
)


# The retries of the commands in a block of watch_retries().
_watched: contextvars.ContextVar[list[bool] | None] = contextvars.ContextVar(
    "retries", default=None
)


@contextlib.contextmanager
def watch_retries() -> cabc.Iterator[list[bool]]:
    """Collect the retries in a ``with`` block, as a list with True for each. Only
    retries of commands that the server may have run already count.
    """
    retries: list[bool] = []
    token = _watched.set(retries)

    try:
        yield retries
    finally:
        _watched.reset(token)


def note_retry() -> None:
    """Tell :func:`watch_retries` of a retry."""
    if (retries := _watched.get()) is not None:
        retries.append(True)


# How often a receiver of command_finished was connected or disconnected.
_changes = 0


def _note_change(signal: Signal, **values: object) -> None:
    global _changes
    _changes += 1


command_finished.receiver_connected.connect(_note_change)
command_finished.receiver_disconnected.connect(_note_change)


def _refer(receiver: Receiver) -> cabc.Callable[[], Receiver | None]:
    """A weak reference to a receiver, if it can have one."""
    if isinstance(receiver, types.MethodType):
        return weakref.WeakMethod(receiver)

    try:
        return weakref.ref(receiver)
    except TypeError:
        # Such as a method of a built-in class. The signal refers to it as well.
        return lambda: receiver


class Reporter:
    """Reports the commands and outages of one prefix. Each outage is reported once,
    however many threads there are.

    :param spec: The prefix's spec.
    :param app: The app.
    """

    def __init__(self, spec: Spec, app: weakref.ref[Flask]) -> None:
        self.app: weakref.ref[Flask] = app
        self.prefix: str = spec.prefix
        self._spec = spec
        # When the prefix went down. A dict, because its methods are atomic: threads
        # need no lock, which a fork could leave behind.
        self._down: dict[str, float] = {}
        self._last_retry = float("-inf")
        self._retrying = threading.Lock()
        # The receivers of command_finished, and the value of _changes when they were
        # listed. If it is another one now, they are listed again.
        self._receivers: list[cabc.Callable[[], Receiver | None]] = []
        self._changes: int | None = None

    def retry(self, error: BaseException) -> None:
        """Log that commands are retried, unless this was logged a moment ago.

        :param error: What the command raised.
        """
        # Another thread is logging it, or a fork has left the lock behind.
        if not self._retrying.acquire(blocking=False):
            return

        try:
            now = time.monotonic()
            is_first = now - self._last_retry > _QUIET
            self._last_retry = now
        finally:
            self._retrying.release()

        if is_first:
            logger.warning(
                "The Redis %s fails, and commands are retried: %s",
                self._describe(),
                self._text(error),
            )

    def go_down(self, part: cabc.Hashable, error: BaseException) -> None:
        """Report that the prefix is down, unless a part of it is down already.

        :param part: The part of it that is down, or None for all.
        :param error: What the command raised.
        """
        now = time.monotonic()

        # Another thread may have reported it a moment ago.
        if self._down.setdefault("since", now) is now:
            logger.error(
                "The Redis %s is %s. Until it answers, commands fail: %s",
                self._describe(),
                "down" if part is None else clean(f"partly down, at {part}"),
                self._text(error),
            )
            self._send(prefix_down, error=error)

    def go_up(self) -> None:
        """Report that no part of the prefix is down any more."""
        if (since := self.forget()) is not None:
            seconds = time.monotonic() - since
            logger.warning(
                "The Redis %s is back. It was down for %.1f seconds.",
                self._describe(),
                seconds,
            )
            self._send(prefix_up, seconds=seconds)

    def forget(self) -> float | None:
        """Forget an outage, and return when it began."""
        return self._down.pop("since", None)

    def finish(
        self,
        commands: tuple[str, ...],
        started: float,
        tries: int,
        error: BaseException | None,
    ) -> None:
        """Send :data:`.command_finished`.

        :param commands: The names of the commands.
        :param started: When they started, by :func:`time.monotonic`.
        :param tries: How often they were tried.
        :param error: What they raised, or None.
        :raises RuntimeError: If a receiver is a coroutine function.
        """
        if command_finished.is_muted:
            return

        seconds = time.monotonic() - started
        app = self.app()

        # The signal's own send() does this each time, which takes 10 % of a whole GET.
        if self._changes != (changes := _changes):
            self._receivers = list(map(_refer, command_finished.receivers_for(app)))
            self._changes = changes

        for reference in self._receivers:
            if (receiver := reference()) is None:
                continue

            result = receiver(
                app,
                prefix=self.prefix,
                commands=commands,
                seconds=seconds,
                tries=tries,
                error=error,
            )

            if result is not None and inspect.iscoroutine(result):
                result.close()
                raise RuntimeError(
                    "A receiver of command_finished cannot be a coroutine function."
                )

    def _send(self, signal: Signal, **values: t.Any) -> None:
        try:
            signal.send(self.app(), prefix=self.prefix, **values)
        except Exception:
            # The command must raise its own error. The thread of a probe has no caller.
            logger.exception("A receiver of a signal about %r failed.", self.prefix)

    def _describe(self) -> str:
        spec = self._spec
        return f"{self.prefix!r} ({spec.engine.describe_address(spec)})"

    def _text(self, error: BaseException) -> str:
        # Any other error may quote anything.
        if not library_name(type(error)):
            return type(error).__name__

        return clean(self._spec.engine.error_text(self._spec, error))


class Observation:
    """Sends :data:`.command_finished` at the end of a ``with`` block.

    :param reporter: That of the prefix.
    :param commands: The first argument of each command.
    """

    def __init__(self, reporter: Reporter, commands: cabc.Iterable[object]) -> None:
        #: How often the command was tried.
        self.tries: int = 0
        #: When it started, by :func:`time.monotonic`.
        self.started: float = time.monotonic()
        #: Whether the command continues after the block, if that raises no error.
        self.goes_on: bool
        self._reporter = reporter
        self._commands = tuple(map(name_of, commands))

    def counting(self, function: cabc.Callable[P, R]) -> cabc.Callable[P, R]:
        """Count the calls of a function that tries the command once."""

        def count(*args: P.args, **kwargs: P.kwargs) -> R:
            self.tries += 1
            return function(*args, **kwargs)

        return count

    def __enter__(self) -> Observation:
        self.goes_on = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        if error is not None or not self.goes_on:
            self._reporter.finish(self._commands, self.started, self.tries, error)


# The cache has a limit, because a name may contain arguments.
@functools.lru_cache(maxsize=1000)
def name_of(first: object) -> str:
    """The name of a command, without arguments. redis-py accepts them in one text with
    the name.
    """
    words = to_text(first).upper().split(None, 2)
    return " ".join(words[: 1 + (words[0] in _CONTAINERS)]) if words else ""
