//! Response heads: where a response ends, and what it means for the connections.
use httparse::EMPTY_HEADER;

use super::{
    Asked, Framing, HttpError, MAX_HEADERS,
    framing::framing,
    hops::{Dropped, Options, is_websocket},
};
use crate::{
    Answer,
    head::{self, HeadEnd, Start},
};

const SWITCHING_PROTOCOLS: u16 = 101;
const NO_CONTENT: u16 = 204;
const NOT_MODIFIED: u16 = 304;

/// Fields without which a response is another one. Transfer-Encoding is not among them: origins name
/// it in Connection, by right (RFC 9110 §7.6.1), and as chunks pass as they are it passes with them.
const KEPT: &[&str] = &["content-length"];

/// What the head of a response says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 100 to 999; 101 only when it was asked for.
    pub status: u16,
    /// Bytes up to and including the blank line. The body follows, or with 101 the tunnel.
    pub head_len: usize,
    /// How the body ends.
    pub framing: Framing,
    /// The origin takes another request after this one. What it sends before that one was sent is part
    /// of no response: the connection must then be closed.
    pub keep_alive: bool,
    pub(super) dropped: Dropped,
}

impl Response {
    /// Another response to the same request follows (RFC 9110 §15.2). An origin may send any number of
    /// these; how long to wait for the last one is the caller's to bound.
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && !self.is_switch()
    }

    /// Both connections are a tunnel from here on.
    pub const fn is_switch(&self) -> bool {
        self.status == SWITCHING_PROTOCOLS
    }
}

/// Reads a response head from bytes that arrive in pieces, as [`RequestReader`](super::RequestReader)
/// does a request's.
#[derive(Debug, Clone, Default)]
pub struct ResponseReader(HeadEnd);

impl ResponseReader {
    /// A reader at the first byte of a response.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on. `bytes` are all bytes so far, from the response's first; they only ever grow between
    /// two calls. Once an answer other than `NeedMore` is given, it stays the answer.
    ///
    /// `Not` is said at the first byte that is not of `HTTP/`.
    pub fn read(&mut self, bytes: &[u8], asked: Asked) -> Answer<Response, HttpError> {
        match self.0.find(Start::Response, bytes) {
            Answer::NeedMore => Answer::NeedMore,
            Answer::Not => Answer::Not,
            Answer::Malformed(fault) => Answer::Malformed(fault.into()),
            Answer::Found(whole) => match parse(whole, asked) {
                Ok(found) => Answer::Found(found),
                Err(error) => Answer::Malformed(error),
            },
        }
    }
}

/// [`ResponseReader::read`] of bytes that come at once.
pub fn read_response(bytes: &[u8], asked: Asked) -> Answer<Response, HttpError> {
    ResponseReader::new().read(bytes, asked)
}

fn parse(head: &[u8], asked: Asked) -> Result<Response, HttpError> {
    let mut slots = [EMPTY_HEADER; MAX_HEADERS];
    let (line, headers) = head::parse_response(head, &mut slots)?;
    let status = line.status;
    if status < 100 {
        return Err(HttpError::StatusOther);
    }
    let options = Options::read(headers, KEPT)?;
    let mut dropped = Dropped::default();
    let said = framing(headers, line.http_10, &mut dropped)?;
    let switch = status == SWITCHING_PROTOCOLS;
    if switch && !(asked.upgrade && is_websocket(headers, &options)) {
        return Err(HttpError::SwitchUnasked);
    }
    options.drop_hops(headers, switch, &mut dropped);
    // RFC 9110 §8.6: these have no length, not even 0; a client that believes one waits for a body.
    let bare = status < 200 || status == NO_CONTENT;
    if bare {
        dropped.add_named(headers, "content-length");
    }
    // RFC 9112 §6.3, in its order.
    let bodiless = asked.head || bare || status == NOT_MODIFIED;
    // An origin that announces a body where none may be sends it, and it would be the next response.
    let announces_body = !matches!(said, Framing::None | Framing::Length(0));
    let framing = match said {
        _ if bodiless => Framing::None,
        Framing::None => Framing::UntilClose,
        said => said,
    };
    if asked.http_10 && (status < 200 || framing == Framing::Chunked) {
        return Err(HttpError::NewerThanAsked);
    }
    let last = line.http_10
        || options.has("close")
        || framing == Framing::UntilClose
        || (bare && announces_body);
    Ok(Response { status, head_len: head.len(), framing, keep_alive: !last, dropped })
}
