"""A client of the web: NAME ADDRESS CA_FILE [quic-first]. Prints the page.

With `quic-first` it does as browsers do that know a server for HTTP/3: a QUIC Initial goes out first, and TCP comes
next as soon as that is refused. One that hears nothing would wait: this one fails then.
"""

import http.client
import os
import socket
import ssl
import sys

name, address, ca_file, *how = sys.argv[1:]
if how:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as quic:
        quic.settimeout(5)
        quic.connect((address, 443))
        # RFC 9000, section 17.2.2: long header, version 1, connection IDs, no token; 1,200 bytes (section 14.1).
        head = b"\xc3\0\0\0\1\x08" + os.urandom(8) + b"\x08" + os.urandom(8) + b"\0" + b"\x44\x96"
        quic.send(head + os.urandom(1200 - len(head)))
        try:
            quic.recv(1500)
        except ConnectionRefusedError:
            print("QUIC is refused: TCP", file=sys.stderr)
context = ssl.create_default_context(cafile=ca_file)
plain = socket.create_connection((address, 443), timeout=20)
connection = http.client.HTTPSConnection(name, context=context)
connection.sock = context.wrap_socket(plain, server_hostname=name)
connection.request("GET", "/")
print(connection.getresponse().read().decode(), end="")
