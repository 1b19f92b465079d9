//! Sound CONNECT heads are read the same however they are cut; what follows them is the tunnel's.
#![allow(clippy::panic, reason = "a failed test says what it got")]
mod common;

use common::*;
use egress_hello::{
    Answer,
    connect::{ConnectHead, HeadReader, MAX_HEAD, MAX_HEADERS, Preference, Preference::*},
};

/// Head, host, port, form of a refusal, HTTP/1.0. As curl, Python, Go, Node, Java, OpenSSL, socat and
/// others send them.
const HEADS: &[(&str, &str, u16, Preference)] = &[
    (
        "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nUser-Agent: curl/8.9\r\nProxy-Connection: Keep-Alive\r\n\r\n",
        "a.example",
        443,
        Text,
    ),
    ("CONNECT a.example:443 HTTP/1.0\r\n\r\n", "a.example", 443, Text),
    ("CONNECT A.Example.:8443 HTTP/1.1\r\nhost: a.example:8443\r\n\r\n", "a.example", 8443, Text),
    (
        "CONNECT a.example:443 HTTP/1.1\r\nHost: A.EXAMPLE.\r\nConnection: close\r\n\r\n",
        "a.example",
        443,
        Text,
    ),
    ("CONNECT a.example:443 HTTP/1.1\r\n\r\n", "a.example", 443, Text),
    ("CONNECT 192.0.2.1:22 HTTP/1.1\r\nHost: 192.0.2.1:22\r\n\r\n", "192.0.2.1", 22, Text),
    (
        "CONNECT [2001:DB8::1]:443 HTTP/1.1\r\nHost: [2001:db8:0::1]:443\r\n\r\n",
        "2001:db8::1",
        443,
        Text,
    ),
    ("CONNECT [::ffff:192.0.2.1]:443 HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", "192.0.2.1", 443, Text),
    (
        "CONNECT a.example:65535 HTTP/1.1\r\nHost:a.example:65535 \r\nContent-Length: 0\r\n\r\n",
        "a.example",
        65535,
        Text,
    ),
    (
        "CONNECT a_b.example:1 HTTP/1.1\r\nHost: a_b.example:1\r\nX-Odd: \u{e9}\t!\r\n\r\n",
        "a_b.example",
        1,
        Text,
    ),
    ("CONNECT a.example:443 HTTP/1.1\r\nAccept: application/json\r\n\r\n", "a.example", 443, Json),
    (
        "CONNECT a.example:443 HTTP/1.1\r\nAccept: text/html, application/json;q=0.9\r\n\r\n",
        "a.example",
        443,
        Page,
    ),
    (
        "CONNECT a.example:443 HTTP/1.1\r\nAccept: text/plain;q=0.5\r\nACCEPT: application/problem+json; q=0.75\r\n\r\n",
        "a.example",
        443,
        Json,
    ),
    ("CONNECT a.example:443 HTTP/1.1\r\nAccept: */*\r\n\r\n", "a.example", 443, Text),
    (
        "CONNECT a.example:443 HTTP/1.1\r\nAccept: application/json;q=0\r\n\r\n",
        "a.example",
        443,
        Text,
    ),
    (
        "CONNECT a.example:443 HTTP/1.1\r\nAccept: Application/JSON;charset=utf-8;q=1.000, */*;q=0.1\r\n\r\n",
        "a.example",
        443,
        Json,
    ),
];

fn found(bytes: &[u8]) -> ConnectHead {
    match read_head(bytes) {
        Answer::Found(head) => head,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

#[test]
fn heads_of_known_clients_are_read() {
    for &(text, host, port, prefers) in HEADS {
        let head = found(text.as_bytes());
        assert_eq!(head.host.to_string(), host);
        assert_eq!((head.port, head.prefers), (port, prefers), "{text}");
        assert_eq!(head.head_len, text.len());
    }
}

#[test]
fn bytes_after_the_blank_line_belong_to_the_tunnel() {
    for &(text, ..) in HEADS {
        for after in
            [&b"\x16\x03\x01\x02\x00"[..], b"\r\n\r\n", b"\n", b" \0", b"GET / HTTP/1.1\r\n\r\n"]
        {
            assert_eq!(found(&[text.as_bytes(), after].concat()), found(text.as_bytes()));
        }
    }
}

#[test]
fn any_cut_gives_the_same_answer_and_every_prefix_needs_more() {
    for &(text, ..) in HEADS {
        let bytes = text.as_bytes();
        let mut slow = HeadReader::new();
        for cut in 0..bytes.len() {
            assert_eq!(read_head(&bytes[..cut]), Answer::NeedMore);
            assert_eq!(slow.read(&bytes[..cut]), Answer::NeedMore);
            let mut reader = HeadReader::new();
            assert_eq!(feed(bytes, &[cut], |part| reader.read(part)), read_head(bytes));
        }
        assert_eq!(slow.read(bytes), read_head(bytes));
    }
}

#[test]
fn the_longest_head_and_the_most_headers_are_read() {
    let (start, end) = ("CONNECT a.example:443 HTTP/1.1\r\nX: ", "\r\n\r\n");
    let fill = "x".repeat(MAX_HEAD - start.len() - end.len());
    assert_eq!(found(format!("{start}{fill}{end}").as_bytes()).head_len, MAX_HEAD);
    let headers = "A: b\r\n".repeat(MAX_HEADERS);
    found(format!("CONNECT a.example:443 HTTP/1.1\r\n{headers}\r\n").as_bytes());
}
