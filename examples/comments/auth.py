"""Logging in, by name alone: this is an example, and names are not protected."""

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
    """Let views and templates know the user as ``g.user``, a name or None."""
    g.user = session.get("user")


def login_required(
    view: cabc.Callable[P, ResponseReturnValue],
) -> cabc.Callable[P, ResponseReturnValue]:
    """Send visitors who have not logged in to the page where they can."""

    @functools.wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        if g.user is None:
            # After a form was sent there is no page to come back to.
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
    # A new id for the session: nobody can have planted the old one.
    t.cast(t.Any, current_app.session_interface).regenerate(session)
    flash(f"Welcome, {form.name.data}.")
    return redirect(local_path(request.args.get("next")), 303)


@bp.post("/logout")
def logout() -> ResponseReturnValue:
    """Log out. The session is deleted from Redis as well."""
    session.clear()
    return redirect(url_for("board.index"), 303)


def local_path(target: str | None) -> str:
    """Where to go after logging in: on this site, whatever the address says."""
    if (
        target
        # Browsers leave out tabs and line ends: behind one a second slash may hide.
        and target.isprintable()
        and target.startswith("/")
        and target[1:2] not in ("/", "\\")
    ):
        return target

    return url_for("board.index")
