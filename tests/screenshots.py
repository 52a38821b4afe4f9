"""Take the screenshots in the documentation: ``python -m tests.screenshots``."""

from __future__ import annotations

import sys
import time
import typing as t
from pathlib import Path
from unittest import mock

from flask import Flask
from playwright.sync_api import Browser
from playwright.sync_api import Page

from examples.comments import create_app
from examples.comments import store

from .browser import find_chromium
from .browser import log_in
from .browser import open_browser
from .browser import serve
from .toolbar_app import create_app as create_toolbar_app

IMAGES = Path(__file__).parent.parent / "docs" / "images"
PHONE: t.Any = {"width": 390, "height": 640}
DESKTOP: t.Any = {"width": 1024, "height": 480}
TOOLBAR: t.Any = {"width": 1024, "height": 500}

# A thread is: minutes ago, author, title, text, comments.
# A comment is: minutes ago, author, text.
THREADS: list[tuple[int, str, str, str, list[tuple[int, str, str]]]] = [
    (
        9000,
        "Grace",
        "Which keys should expire?",
        "Sessions, caches, rate limits. What else?",
        [(8000, "Alan", "Locks. Always.")],
    ),
    (
        2900,
        "Alan",
        "A list or a sorted set?",
        "New items come only at the end. Is there a reason not to use a list?",
        [
            (2800, "Grace", "No, unless you need items from the middle."),
            (2000, "Ada", "Removing an item is slow: Redis searches the whole list."),
        ],
    ),
    (
        190,
        "Ada",
        "Two databases, one page",
        "Our links are in one Redis, and our texts are in another.\n"
        "Do you separate them in production, too? Why?",
        [
            (170, "Grace", "Yes. The links are small, and must be fast."),
            (95, "Alan", "We also back them up separately."),
            (
                12,
                "Linus",
                "Write the text first and the link last.\nDelete in reverse order.",
            ),
        ],
    ),
]


def fill(app: Flask) -> None:
    """Fill the board with threads and comments, as if people had used it."""
    now = time.time()

    with app.app_context():
        for minutes, author, title, text, comments in THREADS:
            with mock.patch("time.time", return_value=now - minutes * 60):
                thread_id = store.start_thread(author, title, text)

            for minutes, author, text in comments:
                with mock.patch("time.time", return_value=now - minutes * 60):
                    store.add_comment(thread_id, author, text)


def open_page(browser: Browser, url: str, size: t.Any, scheme: t.Any) -> Page:
    context = browser.new_context(base_url=url, viewport=size, color_scheme=scheme)
    return context.new_page()


def take(page: Page, path: str, name: str) -> None:
    page.goto(path)

    if page.locator("[data-events]").count():
        page.get_by_text("Live", exact=True).wait_for()

    page.screenshot(path=IMAGES / f"{name}.png", full_page=True)


def main() -> None:
    if (chromium := find_chromium()) is None:
        sys.exit("Chromium is missing.")

    app = create_app()
    fill(app)
    IMAGES.mkdir(exist_ok=True)

    with serve(app) as url, open_browser(chromium) as browser:
        desktop = open_page(browser, url, DESKTOP, "light")
        log_in(desktop, "Ada")
        take(desktop, "/", "threads")
        take(desktop, "/threads/3", "thread")
        take(desktop, "/status", "status")
        phone = open_page(browser, url, PHONE, "dark")
        log_in(phone, "Grace")
        take(phone, "/threads/3", "thread-phone")

    with (
        serve(create_toolbar_app("fakeredis://")) as url,
        open_browser(chromium) as browser,
    ):
        page = open_page(browser, url, TOOLBAR, "light")
        page.goto("/")
        page.locator("#flDebugRedisPanel a").click()
        # Scripts load the style sheet and its images.
        page.wait_for_load_state("networkidle")
        page.screenshot(path=IMAGES / "debug-toolbar.png")


if __name__ == "__main__":
    main()
