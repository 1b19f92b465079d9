"""HAProxy, nginx and sniproxy, one worker each, as their documentation sets them up for this task; and no proxy."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from peers.peer import MOST, NAMES, Peer, Running, free_port, proxy, targets

#: Name and port of its backend.
Routes = list[tuple[str, int]]


def haproxy_config(port: int, routes: Routes, *, tuned: bool) -> str:
    pairs = list(enumerate(routes))
    uses = "".join(f"  use_backend b{i} if {{ req.ssl_sni -i {name} }}\n" for i, (name, _) in pairs)
    servers = "".join(f"backend b{i}\n  server s 127.0.0.1:{backend}\n" for i, (_, backend) in pairs)
    # Forced both ways, and pipes of 1 MiB: what its manual has for bulk.
    tune = "  tune.pipesize 1048576\n  maxpipes 256\n" if tuned else ""
    splice = "  option splice-request\n  option splice-response\n" if tuned else ""
    return (
        f"global\n  nbthread 1\n  maxconn {MOST}\n{tune}defaults\n  mode tcp\n  maxconn {MOST}\n{splice}"
        "  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
        f"frontend f\n  bind *:{port}\n  tcp-request inspect-delay 5s\n"
        f"  tcp-request content accept if {{ req.ssl_hello_type 1 }}\n{uses}{servers}"
    )


@contextlib.contextmanager
def haproxy(folder: Path, backends: list[int], cpus: str, *, tuned: bool = False) -> Iterator[Running]:
    """SNI by req.ssl_sni."""
    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(haproxy_config(port, list(zip(NAMES, backends, strict=True)), tuned=tuned))
    with proxy(["haproxy", "-db", "-f", str(config)], cpus, folder, port) as started:
        yield Running(targets(port), started.pid)


@contextlib.contextmanager
def haproxy_tuned(folder: Path, backends: list[int], cpus: str) -> Iterator[Running]:
    with haproxy(folder, backends, cpus, tuned=True) as running:
        yield running


def nginx_config(folder: Path, port: int, routes: Routes, *, master: bool = False) -> str:
    lines = "".join(f"    {name} 127.0.0.1:{backend};\n" for name, backend in routes)
    user = "user root;\n" if master else ""
    return (
        f"load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n{user}"
        f"daemon off; master_process {'on' if master else 'off'}; worker_processes 1; pid {folder}/nginx.pid;\n"
        f"error_log stderr crit; worker_rlimit_nofile 20000;\nevents {{ worker_connections {2 * MOST}; }}\n"
        f"stream {{\n  access_log off;\n  map $ssl_preread_server_name $to {{\n{lines}  }}\n"
        f"  server {{ listen {port} backlog=4096; ssl_preread on; proxy_timeout 1h; proxy_pass $to; }}\n}}\n"
    )


@contextlib.contextmanager
def nginx(folder: Path, backends: list[int], cpus: str) -> Iterator[Running]:
    """stream with ssl_preread and a map by name."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(nginx_config(folder, port, list(zip(NAMES, backends, strict=True))))
    with proxy(["nginx", "-c", str(config), "-p", str(folder)], cpus, folder, port) as started:
        yield Running(targets(port), started.pid)


@contextlib.contextmanager
def sniproxy(folder: Path, backends: list[int], cpus: str) -> Iterator[Running]:
    """One table by name, no access log."""
    port = free_port()
    rows = "".join(
        f"  ^{re.escape(name)}$ 127.0.0.1:{backend}\n" for name, backend in zip(NAMES, backends, strict=True)
    )
    config = folder / "sniproxy.conf"
    config.write_text(
        f"user root\npidfile {folder}/sniproxy.pid\n"
        f"error_log {{ filename {folder}/error.log\n priority error\n}}\n"
        f"listener 0.0.0.0:{port} {{ proto tls\n table names\n}}\ntable names {{\n{rows}}}\n"
    )
    with proxy(["sniproxy", "-f", "-n", str(2 * MOST), "-c", str(config)], cpus, folder, port) as started:
        yield Running(targets(port), started.pid)


@contextlib.contextmanager
def direct(_folder: Path, backends: list[int], _cpus: str) -> Iterator[Running]:
    """The floor: no proxy."""
    yield Running([f"127.0.0.1:{backend}" for backend in backends])


HAPROXY = Peer("haproxy", haproxy, ("haproxy", "-v"), "Debian package haproxy")
HAPROXY_TUNED = Peer("haproxy-tuned", haproxy_tuned, ("haproxy", "-v"), "Debian package haproxy")
NGINX = Peer("nginx", nginx, ("nginx", "-v"), "Debian packages nginx and libnginx-mod-stream")
SNIPROXY = Peer("sniproxy", sniproxy, ("sniproxy", "-V"), "Debian package sniproxy")
DIRECT = Peer("direct", direct, None)
