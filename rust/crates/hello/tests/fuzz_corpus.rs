//! Replays the seed corpus of the fuzz targets, and mutations of it, with a stable compiler.
#[path = "../../../fuzz/checks.rs"]
mod checks;
#[path = "../../../fuzz/dns_checks.rs"]
mod dns_checks;
#[path = "../../../fuzz/protocol_checks.rs"]
mod protocol_checks;
#[path = "../../../fuzz/replay.rs"]
#[allow(dead_code, reason = "shared with the policy crate")]
mod replay;

use replay::replay;

/// Mutated inputs for each target: a few seconds in a debug build.
const MUTATIONS: usize = 20_000;

/// Inputs that only a byte-swap away from sense get tokens of the grammar spliced in.
const TOKENS: &[&[u8]] = &[
    b"\x16\x03\x01",
    b"\0\0",
    b"\xff\xff",
    b"\x01\0\0",
    b"\0\x10",
    b"\0\x2b",
    b"\xfe\x0d",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b" ",
    b"Host: ",
    b":443",
    b"HTTP/1.1",
    b"CONNECT ",
    b"[::1]",
    b".",
    b"xn--",
    b"0x",
    b"127.0.0.1",
    b"%",
    b"\xc3\xbc",
    b"\xe3\x80\x82",
    b"Content-Length: 0\r\n",
];

#[test]
fn tls_hello_holds() {
    replay("tls_hello", MUTATIONS, TOKENS, checks::tls_hello);
}

#[test]
fn connect_head_holds() {
    replay("connect_head", MUTATIONS, TOKENS, checks::connect_head);
}

#[test]
fn basic_login_holds() {
    let tokens: &[&[u8]] =
        &[b"Basic ", b"basic ", b"=", b"==", b"YTpi", b"YTo=", b"OmI=", b"a:b", b":", b" ", b"\0"];
    replay("basic_login", MUTATIONS, tokens, protocol_checks::basic_login);
}

#[test]
fn http_messages_holds() {
    let tokens: &[&[u8]] = &[
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b" ",
        b",",
        b":80",
        b"http://",
        b"a.example",
        b"[::1]",
        b"HTTP/1.1 ",
        b"HTTP/1.0",
        b"GET / ",
        b"OPTIONS ",
        b"\r\nHost: a.example",
        b"\r\nContent-Length: 5",
        b"\r\nTransfer-Encoding: chunked",
        b"\r\nConnection: close, upgrade",
        b"\r\nUpgrade: websocket",
        b"\r\nExpect: 100-continue",
        b"\r\nMax-Forwards: 1",
        b"\r\n5\r\nhello\r\n",
        b"0\r\n",
        b";a=b",
    ];
    replay("http_messages", MUTATIONS, tokens, checks::http_messages);
}

#[test]
fn host_name_holds() {
    replay("host_name", MUTATIONS, TOKENS, checks::host_name);
}

#[test]
fn socks_holds() {
    let tokens: &[&[u8]] = &[
        b"\x05\x01\x00",
        b"\x05\x02\x00\x02",
        b"\x01\x01u\x01p",
        b"\x05\x01\x00\x01",
        b"\x05\x01\x00\x03",
        b"\x05\x01\x00\x04",
        b"\x00\x00",
        b"\x01\xbb",
        b"a.example",
        b"[::1]",
        b"127.0.0.1",
        b"xn--",
        b".",
    ];
    replay("socks", MUTATIONS, tokens, protocol_checks::socks);
}

#[test]
fn first_bytes_hold() {
    let tokens: &[&[u8]] = &[
        b"\x16\x03\x01",
        b"\x05\x01\x00",
        b"GET / ",
        b"CONNECT ",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PROXY ",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"SSH-",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\0\x03\0\0",
        b"user\0",
        b"\0\0",
    ];
    replay("first_bytes", MUTATIONS, tokens, protocol_checks::first_bytes);
}

#[test]
fn proxy_header_holds() {
    let tokens: &[&[u8]] = &[
        b"PROXY TCP4 ",
        b"PROXY TCP6 ",
        b"PROXY UNKNOWN",
        b"192.0.2.1 ",
        b"::ffff:1.2.3.4 ",
        b" 443",
        b"\r\n",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"\x21\x11\x00\x0c",
        b"\x21\x21\x00\x24",
        b"\x20\x00\x00\x00",
        b"\x03\x00\x04",
        b"\x04\x00\x00",
        b"\xea\x00\x01a",
        b"\x20\x00\x09\x07\0\0\0\0\x22\0\x01a",
    ];
    replay("proxy_header", MUTATIONS, tokens, protocol_checks::proxy_header);
}

#[test]
fn dns_query_holds() {
    let tokens: &[&[u8]] = &[
        b"\0\0",
        b"\0\x01\0\x01",
        b"\0\x1c",
        b"\x01\x20",
        b"\xc0\x0c",
        b"\x03www\x07example\0",
        b"\x3f",
        b"\x01.",
        b"\0\0\x29\x04\xd0\0\0\0\0\0\0",
        b"\0\x0a\0\x08abcdefgh",
        b"\x80\0",
    ];
    replay("dns_query", MUTATIONS, tokens, dns_checks::dns_query);
}
