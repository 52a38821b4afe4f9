"""The extensions, made before there is an app. ``create_app`` binds them to one."""

from __future__ import annotations

from flask import session
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_wtf import CSRFProtect

from flask_and_redis import RedisManager


def who() -> str:
    """Whose requests are counted: the user's, or else those from one address."""
    return f"user:{user}" if (user := session.get("user")) else get_remote_address()


# A page is not worth more than a second of waiting for one answer. A command is tried
# again for five seconds as ever, so that a restart of a Redis goes unnoticed.
manager = RedisManager(socket_timeout=1.0, socket_connect_timeout=1.0)
csrf = CSRFProtect()
limiter = Limiter(who)
