"""The clients that ask sentinels."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import contextvars
import sys
import time
import typing as t

import redis

from ..spec.classes import subclass
from ..spec.spec import Spec
from ..spec.values import mask_secrets
from . import checks
from . import interruptions
from .commands import causes
from .commands import is_tls_refusal
from .internals.sentinels import count_sentinels
from .internals.sentinels import set_sentinels
from .library import get_library
from .library import library_of


class _SafeRepr:
    """Mixed into the class of clients that talk to sentinels. redis-py puts their
    ``repr`` into errors, with all arguments of their connections.
    """

    def __repr__(self) -> str:
        return "a sentinel"


class _SentinelClient(_SafeRepr):
    """Mixed into the class of synchronous clients that talk to sentinels.

    redis-py asks the next sentinel if it cannot connect to one. With this class it also
    does so if a server does not know or permit the command, and an exception of the
    application reaches the caller.
    """

    def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        started = time.monotonic()
        handled = sys.exc_info()[1]

        try:
            return super().execute_command(*args, **options)  # type: ignore[misc]
        except Exception as error:
            _raise_interruption(self, error, handled, started)
            _collect(error)
            raise


class _AsyncSentinelClient(_SafeRepr):
    """The same for asynchronous clients."""

    async def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any:
        started = time.monotonic()
        handled = sys.exc_info()[1]

        try:
            return await super().execute_command(*args, **options)  # type: ignore[misc]
        except Exception as error:
            _raise_interruption(self, error, handled, started)
            _collect(error)
            raise


class _Sentinels:
    """Mixed into redis-py's class that asks the sentinels. It raises their errors as
    the cause of its own, which has only their text.
    """

    def discover_master(self, service_name: str) -> t.Any:
        handled = sys.exc_info()[1]

        with _collect_errors() as errors:
            try:
                return super().discover_master(service_name)  # type: ignore[misc]
            except redis.ConnectionError as error:
                if not _have_all_refused(self, errors):
                    raise error from _find_cause(errors, handled)

            # A retry cannot fix it.
            raise errors[0]

    def discover_slaves(self, service_name: str) -> t.Any:
        handled = sys.exc_info()[1]

        with _collect_errors() as errors:
            replicas = super().discover_slaves(service_name)  # type: ignore[misc]
            _check_replicas(replicas, errors, handled)

        return replicas


class _AsyncSentinels:
    """The same for asynchronous clients."""

    async def discover_master(self, service_name: str) -> t.Any:
        handled = sys.exc_info()[1]

        with _collect_errors() as errors:
            try:
                return await super().discover_master(service_name)  # type: ignore[misc]
            except redis.ConnectionError as error:
                if not _have_all_refused(self, errors):
                    raise error from _find_cause(errors, handled)

            # A retry cannot fix it.
            raise errors[0]

    async def discover_slaves(self, service_name: str) -> t.Any:
        handled = sys.exc_info()[1]

        with _collect_errors() as errors:
            replicas = await super().discover_slaves(service_name)  # type: ignore[misc]
            _check_replicas(replicas, errors, handled)

        return replicas


# The errors of the sentinels that are asked now.
_collected: contextvars.ContextVar[list[Exception]] = contextvars.ContextVar("errors")


@contextlib.contextmanager
def _collect_errors() -> cabc.Iterator[list[Exception]]:
    errors: list[Exception] = []
    token = _collected.set(errors)

    try:
        yield errors
    finally:
        _collected.reset(token)
        # Their tracebacks refer to this list. In such a cycle, a connection that was
        # lent when one of them was raised stays lent until the garbage is collected.
        errors.clear()


def _collect(error: Exception) -> None:
    """Collect an error of a sentinel, and let redis-py ask the next one."""
    errors = _collected.get(None)

    if errors is None:
        return

    errors.append(error)

    if isinstance(error, redis.ResponseError):
        raise redis.ConnectionError(str(error)) from error


def _have_all_refused(manager: object, errors: list[Exception]) -> bool:
    """Whether all sentinels have replied with an error."""
    replies = [error for error in errors if isinstance(error, redis.ResponseError)]
    return len(replies) == count_sentinels(manager)


def _find_cause(
    errors: list[Exception], handled: BaseException | None
) -> Exception | None:
    """The most useful error: one that a retry cannot fix, or else the first."""
    refusals = (each for each in errors if is_refusal(each, handled))
    return next(refusals, errors[0] if errors else None)


def _check_replicas(
    replicas: list[t.Any], errors: list[Exception], handled: BaseException | None
) -> None:
    """Raise if there are no replicas because the sentinels refused to answer. redis-py
    would look for the master, and hide the error.
    """
    cause = _find_cause(errors, handled)

    if not replicas and is_refusal(cause, handled):
        sentinel = get_library("redis").sentinel
        raise sentinel.MasterNotFoundError(f"No replica found: {cause}") from cause


def is_refusal(error: BaseException | None, handled: BaseException | None) -> bool:
    """Whether a sentinel refused the login, the command or the client's certificate,
    or the client refused the sentinel's certificate.

    :param error: The error of a sentinel's client.
    :param handled: The error that the caller was handling when the command started.
    """
    if error is None:
        return False

    errors = get_library("redis").errors
    permanent = (
        errors.AuthenticationError,
        errors.AuthorizationError,
        errors.NoPermissionError,
    )
    return isinstance(error, permanent) or any(
        map(is_tls_refusal, causes(error, handled))
    )


def _raise_interruption(
    client: t.Any, error: Exception, handled: BaseException | None, started: float
) -> None:
    """Raise the application's own exception, if a sentinel's client hid one."""
    arguments = client.connection_pool.connection_kwargs
    interruptions.raise_interruption(
        causes(error, handled),
        library_of(type(client)),
        time.monotonic() - started,
        min(arguments[name] for name in checks.TIMEOUTS),
    )


def make_sentinels(spec: Spec, client_class: type[t.Any]) -> t.Any:
    """redis-py's object that asks the sentinels of a spec."""
    library = library_of(client_class)
    arguments = {"retry": library.no_retry(), **spec.sentinel_arguments}
    mask_secrets(arguments)
    manager_class = subclass(
        _AsyncSentinels if library.is_async else _Sentinels, library.sentinel.Sentinel
    )
    manager = manager_class([], sentinel_kwargs=arguments)
    mixin = _AsyncSentinelClient if library.is_async else _SentinelClient
    sentinel_class = subclass(mixin, library.client_class)
    set_sentinels(
        manager,
        [
            sentinel_class(host=host, port=port, **arguments)
            for host, port in spec.address.nodes
        ],
    )
    return manager


def is_no_master(error: BaseException | None) -> bool:
    """Whether no sentinel named a server."""
    classes = tuple(
        get_library("redis", is_async).sentinel.MasterNotFoundError
        for is_async in (False, True)
    )
    return isinstance(error, classes)
