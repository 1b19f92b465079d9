//! What people read when they ask why.
#![allow(clippy::unwrap_used, clippy::panic)]
mod support;

use egress_policy::{Explanation, Snapshot};
use serde_json::json;
use support::*;

fn policy() -> Snapshot {
    open(json!([
        rule(
            "payments-saas",
            &["*.amazonaws.com", "api.stripe.com", "10.20.0.0/16"],
            json!({"line": 12})
        ),
        rule(
            "office",
            &["intra.example.org"],
            json!({"line": 20, "from": [{"cidr": "10.0.0.0/24"}]})
        ),
        rule("lake", &["*.snowflake.example"], json!({"line": 30})),
        rule("ended", &["old.example.net"], json!({"line": 40, "until": NOW})),
        rule(
            "no-metadata",
            &["169.254.169.254"],
            json!({"line": 50, "deny": true, "message": "Use workload identity ({rule})."})
        ),
    ]))
}

fn why(to: &str, port: u16) -> Explanation {
    policy().explain(ip("10.9.0.1"), &host(to), port, NOW)
}

#[test]
fn the_nearest_miss_is_told_in_words() {
    for (to, port, expected) in [
        (
            "s3.amazonaws.com",
            8443,
            "rule payments-saas (policy.yaml:12) allows *.amazonaws.com on 443, but not on 8443",
        ),
        (
            "intra.example.org",
            443,
            "rule office (policy.yaml:20) allows intra.example.org on 443, but not for source 10.9.0.1, only 10.0.0.0/24",
        ),
        (
            "snowflake.example",
            443,
            "rule lake (policy.yaml:30) allows *.snowflake.example, which does not include snowflake.example itself; write .snowflake.example",
        ),
        (
            "v2.api.stripe.com",
            443,
            "rule payments-saas (policy.yaml:12) allows api.stripe.com alone, not the names below it; write .api.stripe.com or *.api.stripe.com",
        ),
        (
            "api.stirpe.com",
            443,
            "rule payments-saas (policy.yaml:12) allows api.stripe.com, which differs by a letter or two",
        ),
        (
            "api.strippee.com",
            443,
            "rule payments-saas (policy.yaml:12) allows api.stripe.com, which differs by a letter or two",
        ),
        (
            "dashboard.stripe.com",
            443,
            "rule payments-saas (policy.yaml:12) allows api.stripe.com, which is under the same domain",
        ),
        (
            "old.example.net",
            443,
            "rule ended (policy.yaml:40) allows old.example.net on 443, but has ended (until)",
        ),
        (
            "10.21.0.1",
            443,
            "rule payments-saas (policy.yaml:12) allows 10.20.0.0/16, which does not hold 10.21.0.1",
        ),
    ] {
        assert_eq!(why(to, port).nearest_miss.as_deref(), Some(expected), "{to}:{port}");
    }
    assert_eq!(why("unrelated.dev", 443).nearest_miss, None);
    assert_eq!(why("api.stripe.com", 443).nearest_miss, None);
}

#[test]
fn the_line_that_would_allow_it_does() {
    let told = why("s3.amazonaws.com", 8443);
    assert_eq!((told.verdict, told.reason), ("deny", "default_deny"));
    assert_eq!(
        told.allow_with.as_deref(),
        Some(
            "- { name: allow-s3-amazonaws-com, from: { cidr: \"10.9.0.1/32\" }, to: [\"s3.amazonaws.com:8443\"] }"
        )
    );
    let allowed = open(json!([rule(
        "allow-s3-amazonaws-com",
        &["s3.amazonaws.com:8443"],
        json!({"from": [{"cidr": "10.9.0.1/32"}]})
    )]));
    assert_eq!(
        says(&allowed, "10.9.0.1", "s3.amazonaws.com", 8443),
        "allow rule allow-s3-amazonaws-com"
    );
    assert!(why("intranet", 443).allow_with.unwrap().contains("\"intranet.:443\""));
}

#[test]
fn a_deny_explains_itself_and_offers_no_way_round() {
    let told = why("169.254.169.254", 80);
    assert_eq!((told.verdict, told.reason, told.allow_with), ("deny", "rule_deny", None));
    assert_eq!(told.message.as_deref(), Some("Use workload identity (no-metadata)."));
    assert_eq!(told.candidates.len(), 1);
    assert!(
        told.candidates[0].wins && told.candidates[0].because.contains("a deny beats every allow")
    );
    assert_eq!(told.address.unwrap().class, "metadata");
}

#[test]
fn candidates_say_why_they_did_not_win() {
    let snapshot = open(json!([
        rule("exact", &["a.x.org"], json!({})),
        rule("tree", &[".x.org"], json!({"sni": "any"})),
        rule("port", &["*.x.org:80"], json!({})),
        rule("far", &["a.x.org"], json!({"from": [{"cidr": "192.168.0.0/16"}], "mode": "audit"})),
    ]));
    let told = snapshot.explain(ip("10.0.0.1"), &host("a.x.org"), 443, NOW);
    let lines: Vec<String> = told
        .candidates
        .iter()
        .map(|c| format!("{} {} {}: {}", c.rule.name, c.destination, c.wins, c.because))
        .collect();
    assert_eq!(
        lines,
        [
            "exact a.x.org true: it decides: the most specific allow",
            "far a.x.org false: the source 10.0.0.1 is not in 192.168.0.0/16",
            "port *.x.org false: port 443 is not in 80",
            "tree .x.org false: another allow is more specific, or has the same terms and comes first by name",
        ]
    );
    assert_eq!(told.summary, "a.x.org:443 is allowed by rule exact (policy.yaml:1)");
    let json = serde_json::to_value(&told).unwrap();
    assert_eq!(json["candidates"][0]["name"], "exact");
}
