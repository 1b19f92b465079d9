//! First bytes to what the client asks for: pure functions over bytes.
//!
//! Nothing here does I/O. A caller hands over all bytes that have arrived so far and gets an
//! [`Answer`], which is the same for every way of cutting them. Readers of what may be long keep their
//! position, so that bytes which arrive one at a time cost no more than bytes which arrive at once;
//! what is short enough to look at anew each time has a function.
//!
//! A hello within TLS records and one within QUIC's CRYPTO frames (RFC 9001, section 4) are the same message: a reader of
//! Initial packets belongs beside [`tls`], which has the message's parser apart from that of records (`tls/body.rs`); the
//! worker takes the datagrams in `proxy/src/worker/datagrams.rs`.
#![forbid(unsafe_code)]

pub mod basic;
pub mod connect;
mod cursor;
pub mod dns;
mod errors;
mod head;
pub mod http;
pub mod name;
pub mod postgres;
pub mod protocol;
pub mod proxy_protocol;
mod secret;
mod signature;
pub mod socks;
pub mod ssh;
pub mod tls;

pub use secret::Secret;

/// What a reader says of the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T, M> {
    /// The bytes are a proper prefix of what could still become any of the other answers.
    NeedMore,
    /// The whole was read.
    Found(T),
    /// These bytes are not of this protocol.
    Not,
    /// They are of this protocol and break its rules, or a rule of ours; `M` says which.
    Malformed(M),
}
