"""Hosts of a test's own: network namespaces joined by cables, made for the test and removed with it."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

#: setns(2).
CLONE_NEWNET = 0x40000000
NFTABLES = Path(__file__).resolve().parents[2] / "deploy" / "nftables"
#: Addresses of the outside by family; servers may listen on each of them.
OUTSIDE = {4: ["10.77.2.10", "10.77.2.11"], 6: ["fd77:2::10", "fd77:2::11"]}
GATEWAY = {4: "10.77.1.1", 6: "fd77:1::1"}
T = TypeVar("T")
_numbers = itertools.count()


class Host:
    """One network namespace."""

    def __init__(self, name: str) -> None:
        self.name = f"egress-{os.getpid()}-{next(_numbers)}-{name}"
        command("ip", "netns", "add", self.name)
        self.ip("link set lo up")

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, check=False)

    @property
    def prefix(self) -> list[str]:
        """What a command begins with, so that it runs on this host."""
        return ["ip", "netns", "exec", self.name]

    def ip(self, arguments: str) -> None:
        command("ip", "-n", self.name, *arguments.split())

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        command = [*self.prefix, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, timeout=60, check=False)

    def nft(self, file: str, **defines: object) -> None:
        """Loads one of the rule sets that the documentation gives to users."""
        options = [word for name, value in defines.items() for word in ("-D", f"{name}={value}")]
        command(*self.prefix, "nft", *options, "-f", str(NFTABLES / file))

    def inside(self, act: Callable[[], T]) -> T:
        """What `act` gives on this host: sockets that it makes stay there. Only a thread of its own enters the
        namespace."""
        done: list[T] = []
        failed: list[BaseException] = []

        def enter() -> None:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                with Path("/run/netns", self.name).open() as namespace:
                    if libc.setns(namespace.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                done.append(act())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return done[0]


class Net(NamedTuple):
    """client ── gateway ── outside: the client's way out leads through the gateway, which forwards nothing."""

    client: Host
    gateway: Host
    outside: Host


def command(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()}")


def cable(one: Host, other: Host, number: int) -> None:
    """Joins two hosts: the first has .1 of network `number`, the other .2."""
    one.ip(f"link add to{number} type veth peer name to{number} netns {other.name}")
    for host, last in ((one, 1), (other, 2)):
        host.ip(f"address add 10.77.{number}.{last}/24 dev to{number}")
        host.ip(f"address add fd77:{number}::{last}/64 dev to{number} nodad")
        host.ip(f"link set to{number} up")


def skip_unless_possible() -> None:
    missing = [tool for tool in ("ip", "nft") if shutil.which(tool) is None]
    why = f"{' and '.join(missing)} not installed (Debian: iproute2, nftables)" if missing else ""
    if not why and os.geteuid() != 0:
        why = "network namespaces need root"
    if not why:
        tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
        why = "network namespaces cannot be made here" if tried.returncode else ""
    if why and os.environ.get("EGRESS_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{why}, and EGRESS_REQUIRE_TOOLS=1")
    if why:
        pytest.skip(why)


@contextlib.contextmanager
def network() -> Iterator[Net]:
    skip_unless_possible()
    with contextlib.ExitStack() as stack:

        def host(name: str) -> Host:
            made = Host(name)
            stack.callback(made.remove)
            return made

        net = Net(host("client"), host("gateway"), host("outside"))
        cable(net.gateway, net.client, 1)
        cable(net.gateway, net.outside, 2)
        for host_, network_ in ((net.client, 1), (net.outside, 2)):
            host_.ip(f"-4 route add default via 10.77.{network_}.1")
            host_.ip(f"-6 route add default via fd77:{network_}::1")
        for address in (*OUTSIDE[4], *OUTSIDE[6]):
            net.outside.ip(f"address add {address}/{'128' if ':' in address else '32'} dev lo")
        # The gateway reaches them through the cable.
        net.gateway.ip("-4 route add 10.77.2.10/31 via 10.77.2.2")
        net.gateway.ip("-6 route add fd77:2::10/127 via fd77:2::2")
        yield net


def capture(net: Net, how: str, listener: int) -> None:
    """Makes the gateway's host give connections from the client's to `listener`: by `redirect` or by `tproxy`."""
    net.gateway.nft(f"{how}.nft", listener=listener)
    if how == "tproxy":
        for family in (4, 6):
            net.gateway.ip(f"-{family} rule add fwmark 1 lookup 100")
            net.gateway.ip(f"-{family} route add local default dev lo table 100")
