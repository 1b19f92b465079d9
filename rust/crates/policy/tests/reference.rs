//! The matcher says what a naive reader of the rules says, for random policies.
#![allow(clippy::unwrap_used, clippy::panic)]
mod support;

use std::cmp::Reverse;

use egress_policy::Snapshot;
use ipnet::IpNet;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::*;

#[derive(Debug, Clone)]
struct Rule {
    name: String,
    from: Vec<&'static str>,
    to: Vec<(&'static str, Option<(u16, u16)>)>,
    deny: bool,
    audit: bool,
    until: Option<u64>,
}

const NAMES: [&str; 7] =
    ["a.x.org", "b.a.x.org", "x.org", "y.org", "c.y.org", "z.b.a.x.org", "q.net"];
const PATTERNS: [&str; 15] = [
    "a.x.org",
    "x.org",
    "*.x.org",
    ".x.org",
    "*.a.x.org",
    ".a.x.org",
    "y.org",
    "*.y.org",
    ".y.org",
    "*",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.1.1",
    "fd00::/16",
    "8.8.0.0/16",
];
const ADDRESSES: [&str; 6] = ["10.0.0.1", "10.1.0.1", "10.1.1.1", "fd00::1", "8.8.8.8", "9.9.9.9"];
const SOURCES: [&str; 6] =
    ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "fd00::/8", "fd00:1::/32"];
const CALLERS: [&str; 5] = ["10.1.2.3", "10.1.2.4", "10.9.9.9", "fd00:1::9", "192.0.2.1"];
/// Nested or disjoint only: overlaps are ties, which another test is about.
const PORTS: [(u16, u16); 6] =
    [(443, 443), (80, 80), (440, 450), (400, 500), (0, u16::MAX), (8000, 8100)];

fn written(pattern: &str, ports: (u16, u16)) -> String {
    let ports = match ports {
        (0, u16::MAX) => "*".to_owned(),
        (low, high) if low == high => low.to_string(),
        (low, high) => format!("{low}-{high}"),
    };
    if pattern.contains(':') {
        format!("[{pattern}]:{ports}")
    } else {
        format!("{pattern}:{ports}")
    }
}

fn to_json(rule: &Rule) -> Value {
    let to: Vec<String> = rule
        .to
        .iter()
        .map(|(pattern, ports)| {
            ports.map_or((*pattern).to_owned(), |ports| written(pattern, ports))
        })
        .collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let from: Vec<Value> = rule.from.iter().map(|cidr| json!({ "cidr": cidr })).collect();
    let mode = if rule.audit { "audit" } else { "enforce" };
    json!(support::rule(
        &rule.name,
        &to,
        json!({"from": from, "deny": rule.deny, "mode": mode, "until": rule.until, "anywhere": true})
    ))
}

/// How specific `pattern` is for `to`; larger is more specific, `None` if it does not match.
fn specificity(pattern: &str, to: &str) -> Option<(u32, u32)> {
    if pattern == "*" {
        return Some((0, 0));
    }
    if let Ok(address) = to.parse::<std::net::IpAddr>() {
        let net = pattern
            .parse::<IpNet>()
            .or_else(|_| pattern.parse().map(|ip: std::net::IpAddr| IpNet::from(ip)))
            .ok()?;
        return net.contains(&address).then(|| (1, u32::from(net.prefix_len())));
    }
    if pattern == to {
        return Some((u32::MAX, 0));
    }
    if let Some(suffix) = pattern.strip_prefix("*.") {
        return to
            .strip_suffix(suffix)
            .filter(|rest| rest.ends_with('.'))
            .map(|_| (suffix.len() as u32, 1));
    }
    let suffix = pattern.strip_prefix('.')?;
    (to == suffix || to.ends_with(pattern)).then_some((suffix.len() as u32, 0))
}

/// Straight from the meaning: "verdict reason rule", and whether later refusals are enforced.
fn judge(
    rules: &[Rule],
    default_allow: bool,
    default_audit: bool,
    source: &str,
    to: &str,
    port: u16,
) -> (String, bool) {
    let caller: std::net::IpAddr = source.parse().unwrap();
    let (mut denied, mut audited, mut allows) = (Vec::new(), Vec::new(), Vec::new());
    for rule in rules.iter().filter(|rule| rule.until.is_none_or(|until| NOW < until)) {
        let from = if rule.from.is_empty() {
            Some(-1)
        } else {
            let nets = rule.from.iter().map(|cidr| cidr.parse::<IpNet>().unwrap());
            nets.filter(|net| net.contains(&caller)).map(|net| i32::from(net.prefix_len())).max()
        };
        let Some(from) = from else { continue };
        for (pattern, ports) in &rule.to {
            let default = if rule.deny { (0, u16::MAX) } else { (443, 443) };
            let (low, high) = ports.unwrap_or(default);
            let Some(place) = specificity(pattern, to).filter(|_| low <= port && port <= high)
            else {
                continue;
            };
            match (rule.deny, rule.audit) {
                (true, false) => denied.push(&rule.name),
                (true, true) => audited.push(&rule.name),
                (false, audit) => {
                    allows.push((Reverse(place), high - low, Reverse(from), &rule.name, audit))
                }
            }
        }
    }
    if !denied.is_empty() {
        return ("deny rule_deny".into(), false);
    }
    allows.sort();
    let would = |audit| {
        if audited.is_empty() { None } else { Some(("would_deny rule_deny".to_owned(), audit)) }
    };
    match allows.first() {
        Some((.., name, audit)) => would(*audit).unwrap_or((format!("allow rule {name}"), *audit)),
        None if default_allow => {
            would(default_audit).unwrap_or(("allow default_allow -".into(), default_audit))
        }
        None if default_audit => would(true).unwrap_or(("would_deny default_deny -".into(), true)),
        None => ("deny default_deny -".into(), false),
    }
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let item =
        (prop::sample::select(&PATTERNS[..]), prop::option::of(prop::sample::select(&PORTS[..])));
    let rule = (
        prop::collection::vec(prop::sample::select(&SOURCES[..]), 0..3),
        prop::collection::vec(item, 1..4),
        prop::bool::weighted(0.25),
        prop::bool::weighted(0.3),
        prop::option::weighted(0.3, prop::sample::select(&[NOW - 1, NOW, NOW + 1][..])),
    );
    prop::collection::vec(rule, 0..8).prop_map(|rules| {
        let named = |(index, (from, to, deny, audit, until))| Rule {
            name: format!("r{index}"),
            from,
            to,
            deny,
            audit,
            until,
        };
        rules.into_iter().enumerate().map(named).collect()
    })
}

fn check(snapshot: &Snapshot, rules: &[Rule], allow: bool, audit: bool) {
    for source in CALLERS {
        for to in NAMES.iter().chain(&ADDRESSES) {
            for port in [443, 80, 445, 480, 8050, 1] {
                let decision = decide(snapshot, source, to, port);
                let said = words(snapshot, &decision);
                let (expected, enforced) = judge(rules, allow, audit, source, to, port);
                assert!(
                    said.starts_with(&expected),
                    "{source} {to}:{port}: said {said}, expected {expected}\n{rules:#?}"
                );
                assert_eq!(decision.audit, enforced, "{source} {to}:{port} {said}\n{rules:#?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, max_global_rejects: 100_000, ..ProptestConfig::default() })]
    #[test]
    fn agrees_with_a_naive_reader(rules in rules(), allow: bool, audit: bool) {
        let json: Vec<Value> = rules.iter().map(to_json).collect();
        let opened = try_open(json.into(), |document| {
            document["default"]["action"] = json!(if allow { "allow" } else { "deny" });
            document["default"]["mode"] = json!(if audit { "audit" } else { "enforce" });
        });
        match opened {
            Ok(snapshot) => check(&snapshot, &rules, allow, audit),
            // Random rules may tie (enforce beside audit); every problem must be such a tie.
            Err(problems) => prop_assert!(problems.iter().all(|problem| problem.code == "tie"), "{problems:?}"),
        }
    }
}
