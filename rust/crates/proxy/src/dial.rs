//! Dialling: the screened addresses of one name, tried as RFC 8305 (happy eyeballs) says.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use egress_policy::End;
use rustix::io::Errno;

use crate::relay::Edge;

/// Attempts under way at once; beyond it the oldest ones decide.
pub(crate) const MAX_ATTEMPTS: usize = 4;
/// How long an attempt is given before the next address is tried beside it (RFC 8305, section 5: 250 ms).
pub(crate) const ATTEMPT_DELAY_MS: u64 = 250;

/// Dials that a worker keeps for the next flows, and the room for addresses in one of them.
const KEEP_DIALS: usize = 256;
const KEEP_ADDRESSES: usize = 64;

/// One destination being dialled.
#[derive(Debug)]
pub(crate) struct Dialing {
    /// Screened; the address that was screened is the one that is dialled.
    addresses: Vec<SocketAddr>,
    next: usize,
    attempts: [Option<(OwnedFd, SocketAddr)>; MAX_ATTEMPTS],
    pub started_ns: u64,
    pub deadline_ms: u64,
    pub next_attempt_ms: u64,
    failure: End,
    /// First bytes wait to be sent to whoever answers.
    speaks_first: bool,
}

/// Dials that are over, kept for the next ones: a worker that is warm allocates none.
#[derive(Debug, Default)]
pub(crate) struct Dials {
    #[expect(clippy::vec_box, reason = "what is lent is the box")]
    free: Vec<Box<Dialing>>,
}

impl Dials {
    /// Begins to dial `addresses`, which are tried in their order.
    pub(crate) fn begin(
        &mut self,
        addresses: &[SocketAddr],
        now_ns: u64,
        deadline_ms: u64,
        speaks_first: bool,
    ) -> Box<Dialing> {
        let mut dialing = self.free.pop().unwrap_or_else(|| Box::new(Dialing::empty()));
        dialing.addresses.extend_from_slice(addresses);
        dialing.started_ns = now_ns;
        dialing.deadline_ms = deadline_ms;
        dialing.speaks_first = speaks_first;
        dialing
    }

    /// Takes a dial back; attempts still under way are given up.
    pub(crate) fn give_back(&mut self, mut dialing: Box<Dialing>) {
        if self.free.len() < KEEP_DIALS && dialing.addresses.capacity() <= KEEP_ADDRESSES {
            let mut addresses = std::mem::take(&mut dialing.addresses);
            addresses.clear();
            *dialing = Dialing { addresses, ..Dialing::empty() };
            self.free.push(dialing);
        }
    }
}

/// What came of starting the next attempt.
#[derive(Debug)]
pub(crate) enum Started {
    /// Attempt `index` is under way: register its descriptor.
    Attempt(usize),
    /// No address is left to try now; others may still be under way.
    Nothing,
    /// Every address has failed.
    Failed(End),
}

impl Dialing {
    fn empty() -> Self {
        Self {
            addresses: Vec::new(),
            next: 0,
            attempts: Default::default(),
            started_ns: 0,
            deadline_ms: 0,
            next_attempt_ms: u64::MAX,
            failure: End::ConnectFailed,
            speaks_first: false,
        }
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Begins to connect to the next address that does not fail at once.
    pub(crate) fn start(&mut self, now_ms: u64) -> Started {
        while let Some(address) = self.addresses.get(self.next).copied() {
            let Some(index) = self.attempts.iter().position(Option::is_none) else { break };
            self.next += 1;
            match egress_sys::stream_socket(address, self.speaks_first) {
                Ok(fd) => {
                    self.attempts[index] = Some((fd, address));
                    let more = self.next < self.addresses.len();
                    self.next_attempt_ms = if more { now_ms + ATTEMPT_DELAY_MS } else { u64::MAX };
                    return Started::Attempt(index);
                }
                Err(error) => self.failure = end_of(&error),
            }
        }
        self.next_attempt_ms = u64::MAX;
        if self.attempts.iter().all(Option::is_none) {
            Started::Failed(self.failure)
        } else {
            Started::Nothing
        }
    }

    pub(crate) fn fd(&self, index: usize) -> Option<&OwnedFd> {
        self.attempts.get(index)?.as_ref().map(|(fd, _)| fd)
    }

    /// After an edge on attempt `index`: the connected socket, or `None` (a failed attempt is dropped and noted).
    pub(crate) fn finish(&mut self, index: usize, edge: Edge) -> Option<(OwnedFd, SocketAddr)> {
        let (fd, _) = self.attempts.get(index)?.as_ref()?;
        if edge.broken {
            let error = egress_sys::connect_error(fd.as_fd())
                .unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
            self.failure = end_of(&error);
            self.attempts[index] = None;
            return None;
        }
        // Writable and neither in error nor hung up is connected (connect(2), EINPROGRESS): nothing more to ask.
        if edge.writable { self.attempts[index].take() } else { None }
    }

    pub(crate) fn under_way(&self, index: usize) -> bool {
        self.attempts.get(index).is_some_and(Option::is_some)
    }
}

/// Whose fault an errno of connect(2) is.
fn end_of(error: &io::Error) -> End {
    match Errno::from_io_error(error) {
        Some(Errno::CONNREFUSED | Errno::CONNRESET) => End::ConnectRefused,
        Some(Errno::TIMEDOUT) => End::ConnectTimeout,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL) => {
            End::OutOfResources
        }
        _ => End::ConnectFailed,
    }
}

/// Families in turn, IPv6 first (RFC 8305, section 4); within a family the resolver's order is kept.
pub(crate) fn interleave(addresses: &[SocketAddr], into: &mut Vec<SocketAddr>) {
    let mut v6 = addresses.iter().filter(|address| address.is_ipv6());
    let mut v4 = addresses.iter().filter(|address| address.is_ipv4());
    loop {
        match (v6.next(), v4.next()) {
            (None, None) => return,
            (a, b) => into.extend(a.into_iter().chain(b)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let addresses =
            ["1.1.1.1:1", "1.1.1.2:1", "[2::1]:1", "1.1.1.3:1"].map(|a| a.parse().unwrap());
        let mut mixed = Vec::new();
        interleave(&addresses, &mut mixed);
        let order: Vec<String> = mixed.iter().map(ToString::to_string).collect();
        assert_eq!(order, ["[2::1]:1", "1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"]);
    }
}
