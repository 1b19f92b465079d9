//! Which names each source was told for which address, so that a connection to the address alone can be judged by name.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use egress_hello::name::Name;

/// Names that are remembered, of all sources and of one: a source that asks for many takes no room of others.
const MOST: usize = 65_536;
const MOST_OF_SOURCE: usize = 4_096;
/// Names of one address: hosts of one provider share theirs.
const NAMES_OF_ADDRESS: usize = 4;
/// How long beyond its TTL an answer is remembered, and from each use on: clients keep addresses longer than they should,
/// and one that reconnects goes on under the name that it began with.
const GRACE: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(super) struct Handed {
    sources: HashMap<IpAddr, Source>,
    count: usize,
}

#[derive(Debug, Default)]
struct Source {
    addresses: HashMap<IpAddr, Vec<Told>>,
    count: usize,
}

#[derive(Debug)]
struct Told {
    name: Name,
    /// From here on it is forgotten.
    until: Instant,
}

impl Source {
    /// Drops what is not to be kept.
    fn retain(&mut self, keep: impl Fn(&Told) -> bool) {
        self.addresses.retain(|_, told| {
            told.retain(&keep);
            !told.is_empty()
        });
        self.count = self.addresses.values().map(Vec::len).sum();
    }

    fn ends(&self) -> impl Iterator<Item = Instant> {
        self.addresses.values().flatten().map(|told| told.until)
    }
}

/// The moment that half of them come before.
fn middle(ends: impl Iterator<Item = Instant>) -> Option<Instant> {
    let mut ends: Vec<Instant> = ends.collect();
    let middle = ends.len() / 2;
    (!ends.is_empty()).then(|| *ends.select_nth_unstable(middle).1)
}

impl Handed {
    /// `source` was told that `name` has `address`, until `until`.
    pub(super) fn tell(
        &mut self,
        source: IpAddr,
        address: IpAddr,
        name: &Name,
        until: Instant,
        now: Instant,
    ) {
        self.make_room(source, now);
        let of = self.sources.entry(source).or_default();
        let told = of.addresses.entry(address).or_default();
        let before = told.len();
        // Newest first.
        told.retain(|told| told.name != *name);
        told.insert(0, Told { name: name.clone(), until: until + GRACE });
        told.truncate(NAMES_OF_ADDRESS);
        let after = told.len();
        of.count = of.count + after - before;
        self.count = self.count + after - before;
    }

    /// The names under which `source` was told `address`, newest first. They are remembered longer for it.
    pub(super) fn names(&mut self, source: IpAddr, address: IpAddr, now: Instant) -> Vec<Name> {
        let of = self.sources.get_mut(&source).and_then(|of| of.addresses.get_mut(&address));
        let current = of.into_iter().flatten().filter(|told| now < told.until);
        current
            .map(|told| {
                told.until = told.until.max(now + GRACE);
                told.name.clone()
            })
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Keeps within the bounds: what has ended goes first, then the half that ends soonest.
    fn make_room(&mut self, source: IpAddr, now: Instant) {
        if let Some(of) = self.sources.get_mut(&source)
            && of.count >= MOST_OF_SOURCE
        {
            let before = of.count;
            of.retain(|told| now < told.until);
            if of.count >= MOST_OF_SOURCE
                && let Some(middle) = middle(of.ends())
            {
                of.retain(|told| told.until > middle);
            }
            self.count = self.count - before + of.count;
        }
        if self.count >= MOST {
            self.retain(|told| now < told.until);
            if self.count >= MOST
                && let Some(middle) = middle(self.sources.values().flat_map(Source::ends))
            {
                self.retain(|told| told.until > middle);
            }
        }
    }

    fn retain(&mut self, keep: impl Fn(&Told) -> bool) {
        self.sources.retain(|_, source| {
            source.retain(&keep);
            source.count > 0
        });
        self.count = self.sources.values().map(|source| source.count).sum();
    }
}

#[cfg(test)]
mod tests {
    use egress_hello::name::{Host, parse_host};

    use super::*;

    fn name(text: &str) -> Name {
        match parse_host(text.as_bytes()).unwrap() {
            Host::Name(name) => name,
            Host::Ip(ip) => unreachable!("{ip}"),
        }
    }

    fn ip(last: usize) -> IpAddr {
        IpAddr::from((0x0a00_0000 + last as u32).to_be_bytes())
    }

    fn said(handed: &mut Handed, source: usize, address: usize, now: Instant) -> Vec<String> {
        let names = handed.names(ip(source), ip(address), now);
        names.iter().map(Name::to_string).collect()
    }

    #[test]
    fn names_are_those_of_the_source_and_the_newest_comes_first() {
        let (mut handed, now) = (Handed::default(), Instant::now());
        for (source, text) in [(1, "a.x"), (1, "b.x"), (2, "c.x"), (1, "a.x")] {
            handed.tell(ip(source), ip(9), &name(text), now, now);
        }
        assert_eq!(said(&mut handed, 1, 9, now), ["a.x", "b.x"]);
        assert_eq!(said(&mut handed, 2, 9, now), ["c.x"]);
        assert!(said(&mut handed, 2, 8, now).is_empty() && said(&mut handed, 3, 9, now).is_empty());
        for text in ["c.x", "d.x", "e.x"] {
            handed.tell(ip(1), ip(9), &name(text), now, now);
        }
        assert_eq!(said(&mut handed, 1, 9, now), ["e.x", "d.x", "c.x", "a.x"]);
        assert_eq!(handed.len(), 5);
    }

    #[test]
    fn a_name_is_forgotten_after_its_time_and_a_grace_and_use_prolongs_it() {
        let (mut handed, start) = (Handed::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        handed.tell(ip(1), ip(9), &name("a.x"), after(60), start);
        handed.tell(ip(1), ip(8), &name("b.x"), after(60), start);
        assert_eq!(said(&mut handed, 1, 9, after(659)), ["a.x"]);
        assert!(said(&mut handed, 1, 8, after(660)).is_empty());
        assert_eq!(said(&mut handed, 1, 9, after(659 + 599)), ["a.x"]);
        assert!(said(&mut handed, 1, 9, after(659 + 599 + 600)).is_empty());
    }

    #[test]
    fn a_source_that_asks_for_much_takes_its_own_room() {
        let (mut handed, now) = (Handed::default(), Instant::now());
        handed.tell(ip(2), ip(9), &name("quiet.x"), now, now);
        for address in 0..3 * MOST_OF_SOURCE {
            let until = now + Duration::from_secs(address as u64);
            handed.tell(ip(1), ip(address), &name("loud.x"), until, now);
            assert!(handed.len() <= MOST_OF_SOURCE + 1);
        }
        assert_eq!(said(&mut handed, 2, 9, now), ["quiet.x"]);
        assert_eq!(said(&mut handed, 1, 3 * MOST_OF_SOURCE - 1, now), ["loud.x"], "the newest");
        assert!(said(&mut handed, 1, 0, now).is_empty(), "the oldest");
    }

    #[test]
    fn all_of_it_is_bounded_and_what_has_ended_goes_first() {
        let (mut handed, now) = (Handed::default(), Instant::now());
        let ended = now + GRACE + Duration::from_secs(1);
        for source in 0..MOST {
            let until = now + Duration::from_secs(if source % 2 == 0 { 0 } else { 60 });
            handed.tell(ip(source), ip(9), &name("a.x"), until, now);
        }
        assert_eq!(handed.len(), MOST);
        handed.tell(ip(MOST), ip(9), &name("a.x"), ended, ended);
        assert_eq!(handed.len(), MOST / 2 + 1);
        assert_eq!(said(&mut handed, 1, 9, ended), ["a.x"]);
        assert!(said(&mut handed, 2, 9, ended).is_empty());
    }
}
