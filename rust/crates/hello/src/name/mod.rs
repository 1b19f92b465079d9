//! The one place where a destination's name is normalised.
//!
//! Whatever names a destination (SNI, a CONNECT authority, a line of a policy file) goes through
//! [`parse_host`], so that two spellings of one host can never be judged differently.
mod authority;
mod spare;

use std::{
    borrow::Borrow,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

pub(crate) use authority::parse_wire_host;
pub use authority::{AuthorityError, parse_authority, parse_wire_authority};

/// Longest name in bytes, without the root's dot (RFC 1035 §2.3.4: 255 octets on the wire).
pub const MAX_NAME: usize = 253;

/// Longest label in bytes (RFC 1035 §2.3.4).
pub const MAX_LABEL: usize = 63;

/// Longest input in bytes. UTF-8 spellings shrink when they are mapped, but four bytes for each
/// byte of the result is the most that an honest one takes; more is refused before IDNA works on it.
const MAX_INPUT: usize = 4 * (MAX_NAME + 1);

/// STD 3's letters, digits and hyphens, and `_`, which service names in the DNS carry.
const DENIED: AsciiDenyList = AsciiDenyList::new(true, "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~");

/// A normalised host name: lower-case A-labels of `[a-z0-9_-]`, 1 to 63 bytes each, joined by dots,
/// at most 253 bytes, no trailing dot, never an IP literal nor what could be read as one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Drop for Name {
    fn drop(&mut self) {
        spare::keep(std::mem::take(&mut self.0));
    }
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as bytes; all of them are ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What a client may ask for: a name to resolve, or an address to dial.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A host name.
    Name(Name),
    /// An address. IPv4-mapped IPv6 is held as IPv4, because that is what the kernel would dial.
    Ip(IpAddr),
}

impl fmt::Display for Host {
    /// An IPv6 address is written without brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

/// Why bytes are neither a host name nor an IP literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NameError {
    /// No bytes, or only the root's dot.
    Empty,
    /// More than 253 bytes once normalised, or an input too long to become that few.
    TooLong,
    /// A label of more than 63 bytes.
    LabelTooLong,
    /// Two dots in a row, or one at the start.
    EmptyLabel,
    /// A byte that no name holds: NUL, controls, space, `%`, `/`, `@`, `:` and the like.
    ForbiddenByte(u8),
    /// UTS 46 does not map it (RFC 5890..5893), or an `xn--` label does not decode.
    Idna,
    /// The last label is a number (`1.2.3`, `0x7f.1`, `2130706433`, `127.0.0.01`): inet_aton(3)
    /// would read it as an address, but it is not a strict dotted quad.
    NumericTail,
}

impl NameError {
    /// The error as one word for logs and labels.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Empty => "name_empty",
            Self::TooLong => "name_too_long",
            Self::LabelTooLong => "label_too_long",
            Self::EmptyLabel => "label_empty",
            Self::ForbiddenByte(_) => "name_forbidden_byte",
            Self::Idna => "name_idna",
            Self::NumericTail => "name_numeric_tail",
        }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the name is empty"),
            Self::TooLong => write!(f, "the name is longer than {MAX_NAME} bytes"),
            Self::LabelTooLong => write!(f, "a label is longer than {MAX_LABEL} bytes"),
            Self::EmptyLabel => {
                f.write_str("a label is empty (two dots in a row, or one at the start)")
            }
            Self::ForbiddenByte(byte) => {
                write!(f, "a name cannot hold the byte 0x{byte:02x} ('{}')", byte.escape_ascii())
            }
            Self::Idna => f.write_str("not a valid internationalised name (UTS 46)"),
            Self::NumericTail => f.write_str(
                "ends in a number, so it could be read as an IPv4 address, but is not a strict one",
            ),
        }
    }
}

impl std::error::Error for NameError {}

/// Reads a host: a strict dotted quad, an IPv6 address with or without brackets, else a name, which
/// is normalised (case, one trailing dot, UTF-8 to A-labels by UTS 46).
///
/// Hyphens are allowed anywhere in a label: names such as `r3---sn-x.example` exist. Zone ids
/// (`fe80::1%eth0`) are refused, as they mean something on the client's machine only.
///
/// # Errors
/// See [`NameError`]. Only the `Name` itself is allocated, and not even that where one was dropped
/// before on the same thread, unless the input is internationalised.
pub fn parse_host(bytes: &[u8]) -> Result<Host, NameError> {
    let first = *bytes.first().ok_or(NameError::Empty)?;
    if first == b'[' {
        let inner = bytes[1..].strip_suffix(b"]").ok_or(NameError::ForbiddenByte(b'['))?;
        return parse_v6(inner, b'[').map(Host::Ip);
    }
    if bytes.contains(&b':') {
        return parse_v6(bytes, b':').map(Host::Ip);
    }
    // Only a digit can start a dotted quad; std refuses leading zeros, signs and short forms.
    if first.is_ascii_digit()
        && let Some(ip) =
            std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Ipv4Addr>().ok())
    {
        return Ok(Host::Ip(IpAddr::V4(ip)));
    }
    parse_name(bytes).map(Host::Name)
}

/// Only the name forms of [`parse_host`].
fn parse_name(bytes: &[u8]) -> Result<Name, NameError> {
    let mut foreign = false;
    for &byte in bytes {
        if byte >= 0x80 {
            foreign = true;
        } else if !is_name_byte(byte) {
            return Err(NameError::ForbiddenByte(byte));
        }
    }
    if bytes.len() > MAX_INPUT {
        return Err(NameError::TooLong);
    }
    if !foreign {
        let ascii = without_root(bytes)?;
        // Lengths come first, so that IDNA never works on what cannot be a name.
        let punycode = check_labels(ascii)?;
        if !punycode {
            return lowered(ascii);
        }
    }
    // The mapping may itself bring forth dots, digits and case, so its result is checked anew.
    let mapped = Uts46::new()
        .to_ascii(bytes, DENIED, Hyphens::Allow, DnsLength::Ignore)
        .map_err(|_| NameError::Idna)?;
    let ascii = without_root(mapped.as_bytes())?;
    check_labels(ascii)?;
    lowered(ascii)
}

/// Drops the root's dot, once.
fn without_root(bytes: &[u8]) -> Result<&[u8], NameError> {
    let name = bytes.strip_suffix(b".").unwrap_or(bytes);
    if name.is_empty() { Err(NameError::Empty) } else { Ok(name) }
}

/// Checks lengths and the last label of an ASCII name; says whether one of the labels is `xn--`.
fn check_labels(name: &[u8]) -> Result<bool, NameError> {
    if name.len() > MAX_NAME {
        return Err(NameError::TooLong);
    }
    let (mut punycode, mut last) = (false, name);
    for label in name.split(|&byte| byte == b'.') {
        match label.len() {
            0 => return Err(NameError::EmptyLabel),
            1..=MAX_LABEL => {}
            _ => return Err(NameError::LabelTooLong),
        }
        punycode |= label.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"xn--"));
        last = label;
    }
    if is_number(last) { Err(NameError::NumericTail) } else { Ok(punycode) }
}

/// "Ends in a number" of the WHATWG URL standard, §3.5: decimal or octal digits, or `0x` and any
/// number of hexadecimal ones.
fn is_number(label: &[u8]) -> bool {
    match label {
        [b'0', b'x' | b'X', digits @ ..] => digits.iter().all(u8::is_ascii_hexdigit),
        digits => digits.iter().all(u8::is_ascii_digit),
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// Lower-cases what [`parse_name`] found to be ASCII.
fn lowered(ascii: &[u8]) -> Result<Name, NameError> {
    let text = std::str::from_utf8(ascii).map_err(|_| NameError::Idna)?;
    let mut name = spare::take();
    name.push_str(text);
    name.make_ascii_lowercase();
    Ok(Name(name))
}

/// `culprit` is the byte that made this an IPv6 address and nothing else.
fn parse_v6(bytes: &[u8], culprit: u8) -> Result<IpAddr, NameError> {
    if let Some(&byte) =
        bytes.iter().find(|byte| !(byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')))
    {
        return Err(NameError::ForbiddenByte(byte));
    }
    let address: Option<Ipv6Addr> =
        std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
    address.map(|ip| IpAddr::V6(ip).to_canonical()).ok_or(NameError::ForbiddenByte(culprit))
}
