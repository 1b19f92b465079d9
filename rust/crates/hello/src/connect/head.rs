//! A whole head, checked for what the search for its end could not see.
use httparse::{EMPTY_HEADER, Header};

use super::{ConnectHead, HeadError, MAX_HEADERS};
use crate::{
    basic::ProxyLogin,
    head::{self, other_host, values},
    name::parse_wire_authority,
};

/// Reads a head up to and including its blank line, all of its lines ended by CR LF.
pub(super) fn parse(head: &[u8]) -> Result<ConnectHead, HeadError> {
    let mut slots = [EMPTY_HEADER; MAX_HEADERS];
    let (line, headers) = head::parse_request(head, &mut slots)?;
    if line.method != "CONNECT" {
        return Err(HeadError::MethodNotConnect);
    }
    let (host, port) =
        parse_wire_authority(line.target.as_bytes()).map_err(HeadError::Authority)?;
    if other_host(headers, &host, port)?.is_some() {
        return Err(HeadError::HostDiffers);
    }
    check_no_body(headers)?;
    Ok(ConnectHead {
        host,
        port,
        head_len: head.len(),
        prefers: head::preference(values(headers, "accept")),
        login: ProxyLogin::read(values(headers, "proxy-authorization")),
    })
}

/// A CONNECT request has no body (RFC 9110 §9.3.6). `Content-Length: 0`, which old clients send, says
/// just that; anything else would make the tunnel's first bytes a body to another reader.
fn check_no_body(headers: &[Header<'_>]) -> Result<(), HeadError> {
    if values(headers, "transfer-encoding").next().is_some() {
        return Err(HeadError::TransferEncoding);
    }
    if values(headers, "content-length").any(|value| value != b"0") {
        return Err(HeadError::ContentLength);
    }
    Ok(())
}
