//! How a message can be malformed, each way with a word of its own.
use crate::{errors::errors, head::HeadFault, name::AuthorityError};

errors! {
    /// Why bytes are not a message to forward. The fault is that of whoever sent them: the client's
    /// for a request, the origin's for a response.
    HttpError, from
        /// The head is none; the words are those of [`HeadFault`].
        Head(HeadFault) "head", from
        /// What the target, or the Host of a target without one, names is not a host and a port; the
        /// words are those of [`AuthorityError`].
        Authority(AuthorityError) "destination";
    // Request heads.
    TargetForm "target_form" "the request target is neither a path nor an http URI",
    TargetByte "target_byte" "the request target holds a byte that no URI holds, or a fragment",
    SchemeNotHttp "scheme_not_http" "the request target is a URI of another scheme than http",
    UserInfo "user_info" "the request target holds user information",
    HostMissing "host_missing" "there is no Host header field",
    ExpectOther "expect_other" "an Expect header field is not 100-continue, once",
    /// Also what cannot be counted down: whoever sends this wants an answer from here.
    MaxForwards "max_forwards" "Max-Forwards forbids to forward the request, or is not one number",
    // Heads of both.
    ContentLength "content_length" "a Content-Length is not one number in digits, without a leading zero",
    ContentLengthsDiffer "content_lengths_differ" "there are two Content-Lengths, and they differ",
    LengthAndCoding "length_and_coding" "there are both a Content-Length and a Transfer-Encoding",
    TransferEncoding "transfer_encoding" "the Transfer-Encoding is not chunked, once",
    TransferEncoding10 "transfer_encoding_10" "a message of HTTP/1.0 has a Transfer-Encoding",
    ConnectionOption "connection_option" "a Connection header field holds what is no token, or there are more than 16",
    ConnectionNames "connection_names" "a Connection header field names a field that is not for one connection only",
    // Response heads.
    StatusOther "status_other" "the status is below 100",
    SwitchUnasked "switch_unasked" "the origin switches to a protocol that it was not asked for",
    NewerThanAsked "newer_than_asked" "the response is interim or chunked, which a client of HTTP/1.0 cannot read",
    // Bodies.
    ChunkSize "chunk_size" "a chunk's size is not 1 to 13 hexadecimal digits",
    ChunkExtension "chunk_extension" "a chunk extension holds a control byte, or all of them are longer than 16 KiB",
    ChunkEnd "chunk_end" "a chunk, or the line before it, does not end with CR LF",
    Trailer "trailer" "the trailer section holds what is not a field and a line end",
    TrailerName "trailer_name" "a trailer field has a name that only header fields may have",
    TrailersLarge "trailers_large" "the trailer section is longer than 16 KiB, or has more than 64 fields",
}

impl HttpError {
    /// The message as such is sound, but what it names is not a host and a port.
    pub const fn is_bad_name(self) -> bool {
        matches!(self, Self::Authority(_))
    }
}

impl From<HeadFault> for HttpError {
    fn from(fault: HeadFault) -> Self {
        Self::Head(fault)
    }
}
