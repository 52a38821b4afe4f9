"""How servers are asked at the same time, and how long answers are waited for."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import functools
import queue
import threading
import time
import types
import typing as t

import pytest
import redis
from flask import Flask

from flask_and_redis import PingResult
from flask_and_redis.operate import health
from flask_and_redis.operate.health import ask

from .servers import Server
from .test_health import make_manager


def test_answers_are_not_waited_for() -> None:
    """Once each name has an answer, ask() does not wait for the other functions."""
    failed, hung = threading.Event(), threading.Event()

    def fail() -> str:
        time.sleep(0.1)
        failed.set()
        raise LookupError

    def answer() -> str:
        assert failed.wait(10)
        time.sleep(0.1)
        return "late"

    def hang() -> str:
        hung.wait(30)
        return "never"

    started = time.monotonic()
    answers = ask({"a": [lambda: "soon", fail, hang], "b": [answer]}, 20)
    assert time.monotonic() - started < 10
    assert (answers["a"].value, answers["b"].value) == ("soon", "late")
    hung.set()


def test_threads() -> None:
    """The end of the process does not wait for a server that hangs."""
    answers = ask({"X": [lambda: threading.current_thread().daemon]}, 20)
    assert answers["X"].value is True


def test_thread_that_cannot_start(
    app: Flask, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no thread can be started, the result of the ping says so."""
    manager = make_manager(app, A_URL=server.url, B_URL=server.url)
    start = threading.Thread.start
    failures = [RuntimeError("can't start new thread")]

    def start_second(thread: threading.Thread) -> None:
        if failures:
            raise failures.pop()

        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_second)

    with app.app_context():
        results = manager.ping()

    assert results["B"].ok
    assert not results["A"].ok
    text = "The server was not asked: can't start new thread."
    assert text in (results["A"].error or "")


@pytest.mark.parametrize("replies_first", [False, True])
def test_thread_of_a_sentinel(
    monkeypatch: pytest.MonkeyPatch, replies_first: bool
) -> None:
    """What another sentinel replies says more."""
    start, count = threading.Thread.start, 0

    def start_some(thread: threading.Thread) -> None:
        nonlocal count
        count += 1

        if count == (2 if replies_first else 1):
            raise RuntimeError("can't start new thread")

        start(thread)

    def refuse() -> None:
        raise redis.ResponseError("no")

    monkeypatch.setattr(threading.Thread, "start", start_some)
    error = ask({"X": [refuse, refuse]}, 20)["X"].error
    assert isinstance(error, redis.ResponseError)


@pytest.mark.parametrize("replies_first", [False, True])
def test_reply_says_more(replies_first: bool) -> None:
    """If no server is healthy, the answer is what one of them replied, and not that
    another one is down.
    """
    has_failed = threading.Event()

    def reply() -> t.NoReturn:
        assert replies_first or has_failed.wait(10)
        raise redis.AuthenticationError("wrong password")

    def fail() -> t.NoReturn:
        assert not replies_first or has_failed.wait(10)
        raise redis.ConnectionError("refused")

    def run(function: cabc.Callable[[], t.NoReturn]) -> t.NoReturn:
        try:
            function()
        finally:
            # The other one answers later.
            threading.Timer(0.1, has_failed.set).start()

    questions = [functools.partial(run, each) for each in (fail, reply)]
    answer = ask({"X": questions}, 20)["X"]
    assert str(answer.error) == "wrong password"


def set_clock(
    monkeypatch: pytest.MonkeyPatch, times: cabc.Iterable[float], *, main: bool
) -> None:
    """Let the clock show these times, either to the main thread or to others. To those
    that are not meant, it shows 0.
    """
    times = iter(times)
    thread = threading.current_thread()

    def monotonic() -> float:
        is_main = threading.current_thread() is thread
        return next(times) if is_main == main else 0.0

    monkeypatch.setattr(health, "time", types.SimpleNamespace(monotonic=monotonic))


@pytest.mark.parametrize("seconds", [2.0, 2.5])
def test_errors_after_the_timeout(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """An error that comes because the time is over does not say so. The answer does."""

    def question() -> None:
        raise redis.ConnectionError("Connection closed.")

    set_clock(monkeypatch, [0.0, seconds], main=False)
    answer = ask({"X": [question]}, 2)["X"]
    assert str(answer.error) == "No answer within 2 s."
    assert answer.seconds == seconds


class Replies:
    """The queue of the replies to :func:`ask`. These come at once, and then no more."""

    def __init__(self, *replies: tuple[str, health.Answer[str]]) -> None:
        self._replies = iter(replies)
        self.waits: list[float] = []

    def __call__(self) -> Replies:
        return self

    def put(self, reply: object) -> None:
        """Ignore the reply of a thread."""

    def get(self, timeout: float) -> tuple[str, health.Answer[str]]:
        self.waits.append(timeout)

        for reply in self._replies:
            return reply

        raise queue.Empty

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = types.SimpleNamespace(SimpleQueue=self, Empty=queue.Empty)
        monkeypatch.setattr(health, "queue", module)


def test_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer to each name counts, whatever the others reply."""
    replies = Replies(
        ("X", health.Answer(0.1, error=redis.ResponseError("wrong"))),
        ("X", health.Answer(0.2, "first")),
        ("X", health.Answer(0.3, "second")),
        ("X", health.Answer(0.4, error=redis.ConnectionError("refused"))),
        ("Y", health.Answer(0.5, "last")),
    )
    replies.use(monkeypatch)
    answers = ask({"X": [str] * 5, "Y": [str] * 2}, 20)
    assert [answer.value for answer in answers.values()] == ["first", "last"]
    assert len(replies.waits) == 5


def test_first_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """If several servers reply with an error, the first one counts."""
    replies = Replies(
        ("X", health.Answer(0.1, error=redis.ResponseError("first"))),
        ("X", health.Answer(0.2, error=redis.ResponseError("second"))),
        ("X", health.Answer(0.3, error=redis.ConnectionError("refused"))),
    )
    replies.use(monkeypatch)
    assert str(ask({"X": [str] * 3}, 20)["X"].error) == "first"
    assert len(replies.waits) == 3


def test_end_of_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time is over, no further reply is waited for."""
    refused = redis.ConnectionError("refused")
    replies = Replies(("X", health.Answer(0.5, error=refused)))
    replies.use(monkeypatch)
    set_clock(monkeypatch, [0.0, 0.5, 2.5], main=True)
    answers = ask({"X": [str, str], "Y": [str]}, 2)
    assert replies.waits == [1.5, 0]
    assert [str(answer.error) for answer in answers.values()] == [
        *("refused", "No answer within 2 s.")
    ]


@pytest.mark.parametrize(
    ("seconds", "pings"),
    [
        (0, [(0.0, 5.0)]),
        (0.3, [(0.0, 5.0), (0.2, 0.2), (0.3, 0.2)]),
        (1, [(0.0, 5.0), (0.2, 0.8), (0.4, 0.6), (0.6, 0.4), (0.8, 0.2), (1.0, 0.2)]),
    ],
)
def test_wait(
    app: Flask,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    pings: list[tuple[float, float]],
) -> None:
    """The servers are pinged every 0.2 s until the time is over. A ping takes no longer
    than what is left of it, but at least 0.2 s.
    """
    make_manager(app, REDIS_URL="redis://h")
    failed = PingResult(False, None, "down", True)
    sent: list[float] = []
    now = 100.0

    def sleep(pause: float) -> None:
        nonlocal now
        now += pause

    def ping(registry: object, prefixes: object, timeout: float) -> t.Any:
        sent.extend((now - 100, timeout))
        return {"REDIS": failed}

    clock = types.SimpleNamespace(monotonic=lambda: now, sleep=sleep)
    monkeypatch.setattr(health, "time", clock)
    monkeypatch.setattr(health, "ping", ping)
    results = health.wait(app.extensions["redis"], ["REDIS"], 5.0, seconds)
    assert results == {"REDIS": failed}
    assert sent == pytest.approx([figure for each in pings for figure in each])


def test_is_healthy() -> None:
    """All required servers must answer, and there must be one at all."""
    fine, down = PingResult(True, 1.0, None, True), PingResult(False, None, "", True)
    optional = dataclasses.replace(down, required=False)
    assert health.is_healthy({"A": fine, "B": optional})
    assert health.is_healthy({"B": optional})
    assert not health.is_healthy({"A": fine, "B": down})
    assert not health.is_healthy({})


def test_longest_timeout(app: Flask) -> None:
    """A timeout may be as long as the system can wait."""
    manager = make_manager(app, REDIS_URL="fakeredis://")

    with app.app_context():
        assert manager.ping(timeout=threading.TIMEOUT_MAX)["REDIS"].ok


def test_results(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are rounded to microseconds. Results cannot be changed."""
    manager = make_manager(app, REDIS_URL="fakeredis://")
    answers = {"REDIS": health.Answer(0.0123456, "PONG")}
    monkeypatch.setattr(health, "ask", lambda questions, timeout: answers)

    with app.app_context():
        result, figures = manager.ping()["REDIS"], manager.stats()["REDIS"]

    assert result == PingResult(True, 12.346, None, True)

    for each in (result, figures):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(each, dataclasses.fields(each)[0].name, None)
