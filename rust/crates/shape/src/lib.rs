//! Traffic shaping as arithmetic over a clock that the caller reads: no I/O, no thread, and no lock on the way of a byte.
//!
//! A [`Plan`] shares a link out between classes and workers; a [`Gate`] is one worker's queue for one class;
//! a [`Ceiling`] bounds one source in all of them.
#![forbid(unsafe_code)]

mod allot;
mod bucket;
mod ceiling;
mod cluster;
mod gate;
mod member;
mod meter;
mod plan;
pub mod told;

pub use allot::{Allotment, Claim, allot};
pub use bucket::{Bucket, Nanos};
pub use ceiling::Ceiling;
pub use cluster::{Pool, Shared, Want, Wants, share};
pub use gate::{Gate, Pace, Turn};
pub use member::{Heard, Keeps, LEASE, Member, ROUND, Told};
pub use meter::Meter;
pub use plan::{Bounds, Limit, PERIOD, Plan, Seen};
