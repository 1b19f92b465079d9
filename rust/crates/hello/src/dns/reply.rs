//! A reply to a query that was read, and the bare one to a message that was not.
use std::net::IpAddr;

use super::{CLASS_IN, Code, DnsError, HEADER, MAX_UDP, Query, kind};

/// Bytes of the text in an extended error: a forged source is sent little more than it was made to ask.
pub const MAX_TEXT: usize = 160;

/// In the reply's third byte: a response.
const RESPONSE: u8 = 0x80;
/// In the third byte: more would have come over TCP.
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
/// In the fourth byte: names are resolved here.
const RECURSION_AVAILABLE: u8 = 0x80;
const UNCHECKED: u8 = 0x10;
/// The owner of each record: the question's name, which stands behind the header (RFC 1035 §4.1.4).
const OWNER: [u8; 2] = [0xc0, HEADER as u8];
/// An OPT record without options: root, type, size, TTL and length.
const OPT_BYTES: usize = 11;
/// An option without data: its code and length.
const OPTION_BYTES: usize = 4;
/// EDNS0 option code of an extended error (RFC 8914 §2).
const EXTENDED_ERROR: u16 = 15;

/// Why there is no answer, for people (RFC 8914 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtendedError<'a> {
    /// The registered number.
    pub info: u16,
    /// UTF-8 for people; cut to [`MAX_TEXT`].
    pub text: &'a str,
}

impl ExtendedError<'_> {
    /// No number fits.
    pub const OTHER: u16 = 0;
    /// The answer had expired and is given as the servers are away.
    pub const STALE: u16 = 3;
    /// A rule of the operator stands against the name or its addresses.
    pub const BLOCKED: u16 = 15;
    /// The client is not one that may ask for it.
    pub const PROHIBITED: u16 = 18;
    /// The query is of a kind that is not answered.
    pub const NOT_SUPPORTED: u16 = 21;
    /// No name server could be reached.
    pub const NO_REACHABLE: u16 = 22;
    /// A name server answered with an error.
    pub const NETWORK: u16 = 23;
}

/// What is said to a query.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// How it went.
    pub code: Code,
    /// Addresses of the name; those of the type asked for are told.
    pub addresses: &'a [IpAddr],
    /// Seconds for which they hold.
    pub ttl: u32,
    /// Told to clients that speak EDNS.
    pub error: Option<ExtendedError<'a>>,
}

impl Reply<'_> {
    /// The reply in at most `limit` bytes: first the extended error's text gives way, then the error; addresses that do
    /// not all fit are left out, and the client is told to ask over TCP (RFC 2181 §9).
    pub fn write(&self, query: &Query, limit: usize) -> Vec<u8> {
        let opt = if query.edns.is_some() { OPT_BYTES } else { 0 };
        let wanted = self.addresses.iter().filter(|ip| kind_of(ip) == query.kind);
        let head = HEADER + query.question.len();
        let bytes: usize = wanted.clone().map(record_bytes).sum();
        let fits = head + bytes + opt <= limit;
        let count = if fits { u16::try_from(wanted.clone().count()).unwrap_or(0) } else { 0 };
        let mut out = Vec::with_capacity(head + bytes + opt + OPTION_BYTES + 2 + MAX_TEXT);
        out.extend_from_slice(&query.id.to_be_bytes());
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        out.push(RESPONSE | bit(!fits, TRUNCATED) | bit(query.recursion, RECURSION_DESIRED));
        let code = self.code as u16;
        out.push(RECURSION_AVAILABLE | bit(query.unchecked, UNCHECKED) | (code & 0xf) as u8);
        for count in [1, count, 0, u16::from(opt != 0)] {
            out.extend_from_slice(&count.to_be_bytes());
        }
        out.extend_from_slice(&query.question);
        if count != 0 {
            for ip in wanted {
                self.write_record(&mut out, *ip);
            }
        }
        if let Some(edns) = query.edns {
            let flags = if edns.dnssec_ok { 0x8000 } else { 0 };
            let room = limit.saturating_sub(out.len() + OPT_BYTES);
            write_opt(&mut out, code, flags, self.error, room);
        }
        out
    }

    fn write_record(&self, out: &mut Vec<u8>, ip: IpAddr) {
        out.extend_from_slice(&OWNER);
        for word in [kind_of(&ip), CLASS_IN] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.extend_from_slice(&self.ttl.to_be_bytes());
        let mut put = |data: &[u8]| {
            out.extend_from_slice(&(data.len() as u16).to_be_bytes());
            out.extend_from_slice(data);
        };
        match ip {
            IpAddr::V4(ip) => put(&ip.octets()),
            IpAddr::V6(ip) => put(&ip.octets()),
        }
    }
}

fn kind_of(ip: &IpAddr) -> u16 {
    if ip.is_ipv4() { kind::A } else { kind::AAAA }
}

/// Owner, type, class, TTL and length take 12 bytes.
fn record_bytes(ip: &IpAddr) -> usize {
    12 + if ip.is_ipv4() { 4 } else { 16 }
}

/// `room` is what an option may take.
fn write_opt(
    out: &mut Vec<u8>,
    code: u16,
    flags: u16,
    error: Option<ExtendedError<'_>>,
    room: usize,
) {
    out.push(0);
    // The size of queries that are taken here over UDP stands where records have their class.
    for word in [kind::OPT, MAX_UDP as u16] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(&[(code >> 4) as u8, 0]);
    out.extend_from_slice(&flags.to_be_bytes());
    let Some(error) = error.filter(|_| room >= OPTION_BYTES + 2) else {
        return out.extend_from_slice(&[0, 0]);
    };
    let room = room - OPTION_BYTES - 2;
    let text = cut(error.text, MAX_TEXT);
    let text = if text.len() <= room { text } else { "" };
    let data = (2 + text.len()) as u16;
    for word in [OPTION_BYTES as u16 + data, EXTENDED_ERROR, data, error.info] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(text.as_bytes());
}

/// As much of `text` as fits into `most` bytes, whole characters.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What is answered to a message that is no query: its number and a code, and nothing of its contents. `None`: nothing.
pub fn reject(message: &[u8], error: DnsError) -> Option<Vec<u8>> {
    let code = error.code()? as u16;
    let &[high, low, flags, ..] = message.first_chunk::<HEADER>()?;
    let edns = code > 0xf;
    let mut out =
        vec![high, low, RESPONSE | flags & 0x79, RECURSION_AVAILABLE | (code & 0xf) as u8];
    out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, u8::from(edns)]);
    if edns {
        write_opt(&mut out, code, 0, None, 0);
    }
    Some(out)
}
