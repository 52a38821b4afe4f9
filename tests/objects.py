"""Objects that settings name by a dotted path, and a helper to inspect clients."""

from __future__ import annotations

import typing as t
from pathlib import Path

import redis

from flask_and_redis.deadline.deadline import Deadline

#: The path of a certificate that no test trusts.
CA = str(Path(__file__).with_name("ca.pem"))
POOL = redis.ConnectionPool(port=6399)
NOT_A_CLASS = 1


class MyRedis(redis.Redis):
    """A client class with an additional argument."""

    def __init__(self, *args: t.Any, foo: str = "x", **kwargs: t.Any) -> None:
        super().__init__(*args, **kwargs)
        self.foo = foo


class Provider(redis.CredentialProvider):
    """A credential provider with fixed credentials."""

    def get_credentials(self) -> tuple[str, str]:
        return ("default", "provided")


class Nobody(redis.CredentialProvider):
    """A credential provider for a server without authentication."""

    def get_credentials(self) -> t.Any:
        return ()


class Needy(redis.CredentialProvider):
    """A credential provider with a required argument."""

    def __init__(self, secret: str) -> None:
        self.secret = secret


class NeedsTenant(redis.Redis):
    """A client class with an additional, required argument."""

    def __init__(self, tenant: str, **kwargs: t.Any) -> None:
        super().__init__(**kwargs)
        self.tenant = tenant


class NoPool(redis.Redis):
    """A client class that does not accept a connection pool."""

    def __init__(self, host: str = "h", db: int = 0) -> None:
        super().__init__(host=host, db=db)


class Patient(redis.Redis):
    """A client class with a longer default timeout."""

    def __init__(self, *, socket_timeout: float = 60, **kwargs: t.Any) -> None:
        super().__init__(socket_timeout=socket_timeout, **kwargs)


class Formats(redis.Redis):
    """A client class that formats its password into a new string."""

    def __init__(self, *, password: str = "", **kwargs: t.Any) -> None:
        super().__init__(password=f"{password}", **kwargs)


class SecretStr:
    """Text like pydantic's, which shows itself only if one asks for it."""

    def get_secret_value(self) -> str:
        return "redis://h"


class UrlObject:
    """A URL as an object, as several libraries have one."""

    def __str__(self) -> str:
        return "redis://h"


def deadline_of(client: t.Any) -> Deadline:
    """The deadline of a client's commands."""
    deadline = client._command_deadline
    assert isinstance(deadline, Deadline)
    return deadline


def take_down(deadline: Deadline) -> None:
    """Mark a prefix as down, as a command does that has used up its deadline."""
    deadline.go_down(None, redis.TimeoutError("down"))
