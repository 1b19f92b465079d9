"""Everybody with all the ways in that it has: PROXY headers, CONNECT, SOCKS5, plain HTTP; and two forward proxies."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from peers import envoy, gateway, proxies
from peers.peer import MOST, NAMES, Peer, Running, Start, free_port, proxy, targets


@contextlib.contextmanager
def start_egress(folder: Path, backends: list[int], cpus: str) -> Iterator[Running]:
    options = gateway.Options(ways=True)
    with gateway.egress(folder, backends, cpus, options) as (running, _place):
        yield running


@contextlib.contextmanager
def start_haproxy(folder: Path, backends: list[int], cpus: str) -> Iterator[Running]:
    sni, headed, http = free_port(), free_port(), free_port()
    routes = list(zip(NAMES, backends, strict=True))
    text = proxies.haproxy_config(sni, routes, tuned=False)
    text = text.replace(f"bind *:{sni}\n", f"bind *:{sni}\n  bind *:{headed} accept-proxy\n")
    uses = "".join(f"  use_backend h{i} if {{ hdr(host) -i {name} }}\n" for i, name in enumerate(NAMES))
    servers = "".join(f"backend h{i}\n  mode http\n  server s 127.0.0.1:{port}\n" for i, port in enumerate(backends))
    config = folder / "haproxy.cfg"
    config.write_text(f"{text}frontend h\n  mode http\n  bind *:{http}\n{uses}{servers}")
    with proxy(["haproxy", "-db", "-f", str(config)], cpus, folder, sni, headed, http) as started:
        yield Running(targets(sni), started.pid, {"proxy-header": targets(headed), "http": targets(http)})


@contextlib.contextmanager
def start_nginx(folder: Path, backends: list[int], cpus: str) -> Iterator[Running]:
    sni, headed, http = free_port(), free_port(), free_port()
    routes = list(zip(NAMES, backends, strict=True))
    text = proxies.nginx_config(folder, sni, routes)
    plain = f"listen {sni} backlog=4096;"
    server = f"  server {{ listen {headed} backlog=4096 proxy_protocol; ssl_preread on; proxy_pass $to; }}\n"
    assert plain in text
    text = text.replace("  server {", f"{server}  server {{", 1)
    lines = "".join(f"    {name} 127.0.0.1:{port};\n" for name, port in routes)
    config = folder / "nginx.conf"
    config.write_text(
        f"{text}http {{\n  access_log off;\n  map $host $to {{\n{lines}  }}\n  server {{ listen {http} backlog=4096;"
        " location / { proxy_pass http://$to; proxy_http_version 1.1; } }\n}\n"
    )
    with proxy(["nginx", "-c", str(config), "-p", str(folder)], cpus, folder, sni, headed, http) as started:
        yield Running(targets(sni), started.pid, {"proxy-header": targets(headed), "http": targets(http)})


@contextlib.contextmanager
def start_envoy(folder: Path, backends: list[int], cpus: str) -> Iterator[Running]:
    ports = {"sni": free_port(), "connect": free_port(), "proxy-header": free_port(), "http": free_port()}
    config = folder / "envoy.json"
    listeners = [
        envoy.sni_listener(ports["sni"]),
        envoy.connect_listener(ports["connect"]),
        envoy.headed_listener(ports["proxy-header"]),
        envoy.http_listener(ports["http"]),
    ]
    clusters = [envoy.cluster_of(number, port) for number, port in enumerate(backends)]
    config.write_text(json.dumps({"static_resources": {"listeners": listeners, "clusters": clusters}}, indent=1))
    with proxy(envoy.command(config), cpus, folder, *ports.values()) as started:
        ways = {way: targets(port) for way, port in ports.items() if way != "sni"}
        yield Running(targets(ports["sni"]), started.pid, ways)


def by_address(port: int, pid: int, backends: list[int]) -> Running:
    """A forward proxy for CONNECT and plain requests, which is asked for addresses: it needs no resolver then."""
    ways = {"connect": targets(port), "http": targets(port)}
    return Running([], pid, ways, [f"127.0.0.1:{backend}" for backend in backends])


@contextlib.contextmanager
def start_tinyproxy(folder: Path, backends: list[int], cpus: str) -> Iterator[Running]:
    """A thread for each connection, as it comes."""
    port = free_port()
    config = folder / "tinyproxy.conf"
    config.write_text(f"Port {port}\nListen 0.0.0.0\nTimeout 600\nMaxClients {MOST}\nLogLevel Critical\n")
    with proxy(["tinyproxy", "-d", "-c", str(config)], cpus, folder, port) as started:
        yield by_address(port, started.pid, backends)


@contextlib.contextmanager
def start_squid(folder: Path, backends: list[int], cpus: str) -> Iterator[Running]:
    """One process, no cache, no access log, any port."""
    port = free_port()
    config = folder / "squid.conf"
    config.write_text(
        f"http_port {port}\nhttp_access allow all\ncache deny all\naccess_log none\ncache_log /dev/null\n"
        f"cache_store_log none\npid_filename none\nnetdb_filename none\ncoredump_dir none\n"
        f"max_filedescriptors {2 * MOST}\nshutdown_lifetime 0 seconds\n"
    )
    with proxy(["squid", "-N", "-n", f"bench{port}", "-f", str(config)], cpus, folder, port) as started:
        yield by_address(port, started.pid, backends)


def _with(peer: Peer, start: Start) -> Peer:
    return Peer(peer.name, start, peer.version_command, peer.remedy)


FORWARDING = [
    _with(gateway.EGRESS, start_egress),
    _with(proxies.HAPROXY, start_haproxy),
    _with(proxies.NGINX, start_nginx),
    proxies.SNIPROXY,
    _with(envoy.ENVOY, start_envoy),
    Peer("tinyproxy", start_tinyproxy, ("tinyproxy", "-v"), "Debian package tinyproxy"),
    Peer("squid", start_squid, ("squid", "-v"), "Debian package squid"),
]
