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
import tempfile
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from ephemeral_port_reserve import reserve
from flask import Flask
from flask.testing import FlaskClient
from jinja2 import BytecodeCache
from jinja2 import FileSystemBytecodeCache
from werkzeug.test import TestResponse

from examples.comments import create_app
from examples.comments import PREFIXES
from examples.comments import store
from examples.comments.auth import local_path
from examples.comments.live import get_feed
from examples.comments.live import POLL
from examples.comments.store import CHANNEL
from examples.comments.times import ago
from flask_and_redis import prefix_down
from flask_and_redis import prefix_up

from .browser import serve
from .conftest import Starter
from .pages import DOCS
from .servers import Server
from .servers import wait_until

pytestmark = pytest.mark.untraced

UNLIMITED = {"RATELIMIT_ENABLED": False}


@pytest.fixture(scope="module")
def compiled_templates() -> cabc.Iterator[BytecodeCache]:
    """Apps of later tests need not compile the templates again."""
    with tempfile.TemporaryDirectory() as directory:
        yield FileSystemBytecodeCache(directory)


@pytest.fixture(autouse=True)
def environment(
    monkeypatch: pytest.MonkeyPatch, compiled_templates: BytecodeCache
) -> None:
    monkeypatch.setitem(Flask.jinja_options, "bytecode_cache", compiled_templates)

    for name in os.environ:
        if name.startswith(PREFIXES) or name == "SECRET_KEY":
            monkeypatch.delenv(name)


def urls(server: Server) -> dict[str, str]:
    """Settings that give each prefix its own database."""
    return {f"{prefix}_URL": f"{server.url}/{db}" for db, prefix in enumerate(PREFIXES)}


@pytest.fixture(params=["fakeredis", "server"])
def app(request: pytest.FixtureRequest) -> Flask:
    """The board, once with fakeredis and once with a server."""
    if request.param == "fakeredis":
        return create_app(UNLIMITED)

    return create_app({**UNLIMITED, **urls(request.getfixturevalue("server"))})


@pytest.fixture
def fake() -> Flask:
    """The board with fakeredis."""
    return create_app(UNLIMITED)


class Visitor:
    """A user whose browser has no JavaScript."""

    def __init__(self, app: Flask, name: str | None = None) -> None:
        self.client: FlaskClient = app.test_client()

        if name is not None:
            response = self.send("/login", name=name)
            assert (response.status_code, response.location) == (303, "/")

    def get(self, path: str) -> TestResponse:
        return self.client.get(path)

    def send(self, path: str, form: str | None = None, **fields: str) -> TestResponse:
        """Fill in the form of a page and send it.

        :param form: The page with the form, if it is not ``path``.
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
    return re.findall(
        r'<h2 dir="auto"><a href="/threads/\d+">(.*)</a></h2>', response.text
    )


def comments(response: TestResponse) -> list[tuple[str, str]]:
    """The numbers and texts of a page's comments."""
    return re.findall(
        r'id="comment-(\d+)">.*?<p class="text" dir="auto">(.*?)</p>',
        response.text,
        re.S,
    )


def keys(app: Flask) -> dict[str, set[str]]:
    """The keys in the databases of REDIS_LINKS and REDIS_CONTENT."""
    clients: t.Any = app.extensions["redis"]
    return {
        prefix: set(clients[prefix].keys())
        for prefix in ("REDIS_LINKS", "REDIS_CONTENT")
    }


def test_conversation(app: Flask) -> None:
    """Two users log in, start threads and comment. The thread with the latest activity
    comes first.
    """
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
    # Each prefix has only its own keys.
    assert keys(app) == {
        "REDIS_LINKS": {
            *("threads", "threads:by:Ada", "threads:by:Grace", "thread:1:comments"),
            *("authors", "count:threads", "count:comments", "count:live"),
        },
        "REDIS_CONTENT": {"thread:1", "thread:2", "comment:1", "comment:2"},
    }
    kinds = {key.split(b":")[0] for key in app.extensions["redis"][PREFIXES[2]].keys()}
    assert kinds == {b"session"}


def test_owner_deletes_thread(app: Flask) -> None:
    """Only the user who started a thread can delete it. After a confirmation, the
    thread and its comments are deleted.
    """
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
    assert "The thread “Gone” was deleted." in page.text
    assert "1 thread, 1 comment<" in page.text
    assert ada.get(gone).status_code == 404
    assert ada.send(f"{gone}/delete", form=kept).status_code == 404
    assert keys(app) == {
        "REDIS_LINKS": {
            *("threads", "threads:by:Ada", "thread:1:comments"),
            *("authors", "count:threads", "count:comments", "count:live"),
        },
        "REDIS_CONTENT": {"thread:1", "comment:1"},
    }


def test_comment_of_deleted_thread_is_not_kept(app: Flask) -> None:
    """A comment on a thread that is deleted at that moment is not stored."""
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
    """A script that runs twice has the same effect as one that runs once. The client
    sends a script again if the reply was lost.
    """
    with app.app_context():
        thread = store.get_thread(store.start_thread("Ada", "Title", "Text"))
        assert thread is not None
        used_keys = [store.THREADS, store.comments_of(thread.id), store.COMMENTS_COUNT]
        used_keys.append(store.AUTHORS)
        add = store.links.register_script(store.ADD_COMMENT)

        for _ in range(2):
            assert add(keys=used_keys, args=[thread.id, "7", "Ada", 1.0, CHANNEL]) == 1

        assert store.count_all() == (1, 1)
        assert store.links.lrange(used_keys[1], 0, -1) == ["7"]
        unlink = store.links.register_script(store.UNLINK_THREAD)
        used_keys.insert(1, store.by_author("Ada"))
        used_keys.remove(store.AUTHORS)

        for _ in range(2):
            assert unlink(keys=used_keys, args=[thread.id, CHANNEL]) == ["7"]

        assert store.count_all() == (0, 0)


def test_simultaneous_comments(app: Flask) -> None:
    """Comments that are posted at the same time are all stored and counted."""
    with app.app_context():
        thread_id = store.start_thread("Ada", "Title", "Text")

    def comment(number: int) -> None:
        with app.app_context():
            assert store.add_comment(thread_id, "Ada", str(number))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(comment, range(40)))

    with app.app_context():
        stored = store.list_comments_after(thread_id, 0)
        assert stored is not None
        assert {entry.text for entry in stored} == set(map(str, range(40)))
        assert [entry.number for entry in stored] == list(range(1, 41))
        assert store.count_all() == (1, 40)


def test_pages(app: Flask) -> None:
    """Threads and comments are shown in pages, newest first, each exactly once."""
    with app.app_context():
        for number in range(1, 26):
            store.start_thread("Ada", f"T{number}", "Text")

        for number in range(1, 46):
            store.add_comment(25, "Ada", f"C{number}")

    visitor = Visitor(app)
    assert titles(visitor.get("/")) == [f"T{number}" for number in range(25, 15, -1)]
    assert titles(visitor.get("/?page=3")) == [
        f"T{number}" for number in range(5, 0, -1)
    ]
    assert 'rel="next" href="/?page=2"' in visitor.get("/").text
    assert 'rel="prev" href="/by/Ada?page=1"' in visitor.get("/by/Ada?page=2").text

    for page, numbers in {
        1: range(45, 25, -1),
        2: range(25, 5, -1),
        3: range(5, 0, -1),
    }.items():
        response = visitor.get(f"/threads/25?page={page}")
        assert comments(response) == [(str(number), f"C{number}") for number in numbers]
        # Only the first page shows new comments.
        assert ("data-events" in response.text) == (page == 1)


@pytest.mark.parametrize("path", ["/", "/by/Ada", "/threads/1"])
@pytest.mark.parametrize("page", ["2", "9" * 30])
def test_page_behind_the_last(fake: Flask, path: str, page: str) -> None:
    """A page number after the last page is a 404, however large the number is."""
    Visitor(fake, "Ada").start()
    assert Visitor(fake).get(f"{path}?page={page}").status_code == 404


@pytest.mark.parametrize("page", ["0", "-1", "x", ""])
def test_page_that_is_no_number(fake: Flask, page: str) -> None:
    """An invalid page number shows the first page."""
    assert Visitor(fake).get(f"/?page={page}").status_code == 200


def test_authors(app: Flask) -> None:
    """A name has a page once its user has written something, and users see their own
    page before. For any other name it is a 404.
    """
    ada, grace, alan = (Visitor(app, name) for name in ("Ada", "Grace", "Alan"))
    thread = ada.start()
    grace.comment(thread, "Hello")
    assert ada.send(f"{thread}/delete").status_code == 303

    for name in ("Ada", "Grace"):
        response = alan.get(f"/by/{name}")
        assert response.status_code == 200
        assert "has not started any threads" in response.text

    assert alan.get("/by/Alan").status_code == 200
    response = ada.get("/by/Alan")
    assert response.status_code == 404
    assert "Nobody with this name" in response.text


def test_direction_of_texts(fake: Flask) -> None:
    """Each text that a user wrote has its own direction, also while it is written."""
    hebrew = {name: f"שלום {name}" for name in ("name", "title", "text", "comment")}
    visitor = Visitor(fake, hebrew["name"])
    thread = visitor.start(hebrew["title"], hebrew["text"])
    visitor.comment(thread, hebrew["comment"])
    author = f"/by/{hebrew['name']}"
    shown = {
        text
        for path in ("/", author, thread, f"{thread}/delete")
        for text in re.findall(
            r'<(?:\w+ [^>]*dir="auto"[^>]*|bdi)>(?:<\w+[^>]*>)?([^<]+)',
            visitor.get(path).text,
        )
    }
    assert shown >= {*hebrew.values()}

    for path in ("/", author, thread, f"{thread}/delete"):
        # Outside of these elements there are no texts, except in the page's title.
        page = re.sub("<title>.*</title>", "", visitor.get(path).text)
        page = re.sub(r'<(\w+) [^>]*dir="auto".*?</\1>|<bdi>.*?</bdi>', "", page)
        assert "שלום" not in re.sub("<[^>]*>", "", page).replace("thread “", ""), path

    for path in ("/login", "/threads/new", thread):
        fields = re.findall(r"<(?:input|textarea) [^>]*>", visitor.get(path).text)
        visible = [field for field in fields if "hidden" not in field]
        assert visible and all('dir="auto"' in field for field in visible)


@pytest.mark.parametrize("path", ["", "/delete"])
@pytest.mark.parametrize("thread", ["7", "0", "9" * 30])
def test_unknown_thread(fake: Flask, path: str, thread: str) -> None:
    """A thread that does not exist is a 404 with an explanation."""
    response = Visitor(fake, "Ada").get(f"/threads/{thread}{path}")
    assert response.status_code == 404
    assert "This thread does not exist" in response.text


def test_all_input_is_escaped(fake: Flask) -> None:
    """User input is escaped on all pages and in live updates."""
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
        ("/login", {"name": "A" * 31}, "Please use at most 30 characters."),
        ("/login", {"name": "A\u200bda"}, "Please use only visible characters."),
        ("/threads/new", {"text": "Text"}, "The title is missing."),
        ("/threads/new", {"title": "T" * 101, "text": "x"}, "at most 100 characters."),
        ("/threads/new", {"title": "Title"}, "The text is missing."),
        ("/threads/new", {"title": "T", "text": "x" * 2001}, "at most 2000 characters"),
        ("/threads/1", {"text": " \r\n "}, "Your comment is missing."),
        ("/threads/1", {"text": "x" * 2001}, "Please use at most 2000 characters."),
    ],
)
def test_faulty_form(fake: Flask, path: str, form: dict[str, str], fault: str) -> None:
    """A form with an invalid field is rejected. The form stays filled in, and nothing
    is stored.
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
    """A comment with exactly the maximum length is accepted. A line break counts as one
    character.
    """
    visitor = Visitor(fake, "Ada")
    thread = visitor.start()
    visitor.comment(thread, "\r\n".join("x" * 1000))
    assert visitor.get(thread).text.count("x\n") == 999
    assert visitor.send(thread, text="x" * 70_000).status_code == 413


@pytest.mark.parametrize(
    "path", ["/login", "/logout", "/threads/new", "/threads/1", "/threads/1/delete"]
)
def test_form_without_token(fake: Flask, path: str) -> None:
    """A form without a valid CSRF token is rejected."""
    visitor = Visitor(fake, "Ada")
    visitor.start()
    before = keys(fake)
    fields = {"name": "Eve", "title": "Title", "text": "Text"}

    for token in ({}, {"csrf_token": "forged"}):
        response = visitor.client.post(path, data={**fields, **token})
        assert response.status_code == 400
        assert "Form expired" in response.text
        # The page knows that the user is logged in.
        assert ">Ada</a>" in response.text
        assert "Log in" not in response.text

    assert keys(fake) == before
    assert ">Ada</a>" in visitor.get("/").text


def test_login(fake: Flask) -> None:
    """A page that needs a user redirects to the login, which redirects back. Logging in
    changes the session's ID, and logging out deletes the session.
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
    """Visitors who only read do not create a session."""
    thread = Visitor(fake, "Ada").start()
    sessions: t.Any = fake.extensions["redis"]["REDIS_SESSIONS"]
    before = sessions.dbsize()
    visitor = Visitor(fake)

    for path in ("/", thread, "/status", "/static/style.css"):
        with visitor.get(path) as response:
            assert response.status_code == 200

    assert sessions.dbsize() == before


@pytest.mark.parametrize(
    ("target", "expected"),
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
def test_login_leads_to_this_site(
    fake: Flask, target: str | None, expected: str
) -> None:
    """The login never redirects to another site."""
    with fake.test_request_context():
        assert local_path(target) == expected


@pytest.mark.parametrize("kind", ["fakeredis", "server"])
def test_rate_limit(kind: str, request: pytest.FixtureRequest) -> None:
    """After ten posts within a minute, a user has to wait. Rejected posts do not count,
    and other users are not affected. The sessions' database stores the counts.
    """
    # Set explicitly, because a Limiter keeps the setting of the previous app.
    settings: dict[str, t.Any] = {"RATELIMIT_ENABLED": True}

    if kind == "server":
        settings |= urls(request.getfixturevalue("server"))

    app = create_app(settings)
    ada, grace = Visitor(app, "Ada"), Visitor(app, "Grace")
    thread = ada.start()

    for _ in range(6):
        assert ada.send(thread, text="").status_code == 400
        assert ada.send("/threads/new", title="Title").status_code == 400
        assert ada.send("/threads/7", form=thread, text="Lost").status_code == 404

    for number in range(9):
        ada.comment(thread, f"Comment {number}")

    response = ada.send(thread, text="One more")
    assert response.status_code == 429
    assert "Too many requests" in response.text
    assert "One more" not in ada.get(thread).text
    grace.comment(thread, "Mine")
    kinds = {key.split(b":")[0] for key in app.extensions["redis"][PREFIXES[2]].keys()}
    assert kinds == {b"session", b"LIMITS"}


def read_event(stream: cabc.Iterator[t.Any], name: str) -> bytes:
    """Return the next event of a stream. Heartbeats and retry hints are skipped."""
    while (chunk := next(stream)).startswith((b"event: heartbeat", b"retry:")):
        pass

    assert f"event: {name}\n".encode() in chunk
    return t.cast(bytes, chunk)


def subscribers(app: Flask) -> int:
    """The number of connections that are subscribed to the channel."""
    links: t.Any = app.extensions["redis"]["REDIS_LINKS"]
    return int(dict(links.pubsub_numsub(CHANNEL))[CHANNEL])


def test_viewers_share_one_subscriber(app: Flask) -> None:
    """All viewers in a process receive comments and deletions over one shared
    connection. It is released when the last viewer leaves.
    """
    ada = Visitor(app, "Ada")
    first, second = ada.start(), ada.start()
    ada.comment(first, "One")
    paths = [first] * 4 + [second]
    responses = [Visitor(app).get(f"{path}/events?after=0") for path in paths]
    streams = [iter(response.response) for response in responses]
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
    """A browser that reconnects gets the comments that it missed, each once."""
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


def test_browser_comes_back_to_deleted_thread(fake: Flask) -> None:
    """A browser that reconnects after the thread was deleted gets that event."""
    response = Visitor(fake).get("/threads/7/events?after=3")
    assert response.status_code == 200
    stream = iter(response.response)
    read_event(stream, "deleted")
    assert next(stream, None) is None


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_lost_updates(start: Starter, fault: str) -> None:
    """If live updates are lost, the response ends, so that the browser notices. A dead
    server breaks the subscription. A hung one is noticed after a heartbeat.
    """
    server = start(Server)
    settings: dict[str, t.Any] = {"HEARTBEAT": 600 if fault == "kill" else 0.5}
    settings |= {"REDIS_LINKS_URL": server.url, "REDIS_LINKS_RETRY_DEADLINE": 0.5}
    app = create_app({**UNLIMITED, **settings})
    response = Visitor(app).get(f"{Visitor(app, 'Ada').start()}/events")
    heartbeat = b"event: heartbeat\ndata:\n\n"

    with ThreadPoolExecutor(1) as threads:
        received = threads.submit(lambda: {*response.response})
        wait_until(lambda: subscribers(app) == 1, "the process has subscribed")
        # The new subscription also wakes the viewer.
        time.sleep(2 * POLL)
        assert not received.done()
        getattr(server, fault)()

        try:
            assert received.result(30) == {b"retry: 2000\n\n", heartbeat}
        finally:
            if fault == "pause":
                server.resume()

    response.close()


def test_heartbeat() -> None:
    """An idle viewer gets heartbeats. So the server notices when the viewer has gone,
    and the browser when the server has.
    """
    app = create_app({**UNLIMITED, "HEARTBEAT": 0.05})
    response = Visitor(app).get(f"{Visitor(app, 'Ada').start()}/events")
    stream = iter(response.response)
    assert next(stream) == b"retry: 2000\n\n"

    for _ in range(3):
        assert next(stream) == b"event: heartbeat\ndata:\n\n"

    response.close()


def test_too_many_viewers() -> None:
    """The number of viewers is limited. When one leaves, another is accepted."""
    app = create_app({**UNLIMITED, "MAX_VIEWERS": 2})
    events = f"{Visitor(app, 'Ada').start()}/events"
    first, second = Visitor(app).get(events), Visitor(app).get(events)
    response = Visitor(app).get(events)
    assert response.status_code == 503
    assert "There are too many viewers" in response.text
    # Closing frees a place, whether or not the stream has started.
    next(iter(first.response))
    first.close()
    second.close()
    third = Visitor(app).get(events)
    assert third.status_code == 200
    third.close()


# A server that loads the app before it forks does the same.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_forked_process_subscribes(server: Server) -> None:
    """If the parent process has a subscriber, a forked process starts its own."""
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
    assert response.text.count('<span class="badge ok">up</span>') == 3
    assert len(re.findall(r"<dd>\d+\.\d ms</dd>", response.text)) == 3
    # The login used only the sessions' client.
    pools = status_of(response, "Connections")
    assert status_of(response, "Commands") == ["are sent"] * 3
    assert status_of(response, "Last outage") == ["none"] * 3
    assert "figures differ between processes" in response.text
    assert pools[:2] == ["none yet"] * 2
    assert pools[2].startswith("0 in use, 1 idle")


def status_of(response: TestResponse, label: str) -> list[str]:
    """What the status page says about each prefix, as text."""
    texts = re.findall(rf"<dt>{label}</dt>\s*<dd>(.*?)</dd>", response.text, re.DOTALL)
    return [re.sub(r"<[^>]*>", "", text) for text in texts]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_outage_and_recovery(start: Starter, prefix: str) -> None:
    """While a database is down, each page that needs it explains the problem within a
    limited time. The status page shows which database is down. Everything works again
    once the database is back.
    """
    server = start(Server)
    deadline = 1.0
    deadlines = {f"{name}_RETRY_DEADLINE": deadline for name in PREFIXES}
    app = create_app({**UNLIMITED, **deadlines, f"{prefix}_URL": server.url})
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
        assert "A database does not respond" in response.text
        assert str(server.port) not in response.text

    form = {"text": "Lost", "csrf_token": token[1]}
    assert ada.client.post(thread, data=form).status_code == 503

    for path in ("/", "/status"):
        # Without her session, nobody knows whether she is logged in.
        page = ada.get(path)
        assert "Log in" not in page.text
        assert (">Ada</a>" in page.text) == (prefix != "REDIS_SESSIONS")

    with ada.get("/static/style.css") as style:
        assert style.status_code == 200

    response = ada.get("/status")
    assert response.status_code == 503
    assert re.findall(r'<span class="badge (\w+)">', response.text) == [
        "down" if name == prefix else "ok" for name in PREFIXES
    ]
    number = PREFIXES.index(prefix)
    assert [text == "fail immediately" for text in status_of(response, "Commands")] == [
        name == prefix for name in PREFIXES
    ]
    outages = status_of(response, "Last outage")
    lasting, *others = outages[number:] + outages[:number]
    assert re.fullmatch(r"just now, not over yet, \w+Error", lasting)
    assert others == ["none"] * 2

    server.start()
    # A server that is down is asked every half second whether it is back.
    wait_until(lambda: ada.get("/").status_code == 200, "the prefix is up again")
    visitor = Visitor(app, "Grace")
    assert visitor.start("After") is not None
    response = ada.get("/status")
    assert response.status_code == 200
    assert status_of(response, "Commands") == ["are sent"] * 3
    outage = status_of(response, "Last outage")[number]
    assert re.fullmatch(r"just now, for \d+\.\d s, \w+Error", outage)


def test_back_before_down() -> None:
    """Threads may tell that a prefix is back before they tell that it was down."""
    app = create_app(UNLIMITED)
    prefix_up.send(app, prefix="REDIS_LINKS", seconds=1.0)
    prefix_down.send(app, prefix="REDIS_LINKS", error=redis.ConnectionError("h:1"))
    outage = status_of(Visitor(app, "Ada").get("/status"), "Last outage")[0]
    assert outage == "just now, ConnectionError"


def test_other_errors_are_logged(fake: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """The log has an error that is no outage for each request."""
    with fake.app_context():
        store.links.set("threads", "no sorted set")

    assert Visitor(fake, "Ada").get("/").status_code == 503
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "A Redis command failed"
    ]


def test_hung_sessions(start: Starter) -> None:
    """If the sessions' server hangs, a request fails after the deadline plus one
    attempt. If the view has already finished, the visitor still sees the error.
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
        assert "A database does not respond" in response.text
        started = time.monotonic()
        assert ada.get("/").status_code == 503
        assert time.monotonic() - started < 5
    finally:
        server.resume()

    # For half a second after a probe, all commands fail.
    wait_until(lambda: ada.get("/").status_code == 200, "the page is back")


def test_subscriber_survives_an_outage(start: Starter) -> None:
    """A viewer that stays connected through an outage receives later changes."""
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
            # Messages may have been lost meanwhile, so the viewers must check again.
            assert changed.wait(5)
            changed.clear()
            store.links.publish(CHANNEL, thread_id)
            assert changed.wait(5)


@contextlib.contextmanager
def gunicorn(log: Path, settings: dict[str, str]) -> cabc.Iterator[int]:
    """Serve the board as "make run-gunicorn" does, and yield the port."""
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
    """Two workers accept each other's sessions and forms, and a comment reaches the
    viewers of both. Each worker subscribes once.
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
            response = request(port, "POST", path, body, Cookie=cookie, **headers)
            assert response[0] == 303, response
            return str(response[2]["Set-Cookie"]).split(";")[0]

        cookie = send("/login", "name=Ada")
        send("/threads/new", "title=Title&text=Text")
        viewers: list[http.client.HTTPResponse] = []

        # The operating system chooses the worker that serves a viewer.
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
            while not (line := viewer.readline()).startswith(b'data: "'):
                assert line

            assert b"Hello" in line

        assert numsub() == 2


def without_numbers(log: str) -> str:
    return re.sub(r"\d+", "0", log.replace("127.0.0.1", "localhost"))


LINE = r"\[[\d-]+ [\d:,]+\] \[(\d+)\] (\w+) flask_and_redis: The Redis 'REDIS_LINKS' .*"


def test_log_of_an_outage(start: Starter, tmp_path: Path) -> None:
    """The log tells about an outage in three lines for each worker, however many
    requests fail. The page about the example shows them.
    """
    server = start(Server)
    settings = {**urls(server), "REDIS_LINKS_RETRY_DEADLINE": "0.5"}
    log = tmp_path / "log"

    def get(path: str) -> int:
        return request(port, "GET", path)[0]

    def levels() -> list[list[str]]:
        """The levels of the lines of each worker that noticed the outage."""
        told: dict[str, list[str]] = {}

        for process, level in re.findall(LINE, log.read_text()):
            told.setdefault(process, []).append(level)

        return [each for each in told.values() if "ERROR" in each]

    def are_back() -> bool:
        assert get("/") in (200, 503)
        return all(each[-1] != "ERROR" for each in levels())

    with gunicorn(log, settings) as port:
        server.kill()

        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(get, ["/"] * 40)) == {503}

        server.start()
        # Each worker notices it at its next request.
        wait_until(are_back, "all workers are back", timeout=30)

    assert levels() in (n * [["WARNING", "ERROR", "WARNING"]] for n in (1, 2))
    page = (DOCS / "example.rst").read_text()
    lines = re.findall(r"^    (\[.* flask_and_redis: .*)$", page, re.M)
    assert len(lines) == 3

    for line in lines:
        beginning = without_numbers(line.removesuffix("..."))
        assert beginning in without_numbers(log.read_text())

    # gunicorn's own lines have another format.
    rest = re.sub(LINE, "", log.read_text())
    assert "Redis" not in rest
    assert "Traceback" not in rest


def test_serves(fake: Flask) -> None:
    """The board serves its page, style sheet, script and icon."""
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
    """Times are shown in words, such as "1 hour ago"."""
    assert ago(1_000_000_000 - seconds, 1_000_000_000) == text


def test_environment_wins_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment variables override the default settings, unless they are empty."""
    monkeypatch.setenv("REDIS_LINKS_URL", "")
    monkeypatch.setenv("REDIS_CONTENT_URL", "redis://localhost:6390/4")
    monkeypatch.setenv("REDIS_CONTENT_MAX_CONNECTIONS", "7")
    app = create_app()
    assert list(app.extensions["redis"]) == list(PREFIXES)
    assert app.config["REDIS_LINKS_URL"] == "fakeredis:///0"
    client: redis.Redis = app.extensions["redis"]["REDIS_CONTENT"]
    assert client.connection_pool.max_connections == 7
    assert client.connection_pool.connection_kwargs["port"] == 6390
