//! What must hold for any bytes. The fuzz targets and the replay test of the hello crate share it.
use std::fmt::Debug;

use egress_hello::{
    Answer,
    connect::{HeadReader, MAX_HEAD, MAX_HEADERS},
    name::{Host, MAX_LABEL, MAX_NAME, parse_authority, parse_host},
    tls::{HelloReader, MAX_FIRST_BYTES},
};

/// The first two bytes say where to cut, the others are the client's.
fn cut(data: &[u8]) -> (usize, &[u8]) {
    match data {
        [high, low, bytes @ ..] => {
            (usize::from(u16::from_be_bytes([*high, *low])) % (bytes.len() + 1), bytes)
        }
        short => (0, short),
    }
}

/// The answer is the same for one piece, for two, and for one byte at a time; once given it stays.
/// One byte at a time stops at the answer, or after a number of bytes that keeps the check quick.
fn same_for_any_cut<T, M, R>(
    data: &[u8],
    most: usize,
    reader: impl Fn() -> R,
    read: impl Fn(&mut R, &[u8]) -> Answer<T, M>,
) where
    Answer<T, M>: PartialEq + Debug,
{
    const STEPS: usize = 4096;
    let (at, bytes) = cut(data);
    let whole = read(&mut reader(), bytes);
    assert!(whole != Answer::NeedMore || bytes.len() < most, "no answer at {most} bytes");

    let mut halves = reader();
    let first = read(&mut halves, &bytes[..at]);
    let second = read(&mut halves, bytes);
    assert!(first == Answer::NeedMore || first == second, "{first:?} became {second:?}");
    assert_eq!(second, whole);

    let mut single = reader();
    for end in 0..=bytes.len().min(STEPS) {
        let answer = read(&mut single, &bytes[..end]);
        if answer != Answer::NeedMore {
            assert_eq!(answer, whole);
            break;
        }
    }
    assert_eq!(read(&mut single, bytes), whole);
}

pub fn tls_hello(data: &[u8]) {
    same_for_any_cut(data, MAX_FIRST_BYTES, HelloReader::new, HelloReader::read);
    if let Answer::Found(hello) = HelloReader::new().read(cut(data).1) {
        if let Some(name) = hello.sni.name() {
            normal(&Host::Name(name.clone()));
        }
        assert!(hello.alpn.iter().count() <= usize::from(hello.alpn.offered()));
    }
}

pub fn connect_head(data: &[u8]) {
    same_for_any_cut(data, MAX_HEAD, HeadReader::new, HeadReader::read);
    let bytes = cut(data).1;
    if let Answer::Found(head) = HeadReader::new().read(bytes) {
        normal(&head.host);
        assert!(head.port != 0);
        let text = &bytes[..head.head_len];
        assert!(text.starts_with(b"CONNECT ") && text.ends_with(b"\r\n\r\n"));
        assert!(text.iter().filter(|&&byte| byte == b'\n').count() <= MAX_HEADERS + 2);
        assert_eq!(text.windows(4).filter(|part| part == b"\r\n\r\n").count(), 1);
    }
}

pub fn host_name(data: &[u8]) {
    if let Ok(host) = parse_host(data) {
        normal(&host);
    }
    if let Ok((host, port)) = parse_authority(data) {
        normal(&host);
        let text = match &host {
            Host::Ip(ip) if ip.is_ipv6() => format!("[{ip}]:{port}"),
            other => format!("{other}:{port}"),
        };
        assert_eq!(parse_authority(text.as_bytes()), Ok((host, port)));
    }
}

/// A host that came out of the normaliser is what its type promises, and goes in again unchanged.
fn normal(host: &Host) {
    assert_eq!(parse_host(host.to_string().as_bytes()).as_ref(), Ok(host));
    if let Host::Name(name) = host {
        assert!(name.as_bytes().len() <= MAX_NAME);
        for label in name.as_str().split('.') {
            assert!((1..=MAX_LABEL).contains(&label.len()));
            assert!(
                label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
            );
        }
        assert!(name.as_str().parse::<std::net::IpAddr>().is_err());
    }
}
