"""Undocumented features of clients, pipelines and credential providers."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import threading
import typing as t

from ..library import library_name

_LOCKS = {type(create()): create for create in (threading.Lock, threading.RLock)}


def renew_locks(roots: cabc.Iterable[object]) -> None:
    """Give objects of the client library new locks, and all that they refer to.

    Why: a forked child inherits locks that threads of the parent hold, and nobody
    releases them. Versions: all; redis-py 8 adds some, such as that of a dispatcher.
    Without it: the child waits forever.

    :param roots: Clients and pools. Objects that share a lock share the new one.
    """
    renewed: dict[int, t.Any] = {}
    seen: set[int] = set()
    pending = list(roots)

    while pending:
        owner = pending.pop()
        seen.add(id(owner))

        for name, value in list(getattr(owner, "__dict__", {}).items()):
            if (create := _LOCKS.get(type(value))) is not None:
                setattr(owner, name, renewed.setdefault(id(value), create()))
            elif id(value) not in seen and library_name(type(value)):
                pending.append(value)


def change_class(instance: object, cls: type) -> None:
    """Make a pipeline or a connection an instance of a subclass of its class.

    Why: ``client.pipeline()`` names the class of the pipeline itself, and no argument
    changes it. A pool of the application may have connections already. Versions: all.
    Without it: pipelines have no deadline.

    :param instance: The pipeline or the connection.
    :param cls: A subclass of its class.
    """
    instance.__class__ = cls


def copy_scripts(pipeline: t.Any) -> set[t.Any]:
    """The scripts that a pipeline loads before it runs its commands.

    Why: ``reset()`` drops them, and a script adds itself only when it is called.
    Versions: all; a cluster's pipelines have none. Without it: a retried pipeline ends
    with ``NOSCRIPT``.

    :param pipeline: The pipeline.
    """
    return set(getattr(pipeline, "scripts", ()))


def restore_scripts(pipeline: t.Any, scripts: set[t.Any]) -> None:
    """Add scripts to a pipeline that was reset. See :func:`copy_scripts`.

    :param pipeline: The pipeline.
    :param scripts: Its scripts before the reset.
    """
    pipeline.scripts |= scripts


def restart_renewal(provider: t.Any) -> None:
    """Let a provider that streams tokens start to renew them when it is asked next.

    Why: the thread that renews them does not survive a fork, and there is no public way
    to start another. Versions: redis-entraid, all. Without it: a forked child keeps to
    the tokens that it inherits.

    :param provider: The provider. If it is of another kind, nothing is done.
    """
    if hasattr(provider, "_is_streaming"):
        provider._is_streaming = False


def retry_renewal(provider: t.Any, seconds: float) -> None:
    """Let a provider that streams tokens renew them after an error.

    Why: redis-py's ``TokenManager`` gives up after an error. Versions: all. Without it:
    tokens are not renewed any more once the identity provider could not be reached.

    :param provider: The provider, whose ``on_error`` is running. If it is of another
        kind, nothing is done.
    :param seconds: How long to wait.
    """
    manager = getattr(provider, "_token_mgr", None)

    if (renew := getattr(manager, "_renew_token", None)) is not None:
        asyncio.get_running_loop().call_later(seconds, renew)
