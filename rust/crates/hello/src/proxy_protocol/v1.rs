//! Version 1: one line of text (§2.1).
use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use super::{
    Connection, Header, MAX_V1, ProxyError, SIGNATURE_V1, Tlvs, Version, canonical, same_family,
};
use crate::{Answer, signature::begins};

pub(super) fn read(bytes: &[u8]) -> Answer<Header<'_>, ProxyError> {
    match begins(bytes, SIGNATURE_V1) {
        None => return Answer::NeedMore,
        Some(false) => return Answer::Not,
        Some(true) => {}
    }
    let line = match line(&bytes[..bytes.len().min(MAX_V1)]) {
        Ok(Some(line)) => line,
        Ok(None) => return Answer::NeedMore,
        Err(error) => return Answer::Malformed(error),
    };
    match parse(&line[SIGNATURE_V1.len()..]) {
        Ok(connection) => Answer::Found(Header {
            version: Version::One,
            connection,
            tlvs: Tlvs::default(),
            len: line.len() + 2,
        }),
        Err(error) => Answer::Malformed(error),
    }
}

/// The line without its CR LF, once that is there. Neither byte may stand alone, not even in what
/// follows UNKNOWN.
fn line(bytes: &[u8]) -> Result<Option<&[u8]>, ProxyError> {
    let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    match end.map(|end| bytes.split_at(end)) {
        Some((line, [b'\r', b'\n', ..])) => Ok(Some(line)),
        Some((_, [b'\r', _, ..])) => Err(ProxyError::BareCr),
        Some((_, [b'\n', ..])) => Err(ProxyError::BareLf),
        _ if bytes.len() == MAX_V1 => Err(ProxyError::LineTooLong),
        _ => Ok(None),
    }
}

fn parse(line: &[u8]) -> Result<Connection, ProxyError> {
    let mut words = line.split(|&byte| byte == b' ');
    let address: fn(&[u8]) -> Option<IpAddr> = match words.next() {
        Some(b"TCP4") => ip::<Ipv4Addr>,
        Some(b"TCP6") => ip::<Ipv6Addr>,
        // The receiver must ignore what follows (§2.1).
        Some(b"UNKNOWN") => return Ok(Connection::Unknown),
        _ => return Err(ProxyError::Protocol),
    };
    let fields = [words.next(), words.next(), words.next(), words.next()];
    let ([Some(source), Some(destination), Some(source_port), Some(destination_port)], None) =
        (fields, words.next())
    else {
        return Err(ProxyError::Fields);
    };
    let (Some(source), Some(destination)) = (address(source), address(destination)) else {
        return Err(ProxyError::Address);
    };
    let (Some(source_port), Some(destination_port)) = (port(source_port), port(destination_port))
    else {
        return Err(ProxyError::Port);
    };
    Ok(Connection::Tcp {
        source: canonical(SocketAddr::new(source, source_port)),
        destination: canonical(SocketAddr::new(destination, destination_port)),
    })
}

/// An address as std reads it: no leading zeros in IPv4, no brackets and no zone in IPv6.
fn ip<A: FromStr + Into<IpAddr>>(word: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(word).ok()?.parse::<A>().ok().map(Into::into)
}

fn port(word: &[u8]) -> Option<u16> {
    match word {
        [b'0'] => Some(0),
        [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(word).ok()?.parse().ok()
        }
        _ => None,
    }
}

/// Appends a header of version 1 for a TCP connection. Addresses of two families are both written as
/// IPv6, the IPv4 one mapped.
pub fn write(source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    let (from, to) = (source.port(), destination.port());
    let done = match same_family(source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            write!(out, "PROXY TCP4 {source} {destination} {from} {to}\r\n")
        }
        (source, destination) => write!(out, "PROXY TCP6 {source} {destination} {from} {to}\r\n"),
    };
    debug_assert!(done.is_ok(), "a Vec takes all bytes");
}
