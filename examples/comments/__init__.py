"""A comments board on three Redis databases.

Start reading here, then ``store.py``, which holds all that is asked of Redis.
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
from . import status
from . import times
from .extensions import csrf
from .extensions import limiter
from .extensions import manager
from .sessions import Sessions

PREFIXES = ("REDIS_LINKS", "REDIS_CONTENT", "REDIS_SESSIONS")


def create_app(config: cabc.Mapping[str, t.Any] | None = None) -> Flask:
    """Make the app.

    :param config: Settings that override the environment's.
    """
    app = Flask(__name__)
    app.config.from_mapping(
        # Several workers need a key that they share: set it in the environment.
        SECRET_KEY=os.environ.get("SECRET_KEY") or secrets.token_hex(),
        SESSION_COOKIE_SAMESITE="Lax",
        # Bytes. The longest form is far shorter.
        MAX_CONTENT_LENGTH=64 * 1024,
        # Each viewer of a thread holds one of the process's threads.
        MAX_VIEWERS=50,
        # Seconds after which a viewer that is gone is noticed.
        HEARTBEAT=15.0,
    )
    app.config.from_mapping(redis_settings())
    app.config.from_mapping(config)

    # First, as what it does before each request goes before what the others do.
    app.register_blueprint(errors.bp)

    # The prefixes are known from here on. No connection is opened yet.
    manager.init_app(app)
    sessions_pool = app.extensions["redis"]["REDIS_SESSIONS"].connection_pool

    # Flask-Session takes the proxy, which finds the client of the current app.
    app.session_interface = Sessions(app, manager.get("REDIS_SESSIONS"))
    csrf.init_app(app)

    # Flask-Limiter takes the pool itself. The URL only says of which kind it is.
    app.config["RATELIMIT_STORAGE_URI"] = "redis://"
    app.config["RATELIMIT_STORAGE_OPTIONS"] = {"connection_pool": sessions_pool}
    limiter.init_app(app)

    for part in (auth, board, status):
        app.register_blueprint(part.bp)

    live.init_app(app)
    times.init_app(app)
    return app


def redis_settings() -> dict[str, t.Any]:
    """Where the three databases are: by default in this process, without a server.

    Every setting may come from the environment: ``REDIS_LINKS_URL``,
    ``REDIS_LINKS_PASSWORD``, ``REDIS_LINKS_MAX_CONNECTIONS``, ...
    """
    defaults = {f"{it}_URL": f"fakeredis:///{db}" for db, it in enumerate(PREFIXES)}
    given = {
        name: value
        for name, value in os.environ.items()
        # An empty variable is as good as none.
        if name.startswith(PREFIXES) and value
    }
    return {
        **defaults,
        # What is stored there is text. Sessions are not: they stay bytes.
        "REDIS_LINKS_DECODE_RESPONSES": True,
        "REDIS_CONTENT_DECODE_RESPONSES": True,
        **given,
    }
