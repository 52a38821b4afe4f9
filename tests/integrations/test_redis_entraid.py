"""Tokens of redis-entraid, which are renewed, from an identity provider in this
process.
"""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import threading
import time
import types
import typing as t
import uuid

import pytest
from flask import Flask

from flask_and_redis import RedisManager

from ..identity import CONFIG
from ..identity import Issuer
from ..servers import Server
from ..servers import wait_until
from ..test_credentials import child_result
from ..test_credentials import forks
from ..test_credentials import may_fork
from ..test_credentials import renews
from .pages import need

need("redis_entraid")

import jwt  # noqa: E402
from redis_entraid import identity_provider  # noqa: E402
from redis_entraid.cred_provider import EntraIdCredentialsProvider  # noqa: E402


class Azure(Issuer):
    """Takes the place of azure-identity's ``DefaultAzureCredential``. Its tokens are
    valid for 2 s.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.users: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def get_token(self, *scopes: str, **options: object) -> types.SimpleNamespace:
        assert scopes == ("https://redis.azure.com/.default",)
        assert self.may_answer.wait(30)

        if self.is_closed:
            # redis-py does not renew a token that never expires.
            return types.SimpleNamespace(token=self._sign(uuid.uuid4().hex, -1))

        user = uuid.uuid4().hex
        token = self._sign(user, time.time() + 2)
        self.add_user(user, token)
        self.users.append(user)
        return types.SimpleNamespace(token=token)

    def _sign(self, user: str, expires: float) -> str:
        return jwt.encode({"oid": user, "exp": expires}, "k" * 32)


@pytest.fixture
def azure(server: Server) -> cabc.Iterator[Azure]:
    azure = Azure(server)
    yield azure
    azure.close()


def make_provider(azure: Azure) -> t.Any:
    """What redis-entraid's ``create_from_default_azure_credential`` returns."""
    scopes = ("https://redis.azure.com/.default",)
    # The constructor's types want azure-identity's own class.
    provider: t.Any = identity_provider.DefaultAzureCredentialProvider
    return EntraIdCredentialsProvider(provider(azure, scopes), CONFIG)


def manage(server: Server, provider: object) -> tuple[Flask, RedisManager]:
    """An app with two prefixes that have the same provider, and its manager."""
    app = Flask("tests")

    for prefix in ("REDIS", "CACHE"):
        app.config[f"{prefix}_URL"] = server.url
        app.config[f"{prefix}_CREDENTIAL_PROVIDER"] = provider
        # Nothing may fail, not even once.
        app.config[f"{prefix}_RETRY_DEADLINE"] = 0

    return app, RedisManager(app)


def test_expired_tokens(server: Server, azure: Azure) -> None:
    """No command meets an expired token, in any prefix with the provider, although
    pings and asynchronous blocks use it too.
    """
    app, manager = manage(server, make_provider(azure))
    clients: list[t.Any] = list(app.extensions["redis"].values())

    async def use() -> None:
        async with manager.get_async() as client:
            assert await client.ping()

    with app.app_context(), server.admin() as admin:
        for _ in range(3):
            asyncio.run(use())
            assert all(result.ok for result in manager.ping(timeout=20).values())

            for client in clients:
                assert client.ping()

            expired = list(azure.users)
            provider = clients[0].connection_pool.connection_kwargs[
                "credential_provider"
            ]
            version = provider.version
            # The first one may have been requested before.
            wait_until(
                lambda provider=provider, version=version: (  # type: ignore[misc]
                    provider.version >= version + 2
                ),
                "tokens are renewed",
                timeout=20,
            )
            # This closes their connections, as Azure does.
            admin.acl_deluser(*expired)

            for client in clients:
                assert client.ping()


def test_function(server: Server, azure: Azure) -> None:
    """A function that returns the provider is called once, and pings leave no threads
    behind.
    """
    calls = []

    def make() -> t.Any:
        calls.append(threading.current_thread())
        return make_provider(azure)

    app, manager = manage(server, make)

    def renewing() -> int:
        return sum("loop" in thread.name for thread in threading.enumerate())

    before = renewing()

    with app.app_context():
        for _ in range(10):
            assert all(result.ok for result in manager.ping(timeout=20).values())

    assert renewing() == before + 1
    assert len(calls) == 1
    assert renews(app.extensions["redis"]["REDIS"])


@forks
@may_fork
@pytest.mark.parametrize("kind", ["object", "function"])
def test_forked_child(server: Server, azure: Azure, kind: str) -> None:
    """Tokens are renewed in a forked child, and still in its parent."""
    value = make_provider(azure) if kind == "object" else lambda: make_provider(azure)
    app, _ = manage(server, value)
    client = app.extensions["redis"]["REDIS"]
    assert client.ping()
    assert child_result(lambda: renews(client)) == 0
    assert renews(client)


def test_asynchronous_view(server: Server, azure: Azure) -> None:
    """While the first token is requested, other tasks run. It is renewed when the
    view's loop has ended.
    """
    app, manager = manage(server, make_provider(azure))
    azure.may_answer.clear()

    async def use() -> object:
        async with manager.get_async() as client:
            return await client.ping()

    async def view() -> object:
        task = asyncio.create_task(use())
        await asyncio.sleep(0.1)
        azure.may_answer.set()
        return await task

    with app.app_context():
        assert asyncio.run(view())

    assert renews(app.extensions["redis"]["REDIS"])


def test_synchronous_client_in_an_asynchronous_view(
    server: Server, azure: Azure
) -> None:
    """redis-entraid would wait for the view's own loop, without end."""
    app, _ = manage(server, make_provider(azure))
    client = app.extensions["redis"]["REDIS"]

    async def view() -> object:
        return client.ping()

    assert asyncio.run(view())
    assert renews(client)
