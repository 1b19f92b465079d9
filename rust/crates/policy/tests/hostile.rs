//! Damaged and forged snapshots: opening fails, or judging neither panics nor hangs.
#![allow(clippy::unwrap_used, clippy::panic)]
mod support;

use egress_policy::{Origin, RuleId, Snapshot, compile};
use serde_json::json;
use support::*;

fn small() -> Vec<u8> {
    let rules = json!([
        rule(
            "a",
            &["x.org", "*.y.org:80-90", ".z.org", "10.0.0.0/8", "fd00::/8"],
            json!({"from": [{"cidr": "10.0.0.0/8"}, {"cidr": "fd00::/8"}], "until": NOW + 1, "dial": "e.org:1", "message": "m", "owner": "o"})
        ),
        rule("b", &["*", "8.8.8.8"], json!({"deny": true, "anywhere": true, "mode": "audit"})),
        rule("c", &[], json!({"to": [{"name": "c.corp", "addresses": ["10.2.0.0/16"]}]})),
    ]);
    compile(&document(rules, |_| {})).unwrap()
}

/// Everything that a snapshot can be asked.
fn exercise(snapshot: &Snapshot) {
    for to in [
        "x.org", "a.y.org", "y.org", "z.org", "c.corp", "nope.org", "10.1.2.3", "8.8.8.8",
        "fd00::1",
    ] {
        for source in ["10.1.1.1", "fd00::2", "9.9.9.9"] {
            let decision = decide(snapshot, source, to, 443);
            let _ = snapshot.screen(
                snapshot.source(ip(source)),
                &decision,
                Origin::Resolved,
                ip("64:ff9b::10.2.0.1"),
                443,
                NOW,
            );
            let _ = decision.rule.map(|rule| snapshot.rule(rule));
        }
    }
    for to in ["z.y.org", "10.9.9.9", "y.org", "xx.org"] {
        let _ = snapshot.explain(ip("10.1.1.1"), &host(to), 8443, NOW);
    }
    let _ = (
        snapshot.rule(RuleId(u32::MAX)),
        snapshot.next_expiry(NOW),
        snapshot.digest(),
        format!("{snapshot:?}"),
    );
}

#[test]
fn a_cut_snapshot_does_not_open() {
    let bytes = small();
    for length in 0..bytes.len() {
        assert!(Snapshot::open(bytes[..length].to_vec()).is_err(), "{length}");
    }
    assert!(Snapshot::open([bytes.clone(), vec![0]].concat()).is_err());
    exercise(&Snapshot::open(bytes).unwrap());
}

#[test]
fn a_damaged_snapshot_does_not_open() {
    let bytes = small();
    for at in 0..bytes.len() {
        for bit in [1, 0x80] {
            let mut bad = bytes.clone();
            bad[at] ^= bit;
            assert!(Snapshot::open(bad).is_err(), "byte {at}");
        }
    }
}

#[test]
fn a_forged_snapshot_with_a_right_checksum_never_panics() {
    let bytes = small();
    let mut opened = 0;
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xff, bytes[at].wrapping_add(1), bytes[at].wrapping_sub(1)] {
            let mut forged = bytes.clone();
            forged[at] = value;
            egress_policy::reseal(&mut forged);
            if let Ok(snapshot) = Snapshot::open(forged) {
                opened += 1;
                exercise(&snapshot);
            }
        }
    }
    assert!(opened > 100, "the forgeries must get past the checksum: {opened}");
}
