//! The end of a body is found at its last byte, however the bytes are cut.
#[path = "common/http.rs"]
mod http;

use egress_hello::http::*;
use http::*;
use proptest::{collection::vec, prelude::*};

const CHUNKED: &[&str] = &[
    "0\r\n\r\n",
    "0000000000000\r\n\r\n",
    "5\r\nhello\r\n0\r\n\r\n",
    "5\r\n\r\n0\r\n\r\n0\r\n\r\n",
    "00a\r\n0123456789\r\nA\r\n0123456789\r\n000\r\n\r\n",
    "5;a=b;c=\"d;\t\u{e9}\"\r\nhello\r\n0;last\r\n\r\n",
    "5;\r\nhello\r\n0\r\nX: y\r\nDigest:\r\nA-very-long-name-of-a-field: \u{e9}\t;\r\n\r\n",
    "1\r\n\0\r\n0\r\nContent-Length-X: 5\r\nHosts: a\r\n\r\n",
];

/// What may come after a message: nothing of it belongs to it.
const AFTER: &[&[u8]] = &[b"", b"\r\n", b"GET / HTTP/1.1\r\n\r\n", b"0\r\n\r\n", b"\0"];

/// The body ends at its last byte for any cut in two, for single bytes, and with anything after it.
fn ends_there(framing: Framing, body: &[u8]) {
    for after in AFTER {
        let bytes = [body, after].concat();
        for cut in 0..=bytes.len() {
            let (passed, state) = pass(framing, &bytes, &[cut]);
            assert_eq!(passed, Ok(body.len()));
            assert!(state.has_ended() && state.is_whole_at_close() && state.unseen() == 0);
        }
        assert_eq!(pass(framing, &bytes, &vec![1; bytes.len()]).0, Ok(body.len()));
    }
    for end in 0..body.len() {
        let (passed, state) = pass(framing, &body[..end], &[]);
        assert_eq!(passed, Ok(end));
        assert!(!state.has_ended() && !state.is_whole_at_close());
    }
}

#[test]
fn chunks_end_with_the_trailer_section() {
    for body in CHUNKED {
        ends_there(Framing::Chunked, body.as_bytes());
    }
}

#[test]
fn a_length_is_counted() {
    for length in [0, 1, 5, 100] {
        ends_there(Framing::Length(length as u64), &vec![b'0'; length]);
    }
    ends_there(Framing::None, b"");
}

#[test]
fn until_close_all_bytes_belong() {
    let (passed, body) = pass(Framing::UntilClose, b"0\r\n\r\n", &[2, 1]);
    assert_eq!(passed, Ok(5));
    assert!(!body.has_ended() && body.is_whole_at_close());
    assert_eq!(body.unseen(), u64::MAX);
}

#[test]
fn long_bodies_pass_unseen() {
    let mut body = Body::new(Framing::Length(1 << 40));
    assert_eq!(body.pass(b"hello"), Ok(5));
    assert_eq!(body.unseen(), (1 << 40) - 5);
    body.skip(body.unseen() - 1);
    assert_eq!(body.pass(b"!GET"), Ok(1));
    assert!(body.has_ended());

    let mut body = Body::new(Framing::Chunked);
    assert_eq!((body.unseen(), body.pass(b"fFfFfFfFfFfFf\r")), (0, Ok(14)));
    assert_eq!((body.unseen(), body.pass(b"\n")), (0, Ok(1)));
    assert_eq!(body.unseen(), (1 << 52) - 1);
    body.skip(body.unseen());
    assert_eq!(body.unseen(), 0);
    assert_eq!(body.pass(b"\r\n0\r\n\r\nGET"), Ok(7));
    assert!(body.has_ended());

    let mut body = Body::new(Framing::UntilClose);
    body.skip(u64::MAX);
    assert_eq!(body.unseen(), u64::MAX);
}

#[test]
fn the_most_that_is_allowed_passes() {
    let extension = format!("0;{}\r\n\r\n", "a".repeat(16 * 1024 - 1));
    let fields = format!("0\r\n{}\r\n", "X: y\r\n".repeat(MAX_HEADERS));
    let trailer = format!("0\r\nX:{}\r\n\r\n", "y".repeat(MAX_HEAD - 5));
    for body in [extension, fields, trailer] {
        let (passed, state) = pass(Framing::Chunked, body.as_bytes(), &[]);
        assert_eq!(passed, Ok(body.len()));
        assert!(state.has_ended());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_chunked_ends_where_it_was_ended(
        chunks in vec((vec(any::<u8>(), 1..40), "(;[ -~]{0,9})?"), 0..6),
        trailers in vec("X[a-z]{0,30}: [ -~]{0,20}", 0..4),
        after in vec(any::<u8>(), 0..20),
        pieces in vec(0_usize..20, 0..12),
    ) {
        let mut body = Vec::new();
        for (data, extension) in &chunks {
            body.extend_from_slice(format!("{:x}{extension}\r\n", data.len()).as_bytes());
            body.extend_from_slice(data);
            body.extend_from_slice(b"\r\n");
        }
        let section: String = trailers.iter().map(|field| format!("{field}\r\n")).collect();
        body.extend_from_slice(format!("0\r\n{section}\r\n").as_bytes());
        let (passed, state) = pass(Framing::Chunked, &[&body[..], &after].concat(), &pieces);
        prop_assert_eq!(passed, Ok(body.len()));
        prop_assert!(state.has_ended());
    }

    #[test]
    fn noise_is_judged_alike_for_any_cut(
        bytes in "([0-9a-f]{1,2}(;a)?\r?\n?[ -~]{0,12}\r?\n?){0,5}",
        pieces in vec(0_usize..20, 0..12),
    ) {
        let (whole, _) = pass(Framing::Chunked, bytes.as_bytes(), &[]);
        let (cut, _) = pass(Framing::Chunked, bytes.as_bytes(), &pieces);
        prop_assert_eq!(whole, cut);
    }
}
