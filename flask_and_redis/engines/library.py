"""The client libraries: redis-py or valkey-py, for synchronous or asynchronous use."""

from __future__ import annotations

import functools
import inspect
import types
import typing as t
from importlib import import_module

from ..spec.spec import Arguments


class Connection(t.Protocol):
    """What this package uses of a connection, synchronous or not."""

    host: str
    port: int

    def connect(self) -> t.Any: ...

    def disconnect(self) -> t.Any: ...

    def send_command(self, *args: t.Any) -> t.Any: ...

    def read_response(self) -> t.Any: ...


class Pool(t.Protocol):
    """What this package uses of a connection pool."""

    connection_class: type[t.Any]
    connection_kwargs: Arguments

    def get_connection(self) -> t.Any: ...

    def release(self, connection: t.Any) -> t.Any: ...

    def disconnect(self, inuse_connections: bool = True) -> t.Any: ...


class Client(t.Protocol):
    """What this package uses of a client, synchronous or not. A client of a cluster, or
    of a class of the application, may have no pool.
    """

    connection_pool: t.Any

    def execute_command(self, *args: t.Any, **options: t.Any) -> t.Any: ...


class Library:
    """The parts of one client library.

    :param name: ``"redis"`` or ``"valkey"``.
    :param is_async: Whether to use its asyncio part.
    """

    def __init__(self, name: str, is_async: bool) -> None:
        self.name: str = name
        self.is_async: bool = is_async
        self._root = import_module(name)
        self._part = import_module(f"{name}.asyncio") if is_async else self._root
        self.errors: types.ModuleType = import_module(f"{name}.exceptions")
        self.pool_class: type[t.Any] = self._part.ConnectionPool

    @property
    def sentinel(self) -> t.Any:
        """The module with ``Sentinel``, its pool and its connections."""
        return import_module(f"{self._part.__name__}.sentinel")

    @property
    def cluster(self) -> t.Any:
        """The module with the cluster's client and ``ClusterNode``."""
        return import_module(f"{self._part.__name__}.cluster")

    @property
    def client_class(self) -> type[t.Any]:
        """``Redis`` or ``Valkey``."""
        cls: type[t.Any] = getattr(self._part, self.name.capitalize())
        return cls

    @property
    def cluster_class(self) -> type[t.Any]:
        """``RedisCluster`` or ``ValkeyCluster``."""
        cls: type[t.Any] = getattr(self._part, f"{self.name.capitalize()}Cluster")
        return cls

    def connection_class(self, *, socket: bool = False, tls: bool) -> type:
        """The class of connections to a Unix socket, with TLS or with neither.

        :param socket: Whether to connect to a Unix socket.
        :param tls: Whether to use TLS.
        """
        name = "SSLConnection" if tls else "Connection"
        cls: type = getattr(
            self._part, "UnixDomainSocketConnection" if socket else name
        )
        return cls

    def no_retry(self) -> t.Any:
        """A ``Retry`` object of the library that never retries."""
        retry = import_module(f"{self._part.__name__}.retry")
        backoff = import_module(f"{self.name}.backoff")
        return retry.Retry(backoff.NoBackoff(), 0)


@functools.cache
def get_library(name: str, is_async: bool = False) -> Library:
    """A library by its name.

    :param name: ``"redis"`` or ``"valkey"``.
    :param is_async: Whether to use its asyncio part.
    """
    return Library(name, is_async)


def library_name(cls: type) -> str:
    """The name of the library that a class comes from, directly or through its base
    classes: ``"redis"``, ``"valkey"``, or nothing for any other library.

    :param cls: A class of clients, pools or errors.
    """
    roots = (base.__module__.partition(".")[0] for base in cls.__mro__)
    return next((root for root in roots if root in ("redis", "valkey")), "")


def library_of(client_class: type[t.Any]) -> Library:
    """The library that a client class is used with. It is redis-py for a class that
    comes from neither library.

    :param client_class: The client class.
    """
    is_async = inspect.iscoroutinefunction(client_class.execute_command)
    return get_library(library_name(client_class) or "redis", is_async)


def to_text(part: object) -> str:
    """What the libraries send for the name of a command.

    :param part: The name, as it was given.
    """
    if isinstance(part, (bytes, bytearray, memoryview)):
        return bytes(part).decode(errors="replace")

    # Python's str() of an enumeration's member is the name of the member.
    return str.__str__(part) if isinstance(part, str) else str(part)
