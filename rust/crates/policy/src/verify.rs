//! Checks of a snapshot's insides: every index and every span stays within its section. Look-ups are
//! written so that even bytes that pass here by malice can neither panic nor loop.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::flat::*;
use crate::snapshot::{Snapshot, SnapshotError};
use crate::vocab::Evidence;

type Check = Result<(), SnapshotError>;

pub(crate) fn verify(snapshot: &Snapshot) -> Check {
    check_rules(snapshot)?;
    ensure(snapshot.shaping().holds(snapshot.rule_count()), "classes of bandwidth")?;
    let shares = snapshot.settings().cluster.is_some() || !snapshot.shaping().has_shared();
    ensure(shares, "shared bandwidth")?;
    let rules = snapshot.rule_count();
    ensure(snapshot.further().all(|one| one.holds(rules)), "bounds of connections")?;
    ensure(snapshot.budgets_hold(), "budgets")?;
    check_names(snapshot)?;
    check_identities(snapshot)?;
    check_users(snapshot)?;
    check_edges(snapshot)?;
    let atoms = count::<Atom>(snapshot, Section::Atoms, "atoms")?;
    check_nets(
        snapshot,
        [Section::SourceNodes, Section::SourceV4, Section::SourceV6],
        0,
        "sources",
    )?;
    check_nets(snapshot, [Section::NetNodes, Section::NetV4, Section::NetV6], atoms, "networks")
}

/// Records of a section; an error if it is not a whole number of them.
fn count<T: FromBytes + KnownLayout + Immutable>(
    snapshot: &Snapshot,
    section: Section,
    what: &'static str,
) -> Result<usize, SnapshotError> {
    let len = snapshot.raw(section).len();
    if len.is_multiple_of(size_of::<T>()) {
        Ok(len / size_of::<T>())
    } else {
        Err(SnapshotError::Layout(what))
    }
}

fn ensure(holds: bool, what: &'static str) -> Check {
    if holds { Ok(()) } else { Err(SnapshotError::Layout(what)) }
}

/// `first..first + count` lies within `len`.
fn within(first: U32, count: u64, len: usize) -> bool {
    u64::from(first.get()) + count <= len as u64
}

fn check_rules(snapshot: &Snapshot) -> Check {
    const WHAT: &str = "rules";
    count::<RuleRecord>(snapshot, Section::Rules, WHAT)?;
    let dials = count::<Text>(snapshot, Section::Dials, "dials")?;
    count::<U64>(snapshot, Section::Expiries, "expiries")?;
    count::<Text>(snapshot, Section::Lists, "lists")?;
    let texts = snapshot.raw(Section::Texts);
    ensure(std::str::from_utf8(texts).is_ok(), "texts")?;
    let text = |text: Text, optional: bool| {
        (optional && text.at.get() == NONE) || {
            let at = text.at.get() as usize;
            texts
                .get(at..at.saturating_add(text.len.get() as usize))
                .is_some_and(|bytes| std::str::from_utf8(bytes).is_ok())
        }
    };
    for rule in snapshot.rules() {
        let required = [rule.name, rule.file].into_iter().all(|t| text(t, false));
        let optional = [rule.owner, rule.why, rule.message].into_iter().all(|t| text(t, true));
        let dial = rule.dial.get();
        ensure(required && optional && (dial == NONE || (dial as usize) < dials), WHAT)?;
    }
    for section in [Section::Dials, Section::Lists] {
        ensure(snapshot.section::<Text>(section).iter().all(|t| text(*t, false)), "texts")?;
    }
    Ok(())
}

fn check_names(snapshot: &Snapshot) -> Check {
    let slots = count::<Slot>(snapshot, Section::Slots, "slots")?;
    let classes = count::<Class>(snapshot, Section::Classes, "classes")?;
    let members = count::<U32>(snapshot, Section::ClassAtoms, "classes")?;
    let atoms = count::<Atom>(snapshot, Section::Atoms, "atoms")?;
    let names = snapshot.names();
    ensure(names.max_probe as usize <= slots + 1, "slots")?;
    for slot in names.slots.iter().filter(|slot| slot.len != 0) {
        let good = within(slot.at, slot.len.into(), names.arena.len())
            && (slot.class.get() as usize) < classes;
        ensure(good, "slots")?;
    }
    for class in snapshot.section::<Class>(Section::Classes) {
        ensure(within(class.first, class.count.get().into(), members), "classes")?;
    }
    let good = |atom: &U32| (atom.get() as usize) < atoms;
    ensure(snapshot.section::<U32>(Section::ClassAtoms).iter().all(good), "classes")?;
    ensure(names.arena.is_ascii(), "names")
}

fn check_identities(snapshot: &Snapshot) -> Check {
    const WHAT: &str = "identities";
    let all = count::<IdentityRecord>(snapshot, Section::Identities, WHAT)?;
    let whos = count::<WhoRecord>(snapshot, Section::Whos, WHAT)?;
    let pairs = count::<PairRecord>(snapshot, Section::Pairs, WHAT)?;
    let texts = snapshot.raw(Section::IdentityTexts);
    let text = |record: &IdentityRecord| {
        let at = record.text.at.get() as usize;
        texts.get(at..at.saturating_add(record.text.len.get() as usize))
    };
    let identities = snapshot.section::<IdentityRecord>(Section::Identities);
    for (index, record) in identities.iter().enumerate() {
        let parent = record.parent.get();
        let good = text(record).is_some_and(|text| std::str::from_utf8(text).is_ok())
            && record.kind <= identity_kind::SPIFFE_BELOW
            && (parent == NONE || (parent as usize) < index);
        ensure(good, WHAT)?;
    }
    ensure(identities.is_sorted_by(|a, b| (a.kind, text(a)) < (b.kind, text(b))), WHAT)?;
    let sorted = snapshot.section::<WhoRecord>(Section::Whos);
    for who in sorted {
        let (spiffe, user, tlv, evidence) = who.key();
        let known = |identity: u32| identity == NONE || (identity as usize) < all;
        let evidence = u8::try_from(evidence).ok().and_then(Evidence::from_number);
        let good = [spiffe, user, tlv].into_iter().all(known) && evidence.is_some();
        ensure(good && within(who.first, who.count.get().into(), pairs), WHAT)?;
        let first = who.first.get() as usize;
        let of = snapshot
            .section::<PairRecord>(Section::Pairs)
            .get(first..first + who.count.get() as usize);
        ensure(of.is_some_and(|of| of.is_sorted_by(|a, b| a.net.get() < b.net.get())), WHAT)?;
    }
    ensure(sorted.is_sorted_by(|a, b| a.key() < b.key()), WHAT)?;
    let nodes = snapshot.sources().nodes.len();
    let known =
        |pair: &PairRecord| (pair.who.get() as usize) < whos && (pair.net.get() as usize) < nodes;
    ensure(snapshot.section::<PairRecord>(Section::Pairs).iter().all(known), WHAT)
}

fn check_users(snapshot: &Snapshot) -> Check {
    const WHAT: &str = "users";
    count::<UserRecord>(snapshot, Section::Users, WHAT)?;
    let users = snapshot.section::<UserRecord>(Section::Users);
    let texts = snapshot.raw(Section::UserTexts);
    ensure(std::str::from_utf8(texts).is_ok(), WHAT)?;
    let good = |text: Text| within(text.at, text.len.get().into(), texts.len());
    ensure(users.iter().all(|user| good(user.name) && good(user.hash)), WHAT)?;
    let name = |user: &UserRecord| snapshot.user_text(user.name);
    ensure(users.is_sorted_by(|a, b| name(a) < name(b)), WHAT)
}

fn check_edges(snapshot: &Snapshot) -> Check {
    let groups = count::<Group>(snapshot, Section::Groups, "groups")?;
    let edges = count::<Edge>(snapshot, Section::Edges, "edges")?;
    let sets = count::<AddressSet>(snapshot, Section::AddressSets, "address sets")?;
    let ranges = count::<AddressRange>(snapshot, Section::AddressRanges, "address sets")?;
    let lists = count::<Text>(snapshot, Section::Lists, "lists")?;
    let names = snapshot.raw(Section::Names).len();
    let sources =
        snapshot.sources().nodes.len() + snapshot.section::<PairRecord>(Section::Pairs).len();
    for atom in snapshot.section::<Atom>(Section::Atoms) {
        let list = atom.list.get();
        let place = match atom.form {
            form::EXACT | form::BELOW | form::TREE => {
                list != u16::MAX || within(atom.at, atom.len.into(), names)
            }
            form::NET => (atom.at.get() as usize) < snapshot.nets().nodes.len(),
            form::ANYWHERE => true,
            _ => false,
        };
        let groups = within(atom.first_group, atom.groups.get().into(), groups);
        ensure(place && groups && (list == u16::MAX || usize::from(list) < lists), "atoms")?;
    }
    for group in snapshot.section::<Group>(Section::Groups) {
        let all = u64::from(group.denies.get()) + u64::from(group.allows.get());
        ensure(
            within(group.first, all, edges) && (group.source.get() as usize) < sources,
            "groups",
        )?;
    }
    for edge in snapshot.section::<Edge>(Section::Edges) {
        let set = edge.addresses.get();
        let good = (edge.rule.get() as usize) < snapshot.rules().len()
            && (set == NONE || (set as usize) < sets);
        ensure(good, "edges")?;
    }
    for set in snapshot.section::<AddressSet>(Section::AddressSets) {
        ensure(within(set.first, set.count.get().into(), ranges), "address sets")?;
    }
    Ok(())
}

fn check_nets(
    snapshot: &Snapshot,
    sections: [Section; 3],
    atoms: usize,
    what: &'static str,
) -> Check {
    let nodes = count::<NetNode>(snapshot, sections[0], what)?;
    count::<IntervalV4>(snapshot, sections[1], what)?;
    count::<IntervalV6>(snapshot, sections[2], what)?;
    ensure(nodes > 0, what)?;
    for (index, node) in snapshot.section::<NetNode>(sections[0]).iter().enumerate() {
        let parent = (node.parent.get() as usize) < index || index == 0;
        let bits = match node.family {
            4 => 32,
            6 => 128,
            _ => 0,
        };
        let atom = node.atom.get() == NONE || (node.atom.get() as usize) < atoms;
        ensure(parent && node.prefix <= bits && atom && (node.family == 0) == (index == 0), what)?;
    }
    let v4 = snapshot.section::<IntervalV4>(sections[1]);
    let v6 = snapshot.section::<IntervalV6>(sections[2]);
    let known = |node: U32| (node.get() as usize) < nodes;
    ensure(v4.iter().all(|i| known(i.node)) && v6.iter().all(|i| known(i.node)), what)?;
    ensure(
        v4.is_sorted_by(|a, b| a.start.get() < b.start.get())
            && v6.is_sorted_by(|a, b| a.start < b.start),
        what,
    )
}
