"""Login by name. This is only an example: users have no passwords."""

from __future__ import annotations

import collections.abc as cabc
import functools
import typing as t

from flask import Blueprint
from flask import current_app
from flask import flash
from flask import g
from flask import redirect
from flask import render_template
from flask import request
from flask import session
from flask import url_for
from flask.typing import ResponseReturnValue

from .extensions import limiter
from .forms import LoginForm

bp = Blueprint("auth", __name__)

P = t.ParamSpec("P")


@bp.before_app_request
def load_user() -> None:
    """Set ``g.user`` to the user's name or None, for views and templates.

    During an outage of the sessions it is not set: nobody knows who the visitor is.
    """
    if "session_error" not in g:
        g.user = session.get("user")


def login_required(
    view: cabc.Callable[P, ResponseReturnValue],
) -> cabc.Callable[P, ResponseReturnValue]:
    """Redirect visitors who are not logged in to the login page."""

    @functools.wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        if g.user is None:
            # Only a GET can be repeated after the login.
            path = request.full_path.rstrip("?")
            came_from = path if request.method == "GET" else None
            return redirect(url_for("auth.login", next=came_from), 303)

        return view(*args, **kwargs)

    return guarded


@bp.route("/login", methods=["GET", "POST"])
@limiter.limit("10 per minute", methods=["POST"])
def login() -> ResponseReturnValue:
    """Log in."""
    form = LoginForm()

    if not form.validate_on_submit():
        status = 400 if form.is_submitted() else 200
        return render_template("login.html", form=form), status

    session["user"] = form.name.data
    # Give the session a new id, as an attacker may know the old one (session
    # fixation).
    t.cast(t.Any, current_app.session_interface).regenerate(session)
    flash(f"Welcome, {form.name.data}.")
    return redirect(local_path(request.args.get("next")), 303)


@bp.post("/logout")
def logout() -> ResponseReturnValue:
    """Log out, and delete the session from Redis."""
    session.clear()
    return redirect(url_for("board.index"), 303)


def local_path(target: str | None) -> str:
    """Return the target if it is a path on this site, else the path of the index."""
    if (
        target
        # Browsers remove tabs and line breaks: "/<tab>/host" becomes "//host".
        and target.isprintable()
        and target.startswith("/")
        and target[1:2] not in ("/", "\\")
    ):
        return target

    return url_for("board.index")
