"""The one place in a Flask application that knows every Redis it talks to."""

import typing as t

from .exceptions import ConfigError
from .exceptions import UnknownPrefixError
from .manager import RedisManager
from .proxy import current_redis
from .proxy import Redis

__version__ = "2.0.0.dev0"

__all__ = [
    "ConfigError",
    "PingResult",
    "PoolStats",
    "Redis",
    "RedisManager",
    "UnknownPrefixError",
    "current_redis",
]

if t.TYPE_CHECKING:
    from .health import PingResult
    from .health import PoolStats
else:

    def __getattr__(name: str) -> t.Any:
        # Making these dataclasses takes a quarter of the time of all the rest.
        if name in ("PingResult", "PoolStats"):
            from . import health

            return getattr(health, name)

        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
