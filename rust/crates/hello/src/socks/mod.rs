//! SOCKS5 (RFC 1928) with user and password (RFC 1929): the client's three messages, and the answers.
//!
//! The client sends a greeting and is told a [`Method`]; with [`Method::Password`] it sends a login
//! and is told [`LOGIN_ACCEPTED`] or [`LOGIN_REFUSED`]; then it sends its request and is told a
//! [`Reply`]. Each message has a function that reads it from all bytes of *that message* so far and
//! says how many it took: the next message of a client that does not wait for answers, or the
//! tunnel's first bytes, follow directly.
//!
//! The messages are short and bounded by their own length bytes ([`MAX_GREETING`], [`MAX_LOGIN`],
//! [`MAX_REQUEST`]), so the functions keep no position.
mod error;
mod greeting;
mod login;
mod reply;
mod request;

pub use error::SocksError;
pub use greeting::{Greeting, read_greeting};
pub use login::{Login, read_login};
pub use reply::{LOGIN_ACCEPTED, LOGIN_REFUSED, MAX_REPLY, Method, Reply};
pub use request::{Command, Request, read_request};

/// The first byte of a SOCKS5 connection, of its request and of both answers (RFC 1928 §3, §4).
pub const VERSION: u8 = 5;

/// The first byte of a SOCKS4 and SOCKS4a connection, which is not read: it has no IPv6, no password,
/// and its answer no words. [`read_greeting`] says `Not` to it, as to any other byte but 5.
pub const VERSION_4: u8 = 4;

/// Most bytes of a greeting: version, count, methods (RFC 1928 §3).
pub const MAX_GREETING: usize = 2 + 255;

/// Most bytes of a login: version, and user and password with a length byte each (RFC 1929 §2).
pub const MAX_LOGIN: usize = 1 + 2 * (1 + 255);

/// Most bytes of a request: four fixed ones, a domain with its length byte, a port (RFC 1928 §4).
pub const MAX_REQUEST: usize = 4 + 1 + 255 + 2;
