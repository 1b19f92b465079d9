//! The nearest miss of a flow that no rule speaks of: what the author, or the caller, probably meant.

use std::net::IpAddr;

use egress_hello::name::Host;
use zerocopy::little_endian::U32;

use crate::flat::*;
use crate::names::Suffixes;
use crate::nets::{ANY, key};
use crate::pattern::{Ports, is_public_suffix};
use crate::problem::edit_distance;
use crate::snapshot::{RuleId, RuleView, Snapshot};
use crate::source::Source;

/// Names (or networks) that are compared one by one; with more, only probes of the table are made.
const MAX_SCAN: usize = 20_000;
/// Edges of one destination that are looked at.
const MAX_EDGES: usize = 10_000;
/// Letters that a typing error puts into names.
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789-.";

/// A destination that some rule speaks of, as it is written.
#[derive(Debug, Clone)]
pub(crate) struct Matched {
    pub atom: u32,
    pub text: String,
}

impl Snapshot {
    /// For a flow that the default denies: the rule that came closest, and what it lacks. Costs
    /// microseconds for a destination that rules speak of, up to milliseconds for a typing error.
    pub fn nearest_miss<'s>(
        &self,
        source: impl Into<Source<'s>>,
        host: &Host,
        port: u16,
        now: u64,
    ) -> Option<String> {
        let source = source.into();
        self.near_terms(&self.matched(host), source, port, now).or_else(|| match host {
            Host::Name(name) => {
                self.near_form(name.as_bytes()).or_else(|| self.near_name(name.as_bytes()))
            }
            Host::Ip(ip) => self.near_network(ip.to_canonical()),
        })
    }

    /// Every destination that holds `host`, most specific first.
    pub(crate) fn matched(&self, host: &Host) -> Vec<Matched> {
        let mut out = Vec::new();
        match host {
            Host::Name(name) => {
                let name = name.as_bytes();
                let mut found: Vec<(usize, u32)> = self.suffixes(name).collect();
                found.reverse();
                for (start, class) in found {
                    let not = if start == 0 { form::BELOW } else { form::EXACT };
                    let atoms = self.members(class).iter().map(|atom| atom.get());
                    out.extend(
                        atoms
                            .filter(|atom| self.form(*atom) != Some(not))
                            .map(|atom| Matched { atom, text: self.written(atom, &name[start..]) }),
                    );
                }
            }
            Host::Ip(ip) => {
                let nets = self.nets();
                for node in nets.chain(nets.narrowest(*ip)).take_while(|node| *node != ANY) {
                    let Some(record) = nets.nodes.get(node as usize) else { continue };
                    let text = nets.network(node).map_or_else(String::new, |net| net.to_string());
                    out.push(Matched { atom: record.atom.get(), text });
                }
            }
        }
        out.extend(self.anywhere().map(|atom| Matched { atom, text: "*".to_owned() }));
        out
    }

    /// The destinations that hold a name, most specific first, `*` included.
    pub(crate) fn atoms_of_name(&self, name: &[u8]) -> Vec<u32> {
        let mut found: Vec<(usize, u32)> = self.suffixes(name).collect();
        found.reverse();
        let members = |(start, class): &(usize, u32)| {
            let not = if *start == 0 { form::BELOW } else { form::EXACT };
            let atoms = self.members(*class).iter().map(|atom| atom.get());
            atoms.filter(move |atom| self.form(*atom) != Some(not))
        };
        found.iter().flat_map(members).chain(self.anywhere()).collect()
    }

    /// The destination `*`, where rules speak of it.
    fn anywhere(&self) -> Option<u32> {
        self.nets().nodes.first().map(|root| root.atom.get()).filter(|atom| *atom != NONE)
    }

    /// (where it begins, class) of each suffix of `name` that the table holds, shortest first.
    fn suffixes<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        let names = self.names();
        Suffixes::new(name, self.seed)
            .filter_map(move |(hash, start)| Some((start, names.find(hash, &name[start..])?)))
    }

    fn members(&self, class: u32) -> &[U32] {
        let Some(class) = self.section::<Class>(Section::Classes).get(class as usize) else {
            return &[];
        };
        let first = class.first.get() as usize;
        self.section::<U32>(Section::ClassAtoms)
            .get(first..first.saturating_add(class.count.get() as usize))
            .unwrap_or_default()
    }

    fn atom(&self, atom: u32) -> Option<&Atom> {
        self.section::<Atom>(Section::Atoms).get(atom as usize)
    }

    fn form(&self, atom: u32) -> Option<u8> {
        self.atom(atom).map(|atom| atom.form)
    }

    fn written(&self, atom: u32, name: &[u8]) -> String {
        let Some(record) = self.atom(atom) else { return String::new() };
        let prefix = match record.form {
            form::BELOW => "*.",
            form::TREE => ".",
            _ => "",
        };
        let name = String::from_utf8_lossy(name);
        match self.section::<Text>(Section::Lists).get(usize::from(record.list.get())) {
            Some(list) => format!("{prefix}{name} (list {})", self.text(*list)),
            None => format!("{prefix}{name}"),
        }
    }

    /// The edges of a destination with their groups, as they lie: by source, denies first.
    pub(crate) fn edges_of(&self, atom: u32) -> impl Iterator<Item = (&Group, &Edge)> {
        let (first, count) = self
            .atom(atom)
            .map_or((0, 0), |atom| (atom.first_group.get() as usize, atom.groups.get() as usize));
        let groups = self
            .section::<Group>(Section::Groups)
            .get(first..first.saturating_add(count))
            .unwrap_or_default();
        let edges = self.section::<Edge>(Section::Edges);
        let of = move |group: &'_ Group| {
            let (first, denies) = (group.first.get() as usize, group.denies.get() as usize);
            first..first.saturating_add(denies).saturating_add(group.allows.get() as usize)
        };
        groups
            .iter()
            .flat_map(move |group| {
                edges.get(of(group)).unwrap_or_default().iter().map(move |edge| (group, edge))
            })
            .take(MAX_EDGES)
    }

    fn allows_of(&self, atom: u32) -> impl Iterator<Item = (&Group, &Edge, RuleView<'_>)> {
        self.edges_of(atom).filter_map(|(group, edge)| {
            let rule = self.rule(RuleId(edge.rule.get())).filter(|rule| !rule.deny)?;
            Some((group, edge, rule))
        })
    }

    /// The destination is right; port, source or time are not.
    fn near_terms(
        &self,
        matched: &[Matched],
        source: Source<'_>,
        port: u16,
        now: u64,
    ) -> Option<String> {
        let sources = self.holding(self.source(source));
        let mut best: Option<(u32, String)> = None;
        for matched in matched {
            for (group, edge, rule) in self.allows_of(matched.atom) {
                let ports = Ports { low: edge.low.get(), high: edge.high.get() };
                let from = sources.contains(&group.source.get());
                let on = (ports.low..=ports.high).contains(&port);
                let ended = rule.until.is_some_and(|until| until <= now);
                let what = format!(
                    "rule {} ({}:{}) allows {} on {ports}",
                    rule.name, rule.file, rule.line, matched.text
                );
                let only = || self.source_words(group.source.get());
                let (distance, text) = match (from, on, ended) {
                    (true, true, true) => (0, format!("{what}, but has ended (until)")),
                    (true, true, false) => continue,
                    (true, false, _) => (1, format!("{what}, but not on {port}")),
                    (false, true, _) => {
                        (2, format!("{what}, but not for source {source}, only {}", only()))
                    }
                    (false, false, _) => (
                        3,
                        format!(
                            "{what}, but not on {port}, and not for source {source}, only {}",
                            only()
                        ),
                    ),
                };
                if best.as_ref().is_none_or(|(least, _)| distance < *least) {
                    best = Some((distance, text));
                }
            }
        }
        best.map(|(_, text)| text)
    }

    /// The name is there, in a form that does not hold this one.
    fn near_form(&self, name: &[u8]) -> Option<String> {
        let mut found: Vec<(usize, u32)> = self.suffixes(name).collect();
        found.reverse();
        for (start, class) in found {
            let missing = if start == 0 { form::BELOW } else { form::EXACT };
            for atom in self
                .members(class)
                .iter()
                .map(|atom| atom.get())
                .filter(|atom| self.form(*atom) == Some(missing))
            {
                let Some((.., rule)) = self.allows_of(atom).next() else { continue };
                let bare = String::from_utf8_lossy(&name[start..]).into_owned();
                let by = format!("rule {} ({}:{})", rule.name, rule.file, rule.line);
                return Some(if start == 0 {
                    format!(
                        "{by} allows *.{bare}, which does not include {bare} itself; write .{bare}"
                    )
                } else {
                    format!(
                        "{by} allows {bare} alone, not the names below it; write .{bare} or *.{bare}"
                    )
                });
            }
        }
        None
    }

    /// Another name, by a letter or two, or under the same registered domain.
    fn near_name(&self, name: &[u8]) -> Option<String> {
        let say = |near: &[u8], how: &str| {
            let (_, class) = self.suffixes(near).last().filter(|(start, _)| *start == 0)?;
            let atom = self
                .members(class)
                .iter()
                .map(|atom| atom.get())
                .find(|atom| self.allows_of(*atom).next().is_some())?;
            let (.., rule) = self.allows_of(atom).next()?;
            Some(format!(
                "rule {} ({}:{}) allows {}, {how}",
                rule.name,
                rule.file,
                rule.line,
                self.written(atom, near)
            ))
        };
        let typo = "which differs by a letter or two";
        if let Some(found) = one_edit(name).find_map(|near| say(&near, typo)) {
            return Some(found);
        }
        let names = self.names();
        if names.slots.len() > MAX_SCAN {
            return None;
        }
        let domain = registered(name);
        let mut best: Option<(usize, &[u8])> = None;
        for slot in names.slots.iter().filter(|slot| slot.len != 0) {
            let other = names.name(slot);
            let distance = match edit_distance(name, other, 2) {
                Some(distance) if name.len() > 5 => distance,
                _ if domain.is_some_and(|domain| registered(other) == Some(domain)) => 3,
                _ => continue,
            };
            let better = best.is_none_or(|(least, word)| (distance, other) < (least, word));
            if better && say(other, "").is_some() {
                best = Some((distance, other));
            }
        }
        let (distance, near) = best?;
        say(near, if distance < 3 { typo } else { "which is under the same domain" })
    }

    /// The network that shares the most bits with `ip`.
    fn near_network(&self, ip: IpAddr) -> Option<String> {
        let nets = self.nets();
        if nets.nodes.len() > MAX_SCAN {
            return None;
        }
        // Fewer bits in common than these, and nobody would call it near.
        let (least, unused) = if ip.is_ipv4() { (8, 96) } else { (24, 0) };
        let mut best: Option<(u32, String)> = None;
        for node in 1..nets.nodes.len() as u32 {
            let Some(net) = nets.network(node).filter(|net| net.addr().is_ipv4() == ip.is_ipv4())
            else {
                continue;
            };
            let shared = (key(net.network()) ^ key(ip)).leading_zeros() - unused;
            if shared < least || best.as_ref().is_some_and(|(most, _)| shared <= *most) {
                continue;
            }
            let Some((.., rule)) = nets
                .nodes
                .get(node as usize)
                .and_then(|node| self.allows_of(node.atom.get()).next())
            else {
                continue;
            };
            best = Some((
                shared,
                format!(
                    "rule {} ({}:{}) allows {net}, which does not hold {ip}",
                    rule.name, rule.file, rule.line
                ),
            ));
        }
        best.map(|(_, text)| text)
    }
}

/// The domain that somebody registered: one label more than the public suffix.
fn registered(name: &[u8]) -> Option<&[u8]> {
    let text = std::str::from_utf8(name).ok()?;
    let mut rest = text;
    while let Some((_, parent)) = rest.split_once('.') {
        if is_public_suffix(parent) || !parent.contains('.') {
            return Some(rest.as_bytes());
        }
        rest = parent;
    }
    None
}

/// Every word that one insertion, deletion, replacement or swap makes of `name`: as many probes as
/// letters, however many names there are.
fn one_edit(name: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let swaps = (1..name.len()).map(|at| {
        let mut word = name.to_vec();
        word.swap(at - 1, at);
        word
    });
    let cuts = (0..name.len()).map(|at| [&name[..at], &name[at + 1..]].concat());
    let replaced = (0..name.len()).flat_map(move |at| {
        LETTERS.iter().map(move |letter| [&name[..at], &[*letter], &name[at + 1..]].concat())
    });
    let inserted = (0..=name.len()).flat_map(move |at| {
        LETTERS.iter().map(move |letter| [&name[..at], &[*letter], &name[at..]].concat())
    });
    swaps.chain(cuts).chain(replaced).chain(inserted)
}
