"""Manages every Redis connection of a Flask application."""

import typing as t

from .exceptions import ConfigError
from .exceptions import UnknownPrefixError
from .manager import RedisManager
from .proxy import current_redis
from .proxy import Redis
from .signals import command_finished
from .signals import prefix_down
from .signals import prefix_up

__version__ = "2.0.0.dev0"

__all__ = [
    "ConfigError",
    "PingResult",
    "PoolStats",
    "Redis",
    "RedisManager",
    "UnknownPrefixError",
    "command_finished",
    "current_redis",
    "prefix_down",
    "prefix_up",
]

if t.TYPE_CHECKING:
    from .operate.health import PingResult
    from .operate.health import PoolStats
else:

    def __getattr__(name: str) -> t.Any:
        # Creating these dataclasses takes a quarter of the time of all other imports.
        if name in ("PingResult", "PoolStats"):
            from .operate import health

            return getattr(health, name)

        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
