"""The error pages."""

from __future__ import annotations

import logging

import redis
from flask import Blueprint
from flask import current_app
from flask import g
from flask import render_template
from flask import request
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError
from redis.exceptions import RedisClusterException
from werkzeug.exceptions import HTTPException

from .extensions import manager

bp = Blueprint("errors", __name__)

# redis-py raises RedisClusterException if it cannot reach a cluster. This exception
# is not a RedisError.
REDIS_ERRORS = (redis.RedisError, RedisClusterException)

TITLES = {
    403: "Not allowed",
    404: "Not found",
    413: "Text too long",
    429: "Too many requests",
}

MESSAGES = {
    413: "The text is too long. Please go back and shorten it.",
    429: "Please wait a minute, then try again.",
}


@bp.before_app_request
def check_session() -> None:
    """Raise the error that occurred when the session was opened.

    Do not raise it on the status page, which must work during an outage.
    """
    error: Exception | None = g.get("session_error")

    if error is not None and request.endpoint != "status.show":
        raise error


@bp.app_errorhandler(redis.RedisError)
@bp.app_errorhandler(RedisClusterException)
def say_sorry(error: Exception) -> ResponseReturnValue:
    """Show the page for an outage. Each request tries Redis again."""
    # Flask-And-Redis logs each outage, once. Other errors are not in the log yet.
    is_outage = any(pool.down for pool in manager.stats().values())
    level = logging.DEBUG if is_outage else logging.ERROR
    # The error may contain the server's address: log it, but do not show it.
    current_app.logger.log(level, "A Redis command failed: %s", error)
    message = "A database does not respond. Please try again in a few seconds."
    title = "Temporarily unavailable"
    page = render_template("error.html", title=title, message=message)
    return page, 503, {"Retry-After": "5"}


@bp.app_errorhandler(CSRFError)
def refuse_form(error: CSRFError) -> ResponseReturnValue:
    """Show the page for a form without a valid CSRF token."""
    message = "Please go back, reload the page and send the form again."
    return render_template("error.html", title="Form expired", message=message), 400


@bp.app_errorhandler(HTTPException)
def show_error(error: HTTPException) -> ResponseReturnValue:
    """Show the page for any other error."""
    code = error.code or 500
    title = TITLES.get(code, error.name)
    message = MESSAGES.get(code, error.description)
    page = render_template("error.html", title=title, message=message)
    # Keep the error's own headers, such as Allow.
    headers = [header for header in error.get_headers() if header[0] != "Content-Type"]
    return page, code, headers
