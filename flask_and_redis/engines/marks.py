"""What an error remembers about its command."""

from __future__ import annotations

import contextlib

# The attribute of an error that occurred before the command was sent.
_UNSENT = "_flask_and_redis_unsent"

# The attribute of a pipeline's error if the server ran some of its commands.
_EXECUTED = "_flask_and_redis_executed"


def mark_unsent(error: BaseException) -> None:
    """Remember that a command was not sent.

    :param error: The command's error.
    """
    # An error of the application may refuse attributes.
    with contextlib.suppress(Exception):
        setattr(error, _UNSENT, True)


def is_unsent(error: BaseException) -> bool:
    """Whether an error occurred while a connection was being opened or its health was
    being checked, so that the command was not sent.

    :param error: What a command raised.
    """
    return getattr(error, _UNSENT, False)


def mark_executed(error: BaseException) -> None:
    """Remember that the server ran other commands of a pipeline.

    :param error: The error of one of its commands.
    """
    setattr(error, _EXECUTED, True)


def was_executed(error: BaseException) -> bool:
    """Whether the server ran some commands of the pipeline that raised an error.

    :param error: The error.
    """
    return getattr(error, _EXECUTED, False)
