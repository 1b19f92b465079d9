//! What runs once the first policy is in force: listeners, workers and the resolver, and how they are started.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use egress_flowlog::Segment;
use egress_policy::{Accept, Settings};

use crate::dns::{Bound, Sockets};
use crate::front::{self, Boxes};
use crate::installed::Installed;
use crate::log;
use crate::logins;
use crate::message::{ListenerStatus, Refusal};
use crate::options::Options;
use crate::resolver::{self, Handle};
use crate::worker::{self, Captured, Mailbox, Parts};

/// Flows per worker when neither the policy nor the descriptor limit says less.
pub(crate) const MAX_FLOWS: u32 = 65_536;
/// Bits of a flow id that tell its worker, above the 40 that count its flows. The telemetry's reader takes as many.
const WORKER_BITS: u32 = 10;
/// Bits of a flow id that tell the boot, above the worker's.
const SALT_BITS: u32 = 14;
/// Areas of the telemetry beside those of workers: the last one is the resolver's, for what DNS listeners refuse.
pub(crate) const OTHER_AREAS: u32 = 1;
pub(crate) const MAX_WORKERS: usize = (1 << WORKER_BITS) - OTHER_AREAS as usize;
/// Descriptors kept for listeners, pipes, the resolver and the control socket.
const RESERVED_DESCRIPTORS: u64 = 512;

#[derive(Debug)]
pub(crate) struct WorkerHandle {
    pub mailbox: Mailbox,
    pub thread: Option<JoinHandle<()>>,
    /// Hung up when the worker's thread ends, however it ends: one for each, as a shared one hangs up with the last.
    pub ended: UnixStream,
    /// Its end has been seen.
    pub over: bool,
}

/// Everything that exists once the first policy is in force.
#[derive(Debug)]
pub(crate) struct Running {
    pub installed: Arc<Installed>,
    pub workers: Vec<WorkerHandle>,
    pub memo: serde_json::Value,
    pub resolver: Handle,
    /// Raised by each change of the resolver's settings.
    pub names_epoch: u64,
    pub resolver_thread: JoinHandle<()>,
    /// Where a listener takes HTTP/2, or TLS to the proxy.
    pub front: Option<(egress_front::Handle, JoinHandle<()>)>,
    pub listeners: Vec<ListenerStatus>,
}

impl Running {
    /// Binds the listeners and starts resolver and workers.
    pub(crate) fn start(
        installed: Arc<Installed>,
        options: &Options,
        segment: &Segment,
        id_salt: u64,
        started: Instant,
        terms: egress_front::Terms,
    ) -> Result<Self, Vec<Refusal>> {
        let settings = installed.snapshot.settings();
        let count = worker_count(options, settings);
        let most = (segment.geometry().workers - OTHER_AREAS) as usize;
        if count > most {
            let message = format!("`workers: {count}` is more than this machine can use");
            let fix = format!("write auto, or at most {most}");
            let place = ["settings".into(), "workers".into()];
            return Err(vec![Refusal::new("workers", message, fix).at(place)]);
        }
        let mut bound = Vec::new();
        let mut captured: Vec<Vec<Captured>> = (0..count).map(|_| Vec::new()).collect();
        let mut errors = Vec::new();
        let mut names = Vec::new();
        for (index, listener) in settings.listeners.iter().enumerate() {
            let number = u16::try_from(index).unwrap_or(u16::MAX);
            let captures = listener.accept.has(Accept::Transparent);
            let served = if listener.accept.has(Accept::Dns) {
                bind_names(listener.bind, number, &mut names).map(|served| (served, Vec::new()))
            } else {
                egress_sys::listen(listener.bind, count, captures).and_then(|listening| {
                    let to = listening.address;
                    let datagrams = if captures {
                        egress_sys::captured_datagrams(to, count)?
                    } else {
                        Vec::new()
                    };
                    Ok((listening, datagrams))
                })
            };
            match served {
                Ok((listening, datagrams)) => {
                    let port = listening.address.port();
                    for (worker, fd) in datagrams.into_iter().enumerate() {
                        captured[worker].push(Captured { listener: number, port, fd, ready: true });
                    }
                    bound.push((number, listener, listening));
                }
                Err(error) => {
                    let message = format!(
                        "listener {}: {} cannot be served: {error}",
                        listener.name, listener.bind
                    );
                    let fix = "choose another `bind`, or end the process that serves it (ss -ltnp shows which)";
                    let place =
                        ["settings".into(), "listeners".into(), index.into(), "bind".into()];
                    errors.push(Refusal::new("bind", message, fix).at(place));
                }
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let failed = |what: &str, error: io::Error| {
            vec![Refusal::new("start", format!("{what}: {error}"), "")]
        };
        let max_flows = max_flows(settings, count);
        let mut boxes = Vec::new();
        let mut ends = Vec::new();
        for _ in 0..count {
            let (mailbox, poll, mail) =
                worker::mailbox().map_err(|error| failed("event loop", error))?;
            boxes.push(mailbox);
            ends.push((poll, mail));
        }
        let replies = boxes
            .iter()
            .map(|mailbox| Box::new(mailbox.clone()) as Box<dyn resolver::Reply>)
            .collect();
        let asked = (!names.is_empty()).then(|| {
            let area = segment.geometry().workers - OTHER_AREAS;
            Bound {
                sockets: names,
                policy: Arc::clone(&installed),
                ring: segment.worker(area).ring,
                id_prefix: id_prefix(id_salt, area as usize),
            }
        });
        let (resolver, resolver_thread) =
            resolver::start(settings.resolver.clone(), replies, segment.resolver(), asked)
                .map_err(|error| failed("resolver", error))?;
        let front = front::is_needed(settings)
            .then(|| egress_front::start(Arc::new(Boxes(boxes.clone())), terms))
            .transpose()
            .map_err(|error| failed("front", error))?;
        let told = |mailbox: &Mailbox| Box::new(mailbox.clone()) as Box<dyn logins::Reply>;
        let logins = logins::start(boxes.iter().map(told).collect())
            .map_err(|error| failed("login thread", error))?;
        let mut login_key = [0; 32];
        getrandom::fill(&mut login_key).map_err(|error| {
            failed("login key", io::Error::other(format!("no randomness: {error}")))
        })?;
        let own: Arc<[SocketAddr]> =
            bound.iter().map(|(_, _, listening)| listening.address).collect();
        let listeners: Vec<ListenerStatus> = bound
            .iter()
            .map(|(_, listener, listening)| ListenerStatus {
                name: listener.name.clone(),
                accept: listener.accept.to_string(),
                bound: listening.address.to_string(),
            })
            .collect();
        let mut sockets: Vec<_> = bound
            .into_iter()
            .map(|(number, listener, listening)| {
                (number, listener.accept, listening.sockets.into_iter())
            })
            .collect();
        let mut workers = Vec::new();
        for (index, ((poll, mail), mailbox)) in ends.into_iter().zip(boxes).enumerate() {
            let parts = Parts {
                index,
                workers: count,
                started,
                poll,
                mail,
                area: segment.worker(u32::try_from(index).unwrap_or(0)),
                listeners: sockets
                    .iter_mut()
                    .filter_map(|(number, accept, all)| Some((*number, *accept, all.next()?)))
                    .collect(),
                front: front.as_ref().map(|(handle, _)| handle.clone()),
                datagrams: std::mem::take(&mut captured[index]),
                own: Arc::clone(&own),
                policy: Arc::clone(&installed),
                resolver: resolver.clone(),
                logins: logins.clone(),
                login_key,
                max_flows,
                low_latency: settings.low_latency,
                id_prefix: id_prefix(id_salt, index),
            };
            let (ended, telling) =
                UnixStream::pair().map_err(|error| failed("socket pair", error))?;
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    // Closing it tells the gateway, after a panic too.
                    let _telling = telling;
                    if let Err(error) = worker::run(parts) {
                        log::error(&format!("worker {index} failed: {error}"));
                    }
                })
                .map_err(|error| failed("thread", error))?;
            workers.push(WorkerHandle { mailbox, thread: Some(thread), ended, over: false });
        }
        if settings.listeners.iter().any(|listener| listener.accept.has(Accept::Transparent))
            && egress_sys::Unreachable::open().is_err()
        {
            log::info(
                "without CAP_NET_RAW captured QUIC is refused silently, and its clients are slow to fall back to TCP; \
                 grant it, or let the rule set reject UDP 443",
            );
        }
        for listener in &listeners {
            log::info(&format!(
                "listener {} ({}) serves {}",
                listener.name, listener.accept, listener.bound
            ));
        }
        let memo = serde_json::Value::Null;
        Ok(Self {
            installed,
            memo,
            workers,
            resolver,
            names_epoch: 0,
            resolver_thread,
            front,
            listeners,
        })
    }
}

/// Threads that move bytes.
pub(crate) fn worker_count(options: &Options, settings: &Settings) -> usize {
    match (options.workers, settings.workers) {
        (Some(workers), _) if workers > 0 => workers as usize,
        (_, 0) => egress_sys::allowed_cpus().min(MAX_WORKERS),
        (_, workers) => workers as usize,
    }
}

/// Binds a DNS listener, which the resolver's thread serves: workers have no socket of it.
fn bind_names(
    bind: SocketAddr,
    listener: u16,
    names: &mut Vec<Sockets>,
) -> io::Result<egress_sys::Listening> {
    let (datagrams, stream) = egress_sys::bind_both(bind)?;
    let address = stream.local_addr()?;
    names.push(Sockets { listener, datagrams, stream });
    Ok(egress_sys::Listening { address, sockets: Vec::new() })
}

/// The upper 24 bits of every flow id of a worker.
fn id_prefix(salt: u64, worker: usize) -> u64 {
    debug_assert!(worker < 1 << WORKER_BITS);
    (salt & ((1 << SALT_BITS) - 1)) << WORKER_BITS | worker as u64
}

fn max_flows(settings: &Settings, workers: usize) -> usize {
    if settings.max_flows > 0 {
        return settings.max_flows.min(MAX_FLOWS) as usize;
    }
    // A flow has two sockets; the attempts that lose a race are closed at once.
    let descriptors =
        egress_sys::descriptor_limit().unwrap_or(u64::MAX / 2).saturating_sub(RESERVED_DESCRIPTORS);
    let possible = (descriptors / 2 / workers.max(1) as u64).clamp(64, u64::from(MAX_FLOWS));
    usize::try_from(possible).unwrap_or(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_and_boot_has_flow_ids_of_its_own() {
        let prefixes: std::collections::HashSet<u64> = (0..MAX_WORKERS)
            .flat_map(|worker| [0, 1, 0xffff].map(|s| id_prefix(s, worker)))
            .collect();
        assert_eq!(prefixes.len(), 3 * MAX_WORKERS);
        assert!(prefixes.iter().all(|prefix| prefix >> 24 == 0));
    }
}
