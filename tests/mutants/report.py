"""The files that say which mutants survived."""

from __future__ import annotations

import collections.abc as cabc
import csv
import typing as t
from pathlib import Path

from .operators import Mutant

_DIRECTORY = Path("docs/measured")
_FIGURES = _DIRECTORY / "mutants.csv"
_SURVIVORS = _DIRECTORY / "mutants-survivors.csv"


class Figures(t.NamedTuple):
    """What became of the mutants of a module."""

    module: str
    mutants: int
    killed: int
    survived: int
    #: Those of the survivors that have a reason: they change nothing that can be seen.
    equivalent: int


def read_survivors() -> dict[Mutant, str]:
    """The survivors of earlier runs, and why they are equivalent, if they are."""
    if not _SURVIVORS.exists():
        return {}

    with _SURVIVORS.open(newline="") as file:
        _, *rows = csv.reader(file)

    return {Mutant(*row[:-1]): row[-1] for row in rows}


def write(figures: Figures, survivors: dict[Mutant, str]) -> None:
    """Replace what the files say of one module.

    :param figures: The figures of the module.
    :param survivors: Its survivors, and why they are equivalent, if they are.
    """
    others = {
        mutant: reason
        for mutant, reason in read_survivors().items()
        if mutant.module != figures.module
    }
    all_survivors = others | survivors
    rows = sorted((*mutant, reason) for mutant, reason in all_survivors.items())
    _write(_SURVIVORS, (*Mutant._fields, "reason"), rows)
    all_figures = {figures.module: tuple(map(str, figures))}

    if _FIGURES.exists():
        with _FIGURES.open(newline="") as file:
            _, *earlier = csv.reader(file)

        all_figures = {row[0]: tuple(row) for row in earlier} | all_figures

    _write(_FIGURES, Figures._fields, sorted(all_figures.values()))


def _write(
    path: Path, header: tuple[str, ...], rows: cabc.Sequence[tuple[str, ...]]
) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
