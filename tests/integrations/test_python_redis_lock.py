from __future__ import annotations

import threading
import typing as t
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from ..servers import Server
from ..servers import wait_until
from .conftest import Load
from .pages import assert_all_ours
from .pages import need

need("redis_lock")

from redis_lock import Lock  # noqa: E402


@pytest.mark.parametrize("decode", ["false", "true"])
def test_page(
    load: Load, server: Server, environment: pytest.MonkeyPatch, decode: str
) -> None:
    """The lock is renewed before it expires. The renewal uses the prefix's pool."""
    environment.setenv("FLASK_REDIS_DECODE_RESPONSES", decode)
    app = load("python-redis-lock").create_app()

    def post(seconds: int) -> str:
        text: str = app.test_client().post(f"/reports/{seconds}").text
        return text

    with ThreadPoolExecutor() as threads, server.admin() as admin:
        held = threads.submit(post, 3)
        wait_until(lambda: admin.exists("lock:report"), "the lock is held")
        left: list[t.Any] = [admin.pttl("lock:report")]

        while not held.done():
            if (now := admin.pttl("lock:report")) != left[-1]:
                left.append(now)

        assert held.result() == "Done."
        # The remaining time became shorter, and then longer again.
        times = [each for each in left if each > 0]
        assert any(
            after > before for before, after in zip(times, times[1:], strict=False)
        )
        assert not admin.exists("lock:report")

    pool = app.extensions["redis"]["REDIS"].connection_pool
    assert_all_ours(server, pool)


def test_held(load: Load) -> None:
    """A request fails with 409 if the lock is held."""
    app = load("python-redis-lock").create_app()

    with Lock(app.extensions["redis"]["REDIS"], "report", expire=2):
        assert app.test_client().post("/reports/0").status_code == 409

    assert app.test_client().post("/reports/0").text == "Done."


def test_proxy_is_not_renewed(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """The renewing thread has no application context, so it cannot use a proxy."""
    module = load("python-redis-lock")
    errors: list[object] = []
    failed = threading.Event()

    def keep(args: threading.ExceptHookArgs) -> None:
        errors.append(args.exc_value)
        failed.set()

    monkeypatch.setattr(threading, "excepthook", keep)

    with module.create_app().app_context():
        lock = Lock(module.manager.get(), "report", expire=1, auto_renewal=True)
        lock.acquire()
        assert failed.wait(10)
        assert isinstance(errors[0], RuntimeError)
        assert "'.connection'" in str(errors[0])


def test_waiting_needs_a_socket_timeout_above(
    load: Load, environment: pytest.MonkeyPatch
) -> None:
    """Waiting for a lock fails if it blocks for longer than the socket timeout."""
    environment.setenv("FLASK_REDIS_SOCKET_TIMEOUT", "0.5")
    environment.setenv("FLASK_REDIS_RETRY_DEADLINE", "0")
    client = load("python-redis-lock").create_app().extensions["redis"]["REDIS"]

    with Lock(client, "report", expire=10), pytest.raises(redis.TimeoutError):
        Lock(client, "report", expire=10).acquire()
