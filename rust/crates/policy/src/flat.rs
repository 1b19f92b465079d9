//! The layout of a snapshot: a header, then sections that are flat arrays of little-endian records.
//! Records have alignment 1, so a snapshot may lie anywhere: in a `Vec`, in a mapped file, in a packet.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of every snapshot.
pub(crate) const MAGIC: [u8; 8] = *b"EGRESSPL";
/// Raised whenever a record below changes; data plane and control plane of one build always agree.
pub(crate) const FORMAT: u32 = 3;
/// "No such thing" in every 32-bit index.
pub(crate) const NONE: u32 = u32::MAX;

/// The sections, in the order in which they lie in the snapshot.
#[derive(Clone, Copy)]
#[repr(usize)]
pub(crate) enum Section {
    /// JSON: settings and the default.
    Settings,
    /// UTF-8: names, files, messages of rules.
    Texts,
    Rules,
    /// [`Text`]s `host:port`, indexed by [`RuleRecord::dial`].
    Dials,
    /// [`U64`]s: every `until`, ascending, each once.
    Expiries,
    /// [`Text`]s: names of lists, indexed by [`Atom::list`].
    Lists,
    /// The bytes of every name that a pattern ends in.
    Names,
    /// The hash table over them.
    Slots,
    Classes,
    /// [`U32`]s: atoms of the classes.
    ClassAtoms,
    Atoms,
    Groups,
    Edges,
    SourceNodes,
    SourceV4,
    SourceV6,
    /// Sorted by kind, then text; each text stands here once.
    Identities,
    /// The bytes of their texts.
    IdentityTexts,
    /// Sorted by [`WhoRecord::key`].
    Whos,
    /// Their networks; a source's number beyond those of the nodes is a place here.
    Pairs,
    /// Sorted by name.
    Users,
    /// The bytes of their names and hashes.
    UserTexts,
    NetNodes,
    NetV4,
    NetV6,
    AddressSets,
    AddressRanges,
}

/// How many there are of [`Section`].
pub(crate) const SECTIONS: usize = Section::AddressRanges as usize + 1;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Span {
    pub at: U64,
    pub len: U64,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    pub magic: [u8; 8],
    pub format: U32,
    pub header_len: U32,
    pub total_len: U64,
    /// [`checksum`] of all bytes after this field.
    pub checksum: U64,
    pub digest: [u8; 32],
    /// Seed of the name table's hash: random, so that nobody can choose names that collide.
    pub seed: U64,
    /// Slots that a search of the name table looks at, at most.
    pub max_probe: U32,
    pub name_count: U32,
    pub sections: [Span; SECTIONS],
}

/// Where the checksum ends in the header, and what it covers begins.
pub(crate) const CHECKED_FROM: usize = 8 + 4 + 4 + 8 + 8;

/// A string in [`Section::Texts`]; `at == NONE` means absent.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub(crate) struct Text {
    pub at: U32,
    pub len: U32,
}

/// [`RuleRecord::flags`].
pub(crate) mod rule_flag {
    pub(crate) const DENY: u32 = 1;
    /// The mode in force is audit, be it the rule's own or the default's.
    pub(crate) const AUDIT: u32 = 2;
    pub(crate) const SNI_ANY: u32 = 4;
    /// The captured address is dialled.
    pub(crate) const ORIGINAL: u32 = 8;

    /// The rule's own `on_deny`; no such flag where it has none.
    pub(crate) const fn on_deny(own: crate::OnDeny) -> u32 {
        16 << own as u32
    }
    /// The PROXY header that destinations are sent; none of these: as the listener says.
    pub(crate) const SEND_NO_PROXY: u32 = 128;
    pub(crate) const SEND_PROXY_V1: u32 = 256;
    pub(crate) const SEND_PROXY_V2: u32 = 512;
}

/// A rule without its destinations and sources.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RuleRecord {
    pub name: Text,
    pub file: Text,
    pub owner: Text,
    pub why: Text,
    pub message: Text,
    /// Unix seconds; `u64::MAX` = for ever.
    pub until: U64,
    pub line: U32,
    pub flags: U32,
    /// `NONE` = unlimited.
    pub max_connections: U32,
    pub new_per_second: U32,
    pub dial: U32,
}

/// One place of the name table. `len == 0` = free.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Slot {
    pub at: U32,
    pub class: U32,
    /// Low bits of the hash, to pass over most other names without touching their bytes.
    pub tag: [u8; 3],
    pub len: u8,
}

/// A set of atoms that names share: `count` entries of [`Section::ClassAtoms`], most specific first.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Class {
    pub first: U32,
    pub count: U32,
}

/// [`Atom::form`]; the order is that of specificity at one and the same name.
pub(crate) mod form {
    /// The name itself.
    pub(crate) const EXACT: u8 = 0;
    /// `*.x`: below the name.
    pub(crate) const BELOW: u8 = 1;
    /// `.x`: the name and below.
    pub(crate) const TREE: u8 = 2;
    /// An address or a network.
    pub(crate) const NET: u8 = 3;
    /// `*`: every name and every address.
    pub(crate) const ANYWHERE: u8 = 4;
}

/// One distinct destination that rules speak of. Its groups are sorted by source.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Atom {
    pub form: u8,
    /// Length of the name at `at`.
    pub len: u8,
    /// Index of the list that this atom stands for; `u16::MAX` = the destination is written out.
    pub list: U16,
    /// Into [`Section::Names`], or the node in [`Section::NetNodes`].
    pub at: U32,
    pub first_group: U32,
    pub groups: U32,
}

/// The rules for one destination and one source: `denies` edges, then `allows` edges, each sorted by
/// (exact ports before ranges, exact ports by number, ranges by width, then by the rules' names).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Group {
    /// A node of [`Section::SourceNodes`], 0 = any source; above them, a place in [`Section::Pairs`].
    pub source: U32,
    pub first: U32,
    pub denies: U32,
    pub allows: U32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Edge {
    pub low: U16,
    pub high: U16,
    pub rule: U32,
    /// An address set that the name may resolve to; `NONE` = the item has none.
    pub addresses: U32,
}

/// A network; node 0 is "any address" and every chain of parents ends there.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct NetNode {
    /// The next wider network: always an earlier node, so a walk ends.
    pub parent: U32,
    pub atom: U32,
    /// IPv4 in the last four bytes.
    pub address: [u8; 16],
    /// 4 or 6; 0 for node 0.
    pub family: u8,
    pub prefix: u8,
}

/// [`IdentityRecord::kind`].
pub(crate) mod identity_kind {
    pub(crate) const TLV: u8 = 0;
    pub(crate) const USER: u8 = 1;
    pub(crate) const SPIFFE: u8 = 2;
    /// All SPIFFE IDs that begin with the text, which ends in a slash.
    pub(crate) const SPIFFE_BELOW: u8 = 3;
}

/// An identity that rules name.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct IdentityRecord {
    /// In [`Section::IdentityTexts`].
    pub text: Text,
    /// For a prefix, the next shorter one, an earlier record; else `NONE`.
    pub parent: U32,
    pub kind: u8,
}

/// What is demanded of a caller besides its network: identities (`NONE` = any) and a least evidence.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct WhoRecord {
    pub spiffe: U32,
    pub user: U32,
    pub tlv: U32,
    pub evidence: U32,
    /// Its pairs, sorted by network.
    pub first: U32,
    pub count: U32,
}

impl WhoRecord {
    #[inline]
    pub(crate) fn key(&self) -> (u32, u32, u32, u32) {
        (self.spiffe.get(), self.user.get(), self.tlv.get(), self.evidence.get())
    }
}

/// Somebody who may log in; both texts are in [`Section::UserTexts`].
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct UserRecord {
    pub name: Text,
    pub hash: Text,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct PairRecord {
    pub who: U32,
    /// A node of [`Section::SourceNodes`]; 0 = any network.
    pub net: U32,
}

/// From `start` (up to the next one) the narrowest network is `node`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct IntervalV4 {
    pub start: U32,
    pub node: U32,
}

/// As [`IntervalV4`]; the address is big-endian, as on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct IntervalV6 {
    pub start: [u8; 16],
    pub node: U32,
}

/// The `addresses:` of one destination: `count` ranges, ascending, disjoint.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct AddressSet {
    pub first: U32,
    pub count: U32,
}

#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub(crate) struct AddressRange {
    pub family: u8,
    pub first: [u8; 16],
    pub last: [u8; 16],
}

/// The high half times the low half of a 128-bit product, folded: the mixing step of all hashes here.
#[inline]
pub(crate) const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128).wrapping_mul(b as u128);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Odd constants with evenly spread bits (digits of pi), so that `fold` loses nothing.
pub(crate) const MIX: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345, 0xa409_3822_299f_31d1, 0x082e_fa98_ec4e_6c89];

/// Finds torn and damaged snapshots at several bytes per cycle. It is no proof of origin: a snapshot
/// comes from the control plane by a sealed descriptor, and `Snapshot::open` checks every offset.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    let mut lanes = MIX;
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(8)) {
            *lane = fold(*lane ^ read_word(word), MIX[1]).wrapping_add(MIX[0]);
        }
    }
    let mut rest = blocks.remainder().chunks(8);
    let mut sum = fold(bytes.len() as u64 ^ MIX[2], MIX[3]);
    for lane in lanes {
        sum = fold(sum ^ lane, MIX[1]).wrapping_add(MIX[3]);
        sum = fold(sum ^ rest.next().map_or(0, read_word), MIX[2]).wrapping_add(MIX[0]);
    }
    sum
}

/// Up to eight bytes as a little-endian number.
#[inline]
pub(crate) fn read_word(bytes: &[u8]) -> u64 {
    if let Some(whole) = bytes.first_chunk::<8>() {
        return u64::from_le_bytes(*whole);
    }
    bytes.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte))
}

/// Collects sections and puts the header before them.
pub(crate) struct Writer {
    bytes: Vec<u8>,
    sections: [Span; SECTIONS],
}

impl Writer {
    pub(crate) fn new(expected: usize) -> Self {
        let mut bytes = Vec::with_capacity(size_of::<Header>() + expected);
        bytes.resize(size_of::<Header>(), 0);
        Self { bytes, sections: [Span { at: 0.into(), len: 0.into() }; SECTIONS] }
    }

    pub(crate) fn section(&mut self, section: Section, bytes: &[u8]) {
        self.sections[section as usize] =
            Span { at: (self.bytes.len() as u64).into(), len: (bytes.len() as u64).into() };
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn finish(
        self,
        digest: [u8; 32],
        seed: u64,
        max_probe: u32,
        name_count: u32,
    ) -> Vec<u8> {
        let mut bytes = self.bytes;
        let mut header = Header {
            magic: MAGIC,
            format: FORMAT.into(),
            header_len: (size_of::<Header>() as u32).into(),
            total_len: (bytes.len() as u64).into(),
            checksum: 0.into(),
            digest,
            seed: seed.into(),
            max_probe: max_probe.into(),
            name_count: name_count.into(),
            sections: self.sections,
        };
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        header.checksum = checksum(&bytes[CHECKED_FROM..]).into();
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        bytes
    }
}

/// Writes the right checksum into changed bytes, for tests and fuzzing of what lies behind it.
#[doc(hidden)]
pub fn reseal(bytes: &mut [u8]) {
    let sum = checksum(bytes.get(CHECKED_FROM..).unwrap_or_default());
    if let Some(place) = bytes.get_mut(CHECKED_FROM - size_of::<u64>()..CHECKED_FROM) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
}
