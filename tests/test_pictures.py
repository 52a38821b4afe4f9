"""The pictures of the docs show what the commands print, which modules there are, and
what the dashboard shows.
"""

from __future__ import annotations

import collections
import json
import re
from xml.etree import ElementTree

import pytest

from .conftest import Starter
from .pages import DOCS
from .pages import literals
from .panels import name_series
from .pictures import draw_layout
from .pictures import IMAGES
from .pictures import list_modules
from .pictures import run_all
from .servers import Server

pytestmark = pytest.mark.once


def texts(name: str, of_class: str | None = None) -> list[str]:
    """The texts of a picture, or those of one class."""
    elements = ElementTree.parse(IMAGES / f"{name}.svg").iter(
        "{http://www.w3.org/2000/svg}text"
    )
    return [
        element.text or ""
        for element in elements
        if of_class is None or of_class in element.get("class", "").split()
    ]


def words(text: str) -> set[str]:
    """The words of a text, without numbers and units, which are always different."""
    text = re.sub(r"\x1b\[\d+m", "", text)
    return {word for word in re.findall(r"[^\W\d_]+", text) if len(word) > 3}


def test_commands(start: Starter) -> None:
    """The pictures of the commands show the words that these print today. If this
    fails, run ``python -m tests.pictures``.
    """
    outputs = run_all(start(Server, kind="redis8"), start(Server, kind="redis8"))

    for command, output in outputs.items():
        shown = texts(command.removeprefix("flask ").replace(" ", "-"))
        assert shown[0] == f"$ {command}"
        assert words(" ".join(shown[1:])) == words(output)


def test_layout() -> None:
    """The picture of the package shows all modules of the design page, which are all
    that exist. If this fails, run ``python -m tests.pictures``.
    """
    drawn = draw_layout(list_modules())
    assert (IMAGES / "layout.svg").read_text() == drawn


@pytest.mark.parametrize("name", ["design", "command"])
def test_modules_in_diagrams(name: str) -> None:
    """The modules that a diagram names exist."""
    shown = texts(name, "module")
    assert len(shown) >= 5
    assert {*shown} <= {*list_modules()}


def test_modules_on_design_page() -> None:
    """The modules that the design page names, outside of their list, exist."""
    named = {
        name
        for name in literals((DOCS / "design.rst").read_text())
        if re.fullmatch(r"\w+(/\w+)+", name)
    }
    assert named == {name for name in list_modules() if "/" in name}


def test_dashboard() -> None:
    """The picture of the dashboard shows its name, its variables, and all panels with
    their queries. If this fails, run ``python -m tests.dashboard``.
    """
    source = (DOCS / "observability" / "dashboard.json").read_text()
    dashboard = json.loads(source)
    panels = dashboard["panels"]
    assert texts("dashboard", "name") == [dashboard["title"]]
    assert texts("dashboard", "title") == [panel["title"] for panel in panels]
    (variables,) = texts("dashboard", "variables")
    labels = [variable["label"] for variable in dashboard["templating"]["list"]]
    assert re.findall(r"(\w[\w ]*):", variables) == labels
    # Any value of a label.
    values: dict[str, str] = collections.defaultdict(lambda: r"\w+")
    patterns = [
        name_series(target["legendFormat"], values)
        for panel in panels
        for target in panel["targets"]
    ]
    legends = texts("dashboard", "legend")
    assert all(any(re.fullmatch(p, legend) for legend in legends) for p in patterns)
    assert all(any(re.fullmatch(p, legend) for p in patterns) for legend in legends)


def test_dashboard_on_page() -> None:
    """The page that offers the dashboard shows it."""
    page = (DOCS / "observability.rst").read_text()
    assert ".. image:: images/dashboard.svg\n    :alt: " in page
