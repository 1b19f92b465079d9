//! How the head of a message can be malformed, each way with a word of its own.
use crate::errors::errors;

errors! {
    /// Why bytes are not the head of an HTTP/1 message. The fault is the sender's.
    HeadFault;
    RequestLine "request_line" "the request line is not method, target and version, one space apart",
    StatusLine "status_line" "the status line is not version, status and reason, one space apart",
    Version "http_version" "the version is neither HTTP/1.0 nor HTTP/1.1",
    TooLarge "head_too_large" "the head is longer than 16 KiB",
    HeadersMany "headers_many" "there are more than 64 header fields",
    HeaderName "header_name" "a header field's name is not a token followed by a colon",
    HeaderValue "header_value" "a header field's value holds a control byte",
    Nul "nul" "the head holds a NUL byte",
    BareLf "bare_lf" "a line ends with LF alone",
    BareCr "bare_cr" "a CR stands without its LF",
    ObsFold "obs_fold" "a header field goes on in the next line, or a line begins with white space",
    HostTwice "host_twice" "there are two Host header fields",
    HostBad "host_bad" "the Host header field holds neither host nor host:port",
}
