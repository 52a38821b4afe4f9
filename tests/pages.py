"""Read code, commands and tables from the documentation, so that tests can use them."""

from __future__ import annotations

import csv
import re
import textwrap
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def files_of(page: str) -> list[dict[str, str]]:
    """A page's Python code by file name, which is the caption of a code block.

    If a page shows a file again, with changes, another set of files begins.
    """
    text = (DOCS / f"{page}.rst").read_text()
    blocks = re.findall(
        r"^\.\. code-block:: python\n    :caption: (\S+)\n"
        r"(?:    :emphasize-lines: .*\n)?\n((?:    .*\n|\n)+)",
        text,
        re.M,
    )
    # Each code block must have a caption, which is the name of its file.
    assert len(blocks) == text.count(".. code-block:: python") > 0
    file_sets: list[dict[str, str]] = [{}]

    for name, block in blocks:
        if name in file_sets[-1]:
            file_sets.append({})

        file_sets[-1][name] = textwrap.dedent(block)

    return file_sets


def commands_of(page: str) -> list[str]:
    """The shell commands that a page shows, without those that run pip."""
    text = (DOCS / f"{page}.rst").read_text()
    lines = re.findall(r"^    \$ (.*)$", text, re.M)
    return [line for line in lines if not line.startswith("pip ")]


def table(name: str) -> list[dict[str, str]]:
    """The rows of a table."""
    with (DOCS / "tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def literals(text: str) -> list[str]:
    """The parts of a table cell that are marked as code."""
    return re.findall(r"``(.*?)``", text)
