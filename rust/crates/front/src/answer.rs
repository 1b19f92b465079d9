//! A worker's answer in HTTP/1.1 → the same in HTTP/2.

use http::header::{CONNECTION, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::{Response, StatusCode, Version};

/// Most bytes of an answer's head, and most of its fields: a worker's own are far below.
pub(crate) const MAX_HEAD: usize = 16 * 1024;
const MAX_FIELDS: usize = 32;

/// The bytes are no answer in HTTP/1.1, or one without end.
#[derive(Debug)]
pub(crate) struct NotHttp;

/// What HTTP/2 forbids in a header section (RFC 9113, section 8.2.2).
fn is_of_the_connection(name: &HeaderName) -> bool {
    [CONNECTION, TRANSFER_ENCODING, UPGRADE].contains(name)
        || matches!(name.as_str(), "proxy-connection" | "keep-alive")
}

/// The answer whose head is at the beginning of `bytes`, and how long that is; `None` while it is not whole.
///
/// # Errors
/// See [`NotHttp`].
pub(crate) fn read(bytes: &[u8]) -> Result<Option<(Response<()>, usize)>, NotHttp> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    let len = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        _ => return Err(NotHttp),
    };
    let mut answer = Response::new(());
    *answer.version_mut() = Version::HTTP_2;
    *answer.status_mut() =
        parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(NotHttp)?;
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| NotHttp)?;
        if !is_of_the_connection(&name) {
            answer
                .headers_mut()
                .append(name, HeaderValue::from_bytes(field.value).map_err(|_| NotHttp)?);
        }
    }
    Ok(Some((answer, len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_status_and_fields_without_those_of_the_connection() {
        let whole = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nConnection: close\r\n\
                      Proxy-Connection: close\r\nX-Egress-Decision: 00ab\r\n\r\nno\n";
        assert!(read(&whole[..40]).unwrap().is_none());
        let (answer, len) = read(whole).unwrap().unwrap();
        assert_eq!((answer.status().as_u16(), &whole[len..]), (403, &b"no\n"[..]));
        let names: Vec<&str> = answer.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-length", "x-egress-decision"]);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        assert!(read(b"\x15\x03\x03\x00\x02").is_err());
        let endless = [b"HTTP/1.1 200 OK\r\nA: ", vec![b'a'; MAX_HEAD].as_slice()].concat();
        assert!(read(&endless).is_err());
    }
}
