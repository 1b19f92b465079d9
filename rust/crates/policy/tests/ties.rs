//! Two allows that nobody could order are refused with both lines named; what can be ordered is not.
#![allow(clippy::needless_pass_by_value, clippy::unwrap_used, clippy::panic)]
mod support;

use serde_json::{Value, json};
use support::*;

fn codes(a: Value, b: Value) -> Vec<String> {
    let opened =
        try_open(json!([a, b]), |document| document["groups"] = json!({"g": ["x.org", "y.org"]}));
    opened
        .err()
        .unwrap_or_default()
        .iter()
        .map(|problem| format!("{} {problem}", problem.code))
        .collect()
}

#[test]
fn equal_places_with_different_terms_tie() {
    let audit = || json!({"mode": "audit", "line": 9});
    for (a, b) in [
        ("x.org", "x.org"),
        ("*.x.org", "*.x.org"),
        (".x.org:8000-8010", ".x.org:8000-8010"),
        ("x.org:8000-8010", "x.org:8005-8020"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.1", "::ffff:10.0.0.1"),
        ("x.org", "g"),
        ("g", "X.ORG."),
    ] {
        let found = codes(rule("one", &[a], json!({})), rule("two", &[b], audit()));
        assert_eq!(found.len(), 1, "{a} {b}: {found:?}");
        let text = &found[0];
        assert!(
            text.starts_with("tie rules[1].to[0]")
                && text.contains("`one` (policy.yaml:1)")
                && text.contains("`two` (policy.yaml:9)")
                && text.contains("mode"),
            "{text}"
        );
    }
}

#[test]
fn what_is_more_specific_or_equal_in_terms_does_not_tie() {
    for (a, b, other) in [
        ("x.org", "x.org", json!({})),
        ("x.org", "x.org", json!({"owner": "b", "why": "c"})),
        ("x.org", "*.x.org", json!({"mode": "audit"})),
        ("*.x.org", ".x.org", json!({"mode": "audit"})),
        ("x.org:8000-8100", "x.org:8005-8020", json!({"mode": "audit"})),
        ("x.org:8000-8100", "x.org:8050", json!({"mode": "audit"})),
        ("x.org:8000-8001", "x.org:8002-8003", json!({"mode": "audit"})),
        ("x.org", "x.org", json!({"mode": "audit", "deny": true})),
        ("x.org", "x.org", json!({"mode": "audit", "from": [{"cidr": "10.0.0.0/8"}]})),
    ] {
        let found = codes(rule("one", &[a], json!({})), rule("two", &[b], other.clone()));
        assert!(found.is_empty(), "{a} {b} {other}: {found:?}");
    }
}

#[test]
fn each_term_makes_a_tie() {
    for other in [
        json!({"message": "no"}),
        json!({"connections": {"max": 1, "new_per_second": null}}),
        json!({"dial": "y.org:443"}),
        json!({"sni": "any"}),
        json!({"on_deny": "reset"}),
        json!({"to": [{"name": "x.org", "addresses": ["10.0.0.0/8"]}]}),
    ] {
        let found =
            codes(rule("one", &["x.org"], json!({})), rule("two", &["x.org"], other.clone()));
        assert_eq!(found.len(), 1, "{other}: {found:?}");
    }
}

#[test]
fn of_equal_terms_the_first_by_name_counts() {
    let snapshot =
        open(json!([rule("zeta", &["x.org"], json!({})), rule("alpha", &["x.org"], json!({}))]));
    assert_eq!(says(&snapshot, "10.0.0.1", "x.org", 443), "allow rule alpha");
    let ended = open(json!([
        rule("zeta", &["x.org"], json!({})),
        rule("alpha", &["x.org"], json!({"until": NOW}))
    ]));
    assert_eq!(says(&ended, "10.0.0.1", "x.org", 443), "allow rule zeta");
}
