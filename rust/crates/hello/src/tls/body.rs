//! The hello itself, once all of it is there.
use super::{Alpn, ClientHello, MAX_EXTENSIONS, Sni, TlsError, Versions};
use crate::{
    cursor::{Cursor, whole_vec16},
    name::{Host, NameError, parse_host},
};

/// Bytes of the client's random value.
const RANDOM: usize = 32;

/// Longest session id in bytes (RFC 5246 §7.4.1.2).
const MAX_SESSION_ID: usize = 32;

const TLS12: u16 = 0x0303;
const TLS13: u16 = 0x0304;

// Extension types (IANA, TLS ExtensionType Values).
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// The only NameType that RFC 6066 defines.
const HOST_NAME: u8 = 0;

/// Reads the body of a ClientHello, its handshake header not counted.
pub(super) fn parse(body: &[u8]) -> Result<ClientHello, TlsError> {
    let mut cursor = Cursor(body);
    let legacy = cursor.u16().ok_or(TlsError::HelloTruncated)?;
    // A higher minor is no error: servers answer with the highest that they know (RFC 5246 App. E).
    if legacy >> 8 != 3 {
        return Err(TlsError::HelloVersion);
    }
    cursor.take(RANDOM).ok_or(TlsError::HelloTruncated)?;
    let session_id = cursor.u8().ok_or(TlsError::HelloTruncated)?;
    if usize::from(session_id) > MAX_SESSION_ID {
        return Err(TlsError::SessionId);
    }
    cursor.take(session_id.into()).ok_or(TlsError::HelloTruncated)?;

    let ciphers = cursor.u16().ok_or(TlsError::HelloTruncated)?;
    match ciphers {
        0 => return Err(TlsError::CiphersEmpty),
        odd if odd % 2 == 1 => return Err(TlsError::CiphersOdd),
        even => cursor.take(even.into()).ok_or(TlsError::CiphersLength)?,
    };
    let compression = match cursor.u8() {
        None => return Err(TlsError::HelloTruncated),
        Some(length) => cursor.take(length.into()).ok_or(TlsError::CompressionLength)?,
    };
    if !compression.contains(&0) {
        return Err(TlsError::Compression);
    }

    let mut hello = ClientHello {
        sni: Sni::Absent,
        alpn: Alpn::ABSENT,
        versions: Versions { highest: legacy.min(TLS12), legacy },
        ech: false,
    };
    // TLS 1.0 and 1.1 hellos may end here.
    if !cursor.is_empty() {
        let block = whole_vec16(cursor.0).ok_or(TlsError::ExtensionsLength)?;
        read_extensions(block, &mut hello)?;
    }
    if hello.versions.highest == TLS13 && compression != [0] {
        return Err(TlsError::Compression);
    }
    Ok(hello)
}

fn read_extensions(block: &[u8], hello: &mut ClientHello) -> Result<(), TlsError> {
    let mut seen = Seen { low: 0, high: [0; MAX_EXTENSIONS], highs: 0, count: 0 };
    let mut cursor = Cursor(block);
    while !cursor.is_empty() {
        let kind = cursor.u16().ok_or(TlsError::ExtensionLength)?;
        let data = cursor.vec16().ok_or(TlsError::ExtensionLength)?;
        seen.add(kind)?;
        match kind {
            SERVER_NAME => hello.sni = read_server_name(data)?,
            ALPN => hello.alpn = Alpn::parse(data)?,
            SUPPORTED_VERSIONS => hello.versions.highest = highest_version(data)?,
            ENCRYPTED_CLIENT_HELLO => hello.ech = is_outer_ech(data)?,
            _ => {}
        }
    }
    Ok(())
}

/// The extension types met so far: a bit for each of the common ones, a short list for the others.
struct Seen {
    low: u64,
    high: [u16; MAX_EXTENSIONS],
    highs: usize,
    count: usize,
}

impl Seen {
    fn add(&mut self, kind: u16) -> Result<(), TlsError> {
        if self.count == MAX_EXTENSIONS {
            return Err(TlsError::ExtensionsMany);
        }
        self.count += 1;
        let known = if kind < 64 {
            let bit = 1_u64 << kind;
            let known = self.low & bit != 0;
            self.low |= bit;
            known
        } else {
            let known = self.high[..self.highs].contains(&kind);
            self.high[self.highs] = kind;
            self.highs += 1;
            known
        };
        match (known, kind) {
            (false, _) => Ok(()),
            (true, SERVER_NAME) => Err(TlsError::SniTwice),
            (true, _) => Err(TlsError::ExtensionTwice),
        }
    }
}

fn read_server_name(data: &[u8]) -> Result<Sni, TlsError> {
    let list = whole_vec16(data).ok_or(TlsError::SniLength)?;
    if list.is_empty() {
        return Err(TlsError::SniListEmpty);
    }
    let mut cursor = Cursor(list);
    let kind = cursor.u8().ok_or(TlsError::SniLength)?;
    if kind != HOST_NAME {
        return Err(TlsError::SniType);
    }
    let name = cursor.vec16().ok_or(TlsError::SniLength)?;
    if !cursor.is_empty() {
        // Whole entries after the first are names, whatever their type; anything else is a lie.
        while !cursor.is_empty() {
            cursor.u8().and_then(|_| cursor.vec16()).ok_or(TlsError::SniLength)?;
        }
        return Err(TlsError::SniTwoNames);
    }
    // Control bytes are reported before non-ASCII ones: they are the more telling fault.
    match parse_host(name) {
        Err(error @ NameError::ForbiddenByte(_)) => Err(TlsError::SniName(error)),
        _ if !name.is_ascii() => Err(TlsError::SniNotAscii),
        Err(error) => Err(TlsError::SniName(error)),
        Ok(Host::Name(name)) => Ok(Sni::Name(name)),
        Ok(Host::Ip(ip)) => Ok(Sni::IpLiteral(ip)),
    }
}

/// The highest known version of the list (RFC 8446 §4.2.1); GREASE (RFC 8701) and drafts are not.
fn highest_version(data: &[u8]) -> Result<u16, TlsError> {
    let mut cursor = Cursor(data);
    let list = cursor.vec8().ok_or(TlsError::VersionsLength)?;
    if !cursor.is_empty() || list.is_empty() || list.len() % 2 == 1 {
        return Err(TlsError::VersionsLength);
    }
    let known = list.chunks_exact(2).filter_map(|pair| match pair {
        [3, minor @ 0..=4] => Some(0x0300 | u16::from(*minor)),
        _ => None,
    });
    Ok(known.max().unwrap_or(0))
}

/// Whether this is the outer form of ECHClientHello (RFC 9849 §5): cipher suite (4 bytes), config id
/// (1), enc (16-bit length), payload (16-bit length, not empty). The inner form is empty and has
/// nothing to hide.
fn is_outer_ech(data: &[u8]) -> Result<bool, TlsError> {
    const OUTER: u8 = 0;
    const INNER: u8 = 1;
    let mut cursor = Cursor(data);
    match cursor.u8() {
        Some(INNER) if cursor.is_empty() => return Ok(false),
        Some(OUTER) => {}
        _ => return Err(TlsError::EchLength),
    }
    let payload = cursor.take(5).and_then(|_| cursor.vec16()).and_then(|_| cursor.vec16());
    match payload {
        Some([_, ..]) if cursor.is_empty() => Ok(true),
        _ => Err(TlsError::EchLength),
    }
}
