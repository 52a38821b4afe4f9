"""The pages for what goes wrong."""

from __future__ import annotations

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

bp = Blueprint("errors", __name__)

# A cluster that is out of reach ends with an exception of its own.
REDIS_ERRORS = (redis.RedisError, RedisClusterException)

TITLES = {
    403: "Not yours",
    404: "Nothing here",
    413: "Too long",
    429: "Not so fast",
}


@bp.before_app_request
def check_session() -> None:
    """Raise what kept the session from being opened, but on the page that shows what is
    down.
    """
    error: Exception | None = g.pop("session_error", None)

    if error is not None and request.endpoint != "status.show":
        raise error


@bp.app_errorhandler(redis.RedisError)
@bp.app_errorhandler(RedisClusterException)
def say_sorry(error: Exception) -> ResponseReturnValue:
    """The page for an outage. Each request tries anew, so it ends with the outage."""
    # The error may name the server: that is for the log, not for the visitor.
    current_app.logger.error("A Redis failed: %s", error)
    message = "The board cannot reach its memory right now. Please try again soon."
    page = render_template("error.html", title="Back in a moment", message=message)
    return page, 503, {"Retry-After": "5"}


@bp.app_errorhandler(CSRFError)
def refuse_form(error: CSRFError) -> ResponseReturnValue:
    """The page for a form without a good token."""
    message = "Please go back, reload the page and send the form again."
    return render_template("error.html", title="Form expired", message=message), 400


@bp.app_errorhandler(HTTPException)
def show_error(error: HTTPException) -> ResponseReturnValue:
    """The page for any other error."""
    code = error.code or 500
    title = TITLES.get(code, error.name)
    message = error.description

    if code == 429:
        message = "That was too much at once. Please wait a minute."

    page = render_template("error.html", title=title, message=message)
    # With the headers of the error's own, such as Allow.
    headers = [it for it in error.get_headers() if it[0] != "Content-Type"]
    return page, code, headers
