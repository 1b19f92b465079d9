//! The sub-negotiation of user and password.
use super::SocksError;
use crate::{Answer, Secret, cursor::Cursor};

/// The version of the sub-negotiation (RFC 1929 §2).
pub(super) const LOGIN_VERSION: u8 = 1;

/// Who a client says it is (RFC 1929 §2). Neither field has a character set; they are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Login<'a> {
    /// The user, 1 to 255 bytes of the client's choosing: escape them before they are shown.
    pub user: &'a [u8],
    /// The password, 1 to 255 bytes.
    pub password: Secret<'a>,
    /// Bytes that the login took.
    pub len: usize,
}

/// Reads a login; `bytes` are all bytes after the greeting so far. Never `Not`: the greeting has
/// said that this is SOCKS.
pub fn read_login(bytes: &[u8]) -> Answer<Login<'_>, SocksError> {
    let mut cursor = Cursor(bytes);
    match cursor.u8() {
        None => return Answer::NeedMore,
        Some(LOGIN_VERSION) => {}
        Some(_) => return Answer::Malformed(SocksError::LoginVersion),
    }
    let Some(length) = cursor.u8() else { return Answer::NeedMore };
    if length == 0 {
        return Answer::Malformed(SocksError::UserEmpty);
    }
    let Some(user) = cursor.take(length.into()) else { return Answer::NeedMore };
    let Some(length) = cursor.u8() else { return Answer::NeedMore };
    if length == 0 {
        return Answer::Malformed(SocksError::PasswordEmpty);
    }
    let Some(password) = cursor.take(length.into()) else { return Answer::NeedMore };
    let len = bytes.len() - cursor.0.len();
    Answer::Found(Login { user, password: Secret::new(password), len })
}
