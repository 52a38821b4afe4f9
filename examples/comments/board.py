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

NO_THREAD = "This thread does not exist. It may have been deleted."

# The limit is on these two functions, not on the views that call them: a form that is
# rejected does not count.
posting_limit = limiter.shared_limit("10 per minute", scope="posting")
start_thread = posting_limit(store.start_thread)
add_comment = posting_limit(store.add_comment)


@bp.get("/")
def index() -> ResponseReturnValue:
    """Show all threads, those with the latest comments first."""
    page = store.list_threads(page_number())
    check_page(page)
    threads, comments = store.count_all()
    return render_template(
        "index.html", page=page, threads=threads, comments=comments, author=None
    )


# The converter is "path", because a name may contain a slash.
@bp.get("/by/<path:author>")
def by_author(author: str) -> ResponseReturnValue:
    """Show the threads that one author has started."""
    page = store.list_threads(page_number(), author)

    if not page.total and author != g.user and not store.is_author(author):
        abort(404, "Nobody with this name has written anything.")

    check_page(page)
    return render_template("index.html", page=page, author=author)


@bp.route("/threads/new", methods=["GET", "POST"])
@login_required
def start() -> ResponseReturnValue:
    """Start a thread."""
    form = ThreadForm()

    if form.validate_on_submit():
        thread_id = start_thread(g.user, form.title.data or "", form.text.data or "")
        # With status 303, reloading the page does not start another thread.
        return redirect(url_for(".show", thread_id=thread_id), 303)

    status = 400 if form.is_submitted() else 200
    return render_template("start.html", form=form), status


@bp.get("/threads/<int:thread_id>")
def show(thread_id: int) -> ResponseReturnValue:
    """Show a thread and its comments."""
    # Only users get a form: it stores a CSRF token in the session.
    form = CommentForm() if g.user else None
    return render_thread(find(thread_id), form)


@bp.post("/threads/<int:thread_id>")
@login_required
def comment(thread_id: int) -> ResponseReturnValue:
    """Comment on a thread."""
    thread = find(thread_id)
    form = CommentForm()

    if not form.validate():
        return render_thread(thread, form), 400

    if not add_comment(thread_id, g.user, form.text.data or ""):
        # The thread was deleted after it was read above.
        abort(404, NO_THREAD)

    return redirect(url_for(".show", thread_id=thread_id), 303)


@bp.route("/threads/<int:thread_id>/delete", methods=["GET", "POST"])
@login_required
def delete(thread_id: int) -> ResponseReturnValue:
    """Ask the user to confirm, then delete the thread."""
    thread = find(thread_id)

    if thread.author != g.user:
        abort(403, "Only the user who started this thread can delete it.")

    if request.method == "GET":
        return render_template("delete.html", thread=thread)

    store.delete_thread(thread)
    flash(f"The thread “{thread.title}” was deleted.")
    return redirect(url_for(".index"), 303)


@bp.get("/threads/<int:thread_id>/events")
def events(thread_id: int) -> ResponseReturnValue:
    """Send new comments live, as server-sent events.

    A deleted thread is not an error here: a browser that reconnects receives the event
    that says so, but could not read an error page.
    """
    # The number of the last comment that the browser has. A browser that reconnects
    # sends it in the header. At first it is in the URL.
    after = request.headers.get("Last-Event-ID", type=int)
    seen = request.args.get("after", 0, type=int) if after is None else after
    watching = contextlib.ExitStack()

    try:
        changed = watching.enter_context(get_feed().watch(thread_id))
    except TooManyViewers:
        # The page works without live updates, and requests them again later.
        abort(503, "There are too many viewers. Please try again later.")

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
        # X-Accel-Buffering tells nginx not to buffer the events.
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )
    # This also runs if the stream never starts or if the viewer leaves early.
    response.call_on_close(watching.close)
    return response


def stream(
    changed: threading.Event,
    seen: int,
    look: cabc.Callable[[int], list[tuple[int, str]] | None],
    heartbeat: float,
) -> cabc.Iterator[str]:
    """Yield the events for one viewer. It holds no Redis connection while it waits.

    :param changed: Is set when there may be new comments.
    :param seen: The number of the last comment that the viewer has.
    :param look: Returns the comments after that number, each as its number and HTML.
        Returns None if the thread was deleted.
    :param heartbeat: Seconds after which something is sent even without new comments.
        The browser shows that the updates are lost if nothing arrives. And the server
        notices only when it sends something that a viewer has left.
    """
    # Milliseconds that the browser waits before it reconnects.
    yield "retry: 2000\n\n"

    while True:
        # After the heartbeat, look even if nothing has changed. If Redis hangs, this
        # is how a viewer notices it.
        changed.wait(heartbeat)
        # Clear it before the look: a change during the look sets it again.
        changed.clear()

        try:
            comments = look(seen)
        except REDIS_ERRORS:
            # The browser reconnects, and sends the number of its last comment.
            return

        if comments is None:
            yield "event: deleted\ndata:\n\n"
            return

        for seen, html in comments:
            # The data must be one line, so the HTML is encoded as JSON.
            yield f"id: {seen}\nevent: comment\ndata: {json.dumps(html)}\n\n"

        yield "event: heartbeat\ndata:\n\n"


def find(thread_id: int) -> store.Thread:
    """Return the thread, or raise a 404."""
    thread = store.get_thread(thread_id)

    if thread is None:
        abort(404, NO_THREAD)

    return thread


def render_thread(thread: store.Thread, form: CommentForm | None) -> str:
    page = store.list_comments(thread.id, page_number())
    check_page(page)
    return render_template("thread.html", thread=thread, page=page, form=form)


def page_number() -> int:
    """Return the page number from the URL, 1 by default."""
    return max(request.args.get("page", 1, type=int), 1)


def check_page(page: store.Page[store.Thread] | store.Page[store.Comment]) -> None:
    """Raise a 404 for a page after the last one."""
    if page.number > page.last:
        abort(404, "This page does not exist: the list is shorter.")
