//! Limits over all gateways of a cluster: a thread of its own tells the others what is wanted here, ten times a second,
//! and sets what may be used here. No worker waits for it, or knows of it.

mod store;
mod terms;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use egress_policy::{Cluster as Settings, Snapshot};
use egress_shape::{Heard, Keeps, Member, Nanos, ROUND, Wants};
use tokio::sync::Notify;

use self::store::{Failure, Names, Store};
use self::terms::Terms;
use crate::installed::Installed;
use crate::log;
use crate::message::ClusterStatus;

/// After a failure the store is tried again this soon at first, and no later than this.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_millis(500);
/// How often failures that are not the same as before are told on the log at the most.
const LOGGED: Duration = Duration::from_secs(60);

/// The main thread's end.
#[derive(Debug)]
pub(crate) struct Cluster {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Held for as long as it takes to work out shares; never over a wait for the store.
    state: Mutex<State>,
    /// The policy has changed, or the end has come.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    started: Instant,
    id: String,
    member: Member,
    /// `None` while the policy shares nothing.
    terms: Option<Terms>,
    /// Raised by each change of the store, or of the group.
    epoch: u64,
    ending: bool,
    rounds: u64,
    failures: u64,
    /// Since when no round has come to anything, and why.
    away: Option<(Instant, Failure)>,
    /// That it is away was told.
    told: Option<Instant>,
}

impl Cluster {
    /// `started` is where the workers' clock begins.
    pub(crate) fn new(started: Instant) -> io::Result<Self> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|error| io::Error::other(format!("no randomness: {error}")))?;
        let state = State {
            started,
            id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            member: Member::new(0),
            terms: None,
            epoch: 0,
            ending: false,
            rounds: 0,
            failures: 0,
            away: None,
            told: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() });
        Ok(Self { shared, thread: None })
    }

    /// Starts the thread where the policy needs it: before anything else of that policy holds.
    pub(crate) fn prepare(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        if snapshot.shaping().has_shared() && self.thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let serve = move || {
                runtime.block_on(serve(&shared));
                // A name that is still being looked up is not waited for.
                runtime.shutdown_background();
            };
            self.thread = Some(std::thread::Builder::new().name("cluster".into()).spawn(serve)?);
        }
        Ok(())
    }

    /// A policy is about to be in force: its plans keep to what may be used here before anything is sent by them.
    /// `serving`: there was one before.
    pub(crate) fn install(&self, installed: &Installed, serving: bool) {
        self.shared.lock().install(Terms::of(installed), serving);
        self.shared.changed.notify_one();
    }

    /// What people are shown of it; `None` while the policy shares nothing.
    pub(crate) fn status(&self) -> Option<ClusterStatus> {
        let state = self.shared.lock();
        let now = state.now();
        let Settings { store, group, replicas } = &state.terms.as_ref()?.settings;
        Some(ClusterStatus {
            group: group.clone(),
            store: store.to_string(),
            away_ms: state
                .away
                .as_ref()
                .map(|(since, _)| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)),
            error: state.away.as_ref().map(|(_, why)| why.clone()),
            replicas: *replicas,
            seen: state.member.seen(),
            keeps: match state.member.keeps(now) {
                Keeps::Shared => "shared",
                Keeps::Settling => "settling",
                Keeps::Last => "last",
                Keeps::Safe => "safe",
            },
            parts: state.member.parts(),
            rounds: state.rounds,
            failures: state.failures,
        })
    }

    /// Where something is shared.
    pub(crate) fn thread(&self) -> Option<&JoinHandle<()>> {
        self.thread.as_ref()
    }

    /// The gateway ends: others need not wait for it to be forgotten.
    pub(crate) fn end(&mut self) {
        self.shared.lock().ending = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It waits for no more than a round that is under way, and its goodbye.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A round to make.
struct Round {
    settings: Settings,
    epoch: u64,
    wants: Wants,
    began: Nanos,
}

impl State {
    fn now(&self) -> Nanos {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn install(&mut self, mut terms: Option<Terms>, serving: bool) {
        let now = self.now();
        if let (Some(terms), Some(before)) = (&mut terms, &self.terms) {
            terms.take_over(before);
        }
        let pair = |terms: &Option<Terms>| {
            terms.as_ref().map(|terms| (terms.settings.store.clone(), terms.settings.group.clone()))
        };
        if pair(&terms) != pair(&self.terms) {
            // Nobody there knows of this gateway yet, nor it of them. Who serves already has its safe share meanwhile.
            self.member = Member::new(if serving { 0 } else { now });
            self.epoch += 1;
            (self.away, self.told) = (None, None);
        }
        if let Some(terms) = &terms {
            self.member.set_terms(terms.settings.replicas as usize, terms.pools.clone(), now);
            terms.apply(self.member.keep(now), now);
        }
        self.terms = terms;
    }

    fn begin(&mut self) -> Option<Round> {
        let began = self.now();
        let terms = self.terms.as_mut().filter(|_| !self.ending)?;
        let wants = terms.wants(began);
        Some(Round { settings: terms.settings.clone(), epoch: self.epoch, wants, began })
    }

    /// A round has ended: whatever came of it, what is kept to may be another from now on. Gives how long after its
    /// beginning the next one begins.
    fn end(&mut self, round: &Round, outcome: Option<Result<Heard, Failure>>) -> Nanos {
        let now = self.now();
        if round.epoch != self.epoch {
            return 0;
        }
        match outcome {
            Some(Ok(heard)) => {
                self.rounds += 1;
                self.member.hear(round.began, now, heard);
                self.away = None;
            }
            Some(Err(why)) => {
                self.failures += 1;
                let since = self.away.take().map_or_else(Instant::now, |(since, _)| since);
                self.away = Some((since, why));
            }
            // It is not yet time to try again.
            None => {}
        }
        if let Some(terms) = &self.terms {
            terms.apply(self.member.keep(now), now);
        }
        self.tell(round, now);
        if self.away.is_some() { ROUND } else { self.member.pace() }
    }

    fn tell(&mut self, round: &Round, now: Nanos) {
        let safe = self.member.keeps(now) == Keeps::Safe;
        let store = &round.settings.store;
        match (&self.away, self.told) {
            (Some((_, why)), told) if safe && told.is_none_or(|at| at.elapsed() > LOGGED) => {
                log::warn(&format!(
                    "the store {store} is away ({why}); shared limits are divided by {} meanwhile",
                    self.member.parts()
                ));
                self.told = Some(Instant::now());
            }
            (None, Some(_)) => {
                log::info(&format!("the store {store} is back"));
                self.told = None;
            }
            _ => {}
        }
    }
}

async fn serve(shared: &Shared) {
    // The connection, and of which store.
    let mut connected: Option<(u64, Store)> = None;
    let names = Names::new();
    let mut retry = FIRST_RETRY;
    let mut try_at = Instant::now();
    loop {
        let (round, id, ending) = {
            let mut state = shared.lock();
            (state.begin(), state.id.clone(), state.ending)
        };
        let other = |(epoch, _): &(u64, Store)| round.as_ref().is_none_or(|r| r.epoch != *epoch);
        if connected.as_ref().is_some_and(other)
            && let Some((_, store)) = connected.take()
        {
            store.leave().await;
            try_at = Instant::now();
        }
        let Some(round) = round else {
            if ending {
                return;
            }
            shared.changed.notified().await;
            continue;
        };
        let began = Instant::now();
        let outcome = if connected.is_none() && Instant::now() < try_at {
            None
        } else {
            let outcome = make(&mut connected, &round, id, &names).await;
            if outcome.is_ok() {
                retry = FIRST_RETRY;
            } else {
                // A late answer must not be taken for that of the next round.
                connected = None;
                try_at = Instant::now() + retry;
                retry = (retry * 2).min(LAST_RETRY);
            }
            Some(outcome)
        };
        let next = began + Duration::from_nanos(shared.lock().end(&round, outcome));
        let changed = shared.changed.notified();
        let _ = tokio::time::timeout_at(next.into(), changed).await;
    }
}

async fn make(
    connected: &mut Option<(u64, Store)>,
    round: &Round,
    id: String,
    names: &Names,
) -> Result<Heard, Failure> {
    let Settings { store, group, .. } = &round.settings;
    let (_, store) = match connected {
        Some(connected) => connected,
        None => connected.insert((round.epoch, Store::connect(store, group, id, names).await?)),
    };
    store.round(&round.wants).await
}
