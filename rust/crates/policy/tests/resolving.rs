//! A source may learn a name's addresses exactly when it could connect to one of them on some port.
#![allow(clippy::unwrap_used, clippy::panic)]
mod support;

use std::collections::BTreeSet;

use egress_hello::name::{Host, Name};
use egress_policy::{Destination, Origin, Reason, Snapshot, Verdict};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::*;

fn name(text: &str) -> Name {
    match host(text) {
        Host::Name(name) => name,
        Host::Ip(ip) => panic!("{ip}"),
    }
}

fn resolves(snapshot: &Snapshot, source: &str, to: &str) -> String {
    let name = name(to);
    let resolving = snapshot.may_resolve(snapshot.source(ip(source)), &name, NOW);
    words(snapshot, &resolving.decision)
}

fn told(snapshot: &Snapshot, to: &str, address: &str) -> Result<(), (Reason, bool)> {
    let name = name(to);
    let resolving = snapshot.may_resolve(snapshot.source(ip("192.0.2.9")), &name, NOW);
    resolving
        .screen(Origin::Resolved, ip(address))
        .map_err(|screened| (screened.reason, screened.audit))
}

#[test]
fn a_name_resolves_for_those_who_may_reach_it_on_any_port() {
    let payments = json!([{"cidr": "10.1.0.0/16"}]);
    let snapshot = open(json!([
        rule("web", &["www.x.org"], json!({})),
        rule("db", &["db.x.org:5432", "*.y.org:8000-8100"], json!({"from": payments})),
        rule("ended", &["old.x.org"], json!({"until": NOW})),
        rule("closed", &["www.z.org:25"], json!({})),
        rule("no-z", &[".z.org"], json!({"deny": true})),
        rule("mail", &["m.x.org", "m.x.org:25"], json!({})),
        rule("no-mail", &["m.x.org:443"], json!({"deny": true})),
    ]));
    for (source, to, said) in [
        ("10.1.2.3", "www.x.org", "allow rule web"),
        ("192.0.2.1", "www.x.org", "allow rule web"),
        ("10.1.2.3", "db.x.org", "allow rule db"),
        ("10.1.2.3", "a.b.y.org", "allow rule db"),
        ("192.0.2.1", "db.x.org", "deny default_deny -"),
        ("10.1.2.3", "y.org", "deny default_deny -"),
        ("10.1.2.3", "old.x.org", "deny default_deny -"),
        ("10.1.2.3", "www.z.org", "deny rule_deny no-z"),
        ("10.1.2.3", "a.z.org", "deny rule_deny no-z"),
        ("10.1.2.3", "m.x.org", "allow rule mail"),
        ("10.1.2.3", "org", "deny default_deny -"),
    ] {
        assert_eq!(resolves(&snapshot, source, to), said, "{source} {to}");
    }
}

#[test]
fn the_default_and_audit_are_respected() {
    let deny = |mode: &str, ports: &str| {
        json!([
            rule("r", &["a.x.org:8443"], json!({})),
            rule("no", &[&format!("b.x.org{ports}")], json!({"deny": true, "mode": mode})),
        ])
    };
    let with = |rules, key: &'static str, value: &'static str| {
        open_with(rules, |document| document["default"][key] = json!(value))
    };
    let open = with(deny("enforce", ""), "action", "allow");
    assert_eq!(resolves(&open, "10.0.0.1", "c.x.org"), "allow default_allow -");
    assert_eq!(resolves(&open, "10.0.0.1", "b.x.org"), "deny rule_deny no");
    let ports = with(deny("enforce", ":1-65534"), "action", "allow");
    assert_eq!(resolves(&ports, "10.0.0.1", "b.x.org"), "allow default_allow -");
    let watched = with(deny("audit", ""), "action", "allow");
    assert_eq!(resolves(&watched, "10.0.0.1", "b.x.org"), "would_deny rule_deny no");
    let audit = with(deny("enforce", ""), "mode", "audit");
    assert_eq!(resolves(&audit, "10.0.0.1", "c.x.org"), "would_deny default_deny -");
    assert_eq!(resolves(&audit, "10.0.0.1", "b.x.org"), "deny rule_deny no");
    // A rule that allows on another port says more than the default's audit of 443.
    assert_eq!(resolves(&audit, "10.0.0.1", "a.x.org"), "allow rule r");
}

#[test]
fn an_address_is_told_where_it_could_be_dialled() {
    let mut inside = rule("inside", &[], json!({}));
    inside["to"] = json!([{"name": "a.x.org:9000", "addresses": ["10.2.0.0/16"]}]);
    let snapshot = open(json!([
        rule("web", &["a.x.org", "b.x.org:8000-8100"], json!({})),
        inside,
        rule("no-net", &["93.184.216.0/24:8000"], json!({"deny": true})),
        rule("no-other", &["93.184.217.0/24"], json!({"deny": true})),
    ]));
    assert_eq!(told(&snapshot, "a.x.org", "93.184.216.34"), Ok(()));
    assert_eq!(told(&snapshot, "a.x.org", "10.2.0.7"), Ok(()), "on the port of its rule");
    assert_eq!(told(&snapshot, "a.x.org", "10.3.0.7"), Err((Reason::PrivateAddress, false)));
    assert_eq!(told(&snapshot, "b.x.org", "10.2.0.7"), Err((Reason::PrivateAddress, false)));
    assert_eq!(told(&snapshot, "b.x.org", "127.0.0.1"), Err((Reason::ForbiddenAddress, false)));
    // Port 8000 is closed there, the others of the range are not.
    assert_eq!(told(&snapshot, "b.x.org", "93.184.216.34"), Ok(()));
    assert_eq!(told(&snapshot, "b.x.org", "64:ff9b::5db8:d822"), Ok(()));
    assert_eq!(told(&snapshot, "b.x.org", "93.184.217.34"), Err((Reason::RuleDeny, false)));
    assert_eq!(told(&snapshot, "b.x.org", "64:ff9b::5db8:d922"), Err((Reason::RuleDeny, false)));
    assert_eq!(told(&snapshot, "unknown.org", "93.184.216.34"), Err((Reason::DefaultDeny, false)));
}

const NAMES: [&str; 4] = ["a.x.org", "b.a.x.org", "x.org", "y.org"];
const TO: [&str; 9] = [
    "a.x.org",
    "*.x.org",
    ".x.org",
    "y.org",
    "*",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "93.184.216.0/24",
    "[64:ff9b::]/96",
];
const ADDRESSES: [&str; 6] =
    ["10.1.0.1", "10.2.0.1", "93.184.216.34", "8.8.8.8", "64:ff9b::808:808", "64:ff9b::a01:1"];
const SOURCES: [&str; 3] = ["10.0.0.0/8", "10.1.0.0/16", "fd00::/8"];
const CALLERS: [&str; 3] = ["10.1.2.3", "10.9.9.9", "192.0.2.1"];
const PORTS: [(u32, u32); 7] =
    [(443, 443), (1, 65535), (1, 442), (444, 65535), (440, 450), (445, 455), (65535, 65535)];

fn written(to: &str, (low, high): (u32, u32)) -> String {
    let to = match to.strip_prefix('[') {
        Some(rest) => format!("[{}]", rest.replace(']', "")),
        None => to.to_owned(),
    };
    if low == high { format!("{to}:{low}") } else { format!("{to}:{low}-{high}") }
}

fn rules() -> impl Strategy<Value = Vec<Value>> {
    let one = (
        proptest::collection::vec((0..TO.len(), 0..PORTS.len()), 1..3),
        proptest::option::of(0..SOURCES.len()),
        any::<bool>(),
        proptest::bool::weighted(0.2),
        proptest::bool::weighted(0.1),
    );
    proptest::collection::vec(one, 0..6).prop_map(|all| {
        let numbered = all.into_iter().enumerate();
        numbered
            .map(|(index, (to, from, deny, audit, ended))| {
                let to: Vec<String> =
                    to.into_iter().map(|(to, ports)| written(TO[to], PORTS[ports])).collect();
                let to: Vec<&str> = to.iter().map(String::as_str).collect();
                let from: Vec<Value> =
                    from.iter().map(|from| json!({ "cidr": SOURCES[*from] })).collect();
                let until = ended.then_some(NOW);
                let mode = if audit { "audit" } else { "enforce" };
                let other = json!({"from": from, "deny": deny, "mode": mode, "until": until, "anywhere": true});
                rule(&format!("r{index}"), &to, other)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn as_if_every_port_were_tried(rules in rules(), allow in any::<bool>(), audit in proptest::bool::weighted(0.2)) {
        let opened = try_open(json!(rules), |document| {
            document["default"]["action"] = json!(if allow { "allow" } else { "deny" });
            document["default"]["mode"] = json!(if audit { "audit" } else { "enforce" });
        });
        // Ties are another test's.
        let Ok(snapshot) = opened else { return Ok(()) };
        // Between these nothing changes.
        let ports: BTreeSet<u16> = PORTS
            .iter()
            .flat_map(|(low, high)| [low.saturating_sub(1), *low, *high, high + 1])
            .filter_map(|port| u16::try_from(port).ok().filter(|port| *port != 0))
            .collect();
        for caller in CALLERS {
            let source = snapshot.source(ip(caller));
            for to in NAMES {
                let name = name(to);
                let resolving = snapshot.may_resolve(source, &name, NOW);
                let decisions: Vec<_> = ports
                    .iter()
                    .map(|port| (*port, snapshot.decide(source, Destination::Name(&name), *port, NOW)))
                    .collect();
                let best = [Verdict::Allow, Verdict::WouldDeny, Verdict::Deny]
                    .into_iter()
                    .find(|verdict| decisions.iter().any(|(_, decision)| decision.verdict == *verdict));
                prop_assert_eq!(Some(resolving.decision.verdict), best);
                if best == Some(Verdict::Deny) {
                    continue;
                }
                for address in ADDRESSES.map(ip) {
                    let outcomes: Vec<_> = decisions
                        .iter()
                        .filter(|(_, decision)| decision.verdict != Verdict::Deny)
                        .map(|(port, decision)| {
                            let screened = snapshot.screen(source, decision, Origin::Resolved, address, *port, NOW);
                            screened.err().map(|screened| screened.audit)
                        })
                        .collect();
                    let best = [None, Some(true), Some(false)].into_iter().find(|outcome| outcomes.contains(outcome));
                    let told = resolving.screen(Origin::Resolved, address).err().map(|screened| screened.audit);
                    prop_assert_eq!(Some(told), best);
                }
            }
        }
    }
}
