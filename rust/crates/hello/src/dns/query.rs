//! A query, read from one message. Nothing of it is trusted: what a query has no use for is refused.
use super::{DnsError, HEADER, MAX_UDP, MAX_WIRE_NAME, MIN_UDP, kind};
use crate::{
    cursor::Cursor,
    name::{Host, MAX_LABEL, MAX_NAME, Name, NameError, parse_host},
};

/// In the header's third byte: the message is a response.
const RESPONSE: u8 = 0x80;
/// In the header's third byte: the kind of query; 0 is the standard one.
const OPCODE: u8 = 0x78;
/// In the header's third byte: the client wants the name resolved for it.
const RECURSION: u8 = 0x01;
/// In the header's fourth byte: the client does not want the answer validated (RFC 4035 §3.2.2).
const UNCHECKED: u8 = 0x10;
/// In an OPT record's TTL: the client takes DNSSEC records (RFC 3225).
const DNSSEC_OK: u16 = 0x8000;

/// What a client says by EDNS (RFC 6891 §6.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// The largest reply in bytes that it takes over UDP.
    pub size: u16,
    /// It takes DNSSEC records; the reply repeats this.
    pub dnssec_ok: bool,
}

/// One question of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The client's number for it.
    pub id: u16,
    /// The type asked for.
    pub kind: u16,
    /// The class asked for.
    pub class: u16,
    /// Absent: the client knows nothing beyond RFC 1035.
    pub edns: Option<Edns>,
    pub(super) recursion: bool,
    pub(super) unchecked: bool,
    /// Name, type and class as they came: the reply repeats them, upper case included, by which some clients know their
    /// own question.
    pub(super) question: Vec<u8>,
}

/// Reads one whole message, without the length that stands before it over TCP.
///
/// # Errors
/// See [`DnsError`]; [`super::reject`] writes what is answered to it, if anything is.
pub fn read_query(message: &[u8]) -> Result<Query, DnsError> {
    let mut rest = Cursor(message);
    let header: [u8; HEADER] = rest.array().ok_or(DnsError::Short)?;
    let [high, low, flags, more, counts @ ..] = header;
    if flags & RESPONSE != 0 {
        return Err(DnsError::Response);
    }
    if flags & OPCODE != 0 {
        return Err(DnsError::Opcode);
    }
    let mut counts = Cursor(&counts);
    let mut count = || counts.u16().unwrap_or(u16::MAX);
    let (questions, answers, authorities, additional) = (count(), count(), count(), count());
    if questions != 1 {
        return Err(DnsError::Questions);
    }
    skip_name(&mut rest).ok_or(DnsError::Name)?;
    let (kind, class) = (rest.u16().ok_or(DnsError::Name)?, rest.u16().ok_or(DnsError::Name)?);
    let question = message[HEADER..message.len() - rest.0.len()].to_vec();
    if answers != 0 || authorities != 0 {
        return Err(DnsError::Records);
    }
    let mut edns = None;
    for _ in 0..additional {
        read_additional(&mut rest, &mut edns)?;
    }
    if !rest.is_empty() {
        return Err(DnsError::Trailing);
    }
    let (recursion, unchecked) = (flags & RECURSION != 0, more & UNCHECKED != 0);
    let id = u16::from_be_bytes([high, low]);
    Ok(Query { id, kind, class, edns, recursion, unchecked, question })
}

/// Steps over a name without compression. A question has nothing before it to point at.
fn skip_name(rest: &mut Cursor<'_>) -> Option<()> {
    let before = rest.0.len();
    loop {
        let label = rest.vec8()?;
        if label.len() > MAX_LABEL || before - rest.0.len() > MAX_WIRE_NAME {
            return None;
        }
        if label.is_empty() {
            return Some(());
        }
    }
}

/// One record behind the question: EDNS is taken, signatures (RFC 8945, RFC 2931) are passed over.
fn read_additional(rest: &mut Cursor<'_>, edns: &mut Option<Edns>) -> Result<(), DnsError> {
    const CUT: DnsError = DnsError::Records;
    let root = rest.0.first() == Some(&0);
    skip_name(rest).ok_or(CUT)?;
    let kind = rest.u16().ok_or(CUT)?;
    // In an OPT record these two are the size, and the upper code, the version and the flags.
    let size = rest.u16().ok_or(CUT)?;
    let [_, version, high, low] = rest.array().ok_or(CUT)?;
    let data = rest.vec16().ok_or(CUT)?;
    if kind != kind::OPT {
        return Ok(());
    }
    if !root || edns.is_some() {
        return Err(DnsError::Edns);
    }
    if version != 0 {
        return Err(DnsError::Version);
    }
    let mut options = Cursor(data);
    while !options.is_empty() {
        options.u16().and_then(|_| options.vec16()).ok_or(DnsError::Edns)?;
    }
    let dnssec_ok = u16::from_be_bytes([high, low]) & DNSSEC_OK != 0;
    *edns = Some(Edns { size, dnssec_ok });
    Ok(())
}

impl Query {
    /// The name asked for, normalised as every other.
    ///
    /// # Errors
    /// When it is no host name. A dot within a label would make two labels of it, and bytes beyond ASCII mean on the wire
    /// what they are, not what IDNA makes of them: both are refused.
    pub fn name(&self) -> Result<Name, NameError> {
        let mut text = [0; MAX_NAME + 1];
        let mut len = 0;
        let mut labels = Cursor(&self.question);
        while let Some(label) = labels.vec8().filter(|label| !label.is_empty()) {
            let odd = |byte: &&u8| !byte.is_ascii() || **byte == b'.';
            if let Some(&byte) = label.iter().find(odd) {
                return Err(NameError::ForbiddenByte(byte));
            }
            let end = len + label.len();
            text.get_mut(len..end).ok_or(NameError::TooLong)?.copy_from_slice(label);
            *text.get_mut(end).ok_or(NameError::TooLong)? = b'.';
            len = end + 1;
        }
        match parse_host(&text[..len.saturating_sub(1)])? {
            Host::Name(name) => Ok(name),
            Host::Ip(_) => Err(NameError::NumericTail),
        }
    }

    /// Bytes of the largest reply over UDP.
    pub fn udp_limit(&self) -> usize {
        let asked = self.edns.map_or(MIN_UDP, |edns| usize::from(edns.size));
        asked.clamp(MIN_UDP, MAX_UDP)
    }

    /// Whether the type is one that names have data of, and not a zone transfer or a part of the protocol itself.
    pub fn asks_for_data(&self) -> bool {
        !matches!(self.kind, 0 | kind::OPT | kind::FIRST_META..kind::ANY)
    }
}
