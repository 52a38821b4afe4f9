"""What settings name by a dotted path."""

from __future__ import annotations

import typing as t

import redis

POOL = redis.ConnectionPool(port=6399)
NOT_A_CLASS = 1


class MyRedis(redis.Redis):
    """A client with an argument of its own."""

    def __init__(self, *args: t.Any, foo: str = "x", **kwargs: t.Any) -> None:
        super().__init__(*args, **kwargs)
        self.foo = foo


class Provider(redis.CredentialProvider):
    """Credentials that a password manager might give."""

    def get_credentials(self) -> tuple[str, str]:
        return ("default", "provided")
