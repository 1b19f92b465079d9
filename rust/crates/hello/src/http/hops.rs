//! Header fields that are for one connection only (RFC 9110 §7.6.1).
use httparse::Header;

use super::{HttpError, MAX_HEADERS};
use crate::head::{is, is_token_byte, values};

/// Most options of a Connection header field. Clients send up to three (`TE, Upgrade,
/// HTTP2-Settings`); each is compared with each header field.
const MAX_OPTIONS: usize = 16;

/// Fields that are dropped whether Connection names them or not: those of RFC 9110 §7.6.1, HTTP2-Settings
/// (RFC 7540 §3.2.1), and those between a client and its proxy (RFC 9110 §11.7): an origin may neither
/// see the credentials for the gateway nor ask for them. Transfer-Encoding is not among them, because
/// chunks pass as they are.
pub(super) const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "te",
    "upgrade",
    "http2-settings",
];

/// The header fields that are not forwarded as they are, by their place in the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Dropped(u64);

const _: () = assert!(MAX_HEADERS <= 64, "each field has its bit");

impl Dropped {
    pub(super) fn add(&mut self, at: usize) {
        self.0 |= 1 << at;
    }

    pub(super) fn has(self, at: usize) -> bool {
        self.0 & (1 << at) != 0
    }

    /// Drops all fields of a name.
    pub(super) fn add_named(&mut self, headers: &[Header<'_>], name: &str) {
        headers.iter().enumerate().filter(|(_, header)| is(header, name)).for_each(|(at, _)| {
            self.add(at);
        });
    }
}

/// The options of all Connection header fields.
pub(super) struct Options<'b> {
    names: [&'b [u8]; MAX_OPTIONS],
    len: usize,
}

impl<'b> Options<'b> {
    /// `kept` are fields that the message cannot do without: an option of such a name would have them
    /// removed here and believed to be there, or the other way round.
    pub(super) fn read(headers: &[Header<'b>], kept: &[&str]) -> Result<Self, HttpError> {
        let mut options = Self { names: [b""; MAX_OPTIONS], len: 0 };
        let all = values(headers, "connection").flat_map(|value| value.split(|&byte| byte == b','));
        // RFC 9110 §5.6.1.2: empty elements of a list do not count.
        for option in all.map(<[u8]>::trim_ascii).filter(|option| !option.is_empty()) {
            if !option.iter().copied().all(is_token_byte) {
                return Err(HttpError::ConnectionOption);
            }
            let slot = options.names.get_mut(options.len).ok_or(HttpError::ConnectionOption)?;
            *slot = option;
            options.len += 1;
        }
        if kept.iter().any(|name| options.has(name)) {
            return Err(HttpError::ConnectionNames);
        }
        Ok(options)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names.iter().take(self.len).any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Marks what is for this connection only; `Upgrade` passes with the request or the response that
    /// is for it.
    pub(super) fn drop_hops(&self, headers: &[Header<'_>], upgrade: bool, dropped: &mut Dropped) {
        for (at, header) in headers.iter().enumerate() {
            let passes = upgrade && is(header, "upgrade");
            let fixed = HOP_BY_HOP.iter().any(|name| is(header, name));
            let framing = is(header, "transfer-encoding");
            if !passes && !framing && (fixed || self.has(header.name)) {
                dropped.add(at);
            }
        }
    }
}

/// Whether the one Upgrade header field names WebSocket (RFC 6455 §4.1) and nothing else. Of other
/// protocols `h2c` would carry requests that nobody judges, and what nobody judges is not switched to.
pub(super) fn is_websocket(headers: &[Header<'_>], options: &Options<'_>) -> bool {
    let mut protocols = values(headers, "upgrade");
    let named = protocols.next().is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"));
    named && protocols.next().is_none() && options.has("upgrade")
}
