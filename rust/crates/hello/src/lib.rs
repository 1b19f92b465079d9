//! First bytes to what the client asks for: pure functions over bytes.
#![forbid(unsafe_code)]
