//! Records: gathers the hello from however many of them it came in.
use super::{ClientHello, HANDSHAKE_HEADER, MAX_HELLO, MAX_RECORD, RECORD_HEADER, TlsError, body};
use crate::Answer;

/// ContentType handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 0x16;

/// HandshakeType client_hello (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;

/// The major version of SSL 3.0 and of every TLS.
const MAJOR: u8 = 3;

/// Highest minor version of a record that is accepted: TLS 1.3. Clients send 1 (most) or 3; 0 is
/// what GnuTLS before 3.6 and clients that still offer SSL 3.0 put on their first record.
const MAX_MINOR: u8 = 4;

/// Reads a ClientHello from bytes that arrive in pieces.
///
/// Each record is looked at once, so the cost of bytes that come one at a time is linear. A hello in
/// one record is read where it lies; only one that spans several is copied together, and never more
/// is held than has arrived.
#[derive(Debug, Clone, Default)]
pub struct HelloReader {
    /// Where the first record that is not yet complete begins.
    at: usize,
    /// Handshake bytes in the complete records before `at`.
    have: usize,
    /// The first of those, up to the handshake header's four.
    header: [u8; HANDSHAKE_HEADER],
    /// Handshake bytes in all, header included, once the header was read.
    want: Option<usize>,
    /// The payloads of the complete records. Stays empty while one record holds the whole hello.
    gathered: Vec<u8>,
}

impl HelloReader {
    /// A reader at byte 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on. `first_bytes` are all bytes so far, from byte 0 of the connection; they only ever
    /// grow between two calls. Once an answer other than `NeedMore` is given, it stays the answer.
    ///
    /// What follows the hello's last record (early data, say) is not looked at.
    pub fn read(&mut self, first_bytes: &[u8]) -> Answer<ClientHello, TlsError> {
        if self.want == Some(self.have) {
            return answer(body::parse(self.gathered.get(HANDSHAKE_HEADER..).unwrap_or_default()));
        }
        while let Some(rest) = first_bytes.get(self.at..) {
            let length = match record_length(rest, self.at == 0) {
                Answer::Found(length) => length,
                Answer::NeedMore => return Answer::NeedMore,
                Answer::Not => return Answer::Not,
                Answer::Malformed(error) => return Answer::Malformed(error),
            };
            let payload = &rest[RECORD_HEADER..];
            let payload = &payload[..payload.len().min(length)];
            if let Err(error) = self.look_ahead(payload, length) {
                return Answer::Malformed(error);
            }
            if payload.len() < length {
                return Answer::NeedMore;
            }
            if self.have == 0 && self.want == Some(length) {
                return answer(body::parse(&payload[HANDSHAKE_HEADER..]));
            }
            self.gathered.extend_from_slice(payload);
            self.have += length;
            self.at += RECORD_HEADER + length;
            if self.want == Some(self.have) {
                return answer(body::parse(&self.gathered[HANDSHAKE_HEADER..]));
            }
        }
        Answer::NeedMore
    }

    /// Judges what can be judged before the record is complete: the handshake header as soon as its
    /// bytes are there, and a record that would reach beyond the hello.
    fn look_ahead(&mut self, payload: &[u8], length: usize) -> Result<(), TlsError> {
        if self.want.is_none() {
            for (slot, &byte) in self.header.iter_mut().skip(self.have).zip(payload) {
                *slot = byte;
            }
            let known = self.have + payload.len();
            if known >= 1 && self.header[0] != CLIENT_HELLO {
                return Err(TlsError::NotClientHello);
            }
            if known < HANDSHAKE_HEADER {
                return Ok(());
            }
            let [_, high, middle, low] = self.header;
            let announced = u32::from_be_bytes([0, high, middle, low]) as usize;
            if announced > MAX_HELLO {
                return Err(TlsError::HelloTooLong);
            }
            self.want = Some(HANDSHAKE_HEADER + announced);
        }
        match self.want {
            Some(want) if self.have + length > want => Err(TlsError::HelloTrailing),
            _ => Ok(()),
        }
    }
}

/// Reads a record's header, each byte as soon as it is there. Only the first record can say that
/// this is not TLS at all; later ones break a promise.
fn record_length(rest: &[u8], first: bool) -> Answer<usize, TlsError> {
    match rest.first() {
        None => return Answer::NeedMore,
        Some(&HANDSHAKE) => {}
        Some(_) if first => return Answer::Not,
        Some(_) => return Answer::Malformed(TlsError::RecordType),
    }
    match rest.get(1) {
        None => return Answer::NeedMore,
        Some(&MAJOR) => {}
        Some(_) if first => return Answer::Not,
        Some(_) => return Answer::Malformed(TlsError::RecordVersion),
    }
    match rest.get(2) {
        None => return Answer::NeedMore,
        Some(&minor) if minor <= MAX_MINOR => {}
        Some(_) => return Answer::Malformed(TlsError::RecordVersion),
    }
    let (Some(&high), Some(&low)) = (rest.get(3), rest.get(4)) else {
        return Answer::NeedMore;
    };
    match usize::from(u16::from_be_bytes([high, low])) {
        0 => Answer::Malformed(TlsError::RecordEmpty),
        length if length > MAX_RECORD => Answer::Malformed(TlsError::RecordTooLong),
        length => Answer::Found(length),
    }
}

fn answer(parsed: Result<ClientHello, TlsError>) -> Answer<ClientHello, TlsError> {
    match parsed {
        Ok(hello) => Answer::Found(hello),
        Err(error) => Answer::Malformed(error),
    }
}
