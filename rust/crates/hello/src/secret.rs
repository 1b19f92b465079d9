//! Bytes of a client's that no log may show.
use std::fmt;

/// A password or a key, where it lies in the first bytes. `Debug` does not print it, and comparing
/// it takes as long wherever two of the same length differ.
#[derive(Clone, Copy)]
pub struct Secret<'a>(&'a [u8]);

impl<'a> Secret<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes, for whoever checks them.
    pub const fn expose(self) -> &'a [u8] {
        self.0
    }

    /// Whether it is `other`.
    pub fn is(self, other: &[u8]) -> bool {
        let differing = self.0.iter().zip(other).fold(0, |bits, (one, two)| bits | (one ^ two));
        self.0.len() == other.len() && differing == 0
    }
}

impl PartialEq for Secret<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.is(other.0)
    }
}

impl Eq for Secret<'_> {}

impl fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
