"""Plain requests through a proxy that is spoken to in TLS: judged one by one, as without it."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from .gateway import Gateway, wait_for
from .origin import Origin
from .plain_http import Client
from .servers import Server
from .test_name_agreement import rest
from .test_real_clients import run, tool
from .test_tls_to_the_proxy import GOOD, PROXY, WORKLOAD, Keys, keys, policy, reach, with_ca

__all__ = ["keys"]

Start = Callable[..., Gateway]
Serve = Callable[..., Server]


@pytest.mark.parametrize("accept", ["http", "[connect, http]"])
def test_each_request_is_judged_and_recorded(start: Start, serve: Serve, keys: Keys, accept: str) -> None:
    origin = Origin()
    upstream = serve(origin)
    gateway = start(policy(keys, upstream.port, tls=with_ca(keys), accept=accept))
    context = keys.context(keys.client(None, WORKLOAD), alpn=["http/1.1"])
    with Client(reach(gateway, context)) as client:
        for path, host, status in [("/a", GOOD, 200), ("/b", "denied.example", 403), ("/c", GOOD, 200)]:
            there = f"{host}:{upstream.port}"
            client.send(f"GET http://{there}{path} HTTP/1.1\r\nHost: {there}\r\n\r\n".encode())
            assert client.answer().status == status
    wait_for("a record of each request", lambda: len(gateway.records()) == 3)
    assert [record["reason"] for record in gateway.records()] == ["rule", "default_deny", "rule"]
    for record in gateway.records():
        assert (record["accept"], record["identity"], record["evidence"]) == ("http", WORKLOAD, "certificate")
    assert [seen.path for seen in origin.seen] == ["/a", "/c"]


def test_curl_with_bodies_of_any_size(start: Start, serve: Serve, keys: Keys, tmp_path: Path) -> None:
    origin = Origin()
    upstream = serve(origin)
    gateway = start(policy(keys, upstream.port, accept="[connect, http]"))
    host, port = gateway.address("proxy")
    body = tmp_path / "body"
    body.write_bytes(bytes(range(256)) * 20_000)
    command = [tool("curl", "curl"), "-sS", "--max-time", "30", "-x", f"https://{host}:{port}"]
    command += ["--proxy-cacert", str(keys.folder / "ca.pem"), "--data-binary", f"@{body}"]
    command += ["-o", str(tmp_path / "out"), "-w", "%{json}", "-H", "Expect:"]
    done = run(*command, f"http://{GOOD}:{upstream.port}/echo")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["http_code"] == 200
    assert origin.seen[0].body == body.read_bytes()
    assert gateway.record(end="closed")["bytes_up"] > body.stat().st_size


@pytest.mark.parametrize(("path", "whole"), [("/until-close", True), ("/broken/until-close", False)])
def test_half_a_response_is_not_taken_for_a_whole_one(
    start: Start, serve: Serve, keys: Keys, path: str, whole: bool
) -> None:
    upstream = serve(Origin())
    gateway = start(policy(keys, upstream.port, accept="http"))
    context = keys.context()
    with context.wrap_socket(
        socket.create_connection(gateway.address("proxy"), timeout=15),
        server_hostname=PROXY,
        suppress_ragged_eofs=False,
    ) as client:
        client.sendall(f"GET http://{GOOD}:{upstream.port}{path} HTTP/1.0\r\n\r\n".encode())
        if whole:
            assert rest(client).endswith(b"all of it")
            return
        with pytest.raises((ConnectionResetError, ssl.SSLError)):
            raise AssertionError(rest(client))
