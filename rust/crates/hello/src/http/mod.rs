//! Plain HTTP/1 messages as a forward proxy reads, judges and forwards them (RFC 9110, RFC 9112).
//!
//! [`RequestReader`] says what the client asks for, and [`rewrite_request`] writes the head for the
//! origin; [`ResponseReader`] and [`rewrite_response`] do the same the other way; [`Body`] says which
//! bytes after a head belong to the message. Bodies are forwarded as they are, chunks too, so a
//! request keeps its version: what is chunked for HTTP/1.1 is not readable for HTTP/1.0.
//!
//! What is judged here must be what the origin reads. So whatever two readers could read in two ways
//! is refused, and what is forwarded is written in one way: the target is a path, Host is the judged
//! one, framing is said once. Fields for one connection only do not pass (RFC 9110 §7.6.1). `Trailer` and
//! trailer fields do (§6.6.2).
//!
//! `Via` is not added, against §7.6.3: it would tell every origin about the gateway. What it is for, to find
//! loops, is done by never dialling one's own listeners; Max-Forwards is counted down.
//!
//! `CONNECT` is read by [`connect`](crate::connect).
mod body;
mod error;
mod framing;
mod hops;
mod lenient;
mod request;
mod response;
mod rewrite;
mod target;
mod trailer;

pub use body::Body;
pub use error::HttpError;
pub use framing::Framing;
pub use lenient::LenientReader;
pub use request::{Asked, Request, RequestHead, RequestReader, read_request};
pub use response::{Response, ResponseReader, read_response};
pub use rewrite::{MAX_GROWTH, rewrite_request, rewrite_response};

pub use crate::head::{HeadFault, MAX_HEAD, MAX_HEADERS, Preference};

/// The port of an http URI without one (RFC 9110 §4.2.1).
pub const DEFAULT_PORT: u16 = 80;
