//! All accounts, over all policies: those of rules by the rule's name, and in each the accounts of its sources.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};

use egress_policy::{Allowances, Budget, Identity, Period, Then, Zone};

use super::account::{Account, Desk, locked};
use super::keeper::{Order, Slowed};
use super::store::Entry;

/// Sources of all rules together that are counted at a time. Some 20 MiB.
const MOST_SOURCES: usize = 65_536;
/// Parts of a rule's sources, each with a lock of its own that is held for less than a microsecond.
const SHARDS: usize = 16;
/// Rules that are kept: those of the policy, and those of policies before that may come back. More than one can have.
const MOST_RULES: usize = 8_192;

/// What comes before a source in its key.
const IDENTITY: u8 = 0;
const V4: u8 = 4;
const V6: u8 = 6;

/// A source as a key that outlives the process: its strongest identity, else its address. Never empty.
pub(super) fn key(ip: IpAddr, identity: Option<&Identity>) -> Box<[u8]> {
    let with = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat().into_boxed_slice();
    match (identity.and_then(Identity::strongest), ip) {
        (Some(identity), _) => with(IDENTITY, identity),
        (None, IpAddr::V4(ip)) => with(V4, &ip.octets()),
        (None, IpAddr::V6(ip)) => with(V6, &ip.octets()),
    }
}

/// A key as people read it.
pub(super) fn text(key: &[u8]) -> String {
    match key.split_first() {
        Some((&V4, octets)) => <[u8; 4]>::try_from(octets)
            .map_or_else(|_| String::new(), |ip| IpAddr::from(ip).to_string()),
        Some((&V6, octets)) => <[u8; 16]>::try_from(octets)
            .map_or_else(|_| String::new(), |ip| IpAddr::from(ip).to_string()),
        Some((_, identity)) => identity.escape_ascii().to_string(),
        None => String::new(),
    }
}

/// No account can be had for one more source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Crowded;

type Sources = HashMap<Box<[u8]>, Arc<Account>>;

/// The accounts of one rule.
#[derive(Debug)]
pub(super) struct Book {
    pub all: Arc<Account>,
    sources: [Mutex<Sources>; SHARDS],
    /// What a policy says, and whether it audits; `None` while no rule of this name has a budget.
    budget: Mutex<Option<(Budget, bool)>>,
}

/// Bytes per second.
pub(super) fn bytes(bits: u64) -> f64 {
    bits as f64 / 8.0
}

/// To what a source of this budget is slowed, in bytes per second.
fn slow(budget: &Budget, audit: bool) -> f64 {
    match budget.then {
        Then::Slow(bits) if !audit => bytes(bits),
        Then::Slow(_) | Then::Deny | Then::Alert => f64::INFINITY,
    }
}

#[derive(Debug)]
pub(crate) struct Books {
    pub(super) desk: Arc<Desk>,
    rules: Mutex<HashMap<Arc<str>, Arc<Book>>>,
    sources: AtomicUsize,
    /// Where the present periods begin, by kind.
    begins: [AtomicU64; Period::ALL.len()],
    pub(super) zone: Mutex<Zone>,
    /// Classes that the policy in force slows.
    pub(super) slowed: Mutex<Vec<Slowed>>,
    /// Failures to write what is used, and whether that is so now.
    pub(super) failures: AtomicU64,
    pub(super) failing: AtomicBool,
}

impl Books {
    pub(super) fn new(keeper: SyncSender<Order>, zone: Zone, now: u64) -> Self {
        let books = Self {
            desk: Arc::new(Desk { changed: Mutex::default(), keeper }),
            rules: Mutex::default(),
            sources: AtomicUsize::new(0),
            begins: Default::default(),
            zone: Mutex::new(zone),
            slowed: Mutex::default(),
            failures: AtomicU64::new(0),
            failing: Default::default(),
        };
        books.look_at_clock(now);
        books
    }

    pub(super) fn begin(&self, period: Period) -> u64 {
        self.begins[period as usize].load(SeqCst)
    }

    /// Whether a period has ended, or begins elsewhere.
    pub(super) fn look_at_clock(&self, now: u64) -> bool {
        let zone = locked(&self.zone);
        let mut changed = false;
        for period in Period::ALL {
            let (begin, _) = zone.bounds(period, now);
            changed |= self.begins[period as usize].swap(begin, SeqCst) != begin;
        }
        changed
    }

    /// Takes what was kept of the present periods; gives the keys of what is past.
    pub(super) fn restore(&self, entries: Vec<Entry>) -> Vec<Vec<u8>> {
        let mut past = Vec::new();
        for Entry { rule, way, source, ledger, used } in entries {
            let begin = self.begin(ledger.period);
            let book = (ledger.begin >= begin).then(|| self.book(&rule)).flatten();
            let account = book.and_then(|book| {
                if source.is_empty() {
                    return Some(Arc::clone(&book.all));
                }
                self.source(&book, source.clone()).ok()
            });
            match account {
                Some(account) => account.restore(way, ledger, used, begin),
                None => past.push(Entry::key(&rule, way, &source)),
            }
        }
        past
    }

    /// The rule's accounts; `None` where there are too many rules.
    fn book(&self, rule: &str) -> Option<Arc<Book>> {
        let mut rules = locked(&self.rules);
        if let Some(book) = rules.get(rule) {
            return Some(Arc::clone(book));
        }
        if rules.len() >= MOST_RULES {
            return None;
        }
        let name: Arc<str> = rule.into();
        let all = Account::new(&self.desk, &name, Box::default(), |period| self.begin(period));
        let sources = std::array::from_fn(|_| Mutex::default());
        let book = Arc::new(Book { all: Arc::new(all), sources, budget: Mutex::default() });
        rules.insert(name, Arc::clone(&book));
        Some(book)
    }

    /// The account of a source, made if there is room.
    pub(super) fn source(&self, book: &Book, key: Box<[u8]>) -> Result<Arc<Account>, Crowded> {
        let sum: usize = key.iter().fold(5381, |sum, byte| sum * 33 % 65_521 + usize::from(*byte));
        // The keeper changes where periods begin before it takes this lock: nothing made under it stays in a period that is over.
        let mut shard = locked(&book.sources[sum % SHARDS]);
        if let Some(account) = shard.get(&key) {
            return Ok(Arc::clone(account));
        }
        if self.sources.fetch_add(1, Relaxed) >= MOST_SOURCES {
            self.sources.fetch_sub(1, Relaxed);
            return Err(Crowded);
        }
        let account =
            Account::new(&self.desk, &book.all.rule, key.clone(), |period| self.begin(period));
        if let Some((budget, audit)) = &*locked(&book.budget) {
            account.bound(&budget.each, slow(budget, *audit), |period| self.begin(period));
        }
        let account = Arc::new(account);
        shard.insert(key, Arc::clone(&account));
        Ok(account)
    }

    /// Drops sources that nobody holds; `gone` are their keys.
    fn forget(
        &self,
        shard: &mut Sources,
        gone: &mut Vec<Arc<Account>>,
        may: impl Fn(&Account) -> bool,
    ) {
        let before = shard.len();
        // New holders come by this lock only.
        shard.retain(|_, account| {
            let stays = Arc::strong_count(account) > 1 || !may(account);
            if !stays {
                gone.push(Arc::clone(account));
            }
            stays
        });
        self.sources.fetch_sub(before - shard.len(), Relaxed);
    }

    /// Those of which nothing is counted leave their places, where all are taken: workers do not look for one.
    pub(super) fn make_room(&self) {
        if self.sources.load(Relaxed) < MOST_SOURCES {
            return;
        }
        for shard in self.all().iter().flat_map(|book| &book.sources) {
            self.forget(&mut locked(shard), &mut Vec::new(), Account::is_blank);
        }
    }

    pub(super) fn all(&self) -> Vec<Arc<Book>> {
        locked(&self.rules).values().map(Arc::clone).collect()
    }

    /// A period is over: all accounts turn to the present one, and are shown. Gives the sources of which nothing is left.
    pub(super) fn turn(&self) -> Vec<Arc<Account>> {
        let mut gone = Vec::new();
        let turn = |account: &Arc<Account>| {
            if account.turn(|period| self.begin(period)) {
                account.show();
            }
        };
        for book in self.all() {
            turn(&book.all);
            for shard in &book.sources {
                let mut shard = locked(shard);
                self.forget(&mut shard, &mut gone, Account::is_blank);
                shard.values().for_each(turn);
            }
        }
        gone
    }

    /// What a policy says of its rules, whatever it was before. Who has no budget any more keeps what is used: its rule may
    /// come back.
    pub(super) fn bind(&self, budgets: &[(&str, Budget, bool)]) -> HashMap<Box<str>, Arc<Book>> {
        let names: HashSet<&str> = budgets.iter().map(|(rule, ..)| *rule).collect();
        let begin = |period| self.begin(period);
        let is_left = |book: &Arc<Book>| !names.contains(&*book.all.rule);
        for book in self.all().iter().filter(|book| is_left(book)) {
            *locked(&book.budget) = None;
            book.bound(&Allowances::default(), &Allowances::default(), f64::INFINITY, begin);
        }
        let mut rules = locked(&self.rules);
        if rules.len() + names.len() > MOST_RULES {
            rules.retain(|_, book| {
                let stays = !is_left(book);
                let sources = if stays { 0 } else { book.sources().count() };
                self.sources.fetch_sub(sources, Relaxed);
                stays
            });
        }
        drop(rules);
        let mut bound = HashMap::new();
        for (rule, budget, audit) in budgets {
            let Some(book) = self.book(rule) else { continue };
            *locked(&book.budget) = Some((*budget, *audit));
            book.bound(&budget.all, &budget.each, slow(budget, *audit), begin);
            bound.insert((*rule).into(), book);
        }
        bound
    }
}

impl Book {
    pub(super) fn sources(&self) -> impl Iterator<Item = Arc<Account>> {
        self.sources
            .iter()
            .flat_map(|shard| locked(shard).values().map(Arc::clone).collect::<Vec<_>>())
    }

    fn bound(
        &self,
        all: &Allowances,
        each: &Allowances,
        slow: f64,
        begin: impl Fn(Period) -> u64 + Copy,
    ) {
        self.all.bound(all, f64::INFINITY, begin);
        self.all.show();
        for account in self.sources() {
            account.bound(each, slow, begin);
            account.show();
        }
    }
}
