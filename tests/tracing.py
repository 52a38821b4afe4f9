"""Coverage doubles the time of what it traces. So it traces what tests call, and in one
process the imports, but neither fixtures nor pytest.
"""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import sys
import threading
import typing as t


class Tracing(t.NamedTuple):
    """The functions that trace this thread, and those that it starts."""

    own: t.Any
    threads: t.Any

    def set(self) -> None:
        """Trace with these functions from now on."""
        sys.settrace(self.own)
        threading.settrace(self.threads)


OFF = Tracing(None, None)


@contextlib.contextmanager
def traced(tracing: Tracing) -> cabc.Iterator[Tracing]:
    """Trace with other functions for a while. Yields those from before."""
    before = Tracing(sys.gettrace(), threading.gettrace())
    tracing.set()

    try:
        yield before
    finally:
        before.set()


def untraced() -> contextlib.AbstractContextManager[Tracing]:
    """Stop coverage for a while. pytest-cov's mark has no effect in pytest-xdist's
    processes: two measurements run there, and when the one stops, the other goes on.
    """
    return traced(OFF)
