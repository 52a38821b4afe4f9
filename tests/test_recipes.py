"""Run the recipes in the documentation on a single server and on a cluster."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import importlib
import re
import sys
import threading
import types
import typing as t
from pathlib import Path

import pytest
import redis
from flask import Flask
from werkzeug.exceptions import Conflict
from werkzeug.exceptions import TooManyRequests

from flask_and_redis import current_redis

from .pages import DOCS
from .pages import files_of
from .servers import wait_until

Load = cabc.Callable[[str], types.ModuleType]

PREFIXES = ("REDIS", "CACHE", "QUEUE")

#: The page's times for the cache are too short for a slow machine.
PATIENT = {
    "CACHE_RETRY_DEADLINE": "20",
    "CACHE_SOCKET_TIMEOUT": "20",
    "CACHE_SOCKET_CONNECT_TIMEOUT": "20",
}


def settings() -> dict[str, str]:
    """The settings on the page."""
    text = (DOCS / "recipes.rst").read_text()
    return dict(re.findall(r"^    export FLASK_(\w+)=(\S+)$", text, re.M))


@pytest.fixture(params=["server", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty server, and of an empty cluster."""
    servers = request.getfixturevalue(request.param)
    scheme = "redis" if request.param == "server" else "redis+cluster"
    return f"{scheme}://{servers.address}"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cabc.Iterator[Load]:
    """Imports a module of the page."""
    (files,) = files_of("recipes")
    names = {Path(name).stem for name in files}

    for name, text in files.items():
        (tmp_path / name).write_text(text)

    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    # A module of the same name would be found instead, if a test has imported one.
    assert names.isdisjoint(sys.modules)
    yield importlib.import_module

    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def recipes(load: Load, app: Flask, url: str) -> cabc.Iterator[Load]:
    """Imports a module of the page, in the context of an app with its settings."""
    urls = {f"{prefix}_URL": url for prefix in PREFIXES}
    assert (urls | PATIENT).keys() <= settings().keys()
    app.config.update(settings() | urls | PATIENT)
    load("extensions").manager.init_app(app)

    with app.app_context():
        yield load


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A module that the page imports. The list has the products that were loaded."""
    loaded: list[int] = []

    def load_product(number: int) -> dict[str, int]:
        loaded.append(number)
        return {"number": number}

    module = types.ModuleType("database")
    module.__dict__["load_product"] = load_product
    monkeypatch.setitem(sys.modules, "database", module)
    return loaded


def test_cache(recipes: Load, database: list[int]) -> None:
    """A value is read from the database once, and then from the cache."""
    products = recipes("products")
    assert [products.load_product(7) for _ in range(2)] == [{"number": 7}] * 2
    assert database == [7]
    assert 0 < current_redis.ttl("product:7") <= 60
    assert current_redis.delete("product:7")
    assert products.load_product(7) == {"number": 7}
    assert database == [7, 7]


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_cache_is_down(
    load: Load,
    app: Flask,
    database: list[int],
    scheme: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without its server, the cache uses the database."""
    urls = {f"{prefix}_URL": f"{scheme}://127.0.0.1:1" for prefix in PREFIXES}
    app.config.update(settings() | urls)
    load("extensions").manager.init_app(app)

    with app.app_context():
        products = load("products")
        assert [products.load_product(7) for _ in range(2)] == [{"number": 7}] * 2

    assert database == [7, 7]
    assert "Redis failed: " in caplog.text


def test_counter(recipes: Load) -> None:
    """Visits are counted by page and day."""
    visits = recipes("visits")
    assert [visits.count_visit("home") for _ in range(3)] == [1, 2, 3]
    assert visits.count_visit("help") == 1
    current_redis.hset("visits:home", "2026-01-01", 5)
    counts = visits.visits_by_day("home")
    assert list(counts)[0] == "2026-01-01"
    assert list(counts.values()) == [5, 3]


def test_rate_limit(recipes: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user has ten requests in a minute, and others have their own."""
    limits = recipes("rate_limit")
    now = 60.0
    monkeypatch.setattr(limits, "time", types.SimpleNamespace(time=lambda: now))

    for _ in range(10):
        limits.check_limit("alice")

    with pytest.raises(TooManyRequests):
        limits.check_limit("alice")

    limits.check_limit("bob")
    assert 0 < current_redis.ttl("limit:alice:1") <= 60
    now = 120.0
    limits.check_limit("alice")


def test_lock(recipes: Load) -> None:
    """One report is made at a time, also after one that failed."""
    make_report = recipes("reports").make_report

    def make_another() -> t.NoReturn:
        with pytest.raises(Conflict):
            make_report(str)

        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make_report(make_another)

    assert make_report(lambda: "done") == "done"

    # The lock has expired meanwhile.
    with pytest.raises(redis.exceptions.LockError):
        make_report(lambda: current_redis.delete("report"))

    with current_redis.lock("report", timeout=30):
        lock = current_redis.lock("report", timeout=30, blocking_timeout=0.1)

        with pytest.raises(redis.exceptions.LockError), lock:
            pass


def test_idempotent_job(recipes: Load) -> None:
    """A job that succeeded is not done again. One that failed is."""
    run_once = recipes("jobs").run_once
    done: list[int] = []

    with pytest.raises(ZeroDivisionError):
        run_once("a", lambda: 1 / 0)

    assert run_once("a", lambda: done.append(1))
    assert not run_once("a", lambda: done.append(2))
    assert run_once("b", lambda: done.append(3))
    assert done == [1, 3]


def test_lock_of_job_expires(recipes: Load) -> None:
    """Another process may do a job whose lock has expired. The first one raises an
    error at the end. The job counts as done.
    """
    run_once = recipes("jobs").run_once
    done: list[str] = []

    def work() -> None:
        assert 0 < current_redis.ttl("lock:a") <= 30
        current_redis.delete("lock:a")  # as if it had expired
        assert run_once("a", lambda: done.append("by another"))
        done.append("by the first")

    with pytest.raises(redis.exceptions.LockNotOwnedError):
        run_once("a", work, timeout=30)

    assert done == ["by another", "by the first"]
    assert not run_once("a", lambda: done.append("again"))


def test_pubsub(recipes: Load, app: Flask) -> None:
    """What is published reaches those who listen."""
    news = recipes("news")
    texts: list[str] = []

    def listen() -> None:
        with app.app_context(), contextlib.closing(news.listen()) as messages:
            texts.append(next(messages))

    thread = threading.Thread(target=listen)
    thread.start()

    def is_heard() -> bool:
        news.publish("Hello")
        return bool(texts)

    wait_until(is_heard, "the message arrives", timeout=30)
    thread.join()
    assert texts == ["Hello"]


class Stopped(Exception):
    pass


def test_stream(recipes: Load) -> None:
    """Each order is handled. One that failed is handled first after a restart, or by
    another consumer after a minute.
    """
    orders = recipes("orders")
    handled: list[str] = []

    def handle(product: str) -> None:
        handled.append(product)

        if len(handled) in (2, 4, 5):
            raise Stopped

    for product in ("tea", "milk", "bread"):
        orders.add_order(product)

    for _ in range(2):
        with pytest.raises(Stopped):
            orders.consume(handle, "first")

    assert handled == ["tea", "milk", "milk", "bread"]
    assert current_redis.xpending("orders", "shop")["pending"] == 1

    # The first consumer does not come back.
    orders.take_over(handle, "second")
    assert handled[4:] == []
    client: t.Any = current_redis
    (pending,) = client.xpending_range("orders", "shop", "-", "+", 10)
    ids = [pending["message_id"]]
    client.xclaim("orders", "shop", "first", 0, ids, idle=120_000, justid=True)

    with pytest.raises(Stopped):
        orders.consume(handle, "second")

    assert handled[4:] == ["bread"]
    assert client.xpending("orders", "shop")["consumers"][0]["name"] == b"second"


def test_leaderboard(recipes: Load) -> None:
    """Players are listed by their points."""
    scores = recipes("scores")
    assert scores.best() == []

    for player, points in (("alice", 5), ("bob", 9), ("carol", 1), ("alice", 5)):
        scores.add_points(player, points)

    assert scores.best(2) == [("alice", 10), ("bob", 9)]
    assert [scores.place(player) for player in ("alice", "carol", "dave")] == [
        *(1, 3),
        None,
    ]
