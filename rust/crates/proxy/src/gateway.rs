//! The gateway: process 1 of its pod. Owns workers, resolver and control process, and moves policies between them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use egress_flowlog::{Geometry, Segment, WorkerCounter};
use egress_policy::Snapshot;
use egress_sys::{Received as Arrived, SealedMap, SharedMemory};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::low_level::pipe;

use crate::budget::Keeper;
use crate::cluster::Cluster;
use crate::control::Control;
use crate::front;
use crate::installed::{Installed, STORE, needs_restart, other_store};
use crate::log;
use crate::message::{FromControl, Received, Refusal, ToControl, VERSION, WorkerStatus};
use crate::options::Options;
use crate::report;
use crate::running::{MAX_FLOWS, MAX_WORKERS, OTHER_AREAS, Running, worker_count};
use crate::worker::Mail;

/// The policy was broken when the gateway was started (sysexits.h: EX_CONFIG).
pub const EXIT_CONFIG: i32 = 78;
/// The gateway itself failed (sysexits.h: EX_SOFTWARE).
pub const EXIT_SOFTWARE: i32 = 70;
/// Bytes of the largest snapshot that is mapped: room for tens of millions of names, no room for a mistake.
const MAX_SNAPSHOT: usize = 4 << 30;
/// Workers that the telemetry has room for at least, so that a policy may ask for more than there are CPUs.
const MIN_WORKER_AREAS: usize = 8;
/// How long the workers may take to put a new policy in force, or to stop accepting, before that is reported without them.
const WORKER_PATIENCE: Duration = Duration::from_secs(5);
/// How often the wall clock is looked at while a rule has an `until`: it may be set forward at any time.
const CLOCK_CHECK: Duration = Duration::from_secs(30);
/// How long until a control process that could not be started is tried again.
const CONTROL_RETRY: Duration = Duration::from_secs(1);
/// Messages read before signals and timers get their turn: a control process gone wrong cannot drown them.
const MESSAGES_PER_TURN: usize = 64;
/// A control plane that dies this often in a row before the first policy has a fault that a restart will not mend.
const HOPELESS: u32 = 5;

struct Gateway {
    options: Options,
    raw_options: serde_json::Value,
    boot_ns: u64,
    /// Upper bits of every flow id, so that ids of two boots do not meet.
    id_salt: u64,
    memory: SharedMemory,
    segment: Segment,
    started: Instant,
    control: Control,
    running: Option<Running>,
    /// Once a policy has budgets.
    keeper: Option<Keeper>,
    cluster: Cluster,
    /// Stopping has begun.
    draining: bool,
    /// End of the drain; `None` again once the workers have been told to end.
    stop_at: Option<Instant>,
    /// Unix seconds at which a rule's `until` is reached.
    expiry: Option<u64>,
    exit: i32,
}

/// Runs the gateway until it is told to stop; gives the process's exit code.
///
/// # Errors
/// What the operating system refused before the gateway could start.
pub fn run(options_json: &[u8]) -> io::Result<i32> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("options: {error}"));
    let raw_options: serde_json::Value = serde_json::from_slice(options_json).map_err(invalid)?;
    let options: Options = serde_json::from_value(raw_options.clone()).map_err(invalid)?;
    let mut random = [0; 2];
    getrandom::fill(&mut random)
        .map_err(|error| io::Error::other(format!("no randomness: {error}")))?;
    egress_sys::raise_descriptor_limit();
    // Made before the policy is known, as the control plane needs it from its first message on; pages that no worker
    // touches take no memory.
    let geometry = Geometry {
        workers: u32::try_from(egress_sys::allowed_cpus().clamp(MIN_WORKER_AREAS, MAX_WORKERS))
            .map_or(u32::MAX, |workers| workers + OTHER_AREAS),
        ring_capacity: options.ring_records.clamp(1024, 1 << 20).next_power_of_two(),
        live_capacity: MAX_FLOWS,
    };
    let memory = SharedMemory::create("egress-telemetry", geometry.total_size())?;
    let boot_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let boot_ns = u64::try_from(boot_ns).unwrap_or(0);
    let Some(segment) = Segment::format(memory.words(), geometry, boot_ns, std::process::id())
    else {
        return Err(io::Error::new(io::ErrorKind::OutOfMemory, "the shared memory does not fit"));
    };
    let signals = Signals::install()?;
    let started = Instant::now();
    let mut gateway = Gateway {
        control: Control::new(options.python.clone()),
        options,
        raw_options,
        boot_ns,
        id_salt: u64::from(u16::from_le_bytes(random)),
        memory,
        segment,
        started,
        running: None,
        keeper: None,
        cluster: Cluster::new(started)?,
        draining: false,
        stop_at: None,
        expiry: None,
        exit: 0,
    };
    gateway.start_control()?;
    gateway.serve(&signals)?;
    gateway.finish();
    Ok(gateway.exit)
}

/// One socket per signal, readable when it has come.
struct Signals(Vec<(i32, UnixStream)>);

impl Signals {
    fn install() -> io::Result<Self> {
        let mut all = Vec::new();
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGUSR1] {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            pipe::register(signal, write)?;
            all.push((signal, read));
        }
        Ok(Self(all))
    }
}

fn empty(mut stream: &UnixStream) {
    let mut bytes = [0; 64];
    while matches!(io::Read::read(&mut stream, &mut bytes), Ok(n) if n > 0) {}
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Gateway {
    fn serve(&mut self, signals: &Signals) -> io::Result<()> {
        loop {
            let timeout = self.wait_time();
            let ready = {
                let mut fds: Vec<PollFd<'_>> = signals
                    .0
                    .iter()
                    .map(|(_, stream)| PollFd::new(stream, PollFlags::IN))
                    .collect();
                if let Some(channel) = &self.control.channel {
                    fds.push(PollFd::new(channel, PollFlags::IN));
                }
                // An end that has been seen: its hang-up would only keep the loop awake. One that has not must wake it.
                let alive = self.running.iter().flat_map(|running| &running.workers);
                fds.extend(
                    alive
                        .filter(|worker| !worker.over)
                        .map(|worker| PollFd::new(&worker.ended, PollFlags::IN)),
                );
                match poll(&mut fds, timeout.as_ref()) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
                fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<bool>>()
            };
            for ((signal, stream), _) in signals.0.iter().zip(&ready).filter(|(_, ready)| **ready) {
                empty(stream);
                self.on_signal(*signal);
            }
            self.on_time()?;
            self.read_channel();
            if self.workers_are_done() {
                return Ok(());
            }
        }
    }

    /// How long nothing is due.
    fn wait_time(&self) -> Option<Timespec> {
        let now = Instant::now();
        let expiry = self.expiry.map(|at| {
            let left = Duration::from_secs(at.saturating_sub(unix_seconds()));
            now + left.min(CLOCK_CHECK)
        });
        // Whose thread ends tells nobody.
        let look = self.helper_threads().next().map(|_| now + CLOCK_CHECK);
        let due =
            [self.control.start_at, self.stop_at, expiry, look].into_iter().flatten().min()?;
        Timespec::try_from(due.saturating_duration_since(now) + Duration::from_millis(1)).ok()
    }

    fn on_signal(&mut self, signal: i32) {
        match signal {
            SIGHUP => self.control.send(ToControl::Reload {}, &[]),
            SIGUSR1 => self.control.send(ToControl::Reopen {}, &[]),
            _ if self.draining => {
                log::info("stopping now");
                self.stop();
            }
            _ => self.drain(),
        }
    }

    fn post_all(&self, mail: impl Fn() -> Mail) {
        for worker in self.running.iter().flat_map(|running| &running.workers) {
            worker.mailbox.post(mail());
        }
    }

    /// All workers end now.
    fn stop(&mut self) {
        self.draining = true;
        self.stop_at = None;
        self.post_all(|| Mail::Stop);
        for front in self.fronts() {
            front.stop();
        }
    }

    fn fronts(&self) -> impl Iterator<Item = &egress_front::Handle> {
        self.running.iter().flat_map(|running| &running.front).map(|(front, _)| front)
    }

    /// Stop accepting; live flows may go on for `timeouts.drain`, then they are closed.
    fn drain(&mut self) {
        if self.draining {
            return;
        }
        self.draining = true;
        let patience = self
            .running
            .as_ref()
            .map_or(Duration::ZERO, |running| running.installed.snapshot.settings().timeouts.drain);
        self.stop_at = Some(Instant::now() + patience);
        let (done, answers) = mpsc::channel();
        self.post_all(|| Mail::Drain { done: done.clone() });
        if let Some(running) = &self.running {
            running.resolver.drain();
        }
        drop(done);
        let open = Self::gather(&answers);
        // After the workers: what they have just accepted is on its way to the front, and is still served.
        for front in self.fronts() {
            front.drain();
        }
        // Said only now: whoever waits for it may count on new connections being refused.
        log::info(&format!(
            "draining: {open} flows have {} s to end; a second signal stops at once",
            patience.as_secs()
        ));
        self.control.send(ToControl::Draining {}, &[]);
    }

    /// Adds up what all those answer who hold the other end; one that does not answer in time is left out.
    fn gather(answers: &mpsc::Receiver<u64>) -> u64 {
        let until = Instant::now() + WORKER_PATIENCE;
        let mut sum = 0;
        loop {
            match answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(answer) => sum += answer,
                Err(RecvTimeoutError::Disconnected) => return sum,
                Err(RecvTimeoutError::Timeout) => {
                    log::warn("a thread is slow to answer");
                    return sum;
                }
            }
        }
    }

    fn on_time(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if self.stop_at.is_some_and(|at| at <= now) {
            self.stop();
        }
        if self.expiry.is_some_and(|at| at <= unix_seconds()) {
            self.post_all(|| Mail::JudgeAgain);
            self.plan_expiry();
        }
        if !self.draining
            && self.control.start_at.is_some_and(|at| at <= now)
            && let Err(error) = self.start_control()
        {
            // No descriptor or no process to be had: traffic goes on, and the next try may find one.
            if self.running.is_none() {
                return Err(error);
            }
            log::error(&format!("the control plane does not start: {error}"));
            self.control.start_at = Some(now + CONTROL_RETRY);
        }
        Ok(())
    }

    fn plan_expiry(&mut self) {
        self.expiry = self
            .running
            .as_ref()
            .and_then(|running| running.installed.snapshot.next_expiry(unix_seconds()));
    }

    fn start_control(&mut self) -> io::Result<()> {
        self.control.start().map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("{} cannot be started: {error}", self.options.python),
            )
        })?;
        let running = self.running.as_ref();
        let hello = ToControl::Hello {
            pid: std::process::id(),
            boot: self.boot_ns,
            generation: running.map_or(0, |running| running.installed.generation),
            digest: running.map(|running| running.installed.snapshot.digest()),
            restarts: self.control.restarts,
            memo: running.map(|running| &running.memo),
            options: &self.raw_options,
        };
        self.control.send(hello, &[self.memory.fd().as_fd()]);
        Ok(())
    }

    fn read_channel(&mut self) {
        for _ in 0..MESSAGES_PER_TURN {
            let Some(channel) = &self.control.channel else { return };
            match channel.receive() {
                Ok(Arrived::Empty) => return,
                Ok(Arrived::Message(bytes, descriptors)) => self.on_message(&bytes, descriptors),
                Ok(Arrived::Closed) => return self.control_died(),
                Err(error) => {
                    log::error(&format!("the control plane sent something unreadable: {error}"));
                    return self.control_died();
                }
            }
        }
    }

    fn control_died(&mut self) {
        let status = self.control.died();
        if self.draining {
            return;
        }
        let how = status.map_or("without a status".to_owned(), |status| status.to_string());
        if self.running.is_none() {
            let code = status.and_then(|status| status.code());
            if code == Some(EXIT_CONFIG) || self.control.early_deaths() >= HOPELESS {
                self.exit = if code == Some(EXIT_CONFIG) { EXIT_CONFIG } else { EXIT_SOFTWARE };
                self.draining = true;
                return;
            }
        }
        log::warn(&format!("the control plane ended ({how}); traffic goes on, starting it again"));
    }

    fn on_message(&mut self, bytes: &[u8], descriptors: Vec<OwnedFd>) {
        let received: Received = match serde_json::from_slice(bytes) {
            Ok(received) => received,
            Err(error) => {
                return log::error(&format!(
                    "a message of the control plane was not understood: {error}"
                ));
            }
        };
        if received.v != VERSION {
            return log::error(&format!(
                "the control plane speaks version {}, not {VERSION}",
                received.v
            ));
        }
        match received.message {
            FromControl::Install { id, memo } => {
                let answer = match self.install(id, descriptors) {
                    Ok(installed) => installed,
                    Err(errors) => ToControl::Refused { id, errors, more: 0 },
                };
                if let (ToControl::Installed { .. }, Some(running)) = (&answer, &mut self.running) {
                    running.memo = memo;
                }
                self.control.send(answer, &[]);
            }
            FromControl::Report { id } => self.report(id),
            FromControl::Status { id } => self.control.send(self.status(id), &[]),
            FromControl::Drain { .. } => self.drain(),
        }
    }

    fn report(&self, id: u64) {
        let Some(running) = &self.running else { return };
        let at_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let store = self.keeper.as_ref().map(Keeper::report);
        match report::seal(&running.installed, store, self.cluster.status(), at_ns) {
            Ok(fd) => self.control.send(ToControl::Report { id }, &[fd.as_fd()]),
            Err(error) => log::warn(&format!("no report for the control plane: {error}")),
        }
    }

    fn status(&self, id: u64) -> ToControl<'static> {
        let running = self.running.as_ref();
        let workers = running.map_or_else(Vec::new, |running| {
            (0..u32::try_from(running.workers.len()).unwrap_or(0))
                .map(|index| self.segment.worker_counters(index))
                .map(|counters| WorkerStatus {
                    generation: counters.get(WorkerCounter::Generation),
                    active: counters.get(WorkerCounter::Active),
                    accepted: counters.get(WorkerCounter::Accepted),
                })
                .collect()
        });
        ToControl::Status {
            id,
            generation: running.map_or(0, |running| running.installed.generation),
            digest: running.map(|running| running.installed.snapshot.digest()),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            draining: self.draining,
            restarts: self.control.restarts,
            workers,
            listeners: running.map_or_else(Vec::new, |running| running.listeners.clone()),
            more_workers: 0,
            more_listeners: 0,
            budgets: self.keeper.as_ref().map(Keeper::report),
            cluster: self.cluster.status().map(Box::new),
        }
    }

    /// Puts a snapshot in force, whole or not at all.
    fn install(
        &mut self,
        id: u64,
        descriptors: Vec<OwnedFd>,
    ) -> Result<ToControl<'static>, Vec<Refusal>> {
        let refuse = |code, message: String, fix: &str| vec![Refusal::new(code, message, fix)];
        let Some(fd) = descriptors.into_iter().next() else {
            return Err(refuse(
                "no_snapshot",
                "the message came without a snapshot".to_owned(),
                "",
            ));
        };
        let broken = |error: String| {
            refuse(
                "broken_snapshot",
                format!("the snapshot cannot be used: {error}"),
                "restart the control plane",
            )
        };
        let map = SealedMap::map(fd, MAX_SNAPSHOT).map_err(|error| broken(error.to_string()))?;
        let snapshot = Snapshot::open(map).map_err(|error| broken(error.to_string()))?;
        let before = self.running.as_ref().map(|running| Arc::clone(&running.installed));
        if let Some(before) = &before {
            if before.snapshot.digest() == snapshot.digest() {
                return Ok(ToControl::Installed {
                    id,
                    generation: before.generation,
                    changed: false,
                    closing: 0,
                });
            }
            let fixed = needs_restart(before.snapshot.settings(), snapshot.settings());
            if !fixed.is_empty() {
                return Err(fixed);
            }
        }
        let terms = front::terms(snapshot.settings(), before.as_deref().zip(self.fronts().next()))?;
        let workers = worker_count(&self.options, snapshot.settings());
        self.open_store(&snapshot)?;
        self.cluster.prepare(&snapshot).map_err(|error| {
            refuse("start", format!("the thread of shared limits cannot start: {error}"), "")
        })?;
        let keeper = self.keeper.as_ref();
        let installed = Arc::new(Installed::new(snapshot, before.as_deref(), workers, keeper));
        self.cluster.install(&installed, before.is_some());
        let closing = match &before {
            None => {
                self.running = Some(Running::start(
                    Arc::clone(&installed),
                    &self.options,
                    &self.segment,
                    self.id_salt,
                    self.started,
                    terms,
                )?);
                0
            }
            Some(before) => {
                for front in self.fronts() {
                    front.configure(terms.clone());
                }
                self.swap(before, &installed)
            }
        };
        self.plan_expiry();
        Ok(ToControl::Installed { id, generation: installed.generation, changed: true, closing })
    }

    /// Opens what keeps budgets, where the policy has any.
    fn open_store(&mut self, snapshot: &Snapshot) -> Result<(), Vec<Refusal>> {
        let Some(keeping) = &snapshot.settings().budgets else { return Ok(()) };
        if snapshot.budgets().next().is_none() {
            return Ok(());
        }
        match &self.keeper {
            Some(keeper) if keeper.path != keeping.store => {
                return Err(vec![other_store(keeper, &keeping.store)]);
            }
            Some(keeper) => keeper.set_zone(&keeping.zone),
            None => {
                let keeper = Keeper::start(keeping).map_err(|fault| {
                    let refusal = Refusal::new("budgets_store", fault.message, fault.fix);
                    vec![refusal.at(STORE.map(Into::into))]
                })?;
                self.keeper = Some(keeper);
            }
        }
        Ok(())
    }

    /// Hands the new policy to every worker and waits until all decide by it.
    fn swap(&mut self, before: &Installed, installed: &Arc<Installed>) -> u64 {
        let Some(running) = &mut self.running else { return 0 };
        let settings = &installed.snapshot.settings().resolver;
        if before.snapshot.settings().resolver != *settings {
            running.names_epoch += 1;
            running.resolver.configure(settings.clone(), running.names_epoch);
        }
        let epoch = running.names_epoch;
        let (done, answers) = mpsc::channel();
        for worker in &running.workers {
            let policy = Arc::clone(installed);
            worker.mailbox.post(Mail::Install { policy, epoch, done: done.clone() });
        }
        running.resolver.install(Arc::clone(installed), done);
        running.installed = Arc::clone(installed);
        Self::gather(&answers)
    }

    /// Those of shared limits and of budgets, where there are some.
    fn helper_threads(&self) -> impl Iterator<Item = &JoinHandle<()>> {
        self.cluster.thread().into_iter().chain(self.keeper.as_ref().and_then(Keeper::thread))
    }

    /// Whether the end has come: all workers have drained, or one of them failed.
    fn workers_are_done(&mut self) -> bool {
        let Some(running) = &mut self.running else { return self.draining };
        for worker in &mut running.workers {
            worker.over = worker.thread.as_ref().is_none_or(JoinHandle::is_finished);
        }
        let (any, all) = running
            .workers
            .iter()
            .fold((false, true), |(any, all), worker| (any || worker.over, all && worker.over));
        // Half a gateway would lose the connections of the failed half, and shares or budgets that nobody keeps would hold
        // for ever: let the pod be started anew.
        let kept = !self.helper_threads().any(JoinHandle::is_finished);
        if (any || !kept) && !self.draining {
            let who = if any { "a worker" } else { "the thread of shared limits or of budgets" };
            log::error(&format!("{who} ended by itself; the gateway stops"));
            self.exit = EXIT_SOFTWARE;
            self.stop();
        }
        all
    }

    fn finish(&mut self) {
        if let Some(mut running) = self.running.take() {
            for worker in &mut running.workers {
                if let Some(thread) = worker.thread.take()
                    && thread.join().is_err()
                {
                    self.exit = EXIT_SOFTWARE;
                }
            }
            if let Some((front, thread)) = running.front.take() {
                front.stop();
                if thread.join().is_err() {
                    self.exit = EXIT_SOFTWARE;
                }
            }
            self.cluster.end();
            let Running { workers, resolver, resolver_thread, .. } = running;
            drop((workers, resolver));
            // It ends with its last handle; a query under way is not waited for.
            drop(resolver_thread);
        }
        // After the workers: what their last flows have moved is written, too.
        self.keeper = None;
        self.control.end();
    }
}
