"""The chaos tests for a long time, all at once, while memory and files are measured.

``python -m tests.chaos.soak`` prints a table. It fails if there is a fault or if memory
or open files grow: the mean of the last third of the time may be above that of the
first third by :data:`TOLERANCE`.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import logging
import os
import statistics
import sys
import tempfile
import threading
import time
import typing as t
from pathlib import Path

from tests.chaos.run import draw_seed
from tests.chaos.run import Resources
from tests.chaos.run import Run
from tests.chaos.stages import Stage
from tests.chaos.stages import STAGES
from tests.servers import find_command

#: The share by which memory and files may grow. Python's memory grows a little while
#: it fills its caches, and the number of connections depends on the faults.
TOLERANCE = 0.1

#: Seconds before the first sample. Memory reaches its peak in this time, and is not
#: given back: a client of a cluster needs 1 MiB for the slots, and several threads may
#: read them at the same time.
WARM_UP = 180

SAMPLES = 120


class Sample(t.NamedTuple):
    seconds: int
    memory: float
    files: int
    threads: int
    #: Blocks of memory that Python objects use. Unlike the memory, they are given back.
    blocks: int
    uses: int


HEADER = ("seconds", "memory in MiB", "open files", "threads", "blocks", "uses")


class Events(threading.Thread):
    """Causes the events of one stage until it is stopped."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.stop = threading.Event()
        self._stage = stage

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                for event in self._stage.shuffled_events():
                    if self.stop.wait(self._stage.random.uniform(1, 10)):
                        break

                    event()
        except Exception as error:
            self.faults.append(f"{type(self._stage).__name__}: {error!r}")
            print(*self.faults, flush=True)


def take_sample(started: float, runs: list[Run]) -> Sample:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    now = Resources()
    gc.collect()
    blocks = sys.getallocatedblocks()
    uses = sum(run.count() for run in runs)
    seconds = round(time.monotonic() - started)
    return Sample(seconds, round(memory, 1), now.files, now.threads, blocks, uses)


def soak(seconds: float, seed: int, command: str) -> tuple[list[Sample], list[str]]:
    """Let all stages fail for a time. Returns the samples and the faults."""
    samples = []

    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stages: list[Stage] = []

        for name, stage_class in STAGES.items():
            (directory / name).mkdir()
            stage = stage_class(command, directory / name, seed)
            stages.append(stack.enter_context(stage))

        before = Resources()
        runs = [Run(stage, seed) for stage in stages]
        events = [Events(stage) for stage in stages]

        for run in runs:
            run.start()

        for thread in events:
            thread.start()

        time.sleep(WARM_UP)
        started = time.monotonic()

        for number in range(1, SAMPLES + 1):
            time.sleep(max(0, started + number * seconds / SAMPLES - time.monotonic()))
            samples.append(take_sample(started, runs))

        for thread in events:
            thread.stop.set()

        for thread in events:
            thread.join()

        for run in runs:
            run.stop()

        before.wait_until_back()

    faults = [fault for run in runs for fault in run.faults]
    return samples, faults + [fault for thread in events for fault in thread.faults]


def find_growth(samples: list[Sample]) -> list[str]:
    """What is not flat."""
    third = len(samples) // 3
    grown = []

    for name, values in (
        ("memory", [sample.memory for sample in samples]),
        ("open files", [sample.files for sample in samples]),
        ("blocks", [sample.blocks for sample in samples]),
    ):
        first = statistics.mean(values[:third])
        last = statistics.mean(values[-third:])
        print(f"{name}: {first:.1f} in the first third, {last:.1f} in the last")

        if last > first * (1 + TOLERANCE):
            grown.append(f"It grew by more than {TOLERANCE:.0%}: {name}")

    return grown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--csv", type=Path, help="where to write the table")
    arguments = parser.parse_args()

    if (command := find_command("redis")) is None:
        sys.exit("There is no redis-server.")

    # Each outage is logged.
    logging.disable()
    seed = draw_seed()
    print(f"CHAOS_SEED={seed}")
    samples, faults = soak(arguments.seconds, seed, command)
    rows = [HEADER, *samples]

    for row in rows[:: SAMPLES // 20]:
        print("".join(f"{field:>15}" for field in row))

    if arguments.csv is not None:
        with arguments.csv.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    if faults := [*faults, *find_growth(samples)]:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
