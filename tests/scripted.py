"""A server in a thread that speaks RESP, for faults that a real one cannot produce."""

from __future__ import annotations

import collections
import contextlib
import socketserver
import threading
import time

#: What a request gets in place of the usual reply: these bytes, nothing at all, or the
#: usual reply after so many seconds.
Reply = bytes | float | None

OK = b"+OK\r\n"


def bulk(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return b"$%d\r\n%b\r\n" % (len(data), data)


def array(*replies: bytes, kind: bytes = b"*") -> bytes:
    return b"%b%d\r\n%b" % (kind, len(replies), b"".join(replies))


def push(*texts: str | int) -> bytes:
    """A push of RESP3, such as ``push("MIGRATING", 1, 10)``."""
    parts = [
        b":%d\r\n" % text if isinstance(text, int) else bulk(text) for text in texts
    ]
    return array(*parts, kind=b">")


class Scripted(socketserver.ThreadingTCPServer):
    """Answers ``GET key`` with ``database user key``, so that each reply tells what it
    belongs to. It knows just enough other commands for clients to log in.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        #: The requests so far: the number of the connection, and the arguments.
        self.requests: list[tuple[int, list[bytes]]] = []
        #: The connections that are open.
        self.sessions: list[Session] = []
        #: Names of users and their passwords. Without any, no password is needed.
        self.users: dict[str, str] = {}
        #: How many connections clients have opened.
        self.connections = 0
        #: How many replies the server began to delay, and how many it sent late.
        self.delayed = 0
        self.late = 0
        self._planned: dict[bytes, collections.deque[Reply]] = {}

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.server_address[1]}"

    def plan(self, command: bytes, *replies: Reply) -> None:
        """Answer the next requests of a command, such as ``CLIENT SETNAME``, with these
        replies.
        """
        self._planned[command] = collections.deque(replies)

    def take_reply(self, *command: bytes) -> list[Reply]:
        """The next planned reply of a command in a list, or an empty one."""
        for words in (command, command[:1]):
            if planned := self._planned.get(b" ".join(words)):
                return [planned.popleft()]

        return []

    def push(self, message: bytes) -> None:
        """Send a push to all connections."""
        for session in list(self.sessions):
            # The client may have closed it a moment ago.
            with contextlib.suppress(OSError):
                session.wfile.write(message)

    def names(self, connection: int | None = None) -> list[bytes]:
        """The names of the commands of one connection or of all."""
        return [
            arguments[0]
            for number, arguments in list(self.requests)
            if connection in (None, number)
        ]

    def __enter__(self) -> Scripted:
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self.server_close()


class Session(socketserver.StreamRequestHandler):
    """One connection."""

    server: Scripted

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1
        self.number = self.server.connections
        self.protocol = 2
        self.user = "default"
        self.is_known = not self.server.users
        self.database = b"0"
        self.queued: list[bytes] | None = None

    def handle(self) -> None:
        self.server.sessions.append(self)

        with contextlib.suppress(OSError):
            while arguments := self._read():
                self.server.requests.append((self.number, arguments))
                self._answer(arguments)

        self.server.sessions.remove(self)

    def _read(self) -> list[bytes]:
        if not (line := self.rfile.readline()):
            return []

        # The line tells how many arguments follow, each after a line with its length.
        arguments = []

        for _ in range(int(line[1:])):
            length = int(self.rfile.readline()[1:])
            arguments.append(self.rfile.read(length + 2)[:-2])

        arguments[0] = arguments[0].upper()
        return arguments

    def _answer(self, arguments: list[bytes]) -> None:
        for reply in self.server.take_reply(*arguments[:2]):
            if not isinstance(reply, float):
                self.wfile.write(reply or b"")
                return

            self.server.delayed += 1
            time.sleep(reply)
            self.server.late += 1

        self.wfile.write(self._usual_reply(*arguments))

    def _usual_reply(self, name: bytes, *arguments: bytes) -> bytes:
        if name in (b"HELLO", b"AUTH"):
            return self._log_in(name, *arguments)

        if not self.is_known:
            return b"-NOAUTH Authentication required.\r\n"

        if name == b"MULTI":
            self.queued = []
            return OK

        if name == b"EXEC":
            queued, self.queued = self.queued or [], None
            return array(*queued)

        reply = self._run(name, *arguments)

        if self.queued is None:
            return reply

        self.queued.append(reply)
        return b"+QUEUED\r\n"

    def _log_in(self, name: bytes, *arguments: bytes) -> bytes:
        words = [argument.decode() for argument in arguments]

        if name == b"AUTH" or "AUTH" in words:
            start = words.index("AUTH") + 1 if name == b"HELLO" else 0
            user, password = ["default", *words[start : start + 2]][-2:]

            if self.server.users.get(user) != password:
                return b"-WRONGPASS invalid username-password pair.\r\n"

            self.user, self.is_known = user, True

        if name == b"AUTH":
            return OK

        if not self.is_known:
            return b"-NOAUTH HELLO must be called with the client authenticated.\r\n"

        if words:
            self.protocol = int(words[0])

        fields = bulk("proto"), b":%d\r\n" % self.protocol

        if self.protocol == 2:
            return array(*fields)

        return b"%%1\r\n%b%b" % fields

    def _run(self, name: bytes, *arguments: bytes) -> bytes:
        if name == b"PING":
            return b"+PONG\r\n"

        if name == b"GET":
            return bulk(b"%b %b %b" % (self.database, self.user.encode(), arguments[0]))

        if name == b"SELECT":
            self.database = arguments[0]

        return OK
