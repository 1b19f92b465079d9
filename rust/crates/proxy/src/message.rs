//! The messages between data plane and control plane: few, versioned, bounded. One JSON object each; large things travel
//! as descriptors beside them.

use egress_policy::PathPart;
use serde::{Deserialize, Serialize};

/// Raised when a message changes its meaning; both sides refuse another version.
pub(crate) const VERSION: u32 = 2;
/// Refusals in one message; with a few hundred bytes each they stay well below its bound.
pub(crate) const MAX_REFUSALS: usize = 50;

#[derive(Debug, Serialize)]
pub(crate) struct Sent<'a> {
    pub v: u32,
    #[serde(flatten)]
    pub message: ToControl<'a>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ToControl<'a> {
    /// The first message to each control process; carries the telemetry segment.
    Hello {
        pid: u32,
        /// Unix nanoseconds at which the data plane started.
        boot: u64,
        /// 0 while no policy is in force.
        generation: u64,
        digest: Option<String>,
        /// Times that the control plane was started again.
        restarts: u64,
        /// What the control plane left with the policy in force.
        memo: Option<&'a serde_json::Value>,
        options: &'a serde_json::Value,
    },
    /// The snapshot is in force in every worker.
    Installed {
        id: u64,
        generation: u64,
        /// False when the same policy was in force already: then nothing was touched.
        changed: bool,
        /// Live flows that the new policy denies.
        closing: u64,
    },
    /// Nothing has changed.
    Refused {
        id: u64,
        errors: Vec<Refusal>,
    },
    Status {
        id: u64,
        generation: u64,
        digest: Option<String>,
        uptime_ms: u64,
        draining: bool,
        restarts: u64,
        workers: Vec<WorkerStatus>,
        listeners: Vec<ListenerStatus>,
    },
    /// SIGHUP.
    Reload {},
    /// SIGUSR1.
    Reopen {},
    Draining {},
}

#[derive(Debug, Serialize)]
pub(crate) struct Refusal {
    pub code: &'static str,
    pub message: String,
    pub fix: String,
    /// The part of the normalised document that is to blame; empty when none is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub at: Vec<PathPart>,
}

impl Refusal {
    pub(crate) fn new(
        code: &'static str,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { code, message: message.into(), fix: fix.into(), at: Vec::new() }
    }

    pub(crate) fn at<const N: usize>(self, place: [PathPart; N]) -> Self {
        Self { at: place.into(), ..self }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct WorkerStatus {
    pub active: u64,
    pub accepted: u64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct ListenerStatus {
    pub name: String,
    pub accept: &'static str,
    pub bound: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Received {
    pub v: u32,
    #[serde(flatten)]
    pub message: FromControl,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum FromControl {
    /// Put the snapshot that comes with this message in force.
    Install {
        id: u64,
        /// For the next control process: opaque here, and bounded by the message.
        #[serde(default)]
        memo: serde_json::Value,
    },
    Status {
        id: u64,
    },
    Drain {},
}
