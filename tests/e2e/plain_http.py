"""A client of plain HTTP that reads one response after another, and nothing behind one."""

from __future__ import annotations

import http.client
import io
import socket
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self, cast

from .gateway import Gateway
from .origin import Origin
from .servers import Server

GOOD, BAD = "allowed.example", "denied.example"


class Answer(NamedTuple):
    status: int
    fields: http.client.HTTPMessage
    body: bytes


class Unclosed(io.BufferedReader):
    """What a response closes when it ends, and the next one still needs."""

    def close(self) -> None:
        pass


class Client:
    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.file = Unclosed(cast("io.RawIOBase", self.socket.makefile("rb", buffering=0)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.raw.close()
        self.socket.close()

    def makefile(self, _mode: str) -> BinaryIO:
        return cast(BinaryIO, self.file)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, method: str = "GET") -> Answer:
        """The next response."""
        response = http.client.HTTPResponse(cast(socket.socket, self), method=method)
        response.begin()
        return Answer(response.status, response.headers, response.read())

    def exactly(self, size: int) -> bytes:
        return self.file.read(size)

    def line(self) -> bytes:
        return self.file.readline()

    def ended(self) -> bool:
        """The gateway has closed, in order and without another byte."""
        return self.file.read(1) == b""


class Way(NamedTuple):
    gateway: Gateway
    origin: Origin
    server: Server

    @property
    def base(self) -> str:
        return f"http://{GOOD}:{self.server.port}"

    def ask(self, path: str = "/", *fields: str, host: str = GOOD, method: str = "GET", body: bytes = b"") -> bytes:
        there = f"{host}:{self.server.port}"
        lines = "".join(f"{field}\r\n" for field in fields)
        return f"{method} http://{there}{path} HTTP/1.1\r\nHost: {there}\r\n{lines}\r\n".encode() + body

    def connect(self) -> Client:
        return Client(socket.create_connection(self.gateway.address("way-in"), timeout=10))
