//! Finds the end of the head, byte after byte once, and refuses on the way what no head may hold.
use super::{ConnectHead, HeadError, MAX_HEAD, head};
use crate::Answer;

/// Longest method in bytes: the longest registered one, UPDATEREDIRECTREF, has 17.
const MAX_METHOD: usize = 24;

/// Reads a CONNECT head from bytes that arrive in pieces.
///
/// The search for the blank line goes on where it stopped, and the head is parsed once, when all of
/// it is there.
#[derive(Debug, Clone, Default)]
pub struct HeadReader {
    /// The first byte that was not looked at.
    at: usize,
    /// Where the line of that byte begins.
    line: usize,
    /// Where the head ends, once that was found.
    end: Option<usize>,
}

impl HeadReader {
    /// A reader at byte 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on. `first_bytes` are all bytes so far, from byte 0 of the connection; they only ever
    /// grow between two calls. Once an answer other than `NeedMore` is given, it stays the answer.
    ///
    /// `Not` is said at the first byte that no request line of a method in capitals can hold; a
    /// sound request of another method is `Malformed(MethodNotConnect)`.
    pub fn read(&mut self, first_bytes: &[u8]) -> Answer<ConnectHead, HeadError> {
        while self.end.is_none() {
            if self.at == MAX_HEAD {
                return Answer::Malformed(HeadError::HeadTooLarge);
            }
            let Some(&byte) = first_bytes.get(self.at) else { return Answer::NeedMore };
            if self.line == 0 && !may_begin(&first_bytes[..=self.at]) {
                return Answer::Not;
            }
            let last = self.at.checked_sub(1).and_then(|before| first_bytes.get(before));
            match step(byte, last.copied()) {
                Step::Bad(error) => return Answer::Malformed(error),
                Step::Part => {
                    if self.line == self.at && self.line > 0 && matches!(byte, b' ' | b'\t') {
                        return Answer::Malformed(HeadError::ObsFold);
                    }
                }
                Step::LineEnd => {
                    let Some(line) = first_bytes.get(self.line..self.at.saturating_sub(1)) else {
                        return Answer::NeedMore;
                    };
                    if line.is_empty() {
                        self.end = Some(self.at + 1);
                    } else if self.line == 0 && !is_request_line(line) {
                        return Answer::Not;
                    }
                    self.line = self.at + 1;
                }
            }
            self.at += 1;
        }
        match self.end.and_then(|end| first_bytes.get(..end)) {
            None => Answer::NeedMore,
            Some(whole) => match head::parse(whole) {
                Ok(found) => Answer::Found(found),
                Err(error) => Answer::Malformed(error),
            },
        }
    }
}

enum Step {
    Part,
    LineEnd,
    Bad(HeadError),
}

/// One byte after another: only CR LF ends a line (RFC 9112 §2.2 lets a server take a bare LF; two
/// servers that differ in this are how requests are smuggled).
fn step(byte: u8, last: Option<u8>) -> Step {
    match (byte, last) {
        (0, _) => Step::Bad(HeadError::Nul),
        (b'\n', Some(b'\r')) => Step::LineEnd,
        (b'\n', _) => Step::Bad(HeadError::BareLf),
        (_, Some(b'\r')) => Step::Bad(HeadError::BareCr),
        _ => Step::Part,
    }
}

/// Whether the newest byte of an unfinished first line can still be part of a method, or comes after
/// it. Only the newest is looked at: the ones before it were.
fn may_begin(line: &[u8]) -> bool {
    let Some((&newest, before)) = line.split_last() else { return true };
    if before.iter().take(MAX_METHOD + 1).any(|&byte| byte == b' ') {
        return true;
    }
    match newest {
        b'A'..=b'Z' => before.len() < MAX_METHOD,
        // Some registered methods have a hyphen in them (VERSION-CONTROL).
        b'-' => (1..MAX_METHOD).contains(&before.len()),
        b' ' => !before.is_empty(),
        _ => false,
    }
}

/// Other protocols begin with a word in capitals too (`EHLO mail.example`); theirs does not end in a
/// version of HTTP. A CONNECT without one is a bad CONNECT.
fn is_request_line(line: &[u8]) -> bool {
    line.starts_with(b"CONNECT ") || line.windows(6).any(|part| part == b" HTTP/")
}
