"""Audit mode opens nothing that no policy should reach: not this machine, not the metadata service."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .dns import DnsServer, address
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


def test_an_audit_tells_of_no_refusal_where_enforcement_would_have_gone_another_way(
    start: Start, serve: Callable[..., Server]
) -> None:
    """Of two addresses one is permitted: that one is dialled, under audit as under enforcement."""
    upstream = serve(echo)
    with DnsServer() as dns:
        dns.names["both.example"] = address("10.255.0.1", "127.0.0.1")
        gateway = start(
            f"resolver: {{ servers: ['127.0.0.1:{dns.port}'] }}\ndefault: {{ mode: audit }}\n"
            f"rules: [{{ name: r, to: [{{ name: 'both.example:{upstream.port}', addresses: [127.0.0.0/8] }}] }}]"
        )
        assert ask(gateway, "both.example", upstream.port).startswith(b"HTTP/1.1 200 ")
        record = gateway.record(rule="r")
    assert (record["verdict"], record["reason"]) == ("allow", "rule")
