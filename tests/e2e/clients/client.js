// A TLS client: `node client.js tls|connect HOST PORT NAME NAME_PORT CA` prints the answer to a GET.
// A refusal goes to stderr: the TLS error (exit 1), or the status and body of a proxy that does not say 200 (exit 2).
'use strict';
const fs = require('fs');
const http = require('http');
const tls = require('tls');

const [mode, host, port, name, namePort, ca] = process.argv.slice(2);

function speak(transport) {
  const secure = tls.connect({ ...transport, servername: name, ca: fs.readFileSync(ca) }, () => {
    secure.write(`GET / HTTP/1.1\r\nHost: ${name}\r\nConnection: close\r\n\r\n`);
  });
  secure.on('data', (data) => process.stdout.write(data));
  secure.on('error', (error) => {
    console.error(String(error));
    process.exitCode = 1;
  });
}

if (mode === 'tls') {
  speak({ host, port: Number(port) });
} else {
  // Left to itself, node puts the proxy into Host; RFC 9112 (section 3.2) wants the target there.
  const path = `${name}:${namePort}`;
  const request = http.request({ host, port: Number(port), method: 'CONNECT', path, headers: { Host: path } });
  request.on('connect', (response, socket, head) => {
    if (response.statusCode === 200) {
      speak({ socket });
      return;
    }
    // What node has read of a refusal's body is in `head`; the rest follows.
    process.exitCode = 2;
    console.error(response.statusCode, head.toString());
    socket.on('data', (data) => process.stderr.write(data));
  });
  request.on('error', (error) => {
    console.error(String(error));
    process.exitCode = 1;
  });
  request.end();
}
