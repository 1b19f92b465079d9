//! Where a message ends (RFC 9112 §6).
use httparse::Header;

use super::{HttpError, hops::Dropped};
use crate::head::is;

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes, as Content-Length says.
    Length(u64),
    /// Chunks, the last of them empty, and a trailer section.
    Chunked,
    /// All bytes until the connection is closed; responses only.
    UntilClose,
}

/// What Content-Length and Transfer-Encoding say, `None` where there is neither.
///
/// A length that is said twice alike is forwarded once (RFC 9112 §6.3), and `chunked` is written anew:
/// a reader that knows it in lower-case letters only must not miss it.
pub(super) fn framing(
    headers: &[Header<'_>],
    http_10: bool,
    dropped: &mut Dropped,
) -> Result<Framing, HttpError> {
    let (mut length, mut chunked) = (None, false);
    for (at, header) in headers.iter().enumerate() {
        if is(header, "content-length") {
            let said = decimal(header.value.trim_ascii()).ok_or(HttpError::ContentLength)?;
            match length {
                None => length = Some(said),
                Some(before) if before == said => dropped.add(at),
                Some(_) => return Err(HttpError::ContentLengthsDiffer),
            }
        } else if is(header, "transfer-encoding") {
            if chunked || !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(HttpError::TransferEncoding);
            }
            chunked = true;
            dropped.add(at);
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err(HttpError::LengthAndCoding),
        // RFC 9112 §6.1: the framing is faulty, as whoever sent this cannot know what it means.
        (_, true) if http_10 => Err(HttpError::TransferEncoding10),
        (None, true) => Ok(Framing::Chunked),
        (Some(length), false) => Ok(Framing::Length(length)),
        (None, false) => Ok(Framing::None),
    }
}

/// A number in digits only. A sign or a leading zero makes readers by strtol(3) see another number.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    match digits {
        [b'0'] => Some(0),
        [b'1'..=b'9', ..] if digits.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(digits).ok()?.parse().ok()
        }
        _ => None,
    }
}
