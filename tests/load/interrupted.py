"""Use one prefix, and interrupt its commands at random.

``python -m tests.load.interrupted HOW URL COUNT``, where HOW is ``signals``, ``gevent``
or ``asyncio``. It prints what happened, and exits with status 1 if a reply was wrong or
a connection is lost.
"""

from __future__ import annotations

import asyncio
import collections
import collections.abc as cabc
import gc
import itertools
import json
import random
import signal
import sys
import threading
import time
import typing as t

CONNECTIONS = 8
WORKERS = 12

#: The longest time before an interruption, in commands of usual duration, at first.
LONGEST = 1.5


class Interrupted(BaseException):
    """As of a job's time limit."""


class Load:
    """Commands of one prefix, each with a reply that no other one gets.

    The key "where" names the database, and differs in each.
    """

    def __init__(self, url: str, count: int) -> None:
        # After gevent has replaced the standard library's sockets.
        from flask import Flask

        from flask_and_redis import RedisManager

        self.app = Flask("interrupted")
        self.app.config.update(
            REDIS_URL=url, REDIS_MAX_CONNECTIONS=CONNECTIONS, REDIS_RETRY_DEADLINE=5
        )
        self.manager = RedisManager(self.app)
        self.client: t.Any = self.app.extensions["redis"]["REDIS"]
        self.count = count
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self._longest = 0.0
        self._tokens = itertools.count()
        self.uses = (self.echo, self.locate, self.pipeline, self.transaction)

    def is_done(self) -> bool:
        return self.counts["interrupted"] >= self.count or bool(self.faults)

    def token(self) -> str:
        return f"token-{next(self._tokens)}"

    def expect(self, replies: list[t.Any], *expected: str) -> None:
        self.counts["finished"] += 1

        if replies != [text.encode() for text in expected]:
            self.faults.append(f"{expected}: {replies}")

    def echo(self) -> None:
        token = self.token()
        self.expect([self.client.echo(token)], token)

    def locate(self) -> None:
        self.expect([self.client.get("where")], "database 5")

    def pipeline(self, transaction: bool = False) -> None:
        first, second = self.token(), self.token()
        commands = self.client.pipeline(transaction=transaction)
        replies = commands.echo(first).get("where").echo(second).execute()
        self.expect(replies, first, "database 5", second)

    def transaction(self) -> None:
        self.pipeline(transaction=True)

    def use(self) -> None:
        random.choice(self.uses)()

        if random.random() < 0.02:
            # Logins are interrupted, too.
            self.client.connection_pool.disconnect(inuse_connections=False)

    def attempt(self) -> None:
        """Use the prefix. An error that is not an interruption is a fault."""
        try:
            self.use()
        except ValueError as error:
            # redis-py swallows an interruption while it closes its buffer, and then
            # reads from it. The command fails, which is all that is asked for.
            if "closed file" not in str(error):
                self.faults.append(repr(error))
        except Exception as error:
            self.faults.append(repr(error))

    def measure(self, workers: int = 1) -> None:
        """Choose how long commands may take, if so many are running together."""
        for _ in range(20):
            self.use()

        started = time.perf_counter()

        for _ in range(100):
            self.use()

        self._longest = LONGEST * workers * (time.perf_counter() - started) / 100

    def limit(self) -> float:
        """Seconds until a command is interrupted. It grows until enough of them end."""
        if self.counts["finished"] < self.counts["interrupted"] / 5:
            self._longest *= 1.001

        # 0 would stop a timer.
        return random.uniform(1e-6, self._longest)

    def check_pool(self) -> None:
        """Check that all connections of the pool can be lent, and are in order."""
        gc.collect()

        with self.app.app_context():
            figures = self.manager.stats()["REDIS"]

        if figures.in_use:
            self.faults.append(f"{figures.in_use} connections are lost.")

        pool = self.client.connection_pool
        connections = [pool.get_connection() for _ in range(CONNECTIONS)]

        for connection in connections:
            connection.send_command("GET", "where")
            self.expect([connection.read_response()], "database 5")
            pool.release(connection)


def interrupt_with_signals(load: Load) -> None:
    """Interrupt the main thread with a timer, while other threads use the client."""
    stop = threading.Event()

    def use_meanwhile() -> None:
        while not stop.wait(0.002):
            load.attempt()

    def handle(*args: object) -> None:
        raise Interrupted

    threads = [threading.Thread(target=use_meanwhile) for _ in range(2)]
    hook = sys.unraisablehook

    def ignore(unraisable: t.Any) -> None:
        # A destructor was interrupted.
        if unraisable.exc_type is not Interrupted:
            hook(unraisable)

    sys.unraisablehook = ignore
    signal.signal(signal.SIGALRM, handle)

    for thread in threads:
        thread.start()

    load.measure()

    while not load.is_done():
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, load.limit())
                load.attempt()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupted:
            load.counts["interrupted"] += 1

    stop.set()

    for thread in threads:
        thread.join()

    load.check_pool()


def interrupt_greenlets(load: Load) -> None:
    """Interrupt greenlets with time limits, and kill others."""
    import gevent

    load.measure(WORKERS)

    def limit() -> None:
        while not load.is_done():
            timeout = gevent.Timeout(load.limit())

            try:
                with timeout:
                    load.attempt()
            except gevent.Timeout as error:
                if error is not timeout:
                    raise

                load.counts["interrupted"] += 1

    def kill() -> None:
        while not load.is_done():
            greenlet = gevent.spawn(load.attempt)
            gevent.sleep(load.limit())

            if not greenlet.dead:
                greenlet.kill()
                load.counts["interrupted"] += 1

    functions = [limit, kill] * (WORKERS // 2)
    gevent.joinall([gevent.spawn(each) for each in functions], raise_error=True)
    load.check_pool()


def cancel_tasks(load: Load) -> None:
    """Cancel tasks of asyncio."""
    load.measure(WORKERS)

    async def main() -> None:
        async with load.manager.get_async() as redis:
            await use_async(load, redis)

    with load.app.app_context():
        asyncio.run(main())


async def use_async(load: Load, client: t.Any) -> None:
    async def use() -> None:
        first, second = load.token(), load.token()

        if random.random() < 0.3:
            load.expect([await client.echo(first)], first)
            return

        is_transaction = random.random() < 0.5

        async with client.pipeline(transaction=is_transaction) as commands:
            replies = await commands.echo(first).get("where").echo(second).execute()

        load.expect(replies, first, "database 5", second)

        if random.random() < 0.02:
            await client.connection_pool.disconnect(inuse_connections=False)

    async def cancel() -> None:
        while not load.is_done():
            task = asyncio.ensure_future(use())
            await asyncio.wait([task], timeout=load.limit())
            task.cancel()
            await asyncio.wait([task])

            if task.cancelled():
                load.counts["interrupted"] += 1
            elif error := task.exception():
                load.faults.append(repr(error))

    await asyncio.gather(*(cancel() for _ in range(WORKERS)))
    gc.collect()
    pool = client.connection_pool
    connections = [await pool.get_connection() for _ in range(CONNECTIONS)]

    for connection in connections:
        await connection.send_command("GET", "where")
        load.expect([await connection.read_response()], "database 5")
        await pool.release(connection)


WAYS: dict[str, cabc.Callable[[Load], None]] = {
    "signals": interrupt_with_signals,
    "gevent": interrupt_greenlets,
    "asyncio": cancel_tasks,
}


def main(how: str, url: str, count: str) -> None:
    if how == "gevent":
        from gevent import monkey

        monkey.patch_all()

    load = Load(url, int(count))

    try:
        WAYS[how](load)
    except Exception as error:
        load.faults.append(repr(error))

    print(json.dumps({**load.counts, "faults": load.faults[:10]}))
    sys.exit(bool(load.faults))


if __name__ == "__main__":
    main(*sys.argv[1:])
