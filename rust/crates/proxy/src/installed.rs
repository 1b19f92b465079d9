//! The policy in force, as a worker holds it.

use std::ops::Deref;
use std::sync::Arc;

use egress_policy::Snapshot;

use crate::limits::Limits;

/// One generation: immutable, shared by all workers, replaced whole.
#[derive(Debug)]
pub(crate) struct Installed {
    pub generation: u64,
    pub snapshot: Snapshot,
    pub limits: Limits,
}

/// A worker's own handle to the shared policy. Flows hold it through an `Rc`, so that taking it for a step changes no
/// counter that workers share.
#[derive(Debug)]
pub(crate) struct InForce(pub Arc<Installed>);

impl Deref for InForce {
    type Target = Installed;

    fn deref(&self) -> &Installed {
        &self.0
    }
}
