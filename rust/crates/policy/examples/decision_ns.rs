//! Nanoseconds per decision at growing numbers of names and rules; seconds to compile; bytes per name.
//! `cargo run --release -p egress-policy --example decision_ns`
#![allow(clippy::needless_pass_by_value, clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::IpAddr;
use std::time::Instant;

use egress_hello::name::{Host, Name, parse_host};
use egress_policy::{Destination, Snapshot, compile};
use serde_json::{Value, json};

/// Decisions per measurement: enough that the clock's own cost vanishes.
const ROUNDS: usize = 1_000_000;
/// Names asked for in turn: more than the caches of a core hold lines for.
const ASKED: usize = 50_000;

fn document(rules: &[Value], lists: Value) -> Vec<u8> {
    serde_json::to_vec(&json!({
        "v": 1,
        "settings": {
            "workers": 0, "max_flows": 0, "low_latency": false, "listeners": [],
            "timeouts": {"first_bytes_ms": 1, "server_first_ms": 1, "connect_ms": 1, "idle_ms": 1, "drain_ms": 1, "grace_ms": 1},
            "resolver": {"servers": [], "hosts": {}, "min_ttl_ms": 1, "max_ttl_ms": 1, "negative_ttl_ms": 1, "stale_ms": 1,
                "timeout_ms": 1, "attempts": 1, "cache_names": 1},
        },
        "default": {"action": "deny", "mode": "enforce", "message": "", "private_addresses": "deny", "no_name": "deny"},
        "lists": lists, "rules": rules,
    }))
    .unwrap()
}

fn name(text: &str) -> Name {
    match parse_host(text.as_bytes()) {
        Ok(Host::Name(name)) => name,
        other => panic!("{text}: {other:?}"),
    }
}

fn listed(number: usize) -> String {
    format!("host{number}.zone{}.example.com", number % 9973)
}

fn measure(snapshot: &Snapshot, names: &[Name]) -> f64 {
    let sources: Vec<_> =
        (0..64_u8).map(|last| snapshot.source(IpAddr::from([10, 0, last, 1]))).collect();
    let start = Instant::now();
    for round in 0..ROUNDS {
        let name = &names[round % names.len()];
        black_box(snapshot.decide(sources[round % 64], Destination::Name(black_box(name)), 443, 1));
    }
    start.elapsed().as_nanos() as f64 / ROUNDS as f64
}

fn report(what: &str, count: usize, document: &[u8], asked: impl Fn(usize) -> String) {
    let start = Instant::now();
    let bytes = compile(document).unwrap_or_else(|problems| panic!("{:?}", &problems[..1]));
    let compiled = start.elapsed();
    let size = bytes.len();
    let start = Instant::now();
    let snapshot = Snapshot::open(bytes).unwrap();
    let opened = start.elapsed();
    let step = (count / ASKED).max(1);
    let hits: Vec<Name> = (0..count.min(ASKED)).map(|at| name(&asked(at * step))).collect();
    let misses: Vec<Name> =
        (0..count.min(ASKED)).map(|at| name(&format!("absent{at}.zone.example.net"))).collect();
    println!(
        "{count:>8} {what:<6} hit {:>6.1} ns   miss {:>6.1} ns   compile {:>7.3} s   open {:>7.4} s   {:>6.1} B each",
        measure(&snapshot, &hits),
        measure(&snapshot, &misses),
        compiled.as_secs_f64(),
        opened.as_secs_f64(),
        size as f64 / count as f64,
    );
}

fn main() {
    if cfg!(debug_assertions) {
        println!("this is a debug build: its figures mean nothing");
    }
    for count in [100, 10_000, 1_000_000] {
        let mut text = String::new();
        (0..count).for_each(|number| writeln!(text, "{}", listed(number)).unwrap());
        let file = std::env::temp_dir().join(format!("egress-decision-ns-{}", std::process::id()));
        std::fs::write(&file, &text).unwrap();
        let rules = [json!({"name": "ads", "deny": true, "to": [{"pattern": "ads"}]})];
        report("names", count, &document(&rules, json!({"ads": {"file": file}})), listed);
        std::fs::remove_file(&file).unwrap();
    }
    for count in [100, 1_000, 10_000, 100_000] {
        let rule = |number: usize| {
            json!({"name": format!("r{number}"), "to": [{"pattern": listed(number)}, {"pattern": format!("*.z{number}.org")}],
                "from": [{"cidr": format!("10.0.{}.0/24", number % 64)}, {"cidr": "10.0.0.0/8"}]})
        };
        let rules: Vec<Value> = (0..count).map(rule).collect();
        report("rules", count, &document(&rules, json!({})), listed);
    }
}
