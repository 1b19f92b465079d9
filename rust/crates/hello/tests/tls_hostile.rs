//! Broken and dishonest hellos: each is refused, with the word that says how.
mod common;

use common::*;
use egress_hello::{
    Answer,
    tls::{HelloReader, MAX_EXTENSIONS, MAX_HELLO, TlsError},
};

/// A TLS 1.3 hello with these extensions, in one record.
fn with(extensions: &[Vec<u8>]) -> Vec<u8> {
    Builder::new(extensions).bytes()
}

fn body(change: impl FnOnce(&mut Builder)) -> Vec<u8> {
    let mut builder = Builder::new(&[sni(b"a.example")]);
    change(&mut builder);
    builder.bytes()
}

/// A server_name extension with this list, its length written truthfully.
fn names(list: &[u8]) -> Vec<u8> {
    with(&[extension(0, &vec16(list))])
}

fn name(name: &[u8]) -> Vec<u8> {
    with(&[sni(name)])
}

/// A sound handshake message.
fn sound() -> Vec<u8> {
    message(&Builder::new(&[sni(b"a.example")]).body())
}

/// The message with another announced length.
fn announcing(length: u32) -> Vec<u8> {
    [&[1], &length.to_be_bytes()[1..], &sound()[4..]].concat()
}

fn entry(kind: u8, name: &[u8]) -> Vec<u8> {
    [&[kind], &vec16(name)[..]].concat()
}

/// Sound, then this record, then the rest of the hello.
fn between(record_bytes: &[u8]) -> Vec<u8> {
    let message = sound();
    [&record(&message[..50]), record_bytes, &record(&message[50..])].concat()
}

fn many_extensions() -> Vec<Vec<u8>> {
    (0..MAX_EXTENSIONS)
        .map(|kind| extension(0x5000 + u16::try_from(kind).expect("small"), &[]))
        .collect()
}

fn records_table() -> Vec<(&'static str, Vec<u8>)> {
    let message = sound();
    let rest = |first: &[u8]| [first, &record(&message[50..])].concat();
    vec![
        ("record_version", b"\x16\x03\x05\x00\x05".to_vec()),
        ("record_version", b"\x16\x03\xff".to_vec()),
        ("record_version", between(b"\x16\x02\x00\x00\x05")),
        ("record_empty", record(&[])),
        ("record_empty", between(&record(&[]))),
        ("record_too_long", b"\x16\x03\x01\x40\x01".to_vec()),
        ("record_too_long", b"\x16\x03\x01\xff\xff\x01".to_vec()),
        ("record_type", between(b"\x15\x03\x01\x00\x02\x01\x00")),
        ("record_type", between(b"\x14\x03\x01\x00\x01\x01")),
        ("record_type", between(b"\x17\x03\x03\x00\x01\x00")),
        ("record_type", rest(&[&record(&message[..3])[..], b"GET / HTTP/1.1\r\n"].concat())),
        ("not_client_hello", record(&[2, 0, 0, 38])),
        ("not_client_hello", record(&[0])),
        ("hello_too_long", record(&[1, 1, 0, 1])),
        ("hello_too_long", record(&[1, 0xff, 0xff, 0xff])),
        ("hello_too_long", records(&[1, 1, 0, 1], 1)),
        ("hello_trailing", record(&[&message[..], &message].concat())),
        ("hello_trailing", record(&[&message[..], &[0]].concat())),
        (
            "hello_trailing",
            [record(&message[..50]), record(&[&message[50..], &[20]].concat())].concat(),
        ),
        ("hello_trailing", record(&announcing(90))),
    ]
}

fn body_table() -> Vec<(&'static str, Vec<u8>)> {
    let whole = Builder::new(&[sni(b"a.example")]).body();
    let cut = |length: usize| record(&message(&whole[..length]));
    let sized = |size: [u8; 2]| body(|hello| hello.ciphers = [&size[..], &[0x13, 1]].concat());
    vec![
        ("hello_truncated", record(&message(&[]))),
        ("hello_truncated", cut(1)),
        ("hello_truncated", cut(33)),
        ("hello_truncated", cut(34)),
        ("hello_truncated", cut(60)),
        ("hello_truncated", cut(68)),
        ("hello_truncated", cut(75)),
        ("hello_version", body(|hello| hello.version = [2, 0])),
        ("hello_version", body(|hello| hello.version = [0x7f, 0x1c])),
        ("session_id", body(|hello| hello.session = vec8(&[0; 33]))),
        ("ciphers_empty", body(|hello| hello.ciphers = vec16(&[]))),
        ("ciphers_odd", body(|hello| hello.ciphers = vec16(&[0x13, 1, 0x13]))),
        ("ciphers_length", sized([0xff, 0xfe])),
        ("compression", body(|hello| hello.compression = vec8(&[]))),
        ("compression", body(|hello| hello.compression = vec8(&[1]))),
        ("compression", body(|hello| hello.compression = vec8(&[0, 1]))),
        ("compression", body(|hello| hello.compression = vec8(&[0, 0]))),
        (
            "compression_length",
            body(|hello| (hello.compression, hello.extensions) = (vec![200, 0], None)),
        ),
        ("extensions_length", body(|hello| hello.extensions = Some(vec![0]))),
        (
            "extensions_length",
            body(|hello| hello.extensions = Some([vec16(&sni(b"a.example")), vec![0]].concat())),
        ),
        ("extensions_length", body(|hello| hello.extensions = Some(vec![0, 9, 0, 1]))),
        ("extensions_length", cut(whole.len() - 1)),
        ("extension_length", body(|hello| hello.extensions = Some(vec16(&[0, 23, 0, 1])))),
        ("extension_length", body(|hello| hello.extensions = Some(vec16(&[0, 23, 0])))),
        ("extension_length", body(|hello| hello.extensions = Some(vec16(&[0])))),
        ("extensions_many", with(&many_extensions())),
    ]
}

fn extension_table() -> Vec<(&'static str, Vec<u8>)> {
    let twice = |kind: u16| with(&[extension(kind, &[]), sni(b"a.example"), extension(kind, &[])]);
    let two = [entry(0, b"a.example"), entry(0, b"b.example")].concat();
    let odd_second = [entry(0, b"a.example"), entry(7, b"b.example")].concat();
    let outer = |tail: &[u8]| with(&[extension(0xfe0d, &[&[0, 0, 1, 0, 1, 7], tail].concat())]);
    vec![
        ("extension_twice", twice(23)),
        ("extension_twice", twice(0xff01)),
        ("extension_twice", twice(0x2a2a)),
        ("extension_twice", with(&[alpn(&[b"h2"]), alpn(&[b"h2"])])),
        ("extension_twice", with(&[versions(&[0x0303])])),
        ("sni_twice", with(&[sni(b"a.example"), sni(b"b.example")])),
        ("sni_twice", with(&[sni(b"a.example"), alpn(&[b"h2"]), sni(b"a.example")])),
        ("sni_two_names", names(&two)),
        ("sni_two_names", names(&odd_second)),
        ("sni_two_names", names(&[entry(0, b"a.example"), entry(0, b"a.example")].concat())),
        ("sni_length", with(&[extension(0, &[])])),
        ("sni_length", with(&[extension(0, &[0])])),
        ("sni_length", with(&[extension(0, &[0, 20, 0, 0, 1, b'a'])])),
        ("sni_length", with(&[extension(0, &[0, 4, 0, 0, 1, b'a', 0])])),
        ("sni_length", names(&[0])),
        ("sni_length", names(&[0, 0, 9, b'a'])),
        ("sni_length", names(&[&entry(0, b"a.example")[..], b"\0"].concat())),
        ("sni_list_empty", names(&[])),
        ("sni_type", names(&entry(1, b"a.example"))),
        ("sni_type", names(&entry(255, b"a.example"))),
        ("sni_not_ascii", name("bücher.example".as_bytes())),
        ("sni_not_ascii", name(b"a\xff.example")),
        ("sni_name_empty", name(b"")),
        ("sni_name_empty", name(b".")),
        ("sni_name_too_long", name(&[b"abcdefg.".repeat(32), b"example".to_vec()].concat())),
        ("sni_label_too_long", name(&[vec![b'a'; 64], b".example".to_vec()].concat())),
        ("sni_label_empty", name(b"a..example")),
        ("sni_label_empty", name(b"a.example..")),
        ("sni_name_forbidden_byte", name(b"a.example\0.evil.example")),
        ("sni_name_forbidden_byte", name(b"a.example\r\n")),
        ("sni_name_forbidden_byte", name(b" a.example")),
        ("sni_name_forbidden_byte", name(b"*.example")),
        ("sni_name_forbidden_byte", name(b"a.example:443")),
        ("sni_name_forbidden_byte", name(b"a.example/path")),
        ("sni_name_forbidden_byte", name(b"fe80::1%eth0")),
        ("sni_name_forbidden_byte", name(b"\x7f.example")),
        ("sni_name_idna", name(b"xn--a.example")),
        ("sni_name_numeric_tail", name(b"127.1")),
        ("sni_name_numeric_tail", name(b"2130706433")),
        ("sni_name_numeric_tail", name(b"0x7f.0x1")),
        ("alpn_length", with(&[extension(16, &[0, 9, 2, b'h', b'2'])])),
        ("alpn_length", with(&[extension(16, &[0, 3, 9, b'h', b'2'])])),
        ("alpn_length", with(&[extension(16, &[0, 3, 2, b'h', b'2', 0])])),
        ("alpn_empty", with(&[extension(16, &[0, 0])])),
        ("alpn_empty", with(&[alpn(&[b"h2", b""])])),
        ("versions_length", body(|hello| hello.extensions = Some(vec16(&extension(43, &[0]))))),
        (
            "versions_length",
            body(|hello| hello.extensions = Some(vec16(&extension(43, &[3, 3, 4, 3])))),
        ),
        (
            "versions_length",
            body(|hello| hello.extensions = Some(vec16(&extension(43, &[2, 3, 4, 3])))),
        ),
        (
            "versions_length",
            body(|hello| hello.extensions = Some(vec16(&extension(43, &[4, 3, 4])))),
        ),
        ("ech_length", with(&[extension(0xfe0d, &[])])),
        ("ech_length", with(&[extension(0xfe0d, &[2])])),
        ("ech_length", with(&[extension(0xfe0d, &[1, 0])])),
        ("ech_length", outer(&[0, 0, 0, 0])),
        ("ech_length", outer(&[0, 0, 0, 9, 1])),
        ("ech_length", outer(&[0, 0, 0, 1, 1, 1])),
    ]
}

fn table() -> Vec<(&'static str, Vec<u8>)> {
    [records_table(), body_table(), extension_table()].concat()
}

fn word(answer: &Hello) -> &'static str {
    match answer {
        Answer::Malformed(error) => error.word(),
        Answer::Not => "not",
        Answer::NeedMore => "need_more",
        Answer::Found(_) => "found",
    }
}

#[test]
fn each_hostile_hello_is_refused_with_its_word() {
    for (row, (expected, bytes)) in table().iter().enumerate() {
        assert_eq!(word(&read_hello(bytes)), *expected, "row {row}: {bytes:02x?}");
    }
}

#[test]
fn each_is_refused_alike_for_every_cut() {
    for (expected, bytes) in table() {
        for cut in 0..=bytes.len() {
            let mut reader = HelloReader::new();
            assert_eq!(word(&feed(&bytes, &[cut], |part| reader.read(part))), expected);
        }
        let mut reader = HelloReader::new();
        let cuts: Vec<_> = (0..bytes.len()).collect();
        assert_eq!(word(&feed(&bytes, &cuts, |part| reader.read(part))), expected);
    }
}

#[test]
fn each_broken_body_is_refused_alike_for_every_record_size() {
    for (expected, bytes) in body_table().into_iter().chain(extension_table()) {
        for size in 1..bytes.len() - 5 {
            assert_eq!(
                word(&read_hello(&records(&bytes[5..], size))),
                expected,
                "records of {size}"
            );
        }
    }
}

#[test]
fn no_error_goes_untested() {
    let table = table();
    for error in TlsError::ALL {
        assert!(table.iter().any(|(word, _)| *word == error.word()), "{error:?}");
        assert!(error.word().len() <= 40 && !error.to_string().is_empty());
    }
    let mut words: Vec<_> = TlsError::ALL.iter().map(|error| error.word()).collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), TlsError::ALL.len(), "two errors share a word");
}

#[test]
fn other_protocols_are_not_tls() {
    let sslv2 = b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10\x01\x00\x80";
    let others: &[&[u8]] = &[
        sslv2,
        b"\x80\x2e\x01\x00\x02",
        b"GET / HTTP/1.1\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\x17\x03\x03\x00\x05hello",
        b"\x16\x02\x00",
        b"\x16\xfe\xff\x00",
        b"\x16\x00",
        b"\x05\x01\x00",
        b"\0",
    ];
    for bytes in others {
        assert_eq!(read_hello(bytes), Answer::Not, "{bytes:02x?}");
    }
    assert_eq!(read_hello(b"G"), Answer::Not);
    assert_eq!(read_hello(b""), Answer::NeedMore);
    assert_eq!(read_hello(b"\x16\x03"), Answer::NeedMore);
}

#[test]
fn a_length_beyond_64_kib_is_refused_at_its_header() {
    let prefix = b"\x16\x03\x01\x40\x00\x01\x01\x00\x01";
    assert_eq!(read_hello(&prefix[..8]), Answer::NeedMore);
    assert_eq!(read_hello(prefix), Answer::Malformed(TlsError::HelloTooLong));
    // One byte less is the longest hello; only its end shows what it is.
    let longest = records(&message(&padded(MAX_HELLO)), 1 << 14);
    assert_eq!(read_hello(&longest[..longest.len() - 1]), Answer::NeedMore);
    assert!(matches!(read_hello(&longest), Answer::Found(_)));
}

#[test]
fn only_bad_names_count_as_bad_names() {
    for (expected, bytes) in table() {
        let Answer::Malformed(error) = read_hello(&bytes) else { panic!("{expected}") };
        let name = ["sni_name", "sni_label", "sni_not_ascii"]
            .iter()
            .any(|part| expected.starts_with(part));
        assert_eq!(error.is_bad_name(), name, "{expected}");
    }
}
