"""Interrupts the main thread as a signal handler that raises would, at a moment that
can be chosen.
"""

from __future__ import annotations

import collections.abc as cabc
import dis
import gc
import inspect
import logging
import sys
import threading
import types
import typing as t

#: Python runs signal handlers while these functions wait, too.
WAITING = frozenset(
    ["acquire", "connect", "do_handshake", "poll", "read", "recv", "recv_into"]
    + ["select", "send", "sendall", "write"]
)

# Modules whose functions are never interrupted.
_NEVER = frozenset({threading.__file__, logging.__file__})

_CALL_EX = dis.opmap["CALL_FUNCTION_EX"]


class Interrupted(Exception):
    """What a job's time limit may raise."""


class Stopped(BaseException):
    """An error that is no ``Exception``, like ``KeyboardInterrupt``."""


class Interrupter:
    """Raises an error in a ``with`` block, at one of its moments.

    A moment is a point where CPython runs signal handlers: at the start of a Python
    function, after the call of a C function or of a class, and in C functions that
    wait. Raising from a profile function has the same effect there as raising from a
    signal handler. In ``__del__`` and weakref callbacks the error is lost.

    :param error: What to raise.
    :param moment: Which moment, from 0 on.
    """

    def __init__(self, error: type[BaseException], moment: int) -> None:
        self.error = error
        self.moment = moment
        self.has_raised = False
        self._count = 0
        self._profile: t.Any = None
        self._hook: t.Any = None

    def _is_moment(self, frame: types.FrameType, event: str, arg: t.Any) -> bool:
        # Locks of Python's own may stay locked if these modules are interrupted.
        if frame.f_code in _OWN or frame.f_code.co_filename in _NEVER:
            return False

        if event == "c_return":
            return True

        if event == "c_call":
            return getattr(arg, "__name__", "") in WAITING

        if event == "call":
            # A generator that goes on is called, too.
            return not frame.f_code.co_flags & inspect.CO_GENERATOR

        return event == "return" and _checks_signals(frame)

    def _watch(self, frame: types.FrameType, event: str, arg: t.Any) -> None:
        if not self.has_raised and self._is_moment(frame, event, arg):
            self._count += 1

            if self._count > self.moment:
                self.has_raised = True
                raise self.error

    def _ignore_own(self, unraisable: t.Any) -> None:
        if unraisable.exc_type is not self.error:
            self._hook(unraisable)

    def __enter__(self) -> Interrupter:
        # Otherwise it collects garbage, with its callbacks, at any moment.
        gc.disable()
        self._hook, sys.unraisablehook = sys.unraisablehook, self._ignore_own
        self._profile = sys.getprofile()
        sys.setprofile(self._watch)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(self._profile)
        sys.unraisablehook = self._hook
        gc.enable()


_OWN = (Interrupter.__enter__.__code__, Interrupter.__exit__.__code__)


def _checks_signals(frame: types.FrameType) -> bool:
    """Whether Python runs signal handlers after a function returns to its caller."""
    if frame.f_code.co_name == "__init__":
        return True

    caller = frame.f_back
    return caller is not None and caller.f_code.co_code[caller.f_lasti] == _CALL_EX


def interrupt_everywhere(
    error: type[BaseException],
    use: cabc.Callable[[], t.Any],
    check: cabc.Callable[[], t.Any],
    *,
    prepare: cabc.Callable[[], t.Any] = lambda: None,
    step: int = 1,
) -> int:
    """Call a function again and again. Interrupt it at another moment each time, until
    it ends first.

    :param error: The class of the error that interrupts it.
    :param use: The function. It may fail only with this error.
    :param check: Is called after each time.
    :param prepare: Is called before each time.
    :param step: The distance between two moments. 1 interrupts at every moment.
    :return: How often it was interrupted.
    """
    interrupter = Interrupter(error, 0)

    while True:
        prepare()

        try:
            with interrupter:
                use()
        except error:
            pass

        check()

        if not interrupter.has_raised:
            return interrupter.moment // step

        interrupter = Interrupter(error, interrupter.moment + step)
        # An error that is interrupted while redis-py raises it refers to itself. It
        # keeps its connection alive, which a later interruption may lose.
        gc.collect(1)
