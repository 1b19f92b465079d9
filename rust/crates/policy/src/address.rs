//! What kind of address an address is. Names that resolve inwards are how egress gateways get abused
//! (RFC 1918 scans, cloud metadata), so every address is given a class before it is dialled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The class of an address, by the most specific reason that it is not public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressClass {
    Public,
    /// RFC 1918, unique local (RFC 4193), shared address space of carriers (RFC 6598).
    Private,
    Loopback,
    LinkLocal,
    /// Where clouds hand out credentials to whoever asks from inside.
    Metadata,
    Multicast,
    Unspecified,
    Broadcast,
    /// Set aside by IANA for documentation, benchmarks, protocols or the future.
    Reserved,
}

impl AddressClass {
    /// The word that logs, metrics and pages use.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link_local",
            Self::Metadata => "metadata",
            Self::Multicast => "multicast",
            Self::Unspecified => "unspecified",
            Self::Broadcast => "broadcast",
            Self::Reserved => "reserved",
        }
    }
}

impl std::fmt::Display for AddressClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// Metadata services at fixed IPv4 addresses. Those in 169.254.0.0/16 would be link-local, and refused,
/// without this list; the others look private or public.
const METADATA_V4: [Ipv4Addr; 11] = [
    // AWS, Google, Azure, Oracle, IBM, Huawei, OpenStack, DigitalOcean, Hetzner, Akamai, and most others.
    Ipv4Addr::new(169, 254, 169, 254),
    // Tasks of ECS (docs.aws.amazon.com/AmazonECS, "task metadata endpoint").
    Ipv4Addr::new(169, 254, 170, 2),
    // EKS Pod Identity agent (docs.aws.amazon.com/eks, "pod-id-agent-setup").
    Ipv4Addr::new(169, 254, 170, 23),
    // GKE's metadata server on the node (cloud.google.com/kubernetes-engine, "workload identity", network policy).
    Ipv4Addr::new(169, 254, 169, 252),
    // Scaleway (www.scaleway.com/en/developers/api/instance/user-data).
    Ipv4Addr::new(169, 254, 42, 42),
    // Tencent: metadata.tencentyun.com (metadataURL in datadog-agent, pkg/util/cloudproviders/tencent).
    Ipv4Addr::new(169, 254, 0, 23),
    // Alibaba (www.alibabacloud.com/help/en/ecs/user-guide/view-instance-metadata).
    Ipv4Addr::new(100, 100, 100, 200),
    // Volcengine and BytePlus (docs.byteplus.com/en/docs/ecs/Viewing-instance-metadata).
    Ipv4Addr::new(100, 96, 0, 96),
    // UCloud (docs.ucloud.cn/uhost/guide/metadata/metadata-server).
    Ipv4Addr::new(100, 80, 80, 80),
    // Oracle Cloud Classic (docs.oracle.com/en/cloud/iaas-classic, "Retrieving Instance Metadata").
    Ipv4Addr::new(192, 0, 0, 192),
    // Azure's wire server (learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16).
    Ipv4Addr::new(168, 63, 129, 16),
];

/// The same at IPv6 addresses.
const METADATA_V6: [Ipv6Addr; 8] = [
    // EC2 (docs.aws.amazon.com/whitepapers, "IPv6 on AWS").
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    // EKS Pod Identity agent (docs.aws.amazon.com/eks, "pod-id-agent-setup").
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    // Google, machines with IPv6 only (cloud.google.com/compute/docs/metadata/querying-metadata).
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    // Oracle (IPV6_METADATA_ROOT in cloud-init's DataSourceOracle.py).
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    // Alibaba (cloud-init's tests of both families, tests/unittests/net/test_ephemeral.py).
    Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200),
    // Scaleway (www.scaleway.com/en/developers/api/instance/user-data).
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    // Akamai, once Linode (techdocs.akamai.com/cloud-computing/docs/metadata-service-api).
    Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1),
    // OpenStack and Hetzner (cloud-init's DataSourceOpenStack.py and DataSourceHetzner.py).
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
];

/// The class of `ip`. An IPv4 address inside an IPv6 one is judged as that IPv4 address; where several
/// could be meant, the first that is not public decides.
pub fn classify(ip: IpAddr) -> AddressClass {
    match ip.to_canonical() {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => {
            let outer = classify_v6(v6);
            let mut inner = embedded_v4(v6).peekable();
            // ISATAP is an interface identifier: the prefix before it says where the packet goes first.
            if inner.peek().is_none() || (is_isatap(v6) && outer != AddressClass::Public) {
                return outer;
            }
            inner
                .map(|(v4, _)| classify_v4(v4))
                .find(|class| *class != AddressClass::Public)
                .unwrap_or(AddressClass::Public)
        }
    }
}

fn classify_v4(ip: Ipv4Addr) -> AddressClass {
    if METADATA_V4.contains(&ip) {
        return AddressClass::Metadata;
    }
    match ip.octets() {
        [0, 0, 0, 0] => AddressClass::Unspecified,
        [255, 255, 255, 255] => AddressClass::Broadcast,
        [127, ..] => AddressClass::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => {
            AddressClass::Private
        }
        [169, 254, ..] => AddressClass::LinkLocal,
        [224..=239, ..] => AddressClass::Multicast,
        // IANA's special-purpose registry (RFC 6890, as of 2025): this network, IETF protocols, three
        // documentation nets, 6to4 relays, benchmarks, future use. What it has as globally reachable
        // beyond 192.0.0.0/24 (AS112: 192.31.196/24, 192.175.48/24; AMT: 192.52.193/24) stays public.
        [0, ..]
        | [192, 0, 0, _]
        | [192, 0, 2, _]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [192, 88, 99, _]
        | [198, 18..=19, ..]
        | [240..=255, ..] => AddressClass::Reserved,
        _ => AddressClass::Public,
    }
}

fn classify_v6(ip: Ipv6Addr) -> AddressClass {
    if METADATA_V6.contains(&ip) {
        return AddressClass::Metadata;
    }
    if ip.is_unspecified() {
        return AddressClass::Unspecified;
    }
    if ip.is_loopback() {
        return AddressClass::Loopback;
    }
    match ip.segments() {
        [0xff00..=0xffff, ..] => AddressClass::Multicast,
        [0xfe80..=0xfebf, ..] => AddressClass::LinkLocal,
        [0xfc00..=0xfdff, ..] => AddressClass::Private,
        // IANA's special-purpose registry (RFC 6890 and RFC 8190, as of 2025): IETF protocols (2001::/23,
        // with benchmarks, ORCHID and DRIP), documentation (RFC 3849, RFC 9637).
        [0x2001, 0x0000..=0x01ff, ..] | [0x2001, 0x0db8, ..] | [0x3fff, 0x0000..=0x0fff, ..] => {
            AddressClass::Reserved
        }
        // Only 2000::/3 is handed out for global unicast. The rest is not: discard (100::/64), dummy
        // (100:0:0:1::/64, RFC 9780), SRv6 SIDs (5f00::/16, RFC 9602), site-local (fec0::/10, RFC 3879).
        [0x2000..=0x3fff, ..] => AddressClass::Public,
        _ => AddressClass::Reserved,
    }
}

/// The IPv4 addresses that `ip` may carry, each with the bit at which it begins (or `None` where its
/// bits are not in one piece or inverted). Canonicalised addresses never hold the mapped form.
pub(crate) fn embedded_v4(ip: Ipv6Addr) -> impl Iterator<Item = (Ipv4Addr, Option<u8>)> + Clone {
    let o = ip.octets();
    let s = ip.segments();
    let at = |byte: usize| {
        (Ipv4Addr::new(o[byte], o[byte + 1], o[byte + 2], o[byte + 3]), Some(byte as u8 * 8))
    };
    let mut found = [None; 4];
    match s {
        // Compatible (RFC 4291 §2.5.5.1); `::` and `::1` are IPv6's own.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 || low > 1 => found[0] = Some(at(12)),
        // Mapped, and the "translated" form of SIIT (RFC 2765).
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] => found[0] = Some(at(12)),
        // NAT64, well-known prefix (RFC 6052).
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => found[0] = Some(at(12)),
        // NAT64, local-use prefix (RFC 8215). The length of the prefix in use is not known, so every
        // layout of RFC 6052 §2.2 that the zero bits allow is looked at.
        [0x64, 0xff9b, 1, ..] => {
            if o[8] == 0 && o[11..] == [0; 5] {
                found[0] = Some((Ipv4Addr::new(o[6], o[7], o[9], o[10]), None));
            }
            if o[8] == 0 && o[12..] == [0; 4] {
                found[1] = Some((Ipv4Addr::new(o[7], o[9], o[10], o[11]), None));
            }
            if o[8] == 0 && o[13..] == [0; 3] && o[9..13] != [0; 4] {
                found[2] = Some((Ipv4Addr::new(o[9], o[10], o[11], o[12]), Some(72)));
            }
            if o[12..] != [0; 4] {
                found[3] = Some(at(12));
            }
        }
        // 6to4 (RFC 3056).
        [0x2002, ..] => found[0] = Some(at(2)),
        // Teredo (RFC 4380): the client with its bits inverted.
        [0x2001, 0, ..] => {
            found[0] = Some((Ipv4Addr::new(!o[12], !o[13], !o[14], !o[15]), None));
        }
        _ if is_isatap(ip) => found[0] = Some(at(12)),
        _ => {}
    }
    found.into_iter().flatten()
}

/// An ISATAP interface identifier (RFC 5214 §6.1), under any prefix.
const fn is_isatap(ip: Ipv6Addr) -> bool {
    matches!(ip.segments(), [_, _, _, _, 0 | 0x0200, 0x5efe, _, _])
}
