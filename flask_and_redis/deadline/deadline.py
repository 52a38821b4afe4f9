"""How long a command is retried, and whether its prefix is down.

redis-py's own retries end after 0, 5, 60 or 600 seconds, depending on how the client
was created. They stay with the old address of a server behind sentinels, and a cluster
ignores them. This deadline is around the whole command instead.
"""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import functools
import sys
import time
import typing as t
import weakref

from flask import Flask

from ..engines.base import Engine
from ..engines.library import Client
from ..spec.spec import Spec
from .attempts import Attempts
from .attempts import Command
from .outage import Outage
from .report import Reporter

P = t.ParamSpec("P")
R = t.TypeVar("R")


class Deadline:
    """How long the commands of one prefix are retried.

    :param spec: The prefix's spec.
    :param app: The app.
    """

    def __init__(self, spec: Spec, app: weakref.ref[Flask]) -> None:
        self.spec: Spec = spec
        self.engine: Engine = spec.engine
        #: Reports its commands and outages.
        self.reporter: Reporter = Reporter(spec, app)
        #: Seconds from the start of a command to its last attempt.
        self.seconds: float = spec.deadline or 0.0
        #: Whether a command has used up its deadline, and none has succeeded since.
        self.down: bool = False
        # The parts of the prefix that are down: shards of a cluster, or None for all.
        self._outages: dict[cabc.Hashable, Outage] = {}

    def start(
        self, client: Client | None, commands: cabc.Collection[Command] = ()
    ) -> Attempts:
        """The attempts of a command that starts now.

        :param client: The client, or None if the command creates it.
        :param commands: The command, or all commands of a pipeline.
        """
        return Attempts(self, client, time.monotonic(), sys.exc_info()[1], commands)

    def go_down(self, part: cabc.Hashable, error: BaseException) -> None:
        """Note that the prefix is down.

        :param part: The part of it that is down, or None for all.
        :param error: What a command raised.
        """
        self._outages.setdefault(part, Outage(error, part))
        self.down = True
        self.reporter.go_down(part, error)

    def go_up(
        self, parts: cabc.Collection[cabc.Hashable] = (), client: Client | None = None
    ) -> None:
        """Note that a server has answered.

        :param parts: The parts of the prefix that it serves.
        :param client: The client, or None if it is not known.
        """
        for part in list(self._outages):
            # After a failover, another part serves the same keys.
            successor = self.engine.find_successor(client, part)

            if part is None or part in parts or successor in parts:
                self._outages.pop(part, None)

        self.down = bool(self._outages)

        if not self.down:
            self.reporter.go_up()

    def find_outage(self, parts: cabc.Collection[cabc.Hashable]) -> Outage | None:
        """The outage that concerns some parts of the prefix."""
        for part, outage in list(self._outages.items()):
            if part is not None and outage.is_forgotten:
                # Its nodes may not exist any more.
                self._outages.pop(part, None)
                self.down = bool(self._outages)

                if not self.down:
                    self.reporter.forget()
            elif part is None or part in parts:
                return outage

        return None

    def _ask(self, attempts: Attempts) -> None:
        """Raise if the server is still down."""
        if (outage := attempts.find_outage()) is None:
            return

        if attempts.may_probe(outage):
            answered = outage.ask(functools.partial(self._probe, attempts, outage.part))
        else:
            answered = attempts.take_turn(outage)

        if not answered:
            raise attempts.refuse(outage)

    async def _ask_async(self, attempts: Attempts) -> None:
        """The same for an asynchronous client. See :meth:`_ask`."""
        if (outage := attempts.find_outage()) is None:
            return

        if attempts.may_probe(outage):
            probe = functools.partial(self._probe_async, attempts, outage.part)
            answered = await outage.ask_async(probe)
        else:
            answered = attempts.take_turn(outage)

        if not answered:
            raise attempts.refuse(outage)

    def _probe(self, attempts: Attempts, part: cabc.Hashable) -> bool:
        """Whether the server of a part of the prefix answers."""
        try:
            self.engine.probe(attempts.client, part)
        except Exception as error:
            # The command itself raises what is no outage, such as a wrong password.
            if self.engine.is_transient(error, self.spec):
                return False

        self.go_up([part])
        return True

    async def _probe_async(self, attempts: Attempts, part: cabc.Hashable) -> bool:
        """The same for an asynchronous client. See :meth:`_probe`."""
        try:
            await self.engine.probe_async(attempts.client, part)
        except Exception as error:
            if self.engine.is_transient(error, self.spec):
                return False

        self.go_up([part])
        return True

    def run(
        self,
        attempts: Attempts,
        function: cabc.Callable[P, R],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Call a function until it succeeds, raises an error that a retry cannot fix,
        or the deadline has passed.

        :param attempts: The attempts so far.
        :param function: Runs a whole command once.
        :param args: Its arguments.
        :param kwargs: Its keyword arguments.
        """
        while True:
            if attempts.has_failed:
                time.sleep(attempts.pause)
                attempts.prepare_next()

            if self.down:
                self._ask(attempts)

            try:
                result = function(*args, **kwargs)
            except Exception as error:
                if not attempts.may_continue(error):
                    raise
            else:
                if self.down:
                    self.go_up(attempts.parts, attempts.client)

                return result
            finally:
                attempts.end_turn()

    async def run_async(
        self,
        attempts: Attempts,
        function: cabc.Callable[P, cabc.Awaitable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """The same for a coroutine function. See :meth:`run`."""
        while True:
            if attempts.has_failed:
                await asyncio.sleep(attempts.pause)
                attempts.prepare_next()

            if self.down:
                await self._ask_async(attempts)

            try:
                result = await function(*args, **kwargs)
            except Exception as error:
                if not attempts.may_continue(error):
                    raise
            else:
                if self.down:
                    self.go_up(attempts.parts, attempts.client)

                return result
            finally:
                attempts.end_turn()
