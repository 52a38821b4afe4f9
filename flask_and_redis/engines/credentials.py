"""Where pools get user names and passwords from."""

from __future__ import annotations

import os
import stat

from redis.credentials import CredentialProvider

from ..spec.classes import name_of
from ..spec.spec import Spec
from ..spec.spec import Value
from ..spec.spec import Values
from ..spec.values import Secret

#: What a provider returns: a password, a user name and a password, or nothing.
Login = tuple[str, ...]


class Credentials(CredentialProvider):
    """Base class of what our pools ask for user name and password."""

    #: The texts that were used last, which no message may show.
    secrets: Login = ()


class PasswordFile(Credentials):
    """The password in the first line of a file. The file is read for each new
    connection, so that a new password is used without a restart.

    :param value: The setting with the path of the file.
    :param username: The user name, if there is one.
    """

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
        del spec.arguments[options[0]]

    for name, others in (
        ("credential_provider", ("username", "password", "password_file")),
        ("password_file", ("password",)),
    ):
        for other in others:
            if name in spec.arguments and other in spec.arguments:
                raise values[other].error(
                    f"and {values[name].label} both say who logs in: set one of them."
                )


def check_password_file(spec: Spec, values: Values) -> None:
    """Check that the file with the password can be read, and that the client can use
    it.

    :param spec: The spec, before :func:`read_password_file`.
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


def read_password_file(spec: Spec, values: Values) -> None:
    """Replace the path of a file by a credential provider that reads it.

    :param spec: The spec. It is changed in place.
    :param values: The values behind its arguments.
    """
    if (path := spec.arguments.pop("password_file", None)) is not None:
        spec.arguments["credential_provider"] = PasswordFile(
            values["password_file"]._replace(value=path),
            spec.arguments.pop("username", None),
        )
