//! Finds the end of a head, byte after byte once, and refuses on the way what no head may hold.
use super::{HeadFault, MAX_HEAD};
use crate::Answer;

/// Longest method in bytes: the longest registered one, UPDATEREDIRECTREF, has 17.
const MAX_METHOD: usize = 24;

/// What the first line of a response begins with.
const PROTOCOL: &[u8] = b"HTTP/";

/// Which first line a head has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Request,
    Response,
}

/// How far the search for the blank line has come.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeadEnd {
    /// The first byte that was not looked at.
    at: usize,
    /// Where the line of that byte begins.
    line: usize,
    /// Where the head ends, once that was found.
    end: Option<usize>,
}

impl HeadEnd {
    /// Searches on; `Found` is the head with its blank line. `first_bytes` are all bytes of the message
    /// so far; they only ever grow between two calls.
    ///
    /// `Not` is said at the first byte that no first line of this kind can hold. An empty line before it
    /// is such a byte too: RFC 9112 §2.2 lets a server skip one, for clients of the last century.
    pub(crate) fn find<'a>(
        &mut self,
        start: Start,
        first_bytes: &'a [u8],
    ) -> Answer<&'a [u8], HeadFault> {
        while self.end.is_none() {
            if self.at == MAX_HEAD {
                return Answer::Malformed(HeadFault::TooLarge);
            }
            let Some(&byte) = first_bytes.get(self.at) else { return Answer::NeedMore };
            if self.line == 0 && !may_begin(start, &first_bytes[..=self.at]) {
                return Answer::Not;
            }
            let last = self.at.checked_sub(1).and_then(|before| first_bytes.get(before));
            match step(byte, last.copied()) {
                Step::Bad(fault) => return Answer::Malformed(fault),
                Step::Part => {
                    if self.line == self.at && self.line > 0 && matches!(byte, b' ' | b'\t') {
                        return Answer::Malformed(HeadFault::ObsFold);
                    }
                }
                Step::LineEnd => {
                    let Some(line) = first_bytes.get(self.line..self.at.saturating_sub(1)) else {
                        return Answer::NeedMore;
                    };
                    if line.is_empty() {
                        self.end = Some(self.at + 1);
                    } else if self.line == 0 && start == Start::Request && !is_request_line(line) {
                        return Answer::Not;
                    }
                    self.line = self.at + 1;
                }
            }
            self.at += 1;
        }
        self.end.and_then(|end| first_bytes.get(..end)).map_or(Answer::NeedMore, Answer::Found)
    }
}

enum Step {
    Part,
    LineEnd,
    Bad(HeadFault),
}

/// One byte after another: only CR LF ends a line (RFC 9112 §2.2 lets a server take a bare LF; two
/// servers that differ in this are how requests are smuggled).
fn step(byte: u8, last: Option<u8>) -> Step {
    match (byte, last) {
        (0, _) => Step::Bad(HeadFault::Nul),
        (b'\n', Some(b'\r')) => Step::LineEnd,
        (b'\n', _) => Step::Bad(HeadFault::BareLf),
        (_, Some(b'\r')) => Step::Bad(HeadFault::BareCr),
        _ => Step::Part,
    }
}

/// Whether the newest byte of an unfinished first line can still be part of one. Only the newest is
/// looked at: the ones before it were.
fn may_begin(start: Start, line: &[u8]) -> bool {
    let Some((&newest, before)) = line.split_last() else { return true };
    if start == Start::Response {
        return PROTOCOL.get(before.len()).is_none_or(|&byte| byte == newest);
    }
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
