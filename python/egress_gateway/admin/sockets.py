"""The two sockets that the admin application is served on, made so that a stranger can neither take nor plant one."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

#: Connections the kernel holds for us; a scraper and a few people.
BACKLOG: Final = 64
#: Bytes of a unix socket's path, the closing NUL not counted (sockaddr_un on Linux).
MAX_UNIX_PATH: Final = 107


class SocketError(Exception):
    """A socket could not be had. `fix` says what to do."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def parse_address(address: str) -> tuple[str, int]:
    """`127.0.0.1:9900`, `[::1]:9900`, `localhost:9900`. Raises SocketError."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""  # an IPv6 address without brackets: where it ends is a guess
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise SocketError(f"{address!r} is not an address to bind", "write it as 127.0.0.1:9900 or [::1]:9900")
    return host, int(port)


def bind_tcp(address: str) -> socket.socket:
    """A listening TCP socket. Raises SocketError."""
    host, port = parse_address(address)
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = infos[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SocketError(f"admin address {address}: {error.strerror}", "give another one with --admin") from error
    try:
        # The address stays in TIME_WAIT after a restart of the control plane; without this the restart would fail.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise SocketError(
            f"admin address {address}: {error.strerror}", "stop what uses it, or give another one with --admin"
        ) from error
    return sock


def bind_unix(path: str) -> socket.socket:
    """A listening unix socket with mode 0600. Takes the place of a stale one, never of one that answers or of
    anything else. Raises SocketError."""
    if len(os.fsencode(path)) + len(".new") > MAX_UNIX_PATH:
        raise SocketError(f"control socket {path}: the path is too long", "give a shorter one with --control")
    _check_directory(path)
    _check_place(path)
    # Bound beside its place, closed to others, and only then renamed into it: at no moment can somebody else
    # connect, and a client finds either the old socket or the new one.
    fresh = Path(f"{path}.new")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        fresh.unlink(missing_ok=True)
        sock.bind(str(fresh))
        fresh.chmod(0o600)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        fresh.rename(path)
    except OSError as error:
        sock.close()
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise SocketError(
            f"control socket {path}: {error.strerror}", "give a place that you may write to with --control"
        ) from error
    return sock


def identity(path: str) -> tuple[int, int]:
    """Device and inode of the socket's file: what tells it from one that a later gateway puts in its place."""
    info = os.lstat(path)
    return info.st_dev, info.st_ino


def remove_unix(path: str, own: tuple[int, int]) -> None:
    """Removes the socket's file if it is still the one that `identity` named."""
    with contextlib.suppress(OSError):
        if identity(path) == own:
            Path(path).unlink()


def _check_directory(path: str) -> None:
    directory = Path(path).absolute().parent
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = directory.stat()
    except OSError as error:
        raise SocketError(
            f"control socket {path}: {directory}: {error.strerror}",
            "make the directory, or give another with --control",
        ) from error
    writable_by_others = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    # In a sticky directory (/tmp) others may add names but neither remove nor rename ours.
    if writable_by_others and not info.st_mode & stat.S_ISVTX:
        raise SocketError(
            f"control socket {path}: others may replace files in {directory}",
            f"chmod go-w {directory}, or give a private directory with --control",
        )
    if info.st_uid not in (0, os.geteuid()):
        raise SocketError(
            f"control socket {path}: {directory} belongs to another user (uid {info.st_uid})",
            "give a directory of your own with --control",
        )


def _check_place(path: str) -> None:
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SocketError(f"control socket {path}: {error.strerror}", "give another place with --control") from error
    if not stat.S_ISSOCK(info.st_mode):
        raise SocketError(
            f"control socket {path}: something that is not a socket is there", "move it, or give another with --control"
        )
    if _answers(path):
        raise SocketError(
            f"control socket {path}: another gateway answers there",
            "stop it, or give this one another socket with --control",
        )


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as error:
            # EAGAIN: a live listener whose queue is full. EACCES: somebody's, and not ours to replace.
            return error.errno in (errno.EAGAIN, errno.EACCES, errno.EPERM)
    return True
