"""The one place in a Flask application that knows every Redis it talks to."""

from .exceptions import ConfigError
from .exceptions import UnknownPrefixError
from .health import PingResult
from .health import PoolStats
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
