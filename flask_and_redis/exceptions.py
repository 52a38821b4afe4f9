from __future__ import annotations

import inspect
import warnings

# Code between a caller and a warning: this package, and what its classes inherit from.
_INNER = (f"{__package__}.", "werkzeug.local", "collections.abc")


class ConfigError(ValueError):
    """A setting is wrong. The message names the setting, what it must be and what to
    do. It never quotes a value, because a value may hold a password.

    :meth:`.RedisManager.init_app` and :meth:`.Redis.init_app` raise it for every prefix
    that is certainly meant for Redis. For a prefix that may belong to other software it
    is raised at first use.

    .. versionadded:: 2.0
    """

    #: Where the wrong value came from: ``"setting"``, ``"option"`` or ``"url"``. None
    #: if the error is not about one value.
    origin: str | None = None


class UnknownPrefixError(KeyError, RuntimeError):
    """The current app has no Redis with this prefix. The message lists the known
    prefixes and explains why a similar one was skipped.

    It is a :exc:`KeyError` because ``app.extensions["redis"]`` is a mapping, and a
    :exc:`RuntimeError` because Flask's proxies raise that when they are unbound.

    .. versionadded:: 2.0
    """

    def __str__(self) -> str:
        # KeyError shows the repr of its argument.
        return Exception.__str__(self)


def without_traceback(error: ConfigError) -> ConfigError:
    """Copy an error without its traceback. Error trackers record the local variables
    of all frames, and some have settings. Raise the copy where no variable has any.

    :param error: The error.
    """
    copy = ConfigError(*error.args)
    copy.origin = error.origin
    return copy


def warn(message: str) -> None:
    """Warn, and name the line that called this package.

    :param message: The message.
    """
    frame, level = inspect.currentframe(), 1

    while frame and str(frame.f_globals.get("__name__")).startswith(_INNER):
        frame, level = frame.f_back, level + 1

    warnings.warn(message, stacklevel=level)
