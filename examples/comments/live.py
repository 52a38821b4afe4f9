"""Live updates: in each process one subscriber wakes all viewers.

A message only says that a thread has changed. Each viewer then reads the new comments
from the store, after the last comment that it has. Pub/sub does not keep messages: a
subscriber misses them during an outage. But a lost message does not lose a comment.
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

# In seconds. POLL: how long the subscriber waits for a message before it checks whether
# it still has viewers. PAUSE: how long it waits after an error before it tries again.
POLL = 0.5
PAUSE = 1.0


class Feed:
    """Wakes the viewers of a thread when any process changes the thread.

    A subscription needs a connection of its own. Each process has one subscription for
    all of its viewers, and none if it has no viewers.

    :param limit: The maximum number of viewers.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._viewers: dict[int, set[threading.Event]] = collections.defaultdict(set)
        self._lock = threading.Lock()
        self._subscriber: threading.Thread | None = None

    @contextlib.contextmanager
    def watch(self, thread_id: int) -> cabc.Iterator[threading.Event]:
        """Yield an event that is set whenever the thread may have changed.

        The event is also set at the start.

        :raises TooManyViewers: If the limit is reached.
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
        # The first viewer starts the subscriber. The factory must not: a server may
        # fork after calling it, and threads do not survive a fork.
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
                    # Let all viewers look: they notice that Redis does not respond.
                    self._wake()
                    time.sleep(PAUSE)
                    continue

                if message is not None:
                    self._wake(message)

    def _is_needed(self) -> bool:
        with self._lock:
            if not self._viewers:
                # Under the lock, so that the next viewer starts a new subscriber.
                self._subscriber = None

            return bool(self._viewers)

    def _wake(self, message: dict[str, t.Any] | None = None) -> None:
        with self._lock:
            if message is not None and message["type"] == "message":
                viewers = self._viewers.get(int(message["data"]), set())
            else:
                # The subscription is lost, new or renewed. Messages may be lost.
                viewers = set().union(*self._viewers.values())

            for viewer in viewers:
                viewer.set()


class TooManyViewers(Exception):
    """The process already has the maximum number of viewers."""


def init_app(app: Flask) -> None:
    """Add a feed to the app."""
    app.extensions["feed"] = Feed(app.config["MAX_VIEWERS"])


def get_feed() -> Feed:
    """Return the current app's feed."""
    feed: Feed = current_app.extensions["feed"]
    return feed
