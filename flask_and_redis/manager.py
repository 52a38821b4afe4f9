from __future__ import annotations

import collections.abc as cabc
import contextlib
import typing as t
from importlib import import_module

import click
import redis.asyncio
from flask import current_app
from flask import Flask
from flask.cli import AppGroup
from werkzeug.local import LocalProxy

from .config import check_prefix
from .config import DEFAULT_PREFIX
from .config import discover
from .proxy import current_redis
from .proxy import Redis
from .registry import find_app
from .registry import find_registry
from .registry import get_registry
from .registry import make_registry

if t.TYPE_CHECKING:
    from .health import PingResult
    from .health import PoolStats

C = t.TypeVar("C")


class _Commands(AppGroup):
    """A group whose commands are imported when one of them is asked for. Workers that
    serve the app have no use for them.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        import_module(".cli", __package__)
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        import_module(".cli", __package__)
        return super().get_command(ctx, cmd_name)


redis_cli: AppGroup = _Commands(
    "redis", help="See, ping and open the Redis servers that the app uses."
)


class RedisManager:
    """Find every Redis that an app's settings name, and hand out their clients.

    Each group of settings such as ``REDIS_URL`` or ``CACHE_HOST``, ``CACHE_PORT``,
    ``CACHE_DB`` is one Redis, known by its prefix: ``REDIS``, ``CACHE``.

    The URL chooses the engine:

    -   ``redis://user:password@host:6379/0``, ``rediss://`` (TLS), ``unix:///path?db=0``,
        ``valkey://``, ``valkeys://`` (TLS): a :class:`redis.Redis`
    -   ``redis+cluster://a:7000,b:7001``, ``rediss+cluster://``: a
        :class:`redis.RedisCluster`
    -   ``redis+sentinel://a:26379,b:26379/mymaster/0``, ``rediss+sentinel://``: a
        :class:`redis.Redis` for the server that the sentinels name
    -   ``fakeredis://name/0``: a server within the process, for development and tests

    :param app: Call :meth:`init_app` on this app.
    :param default: The prefix of :data:`.current_redis` and of :meth:`get` without an
        argument.
    :param prefixes: Use exactly these prefixes instead of searching the settings.
    :param ignore: Patterns, as :mod:`fnmatch` has them, of prefixes to leave alone.
    :param options: Client arguments for every prefix, such as ``socket_timeout=2``
        (seconds). Settings override them.
    :raises ConfigError: See :meth:`init_app`.
    :raises RuntimeError: See :meth:`init_app`.

    .. versionadded:: 2.0
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        default: str = DEFAULT_PREFIX,
        prefixes: cabc.Iterable[str] | None = None,
        ignore: cabc.Iterable[str] = (),
        **options: t.Any,
    ) -> None:
        for name, value in (("prefixes", prefixes), ("ignore", ignore)):
            if isinstance(value, str):
                raise TypeError(f"{name}= must be a list of text, not one text.")

        self._default = check_prefix(default)
        self._prefixes = (
            None if prefixes is None else tuple(map(check_prefix, prefixes))
        )
        self._ignore = tuple(ignore)
        self._options = options
        self._proxies: dict[str, Redis] = {}

        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Find and check every prefix in the app's settings. No connection is opened.

        The settings are read now; later changes to them have no effect.

        :param app: The app.
        :raises ConfigError: If a setting of a prefix that is surely Redis is wrong.
        :raises RuntimeError: If the app has a manager already, or another extension
            holds ``app.extensions["redis"]``.
        """
        registry = make_registry(app)

        if registry.managed:
            raise RuntimeError(
                f"The app {app.name!r} has a RedisManager already. Import and use that"
                " one instead."
            )

        discovery = discover(
            app.config,
            default=self._default,
            wanted=self._proxies,
            registered=registry,
            prefixes=self._prefixes,
            ignore=self._ignore,
            options=self._options,
        )
        registry.add_discovery(self._default, discovery)
        app.shell_context_processors.append(
            lambda: {"current_redis": current_redis, "redis_manager": self}
        )

        if redis_cli.name not in app.cli.commands:
            app.cli.add_command(redis_cli)

    def get(self, prefix: str | None = None) -> Redis:
        """The client of a prefix, as a proxy that finds that of the current app. It is
        the same object each time, and can be had before there is an app.

        :param prefix: The prefix. By default the manager's default.
        :raises UnknownPrefixError: If the current app has no such prefix. Without an
            application context it is raised at first use instead.
        """
        prefix = prefix or self._default

        try:
            # What has a client is known. That is all that most calls need to ask.
            if prefix in find_app().extensions["redis"].clients:
                return self._proxies[prefix]
        except (RuntimeError, KeyError, AttributeError):
            # No context yet, no registry, another extension's object, or the first
            # call for the prefix.
            pass

        if current_app and (registry := find_registry(current_app)) is not None:
            registry.check_known(prefix)

        try:
            return self._proxies[prefix]
        except KeyError:
            # setdefault: two threads get the same object.
            return self._proxies.setdefault(prefix, Redis(config_prefix=prefix))

    def get_async(
        self, prefix: str | None = None
    ) -> contextlib.AbstractAsyncContextManager[redis.asyncio.Redis]:
        """A client of asyncio with the same settings, for one ``async with`` block in
        an asynchronous view.

        It is made and closed in the running loop: each asynchronous view of Flask has a
        loop of its own, and a client that two loops share breaks.

        :param prefix: The prefix. By default the manager's default.
        :raises ConfigError: If the prefix's settings are wrong, or when the block is
            entered if they have no meaning for asyncio.
        :raises RuntimeError: If there is no application context, or the app has no
            such prefix.
        """
        return get_registry(current_app).open_async(prefix or self._default)

    def ping(self, *prefixes: str, timeout: float = 1.0) -> dict[str, PingResult]:
        """Ask servers whether they answer, for a health check: all at once, each over
        a short-lived connection of its own, in no more than the timeout in all.

        A cluster is ok when it says that all of its slots are served. A server behind
        sentinels is the one that they name. For a prefix with an override, its client
        is asked.

        :param prefixes: The prefixes. Without any, all but those that were found by
            ``<P>_HOST`` alone and may be somebody else's, so that nobody else is sent
            a password.
        :param timeout: Seconds until this returns at the latest.
        :return: A result for each prefix, which :func:`flask.jsonify` takes.
        :raises RuntimeError: If there is no application context, or the app has no
            Redis, or no such prefix.
        :raises ValueError: If the timeout is not above 0.
        """
        # Workers that serve the app may have no use for it.
        from . import health

        return health.ping(get_registry(current_app), prefixes, timeout)

    def stats(self) -> dict[str, PoolStats]:
        """How full the pool of each prefix is, in this process. No client is made and
        no server is asked.

        :return: Figures for each prefix, which :func:`flask.jsonify` takes.
        :raises RuntimeError: If there is no application context, or the app has no
            Redis.
        """
        from . import health

        return health.stats(get_registry(current_app))

    def override(self, prefix: str, client: C) -> contextlib.AbstractContextManager[C]:
        """Put another client in the place of a prefix's own for one ``with`` block, in
        a test: all threads of the current app get it, wherever they look the prefix
        up, :attr:`.Redis.connection` and ``app.extensions["redis"]`` included.

        Blocks may be nested. The end of a block brings back what was there before, and
        closes nothing. Clients that were taken before, and those of :meth:`get_async`,
        stay as they are.

        :param prefix: The prefix.
        :param client: The client, or something that stands for one.
        :return: A context manager, which gives the client. The application context
            is needed for this call, and not within the block.
        :raises RuntimeError: If there is no application context, or the app has no
            Redis, or no such prefix.
        """
        registry = get_registry(current_app)
        registry.check_known(prefix)

        if isinstance(client, LocalProxy):
            # A proxy for the same prefix would look itself up for ever.
            return registry.override(prefix, client._get_current_object())

        return registry.override(prefix, client)

    def close(self) -> None:
        """Close every pool that was made for the current app. The next use of a prefix
        makes a new one: call this at the end of a worker or a test, or in a process
        that has just been forked.

        What other threads are doing is not cut: a connection that is in use is closed
        when its client is no longer referred to. Clients that were taken before still
        work. A pool that the application made itself (``<P>_CONNECTION_POOL``) and the
        client of an override are left alone. The data of ``fakeredis://`` stay.

        :raises RuntimeError: If there is no application context, or the app has no
            Redis.
        """
        get_registry(current_app).close()
