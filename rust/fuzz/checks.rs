//! What must hold for any bytes. The fuzz targets and the replay test of the hello crate share it.
use std::fmt::Debug;

use egress_hello::{
    Answer,
    connect::{HeadReader, MAX_HEAD, MAX_HEADERS},
    http::{
        Asked, Body, Framing, HeadFault, HttpError, LenientReader, MAX_GROWTH, Request,
        RequestHead, RequestReader, Response, ResponseReader, read_request, read_response,
        rewrite_request, rewrite_response,
    },
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

/// The first byte says what a response answers, and whether the connection is closed after it. The bytes
/// are then taken for a request, a response, and chunks.
pub fn http_messages(data: &[u8]) {
    let Some((&flags, data)) = data.split_first() else { return };
    let asked = Asked { head: flags & 1 != 0, upgrade: flags & 2 != 0, http_10: flags & 4 != 0 };
    let close = flags & 8 != 0;
    same_for_any_cut(data, MAX_HEAD, RequestReader::new, RequestReader::read);
    same_for_any_cut(data, MAX_HEAD, ResponseReader::new, |reader, bytes| {
        reader.read(bytes, asked)
    });
    same_for_any_cut(
        data,
        MAX_HEAD,
        || (LenientReader::default(), 0),
        |(reader, seen), bytes| {
            let new = &bytes[*seen..];
            *seen = bytes.len();
            reader.read(new)
        },
    );
    let (at, bytes) = cut(data);
    body(Framing::Chunked, bytes, at);
    if matches!(read_request(bytes), Answer::Found(_)) {
        assert_eq!(LenientReader::default().read(bytes), Answer::Found(()));
    }
    match read_request(bytes) {
        Answer::Found(RequestHead::Request(request)) => forwarded(bytes, &request, close),
        Answer::Found(RequestHead::TwoHosts { request, field, field_port }) => {
            assert!(request.host != field || field_port.is_some_and(|port| port != request.port));
            normal(&field);
            forwarded(bytes, &request, close);
        }
        _ => {}
    }
    if let Answer::Found(response) = read_response(bytes, asked) {
        returned(bytes, &response, asked, close);
    }
}

/// What the origin reads is what was judged, and writing it again changes nothing.
fn forwarded(bytes: &[u8], request: &Request, close: bool) {
    normal(&request.host);
    assert!(request.port != 0 && request.framing != Framing::UntilClose);
    body(request.framing, &bytes[request.head_len..], 7);
    let mut out = Vec::new();
    rewrite_request(bytes, request, close, &mut out);
    one_head(&out, request.head_len);
    let read = match read_request(&out) {
        Answer::Found(RequestHead::Request(read)) => read,
        // The last forward that was allowed.
        Answer::Malformed(HttpError::MaxForwards) => {
            assert!(out.windows(19).any(|part| part == b"\r\nMax-Forwards: 0\r\n"));
            return;
        }
        Answer::Malformed(HttpError::Head(fault)) => {
            return grown(fault, &bytes[..request.head_len]);
        }
        other => unreachable!("{other:?}: {}", out.escape_ascii()),
    };
    assert_eq!((&read.host, read.port), (&request.host, request.port));
    assert_eq!((read.framing, read.asked), (request.framing, request.asked));
    assert_eq!(read.expects_continue, request.expects_continue);
    assert_eq!(read.keep_alive, !read.asked.http_10 && (!close || read.asked.upgrade));
    let mut again = Vec::new();
    rewrite_request(&out, &read, close, &mut again);
    if !out.windows(13).any(|part| part == b"Max-Forwards:") {
        assert_eq!(again, out);
    }
}

/// What the client reads is what was read here, and writing it again changes nothing.
fn returned(bytes: &[u8], response: &Response, asked: Asked, close: bool) {
    assert!(!response.is_switch() || asked.upgrade);
    assert!(!(response.is_switch() && response.is_interim()));
    assert!(!response.keep_alive || response.framing != Framing::UntilClose);
    body(response.framing, &bytes[response.head_len..], 7);
    let mut out = Vec::new();
    rewrite_response(bytes, response, close, &mut out);
    one_head(&out, response.head_len);
    let read = match read_response(&out, asked) {
        Answer::Found(read) => read,
        Answer::Malformed(HttpError::Head(fault)) => {
            return grown(fault, &bytes[..response.head_len]);
        }
        other => unreachable!("{other:?}: {}", out.escape_ascii()),
    };
    assert_eq!((read.status, read.framing), (response.status, response.framing));
    let mut again = Vec::new();
    rewrite_response(&out, &read, close, &mut again);
    assert_eq!(again, out);
}

/// Only what was nearly too large, or had as many fields as may be, cannot be read again.
fn grown(fault: HeadFault, from: &[u8]) {
    match fault {
        HeadFault::TooLarge => assert!(from.len() + MAX_GROWTH > MAX_HEAD),
        HeadFault::HeadersMany => {
            assert!(from.iter().filter(|&&byte| byte == b'\n').count() > MAX_HEADERS);
        }
        fault => unreachable!("{fault}: {}", from.escape_ascii()),
    }
}

/// One blank line, at the end, none of the fields that do not pass, and those of framing once.
fn one_head(out: &[u8], from: usize) {
    assert!(out.ends_with(b"\r\n\r\n") && out.len() <= from + MAX_GROWTH);
    assert_eq!(out.windows(4).filter(|part| part == b"\r\n\r\n").count(), 1);
    let text = out.to_ascii_lowercase();
    let count = |name: &str| {
        text.split(|&byte| byte == b'\n').filter(|line| line.starts_with(name.as_bytes())).count()
    };
    for name in ["proxy-authorization:", "proxy-authenticate:", "proxy-connection:", "keep-alive:"]
    {
        assert_eq!(count(name), 0);
    }
    assert_eq!(count("te:") + count("http2-settings:"), 0);
    assert!(count("content-length:") + count("transfer-encoding:") <= 1);
    assert!(count("connection:") <= 1);
}

/// One piece, two, and single bytes find the same end; chunks end where another way to read them does.
fn body(framing: Framing, bytes: &[u8], at: usize) {
    let mut whole = Body::new(framing);
    let passed = whole.pass(bytes);
    let (first, second) = bytes.split_at(at.min(bytes.len()));
    let mut halves = Body::new(framing);
    let cut = halves.pass(first).and_then(|taken| Ok(taken + halves.pass(second)?));
    assert_eq!((&cut, &halves), (&passed, &whole));
    let mut single = Body::new(framing);
    let slow = bytes.chunks(1).try_fold(0, |taken, byte| Ok(taken + single.pass(byte)?));
    assert_eq!((&slow, &single), (&passed, &whole));
    if let (Framing::Chunked, Ok(length)) = (framing, passed) {
        assert!(length == bytes.len() || whole.has_ended());
        if whole.has_ended() {
            assert_eq!(end_of_chunks(bytes), Some(length));
        }
    }
}

fn end_of_chunks(bytes: &[u8]) -> Option<usize> {
    let line = |at: usize| {
        let end = at + bytes.get(at..)?.windows(2).position(|part| part == b"\r\n")?;
        Some((&bytes[at..end], end + 2))
    };
    let mut at = 0;
    loop {
        let (size, after) = line(at)?;
        let digits = std::str::from_utf8(size.split(|&byte| byte == b';').next()?).ok()?;
        let size = usize::from_str_radix(digits, 16).ok()?;
        at = after;
        if size == 0 {
            break;
        }
        at += size + 2;
        assert_eq!(bytes.get(at - 2..at), Some(&b"\r\n"[..]));
    }
    loop {
        let (field, after) = line(at)?;
        at = after;
        if field.is_empty() {
            return Some(at);
        }
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
