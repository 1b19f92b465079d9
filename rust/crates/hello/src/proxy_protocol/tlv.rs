//! What a header of version 2 says besides addresses: type, length, value, one after the other (§2.2).
use std::mem;

use crc32c::{crc32c, crc32c_append};

use super::ProxyError;
use crate::cursor::Cursor;

/// Most bytes of a unique id (§2.2.5).
const MAX_UNIQUE_ID: usize = 128;

/// Bytes of a checksum (§2.2.3).
const CHECKSUM_SIZE: usize = 4;

/// The types that are assigned (§2.2). 0xe0 to 0xef are free for use between two parties (§2.2.8).
pub mod kind {
    /// PP2_TYPE_ALPN: the application protocol.
    pub const ALPN: u8 = 0x01;
    /// PP2_TYPE_AUTHORITY: the name that the client asked for.
    pub const AUTHORITY: u8 = 0x02;
    /// PP2_TYPE_CRC32C: the checksum of the whole header. Right, where it is there.
    pub const CRC32C: u8 = 0x03;
    /// PP2_TYPE_NOOP: padding.
    pub const NOOP: u8 = 0x04;
    /// PP2_TYPE_UNIQUE_ID: the connection's, at most 128 bytes.
    pub const UNIQUE_ID: u8 = 0x05;
    /// PP2_TYPE_SSL: how the client's TLS was, read by [`Ssl`](super::super::Ssl).
    pub const SSL: u8 = 0x20;
    /// PP2_SUBTYPE_SSL_VERSION, and inside of SSL like the next ones: `TLSv1.3`.
    pub const SSL_VERSION: u8 = 0x21;
    /// PP2_SUBTYPE_SSL_CN: the common name of the client's certificate, which may have been refused.
    pub const SSL_CN: u8 = 0x22;
    /// PP2_SUBTYPE_SSL_CLIENT_CERT: the client's certificate (DER), which may have been refused.
    pub const SSL_CLIENT_CERT: u8 = 0x28;
    /// PP2_TYPE_NETNS: a network namespace of the proxy's machine.
    pub const NETNS: u8 = 0x30;
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// Its type.
    pub kind: u8,
    /// Its value.
    pub value: &'a [u8],
}

/// Asks the writer for a checksum: it puts the right one in this place.
pub const CHECKSUM: Tlv<'static> = Tlv { kind: kind::CRC32C, value: &[0; CHECKSUM_SIZE] };

impl Tlv<'_> {
    /// Bytes before the value: type and length.
    pub(super) const HEADER: usize = 3;
}

/// All of a header, or of what its SSL holds. Their lengths were checked, and the checksum, if there is
/// one, is right. Each of the types in [`kind`] but NOOP comes once at most; others may come several times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tlvs<'a>(&'a [u8]);

impl<'a> Tlvs<'a> {
    /// In the order of the header.
    pub fn iter(&self) -> impl Iterator<Item = Tlv<'a>> + use<'a> {
        let mut cursor = Cursor(self.0);
        std::iter::from_fn(move || take(&mut cursor))
    }

    /// The value of the first one of this type.
    pub fn find(&self, kind: u8) -> Option<&'a [u8]> {
        self.iter().find(|tlv| tlv.kind == kind).map(|tlv| tlv.value)
    }

    /// Checks those of a whole header that begin at `start`.
    pub(super) fn check(header: &'a [u8], start: usize) -> Result<Self, ProxyError> {
        let all = header.get(start..).unwrap_or_default();
        Self::walk(all, |Tlv { kind, value }, rest| match kind {
            kind::CRC32C if value.len() != CHECKSUM_SIZE => Err(ProxyError::ChecksumLength),
            kind::CRC32C if value != sum(header, rest) => Err(ProxyError::Checksum),
            kind::UNIQUE_ID if value.len() > MAX_UNIQUE_ID => Err(ProxyError::UniqueId),
            _ => Ok(()),
        })
    }

    /// Checks each, with the bytes behind it. A type that comes twice is refused, where it has one
    /// meaning: one reader takes the first, another the last. Types between two parties do come twice,
    /// told apart by what their values begin with (§2.2.8 proposes that).
    pub(super) fn walk(
        all: &'a [u8],
        check: impl Fn(Tlv<'a>, usize) -> Result<(), ProxyError>,
    ) -> Result<Self, ProxyError> {
        let (mut cursor, mut seen) = (Cursor(all), [false; 1 << u8::BITS]);
        while !cursor.is_empty() {
            let tlv = take(&mut cursor).ok_or(ProxyError::TlvLength)?;
            if comes_once(tlv.kind) && mem::replace(&mut seen[usize::from(tlv.kind)], true) {
                return Err(ProxyError::TlvTwice);
            }
            check(tlv, cursor.0.len())?;
        }
        Ok(Self(all))
    }
}

const fn comes_once(kind: u8) -> bool {
    use kind::{ALPN, AUTHORITY, CRC32C, NETNS, SSL, SSL_CLIENT_CERT, UNIQUE_ID};
    matches!(kind, ALPN | AUTHORITY | CRC32C | UNIQUE_ID | SSL..=SSL_CLIENT_CERT | NETNS)
}

/// Writes the checksum of a whole header into its place, if it has one.
pub(super) fn seal(header: &mut [u8], start: usize) {
    let mut cursor = Cursor(header.get(start..).unwrap_or_default());
    while let Some(tlv) = take(&mut cursor) {
        if tlv.kind == kind::CRC32C && tlv.value.len() == CHECKSUM_SIZE {
            let rest = cursor.0.len();
            let (sum, end) = (sum(header, rest), header.len() - rest);
            header[end - CHECKSUM_SIZE..end].copy_from_slice(&sum);
            return;
        }
    }
}

/// The checksum of a header, zeros in its place, which ends `rest` bytes before the end (§2.2.3).
fn sum(header: &[u8], rest: usize) -> [u8; CHECKSUM_SIZE] {
    let (head, tail) = header.split_at(header.len() - rest);
    let head = &head[..head.len() - CHECKSUM_SIZE];
    let zeroed = crc32c_append(crc32c(head), &[0; CHECKSUM_SIZE]);
    crc32c_append(zeroed, tail).to_be_bytes()
}

fn take<'a>(cursor: &mut Cursor<'a>) -> Option<Tlv<'a>> {
    Some(Tlv { kind: cursor.u8()?, value: cursor.vec16()? })
}
