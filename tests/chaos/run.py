"""One run: users of two prefixes, while their servers and connections fail."""

from __future__ import annotations

import functools
import gc
import os
import random
import threading
import typing as t

from flask import Flask

from flask_and_redis import RedisManager
from tests.chaos.stages import DEADLINE
from tests.chaos.stages import PATIENCE
from tests.chaos.stages import Stage
from tests.chaos.stages import TIMEOUT
from tests.chaos.users import User
from tests.chaos.users import Users
from tests.servers import wait_until

#: The prefixes, and whether they retry what they may have sent.
PREFIXES = {"AGAIN": True, "ONCE": False}
THREADS = 4
CONNECTIONS = 3

#: What a loaded machine may add to the time of a command, in seconds.
SLACK = 10.0


class Run:
    """Users of two prefixes on one stage.

    :param stage: The servers, which are running.
    :param seed: What happens depends on it, as far as threads allow.
    """

    def __init__(self, stage: Stage, seed: int) -> None:
        stage.mark()
        self._stage = stage
        self._app = Flask("chaos")
        protocol = random.Random(seed).choice([2, 3])

        for prefix, retries in PREFIXES.items():
            settings: dict[str, t.Any] = {
                "URL": stage.url,
                "PROTOCOL": protocol,
                "CLIENT_NAME": "chaos",
                "MAX_CONNECTIONS": CONNECTIONS,
                "RETRY_DEADLINE": DEADLINE,
                "SOCKET_TIMEOUT": TIMEOUT,
                "SOCKET_CONNECT_TIMEOUT": TIMEOUT,
            }
            settings |= {} if retries else {"RETRY": 0}
            self._app.config |= {f"{prefix}_{key}": settings[key] for key in settings}

        self._manager = RedisManager(self._app, default="AGAIN")
        clients = self._app.extensions["redis"]
        where = f"database {stage.database}"
        limit = DEADLINE + max(DEADLINE, stage.longest_attempt) + SLACK
        self.groups: list[Users] = [
            Users(clients[prefix], prefix, not retries, where, limit)
            for prefix, retries in PREFIXES.items()
        ]
        self._users = [
            User(group, number, seed)
            for group in self.groups
            for number in range(THREADS)
        ]

    @property
    def faults(self) -> list[str]:
        return [fault for group in self.groups for fault in group.faults]

    def count(self) -> int:
        """How many uses have ended."""
        return sum(group.ends.total() for group in self.groups)

    def start(self) -> None:
        for user in self._users:
            user.start()

        self._stage.set_wild(True)

    def stop(self) -> None:
        """End the faults and then the threads. Check that each use succeeds, and that
        the connections can be closed.
        """
        self._stage.set_wild(False)

        for user in self._users:
            user.stop.set()

        for user in self._users:
            user.join(user.longest)

            if user.is_alive():
                raise TimeoutError(f"A thread hangs. {self}")

        print(self)

        for user in self._users:
            self._check(user)

        self._close()

    def _check(self, user: User) -> None:
        """Check that a user succeeds, as there are no faults any more."""
        for use in user.uses:
            try:
                # Its prefix may still be down.
                attempt = functools.partial(user.attempt, use)
                wait_until(attempt, f"{use.__name__} succeeds", timeout=PATIENCE)
            except TimeoutError as error:
                raise TimeoutError(f"{error} {self}") from user.error

        user.check_counters()

    def _close(self) -> None:
        # Transactions and nodes that failed have left connections to it.
        gc.collect()

        with self._app.app_context():
            lent = {prefix: s.in_use for prefix, s in self._manager.stats().items()}

            if any(lent.values()):
                self.groups[0].blame(f"Connections were not returned: {lent}")

            self._manager.close()

        wait_until(
            lambda: self._stage.count_clients("chaos") == 0,
            "all connections are closed",
            timeout=PATIENCE,
        )

    def __str__(self) -> str:
        lines = [
            f"{group.name}: {dict(group.ends)}, slowest call {group.slowest:.1f} s"
            for group in self.groups
        ]
        return "\n".join([*lines, f"Faults: {self._stage}", *self.faults])


class Resources:
    """What the process has now, and should have again later."""

    def __init__(self) -> None:
        self.threads: int = threading.active_count()
        #: Files and sockets.
        self.files: int = len(os.listdir("/dev/fd"))

    def wait_until_back(self) -> None:
        def are_back() -> bool:
            now = Resources()
            return now.threads <= self.threads and now.files <= self.files

        wait_until(are_back, "threads and files are as before", timeout=PATIENCE)


def draw_seed() -> int:
    """The seed in CHAOS_SEED, or a new one."""
    return int(os.environ.get("CHAOS_SEED") or random.randrange(10**6))
