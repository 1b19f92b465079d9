"""For ssh's ProxyCommand: PROXY PORT HOST PORT. A tunnel between HTTP CONNECT and standard input and output."""

import os
import selectors
import socket
import sys

proxy, proxy_port, host, port = sys.argv[1:]
tunnel = socket.create_connection((proxy, int(proxy_port)))
tunnel.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
head = b""
while not head.endswith(b"\r\n\r\n"):
    head += tunnel.recv(1) or sys.exit("the proxy is gone")
status = head.split(b"\r\n")[0].decode()
if " 200 " not in f"{status} ":
    sys.exit(status)
with selectors.DefaultSelector() as ready:
    ready.register(0, selectors.EVENT_READ)
    ready.register(tunnel, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            data = os.read(key.fd, 65536)
            if not data:
                sys.exit()
            if key.fd == 0:
                tunnel.sendall(data)
            else:
                os.write(1, data)
