"""A TLS client: `client.py tls|connect HOST PORT NAME NAME_PORT CA` prints the answer to a GET.

A refusal goes to stderr: the TLS error (exit 1), or the whole answer of a proxy that does not say 200 (exit 2).
"""

import socket
import ssl
import sys


def main(mode: str, host: str, port: str, name: str, name_port: str, ca: str) -> int:
    with socket.create_connection((host, int(port)), timeout=20) as plain:
        if mode == "connect":
            target = f"{name}:{name_port}"
            plain.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            answer = plain.recv(65536)
            if not answer.startswith(b"HTTP/1.1 200 "):
                while data := plain.recv(65536):
                    answer += data
                sys.stderr.buffer.write(answer)
                return 2
        context = ssl.create_default_context(cafile=ca)
        with context.wrap_socket(plain, server_hostname=name) as tls:
            tls.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            while data := tls.recv(65536):
                sys.stdout.buffer.write(data)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except ssl.SSLError as error:
        sys.exit(f"{error}")
