"""A network of the benchmark's own: loopback only, without the machine's firewall, and with Linux's usual settings."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

#: Linux's default, and what is as good where nothing is lost: a kernel may keep cubic to the machine's own network.
#: BBR, which some machines have instead, paces each flow by a timer, and then bulk on loopback measures these timers.
USUAL = ("cubic", "reno")
SETTING = Path("/proc/sys/net/ipv4/tcp_congestion_control")
AVAILABLE = SETTING.with_name("tcp_available_congestion_control")
BUFFERS = SETTING.with_name("tcp_rmem")
#: Where a process has its network namespace.
OURS = "/proc/{pid}/ns/net"
#: The two ends of a wire between two networks, and their addresses: TEST-NET-1 (RFC 5737).
WIRE, OUR_ADDRESS, THEIR_ADDRESS = ("eb-ours", "eb-theirs"), "192.0.2.1", "192.0.2.2"
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
def receive_buffers_of(octets: int) -> Iterator[None]:
    """Connections made meanwhile have receive buffers of so many bytes, where this process may set that."""
    if not os.access(BUFFERS, os.W_OK):
        yield
        return
    before = BUFFERS.read_text()
    BUFFERS.write_text(f"4096 {octets} {octets}")
    try:
        yield
    finally:
        BUFFERS.write_text(before)


def can_have_another() -> bool:
    """Whether this process may make a second network, with a wire to it."""
    return os.geteuid() == 0 and all(shutil.which(tool) for tool in ("ip", "nsenter", "unshare"))


@contextlib.contextmanager
def another() -> Iterator[tuple[int, str]]:
    """A second network behind a pair of veth: a process that lives in it, and the address at which it reaches us."""
    ours, theirs = WIRE
    with subprocess.Popen(["unshare", "-n", "sleep", "infinity"]) as living:
        try:
            wait_for_another(living.pid)
            for words in (
                ["link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", str(living.pid)],
                ["address", "add", f"{OUR_ADDRESS}/30", "dev", ours],
                ["link", "set", ours, "up"],
            ):
                subprocess.run(["ip", *words], check=True)
            inside = ["nsenter", "-t", str(living.pid), "-n", "ip"]
            for words in (["address", "add", f"{THEIR_ADDRESS}/30", "dev", theirs], ["link", "set", theirs, "up"]):
                subprocess.run([*inside, *words], check=True)
            yield living.pid, OUR_ADDRESS
        finally:
            # The wire goes with the network.
            living.kill()


def wait_for_another(pid: int) -> None:
    """Until the process is in a network of its own."""
    until = time.monotonic() + 10
    while Path(OURS.format(pid=pid)).readlink() == Path(OURS.format(pid="self")).readlink():
        if time.monotonic() > until:
            raise RuntimeError("no second network")
        time.sleep(0.01)


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
