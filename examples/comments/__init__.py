"""A comments board on three Redis databases.

Read this file first, then ``store.py``, which has the board's Redis commands.
"""

from __future__ import annotations

import collections.abc as cabc
import os
import secrets
import typing as t

from flask import Flask

from . import auth
from . import board
from . import errors
from . import live
from . import log
from . import outages
from . import status
from . import times
from .extensions import csrf
from .extensions import limiter
from .extensions import manager
from .sessions import Sessions

PREFIXES = ("REDIS_LINKS", "REDIS_CONTENT", "REDIS_SESSIONS")


def create_app(config: cabc.Mapping[str, t.Any] | None = None) -> Flask:
    """Create the app.

    :param config: Settings that override those from the environment.
    """
    log.set_up()
    app = Flask(__name__)
    app.config.from_mapping(
        # Several workers must share one key: set it in the environment.
        SECRET_KEY=os.environ.get("SECRET_KEY") or secrets.token_hex(),
        SESSION_COOKIE_SAMESITE="Lax",
        # In bytes. The longest form is much smaller.
        MAX_CONTENT_LENGTH=64 * 1024,
        # Each viewer of a board thread occupies one server thread of the process.
        MAX_VIEWERS=50,
        # In seconds. How often the server tells a viewer that it is still connected.
        HEARTBEAT=15.0,
    )
    app.config.from_mapping(redis_settings())
    app.config.from_mapping(config)

    # Register these first: an error page of another extension shows the user, too. The
    # functions that run before a request run in the order of registration.
    for part in (errors, auth, board, status):
        app.register_blueprint(part.bp)

    # After this call, the prefixes are known. No connection is open yet.
    manager.init_app(app)
    sessions_pool = app.extensions["redis"]["REDIS_SESSIONS"].connection_pool

    # Flask-Session gets the proxy, which uses the client of the current app.
    app.session_interface = Sessions(app, manager.get("REDIS_SESSIONS"))
    csrf.init_app(app)

    # Flask-Limiter gets the pool. The URL only selects the kind of storage.
    app.config["RATELIMIT_STORAGE_URI"] = "redis://"
    app.config["RATELIMIT_STORAGE_OPTIONS"] = {"connection_pool": sessions_pool}
    limiter.init_app(app)
    live.init_app(app)
    outages.init_app(app)
    times.init_app(app)
    return app


def redis_settings() -> dict[str, t.Any]:
    """Return the settings of the three databases.

    By default the databases are in this process and need no server. Every setting can
    come from the environment: ``REDIS_LINKS_URL``, ``REDIS_LINKS_PASSWORD``,
    ``REDIS_LINKS_MAX_CONNECTIONS``, ...
    """
    defaults = {
        f"{prefix}_URL": f"fakeredis:///{db}" for db, prefix in enumerate(PREFIXES)
    }
    given = {
        name: value
        for name, value in os.environ.items()
        # An empty variable counts as not set.
        if name.startswith(PREFIXES) and value
    }
    return {
        **defaults,
        # These two store text. Sessions are bytes, so they are not decoded.
        "REDIS_LINKS_DECODE_RESPONSES": True,
        "REDIS_CONTENT_DECODE_RESPONSES": True,
        **given,
    }
