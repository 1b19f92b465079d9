//! The PROXY protocol, versions 1 and 2 (HAProxy's `doc/proxy-protocol.txt`, cited below by its
//! sections): a header before the first byte of a connection, in which a proxy says for whom it
//! connects. Read on listeners behind one, written towards upstreams that ask for it.
//!
//! Whoever may send the header may say that it is anybody. A listener reads it because it is told
//! to, from sources that it is told to trust, and never because it looks as if there were one (§2, §5).
mod error;
mod ssl;
mod tlv;
mod v1;
mod v2;

use std::net::{IpAddr, SocketAddr};

pub use error::ProxyError;
pub use ssl::Ssl;
pub use tlv::{CHECKSUM, Tlv, Tlvs, kind};
pub use v1::write as write_v1;
pub use v2::write as write_v2;

use crate::Answer;

/// What a header of version 1 begins with (§2.1).
pub const SIGNATURE_V1: &[u8] = b"PROXY ";

/// What a header of version 2 begins with, made to be no other protocol (§2.2).
pub const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Longest line of version 1 in bytes, CR LF included (§2.1).
pub const MAX_V1: usize = 107;

/// Longest header of version 2 in bytes. Its length field could say 64 KiB. Senders are to fit into
/// one segment (§2), but may add a client's certificate (§2.2.6): 4 KiB holds most of them, and nginx
/// reads no more either. What is written keeps to it too.
pub const MAX_V2: usize = 4 * 1024;

/// The two forms of the header. A listener may accept one of them only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// One line of text (§2.1).
    One,
    /// Binary (§2.2).
    Two,
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Its form.
    pub version: Version,
    /// For whom the proxy connects.
    pub connection: Connection,
    /// What else it says; version 1 has none of it.
    pub tlvs: Tlvs<'a>,
    /// Bytes that the header took. What follows is the client's.
    pub len: usize,
}

/// For whom a proxy connects. An IPv4-mapped address is held as IPv4, as in [`Host`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Connection {
    /// For itself, a health check say (LOCAL of version 2): the addresses are those of the socket.
    /// The rest of the header is discarded, as §2.2 wants.
    Local,
    /// For one that the header cannot or does not describe (UNKNOWN of version 1; family or transport
    /// UNSPEC of version 2). To be taken by the socket's addresses, or refused (§2.2). There are no
    /// TLVs: nobody knows where they would begin.
    Unknown,
    /// For a client over TCP. A port may be 0.
    Tcp {
        /// The client.
        source: SocketAddr,
        /// What it connected to.
        destination: SocketAddr,
    },
    /// The same for UDP (version 2).
    Udp {
        /// The client.
        source: SocketAddr,
        /// What it sent to.
        destination: SocketAddr,
    },
    /// For a client on a Unix socket of the proxy's machine, stream or datagram (version 2). Its paths
    /// mean nothing here and are passed over.
    Unix,
}

impl<'a> Header<'a> {
    /// How the client's TLS with the proxy was (PP2_TYPE_SSL, §2.2.6).
    ///
    /// # Errors
    /// What is said of it is malformed.
    pub fn ssl(&self) -> Result<Option<Ssl<'a>>, ProxyError> {
        self.tlvs.find(kind::SSL).map(Ssl::read).transpose()
    }
}

/// Reads a header of either version; `first_bytes` are all bytes of the connection so far. Nothing is
/// said of a header before all of it is there, but that it is malformed.
pub fn read(first_bytes: &[u8]) -> Answer<Header<'_>, ProxyError> {
    match first_bytes.first() {
        None => Answer::NeedMore,
        Some(b'P') => v1::read(first_bytes),
        Some(b'\r') => v2::read(first_bytes),
        Some(_) => Answer::Not,
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Both as IPv4, if both are; else both as IPv6.
fn same_family(one: SocketAddr, two: SocketAddr) -> (IpAddr, IpAddr) {
    match (one.ip().to_canonical(), two.ip().to_canonical()) {
        (IpAddr::V4(one), IpAddr::V6(two)) => (one.to_ipv6_mapped().into(), two.into()),
        (IpAddr::V6(one), IpAddr::V4(two)) => (one.into(), two.to_ipv6_mapped().into()),
        same => same,
    }
}
