"""What commands change on a connection, for those that follow."""

from __future__ import annotations

import functools

from .library import to_text

# What commands have changed: the bits of a connection's ``altered``.
_WATCHING = 1
_QUEUEING = 2
#: The server has refused a command, so that it may still do either of these.
UNSURE = 4
#: The database, the user, or how the server treats the connection.
SWITCHED = 8
#: The number of replies is not that of commands.
UNCOUNTED = 16
#: The server has refused to write, because it is a replica.
DEMOTED = 32
# The server closes the connection.
_ENDED = 64

#: What the end of a transaction undoes. Nothing undoes the others, so the connection is
#: closed.
TRANSACTION = _WATCHING | _QUEUEING | UNSURE
#: What later commands rely on.
RELIED_ON = _WATCHING | _QUEUEING | SWITCHED

# Commands that change what later commands on the same connection do.
_SWITCHES = (
    *("AUTH", "HELLO", "RESET", "SELECT", "READONLY", "READWRITE", "SCRIPT DEBUG"),
    # Not CLIENT SETNAME, which changes no reply: RQ finds its own connection by name.
    *("CLIENT CACHING", "CLIENT CAPA", "CLIENT IMPORT-SOURCE", "CLIENT NO-EVICT"),
    *("CLIENT NO-TOUCH", "CLIENT TRACKING"),
)
#: From then on, the number of replies is not that of commands.
SENDS_MORE = (
    *("MONITOR", "PSUBSCRIBE", "SSUBSCRIBE", "SUBSCRIBE", "PSYNC", "REPLCONF", "SYNC"),
    *("PUNSUBSCRIBE", "SUNSUBSCRIBE", "UNSUBSCRIBE", "CLIENT REPLY"),
)
_ENDS = ("QUIT", "CLIENT KILL")
_QUEUES = ("MULTI",)
_WATCHES = ("WATCH",)
_COMPLETES = ("DISCARD", "EXEC")
#: Ends only the watch.
UNWATCHES = ("UNWATCH",)
#: Changes nothing. The reply names the nodes of a cluster.
NAMES_NODES = ("CLUSTER SLOTS",)
#: Names that may be given in two parts.
CONTAINERS = ("CLIENT", "CLUSTER", "SCRIPT")

_BITS = {
    _SWITCHES: SWITCHED,
    SENDS_MORE: UNCOUNTED,
    _ENDS: _ENDED,
    _QUEUES: _QUEUEING,
    _WATCHES: _WATCHING,
}


# The cache has a limit, because a name may contain arguments.
@functools.lru_cache(maxsize=1000)
def find_kind(name: object) -> tuple[str, ...] | None:
    """The group above that a command belongs to, or None.

    :param name: The name, as it was given: in lower case, for example, as bytes, or
        together with an argument.
    """
    words = to_text(name).upper().split()[:2]
    whole = " ".join(words)

    # Without a name, the client library takes the next argument for it.
    if not whole or whole in CONTAINERS:
        return CONTAINERS

    names = {*words[:1], whole}
    kinds = (*_BITS, UNWATCHES, _COMPLETES, NAMES_NODES)
    return next((kind for kind in kinds if not names.isdisjoint(kind)), None)


def change(altered: int, kind: tuple[str, ...]) -> int:
    """What is altered once the server has accepted a command.

    :param altered: What is altered before.
    :param kind: The kind of the command.
    """
    if kind is _COMPLETES:
        # Without MULTI, the server refuses it, and goes on watching.
        return altered & ~TRANSACTION

    if kind is UNWATCHES:
        # Within a transaction, it is only queued, but that one ends the watch, too.
        return altered & ~_WATCHING

    return altered | _BITS[kind]
