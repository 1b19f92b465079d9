//! What servers take for a request though it keeps no rule of HTTP: empty lines before it, tabs for
//! spaces, methods in small letters, a NUL in the path, a proxy's words. Such bytes name a host that nobody here reads.
use std::convert::Infallible;

use super::MAX_HEAD;
use crate::Answer;

/// Says of bytes that arrive in pieces whether some server may read a request of HTTP in them, of
/// whichever version. Every request that [`RequestReader`](super::RequestReader) finds is one of these.
///
/// It holds none of the bytes: nothing of a request is done before its first line is whole, so what
/// may still become one can be sent on.
#[derive(Debug, Clone, Default)]
pub struct LenientReader {
    part: Part,
    /// Bytes so far.
    seen: usize,
    /// Of the method.
    has_small_letters: bool,
    /// The method has digits or signs, as none has that a server answers, and other protocols' bytes do.
    has_signs: bool,
    /// The last ones.
    last: [u8; VERSION],
    /// The first ones of the line's second word.
    target: [u8; SCHEME],
    target_len: usize,
}

/// A blank, `HTTP/` and a digit.
const VERSION: usize = 7;
/// The longer of the schemes.
const SCHEME: usize = 8;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Before,
    Method,
    Line,
    Over(bool),
}

impl LenientReader {
    /// Reads on: `bytes` are those that have come since the call before. Once an answer other than
    /// `NeedMore` is given, it stays the answer.
    ///
    /// A first line that is longer than a whole head may be is found to be a request.
    pub fn read(&mut self, bytes: &[u8]) -> Answer<(), Infallible> {
        for &byte in bytes {
            if matches!(self.part, Part::Over(_)) {
                break;
            }
            self.part = self.step(byte);
        }
        match self.part {
            Part::Over(true) => Answer::Found(()),
            Part::Over(false) => Answer::Not,
            _ => Answer::NeedMore,
        }
    }

    /// It may still become a request.
    pub fn is_open(&self) -> bool {
        !matches!(self.part, Part::Over(_))
    }

    fn step(&mut self, byte: u8) -> Part {
        self.seen += 1;
        self.last.rotate_left(1);
        self.last[VERSION - 1] = byte;
        let next = match self.part {
            Part::Before if is_blank(byte) => Part::Before,
            Part::Before | Part::Method if is_token(byte) => {
                self.has_small_letters |= byte.is_ascii_lowercase();
                self.has_signs |= !(byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_'));
                Part::Method
            }
            Part::Method if is_blank(byte) && byte != b'\n' => Part::Line,
            Part::Line if byte != b'\n' && (byte != 0 || !self.has_signs) => {
                if (self.target_len > 0 || !is_blank(byte)) && self.target_len < SCHEME {
                    self.target[self.target_len] = byte;
                    self.target_len += 1;
                }
                // Without a version (HTTP/0.9) only a whole URI names a host.
                let is_uri = !self.has_small_letters && is_uri(&self.target[..self.target_len]);
                if is_uri || names_version(&self.last) { Part::Over(true) } else { Part::Line }
            }
            _ => Part::Over(false),
        };
        if self.seen == MAX_HEAD && next != Part::Over(false) { Part::Over(true) } else { next }
    }
}

fn is_uri(target: &[u8]) -> bool {
    [&b"http://"[..], b"https://"].iter().any(|scheme| target.eq_ignore_ascii_case(scheme))
}

fn names_version([blank, name @ .., digit]: &[u8; VERSION]) -> bool {
    is_blank(*blank) && name.eq_ignore_ascii_case(b"HTTP/") && digit.is_ascii_digit()
}

/// What separates words for one server or another: RFC 9112 §3 ("lenient parsing") has the first row, and
/// Python's http.server splits a line of ISO 8859-1 at the others, too.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c)
        || matches!(byte, 0x1c..=0x1f | 0x85 | 0xa0)
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
