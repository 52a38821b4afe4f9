"""Remember the last outage of each Redis, as this process has noticed it."""

from __future__ import annotations

import dataclasses
import time
import typing as t
from dataclasses import dataclass

from flask import current_app
from flask import Flask

from flask_and_redis import prefix_down
from flask_and_redis import prefix_up


@dataclass(frozen=True)
class Outage:
    """One outage of one prefix.

    :param began: When the first command gave up, in seconds since 1970.
    :param error: The class of that command's error.
    :param seconds: How long the prefix was down, or None if it is not back.
    """

    began: float
    error: str
    seconds: float | None = None


class Outages:
    """The last outage of each prefix. The signals tell about them."""

    def __init__(self) -> None:
        self.last: dict[str, Outage] = {}

    def note_down(
        self, app: Flask, prefix: str, error: BaseException, **extra: t.Any
    ) -> None:
        # Not the message: it may contain the server's address.
        self.last[prefix] = Outage(time.time(), type(error).__name__)

    def note_up(self, app: Flask, prefix: str, seconds: float, **extra: t.Any) -> None:
        if (outage := self.last.get(prefix)) is not None:
            self.last[prefix] = dataclasses.replace(outage, seconds=seconds)


def init_app(app: Flask) -> None:
    """Listen to the app's signals."""
    # A signal does not keep its receivers alive. The app does.
    outages = app.extensions["outages"] = Outages()
    prefix_down.connect(outages.note_down, sender=app)
    prefix_up.connect(outages.note_up, sender=app)


def last_outages() -> dict[str, Outage]:
    """Return the last outage of each prefix that had one."""
    outages: Outages = current_app.extensions["outages"]
    return outages.last
