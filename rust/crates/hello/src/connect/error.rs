//! How a CONNECT head can be malformed, each way with a word of its own.
use std::fmt;

use crate::name::AuthorityError;

macro_rules! errors {
    ($($(#[$doc:meta])* $variant:ident $word:literal $text:literal,)+) => {
        /// Why an HTTP request head is not a CONNECT to follow. The fault is the client's.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum HeadError {
            $($(#[$doc])* #[doc = concat!("`", $word, "`: ", $text, ".")] $variant,)+
            /// The request target is not `host:port`; the words are those of [`AuthorityError`].
            Authority(AuthorityError),
        }

        impl HeadError {
            /// Every error but `Authority`, for tables and tests.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The error as one word for logs and labels, at most 40 bytes.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                    Self::Authority(error) => error.word(),
                }
            }
        }

        impl fmt::Display for HeadError {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($text),)+
                    Self::Authority(error) => write!(f, "request target: {error}"),
                }
            }
        }
    };
}

errors! {
    /// A whole, sound request of another method: the one to answer with 405.
    MethodNotConnect "method_not_connect" "the request's method is not CONNECT",
    RequestLine "request_line" "the request line is not method, target and version, one space apart",
    Version "http_version" "the version is neither HTTP/1.0 nor HTTP/1.1",
    HeadTooLarge "head_too_large" "the request head is longer than 16 KiB",
    HeadersMany "headers_many" "there are more than 64 header fields",
    HeaderName "header_name" "a header field's name is not a token followed by a colon",
    HeaderValue "header_value" "a header field's value holds a control byte",
    Nul "nul" "the request head holds a NUL byte",
    BareLf "bare_lf" "a line ends with LF alone",
    BareCr "bare_cr" "a CR stands without its LF",
    ObsFold "obs_fold" "a header field goes on in the next line, or a line begins with white space",
    HostTwice "host_twice" "there are two Host header fields",
    HostBad "host_bad" "the Host header field holds neither host nor host:port",
    HostDiffers "host_differs" "the Host header field names another host or port than the request target",
    ContentLength "content_length" "a Content-Length other than 0 announces a body",
    TransferEncoding "transfer_encoding" "a Transfer-Encoding announces a body",
}

impl std::error::Error for HeadError {}

impl HeadError {
    /// The head as such is sound, but what it names is not a host and a port.
    pub const fn is_bad_name(self) -> bool {
        matches!(self, Self::Authority(_))
    }
}
