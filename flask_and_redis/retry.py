"""The bounded wait around a command, for every engine.

redis-py's own retries end after 0, 5, 60 or 600 seconds, depending on how the client
was made, stay with the old address of a server behind sentinels, and are passed by in a
cluster. This one goes around the whole command instead.
"""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import functools
import random
import ssl
import sys
import time
import traceback
import types
import typing as t

import redis
import redis.asyncio.sentinel
import redis.sentinel
from redis import exceptions as redis_exceptions

from .config import Settings
from .values import library_of
from .values import parameters

P = t.ParamSpec("P")
R = t.TypeVar("R")

# Seconds between two tries: the first pause, and the longest.
FIRST_PAUSE = 0.02
LONGEST_PAUSE = 0.5

# The same where a connection of the pool is waited for, which is nobody's outage.
POOL_PAUSE = 0.01

# What redis-py makes of the errors of all sentinels. Only their text is left.
_NO_MASTER = (
    redis.sentinel.MasterNotFoundError,
    redis.asyncio.sentinel.MasterNotFoundError,
)

# How sentinels' refusals read there.
_REFUSALS = ("AuthenticationError", "CERTIFICATE_VERIFY_FAILED")

# What a TLS connection that was cut ends with. Any other error of TLS is a refusal.
_CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


class Bound:
    """How long the commands of one prefix may be tried again.

    :param settings: The prefix's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self.prefix: str = settings.prefix
        self.deadline: float = settings.deadline or 0.0
        self.retries: int | None = settings.retries
        #: A command has used up its deadline, and none has succeeded since.
        self.down: bool = False
        library = library_of(settings.client_class) or "redis"
        found = sys.modules[f"{library}.exceptions"]
        self._transient: tuple[type[Exception], ...] = (
            found.ConnectionError,
            found.TimeoutError,
            found.ClusterDownError,
            found.TryAgainError,
            *settings.arguments.get("retry_on_error", ()),
        )
        self._connections = _max_connections(settings)
        # RedisError, or ValkeyError.
        self._any: type[Exception] = found.ConnectionError.__base__
        #: What a server answers when it does not do what it was told.
        self.answer: type[Exception] = found.ResponseError
        #: What a server that hangs ends a try with.
        self.timeout: type[Exception] = found.TimeoutError
        # The reply of a node that did nothing, as it has not, or no longer, the slot.
        self._redirection: type[Exception] = found.AskError
        self._is_cluster = settings.is_cluster
        self._permanent = (found.AuthenticationError, found.AuthorizationError)

    def is_transient(self, error: BaseException) -> bool:
        """Whether trying again may mend an error.

        :param error: What a try ended with.
        """
        if isinstance(error, redis_exceptions.RedisClusterException):
            # One class for "cannot be connected", which has a cause, for slots that no
            # node answers for, and for what only the caller can mend.
            cause = error.__cause__
            return "not covered" in str(error) or (
                cause is not None and self.is_transient(cause)
            )

        if self._is_cluster and isinstance(error, self._redirection):
            return True

        if isinstance(error, _NO_MASTER) and any(
            refusal in str(error) for refusal in _REFUSALS
        ):
            return False

        return (
            isinstance(error, self._transient)
            and not isinstance(error, self._permanent)
            and not any(
                isinstance(it, ssl.SSLError) and not isinstance(it, _CUT)
                for it in _behind(error)
            )
        )

    def was_connecting(self, error: BaseException) -> bool:
        """Whether an error came while a connection was made, so that nothing was sent.
        A traceback tells, for every client class. In a cluster nothing does: other
        nodes may have been sent to before.

        :param error: What a try ended with.
        """
        if self._is_cluster:
            return isinstance(error, self._redirection)

        connecting = {"connect", "get_connection"}
        return all(
            not connecting.isdisjoint(
                frame.f_code.co_name for frame, _ in traceback.walk_tb(it.__traceback__)
            )
            for it in _behind(error)
            if isinstance(it, self._any)
        )

    def bind(self, link: Link, function: cabc.Callable[P, R]) -> cabc.Callable[P, R]:
        """A function that calls another until it succeeds, ends with an error that
        trying again does not mend, or the deadline has passed.

        :param link: What can be done for its client beside the tries.
        :param function: Does a whole command.
        """

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            started = time.monotonic()
            wait: Wait | None = None
            # Once, or a command that waits for a connection would ask for each look.
            ask = link.ask

            while True:
                try:
                    if not self.down:
                        return function(*args, **kwargs)

                    if ask is not None:
                        question, ask = ask, None
                        question()

                    result = function(*args, **kwargs)
                    self.down = False
                    return result
                except Exception as error:
                    wait = wait or Wait(self, started)

                    if (pause := wait.after(error, ask is not None)) is None:
                        raise

                time.sleep(pause)
                link.turn()

        return call

    def bind_async(
        self, link: Link, function: cabc.Callable[P, cabc.Awaitable[R]]
    ) -> cabc.Callable[P, cabc.Awaitable[R]]:
        """The same for a coroutine function.

        :param link: What can be done for its client beside the tries.
        :param function: Does a whole command.
        """

        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            started = time.monotonic()
            wait: Wait | None = None
            # Once, or a command that waits for a connection would ask for each look.
            ask = link.ask

            while True:
                try:
                    if not self.down:
                        return await function(*args, **kwargs)

                    if ask is not None:
                        question, ask = ask, None
                        await question()

                    result = await function(*args, **kwargs)
                    self.down = False
                    return result
                except Exception as error:
                    wait = wait or Wait(self, started)

                    if (pause := wait.after(error, ask is not None)) is None:
                        raise

                await asyncio.sleep(pause)
                link.turn()

        return call

    def explain_full_pool(self) -> str:
        """What to do when no connection of the pool became free in time."""
        return (
            f"All {self._connections} connections of the Redis {self.prefix!r} were in"
            f" use for {self.deadline:g} seconds. Set '{self.prefix}_MAX_CONNECTIONS'"
            " higher, up to the number of threads."
        )


def nothing(*args: object, **kwargs: object) -> None:
    """What there is to do for most engines."""


class Link:
    """What can be done for one client beside its commands.

    :param ask: Raises unless the server answers at once, over a connection of its own.
        None if that cannot be asked.
    :param turn: Is called before another try: the next one goes to another node of a
        cluster.
    :param refresh: Asks a cluster for its slots.
    :param forget: Is called after a pipeline.
    """

    def __init__(
        self,
        ask: cabc.Callable[[], t.Any] | None = None,
        turn: cabc.Callable[[], object] = nothing,
        refresh: cabc.Callable[[], t.Any] = nothing,
        forget: cabc.Callable[[], object] = nothing,
    ) -> None:
        self.ask = ask
        self.turn = turn
        self.refresh = refresh
        self.forget = forget


def _max_connections(settings: Settings) -> int:
    """How many connections a prefix may have, where redis-py limits them."""
    if (pool := settings.arguments.get("connection_pool")) is not None:
        return int(pool.max_connections)

    default = parameters(settings.pool_class or redis.ConnectionPool)["max_connections"]
    return int(settings.arguments.get("max_connections") or default.default or 100)


class Wait:
    """The tries of one command that has failed.

    :param bound: The prefix's.
    :param started: When the command was given, by :func:`time.monotonic`.
    """

    def __init__(self, bound: Bound, started: float) -> None:
        self._bound = bound
        self._ends = started + bound.deadline
        self._pause = FIRST_PAUSE
        #: Of the deadline, in seconds, when the server first failed.
        self._most_left = 0.0
        self._tries = 0
        self._sent = 0

    def after(self, error: Exception, may_ask: bool) -> float | None:
        """How many seconds to wait before the next try, or None if there is none.

        :param error: What the last try ended with.
        :param may_ask: Whether the server can be asked, and has not been, if it is
            back.
        """
        bound = self._bound
        self._tries += 1

        if not bound.is_transient(error):
            if isinstance(error, bound.answer):
                bound.down = False

            return None

        if bound.retries is not None and not bound.was_connecting(error):
            self._sent += 1

            if self._sent > bound.retries:
                return None

        left = self._ends - time.monotonic()

        if _is_full_pool(error):
            if left <= 0:
                raise type(error)(bound.explain_full_pool()) from None

            return min(POOL_PAUSE * random.uniform(0.5, 1), left)  # noqa: S311

        self._most_left = max(self._most_left, left)

        if bound.down or left <= 0:
            if self._has_failed_for_long(error):
                bound.down = True

            # One try that hung may have taken all the time, and no more. Sentinels may
            # know of another server by now.
            took_all = self._tries == 1 and left > -bound.deadline / 2
            return 0 if may_ask and took_all else None

        pause = self._pause * random.uniform(0.5, 1)  # noqa: S311
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        return min(pause, left)

    def _has_failed_for_long(self, error: Exception) -> bool:
        """Whether the time was spent on a server that failed, and not with a full pool
        or a command that blocks and was cut in the end.
        """
        bound = self._bound
        return self._most_left >= bound.deadline / 2 or any(
            isinstance(it, (bound.timeout, *_NO_MASTER)) for it in _behind(error)
        )


def _is_full_pool(error: Exception) -> bool:
    # Of a pool of redis-py, of one that blocks, and of one of valkey-py.
    return type(error).__name__ == "MaxConnectionsError" or (
        str(error) in ("No connection available.", "Too many connections")
    )


def _behind(error: BaseException) -> cabc.Iterator[BaseException]:
    """An error and those that led to it in the same try."""
    running = set()
    frame: types.FrameType | None = sys._getframe()

    while frame is not None:
        running.add(frame)
        frame = frame.f_back

    yield error
    seen = {id(error)}
    left = [error.__cause__, error.__context__]

    while left:
        if (it := left.pop()) is None or id(it) in seen:
            continue

        seen.add(id(it))

        # An error that the caller is handling is of another try.
        if (tb := it.__traceback__) and tb.tb_frame not in running:
            yield it
            left += [it.__cause__, it.__context__]


def bound_client(client: t.Any, bound: Bound, ask: cabc.Callable[[], None]) -> None:
    """Set the bound on a client: on its commands and its pipelines, and so on the locks
    and scripts that use them.

    :param client: The client.
    :param bound: Its prefix's bound.
    :param ask: See :class:`Link`.
    """
    _bound(client, bound, bound.bind, ask, _BoundPipeline)


def bound_async_client(
    client: t.Any, bound: Bound, ask: cabc.Callable[[], cabc.Awaitable[None]]
) -> None:
    """The same for a client of asyncio.

    :param client: The client.
    :param bound: Its prefix's bound.
    :param ask: See :class:`Link`.
    """
    _bound(client, bound, bound.bind_async, ask, _BoundAsyncPipeline)


def _bound(
    client: t.Any,
    bound: Bound,
    bind: cabc.Callable[[Link, t.Any], t.Any],
    ask: cabc.Callable[[], t.Any],
    mixin: type[_Replaying],
) -> None:
    nodes = getattr(client, "nodes_manager", None)
    link = Link(
        # Of a cluster other nodes may answer.
        ask=ask if hasattr(client, "connection_pool") else None,
        turn=getattr(client, "replace_default_node", nothing),
        refresh=nothing if nodes is None else nodes.initialize,
        # redis-py 6 keeps the error of a transaction in there, with which all commands
        # of the client end.
        forget=functools.partial(
            getattr(nodes, "update_moved_exception", nothing), None
        ),
    )
    client.execute_command = bind(link, client.execute_command)

    # A class of the application's own may have none.
    if (make := getattr(client, "pipeline", None)) is not None:
        client.pipeline = functools.partial(_make_bound, bound, mixin, link, make)


def _make_bound(
    bound: Bound,
    mixin: type[_Replaying],
    link: Link,
    make: cabc.Callable[..., t.Any],
    /,
    *args: t.Any,
    **kwargs: t.Any,
) -> t.Any:
    made = make(*args, **kwargs)
    # Its class, not functions set on it: they would refer to it, and a dropped pipeline
    # would keep its connection until the next garbage collection.
    made.__class__ = mix(mixin, type(made))
    made.remember(bound, link, functools.partial(make, *args, **kwargs))
    return made


_mixed: dict[tuple[type[t.Any], type[t.Any]], type[t.Any]] = {}


def mix(mixin: type[t.Any], base: type[t.Any]) -> type[t.Any]:
    """A class like another, which is called the same, with a mixin before it.

    :param mixin: The mixin.
    :param base: The other class.
    """
    if (mixin, base) not in _mixed:
        module = {"__module__": base.__module__}
        _mixed[mixin, base] = type(base.__name__, (mixin, base), module)

    return _mixed[mixin, base]


class _Replaying:
    """Mixed into the class of a client's pipelines: keeps their commands, as one whose
    execution failed has forgotten them, and would return nothing without an error.
    """

    __bound: Bound
    __link: Link
    __make: cabc.Callable[[], t.Any]
    __commands: list[tuple[tuple[t.Any, ...], dict[str, t.Any]]]
    __immediate: bool

    def remember(
        self, bound: Bound, link: Link, make: cabc.Callable[[], t.Any]
    ) -> None:
        self.__bound = bound
        self.__link = link
        self.__make = make
        self.__commands = []
        self.__immediate = False

    def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        pipe = t.cast(t.Any, self)

        if not (queued := len(pipe)):
            self.__commands.clear()

        result = super().execute_command(*args, **options)  # type: ignore[misc]

        if len(pipe) > queued:
            self.__commands.append((args, options))
        else:
            # Done at once, after WATCH: what follows depends on its reply.
            self.__immediate = True

        return result

    def reset(self) -> t.Any:
        # Nothing is watched any more.
        self.__immediate = False
        return super().reset()  # type: ignore[misc]

    def take_replay(self) -> _Replay | None:
        """What does the commands again, or None where that must not be."""
        pipe = t.cast(t.Any, self)
        # reset() may have dropped the first ones, and something else have added some.
        dropped = len(self.__commands) - len(pipe)
        commands = self.__commands[dropped:]
        may_replay = not self.__immediate and dropped >= 0 and commands
        self.__immediate = False
        self.__commands = []

        if not may_replay:
            return None

        scripts = set(getattr(pipe, "scripts", ()))
        return _Replay(self.__bound, self.__link, self.__make, commands, scripts)


class _Replay:
    """What it takes to do a pipeline again."""

    def __init__(
        self,
        bound: Bound,
        link: Link,
        make: cabc.Callable[[], t.Any],
        commands: list[tuple[tuple[t.Any, ...], dict[str, t.Any]]],
        scripts: set[t.Any],
    ) -> None:
        self.bound = bound
        self.link = link
        self._make = make
        self._commands = commands
        self._scripts = scripts
        #: Whether the pipeline itself has been executed.
        self.begun = False

    def make(self) -> t.Any:
        """A fresh pipeline with the same commands."""
        fresh = self._make()

        for args, options in self._commands:
            # Not the node that a command of several keys was sent to.
            again = {k: it for k, it in options.items() if k != "target_nodes"}
            fresh.execute_command(*args, **again)

        if self._scripts:
            fresh.scripts |= self._scripts

        return fresh


class _BoundPipeline(_Replaying):
    def execute(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        execute = super().execute  # type: ignore[misc]

        if (replay := self.take_replay()) is None:
            return execute(*args, **kwargs)

        def attempt() -> t.Any:
            if not replay.begun:
                replay.begun = True
                return execute(*args, **kwargs)

            # If a cluster does not tell its slots, this try has failed.
            replay.link.refresh()
            pipe = replay.make()

            try:
                return pipe.execute(*args, **kwargs)
            finally:
                # redis-py forgets to if it could not connect.
                pipe.reset()

        try:
            return replay.bound.bind(replay.link, attempt)()
        finally:
            self.reset()
            replay.link.forget()


class _BoundAsyncPipeline(_Replaying):
    async def execute(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        execute = super().execute  # type: ignore[misc]

        if (replay := self.take_replay()) is None:
            return await execute(*args, **kwargs)

        async def attempt() -> t.Any:
            if not replay.begun:
                replay.begun = True
                return await execute(*args, **kwargs)

            if (refreshed := replay.link.refresh()) is not None:
                await refreshed

            pipe = replay.make()

            try:
                return await pipe.execute(*args, **kwargs)
            finally:
                await pipe.reset()

        try:
            return await replay.bound.bind_async(replay.link, attempt)()
        finally:
            await self.reset()
            replay.link.forget()
