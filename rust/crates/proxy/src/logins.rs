//! Logins on a thread of their own: verifying a password takes tens of milliseconds by design, and no worker has them.
//!
//! A worker asks by a bounded queue and is answered by mail. All workers remember logins that were right under a keyed hash
//! of user, password and stored hash, so that the next connection of the same client costs a hash and no wait.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Weak;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use egress_hello::basic::Credentials;
use sha2::{Digest, Sha256};

/// Logins that wait; with 50 ms each the last one is about to run into `timeouts.first_bytes` anyhow.
const MAX_WAITING: usize = 128;
/// Logins that a worker remembers.
const REMEMBERED: usize = 4096;
/// Sources whose failures are counted.
const SOURCES: usize = 8192;
/// Failures of one source in a row that are verified, and how long until one more is.
const BURST: u32 = 10;
const STEP: Duration = Duration::from_secs(3);

/// How far behind the workers the thread stands.
const NICE: i32 = 10;

/// What became of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Right,
    Wrong,
    /// Not even looked at: the source had too many wrong ones.
    TooMany,
}

/// A login to verify.
#[derive(Debug)]
pub(crate) struct Question {
    pub credentials: Credentials,
    /// The stored hash, or another's where the user is unknown: both take as long.
    pub hash: Box<str>,
    pub known: bool,
    /// What `Remembered` calls the login.
    pub name: [u8; 32],
    pub source: IpAddr,
    pub worker: usize,
    pub token: u64,
    /// Gone when nobody waits for the answer any more.
    pub asker: Weak<()>,
}

/// Where an answer goes: called on the thread of the logins.
pub(crate) trait Reply: Send {
    fn reply(&self, token: u64, outcome: Outcome);
    /// Told to all workers: the login is right, whoever is asked for it next.
    fn remember(&self, name: [u8; 32]);
}

/// The workers' end.
#[derive(Debug, Clone)]
pub(crate) struct Handle(SyncSender<Question>);

impl Handle {
    /// Asks; `false` where too many wait already, or the thread is gone.
    pub(crate) fn ask(&self, question: Question) -> bool {
        match self.0.try_send(question) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

/// Starts the thread; it ends when the last handle is dropped.
pub(crate) fn start(replies: Vec<Box<dyn Reply>>) -> std::io::Result<Handle> {
    let (sender, receiver) = sync_channel(MAX_WAITING);
    std::thread::Builder::new()
        .name("logins".to_owned())
        .spawn(move || serve(&receiver, &replies))?;
    Ok(Handle(sender))
}

fn serve(questions: &Receiver<Question>, replies: &[Box<dyn Reply>]) {
    // Where all share a CPU the workers come first. On Linux this is the thread's own (setpriority(2)).
    let _ = rustix::process::setpriority_process(None, NICE);
    let mut failures = Failures::default();
    // A login that many clients send at once is verified once, and one that is sent again and again is no new guess. Those
    // of unknown users are kept alike: time tells nothing of who is known.
    let mut decided: Recent<([u8; 32], bool), bool> = Recent::new(REMEMBERED);
    while let Ok(question) = questions.recv() {
        if question.asker.strong_count() == 0 {
            continue;
        }
        let now = Instant::now();
        let source = whose(question.source);
        let login = (question.name, question.known);
        let right = decided.get(&login).or_else(|| {
            if failures.too_many(source, now) {
                return None;
            }
            let right = egress_password::verify(question.credentials.password(), &question.hash)
                && question.known;
            if right {
                replies.iter().for_each(|reply| reply.remember(question.name));
            } else {
                failures.count(source, now);
            }
            Some(right)
        });
        if let Some(right) = right {
            decided.put(login, right);
        }
        let outcome = match right {
            Some(true) => Outcome::Right,
            Some(false) => Outcome::Wrong,
            None => Outcome::TooMany,
        };
        if let Some(reply) = replies.get(question.worker) {
            reply.reply(question.token, outcome);
        }
    }
}

/// Whoever has an IPv6 address has a /64 of them.
fn whose(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// A bounded map that forgets what was not used for longest, roughly: when the young half is full, the old one goes.
#[derive(Debug)]
struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Hash + Eq, V: Copy> Recent<K, V> {
    fn new(most: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: most / 2 }
    }

    fn get(&self, key: &K) -> Option<V> {
        self.young.get(key).or_else(|| self.old.get(key)).copied()
    }

    fn put(&mut self, key: K, value: V) {
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

/// Wrong logins by source: a bucket that is full again at the moment kept here (the generic cell rate algorithm).
#[derive(Debug)]
struct Failures(Recent<IpAddr, Instant>);

impl Default for Failures {
    fn default() -> Self {
        Self(Recent::new(SOURCES))
    }
}

impl Failures {
    fn too_many(&self, source: IpAddr, now: Instant) -> bool {
        self.0.get(&source).is_some_and(|full_at| full_at > now + STEP * (BURST - 1))
    }

    fn count(&mut self, source: IpAddr, now: Instant) {
        let full_at = self.0.get(&source).map_or(now, |full_at| full_at.max(now));
        self.0.put(source, full_at + STEP);
    }
}

/// Logins that were right: keyed hashes, of which nobody without the key can say whose they are, nor choose one, so that
/// the time of a look-up tells nothing.
#[derive(Debug)]
pub(crate) struct Remembered {
    logins: Recent<[u8; 32], ()>,
    key: [u8; 32],
}

impl Remembered {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self { logins: Recent::new(REMEMBERED), key }
    }

    /// Under what a login is remembered. A changed password, or another user of that name, has another stored hash.
    pub(crate) fn name(&self, credentials: &Credentials, hash: &str) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.key);
        for part in [&credentials.user, hash.as_bytes(), credentials.password()] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    /// A number that is always the same for one user, and that nobody can tell from outside.
    pub(crate) fn choice(&self, user: &[u8]) -> u64 {
        let mut digest = Sha256::new();
        digest.update(self.key);
        digest.update(user);
        let bytes: [u8; 32] = digest.finalize().into();
        bytes.first_chunk::<8>().map_or(0, |first| u64::from_le_bytes(*first))
    }

    pub(crate) fn has(&mut self, name: &[u8; 32]) -> bool {
        let found = self.logins.get(name).is_some();
        if found {
            self.logins.put(*name, ());
        }
        found
    }

    pub(crate) fn add(&mut self, name: [u8; 32]) {
        self.logins.put(name, ());
    }

    /// The users file has changed.
    pub(crate) fn forget(&mut self) {
        self.logins = Recent::new(REMEMBERED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_burst_of_failures_a_source_waits_and_others_do_not() {
        let mut failures = Failures::default();
        let now = Instant::now();
        let [bad, other] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        for _ in 0..BURST {
            assert!(!failures.too_many(bad, now));
            failures.count(bad, now);
        }
        assert!(failures.too_many(bad, now) && !failures.too_many(other, now));
        assert!(!failures.too_many(bad, now + STEP));
        failures.count(bad, now + STEP);
        assert!(failures.too_many(bad, now + STEP));
        assert!(!failures.too_many(bad, now + STEP * 2));
    }

    #[test]
    fn one_ipv6_customer_is_one_source() {
        let of = |ip: &str| whose(ip.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    #[test]
    fn tables_are_bounded_and_keep_what_is_used() {
        let mut recent = Recent::new(100);
        for number in 0..10_000 {
            recent.put(number, ());
            if recent.get(&0).is_some() {
                recent.put(0, ());
            }
            assert!(recent.young.len() + recent.old.len() <= 100);
        }
        assert!(
            recent.get(&0).is_some()
                && recent.get(&9_999).is_some()
                && recent.get(&5_000).is_none()
        );
    }

    #[test]
    fn only_the_very_login_is_remembered() {
        let mut remembered = Remembered::new([7; 32]);
        let login = |user: &str, password: &str| {
            Credentials::new(user.as_bytes(), password.as_bytes()).unwrap()
        };
        let name = remembered.name(&login("ab", "c"), "hash");
        remembered.add(name);
        assert!(remembered.has(&name));
        for (user, password, hash) in [
            ("ab", "d", "hash"),
            ("a", "bc", "hash"),
            ("abc", "", "hash"),
            ("ab", "c", "new"),
            ("ab", "ch", "ash"),
        ] {
            let other = remembered.name(&login(user, password), hash);
            assert!(!remembered.has(&other), "{user} {password} {hash}");
        }
        assert_ne!(Remembered::new([8; 32]).name(&login("ab", "c"), "hash"), name);
        remembered.forget();
        assert!(!remembered.has(&name));
    }
}
