//! Heads of HTTP/1 messages (RFC 9112 §2 to §5): what CONNECT and plain HTTP read alike.
//!
//! Strict, as whatever two readers could read in two ways is how requests are smuggled: lines end
//! with CR LF only, no folding, no space before a colon, no control bytes, one Host.
mod accept;
mod end;
mod error;
mod fields;

pub use accept::Preference;
pub(crate) use accept::preference;
pub(crate) use end::{HeadEnd, Start};
pub use error::HeadFault;
pub(crate) use fields::{
    host_field, is, is_token_byte, is_value_byte, other_host, parse_request, parse_response, values,
};

/// Longest head in bytes, the blank line included. Proxies and servers stop at 8 to 64 KiB; a CONNECT
/// head is under 1 KiB unless it carries a large token for the proxy.
pub const MAX_HEAD: usize = 16 * 1024;

/// Most header fields in one head. Browsers send under 10 with CONNECT, and under 30 otherwise.
pub const MAX_HEADERS: usize = 64;
