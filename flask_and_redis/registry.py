"""One app's prefixes and their clients."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import difflib
import os
import threading
import typing as t
import weakref
from concurrent.futures import CancelledError
from concurrent.futures import Future

import redis
import redis.asyncio
from flask import current_app
from flask import Flask

from .exceptions import ConfigError
from .exceptions import UnknownPrefixError
from .exceptions import warn
from .exceptions import without_traceback
from .spec.spec import ADDRESS
from .spec.spec import LONGEST_PREFIX

if t.TYPE_CHECKING:
    from .deadline.deadline import Deadline
    from .engines.operations import FakeServers
    from .settings.discovery import Discovery
    from .spec.spec import Spec

_KEY = "redis"

DEFAULT_PREFIX = "REDIS"

#: Returns the current app itself. Asking ``current_app`` for this method each time
#: would take twice as long.
find_app: cabc.Callable[[], Flask] = current_app._get_current_object  # type: ignore[attr-defined]


class Registry(cabc.Mapping[str, redis.Redis]):
    """The prefixes of one app and their clients. A client is created when it is first
    accessed. Iterating and counting create none.

    This is ``app.extensions["redis"]``. It is read-only.
    """

    def __init__(self, app: Flask) -> None:
        # Modules that only an app with Redis needs are imported by init_app. Not later:
        # a child that is forked while another thread imports a module would hang.
        from .deadline import client
        from .deadline import deadline

        self._create_client = client.create_client
        self._open_async_client = client.open_async_client
        self._create_deadline = deadline.Deadline

        # Read again only to see whether it has changed.
        self._config = app.config
        # Clients refer to it, and must not keep an app that nobody else refers to.
        self._app = weakref.ref(app)
        self.default: str = DEFAULT_PREFIX
        #: The manager that has searched the app's settings.
        self.manager: object = None
        #: The servers of fakeredis of the app, by name. Clients add to them.
        self.fake_servers: FakeServers = {}
        self._created: dict[str, redis.Redis] = {}
        #: Where proxies look first: the clients created so far. While there are
        #: overrides, it has only the overrides.
        self.clients: dict[str, redis.Redis] = self._created
        # The overrides of each prefix. The last one is in force.
        self._overrides: dict[str, list[_Override]] = {}
        self._overriding = threading.Lock()
        self._specs: dict[str, Spec] = {}
        self._wrong: dict[str, ConfigError] = {}
        self._skipped: dict[str, str] = {}
        # Prefixes that the application has requested by name.
        self._requested: cabc.Container[str] = ()
        # Threads that wait for a client share the result of one attempt. The keys have
        # the process: a fork inherits the attempt, but not the thread that makes it.
        self._attempts: dict[tuple[int, str], _Attempt] = {}
        # Kept after a failure: it knows whether the prefix is down.
        self._deadlines: dict[str, Deadline] = {}
        self._claimed: set[str] = set()
        # Prefixes whose address was compared with app.config at their first use.
        self._compared: set[str] = set()

    def __getitem__(self, prefix: str) -> redis.Redis:
        try:
            return self.clients[prefix]
        except KeyError:
            pass

        spec = self.get_spec(prefix)
        self._warn_if_changed(spec)
        key = (os.getpid(), prefix)
        own = _Attempt()
        attempt = self._attempts.setdefault(key, own)

        if attempt is own:
            try:
                # Another thread may have finished its attempt a moment ago.
                client = self._created.get(prefix)

                if client is None:
                    client = self._created[prefix] = self._create_client(
                        spec, self._get_deadline(spec), self.fake_servers
                    )
            except BaseException as error:
                del self._attempts[key]
                own.fail(error)
                raise

            del self._attempts[key]
            own.result.set_result(client)

        elif attempt.thread == own.thread:
            raise RuntimeError(
                f"The client of {prefix!r} is still being created by this thread. Its"
                " class, or its credential provider, must not use the prefix."
            )

        try:
            return attempt.result.result()
        except CancelledError:
            return self[prefix]

    def open_async(
        self, prefix: str
    ) -> contextlib.AbstractAsyncContextManager[redis.asyncio.Redis]:
        """An asynchronous client of a prefix, as an asynchronous context manager.

        :param prefix: The prefix.
        :raises ConfigError: If its settings are wrong.
        :raises UnknownPrefixError: If the app has no such prefix.
        """
        spec = self.get_spec(prefix)
        self._warn_if_changed(spec)
        deadline = self._get_deadline(spec)
        return self._open_async_client(spec, deadline, self.fake_servers)

    def _warn_if_changed(self, spec: Spec) -> None:
        """Warn, at the first use of a prefix, if the address in ``app.config`` is not
        the one that was read: a test may believe that it uses another server.
        """
        if spec.prefix in self._compared:
            return

        # init_app has imported it.
        from .spec.classes import is_unset

        self._compared.add(spec.prefix)

        for name in ("url", "connection_pool", *ADDRESS):
            key = f"{spec.prefix}_{name.upper()}"
            value = self._config.get(key)

            if (None if is_unset(value) else value) != spec.given.get(name):
                warn(
                    f"{key!r} was changed in app.config after init_app, so the change"
                    " has no effect. Set it before init_app, or use"
                    " RedisManager.override."
                )

    def _get_deadline(self, spec: Spec) -> Deadline:
        deadline = self._create_deadline(spec, self._app)
        return self._deadlines.setdefault(spec.prefix, deadline)

    def __iter__(self) -> cabc.Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def __contains__(self, prefix: object) -> bool:
        return prefix in self._specs

    def __repr__(self) -> str:
        return f"<Redis registry: {', '.join(self) or 'empty'}>"

    def get_spec(self, prefix: str) -> Spec:
        """The spec of a prefix.

        :param prefix: The prefix.
        :raises ConfigError: If its settings are wrong.
        :raises UnknownPrefixError: If the app has no such prefix.
        """
        if prefix in self._specs:
            return self._specs[prefix]

        if prefix in self._wrong:
            raise without_traceback(self._wrong[prefix])

        raise UnknownPrefixError(self._explain_unknown(prefix))

    def get_class(self, prefix: str) -> type[t.Any]:
        """The class of a prefix's client. It does not create the client.

        :param prefix: The prefix.
        :raises ConfigError: If its settings are wrong.
        :raises UnknownPrefixError: If the app has no such prefix.
        """
        # An override may end at any moment.
        if prefix in self._overrides and prefix in (clients := self.clients):
            # Not type(): a mock has the class that it replaces in its __class__.
            return clients[prefix].__class__

        return self.get_spec(prefix).client_class

    def find_client(self, prefix: str) -> redis.Redis | None:
        """The client of a prefix, or that of its override. None if it has not been
        created.

        :param prefix: The prefix.
        """
        return self.clients.get(prefix, self._created.get(prefix))

    def is_optional(self, prefix: str) -> bool:
        """Whether health checks only report an outage of a prefix.

        :param prefix: The prefix. False if its settings are wrong.
        """
        return prefix in self._specs and self._specs[prefix].optional

    def is_down(self, prefix: str) -> bool:
        """Whether a command of a prefix's own client has used up its deadline, and none
        has succeeded since.

        :param prefix: The prefix.
        """
        deadline = self._deadlines.get(prefix)
        return deadline is not None and deadline.down

    @property
    def needed(self) -> list[str]:
        """The prefixes that health checks ask by default: all that are registered, and
        those whose settings are wrong although the application has requested them.
        """
        return [*self, *(each for each in self._wrong if each in self._requested)]

    @property
    def skipped(self) -> dict[str, str]:
        """The reason for each group of settings that is not registered as a prefix."""
        wrong = {prefix: str(error) for prefix, error in self._wrong.items()}
        return self._skipped | wrong

    @property
    def overridden(self) -> cabc.Collection[str]:
        """The prefixes whose client is replaced by another one."""
        return self._overrides.keys()

    @contextlib.contextmanager
    def override(self, prefix: str, client: t.Any) -> cabc.Iterator[t.Any]:
        """Replace the client of a prefix for one ``with`` block.

        :param prefix: The prefix. The app must know it.
        :param client: What all threads of the app get instead.
        """
        own = _Override(client)

        with self._overriding:
            self._overrides.setdefault(prefix, []).append(own)
            self._apply_overrides()

        try:
            yield client
        finally:
            # Not the last one: blocks of two threads may end in any order.
            with self._overriding:
                self._overrides[prefix].remove(own)

                if not self._overrides[prefix]:
                    del self._overrides[prefix]

                self._apply_overrides()

    def _apply_overrides(self) -> None:
        # A separate dict: a client that is created meanwhile must not undo them.
        overrides = {name: stack[-1].client for name, stack in self._overrides.items()}
        self.clients = overrides or self._created

    def close(self) -> None:
        """Disconnect and forget the clients. Running commands are not interrupted."""
        for prefix in list(self._created):
            spec = self._specs[prefix]

            if "connection_pool" in spec.arguments:
                continue

            # None if another thread closes at the same time.
            if (client := self._created.pop(prefix, None)) is not None:
                spec.engine.disconnect(client, in_use=False)

    def check_known(self, prefix: str) -> None:
        """Raise if the app has no such prefix. Wrong settings are not an error here.

        :param prefix: The prefix.
        :raises UnknownPrefixError: If the app has no such prefix.
        """
        if prefix not in self._specs and prefix not in self._wrong:
            raise UnknownPrefixError(self._explain_unknown(prefix))

    def _explain_unknown(self, prefix: str) -> str:
        # init_app has imported it.
        from .settings.missing import find_variable

        known = ", ".join(map(repr, self)) or "none"
        message = f"This app has no Redis with the prefix {prefix!r}; it has: {known}."

        try:
            # Code for Flask-Redis may look up anything.
            check_prefix(prefix)
        except ConfigError as error:
            return f"{message} {error}"

        for known, spec in self._specs.items():
            if prefix in (f"{known}_{name.upper()}" for name in spec.given):
                return f"{message} {prefix!r} is a setting of {known!r}."

        message += f" Set '{prefix}_URL' or '{prefix}_HOST' before init_app."
        near = difflib.get_close_matches(prefix, self._skipped, n=1, cutoff=0.8)
        reason = f" {near[0]!r} was skipped: {self._skipped[near[0]]}." if near else ""
        return message + (reason or find_variable(self._config, prefix))

    def claim(
        self,
        prefix: str,
        read: cabc.Callable[[], Spec],
        options: cabc.Mapping[str, t.Any],
    ) -> None:
        """Register a prefix for one :class:`.Redis`. If a manager has registered it,
        both use the same client.

        :param prefix: The prefix.
        :param read: Reads the settings. It is called if nobody has read them yet.
        :param options: The options that ``read`` uses in addition to the settings.
        :raises ValueError: If another ``Redis`` has the prefix, or the manager has read
            it without the options.
        """
        if prefix in self._claimed:
            raise ValueError(
                f"The prefix {prefix!r} is registered on this app already. Call"
                " 'init_app' once for each app, and import the Redis object where you"
                " need it."
            )

        if prefix not in self._specs:
            self._specs[prefix] = read()
            self._wrong.pop(prefix, None)
        elif options:
            raise ValueError(
                f"The prefix {prefix!r} is registered on this app already, by a"
                " RedisManager. Pass the options to that manager, or use settings."
            )

        self._claimed.add(prefix)

    def add_discovery(
        self,
        manager: object,
        default: str,
        discovery: Discovery,
        requested: cabc.Container[str],
    ) -> None:
        """Register what a manager found. Prefixes that are registered already stay.

        :param manager: The manager.
        :param default: The default prefix.
        :param discovery: What was found.
        :param requested: Prefixes that the application has requested by name. Later
            requests may add to it.
        """
        self.manager = manager
        self.default = default
        self._specs = self._specs | discovery.specs
        self._wrong = discovery.wrong
        self._skipped = discovery.skipped
        self._requested = requested


class _Attempt:
    """One thread's attempt to create a client."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.result: Future[redis.Redis] = Future()

    def fail(self, error: BaseException) -> None:
        """Share an error with the threads that wait for the client."""
        if isinstance(error, Exception):
            self.result.set_exception(error)
        else:
            # Only this thread was interrupted.
            self.result.cancel()


class _Override:
    """The client of one ``with`` block. Two blocks with the same client differ."""

    def __init__(self, client: t.Any) -> None:
        self.client = client


def check_prefix(prefix: str) -> str:
    """Check a prefix, and return it.

    :param prefix: The prefix.
    :raises ConfigError: If it is not text in upper case, is too long, or ends with '_'.
    """
    if not isinstance(prefix, str):
        raise ConfigError(
            f"The prefix must be text, such as {DEFAULT_PREFIX!r}. It is of type"
            f" {type(prefix).__name__}."
        )

    if len(prefix) > LONGEST_PREFIX:
        raise ConfigError(
            f"The prefix '{prefix[:20]}...' must have at most {LONGEST_PREFIX} letters."
        )

    if not prefix.isupper() or prefix.endswith("_"):
        raise ConfigError(
            f"The prefix {prefix!r} must be in upper case, like all settings of Flask,"
            " and must not end with '_'."
        )

    return prefix


def find_registry(app: Flask) -> Registry | None:
    """The registry of an app, or None if it has none.

    :param app: The app.
    """
    registry = app.extensions.get(_KEY)
    return registry if isinstance(registry, Registry) else None


def get_registry(app: Flask) -> Registry:
    """The registry of an app.

    :param app: The app.
    :raises RuntimeError: If the app has none, or another extension uses its key.
    """
    registry = app.extensions.get(_KEY)

    if isinstance(registry, Registry):
        return registry

    if registry is None:
        raise RuntimeError(
            f"The app {app.name!r} has no Redis registered. Call"
            " RedisManager.init_app or Redis.init_app with this app first."
        )

    # type(), because a proxy of another extension may answer for its client.
    cls = type(registry)
    raise RuntimeError(
        f"'app.extensions[\"{_KEY}\"]' of the app {app.name!r} belongs to another"
        f" extension ({cls.__module__}.{cls.__qualname__}). Remove one of the two:"
        " Flask-And-Redis takes the same settings."
    )


def get_or_create_registry(app: Flask) -> Registry:
    """The registry of an app. It is created if the app has none.

    :param app: The app.
    :raises RuntimeError: If another extension uses its key.
    :raises TypeError: If it is no app.
    """
    # No weak reference to a proxy is possible.
    app = find_app() if app is current_app else app

    if not isinstance(app, Flask):
        raise TypeError(
            f"The app must be a Flask object. It is of type {type(app).__name__}. To"
            " name a prefix, write Redis(config_prefix=...), RedisManager(default=...)"
            " or manager.get(...)."
        )

    app.extensions.setdefault(_KEY, Registry(app))
    return get_registry(app)
