"""Listeners that terminate TLS to the proxy itself: HTTP/1.1 and HTTP/2 inside, clients known by their certificates,
files that are renewed while the gateway runs."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .conftest import Certificates
from .gateway import Gateway, wait_for
from .http2 import Http2
from .servers import Server, echo
from .test_name_agreement import connect_to, exactly, rest
from .test_real_clients import run, tool

Start = Callable[..., Gateway]
Serve = Callable[..., Server]
GOOD = "allowed.example"
PROXY = "proxy.example"
WORKLOAD = "spiffe://prod.example/ns/payments/sa/api"


class Keys:
    """The proxy's certificate, a client's, and a stranger's of another authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.authority = trustme.CA()
        self.stranger = trustme.CA()
        self.authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        self.renew()

    def renew(self) -> None:
        """A new certificate and key, each put in place by a rename, as a renewal tool does."""
        leaf = self.authority.issue_cert(PROXY, "127.0.0.1")
        for name, blobs in [("proxy.pem", leaf.cert_chain_pems), ("key.pem", [leaf.private_key_pem])]:
            fresh = self.folder / f"{name}.new"
            fresh.write_bytes(b"".join(blob.bytes() for blob in blobs))
            fresh.replace(self.folder / name)

    def client(self, authority: trustme.CA | None = None, *uris: str) -> Path:
        """A PEM file with the key and certificate of a client."""
        path = self.folder / f"client{len(list(self.folder.iterdir()))}.pem"
        if uris:
            path.write_bytes(_with_uris(authority or self.authority, uris))
        else:
            leaf = (authority or self.authority).issue_cert("client@example.org")
            path.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
        return path

    def context(self, certificate: Path | None = None, *, alpn: list[str] | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        if certificate is not None:
            context.load_cert_chain(certificate)
        if alpn:
            context.set_alpn_protocols(alpn)
        return context


def _with_uris(authority: trustme.CA, uris: tuple[str, ...]) -> bytes:
    """trustme knows no URI in a certificate: one is signed here by its authority's key."""
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    signer = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(issuer.not_valid_after_utc)
        .add_extension(names, critical=True)
        .sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    )
    plain = serialization.NoEncryption()
    kind = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, kind, plain) + certificate.public_bytes(
        serialization.Encoding.PEM
    )


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


def policy(keys: Keys, port: int, *, tls: str = "", accept: str = "connect", rules: str = "") -> str:
    files = f"certificate: {keys.folder}/proxy.pem, key: {keys.folder}/key.pem"
    return f"""
listeners: [{{ name: proxy, bind: "127.0.0.1:0", accept: {accept}, tls: {{ {files} {tls} }} }}]
resolver: {{ hosts: {{ {GOOD}: 127.0.0.1, denied.example: 127.0.0.1 }} }}
rules:
  - {{ name: allowed, to: "{GOOD}:{port}" }}
{rules}
"""


def with_ca(keys: Keys, client: str = "") -> str:
    return f", client_ca: {keys.folder}/ca.pem{client}"


def reach(gateway: Gateway, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(gateway.address("proxy"), timeout=15), server_hostname=PROXY)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_http_1_and_2_inside_tls(start: Start, serve: Serve, keys: Keys, version: ssl.TLSVersion) -> None:
    upstream = serve(echo)
    gateway = start(policy(keys, upstream.port))
    where = f"{GOOD}:{upstream.port}"
    context = keys.context()
    context.minimum_version = context.maximum_version = version
    with reach(gateway, context) as client:
        source = client.getsockname()
        client.sendall(connect_to(where))
        assert exactly(client, 39).startswith(b"HTTP/1.1 200")
        client.sendall(b"ping")
        assert exactly(client, 4) == b"ping"
    record = gateway.record(end="closed")
    assert (record["source"]["ip"], record["source"]["port"]) == source
    assert (record["accept"], record["bytes_up"], record["evidence"]) == ("connect", 4, "address")
    context.set_alpn_protocols(["h2", "http/1.1"])
    with Http2(reach(gateway, context)) as http2:
        assert isinstance(http2.socket, ssl.SSLSocket) and http2.socket.selected_alpn_protocol() == "h2"
        number = http2.tunnel(where)
        http2.send(number, b"ping", end=True)
        assert http2.answer(number).body == b"ping"
        answer = http2.answer(http2.connect("denied.example:443"))
        assert answer.headers[":status"] == "403"
        denied = gateway.record(reason="default_deny")
        assert denied["decision"] == answer.headers["x-egress-decision"]


def test_curl_through_a_proxy_over_tls(start: Start, tls_page: Server, certificates: Certificates, keys: Keys) -> None:
    gateway = start(policy(keys, tls_page.port, tls=with_ca(keys)))
    host, port = gateway.address("proxy")
    command = [tool("curl", "curl"), "-sS", "--max-time", "30", "--cacert", str(certificates.ca_file)]
    command += ["-x", f"https://{host}:{port}", "--proxy-cacert", str(keys.folder / "ca.pem")]
    page = f"https://{GOOD}:{tls_page.port}/"
    nobody = run(*command, page)
    assert nobody.returncode != 0
    command += ["--proxy-cert", str(keys.client())]
    allowed = run(*command, page)
    assert (allowed.returncode, b"hello from upstream" in allowed.stdout) == (0, True), allowed.stderr
    denied = run(*command, "https://denied.example/")
    assert (denied.returncode, b"403" in denied.stderr) == (56, True), denied.stderr


def test_a_certificate_says_who_is_calling(start: Start, serve: Serve, keys: Keys) -> None:
    upstream = serve(echo)
    rule = f'  - {{ name: of-api, from: {{ spiffe: "{WORKLOAD}" }}, to: "denied.example:{upstream.port}" }}'
    gateway = start(policy(keys, upstream.port, tls=with_ca(keys), rules=rule))
    request = connect_to(f"denied.example:{upstream.port}")

    def told(client: Path) -> bytes:
        with reach(gateway, keys.context(client)) as connection:
            connection.sendall(request)
            return exactly(connection, 12)

    assert told(keys.client(None, WORKLOAD)) == b"HTTP/1.1 200"
    record = gateway.record(rule="of-api")
    assert (record["identity"], record["evidence"]) == (WORKLOAD, "certificate")
    for uris in [
        (WORKLOAD.replace("api", "web"),),
        (WORKLOAD, "spiffe://prod.example/ns/payments/sa/web"),
        (WORKLOAD, "https://prod.example/"),
        (WORKLOAD + "/../api",),
        ("https://prod.example/ns/payments/sa/api",),
        (),
    ]:
        assert told(keys.client(None, *uris)) == b"HTTP/1.1 403", uris
    # The same over HTTP/2, on every stream.
    with Http2(reach(gateway, keys.context(keys.client(None, WORKLOAD), alpn=["h2"]))) as http2:
        for _ in range(3):
            http2.tunnel(f"denied.example:{upstream.port}")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_clients_without_a_good_certificate_are_turned_away_with_a_record(
    start: Start, keys: Keys, version: ssl.TLSVersion
) -> None:
    gateway = start(policy(keys, 443, tls=with_ca(keys)))
    for certificate, word in [
        (None, "client_certificate_missing"),
        (keys.client(keys.stranger), "client_certificate_bad"),
    ]:
        context = keys.context(certificate)
        context.minimum_version = context.maximum_version = version
        with pytest.raises((ssl.SSLError, ConnectionError)), reach(gateway, context) as client:
            client.sendall(connect_to(f"{GOOD}:443"))
            assert client.recv(10) == b"", "nothing is answered"
            raise ConnectionError
        record = gateway.record(other_name=word)
        assert (record["reason"], record["verdict"], record["accept"]) == ("malformed", "deny", "connect")


def test_an_optional_certificate_is_verified_where_there_is_one(start: Start, serve: Serve, keys: Keys) -> None:
    upstream = serve(echo)
    gateway = start(policy(keys, upstream.port, tls=with_ca(keys, ", client: optional")))
    for certificate in (None, keys.client()):
        with reach(gateway, keys.context(certificate)) as client:
            client.sendall(connect_to(f"{GOOD}:{upstream.port}"))
            assert exactly(client, 12) == b"HTTP/1.1 200"
    stranger = keys.context(keys.client(keys.stranger))
    with pytest.raises((ssl.SSLError, ConnectionError)), reach(gateway, stranger) as client:
        client.sendall(connect_to(f"{GOOD}:{upstream.port}"))
        assert client.recv(10) == b""
        raise ConnectionError
    gateway.record(other_name="client_certificate_bad")


def test_what_is_not_tls_and_who_says_nothing(start: Start, keys: Keys) -> None:
    gateway = start(policy(keys, 443) + "timeouts: { first_bytes: 500ms }\n")
    with socket.create_connection(gateway.address("proxy"), timeout=15) as client:
        client.sendall(connect_to(f"{GOOD}:443"))
        rest(client)
    assert gateway.record()["reason"] == "not_accepted"
    with socket.create_connection(gateway.address("proxy"), timeout=15) as client:
        assert client.recv(10) == b""
    gateway.record(reason="first_bytes_timeout")
    with socket.create_connection(gateway.address("proxy"), timeout=15):
        pass
    gateway.record(reason="client_left")
    # Nothing in it after the handshake: that is the worker's to see.
    with reach(gateway, keys.context()) as quiet:
        assert b"408" in rest(quiet)


def test_slow_handshakes_hold_up_nobody(start: Start, serve: Serve, keys: Keys) -> None:
    """They wait for their own patience, in any number, before the hello and in the middle of it."""
    upstream = serve(echo)
    gateway = start(policy(keys, upstream.port) + "timeouts: { first_bytes: 30s }\n")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        keys.context().wrap_bio(incoming, outgoing, server_hostname=PROXY).do_handshake()
    hello = outgoing.read()
    with contextlib.ExitStack() as stack:
        for number in range(300):
            slow = stack.enter_context(socket.create_connection(gateway.address("proxy"), timeout=15))
            # Nothing; half a hello; a hello whose answer is never answered.
            slow.sendall([b"", hello[: len(hello) // 2], hello][number % 3])
        began = time.monotonic()
        with reach(gateway, keys.context()) as client:
            client.sendall(connect_to(f"{GOOD}:{upstream.port}"))
            assert exactly(client, 12) == b"HTTP/1.1 200"
        assert time.monotonic() - began < 5
    wait_for("300 records of clients that left", lambda: len(gateway.records()) == 301)


def test_patience_is_counted_from_the_beginning(start: Start, keys: Keys) -> None:
    """A handshake that was slow leaves less time to ask for something."""
    gateway = start(policy(keys, 443) + "timeouts: { first_bytes: 2s }\n")
    began = time.monotonic()
    plain = socket.create_connection(gateway.address("proxy"), timeout=15)
    time.sleep(1.5)
    context = keys.context(alpn=["h2"])
    with context.wrap_socket(plain, server_hostname=PROXY) as client, contextlib.suppress(ConnectionError):
        while client.recv(1000):
            pass
    assert 1.8 < time.monotonic() - began < 3.3
    record = gateway.record(reason="first_bytes_timeout")
    assert 1800 < record["duration_ms"] < 3300


def test_socks_inside_tls(start: Start, serve: Serve, keys: Keys) -> None:
    upstream = serve(echo)
    gateway = start(policy(keys, upstream.port, accept="[connect, socks5]"))
    with reach(gateway, keys.context()) as client:
        client.sendall(b"\5\1\0")
        assert exactly(client, 2) == b"\5\0"
        client.sendall(b"\5\1\0\3" + bytes([len(GOOD)]) + GOOD.encode() + struct.pack(">H", upstream.port) + b"ping")
        assert exactly(client, 14)[10:] == b"ping"
    assert gateway.record()["accept"] == "socks5"


def test_the_end_and_the_reset_pass_through_tls(start: Start, serve: Serve, keys: Keys) -> None:
    seen: list[bytes] = []

    def witness(connection: socket.socket) -> None:
        connection.sendall(b"hello")
        try:
            seen.append(connection.recv(10))
        except ConnectionResetError:
            seen.append(b"reset")

    upstream = serve(witness)
    gateway = start(policy(keys, upstream.port))

    def tunnel() -> ssl.SSLSocket:
        client = reach(gateway, keys.context())
        client.sendall(connect_to(f"{GOOD}:{upstream.port}"))
        assert exactly(client, 44).endswith(b"hello")
        return client

    client = tunnel()
    client.unwrap().close()
    wait_for("the end", lambda: seen == [b""])
    client = tunnel()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    wait_for("the reset", lambda: seen == [b"", b"reset"])
    gateway.record(end="client_reset")

    def breaks_off(connection: socket.socket) -> None:
        connection.sendall(b"hello")
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    upstream.handler = breaks_off
    client = tunnel()
    client.sendall(b"x")
    # The ssl module takes a reset for an end.
    with socket.socket(fileno=client.detach()) as plain:
        plain.settimeout(15)
        with pytest.raises(ConnectionResetError):
            plain.recv(1)
    gateway.record(end="upstream_reset")


def test_bulk_through_tls_is_whole(start: Start, serve: Serve, keys: Keys) -> None:
    data = bytes(range(256)) * 4096 * 16

    def source(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(data)

    upstream = serve(source)
    gateway = start(policy(keys, upstream.port))
    with reach(gateway, keys.context()) as client:
        client.sendall(connect_to(f"{GOOD}:{upstream.port}"))
        exactly(client, 39)
        client.sendall(b"x")
        time.sleep(0.3)
        assert rest(client) == data


def test_a_renewed_certificate_is_taken_in_and_no_connection_is_lost(start: Start, serve: Serve, keys: Keys) -> None:
    upstream = serve(echo)
    gateway = start(policy(keys, upstream.port))

    def serial() -> str:
        with reach(gateway, keys.context()) as client:
            return str(client.getpeercert()["serialNumber"])  # type: ignore[index]

    before = serial()
    with reach(gateway, keys.context()) as old:
        old.sendall(connect_to(f"{GOOD}:{upstream.port}"))
        assert exactly(old, 39).startswith(b"HTTP/1.1 200")
        keys.renew()
        wait_for("the new certificate", lambda: serial() != before)
        old.sendall(b"ping")
        assert exactly(old, 4) == b"ping"
    # Half of a renewal, or a broken one, changes nothing.
    now = serial()
    shutil.copy(keys.folder / "key.pem", keys.folder / "kept.pem")
    (keys.folder / "key.pem").write_bytes(trustme.CA().issue_cert("x.example").private_key_pem.bytes())
    outcome = gateway.reload()
    assert outcome.returncode != 0 and "not that of the certificate" in outcome.stdout
    assert "PRIVATE" not in outcome.stdout + gateway.stderr()
    assert serial() == now
    shutil.copy(keys.folder / "kept.pem", keys.folder / "key.pem")
    assert gateway.reload().returncode == 0


def test_renewed_roots_decide_about_new_handshakes(start: Start, serve: Serve, keys: Keys) -> None:
    upstream = serve(echo)
    roots = keys.folder / "roots.pem"
    keys.authority.cert_pem.write_to_path(str(roots))
    gateway = start(policy(keys, upstream.port, tls=f", client_ca: {roots}"))
    ours, theirs = keys.client(), keys.client(keys.stranger)

    def comes_in(certificate: Path) -> bool:
        with contextlib.suppress(ssl.SSLError, ConnectionError), reach(gateway, keys.context(certificate)) as client:
            client.sendall(connect_to(f"{GOOD}:{upstream.port}"))
            return client.recv(12) == b"HTTP/1.1 200"
        return False

    assert (comes_in(ours), comes_in(theirs)) == (True, False)
    keys.stranger.cert_pem.write_to_path(str(roots))
    assert gateway.reload().returncode == 0
    assert (comes_in(ours), comes_in(theirs)) == (False, True)


def test_a_drain_lets_what_is_inside_tls_end(start: Start, serve: Serve, keys: Keys) -> None:
    upstream = serve(echo)
    gateway = start(policy(keys, upstream.port))
    where = f"{GOOD}:{upstream.port}"
    with reach(gateway, keys.context()) as client, Http2(reach(gateway, keys.context(alpn=["h2"]))) as http2:
        client.sendall(connect_to(where))
        exactly(client, 39)
        number = http2.tunnel(where)
        gateway.process.terminate()
        http2.wait(lambda: http2.goaway == 0)
        client.sendall(b"ping")
        assert exactly(client, 4) == b"ping"
        client.unwrap().close()
        http2.send(number, b"ping", end=True)
        assert http2.answer(number).body == b"ping"
    assert gateway.process.wait(15) == 0
    assert [record["end"] for record in gateway.records()] == ["closed", "closed"]


def test_no_early_data_is_taken_and_sessions_are_resumed(start: Start, serve: Serve, keys: Keys) -> None:
    upstream = serve(echo)
    gateway = start(policy(keys, upstream.port))
    host, port = gateway.address("proxy")
    session = keys.folder / "session"
    command = [tool("openssl", "openssl"), "s_client", "-connect", f"{host}:{port}", "-tls1_3", "-quiet"]

    def visit(*more: str) -> bytes:
        done = subprocess.run(
            [*command[:-1], *more], input=b"GET / HTTP/1.1\r\n\r\n", capture_output=True, timeout=30, check=False
        )
        return done.stdout + done.stderr

    first = visit("-ign_eof", "-sess_out", str(session))
    assert b"Max Early Data: 0" in first, first
    assert b"Reused, TLSv1.3" in visit("-ign_eof", "-sess_in", str(session))
