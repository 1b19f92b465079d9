//! Who is calling, beyond an address: what holds, what wins, what ties, and what is refused at load.
#![allow(clippy::needless_pass_by_value, clippy::unwrap_used, clippy::panic)]
mod support;

use serde_json::{Value, json};
use support::*;

/// A rule for x.org, told apart by its `connections`, so that two of one source tie.
fn to_x(name: &str, max: u32, other: Value) -> Value {
    let mut rule = rule(name, &["x.org"], json!({"connections": {"max": max}}));
    for (key, value) in other.as_object().unwrap() {
        rule[key] = value.clone();
    }
    rule
}

fn codes(rules: Value) -> Vec<String> {
    let found = try_open(rules, |_| {}).err().unwrap_or_default();
    found.iter().map(|problem| format!("{} {problem}", problem.code)).collect()
}

#[test]
fn all_keys_of_an_item_must_hold_and_any_item_will_do() {
    let snapshot = open(json!([rule(
        "r",
        &["x.org"],
        json!({"from": [
            {"cidr": "10.1.0.0/16", "user": "alice"},
            {"spiffe": "spiffe://td/ns/pay/*"},
            {"tlv": "vpce-1", "cidr": "10.2.0.0/16"},
        ]})
    )]));
    for (caller, verdict) in [
        ("10.1.0.1 user=alice", "allow"),
        ("10.9.0.1 user=alice", "deny"),
        ("10.1.0.1", "deny"),
        ("10.1.0.1 user=Alice", "deny"),
        ("10.1.0.1 user=alic", "deny"),
        ("10.1.0.1 user=alicee", "deny"),
        // A TLV, or a user, of another's name is not that other.
        ("10.1.0.1 tlv=alice", "deny"),
        ("9.9.9.9 user=spiffe://td/ns/pay/api", "deny"),
        ("9.9.9.9 spiffe=spiffe://td/ns/pay/api", "allow"),
        ("9.9.9.9 spiffe=spiffe://td/ns/pay/api/v2", "allow"),
        ("9.9.9.9 spiffe=spiffe://td/ns/pay", "deny"),
        ("9.9.9.9 spiffe=spiffe://td/ns/payments", "deny"),
        ("9.9.9.9 spiffe=spiffe://td2/ns/pay/api", "deny"),
        ("10.2.0.1 tlv=vpce-1", "allow"),
        ("10.2.0.1 tlv=vpce-11", "deny"),
        ("10.1.0.1 tlv=vpce-1", "deny"),
    ] {
        assert!(says(&snapshot, caller, "x.org", 443).starts_with(verdict), "{caller}");
    }
}

/// From the least to the most specific: whoever fulfils several is judged by the last.
#[test]
fn certificate_beats_user_beats_tlv_beats_evidence_beats_network() {
    let order = [
        json!({}),
        json!({"from": [{"cidr": "10.0.0.0/8"}]}),
        json!({"from": [{"cidr": "10.1.0.0/16"}]}),
        json!({"evidence": "proxy_header"}),
        json!({"evidence": "proxy_header", "from": [{"cidr": "10.0.0.0/8"}]}),
        json!({"evidence": "login"}),
        json!({"evidence": "certificate"}),
        json!({"from": [{"tlv": "pod"}]}),
        json!({"from": [{"tlv": "pod", "cidr": "10.0.0.0/8"}]}),
        json!({"from": [{"tlv": "pod"}], "evidence": "login"}),
        json!({"from": [{"user": "alice"}]}),
        json!({"from": [{"user": "alice", "cidr": "10.1.0.0/16"}]}),
        json!({"from": [{"user": "alice"}], "evidence": "certificate"}),
        json!({"from": [{"user": "alice", "tlv": "pod"}]}),
        json!({"from": [{"spiffe": "spiffe://td/*"}]}),
        json!({"from": [{"spiffe": "spiffe://td/*", "cidr": "10.1.2.3/32"}]}),
        json!({"from": [{"spiffe": "spiffe://td/*", "tlv": "pod"}]}),
        json!({"from": [{"spiffe": "spiffe://td/*", "user": "alice"}]}),
        json!({"from": [{"spiffe": "spiffe://td/a/*"}]}),
        json!({"from": [{"spiffe": "spiffe://td/a/b"}]}),
        json!({"from": [{"spiffe": "spiffe://td/a/b", "cidr": "10.0.0.0/8"}]}),
        json!({"from": [{"spiffe": "spiffe://td/a/b", "user": "alice", "tlv": "pod", "cidr": "10.1.2.3/32"}]}),
    ];
    let caller = "10.1.2.3 user=alice tlv=pod spiffe=spiffe://td/a/b";
    for most in 1..=order.len() {
        // Against the order of their names, which decides only where nothing else does.
        let rules: Vec<Value> = (0..most)
            .map(|at| to_x(&format!("r{:02}", 99 - at), at as u32 + 1, order[at].clone()))
            .collect();
        let expected = format!("allow rule r{:02}", 99 - (most - 1));
        assert_eq!(says(&open(rules.into()), caller, "x.org", 443), expected);
    }
}

#[test]
fn a_deny_of_an_identity_beats_every_allow_and_the_destination_comes_first() {
    let rules = json!([
        rule("sub", &["*.x.org"], json!({"from": [{"spiffe": "spiffe://td/a"}]})),
        rule("host", &["a.x.org"], json!({"mode": "audit"})),
        rule(
            "no-mallory",
            &["*"],
            json!({"deny": true, "anywhere": true, "from": [{"user": "mallory"}]})
        ),
    ]);
    let snapshot = open(rules);
    assert_eq!(says(&snapshot, "10.0.0.1 spiffe=spiffe://td/a", "a.x.org", 443), "allow rule host");
    assert_eq!(says(&snapshot, "10.0.0.1 spiffe=spiffe://td/a", "b.x.org", 443), "allow rule sub");
    let both = "10.0.0.1 user=mallory spiffe=spiffe://td/a";
    assert_eq!(says(&snapshot, both, "b.x.org", 443), "deny rule_deny no-mallory");
    assert_eq!(says(&snapshot, "10.0.0.1", "b.x.org", 443), "deny default_deny -");
}

/// For addresses too: whom a deny rule names must not reach the network that it names through a name.
#[test]
fn a_deny_of_an_identity_holds_for_the_addresses_of_a_name() {
    let snapshot = open(json!([
        rule("r", &["x.org"], json!({})),
        rule("no", &["203.0.112.0/20"], json!({"deny": true, "from": [{"user": "mallory"}]})),
    ]));
    let screened = |text: &str| {
        let class = caller(text, |source| snapshot.source(source));
        let decision = decide(&snapshot, text, "x.org", 443);
        snapshot.screen(
            class,
            &decision,
            egress_policy::Origin::Resolved,
            ip("203.0.114.1"),
            443,
            NOW,
        )
    };
    assert!(screened("10.0.0.1 user=alice").is_ok());
    assert!(screened("10.0.0.1 user=mallory").is_err());
}

#[test]
fn evidence_is_a_minimum() {
    let snapshot = open(json!([rule("r", &["x.org"], json!({"evidence": "login"}))]));
    for (caller, verdict) in [
        ("10.0.0.1", "deny"),
        ("10.0.0.1 evidence=proxy_header", "deny"),
        ("10.0.0.1 tlv=x", "deny"),
        ("10.0.0.1 user=anyone", "allow"),
        ("10.0.0.1 evidence=certificate", "allow"),
        ("10.0.0.1 spiffe=spiffe://td/x", "allow"),
    ] {
        assert!(says(&snapshot, caller, "x.org", 443).starts_with(verdict), "{caller}");
    }
}

#[test]
fn one_source_in_two_spellings_ties_and_others_do_not() {
    let alice = || json!({"from": [{"user": "alice"}]});
    for (one, two) in [
        (alice(), alice()),
        (alice(), json!({"from": [{"user": "bob"}, {"user": "alice"}]})),
        // Whoever is alice has logged in.
        (alice(), json!({"from": [{"user": "alice"}], "evidence": "login"})),
        (alice(), json!({"from": [{"user": "alice"}], "evidence": "proxy_header"})),
        (json!({"evidence": "login"}), json!({"evidence": "login"})),
        (
            json!({"from": [{"spiffe": "spiffe://td/a/*", "cidr": "10.0.0.0/8"}]}),
            json!({"from": [{"cidr": "::ffff:10.0.0.0/104", "spiffe": "spiffe://td/a/*"}], "evidence": "certificate"}),
        ),
    ] {
        let found = codes(json!([to_x("a", 1, one.clone()), to_x("b", 2, two.clone())]));
        assert_eq!(found.len(), 1, "{one} {two}: {found:?}");
        assert!(found[0].starts_with("tie ") && found[0].contains(" from "), "{found:?}");
    }
    for (one, two) in [
        (alice(), json!({})),
        (alice(), json!({"from": [{"user": "bob"}]})),
        (alice(), json!({"from": [{"tlv": "alice"}]})),
        (alice(), json!({"from": [{"user": "alice", "cidr": "10.0.0.0/8"}]})),
        (alice(), json!({"from": [{"user": "alice"}], "evidence": "certificate"})),
        (
            json!({"from": [{"spiffe": "spiffe://td/a"}]}),
            json!({"from": [{"spiffe": "spiffe://td/a/*"}]}),
        ),
        (json!({"evidence": "login"}), json!({"evidence": "certificate"})),
    ] {
        let found = codes(json!([to_x("a", 1, one.clone()), to_x("b", 2, two.clone())]));
        assert!(found.is_empty(), "{one} {two}: {found:?}");
    }
}

#[test]
fn what_is_no_identity_is_refused_with_its_place() {
    let from = |item: Value| json!({"from": [{"cidr": "10.0.0.0/8"}, item]});
    for (other, expected) in [
        (from(json!({"user": ""})), "bad_user rules[0].from[1].user"),
        (from(json!({"user": "a:b"})), "bad_user"),
        (from(json!({"user": "a\nb"})), "bad_user"),
        (from(json!({"user": "a".repeat(256)})), "bad_user"),
        (from(json!({"tlv": ""})), "bad_tlv rules[0].from[1].tlv"),
        (from(json!({"tlv": "a".repeat(256)})), "bad_tlv"),
        (from(json!({"spiffe": "cluster.local/ns/x"})), "bad_spiffe rules[0].from[1].spiffe"),
        (from(json!({"spiffe": "spiffe://td/a*"})), "bad_spiffe"),
        (from(json!({"spiffe": "spiffe://td/*/sa"})), "bad_spiffe"),
        (from(json!({"spiffe": "spiffe://*"})), "bad_spiffe"),
        (from(json!({"spiffe": "spiffe://td/a/"})), "bad_spiffe"),
        (from(json!({})), "empty_source rules[0].from[1]"),
        (json!({"evidence": "password"}), "bad_evidence rules[0].evidence"),
        (
            json!({"evidence": "login", "deny": true, "connections": {}}),
            "deny_has_terms rules[0].evidence",
        ),
    ] {
        let found = codes(json!([to_x("a", 1, other.clone())]));
        assert_eq!(found.len(), 1, "{other}: {found:?}");
        assert!(
            found[0].starts_with(expected) && found[0].contains("(fix: "),
            "{other}: {found:?}"
        );
        assert!(!found[0].contains(char::is_control), "{found:?}");
    }
    let near = codes(json!([to_x("a", 1, json!({"evidence": "logon"}))]));
    assert!(near[0].contains("did you mean `login`?"), "{near:?}");
}

#[test]
fn explanations_name_the_source_that_was_demanded_and_the_one_that_came() {
    let snapshot = open(json!([
        rule("pay", &["x.org"], json!({"from": [{"user": "alice", "cidr": "10.1.0.0/16"}]})),
        rule("ops", &["y.org"], json!({"evidence": "certificate"})),
    ]));
    let why =
        |text: &str, to: &str| caller(text, |source| snapshot.explain(source, &host(to), 443, NOW));
    let told = why("10.1.0.1 user=bo\u{1b}b", "x.org");
    assert_eq!(told.evidence, "login");
    assert_eq!(
        told.candidates[0].because,
        "the source 10.1.0.1 (user bo\\x1bb) is not user alice in 10.1.0.0/16"
    );
    let near = told.nearest_miss.unwrap();
    assert!(
        near.ends_with(
            "but not for source 10.1.0.1 (user bo\\x1bb), only user alice in 10.1.0.0/16"
        ),
        "{near}"
    );
    assert_eq!(why("10.1.0.1 user=alice", "x.org").verdict, "allow");
    let told = why("10.1.0.1 user=alice", "y.org");
    assert_eq!(
        told.allow_with.unwrap(),
        "- { name: allow-y-org, from: { user: \"alice\" }, to: [\"y.org:443\"] }"
    );
    assert!(
        told.candidates[0].because.ends_with("is not with evidence certificate"),
        "{:?}",
        told.candidates
    );
}
