//! A socket pair, and what its two ends tell each other besides bytes: AF_UNIX carries bytes and their end, no reset.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::net::UnixStream;
use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Shared {
    /// The client broke off: its end of the bytes is no orderly one.
    client_cut: AtomicBool,
    /// The worker broke off.
    worker_cut: AtomicBool,
    /// The worker had no room, and has not looked at what the client wants.
    turned_away: AtomicBool,
    /// The worker has closed its end.
    over: AtomicBool,
    changed: Notify,
}

/// What the worker keeps beside its end of the pair, dropped after it.
#[derive(Debug)]
pub struct WorkerEnd(Arc<Shared>);

impl WorkerEnd {
    /// Whether the end of the bytes was a reset. Asked after the end has been read, which was closed after this was set.
    pub fn client_cut(&self) -> bool {
        self.0.client_cut.load(Ordering::Acquire)
    }

    /// Makes the coming close a reset for the client.
    pub fn cut(&self) {
        self.0.worker_cut.store(true, Ordering::Release);
    }

    /// The same, for want of room: the client may ask again.
    pub fn turn_away(&self) {
        self.0.turned_away.store(true, Ordering::Release);
        self.cut();
    }
}

impl Drop for WorkerEnd {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
        self.0.changed.notify_one();
    }
}

/// What the front keeps. Unless it is told that the client ended in order, dropping it is a reset for the worker: a task
/// that is thrown away with its connection needs to do nothing more. Dropped before the front's end of the pair.
#[derive(Debug)]
pub(crate) struct FrontEnd {
    shared: Arc<Shared>,
    in_order: bool,
}

impl FrontEnd {
    /// The client has said all that it wanted to say.
    pub(crate) fn ended_in_order(&mut self) {
        self.in_order = true;
    }

    /// Whether the end of the worker's bytes is a reset. Asked after the end has been read.
    pub(crate) fn worker_cut(&self) -> bool {
        self.shared.worker_cut.load(Ordering::Acquire)
    }

    /// Whether that reset was for want of room.
    pub(crate) fn turned_away(&self) -> bool {
        self.shared.turned_away.load(Ordering::Acquire)
    }

    /// Comes back once the worker has closed its end; `true` when that was a reset.
    pub(crate) async fn over(&self) -> bool {
        while !self.shared.over.load(Ordering::Acquire) {
            self.shared.changed.notified().await;
        }
        self.worker_cut()
    }
}

impl Drop for FrontEnd {
    fn drop(&mut self) {
        if !self.in_order {
            self.shared.client_cut.store(true, Ordering::Release);
        }
    }
}

/// A connected pair: the worker's end and the front's.
pub(crate) fn open() -> io::Result<((OwnedFd, WorkerEnd), (FrontEnd, UnixStream))> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let shared = Arc::new(Shared::default());
    let stream = UnixStream::from_std(ours.into())?;
    let front = FrontEnd { shared: Arc::clone(&shared), in_order: false };
    Ok(((theirs, WorkerEnd(shared)), (front, stream)))
}
