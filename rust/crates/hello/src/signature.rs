//! Protocols that begin with fixed bytes.

/// Whether `bytes` begin with `signature`; `None` while they are a proper prefix of it.
pub(crate) fn begins(bytes: &[u8], signature: &[u8]) -> Option<bool> {
    if bytes.len() < signature.len() && signature.starts_with(bytes) {
        None
    } else {
        Some(bytes.starts_with(signature))
    }
}
