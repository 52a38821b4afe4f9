"""How each Redis is, for a person to look at."""

from __future__ import annotations

import os

from flask import Blueprint
from flask import render_template
from flask.typing import ResponseReturnValue

from .extensions import manager

bp = Blueprint("status", __name__)

PURPOSES = {
    "REDIS_LINKS": "What belongs together: lists, counters and sorted sets",
    "REDIS_CONTENT": "What people wrote: hashes",
    "REDIS_SESSIONS": "Who is logged in, and rate limits",
}


@bp.get("/status")
def show() -> ResponseReturnValue:
    """Each Redis with its ping and its pool. 503 if one does not answer."""
    # All at once, over connections of their own, for a second at most.
    pings = manager.ping()
    all_ok = all(ping.ok for ping in pings.values())
    page = render_template(
        "status.html",
        pings=pings,
        pools=manager.stats(),
        purposes=PURPOSES,
        all_ok=all_ok,
        process=os.getpid(),
    )
    return page, 200 if all_ok else 503
