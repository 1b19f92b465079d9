"""What only the compiler sees is told with the line and the column of the file as well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from egress_gateway.check import check
from egress_gateway.errors import ConfigError

from .conftest import Broken, Errors

V1 = "egress: v1\n"


def _rule(to: str, more: str = "") -> str:
    return f"{V1}rules:\n  - name: a\n    to: [ b.example, {to} ]\n{more}"


def _listener(text: str) -> str:
    return f"{V1}listeners:\n  - {{ {text} }}\n"


CLUSTER = V1 + 'cluster: { store: "redis://valkey:6379/0", replicas: 3 }\n'

CASES = [
    Broken(
        "a shared link of nobody",
        "yaml",
        V1 + "links: { wan: { bandwidth: 1 Gbit/s, scope: ⟦cluster } }\n",
        "no `cluster` says who shares it",
        "add `cluster:",
    ),
    Broken(
        "a shared ceiling of nobody",
        "yaml",
        V1 + "rules: [ { name: a, to: a.example, bandwidth: { max: 1 Mbit/s, scope: ⟦cluster } } ]\n",
        "no `cluster` says who shares it",
        "add `cluster:",
    ),
    Broken(
        "scope without a ceiling",
        "yaml",
        CLUSTER
        + "links: { wan: { bandwidth: 1 Gbit/s } }\n"
        + "rules: [ { name: a, to: a.example, bandwidth: { guarantee: 1 Mbit/s, scope: ⟦cluster } } ]\n",
        "the scope of `max`",
        "write `max`",
    ),
    Broken(
        "a store of another kind",
        "yaml",
        CLUSTER.replace('"redis://', '⟦"http://'),
        "does not begin with redis://",
        "redis://valkey.example:6379/0",
    ),
    Broken(
        "a store at no port",
        "yaml",
        CLUSTER.replace('"redis://valkey:6379/0', '⟦"redis://valkey:99999/0'),
        "its port is not one",
        "redis://valkey.example:6379/0",
    ),
    Broken(
        "a store with options",
        "yaml",
        CLUSTER.replace('"redis://valkey:6379/0', '⟦"redis://valkey:6379/0?db=1'),
        "takes no options",
        "redis://valkey.example:6379/0",
    ),
    Broken(
        "what bounds nothing",
        "yaml",
        V1 + "rules: [ { name: a, to: a.example, bandwidth: ⟦{ priority: high } } ]\n",
        "without a `max` or a link this bounds nothing",
        "write `max`",
    ),
    Broken(
        "a priority beside nobody",
        "yaml",
        V1 + "rules: [ { name: a, to: a.example, bandwidth: { max: 1 Mbit/s, priority: ⟦high } } ]\n",
        "`priority` is beside others of a link",
        "remove `priority`",
    ),
    Broken(
        "a weight beside nobody",
        "yaml",
        V1 + "rules: [ { name: a, to: a.example, bandwidth: { max: 1 Mbit/s, weight: ⟦2 } } ]\n",
        "`weight` is beside others of a link",
        "link: …",
    ),
    Broken(
        "no gateways",
        "yaml",
        CLUSTER.replace("3 }", "⟦5000 }"),
        "a whole number from 1 to 1024",
        "write a whole number",
    ),
    Broken(
        "a group of no name",
        "yaml",
        CLUSTER.replace("3 }", "3, group: ⟦A B }"),
        "not the name of a group",
        "a-z",
    ),
    Broken(
        "a certificate without TLS",
        "yaml",
        CLUSTER.replace("3 }", "3, ca: ⟦policy.yaml }"),
        "without TLS",
        "rediss://",
    ),
    Broken("no replicas", "yaml", V1 + 'cluster: ⟦{ store: "redis://valkey" }\n', "`replicas` is missing", "add"),
    Broken(
        "no store, and who would share it",
        "yaml",
        V1 + "cluster: ⟦{ replicas: 3 }\nlinks: { wan: { bandwidth: 1 Gbit/s, scope: cluster } }\n",
        "`store` is missing",
        "add `store: redis://",
    ),
    Broken(
        "no password there",
        "yaml",
        CLUSTER.replace("3 }", "3, password_file: ⟦nowhere }"),
        "cannot be read",
        "looked for",
    ),
    Broken(
        "guarantees of more than the link",
        "yaml",
        V1
        + "links:\n  wan: ⟦{ bandwidth: 10 Mbit/s }\nrules:\n"
        + "  - { name: a, to: a.example, bandwidth: { guarantee: 6 Mbit/s } }\n"
        + "  - { name: b, to: b.example, bandwidth: { guarantee: 5 Mbit/s } }\n",
        "come to 11 Mbit/s, of 10 Mbit/s: a 6 Mbit/s, b 5 Mbit/s",
        "guarantee less",
    ),
    Broken(
        "unknown link",
        "yaml",
        V1
        + "links: { wan: { bandwidth: 1 Gbit/s } }\nrules: [ { name: a, to: a.example, bandwidth: { link: ⟦wam } } ]\n",
        "no link `wam`",
        "did you mean `wan`?",
    ),
    Broken(
        "which link",
        "yaml",
        V1
        + "links: { wan: { bandwidth: 1 Gbit/s }, lan: { bandwidth: 1 Gbit/s } }\n"
        + "rules: [ { name: a, to: a.example, bandwidth: ⟦{ guarantee: 1 Mbit/s } } ]\n",
        "more than one link",
        "link: …",
    ),
    Broken(
        "guarantee without a link",
        "yaml",
        V1 + "rules: [ { name: a, to: a.example, bandwidth: ⟦{ guarantee: 1 Mbit/s } } ]\n",
        "a part of a link",
        "links:",
    ),
    Broken(
        "guarantee above the ceiling",
        "yaml",
        V1
        + "links: { wan: { bandwidth: 1 Gbit/s } }\n"
        + "rules: [ { name: a, to: a.example, bandwidth: { max: 1 Mbit/s, guarantee: ⟦2 Mbit/s } } ]\n",
        "a guarantee of 2 Mbit/s is more than the max of 1 Mbit/s",
        "less",
    ),
    Broken(
        "bandwidth of a deny rule",
        "yaml",
        V1 + "rules: [ { name: a, deny: true, to: a.example, bandwidth: ⟦1 Mbit/s } ]\n",
        "has no meaning",
        "remove `bandwidth`",
    ),
    Broken(
        "burst without a rate",
        "yaml",
        V1 + "rules: [ { name: a, to: a.example, connections: { max: 1, per_source: { max: 1, burst: ⟦2 } } } ]\n",
        "no rate bounds them",
        "add `new_per_second`",
    ),
    Broken(
        "connections of nothing",
        "yaml",
        V1 + "rules: [ { name: a, to: a.example, connections: ⟦{} } ]\n",
        "no connections are bounded",
        "remove `connections`",
    ),
    Broken(
        "refusal of nothing",
        "yaml",
        V1 + "rules: [ { name: a, to: a.example, connections: ⟦{ when_full: refuse } } ]\n",
        "no connections are bounded",
        "add `max`",
    ),
    Broken(
        "connections of each source, and nothing of them",
        "yaml",
        V1 + "rules: [ { name: a, to: a.example, connections: { max: 1, per_source: ⟦{} } } ]\n",
        "the connections of no source",
        "remove `per_source`",
    ),
    Broken(
        "more for each source than for all",
        "yaml",
        V1 + "rules: [ { name: a, to: a.example, connections: { max: 9, per_source: { max: ⟦10 } } } ]\n",
        "no source ever has 10: all of the rule together have 9",
        "less than 9",
    ),
    Broken(
        "a higher rate for each source than for all",
        "yaml",
        V1
        + "rules: [ { name: a, to: a.example, connections: "
        + "{ new_per_second: 9, per_source: { new_per_second: ⟦10, burst: 9 } } } ]\n",
        "no source ever has 10",
        "less than 9",
    ),
    Broken(
        "a wait that is too long",
        "yaml",
        V1 + "rules: [ { name: a, to: a.example, connections: { max: 1, when_full: ⟦wait 61s } } ]\n",
        "for 60s at most",
        "wait 60s",
    ),
    Broken(
        "a wait for no bound",
        "yaml",
        V1 + "rules: [ { name: a, to: a.example, connections: { when_full: ⟦wait 1s } } ]\n",
        "nothing bounds",
        "remove `when_full`",
    ),
    Broken(
        "a budget of nothing",
        "yaml",
        V1 + "rules: [ { name: a, to: a.example, budget: ⟦{ then: deny } } ]\n",
        "no bytes are bounded",
        "add `up: 5 GB/day`",
    ),
    Broken(
        "a budget of each source, and nothing of it",
        "yaml",
        V1 + "rules: [ { name: a, to: a.example, budget: { up: 1 GB/day, per_source: ⟦{} } } ]\n",
        "the bytes of no source",
        "remove `per_source`",
    ),
    Broken(
        "a larger budget for each source than for all",
        "yaml",
        V1 + "rules: [ { name: a, to: a.example, budget: { up: 1 GB/day, per_source: { up: ⟦2 GB/day } } } ]\n",
        "no source ever moves so much",
        "less than `up`",
    ),
    Broken(
        "slow to nothing",
        "yaml",
        V1 + "rules: [ { name: a, to: a.example, budget: { up: 1 GB/day, then: ⟦slow 0 kbit/s } } ]\n",
        "a rate of 0 lets nothing through",
        "write deny",
    ),
    Broken(
        "slow to a bare nothing",
        "yaml",
        V1 + "rules: [ { name: a, to: a.example, budget: { up: 1 GB/day, then: ⟦slow 0 } } ]\n",
        "a rate of 0 lets nothing through",
        "write deny",
    ),
    Broken(
        "slow to what the link has",
        "yaml",
        V1
        + "links: { wan: { bandwidth: 1 Mbit/s } }\n"
        + "rules: [ { name: a, to: a.example, bandwidth: {}, budget: { up: 1 GB/day, then: ⟦slow 1 Mbit/s } } ]\n",
        "1 Mbit/s is not below the 1 Mbit/s of link wan",
        "less than",
    ),
    Broken(
        "budget of a deny rule",
        "yaml",
        V1 + "rules: [ { name: a, deny: true, to: a.example, budget: ⟦{ up: 1 GB/day } } ]\n",
        "has no meaning",
        "remove `budget`",
    ),
    Broken(
        "a budget that slows nothing",
        "yaml",
        V1
        + "rules: [ { name: a, to: a.example, bandwidth: 1 Mbit/s, "
        + "budget: { up: 1 GB/day, then: ⟦slow 2 Mbit/s } } ]\n",
        "2 Mbit/s is not below the `max` of 1 Mbit/s",
        "less than",
    ),
    Broken(
        "a budget that slows each source where sources have no share",
        "yaml",
        V1
        + "rules: [ { name: a, to: a.example, bandwidth: { max: 9 Mbit/s, share_by: ⟦connection }, "
        + "budget: { per_source: { up: 1 GB/day }, then: slow 1 Mbit/s } } ]\n",
        "the budget slows each source",
        "share_by: source",
    ),
    Broken("time zone", "yaml", V1 + "budgets: { time_zone: ⟦Europe/Belin }\n", "no time zone", "`Europe/Berlin`?"),
    Broken(
        "two budgets for one destination",
        "yaml",
        V1
        + "rules:\n  - { name: a, to: a.example, budget: { up: 1 GB/day } }\n"
        + "  - { name: b, to: [ ⟦a.example ] }\n",
        "different budget",
        "same terms",
    ),
    Broken("public suffix", "yaml", _rule('⟦"*.com"'), "public suffix", "anywhere: true"),
    Broken("star", "yaml", _rule('⟦"*"'), "every destination", "anywhere: true"),
    Broken("star inside a label", "yaml", _rule('⟦"a*.x.example"'), "whole labels", "*.x.example"),
    Broken("star above a public suffix", "yaml", _rule('⟦"api.*.com:8443"'), "`api.*.com`", "api.example.com:8443"),
    Broken("star without a dot", "yaml", _rule('⟦"*stripe.com"'), "`*stripe.com`", ".stripe.com (it and below)"),
    Broken(
        "unknown group",
        "yaml",
        V1 + "groups: { aws: [ .aws.dev ] }\nrules: [ { name: a, to: ⟦asw } ]\n",
        "neither",
        "`aws`",
    ),
    Broken("not a name", "yaml", _rule('⟦"a_.exa mple"'), "not a host name", ""),
    Broken("url", "yaml", _rule("⟦https://b.example/x"), "is a URL", "write b.example:"),
    Broken("path", "yaml", _rule("⟦c.example/x"), "`c.example/x`", "write c.example:"),
    Broken("two ports", "yaml", _rule('⟦"c.example:80,443"'), "not a port", "c.example:80, c.example:443"),
    Broken("brackets", "yaml", _rule('⟦"2001:db8::/32:443"'), "not an address", "[2001:db8::/32]:443"),
    Broken("no group", "yaml", _rule("⟦intranet"), "neither", "`intranet.`"),
    Broken("port", "yaml", _rule("⟦c.example:99999"), "not a port", "65535"),
    Broken("range backwards", "yaml", _rule("⟦c.example:90-80"), "backwards", "80-90"),
    Broken("network", "yaml", _rule("⟦10.0.0.0/33"), "not an address or network", "10.20.0.0/16"),
    Broken("host bits", "yaml", _rule("⟦10.0.0.1/8"), "bits set beyond", "10.0.0.0/8"),
    Broken(
        "source",
        "yaml",
        _rule("c.example", "    from: { cidr: [ 10.0.0.0/8, ⟦10.0.0 ] }\n"),
        "not an address or network",
        "10.20",
    ),
    Broken(
        "source by itself",
        "yaml",
        _rule("c.example", "    from: { cidr: ⟦ten }\n"),
        "not an address or network",
        "10.20",
    ),
    Broken("rule name", "yaml", V1 + "rules: [ { name: ⟦Not Good, to: a.example } ]\n", "not a rule name", "a-z 0-9"),
    Broken("no destination", "yaml", V1 + "rules:\n  - ⟦name: a\n", "no destination", "add `to:`"),
    Broken("placeholder", "yaml", _rule("c.example", "    message: ⟦'{rul}'\n"), "unknown placeholder", "{rule}"),
    Broken("brace", "yaml", V1 + "default: { message: ⟦'{rule' }\n", "brace", "twice"),
    Broken("dial", "yaml", _rule("c.example", "    dial: ⟦edge.example\n"), "cannot be dialled", '"edge.example:443"'),
    Broken(
        "terms of a denial",
        "yaml",
        _rule("c.example", "    deny: true\n    dial: ⟦'e.example:1'\n"),
        "lets nothing through",
        "remove",
    ),
    Broken("group name", "yaml", V1 + "groups: { a.b: ⟦[ c.example ] }\n", "not a name for a group", "without a dot"),
    Broken("item of a group", "yaml", V1 + "groups: { a: [ c.example, ⟦'d.example:0' ] }\n", "not a port", "65535"),
    Broken(
        "tie",
        "yaml",
        V1 + "rules:\n  - { name: a, to: x.example }\n  - { name: b, to: ⟦x.example, dial: 'y.example:1' }\n",
        "a",
        "more specific",
    ),
    Broken(
        "listener name",
        "yaml",
        _listener("name: ⟦My Tls, bind: '0.0.0.0:1', accept: tls"),
        "not a listener name",
        "a-z 0-9",
    ),
    Broken(
        "bind", "yaml", _listener("name: t, bind: ⟦':8443', accept: tls"), "not an address with a port", "0.0.0.0:8443"
    ),
    Broken("accept", "yaml", _listener("name: t, bind: '0.0.0.0:1', accept: ⟦tsl"), "not a protocol", "`tls`"),
    Broken(
        "nobody to log in",
        "yaml",
        _listener("name: t, bind: '0.0.0.0:1', accept: connect, login: ⟦required"),
        "nobody may log in",
        "users.txt",
    ),
    Broken(
        "no users file",
        "yaml",
        V1 + "users: { file: ⟦gone.txt }\n",
        "the users file",
        "starts at the policy file",
    ),
    Broken(
        "tcp without to",
        "yaml",
        _listener("⟦name: t, bind: '0.0.0.0:1', accept: tcp").replace("{ ⟦", "⟦{ "),
        "tcp listener",
        'to: "db.partner.com:5432"',
    ),
    Broken(
        "nobody trusted",
        "yaml",
        _listener("name: t, bind: '0.0.0.0:1', accept: tls, proxy_protocol: ⟦required"),
        "there are none",
        "proxy_trusted: 10.0.0.10",
    ),
    Broken(
        "everybody trusted",
        "yaml",
        _listener("name: t, bind: '0.0.0.0:1', accept: tls, proxy_protocol: optional, proxy_trusted: ⟦'0.0.0.0/0'"),
        "trusts everybody",
        "proxy_trusted: 10.0.0.10",
    ),
    Broken(
        "no network",
        "yaml",
        _listener("name: t, bind: '0.0.0.0:1', accept: tls, proxy_protocol: required, proxy_trusted: ⟦balancer"),
        "not an address or network",
        "10.20.0.0/16",
    ),
    Broken(
        "trust without a header",
        "yaml",
        _listener("name: t, bind: '0.0.0.0:1', accept: tls, proxy_trusted: ⟦10.0.0.1"),
        "no meaning",
        "proxy_protocol: required",
    ),
    Broken(
        "a TLV that names nobody",
        "yaml",
        _listener(
            "name: t, bind: '0.0.0.0:1', accept: tls, proxy_protocol: required, proxy_trusted: 10.0.0.1, "
            "proxy_tlv: ⟦alpn"
        ),
        "`alpn`",
        "aws_vpce_id",
    ),
    Broken(
        "a header for questions",
        "yaml",
        _listener("name: t, bind: '0.0.0.0:1', accept: dns, send_proxy: ⟦v1"),
        "answers questions",
        "remove `send_proxy`",
    ),
    Broken(
        "a header for what is denied",
        "yaml",
        V1 + "rules: [ { name: a, deny: true, to: b.example, send_proxy: ⟦v1 } ]\n",
        "`send_proxy` has no meaning",
        "remove",
    ),
    Broken("zero timeout", "yaml", V1 + "timeouts: { connect: ⟦0s }\n", "every connection", "5s"),
    Broken(
        "dns server",
        "yaml",
        V1 + "resolver: { servers: [ 10.0.0.1, ⟦dns.example ] }\n",
        "not an address",
        "10.0.0.10:53",
    ),
    Broken("host address", "yaml", V1 + "resolver: { hosts: { a.example: ⟦b.example } }\n", "`b.example`", "10.20.0.7"),
    Broken(
        "host in two spellings",
        "yaml",
        V1 + "resolver: { hosts: { A.example: 10.0.0.1, a.example: ⟦10.0.0.2 } }\n",
        "twice",
        "under one",
    ),
    Broken("ttl bounds", "yaml", V1 + "resolver: { min_ttl: ⟦10m }\n", "above max_ttl", ""),
    Broken(
        "toml",
        "toml",
        'egress = "v1"\n[[rules]]\nname = "a"\nto = [\n  "b.example",\n  ⟦"*.com",\n]\n',
        "public suffix",
        "anywhere",
    ),
    Broken(
        "json",
        "json",
        '{"egress": "v1", "rules": [\n  {"name": "a", "to": ["b.example", ⟦"*.com"]}]}',
        "public suffix",
        "anywhere",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_compiler_tells_the_place_in_the_file(case: Broken, refuses: Callable[[Broken], ConfigError]) -> None:
    refuses(case)


def test_what_could_be_meant_is_taken(tmp_path: Path) -> None:
    """Bounds that come before others only for a time, and what another file or gateway may make use of."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        CLUSTER
        + "links: { wan: { bandwidth: 1 Mbit/s } }\n"
        + "rules:\n"
        + "  - { name: a, to: a.example, connections: { max: 9, new_per_second: 9, "
        + "per_source: { max: 9, new_per_second: 20, burst: 5 } } }\n"
        + "  - { name: b, to: b.example, bandwidth: 2 Mbit/s, "
        + "budget: { up: 1 GB/day, down: 5 GB/day, per_source: { up: 2 GB/month, down: 5 GB/day } } }\n"
        + "  - { name: c, to: c.example, budget: { up: 1 GB/day, per_source: { up: 2 GB/day }, then: alert } }\n"
    )
    assert check([policy]).policy.rules == 3


def test_what_was_wrong_of_a_section_is_told_once(errors: Errors) -> None:
    (error,) = errors(
        p_yaml="egress: v1\nrules: [ { name: a, to: a.example, connections: { per_source: { max: 0 } } } ]\n"
    )
    assert error.path == "rules[0].connections.per_source.max"


def test_mistakes_of_both_kinds_are_shown_together(errors: Errors) -> None:
    found = errors(
        a_yaml="egress: v1\nworkers: many\nrules: [ { name: a, to: '*.com' } ]\n",
        b_toml='egress = "v1"\n[[rules]]\nname = "b"\nto = "nowhere"\n',
    )
    assert [(each.file, each.line) for each in found] == [("a.yaml", 2), ("a.yaml", 3), ("b.toml", 4)]


def test_a_list_that_is_missing_is_told_once(errors: Errors) -> None:
    (error,) = errors(
        p_yaml="egress: v1\nlists: { ads: { file: gone.txt } }\nrules: [ { name: a, deny: true, to: ads } ]\n"
    )
    assert error.code == "unreadable_list"


def test_a_broken_part_of_a_rule_is_told_once(errors: Errors) -> None:
    (error,) = errors(p_yaml="egress: v1\nrules: [ { name: a, to: 5 } ]\n")
    assert error.path == "rules[0].to"
