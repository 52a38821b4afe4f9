"""Prefixes of each engine, on servers where each database has other values."""

from __future__ import annotations

import typing as t

import pytest
from flask import Flask

from flask_and_redis import RedisManager

from .servers import Certificates
from .servers import Server

USER, PASSWORD, DATABASE = "worker", "s3cret", 5
#: What ACL WHOAMI returns. Some versions decode it.
NAMES = (USER, USER.encode())
KEYS = ("own", "a", "b", "c")


class Prefix:
    """A prefix under test, whose pool has one connection."""

    def __init__(self, **config: t.Any) -> None:
        self.app = Flask("interrupted", static_folder=None)
        defaults = {"MAX_CONNECTIONS": 1, "RETRY_DEADLINE": 1}
        self.app.config.update(
            {f"REDIS_{name}": value for name, value in (defaults | config).items()}
        )
        self.manager = RedisManager(self.app)
        self.has_user = "USERNAME" in config
        # A cluster has only database 0.
        self.database = 0 if "cluster" in config["URL"] else DATABASE

    @property
    def client(self) -> t.Any:
        return self.app.extensions["redis"]["REDIS"]

    def value(self, key: str) -> bytes:
        """The value of a key in the prefix's database. It is another one elsewhere."""
        return f"{self.database}-{key}".encode()

    def in_use(self) -> int:
        with self.app.app_context():
            figures = self.manager.stats()["REDIS"]

        assert figures.in_use is not None
        return figures.in_use

    def disconnect(self) -> None:
        """Let the next command open a new connection."""
        if hasattr(self.client, "disconnect_connection_pools"):
            # A cluster.
            self.client.disconnect_connection_pools()
        else:
            self.client.connection_pool.disconnect()

    def check(self) -> None:
        """Check that all is well with the connection that the next commands use."""
        client = self.client
        assert client.get("a") == self.value("a")
        pipeline = client.pipeline(transaction=False).get("b").get("c")
        assert pipeline.execute() == [self.value("b"), self.value("c")]

        if self.has_user:
            assert client.execute_command("ACL WHOAMI") in NAMES

        assert self.in_use() == 0


def fill(client: t.Any, database: int) -> None:
    for key in KEYS:
        client.set(key, f"{database}-{key}")


def prepare_server(server: Server, *, keys: bool = True) -> None:
    """Add the user, and keys with different values to both databases."""
    with server.admin() as admin:
        admin.acl_setuser(
            USER,
            enabled=True,
            passwords=[f"+{PASSWORD}"],
            keys=["*"],
            channels=["*"],
            categories=["+@all"],
        )

        if not keys:
            return

        fill(admin, 0)

    with server.admin(db=DATABASE) as admin:
        fill(admin, DATABASE)


def make_prefix(request: pytest.FixtureRequest, engine: str, **config: t.Any) -> Prefix:
    """Create a prefix for an engine, on a prepared server."""
    if engine == "cluster":
        cluster = request.getfixturevalue("cluster")
        prefix = Prefix(URL=f"redis+cluster://{cluster.address}", **config)
        fill(prefix.client, 0)
        return prefix

    if engine == "fake":
        prefix = Prefix(URL=f"fakeredis:///{DATABASE}", **config)
        fill(prefix.client, DATABASE)
        return prefix

    config = {"USERNAME": USER, "PASSWORD": PASSWORD, **config}

    if engine == "sentinel":
        sentinels = request.getfixturevalue("shared_sentinels")
        prepare_server(sentinels.servers[0])
        url = f"redis+sentinel://{sentinels.address}/mymaster/{DATABASE}"
        return Prefix(URL=url, **config)

    if engine == "tls":
        certificates: Certificates = request.getfixturevalue("certificates")
        config["SSL_CA_CERTS"] = str(certificates.ca)

    server = request.getfixturevalue("tls_server" if engine == "tls" else "server")
    prepare_server(server)
    url = f"{server.url}/{DATABASE}"

    if engine == "unix":
        url = f"unix://{server.socket}?db={DATABASE}"

    if engine == "valkey":
        config["CLASS"] = "valkey.Valkey"

    return Prefix(URL=url, **config)
