//! Name resolution on a thread of its own: one cache, one question per name however many wait for it.
//!
//! hickory-resolver speaks DNS (`families`); this file decides how long an answer is used, and that an expired one is
//! better than none for a bounded time while the servers are away (RFC 8767). Workers keep what they are told until it
//! expires.

mod client;
#[cfg(test)]
pub(crate) mod tests;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use egress_flowlog::{Counters, ResolverCounter as Count};
use egress_hello::name::Name;
use egress_policy::{End, Resolver as Settings};
use hickory_resolver::TokioResolver;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use self::client::build;
use crate::dns::{Bound, Front};
use crate::families::{self, Failure};
use crate::installed::Installed;

/// Queries under way at once; further ones wait their turn. A name whose servers stay silent takes up to 12 descriptors
/// (two families, two servers, three tries each), hence one query for so many that the process may have.
const MAX_QUERIES: u64 = 1024;
const MIN_QUERIES: u64 = 64;
const DESCRIPTORS_PER_QUERY: u64 = 64;
/// The part of them that the names of one registrable domain may take: one whose servers are dead holds up its own.
const DOMAIN_SHARE: usize = 8;
/// Names of one domain, and of all, whose query is under way or waits; a question beyond is given up at once.
const MAX_WAITING_OF_DOMAIN: usize = 4096;
const MAX_WAITING: usize = 65_536;
/// While the servers are away, a stale answer is given at once for this long before they are asked again
/// (RFC 8767, section 5: the failure recheck timer).
const RECHECK: Duration = Duration::from_secs(5);
/// A failure is remembered this long, so that a storm of connections to one broken name is one query.
const FAILURE_TTL: Duration = Duration::from_secs(1);

/// The addresses of a name, best first.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    pub ips: Arc<[IpAddr]>,
    /// From here on the name must be asked for again.
    pub until: Instant,
    /// The answer had expired and the servers were away.
    pub stale: bool,
}

/// A name's addresses, or how the resolution ended.
pub(crate) type Answer = Result<Addresses, Failure>;

/// Where answers go: called on the resolver's thread.
pub(crate) trait Reply: Send {
    /// The epoch is that of the settings by which the answer was found.
    fn reply(&self, token: u64, name: &Name, answer: &Answer, epoch: u64);
    /// The names under which `address` was told to the source that was asked about, newest first.
    fn handed(&self, token: u64, address: IpAddr, names: Vec<Name>);
}

enum Message {
    Ask { name: Name, worker: usize, token: u64 },
    Handed { source: IpAddr, address: IpAddr, worker: usize, token: u64 },
    Configure { settings: Box<Settings>, epoch: u64 },
    Install { policy: Arc<Installed>, done: Sender<u64> },
    Drain,
}

/// The workers' end.
#[derive(Debug, Clone)]
pub(crate) struct Handle(mpsc::UnboundedSender<Message>);

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Message")
    }
}

impl Handle {
    /// Asks for a name; the answer reaches the worker with `token`. Bounded by the flows that wait.
    pub(crate) fn ask(&self, name: Name, worker: usize, token: u64) {
        let _ = self.0.send(Message::Ask { name, worker, token });
    }

    /// Asks under which names `source` was told `address`; the answer reaches the worker with `token`.
    pub(crate) fn handed(&self, source: IpAddr, address: IpAddr, worker: usize, token: u64) {
        let _ = self.0.send(Message::Handed { source, address, worker, token });
    }

    /// Questions of clients are judged by `policy` from now on; `done` is told when they are.
    pub(crate) fn install(&self, policy: Arc<Installed>, done: Sender<u64>) {
        let _ = self.0.send(Message::Install { policy, done });
    }

    /// Questions of clients are no longer taken.
    pub(crate) fn drain(&self) {
        let _ = self.0.send(Message::Drain);
    }

    /// Takes new settings, whose epoch is higher than that of any before (0 at the start): the cache starts anew, and
    /// questions that are open are not answered. Workers ask them again with the policy that the settings are part of.
    pub(crate) fn configure(&self, settings: Settings, epoch: u64) {
        let _ = self.0.send(Message::Configure { settings: Box::new(settings), epoch });
    }
}

/// Starts the thread; it ends when the last handle is dropped. `bound` is where clients ask for names, if anywhere.
pub(crate) fn start(
    settings: Settings,
    replies: Vec<Box<dyn Reply>>,
    counters: Counters,
    bound: Option<Bound>,
) -> std::io::Result<(Handle, std::thread::JoinHandle<()>)> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("resolver".to_owned()).spawn(move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, serve(settings, receiver, replies, counters, bound));
    })?;
    Ok((Handle(sender), thread))
}

struct Entry {
    answer: Answer,
    /// When an answer that has expired stops being better than none.
    stale_until: Instant,
    /// A good answer from before, kept for the case that the servers go away.
    last_used: Instant,
}

impl Entry {
    fn fresh(&self, now: Instant) -> bool {
        match &self.answer {
            Ok(addresses) => now < addresses.until,
            Err(_) => now < self.stale_until,
        }
    }
}

/// The cache, and the questions that are open.
pub(crate) struct Shared {
    settings: Settings,
    resolver: Option<TokioResolver>,
    epoch: u64,
    /// Of this epoch: a change of settings ends those before.
    queries: JoinSet<()>,
    cache: HashMap<Name, Entry>,
    waiting: HashMap<Name, Vec<Waiter>>,
    replies: Vec<Box<dyn Reply>>,
    counters: Counters,
    most_queries: usize,
    permits: Rc<Semaphore>,
    /// The permits of each registrable domain that has a query.
    domains: HashMap<Box<str>, Rc<Semaphore>>,
}

/// Who waits for an answer.
enum To {
    Worker {
        worker: usize,
        token: u64,
    },
    /// A question of a client of our own.
    Client(oneshot::Sender<Answer>),
}

struct Waiter {
    to: To,
    asked: Instant,
}

async fn serve(
    settings: Settings,
    mut receiver: mpsc::UnboundedReceiver<Message>,
    replies: Vec<Box<dyn Reply>>,
    counters: Counters,
    bound: Option<Bound>,
) {
    let resolver = build(&settings);
    let most_queries = most_queries();
    let shared = Rc::new(RefCell::new(Shared {
        settings,
        resolver,
        epoch: 0,
        queries: JoinSet::new(),
        cache: HashMap::new(),
        waiting: HashMap::new(),
        replies,
        counters,
        most_queries,
        permits: Rc::new(Semaphore::new(most_queries)),
        domains: HashMap::new(),
    }));
    let front = bound.map(|bound| Front::start(bound, &shared, counters));
    while let Some(message) = receiver.recv().await {
        match message {
            Message::Ask { name, worker, token } => {
                counters.add(Count::Asked, 1);
                ask(&shared, name, To::Worker { worker, token });
            }
            Message::Handed { source, address, worker, token } => {
                let names = front.as_ref().map(|front| front.handed(source, address));
                if let Some(reply) = shared.borrow().replies.get(worker) {
                    reply.handed(token, address, names.unwrap_or_default());
                }
            }
            Message::Install { policy, done } => {
                if let Some(front) = &front {
                    front.install(policy);
                }
                // It closes no flow.
                let _ = done.send(0);
            }
            Message::Drain => {
                if let Some(front) = &front {
                    front.drain();
                }
            }
            Message::Configure { settings, epoch } => {
                let mut this = shared.borrow_mut();
                this.resolver = build(&settings);
                this.settings = *settings;
                this.epoch = epoch;
                // Who asked the old servers must wait neither for their answer nor behind it.
                this.queries = JoinSet::new();
                this.waiting.clear();
                this.domains.clear();
                this.permits = Rc::new(Semaphore::new(this.most_queries));
                this.cache.clear();
            }
        }
    }
}

fn most_queries() -> usize {
    let descriptors = egress_sys::descriptor_limit().unwrap_or(u64::MAX);
    let queries = (descriptors / DESCRIPTORS_PER_QUERY).clamp(MIN_QUERIES, MAX_QUERIES);
    usize::try_from(queries).unwrap_or(MIN_QUERIES as usize)
}

/// Whose servers answer for the name, as far as that can be told from it: its registrable domain.
fn domain_of(name: &Name) -> &str {
    psl::domain_str(name.as_str()).unwrap_or(name.as_str())
}

/// The addresses of `name`, from the cache or asked for. An error: the settings have changed meanwhile.
pub(crate) fn look_up(shared: &Rc<RefCell<Shared>>, name: Name) -> oneshot::Receiver<Answer> {
    let (sender, receiver) = oneshot::channel();
    ask(shared, name, To::Client(sender));
    receiver
}

fn ask(shared: &Rc<RefCell<Shared>>, name: Name, to: To) {
    let mut this = shared.borrow_mut();
    let now = Instant::now();
    let waiter = Waiter { to, asked: now };
    if let Some(entry) = this.cache.get_mut(&name)
        && entry.fresh(now)
    {
        entry.last_used = now;
        let answer = entry.answer.clone();
        let stale = matches!(&answer, Ok(addresses) if addresses.stale);
        this.counters.add(if stale { Count::Stale } else { Count::Hits }, 1);
        this.tell(waiter, &name, &answer);
        return;
    }
    if let Some(waiting) = this.waiting.get_mut(&name) {
        waiting.push(waiter);
        this.counters.add(Count::Joined, 1);
        return;
    }
    let share = (this.most_queries / DOMAIN_SHARE).max(1);
    let domain = this
        .domains
        .entry(domain_of(&name).into())
        .or_insert_with(|| Rc::new(Semaphore::new(share)));
    let domain = Rc::clone(domain);
    if Rc::strong_count(&domain) > MAX_WAITING_OF_DOMAIN || this.waiting.len() >= MAX_WAITING {
        let answer = this.instead(&name, now);
        this.tell(waiter, &name, &answer);
        this.release(&name);
        return;
    }
    this.waiting.insert(name.clone(), vec![waiter]);
    while this.queries.try_join_next().is_some() {}
    let query = Query { shared: Rc::clone(shared), name, domain, epoch: this.epoch };
    this.queries.spawn_local(query.run());
}

/// A query under way or waiting. However it ends (a panic under it too), it leaves no list of those who wait for it:
/// otherwise nobody would ever ask for the name again.
struct Query {
    shared: Rc<RefCell<Shared>>,
    name: Name,
    domain: Rc<Semaphore>,
    epoch: u64,
}

impl Drop for Query {
    fn drop(&mut self) {
        if let Ok(mut shared) = self.shared.try_borrow_mut()
            && shared.epoch == self.epoch
        {
            shared.waiting.remove(&self.name);
            shared.release(&self.name);
        }
    }
}

impl Query {
    async fn run(self) {
        let Self { shared, name, domain, .. } = &self;
        let permits = Rc::clone(&shared.borrow().permits);
        let mut turn = pin!(async { (domain.acquire().await, permits.acquire().await) });
        let _turn = loop {
            let Some(until) = shared.borrow_mut().give_up(name, Instant::now()) else { return };
            if let Ok(turn) = timeout_at(until.into(), &mut turn).await {
                break turn;
            }
        };
        let (resolver, patience) = {
            let this = shared.borrow();
            this.counters.add(Count::Queries, 1);
            (this.resolver.clone(), this.patience())
        };
        let started = Instant::now();
        let outcome = match resolver {
            None => Err(Failure::of(End::ResolveFailed)),
            Some(resolver) => families::lookup(&resolver, name, patience).await,
        };
        let mut this = shared.borrow_mut();
        this.counters.add(
            Count::QueryMicroseconds,
            u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        );
        let answer = this.settle(name, outcome);
        for waiter in this.waiting.remove(name).unwrap_or_default() {
            this.tell(waiter, name, &answer);
        }
    }
}

impl Shared {
    /// How long a query may take, and how long one may wait for its turn: a flow waits for both together.
    fn patience(&self) -> Duration {
        self.settings.timeout * self.settings.attempts.max(1)
    }

    fn tell(&self, waiter: Waiter, name: &Name, answer: &Answer) {
        match waiter.to {
            To::Worker { worker, token } => {
                if let Some(reply) = self.replies.get(worker) {
                    reply.reply(token, name, answer, self.epoch);
                }
            }
            // A client that has gone needs no answer.
            To::Client(sender) => drop(sender.send(answer.clone())),
        }
    }

    /// Sends those away who have waited too long for a query of `name` to begin; gives when the next one of them has,
    /// while there is one.
    fn give_up(&mut self, name: &Name, now: Instant) -> Option<Instant> {
        let patience = self.patience();
        let waiting = self.waiting.get_mut(name)?;
        let over = waiting.partition_point(|waiter| waiter.asked + patience <= now);
        let over: Vec<Waiter> = waiting.drain(..over).collect();
        let next = waiting.first().map(|waiter| waiter.asked + patience);
        for waiter in over {
            let answer = self.instead(name, now);
            self.tell(waiter, name, &answer);
        }
        next
    }

    /// What is told where no query can be made: it says nothing about the name, so it is not kept.
    fn instead(&self, name: &Name, now: Instant) -> Answer {
        self.counters.add(Count::GivenUp, 1);
        self.stale(name, now).map(|(known, _)| known).ok_or(Failure::of(End::ResolveTimeout))
    }

    /// An answer that has expired and still may be used, and until when.
    fn stale(&self, name: &Name, now: Instant) -> Option<(Addresses, Instant)> {
        match self.cache.get(name) {
            Some(Entry { answer: Ok(known), stale_until, .. }) if now < *stale_until => {
                self.counters.add(Count::Stale, 1);
                let until = (now + RECHECK).min(*stale_until);
                let known = Addresses { ips: Arc::clone(&known.ips), until, stale: true };
                Some((known, *stale_until))
            }
            _ => None,
        }
    }

    /// Forgets the permits of the name's domain when the caller is the last who holds them.
    fn release(&mut self, name: &Name) {
        let domain = domain_of(name);
        if self.domains.get(domain).is_some_and(|permits| Rc::strong_count(permits) <= 2) {
            self.domains.remove(domain);
        }
    }

    /// Counts the outcome, keeps it, and gives what the waiting flows are told.
    fn settle(
        &mut self,
        name: &Name,
        outcome: Result<(Arc<[IpAddr]>, Instant), Failure>,
    ) -> Answer {
        let now = Instant::now();
        let s = &self.settings;
        let (answer, stale_until) = match outcome {
            Ok((ips, valid_until)) => {
                self.counters.add(Count::Answered, 1);
                let ttl = valid_until.saturating_duration_since(now).clamp(s.min_ttl, s.max_ttl);
                let until = now + ttl;
                (Ok(Addresses { ips, until, stale: false }), until + s.stale)
            }
            Err(failure @ Failure { end: End::ResolveNoName, .. }) => {
                self.counters.add(Count::NoName, 1);
                (Err(failure), now + s.negative_ttl)
            }
            Err(failure) => {
                let timeout = failure.end == End::ResolveTimeout;
                self.counters.add(if timeout { Count::Timeout } else { Count::Failed }, 1);
                match self.stale(name, now) {
                    Some((known, stale_until)) => (Ok(known), stale_until),
                    None => (Err(failure), now + FAILURE_TTL),
                }
            }
        };
        self.make_room(now);
        self.cache
            .insert(name.clone(), Entry { answer: answer.clone(), stale_until, last_used: now });
        self.counters.set(Count::Names, self.cache.len() as u64);
        answer
    }

    /// Keeps the cache within its bound: first what can no longer be used goes, then the half not used for longest.
    fn make_room(&mut self, now: Instant) {
        let most = self.settings.cache_names.max(1) as usize;
        if self.cache.len() < most {
            return;
        }
        self.cache.retain(|_, entry| now < entry.stale_until);
        if self.cache.len() >= most {
            let mut used: Vec<Instant> = self.cache.values().map(|entry| entry.last_used).collect();
            let middle = used.len() / 2;
            let (_, median, _) = used.select_nth_unstable(middle);
            let median = *median;
            self.cache.retain(|_, entry| entry.last_used > median);
        }
    }
}
