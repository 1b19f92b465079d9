//! From the bytes that have come to what the head asks for.
use super::{ConnectHead, HeadError, head};
use crate::{
    Answer,
    head::{HeadEnd, Start},
};

/// Reads a CONNECT head from bytes that arrive in pieces.
///
/// The search for the blank line goes on where it stopped, and the head is parsed once, when all of
/// it is there.
#[derive(Debug, Clone, Default)]
pub struct HeadReader(HeadEnd);

impl HeadReader {
    /// A reader at byte 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on. `first_bytes` are all bytes so far, from byte 0 of the connection; they only ever
    /// grow between two calls. Once an answer other than `NeedMore` is given, it stays the answer.
    ///
    /// `Not` is said at the first byte that no request line of a method in capitals can hold; a
    /// sound request of another method is `Malformed(MethodNotConnect)`.
    pub fn read(&mut self, first_bytes: &[u8]) -> Answer<ConnectHead, HeadError> {
        match self.0.find(Start::Request, first_bytes) {
            Answer::NeedMore => Answer::NeedMore,
            Answer::Not => Answer::Not,
            Answer::Malformed(fault) => Answer::Malformed(fault.into()),
            Answer::Found(whole) => match head::parse(whole) {
                Ok(found) => Answer::Found(found),
                Err(error) => Answer::Malformed(error),
            },
        }
    }
}
