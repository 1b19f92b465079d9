//! Sound requests are read alike for every cut, and forwarded with what is for the origin and no more.
#[path = "common/http.rs"]
mod http;

use egress_hello::{
    Answer,
    http::{Preference::*, *},
};
use http::*;

/// Request lines, with Host, and what the origin gets of them.
const TARGETS: &[(&str, &str, &str)] = &[
    ("GET http://a.example/", "a.example", "GET / HTTP/1.1\r\nHost: a.example\r\n"),
    ("GET http://a.example", "a.example", "GET / HTTP/1.1\r\nHost: a.example\r\n"),
    ("GET http://a.example?q=1", "a.example", "GET /?q=1 HTTP/1.1\r\nHost: a.example\r\n"),
    ("GET http://a.example/?q=//b", "a.example", "GET /?q=//b HTTP/1.1\r\nHost: a.example\r\n"),
    ("GET hTTp://A.Example.:80/B", "a.example:80", "GET /B HTTP/1.1\r\nHost: a.example\r\n"),
    ("GET http://a.example:8080/", "a.example", "GET / HTTP/1.1\r\nHost: a.example:8080\r\n"),
    ("GET http://a.example:443/", "A.EXAMPLE:443", "GET / HTTP/1.1\r\nHost: a.example:443\r\n"),
    ("GET http://192.0.2.1/", "192.0.2.1", "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n"),
    ("GET http://[2001:DB8::1]/", "[2001:db8:0::1]", "GET / HTTP/1.1\r\nHost: [2001:db8::1]\r\n"),
    ("GET http://[::1]:81/x", "[::1]:81", "GET /x HTTP/1.1\r\nHost: [::1]:81\r\n"),
    (
        "GET http://a.example//b.example/",
        "a.example",
        "GET //b.example/ HTTP/1.1\r\nHost: a.example\r\n",
    ),
    (
        "GET http://a.example/@http://b",
        "a.example",
        "GET /@http://b HTTP/1.1\r\nHost: a.example\r\n",
    ),
    ("GET /a/../b?c={|}\"^`", "a.example", "GET /a/../b?c={|}\"^` HTTP/1.1\r\nHost: a.example\r\n"),
    ("GET //b.example/", "a.example:8080", "GET //b.example/ HTTP/1.1\r\nHost: a.example:8080\r\n"),
    ("GET /", " A_b.Example. ", "GET / HTTP/1.1\r\nHost: a_b.example\r\n"),
    ("OPTIONS *", "a.example", "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n"),
    ("OPTIONS http://a.example", "a.example", "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n"),
    ("OPTIONS http://a.example/", "a.example", "OPTIONS / HTTP/1.1\r\nHost: a.example\r\n"),
    ("OPTIONS http://a.example?q", "a.example", "OPTIONS /?q HTTP/1.1\r\nHost: a.example\r\n"),
    ("VERSION-CONTROL /", "a.example", "VERSION-CONTROL / HTTP/1.1\r\nHost: a.example\r\n"),
];

/// Header lines of a `POST /` beside Host, and those that the origin gets.
const FIELDS: &[(&str, &str)] = &[
    ("X: y\r\nx:  Z \r\nEmpty:\r\n", "X: y\r\nx:  Z \r\nEmpty:\r\n"),
    ("Connection: close\r\nX: y\r\n", "X: y\r\n"),
    ("Connection: X, ,y\r\nx: 1\r\nY: 2\r\nZ: 3\r\nconnection: z\r\n", ""),
    ("Keep-Alive: 5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\nA: b\r\n", "A: b\r\n"),
    (
        "Proxy-Authorization: Basic c2VjcmV0\r\nAuthorization: Basic YTpi\r\n",
        "Authorization: Basic YTpi\r\n",
    ),
    ("Proxy-Authenticate: x\r\nProxy-Authentication-Info: y\r\nVia: 1.1 b\r\n", "Via: 1.1 b\r\n"),
    (
        "Trailer: Digest\r\nTransfer-Encoding: Chunked\r\n",
        "Trailer: Digest\r\nTransfer-Encoding: chunked\r\n",
    ),
    ("Connection: trailer, te\r\nTE: x\r\nTrailer: y\r\n", ""),
    ("Content-Length: 5\r\nX: y\r\ncontent-length: 5\r\n", "Content-Length: 5\r\nX: y\r\n"),
    ("Connection: Upgrade\r\nUpgrade: websocket\r\n", ""),
    ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n", ""),
    ("HTTP2-Settings: AA\r\nUpgrade: h2c\r\n", ""),
    (
        "Content-Length: 1\r\nExpect: 100-Continue\r\n",
        "Content-Length: 1\r\nExpect: 100-Continue\r\n",
    ),
    ("Content-Length: 0\r\nExpect: 100-continue\r\n", "Content-Length: 0\r\n"),
    ("Expect: 100-continue\r\n", ""),
    ("Max-Forwards: 0\r\n", "Max-Forwards: 0\r\n"),
];

fn post(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")
}

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")
}

fn of_10(fields: &str) -> String {
    format!("POST http://a.example/ HTTP/1.0\r\n{fields}\r\n")
}

#[test]
fn the_origin_gets_the_path_and_the_judged_host() {
    for (line, host, expected) in TARGETS {
        let text = format!("{line} HTTP/1.1\r\nAccept: */*\r\nHost: {host}\r\nX: y\r\n\r\n");
        assert_eq!(forwarded(&text, false), format!("{expected}Accept: */*\r\nX: y\r\n\r\n"));
    }
}

#[test]
fn the_origin_gets_no_field_that_is_for_the_gateway() {
    for (fields, expected) in FIELDS {
        assert_eq!(forwarded(&post(fields), false), post(expected), "{fields:?}");
    }
}

#[test]
fn what_is_forwarded_is_read_as_what_came() {
    let all =
        TARGETS.iter().map(|(line, host, _)| format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    for text in all.chain(FIELDS.iter().map(|(fields, _)| post(fields))) {
        for close in [false, true] {
            let (first, out) = (request(text.as_bytes()), forwarded(&text, close));
            let second = request(out.as_bytes());
            assert_eq!((&first.host, first.port), (&second.host, second.port));
            assert_eq!((first.framing, first.asked), (second.framing, second.asked));
            assert_eq!(first.expects_continue, second.expects_continue);
            assert_eq!(second.keep_alive, !close);
            assert_eq!(second.head_len, out.len());
            assert_eq!(forwarded(&out, close), out);
        }
    }
}

#[test]
fn the_destination_is_normalised() {
    let named = |text: &str| {
        let request = request(text.as_bytes());
        (request.host.to_string(), request.port)
    };
    let absolute = "GET http://B\u{41}.Example.:8080/ HTTP/1.1\r\nHost: ba.example\r\n\r\n";
    assert_eq!(named(absolute), ("ba.example".to_owned(), 8080));
    assert_eq!(
        named("GET / HTTP/1.0\r\nHost: [::FFFF:192.0.2.1]\r\n\r\n"),
        ("192.0.2.1".to_owned(), 80)
    );
    assert_eq!(named("GET http://a.example:1 HTTP/1.0\r\n\r\n"), ("a.example".to_owned(), 1));
}

#[test]
fn method_and_path_are_told() {
    let text = "PATCH http://a.example/a?b=c HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let read = request(text.as_bytes());
    assert_eq!(
        (read.method(text.as_bytes()), read.path(text.as_bytes())),
        (&b"PATCH"[..], &b"/a?b=c"[..])
    );
    assert_eq!((read.method(b""), read.path(b"PATCH")), (&b""[..], &b""[..]));
}

#[test]
fn the_body_is_framed_once() {
    let framing = |fields: &str| request(post(fields).as_bytes()).framing;
    assert_eq!(framing(""), Framing::None);
    assert_eq!(framing("Content-Length: 0\r\n"), Framing::Length(0));
    assert_eq!(framing("content-length:18446744073709551615 \r\n"), Framing::Length(u64::MAX));
    assert_eq!(framing("Content-Length: 7\r\nContent-Length: 7\r\n"), Framing::Length(7));
    assert_eq!(framing("Transfer-Encoding: chunked\r\n"), Framing::Chunked);
    assert_eq!(framing("TRANSFER-ENCODING:\tCHUNKED\t\r\n"), Framing::Chunked);
}

#[test]
fn the_client_says_whether_its_connection_lives_on() {
    let keeps = |text: &str| request(text.as_bytes()).keep_alive;
    assert!(keeps(&get("")));
    assert!(keeps(&get("Connection: keep-alive\r\n")));
    assert!(keeps(&get("Proxy-Connection: close\r\n")));
    assert!(!keeps(&get("Connection: Close\r\n")));
    assert!(!keeps(&get("Connection: x\r\nConnection: keep-alive,close\r\n")));
    assert!(!keeps(&of_10("")));
    assert!(!keeps(&of_10("Connection: keep-alive\r\n")));
}

#[test]
fn a_client_of_http_10_gets_nothing_newer() {
    let fields = "Content-Length: 1\r\nExpect: 100-continue\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    let text = of_10(fields);
    let read = request(text.as_bytes());
    assert!(read.asked.http_10 && !read.asked.upgrade && !read.expects_continue);
    assert_eq!(
        forwarded(&text, false),
        "POST / HTTP/1.0\r\nHost: a.example\r\nContent-Length: 1\r\n\r\n"
    );
}

#[test]
fn only_a_websocket_handshake_is_an_upgrade() {
    let upgrades = |text: &str| request(text.as_bytes()).asked.upgrade;
    let handshake =
        "Connection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: eA==\r\n";
    assert!(upgrades(&get(handshake)));
    assert_eq!(
        forwarded(&get(handshake), true),
        get("Upgrade: WebSocket\r\nSec-WebSocket-Key: eA==\r\nConnection: Upgrade\r\n")
    );
    for fields in [
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n",
    ] {
        assert!(!upgrades(&get(fields)), "{fields:?}");
        assert!(!forwarded(&get(fields), false).contains("pgrade"));
    }
    assert!(!upgrades(&post(handshake)));
}

#[test]
fn the_response_to_head_is_known_to_have_no_body() {
    let head = |line: &str| {
        request(format!("{line} / HTTP/1.1\r\nHost: a.example\r\n\r\n").as_bytes()).asked.head
    };
    assert!(head("HEAD"));
    assert!(!head("GET") && !head("HEADS"));
}

#[test]
fn the_body_is_waited_for_only_when_there_is_one() {
    let expects = |fields: &str| request(post(fields).as_bytes()).expects_continue;
    assert!(expects("Content-Length: 5\r\nExpect: 100-continue\r\n"));
    assert!(expects("Transfer-Encoding: chunked\r\nexpect: 100-CONTINUE\r\n"));
    assert!(!expects("Content-Length: 5\r\n"));
    assert!(!expects("Content-Length: 0\r\nExpect: 100-continue\r\n"));
}

#[test]
fn forwards_are_counted_down() {
    for (line, came, left) in [("TRACE", "10", "9"), ("OPTIONS", "1", "0")] {
        let head = |count| {
            format!("{line} / HTTP/1.1\r\nHost: a.example\r\nMax-Forwards: {count}\r\n\r\n")
        };
        assert_eq!(forwarded(&head(came), false), head(left));
    }
}

#[test]
fn a_refusal_has_the_form_that_is_asked_for_by_name() {
    let form = |fields: &str| request(get(fields).as_bytes()).prefers;
    for (accept, wanted) in [
        ("Application/Problem+JSON;q=0.5", Json),
        ("TEXT/html, application/json;q=0.9", Page),
        ("text/html, application/json", Json),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Page),
        ("text/html;q=0.5, text/plain", Text),
        ("text/html;q=0", Text),
        ("text/*", Text),
        ("*/*", Text),
        ("text/htmlx", Text),
    ] {
        assert_eq!(form(&format!("Accept: {accept}\r\n")), wanted, "{accept}");
    }
    assert_eq!(form(""), Text);
    assert_eq!(form("Accept: text/html\r\nAccept: application/json\r\n"), Json);
}

#[test]
fn the_longest_head_is_read_and_what_follows_is_not_of_it() {
    let start = "GET / HTTP/1.1\r\nHost: a.example\r\nX: ";
    let fill = "x".repeat(MAX_HEAD - start.len() - 4);
    let whole = format!("{start}{fill}\r\n\r\n");
    assert_eq!(request(whole.as_bytes()).head_len, MAX_HEAD);
    let most = get(&"A: b\r\n".repeat(MAX_HEADERS - 1));
    assert_eq!(forwarded(&most, false), most);
    for after in [&b"\x16\x03"[..], b"\r\n", b" \0", b"GET / HTTP/1.1\r\n\r\n"] {
        let bytes = [get("").as_bytes(), after].concat();
        assert_eq!(request(&bytes), request(get("").as_bytes()));
        let mut out = Vec::new();
        rewrite_request(&bytes, &request(&bytes), false, &mut out);
        assert_eq!(out, get("").as_bytes());
    }
}

#[test]
fn a_head_is_found_at_its_last_byte_and_not_before() {
    let text = get("X: y\r\n");
    for end in 0..text.len() {
        assert_eq!(read_request(&text.as_bytes()[..end]), Answer::NeedMore);
    }
}
