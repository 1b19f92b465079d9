//! The snapshot laid out from what the checks found.

use std::collections::{BTreeSet, HashMap};

use egress_hello::name::parse_authority;
use ipnet::IpNet;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use crate::budgets;
use crate::connections::Further;
use crate::document::{Document, ORIGINAL, Rule, Sni};
use crate::flat::*;
use crate::list::List;
use crate::names::NamesBuilder;
use crate::nets::{ANY, NetsBuilder, key};
use crate::problem::Problems;
use crate::proxied::Sends;
use crate::rules::{Expanded, Key, RawEdge, audited};
use crate::snapshot::Stored;
use crate::sources::SourcesLayout;
use crate::ties::Ties;
use crate::users::Users;

/// Strings, each stored once.
#[derive(Default)]
struct Texts {
    bytes: Vec<u8>,
    known: HashMap<String, Text>,
}

impl Texts {
    fn add(&mut self, text: &str) -> Text {
        if let Some(known) = self.known.get(text) {
            return *known;
        }
        let stored = Text { at: (self.bytes.len() as u32).into(), len: (text.len() as u32).into() };
        self.bytes.extend_from_slice(text.as_bytes());
        self.known.insert(text.to_owned(), stored);
        stored
    }

    fn optional(&mut self, text: Option<&str>) -> Text {
        text.map_or(Text { at: NONE.into(), len: 0.into() }, |text| self.add(text))
    }
}

/// Rules by (destination, source), in the snapshot's order.
pub(crate) struct Edges {
    groups: Vec<Group>,
    edges: Vec<Edge>,
    /// (first group, groups) of each atom.
    spans: Vec<(u32, u32)>,
    sources: SourcesLayout,
}

/// Sorts edges into groups; ties become problems.
pub(crate) fn edges(document: &Document, found: &Expanded, problems: &mut Problems) -> Edges {
    let sources = found.sources.finish();
    let node = |edge: &RawEdge| {
        if edge.source == NONE { ANY } else { sources.number_of[edge.source as usize] }
    };
    let mut by_name: Vec<u32> = (0..document.rules.len() as u32).collect();
    by_name.sort_by_key(|rule| &document.rules[*rule as usize].name);
    let mut rank = vec![0; by_name.len()];
    for (position, rule) in by_name.iter().enumerate() {
        rank[*rule as usize] = position as u32;
    }
    let mut sorted: Vec<(u32, RawEdge)> =
        found.edges.iter().map(|edge| (node(edge), *edge)).collect();
    sorted.sort_unstable_by_key(|(node, edge)| {
        let width = edge.high - edge.low;
        let rank = rank[edge.rule as usize];
        // Single ports by number, so that they can be searched; ranges by width, then by name.
        let order = if width == 0 { (u32::from(edge.low), rank) } else { (rank, edge.low.into()) };
        (edge.atom, *node, !document.rules[edge.rule as usize].deny, width, order, edge.item)
    });
    let mut out = Edges {
        groups: Vec::new(),
        edges: Vec::with_capacity(sorted.len()),
        spans: vec![(0, 0); found.atoms.len()],
        sources,
    };
    let mut ties = Ties::new(document);
    for chunk in sorted.chunk_by(|a, b| (a.1.atom, a.0) == (b.1.atom, b.0)) {
        let Some((source, first)) = chunk.first() else { continue };
        let (atom, source) = (first.atom, *source);
        let split = chunk.partition_point(|(_, edge)| document.rules[edge.rule as usize].deny);
        let mut denies: Vec<RawEdge> = chunk[..split].iter().map(|(_, edge)| *edge).collect();
        denies.dedup_by_key(|edge| (edge.low, edge.high, edge.rule));
        let mut allows: Vec<RawEdge> = chunk[split..].iter().map(|(_, edge)| *edge).collect();
        let place = || describe(&found.atoms[atom as usize], source, &out.sources);
        ties.settle(&mut allows, place, problems);
        let span = &mut out.spans[atom as usize];
        if span.1 == 0 {
            span.0 = out.groups.len() as u32;
        }
        span.1 += 1;
        out.groups.push(Group {
            source: source.into(),
            first: (out.edges.len() as u32).into(),
            denies: (denies.len() as u32).into(),
            allows: (allows.len() as u32).into(),
        });
        out.edges.extend(denies.iter().chain(&allows).map(|edge| Edge {
            low: edge.low.into(),
            high: edge.high.into(),
            rule: edge.rule.into(),
            addresses: edge.addresses.into(),
        }));
    }
    out
}

fn describe(key: &Key, source: u32, sources: &SourcesLayout) -> String {
    let destination = match key {
        Key::Name(form, name) => format!("`{}{name}`", ["", "*.", "."][usize::from(*form)]),
        Key::Net(net) => format!("`{net}`"),
        Key::List(..) => "the same list".to_owned(),
        Key::Anywhere => "`*`".to_owned(),
    };
    match sources.words(source) {
        Some(words) => format!("{destination} from {words}"),
        None => destination,
    }
}

/// The finished snapshot. `lists` are in the order of [`Key::List`]'s numbers.
pub(crate) fn write(
    document: &Document,
    found: &Expanded,
    edges: &Edges,
    lists: &[(&str, List)],
    users: &Users,
    digest: [u8; 32],
    seed: u64,
) -> Result<Vec<u8>, serde_json::Error> {
    let listed: usize = lists.iter().map(|(_, list)| list.len()).sum();
    let mut names = NamesBuilder::new(seed, listed + found.atoms.len());
    let mut nets = NetsBuilder::default();
    // At one name: the form, then what is written out before what is in a list, then lists by name.
    let rank = |atom: u32| match &found.atoms[atom as usize] {
        Key::Name(form, _) => u64::from(*form) << 32,
        Key::List(list, form) => u64::from(*form) << 32 | (u64::from(*list) + 1),
        Key::Net(_) | Key::Anywhere => u64::MAX,
    };
    let mut places = vec![(0_u32, 0_u8); found.atoms.len()];
    for (atom, key) in found.atoms.iter().enumerate() {
        match key {
            Key::Name(_, name) => {
                places[atom] =
                    (names.add(name.as_bytes(), atom as u32, rank), name.as_bytes().len() as u8);
            }
            Key::Net(net) => places[atom].0 = nets.number(*net),
            Key::List(..) | Key::Anywhere => {}
        }
    }
    for (number, (_, list)) in lists.iter().enumerate() {
        let atom = |form| {
            found
                .atoms
                .iter()
                .position(|key| *key == Key::List(number as u16, form))
                .map(|atom| atom as u32)
        };
        let atoms = [atom(form::EXACT), atom(form::BELOW), atom(form::TREE)];
        for (name, form) in list.iter() {
            if let Some(atom) = atoms[usize::from(form)] {
                names.add(name, atom, rank);
            }
        }
    }
    let mut nets = nets.finish();
    let mut atoms = Vec::with_capacity(found.atoms.len());
    for (index, key) in found.atoms.iter().enumerate() {
        let (at, len) = places[index];
        let (form, list, at) = match key {
            Key::Name(form, _) => (*form, u16::MAX, at),
            Key::List(list, form) => (*form, *list, 0),
            Key::Net(_) => (form::NET, u16::MAX, nets.node_of[at as usize]),
            Key::Anywhere => (form::ANYWHERE, u16::MAX, ANY),
        };
        if matches!(key, Key::Net(_) | Key::Anywhere) {
            nets.nodes[at as usize].atom = (index as u32).into();
        }
        let (first_group, groups) = edges.spans[index];
        atoms.push(Atom {
            form,
            len,
            list: U16::new(list),
            at: at.into(),
            first_group: first_group.into(),
            groups: groups.into(),
        });
    }
    let mut texts = Texts::default();
    let mut dials = Vec::new();
    let rules: Vec<RuleRecord> =
        document.rules.iter().map(|rule| record(rule, document, &mut texts, &mut dials)).collect();
    let expiries: Vec<U64> = document
        .rules
        .iter()
        .filter_map(|rule| rule.until)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(U64::new)
        .collect();
    let list_names: Vec<Text> = lists.iter().map(|(name, _)| texts.add(name)).collect();
    let (sets, ranges) = address_sets(&found.address_sets);
    let (classes, members) = names.classes();
    let settings = serde_json::to_vec(&Stored {
        settings: document.settings.clone(),
        default: document.default.clone(),
        shaping: found.shaping.clone(),
        connections: Further::of(document),
        budgets: budgets::OfRule::of(document),
    })?;

    let mut writer = Writer::new(
        names.arena.len()
            + size_of_val(names.slots.as_slice())
            + edges.edges.len() * 12
            + (1 << 16),
    );
    writer.section(Section::Settings, &settings);
    writer.section(Section::Texts, &texts.bytes);
    writer.section(Section::Rules, rules.as_bytes());
    writer.section(Section::Dials, dials.as_bytes());
    writer.section(Section::Expiries, expiries.as_bytes());
    writer.section(Section::Lists, list_names.as_bytes());
    writer.section(Section::Names, &names.arena);
    writer.section(Section::Slots, names.slots.as_bytes());
    writer.section(Section::Classes, classes.as_bytes());
    writer.section(Section::ClassAtoms, <[U32]>::as_bytes(&members));
    writer.section(Section::Atoms, atoms.as_bytes());
    writer.section(Section::Groups, edges.groups.as_bytes());
    writer.section(Section::Edges, edges.edges.as_bytes());
    writer.section(Section::SourceNodes, edges.sources.nets.nodes.as_bytes());
    writer.section(Section::SourceV4, edges.sources.nets.v4.as_bytes());
    writer.section(Section::SourceV6, edges.sources.nets.v6.as_bytes());
    writer.section(Section::Identities, edges.sources.identities.as_bytes());
    writer.section(Section::IdentityTexts, &edges.sources.texts);
    writer.section(Section::Whos, edges.sources.whos.as_bytes());
    writer.section(Section::Pairs, edges.sources.pairs.as_bytes());
    writer.section(Section::Users, users.records.as_bytes());
    writer.section(Section::UserTexts, &users.texts);
    writer.section(Section::NetNodes, nets.nodes.as_bytes());
    writer.section(Section::NetV4, nets.v4.as_bytes());
    writer.section(Section::NetV6, nets.v6.as_bytes());
    writer.section(Section::AddressSets, sets.as_bytes());
    writer.section(Section::AddressRanges, ranges.as_bytes());
    Ok(writer.finish(digest, seed, names.max_probe(), names.count))
}

fn record(
    rule: &Rule,
    document: &Document,
    texts: &mut Texts,
    dials: &mut Vec<Text>,
) -> RuleRecord {
    let mut flags = 0;
    for (flag, set) in [
        (rule_flag::DENY, rule.deny),
        (rule_flag::AUDIT, audited(rule, document)),
        (rule_flag::SNI_ANY, rule.sni == Sni::Any),
        (rule_flag::ORIGINAL, rule.dial.as_deref() == Some(ORIGINAL)),
        (rule_flag::SEND_NO_PROXY, rule.send_proxy == Some(Sends::Off)),
        (rule_flag::SEND_PROXY_V1, rule.send_proxy == Some(Sends::V1)),
        (rule_flag::SEND_PROXY_V2, rule.send_proxy == Some(Sends::V2)),
    ] {
        flags |= if set { flag } else { 0 };
    }
    flags |= rule.on_deny.map_or(0, rule_flag::on_deny);
    let dial = rule.dial.as_deref().filter(|dial| parse_authority(dial.as_bytes()).is_ok()).map_or(
        NONE,
        |dial| {
            dials.push(texts.add(dial));
            dials.len() as u32 - 1
        },
    );
    RuleRecord {
        name: texts.add(&rule.name),
        file: texts.add(&rule.file),
        owner: texts.optional(rule.owner.as_deref()),
        why: texts.optional(rule.why.as_deref()),
        message: texts.optional(rule.message.as_deref()),
        until: rule.until.unwrap_or(u64::MAX).into(),
        line: rule.line.into(),
        flags: flags.into(),
        max_connections: rule.connections.max.unwrap_or(NONE).into(),
        new_per_second: rule.connections.new_per_second.unwrap_or(NONE).into(),
        dial: dial.into(),
    }
}

/// Sets of networks as sorted ranges that do not touch.
fn address_sets(sets: &[Vec<IpNet>]) -> (Vec<AddressSet>, Vec<AddressRange>) {
    let (mut spans, mut ranges) = (Vec::with_capacity(sets.len()), Vec::new());
    for nets in sets {
        let first = ranges.len();
        for net in IpNet::aggregate(nets) {
            ranges.push(AddressRange {
                family: if net.addr().is_ipv4() { 4 } else { 6 },
                first: key(net.network()).to_be_bytes(),
                last: key(net.broadcast()).to_be_bytes(),
            });
        }
        ranges[first..].sort_unstable();
        spans.push(AddressSet {
            first: (first as u32).into(),
            count: ((ranges.len() - first) as u32).into(),
        });
    }
    (spans, ranges)
}
