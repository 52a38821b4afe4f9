"""What stands in the documentation, to be run as it stands there."""

from __future__ import annotations

import csv
import re
import textwrap
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def files_of(page: str) -> list[dict[str, str]]:
    """A page's Python, by the file names that stand above it. Where a file is shown
    again, changed, another set of files begins.
    """
    text = (DOCS / f"{page}.rst").read_text()
    blocks = re.findall(
        r"^\.\. code-block:: python\n    :caption: (\S+)\n\n((?:    .*\n|\n)+)",
        text,
        re.M,
    )
    # None is left out: without a caption nobody could say what file it is.
    assert len(blocks) == text.count(".. code-block:: python") > 0
    found: list[dict[str, str]] = [{}]

    for name, block in blocks:
        if name in found[-1]:
            found.append({})

        found[-1][name] = textwrap.dedent(block)

    return found


def commands_of(page: str) -> list[str]:
    """What a page tells to type, the installation aside."""
    text = (DOCS / f"{page}.rst").read_text()
    lines = re.findall(r"^    \$ (.*)$", text, re.M)
    return [line for line in lines if not line.startswith("pip ")]


def table(name: str) -> list[dict[str, str]]:
    """The rows of a table."""
    with (DOCS / "tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def literals(text: str) -> list[str]:
    """What a cell shows as code."""
    return re.findall(r"``(.*?)``", text)
