"""Clients as people run them, captured on their way to real servers: psql, ssh, curl, Python, and one that tries QUIC
first. They pass or are refused as the policy says, and need not know that there is a gateway."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import NamedTuple

import pytest
import trustme

from .daemons import postgres, program, sshd
from .dig import dig
from .gateway import Gateway, running
from .net import GATEWAY, OUTSIDE, Net, capture, network
from .servers import Server, hello_http

PORT = 15001
ALLOWED, DENIED, TOLD = "allowed.example", "denied.example", "told.example"
MESSAGE = "Ask team-net"
CLIENTS = Path(__file__).parent / "clients"


class World(NamedTuple):
    net: Net
    ca: Path
    key: Path

    def run(self, *arguments: str | Path) -> CompletedProcess[bytes]:
        return self.net.client.run(*arguments)


@pytest.fixture(scope="module", params=["redirect", "tproxy"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """All servers are on the first addresses of the outside."""
    folder = tmp_path_factory.mktemp("world")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(ALLOWED).configure_cert(tls)
    with network() as net:
        capture(net, request.param, PORT)
        with ExitStack() as stack:
            stack.enter_context(postgres(net.outside, authority, ALLOWED))
            key = stack.enter_context(sshd(net.outside, folder))
            for addresses in OUTSIDE.values():
                made = net.outside.inside(partial(Server, hello_http, tls=tls, host=addresses[0], port=443))
                stack.enter_context(made)
            yield World(net, folder / "ca.pem", key)


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def gateway(world: World, family: int, tmp_path: Path) -> Iterator[Gateway]:
    anywhere = "0.0.0.0" if family == 4 else "[::]"
    address = OUTSIDE[family][0]
    policy = f"""
listeners:
  - {{ name: capture, bind: "{anywhere}:{PORT}", accept: transparent }}
  - {{ name: names, bind: "{anywhere}:53", accept: dns }}
resolver: {{ hosts: {{ {ALLOWED}: "{address}", {DENIED}: "{address}", {TOLD}: "{address}" }} }}
default: {{ message: "{MESSAGE}" }}
rules:
  - {{ name: web, to: ["{ALLOWED}:443"] }}
  - {{ name: database, to: ["{ALLOWED}:5432"] }}
  - {{ name: by-name, to: ["{TOLD}:22", "{TOLD}:5432"] }}
  - {{ name: by-address, to: ["{OUTSIDE[family][1] if family == 4 else f"[{OUTSIDE[family][1]}]"}:22"] }}
"""
    with running(tmp_path / "gateway", policy, prefix=world.net.gateway.prefix) as started:
        yield started


def judged(gateway: Gateway, verdict: str, port: int) -> tuple[object, ...]:
    """What the record says of it: reason, rule, name and listener."""
    record = gateway.record(verdict=verdict, port=port, accept="transparent")
    return tuple(record[key] for key in ("reason", "rule", "name", "listener"))


def tell(world: World, family: int) -> None:
    """The client resolves the name by the gateway, as it does where that is its name server."""
    kind = {4: "A", 6: "AAAA"}[family]
    reply = dig((GATEWAY[family], 53), TOLD, kind, prefix=world.net.client.prefix)
    assert reply.answers == [OUTSIDE[family][0]]


def psql(world: World, family: int, name: str, *, tls: bool) -> CompletedProcess[bytes]:
    options = f"host={name} hostaddr={OUTSIDE[family][0]} user=tester dbname=postgres gssencmode=disable "
    options += f"sslmode=verify-full sslrootcert={world.ca}" if tls else "sslmode=disable"
    query = "select 'passed', coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false)"
    return world.run(
        program("psql", "postgresql-client"), "--no-psqlrc", "-tA", "-c", query, f"{options} connect_timeout=20"
    )


def test_psql_with_tls_is_judged_by_the_name_that_it_verifies(world: World, family: int, gateway: Gateway) -> None:
    passed = psql(world, family, ALLOWED, tls=True)
    assert passed.stdout == b"passed|t\n", passed.stderr
    # The server resets a client that says goodbye in TLS when it has closed already.
    assert judged(gateway, "allow", 5432) == ("rule", "database", ALLOWED, "capture")
    refused = psql(world, family, DENIED, tls=True)
    assert refused.returncode == 2
    assert b"alert access denied" in refused.stderr
    assert judged(gateway, "deny", 5432) == ("default_deny", None, DENIED, "capture")


def test_psql_in_the_clear_is_judged_by_the_name_that_it_was_told(world: World, family: int, gateway: Gateway) -> None:
    refused = psql(world, family, TOLD, tls=False)
    assert refused.returncode == 2
    assert f"FATAL:  {MESSAGE}".encode() in refused.stderr
    assert judged(gateway, "deny", 5432) == ("default_deny", None, OUTSIDE[family][0], "capture")
    tell(world, family)
    passed = psql(world, family, TOLD, tls=False)
    assert passed.stdout == b"passed|f\n", passed.stderr
    assert judged(gateway, "allow", 5432) == ("rule", "by-name", TOLD, "capture")


def ssh(world: World, address: str) -> CompletedProcess[bytes]:
    options: list[str | Path] = ["-F", "none", "-i", world.key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]
    options += ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    return world.run(program("ssh", "openssh-client"), *options, f"root@{address}", "echo passed")


def test_ssh_is_judged_by_the_name_that_it_was_told(world: World, family: int, gateway: Gateway) -> None:
    address = OUTSIDE[family][0]
    refused = ssh(world, address)
    assert refused.returncode == 255
    assert MESSAGE.encode() in refused.stderr
    assert judged(gateway, "deny", 22) == ("default_deny", None, address, "capture")
    tell(world, family)
    passed = ssh(world, address)
    assert passed.stdout == b"passed\n", passed.stderr
    assert judged(gateway, "allow", 22) == ("rule", "by-name", TOLD, "capture")


def test_ssh_is_judged_by_its_address(world: World, family: int, gateway: Gateway) -> None:
    """No name was told for the second address, which a rule lets through; the server listens there, too."""
    passed = ssh(world, OUTSIDE[family][1])
    assert passed.stdout == b"passed\n", passed.stderr
    assert judged(gateway, "allow", 22) == ("rule", "by-address", OUTSIDE[family][1], "capture")


def curl(world: World, name: str, address: str) -> list[str | Path]:
    command: list[str | Path] = [program("curl", "curl"), "-sS", "--max-time", "20", "--cacert", world.ca]
    return [*command, "--resolve", f"{name}:443:{address}", f"https://{name}/"]


def python(world: World, name: str, address: str) -> list[str | Path]:
    return [sys.executable, CLIENTS / "captured.py", name, address, world.ca]


def quic_first(world: World, name: str, address: str) -> list[str | Path]:
    return [*python(world, name, address), "quic-first"]


@pytest.mark.parametrize("client", [curl, python, quic_first])
def test_a_client_of_the_web(
    world: World, family: int, gateway: Gateway, client: Callable[[World, str, str], list[str | Path]]
) -> None:
    address = OUTSIDE[family][0]
    passed = world.run(*client(world, ALLOWED, f"[{address}]" if client is curl and family == 6 else address))
    assert passed.stdout == b"hello from upstream\n", passed.stderr
    assert judged(gateway, "allow", 443) == ("rule", "web", ALLOWED, "capture")
    refused = world.run(*client(world, DENIED, f"[{address}]" if client is curl and family == 6 else address))
    assert refused.returncode != 0
    assert b"access denied" in refused.stderr.lower().replace(b"_", b" ")
    refusal = gateway.record(reason="default_deny", port=443)
    assert (refusal["rule"], refusal["name"], refusal["listener"]) == (None, DENIED, "capture")
    if client is quic_first:
        assert b"QUIC is refused: TCP" in passed.stderr
        assert gateway.record(reason="not_carried")["verdict"] == "deny"
