//! Protocols on one port are told apart, as early as the bytes allow, and never one way now and another later.

use egress_hello::{
    Answer,
    protocol::{Protocol, recognise},
};

#[test]
fn each_protocol_by_its_first_bytes() {
    // The bytes, how many of them decide, and what they are.
    let table: &[(&[u8], usize, Option<Protocol>)] = &[
        (b"\x16\x03\x01\x02\x00\x01", 2, Some(Protocol::Tls)),
        (b"\x16\x02\x01", 2, None),
        (b"\x17\x03\x03", 1, None),
        (b"\x05\x01\x00", 1, Some(Protocol::Socks5)),
        (b"\x04\x01\x00\x50", 1, None),
        (b"GET / HTTP/1.1\r\n", 4, Some(Protocol::Http)),
        (b"CONNECT a.example:443 HTTP/1.1\r\n", 8, Some(Protocol::Http)),
        (b"POST http://a.example/ HTTP/1.1", 5, Some(Protocol::Http)),
        (b"PUT / HTTP/1.1", 4, Some(Protocol::Http)),
        (b"PRI / HTTP/1.1", 5, Some(Protocol::Http)),
        (b"PROPFIND / HTTP/1.1", 9, Some(Protocol::Http)),
        (b"VERSION-CONTROL / HTTP/1.1", 16, Some(Protocol::Http)),
        (b"SEARCH / HTTP/1.1", 7, Some(Protocol::Http)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", 24, Some(Protocol::Http2)),
        (b"PROXY TCP4 192.0.2.1", 6, Some(Protocol::ProxyHeader)),
        (b"\r\n\r\n\0\r\nQUIT\n\x21", 12, Some(Protocol::ProxyHeader)),
        (b"\r\nGET", 3, None),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 4, Some(Protocol::Ssh)),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", 8, Some(Protocol::Postgres)),
        (b"\0\0\0\x24\0\x03\0\0user", 8, Some(Protocol::Postgres)),
        (b"\0\0\0\x07\0\x03\0\0", 8, None),
        (b"\0\0\0\x24\0\x02\0\0", 8, None),
        (b"\0\x01", 2, None),
        (b"get / HTTP/1.1", 1, None),
        (b"G\0", 2, None),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", 25, None),
        (b"", 0, None),
    ];
    for (bytes, decide, protocol) in table {
        for end in 0..=bytes.len() {
            let wanted = match protocol {
                _ if end < (*decide).max(1) => Answer::NeedMore,
                Some(protocol) => Answer::Found(*protocol),
                None => Answer::Not,
            };
            assert_eq!(recognise(&bytes[..end]), wanted, "{} to {end}", bytes.escape_ascii());
        }
    }
}
