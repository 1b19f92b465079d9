//! What the control plane is told when it asks what the terms of rules have come to: too long for a message, so it
//! travels as JSON in a sealed memfd beside one.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{array, io};

use egress_policy::{Class, Link, Priority, Scope, ShareBy};
use serde::Serialize;

use crate::budget::{BudgetReport, StoreReport};
use crate::installed::Installed;
use crate::message::ClusterStatus;
use crate::shape::{DOWN, HELD_BOUNDS_MS, Placed, UP, Waits};

/// Rates are in bits per second; what counts begins when the rule comes, and outlives policies that still have it.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// Nanoseconds since the gateway started.
    at_ns: u64,
    links: Vec<LinkReport<'a>>,
    classes: Vec<ClassReport<'a>>,
    held_bounds_ms: &'static [u64],
    budgets: Vec<BudgetReport<'a>>,
    /// Once a policy has had budgets.
    store: Option<StoreReport>,
    cluster: Option<ClusterStatus>,
}

#[derive(Debug, Serialize)]
struct LinkReport<'a> {
    name: &'a str,
    bandwidth: u64,
    scope: Scope,
}

#[derive(Debug, Serialize)]
struct ClassReport<'a> {
    rule: &'a str,
    link: Option<&'a str>,
    max: Option<u64>,
    guarantee: u64,
    priority: Priority,
    weight: u32,
    share_by: ShareBy,
    scope: Scope,
    flows: u64,
    up: WayReport,
    down: WayReport,
}

#[derive(Debug, Serialize)]
struct WayReport {
    bytes: u64,
    borrowed: u64,
    waiting: u64,
    /// What it may send now; `None` where nothing bounds it.
    allowed: Option<u64>,
    held: Waits<u64>,
    held_ns: u64,
}

/// The report on the policy in force, as it is now.
pub(crate) fn seal<'a>(
    installed: &'a Installed,
    store: Option<StoreReport>,
    cluster: Option<ClusterStatus>,
    at_ns: u64,
) -> io::Result<OwnedFd> {
    let shaping = installed.snapshot.shaping();
    let link = |link: &'a Link| LinkReport {
        name: &link.name,
        bandwidth: link.bandwidth,
        scope: link.scope,
    };
    let report = Report {
        at_ns,
        links: shaping.links.iter().map(link).collect(),
        classes: shaping
            .classes
            .iter()
            .zip(&installed.plans.classes)
            .map(|(class, placed)| {
                let link = class.link.and_then(|link| shaping.links.get(link));
                class_report(class, placed, link.map(|link| link.name.as_str()), installed)
            })
            .collect(),
        held_bounds_ms: &HELD_BOUNDS_MS,
        budgets: installed.budgets.report(),
        store,
        cluster,
    };
    egress_sys::seal("egress-report", &serde_json::to_vec(&report)?)
}

fn class_report<'a>(
    class: &Class,
    placed: &'a Placed,
    link: Option<&'a str>,
    installed: &Installed,
) -> ClassReport<'a> {
    let way = |way: usize| {
        let allowed = installed.plans.links[placed.plan][way].seen(placed.index).allowed * 8.0;
        let totals = &placed.totals.ways[way];
        let read = |word: &AtomicU64| word.load(Relaxed);
        WayReport {
            bytes: read(&totals.bytes),
            borrowed: if class.link.is_some() { read(&totals.borrowed) } else { 0 },
            waiting: read(&totals.waiting),
            allowed: allowed.is_finite().then_some(allowed as u64),
            held: array::from_fn(|index| read(&totals.held[index])),
            held_ns: read(&totals.held_ns),
        }
    };
    ClassReport {
        rule: &placed.name,
        link,
        max: class.max,
        guarantee: class.guarantee,
        priority: class.priority,
        weight: class.weight,
        share_by: class.share_by,
        scope: class.scope,
        flows: placed.totals.flows.load(Relaxed),
        up: way(UP),
        down: way(DOWN),
    }
}
