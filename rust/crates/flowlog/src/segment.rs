//! The telemetry segment as a whole: how large it is, and which part belongs to whom.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::counters::Counters;
use crate::layout::{self, header as at};
use crate::live::LiveTable;
use crate::ring::Ring;

/// The numbers that fix every offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    pub workers: u32,
    /// Records per worker's ring; a power of two.
    pub ring_capacity: u32,
    /// Live slots per worker.
    pub live_capacity: u32,
}

impl Geometry {
    /// Bytes of one worker's area.
    pub fn worker_stride(&self) -> usize {
        let live = (self.live_capacity as usize * layout::LIVE_SLOT_SIZE)
            .next_multiple_of(layout::COUNTER_PAGE);
        layout::COUNTER_PAGE
            + layout::RING_CONTROL
            + self.ring_capacity as usize * layout::RECORD_SIZE
            + live
    }

    fn resolver_offset(&self) -> usize {
        layout::HEADER_SIZE + self.workers as usize * self.worker_stride()
    }

    fn totals_offset(&self) -> usize {
        self.resolver_offset() + layout::COUNTER_PAGE
    }

    /// Bytes of the whole segment.
    pub fn total_size(&self) -> usize {
        self.totals_offset() + layout::TOTALS_SIZE
    }
}

/// The writing side of a fresh segment.
#[derive(Debug)]
pub struct Segment {
    words: &'static [AtomicU64],
    geometry: Geometry,
}

/// What one worker writes.
#[derive(Debug)]
pub struct WorkerArea {
    pub counters: Counters,
    pub ring: Ring,
    pub live: LiveTable,
}

impl Segment {
    /// Writes the header into zero-filled memory; `None` when the memory is too small or the ring not a power of two.
    pub fn format(
        words: &'static [AtomicU64],
        geometry: Geometry,
        boot_unix_ns: u64,
        pid: u32,
    ) -> Option<Self> {
        if words.len() * 8 < geometry.total_size() || !geometry.ring_capacity.is_power_of_two() {
            return None;
        }
        let pair = |low: usize, high: usize| low as u64 | (high as u64) << 32;
        let put = |offset: usize, value: u64| words[offset / 8].store(value, Relaxed);
        put(at::VERSION, pair(layout::VERSION as usize, layout::HEADER_SIZE));
        put(at::RECORD_SIZE, pair(layout::RECORD_SIZE, layout::LIVE_SLOT_SIZE));
        put(at::WORKERS, pair(geometry.workers as usize, geometry.ring_capacity as usize));
        put(at::LIVE_CAPACITY, u64::from(geometry.live_capacity));
        put(at::WORKER_STRIDE, geometry.worker_stride() as u64);
        put(at::WORKERS_OFFSET, layout::HEADER_SIZE as u64);
        put(at::TOTALS_OFFSET, geometry.totals_offset() as u64);
        put(at::TOTALS_SIZE, layout::TOTALS_SIZE as u64);
        put(at::BOOT_UNIX_NS, boot_unix_ns);
        put(at::PID, u64::from(pid));
        put(at::RESOLVER_OFFSET, geometry.resolver_offset() as u64);
        put(at::TOTAL_SIZE, geometry.total_size() as u64);
        put(at::MAGIC, layout::MAGIC);
        Some(Self { words, geometry })
    }

    fn area(&self, offset: usize, bytes: usize) -> &'static [AtomicU64] {
        &self.words[offset / 8..(offset + bytes) / 8]
    }

    /// The area of one worker; each is given out once, by whoever starts the workers.
    pub fn worker(&self, index: u32) -> WorkerArea {
        let start = layout::HEADER_SIZE + index as usize * self.geometry.worker_stride();
        let ring_at = start + layout::COUNTER_PAGE;
        let ring_bytes =
            layout::RING_CONTROL + self.geometry.ring_capacity as usize * layout::RECORD_SIZE;
        let live_bytes = self.geometry.live_capacity as usize * layout::LIVE_SLOT_SIZE;
        WorkerArea {
            counters: Counters::new(self.area(start, layout::COUNTER_PAGE)),
            ring: Ring::new(self.area(ring_at, ring_bytes), u64::from(self.geometry.ring_capacity)),
            live: LiveTable::new(
                self.area(ring_at + ring_bytes, live_bytes),
                &self.words[(start + layout::worker::LIVE_USED) / 8],
            ),
        }
    }

    /// A second view of a worker's counters, for reading.
    pub fn worker_counters(&self, index: u32) -> Counters {
        let start = layout::HEADER_SIZE + index as usize * self.geometry.worker_stride();
        Counters::new(self.area(start, layout::COUNTER_PAGE))
    }

    pub fn resolver(&self) -> Counters {
        Counters::new(self.area(self.geometry.resolver_offset(), layout::COUNTER_PAGE))
    }

    pub fn geometry(&self) -> Geometry {
        self.geometry
    }
}
