//! The messages of a SOCKS5 client are read alike for every cut, and each fault has its word and its reply.
#[path = "common/cuts.rs"]
mod cuts;

use std::net::SocketAddr;

use cuts::{found_whole, read_cut, word};
use egress_hello::{Answer, socks::*};

/// The head of a request, its address and its port.
fn request(command: u8, address: &[u8], port: u16) -> Vec<u8> {
    [&[5, command, 0], address, &port.to_be_bytes()].concat()
}

/// A CONNECT to a domain.
fn domain(name: &[u8], port: u16) -> Vec<u8> {
    let length = u8::try_from(name.len()).expect("fits");
    request(1, &[&[3, length], name].concat(), port)
}

#[test]
fn greetings_say_what_is_offered_and_how_long_they_were() {
    let table: &[(&[u8], bool, bool)] = &[
        (b"\x05\x01\x00", true, false),
        (b"\x05\x01\x02", false, true),
        (b"\x05\x02\x00\x02", true, true),
        (b"\x05\x03\x00\x01\x02", true, true), // curl with GSS-API
        (b"\x05\x01\x01", false, false),
        (b"\x05\x04\x80\xff\x02\x02", false, true),
    ];
    for &(bytes, no_auth, password) in table {
        let expected = Greeting { no_auth, password, len: bytes.len() };
        assert_eq!(found_whole(bytes, read_greeting), expected);
        let pipelined = [bytes, b"\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50"].concat();
        assert_eq!(read_cut(&pipelined, read_greeting), Answer::Found(expected));
    }
    let most = [&[5, 255][..], &[9; 255]].concat();
    assert_eq!(found_whole(&most, read_greeting).len, MAX_GREETING);
}

#[test]
fn other_protocols_are_not_socks_at_their_first_byte() {
    assert_eq!(read_greeting(b""), Answer::NeedMore);
    for byte in (0..=u8::MAX).filter(|&byte| byte != VERSION) {
        assert_eq!(read_greeting(&[byte]), Answer::Not);
        assert_eq!(read_greeting(&[byte, 1, 0, 80]), Answer::Not);
    }
    assert_eq!(read_greeting(&[VERSION_4, 1, 0, 80, 10, 0, 0, 1, 0]), Answer::Not);
}

#[test]
fn logins_are_bytes_and_the_password_is_never_shown() {
    let table: &[(&[u8], &[u8], &[u8])] =
        &[(b"\x01\x03ann\x06secret", b"ann", b"secret"), (b"\x01\x01\xff\x01\x00", b"\xff", b"\0")];
    for &(bytes, user, password) in table {
        let login = found_whole(bytes, read_login);
        assert_eq!((login.user, login.password.expose()), (user, password));
        assert_eq!(login.len, bytes.len());
        let pipelined = [bytes, b"\x05\x01\x00"].concat();
        assert_eq!(read_cut(&pipelined, read_login), Answer::Found(login));
    }
    let shown = format!("{:?}", read_login(b"\x01\x03ann\x06secret"));
    assert!(shown.contains("Secret(..)") && !shown.contains("secret"), "{shown}");
    assert!(!shown.contains(&format!("{:?}", b"secret")), "{shown}");
    let most = [&[1, 255][..], &[b'u'; 255], &[255], &[b'p'; 255]].concat();
    assert_eq!(found_whole(&most, read_login).len, MAX_LOGIN);
}

#[test]
fn a_secret_is_only_what_it_is() {
    let bytes = b"\x01\x01u\x03abc";
    let password = found_whole(bytes, read_login).password;
    assert!(password.is(b"abc"));
    for other in [&b""[..], b"ab", b"abcd", b"abd", b"bbc", b"ABC"] {
        assert!(!password.is(other));
    }
}

#[test]
fn connect_names_a_host_however_it_is_written() {
    let v6 = |ip: &str| {
        [&[4][..], &ip.parse::<std::net::Ipv6Addr>().expect("an address").octets()].concat()
    };
    let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
    let table: &[(Vec<u8>, &str, u16)] = &[
        (request(1, &[1, 192, 0, 2, 1], 443), "192.0.2.1", 443),
        (request(1, &v6("2001:db8::1"), 22), "2001:db8::1", 22),
        (request(1, &v6("::ffff:192.0.2.1"), 1), "192.0.2.1", 1),
        (domain(b"a.example", 65535), "a.example", 65535),
        (domain(b"A.Example.", 443), "a.example", 443),
        (domain(b"192.0.2.1", 443), "192.0.2.1", 443),
        (domain(b"2001:DB8:0::1", 443), "2001:db8::1", 443),
        (domain(b"[2001:db8::1]", 443), "2001:db8::1", 443),
        (domain(b"::ffff:192.0.2.1", 443), "192.0.2.1", 443),
        (domain(longest.as_bytes(), 443), &longest, 443),
        (domain(format!("{longest}.").as_bytes(), 443), &longest, 443),
    ];
    for (bytes, expected, expected_port) in table {
        let request = found_whole(bytes, read_request);
        assert_eq!(request.len, bytes.len());
        assert!(request.len <= MAX_REQUEST);
        let Command::Connect { host, port } = &request.command else { panic!("{request:?}") };
        assert_eq!((host.to_string().as_str(), port), (*expected, expected_port));
        let early = [bytes, &b"\x16\x03\x01\x02\x00"[..]].concat();
        assert_eq!(read_cut(&early, read_request), Answer::Found(request));
    }
}

#[test]
fn other_commands_are_read_whole_and_their_address_is_not_judged() {
    for (code, command) in [(2, Command::Bind), (3, Command::UdpAssociate)] {
        for address in [&[1, 0, 0, 0, 0][..], &[4; 17], b"\x03\x03a..", b"\x03\x02\xff\xff"] {
            let bytes = request(code, address, 0);
            let expected = Request { command: command.clone(), len: bytes.len() };
            assert_eq!(found_whole(&bytes, read_request), expected);
        }
    }
}

fn requests_table() -> Vec<(&'static str, Reply, Vec<u8>)> {
    use Reply::*;
    let bad = |name: &[u8]| domain(name, 443);
    vec![
        ("socks_request_version", GeneralFailure, b"\x04\x01\x00\x01".to_vec()),
        ("socks_request_version", GeneralFailure, b"\x01".to_vec()),
        ("socks_command", CommandNotSupported, request(0, &[1, 10, 0, 0, 1], 80)),
        ("socks_command", CommandNotSupported, request(4, &[1, 10, 0, 0, 1], 80)),
        ("socks_command", CommandNotSupported, request(0xf0, b"\x03\x01a", 80)), // Tor's RESOLVE
        ("socks_reserved", GeneralFailure, b"\x05\x01\x01\x01\x0a\x00\x00\x01\x00\x50".to_vec()),
        ("socks_address_type", AddressTypeNotSupported, request(1, &[0, 10, 0, 0, 1], 80)),
        ("socks_address_type", AddressTypeNotSupported, request(1, &[2, 10, 0, 0, 1], 80)),
        ("socks_address_type", AddressTypeNotSupported, request(2, &[5, 10, 0, 0, 1], 80)),
        ("socks_port_zero", GeneralFailure, request(1, &[1, 10, 0, 0, 1], 0)),
        ("socks_port_zero", GeneralFailure, request(1, &[4; 17], 0)),
        ("socks_port_zero", GeneralFailure, domain(b"a.example", 0)),
        ("name_empty", GeneralFailure, bad(b"")),
        ("name_empty", GeneralFailure, request(2, &[3, 0], 80)),
        ("name_empty", GeneralFailure, bad(b".")),
        ("label_empty", GeneralFailure, bad(b"a..example")),
        ("name_numeric_tail", GeneralFailure, bad(b"127.1")),
        ("name_numeric_tail", GeneralFailure, bad(b"0x7f.0.0.1")),
        ("name_numeric_tail", GeneralFailure, bad(b"2130706433")),
        ("name_forbidden_byte", GeneralFailure, bad(b"a.example\0.evil.example")),
        ("name_forbidden_byte", GeneralFailure, bad(b"a.example:443")),
        ("name_forbidden_byte", GeneralFailure, bad(b"fe80::1%eth0")),
        ("name_forbidden_byte", GeneralFailure, bad("bücher.example".as_bytes())),
        ("name_forbidden_byte", GeneralFailure, bad(b"a.example\xff")),
        ("name_idna", GeneralFailure, bad(b"xn--a.example")),
        ("label_too_long", GeneralFailure, bad(&[b'a'; 64])),
        ("name_too_long", GeneralFailure, bad("aa.".repeat(85).as_bytes())),
    ]
}

#[test]
fn each_hostile_request_is_refused_with_its_word_and_its_reply() {
    for (expected, reply, bytes) in requests_table() {
        let answer = read_cut(&bytes, read_request);
        assert_eq!(word(answer.clone(), SocksError::word), expected, "{}", bytes.escape_ascii());
        let Answer::Malformed(error) = answer else { panic!("{answer:?}") };
        assert_eq!(error.reply(), reply);
        assert_eq!(error.is_bad_name(), matches!(error, SocksError::Name(_)));
    }
}

const GREETINGS: &[(&str, &[u8])] =
    &[("socks_methods_none", b"\x05\x00"), ("socks_methods_none", b"\x05\x00\x00\x02")];

const LOGINS: &[(&str, &[u8])] = &[
    ("socks_login_version", b"\x05"),
    ("socks_login_version", b"\x00\x01u\x01p"),
    ("socks_user_empty", b"\x01\x00"),
    ("socks_user_empty", b"\x01\x00\x01p"),
    ("socks_password_empty", b"\x01\x01u\x00"),
];

#[test]
fn hostile_greetings_and_logins_are_refused_at_the_byte_that_shows_it() {
    for &(expected, bytes) in GREETINGS {
        assert_eq!(word(read_cut(bytes, read_greeting), SocksError::word), expected);
    }
    for &(expected, bytes) in LOGINS {
        assert_eq!(word(read_cut(bytes, read_login), SocksError::word), expected);
    }
}

#[test]
fn no_error_goes_untested() {
    let requests: Vec<_> = requests_table().iter().map(|(word, ..)| *word).collect();
    let others = GREETINGS.iter().chain(LOGINS).map(|(word, _)| *word);
    let words: Vec<_> = others.chain(requests).collect();
    for error in SocksError::ALL {
        assert!(words.contains(&error.word()), "{error:?}");
        assert!(error.word().len() <= 40 && !error.to_string().is_empty());
    }
}

#[test]
fn replies_have_the_codes_of_the_rfc() {
    assert_eq!(Method::NoAuth.bytes(), [5, 0]);
    assert_eq!(Method::Password.bytes(), [5, 2]);
    assert_eq!(Method::NoneAcceptable.bytes(), [5, 0xff]);
    assert_eq!((LOGIN_ACCEPTED, LOGIN_REFUSED), ([1, 0], [1, 1]));
    for (code, reply) in Reply::ALL.iter().enumerate() {
        assert_eq!(usize::from(reply.code()), code);
        assert_eq!(reply.without_address(), [5, reply.code(), 0, 1, 0, 0, 0, 0, 0, 0]);
        assert!(!reply.word().is_empty());
    }
    assert_eq!(Reply::ALL.len(), 9);
}

#[test]
fn replies_carry_the_bound_address() {
    let written = |bound: &str| {
        let mut out = b"before".to_vec();
        Reply::Succeeded.write(bound.parse::<SocketAddr>().expect("an address"), &mut out);
        out.split_off(b"before".len())
    };
    assert_eq!(written("192.0.2.1:258"), [5, 0, 0, 1, 192, 0, 2, 1, 1, 2]);
    assert_eq!(written("[::ffff:192.0.2.1]:258"), written("192.0.2.1:258"));
    assert_eq!(written("0.0.0.0:0"), Reply::Succeeded.without_address());
    let v6 = written("[2001:db8::1]:258");
    assert_eq!(v6, [&[5, 0, 0, 4, 0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1, 1, 2]].concat());
    assert_eq!(v6.len(), MAX_REPLY);
}
