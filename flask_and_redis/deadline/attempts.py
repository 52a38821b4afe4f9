"""The attempts of one command: whether to make another one, and when."""

from __future__ import annotations

import collections.abc as cabc
import random
import time
import typing as t

from ..engines.internals.errors import is_full_pool
from ..engines.library import Client
from ..engines.marks import was_executed
from .outage import Outage
from .report import name_of
from .report import note_retry

if t.TYPE_CHECKING:
    # For type checkers only: a deadline imports this module.
    from .deadline import Deadline

#: The arguments and options of one command.
Command = tuple[tuple[t.Any, ...], dict[str, t.Any]]

_TOO_LARGE = (
    " The server closed the connection while it received a value, which may be larger"
    " than its proto-max-bulk-len."
)

#: Seconds between two attempts: the first pause, and the longest.
FIRST_PAUSE = 0.02
LONGEST_PAUSE = 0.5

#: Bytes of a value that a server may find too large: the least proto-max-bulk-len.
LARGE = 2**20

#: Seconds between two attempts to get a connection from a full pool.
POOL_PAUSE = 0.01


class Attempts:
    """The attempts of one command.

    :param deadline: The prefix's deadline.
    :param client: The client, or None if the command creates it.
    :param started: When the command started, by :func:`time.monotonic`.
    :param handled: The error that the caller was handling then.
    :param commands: The command, or all commands of a pipeline.
    """

    def __init__(
        self,
        deadline: Deadline,
        client: Client | None,
        started: float,
        handled: BaseException | None,
        commands: cabc.Collection[Command] = (),
    ) -> None:
        self.client: t.Any = client
        #: Whether an attempt has failed.
        self.has_failed: bool = False
        #: Seconds to wait before the next attempt, once one has failed.
        self.pause: float
        self._deadline = deadline
        self._spec = deadline.spec
        self._engine = deadline.engine
        self._handled = handled
        self._ends = started + deadline.seconds
        self._started = self._attempt_started = started
        self._next_pause = FIRST_PAUSE
        # Seconds of the deadline that were left when the server first failed.
        self._most_left = 0.0
        self._count = 0
        self._sent = 0
        # How often the connection was closed while a large value was sent.
        self._resets = 0
        self._commands = commands
        self._parts: frozenset[cabc.Hashable] | None = None
        # One probe per command.
        self._may_probe = client is not None and self._engine.can_probe(client)
        # A refused command is tried once more, on a new connection.
        self._may_reconnect = True
        # The outage that only this command may probe now.
        self._turn: Outage | None = None

    def take_step(
        self,
        started: float,
        handled: BaseException | None,
        commands: cabc.Collection[Command],
    ) -> None:
        """Note which step of a transaction is tried. See the class.

        :param started: When the step started. The deadline stays the same.
        """
        self._attempt_started = started
        self._handled = handled
        self._commands = commands

    @property
    def parts(self) -> frozenset[cabc.Hashable]:
        """The parts of the prefix that the command needs. None stands for all."""
        if self._parts is None:
            commands = [args for args, _ in self._commands]
            self._parts = self._engine.find_parts(self.client, commands)

        return self._parts

    def find_outage(self) -> Outage | None:
        """The outage that concerns the command."""
        return self._deadline.find_outage(self.parts)

    def may_probe(self, outage: Outage) -> bool:
        """Whether to ask the server on a separate connection. Otherwise the command
        itself asks.
        """
        may_probe, self._may_probe = self._may_probe, False
        return may_probe or self._engine.can_probe_part(
            self.client, outage.part, outage.error()
        )

    def take_turn(self, outage: Outage) -> bool:
        """Whether the command may ask whether an outage is over."""
        if outage.take_turn():
            self._turn = outage
            return True

        return False

    def end_turn(self) -> None:
        """Let others ask, if this command did."""
        if self._turn is not None:
            self._turn.end_turn()
            self._turn = None

    def prepare_next(self) -> None:
        """Prepare the client for the next attempt."""
        self._attempt_started = time.monotonic()

        if self.client is not None:
            self._engine.before_retry(self.client)

    def refuse(self, outage: Outage) -> BaseException:
        """The error of a command that is not sent, because the prefix is down."""
        error = outage.error()
        seconds = time.monotonic() - outage.started
        outcome = f"down for {seconds:.1f} s. The command was not sent."

        # The server may have received an earlier attempt.
        self._complete(error, self._describe() if self.has_failed else outcome)
        return error

    def may_continue(self, error: BaseException) -> bool:
        """Whether to make another attempt, after a :attr:`pause`. If not, the error
        says which Redis failed.

        :param error: What the last attempt raised.
        :raises OSError: If that was an exception of the application.
        """
        # KeyboardInterrupt, for example, or a time limit of gevent.
        if not isinstance(error, Exception):
            return False

        if self._may_retry(error):
            if self._engine.may_have_been_sent(error):
                note_retry()

            return True

        advice = _TOO_LARGE if self._resets > 1 else ""
        self._complete(error, f"{self._describe()}{advice}")
        return False

    def _describe(self) -> str:
        """How long the command was tried, and how often."""
        seconds = time.monotonic() - self._started
        count = f"{self._count} attempt{'s' if self._count > 1 else ''}"
        return f"failed after {seconds:.1f} s, {count}."

    def _complete(self, error: BaseException, outcome: str) -> None:
        self._engine.complete_error(error, self._spec, self._handled, outcome)

    def give_up(self, error: Exception) -> None:
        """Let the error of a command that must not be retried say which Redis failed.

        :param error: What the command raised.
        :raises OSError: If that was an exception of the application.
        """
        self._count_failure(error)
        self._complete(error, self._describe())

    def _count_failure(self, error: Exception) -> None:
        self._engine.raise_interruption(
            error,
            self._spec,
            self._handled,
            self.client,
            time.monotonic() - self._attempt_started,
        )
        self.has_failed = True
        self._count += 1

    def _may_retry(self, error: Exception) -> bool:
        self._count_failure(error)

        if self.may_reconnect(error):
            self.pause = 0.0
            return True

        if self.client is not None and self._engine.is_all_down(error):
            self._engine.after_all_down(self.client)

        if self._engine.is_answer(error, self._spec):
            # Of several parts, it is not known which one has answered.
            parts = self.parts if len(self.parts) == 1 else ()
            self._deadline.go_up(parts, self.client)

        if not self._engine.is_transient(error, self._spec, self._handled):
            return False

        if self._is_sent_too_often(error) or self._is_too_large(error):
            return False

        if is_full_pool(error):
            self.pause = self._wait_for_pool(error)
            return True

        pause = self._wait_for_server(error)
        self.pause = pause or 0.0
        return pause is not None

    def may_reconnect(self, error: BaseException) -> bool:
        """Whether to try a refused command once more, on a new connection. The server
        did not run it, so ``<P>_RETRY`` has no say.

        :param error: What the last attempt raised, or the error of its first command.
        """
        client = self.client

        if client is None or not self._may_reconnect:
            return False

        # The application's own login stays wrong.
        if self._has_command("AUTH", "HELLO"):
            return False

        if not self._engine.is_refused(error, self._spec):
            return False

        self._may_reconnect = False

        # Also for later commands.
        self._engine.replace_connections(client)

        if self._was_partly_run(error) and self._is_sent_too_often(error):
            return False

        self._report_retry(error)
        return True

    def _was_partly_run(self, error: BaseException) -> bool:
        """Whether other commands of the same pipeline may have run. Behind sentinels,
        the library raises the first refusal as a lost connection, and does not read the
        other replies.
        """
        is_answer = self._engine.is_answer(error, self._spec)
        return was_executed(error) or (len(self._commands) > 1 and not is_answer)

    def _report_retry(self, error: BaseException) -> None:
        self._engine.hide_secrets(error, self._spec, self._handled)
        self._deadline.reporter.retry(error)

    def _wait_for_pool(self, error: Exception) -> float:
        """Seconds to wait until a full pool may have a connection.

        :raises ConnectionError: If the deadline has passed.
        """
        left = self._ends - time.monotonic()

        if left > 0:
            return min(POOL_PAUSE * random.uniform(0.5, 1), left)  # noqa: S311

        limit = self._engine.max_connections(self._spec)
        prefix = self._spec.prefix
        raise type(error)(
            f"All {limit} connections of the Redis {prefix!r} were in use for"
            f" {self._deadline.seconds:g} seconds. Increase '{prefix}_MAX_CONNECTIONS',"
            " up to the number of threads."
        ) from None

    def _has_command(self, *names: str) -> bool:
        return any(name_of(args[0]) in names for args, _ in self._commands)

    def _is_sent_too_often(self, error: BaseException) -> bool:
        """Whether ``<P>_RETRY`` forbids another attempt. Nothing is shut down twice:
        behind sentinels, the second one would be the new master.
        """
        limit = self._spec.retries

        if self._has_command("SHUTDOWN"):
            limit = 0

        if limit is None or not self._engine.may_have_been_sent(error):
            return False

        self._sent += 1
        return self._sent > limit

    def _is_too_large(self, error: Exception) -> bool:
        """Whether the server seems to refuse a value, because it has closed the
        connection more than once. A restart closes it once.
        """
        if self._engine.is_reset(error, self._handled):
            self._resets += any(map(_is_large, self._commands))

        return self._resets > 1

    def _wait_for_server(self, error: Exception) -> float | None:
        """Seconds to wait, or None to give up."""
        deadline = self._deadline
        left = self._ends - time.monotonic()
        self._most_left = max(self._most_left, left)

        is_down = deadline.down and self.find_outage() is not None

        if not is_down and left > 0:
            pause = self._next_pause * random.uniform(0.5, 1)  # noqa: S311
            self._next_pause = min(self._next_pause * 2, LONGEST_PAUSE)
            self._report_retry(error)
            return min(pause, left)

        if self._has_failed_for_long(error):
            self._go_down(error)

        # If a single attempt has taken the whole deadline, another one may reach the
        # new server that sentinels have chosen meanwhile.
        took_all = self._count == 1 and left > -deadline.seconds / 2
        return 0 if self._may_probe and took_all else None

    def _go_down(self, error: Exception) -> None:
        """Note which part of the prefix is down, if that is known."""
        parts = self.parts

        if self._engine.is_all_down(error):
            parts = frozenset([None])

        if len(parts) == 1:
            (part,) = parts
            self._engine.hide_secrets(error, self._spec, self._handled)
            self._deadline.go_down(part, error)

    def _has_failed_for_long(self, error: Exception) -> bool:
        """Whether the deadline passed because of the server, and not because the pool
        was full or a blocking command was interrupted at its end.
        """
        if self._engine.is_answer(error, self._spec):
            return False

        return self._most_left >= self._deadline.seconds / 2 or self._engine.is_hang(
            error, self._spec, self._handled
        )


def _is_large(command: Command) -> bool:
    args, _ = command
    return any(
        isinstance(value, (str, bytes, bytearray, memoryview)) and len(value) >= LARGE
        for value in args
    )
