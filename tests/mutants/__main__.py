"""Change the package in small ways, and run the tests of each change: one fails, or the
change survives.

``python -m tests.mutants [PART ...] [--survivors]``

A part is a module, such as ``spec/url``, or a package, such as ``spec``.
"""

from __future__ import annotations

import argparse
import collections.abc as cabc
import os
import shutil
import sys
from pathlib import Path

from . import report
from .forked import Tests
from .operators import list_mutants
from .operators import Mutant

#: The tests of each part, beside the modules of the same name. A test of another file
#: may kill mutants as well, but these files should suffice. The longest name counts.
TESTS = {
    "": "proxy redis registry discovery errors health names secrets cli",
    "contrib/debug_toolbar": "debug_toolbar",
    "contrib/prometheus": "prometheus",
    "deadline": "attempts retry outages watch transactions locks cluster_nodes signals"
    " messages own_exceptions clients connections",
    "deadline/locks": "locks",
    "deadline/report": "signals messages retry outages",
    "engines": "engines clients connections settings errors pings health",
    "engines/adoption": "internals states clients concurrency credentials"
    " interruptions connections attempts",
    "engines/base": "settings errors clients fakeredis engines retry messages health"
    " names credentials concurrency cluster_nodes",
    "engines/changes": "states attempts",
    "engines/checks": "settings states discovery errors connections clients engines"
    " pings docs messages",
    "engines/cluster": "cluster_nodes engines attempts retry outages pings errors"
    " messages names wrong_servers cli clients health signals",
    "engines/commands": "attempts retry outages messages pings connections engines"
    " wrong_servers states",
    "engines/connections": "connections states cluster_nodes interruptions",
    "engines/credentials": "credentials",
    "engines/fake": "fakeredis errors cli",
    "engines/internals": "internals connections states health interruptions",
    "engines/internals/clients": "internals connections retry locks credentials",
    "engines/internals/clusters": "internals cluster_nodes engines retry outages"
    " interruptions",
    "engines/internals/connections": "internals states drips own_exceptions",
    "engines/internals/errors": "internals messages retry outages engines",
    "engines/internals/pools": "internals states",
    "engines/internals/probes": "internals pings wrong_servers",
    "engines/internals/sentinels": "internals replicas",
    "engines/interruptions": "own_exceptions",
    "engines/library": "internals discovery settings clients errors messages signals"
    " states",
    "engines/marks": "attempts retry connections states transactions",
    "engines/messages": "messages secrets retry health wrong_servers attempts",
    "engines/names": "names states settings",
    "engines/operations": "wrong_servers pings cli clients attempts retry messages",
    "engines/sentinel": "engines replicas pings errors clients wrong_servers cli",
    "engines/standalone": "settings errors engines cli",
    "engines/tls": "tls errors settings engines",
    "engines/tracking": "states interruptions own_exceptions cancellations watch"
    " cluster_nodes retry connections",
    "engines/watchers": "engines replicas own_exceptions secrets",
    "operate": "cli health pings operating",
    "operate/cli": "cli",
    "operate/explain": "health pings wrong_servers tls",
    "operate/health": "asking health pings",
    "operate/native": "cli",
    "operate/report": "report",
    "operate/settings": "cli",
    "operate/text": "cli",
    "settings": "settings discovery errors misspellings",
    "settings/discovery": "settings discovery errors misspellings names",
    "settings/hints": "settings misspellings errors credentials",
    "settings/missing": "discovery redis proxy",
    "settings/reader": "settings discovery errors misspellings credentials clients"
    " messages",
    "spec": "settings discovery errors misspellings",
    "spec/values": "settings discovery errors misspellings secrets cli",
}

_PACKAGE = "flask_and_redis"
_WORK = Path(".mutants")


def find_tests(module: str) -> tuple[str, ...]:
    """The files of the tests of a module."""
    part = max((part for part in TESTS if _is_in(module, part)), key=len)
    return tuple(f"tests/test_{name}.py" for name in TESTS[part].split())


def _is_in(module: str, part: str) -> bool:
    return part in ("", module) or module.startswith(f"{part}/")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=[""])
    parser.add_argument(
        "--survivors", action="store_true", help="only the survivors of the last run"
    )
    arguments = parser.parse_args()
    package = Path(_PACKAGE)
    modules = [
        name
        for path in sorted(package.rglob("*.py"))
        if not (name := str(path.relative_to(package).with_suffix(""))).endswith(
            "__init__"
        )
        and any(_is_in(name, part) for part in arguments.parts)
    ]

    if arguments.survivors:
        with_survivors = {mutant.module for mutant in report.read_survivors()}
        modules = [module for module in modules if module in with_survivors]

    if not modules:
        sys.exit(f"There is nothing to do in: {' '.join(arguments.parts)}")

    by_files: dict[tuple[str, ...], list[str]] = {}

    for module in modules:
        by_files.setdefault(find_tests(module), []).append(module)

    for files, some in by_files.items():
        # Not in the project itself: whoever uses it meanwhile would meet the mutants.
        directory = (_WORK / some[0].replace("/", "-")).resolve()
        _copy_project(directory)
        tests = Tests(directory, files)

        for module in some:
            _try_mutants(module, directory, tests, arguments.survivors)


def _copy_project(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)

    for path in Path().iterdir():
        if path.is_file():
            shutil.copy2(path, directory)
        elif path.name in (_PACKAGE, "tests", "docs", "examples"):
            ignore = shutil.ignore_patterns("_build", "__pycache__")
            shutil.copytree(path, directory / path.name, ignore=ignore)


def _try_mutants(
    module: str, directory: Path, tests: Tests, only_survivors: bool
) -> None:
    path = directory / _PACKAGE / f"{module}.py"
    source, times = path.read_text(), path.stat()
    by_line = tests.by_line(path)
    earlier = report.read_survivors()
    mutants = list(list_mutants(module, path))
    survivors: list[Mutant] = []

    for mutant, line, changed in mutants:
        if only_survivors and mutant not in earlier:
            continue

        # Those with a reason are not tried again.
        if earlier.get(mutant) or _survives(
            path, changed, by_line.get(line, []), tests
        ):
            survivors.append(mutant)
            print(f"{module}:{line} in {mutant.function}", flush=True)
            print(f"  - {mutant.before}\n  + {mutant.after}", flush=True)

    path.write_text(source)
    # So that its compiled code is still valid.
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    reasons = {mutant: earlier.get(mutant, "") for mutant in survivors}
    figures = report.Figures(
        module,
        len(mutants),
        len(mutants) - len(survivors),
        len(survivors),
        sum(1 for mutant in survivors if reasons[mutant]),
    )
    report.write(figures, reasons)
    print(*figures, flush=True)


def _survives(
    path: Path, changed: str, tests_of_line: cabc.Sequence[str], tests: Tests
) -> bool:
    path.write_text(changed)
    return not tests_of_line or tests.pass_with(tests_of_line)


if __name__ == "__main__":
    main()
