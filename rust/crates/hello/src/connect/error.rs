//! How a CONNECT head can be malformed, each way with a word of its own.
use crate::{errors::errors, head::HeadFault, name::AuthorityError};

errors! {
    /// Why an HTTP request head is not a CONNECT to follow. The fault is the client's.
    HeadError, from
        /// It is not the head of a request; the words are those of [`HeadFault`].
        Head(HeadFault) "head", from
        /// The request target is not `host:port`; the words are those of [`AuthorityError`].
        Authority(AuthorityError) "request target";
    /// A whole, sound request of another method: the one to answer with 405.
    MethodNotConnect "method_not_connect" "the request's method is not CONNECT",
    HostDiffers "host_differs" "the Host header field names another host or port than the request target",
    ContentLength "content_length" "a Content-Length other than 0 announces a body",
    TransferEncoding "transfer_encoding" "a Transfer-Encoding announces a body",
}

impl HeadError {
    /// The head as such is sound, but what it names is not a host and a port.
    pub const fn is_bad_name(self) -> bool {
        matches!(self, Self::Authority(_))
    }
}

impl From<HeadFault> for HeadError {
    fn from(fault: HeadFault) -> Self {
        Self::Head(fault)
    }
}
