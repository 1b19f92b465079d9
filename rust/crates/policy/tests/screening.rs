//! Which addresses may be dialled, and who may say so.
#![allow(clippy::unwrap_used, clippy::panic)]
mod support;

use egress_policy::{Origin, Reason, Snapshot, classify};
use serde_json::json;
use support::*;

#[test]
fn every_address_has_its_class() {
    for (address, class) in [
        ("1.1.1.1", "public"),
        ("8.8.8.8", "public"),
        ("100.63.255.255", "public"),
        ("100.128.0.0", "public"),
        ("172.15.255.255", "public"),
        ("172.32.0.0", "public"),
        ("192.167.1.1", "public"),
        ("198.17.255.255", "public"),
        ("198.20.0.0", "public"),
        ("169.253.1.1", "public"),
        ("223.255.255.255", "public"),
        ("128.0.0.1", "public"),
        ("10.0.0.0", "private"),
        ("10.255.255.255", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.0.1", "private"),
        ("100.64.0.1", "private"),
        ("100.127.255.255", "private"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.255", "loopback"),
        ("169.254.0.1", "link_local"),
        ("169.254.169.253", "link_local"),
        ("169.254.169.254", "metadata"),
        ("169.254.170.2", "metadata"),
        ("169.254.170.23", "metadata"),
        ("169.254.169.252", "metadata"),
        ("169.254.42.42", "metadata"),
        ("169.254.0.23", "metadata"),
        ("100.100.100.200", "metadata"),
        ("100.96.0.96", "metadata"),
        ("100.80.80.80", "metadata"),
        ("168.63.129.16", "metadata"),
        ("192.0.0.192", "metadata"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.255", "multicast"),
        ("0.0.0.0", "unspecified"),
        ("255.255.255.255", "broadcast"),
        ("0.0.0.1", "reserved"),
        ("192.0.0.1", "reserved"),
        ("192.0.2.1", "reserved"),
        ("198.51.100.1", "reserved"),
        ("203.0.113.1", "reserved"),
        ("198.18.0.1", "reserved"),
        ("198.19.255.255", "reserved"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.254", "reserved"),
        ("192.88.99.1", "reserved"),
        ("2606:4700::1111", "public"),
        ("2001:4860:4860::8888", "public"),
        ("2a00::1", "public"),
        ("fc00::1", "private"),
        ("fdff::1", "private"),
        ("::1", "loopback"),
        ("::", "unspecified"),
        ("fe80::1", "link_local"),
        ("febf::1", "link_local"),
        ("fec0::1", "reserved"),
        ("ff02::1", "multicast"),
        ("fd00:ec2::254", "metadata"),
        ("fd00:ec2::23", "metadata"),
        ("fd20:ce::254", "metadata"),
        ("fd00:c1::a9fe:a9fe", "metadata"),
        ("fd00:100::100:200", "metadata"),
        ("fd00:42::42", "metadata"),
        ("fd00:a9fe:a9fe::1", "metadata"),
        ("fe80::a9fe:a9fe", "metadata"),
        ("fd00:ec2::253", "private"),
        ("2001:db8::1", "reserved"),
        ("3fff::1", "reserved"),
        ("100::1", "reserved"),
        ("2001:10::1", "reserved"),
        ("4000::1", "reserved"),
        ("5f00::1", "reserved"),
        // IPv4 inside: mapped, compatible, translated, NAT64 of both kinds, 6to4, Teredo, ISATAP.
        ("::ffff:10.0.0.1", "private"),
        ("::ffff:8.8.8.8", "public"),
        ("::ffff:169.254.169.254", "metadata"),
        ("::10.0.0.1", "private"),
        ("::8.8.8.8", "public"),
        ("::127.0.0.1", "loopback"),
        ("::ffff:0:10.0.0.1", "private"),
        ("64:ff9b::10.0.0.1", "private"),
        ("64:ff9b::8.8.8.8", "public"),
        ("64:ff9b::a9fe:a9fe", "metadata"),
        ("64:ff9b:1::10.0.0.1", "private"),
        ("64:ff9b:1::8.8.8.8", "public"),
        ("64:ff9b:1:a00:0:100::", "private"),
        ("64:ff9b:1:808:8:800::", "public"),
        ("2002:a00:1::1", "private"),
        ("2002:808:808::1", "public"),
        ("2002:7f00:1::", "loopback"),
        ("2001:0:808:808:0:0:f5ff:fffe", "private"),
        ("2001:0:a00:1:0:0:f7f7:f7f7", "public"),
        ("2a00::5efe:10.0.0.1", "private"),
        ("2a00::200:5efe:8.8.8.8", "public"),
        ("fe80::5efe:8.8.8.8", "link_local"),
    ] {
        assert_eq!(classify(ip(address)).word(), class, "{address}");
    }
}

/// Both ends of every block of IANA's special-purpose registries (2025), and the addresses beside them.
#[test]
fn every_block_of_the_special_purpose_registries_has_its_class() {
    for (block, class) in [
        ("0.0.0.0/8", "reserved"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "private"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link_local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "reserved"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "reserved"),
        ("198.51.100.0/24", "reserved"),
        ("203.0.113.0/24", "reserved"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        // In the registry, and globally reachable: AS112 twice, AMT.
        ("192.31.196.0/24", "public"),
        ("192.52.193.0/24", "public"),
        ("192.175.48.0/24", "public"),
        ("100::/64", "reserved"),
        ("100:0:0:1::/64", "reserved"),
        ("2001:1::/32", "reserved"),
        ("2001:2::/48", "reserved"),
        ("2001:3::/32", "reserved"),
        ("2001:4:112::/48", "reserved"),
        ("2001:10::/28", "reserved"),
        ("2001:20::/28", "reserved"),
        ("2001:30::/28", "reserved"),
        ("2001:1ff::/32", "reserved"),
        ("2001:db8::/32", "reserved"),
        ("3fff::/20", "reserved"),
        ("5f00::/16", "reserved"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link_local"),
        ("fec0::/10", "reserved"),
        ("ff00::/8", "multicast"),
        // Handed out: the registry of global unicast, and AS112.
        ("2001:200::/23", "public"),
        ("2620:4f:8000::/48", "public"),
        ("2c00::/12", "public"),
    ] {
        let net: ipnet::IpNet = block.parse().unwrap();
        let (first, last) = match net {
            // The first of 0/8 and the last of 240/4 have classes of their own.
            ipnet::IpNet::V4(net) => (
                u32::from(net.network()).max(1).into(),
                u32::from(net.broadcast()).min(u32::MAX - 1).into(),
            ),
            ipnet::IpNet::V6(net) => (net.network().into(), net.broadcast().into()),
        };
        let of = |ip: u128| match net {
            ipnet::IpNet::V4(_) => classify(std::net::Ipv4Addr::from(ip as u32).into()).word(),
            ipnet::IpNet::V6(_) => classify(std::net::Ipv6Addr::from(ip).into()).word(),
        };
        assert_eq!((of(first), of(last)), (class, class), "{block}");
    }
    for beside in [
        "9.255.255.255",
        "11.0.0.0",
        "126.255.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "192.0.1.0",
        "191.255.255.255",
        "192.0.3.0",
        "192.88.98.255",
        "192.88.100.0",
        "192.169.0.0",
        "198.51.99.255",
        "198.51.101.0",
        "203.0.112.255",
        "203.0.114.0",
        "223.255.255.255",
        "2001:200::",
        "2001:db7:ffff::",
        "2001:db9::",
        "3ffe:ffff::",
        "3fff:1000::",
        "2003::",
        "2000::",
    ] {
        assert_eq!(classify(ip(beside)).word(), "public", "{beside}");
    }
}

fn screened(snapshot: &Snapshot, to: &str, origin: Origin, address: &str) -> String {
    let decision = decide(snapshot, "10.9.0.1", to, 443);
    match snapshot.screen(snapshot.source(ip("10.9.0.1")), &decision, origin, ip(address), 443, NOW)
    {
        Ok(()) => "ok".into(),
        Err(refused) => format!("{}{}", refused.reason, if refused.audit { " audit" } else { "" }),
    }
}

#[test]
fn answers_inwards_are_refused_unless_addresses_name_them() {
    let snapshot = open(json!([
        rule("plain", &["x.org"], json!({})),
        rule(
            "corp",
            &[],
            json!({"to": [{"name": "artifacts.corp", "addresses": ["10.2.0.0/16", "fd00::/8", "1.2.3.4"]}]})
        ),
    ]));
    for (to, address, expected) in [
        ("x.org", "8.8.8.8", "ok"),
        ("x.org", "10.2.0.1", "private_address"),
        ("x.org", "169.254.169.254", "forbidden_address"),
        ("x.org", "64:ff9b::10.2.0.1", "private_address"),
        ("x.org", "::ffff:127.0.0.1", "forbidden_address"),
        ("artifacts.corp", "10.2.0.1", "ok"),
        ("artifacts.corp", "10.2.255.255", "ok"),
        ("artifacts.corp", "64:ff9b::10.2.0.1", "ok"),
        ("artifacts.corp", "fd00::7", "ok"),
        ("artifacts.corp", "1.2.3.4", "ok"),
        ("artifacts.corp", "10.3.0.0", "private_address"),
        ("artifacts.corp", "10.1.255.255", "private_address"),
        ("artifacts.corp", "8.8.8.8", "forbidden_address"),
        ("artifacts.corp", "1.2.3.5", "forbidden_address"),
    ] {
        assert_eq!(screened(&snapshot, to, Origin::Resolved, address), expected, "{to} {address}");
        assert_eq!(screened(&snapshot, to, Origin::Operator, address), "ok", "{to} {address}");
    }
}

/// 64:ff9b:1::/48 does not say where in it the IPv4 address lies: each of the places has to be permitted.
#[test]
fn every_reading_of_an_embedded_address_must_be_among_the_addresses() {
    let to = |addresses: &[&str]| {
        open(json!([rule("r", &[], json!({"to": [{"name": "x.corp", "addresses": addresses}]}))]))
    };
    // 10.2.3.4 by a /48 prefix, 2.3.4.0 by a /56 prefix, 3.4.0.0 by a /64 prefix.
    let address = "64:ff9b:1:a02:3:400::";
    for (addresses, expected) in [
        (&["2.0.0.0/8"][..], "private_address"),
        (&["10.0.0.0/8"], "private_address"),
        (&["10.0.0.0/8", "2.0.0.0/8", "3.0.0.0/8"], "ok"),
        (&["64:ff9b:1:a02:3:400::"], "ok"),
    ] {
        assert_eq!(screened(&to(addresses), "x.corp", Origin::Resolved, address), expected);
    }
}

#[test]
fn addresses_that_hold_all_of_ipv4_open_no_private_address_in_it() {
    let wide = open(json!([rule(
        "r",
        &[],
        json!({"to": [{"name": "x.corp", "addresses": ["64:ff9b::/96", "2001::/16", "2002::/16", "::/80"]}]})
    )]));
    for (address, expected) in [
        ("64:ff9b::8.8.8.8", "ok"),
        ("64:ff9b::10.0.0.1", "private_address"),
        ("64:ff9b::169.254.169.254", "forbidden_address"),
        ("2002:808:808::1", "ok"),
        ("2002:7f00:1::1", "forbidden_address"),
        ("2001:0:808:808:0:0:f5ff:fffe", "private_address"),
        ("2001:4860:4860::8888", "ok"),
        ("::127.0.0.1", "forbidden_address"),
    ] {
        assert_eq!(screened(&wide, "x.corp", Origin::Resolved, address), expected, "{address}");
    }
    let narrow = open(json!([rule(
        "r",
        &[],
        json!({"to": [{"name": "x.corp", "addresses": ["64:ff9b::a00:0/104"]}]})
    )]));
    assert_eq!(screened(&narrow, "x.corp", Origin::Resolved, "64:ff9b::10.0.0.1"), "ok");
}

#[test]
fn an_address_that_a_rule_names_may_be_dialled() {
    let snapshot = open(json!([
        rule(
            "nets",
            &["10.20.0.0/16", "169.254.169.254", "127.0.0.1", "64:ff9b::/96", "64:ff9b::a14:0/112"],
            json!({})
        ),
        rule("wide", &["0.0.0.0/0", "*"], json!({"anywhere": true}))
    ]));
    for (address, expected) in [
        ("10.20.0.1", "ok"),
        ("169.254.169.254", "ok"),
        ("127.0.0.1", "ok"),
        ("64:ff9b::a14:1", "ok"),
        // A NAT64 prefix holds all of IPv4, so it names no place in it.
        ("64:ff9b::a15:1", "private_address"),
        ("10.21.0.1", "private_address"),
        ("127.0.0.2", "forbidden_address"),
        ("fd00::1", "private_address"),
        ("8.8.8.8", "ok"),
    ] {
        assert_eq!(screened(&snapshot, address, Origin::Client, address), expected, "{address}");
    }
    // What a client may name is not what a name may resolve to, be it the one in the rule's `dial`.
    assert_eq!(screened(&snapshot, "10.20.0.1", Origin::Resolved, "10.20.0.2"), "private_address");
    assert_eq!(screened(&snapshot, "x.org", Origin::Resolved, "10.20.0.1"), "private_address");
}

#[test]
fn deny_networks_apply_to_answers_too() {
    let deny = |mode: &str| json!({"deny": true, "mode": mode});
    let snapshot = open(json!([
        rule("any", &["x.org"], json!({})),
        rule("bad", &["8.8.8.0/24"], deny("enforce")),
        rule("watch", &["9.9.9.9"], deny("audit"))
    ]));
    for origin in [Origin::Resolved, Origin::Operator] {
        assert_eq!(screened(&snapshot, "x.org", origin, "8.8.8.8"), "rule_deny");
        assert_eq!(screened(&snapshot, "x.org", origin, "64:ff9b::8.8.8.8"), "rule_deny");
        assert_eq!(screened(&snapshot, "x.org", origin, "9.9.9.9"), "rule_deny audit");
        assert_eq!(screened(&snapshot, "x.org", origin, "8.8.9.8"), "ok");
    }
}

#[test]
fn the_default_may_open_private_addresses_and_nothing_else() {
    let snapshot = open_with(json!([rule("any", &["x.org"], json!({}))]), |d| {
        d["default"]["private_addresses"] = json!("allow")
    });
    assert_eq!(screened(&snapshot, "x.org", Origin::Resolved, "10.0.0.1"), "ok");
    assert_eq!(screened(&snapshot, "x.org", Origin::Resolved, "127.0.0.1"), "forbidden_address");
    assert_eq!(
        screened(&snapshot, "x.org", Origin::Resolved, "100.100.100.200"),
        "forbidden_address"
    );
}

#[test]
fn under_audit_private_answers_are_recorded_only() {
    let snapshot = open(json!([rule("any", &["x.org"], json!({"mode": "audit"}))]));
    assert_eq!(screened(&snapshot, "x.org", Origin::Resolved, "10.0.0.1"), "private_address audit");
    assert_eq!(Reason::PrivateAddress.word(), "private_address");
}
