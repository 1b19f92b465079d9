//! The sources that rules speak of, numbered and laid out: networks first, then pairs of a network and what else is
//! demanded of the caller (`identities` finds those that hold).

use std::collections::HashMap;

use ipnet::IpNet;

use crate::flat::{IdentityRecord, NONE, PairRecord, Text, WhoRecord, identity_kind};
use crate::nets::{ANY, NetsBuilder, NetsLayout};
use crate::vocab::Evidence;

/// An item of `from`, and what `evidence` demands beyond it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct SourceKey {
    pub net: Option<IpNet>,
    /// (kind of [`identity_kind`], text) of each identity.
    pub tlv: Option<String>,
    pub user: Option<String>,
    /// With a trailing slash: all IDs below.
    pub spiffe: Option<String>,
    pub evidence: Demand,
}

/// The least evidence that is demanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Demand(pub Evidence);

impl Default for Demand {
    fn default() -> Self {
        Self(Evidence::Address)
    }
}

impl SourceKey {
    /// Drops a demand that the identities fulfil anyhow, so that two spellings of one source are one.
    pub(crate) fn demanding(mut self, evidence: Evidence) -> Self {
        let shown = match (&self.spiffe, &self.user, &self.tlv) {
            (Some(_), ..) => Evidence::Certificate,
            (_, Some(_), _) => Evidence::Login,
            (.., Some(_)) => Evidence::ProxyHeader,
            _ => Evidence::Address,
        };
        self.evidence = Demand(if evidence > shown { evidence } else { Evidence::Address });
        self
    }

    fn is_network(&self) -> bool {
        let Self { net: _, tlv, user, spiffe, evidence } = self;
        tlv.is_none() && user.is_none() && spiffe.is_none() && *evidence == Demand::default()
    }

    /// As [`Snapshot::source_words`](crate::Snapshot) says it.
    fn words(&self) -> String {
        let spiffe = self.spiffe.as_deref();
        let after = if spiffe.is_some_and(|id| id.ends_with('/')) { "*" } else { "" };
        let parts = [
            spiffe.map(|id| ("", id, after)),
            self.user.as_deref().map(|user| ("user ", user, "")),
            self.tlv.as_deref().map(|value| ("tlv ", value, "")),
        ];
        let evidence = Some(self.evidence).filter(|demand| *demand != Demand::default());
        crate::identities::words(parts, evidence.map(|demand| demand.0), self.net)
    }

    fn identities(&self) -> impl Iterator<Item = (u8, &str)> {
        let spiffe = self.spiffe.as_deref().map(|id| {
            (
                if id.ends_with('/') { identity_kind::SPIFFE_BELOW } else { identity_kind::SPIFFE },
                id,
            )
        });
        let tlv = self.tlv.as_deref().map(|value| (identity_kind::TLV, value));
        let user = self.user.as_deref().map(|user| (identity_kind::USER, user));
        [tlv, user, spiffe].into_iter().flatten()
    }
}

/// Collects distinct sources under provisional numbers, then lays them out.
#[derive(Default)]
pub(crate) struct SourcesBuilder {
    numbers: HashMap<SourceKey, u32>,
}

/// What [`SourcesBuilder::finish`] makes.
pub(crate) struct SourcesLayout {
    pub nets: NetsLayout,
    pub identities: Vec<IdentityRecord>,
    pub texts: Vec<u8>,
    pub whos: Vec<WhoRecord>,
    pub pairs: Vec<PairRecord>,
    /// Provisional number → number in the snapshot.
    pub number_of: Vec<u32>,
    /// Number in the snapshot beyond the networks → its words.
    words: Vec<String>,
}

impl SourcesBuilder {
    pub(crate) fn number(&mut self, source: SourceKey) -> u32 {
        let fresh = self.numbers.len() as u32;
        *self.numbers.entry(source).or_insert(fresh)
    }

    pub(crate) fn finish(&self) -> SourcesLayout {
        let mut nets = NetsBuilder::default();
        let provisional: HashMap<IpNet, u32> = self
            .numbers
            .keys()
            .filter_map(|key| key.net)
            .map(|net| (net, nets.number(net)))
            .collect();
        let nets = nets.finish();
        let node = |key: &SourceKey| {
            key.net
                .and_then(|net| provisional.get(&net))
                .map_or(ANY, |net| nets.node_of[*net as usize])
        };

        let mut known: Vec<(u8, &str)> =
            self.numbers.keys().flat_map(SourceKey::identities).collect();
        known.sort_unstable();
        known.dedup();
        let (identities, texts) = lay_out(&known);
        let find = |identity: Option<(u8, &str)>| {
            identity.and_then(|found| known.binary_search(&found).ok()).map_or(NONE, |at| at as u32)
        };
        let who = |key: &SourceKey| {
            let of = |kinds: &[u8]| find(key.identities().find(|(kind, _)| kinds.contains(kind)));
            [
                of(&[identity_kind::SPIFFE, identity_kind::SPIFFE_BELOW]),
                of(&[identity_kind::USER]),
                of(&[identity_kind::TLV]),
                key.evidence.0 as u32,
            ]
        };
        let mut paired: Vec<([u32; 4], u32, &SourceKey, u32)> = self
            .numbers
            .iter()
            .filter(|(key, _)| !key.is_network())
            .map(|(key, number)| (who(key), node(key), key, *number))
            .collect();
        paired.sort_unstable_by_key(|(who, node, ..)| (*who, *node));

        let mut number_of = vec![ANY; self.numbers.len()];
        for (key, number) in self.numbers.iter().filter(|(key, _)| key.is_network()) {
            number_of[*number as usize] = node(key);
        }
        let (mut whos, mut pairs, mut words) = (Vec::new(), Vec::new(), Vec::new());
        for chunk in paired.chunk_by(|a, b| a.0 == b.0) {
            let Some(([spiffe, user, tlv, evidence], ..)) = chunk.first() else { continue };
            let first = pairs.len() as u32;
            for (_, node, key, number) in chunk {
                number_of[*number as usize] = (nets.nodes.len() + pairs.len()) as u32;
                pairs.push(PairRecord { who: (whos.len() as u32).into(), net: (*node).into() });
                words.push(key.words());
            }
            whos.push(WhoRecord {
                spiffe: (*spiffe).into(),
                user: (*user).into(),
                tlv: (*tlv).into(),
                evidence: (*evidence).into(),
                first: first.into(),
                count: (chunk.len() as u32).into(),
            });
        }
        SourcesLayout { nets, identities, texts, whos, pairs, number_of, words }
    }
}

/// The identities in order, each with the widest-reaching one that holds it.
fn lay_out(known: &[(u8, &str)]) -> (Vec<IdentityRecord>, Vec<u8>) {
    let mut texts: Vec<u8> = Vec::new();
    let mut records: Vec<IdentityRecord> = Vec::with_capacity(known.len());
    // Prefixes that hold the present one, shortest first: sorted, what they hold follows them.
    let mut open: Vec<u32> = Vec::new();
    for (index, (kind, text)) in known.iter().enumerate() {
        let mut parent = NONE;
        if *kind == identity_kind::SPIFFE_BELOW {
            while open.last().is_some_and(|last| !text.starts_with(known[*last as usize].1)) {
                open.pop();
            }
            parent = open.last().copied().unwrap_or(NONE);
            open.push(index as u32);
        }
        records.push(IdentityRecord {
            text: Text { at: (texts.len() as u32).into(), len: (text.len() as u32).into() },
            parent: parent.into(),
            kind: *kind,
        });
        texts.extend_from_slice(text.as_bytes());
    }
    (records, texts)
}

impl SourcesLayout {
    /// A source in the words of problems; `None` for anybody.
    pub(crate) fn words(&self, source: u32) -> Option<String> {
        match (source as usize).checked_sub(self.nets.nodes.len()) {
            Some(pair) => self.words.get(pair).cloned(),
            None => crate::nets::Nets { nodes: &self.nets.nodes, v4: &[], v6: &[] }
                .network(source)
                .map(|net| net.to_string()),
        }
    }
}
