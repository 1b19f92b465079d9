//! The messages between data plane and control plane: few, versioned, bounded. One JSON object each; large things travel
//! as descriptors beside them.

use egress_policy::PathPart;
use egress_sys::MAX_MESSAGE;
use serde::{Deserialize, Serialize};

use crate::budget::StoreReport;

/// Raised when a message changes its meaning; both sides refuse another version.
pub(crate) const VERSION: u32 = 5;

#[derive(Debug, Serialize)]
struct Sent<'a> {
    v: u32,
    #[serde(flatten)]
    message: ToControl<'a>,
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
        /// Errors that found no room.
        more: usize,
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
        /// Workers and listeners that found no room.
        more_workers: usize,
        more_listeners: usize,
        /// Where budgets are kept, once a policy has any.
        budgets: Option<StoreReport>,
        /// `None`: nothing is shared over gateways.
        cluster: Option<Box<ClusterStatus>>,
    },
    /// Carries the report.
    Report {
        id: u64,
    },
    /// SIGHUP.
    Reload {},
    /// SIGUSR1.
    Reopen {},
    Draining {},
}

impl ToControl<'_> {
    /// The message's bytes. Its list is cut to what the channel takes: half an answer says more than one that is lost.
    pub(crate) fn bytes(self) -> serde_json::Result<Vec<u8>> {
        let mut sent = Sent { v: VERSION, message: self };
        loop {
            let bytes = serde_json::to_vec(&sent)?;
            if bytes.len() <= MAX_MESSAGE || !sent.message.shorten() {
                return Ok(bytes);
            }
        }
    }

    /// Leaves out an eighth of the longest list, and counts it; `false` when nothing is left to leave out.
    fn shorten(&mut self) -> bool {
        match self {
            Self::Refused { errors, more, .. } => cut(errors, more),
            Self::Status { workers, more_workers, listeners, more_listeners, .. } => {
                if workers.len() > listeners.len() {
                    cut(workers, more_workers)
                } else {
                    cut(listeners, more_listeners)
                }
            }
            _ => false,
        }
    }
}

fn cut<T>(list: &mut Vec<T>, more: &mut usize) -> bool {
    let gone = list.len().div_ceil(8);
    list.truncate(list.len() - gone);
    *more += gone;
    gone > 0
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

/// How it stands with what is shared over gateways.
#[derive(Debug, Serialize)]
pub(crate) struct ClusterStatus {
    pub group: String,
    /// Without user and password.
    pub store: String,
    /// For how long no round has come to anything.
    pub away_ms: Option<u64>,
    pub error: Option<String>,
    /// Gateways that there may be, and that were there last, this one included.
    pub replicas: u32,
    pub seen: usize,
    pub keeps: &'static str,
    /// By how many limits are divided while the store is away.
    pub parts: usize,
    pub rounds: u64,
    pub failures: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct WorkerStatus {
    /// That it decides by; 0 until it serves.
    pub generation: u64,
    pub active: u64,
    pub accepted: u64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct ListenerStatus {
    pub name: String,
    pub accept: String,
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
    /// What the terms of rules have come to.
    Report {
        id: u64,
    },
    Drain {},
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(message: ToControl<'_>) -> serde_json::Value {
        let bytes = message.bytes().unwrap();
        assert!(bytes.len() <= MAX_MESSAGE);
        serde_json::from_slice(&bytes).unwrap()
    }

    fn length(value: &serde_json::Value) -> usize {
        value.as_array().unwrap().len()
    }

    #[test]
    fn more_errors_than_a_message_holds_are_counted() {
        let errors = (0..256).map(|_| Refusal::new("bind", "m".repeat(200), "f")).collect();
        let told = told(ToControl::Refused { id: 1, errors, more: 0 });
        let kept = length(&told["errors"]);
        assert!(kept > 100);
        assert_eq!(told["more"], 256 - kept);
        let one = vec![Refusal::new("bind", "m", "f")];
        let told = self::told(ToControl::Refused { id: 1, errors: one, more: 0 });
        assert_eq!((length(&told["errors"]), &told["more"]), (1, &0.into()));
    }

    #[test]
    fn the_status_of_a_large_machine_is_cut_where_it_is_longest() {
        let listener = ListenerStatus {
            name: "n".repeat(32),
            accept: "connect".to_owned(),
            bound: "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".to_owned(),
        };
        let message = ToControl::Status {
            id: 1,
            generation: 1,
            digest: None,
            uptime_ms: 1,
            draining: false,
            restarts: 0,
            workers: (0..1024)
                .map(|_| WorkerStatus { generation: 1 << 20, active: 60_000, accepted: 1 << 40 })
                .collect(),
            listeners: vec![listener; 256],
            more_workers: 0,
            more_listeners: 0,
            budgets: None,
            cluster: None,
        };
        let told = told(message);
        for (list, more, all) in
            [("workers", "more_workers", 1024), ("listeners", "more_listeners", 256)]
        {
            let kept = length(&told[list]);
            assert!(kept > 50);
            assert_eq!(told[more], all - kept);
        }
    }
}
