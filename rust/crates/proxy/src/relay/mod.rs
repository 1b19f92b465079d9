//! The relay: two directions, each from one socket to the other, edge-triggered and non-blocking.
//!
//! A direction copies through the worker's one shared buffer and holds memory of its own only for bytes that the other
//! side would not take. After several full reads in a row it moves to splice(2) through a lent pipe, and back when
//! reads become small. Not reading is the backpressure. A half-close is passed on once everything before it is.

mod copy;
mod http;
mod splice;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub(crate) use copy::SCRATCH_BYTES;
use egress_sys::Pipe;
pub(crate) use http::{Asking, Broken, Exchange, Kept, Passed, Requests, Turn};
use rustix::io::Errno;

use crate::pool::{Buffer, Buffers, Pipes};

/// Bytes that one direction may move before the other flows of the worker get their turn.
const TURN_BYTES: usize = 1 << 20;
/// Where fewer bytes may go, copying them is cheaper than the calls of splice(2).
const LEAST_SPLICE_BYTES: usize = 64 * 1024;
/// Full reads in a row after which bulk is assumed.
const BULK_STREAK: u8 = 3;

/// One socket and what is known of its readiness since the last edge.
#[derive(Debug)]
pub(crate) struct Peer {
    pub fd: OwnedFd,
    pub readable: bool,
    pub writable: bool,
    /// Registered, but not for the edge of becoming writable: that is asked for when it is first needed.
    pub reads_only: bool,
    /// Not registered for the edge of becoming readable: the other side takes nothing, or the flow waits for its turn, so
    /// what comes stays where it is.
    pub deaf: bool,
    /// A FIN or reset has been announced: read on to the end even after a short read.
    pub ending: bool,
    /// A reset has come.
    pub failed: bool,
    /// Urgent data has come at least once: a short read no longer means an empty queue, and splice(2) would take its
    /// mark for one.
    pub urgent: bool,
    /// One of a pair whose other end the front has. AF_UNIX carries no reset: whether an end is one is known once it has
    /// been announced (`failed`), so one that is read before that is read again.
    pub paired: bool,
}

/// What epoll(7) says of a socket in one event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edge {
    pub readable: bool,
    pub writable: bool,
    /// The peer will send no more.
    pub ending: bool,
    /// In error, or hung up both ways.
    pub broken: bool,
    /// In error: a reset has come.
    pub failed: bool,
    /// Urgent data is on its way: a read stops at its mark with more behind it (tcp(7)).
    pub urgent: bool,
}

impl Edge {
    /// A flow's turn without an event.
    pub(crate) const NONE: Self = Self {
        readable: false,
        writable: false,
        ending: false,
        broken: false,
        failed: false,
        urgent: false,
    };
}

impl Peer {
    /// A socket that was just accepted: assumed ready until the kernel says otherwise.
    pub(crate) fn accepted(fd: OwnedFd) -> Self {
        Self {
            fd,
            readable: true,
            writable: true,
            reads_only: false,
            deaf: false,
            ending: false,
            failed: false,
            urgent: false,
            paired: false,
        }
    }

    /// The worker's end of a pair.
    pub(crate) fn adopted(fd: OwnedFd) -> Self {
        Self { paired: true, ..Self::accepted(fd) }
    }

    /// A socket whose connection was reported by `edge`: what comes later raises an edge of its own.
    pub(crate) fn connected(fd: OwnedFd, edge: Edge) -> Self {
        Self {
            fd,
            readable: edge.readable,
            writable: true,
            reads_only: false,
            deaf: false,
            ending: edge.ending,
            failed: false,
            urgent: edge.urgent,
            paired: false,
        }
    }

    /// Reads what is there; `Ok(0)` is an end in order.
    #[inline]
    pub(crate) fn recv(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match egress_sys::recv(self.fd(), buffer) {
            Ok(0) => self.end().map(|()| 0),
            other => other,
        }
    }

    /// What the end that was read comes to: one in order, one that is still to be announced, or a reset.
    fn end(&self) -> Result<(), Errno> {
        match (self.paired, self.ending, self.failed) {
            (false, ..) | (true, true, false) => Ok(()),
            (true, false, _) => Err(Errno::AGAIN),
            (true, true, true) => Err(Errno::CONNRESET),
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Takes in an edge.
    pub(crate) fn mark(&mut self, edge: Edge) {
        self.readable |= edge.readable;
        self.writable |= edge.writable;
        self.ending |= edge.ending;
        self.failed |= edge.failed;
        self.urgent |= edge.urgent;
    }

    /// After a read of fewer bytes than asked for: whether those were the last. A FIN is announced only once everything
    /// before it is in the queue, which that read has emptied.
    pub(crate) fn ends_here(&self) -> bool {
        self.ending && !self.urgent && !self.failed
    }

    /// A read of fewer bytes than asked for has emptied the queue: what comes later raises a new edge (epoll(7)). An
    /// announced end raises none, so then the read that finds it must still be made.
    pub(crate) fn drained(&mut self) {
        self.readable = self.ending || self.urgent;
    }
}

/// What a worker lends to every relay.
#[derive(Debug)]
pub(crate) struct Lender {
    pub scratch: Vec<u8>,
    pub buffers: Buffers,
    pub pipes: Pipes,
    /// Times that bulk had to be copied because no pipe was free.
    pub pipe_misses: u64,
}

/// One direction of a relay.
#[derive(Debug, Default)]
pub(crate) struct Direction {
    /// Bytes read that the destination has not taken.
    pub pending: Option<Buffer>,
    pipe: Option<Box<Pipe>>,
    /// Bytes delivered to the destination, the gateway's own not counted.
    pub bytes: u64,
    /// The first of `pending` that are the gateway's own words and not yet delivered.
    pub own: u16,
    /// Full reads in a row while copying; small reads in a row while splicing.
    streak: u8,
    splicing: bool,
    /// Spliced at least once.
    pub spliced: bool,
    /// The source has ended.
    eof: bool,
    /// The end was passed on, or can no longer be.
    pub done: bool,
}

/// Why a direction stopped for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// It waits for an edge.
    Waiting,
    /// Its turn is over and there is more to do.
    More,
    /// It may read no more before it is allowed to.
    Spent,
    /// The source ended and the destination knows it.
    Done,
}

/// Which side broke the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Source(Errno),
    Destination(Errno),
}

/// What one step of copying or splicing came to.
enum Step {
    Moved(usize),
    Blocked,
}

impl Direction {
    /// Moves what can be moved, and reads at most `credit` bytes, of which it leaves the rest. `last`: the other direction
    /// is over.
    pub(crate) fn pump(
        &mut self,
        source: &mut Peer,
        destination: &mut Peer,
        lender: &mut Lender,
        last: bool,
        credit: &mut u64,
    ) -> Result<Pumped, Fault> {
        let mut moved = 0;
        while !self.done {
            if !self.flush(destination, lender)? {
                return Ok(Pumped::Waiting);
            }
            if self.eof {
                // Closing the socket, which comes next when the other direction is over too, says the same.
                if !last {
                    // A destination that is gone already shows it on its own read side.
                    let _ = rustix::net::shutdown(destination.fd(), rustix::net::Shutdown::Write);
                }
                self.done = true;
                break;
            }
            if !source.readable {
                return Ok(Pumped::Waiting);
            }
            if moved >= TURN_BYTES {
                return Ok(Pumped::More);
            }
            if *credit == 0 {
                return Ok(Pumped::Spent);
            }
            let most = usize::try_from(*credit).unwrap_or(usize::MAX);
            let step = if self.splicing && !source.urgent && most >= LEAST_SPLICE_BYTES {
                self.splice(source, lender, most)?
            } else {
                self.copy(source, destination, lender, most)?
            };
            match step {
                Step::Moved(bytes) => {
                    moved += bytes;
                    *credit -= bytes as u64;
                }
                Step::Blocked => return Ok(Pumped::Waiting),
            }
        }
        Ok(Pumped::Done)
    }

    /// Writes what is pending; `true` when nothing is pending any more.
    pub(crate) fn flush(
        &mut self,
        destination: &mut Peer,
        lender: &mut Lender,
    ) -> Result<bool, Fault> {
        if let Some(buffer) = &mut self.pending {
            while !buffer.rest().is_empty() {
                if !destination.writable {
                    return Ok(false);
                }
                match egress_sys::send(destination.fd(), buffer.rest()) {
                    Ok(sent) => {
                        buffer.advance(sent);
                        let own = sent.min(usize::from(self.own));
                        self.own -= own as u16;
                        self.bytes += (sent - own) as u64;
                    }
                    Err(Errno::AGAIN) => destination.writable = false,
                    Err(errno) => return Err(Fault::Destination(errno)),
                }
            }
        }
        if let Some(buffer) = self.pending.take() {
            lender.buffers.give_back(buffer);
        }
        self.drain_pipe(destination, lender)
    }

    /// Holds the gateway's own `words` for the destination, before all else.
    pub(crate) fn say(&mut self, words: Buffer) {
        self.own = words.rest().len() as u16;
        self.pending = Some(words);
    }

    /// Holds a source's first bytes, behind what the gateway itself still has to say.
    pub(crate) fn begin_with(&mut self, bytes: Buffer, lender: &mut Lender) {
        match &mut self.pending {
            Some(words) => {
                words.push(bytes.rest());
                lender.buffers.give_back(bytes);
            }
            None => self.pending = Some(bytes),
        }
    }

    /// Gives back what was lent; for a flow that ends.
    pub(crate) fn release(&mut self, lender: &mut Lender) {
        if let Some(buffer) = self.pending.take() {
            lender.buffers.give_back(buffer);
        }
        if let Some(pipe) = self.pipe.take() {
            lender.pipes.give_back(pipe);
        }
    }
}
