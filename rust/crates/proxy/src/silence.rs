//! Denied connections to which nothing is said (`on_deny: drop`): how many, and for how long.

use std::cell::Cell;
use std::rc::Rc;

use rustix::net::sockopt::set_socket_recv_buffer_size;

/// At most so many of one worker at a time; each holds a descriptor and a place for a flow.
pub(crate) const MAX_SILENT: usize = 1024;
/// As long as a client that gets no answer at all goes on trying, about: it is to learn no more than it would then.
pub(crate) const SILENT_MS: u64 = 30_000;

/// Those that are being held now.
#[derive(Debug, Default)]
pub(crate) struct Silences(Rc<Cell<usize>>);

/// One of them; it counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Silence(Rc<Cell<usize>>);

impl Silences {
    /// A place for the connection of `fd`, or `None` where all are taken.
    pub(crate) fn begin(&self, fd: std::os::fd::BorrowedFd<'_>) -> Option<Silence> {
        let held = self.0.get();
        if held >= MAX_SILENT {
            return None;
        }
        self.0.set(held + 1);
        // Nobody reads what still comes: of it, the kernel keeps as little as it can (socket(7), SO_RCVBUF).
        let _ = set_socket_recv_buffer_size(fd, 0);
        Some(Silence(Rc::clone(&self.0)))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_place_that_is_given_up_is_free_again() {
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let silences = Silences::default();
        let mut held: Vec<_> =
            (0..MAX_SILENT).filter_map(|_| silences.begin(socket.as_fd())).collect();
        assert_eq!(held.len(), MAX_SILENT);
        assert!(silences.begin(socket.as_fd()).is_none());
        held.pop();
        assert!(silences.begin(socket.as_fd()).is_some());
    }
}
