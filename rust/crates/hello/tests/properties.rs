//! What holds for every input, by random search: no panic, one answer for any cut, one spelling.
mod common;

use common::*;
use egress_hello::{
    Answer,
    connect::HeadReader,
    name::{Host, parse_host},
    tls::HelloReader,
};
use proptest::{collection::vec, prelude::*, sample::Index};

/// Names, most of them sound.
fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,20})(\\.[a-zA-Z][a-zA-Z0-9-]{0,12}){0,4}\\.?",
        1 => "[a-zß-ʯа-я.。]{1,20}",
        1 => "[0-9a-fx.:\\[\\]]{1,20}",
        1 => "xn--[a-z0-9-]{1,12}\\.[a-z]{2,5}",
    ]
}

/// Extensions in any order, some broken, some twice.
fn extensions() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let one = prop_oneof![
        3 => names().prop_map(|name| sni(name.as_bytes())),
        2 => Just(alpn(&[b"h2", b"http/1.1"])),
        1 => (0_u16..70, vec(any::<u8>(), 0..40)).prop_map(|(kind, data)| extension(kind, &data)),
        2 => (100_u16..0xfe00, vec(any::<u8>(), 0..40)).prop_map(|(kind, data)| extension(kind, &data)),
        1 => Just(ech(&[1; 60])),
        1 => Just(key_share(0x11ec, 1216)),
    ];
    vec(one, 0..8)
}

/// A hello in records of some size, now and then with a byte changed.
fn hellos() -> impl Strategy<Value = Vec<u8>> {
    let change = proptest::option::weighted(0.4, (any::<Index>(), any::<u8>()));
    (extensions(), 1_usize..3000, change).prop_map(|(extensions, size, change)| {
        let mut bytes = records(&message(&Builder::new(&extensions).body()), size);
        if let Some((at, byte)) = change {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

fn heads() -> impl Strategy<Value = Vec<u8>> {
    let header = prop_oneof![
        Just("Host: a.example:443".to_owned()),
        Just("Content-Length: 0".to_owned()),
        "[A-Za-z-]{1,10}: ?[ -~]{0,20}",
        "[\\x00-\\xff]{0,12}",
    ];
    let line = prop_oneof![
        4 => names().prop_map(|name| format!("CONNECT {name}:443 HTTP/1.1")),
        1 => "[A-Z]{1,8} [!-~]{0,20} HTTP/1\\.[0-9]",
    ];
    let end = prop_oneof![4 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r")];
    (line, vec(header, 0..6), end, vec(any::<u8>(), 0..20)).prop_map(
        |(line, headers, end, after)| {
            let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
            [format!("{line}\r\n{headers}{end}").as_bytes(), &after].concat()
        },
    )
}

/// One piece, pieces cut anywhere, and bytes one at a time agree; a prefix that has an answer has
/// that of the whole.
fn agree<T, M, R>(
    bytes: &[u8],
    cuts: &[Index],
    reader: impl Fn() -> R,
    read: impl Fn(&mut R, &[u8]) -> Answer<T, M>,
) where
    Answer<T, M>: PartialEq + std::fmt::Debug,
{
    let whole = read(&mut reader(), bytes);
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let mut pieces = reader();
    assert_eq!(feed(bytes, &cuts, |part| read(&mut pieces, part)), whole);
    let (mut single, every) = (reader(), (0..bytes.len()).collect::<Vec<_>>());
    assert_eq!(feed(bytes, &every, |part| read(&mut single, part)), whole);
    for cut in cuts {
        let prefix = read(&mut reader(), &bytes[..cut]);
        assert!(prefix == Answer::NeedMore || prefix == whole);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hellos_are_read_alike_for_any_cut(bytes in hellos(), cuts in vec(any::<Index>(), 0..6)) {
        agree(&bytes, &cuts, HelloReader::new, HelloReader::read);
    }

    #[test]
    fn heads_are_read_alike_for_any_cut(bytes in heads(), cuts in vec(any::<Index>(), 0..6)) {
        agree(&bytes, &cuts, HeadReader::new, HeadReader::read);
    }

    #[test]
    fn noise_never_panics(bytes in vec(any::<u8>(), 0..300), cuts in vec(any::<Index>(), 0..3)) {
        agree(&bytes, &cuts, HelloReader::new, HelloReader::read);
        agree(&bytes, &cuts, HeadReader::new, HeadReader::read);
        let _ = parse_host(&bytes);
        let behind_a_header = [b"\x16\x03\x01\x01\x00\x01\x00", &bytes[..]].concat();
        agree(&behind_a_header, &cuts, HelloReader::new, HelloReader::read);
    }

    #[test]
    fn whole_hellos_get_an_answer_and_their_prefixes_none(extensions in extensions(), size in 1_usize..2000, cut in any::<Index>()) {
        let bytes = records(&message(&Builder::new(&extensions).body()), size);
        prop_assert_ne!(read_hello(&bytes), Answer::NeedMore);
        prop_assert_eq!(read_hello(&bytes[..cut.index(bytes.len())]), Answer::NeedMore);
    }

    #[test]
    fn normalising_twice_changes_nothing(name in names()) {
        if let Ok(host) = parse_host(name.as_bytes()) {
            let text = host.to_string();
            prop_assert_eq!(parse_host(text.as_bytes()), Ok(host.clone()));
            prop_assert_eq!(parse_host(name.to_ascii_uppercase().as_bytes()), Ok(host.clone()));
            if matches!(host, Host::Name(_)) {
                prop_assert_eq!(parse_host(format!("{text}.").as_bytes()), Ok(host));
            }
        }
    }

    #[test]
    fn a_hello_names_what_it_was_built_with(name in names(), size in 1_usize..600) {
        let bytes = records(&message(&browser(name.as_bytes()).body()), size);
        match (parse_host(name.as_bytes()), read_hello(&bytes)) {
            (Ok(Host::Name(name)), Answer::Found(hello)) => prop_assert_eq!(hello.sni.name(), Some(&name)),
            (Ok(Host::Ip(_)), Answer::Found(hello)) => prop_assert_eq!(hello.sni.name(), None),
            (Err(_), Answer::Malformed(error)) => prop_assert!(error.is_bad_name()),
            (_, Answer::Malformed(error)) => prop_assert!(error.word() == "sni_not_ascii" && !name.is_ascii()),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
