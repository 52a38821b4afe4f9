"""The comments board over HTTP, without a browser."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from ephemeral_port_reserve import reserve
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from examples.comments import create_app
from examples.comments import PREFIXES
from examples.comments import store
from examples.comments.auth import local_path
from examples.comments.live import get_feed
from examples.comments.live import POLL
from examples.comments.store import CHANNEL
from examples.comments.times import ago

from .browser import serve
from .conftest import Starter
from .servers import Server
from .servers import wait_until

UNLIMITED = {"RATELIMIT_ENABLED": False}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(PREFIXES) or name == "SECRET_KEY":
            monkeypatch.delenv(name)


def urls(server: Server) -> dict[str, str]:
    """Settings that put each prefix into a database of its own."""
    return {f"{it}_URL": f"{server.url}/{db}" for db, it in enumerate(PREFIXES)}


@pytest.fixture(params=["fakeredis", "server"])
def app(request: pytest.FixtureRequest) -> Flask:
    """The board without a server, and on one."""
    if request.param == "fakeredis":
        return create_app(UNLIMITED)

    return create_app({**UNLIMITED, **urls(request.getfixturevalue("server"))})


@pytest.fixture
def fake() -> Flask:
    """The board without a server."""
    return create_app(UNLIMITED)


class Visitor:
    """Somebody with a browser that has no JavaScript."""

    def __init__(self, app: Flask, name: str | None = None) -> None:
        self.client: FlaskClient = app.test_client()

        if name is not None:
            response = self.send("/login", name=name)
            assert (response.status_code, response.location) == (303, "/")

    def get(self, path: str) -> TestResponse:
        return self.client.get(path)

    def send(self, path: str, form: str | None = None, **fields: str) -> TestResponse:
        """Fill in the form of a page and send it.

        :param form: The page, if it is another one.
        """
        page = self.get(form or path)
        token = re.search(r'name="csrf_token"[^>]* value="([^"]+)"', page.text)
        assert token is not None, page.text
        return self.client.post(path, data={**fields, "csrf_token": token[1]})

    def start(self, title: str = "Title", text: str = "Text") -> str:
        """Start a thread and return its path."""
        response = self.send("/threads/new", title=title, text=text)
        assert response.status_code == 303
        assert response.location is not None
        return response.location

    def comment(self, thread: str, text: str) -> None:
        response = self.send(thread, text=text)
        assert (response.status_code, response.location) == (303, thread)


def titles(response: TestResponse) -> list[str]:
    return re.findall(r'<h2><a href="/threads/\d+">(.*)</a></h2>', response.text)


def comments(response: TestResponse) -> list[tuple[str, str]]:
    """The numbers and texts of a page's comments."""
    return re.findall(
        r'id="comment-(\d+)">.*?<p class="text">(.*?)</p>', response.text, re.S
    )


def keys(app: Flask) -> dict[str, set[str]]:
    """The keys in each of the two databases of the board."""
    found: t.Any = app.extensions["redis"]
    return {it: set(found[it].keys()) for it in ("REDIS_LINKS", "REDIS_CONTENT")}


def test_conversation(app: Flask) -> None:
    """Two users log in, start threads and comment; the latest thread comes first."""
    ada, grace = Visitor(app, "Ada"), Visitor(app, "Grace")
    first, second = ada.start("One"), grace.start("Two")
    assert titles(ada.get("/")) == ["Two", "One"]

    ada.comment(first, "Hello")
    grace.comment(first, "Hi\r\nthere")
    assert titles(ada.get("/")) == ["One", "Two"]
    assert "2 threads, 2 comments" in ada.get("/").text
    assert titles(ada.get("/by/Ada")) == ["One"]
    assert comments(ada.get(first)) == [("2", "Hi\nthere"), ("1", "Hello")]
    assert comments(ada.get(second)) == []
    # Each prefix holds its part, and nothing of the others.
    assert keys(app) == {
        "REDIS_LINKS": {
            *("threads", "threads:by:Ada", "threads:by:Grace", "thread:1:comments"),
            *("count:threads", "count:comments", "count:live"),
        },
        "REDIS_CONTENT": {"thread:1", "thread:2", "comment:1", "comment:2"},
    }
    kinds = {key.split(b":")[0] for key in app.extensions["redis"][PREFIXES[2]].keys()}
    assert kinds == {b"session"}


def test_owner_deletes_thread(app: Flask) -> None:
    """A thread is deleted by who started it, after a confirmation, and all of it."""
    ada, grace = Visitor(app, "Ada"), Visitor(app, "Grace")
    kept, gone = ada.start("Kept"), ada.start("Gone")
    grace.comment(kept, "Stays")
    grace.comment(gone, "Goes")

    assert "Delete this thread" not in grace.get(gone).text
    assert grace.get(f"{gone}/delete").status_code == 403
    assert grace.send(f"{gone}/delete", form=kept).status_code == 403

    assert "1 comment." in ada.get(f"{gone}/delete").text
    assert titles(ada.get("/")) == ["Gone", "Kept"]
    assert ada.send(f"{gone}/delete").status_code == 303
    page = ada.get("/")
    assert titles(page) == ["Kept"]
    assert "“Gone” is deleted." in page.text
    assert "1 thread, 1 comment<" in page.text
    assert ada.get(gone).status_code == 404
    assert ada.send(f"{gone}/delete", form=kept).status_code == 404
    assert keys(app) == {
        "REDIS_LINKS": {
            *("threads", "threads:by:Ada", "thread:1:comments"),
            *("count:threads", "count:comments", "count:live"),
        },
        "REDIS_CONTENT": {"thread:1", "comment:1"},
    }


def test_comment_of_deleted_thread_is_not_kept(app: Flask) -> None:
    """Who comments on a thread that is deleted in that moment leaves nothing."""
    with app.app_context():
        thread = store.get_thread(store.start_thread("Ada", "Title", "Text"))
        assert thread is not None
        store.delete_thread(thread)
        before = keys(app)
        assert store.add_comment(thread.id, "Grace", "Too late") is False
        assert store.list_comments_after(thread.id, 0) is None

    before["REDIS_LINKS"].add("count:comments")
    assert keys(app) == before


def test_scripts_may_be_sent_twice(app: Flask) -> None:
    """A script whose reply was lost is sent again, and changes nothing then."""
    with app.app_context():
        thread = store.get_thread(store.start_thread("Ada", "Title", "Text"))
        assert thread is not None
        run = [store.THREADS, store.comments_of(thread.id), store.COMMENTS_COUNT]
        add = store.links.register_script(store.ADD_COMMENT)

        for _ in range(2):
            assert add(keys=run, args=[thread.id, "7", 1.0, CHANNEL]) == 1

        assert store.count_all() == (1, 1)
        assert store.links.lrange(run[1], 0, -1) == ["7"]
        unlink = store.links.register_script(store.UNLINK_THREAD)
        run.insert(1, store.by_author("Ada"))

        for _ in range(2):
            assert unlink(keys=run, args=[thread.id, CHANNEL]) == ["7"]

        assert store.count_all() == (0, 0)


def test_simultaneous_comments(app: Flask) -> None:
    """Comments that come all at once are all there, and counted right."""
    with app.app_context():
        thread_id = store.start_thread("Ada", "Title", "Text")

    def comment(number: int) -> None:
        with app.app_context():
            assert store.add_comment(thread_id, "Ada", str(number))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(comment, range(40)))

    with app.app_context():
        found = store.list_comments_after(thread_id, 0)
        assert found is not None
        assert {it.text for it in found} == set(map(str, range(40)))
        assert [it.number for it in found] == list(range(1, 41))
        assert store.count_all() == (1, 40)


def test_pages(app: Flask) -> None:
    """Threads and comments are shown page by page, newest first, and none twice."""
    with app.app_context():
        for number in range(1, 26):
            store.start_thread("Ada", f"T{number}", "Text")

        for number in range(1, 46):
            store.add_comment(25, "Ada", f"C{number}")

    visitor = Visitor(app)
    assert titles(visitor.get("/")) == [f"T{it}" for it in range(25, 15, -1)]
    assert titles(visitor.get("/?page=3")) == [f"T{it}" for it in range(5, 0, -1)]
    assert 'rel="next" href="/?page=2"' in visitor.get("/").text
    assert 'rel="prev" href="/by/Ada?page=1"' in visitor.get("/by/Ada?page=2").text

    for page, numbers in {
        1: range(45, 25, -1),
        2: range(25, 5, -1),
        3: range(5, 0, -1),
    }.items():
        response = visitor.get(f"/threads/25?page={page}")
        assert comments(response) == [(str(it), f"C{it}") for it in numbers]
        # New ones belong on the first page alone.
        assert ("data-events" in response.text) == (page == 1)


@pytest.mark.parametrize("path", ["/", "/by/Ada", "/threads/1"])
@pytest.mark.parametrize("page", ["2", "9" * 30])
def test_page_behind_the_last(fake: Flask, path: str, page: str) -> None:
    """A page that does not exist is a 404, however far behind the last."""
    Visitor(fake, "Ada").start()
    assert Visitor(fake).get(f"{path}?page={page}").status_code == 404


@pytest.mark.parametrize("page", ["0", "-1", "x", ""])
def test_page_that_is_no_number(fake: Flask, page: str) -> None:
    """A page that is none is the first."""
    assert Visitor(fake).get(f"/?page={page}").status_code == 200


@pytest.mark.parametrize("path", ["", "/delete", "/events"])
@pytest.mark.parametrize("thread", ["7", "0", "9" * 30])
def test_unknown_thread(fake: Flask, path: str, thread: str) -> None:
    """A thread that does not exist is a friendly 404."""
    response = Visitor(fake, "Ada").get(f"/threads/{thread}{path}")
    assert response.status_code == 404
    assert "There is no such thread" in response.text


def test_all_input_is_escaped(fake: Flask) -> None:
    """What people write is text to every page and to live updates, never markup."""
    evil = "<script>alert('hi')</script>\"'"
    visitor = Visitor(fake, "<b>Eve</b>")
    thread = visitor.start(evil, evil)
    visitor.comment(thread, evil)
    author = "/by/%3Cb%3EEve%3C%2Fb%3E"
    paths = ("/", author, thread, f"{thread}/delete")
    pages = {path: visitor.get(path).text for path in paths}
    assert titles(visitor.get(author)) != []
    events = visitor.client.get(f"{thread}/events?after=0")
    stream = iter(events.response)
    next(stream)
    pages["events"] = json.loads(t.cast(bytes, next(stream)).split(b"data: ")[1])
    events.close()

    for path, page in pages.items():
        assert "<script>alert" not in page, path
        assert "<b>Eve" not in page, path
        assert "&lt;script&gt;alert(&#39;hi&#39;)&lt;/script&gt;&#34;&#39;" in page, (
            path
        )


@pytest.mark.parametrize(
    ("path", "form", "fault"),
    [
        ("/login", {}, "Your name is missing."),
        ("/login", {"name": " \t"}, "Your name is missing."),
        ("/login", {"name": "A" * 31}, "Please use 30 characters at most."),
        ("/login", {"name": "A\u200bda"}, "Please use visible characters only."),
        ("/threads/new", {"text": "Text"}, "The title is missing."),
        ("/threads/new", {"title": "T" * 101, "text": "x"}, "100 characters at most."),
        ("/threads/new", {"title": "Title"}, "The text is missing."),
        ("/threads/new", {"title": "T", "text": "x" * 2001}, "2000 characters at most"),
        ("/threads/1", {"text": " \r\n "}, "Your comment is missing."),
        ("/threads/1", {"text": "x" * 2001}, "Please use 2000 characters at most."),
    ],
)
def test_faulty_form(fake: Flask, path: str, form: dict[str, str], fault: str) -> None:
    """A form with a missing or too long field is refused, stays filled in, and leaves
    nothing.
    """
    visitor = Visitor(fake, "Ada")
    visitor.start()
    before = keys(fake)
    response = visitor.send(path, **form)
    assert response.status_code == 400
    assert fault in response.text
    assert all(value.strip() in response.text for value in form.values())
    assert keys(fake) == before


def test_longest_comment(fake: Flask) -> None:
    """A comment of just the permitted length is taken; a line's end counts as one."""
    visitor = Visitor(fake, "Ada")
    thread = visitor.start()
    visitor.comment(thread, "\r\n".join("x" * 1000))
    assert visitor.get(thread).text.count("x\n") == 999
    assert visitor.send(thread, text="x" * 70_000).status_code == 413


@pytest.mark.parametrize(
    "path", ["/login", "/logout", "/threads/new", "/threads/1", "/threads/1/delete"]
)
def test_form_without_token(fake: Flask, path: str) -> None:
    """A form that another site has made a browser send is refused."""
    visitor = Visitor(fake, "Ada")
    visitor.start()
    before = keys(fake)
    fields = {"name": "Eve", "title": "Title", "text": "Text"}

    for token in ({}, {"csrf_token": "forged"}):
        response = visitor.client.post(path, data={**fields, **token})
        assert response.status_code == 400
        assert "Form expired" in response.text

    assert keys(fake) == before
    assert ">Ada</a>" in visitor.get("/").text


def test_login(fake: Flask) -> None:
    """What needs a user leads to the login and back. Logging in changes the session's
    id, and logging out ends the session.
    """
    visitor = Visitor(fake)
    response = visitor.get("/threads/new")
    assert response.status_code == 303
    login = response.location
    assert login is not None
    visitor.get(login)
    before = visitor.client.get_cookie("session")
    response = visitor.send(login, name="  Ada   Lovelace ")
    assert response.location == "/threads/new"
    after = visitor.client.get_cookie("session")
    assert before is not None and after is not None
    assert before.value != after.value
    assert "Ada Lovelace</a>" in visitor.get("/").text

    sessions: t.Any = fake.extensions["redis"]["REDIS_SESSIONS"]
    assert sessions.keys() == [f"session:{after.value}".encode()]
    assert visitor.send("/logout", form="/").location == "/"
    assert "Log in</a>" in visitor.get("/").text
    assert sessions.keys() == []


def test_reader_has_no_session(fake: Flask) -> None:
    """Whoever only reads leaves nothing in the database of sessions."""
    thread = Visitor(fake, "Ada").start()
    sessions: t.Any = fake.extensions["redis"]["REDIS_SESSIONS"]
    before = sessions.dbsize()
    visitor = Visitor(fake)

    for path in ("/", thread, "/status", "/static/style.css"):
        with visitor.get(path) as response:
            assert response.status_code == 200

    assert sessions.dbsize() == before


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("/threads/1?page=2", "/threads/1?page=2"),
        (None, "/"),
        ("", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("/\n/evil.example", "/"),
        ("https://evil.example/", "/"),
        ("threads", "/"),
    ],
)
def test_login_leads_to_this_site(fake: Flask, target: str | None, found: str) -> None:
    """After logging in nobody is sent to another site."""
    with fake.test_request_context():
        assert local_path(target) == found


@pytest.mark.parametrize("kind", ["fakeredis", "server"])
def test_rate_limit(kind: str, request: pytest.FixtureRequest) -> None:
    """After ten posts within a minute a user has to wait, and others have not. The
    counts are kept in the database of sessions.
    """
    # Said here, as a Limiter keeps what the app before this one had.
    settings: dict[str, t.Any] = {"RATELIMIT_ENABLED": True}

    if kind == "server":
        settings |= urls(request.getfixturevalue("server"))

    app = create_app(settings)
    ada, grace = Visitor(app, "Ada"), Visitor(app, "Grace")
    thread = ada.start()

    for number in range(9):
        ada.comment(thread, f"Comment {number}")

    response = ada.send(thread, text="One more")
    assert response.status_code == 429
    assert "Not so fast" in response.text
    assert "One more" not in ada.get(thread).text
    grace.comment(thread, "Mine")
    kinds = {key.split(b":")[0] for key in app.extensions["redis"][PREFIXES[2]].keys()}
    assert kinds == {b"session", b"LIMITS"}


def read_event(stream: cabc.Iterator[t.Any], name: str) -> bytes:
    """The next event of a stream, without what tells that it is alive."""
    while (chunk := next(stream)).startswith((b":", b"retry:")):
        pass

    assert f"event: {name}\n".encode() in chunk
    return t.cast(bytes, chunk)


def subscribers(app: Flask) -> int:
    """How many connections wait for changes."""
    links: t.Any = app.extensions["redis"]["REDIS_LINKS"]
    return int(dict(links.pubsub_numsub(CHANNEL))[CHANNEL])


def test_viewers_share_one_subscriber(app: Flask) -> None:
    """All viewers of a process are told of comments and the deletion over a single
    connection, which goes with the last of them.
    """
    ada = Visitor(app, "Ada")
    first, second = ada.start(), ada.start()
    ada.comment(first, "One")
    paths = [first] * 4 + [second]
    responses = [Visitor(app).get(f"{it}/events?after=0") for it in paths]
    streams = [iter(it.response) for it in responses]
    pool: t.Any = app.extensions["redis"]["REDIS_LINKS"].connection_pool

    for stream in streams:
        assert next(stream) == b"retry: 2000\n\n"

    for stream in streams[:4]:
        assert read_event(stream, "comment").startswith(b"id: 1\n")

    wait_until(lambda: subscribers(app) == 1, "the process has subscribed")
    assert len(pool._in_use_connections) == 1
    ada.comment(first, "Two")

    for stream in streams[:4]:
        assert b"Two" in read_event(stream, "comment")

    for thread in (first, second):
        assert ada.send(f"{thread}/delete").status_code == 303

    for stream in streams:
        read_event(stream, "deleted")
        assert next(stream, None) is None

    for response in responses:
        response.close()

    wait_until(lambda: subscribers(app) == 0, "nobody subscribes")
    wait_until(lambda: not pool._in_use_connections, "its connection is free")


def test_browser_comes_back(fake: Flask) -> None:
    """A browser that lost the connection gets what it has missed, and nothing twice."""
    ada = Visitor(fake, "Ada")
    thread = ada.start()

    for text in ("One", "Two", "Three"):
        ada.comment(thread, text)

    headers = {"Last-Event-ID": "1"}
    response = Visitor(fake).client.get(f"{thread}/events?after=0", headers=headers)
    stream = iter(response.response)
    assert b"Two" in read_event(stream, "comment")
    assert b"Three" in read_event(stream, "comment")
    response.close()


def test_heartbeat() -> None:
    """A viewer to whom nothing happens is sent something, which tells if it is gone."""
    app = create_app({**UNLIMITED, "HEARTBEAT": 0.05})
    response = Visitor(app).get(f"{Visitor(app, 'Ada').start()}/events")
    stream = iter(response.response)
    assert next(stream) == b"retry: 2000\n\n"
    assert next(stream) == b": still here\n\n"
    response.close()


def test_too_many_viewers() -> None:
    """No more viewers are served than may be, and the next when one has left."""
    app = create_app({**UNLIMITED, "MAX_VIEWERS": 2})
    events = f"{Visitor(app, 'Ada').start()}/events"
    first, second = Visitor(app).get(events), Visitor(app).get(events)
    response = Visitor(app).get(events)
    assert response.status_code == 503
    assert "too many viewers" in response.text
    # Whether its stream was begun or not.
    next(iter(first.response))
    first.close()
    second.close()
    third = Visitor(app).get(events)
    assert third.status_code == 200
    third.close()


# That is what a server does which loads the app before it forks.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_forked_process_subscribes(server: Server) -> None:
    """A process that was forked from one with a subscriber starts its own."""
    app = create_app({**UNLIMITED, **urls(server)})

    with app.app_context(), get_feed().watch(1):
        wait_until(lambda: subscribers(app) == 1, "the parent has subscribed")
        done = os.pipe()

        if (child := os.fork()) == 0:
            with get_feed().watch(2):
                time.sleep(POLL)
                os.write(done[1], str(subscribers(app)).encode())
                os._exit(0)

        assert os.read(done[0], 10) == b"2"
        os.waitpid(child, 0)
        os.close(done[0])
        os.close(done[1])


def test_status(app: Flask) -> None:
    """The status page shows each prefix, its ping and its pool."""
    response = Visitor(app, "Ada").get("/status")
    assert response.status_code == 200
    assert re.findall(r"<h2>(.*)</h2>", response.text) == list(PREFIXES)
    assert response.text.count('<span class="badge ok">answers</span>') == 3
    assert len(re.findall(r"<dd>\d+\.\d ms</dd>", response.text)) == 3
    # Logging in has used the sessions, and nothing has used the rest.
    pools = re.findall(r"<dt>Connections</dt>\s*<dd>([^<]*)</dd>", response.text)
    assert pools[:2] == ["none yet"] * 2
    assert pools[2].startswith("0 in use, 1 idle")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_outage_and_recovery(start: Starter, prefix: str) -> None:
    """While one of the databases is down each page that needs it says so, in bounded
    time; the status page shows which one. When it is back all works again.
    """
    server = start(Server)
    deadline = 1.0
    bounds = {f"{it}_RETRY_DEADLINE": deadline for it in PREFIXES}
    app = create_app({**UNLIMITED, **bounds, f"{prefix}_URL": server.url})
    ada = Visitor(app, "Ada")
    thread = ada.start("Before")
    page = ada.get(thread)
    token = re.search(r'value="([^"]+)"', page.text)
    assert token is not None
    server.kill()

    for number, path in enumerate(("/", thread, "/threads/new", "/login")):
        if prefix != "REDIS_SESSIONS" and number > 1:
            continue

        started = time.monotonic()
        response = ada.get(path)
        assert time.monotonic() - started < deadline + 3
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "5"
        assert "cannot reach its memory" in response.text
        assert str(server.port) not in response.text

    form = {"text": "Lost", "csrf_token": token[1]}
    assert ada.client.post(thread, data=form).status_code == 503

    with ada.get("/static/style.css") as style:
        assert style.status_code == 200

    response = ada.get("/status")
    assert response.status_code == 503
    assert re.findall(r'<span class="badge (\w+)">', response.text) == [
        "down" if it == prefix else "ok" for it in PREFIXES
    ]

    server.start()
    visitor = Visitor(app, "Grace")
    assert visitor.start("After") is not None
    assert ada.get("/status").status_code == 200


def test_hung_sessions(start: Starter) -> None:
    """A server that accepts and says nothing holds a request for the deadline and one
    try. What a view did before the session could not be saved stays, and the visitor
    is told.
    """
    server = start(Server)
    settings = {"REDIS_SESSIONS_URL": server.url, "REDIS_SESSIONS_RETRY_DEADLINE": 0.5}
    app = create_app({**UNLIMITED, **settings})

    @app.get("/pause")
    def pause() -> str:
        server.pause()
        return "Done"

    ada = Visitor(app, "Ada")

    try:
        started = time.monotonic()
        response = ada.get("/pause")
        assert time.monotonic() - started < 5
        assert response.status_code == 503
        assert "cannot reach its memory" in response.text
        started = time.monotonic()
        assert ada.get("/").status_code == 503
        assert time.monotonic() - started < 5
    finally:
        server.resume()

    assert ada.get("/").status_code == 200


def test_subscriber_survives_an_outage(start: Starter) -> None:
    """A viewer that stays through an outage is told what comes after it."""
    server = start(Server)
    app = create_app({**UNLIMITED, "REDIS_LINKS_URL": server.url})

    with app.app_context():
        thread_id = store.start_thread("Ada", "Title", "Text")

        with get_feed().watch(thread_id) as changed:
            wait_until(lambda: subscribers(app) == 1, "the process has subscribed")
            server.kill()
            server.start()
            changed.clear()
            wait_until(lambda: subscribers(app) == 1, "it has subscribed again")
            # What was published meanwhile was not heard, so there is a look.
            assert changed.wait(5)
            changed.clear()
            store.links.publish(CHANNEL, thread_id)
            assert changed.wait(5)


@contextlib.contextmanager
def gunicorn(log: Path, settings: dict[str, str]) -> cabc.Iterator[int]:
    """The port that gunicorn serves the board on, as "make run-gunicorn" does."""
    port = reserve("127.0.0.1")
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}"]
    command += ["--config", "examples/comments/gunicorn.conf.py"]
    command += ["examples.comments:create_app()"]

    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            env={**os.environ, **settings},
            cwd=Path(__file__).parent.parent,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            wait_until(lambda: answers(port), "gunicorn answers", timeout=30)
            yield port
        finally:
            process.terminate()


def answers(port: int) -> bool:
    try:
        return request(port, "GET", "/")[0] == 200
    except OSError:
        return False


def request(
    port: int, method: str, path: str, body: str = "", **headers: str
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body, headers)

    with contextlib.closing(connection):
        response = connection.getresponse()
        return response.status, response.read().decode(), response.headers


def test_workers_share_the_board(server: Server, tmp_path: Path) -> None:
    """Two workers sign for each other, and tell each other's viewers of a comment. Each
    of them subscribes once.
    """
    with (
        server.admin(decode_responses=True) as admin,
        gunicorn(tmp_path / "log", urls(server)) as port,
        contextlib.ExitStack() as stack,
    ):
        links: t.Any = admin

        def numsub() -> int:
            return int(dict(links.pubsub_numsub(CHANNEL))[CHANNEL])

        page = request(port, "GET", "/login")
        cookie = page[2]["Set-Cookie"].split(";")[0]
        headers = {"Content-Type": "application/x-www-form-urlencoded"}

        def send(path: str, fields: str) -> str:
            form = request(port, "GET", path, Cookie=cookie)[1]
            token = re.search(r'name="csrf_token"[^>]* value="([^"]+)"', form)
            assert token is not None
            body = f"csrf_token={token[1]}&{fields}"
            found = request(port, "POST", path, body, Cookie=cookie, **headers)
            assert found[0] == 303, found
            return str(found[2]["Set-Cookie"]).split(";")[0]

        cookie = send("/login", "name=Ada")
        send("/threads/new", "title=Title&text=Text")
        viewers: list[http.client.HTTPResponse] = []

        # Which worker gets a viewer is up to the system.
        while numsub() < 2 or len(viewers) < 8:
            assert len(viewers) < 60
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            stack.callback(connection.close)
            connection.request("GET", "/threads/1/events?after=0")
            viewers.append(connection.getresponse())
            assert viewers[-1].readline() == b"retry: 2000\n"
            time.sleep(0.02)

        send("/threads/1", "text=Hello")

        for viewer in viewers:
            while not (line := viewer.readline()).startswith(b"data:"):
                assert line

            assert b"Hello" in line

        assert numsub() == 2


def test_serves(fake: Flask) -> None:
    """The board is served, with its style and its script."""
    with serve(fake) as url:
        port = int(url.rpartition(":")[2])

        for path in ("/", "/static/style.css", "/static/board.js", "/static/icon.svg"):
            assert request(port, "GET", path)[0] == 200


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (3599, "59 minutes ago"),
        (3600, "1 hour ago"),
        (90_000, "1 day ago"),
        (31 * 86400, "1 month ago"),
        (800 * 86400, "2 years ago"),
    ],
)
def test_times(seconds: float, text: str) -> None:
    """Times are told as people tell them."""
    assert ago(1_000_000_000 - seconds, 1_000_000_000) == text


def test_environment_wins_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """All settings of the prefixes come from the environment, unless empty."""
    monkeypatch.setenv("REDIS_LINKS_URL", "")
    monkeypatch.setenv("REDIS_CONTENT_URL", "redis://localhost:6390/4")
    monkeypatch.setenv("REDIS_CONTENT_MAX_CONNECTIONS", "7")
    app = create_app()
    assert list(app.extensions["redis"]) == list(PREFIXES)
    assert app.config["REDIS_LINKS_URL"] == "fakeredis:///0"
    client: redis.Redis = app.extensions["redis"]["REDIS_CONTENT"]
    assert client.connection_pool.max_connections == 7
    assert client.connection_pool.connection_kwargs["port"] == 6390
