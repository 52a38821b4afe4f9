"""The part of an engine around commands: what an error means, and what is done before
another attempt.
"""

from __future__ import annotations

import collections.abc as cabc
import ssl
import typing as t

from ..spec.spec import Spec
from . import adoption
from . import checks
from . import interruptions
from . import messages
from .credentials import Credentials
from .internals.errors import is_cache_refused
from .internals.errors import is_demoted
from .internals.errors import is_full_pool
from .library import Client
from .library import library_of
from .library import Pool
from .marks import is_lost
from .marks import is_unsent
from .operations import check_answer
from .operations import check_answer_async
from .operations import Operations

# Any other TLS error is a refusal. These say that the connection was lost.
_TLS_LOST = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


class Commands(Operations):
    """Base class of :class:`.Engine`."""

    if t.TYPE_CHECKING:

        def pools(self, client: Client) -> list[Pool]: ...

    def is_transient(
        self, error: BaseException, spec: Spec, handled: BaseException | None = None
    ) -> bool:
        """Whether a retry may succeed.

        :param error: What an attempt raised.
        :param spec: The spec.
        :param handled: The error that the caller was handling when the command
            started. It says nothing about the attempt.
        """
        errors = library_of(spec.client_class).errors
        transient = (
            errors.ConnectionError,
            errors.TimeoutError,
            errors.ClusterDownError,
            errors.TryAgainError,
            *spec.arguments.get("retry_on_error", ()),
        )
        permanent = (errors.AuthenticationError, errors.AuthorizationError)
        return (
            isinstance(error, transient)
            and not isinstance(error, permanent)
            and not is_cache_refused(error)
            and not is_lost(error)
            and not any(map(is_tls_refusal, causes(error, handled)))
        )

    def hide_secrets(
        self, error: BaseException, spec: Spec, handled: BaseException | None
    ) -> None:
        """Hide secrets in an error and its causes. See :meth:`is_transient`."""
        secrets = self.find_secrets(spec)

        for each in causes(error, handled):
            messages.clean_error(each, secrets)

    def find_secrets(self, spec: Spec) -> list[str]:
        """The secrets of all connections, to hide them.

        :param spec: The spec.
        """
        groups = self.secret_arguments(spec)
        secrets = messages.find_secrets(*groups)

        for group in groups:
            if isinstance(source := group.get("credential_provider"), Credentials):
                # Without the user name. Passwords are the last part of a login.
                secrets += filter(None, source.secrets[-1:])

        return secrets

    def complete_error(
        self,
        error: BaseException,
        spec: Spec,
        handled: BaseException | None,
        outcome: str,
    ) -> None:
        """Hide secrets in an error and its causes, and note which Redis failed. See
        :meth:`is_transient`.

        :param outcome: How long the command took, or why it was not sent.
        """
        self.hide_secrets(error, spec, handled)
        advice = self.explain_error(spec, error)
        connection_error = library_of(spec.client_class).errors.ConnectionError

        # Other errors are the command's, such as a wrong type, or the application's.
        if (
            advice
            or isinstance(error, connection_error)
            or self.is_transient(error, spec, handled)
        ):
            where = f"Redis {spec.prefix!r}, {self.describe_address(spec)}"
            messages.add_note(error, f"{where}: {outcome} {advice}".rstrip())

    def may_have_been_sent(self, error: BaseException) -> bool:
        """Whether the server may have received the command.

        :param error: What an attempt raised.
        """
        return not (is_unsent(error) or is_full_pool(error))

    def is_answer(self, error: BaseException, spec: Spec) -> bool:
        """Whether an error proves that the server answers, although a retry may be
        needed. See :meth:`is_transient`.
        """
        errors = library_of(spec.client_class).errors
        # These servers refuse all commands.
        is_down = isinstance(error, errors.ClusterDownError)
        return isinstance(error, errors.ResponseError) and not is_down

    def is_hang(
        self, error: BaseException, spec: Spec, handled: BaseException | None = None
    ) -> bool:
        """Whether the server did not answer in time. See :meth:`is_transient`."""
        timeout = library_of(spec.client_class).errors.TimeoutError
        return any(isinstance(each, timeout) for each in causes(error, handled))

    def raise_interruption(
        self,
        error: BaseException,
        spec: Spec,
        handled: BaseException | None,
        client: Client | None,
        seconds: float,
    ) -> None:
        """Raise the application's own exception, if the client library took one for an
        error of the socket. See :meth:`is_transient`.

        :param client: The client, or None before it is created.
        :param seconds: How long the attempt took.
        """
        pool = getattr(client, "connection_pool", None)
        arguments = spec.arguments if pool is None else pool.connection_kwargs
        timeouts = [
            each[name]
            for each in (arguments, spec.sentinel_arguments)
            for name in checks.TIMEOUTS
            if each.get(name)
        ]
        interruptions.raise_interruption(
            causes(error, handled),
            # The class of the spec is the synchronous one.
            library_of(spec.client_class if client is None else type(client)),
            seconds,
            min(timeouts, default=0),
        )

    def find_parts(
        self, client: Client | None, commands: cabc.Iterable[cabc.Sequence[t.Any]]
    ) -> frozenset[cabc.Hashable]:
        """The parts of the prefix that may be down separately, and that commands need.
        None stands for the whole prefix.

        :param client: The client, or None before it is created.
        :param commands: The arguments of each command.
        """
        return frozenset([None])

    def find_successor(
        self, client: Client | None, part: cabc.Hashable
    ) -> cabc.Hashable:
        """The part of the prefix that serves now what a part served.

        :param client: The client, or None before it is created.
        :param part: A part from :meth:`find_parts`.
        """
        return part

    def is_all_down(self, error: BaseException) -> bool:
        """Whether no part of the prefix can be reached.

        :param error: What an attempt raised.
        """
        return True

    def is_reset(self, error: BaseException, handled: BaseException | None) -> bool:
        """Whether the server closed the connection while it received a command. See
        :meth:`is_transient`.
        """
        resets = (ConnectionResetError, BrokenPipeError)
        return any(isinstance(each, resets) for each in causes(error, handled))

    def after_all_down(self, client: Client) -> None:
        """Prepare a client after :meth:`is_all_down`."""

    def can_probe(self, client: Client) -> bool:
        """Whether :meth:`probe` can tell that the server answers.

        :param client: The client, or None before it is created.
        """
        return hasattr(client, "connection_pool")

    def can_probe_part(
        self, client: Client, part: cabc.Hashable, error: BaseException
    ) -> bool:
        """The same for a part of the prefix, if :meth:`can_probe` is false.

        :param client: The client.
        :param part: A part from :meth:`find_parts`.
        :param error: What the command raised that noticed its outage.
        """
        return False

    def probe(self, client: Client, part: cabc.Hashable = None) -> None:
        """Raise unless the server answers, on a separate connection.

        :param client: The client.
        :param part: The part of the prefix to ask.
        """
        check_answer(client.connection_pool, library_of(type(client)))

    async def probe_async(self, client: Client, part: cabc.Hashable = None) -> None:
        """Raise unless the server of an asynchronous client answers."""
        await check_answer_async(client.connection_pool, library_of(type(client)))

    def before_retry(self, client: Client) -> None:
        """Prepare a client for the next attempt."""

    def before_pipeline_retry(self, client: Client) -> t.Any:
        """Prepare a client for the next attempt of a pipeline.

        :return: None or, if the client is asynchronous, maybe an awaitable.
        """

    # Refused commands

    def is_refused(self, error: BaseException, spec: Spec) -> bool:
        """Whether the server refused a command that may succeed on a new connection,
        because the server's role or the credentials have changed.

        :param error: What an attempt raised.
        :param spec: The spec.
        """
        errors = library_of(spec.client_class).errors

        if not isinstance(error, errors.AuthenticationError):
            return is_demoted(error, errors)

        arguments = self.connection_arguments(spec)

        if arguments.get("credential_provider") is not None:
            return True

        # A wrong password stays wrong.
        has_login = bool(arguments.get("password") or arguments.get("username"))
        return has_login and not is_unsent(error)

    def replace_connections(self, client: Client) -> None:
        """Replace all connections of a client before their next use.

        :param client: The client.
        """
        for pool in self.pools(client):
            adoption.replace_connections(pool)


def causes(
    error: BaseException | None, handled: BaseException | None
) -> cabc.Iterator[BaseException]:
    """An error, and the errors of the same attempt that led to it.

    :param error: What the attempt raised.
    :param handled: The error that the caller was handling when the command started. It
        and its causes do not belong to the attempt.
    """
    seen = {id(handled)}
    pending: list[BaseException | None] = [error]

    while pending:
        if (each := pending.pop()) is not None and id(each) not in seen:
            seen.add(id(each))
            pending += [each.__cause__, each.__context__]
            yield each


def is_tls_refusal(error: BaseException) -> bool:
    """Whether one side refused TLS, such as the certificate of the other."""
    return isinstance(error, ssl.SSLError) and not isinstance(error, _TLS_LOST)
