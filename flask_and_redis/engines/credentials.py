"""Where pools get user names and passwords from."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import stat
import threading
import typing as t
from concurrent.futures import CancelledError
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
from inspect import ismethod
from weakref import WeakValueDictionary

from redis.credentials import CredentialProvider
from redis.credentials import StreamingCredentialProvider

from ..spec.classes import name_of
from ..spec.spec import Spec
from ..spec.spec import Value
from ..spec.spec import Values
from ..spec.values import Secret
from .internals.clients import restart_renewal
from .internals.clients import retry_renewal

logger: logging.Logger = logging.getLogger("flask_and_redis")

#: Seconds after which a renewal that failed is tried again.
RENEWAL_PAUSE = 5.0

#: What a provider returns: a password, a user name and a password, or nothing.
Login = tuple[str, ...]


class Credentials(CredentialProvider):
    """Base class of the objects that our pools ask for user name and password."""

    #: The texts that were used last, which no message may show.
    secrets: Login = ()

    @property
    def version(self) -> int:
        """A number that increases when connections must log in again."""
        return 0


class PasswordFile(Credentials):
    """The password in the first line of a file. The file is read for each new
    connection, so that a new password is used without a restart.

    :param value: The setting with the path of the file.
    :param username: The user name, if there is one.
    """

    secrets: Login

    def __init__(self, value: Value, username: str | None = None) -> None:
        self._value = value
        # The process may change its directory.
        self._path = os.path.abspath(value.value)
        self._username = username

    def __repr__(self) -> str:
        # The path may be a password that was set by mistake.
        return f"<PasswordFile {self._value.label}>"

    # redis-py's annotation only allows tuples of a fixed length.
    def get_credentials(self) -> Login:  # type: ignore[override]
        """The user name, if there is one, and the password.

        :raises ConfigError: If the file cannot be read, or has no password.
        """
        password = self.read_password()
        username = (self._username,) if self._username else ()
        self.secrets = (*username, password)
        return self.secrets

    async def get_credentials_async(self) -> Login:  # type: ignore[override]
        """The same. A small local file does not make the loop wait."""
        return self.get_credentials()

    def read_password(self) -> Secret:
        """The first line of the file.

        :raises ConfigError: If the file cannot be read, or has no password. The message
            quotes neither the path nor the content.
        """
        try:
            if not stat.S_ISREG(os.stat(self._path).st_mode):
                # A pipe can be read only once, and a directory never.
                problem = "It is not a file"
            else:
                # Editors on Windows put a mark in front of UTF-8.
                with open(self._path, encoding="utf-8-sig") as file:
                    # Spaces may belong to the password.
                    if password := file.readline().rstrip("\n"):
                        return Secret(password)

                problem = "Its first line is empty"
        except OSError as error:
            problem = error.strerror or "It cannot be read"
        except UnicodeDecodeError:
            problem = "It is not UTF-8 text"
        except ValueError:
            problem = "It is not a path"

        # Not within the except block: the decoding error has the content.
        raise self._value.error(
            f"must be the path of a file whose first line is the password. {problem}."
        )


class SharedProvider(Credentials):
    """The credential provider that a setting names. All prefixes whose setting has the
    same value share it. A class or a function is called at the first login, once in
    each process.

    Providers that stream new credentials tell only the client that registered last. So
    this class registers, once for all, and pools compare :attr:`version`:

    -   Before a pool opens a connection, it reads ``version`` and keeps the number with
        the connection.
    -   Before it hands a connection out, it compares the number with ``version``. If
        they differ, it replaces the connection. The new one gets the new credentials
        from :meth:`get_credentials`.

    :param value: The setting, with a provider, or a class or function that returns one.
    """

    secrets: Login

    def __init__(self, value: Value) -> None:
        self._value = value
        self._source = _find_source(value)

    def __repr__(self) -> str:
        # The provider's own may show a password.
        return f"<SharedProvider {self._value.label}>"

    @property
    def version(self) -> int:
        """How often new credentials have replaced the first ones."""
        return self._source.version

    def get_credentials(self) -> Login:  # type: ignore[override]
        """The newest credentials.

        :raises ConfigError: If there is no provider, because the class or function
            raised an error. The next login calls it again.
        """
        return self._keep(self._find_provider().get_credentials())

    async def get_credentials_async(self) -> Login:  # type: ignore[override]
        """The same. What may wait for the network is done in another thread."""
        provider = await asyncio.to_thread(self._find_provider)

        if _is_asynchronous(provider):
            return self._keep(await provider.get_credentials_async())

        return self._keep(await asyncio.to_thread(provider.get_credentials))

    def _find_provider(self) -> CredentialProvider:
        try:
            return self._source.get_provider()
        except _NotCreatedError as error:
            problem, cause = error.args

        raise self._value.error(problem) from cause

    def _keep(self, login: Login) -> Login:
        # A provider may return None.
        texts = [text for text in login or () if isinstance(text, str)]
        self.secrets = tuple(map(Secret, texts))
        return login


def _is_asynchronous(provider: CredentialProvider) -> bool:
    """Whether a provider can be awaited in the running loop. Those that stream cannot:
    they would renew their tokens in this loop, which ends with the request.
    """
    method = getattr(type(provider), "get_credentials_async", None)
    inherited = (None, CredentialProvider.get_credentials_async)
    return method not in inherited and not isinstance(
        provider, StreamingCredentialProvider
    )


class _NotCreatedError(Exception):
    """A class or function returned no provider. The arguments are the rest of a message
    that begins with the setting, and the error that was raised.
    """


class _Attempt(Future[CredentialProvider]):
    """One thread's attempt to start a provider."""

    thread: int | None = None


class _Source:
    """The value of a setting, and the provider behind it in this process.

    :param value: The first setting with this value.
    """

    def __init__(self, value: Value) -> None:
        self.version = 0
        self._label = value.label
        self._value = value.value
        self._is_called = isinstance(self._value, type) or not hasattr(
            self._value, "get_credentials"
        )
        # The password of the last login, to see which ones are new.
        self._last: Login = ()
        self._is_failing = False
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._attempt: _Attempt | None = None
        self._provider = None if self._is_called else self._value

    def start_again(self) -> None:
        """Use new locks and renew credentials in a forked child. A class or function is
        called again.
        """
        self._forget()
        restart_renewal(self._provider)

    def get_provider(self) -> CredentialProvider:
        """The provider. Threads that need it at the same time share one attempt to
        start it. A failure is not kept.
        """
        own = _Attempt()

        with self._lock:
            if self._attempt is None:
                self._attempt = own

            attempt = self._attempt

        if attempt is own:
            try:
                own.set_result(_run_outside_of_loops(self._start, own))
            except BaseException as error:
                self._attempt = None

                if isinstance(error, Exception):
                    own.set_exception(error)
                else:
                    # Only this thread was interrupted.
                    own.cancel()

                raise

        elif not attempt.done() and attempt.thread == threading.get_ident():
            raise RuntimeError(
                f"{self._label} must not use the prefix whose password it provides."
            )

        try:
            return attempt.result()
        except CancelledError:
            return self.get_provider()

    def _start(self, attempt: _Attempt) -> CredentialProvider:
        attempt.thread = threading.get_ident()

        if self._provider is None:
            self._provider = self._create()

        if isinstance(self._provider, StreamingCredentialProvider):
            # Before the first token: without a listener none is renewed.
            self._provider.on_next(self._receive)
            self._provider.on_error(self._report)
            self._last = (self._provider.get_credentials() or ())[-1:]

        return self._provider

    def _create(self) -> CredentialProvider:
        cause: Exception | None = None

        try:
            provider = self._value()
        except Exception as error:
            cause = error
            problem = f"returned no provider: it raised {type(error).__name__}."
        else:
            if hasattr(provider, "get_credentials"):
                return t.cast(CredentialProvider, provider)

            problem = "must return an object with 'get_credentials'."

        raise _NotCreatedError(problem, cause)

    def _receive(self, token: t.Any) -> None:
        """Count a renewed token. A provider may send the same token again."""
        self._is_failing = False
        password = (token.get_value(),)

        if password != self._last:
            self._last = password
            self.version += 1

    def _report(self, error: Exception) -> None:
        """Log the first error of several, and try again. Its text may be secret."""
        if not self._is_failing:
            self._is_failing = True
            logger.warning(
                "%s cannot renew its credentials (%s). It tries again every %g s.",
                *(self._label, type(error).__name__, RENEWAL_PAUSE),
            )

        retry_renewal(self._provider, RENEWAL_PAUSE)


R = t.TypeVar("R")
A = t.TypeVar("A")


def _run_outside_of_loops(function: t.Callable[[A], R], argument: A) -> R:
    """Call a function in a thread without a running loop.

    :param function: The function. A provider that finds a running loop, such as that of
        an asynchronous view, uses it for renewals, and waits for it without end.
    :param argument: Its argument.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return function(argument)

    # The function may need the current app.
    context = contextvars.copy_context()

    with ThreadPoolExecutor() as executor:
        return executor.submit(context.run, function, argument).result()


_sources: WeakValueDictionary[object, _Source] = WeakValueDictionary()


def _find_source(value: Value) -> _Source:
    # A method is another object each time, but equal. An object may have no hash.
    key = value.value if ismethod(value.value) else id(value.value)
    # The source keeps the value, so that no other object gets its id.
    return _sources.setdefault(key, _Source(value))


def _start_all_again() -> None:
    for source in list(_sources.values()):
        source.start_again()


with contextlib.suppress(AttributeError):
    # Windows cannot fork.
    os.register_at_fork(after_in_child=_start_all_again)


def check_login(spec: Spec, values: Values) -> None:
    """Check that only one value says who logs in.

    :param spec: The spec. A password in the application's options is removed if a
        setting names a file, and the other way around.
    :param values: The values behind its arguments.
    :raises ConfigError: If there are several.
    """
    both = [name for name in ("password", "password_file") if name in spec.arguments]
    options = [name for name in both if values[name].origin == "option"]

    if len(both) == 2 and len(options) == 1:
        for group in (spec.arguments, spec.values, spec.labels):
            del group[options[0]]

    for name, others in (
        ("credential_provider", ("username", "password", "password_file")),
        ("password_file", ("password",)),
    ):
        for other in others:
            if name in spec.arguments and other in spec.arguments:
                raise values[other].error(
                    f"and {values[name].label} both set the login: set only one of"
                    " them."
                )


def check_password_file(spec: Spec, values: Values) -> None:
    """Check that the file with the password can be read, and that the client can use
    it.

    :param spec: The spec, before :func:`read_login`.
    :param values: The values behind its arguments.
    :raises ConfigError: If the file cannot be read, or has no password.
    """
    if (path := spec.arguments.get("password_file")) is None:
        return

    value = values["password_file"]._replace(value=path)
    accepted = spec.engine.accepted(spec.client_class, spec.pool_class)

    if "credential_provider" not in accepted:
        raise value.error(
            "needs a client class that takes 'credential_provider', and"
            f" {name_of(spec.client_class)} does not."
        )

    PasswordFile(value).read_password()


def read_login(spec: Spec, values: Values) -> None:
    """Replace the path of a file, and the value of ``CREDENTIAL_PROVIDER``, by the
    object that pools ask.

    :param spec: The spec. It is changed in place.
    :param values: The values behind its arguments.
    """
    arguments = spec.arguments

    if (path := arguments.pop("password_file", None)) is not None:
        arguments["credential_provider"] = PasswordFile(
            values["password_file"]._replace(value=path),
            arguments.pop("username", None),
        )
    elif (provider := arguments.get("credential_provider")) is not None:
        value = values["credential_provider"]._replace(value=provider)
        arguments["credential_provider"] = SharedProvider(value)
