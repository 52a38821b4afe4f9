"""Threads that use a prefix with commands whose replies only they can get."""

from __future__ import annotations

import collections
import collections.abc as cabc
import random
import threading
import time
import typing as t

import redis

# What an outage may end with. Anything else is a fault.
FAILURES = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
    redis.exceptions.RedisClusterException,
    # The server that a script was loaded into is replaced before the script runs.
    redis.exceptions.NoScriptError,
)

# Seconds until keys expire, which no use takes.
_KEPT = 120

# Of the lock that all threads want.
_LOCKED = 3

_COUNT_IN_SCRIPT = "return {redis.call('incr', KEYS[1]), ARGV[1]}"


class Counter:
    """A key that one thread increments."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.attempts = 0
        self.successes = 0
        self.value = 0


class Users:
    """The threads that share the client of one prefix.

    :param client: The client.
    :param name: The prefix, which begins their keys.
    :param once: Whether no command may run twice.
    :param where: What the key "where" says.
    :param limit: Seconds after which a command must have ended.
    """

    def __init__(
        self, client: t.Any, name: str, once: bool, where: str, limit: float
    ) -> None:
        self.client = client
        self.name = name
        self.once = once
        self.where = where.encode()
        self.limit = limit
        #: What went wrong: the first faults.
        self.faults: list[str] = []
        #: How commands ended, by the class of the error.
        self.ends: collections.Counter[str] = collections.Counter()
        self.slowest: float = 0.0
        self.script: t.Any = client.register_script(_COUNT_IN_SCRIPT)
        #: Until when each thread surely has the lock that all want.
        self.owners: dict[str, float] = {}
        self.guard = threading.Lock()

    def blame(self, fault: str) -> None:
        if len(self.faults) < 20:
            self.faults.append(f"{self.name}: {fault}")


class User(threading.Thread):
    """One of them."""

    def __init__(self, users: Users, number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.stop: threading.Event = threading.Event()
        #: Seconds that a use may take: that of a lock sends most commands.
        self.longest: float = 7 * users.limit
        #: Why the last use failed.
        self.error: Exception | None = None
        self._users = users
        self._client = users.client
        # The tag puts all keys of a thread into one slot of a cluster.
        self._tag = f"{{{users.name}-{number}}}"
        self._random = random.Random(f"{seed} {self._tag}")
        self._number = 0
        kinds = ("command", "transaction", "script")
        self._counters = {kind: Counter(f"{self._tag}{kind}") for kind in kinds}
        self.uses: list[cabc.Callable[[], None]] = [
            self.use_key,
            self.locate,
            self.count,
            self.pipeline,
            self.transaction,
            self.run_script,
            self.wait_for_own,
            self.lock_own,
            self.lock_shared,
        ]

    def run(self) -> None:
        while not self.stop.is_set():
            if not self.attempt(self._random.choice(self.uses)):
                # While a prefix is down, its commands fail immediately.
                self.stop.wait(0.01)

    def attempt(self, use: cabc.Callable[[], None]) -> bool:
        """Whether it succeeds. An error that is not that of an outage is a fault."""
        try:
            use()
        except Exception as error:
            self._users.ends[type(error).__name__] += 1
            self.error = error

            if not _is_failure(error):
                self._users.blame(f"{use.__name__}: {error!r}")

            return False

        self._users.ends["success"] += 1
        # It refers to a connection.
        self.error = None
        return True

    def check_counters(self) -> None:
        """Blame if a counter does not fit what its commands returned."""
        for counter in self._counters.values():
            value = int(self._client.get(counter.key) or 0)
            most = counter.attempts if self._users.once else value

            if not counter.successes <= value <= most:
                self._users.blame(f"{vars(counter)}, but now it is {value}.")

    def use_key(self) -> None:
        key, token = self._draw()
        self._call(self._client.set, key, token, ex=_KEPT)
        self._expect(self._call(self._client.get, key), token)

    def locate(self) -> None:
        self._expect(self._call(self._client.get, "where"), self._users.where)

    def count(self) -> None:
        counter = self._start("command")
        self._end(counter, self._call(self._client.incr, counter.key))

    def pipeline(self) -> None:
        key, token = self._draw()
        pipe = self._client.pipeline(transaction=False)
        pipe.set(key, token, ex=_KEPT).get("where").get(key)
        self._expect(self._call(pipe.execute)[1:], [self._users.where, token])

    def transaction(self) -> None:
        key, token = self._draw()
        counter = self._start("transaction")
        pipe = self._client.pipeline(transaction=True)
        pipe.set(key, token, ex=_KEPT).incr(counter.key).get(key)
        _, value, own = self._call(pipe.execute)
        self._expect(own, token)
        self._end(counter, value)

    def run_script(self) -> None:
        _, token = self._draw()
        counter = self._start("script")
        # Besides EVALSHA, it may load the script and send EVALSHA again.
        value, own = self._call(self._users.script, [counter.key], [token], parts=3)
        self._expect(own, token)
        self._end(counter, value)

    def wait_for_own(self) -> None:
        """Wait for a list that has one element. If its first reply was lost, the list
        is empty.
        """
        key, token = self._draw()
        self._call(self._client.rpush, key, token)
        result = self._call(self._client.blpop, [key], timeout=0.1)

        if result is not None:
            self._expect(list(result), [key.encode(), token])

    def lock_own(self) -> None:
        """Lock what nobody else wants."""
        key, _ = self._draw()
        lock = self._client.lock(key, timeout=10 * self._users.limit)
        self._expect(self._call(lock.acquire, blocking=False, parts=2), True)
        self._call(lock.release, parts=4)

    def lock_shared(self) -> None:
        """Lock what all threads want, if it is free soon."""
        users = self._users
        lock = self._client.lock(f"{users.name}-shared", timeout=_LOCKED, sleep=0.02)
        started = time.monotonic()

        if not self._call(lock.acquire, blocking_timeout=0.2, parts=3):
            return

        with users.guard:
            now = time.monotonic()

            if any(now < until for until in users.owners.values()):
                users.blame("Two threads have the lock.")

            users.owners[self._tag] = started + _LOCKED

        with users.guard:
            del users.owners[self._tag]

        try:
            self._call(lock.release, parts=4)
        except redis.exceptions.LockNotOwnedError:
            # The first attempt may have released it, so that another thread has it now.
            # Or it expired while the release waited for a connection.
            if users.once and time.monotonic() < started + _LOCKED:
                raise

    def _draw(self) -> tuple[str, bytes]:
        """A key that was not used before, and a value that no other key has."""
        self._number += 1
        key = f"{self._tag}{self._number}"
        return key, f"token of {key}".encode()

    def _call(
        self,
        function: cabc.Callable[..., t.Any],
        *args: t.Any,
        parts: int = 1,
        **options: t.Any,
    ) -> t.Any:
        """Call a function that sends at most so many commands."""
        started = time.monotonic()

        try:
            return function(*args, **options)
        finally:
            seconds = time.monotonic() - started
            self._users.slowest = max(self._users.slowest, seconds)

            if seconds > parts * self._users.limit:
                self._users.blame(f"{function} took {seconds:.1f} s.")

    def _expect(self, reply: t.Any, expected: t.Any) -> None:
        if reply != expected:
            self._users.blame(f"{expected}, but the reply was {reply}.")

    def _start(self, kind: str) -> Counter:
        counter = self._counters[kind]
        counter.attempts += 1
        return counter

    def _end(self, counter: Counter, value: int) -> None:
        """Check the new value of a counter. It grows, since nobody else uses it."""
        counter.successes += 1
        most = counter.attempts if self._users.once else value

        if not counter.value < value <= most:
            self._users.blame(f"{vars(counter)}, but the reply was {value}.")

        counter.value = value


def _is_failure(error: Exception) -> bool:
    """Whether an outage may cause an error."""
    # No server has a password, and all keys of a transaction are in one slot.
    return isinstance(error, FAILURES) and not isinstance(
        error, redis.AuthenticationError
    )
