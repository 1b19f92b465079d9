"""The normalised document has every default filled in and one spelling for everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from egress_gateway.check import check
from egress_gateway.errors import ConfigErrors
from egress_gateway.load import Loaded, load

UNPROXIED = {"proxy_protocol": "off", "proxy_trusted": [], "proxy_tlv": None, "send_proxy": "off", "login": "off"}
SETTINGS = {
    "workers": 0,
    "max_flows": 0,
    "low_latency": False,
    "listeners": [
        {"name": "tls", "bind": "0.0.0.0:8443", "accept": ["tls"], "port": 443, "to": None} | UNPROXIED,
        {"name": "proxy", "bind": "0.0.0.0:3128", "accept": ["connect"], "port": None, "to": None} | UNPROXIED,
    ],
    "timeouts": {
        "first_bytes_ms": 5000, "server_first_ms": 300, "connect_ms": 5000, "idle_ms": 3600000, "drain_ms": 300000,
        "grace_ms": 0,
    },
    "resolver": {
        "servers": [], "hosts": {}, "min_ttl_ms": 1000, "max_ttl_ms": 300000, "negative_ttl_ms": 5000,
        "stale_ms": 300000, "timeout_ms": 2000, "attempts": 2, "cache_names": 10000,
    },
    "budgets": {"store": "/var/lib/egress/budgets.redb", "time_zone": "UTC"},
    "cluster": None,
}  # fmt: skip


def _load(directory: Path, text: str) -> tuple[Loaded, Any]:
    (directory / "policy.yaml").write_text("egress: v1\n" + text)
    loaded = load([directory / "policy.yaml"])
    return loaded, json.loads(loaded.document)


def test_a_file_of_one_line_has_every_default(tmp_path: Path) -> None:
    loaded, document = _load(tmp_path, "")
    assert document == {
        "v": 1,
        "settings": SETTINGS,
        "default": {
            "action": "deny",
            "mode": "enforce",
            "message": "Blocked by egress policy ({rule}). Quote {decision}.",
            "private_addresses": "deny",
            "no_name": "deny",
            "on_deny": "native",
        },
        "groups": {},
        "lists": {},
        "users": None,
        "links": {},
        "rules": [],
    }
    assert (loaded.admin, loaded.log) == ("127.0.0.1:9900", "stdout")


def test_a_rule_is_spelt_out(tmp_path: Path) -> None:
    _, document = _load(
        tmp_path,
        """rules:
  - name: a
    from: [ { cidr: [ 10.0.0.0/8, 10.1.0.0/16 ] }, { cidr: 192.0.2.1 } ]
    to: [ "x.example:8000-8100", { name: y.example, addresses: [ 10.2.0.0/16 ] } ]
    until: 2026-12-01
    connections: { max: 5 }
""",
    )
    assert document["rules"] == [
        {
            "name": "a", "file": str(tmp_path / "policy.yaml"), "line": 3,
            "from": [{"cidr": "10.0.0.0/8"}, {"cidr": "10.1.0.0/16"}, {"cidr": "192.0.2.1"}],
            "evidence": None,
            "to": [{"pattern": "x.example:8000-8100"}, {"name": "y.example", "addresses": ["10.2.0.0/16"]}],
            "anywhere": False, "deny": False, "mode": None, "message": None, "on_deny": None,
            "owner": None, "why": None,
            "until": 1796083200, "bandwidth": None, "budget": None,
            "connections": {"max": 5, "new_per_second": None, "burst": None, "per_source": None, "wait_ms": 0},
            "dial": None, "sni": "agree", "send_proxy": None,
        }
    ]  # fmt: skip


def test_bounds_of_connections_are_spelt_out(tmp_path: Path) -> None:
    _, document = _load(
        tmp_path,
        "rules: [ { name: a, to: x.example, connections: { "
        "new_per_second: 2, burst: 3, per_source: { max: 4, new_per_second: 5, burst: 6 }, when_full: wait 1.5s } } ]",
    )
    assert document["rules"][0]["connections"] == {
        "max": None, "new_per_second": 2, "burst": 3, "wait_ms": 1500,
        "per_source": {"max": 4, "new_per_second": 5, "burst": 6},
    }  # fmt: skip


def test_budgets_are_spelt_out(tmp_path: Path) -> None:
    _, document = _load(
        tmp_path,
        """budgets: { store: state/bytes, time_zone: Europe/Berlin }
rules:
  - { name: a, to: a.example, budget: { up: 1.5 GB/day, per_source: { down: 20 MB/hour }, then: slow 256 kbit/s } }
  - { name: b, to: b.example, budget: { down: 1 TB/month } }
""",
    )
    assert document["settings"]["budgets"] == {"store": str(tmp_path / "state/bytes"), "time_zone": "Europe/Berlin"}
    assert [rule["budget"] for rule in document["rules"]] == [
        {
            "all": {"up": {"bytes": 1_500_000_000, "per": "day"}, "down": None},
            "each": {"up": None, "down": {"bytes": 20_000_000, "per": "hour"}},
            "then": {"slow": 256_000},
        },
        {
            "all": {"up": None, "down": {"bytes": 10**12, "per": "month"}},
            "each": {"up": None, "down": None},
            "then": "deny",
        },
    ]


def test_shared_limits_are_spelt_out(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a password\n")
    _, document = _load(
        tmp_path,
        """cluster: { store: "redis://egress@valkey/2", password_file: secret, replicas: 3 }
links: { wan: { bandwidth: 1 Gbit/s, scope: cluster }, lan: { bandwidth: 2 Gbit/s } }
rules: [ { name: a, to: x.example, bandwidth: { max: 5 Mbit/s, scope: cluster, link: lan } } ]
""",
    )
    assert document["settings"]["cluster"] == {
        "store": "redis://egress@valkey/2", "password": "a password", "ca": None, "group": "egress", "replicas": 3,
    }  # fmt: skip
    assert document["links"] == {
        "wan": {"bandwidth": 1_000_000_000, "scope": "cluster"},
        "lan": {"bandwidth": 2_000_000_000, "scope": "gateway"},
    }
    assert document["rules"][0]["bandwidth"]["scope"] == "cluster"


def test_settings_are_spelt_out(tmp_path: Path) -> None:
    loaded, document = _load(
        tmp_path,
        """listeners:
  - { name: t, bind: "[::]:1", accept: [tls], port: 8443 }
  - { name: db, bind: "0.0.0.0:2", accept: tcp, to: "db.example:5432" }
resolver: { servers: [ 10.0.0.10, "2001:db8::1", "10.0.0.11:5353" ], hosts: { a.example: 10.0.0.1 }, stale: 1m }
workers: 3
max_flows: 100
low_latency: true
admin: { bind: off }
log: { decisions: ./decisions.jsonl }
""",
    )
    settings = document["settings"]
    assert [(each["accept"], each["port"], each["to"]) for each in settings["listeners"]] == [
        (["tls"], 8443, None),
        (["tcp"], None, "db.example:5432"),
    ]
    assert settings["resolver"]["servers"] == ["10.0.0.10:53", "[2001:db8::1]:53", "10.0.0.11:5353"]
    assert settings["resolver"]["hosts"] == {"a.example": ["10.0.0.1"]}
    assert settings["resolver"]["stale_ms"] == 60_000
    assert (settings["workers"], settings["max_flows"], settings["low_latency"]) == (3, 100, True)
    assert (loaded.admin, loaded.log) == (None, str(tmp_path / "decisions.jsonl"))


def test_the_three_formats_say_the_same(tmp_path: Path) -> None:
    texts = {
        "p.yaml": "egress: v1\nrules:\n  - { name: a, to: x.example, until: 2026-12-01, connections: { max: 2 } }\n",
        "p.toml": 'egress = "v1"\n[[rules]]\nname = "a"\nto = "x.example"\nuntil = 2026-12-01\nconnections.max = 2\n',
        "p.json": '{"egress":"v1","rules":[{"name":"a","to":"x.example","until":"2026-12-01","connections":'
        '{"max":2}}]}',
    }
    seen = []
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        document = json.loads(load([tmp_path / name]).document)
        seen.append([{**rule, "file": "", "line": 0} for rule in document["rules"]])
    assert seen[0] == seen[1] == seen[2]


def test_lists_of_several_keys_of_a_source_are_multiplied_and_each_part_keeps_its_place(tmp_path: Path) -> None:
    text = """rules:
  - name: a
    from:
      - { user: [ alice, bob ], cidr: [ 10.0.0.0/8, 10.0.0 ] }
      - { spiffe: "spiffe://td/x/*", tlv: vpce-1 }
    evidence: login
    to: x.example
"""
    _, document = _load(tmp_path, text)
    (rule,) = document["rules"]
    assert rule["evidence"] == "login"
    assert rule["from"] == [
        {"cidr": "10.0.0.0/8", "user": "alice"}, {"cidr": "10.0.0.0/8", "user": "bob"},
        {"cidr": "10.0.0", "user": "alice"}, {"cidr": "10.0.0", "user": "bob"},
        {"spiffe": "spiffe://td/x/*", "tlv": "vpce-1"},
    ]  # fmt: skip
    with pytest.raises(ConfigErrors) as raised:
        check([tmp_path / "policy.yaml"])
    assert {(error.line, error.column, error.code) for error in raised.value.errors} == {(5, 53, "bad_network")}


def test_a_product_of_lists_that_is_too_large_is_refused_and_not_written_out(tmp_path: Path) -> None:
    users = ", ".join(f"u{n}" for n in range(2000))
    (tmp_path / "policy.yaml").write_text(
        f"egress: v1\nrules:\n  - {{ name: a, from: {{ user: [ {users} ], tlv: [ {users} ] }}, to: x.example }}\n"
    )
    with pytest.raises(ConfigErrors) as raised:
        check([tmp_path / "policy.yaml"])
    assert [error.code for error in raised.value.errors] == ["too_many"]
