//! What must hold for any bytes that a DNS listener receives. The fuzz target and the replay test of the hello crate
//! share it.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_hello::{
    dns::{
        Code, DnsError, ExtendedError, MAX_TCP, MAX_UDP, MIN_UDP, Query, Reply, kind, read_query,
        reject,
    },
    name::{Host, parse_host},
};

/// Where a question stands.
const HEADER: usize = 12;

pub fn dns_query(data: &[u8]) {
    match read_query(data) {
        Err(error) => {
            let told = reject(data, error);
            assert_eq!(told.is_some(), error.code().is_some());
            if let Some(told) = told {
                assert!(told.len() <= data.len() && told[..2] == data[..2]);
                assert_eq!(read_query(&told), Err(DnsError::Response), "nobody answers an answer");
            }
        }
        Ok(query) => {
            name(&query, data);
            replies(&query, data);
        }
    }
}

/// The name is the labels as they stand in the question, in lower case, and goes in again unchanged.
fn name(query: &Query, data: &[u8]) {
    let Ok(name) = query.name() else { return };
    assert_eq!(parse_host(name.as_bytes()), Ok(Host::Name(name.clone())));
    let mut rest = &data[HEADER..];
    for label in name.as_str().split('.') {
        let (length, more) = rest.split_first().expect("a label");
        let (wire, more) = more.split_at(usize::from(*length));
        assert_eq!(label.as_bytes(), wire.to_ascii_lowercase());
        rest = more;
    }
    assert_eq!(rest.first(), Some(&0));
}

fn replies(query: &Query, data: &[u8]) {
    let v4 = |last: u8| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let many: Vec<IpAddr> = (0..100).map(v4).chain([v6; 100]).collect();
    assert!((MIN_UDP..=MAX_UDP).contains(&query.udp_limit()));
    let text = String::from_utf8_lossy(data);
    for limit in [query.udp_limit(), MAX_TCP] {
        for addresses in [&many[..0], &many[..1], &many[99..101], &many] {
            let error = Some(ExtendedError { info: ExtendedError::BLOCKED, text: &text });
            let told = Reply { code: Code::NoError, addresses, ttl: 1, error }.write(query, limit);
            assert!(told.len() <= limit && told[..2] == query.id.to_be_bytes());
            let answers = usize::from(u16::from_be_bytes([told[6], told[7]]));
            let (is_cut, wanted) = (told[2] & 2 != 0, wanted(query, addresses));
            assert_eq!(answers, if is_cut { 0 } else { wanted });
            assert!(!is_cut || limit < MAX_TCP);
            let question = told.len().min(HEADER + 4);
            assert_eq!(told[HEADER..question], data[HEADER..question], "the question comes back");
            assert_eq!(read_query(&told), Err(DnsError::Response));
        }
    }
}

fn wanted(query: &Query, addresses: &[IpAddr]) -> usize {
    let of = |ip: &&IpAddr| query.kind == if ip.is_ipv4() { kind::A } else { kind::AAAA };
    addresses.iter().filter(of).count()
}
