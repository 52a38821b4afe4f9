"""Engines: one object for each kind of server. See :class:`.Engine`."""

from __future__ import annotations

import typing as t

from ..exceptions import ConfigError
from ..spec.classes import did_you_mean
from ..spec.url import scheme_of
from .base import Engine
from .cluster import CLUSTER
from .fake import FAKE
from .sentinel import SENTINEL
from .standalone import STANDALONE

#: The engine of each scheme.
ENGINES: dict[str, Engine] = {
    scheme: engine
    for engine in (STANDALONE, CLUSTER, SENTINEL, FAKE)
    for scheme in engine.schemes
}


def list_schemes() -> str:
    """All schemes, as a part of a sentence."""
    *most, last = (f"{scheme}://" for scheme in ENGINES)
    return f"{', '.join(most)} or {last}"


def check_scheme(label: str, url: object) -> None:
    """Raise unless a URL is one of an engine.

    :param label: What an error calls the URL.
    :param url: The URL.
    :raises ConfigError: If it is not text, or has another scheme.
    """
    if not isinstance(url, str):
        raise ConfigError(f"{label} must be text, such as redis://localhost:6379/0.")

    if (scheme := scheme_of(url)) not in ENGINES:
        near = did_you_mean(scheme, ENGINES, "{}://") if "://" in url else ""
        raise ConfigError(
            f"{label} must begin with {list_schemes()}.{near} If it is no Redis, name"
            " its prefix in RedisManager(ignore=...)."
        )


def find_engine(url: object, client_class: type[t.Any], pool: object = None) -> Engine:
    """The engine of a prefix: that of its URL's scheme or, if this is a scheme of
    single servers or there is no URL, maybe another one that owns the class or pool.

    :param url: The URL, or None.
    :param client_class: The client class that a setting names, or ``redis.Redis``.
    :param pool: The pool that a setting names, or None.
    """
    engine = ENGINES.get(scheme_of(url), STANDALONE)

    if engine is STANDALONE:
        for other in ENGINES.values():
            if other.owns(client_class, pool):
                return other

    return engine
