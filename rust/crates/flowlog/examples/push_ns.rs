//! Prints what handing one record to the ring costs: `cargo run --release --example push_ns`.
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use egress_flowlog::{Delays, Geometry, NONE_U32, Record, Segment, layout};
use egress_policy::{Accept, End, Evidence, Reason, Verdict};

const RECORDS: u64 = 16_384;
const GEOMETRY: Geometry = Geometry { workers: 1, ring_capacity: RECORDS as u32, live_capacity: 1 };
/// Times that the ring is filled and emptied.
const ROUNDS: u64 = 40;

fn main() {
    let words: Vec<AtomicU64> = (0..GEOMETRY.total_size() / 8).map(|_| AtomicU64::new(0)).collect();
    let words = Vec::leak(words);
    let Some(segment) = Segment::format(words, GEOMETRY, 1, 2) else { return };
    let mut ring = segment.worker(0).ring;
    let mut record = Record {
        flow_id: 0,
        generation: 1,
        start_unix_ns: 2,
        duration_ns: 3,
        bytes_up: 517,
        bytes_down: 512,
        first_bytes_us: 4,
        resolve_us: NONE_U32,
        connect_us: 5,
        rule_line: 6,
        source: ([10, 1, 2, 3], 40_000).into(),
        peer: None,
        upstream: Some(([192, 0, 2, 1], 443).into()),
        port: 443,
        verdict: Verdict::Allow,
        reason: Reason::Rule,
        end: End::Closed,
        accept: Accept::Tls,
        listener: 0,
        flags: 0,
        rule: 7,
        name: b"api.example.com",
        rule_name: b"payments-saas",
        listener_name: b"tls",
        other: b"",
        evidence: Evidence::Address,
        identity: b"",
        delays: Delays::default(),
    };
    let start = Instant::now();
    for round in 1..=ROUNDS {
        for id in 0..RECORDS {
            record.flow_id = id;
            assert!(ring.push(black_box(&record)), "the reader has made room");
        }
        words[(layout::HEADER_SIZE + layout::COUNTER_PAGE + layout::ring::TAIL) / 8]
            .store(round * RECORDS, Relaxed);
    }
    println!("one record: {} ns", start.elapsed().as_nanos() / u128::from(ROUNDS * RECORDS));
}
