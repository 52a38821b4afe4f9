"""A page that shows the state of each Redis."""

from __future__ import annotations

import os

from flask import Blueprint
from flask import render_template
from flask.typing import ResponseReturnValue

from .extensions import manager
from .outages import last_outages

bp = Blueprint("status", __name__)

PURPOSES = {
    "REDIS_LINKS": "Which threads and comments there are: sorted sets, lists, counters",
    "REDIS_CONTENT": "The texts of threads and comments: hashes",
    "REDIS_SESSIONS": "Sessions and rate limits",
}


@bp.get("/status")
def show() -> ResponseReturnValue:
    """Show the ping, the pool and the last outage of each Redis.

    The status is 503 if a ping fails. The other figures are about this process: what
    its commands noticed, and the connections that it has.
    """
    # The pings run in parallel on separate connections, and take at most a second.
    pings = manager.ping()
    all_ok = all(ping.ok for ping in pings.values())
    page = render_template(
        "status.html",
        pings=pings,
        pools=manager.stats(),
        outages=last_outages(),
        purposes=PURPOSES,
        all_ok=all_ok,
        process=os.getpid(),
    )
    return page, 200 if all_ok else 503
