"""How soon a client is refused: from its connect to the first byte of the refusal, or to the end of the connection."""

from __future__ import annotations

import contextlib
import socket
import statistics
import time

from peers.forward import FORWARDING

from rows.bench import Bench
from rows.changes import hello

DENIED = "denied.example"
#: What a client says for a name that nobody lets through, by the way in.
FIRST_BYTES = {
    "sni": hello(DENIED),
    "connect": f"CONNECT {DENIED}:443 HTTP/1.1\r\nHost: {DENIED}:443\r\n\r\n".encode(),
    "http": f"GET http://{DENIED}/ HTTP/1.1\r\nHost: {DENIED}\r\n\r\n".encode(),
}
#: In what each is told.
TOLD = {"sni": "tls: an alert, or the end", "connect": "connect: an answer", "http": "http: an answer"}
#: Of whom it is known that they let every name through, or resolve it first.
OPEN = {"squid", "tinyproxy"}


def refused(address: str, first_bytes: bytes) -> float:
    """Seconds that one attempt took."""
    host, port = address.rsplit(":", 1)
    begun = time.perf_counter()
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(first_bytes)
        with contextlib.suppress(ConnectionResetError):
            client.recv(1)
        return time.perf_counter() - begun


def run(bench: Bench) -> None:
    with bench.serving([peer for peer in FORWARDING if peer.name not in OPEN]) as running:
        for way, case in TOLD.items():
            through = [name for name, one in running.items() if one.at(way)]
            for number, name in bench.interleave(through):
                address = running[name].at(way)[0]
                until = time.perf_counter() + bench.seconds
                took: list[float] = []
                while time.perf_counter() < until:
                    took.append(refused(address, FIRST_BYTES[way]) * 1e6)
                cuts = statistics.quantiles(took, n=1000)
                figures = {"p50_us": cuts[499], "p99_us": cuts[989], "p999_us": cuts[998]}
                bench.record("refusals", case, name, number, figures)
