"""Template filters that format times."""

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
    """Format a time relative to now, such as "3 minutes ago".

    :param seconds: The time, in seconds since 1970.
    :param now: The current time, by default that of the clock.
    """
    distance = (time.time() if now is None else now) - seconds

    for unit, size in UNITS:
        if (count := int(distance // size)) >= 1:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"

    return "just now"


def iso(seconds: float) -> str:
    """Format a time for machines, in UTC.

    :param seconds: The time, in seconds since 1970.
    """
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="seconds")


def init_app(app: Flask) -> None:
    """Add these filters to the app's templates."""
    app.add_template_filter(ago)
    app.add_template_filter(iso)
