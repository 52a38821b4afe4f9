"""The extensions. They are created without an app; ``create_app`` initializes them."""

from __future__ import annotations

from flask import session
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_wtf import CSRFProtect

from flask_and_redis import RedisManager


def who() -> str:
    """Return the key for counting requests: the user or else the IP address."""
    return f"user:{user}" if (user := session.get("user")) else get_remote_address()


# Each attempt waits at most one second for a reply. RETRY_DEADLINE keeps its default of
# five seconds, so that visitors do not notice a restart of Redis.
manager = RedisManager(socket_timeout=1.0, socket_connect_timeout=1.0)
csrf = CSRFProtect()
limiter = Limiter(who)
