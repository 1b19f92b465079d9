//! Who is calling: an address, and what a connection has shown of itself besides.

use std::fmt;
use std::net::IpAddr;

use crate::vocab::Evidence;

/// Bytes of a user: what SOCKS has room for (RFC 1929, section 2).
pub const MAX_USER: usize = 255;
/// Bytes of a SPIFFE ID (SPIFFE-ID, section 2.3).
pub const MAX_SPIFFE: usize = 2048;
/// Bytes of a TLV's value that serves as identity. The PROXY protocol has room for 64 KiB; names are shorter.
pub const MAX_TLV: usize = 255;

pub(crate) const SPIFFE_SCHEME: &str = "spiffe://";

/// What a connection has shown of who is calling, besides its address. Whoever sets a part has checked it: the password,
/// the certificate, the peer that sent the header. What is too long to be anybody's is not taken, and never cut: the rest
/// could be somebody else's.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Identity {
    tlv: Option<Box<[u8]>>,
    user: Option<Box<[u8]>>,
    spiffe: Option<Box<str>>,
}

fn taken(bytes: &[u8], most: usize) -> Option<Box<[u8]>> {
    (1..=most).contains(&bytes.len()).then(|| bytes.into())
}

impl Identity {
    /// The value of the TLV that the listener reads as a name.
    #[must_use]
    pub fn with_tlv(mut self, value: &[u8]) -> Self {
        self.tlv = taken(value, MAX_TLV);
        self
    }

    /// The user whose password was right.
    #[must_use]
    pub fn with_user(mut self, user: &[u8]) -> Self {
        self.user = taken(user, MAX_USER);
        self
    }

    /// The SPIFFE ID in the URI SAN of the client's certificate.
    #[must_use]
    pub fn with_spiffe(mut self, id: &str) -> Self {
        self.spiffe = is_spiffe_id(id).then(|| id.into());
        self
    }

    /// The TLV's value, bytes of the peer's choosing.
    pub fn tlv(&self) -> Option<&[u8]> {
        self.tlv.as_deref()
    }

    /// The user, bytes of the client's choosing that the users file holds, too.
    pub fn user(&self) -> Option<&[u8]> {
        self.user.as_deref()
    }

    /// The SPIFFE ID, printable ASCII.
    pub fn spiffe(&self) -> Option<&str> {
        self.spiffe.as_deref()
    }

    /// The Kubernetes namespace in a SPIFFE ID: what stands behind the path segment `ns`, by which every issuer for
    /// Kubernetes names it (`spiffe://cluster.local/ns/payments/sa/api`).
    pub fn namespace(&self) -> Option<&str> {
        let path = self.spiffe()?.strip_prefix(SPIFFE_SCHEME)?;
        // The first one is the trust domain.
        let mut segments = path.split('/').skip(1);
        segments.find(|segment| *segment == "ns")?;
        segments.next().filter(|namespace| !namespace.is_empty())
    }

    /// The part with the strongest evidence: what records show.
    pub fn strongest(&self) -> Option<&[u8]> {
        self.spiffe().map(str::as_bytes).or(self.user()).or(self.tlv())
    }

    /// The strongest evidence that stands behind a part.
    pub fn evidence(&self) -> Evidence {
        match (&self.spiffe, &self.user, &self.tlv) {
            (Some(_), ..) => Evidence::Certificate,
            (_, Some(_), _) => Evidence::Login,
            (.., Some(_)) => Evidence::ProxyHeader,
            _ => Evidence::Address,
        }
    }
}

/// For logs and failed tests: control bytes are escaped.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped =
            |bytes: &Option<Box<[u8]>>| bytes.as_ref().map(|b| b.escape_ascii().to_string());
        f.debug_struct("Identity")
            .field("tlv", &escaped(&self.tlv))
            .field("user", &escaped(&self.user))
            .field("spiffe", &self.spiffe)
            .finish()
    }
}

/// A caller as rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    pub ip: IpAddr,
    pub identity: Option<&'a Identity>,
    /// The strongest evidence, that of the identity included.
    pub evidence: Evidence,
}

impl<'a> Source<'a> {
    /// `evidence` says how the address is known; an identity may be known better.
    pub fn new(ip: IpAddr, evidence: Evidence, identity: Option<&'a Identity>) -> Self {
        let shown = identity.map_or(Evidence::Address, Identity::evidence);
        Self { ip, identity, evidence: evidence.max(shown) }
    }
}

/// A caller of whom only the address is known.
impl From<IpAddr> for Source<'_> {
    fn from(ip: IpAddr) -> Self {
        Self { ip, identity: None, evidence: Evidence::Address }
    }
}

/// The address, and in brackets what else is known; printable.
impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ip)?;
        let Some(identity) = self.identity else { return Ok(()) };
        let mut before = " (";
        if let Some(id) = identity.spiffe() {
            write!(f, "{before}{id}")?;
            before = ", ";
        }
        for (word, part) in [("user", identity.user()), ("tlv", identity.tlv())] {
            if let Some(part) = part {
                write!(f, "{before}{word} {}", part.escape_ascii())?;
                before = ", ";
            }
        }
        if before == ", " { f.write_str(")") } else { Ok(()) }
    }
}

/// Whether `id` is a SPIFFE ID (SPIFFE-ID, sections 2.1 to 2.3): no user, port, query or percent sign, and no empty or
/// relative segment, so that what begins with another ID and a slash lies below it.
pub fn is_spiffe_id(id: &str) -> bool {
    let Some(rest) = id.strip_prefix(SPIFFE_SCHEME) else { return false };
    let (domain, path) =
        rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
    let of_domain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    let of_path = |b: u8| of_domain(b) || b.is_ascii_uppercase();
    let segment =
        |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(of_path);
    id.len() <= MAX_SPIFFE
        && (1..=255).contains(&domain.len())
        && domain.bytes().all(of_domain)
        && path.is_none_or(|path| path.split('/').all(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_what_stands_behind_ns() {
        let of = |id: &str| Identity::default().with_spiffe(id).namespace().map(str::to_owned);
        assert_eq!(of("spiffe://cluster.local/ns/payments/sa/api").as_deref(), Some("payments"));
        assert_eq!(of("spiffe://td/cluster/eu/ns/a/pod/x").as_deref(), Some("a"));
        for none in ["spiffe://ns/payments", "spiffe://td/ns", "spiffe://td/sa/ns", "spiffe://td"] {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(Identity::default().with_user(b"spiffe://td/ns/a").namespace(), None);
    }

    #[test]
    fn spiffe_ids_have_one_spelling() {
        for good in ["spiffe://td", "spiffe://cluster.local/ns/a/sa/B_c-1", "spiffe://a_b/x"] {
            assert!(is_spiffe_id(good), "{good}");
        }
        let long = format!("spiffe://td/{}", "a".repeat(MAX_SPIFFE));
        for bad in [
            "",
            "spiffe://",
            "spiffe:///a",
            "SPIFFE://td",
            "spiffe://TD/a",
            "spiffe://td/",
            "spiffe://td//a",
            "spiffe://td/a/",
            "spiffe://td/./a",
            "spiffe://td/../a",
            "spiffe://td:80/a",
            "spiffe://u@td/a",
            "spiffe://td/a?b",
            "spiffe://td/a#b",
            "spiffe://td/%41",
            "spiffe://td/a b",
            "spiffe://td/\0",
            "https://td/a",
            "spiffe://td/ä",
            &long,
        ] {
            assert!(!is_spiffe_id(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_too_long_is_nobody() {
        let identity =
            Identity::default().with_user(&[b'a'; 256]).with_tlv(b"").with_spiffe("spiffe://td/a/");
        assert_eq!(identity, Identity::default());
        assert_eq!(identity.evidence(), Evidence::Address);
    }

    #[test]
    fn the_strongest_part_counts() {
        let identity = Identity::default().with_tlv(b"t").with_user(b"u\n");
        assert_eq!(
            (identity.evidence(), identity.strongest()),
            (Evidence::Login, Some(&b"u\n"[..]))
        );
        let source = Source::new([10, 0, 0, 1].into(), Evidence::ProxyHeader, Some(&identity));
        assert_eq!(source.evidence, Evidence::Login);
        assert_eq!(source.to_string(), "10.0.0.1 (user u\\n, tlv t)");
    }
}
