"""Protocols whose name comes too late or never: by a fixed destination they pass as they are, STARTTLS and all; SSH by
CONNECT, too."""

from __future__ import annotations

import imaplib
import smtplib
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Certificates
from .daemons import program, sshd
from .gateway import Gateway, running
from .net import GATEWAY, OUTSIDE, network
from .servers import Server

Start = Callable[..., Gateway]
Serve = Callable[..., Server]
NAME = "allowed.example"


def policy(port: int, ruled: int | None = None) -> str:
    """The rule is for another port than the listener's where `ruled` is given."""
    return f"""
listeners: [{{ name: mail, bind: "127.0.0.1:0", accept: tcp, to: "{NAME}:{port}" }}]
resolver: {{ hosts: {{ {NAME}: 127.0.0.1 }} }}
rules: [{{ name: r, to: ["{NAME}:{ruled or port}"] }}]
"""


class Mail:
    """A server that speaks first, then answers line by line, in TLS after STARTTLS."""

    def __init__(self, tls: ssl.SSLContext, greeting: str, answers: dict[str, str]) -> None:
        self.tls, self.greeting, self.answers = tls, greeting, answers
        #: Commands that came in TLS.
        self.inside: list[str] = []

    def __call__(self, connection: socket.socket) -> None:
        connection.sendall(f"{self.greeting}\r\n".encode())
        if self.talk(connection) == "STARTTLS":
            with self.tls.wrap_socket(connection, server_side=True) as inside:
                self.talk(inside)

    def talk(self, connection: socket.socket) -> str:
        """Until the client ends, or wants TLS: its last command."""
        command = ""
        with connection.makefile("rb", buffering=0) as lines:
            while command != "STARTTLS" and (line := lines.readline().decode().strip()):
                words = line.upper().split(" ")
                command = next(word for word in words if word in self.answers)
                if isinstance(connection, ssl.SSLSocket):
                    self.inside.append(command)
                connection.sendall(self.answers[command].replace("TAG", words[0]).encode())
        return command


def test_smtp_with_starttls(start: Start, serve: Serve, certificates: Certificates) -> None:
    answers = {
        "EHLO": "250-mail\r\n250 STARTTLS\r\n",
        "STARTTLS": "220 go\r\n",
        "NOOP": "250 ok\r\n",
        "QUIT": "221 bye\r\n",
    }
    server = Mail(certificates.server, "220 ready", answers)
    gateway = start(policy(serve(server).port))
    host, port = gateway.address("mail")
    with smtplib.SMTP(host, port, timeout=10) as client:
        client._host = NAME  # type: ignore[attr-defined]  # whose certificate it is to be
        assert client.starttls(context=certificates.client)[0] == 220
        assert client.noop()[0] == 250
    assert server.inside[-2:] == ["NOOP", "QUIT"]
    assert gateway.record(verdict="allow")["name"] == NAME


def test_imap_with_starttls(start: Start, serve: Serve, certificates: Certificates) -> None:
    answers = {
        "CAPABILITY": "* CAPABILITY IMAP4rev1 STARTTLS\r\nTAG OK done\r\n",
        "STARTTLS": "TAG OK go\r\n",
        "NOOP": "TAG OK done\r\n",
        "LOGOUT": "* BYE\r\nTAG OK done\r\n",
    }
    server = Mail(certificates.server, "* OK ready", answers)
    gateway = start(policy(serve(server).port))
    host, port = gateway.address("mail")
    with imaplib.IMAP4(host, port, timeout=10) as client:
        client.host = NAME
        assert client.starttls(certificates.client)[0] == "OK"
        assert client.noop()[0] == "OK"
    assert server.inside[-2:] == ["NOOP", "LOGOUT"]
    assert gateway.record(verdict="allow")["name"] == NAME


@pytest.mark.parametrize("client", [smtplib.SMTP, imaplib.IMAP4])
def test_mail_that_no_rule_allows_is_reset_and_reaches_no_server(
    start: Start, serve: Serve, client: Callable[..., object]
) -> None:
    """The client waits for a greeting, and the protocol is not told: there are no words for it."""
    server = serve(lambda connection: connection.sendall(b"220 ready\r\n"))
    gateway = start(policy(server.port, ruled=1))
    with pytest.raises((ConnectionResetError, smtplib.SMTPServerDisconnected, imaplib.IMAP4.abort)):
        client(*gateway.address("mail"), timeout=10)
    record = gateway.record(verdict="deny")
    assert (record["reason"], record["rule"], record["name"], record["listener"]) == (
        "default_deny", None, NAME, "mail",
    )  # fmt: skip
    assert server.accepted == 0


def test_ssh_by_connect(tmp_path: Path) -> None:
    connect = f"{sys.executable} {Path(__file__).parent / 'clients' / 'connect.py'} {GATEWAY[4]} 3128 %h %p"
    text = f"""
listeners: [{{ name: proxy, bind: "0.0.0.0:3128", accept: [connect, socks5] }}]
resolver: {{ hosts: {{ {NAME}: {OUTSIDE[4][0]}, denied.example: {OUTSIDE[4][0]} }} }}
rules: [{{ name: r, to: ["{NAME}:22"] }}]
"""
    with (
        network() as net,
        sshd(net.outside, tmp_path) as key,
        running(tmp_path / "gateway", text, prefix=net.gateway.prefix) as gateway,
    ):
        ssh = [program("ssh", "openssh-client"), "-F", "none", "-i", str(key), "-o", "BatchMode=yes"]
        ssh += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", f"ProxyCommand={connect}"]
        passed = net.client.run(*ssh, f"root@{NAME}", "echo passed")
        assert passed.stdout == b"passed\n", passed.stderr
        assert gateway.record(verdict="allow")["name"] == NAME
        refused = net.client.run(*ssh, "root@denied.example", "echo passed")
        assert (refused.returncode, refused.stdout) == (255, b"")
        assert b"403 Forbidden" in refused.stderr
        assert gateway.record(verdict="deny")["name"] == "denied.example"
