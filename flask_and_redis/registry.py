from __future__ import annotations

import collections.abc as cabc
import contextlib
import difflib
import os
import threading
import typing as t
from concurrent.futures import CancelledError
from concurrent.futures import Future

import redis
import redis.asyncio
from flask import current_app
from flask import Flask

from .clients import disconnect
from .clients import make_client
from .clients import open_async_client
from .config import DEFAULT_PREFIX
from .config import Discovery
from .config import Settings
from .exceptions import ConfigError
from .exceptions import UnknownPrefixError
from .retry import Bound

_KEY = "redis"

#: The current app itself. Asking ``current_app`` for this method each time would double
#: what it costs.
find_app: cabc.Callable[[], Flask] = current_app._get_current_object  # type: ignore[attr-defined]


class Registry(cabc.Mapping[str, redis.Redis]):
    """The prefixes of one app, each with its client, which is made when it is first
    asked for. Iterating and counting make none.

    This is what ``app.extensions["redis"]`` holds. It is read-only.
    """

    def __init__(self) -> None:
        self.default: str = DEFAULT_PREFIX
        #: Whether a manager has searched the app's settings.
        self.managed: bool = False
        self._made: dict[str, redis.Redis] = {}
        #: What proxies look into first: the clients made so far or, while there are
        #: overrides, these alone.
        self.clients: dict[str, redis.Redis] = self._made
        # The overrides of each prefix, the one in force last.
        self._overrides: dict[str, list[_Override]] = {}
        self._overriding = threading.Lock()
        self._settings: dict[str, Settings] = {}
        self._wrong: dict[str, ConfigError] = {}
        self._skipped: dict[str, str] = {}
        self._guessed: frozenset[str] = frozenset()
        self._fake_servers: dict[str, t.Any] = {}
        # One attempt a prefix, whose outcome those who wait share. By process: a fork
        # inherits the attempt of a thread that it does not inherit.
        self._attempts: dict[tuple[int, str], tuple[int, Future[redis.Redis]]] = {}
        self._bounds: dict[str, Bound] = {}
        self._claimed: set[str] = set()

    def __getitem__(self, prefix: str) -> redis.Redis:
        try:
            return self.clients[prefix]
        except KeyError:
            pass

        settings = self.get_settings(prefix)
        key = (os.getpid(), prefix)
        me = threading.get_ident()
        mine: Future[redis.Redis] = Future()
        maker, attempt = self._attempts.setdefault(key, (me, mine))

        if attempt is mine:
            try:
                # Another thread may have finished its attempt a moment ago.
                client = self._made.get(prefix)

                if client is None:
                    client = self._made[prefix] = make_client(
                        settings, self._get_bound(settings), self._fake_servers
                    )
            except BaseException as error:
                del self._attempts[key]

                if isinstance(error, Exception):
                    mine.set_exception(error)
                else:
                    # Who is interrupted is this thread alone.
                    mine.cancel()

                raise

            del self._attempts[key]
            mine.set_result(client)

        elif maker == me:
            raise RuntimeError(
                f"The client of {prefix!r} was asked for while it is being made, by its"
                " own class."
            )

        try:
            return attempt.result()
        except CancelledError:
            return self[prefix]

    def open_async(
        self, prefix: str
    ) -> contextlib.AbstractAsyncContextManager[redis.asyncio.Redis]:
        """A client of asyncio for a prefix, as an asynchronous context manager.

        :param prefix: The prefix.
        :raises ConfigError: If its settings are wrong.
        :raises UnknownPrefixError: If the app has no such prefix.
        """
        settings = self.get_settings(prefix)
        return open_async_client(
            settings, self._get_bound(settings), self._fake_servers
        )

    def _get_bound(self, settings: Settings) -> Bound:
        # Kept over failed attempts: it knows whether the prefix is down.
        return self._bounds.setdefault(settings.prefix, Bound(settings))

    def __iter__(self) -> cabc.Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)

    def __contains__(self, prefix: object) -> bool:
        return prefix in self._settings

    def __repr__(self) -> str:
        return f"<Redis registry: {', '.join(self) or 'empty'}>"

    def get_settings(self, prefix: str) -> Settings:
        """The settings of a prefix.

        :param prefix: The prefix.
        :raises ConfigError: If they are wrong.
        :raises UnknownPrefixError: If the app has no such prefix.
        """
        if prefix in self._settings:
            return self._settings[prefix]

        if prefix in self._wrong:
            raise ConfigError(*self._wrong[prefix].args)

        raise UnknownPrefixError(self._explain_unknown(prefix))

    def get_class(self, prefix: str) -> type[t.Any]:
        """The class of a prefix's client, which is not made for it.

        :param prefix: The prefix.
        :raises ConfigError: If its settings are wrong.
        :raises UnknownPrefixError: If the app has no such prefix.
        """
        try:
            # Not type(), as what stands for a client says so in its __class__.
            return self.clients[prefix].__class__
        except KeyError:
            return self.get_settings(prefix).client_class

    def find_client(self, prefix: str) -> redis.Redis | None:
        """The client of a prefix, an override's included, or None if it has not been
        made.

        :param prefix: The prefix.
        """
        return self.clients.get(prefix, self._made.get(prefix))

    def list_surely_redis(self) -> list[str]:
        """The prefixes but those that may be another server's: found by their HOST
        alone, and asked for by nobody.
        """
        return [it for it in self if it not in self._guessed - self._claimed]

    @property
    def skipped(self) -> dict[str, str]:
        """Why settings that look like those of a prefix are none."""
        return {**self._skipped, **{it: str(why) for it, why in self._wrong.items()}}

    @property
    def overridden(self) -> cabc.Collection[str]:
        """The prefixes with another client in place of their own."""
        return self._overrides.keys()

    @property
    def fake_servers(self) -> dict[str, t.Any]:
        """The fake servers of the app, by name. Clients add to them."""
        return self._fake_servers

    @contextlib.contextmanager
    def override(self, prefix: str, client: t.Any) -> cabc.Iterator[t.Any]:
        """Put a client in the place of a prefix's own, for one ``with`` block.

        :param prefix: The prefix.
        :param client: What all threads of the app get instead.
        :raises UnknownPrefixError: If the app has no such prefix.
        """
        self.check_known(prefix)
        mine = _Override(client)

        with self._overriding:
            self._overrides.setdefault(prefix, []).append(mine)
            self._show_overrides()

        try:
            yield client
        finally:
            # Not the last one: blocks of two threads may end in any order.
            with self._overriding:
                self._overrides[prefix].remove(mine)

                if not self._overrides[prefix]:
                    del self._overrides[prefix]

                self._show_overrides()

    def _show_overrides(self) -> None:
        # A dict of their own: a client that is made meanwhile does not undo them.
        overrides = {it: found[-1].client for it, found in self._overrides.items()}
        self.clients = overrides or self._made

    def close(self) -> None:
        """Disconnect and forget the clients made here, but for what they are doing."""
        for prefix in list(self._made):
            if "connection_pool" in self._settings[prefix].arguments:
                continue

            # None if another thread closes at the same time.
            if (client := self._made.pop(prefix, None)) is not None:
                disconnect(client, in_use=False)

    def check_known(self, prefix: str) -> None:
        """Raise if the app has no such prefix; wrong settings show at first use.

        :param prefix: The prefix.
        :raises UnknownPrefixError: If the app has no such prefix.
        """
        if prefix not in self._settings and prefix not in self._wrong:
            raise UnknownPrefixError(self._explain_unknown(prefix))

    def _explain_unknown(self, prefix: str) -> str:
        known = ", ".join(map(repr, self)) or "none"
        message = (
            f"This app has no Redis with the prefix {prefix!r}; it has: {known}. Set"
            f" '{prefix}_URL' or '{prefix}_HOST' before init_app."
        )
        near = difflib.get_close_matches(prefix, self._skipped, n=1, cutoff=0.8)

        if near:
            message += f" {near[0]!r} was passed over: {self._skipped[near[0]]}."

        return message

    def claim(
        self,
        prefix: str,
        read: cabc.Callable[[], Settings],
        options: cabc.Mapping[str, t.Any],
    ) -> None:
        """Register a prefix for one :class:`.Redis`, or join it to a manager's.

        :param prefix: The prefix.
        :param read: Reads its settings, if they have not been read before.
        :param options: What ``read`` uses beside the settings.
        :raises ValueError: If another ``Redis`` has the prefix, or its options come
            too late.
        """
        if prefix in self._claimed:
            raise ValueError(
                f"The prefix {prefix!r} is registered on this app already, by a Redis."
                " Call its 'init_app' once for each app, and import it elsewhere."
            )

        if prefix not in self._settings:
            self._settings[prefix] = read()
            self._wrong.pop(prefix, None)
        elif options:
            raise ValueError(
                f"The prefix {prefix!r} is registered on this app already, by a"
                " RedisManager: give that one the options, or use settings."
            )

        self._claimed.add(prefix)

    def add_discovery(self, default: str, discovery: Discovery) -> None:
        """Register what a manager found. Prefixes that are there already stay.

        :param default: The default prefix.
        :param discovery: What was found.
        """
        self.default = default
        self.managed = True
        self._settings = self._settings | discovery.settings
        self._wrong = discovery.wrong
        self._skipped = discovery.skipped
        self._guessed = frozenset(discovery.guessed)


class _Override:
    """One block's client, told from another block's by identity."""

    def __init__(self, client: t.Any) -> None:
        self.client = client


def find_registry(app: Flask) -> Registry | None:
    """The registry of an app, or None if it has none.

    :param app: The app.
    """
    found = app.extensions.get(_KEY)
    return found if isinstance(found, Registry) else None


def get_registry(app: Flask) -> Registry:
    """The registry of an app.

    :param app: The app.
    :raises RuntimeError: If the app has none.
    """
    found = app.extensions.get(_KEY)

    if isinstance(found, Registry):
        return found

    if found is None:
        raise RuntimeError(
            f"The app {app.name!r} has no Redis registered. Call 'init_app' of a"
            " RedisManager or a Redis with this app."
        )

    raise RuntimeError(_describe_other(app, found))


def make_registry(app: Flask) -> Registry:
    """The registry of an app, which is made if the app has none.

    :param app: The app.
    :raises RuntimeError: If another extension holds its place.
    """
    found = app.extensions.setdefault(_KEY, Registry())

    if isinstance(found, Registry):
        return found

    raise RuntimeError(_describe_other(app, found))


def _describe_other(app: Flask, found: object) -> str:
    # type(), as another extension's object may answer for its client.
    return (
        f"'app.extensions[\"{_KEY}\"]' of the app {app.name!r} is held by another"
        f" extension ({type(found).__module__}.{type(found).__qualname__}). Use one of"
        " the two: Flask-And-Redis takes the same settings."
    )
