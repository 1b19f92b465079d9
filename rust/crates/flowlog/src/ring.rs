//! The ring of finished flows: one writer (the worker), one reader (the control plane, which may be dead).

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::layout::{RECORD_SIZE, RING_CONTROL, ring as at};
use crate::record::Record;

/// The writing end. `push` costs a copy of 640 bytes and never waits.
#[derive(Debug)]
pub struct Ring {
    control: &'static [AtomicU64],
    records: &'static [AtomicU64],
    /// Records that fit, a power of two.
    capacity: u64,
    /// Records ever written; the shared word only publishes it, so a reader that scribbles there cannot move us.
    head: u64,
    dropped: u64,
}

impl Ring {
    /// `words` is the control page followed by `capacity` records.
    pub(crate) fn new(words: &'static [AtomicU64], capacity: u64) -> Self {
        let (control, records) = words.split_at(RING_CONTROL / 8);
        debug_assert!(
            capacity.is_power_of_two()
                && records.len() as u64 >= capacity * (RECORD_SIZE as u64 / 8)
        );
        Self { control, records, capacity, head: 0, dropped: 0 }
    }

    /// Hands one record over; `false` when the ring was full and the record is counted as dropped instead.
    pub fn push(&mut self, record: &Record<'_>) -> bool {
        let tail = self.control[at::TAIL / 8].load(Acquire);
        // A tail ahead of head is a reader gone wrong: the distance wraps to something huge and reads as full.
        if self.head.wrapping_sub(tail) >= self.capacity {
            self.dropped += 1;
            self.control[at::DROPPED / 8].store(self.dropped, Relaxed);
            return false;
        }
        let words = RECORD_SIZE / 8;
        let start = usize::try_from(self.head & (self.capacity - 1)).unwrap_or(0) * words;
        let bytes = record.encode();
        for (word, chunk) in self.records[start..start + words].iter().zip(bytes.as_chunks::<8>().0)
        {
            word.store(u64::from_le_bytes(*chunk), Relaxed);
        }
        self.head += 1;
        self.control[at::HEAD / 8].store(self.head, Release);
        true
    }
}
