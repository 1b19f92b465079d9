//! The name table: open addressing over an arena. The hash is computed label by label from the right,
//! so one pass over a name gives the hash of each of its suffixes, and each is one probe.

use std::collections::HashMap;

use crate::flat::{Class, MIX, Slot, fold, read_word};

/// Labels of the longest name: 253 bytes, one byte and a dot each.
pub(crate) const MAX_LABELS: usize = 127;
/// Slots for each three names: a load of 2/3 keeps searches for absent names at a handful of slots.
const SLOTS_PER_3_NAMES: usize = 3 * 3 / 2 + 1;

/// The suffixes of a name that begin at a label, from the shortest: (hash, where the suffix begins).
pub(crate) struct Suffixes<'a> {
    name: &'a [u8],
    /// What is left of this position is still to be read; `None` = all was.
    end: Option<usize>,
    state: u64,
}

impl<'a> Suffixes<'a> {
    #[inline]
    pub(crate) fn new(name: &'a [u8], seed: u64) -> Self {
        Self { name, end: Some(name.len()), state: seed }
    }
}

impl Iterator for Suffixes<'_> {
    type Item = (u64, usize);

    #[inline]
    fn next(&mut self) -> Option<(u64, usize)> {
        let end = self.end?;
        let left = &self.name[..end];
        let dot = left.iter().rposition(|byte| *byte == b'.');
        let start = dot.map_or(0, |dot| dot + 1);
        let label = &left[start..];
        let mut words = label.chunks_exact(8);
        let mut state = self.state;
        for word in &mut words {
            state = fold(state ^ read_word(word), MIX[1]);
        }
        // The length keeps labels apart that differ in how they are cut into words.
        state = fold(state ^ read_word(words.remainder()), MIX[2] ^ ((label.len() as u64) << 1));
        self.state = state;
        self.end = dot;
        Some((fold(state, MIX[3]), start))
    }
}

#[inline]
fn tag_of(hash: u64) -> [u8; 3] {
    let bytes = hash.to_le_bytes();
    [bytes[0], bytes[1], bytes[2]]
}

/// The slot where the search for `hash` begins: its high bits, scaled (no power of two is needed).
#[inline]
fn home(hash: u64, slots: usize) -> usize {
    ((u128::from(hash) * slots as u128) >> 64) as usize
}

/// The finished table, as it lies in a snapshot.
#[derive(Clone, Copy)]
pub(crate) struct Names<'a> {
    pub slots: &'a [Slot],
    pub arena: &'a [u8],
    pub max_probe: u32,
}

impl<'a> Names<'a> {
    /// The class of `name`, whose hash is `hash`. The bytes are always compared.
    #[inline]
    pub(crate) fn find(&self, hash: u64, name: &[u8]) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let tag = tag_of(hash);
        let mut index = home(hash, self.slots.len());
        for _ in 0..self.max_probe {
            let slot = self.slots.get(index)?;
            if slot.len == 0 {
                return None;
            }
            if slot.tag == tag && usize::from(slot.len) == name.len() && self.name(slot) == name {
                return Some(slot.class.get());
            }
            index = if index + 1 == self.slots.len() { 0 } else { index + 1 };
        }
        None
    }

    /// The bytes of the name in `slot`.
    #[inline]
    pub(crate) fn name(&self, slot: &Slot) -> &'a [u8] {
        let at = slot.at.get() as usize;
        self.arena.get(at..at + usize::from(slot.len)).unwrap_or_default()
    }
}

/// Builds the table in its final form; names that share their atoms share a class.
pub(crate) struct NamesBuilder {
    pub seed: u64,
    pub slots: Vec<Slot>,
    pub arena: Vec<u8>,
    pub count: u32,
    max_probe: usize,
    /// The atoms of each class, sorted by `rank`.
    classes: Vec<Vec<u32>>,
    by_atoms: HashMap<Vec<u32>, u32>,
    /// (class, atom) → the class with that atom too.
    steps: HashMap<(u32, u32), u32>,
}

/// The class of a name that has no atom yet.
const EMPTY_CLASS: u32 = u32::MAX;

impl NamesBuilder {
    /// A table for at most `most` names.
    pub(crate) fn new(seed: u64, most: usize) -> Self {
        let slots = if most == 0 { 0 } else { most / 3 * SLOTS_PER_3_NAMES + SLOTS_PER_3_NAMES };
        let free = Slot { at: 0.into(), class: 0.into(), tag: [0; 3], len: 0 };
        Self {
            seed,
            slots: vec![free; slots],
            arena: Vec::new(),
            count: 0,
            max_probe: 0,
            classes: Vec::new(),
            by_atoms: HashMap::new(),
            steps: HashMap::new(),
        }
    }

    /// Adds `atom` to `name` (normalised, 1 to 253 bytes); `rank` orders the atoms of one name.
    /// Returns where in the arena the name lies.
    pub(crate) fn add(&mut self, name: &[u8], atom: u32, rank: impl Fn(u32) -> u64) -> u32 {
        let Some((hash, _)) = Suffixes::new(name, self.seed).last() else { return 0 };
        let tag = tag_of(hash);
        let mut index = home(hash, self.slots.len());
        let mut probes = 1;
        loop {
            let slot = self.slots[index];
            let at = slot.at.get() as usize;
            if slot.len == 0 {
                let class = self.step(EMPTY_CLASS, atom, &rank);
                let at = self.arena.len() as u32;
                self.arena.extend_from_slice(name);
                self.slots[index] =
                    Slot { at: at.into(), class: class.into(), tag, len: name.len() as u8 };
                self.count += 1;
                self.max_probe = self.max_probe.max(probes);
                return at;
            }
            if slot.tag == tag && self.arena[at..].get(..usize::from(slot.len)) == Some(name) {
                let class = self.step(slot.class.get(), atom, &rank);
                self.slots[index].class = class.into();
                return at as u32;
            }
            index = (index + 1) % self.slots.len();
            probes += 1;
        }
    }

    fn step(&mut self, class: u32, atom: u32, rank: impl Fn(u32) -> u64) -> u32 {
        if let Some(next) = self.steps.get(&(class, atom)) {
            return *next;
        }
        let mut atoms = self.classes.get(class as usize).cloned().unwrap_or_default();
        if !atoms.contains(&atom) {
            atoms.push(atom);
            atoms.sort_unstable_by_key(|atom| rank(*atom));
        }
        let fresh = self.classes.len() as u32;
        let next = *self.by_atoms.entry(atoms.clone()).or_insert(fresh);
        if next == fresh {
            self.classes.push(atoms);
        }
        self.steps.insert((class, atom), next);
        next
    }

    /// Slots that a search must look at, at most: one more than the furthest name, to see the free one.
    pub(crate) fn max_probe(&self) -> u32 {
        self.max_probe as u32 + 1
    }

    /// The classes and their atoms, flat.
    pub(crate) fn classes(&self) -> (Vec<Class>, Vec<zerocopy::little_endian::U32>) {
        let mut flat = Vec::new();
        let mut classes = Vec::with_capacity(self.classes.len());
        for atoms in &self.classes {
            classes.push(Class {
                first: (flat.len() as u32).into(),
                count: (atoms.len() as u32).into(),
            });
            flat.extend(atoms.iter().map(|atom| zerocopy::little_endian::U32::new(*atom)));
        }
        (classes, flat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_hashes_do_not_make_equal_names() {
        let mut builder = NamesBuilder::new(7, 10);
        builder.add(b"aaa.org", 0, u64::from);
        let hash = |name: &[u8]| Suffixes::new(name, 7).last().map_or(0, |(hash, _)| hash);
        let names =
            Names { slots: &builder.slots, arena: &builder.arena, max_probe: builder.max_probe() };
        assert_eq!(names.find(hash(b"aaa.org"), b"aaa.org"), Some(0));
        assert_eq!(names.find(hash(b"aaa.org"), b"bbb.org"), None);
    }

    #[test]
    fn each_suffix_hashes_as_the_name_alone_would() {
        let name = b"a-rather-long-label.b.example.org";
        for (hash, start) in Suffixes::new(name, 99) {
            assert_eq!(Suffixes::new(&name[start..], 99).last(), Some((hash, 0)));
        }
        assert_eq!(Suffixes::new(name, 99).count(), 4);
    }

    #[test]
    fn names_with_the_same_atoms_share_a_class_and_others_do_not() {
        let mut builder = NamesBuilder::new(1, 10);
        for name in [&b"a.org"[..], b"b.org", b"c.org"] {
            builder.add(name, 5, u64::from);
        }
        builder.add(b"b.org", 2, u64::from);
        builder.add(b"b.org", 2, u64::from);
        let (classes, members) = builder.classes();
        assert_eq!((builder.count, classes.len()), (3, 2));
        assert_eq!(members.iter().map(|atom| atom.get()).collect::<Vec<_>>(), [5, 2, 5]);
    }
}
