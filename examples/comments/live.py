"""Live updates: one subscriber in each process wakes all viewers there.

What is published is only that a thread has changed. What is new, each viewer then asks
the store, from the last comment that it has seen. So nothing is lost when a message is,
which pub/sub allows: it knows no past, and an outage has no messages.
"""

from __future__ import annotations

import collections
import collections.abc as cabc
import contextlib
import threading
import time
import typing as t

from flask import current_app
from flask import Flask

from .errors import REDIS_ERRORS
from .extensions import manager
from .store import CHANNEL

# Seconds: how soon the subscriber sees that its last viewer has left, and how long it
# waits before it tries to reach a lost Redis again.
POLL = 0.5
PAUSE = 1.0


class Feed:
    """Wakes the viewers of a thread when it has changed, whichever process did it.

    The subscription needs a connection for itself, as long as it lasts. There is one in
    each process, however many viewers it has, and none when it has no viewer.

    :param limit: How many viewers there may be.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._viewers: dict[int, set[threading.Event]] = collections.defaultdict(set)
        self._lock = threading.Lock()
        self._subscriber: threading.Thread | None = None

    @contextlib.contextmanager
    def watch(self, thread_id: int) -> cabc.Iterator[threading.Event]:
        """An event that is set whenever the thread may have changed, and at first.

        :raises TooManyViewers: If there are as many as there may be.
        """
        viewer = threading.Event()
        viewer.set()

        with self._lock:
            if sum(map(len, self._viewers.values())) >= self._limit:
                raise TooManyViewers

            self._viewers[thread_id].add(viewer)
            self._ensure_subscriber()

        try:
            yield viewer
        finally:
            with self._lock:
                self._viewers[thread_id].discard(viewer)

                if not self._viewers[thread_id]:
                    del self._viewers[thread_id]

    def _ensure_subscriber(self) -> None:
        # Started by the first viewer, not with the app: a server may fork after that,
        # and threads do not survive it. In the child it is no longer alive.
        if self._subscriber is None or not self._subscriber.is_alive():
            # The thread has no application context, so it gets the real client.
            client = manager.get("REDIS_LINKS").connection
            self._subscriber = threading.Thread(
                target=self._run, args=[client], name="subscriber", daemon=True
            )
            self._subscriber.start()

    def _run(self, client: t.Any) -> None:
        pubsub = client.pubsub()

        with contextlib.closing(pubsub):
            while self._is_needed():
                try:
                    if not pubsub.channels:
                        pubsub.subscribe(CHANNEL)

                    # After an error this connects and subscribes again.
                    message = pubsub.get_message(timeout=POLL)
                except REDIS_ERRORS:
                    time.sleep(PAUSE)
                    continue

                if message is not None:
                    self._wake(message)

    def _is_needed(self) -> bool:
        with self._lock:
            if not self._viewers:
                # Under the lock: the next viewer starts another one.
                self._subscriber = None

            return bool(self._viewers)

    def _wake(self, message: dict[str, t.Any]) -> None:
        with self._lock:
            if message["type"] == "message":
                viewers = self._viewers.get(int(message["data"]), set())
            else:
                # Subscribed, at first or again. What came before was not heard.
                viewers = set().union(*self._viewers.values())

            for viewer in viewers:
                viewer.set()


class TooManyViewers(Exception):
    """No thread of the process is left for another viewer."""


def init_app(app: Flask) -> None:
    """Give the app its feed."""
    app.extensions["feed"] = Feed(app.config["MAX_VIEWERS"])


def get_feed() -> Feed:
    """The current app's feed."""
    feed: Feed = current_app.extensions["feed"]
    return feed
