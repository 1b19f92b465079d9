//! Replays the seed corpus of the fuzz target, and mutations of it, with a stable compiler.
#[path = "../../../fuzz/cluster_checks.rs"]
mod cluster_checks;
#[path = "../../../fuzz/replay.rs"]
#[allow(dead_code, reason = "shared with other crates")]
mod replay;

use replay::replay;

/// Mutated inputs: a few seconds in a debug build.
const MUTATIONS: usize = 20_000;
/// Numbers that are none, or more than any.
const TOKENS: &[&[u8]] = &[
    b"\0\0\x80\x7f",
    b"\0\0\xc0\x7f",
    b"\0\0\x80\xff",
    b"\xff\xff\x7f\x7f",
    b"\x01\0\0\0\0\0\0\0",
    b"\x01\x01\0",
];

#[test]
fn gateway_wants_holds() {
    replay("gateway_wants", MUTATIONS, TOKENS, cluster_checks::gateway_wants);
}
