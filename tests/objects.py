"""What settings name by a dotted path, and what is read off a client."""

from __future__ import annotations

import inspect
import typing as t

import redis

from flask_and_redis.retry import Bound

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


class Nobody(redis.CredentialProvider):
    """Credentials of a server that wants none."""

    def get_credentials(self) -> t.Any:
        return ()


class Needy(redis.CredentialProvider):
    """Credentials that cannot be had without being told something."""

    def __init__(self, secret: str) -> None:
        self.secret = secret


class NeedsTenant(redis.Redis):
    """A client that cannot be made without an argument of its own."""

    def __init__(self, tenant: str, **kwargs: t.Any) -> None:
        super().__init__(**kwargs)
        self.tenant = tenant


class NoPool(redis.Redis):
    """A client that makes its own pool."""

    def __init__(self, host: str = "h", db: int = 0) -> None:
        super().__init__(host=host, db=db)


class Patient(redis.Redis):
    """A client that waits longer than others."""

    def __init__(self, *, socket_timeout: float = 60, **kwargs: t.Any) -> None:
        super().__init__(socket_timeout=socket_timeout, **kwargs)


class Formats(redis.Redis):
    """A client that makes something of its password."""

    def __init__(self, *, password: str = "", **kwargs: t.Any) -> None:
        super().__init__(password=f"{password}", **kwargs)


def bound_of(client: t.Any) -> Bound:
    """The bound that was set on a client."""
    found = inspect.getclosurevars(client.execute_command).nonlocals["self"]
    assert isinstance(found, Bound)
    return found
