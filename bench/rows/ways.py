"""What each way in costs, beside the hello alone: captured, PROXY header, CONNECT, SOCKS5, a plain request."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

from peers import Running
from peers.forward import FORWARDING

from rows.bench import Bench

FLOWS = 32
#: In the order of the page; the first is what the others are compared with.
WAYS = {
    "sni": "tls: the hello alone",
    "redirect": "transparent: captured by nftables",
    "proxy-header": "tls after a PROXY header",
    "connect": "connect",
    "socks5": "socks5",
    "http": "http: a plain request, forwarded",
}


@contextlib.contextmanager
def captured(running: dict[str, Running]) -> Iterator[None]:
    """Connections to 127.0.N.1 to 127.0.N.4, port 443, are led to the N-th proxy's address for SNI.

    In a network of the benchmark's own only: the rules go with the block.
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
    subprocess.run(["nft", "-f", "-"], input="\n".join(lines), text=True, check=True)
    try:
        yield
    finally:
        subprocess.run(["nft", "delete", "table", "ip", "bench"], check=True)


def run(bench: Bench) -> None:
    with bench.serving(FORWARDING) as running, captured(running):
        for way, case in WAYS.items():
            through = [name for name, one in running.items() if one.at(way)]
            for number, name in bench.interleave(through):
                figures = bench.load("connect", running[name], flows=FLOWS, way=way)
                bench.record("ways", case, name, number, figures)
