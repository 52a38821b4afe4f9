"""A TCP server between clients and a real server that does to their connections what
bad networks do.
"""

from __future__ import annotations

import collections
import collections.abc as cabc
import random
import re
import socket
import struct
import threading
import time
import typing as t

from tests.cutter import Cutter
from tests.cutter import Forwarder

#: What happens to a connection, with weights. After a delay it goes on. A cut sends a
#: part of a request or reply, and closes. Half of one is followed by nothing, on an
#: open connection. Silence swallows everything. A reset is sent instead of data.
FAULTS = {"delay": 4, "cut": 4, "half": 1, "silence": 1, "reset": 3}

#: A connection has its next fault after so many bytes in both directions. The least
#: number is within a login.
BYTES = (100, 40_000)

# Where redirections, CLUSTER SLOTS and sentinels name the port of a server.
_PORT = re.compile(rb"(127\.0\.0\.1(?::|\r\n:)|port\r\n\$5\r\n)([0-9]{5})(?=\r\n)")


class Fault(t.NamedTuple):
    kind: str
    #: Bytes before it.
    after: int
    #: Seconds of a delay.
    seconds: float


class Proxy(Cutter):
    """Forwards to a server. Each connection has faults, which a seed determines.

    :param upstream: The port of the server.
    :param seed: The nth fault of all connections depends on it and on n only.
    :param longest_delay: Seconds.
    :param ports: Where other servers are to be found, by their own ports. Replies that
        name one of these are changed.
    """

    request_queue_size = 128

    def __init__(
        self,
        upstream: int,
        seed: str,
        longest_delay: float,
        ports: cabc.Mapping[int, int],
    ) -> None:
        super().__init__(upstream, _Handler)
        self.ports = ports
        #: Whether there are faults.
        self.is_wild: bool = False
        #: How many faults there were, by kind.
        self.faults: collections.Counter[str] = collections.Counter()
        self._random = random.Random(seed)
        self._longest_delay = longest_delay
        self._drawing = threading.Lock()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def draw(self) -> Fault:
        """The next fault of a connection."""
        with self._drawing:
            kind = self._random.choices([*FAULTS], [*FAULTS.values()])[0]
            low, high = BYTES
            after = int(low * (high / low) ** self._random.random())
            return Fault(kind, after, self._random.uniform(0, self._longest_delay))

    def translate(self, reply: bytes) -> bytes:
        """Name the proxies instead of the servers behind them."""

        def replace(match: re.Match[bytes]) -> bytes:
            port = int(match[2])
            return b"%s%d" % (match[1], self.ports.get(port, port))

        return _PORT.sub(replace, reply)


class _Handler(Forwarder):
    server: Proxy

    def setup(self) -> None:
        super().setup()
        self._fault: Fault = self.server.draw()
        self._left = self._fault.after

    def forward(self, data: bytes, is_request: bool) -> bool:
        target = self.upstream if is_request else self.client

        if not is_request:
            data = self.server.translate(data)

        if self.server.is_wild:
            self._left -= len(data)

            if self._left < 0:
                return self._fail(data, target)

        target.sendall(data)
        return True

    def _fail(self, data: bytes, target: socket.socket) -> bool:
        kind = self._fault.kind
        self.server.faults[kind] += 1

        if kind == "delay":
            time.sleep(self._fault.seconds)
            target.sendall(data)
            self._fault = self.server.draw()
            self._left = self._fault.after
            return True

        if kind == "cut":
            # What is left is negative: so many bytes too many.
            target.sendall(data[: self._left])
        elif kind == "reset":
            # Closing it does not send what is still in its buffers, but a reset.
            linger = struct.pack("ii", 1, 0)
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.client.close()
        else:
            target.sendall(data[: len(data) // 2 if kind == "half" else 0])

            # Until the client gives up.
            while self.client.recv(65536):
                pass

        return False
