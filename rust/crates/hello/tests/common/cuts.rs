//! Readers that keep no position: the answer to every prefix is that to the whole, or `NeedMore`.
#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(clippy::panic, reason = "a failed test says what it got")]

use std::fmt::Debug;

use egress_hello::Answer;

/// The answer to all bytes, once every prefix was found to agree with it.
pub fn read_cut<'a, T, M>(bytes: &'a [u8], read: impl Fn(&'a [u8]) -> Answer<T, M>) -> Answer<T, M>
where
    T: PartialEq + Debug,
    M: PartialEq + Debug,
{
    let whole = read(bytes);
    for end in 0..bytes.len() {
        let answer = read(&bytes[..end]);
        assert!(
            answer == Answer::NeedMore || answer == whole,
            "{answer:?} at byte {end} became {whole:?}"
        );
    }
    whole
}

/// What was found, and that no byte less would have been enough.
pub fn found_whole<'a, T, M>(bytes: &'a [u8], read: impl Fn(&'a [u8]) -> Answer<T, M>) -> T
where
    T: PartialEq + Debug,
    M: PartialEq + Debug,
{
    let before = &bytes[..bytes.len() - 1];
    assert_eq!(read(before), Answer::NeedMore, "{}", before.escape_ascii());
    match read_cut(bytes, read) {
        Answer::Found(found) => found,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

/// The error's word, or the answer's name.
pub fn word<T, M>(answer: Answer<T, M>, word: impl Fn(M) -> &'static str) -> &'static str {
    match answer {
        Answer::Malformed(error) => word(error),
        Answer::Not => "not",
        Answer::NeedMore => "need_more",
        Answer::Found(_) => "found",
    }
}
