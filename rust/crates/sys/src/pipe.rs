//! Pipes for splice(2): bytes move from socket to socket without passing through user space.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags};

/// The size in bytes asked of a pipe. 1 MiB halves the CPU per byte against the default 64 KiB; the kernel may give less
/// (pipe(7): /proc/sys/fs/pipe-user-pages-soft).
pub const PIPE_SIZE: usize = 1 << 20;

/// An empty pipe, or one with `len` bytes on their way.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    len: usize,
}

impl Pipe {
    /// A new empty pipe, as large as the kernel gives.
    pub fn open() -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A refusal (EPERM: the user's quota is used up) leaves the size that the pipe was made with.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_SIZE);
        let capacity = rustix::pipe::fcntl_getpipe_size(&write)?;
        Ok(Self { read, write, capacity, len: 0 })
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes inside.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Moves up to the pipe's capacity in from a socket. `Ok(0)` is the end of the stream. `WouldBlock` means, on an
    /// empty pipe, that the socket has nothing; on one with bytes it may also mean that the pipe has no slot left.
    pub fn fill(&mut self, from: impl AsFd, most: usize) -> io::Result<usize> {
        let n = rustix::pipe::splice(
            from,
            None,
            &self.write,
            None,
            self.capacity.min(most),
            SpliceFlags::MOVE | SpliceFlags::NONBLOCK,
        )?;
        self.len += n;
        Ok(n)
    }

    /// Moves what is inside out to a socket; `WouldBlock` when it takes nothing.
    pub fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let n = rustix::pipe::splice(
            &self.read,
            None,
            to,
            None,
            self.len,
            SpliceFlags::MOVE | SpliceFlags::NONBLOCK,
        )?;
        self.len -= n;
        Ok(n)
    }
}
