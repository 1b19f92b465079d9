use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use egress_policy::{Allowance, Allowances, Budget, Identity, Keeping, Period, Then, Zone};

use super::account::{Account, locked};
use super::books::{Book, Crowded, key, text};
use super::keeper::Work;
use super::store::Store;

const DAY: u64 = 86_400;
const TODAY: u64 = 20_000 * DAY + 3_600;
const GB: u64 = 1_000_000_000;

/// A file of its own in a folder that goes with it.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("egress-budget-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("budgets")
    }

    fn open(&self, now: u64) -> Work {
        Work::open(&self.keeping(), now).unwrap()
    }

    fn keeping(&self) -> Keeping {
        let store = self.file().to_str().unwrap().to_owned();
        Keeping { store, zone: Zone::named("UTC").unwrap() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn budget(bytes: u64, then: Then) -> Budget {
    let allowance = |per| Some(Allowance { bytes, per });
    let all = Allowances { up: allowance(Period::Day), down: allowance(Period::Month) };
    Budget { all, each: Allowances { up: allowance(Period::Day), down: None }, then }
}

fn bind(work: &Work, budget: Budget) -> Arc<Book> {
    Arc::clone(&work.books.bind(&[("r", budget, false)])["r"])
}

fn source(work: &Work, book: &Book, n: u32) -> Result<Arc<Account>, Crowded> {
    work.books.source(book, key(IpAddr::from(n.to_be_bytes()), None))
}

fn used(account: &Account) -> [Option<u64>; 2] {
    [0, 1].map(|way| account.state(way).map(|(used, ..)| used))
}

fn turn(work: &mut Work, now: u64) {
    work.look(now);
    work.write();
    work.settle();
}

#[test]
fn what_is_used_is_there_again_and_what_is_past_is_removed() {
    let place = Place::new("again");
    let mut work = place.open(TODAY);
    let book = bind(&work, budget(GB, Then::Deny));
    book.all.add([5, 7]);
    source(&work, &book, 9).unwrap().add([3, 100]);
    turn(&mut work, TODAY);
    book.all.add([1, 0]);
    turn(&mut work, TODAY);
    drop((work, book));
    let mut work = place.open(TODAY);
    let book = bind(&work, budget(GB, Then::Deny));
    assert_eq!(used(&book.all), [Some(6), Some(7)]);
    assert_eq!(used(&source(&work, &book, 9).unwrap()), [Some(3), None], "down is not bounded");
    turn(&mut work, TODAY);
    drop((work, book));
    // The day is over, the month is not.
    let mut work = place.open(TODAY + DAY);
    turn(&mut work, TODAY + DAY);
    let book = bind(&work, budget(GB, Then::Deny));
    assert_eq!(used(&book.all), [Some(0), Some(7)]);
    drop((work, book));
    let (_, entries) = Store::open(&place.file()).unwrap();
    let left: Vec<_> = entries.iter().map(|entry| (entry.way, entry.source.len())).collect();
    assert_eq!(left, [(1, 0)]);
}

#[test]
fn a_budget_that_is_spent_is_there_again_in_the_next_period() {
    let place = Place::new("next");
    let mut work = place.open(TODAY);
    let book = bind(&work, budget(100, Then::Slow(8_000)));
    let own = source(&work, &book, 1).unwrap();
    let ceilings = own.ceilings.clone().unwrap();
    own.add([99, 0]);
    turn(&mut work, TODAY);
    assert!(!own.is_spent() && ceilings[0].rate().is_infinite());
    own.add([1, 0]);
    turn(&mut work, TODAY);
    assert!(own.is_spent());
    assert_eq!(ceilings[0].rate(), 1_000.0);
    assert!(ceilings[1].rate().is_infinite(), "down is another matter");
    turn(&mut work, TODAY + DAY);
    assert!(!own.is_spent() && ceilings[0].rate().is_infinite());
    // Set back, and forward again.
    turn(&mut work, TODAY);
    assert!(own.is_spent() && ceilings[0].rate().is_finite());
    turn(&mut work, TODAY + DAY);
    assert!(!own.is_spent());
}

#[test]
fn a_rule_that_comes_back_has_used_what_it_had_used() {
    let place = Place::new("back");
    let mut work = place.open(TODAY);
    let book = bind(&work, budget(100, Then::Deny));
    book.all.add([100, 0]);
    turn(&mut work, TODAY);
    assert!(work.books.bind(&[]).is_empty());
    turn(&mut work, TODAY);
    assert!(!book.all.is_spent(), "nothing bounds it");
    assert!(bind(&work, budget(100, Then::Deny)).all.is_spent());
    assert!(!bind(&work, budget(101, Then::Deny)).all.is_spent(), "the bound is another");
    drop(book);
    work.books.bind(&[]);
    drop(work);
    let work = place.open(TODAY);
    assert!(bind(&work, budget(100, Then::Deny)).all.is_spent(), "restarted meanwhile");
}

#[test]
fn not_a_byte_is_lost_while_workers_count_and_the_keeper_writes() {
    let place = Place::new("count");
    let mut work = place.open(TODAY);
    let book = bind(&work, budget(GB, Then::Alert));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..50_000).for_each(|_| book.all.add([1, 2])));
        }
        for _ in 0..20 {
            turn(&mut work, TODAY);
        }
    });
    turn(&mut work, TODAY);
    drop((work, book));
    let (_, entries) = Store::open(&place.file()).unwrap();
    let used: Vec<u64> = entries.iter().map(|entry| entry.used).collect();
    assert_eq!(used, [200_000, 400_000]);
}

#[test]
fn a_flood_of_sources_takes_no_more_than_the_table() {
    let place = Place::new("flood");
    let work = place.open(TODAY);
    let book = bind(&work, budget(GB, Then::Deny));
    let held: Vec<_> = (0..65_536).map(|n| source(&work, &book, n).unwrap()).collect();
    assert_eq!(source(&work, &book, 70_000).unwrap_err(), Crowded);
    assert!(source(&work, &book, 7).is_ok(), "who is known is counted");
    // Who has moved something is not forgotten before the period is over.
    held[..60_000].iter().for_each(|account| account.add([1, 0]));
    locked(&work.books.desk.changed).clear();
    drop(held);
    assert!(source(&work, &book, 70_000).is_err(), "a worker does not look for a place");
    work.books.make_room();
    assert!((70_000..70_100).all(|n| source(&work, &book, n).is_ok()));
    assert_eq!(used(&source(&work, &book, 7).unwrap())[0], Some(1));
}

#[test]
fn sources_of_which_nothing_is_left_are_forgotten_and_removed() {
    let place = Place::new("forgotten");
    let mut work = place.open(TODAY);
    let book = bind(&work, budget(GB, Then::Deny));
    source(&work, &book, 1).unwrap().add([5, 0]);
    turn(&mut work, TODAY);
    for day in 1..4 {
        turn(&mut work, TODAY + day * DAY);
    }
    assert_eq!(book.sources().count(), 0);
    drop(work);
    let (_, entries) = Store::open(&place.file()).unwrap();
    assert!(entries.iter().all(|entry| entry.source.is_empty()), "{entries:?}");
}

#[test]
fn a_store_that_is_open_elsewhere_is_said_to_be_so() {
    let place = Place::new("open");
    let _work = place.open(TODAY);
    let fault = Work::open(&place.keeping(), TODAY).unwrap_err();
    assert!(fault.message.contains("open in another process"), "{fault:?}");
    assert!(fault.fix.contains("give each its own"));
}

#[test]
fn a_damaged_store_is_said_to_be_so_and_never_more_than_that() {
    let place = Place::new("damaged");
    let mut work = place.open(TODAY);
    let book = bind(&work, budget(GB, Then::Deny));
    for n in 0..500 {
        source(&work, &book, n).unwrap().add([5, 0]);
    }
    turn(&mut work, TODAY);
    drop((work, book));
    let whole = std::fs::read(place.file()).unwrap();
    let open = |bytes: &[u8]| {
        std::fs::write(place.file(), bytes).unwrap();
        Store::open(&place.file()).map(|(_, entries)| entries.len())
    };
    let fault = open(b"a file of another kind, longer than any header of a database is at least, and no database")
        .unwrap_err();
    assert!(fault.message.contains("is damaged, or is none"), "{fault:?}");
    assert!(fault.fix.contains("move the file away"));
    assert!(open(&whole[..whole.len() / 2]).is_err());
    let mut random = 7_u64;
    for _ in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..8 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // Where the header and the tables are: the rest of a new file is empty.
            let at = (random >> 33) as usize % bytes.len().min(300_000);
            bytes[at] ^= (random >> 20) as u8 | 1;
        }
        let _ = open(&bytes);
    }
}

#[test]
fn a_store_that_cannot_be_is_said_to_be_so() {
    let place = Place::new("nowhere");
    let fault = Store::open(&place.file().join("deeper/still")).unwrap_err();
    assert!(fault.message.contains("cannot be opened"), "{fault:?}");
    std::fs::create_dir_all(place.file()).unwrap();
    let fault = Store::open(&place.file()).unwrap_err();
    assert!(fault.message.contains("cannot be opened"), "{fault:?}");
}

#[test]
fn only_its_owner_reads_the_store() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new("mode");
    let _work = place.open(TODAY);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&place.file()), mode(&place.0)), (0o600, 0o700));
}

#[test]
fn a_store_that_cannot_be_written_is_counted_on_in_memory_and_written_later() {
    let place = Place::new("full");
    let mut work = place.open(TODAY);
    let book = bind(&work, budget(GB, Then::Deny));
    turn(&mut work, TODAY);
    work.break_store(Path::new("/proc/no such folder/file"));
    book.all.add([11, 0]);
    turn(&mut work, TODAY);
    turn(&mut work, TODAY);
    assert_eq!(work.books.failures.load(SeqCst), 1, "not at once again");
    work.break_store(Path::new("/proc/no such folder/file"));
    turn(&mut work, TODAY);
    assert!(work.books.failing.load(SeqCst));
    assert_eq!(work.books.failures.load(SeqCst), 2);
    book.all.add([1, 0]);
    work.break_store(&place.file());
    turn(&mut work, TODAY);
    assert!(!work.books.failing.load(SeqCst));
    drop((work, book));
    let (_, entries) = Store::open(&place.file()).unwrap();
    assert_eq!(entries[0].used, 12);
}

#[test]
fn a_source_is_its_strongest_identity_or_its_address() {
    let [one, two] = [1, 2].map(|n| IpAddr::from([10, 0, 0, n]));
    let alice = Identity::default().with_user(b"alice");
    assert_eq!(key(one, Some(&alice)), key(two, Some(&alice)));
    assert_ne!(key(one, None), key(two, None));
    let named = Identity::default().with_user(&[4, 10, 0, 0]);
    assert_ne!(key(one, None), key(one, Some(&named)));
    assert_eq!(text(&key(one, None)), "10.0.0.1");
    assert_eq!(text(&key("2001:db8::1".parse().unwrap(), None)), "2001:db8::1");
    assert_eq!(text(&key(one, Some(&Identity::default().with_user(b"a\x1b[2J")))), "a\\x1b[2J");
}
