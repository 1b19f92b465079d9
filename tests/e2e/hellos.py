"""ClientHellos for tests: a real one from OpenSSL, and hand-made ones with any field wrong."""

from __future__ import annotations

import ssl

#: ContentType and HandshakeType (RFC 8446, sections 5.1 and 4).
HANDSHAKE = 22
CLIENT_HELLO = 1
#: Extension types (IANA).
SERVER_NAME = 0
ALPN = 16
SUPPORTED_VERSIONS = 43
ENCRYPTED_CLIENT_HELLO = 0xFE0D


def real_hello(name: str | None) -> bytes:
    """What Python's ssl sends first to `name`."""
    context = ssl.create_default_context()
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a server")


def u16(number: int) -> bytes:
    return number.to_bytes(2, "big")


def vec16(content: bytes) -> bytes:
    return u16(len(content)) + content


def vec8(content: bytes) -> bytes:
    return bytes([len(content)]) + content


def extension(kind: int, data: bytes) -> bytes:
    return u16(kind) + vec16(data)


def entry(name: bytes, kind: int = 0) -> bytes:
    """One entry of a server_name list (RFC 6066, section 3)."""
    return bytes([kind]) + vec16(name)


def sni(name: bytes) -> bytes:
    return extension(SERVER_NAME, vec16(entry(name)))


def body(
    extensions: bytes | None,
    *,
    version: int = 0x0303,
    session: bytes = b"",
    ciphers: bytes = b"\x13\x01",
    compression: bytes = b"\0",
) -> bytes:
    """The fields of a ClientHello; `extensions` without the length of the block, `None` for no block at all."""
    fixed = u16(version) + bytes(32) + vec8(session) + vec16(ciphers) + vec8(compression)
    return fixed if extensions is None else fixed + vec16(extensions)


def message(content: bytes, *, kind: int = CLIENT_HELLO, announce: int | None = None) -> bytes:
    """A handshake message; `announce` is a length to claim instead of the true one."""
    return bytes([kind]) + (len(content) if announce is None else announce).to_bytes(3, "big") + content


def record(payload: bytes, *, kind: int = HANDSHAKE, version: int = 0x0301) -> bytes:
    return bytes([kind]) + u16(version) + vec16(payload)


def records(payload: bytes, size: int) -> bytes:
    """The payload cut into records of `size` bytes."""
    return b"".join(record(payload[at : at + size]) for at in range(0, len(payload), size))


def hello(extensions: bytes | None, **fields: object) -> bytes:
    """A whole hand-made hello in one record."""
    return record(message(body(extensions, **fields)))  # type: ignore[arg-type]


def outer_ech() -> bytes:
    """An encrypted_client_hello of the outer form (RFC 9849, section 5) that nobody can decrypt."""
    return extension(ENCRYPTED_CLIENT_HELLO, b"\0" + b"\0\1\0\1" + b"\7" + vec16(bytes(32)) + vec16(bytes(64)))
