"""Timing side by side: in each round every contestant gets its turn, so that what else
the machine does meets all of them.
"""

from __future__ import annotations

import collections.abc as cabc
import gc
import statistics
import timeit
import typing as t

#: For each contestant what each round measured.
Times = dict[str, list[float]]


def interleave(
    contestants: cabc.Mapping[str, cabc.Callable[[], float]], rounds: int
) -> Times:
    """Let each contestant measure itself once a round, in turning order.

    :param contestants: Functions that return what they measured.
    :param rounds: How many rounds are counted, after one that is not.
    """
    times: Times = {name: [] for name in contestants}
    gc.collect()

    for index in range(rounds + 1):
        order = list(contestants)

        for name in reversed(order) if index % 2 else order:
            measured = contestants[name]()

            if index:
                times[name].append(measured)

    return times


def each(function: cabc.Callable[[], t.Any], number: int) -> cabc.Callable[[], float]:
    """Measures the seconds that one call of a function takes.

    :param function: The function.
    :param number: How often it is called a round.
    """
    return lambda: timeit.timeit(function, number=number) / number


def ratio(times: Times, one: str, other: str) -> float:
    """The median of the rounds' own ratios."""
    pairs = zip(times[one], times[other], strict=True)
    return statistics.median(mine / its for mine, its in pairs)


def median(times: Times, name: str) -> float:
    return statistics.median(times[name])
