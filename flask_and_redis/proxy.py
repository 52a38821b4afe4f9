from __future__ import annotations

import collections.abc as cabc
import typing as t

import redis
from flask import current_app
from flask import Flask
from werkzeug.local import LocalProxy

from .config import check_prefix
from .config import DEFAULT_PREFIX
from .config import read_prefix
from .exceptions import ConfigError
from .registry import find_app
from .registry import get_registry
from .registry import make_registry
from .registry import Registry


def _forward(name: str, doc: str | None) -> property:
    """The attribute of this name of the current app's client. As a property it is
    found in a third of the time that ``LocalProxy.__getattr__`` takes.
    """

    def find(self: t.Any) -> t.Any:
        try:
            found = find_app().extensions["redis"]
            client = found.clients[self._Redis__prefix or found.default]
        except (RuntimeError, KeyError, AttributeError):
            # No context, no registry, another extension's object, or a client not
            # made yet. Asking for each beforehand would cost every command.
            client = self._get_current_object()

        return getattr(client, name)

    return property(find, doc=doc)


if t.TYPE_CHECKING:
    # To type checkers a proxy is the client that it stands for.
    _Base = redis.Redis
else:
    _forwarding = {
        name: _forward(name, attribute.__doc__)
        for cls in reversed(redis.Redis.__mro__)
        for name, attribute in vars(cls).items()
        # Not the constructors: there is nothing of theirs that a proxy could forward.
        if not name.startswith(("_", "from_"))
    }
    _Base = type("_Base", (LocalProxy,), {"__slots__": (), **_forwarding})


class Redis(_Base):
    """The Redis client of the current app for one prefix.

    It has every method of the app's :class:`redis.Redis`, and stands for it in
    ``with``, ``r["key"]`` and ``isinstance``. It can be made, imported and handed
    on before there is an app; a command needs an application context.

    :param app: Register the prefix on this app, and use this app where there is
        no application context. It is kept alive.
    :param config_prefix: What the names of the settings begin with. ``"REDIS"``
        unless given. Without any setting the server is localhost:6379.
    :param options: Client arguments, which settings override.
    :raises ConfigError: If a setting is wrong.
    :raises ValueError: If the app has the prefix from another ``Redis``.
    :raises RuntimeError: If another extension holds ``app.extensions["redis"]``.

    .. versionchanged:: 2.0
        The client is made at first use, and by the current app's settings.
    """

    __slots__ = ("__prefix", "__app", "__registered")

    if t.TYPE_CHECKING:
        _get_current_object: cabc.Callable[[], redis.Redis]
        __prefix: str
        __app: Flask | None
        __registered: bool

    def __init__(
        self,
        app: Flask | None = None,
        config_prefix: str | None = None,
        **options: t.Any,
    ) -> None:
        LocalProxy.__init__(t.cast(t.Any, self), self.__look_up)
        # LocalProxy wraps what it is given in two more calls.
        object.__setattr__(self, "_get_current_object", self.__look_up)
        self.__remember(check_prefix(config_prefix or DEFAULT_PREFIX), app, False)

        if app is not None:
            self.init_app(app, **options)
        elif options:
            raise TypeError("Options need an app: give them to 'init_app'.")

    def init_app(
        self, app: Flask, config_prefix: str | None = None, **options: t.Any
    ) -> None:
        """Register the prefix on an app. If a :class:`RedisManager` has found it
        there already, both use the same client.

        :param app: The app.
        :param config_prefix: What the names of the settings begin with. By default
            the prefix that this object was made with.
        :param options: Client arguments, which settings override.
        :raises ConfigError: If a setting is wrong.
        :raises ValueError: If the app has the prefix from another ``Redis``, or
            this object has another prefix on another app.
        :raises RuntimeError: If another extension holds
            ``app.extensions["redis"]``.
        """
        prefix = check_prefix(config_prefix or self.__prefix or DEFAULT_PREFIX)

        if self.__registered and prefix != self.__prefix:
            raise ValueError(
                f"This Redis has the prefix {self.__prefix!r} on another app. Make"
                f" a second Redis for the prefix {prefix!r}."
            )

        make_registry(app).claim(
            prefix, lambda: read_prefix(app.config, prefix, options), options
        )
        self.__remember(prefix, self.__app, True)

    def __remember(self, prefix: str, app: Flask | None, registered: bool) -> None:
        # A LocalProxy sets attributes on what it stands for.
        object.__setattr__(self, "_Redis__prefix", prefix)
        object.__setattr__(self, "_Redis__app", app)
        object.__setattr__(self, "_Redis__registered", registered)

    def __look_up(self) -> redis.Redis:
        registry = self.__find_registry()
        return registry[self.__prefix or registry.default]

    def __find_registry(self) -> Registry:
        if app := current_app or self.__app:
            return get_registry(app)

        raise RuntimeError(
            "There is no application context, so no app whose Redis to use. Push"
            " one by 'with app.app_context():'. For a thread, take '.connection'"
            " while there is one and hand it over. In an app factory, after init_app,"
            f' the client is \'app.extensions["redis"]["{self.__prefix or "REDIS"}"]\'.'
        )

    def __find_class(self) -> type[t.Any] | None:
        """The client's class, or None where a command would not find it either."""
        try:
            registry = self.__find_registry()
            return registry.get_class(self.__prefix or registry.default)
        except (RuntimeError, ConfigError):
            return None

    @property
    def connection(self) -> redis.Redis:  # type: ignore[override]
        """The real client of the current app: for threads, which have no
        application context, and for loops in which each look-up counts.
        """
        return self._get_current_object()

    # What libraries ask of a client at import time. LocalProxy would make the
    # client to answer, or answer for an unbound proxy in a way that makes them
    # connect to localhost instead.

    @property  # type: ignore[misc]
    def __class__(self) -> type[t.Any]:
        found = self.__find_class()
        return redis.Redis if found is None else found

    # Type checkers would take any name, having seen it.
    if not t.TYPE_CHECKING:

        def __setattr__(self, name: str, value: t.Any) -> None:
            # As tests of other extensions do. The real client would stay in use.
            if name in ("connection", "_redis_client"):
                prefix = self.__prefix or DEFAULT_PREFIX
                raise AttributeError(
                    f"{name!r} cannot be set. For a test without a server set"
                    f" '{prefix}_URL' to 'fakeredis://'; to put a client in place of"
                    " this one use 'RedisManager.override'."
                )

            super().__setattr__(name, value)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        prefix = repr(self.__prefix) if self.__prefix else "default"
        state = " unbound" if self.__find_class() is None else ""
        return f"<flask_and_redis.Redis {prefix}{state}>"

    def __str__(self) -> str:
        return repr(self)

    def __format__(self, format_spec: str) -> str:
        return format(repr(self), format_spec)

    def __dir__(self) -> list[str]:
        try:
            names = dir(self._get_current_object())
        except (RuntimeError, ConfigError):
            names = dir(redis.Redis)

        return sorted({*names, "connection", "init_app"})


#: The client of the current app's default prefix, as :data:`flask.current_app` is the
#: current app.
current_redis: Redis = Redis()
# No prefix of its own: that of whichever app is current.
object.__setattr__(current_redis, "_Redis__prefix", "")
object.__setattr__(current_redis, "_Redis__registered", True)
