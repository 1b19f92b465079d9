"""Captures ClientHellos of the TLS clients of this machine into *.hex beside this file.

Each client is pointed at a loopback port that reads the first flight and hangs up. Run it again
when a client changes its hello in a way that matters (new key shares, new extensions); clients that
are not installed are passed over.
"""

import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
NAME = "api.example.com"
PY = """
import socket, ssl
raw = socket.create_connection(("127.0.0.1", {port}))
ssl.create_default_context().wrap_socket(raw, server_hostname="{name}")
"""
NODE = """
require("tls").connect({{host: "127.0.0.1", port: {port}, servername: "{name}", ALPNProtocols: ["h2"]}})
  .on("error", () => {{}})
"""
GO = """package main
import "crypto/tls"
func main() {{ tls.Dial("tcp", "127.0.0.1:{port}", &tls.Config{{ServerName: "{name}", NextProtos: []string{{"h2"}}}}) }}
"""
JAVA = """
import javax.net.ssl.*;
public class Hello {{ public static void main(String[] a) throws Exception {{
    SSLSocket s = (SSLSocket) SSLSocketFactory.getDefault().createSocket("127.0.0.1", {port});
    SSLParameters p = s.getSSLParameters();
    p.setServerNames(java.util.List.of(new SNIHostName("{name}")));
    s.setSSLParameters(p);
    s.startHandshake();
}} }}
"""
OPENSSL = ["openssl", "s_client", "-connect", "127.0.0.1:{port}"]
CURL = ["curl", "-sk", "--connect-to", "::127.0.0.1:{port}", "https://{name}/"]
GNUTLS = ["gnutls-cli", "127.0.0.1", "-p", "{port}", "--insecure"]

CLIENTS = {
    "openssl": [*OPENSSL, "-servername", "{name}", "-alpn", "h2,http/1.1"],
    "openssl-tls1_2": [*OPENSSL, "-servername", "{name}", "-tls1_2"],
    "openssl-tls1_3": [*OPENSSL, "-servername", "{name}", "-tls1_3"],
    "openssl-tls1": [*OPENSSL, "-servername", "{name}", "-tls1", "-cipher", "ALL:@SECLEVEL=0"],
    "openssl-noname": [*OPENSSL, "-noservername"],
    "openssl-ip": [*OPENSSL, "-servername", "192.0.2.1"],
    "curl": CURL,
    "curl-http1": [*CURL, "--http1.1"],
    "python": [sys.executable, "-c", PY],
    "node": ["node", "-e", NODE],
    "go": ["go", "run", "{go}"],
    "gnutls": [*GNUTLS, "--sni-hostname={name}", "--alpn=h2"],
    "gnutls-tls1_2": [*GNUTLS, "--sni-hostname={name}", "--priority=NORMAL:-VERS-ALL:+VERS-TLS1.2"],
    "gnutls-no-extensions": [*GNUTLS, "--disable-sni", "--priority=NORMAL:-VERS-ALL:+VERS-TLS1.0:%NO_EXTENSIONS"],
    "java": ["java", "{java}"],
}


def capture(command: list[str], scratch: pathlib.Path) -> bytes:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(60)
        go, java = scratch / "hello.go", scratch / "Hello.java"
        go.write_text(GO.format(port=port, name=NAME))
        java.write_text(JAVA.format(port=port, name=NAME))
        words = [word.format(port=port, name=NAME, go=go, java=java) for word in command]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=quiet) as client:
            try:
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(1)
                    data = b""
                    while len(data) < 5 or len(data) < 5 + int.from_bytes(data[3:5]):
                        data += connection.recv(65536)
                    return data
            finally:
                client.kill()


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for label, command in CLIENTS.items():
            if shutil.which(command[0]) is None:
                print(label, "not installed")
                continue
            try:
                data = capture(command, pathlib.Path(scratch))
            except OSError as error:
                print(label, error)
                continue
            (HERE / f"{label}.hex").write_text(data.hex() + "\n")
            print(label, len(data), "bytes")


if __name__ == "__main__":
    main()
