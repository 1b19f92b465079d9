//! The first message of PostgreSQL's protocol, which alone has no type byte, and the words of a refusal
//! (PostgreSQL's documentation, "Message Formats").
use crate::{Answer, errors::errors};

/// Longest first message in bytes; the server's own bound (MAX_STARTUP_PACKET_LENGTH).
pub const MAX_STARTUP: usize = 10_000;

/// Codes in the place of the protocol's version.
const CANCEL: u32 = 1234 << 16 | 5678;
const SSL: u32 = 1234 << 16 | 5679;
const GSS: u32 = 1234 << 16 | 5680;
const VERSION_3: u32 = 3;
/// Length and code.
const HEADER: usize = 8;

/// What a client begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// It asks for TLS and waits for one byte: `S`, then sends a ClientHello, or `N`.
    SslRequest,
    /// It asks for GSSAPI encryption and waits for one byte: `G` or `N`.
    GssRequest,
    /// It wants a query of another connection cancelled.
    CancelRequest,
    /// It starts a session in the clear.
    Startup,
}

/// A first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstMessage {
    /// What it asks for.
    pub kind: First,
    /// Bytes of it.
    pub len: usize,
}

errors! {
    /// Why a first message cannot be followed. The fault is the client's.
    StartupError;
    Length "postgres_length" "the length is one that such a message cannot have",
    Version "postgres_version" "neither protocol version 3 nor a known request",
    Parameters "postgres_parameters" "the parameters are not pairs that end in NUL, or none is user",
}

/// Reads the first message of a client that is known to speak this protocol; a direct TLS client
/// (`sslnegotiation=direct`) simply sends a ClientHello.
pub fn read_first(bytes: &[u8]) -> Answer<FirstMessage, StartupError> {
    let Some(length) = bytes.first_chunk::<4>() else { return Answer::NeedMore };
    let len = u32::from_be_bytes(*length) as usize;
    if !(HEADER..=MAX_STARTUP).contains(&len) {
        return Answer::Malformed(StartupError::Length);
    }
    let Some(code) = bytes[4..].first_chunk::<4>() else { return Answer::NeedMore };
    let kind = match (u32::from_be_bytes(*code), len) {
        (SSL, HEADER) => First::SslRequest,
        (GSS, HEADER) => First::GssRequest,
        (SSL | GSS, _) => return Answer::Malformed(StartupError::Length),
        // A process and a key of 4 bytes; of up to 256 since version 3.2.
        (CANCEL, 13..=268) => First::CancelRequest,
        (CANCEL, _) => return Answer::Malformed(StartupError::Length),
        (version, _) if version >> 16 == VERSION_3 => First::Startup,
        _ => return Answer::Malformed(StartupError::Version),
    };
    let Some(message) = bytes.get(..len) else { return Answer::NeedMore };
    if kind == First::Startup && !has_user(&message[HEADER..]) {
        return Answer::Malformed(StartupError::Parameters);
    }
    Answer::Found(FirstMessage { kind, len })
}

/// Names and values in turn, each ended by NUL, and one more NUL at the end.
fn has_user(parameters: &[u8]) -> bool {
    let Some(pairs) = parameters.strip_suffix(&[0]) else { return false };
    let Some(pairs) = pairs.strip_suffix(&[0]) else { return false };
    let mut texts = pairs.split(|&byte| byte == 0);
    let mut user = false;
    while let Some(name) = texts.next() {
        match texts.next() {
            Some(value) if !name.is_empty() => user |= name == b"user" && !value.is_empty(),
            _ => return false,
        }
    }
    user
}

/// An ErrorResponse after which the server closes: severity FATAL, an SQLSTATE of five characters, a message and a hint,
/// either of which may be empty. A NUL would end a text early; each is left out.
pub fn error_response(sqlstate: &str, message: &str, hint: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    for (kind, text) in
        [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', sqlstate), (b'M', message), (b'H', hint)]
    {
        if !text.is_empty() {
            fields.push(kind);
            fields.extend(text.bytes().filter(|&byte| byte != 0));
            fields.push(0);
        }
    }
    fields.push(0);
    let length = u32::try_from(4 + fields.len()).unwrap_or(u32::MAX);
    [&b"E"[..], &length.to_be_bytes(), &fields].concat()
}
