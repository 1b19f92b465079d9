//! Request heads: where a request goes, and what it means for the connection it came on.
use std::ops::Range;

use httparse::{EMPTY_HEADER, Header};

use super::{
    DEFAULT_PORT, Framing, HttpError, MAX_HEADERS,
    framing::{decimal, framing},
    hops::{Dropped, Options, is_websocket},
    target,
};
use crate::{
    Answer,
    basic::ProxyLogin,
    head::{self, HeadEnd, Preference, Start, host_field, other_host, values},
    name::{Host, parse_wire_host},
};

/// Fields without which a request is another one.
const KEPT: &[&str] = &["host", "content-length", "transfer-encoding", "expect", "max-forwards"];

/// A sound request, or one with two destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestHead {
    /// A request for one destination.
    Request(Request),
    /// The target is a URI of one host or port, and Host names another. RFC 9112 §3.2.2 has a proxy
    /// put the URI's into Host; here the caller denies it, as who sends this tries which one counts. An
    /// audit that lets it go on forwards it as the RFC says.
    TwoHosts {
        /// The request for what the URI names.
        request: Request,
        /// What Host names.
        field: Host,
        /// The port that Host names, if it does.
        field_port: Option<u16>,
    },
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The host that the request is for.
    pub host: Host,
    /// The port; never 0.
    pub port: u16,
    /// Bytes up to and including the blank line. The body follows.
    pub head_len: usize,
    /// How the body ends; never `UntilClose`.
    pub framing: Framing,
    /// The client may send another request after this one. Never so for HTTP/1.0 (RFC 9112 §9.3: a
    /// proxy does not keep such a connection).
    pub keep_alive: bool,
    /// The body comes only after an interim response 100, or after the client lost patience. The origin
    /// is asked; it is for the origin to answer.
    pub expects_continue: bool,
    /// What the response will depend on.
    pub asked: Asked,
    /// How the client would rather read a refusal.
    pub prefers: Preference,
    /// Who the client says it is.
    pub login: ProxyLogin,
    pub(super) method_len: usize,
    pub(super) path: Range<usize>,
    pub(super) max_forwards: Option<u64>,
    pub(super) dropped: Dropped,
}

impl Request {
    /// The method, in the bytes that the request was read from.
    pub fn method<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        bytes.get(..self.method_len).unwrap_or_default()
    }

    /// The path and query there. Empty in a URI without either.
    pub fn path<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        bytes.get(self.path.clone()).unwrap_or_default()
    }
}

/// What reading a response takes from the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Asked {
    /// The method is HEAD: the response has no body, whatever its fields say.
    pub head: bool,
    /// A WebSocket handshake. After a response 101 both connections are a tunnel; until then what the
    /// client sends is not forwarded, as the origin may stay with HTTP and read it as a request.
    pub upgrade: bool,
    /// The client speaks HTTP/1.0, which knows neither interim responses nor chunks.
    pub http_10: bool,
}

/// Reads a request head from bytes that arrive in pieces.
///
/// The search for the blank line goes on where it stopped, and the head is parsed once, when all of
/// it is there.
#[derive(Debug, Clone, Default)]
pub struct RequestReader(HeadEnd);

impl RequestReader {
    /// A reader at the first byte of a request.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on. `bytes` are all bytes so far, from the request's first; they only ever grow between
    /// two calls. Once an answer other than `NeedMore` is given, it stays the answer.
    ///
    /// `Not` is said to CONNECT, and at the first byte that no request line of a method in capitals can
    /// hold.
    pub fn read(&mut self, bytes: &[u8]) -> Answer<RequestHead, HttpError> {
        if bytes.starts_with(b"CONNECT ") {
            return Answer::Not;
        }
        match self.0.find(Start::Request, bytes) {
            Answer::NeedMore => Answer::NeedMore,
            Answer::Not => Answer::Not,
            Answer::Malformed(fault) => Answer::Malformed(fault.into()),
            Answer::Found(whole) => match parse(whole) {
                Ok(found) => Answer::Found(found),
                Err(error) => Answer::Malformed(error),
            },
        }
    }
}

/// [`RequestReader::read`] of bytes that come at once.
pub fn read_request(bytes: &[u8]) -> Answer<RequestHead, HttpError> {
    RequestReader::new().read(bytes)
}

fn parse(head: &[u8]) -> Result<RequestHead, HttpError> {
    let mut slots = [EMPTY_HEADER; MAX_HEADERS];
    let (line, headers) = head::parse_request(head, &mut slots)?;
    let target = target::parse(line.method, line.target)?;
    // RFC 9112 §3.2: every request of HTTP/1.1 has a Host.
    if !line.http_10 && host_field(headers)?.is_none() {
        return Err(HttpError::HostMissing);
    }
    let (host, port, other) = match target.authority {
        None => {
            let (host, port) = named(headers)?;
            (host, port, None)
        }
        Some((host, port)) => {
            let other = other_host(headers, &host, port)?;
            (host, port, other)
        }
    };

    let options = Options::read(headers, KEPT)?;
    let mut dropped = Dropped::default();
    let framing = framing(headers, line.http_10, &mut dropped)?;
    let has_body = !matches!(framing, Framing::None | Framing::Length(0));
    let upgrade =
        !line.http_10 && line.method == "GET" && !has_body && is_websocket(headers, &options);
    options.drop_hops(headers, upgrade, &mut dropped);
    dropped.add_named(headers, "host");
    // RFC 9110 §10.1.1: HTTP/1.0 does not know it, and without a body there is nothing to wait for.
    let expects_continue = expects(headers)? && has_body && !line.http_10;
    if !expects_continue {
        dropped.add_named(headers, "expect");
    }
    let max_forwards = max_forwards(line.method, headers)?;
    if max_forwards.is_some() {
        dropped.add_named(headers, "max-forwards");
    }
    let method_len = line.method.len();
    let path_at = method_len + 1;
    let request = Request {
        host,
        port,
        head_len: head.len(),
        framing,
        keep_alive: !line.http_10 && !options.has("close"),
        expects_continue,
        asked: Asked { head: line.method == "HEAD", upgrade, http_10: line.http_10 },
        prefers: head::preference(values(headers, "accept")),
        login: ProxyLogin::read(values(headers, "proxy-authorization")),
        method_len,
        path: path_at + target.path.start..path_at + target.path.end,
        max_forwards,
        dropped,
    };
    Ok(match other {
        None => RequestHead::Request(request),
        Some((field, field_port)) => RequestHead::TwoHosts { request, field, field_port },
    })
}

/// The destination of a request whose target has none.
fn named(headers: &[Header<'_>]) -> Result<(Host, u16), HttpError> {
    let field = host_field(headers)?.ok_or(HttpError::HostMissing)?;
    let (host, port) = parse_wire_host(field).map_err(HttpError::Authority)?;
    Ok((host, port.unwrap_or(DEFAULT_PORT)))
}

/// RFC 9110 §10.1.1 knows one expectation. Readers differ in what they make of others.
fn expects(headers: &[Header<'_>]) -> Result<bool, HttpError> {
    let mut fields = values(headers, "expect");
    match (fields.next(), fields.next()) {
        (None, _) => Ok(false),
        (Some(value), None) if value.eq_ignore_ascii_case(b"100-continue") => Ok(true),
        _ => Err(HttpError::ExpectOther),
    }
}

/// RFC 9110 §7.6.2: for TRACE and OPTIONS an intermediary counts it down, and at 0 does not forward.
fn max_forwards(method: &str, headers: &[Header<'_>]) -> Result<Option<u64>, HttpError> {
    let mut fields = values(headers, "max-forwards");
    match (fields.next(), fields.next()) {
        _ if !matches!(method, "TRACE" | "OPTIONS") => Ok(None),
        (None, _) => Ok(None),
        (Some(value), None) => {
            let left = decimal(value).and_then(|count| count.checked_sub(1));
            left.map(Some).ok_or(HttpError::MaxForwards)
        }
        _ => Err(HttpError::MaxForwards),
    }
}
