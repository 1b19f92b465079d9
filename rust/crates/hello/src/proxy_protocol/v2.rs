//! Version 2: binary (§2.2).
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    Connection, Header, MAX_V2, ProxyError, SIGNATURE_V2, Tlv, Tlvs, Version, canonical,
    same_family, tlv::seal,
};
use crate::{Answer, cursor::Cursor, signature::begins};

/// Version 2 in the high four bits, the command in the low ones.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// The address family in the high four bits, the transport in the low ones.
const TCP4: u8 = 0x11;
const UDP4: u8 = 0x12;
const TCP6: u8 = 0x21;
const UDP6: u8 = 0x22;
const UNIX_STREAM: u8 = 0x31;
const UNIX_DATAGRAM: u8 = 0x32;

/// The highest family, AF_UNIX, and the highest transport, DGRAM.
const MAX_FAMILY: u8 = 3;
const MAX_TRANSPORT: u8 = 2;

/// Two paths of sockets.
const UNIX_SIZE: usize = 2 * 108;

/// Bytes before the addresses: signature, command, family, length.
const FIXED: usize = SIGNATURE_V2.len() + 4;

/// What a header has, once its length is known, and at least before that.
fn least(bytes: &[u8]) -> usize {
    let length = bytes.get(FIXED - 2..).and_then(|bytes| Cursor(bytes).u16());
    FIXED + usize::from(length.unwrap_or(0))
}

pub(super) fn read(bytes: &[u8]) -> Answer<Header<'_>, ProxyError> {
    match begins(bytes, SIGNATURE_V2) {
        None => return Answer::NeedMore,
        Some(false) => return Answer::Not,
        Some(true) => {}
    }
    let mut cursor = Cursor(&bytes[SIGNATURE_V2.len()..]);
    let command = match cursor.u8() {
        None => return Answer::NeedMore,
        Some(command @ (LOCAL | PROXY)) => command,
        Some(other) if other >> 4 == LOCAL >> 4 => return Answer::Malformed(ProxyError::Command),
        Some(_) => return Answer::Malformed(ProxyError::Version),
    };
    let Some(family) = cursor.u8() else { return Answer::NeedMore };
    // "Discard the protocol block including the family which is ignored."
    if command == PROXY && (family >> 4 > MAX_FAMILY || family & 0xf > MAX_TRANSPORT) {
        return Answer::Malformed(ProxyError::Family);
    }
    if bytes.len() < FIXED {
        return Answer::NeedMore;
    }
    let len = least(bytes);
    if len > MAX_V2 {
        return Answer::Malformed(ProxyError::TooLong);
    }
    let Some(header) = bytes.get(..len) else { return Answer::NeedMore };
    let parsed = match command {
        LOCAL => Ok((Connection::Local, Tlvs::default())),
        _ => parse(header, family),
    };
    match parsed {
        Ok((connection, tlvs)) => {
            Answer::Found(Header { version: Version::Two, connection, tlvs, len })
        }
        Err(error) => Answer::Malformed(error),
    }
}

/// A family without a transport, or the other way round, has addresses of no known length, and so
/// TLVs that begin nobody knows where: such a header is passed over whole.
fn parse(header: &[u8], family: u8) -> Result<(Connection, Tlvs<'_>), ProxyError> {
    let mut cursor = Cursor(&header[FIXED..]);
    let connection = match family {
        TCP4 => addresses::<4, Ipv4Addr>(&mut cursor)
            .map(|(source, destination)| Connection::Tcp { source, destination }),
        UDP4 => addresses::<4, Ipv4Addr>(&mut cursor)
            .map(|(source, destination)| Connection::Udp { source, destination }),
        TCP6 => addresses::<16, Ipv6Addr>(&mut cursor)
            .map(|(source, destination)| Connection::Tcp { source, destination }),
        UDP6 => addresses::<16, Ipv6Addr>(&mut cursor)
            .map(|(source, destination)| Connection::Udp { source, destination }),
        UNIX_STREAM | UNIX_DATAGRAM => cursor.take(UNIX_SIZE).map(|_| Connection::Unix),
        _ => return Ok((Connection::Unknown, Tlvs::default())),
    };
    let connection = connection.ok_or(ProxyError::Addresses)?;
    Ok((connection, Tlvs::check(header, header.len() - cursor.0.len())?))
}

/// Two addresses, then two ports.
fn addresses<const SIZE: usize, A: From<[u8; SIZE]> + Into<IpAddr>>(
    cursor: &mut Cursor<'_>,
) -> Option<(SocketAddr, SocketAddr)> {
    let (source, destination) = (A::from(cursor.array()?), A::from(cursor.array()?));
    let (from, to) = (cursor.u16()?, cursor.u16()?);
    Some((
        canonical(SocketAddr::new(source.into(), from)),
        canonical(SocketAddr::new(destination.into(), to)),
    ))
}

/// Appends a header of version 2 for a TCP connection. Addresses of two families are both written as
/// IPv6, the IPv4 one mapped. [`CHECKSUM`](super::CHECKSUM) among the TLVs asks for one.
///
/// # Errors
/// The TLVs would make a header that this module does not read: too long, a type twice. Then nothing
/// is appended.
pub fn write(
    source: SocketAddr,
    destination: SocketAddr,
    tlvs: &[Tlv<'_>],
    out: &mut Vec<u8>,
) -> Result<(), ProxyError> {
    let start = out.len();
    let (from, to) = same_family(source, destination);
    let family = if from.is_ipv4() { TCP4 } else { TCP6 };
    let size = if from.is_ipv4() { 2 * (4 + 2) } else { 2 * (16 + 2) };
    let length = tlvs.iter().fold(size, |sum: usize, tlv| {
        sum.saturating_add(Tlv::HEADER).saturating_add(tlv.value.len())
    });
    let length = u16::try_from(length)
        .ok()
        .filter(|&length| FIXED + usize::from(length) <= MAX_V2)
        .ok_or(ProxyError::TooLong)?;
    begin(PROXY, family, length, out);
    for ip in [from, to] {
        match ip {
            IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    for Tlv { kind, value } in tlvs {
        out.push(*kind);
        // Each is shorter than all of them together.
        out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(value);
    }
    seal(&mut out[start..], FIXED + size);
    let checked = Tlvs::check(&out[start..], FIXED + size).map(|_| ());
    if checked.is_err() {
        out.truncate(start);
    }
    checked
}

fn begin(command: u8, family: u8, length: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE_V2);
    out.extend_from_slice(&[command, family]);
    out.extend_from_slice(&length.to_be_bytes());
}
