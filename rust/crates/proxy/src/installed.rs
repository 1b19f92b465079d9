//! The policy in force, as a worker holds it.

use egress_policy::Snapshot;

use crate::limits::Limits;

/// One generation: immutable, shared by all workers, replaced whole.
#[derive(Debug)]
pub(crate) struct Installed {
    pub generation: u64,
    pub snapshot: Snapshot,
    pub limits: Limits,
}
