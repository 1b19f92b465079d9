//! The matcher says what a naive reader of the rules says, for random policies, in any order of the rules; and
//! what is refused as a tie is what a naive reader could not order.
#![allow(clippy::unwrap_used, clippy::panic)]
mod support;

use std::cmp::Reverse;

use egress_policy::{RuleId, Snapshot};
use ipnet::IpNet;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::*;

#[derive(Debug, Clone)]
struct Rule {
    name: String,
    /// Words of [`Caller`] or networks, of which all must hold.
    from: Vec<&'static str>,
    evidence: usize,
    to: Vec<(&'static str, Option<(u16, u16)>)>,
    deny: bool,
    audit: bool,
    sni_any: bool,
    until: Option<u64>,
    /// Its destinations are written in a group.
    grouped: bool,
}

/// What the naive reader says of a flow.
#[derive(Debug, PartialEq)]
struct Said<'a> {
    verdict: &'static str,
    reason: &'static str,
    /// The rules of which one is named; empty for the default.
    rules: Vec<&'a str>,
    terms: Option<&'a str>,
    /// Later refusals are recorded only.
    audit: bool,
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
const SOURCES: [&str; 18] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "fd00::/8",
    "fd00:1::/32",
    "10.0.0.0/8 user=alice",
    "10.1.2.0/24 user=alice",
    "user=alice",
    "user=bob",
    "user=alice tlv=pod",
    "tlv=pod",
    "10.1.0.0/16 tlv=pod",
    "spiffe=spiffe://td/a/*",
    "spiffe=spiffe://td/a/b",
    "spiffe=spiffe://td/a/b/*",
    "spiffe=spiffe://td/* user=alice",
    "10.1.2.3/32 spiffe=spiffe://td/a/* user=bob tlv=pod",
];
const CALLERS: [&str; 13] = [
    "10.1.2.3",
    "10.1.2.4",
    "10.9.9.9",
    "fd00:1::9",
    "192.0.2.1",
    "10.1.2.3 user=alice",
    "192.0.2.1 user=bob tlv=pod",
    "10.1.2.4 user=alicea",
    "10.1.2.3 tlv=pod",
    "10.1.2.3 spiffe=spiffe://td/a",
    "10.1.2.3 spiffe=spiffe://td/a/b user=alice",
    "10.1.2.3 spiffe=spiffe://td/a/b/c user=bob tlv=pod",
    "192.0.2.1 spiffe=spiffe://td/ab tlv=nobody",
];
const EVIDENCES: [&str; 4] = ["address", "proxy_header", "login", "certificate"];
/// Keys of a source with the evidence that stands behind them, strongest last.
const KEYS: [(&str, usize); 3] = [("tlv", 1), ("user", 2), ("spiffe", 3)];
const PORTS: [(u16, u16); 8] = [
    (443, 443),
    (80, 80),
    (440, 450),
    (445, 455),
    (435, 445),
    (400, 500),
    (0, u16::MAX),
    (8000, 8100),
];

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
    let group = format!("g-{}", rule.name);
    let to: Vec<&str> =
        if rule.grouped { vec![&group] } else { to.iter().map(String::as_str).collect() };
    let from: Vec<Value> = rule.from.iter().map(|source| item(source)).collect();
    let mode = if rule.audit { "audit" } else { "enforce" };
    json!(support::rule(
        &rule.name,
        &to,
        json!({"from": from, "deny": rule.deny, "mode": mode, "until": rule.until, "anywhere": true,
            "evidence": EVIDENCES[rule.evidence],
            "sni": if rule.sni_any && !rule.deny { "any" } else { "agree" }})
    ))
}

/// `cidr user=x` as an item of `from`.
fn item(source: &str) -> Value {
    let pair = |word: &str| {
        let (key, value) = word.split_once('=').unwrap_or(("cidr", word));
        (key.to_owned(), json!(value))
    };
    source.split(' ').map(pair).collect::<serde_json::Map<_, _>>().into()
}

fn part<'a>(source: &'a str, key: &str) -> Option<&'a str> {
    source.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// The strongest evidence that the parts of a source or of a caller stand for.
fn shown(source: &str) -> usize {
    let found = KEYS.iter().filter(|(key, _)| part(source, key).is_some());
    found.map(|(_, evidence)| *evidence).max().unwrap_or(0)
}

/// The sources of a rule: the item, and what is demanded beyond it.
fn sources(rule: &Rule) -> Vec<(&'static str, usize)> {
    let from = if rule.from.is_empty() { &["::/none"] } else { &rule.from[..] };
    let beyond = |item: &str| if rule.evidence > shown(item) { rule.evidence } else { 0 };
    from.iter().map(|item| (*item, beyond(item))).collect()
}

/// How specific a source is for a caller, by certificate, user, TLV, evidence, network; `None` if it does not hold.
fn holds(item: &str, evidence: usize, caller: &str) -> Option<[i64; 5]> {
    let spiffe = match (part(item, "spiffe"), part(caller, "spiffe")) {
        (None, _) => -1,
        (Some(wanted), id) => match (wanted.strip_suffix('*'), id?) {
            (Some(prefix), id) if id.starts_with(prefix) => prefix.len() as i64,
            (None, id) if id == wanted => i64::MAX,
            _ => return None,
        },
    };
    let same = |key| match part(item, key) {
        None => Some(-1),
        wanted => (wanted == part(caller, key)).then_some(0),
    };
    if evidence > shown(caller) {
        return None;
    }
    let ip: std::net::IpAddr = caller.split(' ').next()?.parse().ok()?;
    let net = match item.split(' ').next()?.parse::<IpNet>() {
        Ok(net) => net.contains(&ip).then(|| i64::from(net.prefix_len()))?,
        Err(_) => -1,
    };
    Some([spiffe, same("user")?, same("tlv")?, evidence as i64, net])
}

fn groups(rules: &[Rule]) -> Value {
    let group = |rule: &Rule| {
        let items = rule.to.iter().map(|(pattern, ports)| {
            ports.map_or((*pattern).to_owned(), |ports| written(pattern, ports))
        });
        (format!("g-{}", rule.name), json!(items.collect::<Vec<_>>()))
    };
    rules.iter().filter(|rule| rule.grouped).map(group).collect::<serde_json::Map<_, _>>().into()
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

fn ports_of(rule: &Rule, ports: Option<(u16, u16)>) -> (u16, u16) {
    ports.unwrap_or(if rule.deny { (0, u16::MAX) } else { (443, 443) })
}

/// Two allows of one destination and one source that a port matches alike, and that say different things.
fn ties(rules: &[Rule]) -> bool {
    let allows: Vec<_> = rules
        .iter()
        .filter(|rule| !rule.deny)
        .flat_map(|rule| rule.to.iter().map(move |(to, ports)| (rule, to, ports_of(rule, *ports))))
        .collect();
    allows.iter().any(|(one, to, (low, high))| {
        allows.iter().any(|(two, other, (from, until))| {
            let sources = sources(one).iter().any(|source| sources(two).contains(source));
            // Of nested ranges the inner one is narrower.
            let alike =
                (low, high) == (from, until) || (low < from && from <= high && high < until);
            let terms = (one.audit, one.sni_any) != (two.audit, two.sni_any);
            to == other && sources && alike && terms
        })
    })
}

/// Straight from the meaning.
fn judge<'a>(
    rules: &'a [Rule],
    default_allow: bool,
    default_audit: bool,
    source: &str,
    to: &str,
    port: u16,
) -> Said<'a> {
    let (mut denied, mut audited, mut allows) = (Vec::new(), Vec::new(), Vec::new());
    for rule in rules.iter().filter(|rule| rule.until.is_none_or(|until| NOW < until)) {
        let of = sources(rule);
        let held = of.iter().filter_map(|(item, evidence)| holds(item, *evidence, source));
        let Some(from) = held.max() else { continue };
        for (pattern, ports) in &rule.to {
            let (low, high) = ports_of(rule, *ports);
            let Some(place) = specificity(pattern, to).filter(|_| low <= port && port <= high)
            else {
                continue;
            };
            match (rule.deny, rule.audit) {
                (true, false) => denied.push(rule.name.as_str()),
                (true, true) => audited.push(rule.name.as_str()),
                (false, audit) => allows.push((
                    Reverse(place),
                    high - low,
                    Reverse(from),
                    rule.name.as_str(),
                    audit,
                )),
            }
        }
    }
    let said = |verdict, reason, rules, terms, audit| Said { verdict, reason, rules, terms, audit };
    if !denied.is_empty() {
        return said("deny", "rule_deny", denied, None, false);
    }
    allows.sort();
    let goes_on = match allows.first() {
        Some((.., name, audit)) => said("allow", "rule", vec![*name], Some(*name), *audit),
        None if default_allow => said("allow", "default_allow", vec![], None, default_audit),
        None if default_audit => said("would_deny", "default_deny", vec![], None, true),
        None => return said("deny", "default_deny", vec![], None, false),
    };
    if audited.is_empty() {
        return goes_on;
    }
    Said { verdict: "would_deny", reason: "rule_deny", rules: audited, ..goes_on }
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let item =
        (prop::sample::select(&PATTERNS[..]), prop::option::of(prop::sample::select(&PORTS[..])));
    let rule = (
        prop::collection::vec(prop::sample::select(&SOURCES[..]), 0..3),
        prop_oneof![4 => Just(0_usize), 1 => 1_usize..4],
        prop::collection::vec(item, 1..4),
        prop::bool::weighted(0.25),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.3),
        prop::option::weighted(0.3, prop::sample::select(&[NOW - 1, NOW, NOW + 1][..])),
    );
    prop::collection::vec(rule, 0..8).prop_map(|rules| {
        let named = |(index, (from, evidence, to, deny, audit, sni_any, grouped, until))| Rule {
            name: format!("r{index}"),
            from,
            evidence: if deny { 0 } else { evidence },
            to,
            deny,
            audit,
            sni_any,
            until,
            grouped,
        };
        rules.into_iter().enumerate().map(named).collect()
    })
}

fn check(snapshot: &Snapshot, rules: &[Rule], allow: bool, audit: bool) {
    for source in CALLERS {
        for to in NAMES.iter().chain(&ADDRESSES) {
            for port in [443, 80, 445, 480, 8050, 1] {
                let decision = decide(snapshot, source, to, port);
                let expected = judge(rules, allow, audit, source, to, port);
                let name = |rule: Option<RuleId>| {
                    rule.and_then(|rule| snapshot.rule(rule)).map(|rule| rule.name)
                };
                let named = name(decision.rule);
                let said = Said {
                    verdict: decision.verdict.word(),
                    reason: decision.reason.word(),
                    rules: match named {
                        Some(rule) if expected.rules.contains(&rule) => expected.rules.clone(),
                        other => other.into_iter().collect(),
                    },
                    terms: name(decision.terms),
                    audit: decision.audit,
                };
                assert_eq!(said, expected, "{source} {to}:{port} {named:?}\n{rules:#?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn agrees_with_a_naive_reader(rules in rules(), allow: bool, audit: bool, turn in 0_usize..8) {
        let mut json: Vec<Value> = rules.iter().map(to_json).collect();
        json.rotate_left(turn.min(rules.len()));
        if turn % 2 == 1 {
            json.reverse();
        }
        let opened = try_open(json.into(), |document| {
            document["groups"] = groups(&rules);
            document["default"]["action"] = json!(if allow { "allow" } else { "deny" });
            document["default"]["mode"] = json!(if audit { "audit" } else { "enforce" });
        });
        prop_assert_eq!(opened.is_err(), ties(&rules), "{:#?}\n{:?}", rules, opened.err());
        match opened {
            Ok(snapshot) => check(&snapshot, &rules, allow, audit),
            Err(problems) => prop_assert!(problems.iter().all(|problem| problem.code == "tie"), "{problems:?}"),
        }
    }
}
