//! A whole head, checked for what the search for its end could not see.
use httparse::{Error, Header, Request, Status};

use super::{ConnectHead, HeadError, MAX_HEADERS, accept};
use crate::name::{AuthorityError, Host, parse_wire_authority, parse_wire_host};

/// Reads a head up to and including its blank line, all of its lines ended by CR LF.
pub(super) fn parse(head: &[u8]) -> Result<ConnectHead, HeadError> {
    let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = Request::new(&mut slots);
    let head_len = match request.parse(head) {
        Ok(Status::Complete(length)) if length == head.len() => length,
        Ok(_) => return Err(HeadError::RequestLine),
        Err(error) => return Err(from_httparse(error)),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(HeadError::RequestLine);
    };
    if method != "CONNECT" {
        return Err(HeadError::MethodNotConnect);
    }
    let (host, port) = parse_wire_authority(target.as_bytes()).map_err(HeadError::Authority)?;
    let headers: &[Header<'_>] = request.headers;
    check_host(headers, &host, port)?;
    check_no_body(headers)?;
    let accepted = headers.iter().filter(|header| is(header, "accept")).map(|header| header.value);
    Ok(ConnectHead {
        host,
        port,
        head_len,
        wants_json: accept::prefers_json(accepted),
        http_10: minor == 0,
    })
}

fn is(header: &Header<'_>, name: &str) -> bool {
    header.name.eq_ignore_ascii_case(name)
}

/// RFC 9112 §3.2: one Host, equal to the authority. A Host without a port agrees with any port, and
/// none at all with anything: old clients send either, and neither names a second destination.
fn check_host(headers: &[Header<'_>], host: &Host, port: u16) -> Result<(), HeadError> {
    let mut fields = headers.iter().filter(|header| is(header, "host"));
    let Some(field) = fields.next() else { return Ok(()) };
    if fields.next().is_some() {
        return Err(HeadError::HostTwice);
    }
    let (named, named_port) = match parse_wire_host(field.value.trim_ascii()) {
        Ok(named) => named,
        Err(AuthorityError::Host(_) | AuthorityError::MissingPort | AuthorityError::BadPort) => {
            return Err(HeadError::HostBad);
        }
    };
    if named != *host || named_port.is_some_and(|named| named != port) {
        return Err(HeadError::HostDiffers);
    }
    Ok(())
}

/// A CONNECT request has no body (RFC 9110 §9.3.6). `Content-Length: 0`, which old clients send, says
/// just that; anything else would make the tunnel's first bytes a body to another reader.
fn check_no_body(headers: &[Header<'_>]) -> Result<(), HeadError> {
    for header in headers {
        if is(header, "transfer-encoding") {
            return Err(HeadError::TransferEncoding);
        }
        if is(header, "content-length") && header.value.trim_ascii() != b"0" {
            return Err(HeadError::ContentLength);
        }
    }
    Ok(())
}

fn from_httparse(error: Error) -> HeadError {
    match error {
        Error::HeaderName => HeadError::HeaderName,
        Error::HeaderValue => HeadError::HeaderValue,
        Error::TooManyHeaders => HeadError::HeadersMany,
        // Line ends were checked before, so a bad one can only be something between the version and it.
        Error::Version | Error::NewLine => HeadError::Version,
        Error::Token | Error::Status => HeadError::RequestLine,
    }
}
