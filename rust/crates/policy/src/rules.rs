//! Rules, groups and lists checked, and expanded into edges: one destination, one source, one port
//! range, one rule. The snapshot is laid out from these.

use std::collections::HashMap;

use egress_hello::name::{Host, Name, parse_authority, parse_host};
use ipnet::IpNet;

use crate::document::{Document, Mode, ORIGINAL, Rule, Sni, To};
use crate::flat::{NONE, form};
use crate::from;
use crate::list::List;
use crate::message::check_template;
use crate::pattern::{
    Fault, NAME_FIX, Pattern, Ports, Target, is_wide, parse, parse_net, too_wide,
};
use crate::problem::{PathPart, Problems, nearest, place};
use crate::settings::{authority_fix, is_word, shown};
use crate::shaping::Shaping;
use crate::sources::SourcesBuilder;

/// Limits: each is far above what people write, and keeps the memory of a compilation in the hundreds of MB.
const MAX_RULES: usize = 100_000;
pub(crate) const MAX_ITEMS: usize = 10_000;
const MAX_GROUPS: usize = 10_000;
const MAX_GROUP_ITEMS: usize = 100_000;
const MAX_ADDRESSES: usize = 1_000;
/// Pairs of one destination and one source, over all rules, groups expanded.
const MAX_EDGES: usize = 2_000_000;
/// Bytes: what the flow record holds of a rule's name; owner and reason are for one line of a log.
pub(crate) const MAX_RULE_NAME: usize = 64;
const MAX_NOTE: usize = 1024;

/// A distinct destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Name(u8, Name),
    Net(IpNet),
    /// (list, form).
    List(u16, u8),
    Anywhere,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct RawEdge {
    pub atom: u32,
    /// Provisional number of the source; `NONE` = any source.
    pub source: u32,
    pub low: u16,
    pub high: u16,
    pub rule: u32,
    /// Place in the rule's `to`.
    pub item: u32,
    pub addresses: u32,
}

/// What the checks bring forth.
#[derive(Default)]
pub(crate) struct Expanded {
    pub atoms: Vec<Key>,
    atom_of: HashMap<Key, u32>,
    pub edges: Vec<RawEdge>,
    pub sources: SourcesBuilder,
    pub address_sets: Vec<Vec<IpNet>>,
    set_of: HashMap<Vec<IpNet>, u32>,
    full: bool,
    pub shaping: Shaping,
}

impl Expanded {
    pub(crate) fn atom(&mut self, key: Key) -> u32 {
        let fresh = self.atoms.len() as u32;
        let atom = *self.atom_of.entry(key.clone()).or_insert(fresh);
        if atom == fresh {
            self.atoms.push(key);
        }
        atom
    }
}

/// Names that patterns may refer to.
pub(crate) struct References<'a> {
    pub groups: HashMap<&'a str, Vec<Pattern>>,
    pub lists: HashMap<&'a str, (u16, &'a List)>,
}

impl References<'_> {
    fn unknown(&self, word: &str) -> Fault {
        let known = self.groups.keys().chain(self.lists.keys()).copied();
        let fix = match nearest(&word.to_lowercase(), known.filter(|name| is_reference(name))) {
            Some(near) => format!("write `{near}`{}", one_label(word)),
            None if is_reference(word) => {
                format!("declare it under groups or lists{}", one_label(word))
            }
            None => format!("name a group or list{}, or {NAME_FIX}", one_label(word)),
        };
        ("unknown_reference", format!("`{}` is neither a group nor a list", shown(word)), fix)
    }
}

/// What else a word without a dot can stand for.
fn one_label(word: &str) -> String {
    match parse_host(word.as_bytes()) {
        Ok(Host::Name(name)) => format!("; the host of this one label is written `{name}.`"),
        _ => String::new(),
    }
}

/// Checks the groups of a document.
pub(crate) fn groups<'a>(
    document: &'a Document,
    problems: &mut Problems,
) -> HashMap<&'a str, Vec<Pattern>> {
    let mut groups = HashMap::new();
    if document.groups.len() > MAX_GROUPS {
        problems.add(
            place!["groups"],
            "too_many",
            format!("{} groups; at most {MAX_GROUPS} are possible", document.groups.len()),
            "join groups, or put long ones into lists",
        );
        return groups;
    }
    for (name, items) in &document.groups {
        let here = || place!["groups", name.as_str()];
        check_reference_name(name, here(), problems);
        if document.lists.contains_key(name) {
            problems.add(
                here(),
                "duplicate_name",
                format!("`{}` is a group and a list", shown(name)),
                "rename one of them",
            );
        }
        if items.len() > MAX_GROUP_ITEMS {
            problems.add(
                here(),
                "too_many",
                format!(
                    "{} destinations; at most {MAX_GROUP_ITEMS} are possible in a group",
                    items.len()
                ),
                "put plain names into a list file",
            );
            continue;
        }
        let mut patterns = Vec::with_capacity(items.len());
        for (index, text) in items.iter().enumerate() {
            let parsed = parse(text, false).and_then(|pattern| match &pattern.target {
                Target::Reference(word) => Err(("nested_group", format!("a group holds names, addresses and networks; `{}` would be another group or list", shown(word)), format!("name both in the rule's `to`{}", one_label(word)))),
                _ => Ok(pattern),
            });
            match parsed {
                Ok(pattern) => patterns.push(pattern),
                Err((code, message, fix)) => {
                    problems.add(place!["groups", name.as_str(), index], code, message, fix);
                }
            }
        }
        groups.insert(name.as_str(), patterns);
    }
    groups
}

/// A name of a group or list: no host, as it has no dot.
fn is_reference(name: &str) -> bool {
    is_word(name, MAX_RULE_NAME) && !name.contains('.')
}

pub(crate) fn check_reference_name(name: &str, path: Vec<PathPart>, problems: &mut Problems) {
    if !is_reference(name) {
        problems.add(path, "bad_reference_name", format!("`{}` is not a name for a group, a list or a link", shown(name)), format!("use 1 to {MAX_RULE_NAME} of a-z 0-9 _ -, beginning with a letter or digit, without a dot, so that no host can be meant"));
    }
}

/// Checks all rules and expands them.
pub(crate) fn expand(
    document: &Document,
    references: &References<'_>,
    problems: &mut Problems,
) -> Expanded {
    let mut out = Expanded::default();
    if document.rules.len() > MAX_RULES {
        problems.add(
            place!["rules"],
            "too_many",
            format!("{} rules; at most {MAX_RULES} are possible", document.rules.len()),
            "use groups and lists for rules with the same terms",
        );
        return out;
    }
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (index, rule) in document.rules.iter().enumerate() {
        check_texts(rule, index, problems);
        if let Some(first) = seen.get(rule.name.as_str()) {
            let other = &document.rules[*first];
            problems.add(
                place!["rules", index, "name"],
                "duplicate_rule",
                format!(
                    "`{}` ({}:{}) is already the name of the rule at {}:{}",
                    shown(&rule.name),
                    shown(&rule.file),
                    rule.line,
                    shown(&other.file),
                    other.line
                ),
                "give each rule its own name",
            );
        } else {
            seen.insert(&rule.name, index);
        }
        let sources = from::sources(rule, index, &mut out.sources, problems);
        expand_rule(rule, index, &sources, references, &mut out, problems);
    }
    out
}

fn check_texts(rule: &Rule, index: usize, problems: &mut Problems) {
    let at = |key: &str| place!["rules", index, key];
    if !is_word(&rule.name, MAX_RULE_NAME) {
        problems.add(
            at("name"),
            "bad_rule_name",
            format!("`{}` is not a rule name", shown(&rule.name)),
            format!("use 1 to {MAX_RULE_NAME} of a-z 0-9 . _ -, beginning with a letter or digit"),
        );
    }
    for (key, note) in [("owner", &rule.owner), ("why", &rule.why)] {
        if note.as_ref().is_some_and(|note| note.len() > MAX_NOTE) {
            problems.add(
                at(key),
                "too_long",
                format!("`{key}` has more than {MAX_NOTE} bytes"),
                "put a link",
            );
        }
    }
    if let Some(Err((message, fix))) = rule.message.as_deref().map(check_template) {
        problems.add(at("message"), "bad_message", message, fix);
    }
    if let Some(dial) = rule.dial.as_ref().filter(|dial| *dial != ORIGINAL)
        && let Err(why) = parse_authority(dial.as_bytes())
    {
        problems.add(
            at("dial"),
            "bad_dial",
            format!("`{}` cannot be dialled: {why}", shown(dial)),
            authority_fix(dial, "edge.partner.com:8443"),
        );
    }
    rule.connections.check(index, problems);
    let useless = [
        ("dial", rule.dial.is_some()),
        ("connections", rule.connections.is_given()),
        ("sni", rule.sni == Sni::Any),
        ("send_proxy", rule.send_proxy.is_some()),
        ("bandwidth", rule.bandwidth.is_some()),
        ("budget", rule.budget.is_some()),
    ];
    for (key, given) in useless {
        if rule.deny && given {
            problems.add(
                at(key),
                "deny_has_terms",
                format!("a deny rule lets nothing through, so `{key}` has no meaning"),
                format!("remove `{key}`"),
            );
        }
    }
}

fn expand_rule(
    rule: &Rule,
    index: usize,
    sources: &[u32],
    references: &References<'_>,
    out: &mut Expanded,
    problems: &mut Problems,
) {
    if rule.to.is_empty() {
        problems.add(
            place!["rules", index],
            "no_destination",
            format!("rule `{}` has no destination", shown(&rule.name)),
            "add `to:`; every destination is `to: [\"*\"]` with `anywhere: true`",
        );
    }
    if rule.to.len() > MAX_ITEMS {
        problems.add(
            place!["rules", index, "to"],
            "too_many",
            format!("{} destinations; at most {MAX_ITEMS} are possible in a rule", rule.to.len()),
            "use a group or a list",
        );
        return;
    }
    let default = if rule.deny { Ports::ANY } else { Ports::HTTPS };
    for (item, to) in rule.to.iter().enumerate() {
        let here = place!["rules", index, "to", item];
        let (pattern, addresses) = match read_item(to, rule, &here, out, problems) {
            Ok(read) => read,
            Err((code, message, fix)) => {
                problems.add(here, code, message, fix);
                continue;
            }
        };
        let ports = pattern.ports;
        let mut add = |out: &mut Expanded, key: Key, ports: Ports| {
            let atom = out.atom(key);
            let edge = |source| RawEdge {
                atom,
                source,
                low: ports.low,
                high: ports.high,
                rule: index as u32,
                item: item as u32,
                addresses,
            };
            if out.edges.len() + sources.len() <= MAX_EDGES {
                out.edges.extend(sources.iter().map(|source| edge(*source)));
            } else if !std::mem::replace(&mut out.full, true) {
                problems.add(place!["rules", index], "too_many", format!("the rules up to this one pair more than {MAX_EDGES} destinations and sources"), "use list files for names, and wider networks for sources");
            }
        };
        let mut wide: Vec<(String, String)> = Vec::new();
        match &pattern.target {
            Target::Reference(word) => {
                match (references.groups.get(word.as_str()), references.lists.get(word.as_str())) {
                    (Some(group), _) => {
                        for member in group {
                            wide.extend(too_wide(&member.target));
                            if let Some(key) = key_of(&member.target) {
                                add(out, key, member.ports.or(ports).unwrap_or(default));
                            }
                        }
                    }
                    (_, Some((number, list))) => {
                        let told = |(line, text): &(usize, String)| {
                            (
                                format!(
                                    "line {line} of list `{word}`, `{}`, covers a public suffix",
                                    shown(text)
                                ),
                                "remove the line, or say `anywhere: true` if you mean it"
                                    .to_owned(),
                            )
                        };
                        wide.extend(list.wide.iter().map(told));
                        for form in
                            (form::EXACT..=form::TREE).filter(|form| list.forms[usize::from(*form)])
                        {
                            add(out, Key::List(*number, form), ports.unwrap_or(default));
                        }
                    }
                    (None, None) => {
                        let (code, message, fix) = references.unknown(word);
                        problems.add(here, code, message, fix);
                        continue;
                    }
                }
            }
            target => {
                wide.extend(too_wide(target));
                if let Some(key) = key_of(target) {
                    add(out, key, ports.unwrap_or(default));
                }
            }
        }
        if !rule.anywhere {
            for (message, fix) in wide {
                problems.add(here.clone(), "too_wide", message, fix);
            }
        }
    }
}

fn key_of(target: &Target) -> Option<Key> {
    match target {
        Target::Name(form, name) => Some(Key::Name(*form, name.clone())),
        Target::Net(net) => Some(Key::Net(*net)),
        Target::Anywhere => Some(Key::Anywhere),
        Target::Reference(_) => None,
    }
}

/// Reads an item of `to` and the set of its `addresses`.
fn read_item(
    to: &To,
    rule: &Rule,
    here: &[PathPart],
    out: &mut Expanded,
    problems: &mut Problems,
) -> Result<(Pattern, u32), Fault> {
    let (text, addresses) = match (&to.pattern, &to.name, &to.addresses) {
        (Some(pattern), None, None) => return Ok((parse(pattern, false)?, NONE)),
        (None, Some(name), addresses) => (name, addresses),
        _ => {
            return Err((
                "bad_destination",
                "a destination is either a pattern, or a name with addresses".into(),
                "write { name: artifacts.corp, addresses: [10.2.0.0/16] }".into(),
            ));
        }
    };
    let pattern = parse(text, true)?;
    if !matches!(pattern.target, Target::Name(..)) {
        return Err((
            "bad_name",
            format!("`{}` is not a name, so `addresses` has no meaning beside it", shown(text)),
            match pattern.target {
                Target::Net(_) => format!("write {} itself in `to`", shown(text)),
                _ => "write the name that resolves to these addresses".into(),
            },
        ));
    }
    let Some(addresses) = addresses else { return Ok((pattern, NONE)) };
    if rule.deny {
        return Err((
            "deny_has_terms",
            format!(
                "a deny rule lets nothing through, so the `addresses` of `{}` have no meaning",
                shown(text)
            ),
            format!("write {} alone", shown(text)),
        ));
    }
    if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
        return Err((
            "bad_addresses",
            format!(
                "the `addresses` of `{}` hold {} networks; 1 to {MAX_ADDRESSES} are possible",
                shown(text),
                addresses.len()
            ),
            if addresses.is_empty() {
                "leave `addresses` out to take every public address".into()
            } else {
                "write fewer, wider networks".into()
            },
        ));
    }
    let mut nets = Vec::with_capacity(addresses.len());
    for (position, text) in addresses.iter().enumerate() {
        let net = parse_net(text).and_then(|net| match is_wide(&net) {
            true => Err((
                "too_wide",
                format!("`{net}` is a large part of the Internet"),
                "leave `addresses` out to take every public address".to_owned(),
            )),
            false => Ok(net),
        });
        match net {
            Ok(net) => nets.push(net),
            Err((code, message, fix)) => {
                let path = here.iter().cloned().chain(place!["addresses", position]).collect();
                problems.add(path, code, message, fix);
            }
        }
    }
    nets.sort_unstable();
    nets.dedup();
    let fresh = out.address_sets.len() as u32;
    let set = *out.set_of.entry(nets.clone()).or_insert(fresh);
    if set == fresh {
        out.address_sets.push(nets);
    }
    Ok((pattern, set))
}

/// The mode in force of a rule.
pub(crate) fn audited(rule: &Rule, document: &Document) -> bool {
    rule.mode.unwrap_or(document.default.mode) == Mode::Audit
}
