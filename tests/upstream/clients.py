"""A plugin of pytest for redis-py's own tests: the clients and pools that they create
become those of this package.

redis-py's tests are a package ``tests`` too, so that this module imports nothing from
its own package.
"""

from __future__ import annotations

import functools
import inspect
import sys
import typing as t
import weakref

import redis
import redis.asyncio
from flask import Flask
from redis.backoff import NoBackoff

import flask_and_redis
from flask_and_redis.deadline.client import AsyncWithDeadline
from flask_and_redis.deadline.client import WithDeadline
from flask_and_redis.deadline.deadline import Deadline
from flask_and_redis.engines import find_engine
from flask_and_redis.engines.adoption import adopt_pool
from flask_and_redis.engines.checks import maint_config
from flask_and_redis.engines.internals.clients import change_class
from flask_and_redis.registry import get_registry
from flask_and_redis.spec.classes import subclass
from flask_and_redis.spec.spec import MAX_IDLE
from flask_and_redis.spec.spec import Spec
from flask_and_redis.spec.values import mask_secrets

#: Seconds. Many tests let commands fail, and would each wait for the default of 5.
#: Clusters have that default, because an attempt may take longer.
DEADLINE = 1.0

#: Seconds that connecting to a cluster, and each reply, may take: redis-py's default.
#: Some tests let commands block for a second, which is ours.
CLUSTER_TIMEOUT = 5.0

Options = dict[str, t.Any]

# An attribute of clients that __new__ has created completely.
_IS_COMPLETE = "_is_complete"


def is_called_by_test() -> bool:
    """Whether a test calls the function that calls this one, and not redis-py or this
    package.
    """
    name: str = sys._getframe(2).f_globals.get("__name__", "")
    return name.startswith("tests.")


# Clients


def make_client(cls: type[t.Any], options: Options, url: str | None = None) -> t.Any:
    """The client of an app with one prefix.

    :param cls: redis-py's class, or a test's.
    :param options: The arguments for it.
    :param url: The URL, if there is one.
    """
    app = Flask("upstream")
    is_async = inspect.iscoroutinefunction(cls.execute_command)
    is_cluster = issubclass(cls, (redis.RedisCluster, redis.asyncio.RedisCluster))
    app.config["REDIS_CLASS"] = _sync_class(is_cluster) if is_async else cls
    # Only a cluster's class takes it as an argument, too.
    app.config["REDIS_URL"] = options.pop("url", url)
    retry = options.get("retry")

    if isinstance(retry, redis.asyncio.retry.Retry):
        options["retry"] = redis.retry.Retry(NoBackoff(), 0)
    elif retry is None and not is_cluster:
        app.config["REDIS_RETRY_DEADLINE"] = DEADLINE

    if is_cluster:
        for name in ("socket_timeout", "socket_connect_timeout"):
            options.setdefault(name, CLUSTER_TIMEOUT)

    flask_and_redis.Redis(app, **options)
    registry = get_registry(app)

    if not is_async:
        return registry["REDIS"]

    # As open_async_client does, but the test closes the client.
    spec = registry.get_spec("REDIS")
    engine = spec.engine
    async_spec = engine.for_asyncio(spec)

    if retry is not None:
        async_spec.arguments["retry"] = retry

    client = engine.make(async_spec, subclass(AsyncWithDeadline, cls), {})
    engine.adopt_async(async_spec, client)
    _set_deadline(client, spec, app)
    return client


def _sync_class(is_cluster: bool) -> type[t.Any]:
    return redis.RedisCluster if is_cluster else redis.Redis


def convert_client(client: t.Any) -> None:
    """Make a client ours that has a pool of the test, and the pool too.

    :param client: The client.
    """
    cls, pool = type(client), client.connection_pool
    convert_pool(pool)
    is_async = inspect.iscoroutinefunction(cls.execute_command)
    mixin = AsyncWithDeadline if is_async else WithDeadline
    change_class(client, subclass(mixin, cls))
    spec = Spec("REDIS", find_engine(None, cls, pool), cls)
    spec.arguments = {"connection_pool": pool}
    spec.deadline = DEADLINE

    if getattr(pool, "connection_kwargs", {}).get("retry") is not None:
        spec.deadline = None

    _set_deadline(client, spec, Flask("upstream"))


def _set_deadline(client: t.Any, spec: Spec, app: Flask) -> None:
    if spec.deadline is not None:
        client._command_deadline = Deadline(spec, weakref.ref(app))


def replace_clients(cls: type[t.Any]) -> None:
    """Let a class of clients create ours in tests.

    :param cls: The class. It stays the same one, as tests replace its methods.
    """
    original, from_url = cls.__init__, cls.from_url.__func__
    signature = inspect.signature(original)

    def new(made: type[t.Any], *args: t.Any, **options: t.Any) -> t.Any:
        # A test's class may have arguments of its own.
        if is_called_by_test() and made.__init__ is init:
            given = _flatten(signature.bind_partial(None, *args, **options))

            if given.get("connection_pool") is None:
                client = make_client(made, given)
                setattr(client, _IS_COMPLETE, True)
                return client

        return object.__new__(made)

    @functools.wraps(original)
    def init(self: t.Any, *args: t.Any, **options: t.Any) -> None:
        if vars(self).pop(_IS_COMPLETE, False):
            return

        original(self, *args, **options)

        if is_called_by_test() and type(self).__init__ is init:
            convert_client(self)

    def new_from_url(made: type[t.Any], /, url: str, **options: t.Any) -> t.Any:
        if is_called_by_test():
            return make_client(made, options, url)

        return from_url(made, url, **options)

    cls.__new__ = staticmethod(new)  # type: ignore[assignment]
    cls.__init__ = init
    cls.from_url = classmethod(new_from_url)


def _flatten(bound: inspect.BoundArguments) -> Options:
    """The arguments by name, without self."""
    options: Options = {}

    for name, value in list(bound.arguments.items())[1:]:
        kind = bound.signature.parameters[name].kind
        options |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}

    return options


# Pools


def convert_pool(pool: t.Any) -> None:
    """Make a pool one of ours.

    :param pool: The pool.
    """
    mask_secrets(pool.connection_kwargs)
    adopt_pool(pool, MAX_IDLE)


def replace_pools(cls: type[t.Any]) -> None:
    """Let a class of pools create ours in tests, but not from URLs: those tests are
    about redis-py's own reading of URLs.

    :param cls: The class. It stays the same one.
    """
    original = cls.__init__

    @functools.wraps(original)
    def init(self: t.Any, *args: t.Any, **options: t.Any) -> None:
        if not is_called_by_test():
            original(self, *args, **options)
            return

        # They are off by default.
        if options.get("connection_class", redis.Connection) in _CONNECTIONS:
            options.setdefault("maint_notifications_config", maint_config(False))

        original(self, *args, **options)
        convert_pool(self)

    cls.__init__ = init


_CONNECTIONS = {
    getattr(library, name)
    for library in (redis, redis.asyncio)
    for name in ("Connection", "SSLConnection", "UnixDomainSocketConnection")
}


def replace_sentinels(cls: type[t.Any], name: str) -> None:
    """Let a method of a class of sentinels create our clients in tests.

    :param cls: The class.
    :param name: The method.
    """
    original = getattr(cls, name)

    @functools.wraps(original)
    def method(self: t.Any, *args: t.Any, **options: t.Any) -> t.Any:
        client = original(self, *args, **options)

        if is_called_by_test():
            convert_client(client)

        return client

    setattr(cls, name, method)


# The plugin


def pytest_configure() -> None:
    for library in (redis, redis.asyncio):
        sentinel: t.Any = library.sentinel

        for pool_class in (library.ConnectionPool, library.BlockingConnectionPool):
            replace_pools(pool_class)

        replace_pools(sentinel.SentinelConnectionPool)
        replace_clients(library.Redis)
        replace_clients(library.RedisCluster)

        for name in ("master_for", "slave_for", "replica_for"):
            replace_sentinels(sentinel.Sentinel, name)

    conftest: t.Any = sys.modules["tests.conftest"]
    get_client = conftest._get_client

    @functools.wraps(get_client)
    def with_pool(*args: t.Any, **options: t.Any) -> t.Any:
        # Clients with one connection have no deadline. A test may need one.
        if sys._getframe(1).f_globals is vars(conftest):
            options["single_connection_client"] = False

        return get_client(*args, **options)

    conftest._get_client = with_pool
