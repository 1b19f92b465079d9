//! The compiled policy: compile, match, explain.
#![forbid(unsafe_code)]

mod vocab;
pub use vocab::{Accept, End, Reason, Stage, Verdict};
