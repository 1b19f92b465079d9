//! An HTTP/2 request → the HTTP/1.1 head that a worker reads.

use http::header::{ACCEPT, CONTENT_LENGTH, HOST, HeaderName, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Method, StatusCode, request::Parts};

/// What of a request's header a worker may want to know; the rest is between the client and nobody.
const CARRIED: [HeaderName; 5] = [HOST, ACCEPT, PROXY_AUTHORIZATION, CONTENT_LENGTH, USER_AGENT];

/// The head of the same request in HTTP/1.1 (RFC 9112, section 3). What is wrong with its authority is for the worker to
/// say, whose refusal has a record; here only nothing may pass that HTTP/1.1 would read as more than it is.
///
/// # Errors
/// The status of a request that has no like in HTTP/1.1.
pub(crate) fn head_of(request: &Parts) -> Result<Vec<u8>, StatusCode> {
    // Extended CONNECT (RFC 8441) was not offered in our settings.
    if request.extensions.get::<h2::ext::Protocol>().is_some() {
        return Err(StatusCode::NOT_IMPLEMENTED);
    }
    let method = request.method.as_str();
    if !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
        return Err(StatusCode::NOT_IMPLEMENTED);
    }
    let target = if request.method == Method::CONNECT {
        // An authority and nothing else (RFC 9113, section 8.5); the library has refused a scheme and a path. Where there
        // is none, there is no target.
        request.uri.authority().map(ToString::to_string).unwrap_or_default()
    } else {
        request.uri.to_string()
    };
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(StatusCode::BAD_REQUEST);
    }
    let mut head = Vec::with_capacity(256);
    head.extend_from_slice(method.as_bytes());
    head.push(b' ');
    head.extend_from_slice(target.as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    if !request.headers.contains_key(HOST)
        && let Some(authority) = request.uri.authority()
    {
        head.extend_from_slice(b"host: ");
        head.extend_from_slice(authority.as_str().as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    for name in &CARRIED {
        for value in request.headers.get_all(name) {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            // Without CR, LF and NUL, or it would be no `HeaderValue`.
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
    }
    head.extend_from_slice(b"\r\n");
    Ok(head)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(request: http::request::Builder) -> Result<String, StatusCode> {
        head_of(&request.body(()).unwrap().into_parts().0)
            .map(|head| String::from_utf8(head).unwrap())
    }

    #[test]
    fn a_connect_keeps_what_a_worker_reads_and_nothing_else() {
        let request = Request::connect("db.example:5432")
            .header("accept", "application/json")
            .header("proxy-authorization", "Basic YTpi")
            .header("cookie", "secret");
        assert_eq!(
            head(request).unwrap(),
            "CONNECT db.example:5432 HTTP/1.1\r\nhost: db.example:5432\r\naccept: application/json\r\n\
             proxy-authorization: Basic YTpi\r\n\r\n"
        );
    }

    #[test]
    fn a_second_authority_is_left_to_the_worker_to_refuse() {
        let request = Request::connect("a.example:443").header("host", "b.example");
        assert!(head(request).unwrap().contains("\r\nhost: b.example\r\n"));
    }

    #[test]
    fn what_has_no_like_in_http_1_is_answered_here() {
        assert_eq!(
            head(Request::builder().method("get").uri("/")),
            Err(StatusCode::NOT_IMPLEMENTED)
        );
        let extended = Request::connect("https://a.example:443/chat")
            .extension(h2::ext::Protocol::from_static("websocket"));
        assert_eq!(head(extended), Err(StatusCode::NOT_IMPLEMENTED));
    }

    #[test]
    fn a_connect_without_an_authority_is_left_to_the_worker_to_refuse() {
        let request = Request::builder().method("CONNECT").uri("/").header("host", "a.example");
        assert_eq!(head(request).unwrap(), "CONNECT  HTTP/1.1\r\nhost: a.example\r\n\r\n");
    }
}
