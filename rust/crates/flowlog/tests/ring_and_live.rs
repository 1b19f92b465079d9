//! Promises of the shared memory: nothing is overwritten before it is read, drops are counted, offsets do not overlap.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use egress_flowlog::{Delays, Geometry, LiveFlow, NONE_U32, Record, Segment, layout};
use egress_policy::{Accept, End, Evidence, Reason, Stage, Verdict};

const GEOMETRY: Geometry = Geometry { workers: 2, ring_capacity: 4, live_capacity: 3 };

fn segment() -> (Segment, &'static [AtomicU64]) {
    let words: Vec<AtomicU64> = (0..GEOMETRY.total_size() / 8).map(|_| AtomicU64::new(0)).collect();
    let words = Vec::leak(words);
    (Segment::format(words, GEOMETRY, 1, 2).unwrap(), words)
}

fn bytes(words: &[AtomicU64], offset: usize, len: usize) -> Vec<u8> {
    let all: Vec<u8> = words[offset / 8..]
        .iter()
        .take(len / 8 + 2)
        .flat_map(|w| w.load(Relaxed).to_le_bytes())
        .collect();
    all[offset % 8..offset % 8 + len].to_vec()
}

fn record(flow_id: u64) -> Record<'static> {
    Record {
        flow_id,
        generation: 3,
        start_unix_ns: 4,
        duration_ns: 5,
        bytes_up: 6,
        bytes_down: 7,
        first_bytes_us: 8,
        resolve_us: NONE_U32,
        connect_us: 10,
        rule_line: 12,
        source: "10.1.2.3:999".parse().unwrap(),
        peer: Some("192.0.2.9:7".parse().unwrap()),
        upstream: None,
        port: 443,
        verdict: Verdict::Deny,
        reason: Reason::NameMismatch,
        end: End::Refused,
        accept: Accept::Connect,
        listener: 1,
        flags: 2,
        rule: 5,
        name: b"api.example",
        rule_name: b"r",
        listener_name: b"proxy",
        other: &[b'x'; 99],
        evidence: Evidence::Login,
        identity: &[b'u'; 150],
        delays: Delays { waited_us: 13, held_ns: [14, 15], held_by: b"slow" },
    }
}

#[test]
fn a_full_ring_drops_and_counts_until_the_reader_catches_up() {
    let (segment, words) = segment();
    let mut ring = segment.worker(1).ring;
    for id in 0..4 {
        assert!(ring.push(&record(id)));
    }
    assert!(!ring.push(&record(4)));
    let control = layout::HEADER_SIZE + GEOMETRY.worker_stride() + layout::COUNTER_PAGE;
    assert_eq!(words[(control + layout::ring::HEAD) / 8].load(Relaxed), 4);
    assert_eq!(words[(control + layout::ring::DROPPED) / 8].load(Relaxed), 1);
    words[(control + layout::ring::TAIL) / 8].store(1, Relaxed);
    assert!(ring.push(&record(5)), "the reader made room");
    assert_eq!(
        words[(control + layout::RING_CONTROL) / 8].load(Relaxed),
        5,
        "in the place of the record that was read"
    );
    words[(control + layout::ring::TAIL) / 8].store(u64::MAX / 2, Relaxed);
    assert!(!ring.push(&record(6)), "a tail ahead of head is not trusted");
}

#[test]
fn a_record_is_placed_as_the_layout_says() {
    let (segment, words) = segment();
    segment.worker(0).ring.push(&record(0x1122));
    let start = layout::HEADER_SIZE + layout::COUNTER_PAGE + layout::RING_CONTROL;
    let field = |offset, len| bytes(words, start + offset, len);
    assert_eq!(field(layout::record::FLOW_ID, 8), 0x1122u64.to_le_bytes());
    assert_eq!(
        field(layout::record::SOURCE, 16),
        "::ffff:10.1.2.3".parse::<std::net::Ipv6Addr>().unwrap().octets()
    );
    assert_eq!(field(layout::record::UPSTREAM, 16), [0; 16]);
    assert_eq!(field(layout::record::PORT, 2), 443u16.to_le_bytes());
    assert_eq!(field(layout::record::NAME, 11), b"api.example");
    assert_eq!(field(layout::record::NAME_LEN, 4), [11, 1, 5, 40]);
    assert_eq!(field(layout::record::OTHER, 40), [b'x'; 40]);
    assert_eq!(field(layout::record::EVIDENCE, 2), [Evidence::Login as u8, 108]);
    assert_eq!(field(layout::record::IDENTITY, 108), [b'u'; 108]);
    for (at, value) in [(layout::record::HELD_UP_NS, 14), (layout::record::HELD_DOWN_NS, 15)] {
        assert_eq!(field(at, 8), u64::to_le_bytes(value));
    }
    assert_eq!(field(layout::record::WAITED_US, 5), [13, 0, 0, 0, 4]);
    assert_eq!(field(layout::record::HELD_BY, 4), b"slow");
    assert_eq!(field(layout::record::PEER_PORT, 2), 7u16.to_le_bytes());
    assert_eq!(field(layout::record::PEER + 12, 4), [192, 0, 2, 9]);
}

#[test]
fn a_live_slot_keeps_its_byte_counts_over_a_rewrite_and_only_its_sequence_after_clear() {
    let (segment, words) = segment();
    let live = segment.worker(0).live;
    let flow = LiveFlow {
        flow_id: 9,
        generation: 1,
        start_unix_ns: 2,
        rule: 3,
        rule_line: 4,
        stage: Stage::Connecting,
        verdict: Verdict::Allow,
        reason: Reason::Rule,
        source: "[2001:db8::1]:5".parse().unwrap(),
        upstream: None,
        port: 443,
        listener: 0,
        accept: Accept::Tls,
        flags: 0,
        name: &[b'n'; 200],
        evidence: Evidence::Certificate,
        identity: &[b'i'; 40],
    };
    let ring = layout::RING_CONTROL + 4 * layout::RECORD_SIZE;
    let start = layout::HEADER_SIZE + layout::COUNTER_PAGE + ring + layout::LIVE_SLOT_SIZE;
    let field = |offset, len| bytes(words, start + offset, len);
    let used = (layout::HEADER_SIZE + layout::worker::LIVE_USED) / 8;
    assert_eq!(words[used].load(Relaxed), 0);
    live.write(1, &flow);
    assert_eq!(words[used].load(Relaxed), 2, "a reader needs to look at slots 0 and 1");
    live.bytes(1, 77, 88);
    live.stage(1, Stage::Relaying);
    assert_eq!(field(layout::live::STAGE, 1), [Stage::Relaying as u8]);
    live.write(1, &flow);
    assert_eq!(field(layout::live::BYTES_UP, 8), 77u64.to_le_bytes());
    assert_eq!(field(layout::live::NAME_LEN, 1), [200]);
    assert_eq!(field(layout::live::NAME, 112), [b'n'; 112]);
    assert_eq!(field(layout::live::EVIDENCE, 2), [Evidence::Certificate as u8, 40]);
    assert_eq!(field(layout::live::IDENTITY, 32), [b'i'; 32]);
    assert_eq!(field(layout::live::SEQ, 8), 4u64.to_le_bytes());
    live.clear(1);
    assert_eq!(field(layout::live::STAGE, 1), [Stage::Free as u8]);
    assert_eq!(field(layout::live::SEQ, 8), 6u64.to_le_bytes());
    live.write(0, &flow);
    assert_eq!(words[used].load(Relaxed), 2);
    live.write(1, &flow);
    assert_eq!(field(layout::live::BYTES_UP, 8), 0u64.to_le_bytes());
    assert_eq!(field(layout::live::SEQ, 8), 8u64.to_le_bytes(), "never twice the same");
}

#[test]
fn memory_that_is_too_small_is_refused() {
    assert!(Segment::format(&[], GEOMETRY, 0, 0).is_none());
}

#[test]
fn every_field_lies_within_its_structure() {
    for (key, offset) in layout::fields() {
        let room = match key.split_once('.').unwrap().0 {
            "header" => layout::HEADER_SIZE,
            "worker" => layout::COUNTER_PAGE,
            "ring" => layout::RING_CONTROL,
            "record" => layout::RECORD_SIZE,
            "live" => layout::LIVE_SLOT_SIZE,
            _ => usize::MAX,
        };
        assert!(offset < room, "{key}");
    }
}
