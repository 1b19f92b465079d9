"""Real TLS clients reach a real server through `tls` and `connect` listeners, byte for byte; refused, they show why.

Four TLS stacks and the habits of seven programs: OpenSSL (curl, s_client, Python, Node), GnuTLS, Go, Java. What is not
installed is skipped with the name of its package, and fails where EGRESS_REQUIRE_TOOLS=1 says that it has to be there.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from .conftest import Certificates, policy_for
from .gateway import Gateway, running
from .servers import Server

CLIENTS = Path(__file__).parent / "clients"
#: Large enough for several TLS records and reads; seeded, so that a failure can be repeated.
BODY = random.Random(1).randbytes(300_000)
#: Bytes of the long transfer.
BULK = 100 << 20
MESSAGE = "Ask team-net about {rule}, quote {decision}."
ALERT = "(?i)access.?(was )?denied"


class Route(NamedTuple):
    """Where a client connects, and whom it asks for."""

    mode: str
    host: str
    port: int
    name: str
    name_port: int
    ca: Path


Result = subprocess.CompletedProcess[bytes]


def tool(name: str, package: str, *, required: bool = True) -> str:
    """The path of a program; without it the test is skipped, or fails where CI has to have it."""
    if path := shutil.which(name):
        return path
    if required and os.environ.get("EGRESS_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{name} is not installed (Debian package {package}), and EGRESS_REQUIRE_TOOLS=1")
    pytest.skip(f"{name} is not installed (Debian package {package})")


def run(*command: str | Path, stdin: bytes = b"") -> Result:
    return subprocess.run([str(part) for part in command], input=stdin, capture_output=True, timeout=60, check=False)


def get(route: Route) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {route.name}\r\nConnection: close\r\n\r\n".encode()


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def curl(route: Route) -> Result:
    command = [tool("curl", "curl"), "-sS", "-v", "--http1.1", "-i", "--cacert", str(route.ca), "--max-time", "30"]
    url = f"https://{route.name}:{route.name_port}/"
    if route.mode == "connect":
        return run(*command, "-x", f"http://{bracketed(route.host)}:{route.port}", url)
    there = f"{route.name}:{route.name_port}:{bracketed(route.host)}:{route.port}"
    return run(*command, "--connect-to", there, url)


def openssl_command(route: Route) -> list[str]:
    command = [tool("openssl", "openssl"), "s_client", "-CAfile", str(route.ca), "-verify_return_error"]
    command += ["-verify_hostname", route.name, "-servername", route.name, "-quiet", "-ign_eof"]
    at = f"{bracketed(route.host)}:{route.port}"
    where = ["-connect", at]
    if route.mode == "connect":
        where = ["-proxy", at, "-connect", f"{route.name}:{route.name_port}"]
    return command + where


def openssl(route: Route) -> Result:
    return run(*openssl_command(route), stdin=get(route))


def python(route: Route) -> Result:
    return run(sys.executable, CLIENTS / "client.py", *route)  # type: ignore[arg-type]


def node(route: Route) -> Result:
    return run(tool("node", "nodejs"), CLIENTS / "client.js", *route)  # type: ignore[arg-type]


def java(route: Route) -> Result:
    """A JDK is large, so even CI may go without."""
    path = tool("java", "default-jdk-headless", required=False)
    return run(path, "-XX:TieredStopAtLevel=1", CLIENTS / "Client.java", *route)  # type: ignore[arg-type]


def go(route: Route) -> Result:
    """Built once in a while: the toolchain keeps what it built, by content."""
    tool("go", "golang-go")
    program = go_program()
    return run(program, *route)  # type: ignore[arg-type]


def gnutls(route: Route) -> Result:
    """gnutls-cli speaks no CONNECT, so a bridge does that part; the TLS inside the tunnel is its own."""
    command = [tool("gnutls-cli", "gnutls-bin"), "--x509cafile", str(route.ca), "--sni-hostname", route.name]
    command += ["--verify-hostname", route.name, "--logfile=/dev/stderr"]
    if route.mode == "tls":
        return run(*command, "-p", str(route.port), route.host, stdin=get(route))
    with Bridge(route) as bridge:
        result = run(*command, "-p", str(bridge.port), "127.0.0.1", stdin=get(route))
        return Result(result.args, result.returncode, result.stdout, result.stderr + bridge.refusal)


class Bridge:
    """Accepts one connection, opens a tunnel through the proxy, and copies both ways; keeps what a refusal says."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.refusal = b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self) -> Bridge:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join(30)
        self.listener.close()

    def serve(self) -> None:
        inside, _ = self.listener.accept()
        with inside, socket.create_connection((self.route.host, self.route.port), timeout=20) as outside:
            target = f"{self.route.name}:{self.route.name_port}"
            outside.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            answer = outside.recv(65536)
            if not answer.startswith(b"HTTP/1.1 200 "):
                while data := outside.recv(65536):
                    answer += data
                self.refusal = answer
                return
            up = threading.Thread(target=copy, args=(inside, outside))
            up.start()
            copy(outside, inside)
            up.join()


def copy(source: socket.socket, destination: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            destination.sendall(data)
        destination.shutdown(socket.SHUT_WR)
    except OSError:
        pass


_go_program: list[Path] = []


def go_program() -> Path:
    return _go_program[0]


@pytest.fixture(scope="module", autouse=True)
def built_go_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiles the Go client where there is a toolchain; it needs the standard library only, and no network."""
    if path := shutil.which("go"):
        program = tmp_path_factory.mktemp("go") / "client"
        env = {**os.environ, "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
        command = [path, "build", "-o", str(program), str(CLIENTS / "client.go")]
        built = subprocess.run(command, env=env, capture_output=True, text=True, timeout=110, check=False)
        assert built.returncode == 0, built.stderr
        _go_program.append(program)
    yield
    _go_program.clear()


def page(connection: socket.socket) -> None:
    """Answers one request with BODY."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(65536)
        if not data:
            return
        head += data
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(BODY) + BODY)


class Peers(NamedTuple):
    gateway: Gateway
    upstream: Server
    ca: Path

    def route(self, listener: str, name: str) -> Route:
        mode = "tls" if listener.startswith("tls") else "connect"
        host, port = self.gateway.address(listener)
        return Route(mode, host, port, name, self.upstream.port, self.ca)


def begin(folder: Path, certificates: Certificates, upstream: Server, inside: str) -> Iterator[Peers]:
    """A gateway with listeners of both kinds and both families, in front of `upstream` at address `inside`."""
    listeners = "".join(
        f'  - {{ name: {kind}-{family}, bind: "{at}:0", accept: {kind}{port} }}\n'
        for kind, port in (("tls", f", port: {upstream.port}"), ("connect", ""))
        for family, at in (("v4", "127.0.0.1"), ("v6", "[::1]"))
    )
    policy = f"""
listeners:
{listeners}
resolver: {{ hosts: {{ allowed.example: "{inside}", denied.example: "{inside}" }} }}
rules:
  - {{ name: good, to: ["allowed.example:{upstream.port}"] }}
  - {{ name: bad, deny: true, to: [denied.example], message: "{MESSAGE}" }}
"""
    with running(folder, policy) as gateway:
        yield Peers(gateway, upstream, certificates.ca_file)


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Peers]:
    with Server(page, tls=certificates.server) as upstream:
        yield from begin(tmp_path_factory.mktemp("v4"), certificates, upstream, "127.0.0.1")


@pytest.fixture(scope="module")
def peers_inside_v6(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Peers]:
    with Server(page, tls=certificates.server, host="::1") as upstream:
        yield from begin(tmp_path_factory.mktemp("v6"), certificates, upstream, "::1")


def assert_page(result: Result) -> None:
    assert result.stdout.count(b"\r\n\r\n") >= 1, result.stderr.decode(errors="replace")[-3000:]
    got = result.stdout[-len(BODY) :]
    assert hashlib.sha256(got).hexdigest() == hashlib.sha256(BODY).hexdigest(), "the body, byte for byte"
    assert b"HTTP/1.1 200 OK\r\n" in result.stdout[: -len(BODY)]


ALL = [curl, openssl, python, node, go, gnutls, java]
each = pytest.mark.parametrize("client", ALL, ids=lambda client: client.__name__)


@each
@pytest.mark.parametrize("listener", ["tls-v4", "connect-v4"])
def test_a_client_reaches_an_allowed_name(client: Callable[[Route], Result], listener: str, peers: Peers) -> None:
    before = len(peers.gateway.records())
    result = client(peers.route(listener, "allowed.example"))
    assert_page(result)
    record = peers.gateway.record(after=before, name="allowed.example", listener=listener)
    assert (record["verdict"], record["rule"], record["port"]) == ("allow", "good", peers.upstream.port)
    assert record["bytes_down"] > len(BODY)


@each
def test_a_client_shows_the_alert_of_a_denied_name(client: Callable[[Route], Result], peers: Peers) -> None:
    before, accepted = len(peers.gateway.records()), peers.upstream.accepted
    result = client(peers.route("tls-v4", "denied.example"))
    assert result.returncode != 0
    shown = result.stderr.decode(errors="replace")
    assert_matches(ALERT, shown)
    record = peers.gateway.record(after=before, name="denied.example")
    assert (record["verdict"], record["rule"], record["reason"]) == ("deny", "bad", "rule_deny")
    assert peers.upstream.accepted == accepted


@each
def test_a_client_is_told_why_its_tunnel_is_refused(client: Callable[[Route], Result], peers: Peers) -> None:
    before, accepted = len(peers.gateway.records()), peers.upstream.accepted
    result = client(peers.route("connect-v4", "denied.example"))
    assert result.returncode != 0
    shown = result.stderr.decode(errors="replace")
    record = peers.gateway.record(after=before, name="denied.example")
    assert (record["verdict"], record["rule"], record["reason"]) == ("deny", "bad", "rule_deny")
    if client is openssl:
        # It prints the status' phrase and nothing else.
        assert_matches("(?i)proxy|connect|forbidden", shown)
    elif client is curl:
        # It does not print the body of a refused CONNECT; the head says as much.
        assert "403" in shown
        assert b"X-Egress-Decision: " + record["decision"].encode() in result.stdout + result.stderr
    else:
        assert "403" in shown
        assert MESSAGE.format(rule="bad", decision=record["decision"]) in shown
    assert peers.upstream.accepted == accepted


def assert_matches(pattern: str, text: str) -> None:
    assert re.search(pattern, text), text[-3000:]


def echo_exactly(connection: socket.socket) -> None:
    """Gives back BULK bytes, then ends."""
    left = BULK
    while left and (data := connection.recv(65536)):
        connection.sendall(data)
        left -= len(data)


@pytest.mark.parametrize("listener", ["tls", "proxy"])
def test_100_mib_both_ways_at_once_arrive_as_they_were_sent(
    start: Callable[..., Gateway],
    serve: Callable[..., Server],
    certificates: Certificates,
    tmp_path: Path,
    listener: str,
) -> None:
    upstream = serve(echo_exactly, tls=certificates.server)
    gateway = start(policy_for(upstream.port), port=upstream.port)
    sent, got = tmp_path / "sent", tmp_path / "got"
    block = random.Random(2).randbytes(1 << 20)
    with sent.open("wb") as file:
        for index in range(BULK >> 20):
            file.write(index.to_bytes(4, "big") + block[4:])
    route = Route("connect", *gateway.address(listener), "allowed.example", upstream.port, certificates.ca_file)
    if listener == "tls":
        route = route._replace(mode="tls")
    with sent.open("rb") as source, got.open("wb") as sink:
        # It reads while it writes, so neither direction waits for the other.
        subprocess.run(openssl_command(route), stdin=source, stdout=sink, stderr=subprocess.DEVNULL, timeout=60)
    assert got.stat().st_size == BULK
    with sent.open("rb") as one, got.open("rb") as other:
        digests = [hashlib.file_digest(file, "sha256").hexdigest() for file in (one, other)]
    assert digests[0] == digests[1]
    record = gateway.record(listener=listener)
    assert record["end"] == "closed"
    assert record["bytes_up"] > BULK and record["bytes_down"] > BULK


@pytest.mark.parametrize("client", [curl, openssl, python], ids=lambda client: client.__name__)
@pytest.mark.parametrize("listener", ["tls-v6", "connect-v6"])
def test_a_client_reaches_the_gateway_over_ipv6(client: Callable[[Route], Result], listener: str, peers: Peers) -> None:
    before = len(peers.gateway.records())
    assert_page(client(peers.route(listener, "allowed.example")))
    record = peers.gateway.record(after=before, listener=listener)
    assert record["source"]["ip"] == "::1" and record["upstream"]["ip"] == "127.0.0.1"


@pytest.mark.parametrize("listener", ["tls-v4", "connect-v4", "tls-v6", "connect-v6"])
def test_a_client_reaches_a_server_on_ipv6(listener: str, peers_inside_v6: Peers) -> None:
    gateway = peers_inside_v6.gateway
    before = len(gateway.records())
    assert_page(python(peers_inside_v6.route(listener, "allowed.example")))
    record = gateway.record(after=before, listener=listener)
    assert record["upstream"] == {"ip": "::1", "port": peers_inside_v6.upstream.port}
