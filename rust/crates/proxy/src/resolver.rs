//! Name resolution on a thread of its own: one cache, one question per name however many wait for it.
//!
//! hickory-resolver speaks DNS (`families`); this file decides how long an answer is used, and that an expired one is
//! better than none for a bounded time while the servers are away (RFC 8767). Workers keep what they are told until it
//! expires.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use egress_flowlog::{Counters, ResolverCounter as Count};
use egress_hello::name::Name;
use egress_policy::{End, Resolver as Settings};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver, TokioResolver};
use tokio::sync::{Semaphore, mpsc};

use crate::families;

/// Queries under way at once; further ones wait their turn, bounded by the number of flows.
const MAX_QUERIES: usize = 256;
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
pub(crate) type Answer = Result<Addresses, End>;

/// Where an answer goes: called on the resolver's thread.
pub(crate) trait Reply: Send {
    fn reply(&self, token: u64, name: &Name, answer: &Answer);
}

enum Message {
    Ask { name: Name, worker: usize, token: u64 },
    Configure(Box<Settings>),
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

    /// Takes new settings: later questions go to the new servers, the cache starts anew.
    pub(crate) fn configure(&self, settings: Settings) {
        let _ = self.0.send(Message::Configure(Box::new(settings)));
    }
}

/// Starts the thread; it ends when the last handle is dropped.
pub(crate) fn start(
    settings: Settings,
    replies: Vec<Box<dyn Reply>>,
    counters: Counters,
) -> std::io::Result<(Handle, std::thread::JoinHandle<()>)> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("resolver".to_owned()).spawn(move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, serve(settings, receiver, replies, counters));
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

struct Shared {
    settings: Settings,
    resolver: Option<TokioResolver>,
    /// Raised by every change of settings: an answer to an older question is delivered but not kept.
    epoch: u64,
    cache: HashMap<Name, Entry>,
    waiting: HashMap<Name, Vec<(usize, u64)>>,
    replies: Vec<Box<dyn Reply>>,
    counters: Counters,
    permits: Rc<Semaphore>,
}

async fn serve(
    settings: Settings,
    mut receiver: mpsc::UnboundedReceiver<Message>,
    replies: Vec<Box<dyn Reply>>,
    counters: Counters,
) {
    let resolver = build(&settings);
    let shared = Rc::new(RefCell::new(Shared {
        settings,
        resolver,
        epoch: 0,
        cache: HashMap::new(),
        waiting: HashMap::new(),
        replies,
        counters,
        permits: Rc::new(Semaphore::new(MAX_QUERIES)),
    }));
    while let Some(message) = receiver.recv().await {
        match message {
            Message::Ask { name, worker, token } => ask(&shared, name, worker, token),
            Message::Configure(settings) => {
                let mut shared = shared.borrow_mut();
                shared.resolver = build(&settings);
                shared.settings = *settings;
                shared.epoch += 1;
                shared.cache.clear();
            }
        }
    }
}

fn ask(shared: &Rc<RefCell<Shared>>, name: Name, worker: usize, token: u64) {
    let mut this = shared.borrow_mut();
    let now = Instant::now();
    this.counters.add(Count::Asked, 1);
    if let Some(entry) = this.cache.get_mut(&name)
        && entry.fresh(now)
    {
        entry.last_used = now;
        let answer = entry.answer.clone();
        let stale = matches!(&answer, Ok(addresses) if addresses.stale);
        this.counters.add(if stale { Count::Stale } else { Count::Hits }, 1);
        if let Some(reply) = this.replies.get(worker) {
            reply.reply(token, &name, &answer);
        }
        return;
    }
    if let Some(waiting) = this.waiting.get_mut(&name) {
        waiting.push((worker, token));
        this.counters.add(Count::Joined, 1);
        return;
    }
    this.waiting.insert(name.clone(), vec![(worker, token)]);
    drop(this);
    tokio::task::spawn_local(query(Rc::clone(shared), name));
}

/// Clears the list of those who wait for a query that ends without an answer (a panic under it): otherwise nobody would
/// ever ask for the name again.
struct Waiters {
    shared: Rc<RefCell<Shared>>,
    name: Name,
}

impl Drop for Waiters {
    fn drop(&mut self) {
        if let Ok(mut shared) = self.shared.try_borrow_mut() {
            shared.waiting.remove(&self.name);
        }
    }
}

async fn query(shared: Rc<RefCell<Shared>>, name: Name) {
    let _waiters = Waiters { shared: Rc::clone(&shared), name: name.clone() };
    let permits = Rc::clone(&shared.borrow().permits);
    let _permit = permits.acquire().await;
    let (resolver, epoch, patience) = {
        let this = shared.borrow();
        this.counters.add(Count::Queries, 1);
        (this.resolver.clone(), this.epoch, this.settings.timeout * this.settings.attempts.max(1))
    };
    let started = Instant::now();
    let outcome = match resolver {
        None => Err(End::ResolveFailed),
        Some(resolver) => families::lookup(&resolver, &name, patience).await,
    };
    let mut this = shared.borrow_mut();
    this.counters.add(
        Count::QueryMicroseconds,
        u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
    );
    let answer = this.settle(&name, outcome, epoch);
    for (worker, token) in this.waiting.remove(&name).unwrap_or_default() {
        if let Some(reply) = this.replies.get(worker) {
            reply.reply(token, &name, &answer);
        }
    }
}

impl Shared {
    /// Counts the outcome, keeps it, and gives what the waiting flows are told.
    fn settle(
        &mut self,
        name: &Name,
        outcome: Result<(Arc<[IpAddr]>, Instant), End>,
        epoch: u64,
    ) -> Answer {
        let now = Instant::now();
        let current = epoch == self.epoch;
        let s = &self.settings;
        let (answer, stale_until) = match outcome {
            Ok((ips, valid_until)) => {
                self.counters.add(Count::Answered, 1);
                let ttl = valid_until.saturating_duration_since(now).clamp(s.min_ttl, s.max_ttl);
                // To an older question: a worker is not to keep it either.
                let until = if current { now + ttl } else { now };
                (Ok(Addresses { ips, until, stale: false }), until + s.stale)
            }
            Err(End::ResolveNoName) => {
                self.counters.add(Count::NoName, 1);
                (Err(End::ResolveNoName), now + s.negative_ttl)
            }
            Err(end) => {
                self.counters.add(
                    if end == End::ResolveTimeout { Count::Timeout } else { Count::Failed },
                    1,
                );
                match self.cache.get(name) {
                    Some(Entry { answer: Ok(known), stale_until, .. }) if now < *stale_until => {
                        self.counters.add(Count::Stale, 1);
                        let until = (now + RECHECK).min(*stale_until);
                        (
                            Ok(Addresses { ips: Arc::clone(&known.ips), until, stale: true }),
                            *stale_until,
                        )
                    }
                    _ => (Err(end), now + FAILURE_TTL),
                }
            }
        };
        if current {
            self.make_room(now);
            self.cache.insert(
                name.clone(),
                Entry { answer: answer.clone(), stale_until, last_used: now },
            );
            self.counters.set(Count::Names, self.cache.len() as u64);
        }
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

/// The DNS client; `None` when the system's configuration cannot be read, and then every name fails.
fn build(settings: &Settings) -> Option<TokioResolver> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if settings.servers.is_empty() {
        match Resolver::builder(provider) {
            Ok(builder) => builder,
            Err(error) => {
                crate::log::error(&format!(
                    "the system's name servers cannot be read: {error}; set resolver.servers"
                ));
                return None;
            }
        }
    } else {
        let servers = settings.servers.iter().map(server).collect();
        Resolver::builder_with_config(
            ResolverConfig::from_parts(None, Vec::new(), servers),
            provider,
        )
    };
    let options = builder.options_mut();
    options.timeout = settings.timeout;
    options.attempts = settings.attempts as usize;
    // Answers are kept here, once, with staleness; the library's own cache would only delay a change.
    options.cache_size = 0;
    options.use_hosts_file =
        if settings.servers.is_empty() { ResolveHosts::Auto } else { ResolveHosts::Never };
    builder
        .build()
        .inspect_err(|error| crate::log::error(&format!("the resolver cannot start: {error}")))
        .ok()
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut config = NameServerConfig::udp_and_tcp(address.ip());
    let with_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    config.connections =
        vec![with_port(ConnectionConfig::udp()), with_port(ConnectionConfig::tcp())];
    config
}
