"""A TCP server that forwards to a real server and drops some of its replies."""

from __future__ import annotations

import select
import socket
import socketserver
import threading
import typing as t

if t.TYPE_CHECKING:
    from typing_extensions import Self


class Forwarder(socketserver.BaseRequestHandler):
    """One connection of a client, and the one to the real server."""

    client: socket.socket
    upstream: socket.socket
    server: Cutter

    def setup(self) -> None:
        self.client = self.request
        self._is_lost = False

    def handle(self) -> None:
        self.server.connections += 1
        address = ("127.0.0.1", self.server.upstream)

        try:
            with socket.create_connection(address) as self.upstream:
                both = [self.client, self.upstream]
                goes_on = True

                while goes_on:
                    # A reply may come in several parts.
                    readable, _, _ = select.select(both, [], [])
                    data = readable[0].recv(65536)
                    is_request = readable[0] is self.client
                    goes_on = bool(data) and self.forward(data, is_request)
        except OSError:
            return

    def forward(self, data: bytes, is_request: bool) -> bool:
        """Send data on. Returns whether the connection stays open."""
        if is_request:
            self._is_lost = self.server.loses(data)
            self.upstream.sendall(data)
        elif self._is_lost:
            return False
        else:
            self.client.sendall(data)

        return True


class Cutter(socketserver.ThreadingTCPServer):
    """Forwards everything, but drops the replies of some commands: the server runs the
    command, then the client's connection is closed.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, upstream: int, handler: type[Forwarder] = Forwarder) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.upstream = upstream
        #: How many connections clients have opened.
        self.connections = 0
        self._word = b""
        self._times = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.server_address[1]}"

    def lose(self, word: bytes, times: int = 1) -> None:
        """Drop the replies to the next requests that contain a word."""
        self._word, self._times = word, times

    def loses(self, request: bytes) -> bool:
        with self._lock:
            if self._times and self._word in request:
                self._times -= 1
                return True

        return False

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self.server_close()
