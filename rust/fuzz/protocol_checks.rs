//! What must hold for any bytes of the protocols whose readers keep no position. The fuzz targets and
//! the replay test of the hello crate share it.
use std::fmt::Debug;

use egress_hello::{
    Answer,
    basic::{Credentials, MAX_PASSWORD, MAX_USER, ProxyLogin},
    name::{Host, parse_host},
    postgres::{MAX_STARTUP, error_response, read_first},
    protocol::{MAX_NEEDED, recognise},
    proxy_protocol::{
        self, CHECKSUM, Connection, Header, MAX_V1, MAX_V2, ProxyError, Version, kind,
    },
    socks::{self, Command, MAX_GREETING, MAX_LOGIN, MAX_REQUEST, SocksError},
};

/// The answer to all bytes, and how many of them it took. Every prefix gets the same or `NeedMore`;
/// `most` bytes are always enough.
fn answer_and_need<'a, T, M>(
    bytes: &'a [u8],
    most: usize,
    read: impl Fn(&'a [u8]) -> Answer<T, M>,
) -> (Answer<T, M>, Option<usize>)
where
    T: PartialEq + Debug,
    M: PartialEq + Debug,
{
    let whole = read(bytes);
    assert!(whole != Answer::NeedMore || bytes.len() < most, "no answer at {most} bytes");
    let first = (0..=bytes.len()).find(|&end| {
        let answer = read(&bytes[..end]);
        assert!(answer == Answer::NeedMore || answer == whole, "{answer:?} became {whole:?}");
        answer != Answer::NeedMore
    });
    (whole, first)
}

/// The same, where what was found took its bytes to the last one.
fn same_for_any_cut<'a, T, M>(
    bytes: &'a [u8],
    most: usize,
    read: impl Fn(&'a [u8]) -> Answer<T, M>,
    len: impl Fn(&T) -> usize,
) -> Answer<T, M>
where
    T: PartialEq + Debug,
    M: PartialEq + Debug,
{
    let (whole, first) = answer_and_need(bytes, most, read);
    if let Answer::Found(found) = &whole {
        assert_eq!(Some(len(found)), first);
    }
    whole
}

/// A conversation; and the same bytes as if each message were the first.
pub fn socks(data: &[u8]) {
    let greeting = same_for_any_cut(data, MAX_GREETING, socks::read_greeting, |found| found.len);
    assert_eq!(greeting == Answer::Not, data.first().is_some_and(|&byte| byte != socks::VERSION));
    login(data);
    request(data);
    if let Answer::Found(greeting) = greeting {
        let rest = &data[greeting.len..];
        match login(rest) {
            Some(len) if greeting.password => request(&rest[len..]),
            _ => request(rest),
        }
    }
}

fn login(data: &[u8]) -> Option<usize> {
    match same_for_any_cut(data, MAX_LOGIN, socks::read_login, |found| found.len) {
        Answer::Found(login) => {
            assert!((1..=255).contains(&login.user.len()));
            assert!((1..=255).contains(&login.password.expose().len()));
            assert!(login.password.is(login.password.expose()));
            assert_eq!(login.len, 3 + login.user.len() + login.password.expose().len());
            Some(login.len)
        }
        Answer::NeedMore => None,
        Answer::Malformed(error) => {
            assert!(error.word().starts_with("socks_"));
            None
        }
        Answer::Not => unreachable!("the greeting said that this is SOCKS"),
    }
}

fn request(data: &[u8]) {
    match same_for_any_cut(data, MAX_REQUEST, socks::read_request, |found| found.len) {
        Answer::Found(request) => {
            if let Command::Connect { host, port } = request.command {
                assert_eq!(parse_host(host.to_string().as_bytes()).as_ref(), Ok(&host));
                assert!(port != 0 && data[request.len - 2..request.len] == port.to_be_bytes());
                assert!(!matches!(host, Host::Ip(ip) if ip != ip.to_canonical()));
            }
        }
        Answer::NeedMore => {}
        Answer::Malformed(error) => {
            assert_eq!(error.is_bad_name(), !SocksError::ALL.contains(&error));
            assert!(error.reply() != socks::Reply::Succeeded);
        }
        Answer::Not => unreachable!("the greeting said that this is SOCKS"),
    }
}

/// The value of a Proxy-Authorization field. What was read is written, and read again as the same: no other text stands
/// for it but one that differs in case or blanks of the scheme.
pub fn basic_login(data: &[u8]) {
    let read = |value: &[u8]| ProxyLogin::read(std::iter::once(value));
    let said = read(data);
    assert_eq!(ProxyLogin::read([data, data].into_iter()), ProxyLogin::Unreadable);
    // And as what a client would have to send for these bytes.
    let mut parts = data.splitn(2, |&byte| byte == b':');
    let (user, password) = (parts.next().unwrap_or_default(), parts.next());
    let meant = password.and_then(|password| Credentials::new(user, password));
    assert_eq!(read(&written(data)), meant.map_or(ProxyLogin::Unreadable, ProxyLogin::Basic));
    let ProxyLogin::Basic(found) = said else { return assert_ne!(said, ProxyLogin::Absent) };
    assert!((1..=MAX_USER).contains(&found.user.len()) && !found.user.contains(&b':'));
    assert!(found.password().len() <= MAX_PASSWORD);
    let again = written(&[&found.user, &b":"[..], found.password()].concat());
    assert!(data.trim_ascii().ends_with(&again[b"Basic ".len()..]), "one text has one spelling");
    assert_eq!(read(&again), ProxyLogin::Basic(found));
}

/// RFC 7617 §2, and RFC 4648 §4.
fn written(plain: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = b"Basic ".to_vec();
    for three in plain.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * at) & 63) as usize];
            out.push(if at <= three.len() { digit } else { b'=' });
        }
    }
    out
}

/// Which protocol it is, and PostgreSQL's first message.
pub fn first_bytes(data: &[u8]) {
    answer_and_need(data, MAX_NEEDED, recognise);
    same_for_any_cut(data, MAX_STARTUP, read_first, |found| found.len);
    let text = String::from_utf8_lossy(data);
    let told = error_response("28000", &text, &text);
    let (end, rest) =
        told.split_last_chunk::<2>().map_or(([1; 2], &told[..0]), |(rest, end)| (*end, rest));
    assert!(end == [0; 2] && !rest[5..].windows(2).any(|two| two == [0; 2]));
}

/// A header that was read is written and read again; a checksum that is added changes nothing else.
pub fn proxy_header(data: &[u8]) {
    let most = MAX_V1.max(MAX_V2);
    let answer = same_for_any_cut(data, most, proxy_protocol::read, |found| found.len);
    let Answer::Found(header) = answer else { return };
    assert!(header.len <= if header.version == Version::One { MAX_V1 } else { MAX_V2 });
    for kind in [kind::ALPN, kind::AUTHORITY, kind::CRC32C, kind::UNIQUE_ID, kind::SSL, kind::NETNS]
    {
        assert!(header.tlvs.iter().filter(|tlv| tlv.kind == kind).count() <= 1, "{kind} twice");
    }
    if let Ok(Some(ssl)) = header.ssl() {
        assert!(ssl.verified || ssl.common_name().is_none());
        assert!(ssl.tlvs.iter().filter(|tlv| tlv.kind == kind::SSL_CN).count() <= 1);
    }
    rewrite(&header);
}

/// Of a header of version 2 (§2.2).
const FIRST_ADDRESS_BYTE: usize = 16;

fn rewrite(header: &Header<'_>) {
    let Connection::Tcp { source, destination } = header.connection else { return };
    let mut line = Vec::new();
    proxy_protocol::write_v1(source, destination, &mut line);
    let again = proxy_protocol::read(&line);
    assert!(matches!(again, Answer::Found(again) if again.connection == header.connection));

    let mut tlvs: Vec<_> = header.tlvs.iter().filter(|tlv| tlv.kind != kind::CRC32C).collect();
    tlvs.push(CHECKSUM);
    let mut binary = Vec::new();
    match proxy_protocol::write_v2(source, destination, &tlvs, &mut binary) {
        // An IPv4 address beside an IPv6 one takes the room of one, and a checksum seven bytes.
        Err(error) => assert!(error == ProxyError::TooLong && header.len > MAX_V2 - 32),
        Ok(()) => {
            let Answer::Found(again) = proxy_protocol::read(&binary) else {
                unreachable!("what was written is read")
            };
            assert_eq!((again.connection, again.len), (header.connection, binary.len()));
            assert!(
                again
                    .tlvs
                    .iter()
                    .filter(|tlv| tlv.kind != kind::CRC32C)
                    .eq(header.tlvs.iter().filter(|tlv| tlv.kind != kind::CRC32C))
            );
            let mut broken = binary.clone();
            broken[FIRST_ADDRESS_BYTE] ^= 1;
            assert_eq!(proxy_protocol::read(&broken), Answer::Malformed(ProxyError::Checksum));
        }
    }
}
