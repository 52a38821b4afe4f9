"""The panel of Flask-DebugToolbar lists the Redis commands of a request."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import contextvars
import re
import threading
import typing as t
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

import pytest
import redis
from flask import copy_current_request_context
from flask import Flask
from flask import redirect
from flask import request
from flask import Response
from flask import stream_with_context
from flask.sessions import SecureCookieSession
from flask.sessions import SecureCookieSessionInterface
from flask_debugtoolbar import DebugToolbarExtension
from werkzeug.test import TestResponse

from flask_and_redis import command_finished
from flask_and_redis import RedisManager
from flask_and_redis.contrib import debug_toolbar

from .cutter import Cutter
from .servers import Server
from .test_health import make_manager
from .toolbar_app import create_app
from .toolbar_app import PANELS

PAGE = "<!doctype html><title>Page</title><body>Page</body>"


class Row(t.NamedTuple):
    """A row of the panel."""

    number: str
    milliseconds: str
    share: str
    command: str
    repeated: str
    tries: str
    error: str


@pytest.fixture(autouse=True)
def disconnected() -> cabc.Iterator[None]:
    """Other tests have no receivers."""
    yield
    command_finished.disconnect(debug_toolbar._record)


def add_toolbar(app: Flask, **config: t.Any) -> RedisManager:
    defaults = {
        "SECRET_KEY": "not-secret",
        "DEBUG_TB_ENABLED": True,
        "DEBUG_TB_PANELS": PANELS,
    }
    manager = make_manager(app, **{**defaults, **config})
    DebugToolbarExtension(app)
    return manager


@pytest.fixture
def manager(app: Flask, server: Server) -> RedisManager:
    """That of an app with two prefixes and the toolbar."""
    return add_toolbar(app, REDIS_URL=f"{server.url}/0", CACHE_URL=f"{server.url}/1")


def subtitle(response: TestResponse) -> str:
    """What the navigation says below the panel's name."""
    match = re.search(
        r'<li id="flDebugRedisPanel">.*?<small>(.*?)</small>', response.text, re.S
    )
    assert match is not None
    return match[1]


def content(response: TestResponse) -> str:
    """The panel."""
    return response.text.partition('<div id="flDebugRedisPanel-content"')[2]


def sections(response: TestResponse) -> dict[str, list[Row]]:
    """The rows of the panel by prefix."""
    pattern = r"<h4>(.*?)</h4>.*?(<table.*?</table>)"
    tables = re.findall(pattern, content(response), re.S)
    return {
        prefix: [
            Row(*(cell.text or "" for cell in row))
            for row in ElementTree.fromstring(table).iterfind("tbody/tr")
        ]
        for prefix, table in tables
    }


def commands(response: TestResponse) -> dict[str, list[str]]:
    """The commands in the panel by prefix."""
    return {
        prefix: [row.command for row in rows]
        for prefix, rows in sections(response).items()
    }


def test_page(server: Server) -> None:
    """The panel lists the commands by prefix and in order, with their durations and
    shares, and says which are repeated.
    """
    app = create_app(server.url)
    client = app.test_client()

    # The second request shows only its own commands, too.
    for _ in range(2):
        response = client.get("/")
        shown = sections(response)
        assert list(shown) == ["CACHE", "REDIS"]
        assert [(row.number, row.command) for row in shown["CACHE"]] == [
            ("1", "GET"),
            ("9", "SET"),
        ]
        assert [(row.number, row.command, row.repeated) for row in shown["REDIS"]] == [
            ("2", "LRANGE", ""),
            *((str(number), "HGET", "5 times") for number in range(3, 8)),
            ("8", "Pipeline of 2: INCRBY, GET", ""),
        ]
        rows = [row for rows in shown.values() for row in rows]
        assert {(row.tries, row.error) for row in rows} == {("1", "")}
        assert all(float(row.milliseconds) > 0 for row in rows)
        shares = [float(row.share.removesuffix(" %")) for row in rows]
        assert sum(shares) == pytest.approx(100, abs=1)
        repeated = re.findall(r"Repeated:(.*?)</p>", response.text, re.S)
        # Only that of REDIS.
        assert [" ".join(text.split()) for text in repeated] == [
            "<strong>HGET 5 times</strong>"
        ]
        total = sum(float(row.milliseconds) for row in rows)
        match = re.fullmatch(r"9 commands in (\d+\.\d\d) ms", subtitle(response))
        assert match is not None
        assert float(match[1]) == pytest.approx(total, abs=0.02)


def test_without_commands(server: Server) -> None:
    """A request without commands has no panel to open."""
    response = create_app(server.url).test_client().get("/empty")
    assert subtitle(response) == "0 commands"
    assert "flDebugRedisPanel-content" not in response.text


def test_one_command(app: Flask, manager: RedisManager) -> None:
    @app.get("/")
    def index() -> str:
        manager.get().ping()
        return PAGE

    response = app.test_client().get("/")
    assert subtitle(response).startswith("1 command in ")
    assert commands(response) == {"REDIS": ["PING"]}


def finish(app: Flask, prefix: str, command: str, seconds: float) -> None:
    """Tell the panel of a command that takes exactly this long."""
    values: dict[str, t.Any] = {"tries": 1, "error": None}
    values |= {"prefix": prefix, "commands": (command,), "seconds": seconds}
    command_finished.send(app, **values)


def test_figures(app: Flask, manager: RedisManager) -> None:
    """Durations are in milliseconds, and the shares of all prefixes are 100 %. A
    command that runs twice is repeated, but another prefix has commands of its own.
    """

    @app.get("/")
    def index() -> str:
        for prefix, command, seconds in (
            *[("REDIS", "SET", 0.006)] * 2,
            *[("REDIS", "GET", 0.0025)] * 3,
            ("CACHE", "GET", 0.0005),
        ):
            finish(app, prefix, command, seconds)

        return PAGE

    response = app.test_client().get("/")
    assert subtitle(response) == "6 commands in 20.00 ms"
    assert sections(response) == {
        "REDIS": [
            Row("1", "6.000", "30.0 %", "SET", "2 times", "1", ""),
            Row("2", "6.000", "30.0 %", "SET", "2 times", "1", ""),
            Row("3", "2.500", "12.5 %", "GET", "3 times", "1", ""),
            Row("4", "2.500", "12.5 %", "GET", "3 times", "1", ""),
            Row("5", "2.500", "12.5 %", "GET", "3 times", "1", ""),
        ],
        "CACHE": [Row("6", "0.500", "2.5 %", "GET", "", "1", "")],
    }
    totals = re.findall(r"</h4>\s*<p>(.*?)</p>", content(response), re.S)
    assert [" ".join(re.sub("<.*?>", "", text).split()) for text in totals] == [
        "5 commands in 19.50 ms. Repeated: GET 3 times, SET 2 times",
        "1 command in 0.50 ms",
    ]


def test_coarse_clock(app: Flask, manager: RedisManager) -> None:
    """A clock may be too coarse to measure any of the commands."""

    @app.get("/")
    def index() -> str:
        finish(app, "REDIS", "GET", 0.0)
        return PAGE

    (row,) = sections(app.test_client().get("/"))["REDIS"]
    assert (row.milliseconds, row.share) == ("0.000", "0.0 %")


def test_pipelines(app: Flask, manager: RedisManager) -> None:
    """A pipeline takes a row, however long it is, and is repeated like a command."""

    @app.get("/")
    def index() -> str:
        pipeline: t.Any

        for _ in range(2):
            with manager.get().pipeline() as pipeline:
                for number in range(1000):
                    pipeline.set(f"k{number}", "v").expire(f"k{number}", 60)

                pipeline.dbsize().execute()

        return PAGE

    rows = sections(app.test_client().get("/"))["REDIS"]
    label = "Pipeline of 2001: 1000 × SET, 1000 × EXPIRE, DBSIZE"
    assert [(row.command, row.repeated) for row in rows] == [(label, "2 times")] * 2


def test_errors(app: Flask, manager: RedisManager) -> None:
    """An error is told by its class only. No keys and arguments are on the page, and
    what an app passes for a command is escaped.
    """
    wrong = "<script>alert(1)</script>"

    @app.get("/")
    def index() -> str:
        client: t.Any = manager.get()
        client.set("s3cret-key", "s3cret-value")

        for command in ("INCR", wrong):
            with pytest.raises(redis.ResponseError):
                client.execute_command(command, "s3cret-key")

        return PAGE

    response = app.test_client().get("/")
    rows = sections(response)["REDIS"]
    assert [(row.command, row.error) for row in rows] == [
        ("SET", ""),
        ("INCR", "ResponseError"),
        (wrong.upper(), "ResponseError"),
    ]
    assert wrong.upper() not in response.text
    assert "s3cret" not in response.text


def test_tries(app: Flask, cutter: Cutter) -> None:
    """The panel says how often a command was tried."""
    manager = add_toolbar(app, REDIS_URL=cutter.url)

    @app.get("/")
    def index() -> str:
        cutter.lose(b"first")
        manager.get().get("first")
        return PAGE

    (row,) = sections(app.test_client().get("/"))["REDIS"]
    assert (row.command, row.tries, row.error) == ("GET", "2", "")


def test_requests_at_once(app: Flask, manager: RedisManager) -> None:
    """Each page shows only the commands of its own request."""
    barrier = threading.Barrier(4)

    @app.get("/<int:number>")
    def index(number: int) -> str:
        for _ in range(number):
            barrier.wait(30)
            manager.get().echo(str(number))
            barrier.wait(30)

        for _ in range(number, 4):
            barrier.wait(30)
            barrier.wait(30)

        return PAGE

    def get(number: int) -> TestResponse:
        return app.test_client().get(f"/{number}")

    with ThreadPoolExecutor(4) as pool:
        responses = list(pool.map(get, range(1, 5)))

    for number, response in enumerate(responses, 1):
        assert commands(response) == {"REDIS": ["ECHO"] * number}


def test_threads(app: Flask, manager: RedisManager) -> None:
    """Commands of threads with a copy of the request's context are listed, and those
    of other threads are not.
    """

    def run(function: cabc.Callable[..., object], *args: t.Any) -> None:
        thread = threading.Thread(target=function, args=args)
        thread.start()
        thread.join()

    @app.get("/")
    def index() -> str:
        client: t.Any = manager.get()
        run(contextvars.copy_context().run, client.get, "k")
        run(copy_current_request_context(client.exists), "k")
        run(manager.get().connection.ping)

        @run
        def _() -> None:
            with app.app_context():
                client.delete("k")

        client.set("k", "v")
        return PAGE

    response = app.test_client().get("/")
    assert commands(response) == {"REDIS": ["GET", "EXISTS", "SET"]}


def test_async(app: Flask, manager: RedisManager) -> None:
    """Asynchronous commands are listed, also those of tasks. The toolbar itself does
    not support views that are asynchronous.
    """

    async def use() -> None:
        async with manager.get_async("CACHE") as cache:
            await cache.set("k", "v")
            pipeline: t.Any = cache.pipeline()
            await pipeline.get("k").get("k").execute()
            await asyncio.gather(cache.get("k"), cache.get("k"))

    @app.get("/")
    def index() -> str:
        app.ensure_sync(use)()
        manager.get().ping()
        return PAGE

    response = app.test_client().get("/")
    assert commands(response) == {
        "CACHE": ["SET", "Pipeline of 2: 2 × GET", "GET", "GET"],
        "REDIS": ["PING"],
    }


def test_redirect(app: Flask, manager: RedisManager) -> None:
    """The page that the toolbar shows instead of a redirect has the commands."""

    @app.post("/")
    def index() -> t.Any:
        manager.get().incr("k")
        return redirect("/other")

    response = app.test_client().post("/")
    assert response.status_code == 200
    assert commands(response) == {"REDIS": ["INCRBY"]}


class Sessions(SecureCookieSessionInterface):
    """Sessions that are loaded from Redis."""

    def __init__(self, client: t.Any) -> None:
        self._client = client

    def open_session(self, app: Flask, request: t.Any) -> SecureCookieSession | None:
        self._client.get("session")
        return super().open_session(app, request)


def test_around_the_view(app: Flask, manager: RedisManager) -> None:
    """Commands are listed that run before the toolbar is there, and after the view."""
    app.session_interface = Sessions(manager.get())

    @app.get("/")
    def index() -> str:
        return PAGE

    @app.after_request
    def count(response: Response) -> Response:
        manager.get().incr("pages")
        return response

    assert commands(app.test_client().get("/")) == {"REDIS": ["GET", "INCRBY"]}


def test_stream(app: Flask, manager: RedisManager) -> None:
    """Commands after the response are not kept: a stream may last for hours."""

    @app.get("/")
    def index() -> Response:
        def stream() -> cabc.Iterator[str]:
            manager.get().ping()
            kept = vars(t.cast(t.Any, request)._get_current_object())
            yield str(kept[debug_toolbar._CALLS])

        manager.get().ping()
        return Response(stream_with_context(stream()))

    assert app.test_client().get("/").text == "None"


@pytest.mark.parametrize(
    "changes", [{"DEBUG_TB_ENABLED": False}, {"DEBUG_TB_PANELS": PANELS[:-1]}]
)
def test_without_panel(app: Flask, server: Server, changes: dict[str, t.Any]) -> None:
    """An app without the panel has no receiver, and one with it does not add one to
    other apps.
    """
    before = {*command_finished.receivers}
    add_toolbar(app, REDIS_URL=server.url, **changes)
    assert {*command_finished.receivers} <= before
    other = create_app(server.url)
    assert debug_toolbar._record in list(command_finished.receivers_for(other))
    assert debug_toolbar._record not in list(command_finished.receivers_for(app))
