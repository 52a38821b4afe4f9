"""An identity provider in this process, and a credential provider that streams its
tokens.
"""

from __future__ import annotations

import time
import typing as t
import uuid

from redis.auth import err
from redis.auth import token_manager
from redis.auth.idp import IdentityProviderInterface
from redis.auth.token import SimpleToken
from redis.credentials import StreamingCredentialProvider

from .servers import Server

# Without type hints.
_err: t.Any = err
_tokens: t.Any = token_manager

#: Renew a token when a tenth of its time is over. Otherwise as in redis-entraid.
CONFIG = _tokens.TokenManagerConfig(0.1, 0, 100, _tokens.RetryPolicy(1, 1))


class Token(SimpleToken):
    """A token that seems to be received just now, as redis-py's ``JWToken`` does.
    Otherwise a slow machine could receive one too late, and never renew it.
    """

    def get_received_at_ms(self) -> float:
        return time.time() * 1000


class Issuer(IdentityProviderInterface):
    """Issues tokens that are valid for 2 s. Each is the password of a user of its own,
    so that ``ACL WHOAMI`` tells which one a connection logged in with.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.error = ""
        self.failures = 0
        self.is_closed = False

    def request_token(self, force_refresh: bool = False) -> SimpleToken:
        if self.is_closed:
            # redis-py does not renew a token that is nearly expired.
            now = time.time() * 1000
            return SimpleToken("", now + 1_000_000, now - 1_000_000, {})

        if self.error:
            self.failures += 1
            raise _err.RequestTokenErr(self.error)

        user, password = uuid.uuid4().hex, uuid.uuid4().hex
        self.add_user(user, password)
        now = time.time() * 1000
        return Token(password, now + 2000, now, {"oid": user})

    def add_user(self, user: str, password: str) -> None:
        with self.server.admin() as admin:
            admin.acl_setuser(
                user,
                enabled=True,
                passwords=[f"+{password}"],
                categories=["+@all"],
                keys=["*"],
            )

    def close(self) -> None:
        """End all renewals, whose threads would go on after the test."""
        self.is_closed = True


class Streaming(StreamingCredentialProvider):
    """What redis-entraid's provider does, without its dependencies."""

    def __init__(self, issuer: IdentityProviderInterface) -> None:
        self._token_mgr = _tokens.TokenManager(issuer, CONFIG)
        self._listener = _tokens.CredentialsListener()
        self._is_streaming = False

    def get_credentials(self) -> tuple[str, str]:
        token = self._token_mgr.acquire_token().get_token()

        if not self._is_streaming:
            self._token_mgr.start(self._listener, skip_initial=True)
            self._is_streaming = True

        return token.try_get("oid"), token.get_value()

    def on_next(self, callback: t.Any) -> None:
        self._listener.on_next = callback

    def on_error(self, callback: t.Any) -> None:
        self._listener.on_error = callback

    def is_streaming(self) -> bool:
        return self._is_streaming
