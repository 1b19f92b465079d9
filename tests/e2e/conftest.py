"""Fixtures of the end-to-end tests: certificates, a TLS server, and gateways."""

from __future__ import annotations

import ctypes
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from .gateway import Gateway, running
from .servers import Handler, Server, echo, hello_http

#: prctl(2). Huge pages would make a gateway's memory grow by 2 MiB for one byte, which is not what tests of memory are
#: about. Whoever is started inherits it.
PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)

NAMES = ["allowed.example", "denied.example", "other.example", "api.allowed.example"]


class Certificates:
    """A certificate authority of the tests' own, and a certificate for all their names."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(*NAMES).configure_cert(self.server)
        self.client = ssl.create_default_context(cafile=str(self.ca_file))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts a server that ends with the test: `serve(handler, tls=...)`."""
    with ExitStack() as stack:
        yield lambda handler, **options: stack.enter_context(Server(handler, **options))


@pytest.fixture
def tls_page(certificates: Certificates, serve: Callable[..., Server]) -> Server:
    return serve(hello_http, tls=certificates.server)


@pytest.fixture
def tls_echo(certificates: Certificates, serve: Callable[..., Server]) -> Server:
    return serve(echo, tls=certificates.server)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts a gateway that ends with the test: `start(policy, port=...)`."""
    with ExitStack() as stack:
        count = iter(range(100))

        def begin(policy: str, **options: Any) -> Gateway:
            return stack.enter_context(running(tmp_path / f"gateway{next(count)}", policy, **options))

        yield begin


def policy_for(port: int, *, extra: str = "", rules: str = "") -> str:
    """A policy that lets any source reach allowed.example (this machine) on `port`, and denies the rest."""
    return f"""
resolver:
  hosts: {{ allowed.example: 127.0.0.1, api.allowed.example: 127.0.0.1, denied.example: 127.0.0.1,
    other.example: 127.0.0.1 }}
{extra}
rules:
  - name: allowed
    to: ["allowed.example:{port}"]
    message: "Ask team-net about {{rule}}, quote {{decision}}."
{rules}
"""


__all__ = ["Handler", "policy_for"]
