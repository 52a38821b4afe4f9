"""What the errors of an attempt mean, as far as all engines agree."""

from __future__ import annotations

import collections.abc as cabc
import ssl

from ..spec.spec import Spec
from .library import library_of

# Any other TLS error is a refusal. These say that the connection was lost.
_TLS_LOST = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def causes(
    error: BaseException, handled: BaseException | None
) -> cabc.Iterator[BaseException]:
    """An error, and the errors of the same attempt that led to it.

    :param error: What the attempt raised.
    :param handled: The error that the caller was handling when the command started. It
        and its causes do not belong to the attempt.
    """
    seen = {id(handled)}
    pending: list[BaseException | None] = [error]

    while pending:
        if (each := pending.pop()) is not None and id(each) not in seen:
            seen.add(id(each))
            pending += [each.__cause__, each.__context__]
            yield each


def is_transient(
    error: BaseException, spec: Spec, handled: BaseException | None
) -> bool:
    """Whether a retry may succeed. See :meth:`.Engine.is_transient`."""
    errors = library_of(spec.client_class).errors
    transient = (
        errors.ConnectionError,
        errors.TimeoutError,
        errors.ClusterDownError,
        errors.TryAgainError,
        *spec.arguments.get("retry_on_error", ()),
    )
    permanent = (errors.AuthenticationError, errors.AuthorizationError)
    return (
        isinstance(error, transient)
        and not isinstance(error, permanent)
        and not any(map(_is_tls_refusal, causes(error, handled)))
    )


def _is_tls_refusal(error: BaseException) -> bool:
    return isinstance(error, ssl.SSLError) and not isinstance(error, _TLS_LOST)


def has_timed_out(
    error: BaseException, spec: Spec, handled: BaseException | None
) -> bool:
    """Whether a socket timeout led to an error. See :meth:`.Engine.is_hang`."""
    timeout = library_of(spec.client_class).errors.TimeoutError
    return any(isinstance(each, timeout) for each in causes(error, handled))
