"""Real servers on loopback: TLS and plain TCP, a thread for each connection, ended with the test."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Self

Handler = Callable[[socket.socket], None]


def echo(connection: socket.socket) -> None:
    """Gives back what comes, until its end; then ends."""
    while data := connection.recv(65536):
        connection.sendall(data)


def hello_http(connection: socket.socket) -> None:
    """Answers any HTTP request with a short page."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(65536)
        if not data:
            return
        head += data
    body = b"hello from upstream\n"
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))


class Server:
    """Listens on a loopback address of its own choice; `handler` has each connection to itself."""

    def __init__(
        self, handler: Handler, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.handler = handler
        self.tls = tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.create_server((host, port), family=family, backlog=4096)
        self.port: int = self.listener.getsockname()[1]
        self.accepted = 0
        self.open: set[socket.socket] = set()
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # shutdown wakes accept(); close alone would not.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.close()
        self.thread.join(5)

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            self.open.add(connection)
            threading.Thread(target=self.handle, args=(connection,), daemon=True).start()

    def handle(self, connection: socket.socket) -> None:
        original = connection
        try:
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            self.handler(connection)
            if isinstance(connection, ssl.SSLSocket):
                connection.unwrap().close()
        except (OSError, ssl.SSLError, ValueError):
            pass
        finally:
            self.open.discard(original)
            with contextlib.suppress(OSError):
                connection.close()
