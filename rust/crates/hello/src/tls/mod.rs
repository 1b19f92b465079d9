//! TLS ClientHello (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2): whom the client asks for, read from the
//! bytes that pass through, without a key and without an answer.
//!
//! The whole hello is read before anything is said, and there is one name or none in it: what two
//! readers could read in two ways is refused, as the server behind the gateway is the second reader.
mod alpn;
mod body;
mod error;
mod reader;

use std::net::IpAddr;

pub use alpn::Alpn;
pub use error::TlsError;
pub use reader::HelloReader;

use crate::name::Name;

/// Longest ClientHello body in bytes, the four-byte handshake header not counted. Post-quantum key
/// shares make hellos of about 1.8 KiB today; 64 KiB is where common servers stop as well.
pub const MAX_HELLO: usize = 64 * 1024;

/// Bytes of the handshake header: type and 24-bit length (RFC 8446 §4).
pub const HANDSHAKE_HEADER: usize = 4;

/// Bytes of a record header: type, version and 16-bit length (RFC 8446 §5.1).
pub const RECORD_HEADER: usize = 5;

/// Longest payload of one plaintext record in bytes (RFC 8446 §5.1).
pub const MAX_RECORD: usize = 1 << 14;

/// Bytes that a caller must be ready to hold until [`HelloReader`] has an answer: the longest hello,
/// one byte in each record. Only what arrived need be held; a common hello takes under 2 KiB.
pub const MAX_FIRST_BYTES: usize = (HANDSHAKE_HEADER + MAX_HELLO) * (RECORD_HEADER + 1);

/// Most extensions in one hello. Real clients send under 30, of fewer than 100 assigned; the bound
/// keeps the search for duplicates cheap.
pub const MAX_EXTENSIONS: usize = 128;

/// What a ClientHello says in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// Whom the client asks for.
    pub sni: Sni,
    /// The application protocols that it offers, in its order.
    pub alpn: Alpn,
    /// The protocol versions that it offers.
    pub versions: Versions,
    /// An Encrypted Client Hello (outer form) is there, real or GREASE: the name in `sni` may be the
    /// public one of the provider only.
    pub ech: bool,
}

/// The server_name of a hello (RFC 6066 §3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sni {
    /// The one name.
    Name(Name),
    /// No server_name extension.
    Absent,
    /// An address in the place of a name, which RFC 6066 forbids and some clients send: no name.
    IpLiteral(IpAddr),
}

impl Sni {
    /// The name, if there is one.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Name(name) => Some(name),
            Self::Absent | Self::IpLiteral(_) => None,
        }
    }
}

/// Offered versions as on the wire: 0x0301 is TLS 1.0, 0x0304 is TLS 1.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Versions {
    /// The highest of supported_versions up to 0x0304, GREASE and drafts passed over; 0 when that
    /// list holds nothing known. Without that extension it is `legacy`, at most 0x0303.
    pub highest: u16,
    /// The field that was the version until TLS 1.2.
    pub legacy: u16,
}
