"""Audit mode opens nothing that no policy should reach: not this machine, not the metadata service."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .gateway import Gateway
from .servers import Server, echo
from .test_failures import ask

Start = Callable[..., Gateway]


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "[::ffff:127.0.0.1]", "0.0.0.0"])
def test_what_no_policy_should_reach_stays_closed_under_audit(
    start: Start, serve: Callable[..., Server], address: str
) -> None:
    upstream = serve(echo)
    gateway = start("default: { mode: audit }\ntimeouts: { connect: 1s }\nrules: []")
    assert ask(gateway, address, upstream.port).startswith(b"HTTP/1.1 403 ")
    record = gateway.record(reason="forbidden_address")
    assert (record["verdict"], record["end"]) == ("deny", "refused")
    assert upstream.accepted == 0
