//! Protocols on one port are told apart, as early as the bytes allow, and never one way now and another later.

use egress_hello::{
    Answer,
    http::{LenientReader, MAX_HEAD},
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

#[test]
fn what_a_lenient_server_may_take_for_a_request() {
    let long = [b"GET /", [b'a'; MAX_HEAD].as_slice()].concat();
    // The bytes, and how many of them decide that they are one.
    let requests: &[(&[u8], usize)] = &[
        (b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", 12),
        (b"GET / HTTP/0.9\n", 12),
        (b"\r\n\r\nGET / HTTP/1.1\r\n", 16),
        (b" \t\nGET / HTTP/1.1\r\n", 15),
        (b"GET\t/ HTTP/1.1\r\n", 12),
        (b"GET /\tHTTP/1.1\r\n", 12),
        (b"GET\x0b/\x0chTTp/1.1", 12),
        (b"get / http/1.1\r\n", 12),
        (b"*X! / HTTP/3", 12),
        (b"CONNECT a.example:443 HTTP/1.1\r\n\r\n", 28),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 12),
        (b"GET /\rHTTP/1.1", 12),
        (b"GET HTTP/1.1\r\n", 10),
        (b"GET /a\0b HTTP/1.1\r\n", 15),
        (b"\xa0GET\x1c/\x85HTTP/1.1\r\n", 13),
        (b"GET  http://a.example/\r\n", 12),
        (b"GET HTTPS://a.example/\r\n", 12),
        (&long, MAX_HEAD),
    ];
    for (bytes, decide) in requests {
        for end in 0..=bytes.len() {
            let wanted = if end < *decide { Answer::NeedMore } else { Answer::Found(()) };
            let said = LenientReader::default().read(&bytes[..end]);
            assert_eq!(said, wanted, "{} to {end}", bytes[..end.min(40)].escape_ascii());
        }
    }
    // Other protocols, and how many bytes of them decide.
    let others: &[(&[u8], usize)] = &[
        (b"EHLO mail.example\r\n", 19),
        (b"GET /0.9\r\nHTTP/1.1", 10),
        (b"get http://cached.example/key\r\n", 31),
        (b"PING\r\n", 6),
        (b"PING\n", 5),
        (b"*1\r\n$4\r\nPING\r\n", 4),
        (b"SSH-2.0-OpenSSH_9.2 Debian\r\n", 28),
        (b"CONNECT\naccept-version:1.2\n", 8),
        (b"AMQP\0\0\x09\x01", 5),
        (b"0\x0c\x02\x01\x01`\x07\x02\x01\x03\x04\0\x80\0", 12),
        (b"\r\n\r\n\0\r\nQUIT\n", 5),
        (b"<stream:stream", 1),
        (b"{\"a\": 1}", 1),
        (b"\x10\x2a\0\x04MQTT", 1),
        (b"GET xHTTP/1.1 HTTP/x\n", 21),
    ];
    for (bytes, decide) in others {
        for end in 0..=bytes.len() {
            let wanted = if end < *decide { Answer::NeedMore } else { Answer::Not };
            let said = LenientReader::default().read(&bytes[..end]);
            assert_eq!(said, wanted, "{} to {end}", bytes.escape_ascii());
        }
    }
}
