"""How the commands of ``flask redis`` print text."""

from __future__ import annotations

import collections.abc as cabc
import itertools
import os
import textwrap

import click

#: The longest line that the commands print.
WIDTH = 100


def wrap(text: str) -> str:
    """Wrap text, and indent all lines but the first."""
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def wrap_error(message: str) -> str:
    """Wrap what click prints after the word "Error: "."""
    text = textwrap.fill(f"Error: {message}", WIDTH, break_on_hyphens=False)
    return text.removeprefix("Error: ")


def print_table(
    rows: cabc.Sequence[cabc.Sequence[str]],
    colors: cabc.Sequence[str | None] | None = None,
    *,
    indent: int = 0,
) -> None:
    """Print rows with aligned columns. A cell that is too wide continues in the next
    line.

    :param rows: The cells of each row.
    :param colors: The color of each row, or None for the default color.
    :param indent: Spaces in front of each line.
    """
    # https://no-color.org, which click does not implement.
    colors = None if os.environ.get("NO_COLOR") else colors
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    while sum(widths) + 2 * (len(widths) - 1) + indent > WIDTH:
        widths[widths.index(max(widths))] -= 1

    for number, row in enumerate(rows):
        cells = [
            textwrap.wrap(cell, width, break_on_hyphens=False)
            for cell, width in zip(row, widths, strict=True)
        ]

        for parts in itertools.zip_longest(*cells, fillvalue=""):
            padded = map(str.ljust, parts, widths)
            line = " " * indent + "  ".join(padded).rstrip()
            click.secho(line, fg=colors[number] if colors else None)
