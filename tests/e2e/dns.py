"""A name server for tests: on loopback, over UDP and TCP, saying what the test wants and counting what it is asked."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple, Self

KINDS = {1: "A", 28: "AAAA"}
NUMBERS = {"A": 1, "CNAME": 5, "AAAA": 28}
#: Response codes (RFC 1035, section 4.1.1).
SERVFAIL = 2
NXDOMAIN = 3
REFUSED = 5


class Question(NamedTuple):
    name: str
    kind: str
    tcp: bool


class Answer(NamedTuple):
    """What is said to one question. Of `addresses` those of the kind asked for; none of them is "no data"."""

    addresses: tuple[str, ...] = ()
    ttl: int = 60
    code: int = 0
    #: The addresses are those of this name, which the asked one is an alias of.
    alias: str | None = None
    #: Over UDP nothing but "ask over TCP".
    truncated: bool = False
    #: Seconds.
    delay: float = 0.0
    #: Nothing is said at all.
    silent: bool = False


Script = Callable[[Question], Answer]


def address(*addresses: str, ttl: int = 60) -> Script:
    """The same addresses, whenever asked."""
    return lambda question: Answer(addresses, ttl)


def unknown(question: Question) -> Answer:
    return Answer(code=NXDOMAIN)


class DnsServer:
    """Answers from `names`; what is not there does not exist. Ends with the `with` block."""

    def __init__(self) -> None:
        self.names: dict[str, Script] = {}
        self.questions: list[Question] = []
        self.silent = False
        self.stopped = threading.Event()
        while True:
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.udp.bind(("127.0.0.1", 0))
            self.port: int = self.udp.getsockname()[1]
            try:
                self.tcp = socket.create_server(("127.0.0.1", self.port))
                break
            except OSError:
                self.udp.close()
        self.threads = [threading.Thread(target=serve, daemon=True) for serve in (self.serve_udp, self.serve_tcp)]

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for sock in (self.udp, self.tcp):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self.threads:
            thread.join(5)

    def count(self, name: str, kind: str | None = None, *, tcp: bool | None = None) -> int:
        """Questions so far for `name`."""
        return sum(
            question.name == name and kind in (None, question.kind) and tcp in (None, question.tcp)
            for question in list(self.questions)
        )

    def serve_udp(self) -> None:
        while not self.stopped.is_set():
            try:
                query, peer = self.udp.recvfrom(4096)
            except OSError:
                return
            if query:
                threading.Thread(target=self.reply_udp, args=(query, peer), daemon=True).start()

    def reply_udp(self, query: bytes, peer: tuple[str, int]) -> None:
        if reply := self.reply(query, tcp=False):
            with contextlib.suppress(OSError):
                self.udp.sendto(reply, peer)

    def serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self.tcp.accept()
            except OSError:
                return
            threading.Thread(target=self.reply_tcp, args=(connection,), daemon=True).start()

    def reply_tcp(self, connection: socket.socket) -> None:
        """Answers what comes on one connection; messages have their length before them (RFC 1035, section 4.2.2)."""
        with connection, contextlib.suppress(OSError, struct.error):
            connection.settimeout(10)
            stream = connection.makefile("rb")
            while length := stream.read(2):
                query = stream.read(*struct.unpack(">H", length))
                if reply := self.reply(query, tcp=True):
                    connection.sendall(struct.pack(">H", len(reply)) + reply)

    def reply(self, query: bytes, *, tcp: bool) -> bytes | None:
        name, end = read_name(query)
        number = int.from_bytes(query[end : end + 2], "big")
        question = Question(name, KINDS.get(number, str(number)), tcp)
        self.questions.append(question)
        answer = self.names.get(name, unknown)(question)
        if answer.delay and self.stopped.wait(answer.delay):
            return None
        if answer.silent or self.silent:
            return None
        return encode(query, end + 4, question, answer)


def read_name(query: bytes) -> tuple[str, int]:
    """The name of the question, which stands after the header of 12 bytes, and where it ends."""
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    return ".".join(labels).lower(), at + 1


def encode(query: bytes, end: int, question: Question, answer: Answer) -> bytes:
    """The reply: the question as it came, then the records. Names are not compressed but for the question's."""
    truncated = answer.truncated and not question.tcp
    answers: list[bytes] = []
    owner = b"\xc0\x0c"  # where the question's name stands
    if answer.code == 0 and not truncated:
        if answer.alias is not None:
            target = b"".join(bytes([len(label)]) + label.encode() for label in answer.alias.split(".")) + b"\0"
            answers.append(resource(owner, "CNAME", answer.ttl, target))
            owner = target
        for text in answer.addresses:
            ip = ipaddress.ip_address(text)
            kind = "A" if ip.version == 4 else "AAAA"
            if kind == question.kind:
                answers.append(resource(owner, kind, answer.ttl, ip.packed))
    # QR, RD as asked, RA; TC where it is cut.
    flags = 0x8080 | (query[2] << 8 & 0x0100) | (0x0200 if truncated else 0) | answer.code
    header = query[:2] + struct.pack(">HHHHH", flags, 1, len(answers), 0, 0)
    return header + query[12:end] + b"".join(answers)


def resource(owner: bytes, kind: str, ttl: int, data: bytes) -> bytes:
    return owner + struct.pack(">HHIH", NUMBERS[kind], 1, ttl, len(data)) + data
