"""Time contestants side by side.

Every contestant runs once in each round, so that other load on the machine affects all
of them.
"""

from __future__ import annotations

import collections.abc as cabc
import gc
import statistics
import timeit
import typing as t

#: The measurements of each contestant, one per round.
Times = dict[str, list[float]]


def interleave(
    contestants: cabc.Mapping[str, cabc.Callable[[], float]], rounds: int
) -> Times:
    """Run each contestant once per round. Every second round runs in reverse order.

    :param contestants: Functions that return a measurement.
    :param rounds: The number of rounds. One more round runs first and is not counted.
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
    """Return a function that measures the seconds of one call of the given function.

    :param function: The function.
    :param number: The number of calls per round.
    """
    return lambda: timeit.timeit(function, number=number) / number


def ratio(times: Times, one: str, other: str) -> float:
    """Calculate the ratio of each round and return the median."""
    pairs = zip(times[one], times[other], strict=True)
    return statistics.median(mine / its for mine, its in pairs)


def median(times: Times, name: str) -> float:
    return statistics.median(times[name])
