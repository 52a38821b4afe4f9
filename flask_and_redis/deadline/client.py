"""Client classes whose commands have a deadline."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import sys
import time
import typing as t

import redis
import redis.asyncio

from ..engines.internals.clients import change_class
from ..engines.internals.clients import LendsConnections
from ..engines.internals.clients import ModulePipelines
from ..engines.internals.clusters import resend_only_redirected
from ..engines.internals.clusters import SlotErrors
from ..engines.library import library_name
from ..engines.operations import FakeServers
from ..signals import command_finished
from ..spec.classes import subclass
from ..spec.spec import Spec
from .attempts import Attempts
from .attempts import Command
from .deadline import Deadline
from .locks import AsyncLockWithDeadline
from .locks import LockWithDeadline
from .locks import recognize_own_token
from .pipelines import add_deadline
from .pipelines import AsyncPipelineWithDeadline
from .pipelines import AsyncPipelineWithoutDeadline
from .pipelines import hide_errors
from .pipelines import limit_restarts
from .pipelines import PipelineWithDeadline
from .pipelines import PipelineWithoutDeadline
from .pipelines import StaysOpenPipeline
from .report import name_of
from .report import Observation


class _HasDeadline:
    #: None before the constructor has ended, and if redis-py's own Retry is used.
    _command_deadline: Deadline | None = None
    #: The deadline of the client whose ``client()`` has created this one.
    _lender_deadline: Deadline | None = None
    #: The deadline of the prefix, although it may not be used. It knows what to hide.
    _prefix_deadline: Deadline | None = None
    #: The pool that redis-py gives the client.
    connection_pool: t.Any

    def hide_secrets(self, error: Exception) -> None:
        """Hide secrets in the error of a command that has no deadline.

        :param error: The error. It is changed in place, and so are its causes.
        """
        if (deadline := self._prefix_deadline) is not None:
            deadline.engine.hide_secrets(error, deadline.spec, None)

    @contextlib.contextmanager
    def _once(self, deadline: Deadline, command: Command) -> cabc.Iterator[None]:
        """Run a command of ``client()``, which is not retried."""
        started = time.monotonic()
        handled = sys.exc_info()[1]

        try:
            yield
        except Exception as error:
            client = t.cast(t.Any, self)
            Attempts(deadline, client, started, handled, [command]).give_up(error)
            raise

    @property
    def _deadline_of_pipelines(self) -> Deadline | None:
        # They do not use the connection that a client has from client().
        return self._command_deadline or self._lender_deadline


class CommandsWithDeadline(_HasDeadline):
    """Mixed into the class of a synchronous client."""

    def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        execute = super().execute_command  # type: ignore[misc]

        if (deadline := self._command_deadline) is None:
            if (lender := self._lender_deadline) is None:
                try:
                    return execute(*args, **options)
                except Exception as error:
                    self.hide_secrets(error)
                    raise

            with self._once(lender, (args, options)):
                return execute(*args, **options)

        started = time.monotonic()
        handled = sys.exc_info()[1]

        if deadline.down:
            observation = Observation(deadline.reporter, args[:1])
            attempts = deadline.start(self, [(args, options)])
        else:
            try:
                result = execute(*args, **options)
            except BaseException as error:
                observation = Observation(deadline.reporter, args[:1])
                observation.started, observation.tries = started, 1
                attempts = Attempts(deadline, self, started, handled, [(args, options)])

                with observation:
                    if not attempts.may_continue(error):
                        raise

                    observation.goes_on = True
            else:
                # Most commands end here. Attempts and Observation would cost 5 %.
                if command_finished.receivers:
                    deadline.reporter.finish((name_of(args[0]),), started, 1, None)

                return result

        with observation:
            execute = observation.counting(execute)
            return deadline.run(attempts, execute, *args, **options)


class _HasPipelines(_HasDeadline):
    _pipeline_mixin: type[t.Any]
    #: That of pipelines without a deadline.
    _plain_pipeline_mixin: type[t.Any]
    _lock_mixin: type[t.Any]

    def lock(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        lock = super().lock(*args, **kwargs)  # type: ignore[misc]

        if self._command_deadline is not None:
            recognize_own_token(lock, self, self._lock_mixin)

        return lock

    def pipeline(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        pipeline = super().pipeline(*args, **kwargs)  # type: ignore[misc]

        # A test may have replaced the method by one that returns something else.
        if library_name(type(pipeline)):
            if (deadline := self._deadline_of_pipelines) is None:
                self.note_pipeline(pipeline)
            else:
                add_deadline(pipeline, self, deadline, self._pipeline_mixin)

        return pipeline

    def note_pipeline(self, pipeline: t.Any) -> None:
        hide_errors(pipeline, self, self._plain_pipeline_mixin)

        # With redis-py's own Retry, its rules apply.
        if self._command_deadline is not None:
            resend_only_redirected(pipeline)


class WithTransactions(ModulePipelines, _HasDeadline):
    """Mixed into the class of a client of the library. A class of the application may
    have other methods with these names.
    """

    def transaction(
        self, func: cabc.Callable[[t.Any], t.Any], *watches: t.Any, **kwargs: t.Any
    ) -> t.Any:
        if (deadline := self._deadline_of_pipelines) is not None:
            func = limit_restarts(func, deadline.start(t.cast(t.Any, self)))

        return super().transaction(func, *watches, **kwargs)  # type: ignore[misc]


class WithSlots(SlotErrors, WithTransactions):
    """The same for a cluster's client."""


class Lends(LendsConnections, WithTransactions):
    """The same for a client that has ``client()``. That of a cluster has not."""

    def note_lent(self, client: t.Any) -> None:
        client._lender_deadline = self._deadline_of_pipelines
        client._prefix_deadline = self._prefix_deadline


class WithDeadline(_HasPipelines, CommandsWithDeadline):
    """Mixed into the class of a synchronous client that has pipelines."""

    _pipeline_mixin = PipelineWithDeadline
    _plain_pipeline_mixin = PipelineWithoutDeadline
    _lock_mixin = LockWithDeadline


class StaysOpen(WithDeadline):
    """Mixed into the class of a client that cannot be used after ``close()``."""

    def close(self) -> None:
        """Do nothing. All threads share the client: when one of them leaves "with
        current_redis as r:", the others still use it.
        """

    def pipeline(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        pipeline = super().pipeline(*args, **kwargs)

        if library_name(type(pipeline)):
            cls = subclass(StaysOpenPipeline, type(pipeline))
            change_class(pipeline, cls)

        return pipeline


class AsyncWithDeadline(_HasPipelines):
    """Mixed into the class of an asynchronous client."""

    _pipeline_mixin = AsyncPipelineWithDeadline
    _plain_pipeline_mixin = AsyncPipelineWithoutDeadline
    _lock_mixin = AsyncLockWithDeadline

    async def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        execute = super().execute_command  # type: ignore[misc]

        if (deadline := self._command_deadline) is None:
            if (lender := self._lender_deadline) is None:
                try:
                    return await execute(*args, **options)
                except Exception as error:
                    self.hide_secrets(error)
                    raise

            with self._once(lender, (args, options)):
                return await execute(*args, **options)

        attempts = deadline.start(self, [(args, options)])

        if command_finished.receivers:
            with Observation(deadline.reporter, args[:1]) as observation:
                execute = observation.counting(execute)
                return await deadline.run_async(attempts, execute, *args, **options)

        return await deadline.run_async(attempts, execute, *args, **options)


def _mix(mixin: type[t.Any], cls: type[t.Any]) -> type[t.Any]:
    """The client class with a deadline."""
    client_class = subclass(mixin, cls)

    if not library_name(cls):
        return client_class

    return subclass(Lends if hasattr(cls, "client") else WithSlots, client_class)


def create_client(spec: Spec, deadline: Deadline, fake_servers: FakeServers) -> t.Any:
    """Create the client of a prefix. Only that of a cluster opens connections.

    :param spec: The prefix's spec.
    :param deadline: The prefix's deadline.
    :param fake_servers: The app's servers of fakeredis. Missing ones are added.
    """
    engine = spec.engine
    mixin: type[t.Any] = WithDeadline

    if engine.closes_for_good:
        mixin = StaysOpen
    elif not hasattr(spec.client_class, "pipeline"):
        # A class of the application.
        mixin = CommandsWithDeadline

    client_class = _mix(mixin, spec.client_class)

    if engine.connects_when_made:
        client = deadline.run(
            deadline.start(None), engine.make, spec, client_class, fake_servers
        )
    else:
        client = engine.make(spec, client_class, fake_servers)

    engine.adopt(spec, client)

    # A class of the application may not allow to set attributes.
    object.__setattr__(client, "_prefix_deadline", deadline)

    if spec.deadline is not None:
        object.__setattr__(client, "_command_deadline", deadline)

    return client


@contextlib.asynccontextmanager
async def open_async_client(
    spec: Spec, deadline: Deadline, fake_servers: FakeServers
) -> cabc.AsyncIterator[redis.asyncio.Redis]:
    """An asynchronous client with the same settings. It is closed at the end of the
    block.

    :param spec: The prefix's spec.
    :param deadline: The prefix's deadline.
    :param fake_servers: The app's servers of fakeredis. Missing ones are added.
    :raises ConfigError: If the settings have no meaning for asyncio.
    """
    engine = spec.engine
    async_spec = engine.for_asyncio(spec)
    client_class = _mix(AsyncWithDeadline, async_spec.client_class)
    client = engine.make(async_spec, client_class, fake_servers)
    engine.adopt_async(async_spec, client)
    client._prefix_deadline = deadline

    if spec.deadline is not None:
        client._command_deadline = deadline

    try:
        yield client
    finally:
        await engine.close_async(client)
