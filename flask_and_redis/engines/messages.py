"""What the messages and notes of errors say."""

from __future__ import annotations

import collections.abc as cabc
import re

from ..spec.spec import Spec
from ..spec.values import Secret
from ..spec.values import SECRETS
from .internals.errors import QUOTED_ARGUMENTS
from .internals.errors import QUOTED_COMMAND
from .library import library_name

# A server repeats the arguments of a command that it does not know, and of an option
# that is wrong. redis-py repeats the commands of a pipeline, and those that a cluster's
# client cannot send.
_ECHOES = (
    (re.compile(r",? with args beginning with.*", re.DOTALL), ""),
    (
        re.compile(r"(modifier|HELLO option|Invalid argument) '.*'", re.DOTALL),
        r"\1 ***",
    ),
    (re.compile(r"(arguments for [A-Z]+ SET) .*", re.DOTALL), r"\1 ***"),
    (QUOTED_COMMAND, r"\1 ***\2"),
    (QUOTED_ARGUMENTS, r"\1 ***"),
)


def hide_secrets(text: str, secrets: cabc.Iterable[str] = ()) -> str:
    """A message without the arguments of commands, which may be secret.

    :param text: The message.
    :param secrets: Text to hide wherever it occurs.
    """
    for echo, replacement in _ECHOES:
        text = echo.sub(replacement, text)

    for secret in secrets:
        # redis-py shows a reply that it cannot read as bytes.
        quoted = repr(secret.encode(errors="replace"))[2:-1]

        for form in (secret, quoted, quoted.replace("'", "\\'")):
            text = text.replace(form, "***")

    return text


def clean_error(error: BaseException, secrets: cabc.Collection[str] = ()) -> None:
    """Hide secrets in the message of an error of the client library.

    :param error: The error. It is changed in place.
    :param secrets: Text to hide wherever it occurs.
    """
    if library_name(type(error)):
        error.args = tuple(
            hide_secrets(arg, secrets) if isinstance(arg, str) else arg
            for arg in error.args
        )


def find_secrets(*groups: cabc.Mapping[str, object]) -> list[str]:
    """The secrets among arguments of clients. The application's own pool has them as
    ordinary text, so that only the names of the arguments tell.
    """
    secrets = []

    for group in groups:
        for name, value in group.items():
            # A user name without a password may be a password.
            is_name = name == "username" and group.get("password")

            if value and not is_name and (isinstance(value, Secret) or name in SECRETS):
                secrets.append(str(value))

    return secrets


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an error, unless it has the same one. Python 3.10 has no notes.

    :param error: The error.
    :param note: The note.
    """
    add = getattr(error, "add_note", None)

    if add is not None and note not in getattr(error, "__notes__", ()):
        add(note)


def lower_first(label: str) -> str:
    """A label for the middle of a sentence.

    :param label: What an error calls a value.
    """
    return label[0].lower() + label[1:]


def find_login_label(spec: Spec) -> str | None:
    """What errors call the value that the password comes from. None without a password.

    :param spec: The prefix's spec.
    """
    for name in ("connection_pool", "credential_provider", "password_file", "password"):
        if label := spec.labels.get(name):
            return label

    return None


def explain_login(spec: Spec) -> str:
    """Which setting to check after a server has refused a login.

    :param spec: The prefix's spec.
    """
    if label := find_login_label(spec):
        return f"Check {lower_first(label)}."

    url = f"'{spec.prefix}_URL'"

    if spec.labels.get("username", "").endswith(url):
        return (
            f"{url} has a user name and no password. If it is the password, a colon"
            " must precede it: redis://:password@host."
        )

    return f"Set '{spec.prefix}_PASSWORD'."
