//! Reads, cuts up and forwards HTTP messages.
#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(clippy::panic, reason = "a failed test says what it got")]

use std::fmt::Debug;

use egress_hello::{Answer, http::*};

/// The answer to all bytes, once a reader that got them one at a time and readers of prefixes agreed.
pub fn at_any_cut<T, M, R>(
    bytes: &[u8],
    reader: impl Fn() -> R,
    read: impl Fn(&mut R, &[u8]) -> Answer<T, M>,
) -> Answer<T, M>
where
    Answer<T, M>: PartialEq + Debug,
{
    let whole = read(&mut reader(), bytes);
    let (mut slow, mut answered) = (reader(), false);
    for end in 0..=bytes.len() {
        let answer = read(&mut slow, &bytes[..end]);
        assert!(
            answer == whole || (!answered && answer == Answer::NeedMore),
            "{answer:?} at {end}"
        );
        answered |= answer != Answer::NeedMore;
    }
    for end in (0..bytes.len()).step_by(1 + bytes.len() / 500) {
        let answer = read(&mut reader(), &bytes[..end]);
        assert!(answer == whole || answer == Answer::NeedMore, "{answer:?} at {end}");
    }
    whole
}

pub fn read(bytes: &[u8]) -> Answer<RequestHead, HttpError> {
    let answer = at_any_cut(bytes, RequestReader::new, RequestReader::read);
    assert_eq!(answer, read_request(bytes));
    answer
}

pub fn read_for(bytes: &[u8], asked: Asked) -> Answer<Response, HttpError> {
    let answer = at_any_cut(bytes, ResponseReader::new, |reader, bytes| reader.read(bytes, asked));
    assert_eq!(answer, read_response(bytes, asked));
    answer
}

pub fn request(bytes: &[u8]) -> Request {
    match read(bytes) {
        Answer::Found(RequestHead::Request(request)) => request,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

pub fn response(bytes: &[u8], asked: Asked) -> Response {
    match read_for(bytes, asked) {
        Answer::Found(response) => response,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

/// The head as the origin gets it.
pub fn forwarded(text: &str, close: bool) -> String {
    let mut out = Vec::new();
    rewrite_request(text.as_bytes(), &request(text.as_bytes()), close, &mut out);
    String::from_utf8(out).expect("text")
}

/// The head as the client gets it.
pub fn returned(text: &str, asked: Asked, close: bool) -> String {
    let mut out = Vec::new();
    rewrite_response(text.as_bytes(), &response(text.as_bytes(), asked), close, &mut out);
    String::from_utf8(out).expect("text")
}

/// Passes the bytes in pieces of these lengths, the rest in one: how many belonged to the message, and
/// the body after them.
pub fn pass(framing: Framing, bytes: &[u8], pieces: &[usize]) -> (Result<usize, HttpError>, Body) {
    let mut body = Body::new(framing);
    let (mut rest, mut passed) = (bytes, 0);
    for &length in pieces.iter().chain([&bytes.len()]) {
        let (piece, later) = rest.split_at(length.min(rest.len()));
        match body.pass(piece) {
            Err(error) => return (Err(error), body),
            Ok(taken) => {
                passed += taken;
                assert!(taken == piece.len() || body.has_ended());
            }
        }
        if body.has_ended() {
            break;
        }
        rest = later;
    }
    (Ok(passed), body)
}
