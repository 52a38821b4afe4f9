"""Undocumented features of clients, pipelines, locks and credential providers."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import threading
import typing as t

import redis.utils
from redis import exceptions as redis_exceptions

from ...spec.classes import subclass
from ..library import library_name
from ..messages import clean_error

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


def keep_pool_open(client: t.Any) -> None:
    """Let the pool of a client stay open when the client is closed.

    Why: a client closes a pool that it has created, and no argument changes this.
    Versions: all. Without it: a thread that leaves "with current_redis as r:" closes
    the connections of all threads.

    :param client: The client.
    """
    client.auto_close_connection_pool = False


class LendsConnections:
    """Mixed into the class of clients, synchronous or not. Each client that
    ``client()`` creates is passed to ``note_lent()``.

    Why: redis-py creates it with nothing but the pool. Versions: all; a cluster's
    client has no ``client()``. Without it: redis-py mistakes exceptions of the
    application for errors of the connection, and ``transaction()`` has no deadline.
    """

    if t.TYPE_CHECKING:

        def note_lent(self, client: t.Any) -> None: ...

    def client(self) -> t.Any:
        client = super().client()  # type: ignore[misc]
        self.note_lent(client)
        return client


class ModulePipelines:
    """Mixed into the class of clients, synchronous or not. Each pipeline of ``json()``,
    ``ft()`` and ``ts()`` is passed to ``note_pipeline()``.

    Why: they create pipelines without the client's ``pipeline()``. Versions: all.
    Without it: the errors of these pipelines show passwords.
    """

    if t.TYPE_CHECKING:

        def note_pipeline(self, pipeline: t.Any) -> None: ...

    def json(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        return _note_pipelines(super().json(*args, **kwargs))  # type: ignore[misc]

    def ft(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        return _note_pipelines(super().ft(*args, **kwargs))  # type: ignore[misc]

    def ts(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        return _note_pipelines(super().ts(*args, **kwargs))  # type: ignore[misc]


class _NotesPipelines:
    client: t.Any

    def pipeline(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        pipeline = super().pipeline(*args, **kwargs)  # type: ignore[misc]
        self.client.note_pipeline(pipeline)
        return pipeline


def _note_pipelines(module: t.Any) -> t.Any:
    # A test may have replaced the method by one that returns something else.
    if library_name(type(module)):
        change_class(module, subclass(_NotesPipelines, type(module)))

    return module


class PipelineErrors:
    """Mixed into the class of pipelines, synchronous or not. It sees errors before
    tracing does.

    Why: tracing records the error of a command when redis-py raises it, which has
    quoted the command in it. The other replies are lost then. Versions: all. Without
    it: traces show passwords, and commands that were executed are sent again.
    """

    if t.TYPE_CHECKING:

        def note_first_error(
            self, error: Exception, replies: cabc.Sequence[object]
        ) -> None: ...

    def annotate_exception(self, exception: Exception, *args: t.Any) -> None:
        super().annotate_exception(exception, *args)  # type: ignore[misc]
        clean_error(exception)

    def raise_first_error(self, commands: t.Any, response: t.Any) -> None:
        try:
            super().raise_first_error(commands, response)  # type: ignore[misc]
        except Exception as error:
            self.note_first_error(error, response)
            raise


def find_loss(error: BaseException, handled: BaseException | None) -> Exception | None:
    """The error that a ``WatchError`` has replaced, or None if a watched key has
    changed.

    Why: once keys are watched, redis-py raises a ``WatchError`` in place of any error
    of the connection. Only its context tells. In a cluster, it also does so if a slot
    has moved, which is a change. Versions: all. Without it: a transaction whose reply
    is lost counts as one that did not run.

    :param error: The ``WatchError``.
    :param handled: The error that the caller was handling when the command started.
    """
    loss = error.__context__
    is_change = loss is handled or isinstance(loss, redis_exceptions.AskError)
    return loss if isinstance(loss, Exception) and not is_change else None


def forget_watch(pipeline: t.Any) -> None:
    """Let a pipeline be reset without ``UNWATCH`` if its connection is closed.

    Why: nothing is watched then, but ``reset()`` would open the connection again, and
    raise what that raises. Versions: all; a cluster's pipelines do not do so. Without
    it: a transaction waits twice for a server that hangs, and its error is another one.

    :param pipeline: The pipeline.
    """
    connection = getattr(pipeline, "connection", None)

    # A connection of the application may not be one of ours.
    if not getattr(connection, "is_open", True):
        pipeline.watching = False


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


class LockSteps:
    """Mixed into the class of locks, synchronous or not. Each attempt to acquire or to
    release a lock is made by ``acquire_once()`` or ``release_once()``.

    Why: ``acquire()`` makes many attempts, and does not tell which one was retried.
    Versions: all. Without it: a lock is lost if the reply to one of them is lost.
    """

    if t.TYPE_CHECKING:

        def acquire_once(
            self, acquire: cabc.Callable[[bytes], t.Any], token: bytes
        ) -> t.Any: ...

        def release_once(
            self, release: cabc.Callable[[bytes], t.Any], token: bytes
        ) -> t.Any: ...

    def do_acquire(self, token: bytes) -> t.Any:
        return self.acquire_once(super().do_acquire, token)  # type: ignore[misc]

    def do_release(self, expected_token: bytes) -> t.Any:
        return self.release_once(super().do_release, expected_token)  # type: ignore[misc]


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


def packs_with_hiredis() -> bool:
    """Whether redis-py lets hiredis write commands.

    Why: hiredis writes text as UTF-8, whatever ``ENCODING`` is. Versions: all. Without
    it: keys and values are written in one encoding and read in another.
    """
    return bool(redis.utils.HIREDIS_AVAILABLE)
