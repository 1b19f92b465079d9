//! Sound PROXY headers of both versions are read alike for every cut, and what is written is read again.
#![allow(clippy::panic, reason = "a failed test says what it got")]
#[path = "common/cuts.rs"]
mod cuts;

use std::net::SocketAddr;

use cuts::{found_whole, read_cut};
use egress_hello::{Answer, proxy_protocol::*};

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

fn tcp(source: &str, destination: &str) -> Connection {
    Connection::Tcp { source: address(source), destination: address(destination) }
}

/// A header of version 2.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("fits").to_be_bytes();
    [SIGNATURE_V2, &[command, family], &length, rest].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("fits").to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// 127.0.0.1:52362 to 127.0.0.1:9006.
const LOOPBACK: &[u8] = &[127, 0, 0, 1, 127, 0, 0, 1, 0xcc, 0x8a, 0x23, 0x2e];

#[test]
fn lines_of_version_1_are_read() {
    let table = [
        // The example of §2.1.
        (
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            tcp("192.168.0.1:56324", "192.168.0.11:443"),
        ),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            tcp("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", tcp("0.0.0.0:0", "0.0.0.0:0")),
        (
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            tcp(
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            ),
        ),
        ("PROXY TCP6 2001:DB8::1 ::1 1 2\r\n", tcp("[2001:db8::1]:1", "[::1]:2")),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c000:202 1 2\r\n", tcp("192.0.2.1:1", "192.0.2.2:2")),
        ("PROXY UNKNOWN\r\n", Connection::Unknown),
        ("PROXY UNKNOWN \r\n", Connection::Unknown),
        ("PROXY UNKNOWN whatever  it \0 says\r\n", Connection::Unknown),
        (
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            Connection::Unknown,
        ),
    ];
    for (line, connection) in table {
        let header = found_whole(line.as_bytes(), read);
        assert_eq!((header.version, header.connection), (Version::One, connection), "{line}");
        assert_eq!((header.len, header.tlvs.iter().count()), (line.len(), 0));
        assert!(header.len <= MAX_V1);
        let more = [line.as_bytes(), b"\r\nGET / HTTP/1.1\r\n"].concat();
        assert_eq!(read_cut(&more, read), Answer::Found(header));
    }
}

#[test]
fn headers_of_version_2_are_read() {
    let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0; 15], &[1], &[0, 1, 0, 2]].concat();
    let mapped =
        [&[0; 10][..], &[0xff, 0xff, 192, 0, 2, 1], &[0; 15], &[1], &[0, 1, 0, 2]].concat();
    let udp = Connection::Udp {
        source: address("127.0.0.1:52362"),
        destination: address("127.0.0.1:9006"),
    };
    let udp6 =
        Connection::Udp { source: address("[2001:db8::1]:1"), destination: address("[::1]:2") };
    let paths = [0x2f; 216];
    let table = [
        (v2(0x21, 0x11, LOOPBACK), tcp("127.0.0.1:52362", "127.0.0.1:9006")),
        (v2(0x21, 0x12, LOOPBACK), udp),
        (v2(0x21, 0x21, &v6), tcp("[2001:db8::1]:1", "[::1]:2")),
        (v2(0x21, 0x22, &v6), udp6),
        (v2(0x21, 0x21, &mapped), tcp("192.0.2.1:1", "[::1]:2")),
        (v2(0x21, 0x31, &paths), Connection::Unix),
        (v2(0x21, 0x32, &paths), Connection::Unix),
        // LOCAL: the family is ignored and the block skipped, whatever is in it.
        (v2(0x20, 0, &[]), Connection::Local),
        (v2(0x20, 0xff, &[1, 2, 3]), Connection::Local),
        (v2(0x20, 0x11, &[]), Connection::Local),
        (v2(0x20, 0x11, LOOPBACK), Connection::Local),
        (v2(0x20, 0x11, &[LOOPBACK, &tlv(kind::CRC32C, &[0; 4])].concat()), Connection::Local),
        // UNSPEC as family or transport: skipped whole.
        (v2(0x21, 0, &[]), Connection::Unknown),
        (v2(0x21, 0, &[3, 0, 4, 1, 2, 3, 4]), Connection::Unknown),
        (v2(0x21, 0x10, &[1]), Connection::Unknown),
        (v2(0x21, 0x01, LOOPBACK), Connection::Unknown),
        (v2(0x21, 0x30, &paths), Connection::Unknown),
    ];
    for (bytes, connection) in table {
        let header = found_whole(&bytes, read);
        assert_eq!((header.version, header.connection), (Version::Two, connection));
        assert_eq!((header.len, header.tlvs.iter().count()), (bytes.len(), 0));
        let more = [&bytes[..], b"\r\n\r\n\0"].concat();
        assert_eq!(read_cut(&more, read), Answer::Found(header));
    }
}

/// As an AWS network load balancer sends it for a VPC endpoint, with its checksum.
#[test]
fn a_header_of_a_load_balancer_keeps_its_checksum_and_its_endpoint() {
    let addresses = [0xac, 0x1f, 7, 0x71, 0xac, 0x1f, 0xa, 0x1f, 0xc8, 0xf2, 0, 0x50];
    let rest = [
        &addresses[..],
        &tlv(kind::CRC32C, &[0xe8, 0xd6, 0x89, 0x2d]),
        &tlv(0xea, b"\x01vpce-08d2bf15fac5001c9"),
        &tlv(kind::NOOP, &[0; 36]),
    ];
    let bytes = v2(0x21, 0x11, &rest.concat());
    let header = found_whole(&bytes, read);
    assert_eq!(header.connection, tcp("172.31.7.113:51442", "172.31.10.31:80"));
    let kinds: Vec<_> = header.tlvs.iter().map(|tlv| tlv.kind).collect();
    assert_eq!(kinds, [kind::CRC32C, 0xea, kind::NOOP]);
    assert_eq!(header.tlvs.find(0xea), Some(&b"\x01vpce-08d2bf15fac5001c9"[..]));
    assert_eq!(header.tlvs.find(0xeb), None);
    for at in 12..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(!matches!(read(&flipped), Answer::Found(header)
                if header.tlvs.find(kind::CRC32C).is_some()));
        }
    }
}

/// As HAProxy sends it for a client with a certificate.
#[test]
fn a_header_that_says_all_there_is_to_say_is_read() {
    let inner =
        [&[7, 0, 0, 0, 0][..], &tlv(0x21, b"TLSv1.3"), &tlv(0x22, b"Example Common Name")].concat();
    let rest = [
        LOOPBACK,
        &tlv(kind::SSL, &inner),
        &tlv(kind::ALPN, b"h2"),
        &tlv(kind::AUTHORITY, b"A.Example"),
        &tlv(kind::NOOP, &[]),
        &tlv(kind::UNIQUE_ID, &[7; 128]),
        &tlv(kind::NOOP, &[1]),
        &tlv(kind::NETNS, b"blue"),
    ];
    let bytes = v2(0x21, 0x11, &rest.concat());
    let header = found_whole(&bytes, read);
    let ssl = header.ssl().expect("sound").expect("there");
    assert_eq!(ssl.common_name(), Some(&b"Example Common Name"[..]));
    assert_eq!(ssl.tlvs.find(kind::SSL_VERSION), Some(&b"TLSv1.3"[..]));
    // The types inside are not those of the header.
    assert_eq!((header.tlvs.find(kind::SSL_CN), ssl.tlvs.find(kind::ALPN)), (None, None));
    assert_eq!(header.tlvs.find(kind::UNIQUE_ID), Some(&[7; 128][..]));
    assert_eq!(header.tlvs.find(kind::AUTHORITY), Some(&b"A.Example"[..]));
    assert_eq!(header.tlvs.iter().count(), 7);
}

/// A proxy may let a certificate pass that it found bad, and says 0 also where there was none.
#[test]
fn a_common_name_counts_only_if_its_certificate_was_found_good() {
    let read_ssl = |client: u8, verify: u32| {
        let fixed = [&[client][..], &verify.to_be_bytes()].concat();
        let value = [fixed, tlv(kind::SSL_CN, b"name")].concat();
        let bytes = v2(0x21, 0x11, &[LOOPBACK, &tlv(kind::SSL, &value)].concat());
        let ssl = found_whole(&bytes, read).ssl().expect("sound").expect("there");
        assert_eq!(ssl.tlvs.find(kind::SSL_CN), Some(&b"name"[..]));
        assert_eq!(ssl.common_name().is_some(), ssl.verified);
        ssl.verified
    };
    for client in [3, 5, 7] {
        assert!(read_ssl(client, 0), "{client}");
        for verify in [1, 1 << 24, u32::MAX] {
            assert!(!read_ssl(client, verify), "{client} {verify}");
        }
    }
    for client in [0, 1, 2, 4, 6, 8] {
        assert!(!read_ssl(client, 0), "{client}");
    }
    assert_eq!(found_whole(&v2(0x21, 0x11, LOOPBACK), read).ssl(), Ok(None));
}

/// The type of a party's own is told apart by the first byte of its value, and padding says nothing.
#[test]
fn types_between_two_parties_come_as_often_as_they_like() {
    let pads = [tlv(kind::NOOP, &[]), tlv(kind::NOOP, &[])].concat();
    let rest = [LOOPBACK, &tlv(0xef, b"\x01a"), &pads, &tlv(0xef, b"\x02b"), &tlv(0x40, b"new")];
    let bytes = v2(0x21, 0x11, &rest.concat());
    let header = found_whole(&bytes, read);
    let own = header.tlvs.iter().filter(|tlv| tlv.kind == 0xef).map(|tlv| tlv.value);
    assert_eq!(own.collect::<Vec<_>>(), [b"\x01a", b"\x02b"]);
    assert_eq!(header.tlvs.find(0xef), Some(&b"\x01a"[..]));
    assert_eq!(header.tlvs.find(0x40), Some(&b"new"[..]));
}

#[test]
fn what_is_written_is_read_again() {
    let pairs = [
        ("192.0.2.1:1", "192.0.2.2:65535"),
        ("[2001:db8::1]:0", "[::1]:2"),
        ("192.0.2.1:1", "[2001:db8::1]:2"),
        ("[2001:db8::1]:1", "192.0.2.1:2"),
        ("[::ffff:192.0.2.1]:1", "192.0.2.2:2"),
    ];
    let id = Tlv { kind: kind::UNIQUE_ID, value: b"flow 7" };
    let lists: [&[Tlv<'_>]; 5] =
        [&[], &[id], &[CHECKSUM], &[id, CHECKSUM], &[CHECKSUM, Tlv { kind: 0xe0, value: &[] }, id]];
    for (source, destination) in pairs {
        let (source, destination) = (address(source), address(destination));
        let unmapped = |it: SocketAddr| SocketAddr::new(it.ip().to_canonical(), it.port());
        let expected =
            Connection::Tcp { source: unmapped(source), destination: unmapped(destination) };
        let mut out = Vec::new();
        write_v1(source, destination, &mut out);
        assert_eq!(found_whole(&out, read).connection, expected, "{}", out.escape_ascii());
        for tlvs in lists {
            let mut out = b"before".to_vec();
            assert_eq!(write_v2(source, destination, tlvs, &mut out), Ok(()));
            let header = found_whole(&out[6..], read);
            assert_eq!((header.connection, header.len), (expected, out.len() - 6));
            let kinds: Vec<_> = header.tlvs.iter().map(|tlv| tlv.kind).collect();
            assert_eq!(kinds, tlvs.iter().map(|tlv| tlv.kind).collect::<Vec<_>>());
            if tlvs.contains(&id) {
                assert_eq!(header.tlvs.find(id.kind), Some(id.value));
            }
        }
    }
}

#[test]
fn what_is_written_has_the_bytes_of_the_specification() {
    let (source, destination) = (address("192.168.0.1:56324"), address("192.168.0.11:443"));
    let mut out = Vec::new();
    write_v1(source, destination, &mut out);
    assert_eq!(out, b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n");
    let mut out = Vec::new();
    assert_eq!(write_v2(source, destination, &[], &mut out), Ok(()));
    assert_eq!(
        out,
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\xa8\0\x01\xc0\xa8\0\x0b\xdc\x04\x01\xbb"
    );
}

#[test]
fn nothing_is_written_that_would_not_be_read() {
    let tlv = |kind, value| Tlv { kind, value };
    let room = MAX_V2 - 16 - 12 - 3;
    let (most, much) = (vec![1; room], vec![1; 70_000]);
    let table: [(&[Tlv<'_>], _); 8] = [
        (&[tlv(0xe0, &most)], Ok(())),
        (&[tlv(0xe0, &most), tlv(0xe1, &[])], Err(ProxyError::TooLong)),
        (&[tlv(0xe0, &much)], Err(ProxyError::TooLong)),
        (&[tlv(0xe0, b"a"), tlv(0xe0, b"b")], Ok(())),
        (&[tlv(kind::ALPN, b"a"), tlv(kind::ALPN, b"b")], Err(ProxyError::TlvTwice)),
        (&[CHECKSUM, CHECKSUM], Err(ProxyError::TlvTwice)),
        (&[tlv(kind::CRC32C, b"abc")], Err(ProxyError::ChecksumLength)),
        (&[tlv(kind::UNIQUE_ID, &[1; 129])], Err(ProxyError::UniqueId)),
    ];
    for (tlvs, expected) in table {
        let mut out = b"before".to_vec();
        let wrote = write_v2(address("192.0.2.1:1"), address("192.0.2.2:2"), tlvs, &mut out);
        assert_eq!(wrote, expected);
        assert_eq!(wrote.is_err(), out == b"before");
    }
}
