"""`python -m egress_gateway.demo`: a gateway, a destination and four requests, on this machine alone.

Everything lives in one temporary folder and in processes that end with this one.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

#: Seconds. Starting takes about half a second; a loaded machine may take many times that.
START: Final = 30.0
#: Seconds for one request, and for the record of a flow to reach the log.
SOON: Final = 10.0
#: Seconds that the gateway has to end by itself before it is killed.
STOP: Final = 5.0
#: What people know such ports by; a free one is taken where somebody else has it.
PORTS: Final = {"tls": 8443, "connect": 3128, "admin": 9900}
PAGE: Final = b"Hello from allowed.example. The gateway carried this without decrypting it.\n"

POLICY: Final = """\
egress: v1
listeners:
  - {{ name: tls, bind: "127.0.0.1:{tls}", accept: tls }}
  - {{ name: proxy, bind: "127.0.0.1:{connect}", accept: connect }}
admin: {{ bind: "127.0.0.1:{admin}" }}
log: {{ decisions: {log} }}
default: {{ message: "Not on the list of this demo. Quote {{decision}}." }}
rules:
  - name: demo
    to: [ allowed.example ]               # add blocked.example here, and save
    dial: "127.0.0.1:{destination}"               # the demo's own TLS server
    why: What the demo may reach.
"""


class DemoError(Exception):
    """A piece of the demo failed; the text says which, and what to do."""


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: Any) -> None:
        """The demo shows what the client sees; the destination stays quiet."""


class _Destination(http.server.ThreadingHTTPServer):
    """The TLS server behind the gateway. The handshake is the connection's thread's, so nobody waits for another."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self._tls = tls

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(SOON)
        # A client that leaves in the middle is not the demo's concern.
        with contextlib.suppress(OSError), self._tls.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """No traceback between the lines of the demo."""


def _port(wanted: int) -> int:
    """`wanted` if it is free, else one that is."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Demo:
    def __init__(self, folder: Path) -> None:
        try:
            import trustme
        except ImportError:
            raise DemoError(
                "trustme, which makes the certificate, is missing: pip install 'egress-gateway[demo]'"
            ) from None
        self.folder = folder
        self.policy = folder / "policy.yaml"
        self.ca = folder / "ca.pem"
        self.log = folder / "decisions.jsonl"
        self.control = folder / "egress.sock"
        self.ports = {name: _port(port) for name, port in PORTS.items()}
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("allowed.example", "blocked.example").configure_cert(tls)
        self.client = ssl.create_default_context(cafile=str(self.ca))
        self.destination = _Destination(tls)
        threading.Thread(target=self.destination.serve_forever, daemon=True).start()
        self.policy.write_text(
            POLICY.format(log=json.dumps(str(self.log)), destination=self.destination.server_port, **self.ports)
        )
        self.stderr = folder / "gateway.log"
        with self.stderr.open("wb") as output:
            self.process = subprocess.Popen(
                [*EGRESS, "run", "-c", str(self.policy), "--control", str(self.control)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C in the terminal is the demo's to handle: it ends the gateway in its own order.
                start_new_session=True,
            )

    def egress(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*EGRESS, *arguments], capture_output=True, text=True, timeout=START, check=False)

    def wait_ready(self) -> None:
        until = time.monotonic() + START
        while not self.control.exists() or self.egress("status", "--control", str(self.control)).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > until:
                raise DemoError(f"the gateway did not start; it says:\n{self.stderr.read_text(errors='replace')}")
            time.sleep(0.05)

    def through_tls(self, name: str) -> str:
        """What a client sees that connects to the `tls` listener as if it were `name`."""
        with socket.create_connection(("127.0.0.1", self.ports["tls"]), SOON) as plain:
            return self._get(plain, name)

    def through_connect(self, name: str) -> str:
        """What a client sees that asks the proxy for `name`."""
        with socket.create_connection(("127.0.0.1", self.ports["connect"]), SOON) as plain:
            plain.sendall(f"CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n".encode())
            answer = plain.recv(4096)
            if answer.startswith(b"HTTP/1.1 200 "):
                return self._get(plain, name)
            while more := plain.recv(4096):
                answer += more
        return answer.decode(errors="replace").replace("\r\n", "\n").strip()

    def _get(self, plain: socket.socket, name: str) -> str:
        answer = b""
        try:
            with self.client.wrap_socket(plain, server_hostname=name, suppress_ragged_eofs=True) as tls:
                tls.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
                while more := tls.recv(4096):
                    answer += more
        except ssl.SSLError as error:
            return f"TLS alert: {(error.reason or str(error)).lower().replace('_', ' ')}"
        return answer.partition(b"\r\n\r\n")[2].decode(errors="replace").strip()

    def refused_record(self) -> str:
        """The decision log's line of the request that got the 403, so that both show one decision id."""
        until = time.monotonic() + SOON
        while time.monotonic() < until:
            for line in self.log.read_text().splitlines() if self.log.exists() else ():
                if '"blocked.example"' in line and '"listener":"proxy"' in line:
                    return line
            time.sleep(0.05)
        raise DemoError(f"the decision log {self.log} has no line of the refused request")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP / 2)
            except subprocess.TimeoutExpired:
                # A second SIGTERM ends at once, open connections or not.
                self.process.terminate()
                try:
                    self.process.wait(STOP / 2)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
        self.destination.shutdown()
        self.destination.server_close()


EGRESS: Final = (sys.executable, "-m", "egress_gateway.cli")


@contextlib.contextmanager
def _running() -> Iterator[Demo]:
    folder = Path(tempfile.mkdtemp(prefix="egress-demo-"))
    try:
        demo = Demo(folder)
        try:
            demo.wait_ready()
            yield demo
        finally:
            demo.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _say(title: str, text: str) -> None:
    print(f"\n{title}")
    for line in text.splitlines():
        print(f"    {line}".rstrip())


def show(demo: Demo) -> None:
    """Makes the four requests and shows their outcome; DemoError when one is not as it should be."""
    seen = (
        ("allowed.example through the tls listener", demo.through_tls("allowed.example"), PAGE.decode().strip()),
        ("blocked.example through the tls listener", demo.through_tls("blocked.example"), "access denied"),
        (
            "allowed.example through the connect listener",
            demo.through_connect("allowed.example"),
            PAGE.decode().strip(),
        ),
        ("blocked.example through the connect listener", demo.through_connect("blocked.example"), " 403 "),
    )
    for title, answer, _ in seen:
        _say(title, answer)
    for title, answer, expected in seen:
        if expected not in answer:
            raise DemoError(f"{title}: expected {expected!r}, and the client saw {answer!r}")
    _say("The refused one in the decision log", demo.refused_record())
    why = demo.egress("why", "-c", str(demo.policy), "127.0.0.1", "blocked.example")
    _say("egress why 127.0.0.1 blocked.example", why.stdout or why.stderr)
    if why.returncode != 1:
        raise DemoError(f"egress why was to exit with 1 (denied) and exited with {why.returncode}")


def what_next(demo: Demo) -> None:
    tls, proxy, admin = demo.ports["tls"], demo.ports["connect"], demo.ports["admin"]
    egress = f"{Path(sys.executable).parent / 'egress'}"
    control = f"--control {demo.control}"
    _say(
        "The gateway stays up. In another terminal:",
        f"curl --cacert {demo.ca} --connect-to ::127.0.0.1:{tls} https://allowed.example/\n"
        f"curl --cacert {demo.ca} -x http://127.0.0.1:{proxy} https://blocked.example/\n"
        f"{egress} status {control}\n"
        f"{egress} flows {control}\n"
        f"curl http://127.0.0.1:{admin}/metrics",
    )
    _say("Edit the policy; it is loaded again by itself when you save:", str(demo.policy))
    print("\nCtrl-C ends everything.", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m egress_gateway.demo", description="Show a gateway at work.")
    parser.add_argument("--once", action="store_true", help="end after showing, with 0 if all was as expected")
    once: bool = parser.parse_args(argv).once
    # SIGTERM ends as Ctrl-C does, through the same clean-up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with _running() as demo:
            print(
                f"A gateway on this machine: tls on 127.0.0.1:{demo.ports['tls']}, "
                f"connect on 127.0.0.1:{demo.ports['connect']}."
            )
            show(demo)
            if not once:
                what_next(demo)
                code = demo.process.wait()
                raise DemoError(f"the gateway ended with {code}; start the demo again")
    except KeyboardInterrupt:
        print("\nEnded; nothing is left behind.")
    except (DemoError, OSError, subprocess.TimeoutExpired) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
