"""Threads and their comments."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import json
import threading

from flask import abort
from flask import Blueprint
from flask import copy_current_request_context
from flask import current_app
from flask import flash
from flask import g
from flask import redirect
from flask import render_template
from flask import request
from flask import Response
from flask import url_for
from flask.typing import ResponseReturnValue

from . import store
from .auth import login_required
from .errors import REDIS_ERRORS
from .extensions import limiter
from .forms import CommentForm
from .forms import ThreadForm
from .live import get_feed
from .live import TooManyViewers

bp = Blueprint("board", __name__)

posting_limit = limiter.shared_limit("10 per minute", scope="posting", methods=["POST"])


@bp.get("/")
def index() -> ResponseReturnValue:
    """All threads, those with the latest comments first."""
    page = store.list_threads(page_number())
    check_page(page)
    threads, comments = store.count_all()
    return render_template(
        "index.html", page=page, threads=threads, comments=comments, author=None
    )


# A path, as there may be a slash in a name.
@bp.get("/by/<path:author>")
def by_author(author: str) -> ResponseReturnValue:
    """The threads that somebody has started."""
    page = store.list_threads(page_number(), author)
    check_page(page)
    return render_template("index.html", page=page, author=author)


@bp.route("/threads/new", methods=["GET", "POST"])
@posting_limit
@login_required
def start() -> ResponseReturnValue:
    """Start a thread."""
    form = ThreadForm()

    if form.validate_on_submit():
        thread_id = store.start_thread(
            g.user, form.title.data or "", form.text.data or ""
        )
        # 303: reloading the page does not start another one.
        return redirect(url_for(".show", thread_id=thread_id), 303)

    status = 400 if form.is_submitted() else 200
    return render_template("start.html", form=form), status


@bp.get("/threads/<int:thread_id>")
def show(thread_id: int) -> ResponseReturnValue:
    """A thread and its comments."""
    # Only for users: a form puts its token into the session.
    form = CommentForm() if g.user else None
    return render_thread(find(thread_id), form)


@bp.post("/threads/<int:thread_id>")
@posting_limit
@login_required
def comment(thread_id: int) -> ResponseReturnValue:
    """Comment on a thread."""
    thread = find(thread_id)
    form = CommentForm()

    if not form.validate():
        return render_thread(thread, form), 400

    if not store.add_comment(thread_id, g.user, form.text.data or ""):
        # Deleted since the line above.
        abort(404)

    return redirect(url_for(".show", thread_id=thread_id), 303)


@bp.route("/threads/<int:thread_id>/delete", methods=["GET", "POST"])
@login_required
def delete(thread_id: int) -> ResponseReturnValue:
    """Ask whether to delete a thread, and delete it."""
    thread = find(thread_id)

    if thread.author != g.user:
        abort(403, "Only those who started a thread can delete it.")

    if request.method == "GET":
        return render_template("delete.html", thread=thread)

    store.delete_thread(thread)
    flash(f"“{thread.title}” is deleted.")
    return redirect(url_for(".index"), 303)


@bp.get("/threads/<int:thread_id>/events")
def events(thread_id: int) -> ResponseReturnValue:
    """New comments as they come, as server-sent events."""
    find(thread_id)
    # Where a browser left off, or what the page had when it was made.
    after = request.headers.get("Last-Event-ID", type=int)
    seen = request.args.get("after", 0, type=int) if after is None else after
    watching = contextlib.ExitStack()

    try:
        changed = watching.enter_context(get_feed().watch(thread_id))
    except TooManyViewers:
        # The page works without it, and asks again later.
        abort(503, "There are too many viewers right now.")

    @copy_current_request_context
    def look(seen: int) -> list[tuple[int, str]] | None:
        comments = store.list_comments_after(thread_id, seen)

        if comments is None:
            return None

        return [
            (new.number, render_template("_comment.html", comment=new))
            for new in comments
        ]

    response = Response(
        stream(changed, max(seen, 0), look, current_app.config["HEARTBEAT"]),
        mimetype="text/event-stream",
        # The second is for nginx, which would wait for more before it sends some.
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )
    # Also if the stream is never begun, or the viewer leaves in the middle.
    response.call_on_close(watching.close)
    return response


def stream(
    changed: threading.Event,
    seen: int,
    look: cabc.Callable[[int], list[tuple[int, str]] | None],
    heartbeat: float,
) -> cabc.Iterator[str]:
    """The events for one viewer, who waits here and holds no connection to Redis.

    :param changed: Is set when there may be something new.
    :param seen: How many of the comments the viewer has.
    :param look: Finds those after that number, each with its own and as HTML. None if
        the thread is gone.
    :param heartbeat: Seconds after which something is sent in any case.
    """
    # Milliseconds until a browser that lost the connection comes back.
    yield "retry: 2000\n\n"

    while True:
        if not changed.wait(heartbeat):
            # Sending something is what tells that a viewer is gone.
            yield ": still here\n\n"
            continue

        # Before the look: what changes during it is worth another one.
        changed.clear()

        try:
            comments = look(seen)
        except REDIS_ERRORS:
            # The browser comes back, and says what it has seen.
            return

        if comments is None:
            yield "event: deleted\ndata:\n\n"
            return

        for seen, html in comments:
            # JSON keeps it in one line.
            yield f"id: {seen}\nevent: comment\ndata: {json.dumps(html)}\n\n"


def find(thread_id: int) -> store.Thread:
    """The thread, or a 404."""
    thread = store.get_thread(thread_id)

    if thread is None:
        abort(404, "There is no such thread, or not any more.")

    return thread


def render_thread(thread: store.Thread, form: CommentForm | None) -> str:
    page = store.list_comments(thread.id, page_number())
    check_page(page)
    return render_template("thread.html", thread=thread, page=page, form=form)


def page_number() -> int:
    """Which page the address asks for, 1 unless it says."""
    return max(request.args.get("page", 1, type=int), 1)


def check_page(page: store.Page[store.Thread] | store.Page[store.Comment]) -> None:
    """Raise a 404 for a page behind the last."""
    if page.number > page.last:
        abort(404, "There are fewer pages than that.")
