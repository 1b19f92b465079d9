//! Which sources hold for a caller that has shown more than its address. All of them are found before the destinations
//! are walked, most specific first: certificate over user over TLV over mere evidence over network.

use ipnet::IpNet;

use crate::flat::*;
use crate::snapshot::{Snapshot, SourceClass};
use crate::source::Source;
use crate::vocab::Evidence;

/// What the identities of a caller are to one snapshot: places in [`Section::Identities`], or [`NONE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Shown {
    spiffe: u32,
    /// The longest prefix of the SPIFFE ID.
    below: u32,
    user: u32,
    tlv: u32,
    evidence: Evidence,
}

impl Shown {
    pub(crate) const NOTHING: Self =
        Self { spiffe: NONE, below: NONE, user: NONE, tlv: NONE, evidence: Evidence::Address };
}

impl SourceClass {
    /// Only the address is known, or all that matters.
    #[inline]
    pub(crate) fn is_plain(self) -> bool {
        self.shown.evidence == Evidence::Address
    }
}

/// The identities of a snapshot, sorted by kind and text.
#[derive(Clone, Copy)]
struct Identities<'a> {
    all: &'a [IdentityRecord],
    texts: &'a [u8],
}

impl<'a> Identities<'a> {
    fn text(&self, record: &IdentityRecord) -> &'a [u8] {
        let at = record.text.at.get() as usize;
        self.texts.get(at..at.saturating_add(record.text.len.get() as usize)).unwrap_or_default()
    }

    /// How many come before `(kind, text)`.
    fn before(&self, kind: u8, text: &[u8]) -> usize {
        self.all.partition_point(|record| (record.kind, self.text(record)) < (kind, text))
    }

    fn find(&self, kind: u8, text: Option<&[u8]>) -> u32 {
        let Some(text) = text else { return NONE };
        let at = self.before(kind, text);
        let found =
            self.all.get(at).filter(|record| record.kind == kind && self.text(record) == text);
        found.map_or(NONE, |_| at as u32)
    }

    /// The longest prefix of `id`. In the order of texts, between a prefix and what it holds lies only what it holds: so
    /// the nearest one before `id` is that prefix, or below it.
    fn below(&self, id: Option<&[u8]>) -> u32 {
        let Some(id) = id else { return NONE };
        let mut at = self.before(identity_kind::SPIFFE_BELOW, id).checked_sub(1);
        while let Some(index) = at {
            let Some(record) = self.all.get(index) else { return NONE };
            if record.kind != identity_kind::SPIFFE_BELOW {
                return NONE;
            }
            if id.starts_with(self.text(record)) {
                return index as u32;
            }
            // Each parent is an earlier one, so the walk ends.
            at = Some(record.parent.get() as usize).filter(|parent| *parent < index);
        }
        NONE
    }
}

impl Snapshot {
    fn identities(&self) -> Identities<'_> {
        Identities {
            all: self.section(Section::Identities),
            texts: self.raw(Section::IdentityTexts),
        }
    }

    /// What decisions need to know about a source: look it up once per decision, as it holds for one snapshot only.
    pub fn source<'s>(&self, source: impl Into<Source<'s>>) -> SourceClass {
        let source = source.into();
        let net = self.sources().narrowest(source.ip);
        let demanding = !self.section::<WhoRecord>(Section::Whos).is_empty();
        if !demanding || source.evidence == Evidence::Address {
            return SourceClass { net, shown: Shown::NOTHING };
        }
        let all = self.identities();
        let spiffe = source.identity.and_then(|identity| identity.spiffe()).map(str::as_bytes);
        let shown = Shown {
            spiffe: all.find(identity_kind::SPIFFE, spiffe),
            below: all.below(spiffe),
            user: all
                .find(identity_kind::USER, source.identity.and_then(|identity| identity.user())),
            tlv: all.find(identity_kind::TLV, source.identity.and_then(|identity| identity.tlv())),
            evidence: source.evidence,
        };
        SourceClass { net, shown }
    }

    /// The sources beyond networks that hold for `class`, most specific first. As many steps as the policy nests SPIFFE
    /// prefixes and networks, however many rules there are; none for who has shown an address alone.
    pub(crate) fn demanding(&self, class: SourceClass) -> Vec<u32> {
        let shown = class.shown;
        let mut found = Vec::new();
        if class.is_plain() {
            return found;
        }
        let whos = self.section::<WhoRecord>(Section::Whos);
        let pairs = self.section::<PairRecord>(Section::Pairs);
        let nets = self.sources();
        let identities = self.section::<IdentityRecord>(Section::Identities);
        let evidences = Evidence::WORDS.iter().rev().map(|(number, _)| u32::from(*number));
        let evidences = evidences.filter(|number| *number <= shown.evidence as u32);
        let maybe =
            |identity: u32| [identity, NONE].into_iter().skip(usize::from(identity == NONE));
        let prefixes = std::iter::successors(Some(shown.below), |at| {
            identities.get(*at as usize).map(|record| record.parent.get()).filter(|next| next < at)
        });
        let prefixes = prefixes.take_while(|at| *at != NONE);
        let exact = Some(shown.spiffe).filter(|at| *at != NONE);
        for spiffe in exact.into_iter().chain(prefixes).chain([NONE]) {
            for user in maybe(shown.user) {
                for tlv in maybe(shown.tlv) {
                    for evidence in evidences.clone() {
                        let key = (spiffe, user, tlv, evidence);
                        let Ok(at) = whos.binary_search_by_key(&key, WhoRecord::key) else {
                            continue;
                        };
                        let first = whos[at].first.get() as usize;
                        let of = first..first.saturating_add(whos[at].count.get() as usize);
                        let Some(of) = pairs.get(of) else { continue };
                        let numbers = nets.nodes.len() + first;
                        found.extend(nets.chain(class.net).filter_map(|net| {
                            let at = of.binary_search_by_key(&net, |pair| pair.net.get()).ok()?;
                            Some((numbers + at) as u32)
                        }));
                    }
                }
            }
        }
        found
    }

    /// All sources that hold for `class`, most specific first.
    pub(crate) fn holding(&self, class: SourceClass) -> Vec<u32> {
        let mut all = self.demanding(class);
        all.extend(self.sources().chain(class.net));
        all
    }

    /// A source as an explanation says it: `10.0.0.0/8`, or `user alice in 10.0.0.0/8`.
    pub(crate) fn source_words(&self, source: u32) -> String {
        let Some(pair) = (source as usize).checked_sub(self.sources().nodes.len()) else {
            return self.sources().network(source).map_or_else(String::new, |net| net.to_string());
        };
        let Some(pair) = self.section::<PairRecord>(Section::Pairs).get(pair) else {
            return String::new();
        };
        let whos = self.section::<WhoRecord>(Section::Whos);
        let Some(who) = whos.get(pair.who.get() as usize) else { return String::new() };
        let all = self.identities();
        let text = |at: zerocopy::little_endian::U32| {
            let record = all.all.get(at.get() as usize)?;
            Some((std::str::from_utf8(all.text(record)).unwrap_or_default(), record.kind))
        };
        let spiffe = text(who.spiffe)
            .map(|(id, kind)| ("", id, if kind == identity_kind::SPIFFE_BELOW { "*" } else { "" }));
        let parts = [
            spiffe,
            text(who.user).map(|(user, _)| ("user ", user, "")),
            text(who.tlv).map(|(value, _)| ("tlv ", value, "")),
        ];
        let evidence = u8::try_from(who.evidence.get()).ok().and_then(Evidence::from_number);
        let evidence = evidence.filter(|evidence| *evidence != Evidence::Address);
        let net = self.sources().network(pair.net.get());
        words(parts, evidence, net)
    }
}

/// `user alice and tlv x with evidence login in 10.0.0.0/8`, of which any part may be missing.
pub(crate) fn words(
    parts: [Option<(&str, &str, &str)>; 3],
    evidence: Option<Evidence>,
    net: Option<IpNet>,
) -> String {
    let named =
        parts.into_iter().flatten().map(|(kind, text, after)| format!("{kind}{text}{after}"));
    let mut said = vec![named.collect::<Vec<_>>().join(" and ")];
    said.extend(evidence.map(|evidence| format!("with evidence {evidence}")));
    said.extend(net.map(|net| format!("in {net}")));
    said.retain(|part| !part.is_empty());
    said.join(" ")
}
