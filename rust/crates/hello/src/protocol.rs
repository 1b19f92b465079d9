//! Which protocol a connection's first bytes are of, for listeners that accept several on one port.
//!
//! Only as much is looked at as tells them apart; whether the rest keeps the protocol's rules is for its
//! own reader to say.
use std::convert::Infallible;

use crate::{
    Answer,
    proxy_protocol::{SIGNATURE_V1, SIGNATURE_V2},
    signature::begins,
};

/// A protocol in which the client speaks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A handshake record (RFC 8446 §5.1).
    Tls,
    /// A greeting of version 5 (RFC 1928 §3).
    Socks5,
    /// A request line of HTTP/1.x, CONNECT or another method (RFC 9112 §3).
    Http,
    /// The connection preface of HTTP/2 with prior knowledge (RFC 9113 §3.4).
    Http2,
    /// A startup packet of PostgreSQL.
    Postgres,
    /// A PROXY header of either version.
    ProxyHeader,
    /// An identification string (RFC 4253 §4.2).
    Ssh,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SSH: &[u8] = b"SSH-";
/// Longest method in bytes, its space included (the longest registered one, UPDATEREDIRECTREF, has 17).
const METHOD: usize = 25;
/// Bytes of a startup packet that tell it: its length and its code.
const STARTUP: usize = 8;

/// Most bytes that are needed to tell.
pub const MAX_NEEDED: usize = METHOD;

/// Says which protocol `first_bytes` are of; `Not` when it is none of them.
pub fn recognise(first_bytes: &[u8]) -> Answer<Protocol, Infallible> {
    let Some(&first) = first_bytes.first() else { return Answer::NeedMore };
    match first {
        0x16 => match first_bytes.get(1) {
            None => Answer::NeedMore,
            Some(3) => Answer::Found(Protocol::Tls),
            Some(_) => Answer::Not,
        },
        5 => Answer::Found(Protocol::Socks5),
        b'\r' => whole(first_bytes, SIGNATURE_V2, Protocol::ProxyHeader),
        0 => match first_bytes.first_chunk::<STARTUP>() {
            None if first_bytes.get(1).is_none_or(|&byte| byte == 0) => Answer::NeedMore,
            Some(packet) if is_startup(*packet) => Answer::Found(Protocol::Postgres),
            _ => Answer::Not,
        },
        b'A'..=b'Z' => words(first_bytes),
        _ => Answer::Not,
    }
}

/// The protocols that begin with capitals.
fn words(bytes: &[u8]) -> Answer<Protocol, Infallible> {
    for (words, protocol) in
        [(PREFACE, Protocol::Http2), (SIGNATURE_V1, Protocol::ProxyHeader), (SSH, Protocol::Ssh)]
    {
        match whole(bytes, words, protocol) {
            Answer::Not => {}
            // `P` and `SSH` may still become a method.
            answer => return answer,
        }
    }
    let method = &bytes[..bytes.len().min(METHOD)];
    match method.iter().position(|byte| !(byte.is_ascii_uppercase() || *byte == b'-')) {
        Some(end) if method[end] == b' ' => Answer::Found(Protocol::Http),
        None if method.len() < METHOD => Answer::NeedMore,
        _ => Answer::Not,
    }
}

fn whole(bytes: &[u8], wanted: &[u8], protocol: Protocol) -> Answer<Protocol, Infallible> {
    match begins(bytes, wanted) {
        Some(true) => Answer::Found(protocol),
        Some(false) => Answer::Not,
        None => Answer::NeedMore,
    }
}

/// Length (4 bytes, its own included) and code: a request for encryption or cancellation (1234 in the upper
/// half), or version 3.
fn is_startup([a, b, c, d, e, f, ..]: [u8; STARTUP]) -> bool {
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    (STARTUP..=crate::postgres::MAX_STARTUP).contains(&length)
        && matches!(u16::from_be_bytes([e, f]), 3 | 1234)
}
