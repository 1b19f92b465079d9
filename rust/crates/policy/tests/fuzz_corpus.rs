//! Replays the seed corpus of the fuzz targets, and mutations of it, with a stable compiler.
#[path = "../../../fuzz/policy_checks.rs"]
mod policy_checks;
#[path = "../../../fuzz/replay.rs"]
mod replay;

use std::fs;

use egress_policy::Snapshot;
use replay::{corpus, replay, seeds};

/// Mutated inputs for each target: a few seconds in a debug build.
const MUTATIONS: usize = 2_000;

const TOKENS: &[&[u8]] = &[
    b"\n",
    b" ",
    b" < ",
    b"*",
    b"*.",
    b".",
    b":",
    b":*",
    b":443",
    b"-",
    b"/",
    b"/8",
    b"/0",
    b"=",
    b",",
    b"d ",
    b"a ",
    b"w ",
    b"@g ",
    b"x.org",
    b"10.0.0.0",
    b"fd00::",
    b"[",
    b"]",
    b"::ffff:",
    b"64:ff9b:1::",
    b"\"",
    b"null",
    b"{}",
    b"[]",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x01\0\0\0",
];

#[test]
fn policy_document_holds() {
    replay("policy_document", MUTATIONS, TOKENS, policy_checks::policy_document);
}

#[test]
fn policy_snapshot_holds() {
    let open =
        seeds("policy_snapshot").into_iter().filter(|seed| Snapshot::open(seed.clone()).is_ok());
    assert!(open.count() >= 8, "a new format needs new seeds: run the ignored test of this file");
    replay("policy_snapshot", MUTATIONS, TOKENS, policy_checks::policy_snapshot);
}

/// Writes the snapshots that the documents of the corpus compile to.
#[test]
#[ignore = "changes the corpus"]
fn write_the_snapshot_seeds() {
    for entry in fs::read_dir(corpus("policy_document")).expect("the corpus") {
        let path = entry.expect("an entry").path();
        let seed = fs::read(&path).expect("a seed");
        if let (Some(bytes), Some(name)) = (policy_checks::snapshot_of(&seed), path.file_name()) {
            fs::write(corpus("policy_snapshot").join(name), bytes).expect("written");
        }
    }
}
