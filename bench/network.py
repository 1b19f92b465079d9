"""A network of the benchmark's own: loopback only, without the machine's firewall, and with Linux's usual settings."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

#: Linux's default, and what is as good where nothing is lost: a kernel may keep cubic to the machine's own network.
#: BBR, which some machines have instead, paces each flow by a timer, and then bulk on loopback measures these timers.
USUAL = ("cubic", "reno")
SETTING = Path("/proc/sys/net/ipv4/tcp_congestion_control")
AVAILABLE = SETTING.with_name("tcp_available_congestion_control")
#: unshare(2), netdevice(7).
CLONE_NEWNET, SIOCSIFFLAGS, IFF_UP = 0x40000000, 0x8914, 1


def enter() -> None:
    """Moves this process, and those that it starts from now on, into a new network namespace.

    Without the right to make one, everything is measured in the machine's network as it is.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        told = ctypes.get_errno()
        if told == errno.EPERM:
            print("not root: measured in this machine's network, with its settings", flush=True)
            return
        raise OSError(told, f"unshare: {os.strerror(told)}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    for name in USUAL:
        with contextlib.suppress(PermissionError):
            SETTING.write_text(name)
            break


def congestion_control() -> str:
    """Of connections that are made from now on."""
    return SETTING.read_text().strip()


def can_have(name: str) -> bool:
    """Whether this process may have it for new connections."""
    return os.access(SETTING, os.W_OK) and name in AVAILABLE.read_text().split()


@contextlib.contextmanager
def congestion_controlled_by(name: str) -> Iterator[None]:
    """Connections made meanwhile have this congestion control.

    Raises:
        OSError: The kernel does not have it, or we are not root.
    """
    before = congestion_control()
    SETTING.write_text(name)
    try:
        yield
    finally:
        SETTING.write_text(before)
