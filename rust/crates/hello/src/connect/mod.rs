//! HTTP CONNECT request heads (RFC 9110 §9.3.6, RFC 9112 §3.2.3): the host and port that a client
//! wants a tunnel to.
//!
//! Strict, as whatever two readers could read in two ways is how requests are smuggled: besides what
//! no head may hold, no body, and a Host header field must agree with the authority.
mod error;
mod head;
mod reader;

pub use error::HeadError;
pub use reader::HeadReader;

pub use crate::head::{HeadFault, MAX_HEAD, MAX_HEADERS, Preference};
use crate::{basic::ProxyLogin, name::Host};

/// What a CONNECT head asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectHead {
    /// The host of the authority.
    pub host: Host,
    /// The port of the authority; never 0.
    pub port: u16,
    /// Bytes up to and including the blank line. What follows belongs to the tunnel.
    pub head_len: usize,
    /// How the client would rather read a refusal.
    pub prefers: Preference,
    /// Who the client says it is.
    pub login: ProxyLogin,
}
