"""An HTTP/1.1 origin that keeps what it is sent, and answers by the path in well-behaved and in odd ways."""

from __future__ import annotations

import socket
import struct
import threading
import time
from typing import NamedTuple

EARLY = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno\n"


class Seen(NamedTuple):
    """A request as it came: its head, and its body without the framing."""

    head: bytes
    body: bytes

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    def field(self, name: str) -> list[str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return [line.partition(":")[2].strip() for line in lines if line.lower().startswith(name + ":")]


class Reader:
    """Bytes of a connection as lines and as so many bytes."""

    def __init__(self, connection: socket.socket, origin: Origin) -> None:
        self.connection = connection
        self.origin = origin
        self.held = b""

    def more(self) -> None:
        data = self.connection.recv(65536)
        if not data:
            raise EOFError
        self.origin.received += len(data)
        self.origin.latest = data
        self.held += data

    def until(self, mark: bytes) -> bytes:
        while mark not in self.held:
            self.more()
        found, _, self.held = self.held.partition(mark)
        return found + mark

    def exactly(self, size: int) -> bytes:
        parts, missing = [], size
        while missing:
            if not self.held:
                self.more()
            part, self.held = self.held[:missing], self.held[missing:]
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def plain(body: bytes, *fields: str, status: str = "200 OK") -> bytes:
    lines = "".join(f"{field}\r\n" for field in fields)
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


class Origin:
    """For `Server`: `seen` has whole requests, `received` counts all bytes, `latest` has those of one read."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.received = 0
        self.latest = b""
        self.connections = 0
        self.resume = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        self.connections += 1
        reader = Reader(connection, self)
        try:
            while self.serve(connection, reader):
                pass
        except EOFError:
            pass

    def serve(self, connection: socket.socket, reader: Reader) -> bool:
        """One request; false when the connection is over."""
        head = reader.until(b"\r\n\r\n")
        request = Seen(head, b"")
        path = request.path
        if path == "/early":
            self.seen.append(request)
            connection.sendall(EARLY)
            return False
        if path == "/continue":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = b""
        if request.field("transfer-encoding"):
            while size := int(reader.until(b"\r\n"), 16):
                body += reader.exactly(size)
                reader.exactly(2)
            reader.until(b"\r\n")
        elif length := request.field("content-length"):
            body = reader.exactly(int(length[0]))
        request = Seen(head, body)
        self.seen.append(request)
        return self.answer(connection, reader, request)

    def answer(self, connection: socket.socket, reader: Reader, request: Seen) -> bool:
        path = request.path.partition("?")[0]
        send = connection.sendall
        if path == "/chunked":
            send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
            for at in range(0, len(request.body), 1000):
                send(chunk(request.body[at : at + 1000]))
            send(b"0\r\nX-Sum: 1\r\n\r\n")
        elif path == "/304":
            send(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\nETag: x\r\n\r\n")
        elif path == "/interim":
            send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + plain(b"last"))
        elif path == "/interims":
            send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 40 + plain(b"last"))
        elif path == "/until-close":
            send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
            return False
        elif path == "/big":
            size = int(request.path.partition("?")[2])
            send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size >> 16):
                send(bytes(65536))
        elif path == "/close-after":
            send(plain(b"bye"))
            return False
        elif path == "/unasked":
            send(plain(b"ok") + plain(b"POISON"))
        elif path == "/websocket":
            send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
            while True:
                if not reader.held:
                    reader.more()
                data, reader.held = reader.held, b""
                send(data)
        elif path.startswith("/broken/"):
            send(self.broken(path.rpartition("/")[2]))
            time.sleep(0.05)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        elif path == "/slow":
            self.resume.wait(10)
            send(plain(b"slow"))
        elif request.head.startswith(b"HEAD "):
            send(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n")
        else:
            send(plain(request.body or path.encode(), "X-Origin: yes", "Connection: x-hop", "X-Hop: secret"))
        return True

    def broken(self, kind: str) -> bytes:
        return {
            "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
            "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"half"),
            "until-close": b"HTTP/1.1 200 OK\r\n\r\nhalf",
            "bad-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"half") + b"zz\r\n",
            "nothing": b"",
            "not-http": b"220 mail ready\r\n",
            "both": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "switch": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        }[kind]
