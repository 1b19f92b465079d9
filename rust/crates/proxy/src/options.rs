//! What `egress run` is started with.

use serde::Deserialize;

/// The part of the command line that the data plane reads; the control plane is handed all of it.
#[derive(Debug, Deserialize)]
pub(crate) struct Options {
    /// The interpreter that runs the control plane.
    pub python: String,
    /// Overrides the policy's `workers`.
    #[serde(default)]
    pub workers: Option<u32>,
    /// Finished flows that each worker's ring holds while the control plane is away.
    #[serde(default = "ring_records")]
    pub ring_records: u32,
}

/// 16,384 records are 8 MiB per worker: about a second of the highest rate of connections, minutes of a usual one.
fn ring_records() -> u32 {
    16_384
}
