//! What a listener makes of the PROXY protocol: whether a header stands before the first bytes, whose it is taken for
//! true, which of its TLVs names the source, and whether destinations are sent one.

use std::fmt;
use std::net::IpAddr;

use egress_hello::proxy_protocol::{Header, ProxyError, Version, kind};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::PathPart;
use crate::document;
use crate::pattern::parse_net;
use crate::problem::Problems;
use crate::settings::{Accepts, shown};
use crate::vocab::Accept;

/// Networks of one listener whose peers are trusted. They are looked through one by one, for each connection.
const MAX_TRUSTED: usize = 64;
/// TLVs that name somebody, besides those that are given as numbers.
const WORDS: [(&str, NamingTlv); 5] = [
    ("authority", NamingTlv::Kind(kind::AUTHORITY)),
    ("unique_id", NamingTlv::Kind(kind::UNIQUE_ID)),
    ("netns", NamingTlv::Kind(kind::NETNS)),
    ("ssl_cn", NamingTlv::CommonName),
    ("aws_vpce_id", NamingTlv::AwsEndpoint),
];
/// PP2_TYPE_AWS, and its PP2_SUBTYPE_AWS_VPCE_ID: the value's first byte, before the id of the VPC endpoint.
const AWS: u8 = 0xea;
const AWS_VPCE_ID: u8 = 0x01;

/// Whether a header stands before a connection's first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reads {
    /// Never: what looks like one is the client's own.
    #[default]
    Off,
    /// Of trusted peers only, and of these not always.
    Optional,
    /// Always, and of trusted peers: nobody else is let in.
    Required,
}

/// Which header a destination is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sends {
    #[default]
    Off,
    V1,
    V2,
}

impl Sends {
    /// The version to write; `None`: no header.
    pub const fn version(self) -> Option<Version> {
        match self {
            Self::Off => None,
            Self::V1 => Some(Version::One),
            Self::V2 => Some(Version::Two),
        }
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// The TLV whose value stands for the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamingTlv {
    /// The value of this type.
    Kind(u8),
    /// The common name of the client's certificate, if the peer has verified it.
    CommonName,
    /// The id of the AWS VPC endpoint that the client came through.
    AwsEndpoint,
}

impl NamingTlv {
    /// Its value in a header; `None` where there is none.
    ///
    /// # Errors
    /// There are two of them: one reader would take the first, another the last.
    pub fn value<'a>(self, header: &Header<'a>) -> Result<Option<&'a [u8]>, ProxyError> {
        let (kind, prefix): (u8, &[u8]) = match self {
            Self::CommonName => return Ok(header.ssl()?.and_then(|ssl| ssl.common_name())),
            Self::Kind(kind) => (kind, &[]),
            Self::AwsEndpoint => (AWS, &[AWS_VPCE_ID]),
        };
        let of_kind = header.tlvs.iter().filter(|tlv| tlv.kind == kind);
        let mut values = of_kind.filter_map(|tlv| tlv.value.strip_prefix(prefix));
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(ProxyError::TlvTwice),
            (value, None) => Ok(value),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some((_, tlv)) = WORDS.iter().find(|(word, _)| *word == text) {
            return Some(*tlv);
        }
        let number = match text.strip_prefix("0x") {
            Some(digits) => u8::from_str_radix(digits, 16),
            None => text.parse(),
        };
        // These hold other TLVs, sums and nothing.
        let names_nobody = |kind: &u8| matches!(*kind, 0 | kind::CRC32C | kind::NOOP | kind::SSL);
        number.ok().filter(|kind| !names_nobody(kind)).map(Self::Kind)
    }
}

impl fmt::Display for NamingTlv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (WORDS.iter().find(|(_, tlv)| tlv == self), self) {
            (Some((word, _)), _) => f.write_str(word),
            (None, Self::Kind(kind)) => write!(f, "{kind:#04x}"),
            (None, _) => Ok(()),
        }
    }
}

/// The PROXY protocol at one listener.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proxied {
    pub reads: Reads,
    /// Whose header is believed.
    pub trusted: Vec<IpNet>,
    /// What in it is the source's name, besides its address.
    pub tlv: Option<NamingTlv>,
    /// What destinations are sent, where the rule does not say otherwise.
    pub sends: Sends,
}

impl Proxied {
    /// Whether a peer's header is believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.contains(&peer))
    }

    /// The settings in the words of the policy, by key.
    pub fn terms(&self) -> [(&'static str, String); 4] {
        let reads = match self.reads {
            Reads::Off => "off",
            Reads::Optional => "optional",
            Reads::Required => "required",
        };
        let nobody = || "nobody".to_owned();
        let trusted: Vec<String> = self.trusted.iter().map(ToString::to_string).collect();
        [
            ("proxy_protocol", reads.to_owned()),
            ("proxy_trusted", if trusted.is_empty() { nobody() } else { trusted.join(", ") }),
            ("proxy_tlv", self.tlv.map_or_else(|| "nothing".to_owned(), |tlv| tlv.to_string())),
            ("send_proxy", self.sends.word().to_owned()),
        ]
    }

    pub(crate) fn check(
        raw: &document::Listener,
        accepts: Accepts,
        at: &impl Fn(&str) -> Vec<PathPart>,
        problems: &mut Problems,
    ) -> Self {
        let reads = raw.proxy_protocol;
        for (key, given) in
            [("proxy_protocol", reads != Reads::Off), ("send_proxy", raw.send_proxy != Sends::Off)]
        {
            if given && accepts.has(Accept::Dns) {
                let message = format!("a dns listener answers questions, which `{key}` is not for");
                problems.add(at(key), "unused_proxy", message, format!("remove `{key}`"));
            }
        }
        for (key, given) in [
            ("proxy_trusted", !raw.proxy_trusted.is_empty()),
            ("proxy_tlv", raw.proxy_tlv.is_some()),
        ] {
            if given && reads == Reads::Off {
                problems.add(
                    at(key),
                    "unused_proxy",
                    format!("`{key}` has no meaning where no PROXY header is read"),
                    format!("add `proxy_protocol: required`, or remove `{key}`"),
                );
            }
        }
        let tlv = raw.proxy_tlv.as_deref().and_then(|text| {
            let tlv = NamingTlv::parse(text);
            if tlv.is_none() {
                let words = WORDS.map(|(word, _)| word).join(", ");
                problems.add(
                    at("proxy_tlv"),
                    "bad_proxy_tlv",
                    format!("`{}` is not a TLV that could name a source", shown(text)),
                    format!("write one of {words}, or the TLV's type, such as \"0xe0\""),
                );
            }
            tlv
        });
        let trusted = trusted(raw, at, problems);
        Self { reads, trusted, tlv, sends: raw.send_proxy }
    }
}

fn trusted(
    raw: &document::Listener,
    at: &impl Fn(&str) -> Vec<PathPart>,
    problems: &mut Problems,
) -> Vec<IpNet> {
    const EXAMPLE: &str = "`proxy_trusted: 10.0.0.10` with the addresses of the proxies in front";
    let mut report = |code, message: String, fix: String| {
        problems.add(at("proxy_trusted"), code, message, fix);
    };
    if raw.proxy_protocol != Reads::Off && raw.proxy_trusted.is_empty() {
        problems.add(
            at("proxy_protocol"),
            "nobody_trusted",
            "a PROXY header may say that it comes from anybody, so it is read from trusted peers only, and there are none",
            format!("add {EXAMPLE}"),
        );
        return Vec::new();
    }
    if raw.proxy_trusted.len() > MAX_TRUSTED {
        report(
            "too_many",
            format!(
                "{} trusted networks; at most {MAX_TRUSTED} are possible",
                raw.proxy_trusted.len()
            ),
            "use wider networks".to_owned(),
        );
        return Vec::new();
    }
    let mut nets = Vec::with_capacity(raw.proxy_trusted.len());
    for text in &raw.proxy_trusted {
        match parse_net(text) {
            Ok(net) if net.prefix_len() == 0 => report(
                "trusts_anybody",
                format!("`{net}` trusts everybody to say who they are"),
                format!("write {EXAMPLE}"),
            ),
            Ok(net) => nets.push(net),
            Err((code, message, fix)) => report(code, message, fix),
        }
    }
    nets
}

#[cfg(test)]
mod tests {
    use egress_hello::Answer;
    use egress_hello::proxy_protocol::{Tlv, read, write_v2};

    use super::*;

    fn value(naming: NamingTlv, tlvs: &[(u8, &[u8])]) -> Result<Option<Vec<u8>>, ProxyError> {
        let tlvs: Vec<Tlv<'_>> =
            tlvs.iter().map(|(kind, value)| Tlv { kind: *kind, value }).collect();
        let (one, other) = ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap());
        let mut bytes = Vec::new();
        write_v2(one, other, &tlvs, &mut bytes).unwrap();
        let Answer::Found(header) = read(&bytes) else { panic!("not a header") };
        naming.value(&header).map(|value| value.map(<[u8]>::to_vec))
    }

    #[test]
    fn the_tlv_that_names_is_there_once_or_not_at_all() {
        let naming = NamingTlv::Kind(0xe0);
        assert_eq!(value(naming, &[(0xe1, b"x"), (0xe0, b"a")]), Ok(Some(b"a".to_vec())));
        assert_eq!(value(naming, &[(0xe1, b"x")]), Ok(None));
        assert_eq!(value(naming, &[(0xe0, b"a"), (0xe0, b"a")]), Err(ProxyError::TlvTwice));
    }

    #[test]
    fn an_endpoint_of_aws_is_one_of_several_values_of_its_type() {
        let naming = NamingTlv::AwsEndpoint;
        let others: &[(u8, &[u8])] = &[(AWS, b"\x02other"), (AWS, b"\x01vpce-1")];
        assert_eq!(value(naming, others), Ok(Some(b"vpce-1".to_vec())));
        let two: &[(u8, &[u8])] = &[(AWS, b"\x01vpce-2"), (AWS, b"\x01vpce-1")];
        assert_eq!(value(naming, two), Err(ProxyError::TlvTwice));
    }

    #[test]
    fn a_common_name_counts_once_it_is_verified() {
        let ssl = |client: u8, verify: u32| {
            let mut value = vec![client];
            value.extend(verify.to_be_bytes());
            value.extend([kind::SSL_CN, 0, 2, b'm', b'e']);
            value
        };
        let naming = NamingTlv::CommonName;
        assert_eq!(value(naming, &[(kind::SSL, &ssl(7, 0))]), Ok(Some(b"me".to_vec())));
        assert_eq!(value(naming, &[(kind::SSL, &ssl(7, 1))]), Ok(None));
        assert_eq!(value(naming, &[(kind::SSL, &ssl(1, 0))]), Ok(None));
    }

    #[test]
    fn a_tlv_is_told_by_a_word_or_a_number() {
        for (text, naming) in [
            ("0xe0", Some(NamingTlv::Kind(0xe0))),
            ("234", Some(NamingTlv::Kind(AWS))),
            ("authority", Some(NamingTlv::Kind(kind::AUTHORITY))),
            ("aws_vpce_id", Some(NamingTlv::AwsEndpoint)),
            ("0x20", None),
            ("3", None),
            ("0x100", None),
            ("", None),
            ("0x", None),
            ("vpce", None),
        ] {
            assert_eq!(NamingTlv::parse(text), naming, "{text}");
            if let Some(naming) = naming {
                assert_eq!(NamingTlv::parse(&naming.to_string()), Some(naming));
            }
        }
    }
}
