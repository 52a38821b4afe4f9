"""The application's own exceptions, raised while the client library waits.

A signal handler may raise a builtin ``TimeoutError`` inside a command, and so may
``gevent.Timeout``. redis-py takes it, and any other ``OSError``, for an error of the
socket and raises its own error instead.
"""

from __future__ import annotations

import collections.abc as cabc
import types

# A timeout after this part of SOCKET_TIMEOUT, or later, may be the socket's own.
_EARLY = 0.9


def raise_interruption(
    errors: cabc.Iterable[BaseException],
    timeout_error: type[Exception],
    seconds: float,
    shortest_timeout: float,
) -> None:
    """Raise the exception of the application behind an error of the client library, if
    there is one.

    :param errors: The error and its causes.
    :param timeout_error: The library's class for a socket's timeout.
    :param seconds: How long the attempt took.
    :param shortest_timeout: The shortest timeout of any socket that it used.
    """
    own = _find_interruption(errors, timeout_error, seconds, shortest_timeout)

    if own is not None:
        context = own.__context__

        try:
            raise own
        finally:
            # Without the library's error.
            own.__context__ = context


def _find_interruption(
    errors: cabc.Iterable[BaseException],
    timeout_error: type[Exception],
    seconds: float,
    shortest_timeout: float,
) -> OSError | None:
    is_early = seconds < _EARLY * shortest_timeout

    for error in errors:
        if isinstance(error, OSError) and _is_from_signal_handler(error):
            return error

        cause = error.__cause__ or error.__context__

        if (
            is_early
            and isinstance(error, timeout_error)
            # With a number, it is the system's: ETIMEDOUT.
            and isinstance(cause, TimeoutError)
            and cause.errno is None
        ):
            return cause

    return None


def _is_from_signal_handler(error: BaseException) -> bool:
    """Whether a signal handler raised an error. Only a handler gets the frame that
    called it, the interrupted one, as an argument.
    """
    traceback = error.__traceback__

    while traceback is not None and traceback.tb_next is not None:
        if _has_argument(traceback.tb_next.tb_frame, traceback.tb_frame):
            return True

        traceback = traceback.tb_next

    return False


def _has_argument(frame: types.FrameType, argument: object) -> bool:
    for value in frame.f_locals.values():
        # A tuple is that of "*args".
        values = value if type(value) is tuple else (value,)

        if any(each is argument for each in values):
            return True

    return False
