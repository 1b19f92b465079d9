//! DNS as a server of names speaks it: one query read from one message, and one reply written for it.
//!
//! RFC 1035 §4 (messages), RFC 6891 (EDNS), RFC 8914 (extended errors), RFC 9619 (one question).
mod error;
mod query;
mod reply;

pub use error::DnsError;
pub use query::{Edns, Query, read_query};
pub use reply::{ExtendedError, MAX_TEXT, Reply, reject};

/// Bytes of a message's header.
const HEADER: usize = 12;
/// Longest name in bytes on the wire, the root's zero included (RFC 1035 §2.3.4).
const MAX_WIRE_NAME: usize = 255;

/// Largest query in bytes that is read: a name takes 255, EDNS with padding to 468 (RFC 8467) the rest.
pub const MAX_QUERY: usize = 4096;
/// Largest reply over UDP in bytes: what passes every network whole, IPv6 without fragments included
/// (RFC 9715 §3.1).
pub const MAX_UDP: usize = 1232;
/// What a client without EDNS takes over UDP (RFC 1035 §4.2.1).
pub const MIN_UDP: usize = 512;
/// Largest reply over TCP in bytes: its length is told in 16 bits (RFC 1035 §4.2.2).
pub const MAX_TCP: usize = 65_535;

/// Types of records (IANA "DNS Parameters").
pub mod kind {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// The pseudo-record of EDNS.
    pub const OPT: u16 = 41;
    /// The first of the types that only a question may have, zone transfers among them (RFC 6895 §3.1).
    pub const FIRST_META: u16 = 128;
    /// Every type; beyond it there are data types again.
    pub const ANY: u16 = 255;
}

/// The Internet class.
pub const CLASS_IN: u16 = 1;

/// Response codes (RFC 1035 §4.1.1, RFC 6891 §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Code {
    /// The name is there, with or without records of the type.
    NoError = 0,
    /// The query cannot be read.
    FormErr = 1,
    /// The answer could not be had.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// This kind of query is not answered.
    NotImp = 4,
    /// Policy does not let this client have the answer.
    Refused = 5,
    /// A version of EDNS that is not spoken.
    BadVers = 16,
}
