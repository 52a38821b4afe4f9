"""The application's own exceptions, raised while the client library waits.

A signal handler may raise a builtin ``TimeoutError`` inside a command, and so may
``gevent.Timeout``. redis-py takes it, and any other ``OSError``, for an error of the
socket and raises its own error instead.
"""

from __future__ import annotations

import collections.abc as cabc
import ssl
import typing as t

from .internals.connections import is_foreign
from .internals.connections import MARGIN
from .internals.errors import ERROR_WHILE_REPORTING
from .library import Library


def raise_interruption(
    errors: cabc.Iterable[BaseException],
    library: Library,
    seconds: float,
    shortest_timeout: float,
) -> None:
    """Raise the exception of the application behind an error of the client library, if
    there is one.

    :param errors: The error and its causes.
    :param library: The client library.
    :param seconds: How long the attempt took.
    :param shortest_timeout: The shortest timeout of any socket that it used.
    """
    errors = list(errors)
    is_early = seconds < shortest_timeout - MARGIN
    lost = (library.errors.ConnectionError, library.errors.TimeoutError)

    for error in errors:
        cause = error.__cause__ or error.__context__

        # What the caller was handling when the command started is a context, too.
        if (
            isinstance(error, (*lost, ERROR_WHILE_REPORTING))
            and isinstance(cause, OSError)
            and any(cause is each for each in errors)
            and _is_interruption(error, cause, library, is_early)
        ):
            raise_alone(cause)


def _is_interruption(
    error: BaseException, cause: OSError, library: Library, is_early: bool
) -> bool:
    foreign = is_foreign(cause)
    has_number = cause.errno is not None

    # With a number, it is the system's: ETIMEDOUT.
    if isinstance(cause, TimeoutError) and not has_number:
        is_timeout = isinstance(error, library.errors.TimeoutError)
        return bool(foreign) or (is_early and is_timeout)

    if foreign is not None:
        return foreign

    # The system's errors have a number. Those of asyncio and of TLS may have none.
    return not (has_number or library.is_async or isinstance(cause, ssl.SSLError))


def raise_alone(error: BaseException) -> t.NoReturn:
    """Raise an error again, without the one that replaced it as its context.

    :param error: The error.
    """
    context = error.__context__

    try:
        raise error
    finally:
        error.__context__ = context
