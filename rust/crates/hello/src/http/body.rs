//! Which bytes after a head belong to its message.
use super::{Framing, HttpError, MAX_HEAD, MAX_HEADERS, trailer::TrailerName};
use crate::head::{is_token_byte, is_value_byte};

/// Most digits of a chunk's size: 2^52 - 1 is the last number that a reader which holds it as a
/// floating-point number holds exactly.
const MAX_SIZE_DIGITS: u8 = 13;

/// Most bytes of all chunk extensions of a body. Nobody reads them, so they are for hiding in.
const MAX_EXTENSIONS: usize = 16 * 1024;

/// Where a body is, as its bytes pass. They are looked at and forwarded as they are.
///
/// Chunks are read strictly (RFC 9112 §7.1): no white space around a size, CR LF only, and only text in
/// extensions. A reader that ends such a line elsewhere finds other chunks, and other requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    state: State,
    /// Bytes of the length or of the chunk that are still to come.
    left: u64,
    /// Bytes of extensions so far, then bytes of the trailer section.
    extra: usize,
    trailers: usize,
    name: TrailerName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ended,
    Broken(HttpError),
    UntilClose,
    Length,
    /// With the number of digits so far.
    Size(u8),
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
}

impl Body {
    /// A body at its first byte.
    pub fn new(framing: Framing) -> Self {
        let (state, left) = match framing {
            Framing::None | Framing::Length(0) => (State::Ended, 0),
            Framing::Length(length) => (State::Length, length),
            Framing::Chunked => (State::Size(0), 0),
            Framing::UntilClose => (State::UntilClose, 0),
        };
        Self { state, left, extra: 0, trailers: 0, name: TrailerName::default() }
    }

    /// How many of these next bytes belong to the message: all of them, unless it ends among them.
    ///
    /// # Errors
    /// See [`HttpError`]; none of the bytes may then be forwarded, and both connections must be closed.
    /// The error stays.
    pub fn pass(&mut self, bytes: &[u8]) -> Result<usize, HttpError> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.state {
                State::Ended => break,
                State::Broken(error) => return Err(error),
                State::UntilClose => return Ok(bytes.len()),
                State::Length | State::Data => {
                    let rest = bytes.len() - at;
                    let taken = usize::try_from(self.left).map_or(rest, |left| left.min(rest));
                    self.skip(taken as u64);
                    at += taken;
                }
                state => {
                    self.state = self.step(state, byte).unwrap_or_else(State::Broken);
                    at += 1;
                }
            }
        }
        match self.state {
            State::Broken(error) => Err(error),
            _ => Ok(at),
        }
    }

    /// How many of the next bytes belong to the message whatever they are: those may be forwarded
    /// unseen, and [`skip`](Self::skip) is told of them.
    pub fn unseen(&self) -> u64 {
        match self.state {
            State::UntilClose => u64::MAX,
            State::Length | State::Data => self.left,
            _ => 0,
        }
    }

    /// Counts bytes that passed unseen, at most [`unseen`](Self::unseen).
    pub fn skip(&mut self, passed: u64) {
        self.left = self.left.saturating_sub(passed);
        self.state = match self.state {
            State::Length if self.left == 0 => State::Ended,
            State::Data if self.left == 0 => State::DataCr,
            other => other,
        };
    }

    /// The message has ended: what comes next belongs to another one.
    pub fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// If the connection is closed now, the message is whole. If not, it was cut off, and the one to whom
    /// it was forwarded must not be told that it has ended.
    pub fn is_whole_at_close(&self) -> bool {
        matches!(self.state, State::Ended | State::UntilClose)
    }

    /// The state after a byte of what is around the data.
    fn step(&mut self, state: State, byte: u8) -> Result<State, HttpError> {
        match (state, byte) {
            (State::Size(digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == MAX_SIZE_DIGITS {
                    return Err(HttpError::ChunkSize);
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.left = self.left << 4 | u64::from(digit);
                Ok(State::Size(digits + 1))
            }
            (State::Size(1..), b';') => self.extension(),
            (State::Size(1..) | State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Size(_), _) => Err(HttpError::ChunkSize),
            (State::Extension, byte) if is_value_byte(byte) => self.extension(),
            (State::Extension, _) => Err(HttpError::ChunkExtension),
            (State::SizeLf, b'\n') if self.left == 0 => {
                self.extra = 0;
                Ok(State::TrailerStart)
            }
            (State::SizeLf, b'\n') => Ok(State::Data),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size(0)),
            (State::SizeLf | State::DataCr | State::DataLf, _) => Err(HttpError::ChunkEnd),
            (State::LastLf, b'\n') => Ok(State::Ended),
            (state, byte) => self.trailer(state, byte),
        }
    }

    fn extension(&mut self) -> Result<State, HttpError> {
        self.extra += 1;
        if self.extra > MAX_EXTENSIONS {
            return Err(HttpError::ChunkExtension);
        }
        Ok(State::Extension)
    }

    /// RFC 9112 §7.1.2: a field a line, and an empty line at the end.
    fn trailer(&mut self, state: State, byte: u8) -> Result<State, HttpError> {
        self.extra += 1;
        if self.extra > MAX_HEAD {
            return Err(HttpError::TrailersLarge);
        }
        match (state, byte) {
            (State::TrailerStart, b'\r') => Ok(State::LastLf),
            (State::TrailerStart, byte) if is_token_byte(byte) => {
                self.trailers += 1;
                if self.trailers > MAX_HEADERS {
                    return Err(HttpError::TrailersLarge);
                }
                self.name = TrailerName::default();
                self.name.push(byte);
                Ok(State::TrailerName)
            }
            (State::TrailerName, b':') if self.name.is_forbidden() => Err(HttpError::TrailerName),
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerName, byte) if is_token_byte(byte) => {
                self.name.push(byte);
                Ok(State::TrailerName)
            }
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, byte) if is_value_byte(byte) => Ok(State::TrailerValue),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            _ => Err(HttpError::Trailer),
        }
    }
}
