from __future__ import annotations


class ConfigError(ValueError):
    """A setting is wrong. The message names the setting, says what it must be and
    what to do. It never quotes a value, as a value may hold a password.

    Raised by :meth:`.RedisManager.init_app` and :meth:`.Redis.init_app` for every
    prefix that is surely meant for Redis, and at first use for one that may belong
    to something else.

    .. versionadded:: 2.0
    """


class UnknownPrefixError(KeyError, RuntimeError):
    """The current app has no Redis under this prefix. The message lists the prefixes
    it has, and says why a likely candidate was passed over.

    It is a :exc:`KeyError`, as ``app.extensions["redis"]`` is a mapping, and a
    :exc:`RuntimeError`, like everything that a Flask proxy raises when it finds
    nothing to stand for.

    .. versionadded:: 2.0
    """

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which is no sentence.
        return Exception.__str__(self)
