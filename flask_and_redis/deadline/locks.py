"""Locks whose replies may be lost.

When the reply to a lock's command is lost, the command is sent again. It then finds
what its first attempt did, and redis-py takes that for the work of another owner.
"""

from __future__ import annotations

import collections.abc as cabc
import typing as t

from ..engines.internals.clients import change_class
from ..engines.internals.clients import LockSteps
from ..engines.library import get_library
from ..engines.library import library_name
from ..spec.classes import subclass
from .report import watch_retries


class _Owned(LockSteps):
    """Mixed into the class of a lock."""

    _lock_client: t.Any
    name: str | bytes

    @property
    def _not_owned(self) -> type[Exception]:
        errors = get_library(library_name(type(self))).errors
        error: type[Exception] = errors.LockNotOwnedError
        return error

    def _is_token(self, stored: str | bytes | None, token: bytes) -> bool:
        if isinstance(stored, str):
            # With decode_responses.
            stored = self._lock_client.get_encoder().encode(stored)

        return stored == token


class LockWithDeadline(_Owned):
    """Mixed into the class of a synchronous client's lock."""

    def acquire_once(self, acquire: cabc.Callable[[bytes], bool], token: bytes) -> bool:
        with watch_retries() as retries:
            if acquire(token):
                return True

        if not retries:
            return False

        return self._is_token(self._lock_client.get(self.name), token)

    def release_once(self, release: cabc.Callable[[bytes], None], token: bytes) -> None:
        with watch_retries() as retries:
            try:
                release(token)
            except self._not_owned:
                # If nobody owns it, the first attempt has released it.
                if not retries or self._lock_client.get(self.name) is not None:
                    raise


class AsyncLockWithDeadline(_Owned):
    """The same for an asynchronous client's lock."""

    async def acquire_once(
        self, acquire: cabc.Callable[[bytes], cabc.Awaitable[bool]], token: bytes
    ) -> bool:
        with watch_retries() as retries:
            if await acquire(token):
                return True

        if not retries:
            return False

        return self._is_token(await self._lock_client.get(self.name), token)

    async def release_once(
        self, release: cabc.Callable[[bytes], cabc.Awaitable[None]], token: bytes
    ) -> None:
        with watch_retries() as retries:
            try:
                await release(token)
            except self._not_owned:
                if not retries or await self._lock_client.get(self.name) is not None:
                    raise


def recognize_own_token(lock: t.Any, client: object, mixin: type[_Owned]) -> None:
    """Make a new lock recognize what its own commands did.

    :param lock: The lock.
    :param client: Its client.
    :param mixin: The class above for the client's kind.
    """
    # A class of the application may work otherwise.
    if library_name(type(lock)):
        change_class(lock, subclass(mixin, type(lock)))
        lock._lock_client = client
