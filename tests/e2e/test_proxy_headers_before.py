"""A PROXY header before what is more than a byte stream: HTTP/2, TLS to the proxy itself, and captured connections."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from . import proxy_headers as pp
from .conftest import Certificates
from .gateway import Gateway, running, wait_for
from .hellos import real_hello
from .http2 import Http2
from .net import OUTSIDE, Net, network
from .servers import Server, echo
from .test_name_agreement import ESTABLISHED, connect_to, exactly
from .test_proxy_headers_read import GOOD, Serve, Start, policy
from .test_proxy_headers_sent import Reader
from .test_tls_to_the_proxy import PROXY, WORKLOAD, Keys, with_ca

BEHIND = "proxy_protocol: required, proxy_trusted: 127.0.0.1, proxy_tlv: '0xe0'"


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


def connect(gateway: Gateway, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(gateway.address("way-in"), timeout=15, source_address=(source, 0))


def test_all_streams_of_a_connection_are_the_callers(start: Start, serve: Serve) -> None:
    reader = Reader()
    upstream = serve(reader)
    keys = "proxy_protocol: required, proxy_tlv: '0xe0', send_proxy: v2"
    gateway = start(policy(upstream.port, "connect", keys, "{ cidr: 198.51.100.7, tlv: team-a }"))
    plain = connect(gateway)
    peer = plain.getsockname()
    plain.sendall(pp.v2(tlvs=pp.tlv(pp.CUSTOM, b"team-a")))
    with Http2(plain) as http2:
        for number in [http2.tunnel(f"{GOOD}:{upstream.port}") for _ in range(5)]:
            http2.send(number, b"ping", end=True)
            assert http2.answer(number).body == b"ping"
        wait_for("5 records", lambda: len(gateway.records()) == 5)
    for record in gateway.records():
        assert record["source"] == {"ip": pp.CLIENT[0], "port": pp.CLIENT[1]}
        assert record["peer"] == {"ip": peer[0], "port": peer[1]}
        assert (record["evidence"], record["identity"], record["rule"]) == ("proxy_header", "team-a", "r")
    assert (reader.wait().source, reader.wait().destination) == (pp.CLIENT, pp.FRONT)


def test_a_destination_is_told_where_the_client_of_a_stream_came_in(start: Start, serve: Serve) -> None:
    reader = Reader()
    upstream = serve(reader)
    keys = "proxy_protocol: optional, send_proxy: v1"
    gateway = start(policy(upstream.port, "connect", keys, "{ cidr: 127.0.0.1 }"))
    plain = connect(gateway)
    ends = plain.getsockname(), plain.getpeername()
    with Http2(plain) as http2:
        http2.send(http2.tunnel(f"{GOOD}:{upstream.port}"), b"ping")
        header = reader.wait()
    assert (header.source, header.destination) == ends


def tls_policy(keys: Keys, port: int, mode: str = "required") -> str:
    files = f"certificate: {keys.folder}/proxy.pem, key: {keys.folder}/key.pem"
    files += with_ca(keys, ", client: optional")
    return f"""
listeners:
  - {{ name: way-in, bind: "127.0.0.1:0", accept: connect, tls: {{ {files} }},
      {BEHIND.replace("required", mode)} }}
resolver: {{ hosts: {{ {GOOD}: 127.0.0.1 }} }}
rules: [{{ name: r, from: [{{ cidr: 198.51.100.7 }}, {{ cidr: 127.0.0.9 }}], to: "{GOOD}:{port}" }}]
"""


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "byte by byte"])
def test_tls_to_the_proxy_comes_behind_the_header(start: Start, serve: Serve, keys: Keys, cut: bool) -> None:
    upstream = serve(echo)
    gateway = start(tls_policy(keys, upstream.port))
    header = pp.v2(tlvs=pp.tlv(pp.CUSTOM, b"team-a"))
    with connect(gateway) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in [header[at : at + 1] for at in range(len(header))] if cut else [header]:
            plain.sendall(part)
        context = keys.context(keys.client(None, WORKLOAD))
        with context.wrap_socket(plain, server_hostname=PROXY) as tls:
            tls.sendall(connect_to(f"{GOOD}:{upstream.port}"))
            assert exactly(tls, len(ESTABLISHED)) == ESTABLISHED
            tls.sendall(b"ping")
            assert exactly(tls, 4) == b"ping"
    record = gateway.record(verdict="allow")
    assert (record["source"]["ip"], record["peer"]["ip"]) == (pp.CLIENT[0], "127.0.0.1")
    # What the client has shown itself is the better evidence.
    assert (record["evidence"], record["identity"]) == ("certificate", WORKLOAD)


def test_what_is_lost_in_the_handshake_is_the_callers(start: Start, keys: Keys) -> None:
    gateway = start(tls_policy(keys, 1))
    with connect(gateway) as plain:
        plain.sendall(pp.v1() + b"GET / HTTP/1.1\r\n\r\n")
        record = gateway.record(reason="not_accepted")
    assert (record["source"]["ip"], record["peer"]["ip"]) == (pp.CLIENT[0], "127.0.0.1")
    assert record["evidence"] == "proxy_header"


def test_a_stranger_has_no_handshake_where_a_header_is_required(start: Start, serve: Serve, keys: Keys) -> None:
    upstream = serve(echo)
    gateway = start(tls_policy(keys, upstream.port))
    # Not by wrap_socket, which loses the socket where the reset comes before it has begun.
    with pytest.raises(OSError), connect(gateway, "127.0.0.9") as plain:
        plain.sendall(real_hello(PROXY))
        plain.recv(1)
    assert gateway.record()["reason"] == "untrusted_proxy"
    # Where it is optional a stranger comes in as itself.
    gateway = start(tls_policy(keys, upstream.port, "optional"))
    with connect(gateway, "127.0.0.9") as plain, keys.context().wrap_socket(plain, server_hostname=PROXY) as tls:
        tls.sendall(connect_to(f"{GOOD}:{upstream.port}"))
        assert exactly(tls, len(ESTABLISHED)) == ESTABLISHED
    record = gateway.record(verdict="allow")
    assert (record["source"]["ip"], record["peer"], record["evidence"]) == ("127.0.0.9", None, "address")


# Captured connections, whose headers a proxy on the client's side sends.


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with network() as made:
        made.gateway.nft("redirect.nft", listener=15001)
        yield made


@pytest.fixture
def capture(net: Net, tmp_path: Path) -> Iterator[Gateway]:
    address = OUTSIDE[4][0]
    policy = f"""
listeners:
  - {{ name: capture, bind: "0.0.0.0:15001", accept: transparent, proxy_protocol: required, proxy_trusted: 10.77.1.0/24,
      send_proxy: v2 }}
resolver: {{ hosts: {{ {GOOD}: "{address}" }} }}
rules: [{{ name: r, from: {{ cidr: 198.51.100.7 }}, to: [{GOOD}, "{address}:2222"] }}]
"""
    with running(tmp_path / "gateway", policy, prefix=net.gateway.prefix) as gateway:
        yield gateway


def captured(net: Net, port: int) -> socket.socket:
    return net.client.inside(lambda: socket.create_connection((OUTSIDE[4][0], port), timeout=10))


def test_captured_raw_bytes_go_where_they_were_going(net: Net, capture: Gateway) -> None:
    """The destination in the header is no address to dial."""
    reader = Reader()
    with ExitStack() as stack:
        stack.enter_context(net.outside.inside(lambda: Server(reader, host=OUTSIDE[4][0], port=2222)))
        for sent, expected in ((b"ping", b"ping"), (b"", b"")):
            with captured(net, 2222) as client:
                client.sendall(pp.v1() + sent)
                assert exactly(client, len(expected)) == expected
                # The second one says nothing: its server may speak first, and is told of it all the same.
                assert reader.wait()._replace(rest=b"") == pp.Seen(2, pp.CLIENT, pp.FRONT, {}, b"")
                reader.came.clear()
            record = capture.record(rule="r", bytes_up=len(sent))
            assert (record["name"], record["upstream"]["ip"]) == (OUTSIDE[4][0], OUTSIDE[4][0])
            assert (record["source"]["ip"], record["peer"]["ip"]) == (pp.CLIENT[0], "10.77.1.2")


def test_captured_tls_is_judged_by_its_name_and_caller(net: Net, capture: Gateway, certificates: Certificates) -> None:
    def behind_header(connection: socket.socket) -> None:
        data = b""
        while (header := pp.seen(data)) is None:
            data += connection.recv(1)
        assert header.tlvs == {pp.AUTHORITY: GOOD.encode()}
        with certificates.server.wrap_socket(connection, server_side=True) as tls:
            echo(tls)

    with ExitStack() as stack:
        stack.enter_context(net.outside.inside(lambda: Server(behind_header, host=OUTSIDE[4][0], port=443)))
        with captured(net, 443) as plain:
            plain.sendall(pp.v2())
            with certificates.client.wrap_socket(plain, server_hostname=GOOD) as tls:
                tls.sendall(b"ping")
                assert tls.recv(4) == b"ping"
        assert capture.record(name=GOOD)["source"]["ip"] == pp.CLIENT[0]
        with captured(net, 443) as plain:
            plain.sendall(pp.v2(("192.0.2.66", 1)))
            with pytest.raises(OSError, match=r"(?i)access.denied"):
                certificates.client.wrap_socket(plain, server_hostname=GOOD)
        assert capture.record(reason="default_deny")["source"]["ip"] == "192.0.2.66"
