"""HAProxy, nginx and curl speak the PROXY protocol to the gateway, and HAProxy and nginx understand what it says."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import Certificates
from .gateway import Gateway, wait_for
from .servers import Server, echo
from .test_name_agreement import ESTABLISHED, connect_to, exactly, rest
from .test_proxy_headers_read import GOOD, HELLO
from .test_proxy_headers_read import policy as reading
from .test_proxy_headers_sent import policy as sending
from .test_real_clients import run, tool

Start = Callable[..., Gateway]
Serve = Callable[..., Server]
#: The gateway's clients come from here, and the proxies in front of it from 127.0.0.1.
CALLER = "127.0.0.7"


@contextlib.contextmanager
def process(command: list[str | Path], port: int) -> Iterator[None]:
    """A server that is ready once it listens on `port`."""
    running = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def listening() -> bool:
        if running.poll() is not None:
            raise AssertionError(f"{command[0]}: {running.communicate()[0]!r}")
        return f":{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text()

    try:
        wait_for(f"{command[0]} on port {port}", listening)
        yield
    finally:
        running.terminate()
        running.communicate(timeout=10)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def haproxy(folder: Path, port: int, lines: str) -> contextlib.AbstractContextManager[None]:
    program = tool("haproxy", "haproxy")
    config = folder / "haproxy.cfg"
    config.write_text(f"""
defaults
  timeout connect 5s
  timeout client 20s
  timeout server 20s
{lines}
""")
    return process([program, "-db", "-q", "-f", config], port)


def nginx(folder: Path, port: int, body: str) -> contextlib.AbstractContextManager[None]:
    program = tool("nginx", "nginx libnginx-mod-stream")
    config = folder / "nginx.conf"
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    if not module.exists():
        pytest.skip("nginx has no stream module (Debian package libnginx-mod-stream)")
    config.write_text(f"""
load_module {module};
daemon off; master_process off; user root;
pid {folder}/nginx.pid; error_log stderr;
events {{}}
{body}
""")
    return process([program, "-p", folder, "-e", "stderr", "-c", config], port)


FRONTS = {
    "HAProxy, version 1": "send-proxy",
    "HAProxy, version 2": "send-proxy-v2",
    "HAProxy, version 2 with checksum and id": "send-proxy-v2 proxy-v2-options crc32c,unique-id",
}


@pytest.mark.parametrize("options", FRONTS.values(), ids=FRONTS)
def test_behind_haproxy(start: Start, serve: Serve, tmp_path: Path, options: str) -> None:
    upstream, port = serve(echo), free_port()
    gateway = start(reading(upstream.port, rule=f"{{ cidr: {CALLER} }}"))
    to = "{}:{}".format(*gateway.address("way-in"))
    lines = f"listen l\n  mode tcp\n  unique-id-format %{{+X}}o%ci\n  bind 127.0.0.1:{port}\n  server s {to} {options}"
    with haproxy(tmp_path, port, lines):
        through(gateway, port)


def test_behind_nginx(start: Start, serve: Serve, tmp_path: Path) -> None:
    upstream, port = serve(echo), free_port()
    gateway = start(reading(upstream.port, rule=f"{{ cidr: {CALLER} }}"))
    to = "{}:{}".format(*gateway.address("way-in"))
    body = f"stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass {to}; proxy_protocol on; }} }}"
    with nginx(tmp_path, port, body):
        through(gateway, port)


def through(gateway: Gateway, port: int) -> None:
    """A client of a proxy in front is known to the gateway."""
    with socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(CALLER, 0)) as client:
        client.sendall(HELLO)
        assert exactly(client, len(HELLO)) == HELLO
        ip, source_port = client.getsockname()
    record = gateway.record(rule="r")
    assert (record["verdict"], record["source"]) == ("allow", {"ip": ip, "port": source_port})
    assert (record["peer"]["ip"], record["evidence"]) == ("127.0.0.1", "proxy_header")


def test_health_checks_of_haproxy_pass(start: Start, serve: Serve, tmp_path: Path) -> None:
    """Its checks of version 2 are LOCAL: the caller is HAProxy itself, which here may reach the server."""
    upstream, port = serve(echo), free_port()
    gateway = start(reading(upstream.port, "tcp", rule="{ cidr: 127.0.0.1 }"))
    to = "{}:{}".format(*gateway.address("way-in"))
    lines = f"""listen l
  mode tcp
  bind 127.0.0.1:{port}
  option tcp-check
  tcp-check connect send-proxy
  tcp-check send ping
  tcp-check expect string ping
  server s {to} send-proxy-v2 check inter 200ms"""
    with haproxy(tmp_path, port, lines):
        record = gateway.record(verdict="allow")
    assert (record["source"]["ip"], record["evidence"]) == ("127.0.0.1", "address")
    assert record["peer"] == record["source"]


def asked(gateway: Gateway, port: int) -> str:
    """What a server, reached through a tunnel, says of its client."""
    with socket.create_connection(gateway.address("way-in"), timeout=10, source_address=(CALLER, 0)) as client:
        client.sendall(connect_to(f"{GOOD}:{port}"))
        assert exactly(client, len(ESTABLISHED)) == ESTABLISHED
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = rest(client).decode()
        ip, source_port = client.getsockname()
        own_ip, own_port = client.getpeername()
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith(("HTTP/1.1 200", "HTTP/1.0 200")), answer
    words = body.split()
    assert words[:4] == [ip, str(source_port), own_ip, str(own_port)]
    return words[-1]


@pytest.mark.parametrize("version", [1, 2])
def test_haproxy_understands_the_header(start: Start, tmp_path: Path, version: int) -> None:
    port = free_port()
    gateway = start(sending(port, "connect", f"send_proxy: v{version}"))
    words = "%[src] %[src_port] %[dst] %[dst_port] <%[fc_pp_authority]>"
    answer = f'http-request return status 200 content-type text/plain lf-string "{words}"'
    lines = f"frontend f\n  mode http\n  bind 127.0.0.1:{port} accept-proxy\n  {answer}"
    with haproxy(tmp_path, port, lines):
        assert asked(gateway, port) == (f"<{GOOD}>" if version == 2 else "<>")


@pytest.mark.parametrize("version", [1, 2])
def test_nginx_understands_the_header(start: Start, tmp_path: Path, version: int) -> None:
    port = free_port()
    gateway = start(sending(port, "connect", f"send_proxy: v{version}"))
    words = " ".join(f"$proxy_protocol_{end}" for end in ("addr", "port", "server_addr", "server_port"))
    body = f"""http {{ access_log off; server {{ listen 127.0.0.1:{port} proxy_protocol; return 200 "{words}"; }} }}"""
    with nginx(tmp_path, port, body):
        asked(gateway, port)


def test_a_server_that_is_not_introduced_to_is_not_deceived(start: Start, tmp_path: Path) -> None:
    """Without `send_proxy`, nginx that demands a header answers nothing: what it understood above was the header."""
    port = free_port()
    gateway = start(sending(port, "connect", "send_proxy: off"))
    body = f"""http {{ access_log off; server {{ listen 127.0.0.1:{port} proxy_protocol; return 200 ok; }} }}"""
    with nginx(tmp_path, port, body), socket.create_connection(gateway.address("way-in"), timeout=10) as client:
        client.sendall(connect_to(f"{GOOD}:{port}"))
        assert exactly(client, len(ESTABLISHED)) == ESTABLISHED
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert rest(client) == b""


def test_curl_introduces_itself(start: Start, tls_page: Server, certificates: Certificates) -> None:
    gateway = start(reading(tls_page.port, rule="{ cidr: 127.0.0.1 }"))
    host, port = gateway.address("way-in")
    command = [tool("curl", "curl"), "-sS", "--http1.1", "--cacert", str(certificates.ca_file), "--max-time", "30"]
    command += ["--connect-to", f"{GOOD}:443:{host}:{port}", f"https://{GOOD}/"]
    introduced = run(*command, "--haproxy-protocol")
    assert (introduced.returncode, introduced.stdout) == (0, b"hello from upstream\n"), introduced.stderr
    record = gateway.record(rule="r")
    assert record["source"] == record["peer"]
    assert record["evidence"] == "proxy_header"
    plain = run(*command)
    assert plain.returncode == 35, plain.stderr
    assert gateway.record(reason="not_accepted")["other_name"] == "proxy_header"
