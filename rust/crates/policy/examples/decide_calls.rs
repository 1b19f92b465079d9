//! Decides so many times by a policy of 1,000 rules and prints nothing: what valgrind counts instructions of.
//! `decide_calls TIMES`; half of the names are in the policy.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::hint::black_box;
use std::net::IpAddr;

use egress_hello::name::{Host, Name, parse_host};
use egress_policy::{Destination, Snapshot, compile};
use serde_json::{Value, json};

/// Rules of the policy, and names that are asked for in turn.
const RULES: usize = 1_000;

fn document() -> Vec<u8> {
    let rule = |number: usize| {
        json!({"name": format!("r{number}"), "from": [{"cidr": "10.0.0.0/8"}],
            "to": [{"pattern": format!("api{number}.example.com")}, {"pattern": format!("*.svc{number}.example.org")}]})
    };
    let rules: Vec<Value> = (0..RULES).map(rule).collect();
    serde_json::to_vec(&json!({
        "v": 1,
        "settings": {
            "workers": 0, "max_flows": 0, "low_latency": false, "listeners": [],
            "timeouts": {"first_bytes_ms": 1, "server_first_ms": 1, "connect_ms": 1, "idle_ms": 1, "drain_ms": 1, "grace_ms": 1},
            "resolver": {"servers": [], "hosts": {}, "min_ttl_ms": 1, "max_ttl_ms": 1, "negative_ttl_ms": 1, "stale_ms": 1,
                "timeout_ms": 1, "attempts": 1, "cache_names": 1},
        },
        "default": {"action": "deny", "mode": "enforce", "message": "", "private_addresses": "deny", "no_name": "deny"},
        "lists": {}, "rules": rules,
    }))
    .unwrap()
}

fn name(text: &str) -> Name {
    match parse_host(text.as_bytes()) {
        Ok(Host::Name(name)) => name,
        other => panic!("{text}: {other:?}"),
    }
}

fn main() {
    let times: usize = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let snapshot = Snapshot::open(compile(&document()).unwrap()).unwrap();
    let source = snapshot.source(IpAddr::from([10, 0, 0, 1]));
    let names: Vec<Name> = (0..RULES)
        .map(|number| {
            name(&format!("{}{number}.example.com", if number % 2 == 0 { "api" } else { "no" }))
        })
        .collect();
    for round in 0..times {
        let asked = &names[round % RULES];
        black_box(snapshot.decide(source, Destination::Name(black_box(asked)), 443, 1));
    }
}
