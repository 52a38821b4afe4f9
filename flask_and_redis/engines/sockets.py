"""Sockets that stop reading replies that arrive byte by byte.

Connections get them from ``_connect()``, which is undocumented: :class:`PacedSocket`
says why.
"""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import time
import typing as t

# A reply makes progress if so many bytes of it arrive within the socket's timeout.
_PROGRESS = 1024


class PacedSocket:
    """A socket that stops reading a reply that makes no progress.

    Why: the timeout of a socket starts again with every byte. Versions: all. Without
    it: a server that sends a byte now and then keeps a command waiting forever.

    :param connected: The socket.
    """

    def __init__(self, connected: t.Any) -> None:
        self.connected: t.Any = connected
        #: Whether the next read is the first one of a reply. The server may need all of
        #: the timeout until it answers.
        self.is_first: bool = True
        # redis-py calls these for each command: they are faster than __getattr__.
        self.sendall: cabc.Callable[..., None] = connected.sendall
        self._recv: cabc.Callable[..., bytes] = connected.recv
        self._recv_into: cabc.Callable[..., int] = connected.recv_into
        self._received = 0
        self._ends = 0.0

    def __getattr__(self, name: str) -> t.Any:
        return getattr(self.connected, name)

    def recv(self, size: int) -> bytes:
        if self.is_first:
            self.is_first = False
            self._received = _PROGRESS
            return self._recv(size)

        with self._shortened():
            data = self._recv(size)

        self._received += len(data)
        return data

    def recv_into(self, buffer: t.Any) -> int:
        if self.is_first:
            self.is_first = False
            self._received = _PROGRESS
            return self._recv_into(buffer)

        with self._shortened():
            size = self._recv_into(buffer)

        self._received += size
        return size

    @contextlib.contextmanager
    def _shortened(self) -> cabc.Iterator[None]:
        """Shorten the socket's timeout to the time that is left."""
        timeout = self.connected.gettimeout()

        # A subscriber waits forever, and a look for data not at all.
        if not timeout:
            yield
            return

        now = time.monotonic()

        if self._received >= _PROGRESS:
            self._received = 0
            self._ends = now + timeout

        if now >= self._ends:
            raise TimeoutError("timed out")

        try:
            self.connected.settimeout(self._ends - now)
            yield
        finally:
            self.connected.settimeout(timeout)
