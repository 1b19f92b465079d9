//! The application protocols of a hello (RFC 7301), kept without an allocation.
use std::fmt;

use super::TlsError;
use crate::cursor::{Cursor, whole_vec16};

/// Bytes of the offered list that are kept, as on the wire. Browsers and libraries send 12 to 40
/// (`h2`, `http/1.1`, a GREASE value); what does not fit in whole is counted, not kept.
const KEPT: usize = 64;

/// The protocols that a client offers, most wanted first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Alpn {
    /// Names, each after its length byte.
    list: [u8; KEPT],
    /// Bytes of `list` in use.
    used: u8,
    offered: u16,
}

impl Alpn {
    /// No offer at all.
    pub(super) const ABSENT: Self = Self { list: [0; KEPT], used: 0, offered: 0 };

    /// How many protocols were offered; [`Alpn::iter`] may give fewer. 0: no ALPN extension.
    pub fn offered(&self) -> u16 {
        self.offered
    }

    /// The first protocols, as many as fit into 64 bytes with one length byte each.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut cursor = Cursor(&self.list[..usize::from(self.used)]);
        std::iter::from_fn(move || cursor.vec8())
    }

    /// Reads the extension's data: a list of one or more names, each one byte or more.
    pub(super) fn parse(data: &[u8]) -> Result<Self, TlsError> {
        let list = whole_vec16(data).ok_or(TlsError::AlpnLength)?;
        if list.is_empty() {
            return Err(TlsError::AlpnEmpty);
        }
        let mut alpn = Self::ABSENT;
        let mut cursor = Cursor(list);
        while !cursor.is_empty() {
            let name = cursor.vec8().ok_or(TlsError::AlpnLength)?;
            if name.is_empty() {
                return Err(TlsError::AlpnEmpty);
            }
            alpn.offered += 1;
            let end = list.len() - cursor.0.len();
            if let Ok(used) = u8::try_from(end)
                && end <= KEPT
            {
                alpn.used = used;
            }
        }
        let used = usize::from(alpn.used);
        alpn.list[..used].copy_from_slice(&list[..used]);
        Ok(alpn)
    }
}

impl fmt::Debug for Alpn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|name| name.escape_ascii().to_string())).finish()
    }
}
