//! Memory that flows borrow only while bytes are pending: buffers and pipes, both bounded.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use egress_policy::Accept;
use egress_sys::Pipe;

use crate::steps::{Reader, Said};

/// Buffers kept for the next flow; beyond it they are freed.
const KEEP_BUFFERS: usize = 512;
/// A buffer that has grown beyond this many bytes is freed, so that one large burst is not held for ever.
const KEEP_BUFFER_BYTES: usize = 64 * 1024;
/// Bytes in the buffers of one worker from which on they are scarce.
const MAX_HELD_BYTES: usize = 64 << 20;
/// What one flow may hold even then: any usual first flight, and a read worth making.
pub(crate) const FAIR_BYTES: usize = 16 * 1024;
/// Pipes that one worker may have out at once, and that all of them together keep for later. A plain user's quota is
/// about 64 pipes of 1 MiB (pipe(7)); beyond it the kernel gives tiny ones.
const MAX_PIPES: usize = 48;
/// Pipes that a worker keeps, however many workers there are.
const MIN_KEPT_PIPES: usize = 4;
/// How long the kernel is not asked again after it gave no useful pipe.
const PIPE_RETRY_MS: u64 = 1000;
/// A pipe below this many bytes is slower than a copy through the shared buffer.
const USEFUL_PIPE_BYTES: usize = 128 * 1024;

/// Bytes that wait to be understood or written: `rest` is what is left. One word in the flow that holds it, and none
/// allocated anew while the pool has one.
#[derive(Debug)]
pub(crate) struct Buffer(Box<Waiting>);

#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    start: usize,
    /// Of first bytes that are not whole yet: how far they were read.
    reader: Option<Reader>,
    /// Bytes in all buffers of the worker; this one's are among them.
    meter: Rc<Cell<usize>>,
}

impl Waiting {
    fn clear(&mut self) {
        self.meter.set(self.meter.get().saturating_sub(self.bytes.len()));
        self.bytes.clear();
        self.start = 0;
        self.reader = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Buffer {
    pub(crate) fn rest(&self) -> &[u8] {
        &self.0.bytes[self.0.start..]
    }

    pub(crate) fn advance(&mut self, n: usize) {
        self.0.start = (self.0.start + n).min(self.0.bytes.len());
    }

    /// Takes the next `n` bytes, and overwrites them: there was a password in them.
    pub(crate) fn wipe(&mut self, n: usize) {
        let start = self.0.start;
        self.advance(n);
        egress_hello::basic::wipe(&mut self.0.bytes[start..self.0.start]);
    }

    /// Appends. What was taken is let go of: a client that is always half a request ahead is held to that.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let taken = std::mem::take(&mut self.0.start);
        self.0.bytes.drain(..taken);
        self.0.meter.set(self.0.meter.get() - taken);
        self.0.bytes.extend_from_slice(bytes);
        self.0.meter.set(self.0.meter.get() + bytes.len());
    }

    /// Lets `fill` append.
    pub(crate) fn write(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        let before = self.0.bytes.len();
        fill(&mut self.0.bytes);
        self.0.meter.set(self.0.meter.get() + (self.0.bytes.len() - before));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.bytes.len()
    }

    /// What `rest` says is found out by `reader` from now on.
    pub(crate) fn heard_by(mut self, reader: Reader) -> Self {
        self.0.reader = Some(reader);
        self
    }

    /// Nobody reads these bytes, or has begun to.
    pub(crate) fn unheard(mut self) -> Self {
        self.0.reader = None;
        self
    }

    /// What the bytes are is still open, and they are sent on all the same.
    pub(crate) fn passes(&self) -> bool {
        self.0.reader.as_ref().is_some_and(Reader::passes)
    }

    /// Takes over what is known of the bytes before.
    pub(crate) fn goes_on_from(mut self, before: &mut Self) -> Self {
        self.0.reader = before.0.reader.take();
        self
    }

    pub(crate) fn is_unheard(&self) -> bool {
        self.0.reader.is_none()
    }

    /// The protocol that the bytes are read by; `None` while that is open.
    pub(crate) fn protocol(&self) -> Option<Accept> {
        self.0.reader.as_ref().and_then(Reader::protocol)
    }

    /// What the bytes say, as far as they have come.
    pub(crate) fn hear(&mut self) -> Said {
        let Waiting { bytes, start, reader, .. } = &mut *self.0;
        reader.as_mut().map_or(Said::NotAccepted, |reader| reader.read(&bytes[*start..]))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Buffers {
    free: Vec<Buffer>,
    meter: Rc<Cell<usize>>,
}

impl Buffers {
    pub(crate) fn holding(&mut self, bytes: &[u8]) -> Buffer {
        let mut buffer = self.free.pop().unwrap_or_else(|| {
            let meter = Rc::clone(&self.meter);
            Buffer(Box::new(Waiting { bytes: Vec::new(), start: 0, reader: None, meter }))
        });
        buffer.push(bytes);
        buffer
    }

    pub(crate) fn give_back(&mut self, mut buffer: Buffer) {
        if self.free.len() < KEEP_BUFFERS && buffer.0.bytes.capacity() <= KEEP_BUFFER_BYTES {
            buffer.0.clear();
            self.free.push(buffer);
        }
    }

    /// Whether flows hold so much that none may take more than `FAIR_BYTES`.
    pub(crate) fn scarce(&self) -> bool {
        self.meter.get() > MAX_HELD_BYTES
    }
}

/// Pipes, lent only while bytes are in them.
#[derive(Debug)]
pub(crate) struct Pipes {
    /// Boxed, so that a flow that has none lent pays one word for it.
    #[expect(clippy::vec_box, reason = "lending moves the box; it is never allocated per loan")]
    free: Vec<Box<Pipe>>,
    /// Pipes that may still be opened.
    allowance: usize,
    /// As many free ones are kept: the quota is one for all workers, and a burst of one must not use it up for good.
    keep: usize,
    /// The worker's clock.
    pub now_ms: u64,
    retry_ms: u64,
}

impl Pipes {
    pub(crate) fn new(workers: usize) -> Self {
        let keep = (MAX_PIPES / workers.max(1)).max(MIN_KEPT_PIPES);
        Self { free: Vec::new(), allowance: MAX_PIPES, keep, now_ms: 0, retry_ms: 0 }
    }

    /// An empty pipe, or `None` when all are lent or the kernel gives no useful one: then copy.
    pub(crate) fn lend(&mut self) -> Option<Box<Pipe>> {
        self.lend_by(Pipe::open)
    }

    fn lend_by(&mut self, open: impl FnOnce() -> io::Result<Pipe>) -> Option<Box<Pipe>> {
        if let Some(pipe) = self.free.pop() {
            return Some(pipe);
        }
        if self.allowance == 0 || self.now_ms < self.retry_ms {
            return None;
        }
        match open() {
            Ok(pipe) if pipe.capacity() >= USEFUL_PIPE_BYTES => {
                self.allowance -= 1;
                Some(Box::new(pipe))
            }
            // The user's quota is used up (or descriptors are): for a while, keep to the pipes there are.
            _ => {
                self.retry_ms = self.now_ms + PIPE_RETRY_MS;
                None
            }
        }
    }

    /// Takes a pipe back; one with bytes inside (its flow ended), or one too many, is closed and may be replaced.
    pub(crate) fn give_back(&mut self, pipe: Box<Pipe>) {
        if pipe.is_empty() && self.free.len() < self.keep {
            self.free.push(pipe);
        } else {
            self.allowance += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_cannot_be_had_is_asked_for_again_later() {
        let mut pipes = Pipes::new(1);
        assert!(pipes.lend_by(|| Err(io::ErrorKind::OutOfMemory.into())).is_none());
        let asked = Cell::new(false);
        let mut ask = |now_ms| {
            pipes.now_ms = now_ms;
            let _ = pipes.lend_by(|| {
                asked.set(true);
                Err(io::ErrorKind::OutOfMemory.into())
            });
            asked.take()
        };
        assert!(!ask(PIPE_RETRY_MS - 1));
        assert!(ask(PIPE_RETRY_MS));
        assert!(!ask(PIPE_RETRY_MS + 1));
    }

    #[test]
    fn after_a_burst_a_worker_keeps_its_share_of_the_pipes() {
        let mut pipes = Pipes::new(100);
        let lent: Vec<_> = (0..MIN_KEPT_PIPES + 2).filter_map(|_| pipes.lend()).collect();
        assert_eq!(lent.len(), MIN_KEPT_PIPES + 2);
        for pipe in lent {
            pipes.give_back(pipe);
        }
        assert_eq!(
            (pipes.free.len(), pipes.allowance),
            (MIN_KEPT_PIPES, MAX_PIPES - MIN_KEPT_PIPES)
        );
    }

    #[test]
    fn what_flows_hold_is_metered_until_they_let_go() {
        let mut buffers = Buffers::default();
        let large = buffers.holding(&vec![0; MAX_HELD_BYTES]);
        assert!(!buffers.scarce());
        let mut small = buffers.holding(b"1");
        assert!(buffers.scarce());
        buffers.give_back(large);
        assert!(!buffers.scarce());
        small.push(&vec![0; MAX_HELD_BYTES]);
        assert!(buffers.scarce());
        drop(small);
        assert!(!buffers.scarce());
        assert_eq!(
            buffers.holding(b"again").rest(),
            b"again",
            "a buffer that was used before starts empty"
        );
    }
}
