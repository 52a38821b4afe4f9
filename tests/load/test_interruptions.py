from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import Server

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

#: 30,000 for each way, with both protocols.
COUNT = 15_000


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("how", ["signals", "gevent", "asyncio"])
def test_random_interruptions(server: Server, how: str, protocol: int) -> None:
    """Of thousands of commands that are interrupted at random, none leaves a wrong
    reply, a wrong database or a lost connection.
    """
    if how == "gevent":
        pytest.importorskip("gevent")
    elif how == "signals" and not hasattr(signal, "setitimer"):
        pytest.skip("This system has no timers.")

    for database in (0, 5):
        with server.admin(db=database) as admin:
            admin.set("where", f"database {database}")

    url = f"{server.url}/5?protocol={protocol}"
    command = [sys.executable, "-m", "tests.load.interrupted", how, url, str(COUNT)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, check=False
    )
    print(done.stdout.decode())
    result = json.loads(done.stdout)
    assert result["faults"] == []
    assert done.returncode == 0
    assert result["interrupted"] >= COUNT
    # Not all were interrupted before they were sent.
    assert result["finished"] > COUNT / 20
