//! Dialling: the screened addresses of one name, tried as RFC 8305 (happy eyeballs) says.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use egress_policy::End;
use rustix::io::Errno;

use crate::relay::Edge;

/// Attempts under way at once; beyond it the oldest ones decide.
pub(crate) const MAX_ATTEMPTS: usize = 4;
/// How long an attempt is given before the next address is tried beside it (RFC 8305, section 5: 250 ms).
pub(crate) const ATTEMPT_DELAY_MS: u64 = 250;

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
    /// `addresses` are tried in their order.
    pub(crate) fn new(
        addresses: Vec<SocketAddr>,
        now_ns: u64,
        deadline_ms: u64,
        speaks_first: bool,
    ) -> Self {
        Self {
            addresses,
            next: 0,
            attempts: Default::default(),
            started_ns: now_ns,
            deadline_ms,
            next_attempt_ms: u64::MAX,
            failure: End::ConnectFailed,
            speaks_first,
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
pub(crate) fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    if addresses.iter().all(SocketAddr::is_ipv4) {
        return addresses;
    }
    let (v6, v4): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| matches!(address.ip(), IpAddr::V6(_)));
    let mut mixed = Vec::with_capacity(v6.len() + v4.len());
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    loop {
        match (v6.next(), v4.next()) {
            (None, None) => return mixed,
            (a, b) => mixed.extend(a.into_iter().chain(b)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let addresses = ["1.1.1.1:1", "1.1.1.2:1", "[2::1]:1", "1.1.1.3:1"]
            .map(|a| a.parse().unwrap())
            .to_vec();
        let order: Vec<String> = interleave(addresses).iter().map(ToString::to_string).collect();
        assert_eq!(order, ["[2::1]:1", "1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"]);
    }
}
