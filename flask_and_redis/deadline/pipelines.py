"""Pipelines that are retried as a whole."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import inspect
import sys
import time
import typing as t

from ..engines import messages
from ..engines.internals.clients import change_class
from ..engines.internals.clients import copy_scripts
from ..engines.internals.clients import find_loss
from ..engines.internals.clients import forget_watch
from ..engines.internals.clients import PipelineErrors
from ..engines.internals.clients import restore_scripts
from ..engines.internals.clusters import resend_only_redirected
from ..engines.internals.clusters import SlotErrors
from ..engines.interruptions import raise_alone
from ..engines.library import get_library
from ..engines.library import library_name
from ..engines.marks import clear_lost
from ..engines.marks import is_unsent
from ..engines.marks import mark_executed
from ..signals import command_finished
from ..spec.classes import subclass
from .attempts import Attempts
from .attempts import Command
from .deadline import Deadline
from .report import Observation


class _FindsFailures(PipelineErrors):
    """Mixed into the class of pipelines, to find out why they have failed."""

    def _find_failure(
        self, error: Exception, handled: BaseException | None
    ) -> Exception | None:
        """Why a step has failed, or None if a watched key has changed."""
        if isinstance(error, self._watch_error):
            return find_loss(error, handled)

        return error

    @property
    def _watch_error(self) -> type[Exception]:
        errors = get_library(library_name(type(self))).errors
        return t.cast(type[Exception], errors.WatchError)


class _Records(_FindsFailures):
    """Mixed into the class of a client's pipelines. Records their commands, because a
    pipeline forgets them when its execution fails. It would then return nothing, and no
    error.
    """

    _pipeline_client: t.Any
    _command_deadline: Deadline
    _recorded_commands: list[Command]
    #: Whether a command was sent at once, after WATCH. What follows depends on its
    #: reply, so that the pipeline cannot be retried.
    _is_immediate: bool
    #: Whether multi() was called, so that the commands are a transaction.
    _is_explicit: bool
    #: The attempts of the transaction() that uses the pipeline.
    _transaction: Attempts | None
    #: The same, between a failure and the WATCH with which transaction() starts again.
    _restarting: Attempts | None

    if t.TYPE_CHECKING:

        def __len__(self) -> int: ...

        def _run_step(
            self, execute: t.Any, args: tuple[t.Any, ...], options: dict[str, t.Any]
        ) -> t.Any: ...

    def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        if not (queued := len(self)):
            self._recorded_commands.clear()

        execute = super().execute_command  # type: ignore[misc]

        # watch() itself handles the errors of WATCH.
        if self._is_immediate and not self._is_explicit and args[0] != "WATCH":
            result = self._run_step(execute, args, options)
        else:
            result = execute(*args, **options)

        if len(self) > queued:
            self._recorded_commands.append((args, options))
        else:
            self._is_immediate = True

        return result

    def multi(self) -> t.Any:
        result = super().multi()  # type: ignore[misc]
        self._is_explicit = True
        return result

    def reset(self) -> t.Any:
        # Nothing is watched any more.
        self._is_immediate = False
        self._is_explicit = False
        forget_watch(self)
        return super().reset()  # type: ignore[misc]

    def note_first_error(
        self, error: Exception, replies: cabc.Sequence[object]
    ) -> None:
        if not _all_failed(replies):
            mark_executed(error)

    def _observe(self, names: cabc.Iterable[object]) -> Observation:
        return Observation(self._command_deadline.reporter, names)

    def _queued_names(self) -> list[object]:
        """The first argument of each queued command."""
        return [args[0] for args, _ in self._recorded_commands]

    def _take_commands(self) -> tuple[list[Command], bool]:
        """The commands, and whether they may be retried."""
        commands = self._recorded_commands
        # reset() may have dropped them, and others may have been added without this
        # class.
        are_all = bool(commands) and len(commands) == len(self)
        may_retry = are_all and not self._is_immediate
        self._is_immediate = False
        self._recorded_commands = []
        return commands, may_retry

    def _refill(
        self, commands: list[Command], scripts: set[t.Any], is_explicit: bool
    ) -> None:
        """Queue commands again after a failure."""
        if is_explicit:
            self.multi()

        for args, options in commands:
            # The node that redis-py has chosen for a command with several keys may be
            # gone. Without this option, redis-py chooses again.
            options = {k: v for k, v in options.items() if k != "target_nodes"}
            super().execute_command(*args, **options)  # type: ignore[misc]

        if scripts:
            restore_scripts(self, scripts)

    def _start_watch(self, keys: tuple[t.Any, ...]) -> Attempts | None:
        """The attempts of a WATCH, which changes nothing. None if keys are watched
        already: a retry would watch only the new ones.
        """
        if self._is_immediate or len(self):
            return None

        commands = _watch_of(keys)
        attempts, self._restarting = self._restarting, None

        if attempts is None:
            return self._command_deadline.start(self._pipeline_client, commands)

        attempts.take_step(time.monotonic(), sys.exc_info()[1], commands)
        return attempts

    @contextlib.contextmanager
    def _watching(self) -> cabc.Iterator[None]:
        # A cluster's pipeline does not send WATCH with execute_command().
        self._is_immediate = True

        try:
            yield
        except Exception as error:
            # After an error of the application, the keys may be watched.
            self._is_immediate = not library_name(type(error))
            raise

    @contextlib.contextmanager
    def _step(self, commands: list[Command]) -> cabc.Iterator[None]:
        """Run commands that must not be retried alone, because keys are watched."""
        started = time.monotonic()
        handled = sys.exc_info()[1]

        try:
            yield
        except Exception as error:
            failure = self._find_failure(error, handled)

            if failure is None:
                raise

            if (attempts := self._transaction) is not None:
                attempts.take_step(started, handled, commands)
                # The function begins again, and changes the connection again.
                clear_lost(failure)
                self._restart(attempts, failure)
            elif failure is not error and is_unsent(failure):
                # Nothing has run, so that the caller can start again.
                raise
            else:
                client, deadline = self._pipeline_client, self._command_deadline
                Attempts(deadline, client, started, handled, commands).give_up(failure)

            raise_alone(failure)

    def _restart(self, attempts: Attempts, failure: Exception) -> None:
        """Let transaction() start again if a retry may succeed. It does so after a
        ``WatchError``.
        """
        if attempts.may_continue(failure):
            self._restarting = attempts
            raise self._watch_error("The transaction starts again.") from failure


class PipelineWithDeadline(_Records):
    """Mixed into the class of a synchronous client's pipelines."""

    def _run_step(
        self, execute: t.Any, args: tuple[t.Any, ...], options: dict[str, t.Any]
    ) -> t.Any:
        with self._step([(args, options)]):
            return execute(*args, **options)

    def watch(self, *keys: t.Any) -> t.Any:
        watch = super().watch  # type: ignore[misc]

        if self._restarting is not None:
            self.reset()

        if (attempts := self._start_watch(keys)) is None:
            with self._step(_watch_of(keys)):
                return watch(*keys)

        engine = self._command_deadline.engine

        def attempt() -> t.Any:
            if attempts.has_failed:
                engine.before_pipeline_retry(self._pipeline_client)

            with self._watching():
                return watch(*keys)

        if not command_finished.receivers:
            return self._command_deadline.run(attempts, attempt)

        with self._observe(["WATCH"]) as observation:
            attempt = observation.counting(attempt)
            return self._command_deadline.run(attempts, attempt)

    def execute(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        execute = super().execute  # type: ignore[misc]

        if not (command_finished.receivers and len(self)):
            return self._run_commands(execute, args, kwargs)

        with self._observe(self._queued_names()) as observation:
            return self._run_commands(observation.counting(execute), args, kwargs)

    def _run_commands(
        self, execute: t.Any, args: tuple[t.Any, ...], kwargs: dict[str, t.Any]
    ) -> t.Any:
        commands, may_retry = self._take_commands()

        if not may_retry:
            with self._step(commands):
                return execute(*args, **kwargs)

        engine = self._command_deadline.engine
        scripts = copy_scripts(self)
        is_explicit = self._is_explicit
        attempts = self._command_deadline.start(self._pipeline_client, commands)

        def attempt() -> t.Any:
            try:
                # A failure has emptied it.
                if len(self) == 0:
                    engine.before_pipeline_retry(self._pipeline_client)
                    self._refill(commands, scripts, is_explicit)

                replies = execute(*args, **kwargs)

                # Without raise_on_error, errors are among the replies.
                if _all_failed(replies) and attempts.may_reconnect(replies[0]):
                    self._refill(commands, scripts, is_explicit)
                    replies = execute(*args, **kwargs)

                return replies
            finally:
                # redis-py does not reset it if the pool lends no connection.
                self.reset()

        try:
            results = self._command_deadline.run(attempts, attempt)
            return _clean(results) if args or kwargs else results
        finally:
            self.reset()


class AsyncPipelineWithDeadline(_Records):
    """Mixed into the class of an asynchronous client's pipelines."""

    def _run_step(
        self, execute: t.Any, args: tuple[t.Any, ...], options: dict[str, t.Any]
    ) -> t.Any:
        result = execute(*args, **options)

        # After unwatch(), the command was queued.
        if not inspect.iscoroutine(result):
            return result

        return self._await_step(result, (args, options))

    async def _await_step(self, step: cabc.Awaitable[t.Any], command: Command) -> t.Any:
        with self._step([command]):
            return await step

    async def watch(self, *keys: t.Any) -> t.Any:
        watch = super().watch  # type: ignore[misc]

        if self._restarting is not None:
            await self.reset()

        if (attempts := self._start_watch(keys)) is None:
            with self._step(_watch_of(keys)):
                return await watch(*keys)

        engine = self._command_deadline.engine

        async def attempt() -> t.Any:
            if attempts.has_failed:
                ready = engine.before_pipeline_retry(self._pipeline_client)

                if ready is not None:
                    await ready

            with self._watching():
                return await watch(*keys)

        if not command_finished.receivers:
            return await self._command_deadline.run_async(attempts, attempt)

        with self._observe(["WATCH"]) as observation:
            attempt = observation.counting(attempt)
            return await self._command_deadline.run_async(attempts, attempt)

    async def execute(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        execute = super().execute  # type: ignore[misc]

        if not (command_finished.receivers and len(self)):
            return await self._run_commands(execute, args, kwargs)

        with self._observe(self._queued_names()) as observation:
            return await self._run_commands(observation.counting(execute), args, kwargs)

    async def _run_commands(
        self, execute: t.Any, args: tuple[t.Any, ...], kwargs: dict[str, t.Any]
    ) -> t.Any:
        commands, may_retry = self._take_commands()

        if not may_retry:
            with self._step(commands):
                return await execute(*args, **kwargs)

        engine = self._command_deadline.engine
        scripts = copy_scripts(self)
        is_explicit = self._is_explicit
        attempts = self._command_deadline.start(self._pipeline_client, commands)

        async def attempt() -> t.Any:
            try:
                # A failure has emptied it.
                if len(self) == 0:
                    ready = engine.before_pipeline_retry(self._pipeline_client)

                    if ready is not None:
                        await ready

                    self._refill(commands, scripts, is_explicit)

                replies = await execute(*args, **kwargs)

                if _all_failed(replies) and attempts.may_reconnect(replies[0]):
                    self._refill(commands, scripts, is_explicit)
                    replies = await execute(*args, **kwargs)

                return replies
            finally:
                await self.reset()

        try:
            results = await self._command_deadline.run_async(attempts, attempt)
            return _clean(results) if args or kwargs else results
        finally:
            await self.reset()


class StaysOpenPipeline(SlotErrors):
    """Mixed into the class of the pipelines of a client that stays open, which is that
    of a cluster.
    """

    def close(self) -> None:
        """Reset the pipeline. redis-py would close the nodes of the client."""
        t.cast(t.Any, self).reset()


class _WithoutDeadline(_FindsFailures):
    """Mixed into the class of pipelines that are not retried, to hide secrets, and to
    tell a lost reply from a change of a watched key.
    """

    _pipeline_client: t.Any

    def note_first_error(
        self, error: Exception, replies: cabc.Sequence[object]
    ) -> None:
        """Nothing depends on whether other commands were executed."""

    @contextlib.contextmanager
    def _step(self) -> cabc.Iterator[None]:
        handled = sys.exc_info()[1]

        try:
            yield
        except Exception as error:
            self._pipeline_client.hide_secrets(error)
            failure = self._find_failure(error, handled)

            # If nothing has run, the caller can start again.
            if failure is None or is_unsent(failure):
                raise

            raise_alone(failure)


class PipelineWithoutDeadline(_WithoutDeadline):
    """Mixed into the class of a synchronous client's pipelines without a deadline."""

    def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        with self._step():
            return super().execute_command(*args, **options)  # type: ignore[misc]

    def execute(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        with self._step():
            return _clean(super().execute(*args, **kwargs))  # type: ignore[misc]


class AsyncPipelineWithoutDeadline(_WithoutDeadline):
    """The same for an asynchronous client."""

    def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        result = super().execute_command(*args, **options)  # type: ignore[misc]
        return self._await_step(result) if inspect.iscoroutine(result) else result

    async def _await_step(self, step: cabc.Awaitable[t.Any]) -> t.Any:
        with self._step():
            return await step

    async def execute(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        with self._step():
            return _clean(await super().execute(*args, **kwargs))  # type: ignore[misc]


def _watch_of(keys: tuple[t.Any, ...]) -> list[Command]:
    return [(("WATCH", *keys), {})]


def _all_failed(replies: t.Sequence[object]) -> bool:
    """Whether each command of a pipeline was answered by an error."""
    return all(isinstance(reply, Exception) for reply in replies) and bool(replies)


def _clean(results: list[t.Any]) -> list[t.Any]:
    """Hide secrets in the errors that are results with ``raise_on_error=False``."""
    for result in results:
        if isinstance(result, Exception):
            messages.clean_error(result)

    return results


def add_deadline(
    pipeline: t.Any, client: object, deadline: Deadline, mixin: type[_Records]
) -> None:
    """Make a new pipeline retry its execution.

    :param pipeline: The pipeline.
    :param client: Its client.
    :param deadline: The client's deadline.
    :param mixin: The class above for the client's kind.
    """
    # Its class is changed. Functions set on it would refer to it, so that a dropped
    # pipeline would keep its connection until the next garbage collection.
    change_class(pipeline, subclass(mixin, type(pipeline)))
    resend_only_redirected(pipeline)
    pipeline._pipeline_client = client
    pipeline._command_deadline = deadline
    pipeline._recorded_commands = []
    pipeline._is_immediate = False
    pipeline._is_explicit = False
    pipeline._transaction = None
    pipeline._restarting = None


def hide_errors(pipeline: t.Any, client: object, mixin: type[_WithoutDeadline]) -> None:
    """Make a new pipeline without a deadline hide secrets in its errors.

    :param pipeline: The pipeline.
    :param client: Its client.
    :param mixin: The class above for the client's kind.
    """
    change_class(pipeline, subclass(mixin, type(pipeline)))
    pipeline._pipeline_client = client


def limit_restarts(
    function: cabc.Callable[[t.Any], t.Any], attempts: Attempts
) -> cabc.Callable[[t.Any], t.Any]:
    """The function of a ``transaction()`` that does not start again forever when the
    server fails.

    :param function: The function, whose argument is the pipeline.
    :param attempts: The attempts of the whole transaction.
    """

    def use(pipeline: t.Any) -> t.Any:
        pipeline._transaction = attempts
        return function(pipeline)

    return use
