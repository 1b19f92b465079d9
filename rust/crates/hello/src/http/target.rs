//! Request targets (RFC 9112 §3.2).
use std::ops::Range;

use super::{DEFAULT_PORT, HttpError};
use crate::name::{Host, parse_wire_host};

/// What a target names, with the place of its path and query in it.
pub(super) struct Target {
    /// Host and port of an absolute-form; another form leaves them to the Host header field.
    pub(super) authority: Option<(Host, u16)>,
    /// Empty in an absolute-form without a path.
    pub(super) path: Range<usize>,
}

/// Reads an origin-form, an absolute-form, or for `OPTIONS` an asterisk-form.
///
/// Bytes that RFC 3986 does not know at all, and a fragment, which no target has, are refused, as
/// readers cut there or go on; the bytes that browsers leave as they are (`|`, `^`, quotes) pass.
pub(super) fn parse(method: &str, target: &str) -> Result<Target, HttpError> {
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(HttpError::TargetByte);
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(Target { authority: None, path: 0..target.len() });
    }
    let (scheme, rest) = target.split_once("://").ok_or(HttpError::TargetForm)?;
    if !is_scheme(scheme) {
        return Err(HttpError::TargetForm);
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(HttpError::SchemeNotHttp);
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    // RFC 9110 §4.2.4: what stands before the @ is most often there to deceive.
    if authority.contains('@') {
        return Err(HttpError::UserInfo);
    }
    let (host, port) = parse_wire_host(authority.as_bytes()).map_err(HttpError::Authority)?;
    let path = target.len() - rest.len() + authority.len()..target.len();
    Ok(Target { authority: Some((host, port.unwrap_or(DEFAULT_PORT))), path })
}

/// RFC 3986 §3.1.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}
