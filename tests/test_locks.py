"""Locks whose replies are lost on the way."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import typing as t

import pytest
import redis
import valkey
from flask import Flask
from redis.lock import Lock

from flask_and_redis import RedisManager

from .cutter import Cutter


def make_app(**config: t.Any) -> Flask:
    app = Flask("locks")
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})
    app.extensions["manager"] = RedisManager(app)
    return app


_made: list[t.Any] = []


def make(**config: t.Any) -> t.Any:
    """The client of prefix REDIS with these settings."""
    _made.append(make_app(**config).extensions["redis"]["REDIS"])
    return _made[-1]


@pytest.fixture(autouse=True)
def _disconnect() -> cabc.Iterator[None]:
    """Disconnect the clients. The class of locks keeps the first one of each library,
    because its scripts refer to it.
    """
    yield

    while _made:
        _made.pop().connection_pool.disconnect()


KINDS: dict[str, dict[str, t.Any]] = {
    "redis": {},
    "text": {"DECODE_RESPONSES": True},
    "valkey": {"CLASS": "valkey.Valkey"},
    "valkey text": {"CLASS": "valkey.Valkey", "DECODE_RESPONSES": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blocking", [False, True])
def test_lost_reply(cutter: Cutter, kind: str, blocking: bool) -> None:
    """A lock is acquired, extended and released although each reply was lost once."""
    client = make(URL=cutter.url, **KINDS[kind])
    lock = client.lock("lock", timeout=60, blocking=blocking, blocking_timeout=5)
    # Loads the scripts.
    assert lock.acquire()
    lock.extend(1)
    lock.reacquire()
    lock.release()

    cutter.lose(b"SET")
    assert lock.acquire(token="my token")
    assert lock.owned()
    cutter.lose(b"EVALSHA")
    assert lock.extend(1)
    cutter.lose(b"EVALSHA")
    assert lock.reacquire()
    cutter.lose(b"EVALSHA")
    lock.release()
    assert not lock.locked()


def test_lock_of_another_owner(cutter: Cutter) -> None:
    """The lock of another owner stays theirs, whatever reply is lost."""
    client = make(URL=cutter.url)
    mine = client.lock("lock", timeout=60, blocking=False)
    theirs = client.lock("lock", timeout=60, blocking=False)
    assert theirs.acquire()
    assert not mine.acquire()
    cutter.lose(b"SET")
    assert not mine.acquire()
    theirs.release()

    assert mine.acquire()
    client.delete("lock")
    assert theirs.acquire()
    cutter.lose(b"EVALSHA")

    with pytest.raises(redis.exceptions.LockNotOwnedError):
        mine.release()

    assert theirs.owned()
    theirs.release()

    with pytest.raises(redis.exceptions.LockError):
        theirs.release()


def test_release_of_an_expired_lock(cutter: Cutter) -> None:
    """Without a lost reply, the release of an expired lock is an error as before."""
    for kind, error in (
        ("redis", redis.exceptions.LockNotOwnedError),
        ("valkey", valkey.exceptions.LockNotOwnedError),
    ):
        client = make(URL=cutter.url, **KINDS[kind])
        lock = client.lock("lock", timeout=60)
        assert lock.acquire()
        client.delete("lock")

        with pytest.raises(error):
            lock.release()


class OwnLock(Lock):
    """A lock's class of an application."""


class OtherLock:
    """A lock's class that has nothing to do with redis-py's."""

    def __init__(self, client: object, name: str, **options: t.Any) -> None:
        self.name = name


def test_own_classes(cutter: Cutter) -> None:
    """A class derived from redis-py's lock behaves the same. Others are left alone."""
    client = make(URL=cutter.url)
    lock = client.lock("lock", lock_class=OwnLock, blocking=False)
    assert isinstance(lock, OwnLock)
    cutter.lose(b"SET")
    assert lock.acquire()
    assert type(client.lock("lock", lock_class=OtherLock)) is OtherLock


def test_own_retry_object(cutter: Cutter) -> None:
    """With redis-py's own Retry object, its locks are used as they are."""
    client = make(URL=cutter.url, RETRY=redis.retry.Retry(redis.backoff.NoBackoff(), 1))
    assert type(client.lock("lock")) is Lock


@pytest.mark.parametrize("decode", [False, True])
def test_async_locks(cutter: Cutter, decode: bool) -> None:
    """Locks of an asynchronous client behave the same."""

    async def use() -> None:
        async with app.extensions["manager"].get_async() as client:
            lock = client.lock("lock", timeout=60, blocking=False)
            assert await lock.acquire()
            await lock.release()

            cutter.lose(b"SET")
            assert await lock.acquire()
            assert not await client.lock("lock", blocking=False).acquire()
            cutter.lose(b"EVALSHA")
            await lock.release()
            assert not await lock.locked()

            assert await lock.acquire()
            await client.set("lock", "other")
            cutter.lose(b"EVALSHA")

            with pytest.raises(redis.exceptions.LockNotOwnedError):
                await lock.release()

    app = make_app(URL=cutter.url, DECODE_RESPONSES=decode)

    with app.app_context():
        asyncio.run(use())
