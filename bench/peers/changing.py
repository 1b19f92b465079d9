"""Gateway and peers in the way in which each changes its routes while it serves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from peers.envoy import cluster_of, sni_listener
from peers.envoy import command as envoy_command
from peers.gateway import Options, egress, policy, write
from peers.peer import NAMES, Running, free_port, proxy, targets
from peers.proxies import haproxy_config, nginx_config

#: A name that is routed, or not, by turns.
ASKED = "asked.bench.example"
#: Seconds after which Envoy ends the flows of a chain that has changed; 600 unless said.
DRAIN = 2

Change = Callable[[bool], None]
Changing = Callable[[Path, list[int], str], AbstractContextManager[tuple[Running, Change]]]


def routes(backends: list[int], asked: bool) -> list[tuple[str, int]]:
    return [*zip(NAMES, backends, strict=True), *([(ASKED, backends[0])] if asked else [])]


def replace(file: Path, text: str) -> None:
    fresh = file.with_suffix(".tmp")
    fresh.write_text(text)
    fresh.replace(file)


@contextlib.contextmanager
def changing_egress(folder: Path, backends: list[int], cpus: str) -> Iterator[tuple[Running, Change]]:
    """The file is watched. With the new rule, the reason of the others changes too."""
    with egress(folder, backends, cpus) as (running, place):

        def change(asked: bool) -> None:
            last = f"  - {{ name: asked, to: [{ASKED}], dial: '127.0.0.1:{backends[0]}' }}\n" if asked else ""
            write(place, policy(place, backends, Options(why=f"version-{asked}"), last))

        yield running, change


@contextlib.contextmanager
def changing_haproxy(folder: Path, backends: list[int], cpus: str) -> Iterator[tuple[Running, Change]]:
    """Master and worker; SIGUSR2 starts a new worker, the old one keeps its flows."""
    port, config = free_port(), folder / "haproxy.cfg"
    config.write_text(haproxy_config(port, routes(backends, False), tuned=False))
    with proxy(["haproxy", "-W", "-db", "-f", str(config)], cpus, folder, port) as started:

        def change(asked: bool) -> None:
            replace(config, haproxy_config(port, routes(backends, asked), tuned=False))
            os.kill(started.pid, signal.SIGUSR2)

        yield Running(targets(port), started.pid), change


@contextlib.contextmanager
def changing_nginx(folder: Path, backends: list[int], cpus: str) -> Iterator[tuple[Running, Change]]:
    """Master and worker; SIGHUP starts a new worker, the old one keeps its flows."""
    port, config = free_port(), folder / "nginx.conf"
    config.write_text(nginx_config(folder, port, routes(backends, False), master=True))
    with proxy(["nginx", "-c", str(config), "-p", str(folder)], cpus, folder, port) as started:

        def change(asked: bool) -> None:
            replace(config, nginx_config(folder, port, routes(backends, asked), master=True))
            started.send_signal(signal.SIGHUP)

        yield Running(targets(port), started.pid), change


@contextlib.contextmanager
def changing_envoy(folder: Path, backends: list[int], cpus: str) -> Iterator[tuple[Running, Change]]:
    """Its listener comes from a file (LDS). With the new chain, a label of the others changes too."""
    port, listeners, config = free_port(), folder / "lds.json", folder / "envoy.json"

    def change(asked: bool) -> None:
        listener = sni_listener(port, f"v{int(asked)}-", (ASKED,) if asked else ())
        kind = "type.googleapis.com/envoy.config.listener.v3.Listener"
        replace(listeners, json.dumps({"resources": [{"@type": kind, **listener}]}))

    change(False)
    source = {"resource_api_version": "V3", "path_config_source": {"path": str(listeners)}}
    bootstrap = {
        "node": {"id": "bench", "cluster": "bench"},
        "dynamic_resources": {"lds_config": source},
        "static_resources": {"clusters": [cluster_of(number, to) for number, to in enumerate(backends)]},
    }
    config.write_text(json.dumps(bootstrap, indent=1))
    command = [*envoy_command(config), "--drain-time-s", str(DRAIN), "--drain-strategy", "immediate"]
    with proxy(command, cpus, folder, port) as started:
        yield Running(targets(port), started.pid), change


CHANGING: dict[str, Changing] = {
    "egress": changing_egress,
    "haproxy": changing_haproxy,
    "nginx": changing_nginx,
    "envoy": changing_envoy,
}
