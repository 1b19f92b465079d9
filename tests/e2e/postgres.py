"""PostgreSQL's handshake, as far as its first answer, for clients and servers of a test (PostgreSQL's documentation,
"Message Formats")."""

from __future__ import annotations

import socket
import ssl
import struct
from typing import NamedTuple

from .servers import Handler, echo

SSL_REQUEST = struct.pack(">ihh", 8, 1234, 5679)
GSS_REQUEST = struct.pack(">ihh", 8, 1234, 5680)
CANCEL_REQUEST = struct.pack(">ihhii", 16, 1234, 5678, 1, 2)
_PARAMETERS = b"user\0me\0database\0db\0\0"
STARTUP = struct.pack(">ihh", 8 + len(_PARAMETERS), 3, 0) + _PARAMETERS


def exactly(connection: socket.socket, length: int) -> bytes:
    """So many bytes; fewer where the peer ends before."""
    got = b""
    while len(got) < length and (more := connection.recv(length - len(got))):
        got += more
    return got


class ErrorResponse(NamedTuple):
    """What psql prints: severity, SQLSTATE, message, hint."""

    severity: str
    code: str
    message: str
    hint: str


def read_error(connection: socket.socket) -> ErrorResponse:
    """Reads an ErrorResponse, and the end behind it."""
    kind, length = struct.unpack(">ci", exactly(connection, 5))
    assert kind == b"E", kind
    fields = exactly(connection, length - 4).decode()
    assert fields.endswith("\0\0")
    assert connection.recv(1) == b""
    texts = {field[0]: field[1:] for field in fields[:-2].split("\0")}
    return ErrorResponse(texts["S"], texts["C"], texts["M"], texts["H"])


class Answering:
    """A server's handler: answers the first request for encryption with `letter`, and goes on in TLS after `S`, in the
    clear after `N`, as an echo. `asked` has what was asked for."""

    def __init__(self, tls: ssl.SSLContext, letter: bytes = b"S", then: Handler = echo) -> None:
        self.tls, self.letter, self.then = tls, letter, then
        self.asked: list[bytes] = []

    def __call__(self, connection: socket.socket) -> None:
        self.asked.append(exactly(connection, len(SSL_REQUEST)))
        if self.letter:
            connection.sendall(self.letter)
        if self.letter != b"S":
            self.then(connection)
            return
        # A byte beyond the answer would be the first of its TLS.
        with self.tls.wrap_socket(connection, server_side=True) as inside:
            self.then(inside)
            inside.unwrap()


def upgrade(connection: socket.socket, context: ssl.SSLContext, name: str | None) -> ssl.SSLSocket:
    """As libpq does: asks for TLS, waits for the answer, then says hello."""
    connection.sendall(SSL_REQUEST)
    assert exactly(connection, 1) == b"S"
    return context.wrap_socket(connection, server_hostname=name)
