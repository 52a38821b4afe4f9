"""A page that counts its visits in one Redis and keeps a guest book in another."""

from __future__ import annotations

import collections.abc as cabc
import json
import os
import socket
import sys
import typing as t

import redis
from flask import Blueprint
from flask import current_app
from flask import Flask
from flask import redirect
from flask import render_template
from flask import request
from flask import url_for
from flask.typing import ResponseReturnValue
from werkzeug.serving import make_server

from flask_and_redis import ConfigError
from flask_and_redis import current_redis
from flask_and_redis import RedisManager

HOST = "127.0.0.1"
MAX_GUESTS = 20
MAX_LENGTHS = {"name": 40, "message": 140}

manager = RedisManager()
# A proxy: it is created before the app, and uses the client of the current app.
guests = manager.get("GUESTS")
bp = Blueprint("visits", __name__)


def create_app(config: cabc.Mapping[str, t.Any] | None = None) -> Flask:
    """Create the app.

    :param config: Settings that override those from the environment.
    """
    app = Flask(__name__)
    app.config.from_mapping(
        # With "or", an empty variable counts as not set.
        REDIS_URL=os.environ.get("REDIS_URL") or "fakeredis:///0",
        GUESTS_URL=os.environ.get("GUESTS_URL") or "fakeredis:///1",
        # The guest book is text. The count of visits needs no decoding.
        GUESTS_DECODE_RESPONSES=True,
    )
    app.config.from_mapping(config)
    manager.init_app(app)
    app.register_blueprint(bp)
    return app


@bp.get("/")
def index() -> ResponseReturnValue:
    """Count this visit and show the guest book."""
    return render_index(visits=current_redis.incr("visits"))


@bp.post("/guests")
def sign() -> ResponseReturnValue:
    """Add a message to the guest book."""
    if is_from_another_site():
        message = "Please use the form on the page of the guest book."
        return render_error("Form of another site", message), 403

    guest = {field: request.form.get(field, "").strip() for field in MAX_LENGTHS}

    for field, limit in MAX_LENGTHS.items():
        if not guest[field]:
            return render_refusal(f"Your {field} is missing.")

        if len(guest[field]) > limit:
            return render_refusal(f"Your {field} is longer than {limit} characters.")

    # In one transaction, so that the guest book is never longer than allowed.
    with guests.pipeline() as pipe:
        pipe.lpush("guests", json.dumps(guest))
        pipe.ltrim("guests", 0, MAX_GUESTS - 1)
        pipe.execute()

    # With status 303, reloading the page does not sign twice.
    return redirect(url_for(".index"), 303)


@bp.app_errorhandler(redis.RedisError)
def redis_failed(error: redis.RedisError) -> ResponseReturnValue:
    # The error may contain the server's address: log it, but do not show it.
    current_app.logger.error("A Redis command failed: %s", error)
    message = "The database does not respond. Please try again in a few seconds."
    return render_error("Temporarily unavailable", message), 503


def is_from_another_site() -> bool:
    """Return whether another site made the visitor's browser send this form.

    This app has no login, and so no session that could store a CSRF token. Instead it
    checks a header in which the browser says where the form comes from. Newer browsers
    send Sec-Fetch-Site, older ones send Origin. Other sites cannot forge these headers.
    A client that sends neither is not a browser, so no site can misuse it.
    """
    if site := request.headers.get("Sec-Fetch-Site"):
        return site not in ("same-origin", "none")

    origin = request.headers.get("Origin")
    # Do not compare the scheme: behind a TLS proxy it may differ.
    return origin is not None and origin.partition("://")[2] != request.host


def render_index(visits: int, fault: str | None = None) -> str:
    return render_template(
        "index.html",
        visits=visits,
        guests=[json.loads(guest) for guest in guests.lrange("guests", 0, -1)],
        max_lengths=MAX_LENGTHS,
        fault=fault,
    )


def render_refusal(fault: str) -> ResponseReturnValue:
    return render_index(int(current_redis.get("visits") or 0), fault), 400


def render_error(title: str, message: str) -> str:
    return render_template("error.html", title=title, message=message)


def describe(app: Flask, prefix: str) -> str:
    """Describe where a prefix stores its data. Its URL may contain a password."""
    if app.config[f"{prefix}_URL"].strip().lower().startswith("fakeredis:"):
        return f"{prefix} is fakeredis (in this process)"

    return f"{prefix} is the server of {prefix}_URL"


def main() -> None:
    try:
        app = create_app()
    except ConfigError as error:
        # The message names the setting, but does not contain its value.
        sys.exit(f"Wrong setting. {error}")

    number = os.environ.get("PORT") or "8300"

    if not number.isdecimal() or not 0 < (port := int(number)) < 65536:
        sys.exit("PORT must be a port number from 1 to 65535.")

    try:
        listener = socket.create_server((HOST, port))
    except OSError as error:
        sys.exit(
            f"Cannot serve on port {port}: {error.strerror}. Set the environment"
            " variable PORT to another one."
        )

    with listener:
        # Use threads, not processes: fakeredis keeps its data in this process.
        server = make_server(HOST, port, app, threaded=True, fd=listener.fileno())
        stores = ", ".join(describe(app, prefix) for prefix in ("REDIS", "GUESTS"))
        print(f"Serving on http://{HOST}:{port}/ ({stores})", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
