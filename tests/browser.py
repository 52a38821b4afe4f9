"""Start a headless Chromium, and serve an app for it."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import shutil
import threading
import typing as t

from flask import Flask
from werkzeug.serving import make_server

# It takes longer to import than Flask. Most processes of the tests need no browser.
if t.TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Locator
    from playwright.sync_api import Page

ARGUMENTS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    # Root cannot start Chromium without this option. It only opens the app's pages.
    "--no-sandbox",
]


def find_chromium() -> str | None:
    """The path of Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)), None)


@contextlib.contextmanager
def open_browser(path: str) -> cabc.Iterator[Browser]:
    """A browser without any pages. Each browser context has its own cookies."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)

        try:
            yield browser
        finally:
            browser.close()


def expect(locator: Locator) -> t.Any:
    """Playwright's assertions, which wait until they hold."""
    from playwright.sync_api import expect

    return expect(locator)


@contextlib.contextmanager
def serve(app: Flask) -> cabc.Iterator[str]:
    """Serve an app in this process, and yield its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()

    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def log_in(page: Page, name: str) -> None:
    """Log in to the page's app."""
    page.goto("/login")
    page.get_by_label("Your name").fill(name)
    page.get_by_role("main").get_by_role("button", name="Log in").click()
    page.get_by_text(f"Welcome, {name}.").wait_for()


def start_thread(page: Page, title: str, text: str) -> None:
    """Start a discussion thread. The page then shows it."""
    page.goto("/")
    page.get_by_role("link", name="New thread").click()
    page.get_by_label("Title").fill(title)
    page.get_by_label("Text").fill(text)
    page.get_by_role("button", name="Start thread").click()
    page.get_by_role("heading", name=title).wait_for()


def comment(page: Page, text: str) -> None:
    """Comment on the thread that the page shows."""
    page.get_by_label("Your comment").fill(text)
    page.get_by_role("button", name="Post comment").click()
    page.locator("#comments").get_by_text(text).wait_for()
