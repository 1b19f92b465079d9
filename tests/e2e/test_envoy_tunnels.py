"""Envoy as it tunnels: tcp_proxy with tunneling_config, through CONNECT over HTTP/1.1, over HTTP/2 with prior
knowledge, and over HTTP/2 inside TLS with the certificate of a workload."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import policy_for
from .gateway import START, Gateway, wait_for
from .servers import Server, echo
from .test_name_agreement import exactly, rest
from .test_tls_to_the_proxy import WORKLOAD, Keys, policy, with_ca

Start = Callable[..., Gateway]
Serve = Callable[..., Server]
Json = dict[str, Any]
GOOD = "allowed.example"
#: Frames of each tunnel's echo.
ROUNDS = 50


def _any(kind: str, **fields: Any) -> Json:
    return {"@type": f"type.googleapis.com/{kind}", **fields}


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(name: str, port: int, target: str) -> Json:
    proxy = _any(
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix=name,
        cluster="gateway",
        tunneling_config={"hostname": target},
    )
    chain = {"filters": [{"name": "tcp", "typed_config": proxy}]}
    return {"name": name, "address": _address(port), "filter_chains": [chain]}


def _cluster(gateway: int, http2: bool, tls: Json | None) -> Json:
    version: Json = {"http2_protocol_options": {}} if http2 else {"http_protocol_options": {}}
    options = _any("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", explicit_http_config=version)
    endpoint = {"endpoint": {"address": _address(gateway)}}
    cluster: Json = {
        "name": "gateway",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {"cluster_name": "gateway", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if tls is not None:
        context = _any("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", **tls)
        cluster["transport_socket"] = {"name": "tls", "typed_config": context}
    return cluster


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _program() -> str:
    beside = Path(sys.executable).parent / "envoy"
    program = str(beside) if beside.exists() else shutil.which("envoy")
    if program is not None:
        return program
    missing = "envoy is not installed (`make setup SYNC='--group bench'`)"
    if os.environ.get("EGRESS_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{missing}, and EGRESS_REQUIRE_TOOLS=1")
    pytest.skip(missing)


@contextlib.contextmanager
def envoy(
    folder: Path, gateway: int, targets: list[str], *, http2: bool, tls: Json | None = None
) -> Iterator[list[int]]:
    """Envoy with a listener for each target; gives their ports."""
    program = _program()
    ports = [_free_port() for _ in targets]
    listeners = [_listener(f"l{port}", port, target) for port, target in zip(ports, targets, strict=True)]
    config = folder / "envoy.json"
    config.write_text(
        json.dumps({"static_resources": {"listeners": listeners, "clusters": [_cluster(gateway, http2, tls)]}})
    )
    command = [program, "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]
    with (folder / "envoy.txt").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def listening() -> bool:
        assert process.poll() is None, (folder / "envoy.txt").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", ports[-1]), timeout=1):
            return True
        return False

    try:
        wait_for("envoy", listening, START)
        yield ports
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ping(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=15) as client:
        for number in range(ROUNDS):
            client.sendall(b"%4d" % number)
            assert exactly(client, 4) == b"%4d" % number
        client.shutdown(socket.SHUT_WR)
        assert rest(client) == b""


def passes_and_is_refused(gateway: Gateway, ports: list[int], **wanted: str) -> None:
    allowed, denied = ports
    for _ in range(3):
        ping(allowed)
    wait_for(
        "3 records",
        lambda: len([one for one in gateway.records() if one["bytes_up"] == one["bytes_down"] == 4 * ROUNDS]) == 3,
    )
    for record in gateway.records():
        if record["bytes_up"]:
            assert record["end"] == "closed" and wanted.items() <= record.items()
    refused = socket.create_connection(("127.0.0.1", denied), timeout=15)
    with refused, contextlib.suppress(ConnectionResetError):
        refused.sendall(b"x")
        assert refused.recv(1) == b""
    assert wanted.items() <= gateway.record(reason="default_deny").items()


@pytest.mark.parametrize("http2", [False, True])
def test_tunnels_pass_and_are_refused(start: Start, serve: Serve, tmp_path: Path, http2: bool) -> None:
    upstream = serve(echo)
    gateway = start(policy_for(upstream.port))
    targets = [f"{GOOD}:{upstream.port}", f"denied.example:{upstream.port}"]
    with envoy(tmp_path, gateway.address("proxy")[1], targets, http2=http2) as ports:
        passes_and_is_refused(gateway, ports, accept="connect")
    given = [line for line in gateway.egress("metrics").stdout.splitlines() if "front_connections_total{" in line]
    assert any(line.endswith((" 1.0", " 1")) for line in given) is http2, given


def test_tunnels_inside_tls_with_the_certificate_of_a_workload(start: Start, serve: Serve, tmp_path: Path) -> None:
    upstream = serve(echo)
    keys = Keys(tmp_path / "keys")
    client = str(keys.client(None, WORKLOAD))
    who = f'  - {{ name: of-api, from: {{ spiffe: "{WORKLOAD}" }}, to: "{GOOD}:{upstream.port}" }}'
    text = policy(keys, upstream.port, tls=with_ca(keys), rules=who)
    gateway = start(text.replace(f'  - {{ name: allowed, to: "{GOOD}:{upstream.port}" }}', ""))
    tls = {
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_certificates": [{"certificate_chain": {"filename": client}, "private_key": {"filename": client}}],
            "validation_context": {"trusted_ca": {"filename": str(keys.folder / "ca.pem")}},
        }
    }
    targets = [f"{GOOD}:{upstream.port}", f"denied.example:{upstream.port}"]
    with envoy(tmp_path, gateway.address("proxy")[1], targets, http2=True, tls=tls) as ports:
        passes_and_is_refused(gateway, ports, identity=WORKLOAD, evidence="certificate")
