"""What each way in costs, beside the hello alone: captured, PROXY header, CONNECT, SOCKS5, a plain request."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator

from peers import Running
from peers.forward import FORWARDING

from rows.bench import Bench

FLOWS = 32
#: Whose connections are captured.
CLIENT = "127.1.0.1"
#: In the order of the page; the first is what the others are compared with.
WAYS = {
    "sni": "tls: the hello alone",
    "redirect": "transparent: captured by nftables",
    "proxy-header": "tls after a PROXY header",
    "connect": "connect",
    "socks5": "socks5",
    "http": "http: a plain request, forwarded",
}


#: A request to delete all tracked connections, linux/netfilter/nfnetlink_conntrack.h: IPCTNL_MSG_CT_DELETE without a
#: tuple, for the subsystem NFNL_SUBSYS_CTNETLINK; then a struct nfgenmsg.
FORGET = struct.pack("=IHHII", 20, 1 << 8 | 2, 1, 0, 0) + bytes(4)
NETLINK_NETFILTER = 12


def forget_connections() -> None:
    """The kernel keeps those that are over for two minutes: its table would be full after a few seconds."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        netlink.sendto(FORGET, (0, 0))


@contextlib.contextmanager
def captured(running: dict[str, Running]) -> Iterator[None]:
    """Connections to 127.0.N.1 to 127.0.N.4, port 443, are led to the N-th proxy's address for SNI.

    In a network of the benchmark's own only: the rules, and the kernel's tracking of connections, go with the block.
    Clients come from an address of their own: who connects to the proxy itself has left it connections in TIME-WAIT,
    for which a new one by another way would be taken.
    """
    if os.geteuid() != 0 or shutil.which("nft") is None:
        print("transparent: not measured, it needs root and nft")
        yield
        return
    rules = []
    for number, one in enumerate(running.values(), 1):
        to = one.at("redirect") or one.to
        if not to:
            continue
        one.ways["redirect"] = [f"127.0.{number}.{last}:443" for last in range(1, 5)]
        rules += (
            f"ip daddr 127.0.{number}.{last} tcp dport 443 dnat to {address}" for last, address in enumerate(to, 1)
        )
    lines = ["table ip bench {", "chain captured {", "type nat hook output priority -100;", *rules, "}", "}", ""]
    routes = [["local", f"127.0.{number}.0/24", "dev", "lo", "src", CLIENT] for number in range(1, len(running) + 1)]
    subprocess.run(["nft", "-f", "-"], input="\n".join(lines), text=True, check=True)
    try:
        for route in routes:
            subprocess.run(["ip", "route", "replace", *route], check=True)
        yield
    finally:
        for route in routes:
            subprocess.run(["ip", "route", "delete", *route], check=False)
        subprocess.run(["nft", "delete", "table", "ip", "bench"], check=True)


def run(bench: Bench) -> None:
    with bench.serving(FORWARDING) as running:
        for way, case in WAYS.items():
            with captured(running) if way == "redirect" else contextlib.nullcontext():
                through = [name for name, one in running.items() if one.at(way)]
                for number, name in bench.interleave(through):
                    if way == "redirect":
                        forget_connections()
                    figures = bench.load("connect", running[name], flows=FLOWS, way=way)
                    bench.record("ways", case, name, number, figures)
