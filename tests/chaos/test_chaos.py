from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.chaos.run import draw_seed
from tests.chaos.run import Resources
from tests.chaos.run import Run
from tests.chaos.stages import STAGES
from tests.conftest import command_of

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


@pytest.mark.parametrize("name", STAGES)
def test_chaos(tmp_path: Path, name: str) -> None:
    """While connections and servers fail, each reply is that of its command, each
    command ends in time, and counters fit. Afterwards all is as before.

    The environment variable CHAOS_SEED repeats a run, as far as threads allow.
    """
    seed = draw_seed()
    print(f"CHAOS_SEED={seed}")

    with STAGES[name](command_of("redis"), tmp_path, seed) as stage:
        resources = Resources()
        run = Run(stage, seed)
        run.start()

        try:
            for event in stage.shuffled_events():
                time.sleep(stage.random.uniform(1, 2))
                event()
        finally:
            run.stop()

        assert run.faults == []
        # It was neither quiet nor hopeless.
        assert sum(proxy.faults.total() for proxy in stage.proxies) > 20
        assert all(group.ends["success"] > 100 for group in run.groups)
        resources.wait_until_back()
