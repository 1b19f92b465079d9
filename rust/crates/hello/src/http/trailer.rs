//! Names that a trailer field may not have.
use super::hops::HOP_BY_HOP;

/// Longest name that is looked for, in bytes: `proxy-authentication-info`.
const MAX_NAME: usize = 25;

/// Fields of framing and of routing (RFC 9110 §6.5.1); those of one connection are forbidden too. A
/// reader that merges trailer fields into the head would believe them.
const FORBIDDEN: &[&str] =
    &["content-length", "expect", "host", "max-forwards", "trailer", "transfer-encoding"];

/// A field's name as it comes, byte after byte. Of one that is too long to be forbidden, only that is
/// known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TrailerName {
    bytes: [u8; MAX_NAME],
    len: usize,
}

impl TrailerName {
    pub(super) fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte.to_ascii_lowercase();
        }
        self.len = (self.len + 1).min(MAX_NAME + 1);
    }

    pub(super) fn is_forbidden(&self) -> bool {
        let name = self.bytes.get(..self.len);
        let mut forbidden = FORBIDDEN.iter().chain(HOP_BY_HOP);
        name.is_some_and(|name| forbidden.any(|forbidden| forbidden.as_bytes() == name))
    }
}
