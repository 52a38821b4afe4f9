"""A server of fakeredis, in this process."""

from __future__ import annotations

import re
import typing as t

import redis

from ..spec.classes import check_installed
from ..spec.spec import Address
from ..spec.spec import Arguments
from ..spec.spec import Spec
from ..spec.spec import Values
from ..spec.url import Url
from .base import Engine
from .checks import SENTINEL_SETTINGS
from .library import library_of
from .operations import FakeServers
from .standalone import split_arguments

# A fake server knows neither users nor TLS, and has no address.
_UNUSED = {"username", "password", "credential_provider", "host", "port", "ssl"}


class Fake(Engine):
    """A server for development and tests. Each app has its own, by name."""

    in_process: bool = True

    def read_address(self, url: Url) -> tuple[Address, Values, Url]:
        name = url.login + url.hosts

        if not re.fullmatch(r"[\w.-]*", name):
            raise url.error(
                "must be like fakeredis://name/0. The name, of letters and digits, and"
                " the database may be left out."
            )

        return Address(url.scheme, fake_server=name), {}, url

    def check(self, spec: Spec, values: Values) -> None:
        # Settings of the real server, such as those of TLS, may stay.
        pass

    def read_sentinel_kwargs(self, spec: Spec, values: Values) -> None:
        for name in SENTINEL_SETTINGS:
            spec.arguments.pop(name, None)

    def complete(self, spec: Spec, values: Values) -> None:
        check_installed(f"'{spec.prefix}_URL'", "fakeredis")

        if spec.client_class is redis.Redis:
            import fakeredis

            spec.client_class = fakeredis.FakeRedis

        super().complete(spec, values)

    def creates_pool(self, spec: Spec) -> bool:
        return True

    def make_client(
        self,
        spec: Spec,
        client_class: type[t.Any],
        arguments: Arguments,
        fake_servers: FakeServers,
    ) -> t.Any:
        import fakeredis

        library = library_of(client_class)
        name = spec.address.fake_server
        # setdefault, because two threads may create clients at once.
        server = fake_servers.setdefault(name, fakeredis.FakeServer())
        pool_class = spec.pool_class or library.pool_class
        connection_class: type[t.Any] = fakeredis.FakeRedisConnection

        if library.is_async:
            connection_class = fakeredis.FakeAsyncRedisConnection

        for_pool, for_client = split_arguments(
            {name: value for name, value in arguments.items() if name not in _UNUSED},
            pool_class,
            redis.SSLConnection,
        )
        of_tls = [name for name in for_pool if name.startswith("ssl_")]

        for name in of_tls:
            del for_pool[name]

        pool = pool_class(connection_class=connection_class, server=server, **for_pool)
        return client_class(connection_pool=pool, **for_client)

    def describe_address(self, spec: Spec) -> str:
        name = spec.address.fake_server
        return f"this process, server {name}" if name else "this process"


ENGINE: Fake = Fake()
