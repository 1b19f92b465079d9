//! The compiled policy: compile, match, explain. No I/O but the reading of list files at compile.
//!
//! The way of a policy: [`compile`] reads the normalised document (`document`, `settings`, `rules` with
//! `pattern` and `list`), refuses what is ambiguous (`ties`), and lays the rest out flat (`layout`, `flat`,
//! `names`, `nets`). [`Snapshot::open`] checks those bytes once (`verify`). The way of a flow:
//! [`Snapshot::source`] when it is accepted, [`Snapshot::decide`] when it has named its destination,
//! [`Snapshot::screen`] for each address before that is dialled. A DNS listener asks
//! [`Snapshot::may_resolve`], which asks those two. For people: [`Snapshot::explain`].
#![forbid(unsafe_code)]

mod address;
mod budgets;
mod cluster;
mod compile;
mod connections;
mod decide;
mod document;
mod explain;
mod flat;
mod from;
mod identities;
mod layout;
mod list;
mod message;
mod names;
mod nearest;
mod nets;
mod on_deny;
mod pattern;
mod period;
mod problem;
mod proposal;
mod proxied;
mod resolve;
mod rules;
mod screen;
mod settings;
mod shaping;
mod snapshot;
mod source;
mod sources;
mod ties;
mod users;
mod verify;
mod vocab;

pub use address::{AddressClass, classify};
pub use budgets::{Allowance, Allowances, Budget, Keeping, Then};
pub use cluster::{Cluster, Store};
pub use compile::compile;
pub use connections::{Bounds, Connections};
pub use decide::{Decision, Destination, Item};
pub use document::{ListenerTls, Pem};
pub use explain::{AddressNote, Candidate, Explanation, RuleRef};
#[doc(hidden)]
pub use flat::reseal;
pub use message::{MAX_MESSAGE, MessageValues, render_message};
pub use on_deny::OnDeny;
pub use period::{Period, Zone};
pub use problem::{PathPart, Problem};
pub use proxied::{NamingTlv, Proxied, Reads, Sends};
pub use resolve::Resolving;
pub use screen::{Origin, Screened};
pub use settings::{Accepts, Listener, Login, Resolver, Settings, Timeouts};
pub use shaping::{Class, Link, MAX_SHARED, Priority, Scope, Shaping, ShareBy};
pub use snapshot::{RuleId, RuleView, Snapshot, SnapshotError, SourceClass, Terms};
pub use source::{Identity, MAX_SPIFFE, MAX_TLV, MAX_USER, Source, is_spiffe_id};
pub use vocab::{Accept, End, Evidence, Reason, Stage, Verdict};
