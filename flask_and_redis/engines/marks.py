"""What an error remembers about its command."""

from __future__ import annotations

import contextlib

# The attribute of an error that occurred before the command was sent.
_UNSENT = "_flask_and_redis_unsent"

# The attribute of a pipeline's error if the server ran some of its commands.
_EXECUTED = "_flask_and_redis_executed"

# The attribute of an error that says that a connection has lost its state.
_LOST = "_flask_and_redis_lost"


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


def mark_lost(error: Exception) -> None:
    """Remember that a connection was closed on which the application had begun a
    transaction, or selected a database, for example.

    :param error: The error of the next command.
    """
    setattr(error, _LOST, True)


def clear_lost(error: Exception) -> None:
    """Forget what :func:`mark_lost` remembers.

    :param error: The error of a transaction that begins again.
    """
    # An error of the application may refuse attributes.
    if is_lost(error):
        setattr(error, _LOST, False)


def is_lost(error: BaseException) -> bool:
    """Whether the application must begin the transaction again, or select the database.
    A retry would run the command without.

    :param error: What a command raised.
    """
    return getattr(error, _LOST, False)
