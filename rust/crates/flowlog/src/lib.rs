//! What the gateway leaves in shared memory: the record of each finished flow, the ring that carries it to the control
//! plane, the table of live flows, and counters. Single writer per worker, no lock, no wait: a full ring drops and counts.
//!
//! The layout is a contract with `egress_core/layout.pxd`; `layout::fields` lists it for the test that compares the two.
#![forbid(unsafe_code)]

mod counters;
pub mod layout;
mod live;
mod record;
mod ring;
mod segment;

pub use counters::{Counters, ResolverCounter, WorkerCounter};
pub use live::{LiveFlow, LiveTable};
pub use record::{Delays, NONE_U32, Record, flags};
pub use ring::Ring;
pub use segment::{Geometry, Segment, WorkerArea};
