"""Tasks of asyncio that are cancelled leave no connection in a wrong state."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import contextlib
import itertools
import sys
import typing as t

import pytest
import redis
import valkey

from .interrupter import Interrupted
from .prefixes import KEYS
from .prefixes import make_prefix
from .prefixes import NAMES

pytestmark = [
    # The socket of an interrupted connect() is closed when it is collected.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.untraced,
]


class CancelAt:
    """Awaits a coroutine, and cancels its task the n-th time that it waits.

    :param moment: From 0 on.
    :param is_ready: Whether to cancel it when it could go on, as when a reply has just
        arrived.
    """

    def __init__(
        self,
        coroutine: cabc.Coroutine[t.Any, t.Any, t.Any],
        moment: int,
        is_ready: bool,
    ) -> None:
        self._coroutine = coroutine
        self._left = moment
        self._is_ready = is_ready
        self.has_cancelled = False

    def __await__(self) -> cabc.Generator[t.Any, t.Any, t.Any]:
        task = asyncio.current_task()
        assert task is not None
        steps = self._coroutine.__await__()
        send: cabc.Callable[[t.Any], t.Any] = steps.send
        sent: t.Any = None

        while True:
            try:
                future = send(sent)
            except StopIteration as end:
                return end.value

            if self._left == 0:
                self.has_cancelled = True

                if future is None or not self._is_ready:
                    task.cancel()
                else:
                    # Called before the task is told that the future is done.
                    future.add_done_callback(lambda _: task.cancel())

            self._left -= 1

            try:
                sent = yield future
                send = steps.send
            except BaseException as error:
                sent = error
                send = steps.throw


async def cancel_everywhere(
    use: cabc.Callable[[], cabc.Coroutine[t.Any, t.Any, t.Any]],
    check: cabc.Callable[[], cabc.Awaitable[None]],
    prepare: cabc.Callable[[], cabc.Awaitable[None]],
    *,
    always_ends: bool = False,
) -> int:
    """Cancel a coroutine each time that it waits. Returns how often that was.

    :param always_ends: Whether it must end when it is cancelled.
    """
    for moment in itertools.count():
        for is_ready in (False, True):
            await prepare()
            step = CancelAt(use(), moment, is_ready)

            async def run(step: CancelAt = step) -> None:
                await step

            task = asyncio.ensure_future(run())
            await asyncio.wait([task])

            if not task.cancelled():
                # It may have ended in spite of it, but not with an error.
                task.result()
                assert not (always_ends and step.has_cancelled)

            await check()

            if not step.has_cancelled:
                return moment

    raise AssertionError


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("use", ["get", "pipeline", "transaction", "watch", "login"])
@pytest.mark.parametrize(
    "engine", ["server", "unix", "tls", "sentinel", "cluster", "valkey", "fake"]
)
def test_cancelled_tasks(
    request: pytest.FixtureRequest, engine: str, use: str, protocol: int
) -> None:
    """Wherever a task is cancelled, the next commands get their own replies, from the
    right database, as the right user. The pool's one connection is not lost.
    """
    prefix = make_prefix(request, engine, PROTOCOL=protocol)

    async def main() -> None:
        async with prefix.manager.get_async() as redis:
            client: t.Any = redis

            async def get() -> None:
                assert await client.get("own") == prefix.value("own")

            async def use_pipeline() -> None:
                async with client.pipeline(transaction=use != "pipeline") as commands:
                    replies = await commands.get("own").get("own").execute()

                assert replies == [prefix.value("own")] * 2

            async def watch() -> None:
                async with client.pipeline(transaction=True) as commands:
                    await commands.watch("own")
                    commands.multi()
                    assert await commands.get("own").execute() == [prefix.value("own")]

            async def check() -> None:
                for key in KEYS[1:]:
                    assert await client.get(key) == prefix.value(key)

                if prefix.has_user:
                    name = await client.execute_command("ACL WHOAMI")
                    assert name in NAMES

            async def prepare() -> None:
                if use == "login" and engine != "cluster":
                    await client.connection_pool.disconnect()

            await check()
            functions = {"get": get, "login": get, "watch": watch}
            function = functions.get(use, use_pipeline)
            cancelled = await cancel_everywhere(function, check, prepare)
            # fakeredis may answer without waiting.
            assert cancelled > 0 or engine == "fake"

    with prefix.app.app_context():
        asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 drops some.")
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    "engine", ["server", "unix", "tls", "sentinel", "cluster", "valkey"]
)
def test_no_cancellation_is_lost(
    request: pytest.FixtureRequest, engine: str, protocol: int
) -> None:
    """A cancelled task ends: it does not wait for the reply to a command that has just
    been sent. Its connection is closed.
    """
    prefix = make_prefix(request, engine, PROTOCOL=protocol)

    async def main() -> None:
        async with prefix.manager.get_async() as redis:
            client: t.Any = redis

            async def use() -> None:
                assert await client.blpop(["none"], 0.1) is None

            async def check() -> None:
                for key in KEYS:
                    assert await client.get(key) == prefix.value(key)

            await cancel_everywhere(use, check, check, always_ends=True)

    with prefix.app.app_context():
        asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 drops some.")
def test_earlier_cancellation(request: pytest.FixtureRequest) -> None:
    """A task that has ignored a cancellation can send commands."""
    prefix = make_prefix(request, "server")

    async def main() -> None:
        async with prefix.manager.get_async() as client:

            async def use() -> bytes | str | None:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(60)

                return await client.get("own")

            task = asyncio.ensure_future(use())
            await asyncio.sleep(0)
            task.cancel()
            assert await task == prefix.value("own")

    with prefix.app.app_context():
        asyncio.run(main())


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("engine", ["server", "sentinel", "valkey", "fake"])
def test_cancelled_client_with_a_connection(
    request: pytest.FixtureRequest, engine: str, protocol: int
) -> None:
    """A client that keeps its connection gets its own replies after a cancellation."""
    prefix = make_prefix(request, engine, PROTOCOL=protocol)

    async def main() -> None:
        async with prefix.manager.get_async() as shared, shared.client() as client:

            async def use() -> None:
                # It always waits for its reply.
                assert await client.blpop(["none"], 0.1) is None

            async def check() -> None:
                for key in KEYS:
                    assert await client.get(key) == prefix.value(key)

            assert await cancel_everywhere(use, check, check) > 0

    with prefix.app.app_context():
        asyncio.run(main())


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("engine", ["server", "sentinel", "valkey", "fake"])
def test_cancelled_watch_that_goes_on(
    request: pytest.FixtureRequest, engine: str, protocol: int
) -> None:
    """If a pipeline goes on after a cancellation, it does not ignore that a key was
    changed that it has watched.
    """
    prefix = make_prefix(request, engine, PROTOCOL=protocol, MAX_CONNECTIONS=2)
    numbers = itertools.count()

    async def main() -> None:
        async with prefix.manager.get_async() as client:
            commands: t.Any = client.pipeline()

            async def prepare() -> None:
                await commands.reset()
                await commands.watch("watched")

            async def use() -> None:
                # It always waits for its reply.
                assert await commands.blpop(["none"], 0.1) is None

            async def check() -> None:
                await client.set("watched", next(numbers))

                with pytest.raises((redis.WatchError, valkey.WatchError)):
                    assert await commands.get("a") == prefix.value("a")
                    commands.multi()
                    await commands.get("own").execute()

                # Its connection is in the right state.
                assert await commands.get("b").execute() == [prefix.value("b")]

            assert await cancel_everywhere(use, check, prepare) > 0

    with prefix.app.app_context():
        asyncio.run(main())


def raise_interrupted(*args: object, **options: object) -> None:
    raise Interrupted


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("engine", ["server", "cluster", "valkey"])
def test_callback_raises_in_asyncio(
    request: pytest.FixtureRequest, engine: str, protocol: int
) -> None:
    """A response callback that raises inside a pipeline of asyncio has no effect on
    later commands.
    """
    prefix = make_prefix(request, engine, PROTOCOL=protocol)

    async def main() -> None:
        async with prefix.manager.get_async() as redis:
            client: t.Any = redis
            client.set_response_callback("STRLEN", raise_interrupted)

            for transaction in (False, True):
                commands = client.pipeline(transaction=transaction)
                commands.get("own").strlen("own").get("own")

                with pytest.raises(Interrupted):
                    await commands.execute()

                for key in KEYS:
                    assert await client.get(key) == prefix.value(key)

    with prefix.app.app_context():
        asyncio.run(main())
