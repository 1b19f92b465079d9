"""The gateway and its peers, each with the same task: pass TLS through by SNI for four names, one worker."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["one.bench.example", "two.bench.example", "three.bench.example", "four.bench.example"]
#: Rules beside those of the four names: the gateway is measured with a policy as users have it.
OTHER_RULES = 10_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def load_binary() -> Path:
    """The load generator, built."""
    command = ["cargo", "build", "--release", "--quiet", "--manifest-path", str(ROOT / "bench/load/Cargo.toml")]
    target = ROOT / "bench/load/target"
    subprocess.run(command, check=True, env={**os.environ, "CARGO_TARGET_DIR": str(target)})
    return target / "release/egress-load"


@contextlib.contextmanager
def process(command: list[str], cpu: int, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process on one CPU, ended with the block."""
    started = subprocess.Popen(["taskset", "-c", str(cpu), *command], stdin=subprocess.DEVNULL, **options)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(5)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def wait_port(port: int, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if time.monotonic() > until:
            raise RuntimeError(f"nothing serves port {port}")
        time.sleep(0.05)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its descendants so far."""
    total = 0.0
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
        total = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                total += cpu_seconds(int(child))
    return total


@contextlib.contextmanager
def egress(folder: Path, backend: int, cpu: int) -> Iterator[tuple[int, int]]:
    """Records, metrics and screening on, and a policy of 10,000 rules. Gives port and process id."""
    port = free_port()
    rules = [f"  - {{ name: bench-{i}, to: ['{name}:{backend}'] }}" for i, name in enumerate(NAMES)]
    rules += [
        f"  - {{ name: other-{i}, to: ['api{i}.example.com', '*.svc{i}.example.org'] }}" for i in range(OTHER_RULES)
    ]
    hosts = "".join(f"    {name}: 127.0.0.1\n" for name in NAMES)
    policy = folder / "policy.yaml"
    policy.write_text(
        "egress: v1\nworkers: 1\n"
        f"listeners: [{{ name: tls, bind: '127.0.0.1:{port}', accept: tls, port: {backend} }}]\n"
        f"log: {{ decisions: {json.dumps(str(folder / 'decisions.jsonl'))} }}\nadmin: {{ bind: '127.0.0.1:0' }}\n"
        f"resolver:\n  hosts:\n{hosts}rules:\n" + "\n".join(rules) + "\n"
    )
    command = [sys.executable, "-m", "egress_gateway.cli", "run", "-c", str(policy), "--control", str(folder / "s")]
    with process(command, cpu, stderr=subprocess.DEVNULL) as gateway:
        wait_port(port)
        yield port, gateway.pid


@contextlib.contextmanager
def haproxy(folder: Path, backend: int, cpu: int) -> Iterator[tuple[int, int]]:
    """SNI by req.ssl_sni, as its documentation shows."""
    port = free_port()
    uses = "".join(f"  use_backend b{i} if {{ req.ssl_sni -i {name} }}\n" for i, name in enumerate(NAMES))
    backends = "".join(f"backend b{i}\n  server s 127.0.0.1:{backend}\n" for i in range(len(NAMES)))
    config = folder / "haproxy.cfg"
    config.write_text(
        "global\n  nbthread 1\n  maxconn 9000\ndefaults\n  mode tcp\n  maxconn 9000\n  timeout connect 5s\n"
        "  timeout client 1h\n  timeout server 1h\n"
        f"frontend f\n  bind 127.0.0.1:{port}\n  tcp-request inspect-delay 5s\n"
        f"  tcp-request content accept if {{ req.ssl_hello_type 1 }}\n{uses}{backends}"
    )
    with process(["haproxy", "-db", "-f", str(config)], cpu) as server:
        wait_port(port)
        yield port, server.pid


@contextlib.contextmanager
def nginx(folder: Path, backend: int, cpu: int) -> Iterator[tuple[int, int]]:
    """stream with ssl_preread and a map by name."""
    port = free_port()
    routes = "".join(f"    {name} 127.0.0.1:{backend};\n" for name in NAMES)
    config = folder / "nginx.conf"
    config.write_text(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n"
        f"daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;\n"
        "events { worker_connections 18000; }\nstream {\n  access_log off;\n"
        f"  map $ssl_preread_server_name $to {{\n{routes}  }}\n"
        f"  server {{ listen 127.0.0.1:{port} backlog=4096; ssl_preread on; proxy_pass $to; }}\n}}\n"
    )
    with process(["nginx", "-c", str(config), "-p", str(folder)], cpu) as server:
        wait_port(port)
        yield port, server.pid


@contextlib.contextmanager
def direct(_folder: Path, backend: int, _cpu: int) -> Iterator[tuple[int, int]]:
    """The floor: no proxy."""
    yield backend, 0


PEERS = {"egress": egress, "haproxy": haproxy, "nginx": nginx, "direct": direct}


def available() -> list[str]:
    """Peers whose programs are installed."""
    needs = {"haproxy": "haproxy", "nginx": "nginx"}
    return [name for name in PEERS if name not in needs or shutil.which(needs[name])]
