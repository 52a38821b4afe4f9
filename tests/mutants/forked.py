"""Runs pytest in forked processes. Starting Python and importing the libraries would
take longer than most tests.
"""

from __future__ import annotations

import ast
import collections.abc as cabc
import contextlib
import importlib
import json
import os
import re
import signal
import sys
import time
import traceback
from pathlib import Path

import coverage
import pytest

# What the tests import, except for the package itself and the tests.
for _name in (
    *("concurrent.futures", "flask.testing", "hypothesis", "playwright.sync_api"),
    *("redis.asyncio.cluster", "redis.sentinel", "trustme", "valkey.asyncio"),
):
    importlib.import_module(_name)

_REWRITE = "pytest.PytestAssertRewriteWarning"
_DURATIONS = "durations.json"

# Seconds that the tests of a mutant take at most, by what they took without it. The
# fastest tests run first.
_MOST = 200.0


class _Durations:
    """A plugin that records how long each test takes."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        before = self._seconds.get(report.nodeid, 0.0)
        self._seconds[report.nodeid] = before + report.duration

    def pytest_sessionfinish(self) -> None:
        Path(_DURATIONS).write_text(json.dumps(self._seconds))


class _Status:
    """A plugin that remembers whether the tests have passed."""

    value = 1

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.value = int(exitstatus)


class _Chosen:
    """A plugin that runs some tests in this order."""

    def __init__(self, tests: cabc.Sequence[str]) -> None:
        self._order = {test: number for number, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = (item for item in items if item.nodeid in self._order)
        items[:] = sorted(chosen, key=lambda item: self._order[item.nodeid])


def _run_pytest(
    directory: Path, arguments: list[str], plugin: object, seconds: float
) -> bool:
    """Whether all tests pass in time.

    :param directory: A copy of the project.
    :param arguments: Arguments of pytest.
    :param plugin: A plugin.
    :param seconds: After them, pytest is killed.
    """
    if not (child := os.fork()):
        status = 1

        try:
            # With the servers that it starts, so that they can be killed together.
            os.setsid()
            os.chdir(directory)
            status = _be_pytest(directory, arguments, plugin)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    ends = time.monotonic() + seconds
    finished, status = 0, 1

    try:
        while not finished and time.monotonic() < ends:
            time.sleep(0.01)
            finished, status = os.waitpid(child, os.WNOHANG)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)

        if not finished:
            os.waitpid(child, 0)

    return finished == child and status == 0


def _be_pytest(directory: Path, arguments: list[str], plugin: object) -> int:
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.path.insert(0, str(directory))
    os.environ["PYTHONPATH"] = str(directory)

    # Those of the copy are imported instead.
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]

    # Plugins of pytest are imported already.
    options = ["-p", "no:cacheprovider", "-W", f"ignore::{_REWRITE}", "-x"]
    status = _Status()

    # What is freed after the last test was not a part of it. Which test leaves it
    # depends on the order.
    with contextlib.suppress(pytest.PytestUnraisableExceptionWarning):
        pytest.main([*options, *arguments], [plugin, status])

    return status.value


class Tests:
    """The tests of some modules, in a copy of the project.

    :param directory: The copy.
    :param files: The files of these tests.
    :raises RuntimeError: If a test fails without any mutant.
    """

    def __init__(self, directory: Path, files: cabc.Sequence[str]) -> None:
        self._directory = directory
        # The fastest first.
        self._seconds: dict[str, float] = {}
        # On a busy machine, a test may fail by chance.
        arguments = ["--cov", "--cov-context=test", "--cov-report=", "--reruns=1"]
        arguments += files

        if not _run_pytest(directory, arguments, _Durations(), 3600):
            output = (directory / "output.txt").read_text()
            raise RuntimeError(f"A test fails without any mutant:\n{output[-5000:]}")

        seconds = json.loads((directory / _DURATIONS).read_text())
        self._seconds = dict(sorted(seconds.items(), key=lambda item: item[1]))
        self._data = coverage.CoverageData(str(directory / ".coverage"))
        self._data.read()
        # From now on: two mutants of the same second and size would share a file of
        # compiled code.
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

        if not self.pass_with(self._seconds, "--reruns=1"):
            raise RuntimeError("The tests fail if the fastest ones run first.")

    def by_line(self, path: Path) -> dict[int, list[str]]:
        """The tests that run each line of a module.

        :param path: The module's file.
        """
        contexts = self._data.contexts_by_lineno(str(path))
        by_line: dict[int, list[str]] = {}

        for line, lines in _find_statements(path.read_text()).items():
            if lines is None:
                by_line[line] = list(self._seconds)
                continue

            tests = {
                context.rpartition("|")[0]
                for number in lines
                for context in contexts.get(number, [])
            }
            by_line[line] = [test for test in self._seconds if test in tests]

            if not by_line[line] and "" in tests:
                # It runs only while the package is imported.
                by_line[line] = list(self._seconds)

        return by_line

    def pass_with(self, tests: cabc.Iterable[str], *options: str) -> bool:
        """Whether tests pass with what the copy contains now.

        :param tests: The tests.
        :param options: Options of pytest.
        """
        chosen: list[str] = []
        seconds = 0.0

        for test in tests:
            seconds += self._seconds[test]

            if seconds > _MOST:
                break

            chosen.append(test)

        files = sorted({test.partition("::")[0] for test in chosen})
        arguments = [*options, *files]
        # A mutant may hang, but a busy machine must not kill it.
        limit = 60 + 5 * min(seconds, _MOST)
        return _run_pytest(self._directory, arguments, _Chosen(chosen), limit)


def _find_statements(source: str) -> dict[int, range | None]:
    """For each line, the lines that a test must run to see what it does. In front of
    the body of a function, these are the body. None: every test may see it.

    :param source: The source of a module.
    """
    lines: dict[int, range | None] = {}

    def visit(node: ast.AST, is_run: bool) -> None:
        if isinstance(node, ast.stmt | ast.ExceptHandler):
            body: list[ast.stmt] = getattr(node, "body", [])
            decorators: list[ast.expr] = getattr(node, "decorator_list", [])
            first = min([node.lineno, *(each.lineno for each in decorators)])
            last = ends = node.end_lineno or node.lineno

            if body:
                last = max(node.lineno, body[0].lineno - 1)

            seen = range(first, last + 1)

            if any(re.search("cache|once", ast.unparse(each)) for each in decorators):
                # Only the first test runs it. Which one that is depends on the order.
                is_run = False
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                seen, is_run = range(body[0].lineno, ends + 1), True

            lines.update(
                dict.fromkeys(range(first, last + 1), seen if is_run else None)
            )

        for child in ast.iter_child_nodes(node):
            visit(child, is_run)

    visit(ast.parse(source), False)
    return lines
