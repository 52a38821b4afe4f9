"""Times for people to read."""

from __future__ import annotations

import time
from datetime import datetime
from datetime import timezone

from flask import Flask

UNITS = (
    ("year", 365 * 86400),
    ("month", 30 * 86400),
    ("day", 86400),
    ("hour", 3600),
    ("minute", 60),
)


def ago(seconds: float, now: float | None = None) -> str:
    """A time as the distance from now, such as "3 minutes ago".

    :param seconds: The time, in seconds since 1970.
    :param now: What counts as now, by default the clock.
    """
    distance = (time.time() if now is None else now) - seconds

    for unit, size in UNITS:
        if (count := int(distance // size)) >= 1:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"

    return "just now"


def iso(seconds: float) -> str:
    """A time for machines, in UTC.

    :param seconds: The time, in seconds since 1970.
    """
    found = datetime.fromtimestamp(seconds, timezone.utc)
    return found.isoformat(timespec="seconds")


def init_app(app: Flask) -> None:
    """Give the app's templates these filters."""
    app.add_template_filter(ago)
    app.add_template_filter(iso)
