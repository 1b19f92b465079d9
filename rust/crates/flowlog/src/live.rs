//! The table of live flows: a slot per flow under a sequence lock, so that a reader takes whole slots or none.

use std::cell::Cell;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, Release},
    fence,
};

use egress_policy::{Accept, Evidence, Reason, Stage, Verdict};

use crate::layout::{LIVE_IDENTITY_ROOM, LIVE_NAME_ROOM, LIVE_SLOT_SIZE, live as at};
use crate::record::{address_bytes, put, put_text};

const WORDS: usize = LIVE_SLOT_SIZE / 8;

/// What a slot says of a flow; byte counts go through `LiveTable::bytes`.
#[derive(Debug, Clone, Copy)]
pub struct LiveFlow<'a> {
    pub flow_id: u64,
    pub generation: u64,
    pub start_unix_ns: u64,
    pub rule: u32,
    pub rule_line: u32,
    pub stage: Stage,
    pub verdict: Verdict,
    pub reason: Reason,
    pub source: SocketAddr,
    pub upstream: Option<SocketAddr>,
    pub port: u16,
    pub listener: u16,
    pub accept: Accept,
    pub flags: u32,
    /// The destination; a name longer than the slot's room is cut there, its length is not.
    pub name: &'a [u8],
    pub evidence: Evidence,
    /// Cut as the name is.
    pub identity: &'a [u8],
}

/// The writing end of one worker's table.
#[derive(Debug)]
pub struct LiveTable {
    words: &'static [AtomicU64],
    /// Slots from the start of the table that were ever written. A reader that looks no further leaves the rest of the
    /// table without pages: reading a hole of shared memory fills it.
    used: Cell<usize>,
    published: &'static AtomicU64,
}

impl LiveTable {
    pub(crate) fn new(words: &'static [AtomicU64], published: &'static AtomicU64) -> Self {
        Self { words, used: Cell::new(0), published }
    }

    /// Slots, which is also the most flows that the worker may hold.
    pub fn capacity(&self) -> usize {
        self.words.len() / WORDS
    }

    fn slot(&self, slot: usize) -> &'static [AtomicU64] {
        &self.words[slot * WORDS..(slot + 1) * WORDS]
    }

    /// Writes the slot, keeping its byte counts unless the slot was free.
    pub fn write(&self, slot: usize, flow: &LiveFlow<'_>) {
        let mut b = [0; LIVE_SLOT_SIZE];
        put!(b, at::FLOW_ID, flow.flow_id);
        put!(b, at::GENERATION, flow.generation);
        put!(b, at::START_UNIX_NS, flow.start_unix_ns);
        put!(b, at::RULE, flow.rule);
        put!(b, at::RULE_LINE, flow.rule_line);
        b[at::STAGE] = flow.stage as u8;
        b[at::VERDICT] = flow.verdict as u8;
        b[at::REASON] = flow.reason as u8;
        b[at::SOURCE..at::SOURCE + 16].copy_from_slice(&address_bytes(flow.source.ip()));
        let upstream = flow.upstream.unwrap_or(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
        b[at::UPSTREAM..at::UPSTREAM + 16].copy_from_slice(&address_bytes(upstream.ip()));
        put!(b, at::SOURCE_PORT, flow.source.port());
        put!(b, at::UPSTREAM_PORT, upstream.port());
        put!(b, at::PORT, flow.port);
        put!(b, at::LISTENER, flow.listener);
        put!(b, at::FLAGS, flow.flags);
        b[at::ACCEPT] = flow.accept as u8;
        b[at::NAME_LEN] = u8::try_from(flow.name.len()).unwrap_or(u8::MAX);
        put_text(&mut b, at::NAME, LIVE_NAME_ROOM, flow.name);
        b[at::EVIDENCE] = flow.evidence as u8;
        b[at::IDENTITY_LEN] = u8::try_from(flow.identity.len()).unwrap_or(u8::MAX);
        put_text(&mut b, at::IDENTITY, LIVE_IDENTITY_ROOM, flow.identity);

        if slot >= self.used.get() {
            self.used.set(slot + 1);
            self.published.store(slot as u64 + 1, Relaxed);
        }
        let words = self.slot(slot);
        let stage = words[at::STAGE / 8].load(Relaxed).to_le_bytes()[at::STAGE % 8];
        let free = stage == Stage::Free as u8;
        locked(words, || {
            for (index, chunk) in b.as_chunks::<8>().0.iter().enumerate().skip(1) {
                let counted = index * 8 == at::BYTES_UP || index * 8 == at::BYTES_DOWN;
                if free || !counted {
                    words[index].store(u64::from_le_bytes(*chunk), Relaxed);
                }
            }
        });
    }

    /// Publishes the bytes moved so far.
    pub fn bytes(&self, slot: usize, up: u64, down: u64) {
        let words = self.slot(slot);
        words[at::BYTES_UP / 8].store(up, Relaxed);
        words[at::BYTES_DOWN / 8].store(down, Relaxed);
    }

    /// Publishes a change of stage alone.
    pub fn stage(&self, slot: usize, stage: Stage) {
        let word = &self.slot(slot)[at::STAGE / 8];
        let mut bytes = word.load(Relaxed).to_le_bytes();
        bytes[at::STAGE % 8] = stage as u8;
        word.store(u64::from_le_bytes(bytes), Relaxed);
    }

    /// Marks the slot as free.
    pub fn clear(&self, slot: usize) {
        let words = self.slot(slot);
        locked(words, || words[at::STAGE / 8].store(0, Relaxed));
    }
}

/// Writes a slot under its sequence lock. The sequence goes on from one flow to the next: if it started anew with each,
/// a reader that is between two of them would see the number that it saw before, over words of both.
fn locked(words: &[AtomicU64], write: impl FnOnce()) {
    let writing = words[0].load(Relaxed) | 1;
    words[0].store(writing, Relaxed);
    // A reader that sees one of the stores below also sees the odd sequence (pairs with its acquire fence).
    fence(Release);
    write();
    words[0].store(writing.wrapping_add(1), Release);
}
