//! Sound responses are read alike for every cut; their end is found, and the client gets what is for it.
#[path = "common/http.rs"]
mod http;

use egress_hello::http::*;
use http::*;

const TO_11: Asked = Asked { head: false, upgrade: false, http_10: false };
const TO_HEAD: Asked = Asked { head: true, ..TO_11 };
const TO_UPGRADE: Asked = Asked { upgrade: true, ..TO_11 };
const TO_10: Asked = Asked { http_10: true, ..TO_11 };

const HANDSHAKE: &str =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

/// Status line and header lines, framing, whether the origin's connection lives on, and the header
/// lines that the client gets.
const RESPONSES: &[(&str, &str, Framing, bool, &str)] = &[
    ("200 OK", "Content-Length: 5\r\n", Framing::Length(5), true, "Content-Length: 5\r\n"),
    ("200 OK", "Content-Length: 0\r\n", Framing::Length(0), true, "Content-Length: 0\r\n"),
    ("200 OK", "", Framing::UntilClose, false, "Connection: close\r\n"),
    ("200 OK", "Connection: keep-alive\r\n", Framing::UntilClose, false, "Connection: close\r\n"),
    (
        "200 OK",
        "Connection: keep-alive\r\nTransfer-Encoding:  chunked\r\nConnection: Transfer-Encoding\r\n",
        Framing::Chunked,
        true,
        "Transfer-Encoding: chunked\r\n",
    ),
    (
        "200 OK",
        "Content-Length: 5\r\nConnection: close, X\r\nX: y\r\nKeep-Alive: timeout=5\r\n",
        Framing::Length(5),
        false,
        "Content-Length: 5\r\n",
    ),
    (
        "407 No",
        "Content-Length: 5\r\nProxy-Authenticate: Basic\r\nProxy-Connection: close\r\nProxy-Status: b\r\n",
        Framing::Length(5),
        true,
        "Content-Length: 5\r\nProxy-Status: b\r\n",
    ),
    (
        "200 OK",
        "Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 5\r\nContent-Length: 5\r\n",
        Framing::Length(5),
        true,
        "Content-Length: 5\r\n",
    ),
    ("204 No Content", "Content-Length: 0\r\nX: y\r\n", Framing::None, true, "X: y\r\n"),
    // A body that may not be: if it comes, it is not the next response.
    ("204 No Content", "Content-Length: 5\r\nX: y\r\n", Framing::None, false, "X: y\r\n"),
    ("204 No Content", "Transfer-Encoding: chunked\r\n", Framing::None, false, ""),
    ("304 Not Modified", "Content-Length: 5\r\n", Framing::None, true, "Content-Length: 5\r\n"),
    ("304 Not Modified", "Transfer-Encoding: chunked\r\n", Framing::None, true, ""),
    ("205 Reset", "Content-Length: 0\r\n", Framing::Length(0), true, "Content-Length: 0\r\n"),
    ("100 Continue", "Content-Length: 0\r\n", Framing::None, true, ""),
    ("100 Continue", "Content-Length: 5\r\n", Framing::None, false, ""),
    ("103 Early Hints", "Link: </a>\r\n", Framing::None, true, "Link: </a>\r\n"),
    ("999 ", "Content-Length: 5\r\n", Framing::Length(5), true, "Content-Length: 5\r\n"),
    (
        "500 \u{e9}\t!",
        "Trailer: X\r\n",
        Framing::UntilClose,
        false,
        "Trailer: X\r\nConnection: close\r\n",
    ),
];

fn head(status: &str, fields: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{fields}\r\n")
}

#[test]
fn the_end_is_found_and_the_client_gets_what_is_for_it() {
    for &(status, fields, framing, keep_alive, expected) in RESPONSES {
        let text = head(status, fields);
        let read = response(text.as_bytes(), TO_11);
        assert_eq!((read.framing, read.keep_alive), (framing, keep_alive), "{text}");
        assert_eq!(read.head_len, text.len());
        assert_eq!(read.status.to_string(), status[..3]);
        assert_eq!(returned(&text, TO_11, false), head(status, expected));
        let out = returned(&text, TO_11, true);
        let closes = expected.contains("close") || read.is_interim();
        assert_eq!(
            out,
            head(status, &[expected, if closes { "" } else { "Connection: close\r\n" }].concat())
        );
        assert_eq!(response(out.as_bytes(), TO_11).framing, framing);
        assert_eq!(returned(&out, TO_11, true), out);
    }
}

#[test]
fn a_response_to_head_has_no_body_but_says_how_long_it_would_be() {
    for (fields, expected) in [
        ("Content-Length: 5\r\n", "Content-Length: 5\r\n"),
        ("Transfer-Encoding: chunked\r\n", ""),
        ("", ""),
    ] {
        let text = head("200 OK", fields);
        let read = response(text.as_bytes(), TO_HEAD);
        assert_eq!((read.framing, read.keep_alive), (Framing::None, true));
        assert_eq!(returned(&text, TO_HEAD, false), head("200 OK", expected));
    }
}

#[test]
fn interim_responses_are_not_the_last() {
    for (status, interim) in [("100 Go", true), ("102 ", true), ("199 ", true), ("200 OK", false)] {
        let read = response(head(status, "").as_bytes(), TO_11);
        assert!(read.is_interim() == interim && !read.is_switch());
    }
}

#[test]
fn a_switch_is_one_to_websocket_that_was_asked_for() {
    let read = response(HANDSHAKE.as_bytes(), TO_UPGRADE);
    assert!(read.is_switch() && !read.is_interim());
    assert_eq!(read.framing, Framing::None);
    assert_eq!(returned(HANDSHAKE, TO_UPGRADE, true), HANDSHAKE);
    let unasked = egress_hello::Answer::Malformed(HttpError::SwitchUnasked);
    assert_eq!(read_for(HANDSHAKE.as_bytes(), TO_11), unasked);
    for fields in ["", "Upgrade: websocket\r\n", "Connection: Upgrade\r\nUpgrade: h2c\r\n"] {
        assert_eq!(read_for(head("101 Go", fields).as_bytes(), TO_UPGRADE), unasked);
    }
    let stays =
        head("200 OK", "Content-Length: 0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n");
    assert!(!response(stays.as_bytes(), TO_UPGRADE).is_switch());
    assert_eq!(returned(&stays, TO_UPGRADE, false), head("200 OK", "Content-Length: 0\r\n"));
}

#[test]
fn an_origin_of_http_10_is_forwarded_as_the_gateway_speaks() {
    let text = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n";
    let read = response(text.as_bytes(), TO_11);
    assert_eq!((read.framing, read.keep_alive), (Framing::Length(5), false));
    assert_eq!(returned(text, TO_11, false), head("200 OK", "Content-Length: 5\r\n"));
}

#[test]
fn a_client_of_http_10_gets_what_it_can_read() {
    let text = head("200 OK", "Content-Length: 5\r\n");
    assert_eq!(response(text.as_bytes(), TO_10).framing, Framing::Length(5));
    assert_eq!(response(head("200 OK", "").as_bytes(), TO_10).framing, Framing::UntilClose);
    let none = head("200 OK", "Transfer-Encoding: chunked\r\n");
    assert_eq!(response(none.as_bytes(), Asked { head: true, ..TO_10 }).framing, Framing::None);
}

#[test]
fn a_status_line_without_reason_gets_its_space() {
    let text = "HTTP/1.1 204\r\n\r\n";
    assert_eq!(returned(text, TO_11, false), "HTTP/1.1 204 \r\n\r\n");
}

#[test]
fn what_follows_the_head_is_not_of_it() {
    let text = head("200 OK", "Content-Length: 5\r\n");
    for after in [&b"hello"[..], b"\r\n", b" \0", b"HTTP/1.1 200 OK\r\n\r\n"] {
        let bytes = [text.as_bytes(), after].concat();
        assert_eq!(response(&bytes, TO_11), response(text.as_bytes(), TO_11));
    }
    let most = "A: b\r\n".repeat(MAX_HEADERS - 1) + "Content-Length: 5\r\n";
    assert_eq!(returned(&head("200 OK", &most), TO_11, false), head("200 OK", &most));
}
