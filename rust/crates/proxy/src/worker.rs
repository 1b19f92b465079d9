//! A worker: one thread with its own event loop, listeners, flows, timers and counters. It shares nothing per connection.

mod accept;
mod adopt;
mod datagrams;
mod mail;
#[cfg(test)]
mod tests;
mod turns;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use egress_flowlog::{NONE_U32, WorkerArea, WorkerCounter};
use egress_policy::{Accepts, End};
use mio::{Events, Poll, Token};

use self::accept::{Listening, spare};
pub(crate) use self::datagrams::Captured;
use self::datagrams::Datagrams;
pub(crate) use self::mail::{Mail, Mailbox, mailbox};
use crate::context::{CLIENT, Candidates, Context, FlowToken, Local, Step};
use crate::dial::Dials;
use crate::flow::{Flow, Recorder, WallClock, Work};
use crate::installed::{InForce, Installed};
use crate::limits::Lines;
use crate::logins::{self, Remembered};
use crate::pool::{Buffers, Pipes};
use crate::relay::{Edge, Lender, SCRATCH_BYTES};
use crate::resolver::Handle;
use crate::shape::Shaper;
use crate::silence::Silences;
use crate::wheel::Wheel;

/// Events taken from the kernel at once.
const EVENTS: usize = 1024;
/// Connections accepted from one listener before the flows get their turn, and one more for each four flows that had
/// theirs: few, so that what was just touched is still
/// in the cache when it goes on (64 costs 5 % more CPU per connection, 1 costs 3 %).
const ACCEPT_BATCH: usize = 4;
/// How long `low_latency` polls without blocking before it sleeps.
const SPIN: Duration = Duration::from_micros(50);
/// How soon a listener is tried again after an accept that failed for want of memory or descriptors.
const STARVED_RETRY: Duration = Duration::from_millis(100);
/// Tokens of the worker itself: no flow has this generation.
const OWN_GENERATION: u32 = u32::MAX;
/// Slots of the sockets that take datagrams, above those of the listeners.
const DATAGRAMS: usize = 1 << 16;
const OWN_MAIL: FlowToken = FlowToken { slot: (1 << 29) - 1, generation: OWN_GENERATION };
const WAKER: Token = OWN_MAIL.token();

impl FlowToken {
    const fn token(self) -> Token {
        Token((self.generation as usize) << 32 | self.slot << 3)
    }
}

/// What a worker is made from.
#[derive(Debug)]
pub(crate) struct Parts {
    pub index: usize,
    /// How many there are.
    pub workers: usize,
    /// When the clock of all workers began: what they tell each other of times is of one clock.
    pub started: Instant,
    pub poll: Poll,
    pub mail: Receiver<Mail>,
    pub area: WorkerArea,
    /// This worker's socket of each listener that has connections, with its place in the settings.
    pub listeners: Vec<(u16, Accepts, OwnedFd)>,
    pub front: Option<egress_front::Handle>,
    /// This worker's sockets of captured datagrams.
    pub datagrams: Vec<Captured>,
    pub own: Arc<[SocketAddr]>,
    pub policy: Arc<Installed>,
    pub resolver: Handle,
    pub logins: logins::Handle,
    /// Of the keyed hash under which logins are remembered.
    pub login_key: [u8; 32],
    pub max_flows: usize,
    pub low_latency: bool,
    /// The upper 24 bits of every flow id: different for each boot and worker.
    pub id_prefix: u64,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    /// In the queue of flows that want another turn.
    queued: bool,
    flow: Option<Flow>,
}

struct Worker {
    context: Context,
    slots: Vec<Slot>,
    free: Vec<u32>,
    open: usize,
    max_flows: usize,
    listeners: Vec<Listening>,
    datagrams: Datagrams,
    /// Flows whose turn was over before their work was.
    again: VecDeque<FlowToken>,
    /// Given up for a moment when descriptors run out, to accept and close the connection that waits.
    spare: Option<OwnedFd>,
    mail: Receiver<Mail>,
    /// Of the resolver's settings by which the names in the cache were found.
    names_epoch: u64,
    started: Instant,
    stopping: bool,
}

/// Runs a worker until it is told to stop, or has drained.
pub(crate) fn run(parts: Parts) -> std::io::Result<()> {
    let Parts {
        index,
        workers,
        started,
        mut poll,
        mail,
        area,
        listeners,
        front,
        datagrams,
        own,
        policy,
        resolver,
        logins,
        login_key,
        max_flows,
        low_latency,
        id_prefix,
    } = parts;
    let registry = poll.registry().try_clone()?;
    let since = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let started_unix_ns = unix_ns().saturating_sub(since);
    let max_flows = max_flows.min(area.live.capacity());
    let recorder = Rc::new(Recorder {
        ring: RefCell::new(area.ring),
        live: area.live,
        counters: area.counters,
        policy: RefCell::new(Rc::new(InForce(policy))),
        now_ns: Cell::new(0),
        wall: WallClock::new(started_unix_ns),
    });
    let context = Context {
        worker: index,
        registry,
        wheel: Wheel::new(0, max_flows),
        lender: Lender {
            scratch: vec![0; SCRATCH_BYTES],
            buffers: Buffers::default(),
            pipes: Pipes::new(workers),
            pipe_misses: 0,
        },
        dials: Dials::default(),
        candidates: Candidates::default(),
        recorder,
        resolver,
        front,
        login_thread: logins,
        logins: Remembered::new(login_key),
        names: HashMap::new(),
        own,
        local: Local::default(),
        shaper: Shaper::new(index),
        lines: Lines::new(index),
        silences: Silences::default(),
        now: started,
        now_ms: 0,
        unix_seconds: started_unix_ns / 1_000_000_000,
        next_id: id_prefix << 40,
        draining: false,
    };
    let mut worker = Worker {
        context,
        // Room for all at once: memory that no flow has touched yet costs nothing, and growing would copy it.
        slots: Vec::with_capacity(max_flows),
        free: Vec::new(),
        open: 0,
        max_flows,
        listeners: Vec::new(),
        datagrams: Datagrams::new(datagrams),
        again: VecDeque::new(),
        spare: spare(),
        mail,
        names_epoch: 0,
        started,
        stopping: false,
    };
    for (number, accept, fd) in listeners {
        let token = FlowToken { slot: worker.listeners.len(), generation: OWN_GENERATION }.token();
        worker.context.watch(fd.as_raw_fd(), token)?;
        let policy = worker.context.policy();
        let settings = policy.listener(number);
        let tls = settings.is_some_and(|settings| settings.tls.is_some());
        worker.listeners.push(Listening { number, accept, tls, fd, ready: true, starved: false });
    }
    for (index, captured) in worker.datagrams.sockets.iter().enumerate() {
        let slot = DATAGRAMS + index;
        let token = FlowToken { slot, generation: OWN_GENERATION }.token();
        worker.context.watch(captured.fd.as_raw_fd(), token)?;
    }
    let plans = Arc::clone(&worker.context.policy().plans);
    worker.context.shaper.install(&plans, 0);
    let mut events = Events::with_capacity(EVENTS);
    let mut due = Vec::new();
    // Only now: a generation says that its worker serves.
    let generation = worker.context.policy().generation;
    worker.context.recorder.counters.set(WorkerCounter::Generation, generation);
    while !(worker.stopping || worker.context.draining && worker.is_empty()) {
        worker.wait(&mut poll, &mut events, low_latency)?;
        worker.turn(&events, &mut due);
    }
    worker.end_all(End::Drained);
    Ok(())
}

fn unix_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0))
}

impl Worker {
    fn tick(&mut self) {
        let context = &mut self.context;
        context.now = Instant::now();
        let ns =
            u64::try_from(context.now.duration_since(self.started).as_nanos()).unwrap_or(u64::MAX);
        context.recorder.now_ns.set(ns);
        context.now_ms = ns / 1_000_000;
        context.lender.pipes.now_ms = context.now_ms;
        // Not counted on from the start: the clock may have been set since, and `until` and the records are about it.
        let unix_ns = unix_ns();
        context.recorder.wall.follow(ns, unix_ns);
        context.unix_seconds = unix_ns / 1_000_000_000;
    }

    fn wait(
        &mut self,
        poll: &mut Poll,
        events: &mut Events,
        low_latency: bool,
    ) -> std::io::Result<()> {
        let now_ns = self.context.now_ns();
        let turn = self.context.shaper.wakes_at().into_iter().chain(self.context.lines.wakes_at());
        let turn = turn.map(|at: u64| Duration::from_nanos(at.saturating_sub(now_ns))).min();
        let busy = turn.is_some_and(|turn| turn.is_zero())
            || !self.again.is_empty()
            || self.listeners.iter().any(|listening| listening.ready)
            || self.datagrams.sockets.iter().any(|captured| captured.ready);
        let timeout = if busy {
            Some(Duration::ZERO)
        } else {
            let timer = self.context.wheel.wait_ms(self.context.now_ms).map(Duration::from_millis);
            let starved = self.listeners.iter().any(|listening| listening.starved);
            timer.into_iter().chain(turn).chain(starved.then_some(STARVED_RETRY)).min()
        };
        if low_latency && !busy && self.open > 0 {
            let until = Instant::now() + SPIN;
            while Instant::now() < until {
                match poll.poll(events, Some(Duration::ZERO)) {
                    Ok(()) if !events.is_empty() => return Ok(()),
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        match poll.poll(events, timeout) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    fn turn(&mut self, events: &Events, due: &mut Vec<usize>) {
        self.tick();
        self.context.count(WorkerCounter::Turns);
        self.context.shaper.share(self.context.now_ns());
        // Those that come to want another turn during this one get it in the next.
        let again = self.again.len();
        let mut served = again;
        let mut mail = false;
        for event in events {
            let (token, side) = FlowToken::read(event.token());
            if token.generation == OWN_GENERATION {
                if let Some(listening) = self.listeners.get_mut(token.slot) {
                    listening.ready = true;
                } else if token == OWN_MAIL {
                    mail = true;
                } else if let Some(captured) =
                    self.datagrams.sockets.get_mut(token.slot.wrapping_sub(DATAGRAMS))
                {
                    captured.ready = true;
                }
                continue;
            }
            served += 1;
            let broken = event.is_error() || (event.is_write_closed() && event.is_read_closed());
            let edge = Edge {
                readable: event.is_readable() || broken,
                writable: event.is_writable() || broken,
                ending: event.is_read_closed() || broken,
                broken,
                failed: event.is_error(),
                urgent: event.is_priority(),
            };
            self.with(token, |context, flow| {
                if side == CLIENT {
                    flow.mark_client(edge);
                } else if let Some((upstream, own)) = flow.work.upstream_mut() {
                    // Another attempt's, decided in the same batch: that socket is closed.
                    if usize::from(own) != side {
                        return Step::Stay;
                    }
                    upstream.mark(edge);
                }
                context.on_edge(token, flow, side, edge)
            });
        }
        // After the events: a new policy may dial anew, and an event fetched before it would be taken for the new socket's.
        if mail {
            self.read_mail();
        }
        for _ in 0..again {
            let Some(token) = self.again.pop_front() else { break };
            let slot = &mut self.slots[token.slot];
            if slot.generation == token.generation {
                slot.queued = false;
            }
            self.with(token, |context, flow| context.on_edge(token, flow, CLIENT, Edge::NONE));
        }
        self.take_turns(served);
        due.clear();
        self.context.wheel.expire(self.context.now_ms, due);
        for slot in due.drain(..) {
            let token = FlowToken { slot, generation: self.slots[slot].generation };
            self.with(token, |context, flow| context.on_timer(token, flow));
        }
        if !self.context.lines.is_empty() {
            self.let_in();
        }
        for index in 0..self.listeners.len() {
            let starved = std::mem::take(&mut self.listeners[index].starved);
            if self.listeners[index].ready || starved {
                self.accept_batch(index, ACCEPT_BATCH + served / 4);
            }
        }
        for index in 0..self.datagrams.sockets.len() {
            if self.datagrams.sockets[index].ready {
                self.refuse_datagrams(index);
            }
        }
        let misses = std::mem::take(&mut self.context.lender.pipe_misses);
        if misses > 0 {
            self.context.recorder.counters.add(WorkerCounter::PipeMisses, misses);
        }
    }

    /// Lets `act` take the flow a step on, if it still exists, and does what the step asks for.
    fn with(&mut self, token: FlowToken, act: impl FnOnce(&mut Context, &mut Flow) -> Step) {
        let Some(slot) = self.slots.get_mut(token.slot) else { return };
        if slot.generation != token.generation {
            return;
        }
        let Some(flow) = slot.flow.as_mut() else { return };
        let mut step = act(&mut self.context, flow);
        let client = &mut flow.client;
        if client.reads_only && !client.writable && !matches!(step, Step::End(_)) {
            client.reads_only = false;
            if self.context.watch_again(client, token.side(CLIENT)).is_err() {
                step = Step::End(End::OutOfResources);
            }
        }
        match step {
            Step::Stay => {}
            Step::Again if slot.queued => {}
            Step::Again => {
                slot.queued = true;
                self.again.push_back(token);
            }
            Step::End(end) => self.end(token.slot, end),
        }
    }

    /// Ends a flow: its record is written and its sockets close when it is dropped here.
    fn end(&mut self, index: usize, end: End) {
        let slot = &mut self.slots[index];
        let Some(mut flow) = slot.flow.take() else { return };
        flow.end = end;
        self.context.reclaim(&mut flow);
        self.context.wheel.unset(index);
        if let Some((upstream, _)) = flow.work.upstream_mut() {
            // A break on one side is shown as a break on the other, not as an orderly end.
            match end {
                End::ClientReset => egress_sys::abort_on_close(upstream.fd()),
                End::UpstreamReset => flow.abort_client(),
                End::PolicyChanged | End::BudgetSpent | End::Drained | End::Aborted => {
                    egress_sys::abort_on_close(upstream.fd());
                    flow.abort_client();
                }
                _ => {}
            }
        }
        slot.generation = (slot.generation + 1) % OWN_GENERATION;
        slot.queued = false;
        self.free.push(u32::try_from(index).unwrap_or(NONE_U32));
        self.open -= 1;
    }

    fn end_all(&mut self, end: End) {
        for index in 0..self.slots.len() {
            self.end(index, end);
        }
    }

    /// Ends the connections that wait for a request that nobody has begun to send.
    fn end_idle(&mut self) {
        for slot in 0..self.slots.len() {
            let token = FlowToken { slot, generation: self.slots[slot].generation };
            self.with(token, |_, flow| {
                if flow.is_between_requests() { Step::End(End::Closed) } else { Step::Stay }
            });
        }
    }

    fn read_mail(&mut self) {
        loop {
            match self.mail.try_recv() {
                // By settings that were replaced: whoever waited for it has asked again.
                Ok(Mail::Resolved { epoch, .. }) if epoch < self.names_epoch => {}
                Ok(Mail::Resolved { token, name, answer, .. }) => {
                    let answer = answer
                        .map(|addresses| self.context.remember(&name, &addresses))
                        .map_err(|failure| failure.end);
                    let token = FlowToken::of_number(token);
                    self.with(token, |context, flow| context.resolved(token, flow, &name, &answer));
                }
                Ok(Mail::Handed { token, address, names }) => {
                    let token = FlowToken::of_number(token);
                    self.with(token, |context, flow| context.handed(token, flow, address, &names));
                }
                Ok(Mail::Remember(name)) => self.context.logins.add(name),
                Ok(Mail::LoggedIn { token, outcome }) => {
                    let token = FlowToken::of_number(token);
                    self.with(token, |context, flow| context.login_answered(token, flow, outcome));
                }
                Ok(Mail::Install { policy, epoch, done }) => {
                    self.keep_judges();
                    if !policy.snapshot.same_users(&self.context.policy().snapshot) {
                        self.context.logins.forget();
                    }
                    if epoch != self.names_epoch {
                        self.names_epoch = epoch;
                        self.context.names.clear();
                    }
                    self.context
                        .recorder
                        .counters
                        .set(WorkerCounter::Generation, policy.generation);
                    let now_ns = self.context.now_ns();
                    self.context.shaper.install(&policy.plans, now_ns);
                    *self.context.recorder.policy.borrow_mut() = Rc::new(InForce(policy));
                    let closed = self.judge_all_again();
                    let _ = done.send(closed);
                }
                Ok(Mail::Adopt(client)) => self.adopt(*client),
                Ok(Mail::Lost(lost)) => self.lose(&lost),
                Ok(Mail::FrontIdle) => {}
                Ok(Mail::JudgeAgain) => {
                    // This turn may have begun before the `until` that the letter is about.
                    self.tick();
                    self.judge_all_again();
                }
                Ok(Mail::Drain { done }) => {
                    // What waits in the queues has been promised a gateway; closing the listener would reset it. What
                    // comes meanwhile, beyond a whole queue, has not.
                    for index in 0..self.listeners.len() {
                        self.listeners[index].ready = true;
                        self.accept_batch(index, egress_sys::BACKLOG as usize + 1);
                    }
                    self.context.draining = true;
                    self.listeners.clear();
                    self.datagrams.sockets.clear();
                    self.end_idle();
                    let _ = done.send(self.open as u64);
                }
                Ok(Mail::Stop) => self.stopping = true,
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.stopping = true;
                    return;
                }
            }
        }
    }

    /// A refused flow is not judged again: its rule stays one of the policy that is being replaced.
    fn keep_judges(&mut self) {
        let policy = self.context.policy();
        for flow in self.slots.iter_mut().filter_map(|slot| slot.flow.as_mut()) {
            if matches!(flow.work, Work::Refuse(_)) && flow.judge.is_none() {
                flow.judge = Some(Rc::clone(&policy));
            }
        }
    }

    /// Judges every live flow by the policy now in force; gives how many it closes, now or after their grace.
    fn judge_all_again(&mut self) -> u64 {
        let policy = self.context.policy();
        let before = self.context.recorder.counters.get(WorkerCounter::PolicyClosed);
        self.context.lines.clear();
        for slot in 0..self.slots.len() {
            let token = FlowToken { slot, generation: self.slots[slot].generation };
            self.with(token, |context, flow| context.judge_again(token, flow, &policy));
        }
        self.context.recorder.counters.get(WorkerCounter::PolicyClosed) - before
    }
}
