"""Undocumented features of what redis-py does with sentinels."""

from __future__ import annotations

import typing as t

from ..library import get_library
from ..library import library_name


def set_sentinels(manager: t.Any, clients: list[t.Any]) -> None:
    """Set the clients that ask the sentinels.

    Why: redis-py's object creates them itself, of a class that no argument changes.
    Versions: all. Without it: errors of sentinels are lost, and show passwords.

    :param manager: redis-py's object that asks the sentinels.
    :param clients: A client of each sentinel.
    """
    manager.sentinels = clients


def count_sentinels(manager: t.Any) -> int:
    """How many sentinels redis-py's object asks.

    Why: there is no public way. Versions: all. Without it: a command that all of them
    refuse is retried until the deadline.

    :param manager: redis-py's object that asks the sentinels.
    """
    return len(manager.sentinels)


def list_sentinels(pool: object) -> list[t.Any]:
    """The clients that ask the sentinels of a pool.

    Why: there is no public way. Versions: all. Without it: their connections stay open,
    and errors show the passwords of the application's own sentinels.

    :param pool: The pool. A copy of the application's pool has no sentinels.
    """
    manager = getattr(pool, "sentinel_manager", None)
    return [] if manager is None else list(manager.sentinels)


class ReplicaConnection:
    """Mixed into the class of connections to replicas. It leaves a replica that has
    become the master.

    Why: for a moment, sentinels still name a replica that they have just made the
    master. redis-py calls ``connect_to()`` for each of them, until there is no error.
    Versions: all. Without it: redis-py would stay there.
    """

    def connect_to(self, address: tuple[str, int]) -> None:
        super().connect_to(address)  # type: ignore[misc]
        connection: t.Any = self
        errors = get_library(library_name(type(self))).errors

        try:
            connection.send_command("ROLE")
            role, *_ = connection.read_response()
        except errors.ResponseError:
            # The user has no permission to ask.
            return

        # The master is right if the sentinels know no replica that can be reached.
        pool = connection.connection_pool

        if role in _MASTER and address != pool.get_master_address():
            connection.disconnect()
            raise errors.ConnectionError(_PROMOTED)


class AsyncReplicaConnection:
    """The same for asynchronous connections."""

    async def connect_to(self, address: tuple[str, int]) -> None:
        await super().connect_to(address)  # type: ignore[misc]
        connection: t.Any = self
        errors = get_library(library_name(type(self))).errors

        try:
            await connection.send_command("ROLE")
            role, *_ = await connection.read_response()
        except errors.ResponseError:
            return

        pool = connection.connection_pool

        if role in _MASTER and address != await pool.get_master_address():
            await connection.disconnect()
            raise errors.ConnectionError(_PROMOTED)


# How ROLE names the master.
_MASTER = (b"master", "master")

# The message of an error that makes redis-py try the next replica.
_PROMOTED = "The replica has become the master."
