//! `host:port`, read strictly: what CONNECT asks for and what settings such as `dial` hold.
use std::fmt;

use super::{Host, NameError, parse_host};

/// Most digits of a port: 65535 has five.
const MAX_PORT_DIGITS: usize = 5;

/// Why bytes are not `host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthorityError {
    /// The host is neither a name nor an address.
    Host(NameError),
    /// No `:port`, or nothing after the colon.
    MissingPort,
    /// The port is not 1 to 65535 in one to five digits.
    BadPort,
}

impl AuthorityError {
    /// The error as one word for logs and labels.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Host(error) => error.word(),
            Self::MissingPort => "port_missing",
            Self::BadPort => "port_bad",
        }
    }
}

impl fmt::Display for AuthorityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(error) => error.fmt(f),
            Self::MissingPort => f.write_str("the port is missing (write host:port)"),
            Self::BadPort => f.write_str("the port is not a number from 1 to 65535"),
        }
    }
}

impl std::error::Error for AuthorityError {}

impl From<NameError> for AuthorityError {
    fn from(error: NameError) -> Self {
        Self::Host(error)
    }
}

/// Reads `host:port` (RFC 9112 §3.2.3). An IPv6 address must be in brackets: in `::1:443` nobody
/// can tell the port from the address. User information, paths and schemes are refused.
///
/// # Errors
/// See [`AuthorityError`].
pub fn parse_authority(bytes: &[u8]) -> Result<(Host, u16), AuthorityError> {
    let (host, port) = split(bytes)?;
    let host = parse_host(host)?;
    Ok((host, parse_port(port.ok_or(AuthorityError::MissingPort)?)?))
}

/// As [`parse_authority`], for bytes that came over the wire: UTF-8 is refused there, since RFC 3986
/// knows ASCII only and the next party may well map it differently.
///
/// # Errors
/// See [`AuthorityError`].
pub fn parse_wire_authority(bytes: &[u8]) -> Result<(Host, u16), AuthorityError> {
    let (host, port) = parse_wire_host(bytes)?;
    Ok((host, port.ok_or(AuthorityError::MissingPort)?))
}

/// The same, where the port may be left out, as in a Host header field (RFC 9110 §7.2).
pub(crate) fn parse_wire_host(bytes: &[u8]) -> Result<(Host, Option<u16>), AuthorityError> {
    if let Some(&byte) = bytes.iter().find(|byte| !byte.is_ascii()) {
        return Err(NameError::ForbiddenByte(byte).into());
    }
    let (host, port) = split(bytes)?;
    let host = parse_host(host)?;
    Ok((host, port.map(parse_port).transpose()?))
}

/// Cuts at the colon before the port; `None` when there is no colon.
fn split(bytes: &[u8]) -> Result<(&[u8], Option<&[u8]>), AuthorityError> {
    let end = if bytes.first() == Some(&b'[') {
        bytes.iter().position(|&byte| byte == b']').map_or(bytes.len(), |at| at + 1)
    } else {
        bytes.iter().position(|&byte| byte == b':').unwrap_or(bytes.len())
    };
    let (host, rest) = bytes.split_at(end);
    match rest {
        [] => Ok((host, None)),
        [b':', port @ ..] if port.contains(&b':') => Err(NameError::ForbiddenByte(b':').into()),
        [b':', port @ ..] => Ok((host, Some(port))),
        [byte, ..] => Err(NameError::ForbiddenByte(*byte).into()),
    }
}

fn parse_port(digits: &[u8]) -> Result<u16, AuthorityError> {
    if digits.is_empty() {
        return Err(AuthorityError::MissingPort);
    }
    if digits.len() > MAX_PORT_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return Err(AuthorityError::BadPort);
    }
    let number = digits.iter().fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0'));
    u16::try_from(number).ok().filter(|&port| port != 0).ok_or(AuthorityError::BadPort)
}
