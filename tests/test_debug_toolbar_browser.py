"""The panel for Flask-DebugToolbar in a real browser, headless. While that is open,
Playwright's event loop runs, so that other tests of the module could not start one.
"""

from __future__ import annotations

import re
import typing as t

import pytest

from .browser import expect
from .browser import serve
from .servers import Server
from .toolbar_app import BOOKS
from .toolbar_app import create_app

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.mark.once
def test_panel(browser: Browser, server: Server) -> None:
    """The panel opens, its repeated commands stand out, and its columns are sorted."""
    faults: list[str] = []

    with serve(create_app(server.url)) as url:
        context = browser.new_context(base_url=url)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto("/")
        link = page.locator("#flDebugRedisPanel a")
        expect(link).to_contain_text(re.compile(r"Redis\s+9 commands in [\d.]+ ms"))
        panel = page.locator("#flDebugRedisPanel-content")
        expect(panel).to_be_hidden()
        link.click()
        expect(panel.get_by_role("heading")).to_have_text(
            ["Redis commands", "CACHE", "REDIS"]
        )
        expect(panel.locator("p").nth(1)).to_contain_text("Repeated: HGET 5 times")

        table = panel.locator("table").nth(1)
        names = table.locator("tbody td:nth-child(4)")
        pipeline = "Pipeline of 2: INCRBY, GET"
        expect(names).to_have_text(["LRANGE", *["HGET"] * len(BOOKS), pipeline])
        colors = table.locator("tbody tr").evaluate_all(
            "rows => rows.map(row => getComputedStyle(row).backgroundColor)"
        )
        highlighted = [color == "rgb(255, 255, 204)" for color in colors]
        assert highlighted == [False, *[True] * len(BOOKS), False]

        table.locator("th").get_by_text("Command").click()
        expect(names).to_have_text([*["HGET"] * len(BOOKS), "LRANGE", pipeline])
        panel.get_by_text("Close").click()
        expect(panel).to_be_hidden()
        page.goto("/empty")
        expect(page.locator("#flDebugRedisPanel")).to_contain_text("0 commands")
        expect(link).to_have_count(0)
        context.close()

    assert faults == []
