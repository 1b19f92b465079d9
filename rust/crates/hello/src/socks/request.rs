//! The request: what to do, and for which host and port.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{SocksError, VERSION};
use crate::{
    Answer,
    cursor::Cursor,
    name::{Host, NameError, parse_host},
};

const CONNECT: u8 = 1;
const BIND: u8 = 2;
const UDP_ASSOCIATE: u8 = 3;

pub(super) const IPV4: u8 = 1;
pub(super) const DOMAIN: u8 = 3;
pub(super) const IPV6: u8 = 4;

/// A whole request (RFC 1928 §4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What the client asks for.
    pub command: Command,
    /// Bytes that the request took. What follows belongs to the tunnel.
    pub len: usize,
}

/// What a client asks for (RFC 1928 §4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A connection to this host.
    Connect {
        /// The host; an address written as a domain is an address.
        host: Host,
        /// The port; never 0.
        port: u16,
    },
    /// BIND, which FTP once needed. Its address is not judged; the answer is
    /// [`Reply::CommandNotSupported`](super::Reply::CommandNotSupported).
    Bind,
    /// UDP ASSOCIATE; the same.
    UdpAssociate,
}

enum Address<'a> {
    Ip(IpAddr),
    Domain(&'a [u8]),
}

/// Reads a request; `bytes` are all bytes after the greeting, and after the login if there was one.
/// Never `Not`: the greeting has said that this is SOCKS.
///
/// What a byte makes malformed is said at that byte, and the host is looked at when the whole
/// request is there. [`SocksError::reply`] is what to tell the client.
pub fn read_request(bytes: &[u8]) -> Answer<Request, SocksError> {
    let mut cursor = Cursor(bytes);
    match cursor.u8() {
        None => return Answer::NeedMore,
        Some(VERSION) => {}
        Some(_) => return Answer::Malformed(SocksError::RequestVersion),
    }
    let command = match cursor.u8() {
        None => return Answer::NeedMore,
        Some(command @ (CONNECT | BIND | UDP_ASSOCIATE)) => command,
        Some(_) => return Answer::Malformed(SocksError::CommandUnknown),
    };
    match cursor.u8() {
        None => return Answer::NeedMore,
        Some(0) => {}
        Some(_) => return Answer::Malformed(SocksError::Reserved),
    }
    let address = match cursor.u8() {
        None => return Answer::NeedMore,
        Some(IPV4) => {
            cursor.array().map(|octets: [u8; 4]| Address::Ip(Ipv4Addr::from(octets).into()))
        }
        Some(IPV6) => {
            cursor.array().map(|octets: [u8; 16]| Address::Ip(Ipv6Addr::from(octets).into()))
        }
        Some(DOMAIN) if cursor.0.first() == Some(&0) => {
            return Answer::Malformed(SocksError::Name(NameError::Empty));
        }
        Some(DOMAIN) => cursor.vec8().map(Address::Domain),
        Some(_) => return Answer::Malformed(SocksError::AddressType),
    };
    let (Some(address), Some(port)) = (address, cursor.u16()) else { return Answer::NeedMore };
    let command = match command {
        BIND => Command::Bind,
        UDP_ASSOCIATE => Command::UdpAssociate,
        _ => match target(&address, port) {
            Ok(host) => Command::Connect { host, port },
            Err(error) => return Answer::Malformed(error),
        },
    };
    Answer::Found(Request { command, len: bytes.len() - cursor.0.len() })
}

/// Domains are ASCII, as names are everywhere on the wire here: RFC 1928 gives them no character set,
/// so two readers could map other bytes to two names.
fn target(address: &Address<'_>, port: u16) -> Result<Host, SocksError> {
    let host = match address {
        Address::Ip(ip) => Host::Ip(ip.to_canonical()),
        Address::Domain(domain) => match domain.iter().find(|byte| !byte.is_ascii()) {
            Some(&byte) => return Err(SocksError::Name(NameError::ForbiddenByte(byte))),
            None => parse_host(domain).map_err(SocksError::Name)?,
        },
    };
    if port == 0 { Err(SocksError::PortZero) } else { Ok(host) }
}
