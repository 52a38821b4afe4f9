"""``Redis`` and ``current_redis``: proxies that find the current app's client."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

import redis
from flask import current_app
from flask import Flask
from werkzeug.local import LocalProxy

from .exceptions import ConfigError
from .exceptions import warn
from .exceptions import without_traceback
from .registry import check_prefix
from .registry import DEFAULT_PREFIX
from .registry import find_app
from .registry import get_or_create_registry
from .registry import get_registry
from .registry import Registry

if t.TYPE_CHECKING:
    from .spec.spec import Spec


def _forward(name: str, doc: str | None) -> property:
    """A property for an attribute of the current app's client. It takes a third of the
    time of ``LocalProxy.__getattr__``.
    """

    def find(self: Redis) -> t.Any:
        try:
            registry = find_app().extensions["redis"]
            client = registry.clients[self._proxy_prefix or registry.default]
        except (RuntimeError, KeyError, AttributeError):
            # There is no context or no registry, another extension uses the key, or the
            # client was not created yet. Testing for each would slow every command.
            pass
        else:
            return getattr(client, name)

        # Not in the except clause: an error here would be chained to the first one.
        return getattr(self._get_current_object(), name)

    return property(find, doc=doc)


if t.TYPE_CHECKING:
    # Type checkers see a proxy as the client.
    _Base = redis.Redis
else:
    _forwarded = {
        name: _forward(name, attribute.__doc__)
        for cls in reversed(redis.Redis.__mro__)
        for name, attribute in vars(cls).items()
        # Not the constructors: a proxy has nothing to forward to them.
        if not name.startswith(("_", "from_"))
    }
    _Base = type("_Base", (LocalProxy,), {"__slots__": (), **_forwarded})


class Redis(_Base):
    """The Redis client of the current app for one prefix.

    It has every method of the app's :class:`redis.Redis`, and behaves like it in
    ``with``, ``r["key"]`` and ``isinstance``. You can create it and import it before
    there is an app. A command needs an application context.

    :param app: Register the prefix on this app, and use this app where there is
        no application context. The app is kept alive.
    :param config_prefix: What the names of the settings begin with. The default is
        ``"REDIS"``. Without any setting the server is localhost:6379.
    :param options: Client arguments. Settings override them.
    :raises ConfigError: If a setting is wrong.
    :raises ValueError: If another ``Redis`` has registered the prefix on the app.
    :raises RuntimeError: If another extension uses ``app.extensions["redis"]``.

    .. versionchanged:: 2.0
        The client is created at first use, from the current app's settings.
    """

    __slots__ = ("_proxy_prefix", "_proxy_app", "_proxy_is_registered")

    if t.TYPE_CHECKING:
        _get_current_object: cabc.Callable[[], redis.Redis]
        _proxy_prefix: str
        _proxy_app: Flask | None
        _proxy_is_registered: bool

    def __init__(
        self,
        app: Flask | None = None,
        config_prefix: str | None = None,
        **options: t.Any,
    ) -> None:
        # Where there is no application context, current_app is no app.
        app = find_app() if app is current_app else app
        LocalProxy.__init__(t.cast(t.Any, self), self.__find_client)
        # LocalProxy would wrap the function into two more calls, which take time.
        object.__setattr__(self, "_get_current_object", self.__find_client)
        self.__remember(check_prefix(config_prefix or DEFAULT_PREFIX), app, False)

        if app is not None:
            error: ConfigError | None = None

            try:
                self.init_app(app, **options)
            except ConfigError as caught:
                error = without_traceback(caught)

            if error is not None:
                # It may hold a password, and error trackers record local variables.
                options.clear()
                raise error
        elif options:
            raise TypeError("Options need an app. Pass them to 'init_app' instead.")

    @classmethod
    def _for_default_prefix(cls) -> Redis:
        """A proxy without a prefix of its own: it uses each app's default prefix."""
        proxy = cls()
        proxy.__remember("", None, True)
        return proxy

    def init_app(
        self, app: Flask, config_prefix: str | None = None, **options: t.Any
    ) -> None:
        """Register the prefix on an app. If a :class:`RedisManager` has found it
        already, both use the same client.

        :param app: The app.
        :param config_prefix: What the names of the settings begin with. The default is
            the prefix that this object was created with.
        :param options: Client arguments. Settings override them.
        :raises ConfigError: If a setting is wrong.
        :raises ValueError: If another ``Redis`` has registered the prefix on the app,
            or this object has another prefix on another app.
        :raises RuntimeError: If another extension uses ``app.extensions["redis"]``.
        """
        prefix = check_prefix(config_prefix or self._proxy_prefix or DEFAULT_PREFIX)

        if self._proxy_is_registered and prefix != self._proxy_prefix:
            raise ValueError(
                f"This Redis object has the prefix {self._proxy_prefix!r} already."
                f" Create a second Redis object for the prefix {prefix!r}."
            )

        error = self.__register(app, prefix, options)
        options.clear()

        if error is not None:
            raise error

    def __register(
        self, app: Flask, prefix: str, options: dict[str, t.Any]
    ) -> ConfigError | None:
        """Register the prefix on an app. Return the error if a setting is wrong, for
        the caller to raise without the settings in a local variable.
        """
        # Importing the package takes a third of the time without this module.
        from .settings.discovery import read_prefix

        def read() -> Spec:
            messages: list[str] = []
            # Redis() without a prefix may be meant for the manager's default.
            usual = registry.default if prefix == DEFAULT_PREFIX else prefix
            spec = read_prefix(app.config, prefix, usual, options, messages.append)

            for message in messages:
                warn(message)

            return spec

        registry = get_or_create_registry(app)

        try:
            registry.claim(prefix, read, options)
        except ConfigError as error:
            return without_traceback(error)

        self.__remember(prefix, self._proxy_app, True)
        return None

    def __remember(self, prefix: str, app: Flask | None, is_registered: bool) -> None:
        # A LocalProxy sets attributes on the client.
        object.__setattr__(self, "_proxy_prefix", prefix)
        object.__setattr__(self, "_proxy_app", app)
        object.__setattr__(self, "_proxy_is_registered", is_registered)

    def __find_client(self) -> redis.Redis:
        registry = self.__find_registry()
        return registry[self._proxy_prefix or registry.default]

    def __find_registry(self) -> Registry:
        if app := current_app or self._proxy_app:
            return get_registry(app)

        prefix = self._proxy_prefix or DEFAULT_PREFIX
        raise RuntimeError(
            "There is no application context, so the app is not known. Use 'with"
            " app.app_context():'. For a thread, get '.connection' inside a context"
            " and pass it to the thread. In an app factory, after init_app, use"
            f' \'app.extensions["redis"]["{prefix}"]\'.'
        )

    def __find_class(self) -> type[t.Any] | None:
        """The client's class. None if there is no app, no such prefix, or its settings
        are wrong.
        """
        try:
            registry = self.__find_registry()
            return registry.get_class(self._proxy_prefix or registry.default)
        except (RuntimeError, ConfigError):
            return None

    @property
    def connection(self) -> redis.Redis:  # type: ignore[override]
        """The current app's real client. Use it for threads, which have no application
        context, and in loops with many commands, because a proxy looks the client up
        for each of them.
        """
        return self._get_current_object()

    # Libraries use the following at import time. LocalProxy would create the client for
    # them. While it is unbound, its answers would make them connect to localhost.

    @property  # type: ignore[misc]
    def __class__(self) -> type[t.Any]:
        return self.__find_class() or redis.Redis

    # With this, type checkers would accept any attribute.
    if not t.TYPE_CHECKING:
        # With the method of LocalProxy, mock.patch would take the proxy for awaitable,
        # and replace it by an AsyncMock.
        __await__ = None

        def __getattr__(self, name: str) -> t.Any:
            # mock asks for __func__ and _is_coroutine, even if the proxy is unbound.
            # LocalProxy defines all such attributes that a client has. RQ keeps one
            # that only begins with "__".
            is_special = name.startswith("__") and name.endswith("__")

            if is_special or name.startswith("_is_coroutine"):
                raise AttributeError(f"The client has no attribute {name!r}.")

            return super().__getattr__(name)

        def __setattr__(self, name: str, value: object) -> None:
            # Tests written for other extensions do this. Without an error, the real
            # client would still be used.
            if name in ("connection", "_redis_client"):
                prefix = self._proxy_prefix or DEFAULT_PREFIX
                raise AttributeError(
                    f"{name!r} cannot be set. To test without a server, set"
                    f" '{prefix}_URL' to 'fakeredis://'. To replace the client in a"
                    " test, use 'RedisManager.override'."
                )

            super().__setattr__(name, value)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        prefix = repr(self._proxy_prefix) if self._proxy_prefix else "default"
        state = " unbound" if self.__find_class() is None else ""
        return f"<flask_and_redis.Redis {prefix}{state}>"

    def __str__(self) -> str:
        return repr(self)

    def __format__(self, format_spec: str) -> str:
        return format(repr(self), format_spec)

    def __reduce_ex__(self, protocol: t.SupportsIndex) -> tuple[t.Any, ...]:
        # Pickled as its prefix: a task of another process has its own app.
        return _restore, (self._proxy_prefix,)

    def __dir__(self) -> list[str]:
        try:
            names = dir(self._get_current_object())
        except (RuntimeError, ConfigError):
            names = dir(redis.Redis)

        return sorted({*names, "connection", "init_app"})


def _restore(prefix: str) -> Redis:
    """What a pickled proxy becomes. It finds the client of the current app."""
    return Redis(config_prefix=prefix) if prefix else current_redis


#: The client of the current app's default prefix, as :data:`flask.current_app` is the
#: current app.
current_redis: Redis = Redis._for_default_prefix()
