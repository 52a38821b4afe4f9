"""``RedisManager``, which finds the prefixes of an app."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import typing as t
from fnmatch import fnmatchcase
from importlib import import_module

import click
import redis.asyncio
from flask import current_app
from flask import Flask
from flask.cli import AppGroup
from werkzeug.local import LocalProxy

from .exceptions import ConfigError
from .exceptions import warn
from .exceptions import without_traceback
from .proxy import current_redis
from .proxy import Redis
from .registry import check_prefix
from .registry import DEFAULT_PREFIX
from .registry import find_app
from .registry import find_registry
from .registry import get_or_create_registry
from .registry import get_registry
from .registry import Registry

if t.TYPE_CHECKING:
    from .operate.health import PingResult
    from .operate.health import PoolStats
    from .settings.discovery import Discovery

C = t.TypeVar("C")

# The name of the command group.
_GROUP = "redis"


class RedisManager:
    """Find every Redis that an app's settings name, and provide their clients.

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
    :param ignore: Patterns of prefixes to skip, in the syntax of :mod:`fnmatch` and in
        upper case. A :class:`Redis` can still register them.
    :param options: Client arguments for every prefix, such as ``socket_timeout=2``
        (seconds). Settings override them.
    :raises ConfigError: See :meth:`init_app`.
    :raises RuntimeError: See :meth:`init_app`.
    :raises ValueError: See :meth:`init_app`.

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
                raise TypeError(f"{name}= must be a list of strings, not a string.")

        self._default = check_prefix(default)
        self._prefixes = (
            None if prefixes is None else tuple(map(check_prefix, prefixes))
        )
        self._ignore = tuple(map(_check_pattern, ignore))
        self._options = options
        # It may hold a password, and error trackers record local variables.
        del options
        self._proxies: dict[str, Redis] = {}
        # Prefixes that get() returned without an app that could check them.
        self._unchecked: dict[str, None] = {}

        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Find and check every prefix in the app's settings. No connection is opened.

        The settings are read now. Later changes to them have no effect.

        :param app: The app.
        :raises ConfigError: If a setting of a prefix that is certainly Redis is wrong.
        :raises RuntimeError: If the app has a manager already, or another extension
            uses ``app.extensions["redis"]``.
        :raises ValueError: If this manager has options, and a :class:`Redis` has
            registered a prefix before, which would not get them.
        """
        registry = get_or_create_registry(app)

        if registry.manager is self:
            raise RuntimeError(
                f"init_app was called twice with the app {app.name!r}. Call it once:"
                " RedisManager(app) calls it, too."
            )

        if registry.manager is not None:
            raise RuntimeError(
                f"The app {app.name!r} has a RedisManager already. Import and use that"
                " manager instead."
            )

        self._check_options(registry)
        discovery = self._discover(app, registry)

        if isinstance(discovery, ConfigError):
            raise discovery

        for message in discovery.warnings:
            warn(message)

        registry.add_discovery(self, self._default, discovery, self._proxies)
        app.shell_context_processors.append(
            lambda: {"current_redis": current_redis, "redis_manager": self}
        )

        if _GROUP in app.cli.commands:
            warn(
                f"The app has its own command 'flask {_GROUP}', so the commands of"
                " Flask-And-Redis are not added. To have both, rename that command."
            )
        else:
            app.cli.add_command(_Commands())

    def _check_options(self, registry: Registry) -> None:
        """Raise if a prefix of this manager was read before, without its options."""
        if not self._options:
            return

        for prefix in registry if self._prefixes is None else self._prefixes:
            is_ignored = any(fnmatchcase(prefix, each) for each in self._ignore)

            if prefix in registry and not is_ignored:
                raise ValueError(
                    f"The prefix {prefix!r} is registered on this app already, by a"
                    " Redis that does not have the options of this RedisManager. Create"
                    " the RedisManager first, or use settings."
                )

    def _discover(self, app: Flask, registry: Registry) -> Discovery | ConfigError:
        """Find the prefixes in the app's settings. An error is returned, not raised:
        error trackers record local variables, and those here have the settings.
        """
        # Importing the package takes a third of the time without this module.
        from .settings.discovery import discover

        try:
            return discover(
                app.config,
                default=self._default,
                requested=self._proxies,
                expected=self._unchecked,
                registered=registry,
                prefixes=self._prefixes,
                ignore=self._ignore,
                options=self._options,
            )
        except ConfigError as error:
            return without_traceback(error)

    def get(self, prefix: str | None = None) -> Redis:
        """The client of a prefix, as a proxy: each use finds the client of the current
        app. A prefix always has the same proxy. You can get it before there is an app.

        :param prefix: The prefix. The default is the manager's default.
        :return: A proxy that can be used like a :class:`redis.Redis`.
        :raises UnknownPrefixError: If the current app has no such prefix. Without an
            application context it is raised at first use instead.
        """
        prefix = prefix or self._default

        try:
            # The fast path: a prefix that has a client is known.
            if prefix in find_app().extensions["redis"].clients:
                return self._proxies[prefix]
        except (RuntimeError, KeyError, AttributeError):
            # There is no context or no registry, another extension uses the key, or
            # this is the first call for the prefix.
            pass

        if current_app and (registry := find_registry(current_app)) is not None:
            registry.check_known(prefix)
        else:
            self._unchecked[check_prefix(prefix)] = None

        try:
            return self._proxies[prefix]
        except KeyError:
            # setdefault: two threads get the same object.
            return self._proxies.setdefault(prefix, Redis(config_prefix=prefix))

    def get_async(
        self, prefix: str | None = None
    ) -> contextlib.AbstractAsyncContextManager[redis.asyncio.Redis]:
        """An asyncio client with the same settings, for one ``async with`` block in an
        asynchronous view.

        It is created and closed in the running loop, because each asynchronous view of
        Flask has its own loop, and two loops cannot share a client.

        :param prefix: The prefix. The default is the manager's default.
        :return: A context manager that returns the client.
        :raises ConfigError: If the prefix's settings are wrong, or, when the block is
            entered, if they cannot be used with asyncio.
        :raises RuntimeError: If there is no application context, or the app has no
            such prefix.
        """
        return get_registry(current_app).open_async(prefix or self._default)

    def ping(self, *prefixes: str, timeout: float = 1.0) -> dict[str, PingResult]:
        """Check that servers answer, for a health check. All are asked at the same
        time, each on a short-lived connection.

        A cluster is ok if it reports that all of its slots are served, and each master
        answers at the address that the cluster announces. With Sentinel, the server
        that the sentinels name is asked. For a prefix with an override, the client of
        the override is asked.

        :param prefixes: The prefixes. The default is every registered prefix, and those
            with wrong settings that were requested by :meth:`get`.
        :param timeout: Seconds after which this returns at the latest.
        :return: A result for each prefix, which :func:`flask.jsonify` accepts. It is
            empty if no setting configures a Redis.
        :raises RuntimeError: If there is no application context, :meth:`init_app` was
            not called with the app, or it has no such prefix.
        :raises ValueError: If the timeout is not above 0.
        """
        # Workers that serve the app may not need it.
        from .operate import health

        return health.ping(get_registry(current_app), prefixes, timeout)

    def stats(self) -> dict[str, PoolStats]:
        """How full the pool of each prefix is, in this process. It creates no client
        and asks no server.

        :return: Figures for each prefix, which :func:`flask.jsonify` accepts.
        :raises RuntimeError: If there is no application context, or :meth:`init_app`
            was not called with the app.
        """
        from .operate import health

        return health.stats(get_registry(current_app))

    def override(self, prefix: str, client: C) -> contextlib.AbstractContextManager[C]:
        """Replace the client of a prefix for one ``with`` block, in a test. All threads
        of the current app get the other client, wherever they look the prefix up,
        including :attr:`.Redis.connection` and ``app.extensions["redis"]``.

        Blocks may be nested. The end of a block restores what was there before, and
        closes nothing. Clients that were looked up before, and those of
        :meth:`get_async`, are not affected.

        :param prefix: The prefix.
        :param client: The client, or something that replaces one.
        :return: A context manager, which returns the client. The application context
            is needed for this call, but not within the block.
        :raises RuntimeError: If there is no application context, :meth:`init_app` was
            not called with the app, or it has no such prefix.
        """
        registry = get_registry(current_app)
        registry.check_known(prefix)

        if isinstance(client, LocalProxy):
            # A proxy of the same prefix would look itself up, without end.
            return registry.override(prefix, client._get_current_object())

        return registry.override(prefix, client)

    def close(self) -> None:
        """Close every pool that was created for the current app. The next use of a
        prefix creates a new one. Call this at the end of a worker or a test, or in a
        process that has just been forked.

        It does not interrupt other threads: a connection that is in use is closed when
        nothing refers to its client any more. Clients that were looked up before still
        work. A pool that the application created (``<P>_CONNECTION_POOL``) and the
        client of an override are not closed. The data of ``fakeredis://`` are kept.

        :raises RuntimeError: If there is no application context, or :meth:`init_app`
            was not called with the app.
        """
        get_registry(current_app).close()


def _check_pattern(pattern: str) -> str:
    # In brackets, lower case may stand for what must not be there.
    if "[" not in pattern and pattern != pattern.upper():
        raise ConfigError(
            f"The pattern {pattern!r} in ignore= must be in upper case, like all"
            " prefixes."
        )

    return pattern


class _Commands(AppGroup):
    """The group ``flask redis`` of one app. Its commands are imported when one of them
    is used, because workers that serve the app do not need them.
    """

    def __init__(self) -> None:
        text = "Inspect the Redis servers that the app uses."
        super().__init__(_GROUP, help=text)

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._import()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        self._import()
        return super().get_command(ctx, cmd_name)

    def _import(self) -> None:
        cli = import_module(".operate.cli", __package__)

        for command in cli.COMMANDS:
            # A command that the app has added under this name stays.
            self.commands.setdefault(command.name, command)
