//! Broken and dishonest CONNECT heads: each is refused, with the word that says how.
mod common;

use common::*;
use egress_hello::{
    Answer,
    connect::{HeadError, HeadFault, HeadReader, MAX_HEAD, MAX_HEADERS},
};

/// A head with this request line and these header lines.
fn head(line: &str, headers: &[&str]) -> Vec<u8> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("{line}\r\n{headers}\r\n").into_bytes()
}

fn line(line: &str) -> Vec<u8> {
    head(line, &["Host: a.example:443"])
}

fn target(target: &str) -> Vec<u8> {
    head(&format!("CONNECT {target} HTTP/1.1"), &[])
}

fn with(headers: &[&str]) -> Vec<u8> {
    head("CONNECT a.example:443 HTTP/1.1", headers)
}

fn lines_table() -> Vec<(&'static str, Vec<u8>)> {
    let raw = |text: &str| text.as_bytes().to_vec();
    vec![
        ("method_not_connect", line("GET / HTTP/1.1")),
        ("method_not_connect", line("POST http://a.example/ HTTP/1.0")),
        ("method_not_connect", line("OPTIONS * HTTP/1.1")),
        ("method_not_connect", line("VERSION-CONTROL / HTTP/1.1")),
        ("method_not_connect", line("CONNECTX a.example:443 HTTP/1.1")),
        ("http_version", line("CONNECT a.example:443 HTTP/2.0")),
        ("http_version", line("CONNECT a.example:443 HTTP/1.2")),
        ("http_version", line("CONNECT a.example:443 HTTP/1.10")),
        ("http_version", line("CONNECT a.example:443 http/1.1")),
        ("http_version", line("CONNECT a.example:443 FTP/1.1")),
        ("http_version", line("CONNECT a.example:443 HTTP/1.1 ")),
        ("http_version", raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
        ("request_line", line("CONNECT a.example:443")),
        ("request_line", line("CONNECT  a.example:443 HTTP/1.1")),
        ("request_line", line("CONNECT HTTP/1.1")),
        ("http_version", line("CONNECT a.example:443  HTTP/1.1")),
        ("http_version", line("CONNECT a.example:443 junk HTTP/1.1")),
        ("request_line", line("CONNECT a.example:443\tHTTP/1.1")),
        ("request_line", line("CONNECT a.ex\u{1}ample:443 HTTP/1.1")),
        ("bare_lf", raw("CONNECT a.example:443 HTTP/1.1\n\n")),
        ("bare_lf", raw("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\n\r\n")),
        ("bare_lf", raw("CONNECT a.example:443 HTTP/1.1\r\n\n")),
        ("bare_cr", raw("CONNECT a.example:443 HTTP/1.1\rHost: a.example:443\r\n\r\n")),
        ("bare_cr", with(&["X: a\rb"])),
        ("bare_cr", raw("CONNECT a.example:443 HTTP/1.1\r\r\n\r\n")),
        ("nul", line("CONNECT a.example\0.evil.example:443 HTTP/1.1")),
        ("nul", with(&["X: a\0b"])),
        ("head_too_large", with(&[&format!("X: {}", "x".repeat(MAX_HEAD))])),
        ("head_too_large", line(&format!("CONNECT {}:443 HTTP/1.1", "a".repeat(MAX_HEAD)))),
        ("headers_many", with(&["A: b"; MAX_HEADERS + 1])),
    ]
}

fn headers_table() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("header_name", with(&["X : a"])),
        ("header_name", with(&["no colon"])),
        ("header_name", with(&[": no name"])),
        ("header_name", with(&["X\u{e9}: a"])),
        ("header_value", with(&["X: a\u{1}b"])),
        ("header_value", with(&["X: \u{7f}"])),
        ("obs_fold", with(&["X: a", " b"])),
        ("obs_fold", with(&["X: a", "\tb"])),
        ("obs_fold", with(&[" Host: a.example:443"])),
        ("obs_fold", with(&["Host: a.example:443", " "])),
        ("host_twice", with(&["Host: a.example:443", "Host: a.example:443"])),
        ("host_twice", with(&["host: a.example", "X: y", "HOST: b.example"])),
        ("host_bad", with(&["Host:"])),
        ("host_bad", with(&["Host: a.example:"])),
        ("host_bad", with(&["Host: a.example, b.example"])),
        ("host_bad", with(&["Host: user@a.example:443"])),
        ("host_bad", with(&["Host: a.example:443:443"])),
        ("host_bad", with(&["Host: a.example:0"])),
        ("host_bad", with(&["Host: http://a.example"])),
        ("host_differs", with(&["Host: b.example:443"])),
        ("host_differs", with(&["Host: b.example"])),
        ("host_differs", with(&["Host: a.example:80"])),
        ("host_differs", with(&["Host: 192.0.2.1:443"])),
        ("content_length", with(&["Content-Length: 5"])),
        ("content_length", with(&["Content-Length: 0", "content-length: 7"])),
        ("content_length", with(&["Content-Length: 0, 0"])),
        ("content_length", with(&["Content-Length: +0"])),
        ("content_length", with(&["Content-Length:"])),
        ("transfer_encoding", with(&["Transfer-Encoding: chunked"])),
        ("transfer_encoding", with(&["transfer-encoding: identity", "Content-Length: 0"])),
    ]
}

fn targets_table() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("port_missing", target("a.example")),
        ("port_missing", target("a.example:")),
        ("port_missing", target("[2001:db8::1]")),
        ("port_bad", target("a.example:0")),
        ("port_bad", target("a.example:65536")),
        ("port_bad", target("a.example:000443")),
        ("port_bad", target("a.example:+443")),
        ("port_bad", target("a.example:-1")),
        ("port_bad", target("a.example:0x1bb")),
        ("port_bad", target("a.example:https")),
        ("port_bad", target("a.example:443/path")),
        ("port_bad", target("http://a.example/")),
        ("name_empty", target(":443")),
        ("name_forbidden_byte", target("2001:db8::1:443")),
        ("name_forbidden_byte", target("[fe80::1%25eth0]:443")),
        ("name_forbidden_byte", target("[a.example]:443")),
        ("name_forbidden_byte", target("[::1:443")),
        ("name_forbidden_byte", target("[::1]443")),
        ("name_forbidden_byte", target("user@a.example:443")),
        ("name_forbidden_byte", target("user:secret@a.example:443")),
        ("name_forbidden_byte", target("a%2eexample:443")),
        ("name_forbidden_byte", target("/path:443")),
        ("name_forbidden_byte", target("*:443")),
        ("label_empty", target("a..example:443")),
        ("name_idna", target("xn--a.example:443")),
        ("name_numeric_tail", target("127.1:443")),
        ("name_numeric_tail", target("0177.0.0.1:443")),
        ("name_numeric_tail", target("2130706433:443")),
    ]
}

fn table() -> Vec<(&'static str, Vec<u8>)> {
    [lines_table(), headers_table(), targets_table()].concat()
}

fn word(answer: &Head) -> &'static str {
    match answer {
        Answer::Malformed(error) => error.word(),
        Answer::Not => "not",
        Answer::NeedMore => "need_more",
        Answer::Found(_) => "found",
    }
}

#[test]
fn each_hostile_head_is_refused_with_its_word() {
    let mut wrong = Vec::new();
    for (row, (expected, bytes)) in table().iter().enumerate() {
        let got = word(&read_head(bytes));
        if got != *expected {
            let shown = bytes[..bytes.len().min(200)].escape_ascii();
            wrong.push(format!("row {row}: {got}, not {expected}: {shown}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_is_refused_alike_for_every_cut() {
    for (expected, bytes) in table() {
        let step = 1 + bytes.len() / 500;
        for cut in (0..=bytes.len()).step_by(step) {
            let mut reader = HeadReader::new();
            assert_eq!(word(&feed(&bytes, &[cut], |part| reader.read(part))), expected);
        }
        let mut reader = HeadReader::new();
        let cuts: Vec<_> = (0..bytes.len()).collect();
        assert_eq!(word(&feed(&bytes, &cuts, |part| reader.read(part))), expected);
    }
}

#[test]
fn no_error_goes_untested() {
    let table = table();
    let of_requests = |fault: &&HeadFault| **fault != HeadFault::StatusLine;
    let faults = HeadFault::ALL.iter().filter(of_requests).map(|&fault| fault.into());
    for error in HeadError::ALL.iter().copied().chain(faults) {
        assert!(table.iter().any(|(word, _)| *word == error.word()), "{error:?}");
        assert!(error.word().len() <= 40 && !error.to_string().is_empty());
    }
}

#[test]
fn other_protocols_are_not_http_at_the_first_byte_that_shows_it() {
    let others: &[&[u8]] = &[
        b"\x16",
        b"\r",
        b"\n",
        b"\0",
        b" ",
        b"c",
        b"Co",
        b"SSH-2",
        b"\x05",
        b"GET\r",
        b"HELP\n",
        b"A-1",
        b"ABCDEFGHIJKLMNOPQRSTUVWXY",
        b"A------------------------",
        b"EHLO mail.example\r\n",
        b"USER anonymous\r\n",
    ];
    for bytes in others {
        let before = &bytes[..bytes.len() - 1];
        assert_eq!(read_head(before), Answer::NeedMore, "{}", before.escape_ascii());
        assert_eq!(read_head(bytes), Answer::Not, "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_head_without_end_is_refused_at_its_limit() {
    let start = b"CONNECT a.example:443 HTTP/1.1\r\nX: ".to_vec();
    let long = [start, vec![b'x'; MAX_HEAD]].concat();
    assert_eq!(read_head(&long[..MAX_HEAD - 1]), Answer::NeedMore);
    assert_eq!(read_head(&long[..MAX_HEAD]), Answer::Malformed(HeadFault::TooLarge.into()));
}

#[test]
fn bytes_outside_ascii_are_no_authority_on_the_wire() {
    let answer = read_head("CONNECT bücher.example:443 HTTP/1.1\r\n\r\n".as_bytes());
    assert!(matches!(word(&answer), "name_forbidden_byte" | "request_line"), "{answer:?}");
}
