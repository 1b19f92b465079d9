//! The thread of budgets: it keeps what is used, begins new periods, and sees to what happens when a budget is spent.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use egress_policy::{Keeping, Zone};

use super::account::{Account, locked};
use super::books::{Books, text};
use super::report::StoreReport;
use super::store::{Entry, Fault, Row, Store};
use super::writer::{Outcome, Writer};
use crate::log;
use crate::shape::Plans;

/// How often what has changed is written: with the time that the disk takes, less than a second of it can be lost.
const INTERVAL: Duration = Duration::from_millis(500);
/// How soon a store that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// However many budgets are spent at once, they are looked at no more often.
const PAUSE: Duration = Duration::from_millis(20);
/// Orders that may wait: another one would say the same.
const ORDERS: usize = 4;
/// Lines about sources in a minute: a rule may have thousands that are spent.
const LINES: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);
const WAYS: [&str; 2] = ["up", "down"];

#[derive(Debug)]
pub(super) enum Order {
    /// A budget is spent, or the policy is another.
    Look,
    Stop,
}

/// A class that is slowed while its rule's budget is spent.
#[derive(Debug)]
pub(super) struct Slowed {
    pub account: Arc<Account>,
    pub plans: Arc<Plans>,
    /// Its place in the policy.
    pub class: u32,
    /// Bytes per second.
    pub rate: f64,
}

impl Slowed {
    pub(super) fn act(&self) {
        for way in [0, 1] {
            let rate = if self.account.is_spent_in(way) { self.rate } else { f64::INFINITY };
            self.plans.slow(self.class, way, rate);
        }
    }
}

/// The store is open, and what it said is counted on from.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub books: Arc<Books>,
    /// As the policy says it.
    pub path: String,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
pub(super) struct Work {
    pub books: Arc<Books>,
    writer: Writer,
    path: String,
    orders: Receiver<Order>,
    /// What has changed, and is not written.
    changed: Vec<Arc<Account>>,
    /// Keys that are to be removed.
    gone: Vec<Vec<u8>>,
    look_at: Instant,
    write_at: Instant,
    /// Not before: the last try has failed.
    wait_until: Instant,
    said: u32,
    unsaid: u32,
    minute: Instant,
    /// When places were made for more sources, if that was needed.
    room_at: Instant,
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn no_thread(error: &io::Error) -> Fault {
    Fault {
        message: format!("the threads of budgets cannot be started: {error}"),
        fix: "let the gateway start two more threads",
    }
}

impl Keeper {
    pub(crate) fn thread(&self) -> Option<&JoinHandle<()>> {
        self.thread.as_ref()
    }

    /// Opens the store, or makes it.
    pub(crate) fn start(keeping: &Keeping) -> Result<Self, Fault> {
        let work = Work::open(keeping, unix_s())?;
        let books = Arc::clone(&work.books);
        let thread =
            std::thread::Builder::new().name("budgets".to_owned()).spawn(move || work.run());
        let thread = Some(thread.map_err(|error| no_thread(&error))?);
        Ok(Self { books, path: keeping.store.clone(), thread })
    }

    pub(crate) fn report(&self) -> StoreReport {
        let Books { failing, failures, .. } = &*self.books;
        let path = self.path.clone();
        StoreReport { path, failing: failing.load(Relaxed), failures: failures.load(Relaxed) }
    }

    /// Another policy: its zone counts from now on.
    pub(crate) fn set_zone(&self, zone: &Zone) {
        *locked(&self.books.zone) = zone.clone();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.books.desk.keeper.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            // It writes what is left.
            let _ = thread.join();
        }
    }
}

impl Work {
    pub(super) fn open(keeping: &Keeping, now: u64) -> Result<Self, Fault> {
        let (store, entries) = Store::open(Path::new(&keeping.store))?;
        let (keeper, orders) = sync_channel(ORDERS);
        let books = Arc::new(Books::new(keeper, keeping.zone.clone(), now));
        let gone = books.restore(entries);
        let begun = Instant::now();
        Ok(Self {
            books,
            writer: Writer::start(store).map_err(|error| no_thread(&error))?,
            path: keeping.store.clone(),
            orders,
            changed: Vec::new(),
            gone,
            look_at: begun,
            write_at: begun,
            wait_until: begun,
            said: 0,
            unsaid: 0,
            minute: begun,
            room_at: begun,
        })
    }

    /// Writes elsewhere from now on, after a failure.
    #[cfg(test)]
    pub(super) fn break_store(&mut self, path: &Path) {
        self.writer = Writer::start(Store::closed(path)).unwrap();
        self.wait_until = Instant::now();
    }

    fn run(mut self) {
        let mut looked = Instant::now();
        loop {
            let due = self.look_at.saturating_duration_since(Instant::now());
            let mut stops = false;
            match self.orders.recv_timeout(due) {
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => stops = true,
                Ok(Order::Look) => self.look_at = self.look_at.min(looked + PAUSE),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if stops || Instant::now() >= self.look_at {
                self.look(unix_s());
                looked = Instant::now();
                self.look_at = looked + INTERVAL;
            }
            if stops || Instant::now() >= self.write_at {
                self.write();
            }
            if stops {
                // What was under way, and what has come meanwhile.
                self.settle();
                self.wait_until = Instant::now();
                self.write();
                return self.settle();
            }
        }
    }

    /// Begins new periods, and sees to what follows from what is spent.
    pub(super) fn look(&mut self, now: u64) {
        if self.books.look_at_clock(now) {
            for account in self.books.turn() {
                let keys = [0, 1].map(|way| Entry::key(&account.rule, way, &account.source));
                self.gone.extend(keys);
            }
        }
        if self.room_at.elapsed() >= INTERVAL {
            self.books.make_room();
            self.room_at = Instant::now();
        }
        // Not under the lock: workers take it, too.
        self.changed.append(&mut locked(&self.books.desk.changed));
        for account in &self.changed {
            let newly = account.act();
            for way in [0, 1] {
                if newly[way] {
                    say(&self.books, account, way, &mut self.said, &mut self.unsaid);
                }
            }
        }
        for slowed in locked(&self.books.slowed).iter() {
            slowed.act();
        }
        if self.minute.elapsed() >= MINUTE {
            if self.unsaid > 0 {
                log::warn(&format!("{} more budgets of sources are spent", self.unsaid));
            }
            (self.said, self.unsaid, self.minute) = (0, 0, Instant::now());
        }
    }

    /// Begins to write what has changed since the last time, if that is written.
    pub(super) fn write(&mut self) {
        self.see_to(false);
        if self.writer.is_busy() || Instant::now() < self.wait_until {
            return;
        }
        let changed = std::mem::take(&mut self.changed);
        let mut rows: Vec<Row> = self.gone.drain(..).map(|key| (key, None)).collect();
        for account in &changed {
            // What is added from now on lays it on the desk again.
            account.taken();
            for way in [0, 1] {
                if let Some((used, _, ledger)) = account.state(way) {
                    let key = Entry::key(&account.rule, way, &account.source);
                    rows.push((key, Some((ledger, used))));
                }
            }
        }
        self.write_at = Instant::now() + INTERVAL;
        if !rows.is_empty() {
            self.writer.begin(rows, changed);
        }
    }

    /// Waits until what is under way is written, or not.
    pub(super) fn settle(&mut self) {
        self.see_to(true);
    }

    fn see_to(&mut self, waits: bool) {
        let Some(Outcome { rows, accounts, result }) = self.writer.outcome(waits) else { return };
        let Books { failing, failures, .. } = &*self.books;
        let Err(error) = result else {
            if failing.swap(false, Relaxed) {
                log::info(&format!("the store of budgets, {}, is written again", self.path));
            }
            return;
        };
        failures.fetch_add(1, Relaxed);
        if !failing.swap(true, Relaxed) {
            log::error(&format!(
                "{error}; budgets are counted on in memory, and would be lost with the process"
            ));
        }
        let removed = rows.into_iter().filter(|(_, row)| row.is_none());
        self.gone.extend(removed.map(|(key, _)| key));
        accounts.iter().for_each(Account::show);
        self.wait_until = Instant::now() + RETRY;
    }
}

/// Says once that a budget is spent.
fn say(books: &Books, account: &Account, way: usize, said: &mut u32, unsaid: &mut u32) {
    let Some((used, limit, ledger)) = account.state(way) else { return };
    let (_, end) = locked(&books.zone).bounds(ledger.period, ledger.begin);
    let mut whose = String::new();
    if !account.source.is_empty() {
        if *said >= LINES {
            *unsaid += 1;
            return;
        }
        *said += 1;
        whose = format!(" of source {}", text(&account.source));
    }
    log::warn(&format!(
        "the budget of rule {}{whose} is spent: {used} of {limit} bytes {} in this {}, until {}",
        account.rule,
        WAYS[way],
        ledger.period.word(),
        log::utc(end),
    ));
}
