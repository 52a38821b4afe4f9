"""Engines: one object for each kind of server. See :class:`.Engine`."""

from __future__ import annotations

import functools
import typing as t
from importlib import import_module

import redis

from ..exceptions import ConfigError
from ..spec.advice import explain_type
from ..spec.advice import is_placeholder
from ..spec.advice import is_quoted
from ..spec.advice import QUOTED
from ..spec.classes import did_you_mean
from ..spec.url import scheme_of
from .base import Engine

#: The module of the engine of each scheme. It is imported when a prefix uses it.
ENGINES: dict[str, str] = {
    "redis": "standalone",
    "rediss": "standalone",
    "unix": "standalone",
    "valkey": "standalone",
    "valkeys": "standalone",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
    "fakeredis": "fake",
}

# Schemes of other libraries that are too different from ours for did_you_mean().
_OTHER_NAMES = {
    "redis+socket": "unix",
    "redis+unix": "unix",
    "redis-socket": "unix",
    "socket": "unix",
    "sentinel": "redis+sentinel",
    "cluster": "redis+cluster",
    "redis+tls": "rediss",
    "redis+ssl": "rediss",
    "valkey+tls": "valkeys",
}

# For prefixes without a URL.
_DEFAULT = "standalone"


@functools.cache
def _load(module: str) -> Engine:
    engine: Engine = import_module(f".{module}", __package__).ENGINE
    return engine


def list_schemes() -> str:
    """All schemes, as a part of a sentence."""
    *most, last = (f"{scheme}://" for scheme in ENGINES)
    return f"{', '.join(most)} or {last}"


def get_engine(label: str, url: object) -> Engine:
    """The engine of a URL's scheme.

    :param label: What an error calls the URL.
    :param url: The URL.
    :raises ConfigError: If it is not text, or has another scheme.
    """
    if not isinstance(url, str):
        advice = explain_type(url, wants_text=True)
        raise ConfigError(
            f"{label} must be text, such as redis://localhost:6379/0.{advice}"
        )

    if (scheme := scheme_of(url)) not in ENGINES:
        if is_quoted(url):
            raise ConfigError(f"{label} {QUOTED}")

        if is_placeholder(url):
            raise ConfigError(f"{label} is a placeholder that was not replaced.")

        near = ""

        if scheme in _OTHER_NAMES:
            near = f" Use {_OTHER_NAMES[scheme]}:// instead."
        elif "://" in url:
            near = did_you_mean(scheme, ENGINES, "{}://")

        raise ConfigError(
            f"{label} must begin with {list_schemes()}.{near} If it is not Redis, add"
            " its prefix to RedisManager(ignore=...)."
        )

    return _load(ENGINES[scheme])


def find_engine(url: object, client_class: type[t.Any], pool: object = None) -> Engine:
    """The engine of a prefix: that of its URL's scheme. If this is a scheme of single
    servers, or there is no URL, another engine may own the client class or the pool.

    :param url: The URL, or None.
    :param client_class: The client class that a setting names, or ``redis.Redis``.
    :param pool: The pool that a setting names, or None.
    """
    module = ENGINES.get(scheme_of(url), _DEFAULT)

    if module == _DEFAULT and (client_class is not redis.Redis or pool is not None):
        for other in dict.fromkeys(ENGINES.values()):
            if _load(other).owns(client_class, pool):
                return _load(other)

    return _load(module)
