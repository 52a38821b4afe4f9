"""The comments board in a real browser, headless."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import os
import signal
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ephemeral_port_reserve import reserve
from flask import Flask

from examples.comments import create_app
from examples.comments import PREFIXES
from examples.comments import store

from .browser import comment
from .browser import expect
from .browser import log_in
from .browser import serve
from .browser import start_thread
from .conftest import Starter
from .servers import Server
from .servers import wait_until
from .test_comments import answers

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page

# Each wait for the browser has its own limit.
pytestmark = [pytest.mark.untraced, pytest.mark.once, pytest.mark.timeout(240)]

PHONE: t.Any = {"width": 360, "height": 740}


class Open(t.Protocol):
    def __call__(self, **options: t.Any) -> Page: ...


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for prefix in PREFIXES:
        monkeypatch.delenv(f"{prefix}_URL", raising=False)


@pytest.fixture
def server(start: Starter) -> Server:
    return start(Server)


@pytest.fixture
def app(server: Server) -> Flask:
    """The board on a real server, with short deadlines and heartbeats."""
    deadlines = {f"{prefix}_RETRY_DEADLINE": 0.5 for prefix in PREFIXES}
    urls = {f"{prefix}_URL": f"{server.url}/{db}" for db, prefix in enumerate(PREFIXES)}
    return create_app(
        {**urls, **deadlines, "HEARTBEAT": 0.5, "RATELIMIT_ENABLED": False}
    )


@pytest.fixture
def open_page(app: Flask, browser: Browser) -> cabc.Iterator[Open]:
    """Opens a page in a new browser context. No page may raise a JavaScript error."""
    faults: list[str] = []

    with serve(app) as url, contextlib.ExitStack() as stack:

        def open_one(**options: t.Any) -> Page:
            context = browser.new_context(base_url=url, **options)
            stack.callback(context.close)
            context.set_default_timeout(10_000)
            page = context.new_page()
            page.on("pageerror", lambda error: faults.append(str(error)))
            return page

        yield open_one

    assert faults == []


def shows_live(page: Page) -> None:
    expect(page.locator("#live")).to_have_text("Live", timeout=15_000)


def shows_lost(page: Page) -> None:
    expect(page.locator("#live")).to_have_text(
        "Not live, reconnecting …", timeout=30_000
    )


def test_conversation(open_page: Open) -> None:
    """A comment from one browser appears in another without a reload, as text and only
    once. When the thread is deleted after a confirmation, the other browser says so.
    """
    ada, grace = open_page(), open_page(java_script_enabled=False)
    log_in(ada, "Ada")
    start_thread(ada, "Two browsers", "Do you see this?")
    shows_live(ada)
    # A reload would delete this variable.
    ada.evaluate("window.stayed = true")

    log_in(grace, "Grace")
    grace.get_by_role("link", name="Two browsers").click()
    comment(grace, "<b>I</b> do")

    seen = ada.locator("#comments .comment")
    expect(seen).to_have_count(1)
    expect(seen).to_contain_text("Grace")
    expect(seen).to_contain_text("<b>I</b> do")
    expect(ada.locator("#count")).to_have_text("1")
    comment(grace, "Twice")
    expect(seen).to_have_count(2)
    # Newest first.
    expect(seen.first).to_contain_text("Twice")
    assert ada.evaluate("window.stayed") is True

    other = ada.context.new_page()
    other.goto(ada.url)
    other.get_by_role("link", name="Delete this thread").click()
    expect(other.get_by_role("heading", level=1)).to_have_text("Delete this thread?")
    other.get_by_role("link", name="Cancel").click()
    other.get_by_role("link", name="Delete this thread").click()
    other.get_by_role("button", name="Delete thread").click()
    expect(other.get_by_role("status")).to_have_text(
        "The thread “Two browsers” was deleted."
    )
    expect(ada.locator("#live")).to_have_text("This thread was deleted")
    # The form is gone, and so is the link to the confirmation.
    expect(ada.get_by_label("Your comment")).to_have_count(0)
    expect(ada.get_by_role("link", name="Delete this thread")).to_have_count(0)
    expect(seen).to_have_count(2)


def test_outage(open_page: Open, server: Server, app: Flask) -> None:
    """A browser that watches a thread shows that the live updates are lost, and after
    the outage the new comments, without a reload. A page that is requested during the
    outage explains the problem. The server notices when a viewer has gone.
    """
    with app.app_context():
        thread_id = store.start_thread("Ada", "Title", "Text")

    watching, asking = open_page(), open_page()
    watching.goto(f"/threads/{thread_id}")
    shows_live(watching)
    log_in(asking, "Grace")
    server.kill()
    asking.goto("/")
    expect(asking.get_by_role("heading")).to_have_text("Temporarily unavailable")
    shows_lost(watching)
    server.start()

    with app.app_context():
        # The restarted server is empty. Create the watched thread again.
        store.links.set("count:threads", thread_id - 1)
        assert store.start_thread("Ada", "Title", "Text") == thread_id
        store.add_comment(thread_id, "Grace", "After the outage")

    expect(watching.locator("#comments")).to_contain_text(
        "After the outage", timeout=20_000
    )
    shows_live(watching)
    asking.goto("/")
    expect(asking.get_by_role("heading", level=1)).to_have_text("Threads")

    # The heartbeat reveals that a viewer has gone.
    links: t.Any = app.extensions["redis"]["REDIS_LINKS"]

    def is_subscribed() -> bool:
        return dict(links.pubsub_numsub(store.CHANNEL)) == {store.CHANNEL: 1}

    wait_until(is_subscribed, "the process has subscribed again")
    watching.context.close()
    wait_until(lambda: not is_subscribed(), "the last viewer is gone")


def test_hung_board(browser: Browser, tmp_path: Path) -> None:
    """If the board hangs, or the network is lost, the browser shows that the live
    updates are lost, although its connection is open. Later it connects again.
    """
    port = reserve("127.0.0.1")
    app = 'examples.comments:create_app({"HEARTBEAT": 1})'
    command = [sys.executable, "-m", "flask", "--app", app, "run", "--port", str(port)]
    environment = {**os.environ, "SECRET_KEY": "key"}

    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, stderr=log, stdout=log) as process,
        contextlib.closing(
            browser.new_context(base_url=f"http://127.0.0.1:{port}")
        ) as context,
    ):
        try:
            wait_until(lambda: answers(port), "the board answers", timeout=30)
            page = context.new_page()
            log_in(page, "Ada")
            start_thread(page, "Title", "Text")
            shows_live(page)
            process.send_signal(signal.SIGSTOP)
            shows_lost(page)
            process.send_signal(signal.SIGCONT)
            expect(page.locator("#live")).to_have_text("Live", timeout=30_000)
        finally:
            process.kill()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(open_page: Open, app: Flask, scheme: t.Any) -> None:
    """On a phone, no text makes the page wider than the screen, and buttons are big
    enough to tap. The text has enough contrast in light and dark mode.
    """
    with app.app_context():
        thread_id = store.start_thread("W" * 30, "W" * 100, "W" * 2000)

        for number in range(store.COMMENTS_A_PAGE + 1):
            store.add_comment(thread_id, "W" * 30, f"{number} " + "W" * 300)

    page = open_page(viewport=PHONE, color_scheme=scheme, has_touch=True)
    log_in(page, "W" * 30)
    thread = f"/threads/{thread_id}"

    for path in ("/", thread, f"{thread}?page=2", f"{thread}/delete", "/status", "/no"):
        page.goto(path)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width == PHONE["width"], path
        header = page.locator(".top").bounding_box()
        assert header is not None
        # The header fits on one line.
        assert header["height"] < 60

        for button in page.locator("main .button:not(.small)").all():
            box = button.bounding_box()
            assert box is not None
            assert box["height"] >= 40

    background, text = page.evaluate(
        "['backgroundColor', 'color'].map(name =>"
        " getComputedStyle(document.body)[name].match(/[0-9]+/g).map(Number))"
    )
    darker, lighter = sorted([sum(background), sum(text)])
    assert lighter - darker > 400
    assert (sum(background) > sum(text)) == (scheme == "light")
