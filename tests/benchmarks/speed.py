"""Measure the speed, compare it with plain redis-py and others, and show what helps.

Print a table of all measurements. Each has a bar, which is a limit, and the table shows
whether it is met. With --directory, save the table, all medians and a picture.

``python -m tests.benchmarks.speed [--directory docs] [--hiredis DIRECTORY]``
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import platform
import tempfile
import typing as t
from importlib.metadata import version
from pathlib import Path

import redis

from tests.servers import find_command
from tests.servers import Server

from . import apart
from . import inside
from .picture import draw
from .rounds import median
from .rounds import ratio
from .rounds import Times


@dataclasses.dataclass
class Row:
    """One line of the table. The bar is the highest or the lowest allowed value."""

    what: str
    measured: float
    bar: float
    form: str = "{:.2f}"
    at_least: bool = False

    @property
    def met(self) -> bool:
        if self.at_least:
            return self.measured >= self.bar

        return self.measured <= self.bar

    def texts(self) -> list[str]:
        kind = "at least" if self.at_least else "at most"
        bar = f"{kind} {self.form.format(self.bar)}"
        return [
            self.what,
            bar,
            self.form.format(self.measured),
            "yes" if self.met else "no",
        ]


@dataclasses.dataclass
class Results:
    """The results of one run."""

    rows: list[Row]
    #: What makes it faster or slower: one line of text each.
    choices: list[list[str]]
    #: The medians, in seconds or in operations per second.
    medians: dict[str, dict[str, float]]
    #: Seconds that redis-py needs to create a client. They show the machine's speed.
    client_seconds: float


def measure(url: str, hiredis: Path | None) -> Results:
    redis.Redis.from_url(url).set("k", "v")
    measured = {
        "look-up": inside.look_ups(url),
        "command": inside.commands(url),
        "receivers": inside.receivers(url),
        "view": apart.views(url),
        "16 threads": inside.threads(url, 16),
        "32 threads": inside.threads(url, 32),
        "init_app": inside.init_app(),
        "first use": inside.first_use(url),
    }
    seconds, early = apart.imports()
    growth = apart.ask("apps", url)
    medians = {
        name: {contestant: median(times, contestant) for contestant in times}
        for name, times in measured.items()
    }
    medians["import"] = {"seconds": seconds}
    rows = make_rows(measured, seconds, len(early), growth)
    choices = choose(measured["command"], url, hiredis)
    return Results(rows, choices, medians, inside.client_seconds())


def make_rows(
    measured: dict[str, Times], import_seconds: float, early: int, growth: float
) -> list[Row]:
    look_up = measured["look-up"]
    many = median(measured["init_app"], "1000") * 1000
    mib = growth / 2**20
    return [
        Row("look-up of a command, of Flask-Redis", _of(look_up, "Flask-Redis"), 0.85),
        Row("look-up of a command, of LocalProxy", _of(look_up, "LocalProxy"), 0.45),
        Row(
            'manager.get("X"), in look-ups', ratio(look_up, "manager.get", "proxy"), 1.5
        ),
        Row("whole GET, of redis-py", _of(measured["command"]), 0.95, "{:.3f}"),
        Row(
            "GET with a receiver of command_finished, of one without",
            ratio(measured["receivers"], "receiver", "nobody"),
            1.05,
            "{:.3f}",
        ),
        Row(
            "check for receivers, of a GET",
            ratio(measured["receivers"], "check", "nobody"),
            0.002,
            "{:.4f}",
        ),
        Row(
            "requests a second of a view, of redis-py",
            _of(measured["view"]),
            1.01,
            "{:.3f}",
            at_least=True,
        ),
        *(
            Row(
                f"GETs a second of {count} threads, of redis-py",
                _of(measured[f"{count} threads"]),
                1.05,
                "{:.3f}",
                at_least=True,
            )
            for count in (16, 32)
        ),
        Row(
            "init_app, 1,000 of 20,000 settings, of 100 of 2,000",
            ratio(measured["init_app"], "1000", "100"),
            11,
            "{:.1f}",
        ),
        Row("init_app, 1,000 of 20,000 settings", many, 150, "{:.0f} ms"),
        Row(
            "kept a prefix before its first use",
            inside.bytes_kept(),
            2048,
            "{:.0f} bytes",
        ),
        Row("first use, of from_url and connecting", _of(measured["first use"]), 1.0),
        Row("import after flask and redis", import_seconds * 1000, 10, "{:.1f} ms"),
        Row("client libraries imported before use", early, 0, "{:.0f}"),
        Row("growth by 10,000 apps made and dropped", mib, 1, "{:.2f} MiB"),
    ]


def _of(times: Times, base: str = "redis-py") -> float:
    return ratio(times, "proxy", base)


def choose(commands: Times, url: str, hiredis: Path | None) -> list[list[str]]:
    """Measure how hiredis and a pipeline help, and what a larger pool costs."""
    alone = median(commands, "proxy")
    piped = median(commands, "proxy, pipeline of 100") / 100
    choices = [
        ["a GET, alone and in a pipeline of 100", _us(alone), _us(piped)],
    ]

    if hiredis is not None:
        for reply, times in apart.parsers(url, hiredis).items():
            own, other = (median(times, parser) for parser in ("redis-py", "hiredis"))
            choices.append([f"{reply}, without and with hiredis", _us(own), _us(other)])

    figures = inside.pools(url)
    one, many = figures[1], figures[400]
    choices += [
        [
            "a GET, with 1 and with 400 open connections",
            _us(one["get"]),
            _us(many["get"]),
        ],
        ["memory of 100 and of 400 connections", *_sizes(figures, "kept")],
        [
            "memory in the server of 100 and of 400 connections",
            *_sizes(figures, "kept by the server"),
        ],
    ]
    return choices


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs"


def _sizes(figures: dict[int, dict[str, float]], name: str) -> list[str]:
    return [f"{figures[size][name] * size / 2**20:.1f} MiB" for size in (100, 400)]


def save(results: Results, directory: Path) -> None:
    measured = directory / "measured"

    for name, header, lines in (
        (
            "speed.csv",
            ["what", "bar", "measured", "met"],
            [row.texts() for row in results.rows],
        ),
        ("speed-choices.csv", ["what", "one", "other"], results.choices),
    ):
        with (measured / name).open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *lines])

    (measured / "speed.json").write_text(json.dumps(describe(results), indent=2) + "\n")
    draw(results.medians, directory / "images" / "speed.svg")


def describe(results: Results) -> dict[str, t.Any]:
    return {
        "versions": {
            "python": platform.python_version(),
            "redis-py": redis.__version__,
            "flask": version("flask"),
        },
        "processors": os.cpu_count(),
        "client_seconds": results.client_seconds,
        "rows": [{**dataclasses.asdict(row), "met": row.met} for row in results.rows],
        "choices": results.choices,
        "medians": results.medians,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="save the results here")
    parser.add_argument("--hiredis", type=Path, help="where hiredis is installed")
    arguments = parser.parse_args()
    command = find_command("redis")
    assert command is not None, "There is no redis-server."

    with tempfile.TemporaryDirectory() as directory:
        with Server(command, Path(directory)) as server:
            results = measure(server.url, arguments.hiredis)

    for lines in ([row.texts() for row in results.rows], results.choices):
        for what, *rest in lines:
            print(f"{what:53}" + "".join(f"{text:>16}" for text in rest))

        print()

    print(f"redis-py makes a client in {_us(results.client_seconds)} on this machine.")

    if arguments.directory is not None:
        save(results, arguments.directory)


if __name__ == "__main__":
    main()
