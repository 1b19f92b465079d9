//! Broken and dishonest PROXY headers: each is refused, with the word that says how.
#[path = "common/cuts.rs"]
mod cuts;

use std::net::SocketAddr;

use cuts::{read_cut, word};
use egress_hello::{
    Answer,
    proxy_protocol::{
        self, CHECKSUM, MAX_V1, MAX_V2, ProxyError, SIGNATURE_V1, SIGNATURE_V2, Tlv, kind,
    },
};

fn line(rest: &str) -> Vec<u8> {
    format!("PROXY {rest}\r\n").into_bytes()
}

/// A header of version 2 that announces this length.
fn announcing(length: usize, command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(length).expect("fits").to_be_bytes();
    [SIGNATURE_V2, &[command, family], &length, rest].concat()
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    announcing(rest.len(), command, family, rest)
}

/// TCP over IPv4, these bytes after the addresses.
fn after(tlvs: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[&[10; 12], tlvs].concat())
}

/// A TLV, a right checksum and a TLV behind it; then the checksum is changed.
fn sealed(change: impl Fn(&mut [u8])) -> Vec<u8> {
    let (source, destination) = (SocketAddr::from(([10; 4], 1)), SocketAddr::from(([10; 4], 2)));
    let tlv = |kind| Tlv { kind, value: b"a" };
    let mut header = Vec::new();
    let tlvs = [tlv(kind::UNIQUE_ID), CHECKSUM, tlv(kind::NOOP)];
    assert_eq!(proxy_protocol::write_v2(source, destination, &tlvs, &mut header), Ok(()));
    assert!(matches!(proxy_protocol::read(&header), Answer::Found(_)));
    let end = header.len() - 4;
    change(&mut header[end - 4..end]);
    header
}

fn lines_table() -> Vec<(&'static str, Vec<u8>)> {
    let long = format!("PROXY UNKNOWN {}", "x".repeat(MAX_V1));
    vec![
        ("pp1_line_too_long", long.clone().into_bytes()),
        ("pp1_line_too_long", format!("{}\r\n", &long[..MAX_V1 - 1]).into_bytes()),
        ("pp1_line_too_long", format!("{}\r\n", &long[..MAX_V1]).into_bytes()),
        ("pp1_bare_lf", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n".to_vec()),
        ("pp1_bare_lf", b"PROXY UNKNOWN a\nb\r\n".to_vec()),
        ("pp1_bare_cr", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r".repeat(2)),
        ("pp1_bare_cr", b"PROXY UNKNOWN\r\r\n".to_vec()),
        ("pp1_protocol", line("")),
        ("pp1_protocol", line(" TCP4 192.0.2.1 192.0.2.2 1 2")),
        ("pp1_protocol", line("UDP4 192.0.2.1 192.0.2.2 1 2")),
        ("pp1_protocol", line("tcp4 192.0.2.1 192.0.2.2 1 2")),
        ("pp1_protocol", line("TCP5 192.0.2.1 192.0.2.2 1 2")),
        ("pp1_protocol", line("TCP44 192.0.2.1 192.0.2.2 1 2")),
        ("pp1_protocol", line("Tcp4 192.0.2.1 192.0.2.2 1 2")),
        ("pp1_protocol", line("unknown")),
        ("pp1_protocol", line("UNKNOW")),
        ("pp1_protocol", line("UNKNOWN\t192.0.2.1")),
        ("pp1_protocol", line("TCP4\t192.0.2.1 192.0.2.2 1 2")),
        ("pp1_protocol", line("UNKNOWNS")),
        ("pp1_protocol", line("/ HTTP/1.1")),
        ("pp1_fields", line("TCP4")),
        ("pp1_fields", line("TCP4 192.0.2.1 192.0.2.2 1")),
        ("pp1_fields", line("TCP4 192.0.2.1 192.0.2.2 1 2 ")),
        ("pp1_fields", line("TCP4 192.0.2.1 192.0.2.2 1 2 3")),
        ("pp1_fields", line("TCP4 192.0.2.1  192.0.2.2 1 2")),
        ("pp1_fields", line("TCP4  192.0.2.1 192.0.2.2 1 2")),
        ("pp1_fields", line("TCP4 192.0.2.1 192.0.2.2 1  2")),
        ("pp1_fields", line("TCP4 192.0.2.1\t192.0.2.2 1 2")),
        ("pp1_fields", line("TCP4 192.0.2.1 192.0.2.2 1 2 GET / HTTP/1.1")),
        ("pp1_address", line("TCP4 192.0.2.01 192.0.2.2 1 2")),
        ("pp1_address", line("TCP4 192.0.2.256 192.0.2.2 1 2")),
        ("pp1_address", line("TCP4 192.0.2 192.0.2.2 1 2")),
        ("pp1_address", line("TCP4 a.example 192.0.2.2 1 2")),
        ("pp1_address", line("TCP4 127.1 192.0.2.2 1 2")),
        ("pp1_address", line("TCP4 0x7f.0.0.1 192.0.2.2 1 2")),
        ("pp1_address", line("TCP4 192.0.2.1. 192.0.2.2 1 2")),
        ("pp1_address", line("TCP4 192.0.2.1\0 192.0.2.2 1 2")),
        ("pp1_address", line("TCP4 192.0.2.\u{661} 192.0.2.2 1 2")),
        ("pp1_address", b"PROXY TCP4 192.0.2.\xff 192.0.2.2 1 2\r\n".to_vec()),
        ("pp1_address", line("TCP4 ::1 ::1 1 2")),
        ("pp1_address", line("TCP4 192.0.2.1 ::1 1 2")),
        ("pp1_address", line("TCP4 ::ffff:192.0.2.1 192.0.2.2 1 2")),
        ("pp1_address", line("TCP6 192.0.2.1 ::1 1 2")),
        ("pp1_address", line("TCP6 ::1 192.0.2.1 1 2")),
        ("pp1_address", line("TCP6 [::1] ::1 1 2")),
        ("pp1_address", line("TCP6 ::00001 ::1 1 2")),
        ("pp1_address", line("TCP6 1:2:3:4:5:6:7 ::1 1 2")),
        ("pp1_address", line("TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2")),
        ("pp1_address", line("TCP6 ::ffff:192.0.2.01 ::1 1 2")),
        ("pp1_address", line("TCP6 fe80::1%eth0 ::1 1 2")),
        ("pp1_address", line("TCP6 1::2::3 ::1 1 2")),
        ("pp1_address", line("TCP4  192.0.2.1 1 2")),
        ("pp1_port", line("TCP4 192.0.2.1 192.0.2.2 01 2")),
        ("pp1_port", line("TCP4 192.0.2.1 192.0.2.2 1 65536")),
        ("pp1_port", line("TCP4 192.0.2.1 192.0.2.2 1 -2")),
        ("pp1_port", line("TCP4 192.0.2.1 192.0.2.2 +1 2")),
        ("pp1_port", line("TCP4 192.0.2.1 192.0.2.2 00 2")),
        ("pp1_port", line("TCP4 192.0.2.1 192.0.2.2 1 99999999999")),
        ("pp1_port", line("TCP4 192.0.2.1 192.0.2.2 1 ")),
        ("pp1_port", line("TCP4 192.0.2.1 192.0.2.2 0x1 2")),
        ("pp1_port", line("TCP4 192.0.2.1 192.0.2.2 1 2\t")),
        ("pp1_port", line("TCP4 192.0.2.1 192.0.2.2 1 \u{662}")),
        ("pp1_port", line("TCP6 ::1 ::1 65536 2")),
        ("pp1_line_too_long", line(&format!("TCP6 ::1 ::1 1 {:>90}", "2"))),
    ]
}

fn headers_table() -> Vec<(&'static str, Vec<u8>)> {
    let twice = [kind::UNIQUE_ID, 0, 1, b'a', kind::UNIQUE_ID, 0, 1, b'a'];
    vec![
        ("pp2_version", v2(0x11, 0x11, &[10; 12])),
        ("pp2_version", v2(0x31, 0x11, &[10; 12])),
        ("pp2_version", v2(0x00, 0, &[])),
        ("pp2_command", v2(0x22, 0x11, &[10; 12])),
        ("pp2_command", v2(0x2f, 0, &[])),
        ("pp2_family", v2(0x21, 0x41, &[10; 12])),
        ("pp2_family", v2(0x21, 0x13, &[10; 12])),
        ("pp2_family", v2(0x21, 0xff, &[])),
        ("pp2_too_long", announcing(MAX_V2 - 15, 0x21, 0x11, &[10; 12])),
        ("pp2_too_long", announcing(0xffff, 0x20, 0, &[])),
        ("pp2_addresses", v2(0x21, 0x11, &[])),
        ("pp2_addresses", v2(0x21, 0x11, &[10; 11])),
        ("pp2_addresses", v2(0x21, 0x12, &[10; 11])),
        ("pp2_addresses", v2(0x21, 0x21, &[10; 35])),
        ("pp2_addresses", v2(0x21, 0x22, &[10; 12])),
        ("pp2_addresses", v2(0x21, 0x31, &[10; 215])),
        ("pp2_addresses", v2(0x21, 0x32, &[10; 36])),
        ("pp2_tlv_length", after(&[kind::NOOP])),
        ("pp2_tlv_length", after(&[kind::NOOP, 0])),
        ("pp2_tlv_length", after(&[kind::NOOP, 0, 1])),
        ("pp2_tlv_length", after(&[kind::NOOP, 0xff, 0xff, 0])),
        ("pp2_tlv_length", after(&[kind::NOOP, 0, 0, 1])),
        ("pp2_tlv_twice", after(&twice)),
        ("pp2_tlv_twice", after(&[kind::SSL, 0, 0, kind::NOOP, 0, 0, kind::SSL, 0, 0])),
        ("pp2_tlv_twice", after(&[kind::ALPN, 0, 0, kind::ALPN, 0, 0])),
        ("pp2_checksum_length", after(&[kind::CRC32C, 0, 0])),
        ("pp2_checksum_length", after(&[kind::CRC32C, 0, 5, 0, 0, 0, 0, 0])),
        ("pp2_checksum", after(&[kind::CRC32C, 0, 4, 0, 0, 0, 0])),
        ("pp2_checksum", after(&[kind::CRC32C, 0, 4, 1, 2, 3, 4])),
        ("pp2_checksum", sealed(|sum| sum[3] ^= 1)),
        ("pp2_checksum", sealed(|sum| sum.reverse())),
        ("pp2_unique_id", after(&[&[kind::UNIQUE_ID, 0, 129][..], &[7; 129]].concat())),
    ]
}

#[test]
fn each_hostile_header_is_refused_with_its_word_for_every_cut() {
    for (expected, bytes) in [lines_table(), headers_table()].concat() {
        let got = word(read_cut(&bytes, proxy_protocol::read), ProxyError::word);
        assert_eq!(got, expected, "{}", bytes.escape_ascii());
    }
}

/// What PP2_TYPE_SSL holds.
fn ssl_table() -> Vec<(&'static str, Vec<u8>)> {
    let fixed = [7, 0, 0, 0, 0];
    let and = |tlvs: &[u8]| [&fixed, tlvs].concat();
    let name = [kind::SSL_CN, 0, 1, b'a'];
    vec![
        ("pp2_ssl", vec![]),
        ("pp2_ssl", fixed[..4].to_vec()),
        ("pp2_tlv_length", and(&[kind::SSL_CN])),
        ("pp2_tlv_length", and(&name[..3])),
        ("pp2_tlv_length", and(&[&name[..], &[0]].concat())),
        ("pp2_tlv_twice", and(&[name, name].concat())),
    ]
}

#[test]
fn each_lie_about_tls_is_refused_with_its_word_by_who_asks_for_it() {
    for (expected, value) in ssl_table() {
        let length = u8::try_from(value.len()).expect("fits");
        let bytes = after(&[&[kind::SSL, 0, length], &value[..]].concat());
        let Answer::Found(header) = read_cut(&bytes, proxy_protocol::read) else {
            unreachable!("the header itself is sound")
        };
        assert_eq!(header.ssl().map_err(|error| error.word()), Err(expected), "{value:?}");
    }
}

#[test]
fn no_error_goes_untested() {
    let table = [lines_table(), headers_table(), ssl_table()].concat();
    for error in ProxyError::ALL {
        assert!(table.iter().any(|(word, _)| *word == error.word()), "{error:?}");
        assert!(error.word().len() <= 40 && !error.to_string().is_empty());
    }
}

#[test]
fn a_line_without_end_is_refused_at_its_limit() {
    let long = [SIGNATURE_V1, &[b'x'; MAX_V1]].concat();
    assert_eq!(proxy_protocol::read(&long[..MAX_V1 - 1]), Answer::NeedMore);
    assert_eq!(proxy_protocol::read(&long[..MAX_V1]), Answer::Malformed(ProxyError::LineTooLong));
    let cr = [&long[..MAX_V1 - 1], b"\r"].concat();
    assert_eq!(proxy_protocol::read(&cr), Answer::Malformed(ProxyError::LineTooLong));
}

#[test]
fn a_length_over_the_limit_is_refused_before_its_bytes_come() {
    let long = announcing(MAX_V2 - 15, 0x21, 0x11, &[]);
    assert_eq!(proxy_protocol::read(&long), Answer::Malformed(ProxyError::TooLong));
    let longest = announcing(MAX_V2 - 16, 0x20, 0x11, &[]);
    assert_eq!(proxy_protocol::read(&longest), Answer::NeedMore);
    let whole = [longest, vec![0; MAX_V2 - 16]].concat();
    assert!(matches!(proxy_protocol::read(&whole), Answer::Found(header) if header.len == MAX_V2));
}

#[test]
fn other_protocols_are_no_header_at_the_first_byte_that_shows_it() {
    let others: &[&[u8]] = &[
        b"\x16",
        b"G",
        b"\n",
        b"p",
        b"PO",
        b"PRI",
        b"PROXY\t",
        b"PROXYT",
        b"\r\n\r\n\r",
        b"\r\r",
        b"\r\n\r\n\0\r\nQUIT\r",
    ];
    for bytes in others {
        let before = &bytes[..bytes.len() - 1];
        assert_eq!(proxy_protocol::read(before), Answer::NeedMore, "{}", before.escape_ascii());
        assert_eq!(proxy_protocol::read(bytes), Answer::Not, "{}", bytes.escape_ascii());
    }
}
