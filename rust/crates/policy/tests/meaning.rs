//! The language, point by point: forms, ports, modes, lists and groups, digests, expiry.
#![allow(clippy::unwrap_used, clippy::panic)]
mod support;

use std::fmt::Write as _;

use egress_policy::{Bounds, Connections, OnDeny, RuleId, Snapshot, Verdict, compile};
use serde_json::json;
use support::*;

/// A list file that is removed at the end of the test.
struct File(std::path::PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("egress-policy-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn ports_default_to_https_and_a_deny_means_every_port() {
    let snapshot = open_with(
        json!([
            rule("a", &["x.org", "g:8443", "10.0.0.0/8"], json!({})),
            rule("d", &["bad.org", "10.9.0.0/16"], json!({"deny": true}))
        ]),
        |d| d["groups"] = json!({"g": ["y.org", "z.org:9000"]}),
    );
    for (to, port, expected) in [
        ("x.org", 443, "allow rule a"),
        ("x.org", 80, "deny default_deny -"),
        ("y.org", 8443, "allow rule a"),
        ("y.org", 443, "deny default_deny -"),
        ("z.org", 9000, "allow rule a"),
        ("z.org", 8443, "deny default_deny -"),
        ("10.1.1.1", 443, "allow rule a"),
        ("10.1.1.1", 80, "deny default_deny -"),
        ("10.9.1.1", 443, "deny rule_deny d"),
        ("10.9.1.1", 22, "deny rule_deny d"),
        ("bad.org", 1, "deny rule_deny d"),
    ] {
        assert_eq!(says(&snapshot, "1.1.1.1", to, port), expected, "{to}:{port}");
    }
}

#[test]
fn an_audited_deny_opens_nothing_that_is_closed() {
    let watch = rule("watch", &["x.org"], json!({"deny": true, "mode": "audit"}));
    assert_eq!(says(&open(json!([watch])), "1.1.1.1", "x.org", 443), "deny default_deny -");
    let both = open(json!([watch, rule("a", &["x.org"], json!({}))]));
    let decision = decide(&both, "1.1.1.1", "x.org", 443);
    assert_eq!(words(&both, &decision), "would_deny rule_deny watch");
    assert_eq!((decision.terms, decision.audit), (Some(RuleId(1)), false));
}

#[test]
fn no_name_follows_the_default() {
    for (no_name, mode, expected) in [
        ("deny", "enforce", "deny no_name"),
        ("deny", "audit", "would_deny no_name"),
        ("allow", "enforce", "allow default_allow"),
    ] {
        let snapshot = open_with(json!([]), |d| {
            d["default"]["no_name"] = json!(no_name);
            d["default"]["mode"] = json!(mode);
        });
        let decision = snapshot.decide_no_name(snapshot.source(ip("1.1.1.1")));
        assert_eq!(format!("{} {}", decision.verdict, decision.reason), expected);
    }
}

#[test]
fn what_is_written_out_beats_a_list_and_lists_go_by_name() {
    let (a, b) =
        (File::new("a", "x.org\n*.y.org\n.z.org\n"), File::new("b", "x.org\nonly.b.org\n"));
    let snapshot = open_with(
        json!([
            rule("l", &["beta"], json!({"mode": "audit"})),
            rule("k", &["alpha"], json!({"sni": "any"})),
            rule("x", &["*.y.org"], json!({}))
        ]),
        |d| d["lists"] = json!({"alpha": {"file": a.0}, "beta": {"file": b.0}}),
    );
    for (to, expected) in [
        ("x.org", "allow rule k"),
        ("only.b.org", "allow rule l"),
        ("a.y.org", "allow rule x"),
        ("y.org", "deny default_deny -"),
        ("z.org", "allow rule k"),
        ("q.z.org", "allow rule k"),
    ] {
        assert_eq!(says(&snapshot, "1.1.1.1", to, 443), expected, "{to}");
    }
    assert_eq!(snapshot.name_count(), 4);
}

#[test]
fn a_hundred_thousand_names_are_all_found_and_no_others() {
    let mut text = String::new();
    for number in 0..100_000 {
        writeln!(text, "host{number}.zone{}.example", number % 977).unwrap();
    }
    let file = File::new("many", &text);
    let snapshot = open_with(json!([rule("ads", &["ads"], json!({"deny": true}))]), |d| {
        d["lists"] = json!({"ads": {"file": file.0}});
        d["default"]["action"] = json!("allow");
    });
    assert_eq!(snapshot.name_count(), 100_000);
    assert!(snapshot.size() < 100_000 * 50 + text.len(), "{} bytes", snapshot.size());
    for number in 0..100_000 {
        let listed = decide(
            &snapshot,
            "10.0.0.1",
            &format!("host{number}.zone{}.example", number % 977),
            443,
        );
        assert_eq!(listed.verdict, Verdict::Deny, "{number}");
        let other = decide(
            &snapshot,
            "10.0.0.1",
            &format!("host{number}.zone{}.example", (number + 1) % 977),
            443,
        );
        assert_eq!(other.verdict, Verdict::Allow, "{number}");
    }
}

#[test]
fn the_digest_is_of_the_inputs_alone() {
    let file = File::new("digest", "x.org\n");
    let bytes = |line: u32| {
        document(json!([rule("r", &["ads"], json!({"line": line}))]), |d| {
            d["lists"] = json!({"ads": {"file": file.0}})
        })
    };
    let digest = |document: &[u8]| Snapshot::open(compile(document).unwrap()).unwrap().digest();
    let first = digest(&bytes(1));
    assert_eq!(first.len(), 64);
    assert_eq!(first, digest(&bytes(1)));
    assert_ne!(first, digest(&bytes(2)));
    std::fs::write(&file.0, "y.org\n").unwrap();
    assert_ne!(first, digest(&bytes(1)));
}

#[test]
fn rules_end_at_until() {
    let snapshot = open(json!([
        rule("a", &["x.org"], json!({"until": NOW})),
        rule("b", &["y.org"], json!({"until": NOW + 1})),
        rule("c", &["z.org"], json!({"until": NOW + 50})),
    ]));
    assert_eq!(says(&snapshot, "1.1.1.1", "x.org", 443), "deny default_deny -");
    assert_eq!(says(&snapshot, "1.1.1.1", "y.org", 443), "allow rule b");
    assert_eq!(
        (snapshot.next_expiry(NOW), snapshot.next_expiry(NOW + 1), snapshot.next_expiry(NOW + 50)),
        (Some(NOW + 1), Some(NOW + 50), None)
    );
}

#[test]
fn terms_come_back_as_written() {
    let snapshot = open(json!([rule(
        "a",
        &["x.org"],
        json!({
            "line": 7, "owner": "team", "why": "PCI", "message": "no {rule}", "on_deny": "drop", "dial": "Edge.Partner.com:8443", "sni": "any",
            "connections": {
                "max": 15, "new_per_second": 16, "burst": 17, "wait_ms": 8,
                "per_source": {"max": 9, "new_per_second": 10, "burst": 11}
            }
        })
    )]));
    let view = snapshot.rule(RuleId(0)).unwrap();
    assert_eq!(
        (view.name, view.file, view.line, view.owner, view.why, view.message),
        ("a", "policy.yaml", 7, Some("team"), Some("PCI"), "no {rule}")
    );
    assert_eq!(view.terms.dial.unwrap(), &(host("edge.partner.com"), 8443));
    assert_eq!(
        (view.terms.sni_any, view.deny, view.connections),
        (
            true,
            false,
            Connections {
                all: Bounds { max: Some(15), new_per_second: Some(16), burst: Some(17) },
                each: Bounds { max: Some(9), new_per_second: Some(10), burst: Some(11) },
                wait_ms: 8,
            }
        )
    );
    assert!(!view.terms.original);
    assert_eq!(view.on_deny, OnDeny::Drop);
    assert!(snapshot.rule(RuleId(1)).is_none());
    assert_eq!(snapshot.settings().listeners[0].bind.port(), 8443);
    let captured = open(json!([rule("a", &["x.org"], json!({"dial": "original"}))]));
    let terms = captured.terms(RuleId(0)).unwrap();
    assert_eq!((terms.dial, terms.original), (None, true));
    assert_eq!(captured.rule(RuleId(0)).unwrap().on_deny, captured.default_on_deny());
}
