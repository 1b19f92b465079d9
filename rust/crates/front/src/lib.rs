//! The front: HTTP/2 and TLS to the proxy itself, on a thread of its own.
//!
//! The front never decides and never dials. Each HTTP/2 stream, and each TLS connection after its handshake, becomes a
//! socket pair (AF_UNIX): one end goes to a worker, which serves it like an accepted client that speaks HTTP/1.1; the
//! front translates at the other. So every way in is judged, refused and recorded by the same code.
//!
//! The path of a connection: `server` (taken from a worker) → `tls` (handshake) → `http2` → `stream` (one CONNECT), or
//! `plain` (what is inside the TLS as it is). `pair` is what a stream and its worker share.
#![forbid(unsafe_code)]

mod answer;
mod http2;
mod introduced;
mod pair;
mod plain;
mod prefixed;
mod request;
mod server;
mod stream;
mod tls;
mod turns;
mod up;

pub use introduced::Introduced;
pub use pair::WorkerEnd;
pub use server::{Handle, ListenerTerms, Taken, Terms, start};
pub use tls::{Files, ServerTls, TlsProblem, Trouble};

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// A client as a worker takes it over: as good as accepted.
#[derive(Debug)]
pub struct Adopted {
    pub fd: OwnedFd,
    pub end: WorkerEnd,
    pub source: SocketAddr,
    /// What it has connected to.
    pub local: Option<SocketAddr>,
    pub introduced: Option<Introduced>,
    /// By its place in the settings.
    pub listener: usize,
    /// It speaks HTTP/1.1 by now, whatever else the listener accepts: its own bytes came in HTTP/2.
    pub http2: bool,
    /// The SPIFFE ID of a client certificate that was verified.
    pub spiffe: Option<Arc<str>>,
}

/// A connection that ended before anything was asked for in it: it leaves a record all the same.
#[derive(Debug)]
pub struct Lost {
    pub source: SocketAddr,
    pub introduced: Option<Introduced>,
    pub listener: usize,
    /// How long it lasted.
    pub lasted: Duration,
    pub why: Loss,
}

/// Why nothing came of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Not in time.
    Late,
    /// The client went away.
    Left,
    /// There was no descriptor for it.
    NoRoom,
    /// Not the protocol that the listener speaks.
    NotAccepted,
    /// What breaks the protocol's rules, as a word.
    Malformed(&'static str),
}

/// The workers, as the front sees them.
pub trait Workers: std::fmt::Debug + Send + Sync + 'static {
    /// How many there are.
    fn count(&self) -> usize;
    /// Hands a client to a worker; `false` when that worker has ended. It never waits.
    fn adopt(&self, worker: usize, client: Adopted) -> bool;
    /// Lets a worker write the record of a connection that was lost.
    fn lost(&self, worker: usize, lost: Lost);
    /// The front holds no connection any more: wakes workers that wait for that before they end.
    fn idle(&self);
}
