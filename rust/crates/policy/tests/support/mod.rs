//! Policies for tests, from the few keys that a test is about.
#![allow(clippy::needless_pass_by_value, dead_code, clippy::unwrap_used, clippy::panic)]

use std::net::IpAddr;

use egress_hello::name::{Host, parse_host};
use egress_policy::{
    Decision, Destination, Evidence, Identity, Problem, Snapshot, Source, compile,
};
use serde_json::{Value, json};

/// A moment in the life of all test policies, in unix seconds.
pub const NOW: u64 = 1_000_000;

/// A whole document around `rules`; `change` may alter the rest.
pub fn document(rules: Value, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut document = json!({
        "v": 1,
        "settings": {
            "workers": 0, "max_flows": 0, "low_latency": false,
            "listeners": [{"name": "tls", "bind": "127.0.0.1:8443", "accept": ["tls"], "port": 443, "to": null}],
            "timeouts": {"first_bytes_ms": 5000, "server_first_ms": 300, "connect_ms": 5000, "idle_ms": 3_600_000, "drain_ms": 300_000, "grace_ms": 0},
            "resolver": {"servers": ["10.0.0.10:53"], "hosts": {"db.partner.com": ["10.20.0.7"]}, "min_ttl_ms": 1000,
                "max_ttl_ms": 300_000, "negative_ttl_ms": 5000, "stale_ms": 300_000, "timeout_ms": 2000, "attempts": 2, "cache_names": 10000},
        },
        "default": {"action": "deny", "mode": "enforce", "message": "Blocked ({rule}). Quote {decision}.", "private_addresses": "deny", "no_name": "deny"},
        "groups": {}, "lists": {}, "rules": [],
    });
    document["rules"] = rules;
    change(&mut document);
    serde_json::to_vec(&document).unwrap()
}

/// A rule: its name, its `to` patterns, and other keys.
pub fn rule(name: &str, to: &[&str], other: Value) -> Value {
    let to: Vec<Value> = to.iter().map(|pattern| json!({ "pattern": pattern })).collect();
    let mut rule = json!({"name": name, "file": "policy.yaml", "line": 1, "to": to});
    for (key, value) in other.as_object().unwrap() {
        rule[key] = value.clone();
    }
    rule
}

pub fn try_open(rules: Value, change: impl FnOnce(&mut Value)) -> Result<Snapshot, Vec<Problem>> {
    compile(&document(rules, change)).map(|bytes| Snapshot::open(bytes).unwrap())
}

pub fn open(rules: Value) -> Snapshot {
    open_with(rules, |_| {})
}

pub fn open_with(rules: Value, change: impl FnOnce(&mut Value)) -> Snapshot {
    try_open(rules, change).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

pub fn host(text: &str) -> Host {
    parse_host(text.as_bytes()).unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `10.0.0.1 user=alice spiffe=spiffe://td/x tlv=y evidence=login`: an address, and what else the caller has shown.
pub fn caller<T>(text: &str, act: impl FnOnce(Source<'_>) -> T) -> T {
    let mut words = text.split(' ');
    let address = ip(words.next().unwrap());
    let (mut identity, mut evidence) = (Identity::default(), Evidence::Address);
    for word in words {
        let (key, value) = word.split_once('=').unwrap();
        match key {
            "user" => identity = identity.with_user(value.as_bytes()),
            "tlv" => identity = identity.with_tlv(value.as_bytes()),
            "spiffe" => identity = identity.with_spiffe(value),
            "evidence" => {
                let number = Evidence::WORDS.iter().find(|(_, word)| *word == value).unwrap().0;
                evidence = Evidence::from_number(number).unwrap();
            }
            _ => panic!("{key}"),
        }
    }
    act(Source::new(address, evidence, Some(&identity)))
}

/// `source` as [`caller`] reads it.
pub fn decide(snapshot: &Snapshot, source: &str, to: &str, port: u16) -> Decision {
    let host = host(to);
    let destination = match &host {
        Host::Name(name) => Destination::Name(name),
        Host::Ip(ip) => Destination::Ip(*ip),
    };
    let class = caller(source, |source| snapshot.source(source));
    snapshot.decide(class, destination, port, NOW)
}

/// "verdict reason rule" of a decision.
pub fn words(snapshot: &Snapshot, decision: &Decision) -> String {
    let rule = decision.rule.and_then(|rule| snapshot.rule(rule)).map_or("-", |rule| rule.name);
    format!("{} {} {rule}", decision.verdict, decision.reason)
}

pub fn says(snapshot: &Snapshot, source: &str, to: &str, port: u16) -> String {
    words(snapshot, &decide(snapshot, source, to, port))
}
