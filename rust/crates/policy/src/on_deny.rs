//! How a denied client is told.

use serde::{Deserialize, Serialize};

/// What becomes of a connection that is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDeny {
    /// It is answered in the client's own protocol.
    #[default]
    Native,
    /// It is reset.
    Reset,
    /// Nothing is said: it stays open for a while, and its bytes are not read.
    Drop,
}

impl OnDeny {
    pub(crate) const ALL: [Self; 3] = [Self::Native, Self::Reset, Self::Drop];
}
