"""A single server, by host or Unix socket. Any client class can be used."""

from __future__ import annotations

import typing as t

from ..exceptions import ConfigError
from ..spec.classes import name_of
from ..spec.classes import parameters
from ..spec.spec import Address
from ..spec.spec import Arguments
from ..spec.spec import Spec
from ..spec.spec import Values
from ..spec.url import Url
from . import checks
from .base import Engine
from .internals.pools import UNNAMED_POOL_ARGUMENTS
from .library import get_library
from .library import library_name
from .library import library_of
from .operations import FakeServers


class Standalone(Engine):
    """A Redis or Valkey server."""

    schemes_without_host: tuple[str, ...] = ("unix",)
    tls_schemes: tuple[str, ...] = ("rediss", "valkeys")

    def read_address(self, url: Url) -> tuple[Address, Values, Url]:
        address = Address(url.scheme)

        if url.scheme not in self.schemes_without_host:
            return address, url.read_host(), url

        if url.hosts or len(url.path) < 2:
            raise url.error(
                "must be like unix:///path/to/redis.sock?db=0 or"
                " unix://user:password@/path/to/redis.sock."
            )

        path = {"unix_socket_path": url.value(url.unquote(url.path))}
        return address, path, url._replace(path="")

    def check_classes(
        self,
        prefix: str,
        scheme: str,
        client_class: type[t.Any],
        pool_class: type[t.Any] | None,
    ) -> None:
        """Accept any class with commands, but not a cluster's of another library."""
        checks.check_client_class(prefix, client_class)

        if name := library_name(client_class):
            if issubclass(client_class, get_library(name).cluster_class):
                raise ConfigError(
                    f"'{prefix}_CLASS' must not be {name_of(client_class)}: for a"
                    " cluster use 'redis.RedisCluster', which works with Valkey too."
                )

        if pool_class is not None:
            checks.check_pool_class(prefix, client_class, pool_class)

    def make_client(
        self,
        spec: Spec,
        client_class: type[t.Any],
        arguments: Arguments,
        fake_servers: FakeServers,
    ) -> t.Any:
        if spec.pool_class is None:
            return client_class(**arguments)

        path = arguments.pop("unix_socket_path", None)
        tls = arguments.pop("ssl", False)

        if path is not None:
            arguments["path"] = path

        connection_class = library_of(spec.client_class).connection_class(
            socket=path is not None, tls=tls
        )
        for_pool, for_client = split_arguments(
            arguments, spec.pool_class, connection_class
        )
        pool = spec.pool_class(connection_class=connection_class, **for_pool)
        return client_class(connection_pool=pool, **for_client)

    def scheme_name(self, spec: Spec) -> str:
        return "unix" if self._socket(spec) else spec.address.scheme

    def describe_address(self, spec: Spec) -> str:
        return self._socket(spec) or super().describe_address(spec)

    def _socket(self, spec: Spec) -> str | None:
        path: str | None = self.connection_arguments(spec).get("unix_socket_path")
        return path


def split_arguments(
    arguments: Arguments, *classes: type[t.Any]
) -> tuple[Arguments, Arguments]:
    """Split arguments into those of a pool and those of its client.

    :param arguments: All arguments.
    :param classes: The classes of the pool and its connections.
    """
    names = UNNAMED_POOL_ARGUMENTS.union(*map(parameters, classes))
    # The client takes this, too: it registers its pool with a provider that sends new
    # passwords.
    only_pool = names - {"credential_provider"}
    return (
        {name: value for name, value in arguments.items() if name in names},
        {name: value for name, value in arguments.items() if name not in only_pool},
    )


ENGINE: Standalone = Standalone()
