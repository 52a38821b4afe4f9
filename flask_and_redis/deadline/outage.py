"""A server that is down, and who may ask whether it is back.

One thread at a time asks, and waits for at most a second. All others fail immediately.
"""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import contextlib
import contextvars
import copy
import os
import threading
import time

import redis

from ..engines import operations

#: Seconds between two probes of one server.
INTERVAL = 0.5

#: Seconds after which an outage is forgotten if no command has met it.
FORGOTTEN = 60.0

# Seconds after which the wait for a probe counts as long.
_LONG = 0.1

# Seconds after which a turn ends by itself. The end of an event loop may drop a probe.
_LONGEST_TURN = 30.0

# Seconds that all waits for probes after a long one may take together. Each may take
# half of what is left.
_SHORT_WAITS = 0.2


class _Waiting(threading.local):
    """How long this thread may wait for probes. If it waited for each prefix that is
    down, a request that uses many of them would take as many seconds.
    """

    #: When it may wait for long again.
    next: float = float("-inf")
    #: Seconds that it may wait until then.
    left: float


_waiting = _Waiting()


class Outage:
    """The outage of a server, or of a part of a cluster.

    :param error: What the command raised that noticed it.
    :param part: The part, or None for all.
    """

    def __init__(self, error: BaseException, part: cabc.Hashable = None) -> None:
        self.part: cabc.Hashable = part
        self.started: float = time.monotonic()
        self._error = copy_error(error)
        self._next = self._last = self.started
        # When the turn of a thread began, by process. A fork inherits the entry of its
        # parent, but not the thread that would end the turn.
        self._turns: dict[int, float] = {}
        # asyncio keeps only weak references to its tasks.
        self._task: asyncio.Task[None] | None = None

    def error(self) -> BaseException:
        """A copy of the error of the command that noticed the outage."""
        return copy_error(self._error)

    @property
    def is_forgotten(self) -> bool:
        """Whether no command has met the outage for long."""
        return time.monotonic() - self._last > FORGOTTEN

    def take_turn(self) -> bool:
        """Whether the caller may ask the server. If so, it must end its turn."""
        now = self._last = time.monotonic()

        if now < self._next:
            return False

        # An atomic operation, and no lock that a fork could inherit.
        turn = self._turns.setdefault(os.getpid(), now)

        if now - turn > _LONGEST_TURN:
            turn = self._turns[os.getpid()] = now

        return turn is now

    def end_turn(self) -> None:
        """Let others ask, after a while."""
        self._next = time.monotonic() + INTERVAL
        self._turns.pop(os.getpid(), None)

    def ask(self, probe: cabc.Callable[[], bool]) -> bool:
        """Whether the server is back. If the caller may not or cannot ask, it is not.

        :param probe: Returns whether the server answers.
        """
        if not self.take_turn():
            return False

        answers: list[bool] = []
        done = threading.Event()

        def run() -> None:
            try:
                answers.append(probe())
            finally:
                self.end_turn()
                done.set()

        # In another thread, because some waits have no timeout: name resolution, and
        # several sentinels in turn. A copy of the context: a credential provider may
        # need the current app.
        run_in_context = contextvars.copy_context().run
        thread = threading.Thread(target=run_in_context, args=(run,), daemon=True)

        try:
            thread.start()
        except RuntimeError:
            # The process can start no more threads, or is about to end.
            self.end_turn()
            return False
        except BaseException:
            self.end_turn()
            raise

        with _limit_wait() as seconds:
            done.wait(seconds)

        return answers == [True]

    async def ask_async(self, probe: cabc.Callable[[], cabc.Awaitable[bool]]) -> bool:
        """The same for a coroutine function. See :meth:`ask`."""
        if not self.take_turn():
            return False

        answers: list[bool] = []

        async def run() -> None:
            try:
                answers.append(await probe())
            finally:
                self.end_turn()

        self._task = asyncio.ensure_future(run())

        with _limit_wait() as seconds:
            await asyncio.wait({self._task}, timeout=seconds)

        return answers == [True]


@contextlib.contextmanager
def _limit_wait() -> cabc.Iterator[float]:
    """Return the seconds that this thread may wait for a probe, and measure how long
    the ``with`` block really waits.
    """
    started = time.monotonic()
    may_be_long = started >= _waiting.next
    yield operations.ANSWER_TIMEOUT if may_be_long else _waiting.left / 2
    ended = time.monotonic()

    if not may_be_long:
        # On a busy machine it may become negative, which is no wait either.
        _waiting.left -= ended - started
    elif ended - started > _LONG:
        _waiting.left = _SHORT_WAITS
        _waiting.next = ended + INTERVAL


def copy_error(error: BaseException) -> BaseException:
    """A new error with the same message. Each thread that raised the same object would
    add its frames to it.

    :param error: The error.
    """
    try:
        copied = copy.copy(error)
    except Exception:
        # Of a class of the application, whose constructor takes other arguments.
        return redis.ConnectionError(str(error))

    vars(copied).pop("__notes__", None)
    return copied
