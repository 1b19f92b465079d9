//! First lines and header fields of a whole head.
use httparse::{Error, Header, Request, Response, Status};

use super::HeadFault;
use crate::name::{Host, parse_wire_host};

/// The words of a request line; only HTTP/1.0 and HTTP/1.1 are read.
pub(crate) struct RequestLine<'b> {
    pub(crate) method: &'b str,
    pub(crate) target: &'b str,
    pub(crate) http_10: bool,
}

/// The words of a status line.
pub(crate) struct StatusLine {
    pub(crate) status: u16,
    pub(crate) http_10: bool,
}

/// Reads a request's head up to and including its blank line, all of its lines ended by CR LF.
pub(crate) fn parse_request<'h, 'b>(
    head: &'b [u8],
    slots: &'h mut [Header<'b>],
) -> Result<(RequestLine<'b>, &'h [Header<'b>]), HeadFault> {
    let mut request = Request::new(slots);
    match request.parse(head) {
        Ok(Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(HeadFault::RequestLine),
        Err(error) => return Err(fault(error, HeadFault::RequestLine)),
    }
    match (request.method, request.path, request.version) {
        (Some(method), Some(target), Some(minor)) => {
            Ok((RequestLine { method, target, http_10: minor == 0 }, request.headers))
        }
        _ => Err(HeadFault::RequestLine),
    }
}

/// The same for a response's head.
pub(crate) fn parse_response<'h, 'b>(
    head: &'b [u8],
    slots: &'h mut [Header<'b>],
) -> Result<(StatusLine, &'h [Header<'b>]), HeadFault> {
    let mut response = Response::new(slots);
    match response.parse(head) {
        Ok(Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(HeadFault::StatusLine),
        Err(error) => return Err(fault(error, HeadFault::StatusLine)),
    }
    match (response.code, response.version) {
        (Some(status), Some(minor)) => {
            Ok((StatusLine { status, http_10: minor == 0 }, response.headers))
        }
        _ => Err(HeadFault::StatusLine),
    }
}

fn fault(error: Error, first_line: HeadFault) -> HeadFault {
    match error {
        Error::HeaderName => HeadFault::HeaderName,
        Error::HeaderValue => HeadFault::HeaderValue,
        Error::TooManyHeaders => HeadFault::HeadersMany,
        // Line ends were checked before, so a bad one can only be something between the version and it.
        Error::Version | Error::NewLine => HeadFault::Version,
        Error::Token | Error::Status => first_line,
    }
}

pub(crate) fn is(header: &Header<'_>, name: &str) -> bool {
    header.name.eq_ignore_ascii_case(name)
}

/// The values of all fields of a name.
pub(crate) fn values<'a, 'b>(
    headers: &'a [Header<'b>],
    name: &'static str,
) -> impl Iterator<Item = &'b [u8]> + use<'a, 'b> {
    headers.iter().filter(move |header| is(header, name)).map(|header| header.value.trim_ascii())
}

/// The one Host header field (RFC 9112 §3.2).
pub(crate) fn host_field<'b>(headers: &[Header<'b>]) -> Result<Option<&'b [u8]>, HeadFault> {
    let mut fields = values(headers, "host");
    let field = fields.next();
    if fields.next().is_some() { Err(HeadFault::HostTwice) } else { Ok(field) }
}

/// The host and port of a Host header field that names another destination than the target does. One
/// without a port agrees with any port, and none at all with anything: old clients send either, and
/// neither names a second destination.
pub(crate) fn other_host(
    headers: &[Header<'_>],
    host: &Host,
    port: u16,
) -> Result<Option<(Host, Option<u16>)>, HeadFault> {
    let Some(field) = host_field(headers)? else { return Ok(None) };
    let (named, named_port) = parse_wire_host(field).map_err(|_| HeadFault::HostBad)?;
    let agrees = named == *host && named_port.is_none_or(|named| named == port);
    Ok((!agrees).then_some((named, named_port)))
}

/// A byte of a token, as methods and names of fields are (RFC 9110 §5.6.2).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A byte of a field's value (RFC 9110 §5.5): no control but the tab.
pub(crate) fn is_value_byte(byte: u8) -> bool {
    !byte.is_ascii_control() || byte == b'\t'
}
