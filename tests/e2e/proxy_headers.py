"""PROXY headers for tests, good ones and with any field wrong (HAProxy's doc/proxy-protocol.txt, sections 2.1, 2.2)."""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
#: Types of TLVs.
ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL, SSL_CN, CUSTOM, AWS = 1, 2, 3, 4, 5, 0x20, 0x22, 0xE0, 0xEA
CLIENT, FRONT = ("198.51.100.7", 40001), ("203.0.113.1", 443)


def v1(source: tuple[str, int] = CLIENT, destination: tuple[str, int] = FRONT) -> bytes:
    family = "TCP6" if ":" in source[0] else "TCP4"
    return f"PROXY {family} {source[0]} {destination[0]} {source[1]} {destination[1]}\r\n".encode()


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


def v2(
    source: tuple[str, int] = CLIENT,
    destination: tuple[str, int] = FRONT,
    tlvs: bytes = b"",
    *,
    command: int = PROXY,
    family: int | None = None,
    announce: int | None = None,
) -> bytes:
    """`announce` is a length to claim instead of the true one."""
    ends = [ipaddress.ip_address(source[0]), ipaddress.ip_address(destination[0])]
    assigned = 0x11 if ends[0].version == 4 else 0x21
    body = b"".join(end.packed for end in ends) + struct.pack(">HH", source[1], destination[1]) + tlvs
    length = len(body) if announce is None else announce
    return SIGNATURE + struct.pack(">BBH", command, assigned if family is None else family, length) + body


def local() -> bytes:
    """What a proxy says for a connection of its own."""
    return SIGNATURE + struct.pack(">BBH", LOCAL, 0, 0)


def crc32c(data: bytes) -> int:
    """RFC 3720, appendix B.4, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def summed(wrong: int = 0) -> bytes:
    """A header with its checksum, of which `wrong` bits are turned over."""
    at = len(v2()) + 3
    zeroed = v2(tlvs=tlv(CRC32C, bytes(4)) + tlv(NOOP, b"x"))
    return zeroed[:at] + struct.pack(">I", crc32c(zeroed) ^ wrong) + zeroed[at + 4 :]


class Seen(NamedTuple):
    """A header as a destination reads it."""

    version: int
    source: tuple[str, int]
    destination: tuple[str, int]
    tlvs: dict[int, bytes]
    rest: bytes


def seen(data: bytes) -> Seen | None:
    """The header that `data` begins with; `None` while it is not whole."""
    if data.startswith(b"PROXY "):
        line, end, rest = data.partition(b"\r\n")
        if not end:
            return None
        _, _, source, destination, source_port, destination_port = line.decode().split(" ")
        return Seen(1, (source, int(source_port)), (destination, int(destination_port)), {}, rest)
    if len(data) < 16:
        return None
    assert data.startswith(SIGNATURE), data
    command, family, length = struct.unpack(">BBH", data[12:16])
    assert command == PROXY
    body, rest = data[16 : 16 + length], data[16 + length :]
    if len(body) < length:
        return None
    size = {0x11: 4, 0x21: 16}[family]
    ends = [str(ipaddress.ip_address(body[at : at + size])) for at in (0, size)]
    ports = struct.unpack(">HH", body[2 * size : 2 * size + 4])
    left, tlvs = body[2 * size + 4 :], {}
    while left:
        kind, size = struct.unpack(">BH", left[:3])
        tlvs[kind], left = left[3 : 3 + size], left[3 + size :]
    return Seen(2, (ends[0], ports[0]), (ends[1], ports[1]), tlvs, rest)
