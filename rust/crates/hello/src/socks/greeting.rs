//! The first message: which ways of authentication the client offers.
use super::{SocksError, VERSION};
use crate::{Answer, cursor::Cursor};

/// X'00', no authentication required (RFC 1928 §3).
pub(super) const NO_AUTH: u8 = 0;

/// X'02', user and password (RFC 1928 §3).
pub(super) const PASSWORD: u8 = 2;

/// What a client offers (RFC 1928 §3). Methods other than these two are passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Greeting {
    /// It would go on without authentication.
    pub no_auth: bool,
    /// It would send a user and a password.
    pub password: bool,
    /// Bytes that the greeting took. What follows is the login or the request of a client that did
    /// not wait.
    pub len: usize,
}

/// Reads a greeting; `first_bytes` are all bytes of the connection so far. `Not` is said at a first
/// byte other than 5.
pub fn read_greeting(first_bytes: &[u8]) -> Answer<Greeting, SocksError> {
    let mut cursor = Cursor(first_bytes);
    match cursor.u8() {
        None => return Answer::NeedMore,
        Some(VERSION) => {}
        Some(_) => return Answer::Not,
    }
    let Some(count) = cursor.u8() else { return Answer::NeedMore };
    if count == 0 {
        return Answer::Malformed(SocksError::MethodsNone);
    }
    let Some(methods) = cursor.take(count.into()) else { return Answer::NeedMore };
    Answer::Found(Greeting {
        no_auth: methods.contains(&NO_AUTH),
        password: methods.contains(&PASSWORD),
        len: first_bytes.len() - cursor.0.len(),
    })
}
