"""A TCP server that forwards to a real server and drops some of its replies."""

from __future__ import annotations

import select
import socket
import socketserver
import threading


class Cutter(socketserver.ThreadingTCPServer):
    """Forwards everything, but drops the replies of some commands: the server runs the
    command, then the client's connection is closed.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
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

    def __enter__(self) -> Cutter:
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(socketserver.BaseRequestHandler):
    server: Cutter

    def handle(self) -> None:
        self.server.connections += 1
        client: socket.socket = self.request
        is_lost = False

        try:
            with socket.create_connection(("127.0.0.1", self.server.upstream)) as up:
                while True:
                    # A reply may come in several parts.
                    readable, _, _ = select.select([client, up], [], [])
                    data = readable[0].recv(65536)

                    if not data or (readable[0] is up and is_lost):
                        return

                    if readable[0] is client:
                        is_lost = self.server.loses(data)
                        up.sendall(data)
                    else:
                        client.sendall(data)
        except OSError:
            return
