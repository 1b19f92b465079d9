//! Sound hellos are read the same however they are cut into segments and records.
#![allow(clippy::panic, reason = "a failed test says what it got")]
mod common;

use common::*;
use egress_hello::{
    Answer,
    name::Name,
    tls::{ClientHello, HelloReader, MAX_FIRST_BYTES, MAX_HELLO, Sni},
};

fn found(bytes: &[u8]) -> ClientHello {
    match read_hello(bytes) {
        Answer::Found(hello) => hello,
        other => panic!("{other:?}"),
    }
}

fn name(hello: &ClientHello) -> Option<&str> {
    hello.sni.name().map(Name::as_str)
}

/// Client, name, highest version, legacy version, protocols.
type Captured = (&'static str, Option<&'static str>, u16, u16, &'static [&'static str]);

const CAPTURED: &[Captured] = &[
    ("curl", Some("api.example.com"), 0x0304, 0x0303, &["h2", "http/1.1"]),
    ("curl-http1", Some("api.example.com"), 0x0304, 0x0303, &["http/1.1"]),
    ("gnutls", Some("api.example.com"), 0x0304, 0x0303, &["h2"]),
    ("gnutls-no-extensions", None, 0x0301, 0x0301, &[]),
    ("gnutls-tls1_2", Some("api.example.com"), 0x0303, 0x0303, &[]),
    ("go", Some("api.example.com"), 0x0304, 0x0303, &["h2"]),
    ("java", Some("api.example.com"), 0x0304, 0x0303, &[]),
    ("node", Some("api.example.com"), 0x0304, 0x0303, &["h2"]),
    ("openssl", Some("api.example.com"), 0x0304, 0x0303, &["h2", "http/1.1"]),
    ("openssl-ip", None, 0x0304, 0x0303, &[]),
    ("openssl-noname", None, 0x0304, 0x0303, &[]),
    ("openssl-tls1", Some("api.example.com"), 0x0301, 0x0301, &[]),
    ("openssl-tls1_2", Some("api.example.com"), 0x0303, 0x0303, &[]),
    ("openssl-tls1_3", Some("api.example.com"), 0x0304, 0x0303, &[]),
    ("python", Some("api.example.com"), 0x0304, 0x0303, &[]),
];

#[test]
fn captured_hellos_say_what_their_clients_asked_for() {
    let hellos = captured();
    let labels: Vec<_> = hellos.iter().map(|(label, _)| label.as_str()).collect();
    assert_eq!(labels, CAPTURED.iter().map(|row| row.0).collect::<Vec<_>>());
    for ((label, bytes), row) in hellos.iter().zip(CAPTURED) {
        let hello = found(bytes);
        assert_eq!(name(&hello), row.1, "{label}");
        assert_eq!((hello.versions.highest, hello.versions.legacy), (row.2, row.3), "{label}");
        let protocols: Vec<_> =
            hello.alpn.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(protocols, row.4, "{label}");
        assert_eq!(usize::from(hello.alpn.offered()), row.4.len(), "{label}");
        assert!(!hello.ech, "{label}");
    }
}

#[test]
fn the_built_hellos_say_what_they_were_built_with() {
    let hello = found(&browser(b"Shop.Example.").bytes());
    assert_eq!(name(&hello), Some("shop.example"));
    assert!(hello.ech);
    assert_eq!(hello.alpn.iter().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
    assert_eq!(hello.versions.highest, 0x0304);
    let ip = |text: &[u8]| found(&Builder::new(&[sni(text)]).bytes()).sni;
    assert_eq!(ip(b"192.0.2.1"), Sni::IpLiteral([192, 0, 2, 1].into()));
    assert_eq!(ip(b"2001:db8::1"), Sni::IpLiteral("2001:db8::1".parse().expect("an address")));
    assert_eq!(ip(b"::ffff:192.0.2.1"), Sni::IpLiteral([192, 0, 2, 1].into()));
    assert_eq!(found(&Builder::new(&[]).bytes()).sni, Sni::Absent);
}

#[test]
fn a_hello_of_old_without_extensions_has_no_name() {
    for minor in 0..=3 {
        let old = Builder { version: [3, minor], extensions: None, ..Builder::new(&[]) };
        let hello = found(&old.bytes());
        assert_eq!(hello.sni, Sni::Absent);
        assert_eq!(hello.versions.highest, 0x0300 | u16::from(minor));
        assert_eq!(hello.alpn.offered(), 0);
    }
    let empty = Builder { extensions: Some(vec16(&[])), ..Builder::new(&[]) };
    assert_eq!(found(&empty.bytes()).sni, Sni::Absent);
    let deflate = Builder { compression: vec8(&[1, 0]), extensions: None, ..Builder::new(&[]) };
    assert_eq!(found(&deflate.bytes()).versions.highest, 0x0303);
}

#[test]
fn every_record_version_from_ssl3_to_tls13_is_accepted() {
    for minor in 0..=4 {
        let mut bytes = browser(b"a.example").bytes();
        bytes[2] = minor;
        assert_eq!(name(&found(&bytes)), Some("a.example"));
    }
}

#[test]
fn versions_pass_over_grease_and_drafts() {
    let highest = |list: &[u16]| {
        let block = Some(vec16(&versions(list)));
        found(&Builder { extensions: block, ..Builder::new(&[]) }.bytes()).versions.highest
    };
    assert_eq!(highest(&[0xfafa, 0x0303, 0x0302]), 0x0303);
    assert_eq!(highest(&[0x7f1c, 0x0304]), 0x0304);
    assert_eq!(highest(&[0x0305, 0x0a0a]), 0);
}

#[test]
fn a_long_protocol_list_is_counted_but_not_kept_whole() {
    let names: Vec<_> = (0..40).map(|index| format!("protocol-{index:02}")).collect();
    let names: Vec<_> = names.iter().map(String::as_bytes).collect();
    let hello = found(&Builder::new(&[alpn(&names)]).bytes());
    assert_eq!(hello.alpn.offered(), 40);
    assert_eq!(hello.alpn.iter().collect::<Vec<_>>(), names[..5]);
}

#[test]
fn extensions_come_in_any_order() {
    let parts =
        [sni(b"a.example"), alpn(&[b"h2"]), versions(&[0x0304]), key_share(29, 32), ech(&[1; 40])];
    let expected =
        found(&Builder { extensions: Some(vec16(&parts.concat())), ..Builder::new(&[]) }.bytes());
    for shift in 0..parts.len() {
        for reverse in [false, true] {
            let mut parts = parts.clone();
            parts.rotate_left(shift);
            if reverse {
                parts.reverse();
            }
            let turned = Builder { extensions: Some(vec16(&parts.concat())), ..Builder::new(&[]) };
            assert_eq!(found(&turned.bytes()), expected);
        }
    }
}

/// All that is sound, for the cutting below.
fn specimens() -> Vec<Vec<u8>> {
    let mut all: Vec<_> = captured().into_iter().map(|(_, bytes)| bytes).collect();
    all.push(browser(b"shop.example").bytes());
    all.push(Builder { extensions: None, ..Builder::new(&[]) }.bytes());
    all.push(records(&message(&browser(b"shop.example").body()), 100));
    all
}

#[test]
fn any_cut_in_two_gives_the_same_answer_and_every_prefix_needs_more() {
    for bytes in specimens() {
        let whole = read_hello(&bytes);
        assert!(matches!(whole, Answer::Found(_)));
        for cut in 0..bytes.len() {
            assert_eq!(read_hello(&bytes[..cut]), Answer::NeedMore);
            let mut reader = HelloReader::new();
            assert_eq!(feed(&bytes, &[cut], |part| reader.read(part)), whole);
        }
    }
}

#[test]
fn one_byte_at_a_time_gives_the_same_answer() {
    for bytes in specimens() {
        let mut reader = HelloReader::new();
        for cut in 0..bytes.len() {
            assert_eq!(reader.read(&bytes[..cut]), Answer::NeedMore);
        }
        assert_eq!(reader.read(&bytes), read_hello(&bytes));
    }
}

#[test]
fn records_of_any_size_give_the_same_answer() {
    for bytes in [browser(b"shop.example").bytes(), captured()[0].1.clone()] {
        let message = &bytes[5..];
        for size in 1..=message.len() {
            let cut = records(message, size);
            assert_eq!(read_hello(&cut), read_hello(&bytes), "records of {size}");
            let mut reader = HelloReader::new();
            assert_eq!(
                feed(&cut, &[cut.len() / 3, cut.len() / 2], |part| reader.read(part)),
                read_hello(&bytes)
            );
        }
    }
}

#[test]
fn what_follows_the_hello_is_left_alone() {
    let hello = browser(b"shop.example").bytes();
    for after in
        [&b"\x17\x03\x03\x00\x10early data, really"[..], b"\x14\x03\x03\x00\x01\x01", b"garbage"]
    {
        for size in [17, 4000] {
            let bytes = [&records(&hello[5..], size), after].concat();
            assert_eq!(read_hello(&bytes), read_hello(&hello));
        }
    }
}

#[test]
fn a_hello_of_64_kib_is_read_even_one_byte_to_a_record() {
    let message = message(&padded(MAX_HELLO));
    for size in [1, 2, 5, 1000, 1 << 14] {
        let bytes = records(&message, size);
        assert!(bytes.len() <= MAX_FIRST_BYTES);
        assert_eq!(name(&found(&bytes)), Some("long.example"));
        let mut reader = HelloReader::new();
        let cuts: Vec<_> = (0..bytes.len()).collect();
        assert_eq!(feed(&bytes, &cuts, |part| reader.read(part)), read_hello(&bytes));
    }
    assert_eq!(records(&message, 1).len(), MAX_FIRST_BYTES);
}
