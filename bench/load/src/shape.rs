//! What a limit lets through: groups of flows at their own times, bytes as they arrive in each millisecond, and small
//! messages meanwhile. Both ends are threads of this process, so that whatever receives can count by the same clock.

mod curve;
mod ends;
mod plan;
mod probe;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;

use crate::report::{Clocks, verdict};
use curve::Curve;
use ends::Counted;
use plan::{Plan, Way};

pub use probe::print as messages;

/// How long flows may take to open, or a group to come to the end of its pause.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the run looks whether it may go on.
const LOOK: Duration = Duration::from_millis(2);
/// Not yet.
const NEVER: u64 = u64::MAX;

/// What the threads know of one group.
struct Live {
    sent: AtomicU64,
    received: AtomicU64,
    /// When bytes came last.
    last: AtomicU64,
    begun: AtomicU64,
    resumed: AtomicU64,
    failed: AtomicUsize,
}

/// What the threads share. Times are milliseconds since `zero`.
struct Shared {
    plan: Plan,
    /// The end of the quiet time; unset while flows are opened.
    zero: OnceLock<Instant>,
    done: AtomicBool,
    /// Flows that the backend has heard of.
    arrived: AtomicUsize,
    groups: Vec<Live>,
}

impl Shared {
    fn new(plan: Plan) -> Self {
        let live = |_: &plan::Group| Live {
            sent: 0.into(),
            received: 0.into(),
            last: 0.into(),
            begun: NEVER.into(),
            resumed: NEVER.into(),
            failed: 0.into(),
        };
        let groups = plan.groups.iter().map(live).collect();
        Self { plan, zero: OnceLock::new(), done: false.into(), arrived: 0.into(), groups }
    }

    /// All flows are there, and nothing is sent but messages.
    fn is_quiet(&self) -> bool {
        self.zero.get().is_some_and(|zero| Instant::now() < *zero)
    }

    fn now(&self) -> Option<u64> {
        let zero = self.zero.get()?;
        Instant::now().checked_duration_since(*zero).map(|since| since.as_millis() as u64)
    }

    /// Bytes that a group may send now.
    fn allowed(&self, group: usize) -> u64 {
        let (Some(now), Some(of), Some(live)) =
            (self.now(), self.plan.groups.get(group), self.groups.get(group))
        else {
            return 0;
        };
        if now < of.start || of.stop.is_some_and(|stop| now >= stop) {
            return 0;
        }
        live.begun.fetch_min(now, Relaxed);
        let sent = live.sent.load(Relaxed);
        if let Some(pace) = of.pace {
            return (((now - of.start) / pace.every + 1) * pace.bytes).saturating_sub(sent);
        }
        let Some(pause) = of.pause else { return u64::MAX };
        if sent < pause.after {
            return pause.after - sent;
        }
        let all = live.received.load(Relaxed) >= pause.after;
        if sent == pause.after && !(all && now >= live.last.load(Relaxed) + pause.lasts) {
            return 0;
        }
        live.resumed.fetch_min(now, Relaxed);
        u64::MAX
    }

    /// Whether it lies within what is measured of a group.
    fn is_measured(&self, group: usize, now: u64) -> bool {
        let measured = self.plan.groups.get(group).and_then(plan::Group::measured);
        measured.is_some_and(|(from, till)| (from..till).contains(&now))
    }

    fn wait_until(&self, what: &str, holds: impl Fn() -> bool) -> io::Result<()> {
        let begun = Instant::now();
        while !holds() {
            if self.done.load(Relaxed) || begun.elapsed() > PATIENCE {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("waiting for {what}")));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

/// Ends the run for the other threads when one of them is over, well or not.
struct Over<'a>(&'a Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Relaxed);
    }
}

/// Runs a plan and prints one line of JSON; `begun` on a line of its own when the time of the groups begins.
pub fn run(file: &str) -> io::Result<()> {
    let shared = Shared::new(Plan::parse(&std::fs::read_to_string(file)?)?);
    let namespace = shared.plan.namespace.as_deref().map(File::open).transpose()?;
    thread::scope(|scope| {
        let (shared, namespace) = (&shared, namespace.as_ref());
        let (ready, listening) = std::sync::mpsc::channel();
        let backend = scope.spawn(move || {
            let _over = Over(shared);
            if let Some(namespace) = namespace {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), kind)?;
            }
            ends::backend(shared, scope, &ready)
        });
        // Without an answer it has failed, and is asked below.
        let _ = listening.recv();
        let client = scope.spawn(move || {
            let _over = Over(shared);
            ends::client(shared)
        });
        let probes: Vec<_> = (shared.plan.probes.iter())
            .map(|probe| scope.spawn(move || probe::run(shared, probe)))
            .collect();
        let timed = timeline(shared);
        shared.done.store(true, Relaxed);
        let failed = |_| io::Error::other("a thread has panicked");
        let ends = [backend.join().map_err(failed)??, client.join().map_err(failed)??];
        let (seconds, own, proxy, others) = timed?;
        let probes = probes.into_iter().map(|one| one.join().map_err(failed)?);
        let probes = probes.collect::<io::Result<Vec<_>>>()?;
        let groups: Vec<_> =
            (0..shared.groups.len()).map(|group| report(shared, group, &ends)).collect();
        let told = json!({
            "seconds": seconds, "client_cpu": own, "proxy_cpu": proxy, "others_share": others / seconds,
            "verdict": verdict(own / seconds, proxy / seconds, others / seconds),
            "groups": groups, "probes": probes,
        });
        println!("{told}");
        Ok(())
    })
}

/// Waits for the flows, the quiet time, the spans and the pauses; CPU seconds of the measured time: own, the proxy's, of
/// others.
fn timeline(shared: &Shared) -> io::Result<(f64, f64, f64, f64)> {
    let plan = &shared.plan;
    let all = plan.groups.iter().map(|group| group.flows).sum::<usize>() + plan.probes.len();
    shared.wait_until("the flows to be there", || shared.arrived.load(Relaxed) >= all)?;
    let zero = Instant::now() + Duration::from_millis(plan.quiet);
    let _ = shared.zero.set(zero);
    shared.wait_until("the quiet time", || shared.now().is_some())?;
    println!("begun");
    io::stdout().flush()?;
    let spans = || plan.groups.iter().filter_map(plan::Group::measured);
    let from = spans().map(|(from, _)| from).min().unwrap_or(0);
    let till = spans().map(|(_, till)| till).max().unwrap_or(0);
    let reached = |at: u64| move || shared.now().is_some_and(|now| now >= at);
    shared.wait_until("the measured time", reached(from))?;
    let (before, begun) = (Clocks::read(None, &plan.proxy), Instant::now());
    shared.wait_until("the end", reached(till))?;
    let seconds = begun.elapsed().as_secs_f64();
    let now = Clocks::read(None, &plan.proxy);
    let (own, proxy) = (now.own - before.own, now.proxy - before.proxy);
    let paused = || plan.groups.iter().zip(&shared.groups).filter(|(of, _)| of.pause.is_some());
    let resumed = |live: &Live| live.resumed.load(Relaxed);
    shared.wait_until("the pauses", || paused().all(|(_, live)| resumed(live) != NEVER))?;
    let last = paused().map(|(_, live)| resumed(live) + curve::BURST as u64).max().unwrap_or(0);
    shared.wait_until("the end of the bursts", reached(last))?;
    Ok((seconds, own, proxy, now.machine - before.machine - own - proxy))
}

/// What one group received.
fn report(shared: &Shared, group: usize, ends: &[Counted; 2]) -> serde_json::Value {
    let (of, live) = (&shared.plan.groups[group], &shared.groups[group]);
    let end = &ends[usize::from(of.way == Way::Down)];
    let curve: &Curve = &end.curves[group];
    let at = |moment: &AtomicU64| Some(moment.load(Relaxed)).filter(|at| *at != NEVER);
    let (begun, resumed) = (at(&live.begun), at(&live.resumed));
    let rate = of.spans.first().map(|span| span.rate);
    let first = |moment: Option<u64>| Some(curve.first_burst(moment?, rate?));
    let spans: Vec<_> =
        of.spans.iter().map(|span| curve.figures(span.from, span.till, span.rate)).collect();
    json!({
        "name": of.name, "flows": of.flows, "failed": live.failed.load(Relaxed), "spans": spans,
        "jain": curve::jain(&end.got[group]), "begun_ms": begun,
        "first_burst": first(begun), "pause_burst": first(resumed.filter(|_| of.pause.is_some())),
        "reached_ms": of.wants.and_then(|wants| curve.reached(begun?, wants)),
        "series": curve.series(),
    })
}
