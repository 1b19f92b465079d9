//! A compiled policy, ready to judge: bytes that were checked once, and typed views of them.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use egress_hello::name::{Host, parse_authority};
use serde::{Deserialize, Serialize};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::budgets::{self, Budget};
use crate::connections::{Bounds, Connections, Further};
use crate::document;
use crate::flat::*;
use crate::identities::Shown;
use crate::names::Names;
use crate::nets::Nets;
use crate::on_deny::OnDeny;
use crate::problem::Problems;
use crate::proxied::Sends;
use crate::settings::{Settings, printable};
use crate::shaping::Shaping;

/// A rule's place in the document, and in its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

/// What a source means to one snapshot; not to be used with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceClass {
    /// The narrowest network.
    pub(crate) net: u32,
    pub(crate) shown: Shown,
}

/// What a rule says of how its flows are carried: all that a connection needs of it.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Dialled instead of the destination itself. The addresses of a name given here are screened like
    /// those of any other name; an address given here was chosen by the rule's author.
    pub dial: Option<&'a (Host, u16)>,
    /// The SNI inside a CONNECT tunnel may differ from the CONNECT host.
    pub sni_any: bool,
    /// A captured flow goes to the address that it was captured on its way to, if that is one of its name's.
    pub original: bool,
    /// The PROXY header that the destination is sent; `None`: as the listener says.
    pub sends: Option<Sends>,
}

/// The terms and the description of a rule.
#[derive(Debug, Clone, Copy)]
pub struct RuleView<'a> {
    pub name: &'a str,
    pub file: &'a str,
    pub line: u32,
    pub owner: Option<&'a str>,
    pub why: Option<&'a str>,
    /// The rule's own message, else the default's.
    pub message: &'a str,
    /// Its own, else the default's.
    pub on_deny: OnDeny,
    pub terms: Terms<'a>,
    pub connections: Connections,
    pub deny: bool,
    /// Its mode in force is audit.
    pub audit: bool,
    /// Unix seconds from which on it no longer applies.
    pub until: Option<u64>,
}

/// Why bytes are not a snapshot that can be used. Compile the policy again with this build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotError {
    /// Too short for a header, or other first bytes.
    NotASnapshot,
    /// Written by a build with another layout.
    Format(u32),
    /// The length differs from the one in the header.
    Length,
    /// The bytes were damaged.
    Checksum,
    /// The section named does not hold together.
    Layout(&'static str),
    Settings(String),
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotASnapshot => f.write_str("not a policy snapshot"),
            Self::Format(found) => {
                write!(f, "snapshot of format {found}; this build reads {FORMAT}")
            }
            Self::Length => f.write_str("the snapshot was cut or extended"),
            Self::Checksum => f.write_str("the snapshot is damaged (checksum)"),
            Self::Layout(section) => write!(f, "the snapshot's {section} do not hold together"),
            Self::Settings(why) => write!(f, "the snapshot's settings: {why}"),
        }
    }
}

impl std::error::Error for SnapshotError {}

/// The JSON section.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub settings: document::Settings,
    pub default: document::Fallback,
    #[serde(default)]
    pub shaping: Shaping,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connections: Vec<Further>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<budgets::OfRule>,
}

/// One immutable compiled policy.
pub struct Snapshot {
    bytes: Box<dyn AsRef<[u8]> + Send + Sync>,
    sections: [Range<usize>; SECTIONS],
    pub(crate) seed: u64,
    max_probe: u32,
    name_count: u32,
    digest: [u8; 32],
    settings: Settings,
    pub(crate) fallback: document::Fallback,
    dials: Vec<(Host, u16)>,
    shaping: Shaping,
    /// By rule: the place of its class.
    class_of: HashMap<u32, u32>,
    /// By rule.
    further: HashMap<u32, Further>,
    /// By rule.
    budgets: HashMap<u32, Budget>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("digest", &self.digest())
            .field("rules", &self.rule_count())
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Checks everything that later look-ups rely on, once, in time linear in the size.
    ///
    /// # Errors
    /// When the bytes are not a whole snapshot of this build's format.
    pub fn open(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Self, SnapshotError> {
        let all = bytes.as_ref();
        let (header, _) = Header::ref_from_prefix(all).map_err(|_| SnapshotError::NotASnapshot)?;
        if header.magic != MAGIC {
            return Err(SnapshotError::NotASnapshot);
        }
        if header.format.get() != FORMAT {
            return Err(SnapshotError::Format(header.format.get()));
        }
        if header.header_len.get() as usize != size_of::<Header>()
            || header.total_len.get() != all.len() as u64
        {
            return Err(SnapshotError::Length);
        }
        if header.checksum.get() != checksum(all.get(CHECKED_FROM..).unwrap_or_default()) {
            return Err(SnapshotError::Checksum);
        }
        let mut sections = [const { 0..0 }; SECTIONS];
        for (range, span) in sections.iter_mut().zip(&header.sections) {
            let end =
                span.at.get().checked_add(span.len.get()).filter(|end| *end <= all.len() as u64);
            *range = span.at.get() as usize..end.ok_or(SnapshotError::Layout("sections"))? as usize;
        }
        let stored: Stored =
            serde_json::from_slice(&all[sections[Section::Settings as usize].clone()])
                .map_err(|error| SnapshotError::Settings(printable(&error.to_string())))?;
        let mut problems = Problems::default();
        let settings = Settings::check(&stored.settings, &mut problems);
        problems.into_result().map_err(|found| {
            SnapshotError::Settings(found.first().map(ToString::to_string).unwrap_or_default())
        })?;
        let mut snapshot = Self {
            seed: header.seed.get(),
            max_probe: header.max_probe.get(),
            name_count: header.name_count.get(),
            digest: header.digest,
            sections,
            settings,
            fallback: stored.default,
            dials: Vec::new(),
            class_of: (0..).zip(&stored.shaping.classes).map(|(at, one)| (one.rule, at)).collect(),
            further: stored.connections.into_iter().map(|one| (one.rule, one)).collect(),
            shaping: stored.shaping,
            budgets: budgets::by_rule(stored.budgets),
            bytes: Box::new(bytes),
        };
        crate::verify::verify(&snapshot)?;
        snapshot.dials = snapshot
            .section::<Text>(Section::Dials)
            .iter()
            .map(|text| parse_authority(snapshot.text(*text).as_bytes()))
            .collect::<Result<_, _>>()
            .map_err(|_| SnapshotError::Layout("dials"))?;
        Ok(snapshot)
    }

    /// Listeners, timeouts, the resolver.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Links and the classes that share them.
    pub fn shaping(&self) -> &Shaping {
        &self.shaping
    }

    pub(crate) fn further(&self) -> impl Iterator<Item = &Further> {
        self.further.values()
    }

    /// The place of a rule's class in [`Shaping::classes`].
    #[inline]
    pub fn class_of(&self, id: RuleId) -> Option<u32> {
        if self.class_of.is_empty() { None } else { self.class_of.get(&id.0).copied() }
    }

    /// Rules with a budget.
    pub fn budgets(&self) -> impl Iterator<Item = (RuleId, &Budget)> {
        self.budgets.iter().map(|(rule, budget)| (RuleId(*rule), budget))
    }

    /// Of bytes that nobody has compiled.
    pub(crate) fn budgets_hold(&self) -> bool {
        let rules = self.rule_count();
        let good = |(&rule, budget): (&u32, &Budget)| {
            budgets::OfRule { rule, budget: *budget }.holds(rules)
        };
        self.budgets.iter().all(good)
            && (self.budgets.is_empty() || self.settings.budgets.is_some())
    }

    /// SHA-256 of everything that the policy was compiled from, as 64 hexadecimal digits: the same
    /// inputs have the same digest, though two compilations differ in their hash seed.
    pub fn digest(&self) -> String {
        self.digest.iter().fold(String::with_capacity(64), |mut text, byte| {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
            }
            text
        })
    }

    pub fn rule_count(&self) -> usize {
        self.rules().len()
    }

    /// Distinct names that patterns and lists hold.
    pub fn name_count(&self) -> usize {
        self.name_count as usize
    }

    /// Bytes of the snapshot.
    pub fn size(&self) -> usize {
        self.all().len()
    }

    /// The rule at a place in the document; `None` past the last one.
    pub fn rule(&self, id: RuleId) -> Option<RuleView<'_>> {
        let record = self.rules().get(id.0 as usize)?;
        let flag = |flag| record.flags.get() & flag != 0;
        let number = |value: U32| Some(value.get()).filter(|value| *value != NONE);
        let further = self.further.get(&id.0);
        Some(RuleView {
            name: self.text(record.name),
            file: self.text(record.file),
            line: record.line.get(),
            owner: self.optional(record.owner),
            why: self.optional(record.why),
            message: self.optional(record.message).unwrap_or(&self.fallback.message),
            on_deny: OnDeny::ALL
                .into_iter()
                .find(|own| flag(rule_flag::on_deny(*own)))
                .unwrap_or(self.fallback.on_deny),
            terms: self.terms(id)?,
            connections: Connections {
                all: Bounds {
                    max: number(record.max_connections),
                    new_per_second: number(record.new_per_second),
                    burst: further.and_then(|further| further.burst),
                },
                each: further.map_or_else(Bounds::default, |further| further.each),
                wait_ms: further.map_or(0, |further| further.wait_ms),
            },
            deny: flag(rule_flag::DENY),
            audit: flag(rule_flag::AUDIT),
            until: Some(record.until.get()).filter(|until| *until != u64::MAX),
        })
    }

    /// The terms alone, which cost nothing to read.
    #[inline]
    pub fn terms(&self, id: RuleId) -> Option<Terms<'_>> {
        let record = self.rules().get(id.0 as usize)?;
        let flag = |flag| record.flags.get() & flag != 0;
        let sends = [
            (rule_flag::SEND_NO_PROXY, Sends::Off),
            (rule_flag::SEND_PROXY_V1, Sends::V1),
            (rule_flag::SEND_PROXY_V2, Sends::V2),
        ];
        Some(Terms {
            dial: self.dials.get(record.dial.get() as usize),
            sni_any: flag(rule_flag::SNI_ANY),
            original: flag(rule_flag::ORIGINAL),
            sends: sends.into_iter().find(|(bit, _)| flag(*bit)).map(|(_, sends)| sends),
        })
    }

    /// The rule's name and line, as its records carry them.
    #[inline]
    pub fn name_and_line(&self, id: RuleId) -> Option<(&[u8], u32)> {
        let record = self.rules().get(id.0 as usize)?;
        Some((self.text_bytes(record.name), record.line.get()))
    }

    /// The template for refusals that no rule made.
    pub fn default_message(&self) -> &str {
        &self.fallback.message
    }

    /// How clients are told that no rule has denied.
    pub fn default_on_deny(&self) -> OnDeny {
        self.fallback.on_deny
    }

    /// The next moment (unix seconds) after `now` at which a rule ends, so that live flows can be judged again.
    pub fn next_expiry(&self, now: u64) -> Option<u64> {
        let all = self.section::<U64>(Section::Expiries);
        all.get(all.partition_point(|until| until.get() <= now)).map(|until| until.get())
    }

    fn all(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    #[inline]
    pub(crate) fn raw(&self, section: Section) -> &[u8] {
        self.all().get(self.sections[section as usize].clone()).unwrap_or_default()
    }

    /// A section as records. Empty if it is not a whole number of them, which `open` refuses.
    #[inline]
    pub(crate) fn section<T: FromBytes + KnownLayout + Immutable>(&self, section: Section) -> &[T] {
        <[T]>::ref_from_bytes(self.raw(section)).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn rules(&self) -> &[RuleRecord] {
        self.section(Section::Rules)
    }

    #[inline]
    pub(crate) fn names(&self) -> Names<'_> {
        Names {
            slots: self.section(Section::Slots),
            arena: self.raw(Section::Names),
            max_probe: self.max_probe,
        }
    }

    #[inline]
    pub(crate) fn sources(&self) -> Nets<'_> {
        Nets {
            nodes: self.section(Section::SourceNodes),
            v4: self.section(Section::SourceV4),
            v6: self.section(Section::SourceV6),
        }
    }

    #[inline]
    pub(crate) fn nets(&self) -> Nets<'_> {
        Nets {
            nodes: self.section(Section::NetNodes),
            v4: self.section(Section::NetV4),
            v6: self.section(Section::NetV6),
        }
    }

    pub(crate) fn text(&self, text: Text) -> &str {
        std::str::from_utf8(self.text_bytes(text)).unwrap_or_default()
    }

    fn text_bytes(&self, text: Text) -> &[u8] {
        let at = text.at.get() as usize;
        let bytes = self.raw(Section::Texts).get(at..at.saturating_add(text.len.get() as usize));
        bytes.unwrap_or_default()
    }

    fn optional(&self, text: Text) -> Option<&str> {
        (text.at.get() != NONE).then(|| self.text(text))
    }
}
