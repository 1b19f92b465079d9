//! One spelling for each name, and nothing that could be read as something else.
use egress_hello::name::{
    AuthorityError, Host, NameError, parse_authority, parse_host, parse_wire_authority,
};

/// Input and what it becomes; addresses are written as addresses.
const SOUND: &[(&str, &str)] = &[
    ("example.com", "example.com"),
    ("EXAMPLE.Com", "example.com"),
    ("example.com.", "example.com"),
    ("localhost", "localhost"),
    ("a", "a"),
    ("_dmarc.example.com", "_dmarc.example.com"),
    ("my_host.example", "my_host.example"),
    ("r3---sn-x.example", "r3---sn-x.example"),
    ("-lead.example", "-lead.example"),
    ("trail-.example", "trail-.example"),
    ("1.2.3.example", "1.2.3.example"),
    ("1password.com", "1password.com"),
    ("0xg", "0xg"),
    ("0x7f.example", "0x7f.example"),
    ("1.2.3.4.5a", "1.2.3.4.5a"),
    ("a.1-2", "a.1-2"),
    ("bücher.example", "xn--bcher-kva.example"),
    ("BÜCHER.example.", "xn--bcher-kva.example"),
    ("bu\u{308}cher.example", "xn--bcher-kva.example"),
    ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("XN--BCHER-KVA.Example", "xn--bcher-kva.example"),
    ("faß.example", "xn--fa-hia.example"),
    ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
    ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
    ("ｅｘａｍｐｌｅ.com", "example.com"),
    ("exam\u{ad}ple.com", "example.com"),
    ("пример.рф", "xn--e1afmkfd.xn--p1ai"),
    ("example。", "example"),
    ("192.0.2.1", "192.0.2.1"),
    ("0.0.0.0", "0.0.0.0"),
    ("255.255.255.255", "255.255.255.255"),
    ("::1", "::1"),
    ("[::1]", "::1"),
    ("::", "::"),
    ("2001:DB8:0:0::1", "2001:db8::1"),
    ("[2001:db8::1]", "2001:db8::1"),
    ("::ffff:192.0.2.1", "192.0.2.1"),
    ("[::ffff:c000:201]", "192.0.2.1"),
    ("64:ff9b::192.0.2.1", "64:ff9b::c000:201"),
];

const BROKEN: &[(&[u8], NameError)] = &[
    (b"", NameError::Empty),
    (b".", NameError::Empty),
    (b"..", NameError::EmptyLabel),
    (b".example", NameError::EmptyLabel),
    (b"a..example", NameError::EmptyLabel),
    (b"example..", NameError::EmptyLabel),
    (b"a\0b", NameError::ForbiddenByte(0)),
    (b"a\nb", NameError::ForbiddenByte(b'\n')),
    (b"a b", NameError::ForbiddenByte(b' ')),
    (b"example ", NameError::ForbiddenByte(b' ')),
    (b"a\x7f", NameError::ForbiddenByte(0x7f)),
    (b"a%2e", NameError::ForbiddenByte(b'%')),
    (b"a/b", NameError::ForbiddenByte(b'/')),
    (b"a\\b", NameError::ForbiddenByte(b'\\')),
    (b"u@a", NameError::ForbiddenByte(b'@')),
    (b"a:1", NameError::ForbiddenByte(b':')),
    (b"*.example", NameError::ForbiddenByte(b'*')),
    (b"a,b", NameError::ForbiddenByte(b',')),
    (b"a?b", NameError::ForbiddenByte(b'?')),
    (b"a#b", NameError::ForbiddenByte(b'#')),
    (b"a~b", NameError::ForbiddenByte(b'~')),
    (b"[", NameError::ForbiddenByte(b'[')),
    (b"[]", NameError::ForbiddenByte(b'[')),
    (b"[::1", NameError::ForbiddenByte(b'[')),
    (b"[192.0.2.1]", NameError::ForbiddenByte(b'[')),
    (b"[example]", NameError::ForbiddenByte(b'x')),
    (b"[[::1]]", NameError::ForbiddenByte(b'[')),
    (b"fe80::1%eth0", NameError::ForbiddenByte(b'%')),
    (b"[fe80::1%1]", NameError::ForbiddenByte(b'%')),
    (b"1:2:3", NameError::ForbiddenByte(b':')),
    (b":::", NameError::ForbiddenByte(b':')),
    (b"::1.2.3", NameError::ForbiddenByte(b':')),
    (b"1.2.3", NameError::NumericTail),
    (b"1.2.3.4.5", NameError::NumericTail),
    (b"1.2.3.4.", NameError::NumericTail),
    (b"1.2.3.04", NameError::NumericTail),
    (b"0177.0.0.1", NameError::NumericTail),
    (b"256.1.1.1", NameError::NumericTail),
    (b"2130706433", NameError::NumericTail),
    (b"0", NameError::NumericTail),
    (b"0x", NameError::NumericTail),
    (b"0x7f.1", NameError::NumericTail),
    (b"0X7F000001", NameError::NumericTail),
    (b"example.0xab", NameError::NumericTail),
    (b"example.123", NameError::NumericTail),
    ("１２７.0.0.1".as_bytes(), NameError::NumericTail),
    ("127。0。0。1".as_bytes(), NameError::NumericTail),
    (b"xn--a", NameError::Idna),
    (b"xn--", NameError::Idna),
    (b"xn--abc-.example", NameError::Idna),
    (b"a.xn--999999999.example", NameError::Idna),
    (b"\xff\xfe", NameError::Idna),
    (b"a\xc3", NameError::Idna),
    ("a\u{ff05}b".as_bytes(), NameError::Idna),
    ("a\u{ff0f}b".as_bytes(), NameError::Idna),
    ("a\u{2028}b".as_bytes(), NameError::Idna),
    ("a\u{85}b".as_bytes(), NameError::Idna),
    ("a\u{202e}b".as_bytes(), NameError::Idna),
    ("ü\0".as_bytes(), NameError::ForbiddenByte(0)),
    ("\u{ad}".as_bytes(), NameError::Empty),
];

#[test]
fn sound_hosts_have_one_spelling() {
    for (input, expected) in SOUND {
        let host = parse_host(input.as_bytes()).unwrap_or_else(|error| panic!("{input}: {error}"));
        assert_eq!(host.to_string(), *expected, "{input}");
        assert_eq!(
            matches!(host, Host::Ip(_)),
            expected.parse::<std::net::IpAddr>().is_ok(),
            "{input}"
        );
    }
}

#[test]
fn broken_hosts_are_refused_with_their_error() {
    for (input, expected) in BROKEN {
        assert_eq!(parse_host(input), Err(*expected), "{}", input.escape_ascii());
    }
}

#[test]
fn lengths_are_those_of_the_dns() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    assert_eq!(longest.len(), 253);
    for name in [longest.clone(), format!("{longest}."), label.clone()] {
        assert_eq!(
            parse_host(name.as_bytes()).map(|host| host.to_string()),
            Ok(name.trim_end_matches('.').into())
        );
    }
    assert_eq!(parse_host(format!("{longest}a").as_bytes()), Err(NameError::TooLong));
    assert_eq!(parse_host(format!("{label}a").as_bytes()), Err(NameError::LabelTooLong));
    assert_eq!(parse_host(format!("x.{label}a.x").as_bytes()), Err(NameError::LabelTooLong));
    assert_eq!(parse_host("ü".repeat(64).as_bytes()), Err(NameError::LabelTooLong));
    assert_eq!(parse_host("ü".repeat(2000).as_bytes()), Err(NameError::TooLong));
    assert_eq!(parse_host(&vec![b'a'; 1 << 20]), Err(NameError::TooLong));
}

#[test]
fn authorities_hold_a_host_and_a_port() {
    let read =
        |text: &str| parse_authority(text.as_bytes()).map(|(host, port)| (host.to_string(), port));
    for (input, host, port) in [
        ("a.example:443", "a.example", 443),
        ("A.example.:00080", "a.example", 80),
        ("192.0.2.1:1", "192.0.2.1", 1),
        ("[::1]:65535", "::1", 65535),
        ("bücher.example:443", "xn--bcher-kva.example", 443),
    ] {
        assert_eq!(read(input), Ok((host.into(), port)), "{input}");
    }
    let colon = AuthorityError::Host(NameError::ForbiddenByte(b':'));
    for (input, error) in [
        ("a.example", AuthorityError::MissingPort),
        ("a.example:", AuthorityError::MissingPort),
        ("a.example:0", AuthorityError::BadPort),
        ("a.example:65536", AuthorityError::BadPort),
        ("a.example:100000", AuthorityError::BadPort),
        ("a.example:+1", AuthorityError::BadPort),
        ("a.example: 1", AuthorityError::BadPort),
        ("a.example:４４３", AuthorityError::BadPort),
        ("::1", colon),
        ("1::1:443", colon),
        ("a:b:443", colon),
        ("[::1]", AuthorityError::MissingPort),
        ("[::1]x443", AuthorityError::Host(NameError::ForbiddenByte(b'x'))),
        ("", AuthorityError::Host(NameError::Empty)),
    ] {
        assert_eq!(read(input), Err(error), "{input}");
    }
    let foreign = parse_wire_authority("bücher.example:443".as_bytes());
    assert_eq!(foreign, Err(AuthorityError::Host(NameError::ForbiddenByte(0xc3))));
}
