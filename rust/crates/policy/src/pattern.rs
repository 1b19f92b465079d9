//! The grammar of destinations: what rules and groups write in `to`.

use std::net::IpAddr;

use egress_hello::name::{Host, Name, parse_host};
use ipnet::IpNet;

use crate::decide::{PLACE_V4, PLACE_V6};
use crate::flat::form;
use crate::proposal::{bare_fix, bracketed, net_fix, ports_fix, url_fix, wildcard_fix};
use crate::settings::shown;

/// What a destination is, without its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// One of the three forms of [`form`].
    Name(u8, Name),
    Net(IpNet),
    Anywhere,
    /// A word without a dot: the name of a group or list.
    Reference(String),
}

/// Ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    pub low: u16,
    pub high: u16,
}

impl Ports {
    /// HTTPS: what a name without a port means.
    pub(crate) const HTTPS: Self = Self { low: 443, high: 443 };
    pub(crate) const ANY: Self = Self { low: 0, high: u16::MAX };
}

impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::ANY => f.write_str("any port"),
            Self { low, high } if low == high => write!(f, "{low}"),
            Self { low, high } => write!(f, "{low}-{high}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    pub target: Target,
    pub ports: Option<Ports>,
}

/// What is wrong with a piece of text: (code, message, fix).
pub(crate) type Fault = (&'static str, String, String);

fn fault<T>(code: &'static str, message: String, fix: impl Into<String>) -> Result<T, Fault> {
    Err((code, message, fix.into()))
}

/// Reads one item of `to`. A lone label is a [`Target::Reference`] unless `names_only`, or it ends in a dot.
pub(crate) fn parse(text: &str, names_only: bool) -> Result<Pattern, Fault> {
    if let Some((scheme, rest)) = text.split_once("://") {
        return fault(
            "bad_name",
            format!("`{}` is a URL, not a destination", shown(text)),
            url_fix(scheme, rest),
        );
    }
    let (head, ports) = split_ports(text)?;
    let ports = ports.map(|ports| parse_ports(head, ports)).transpose()?;
    let after = text.strip_prefix(head).unwrap_or_default();
    let target = parse_target(head, after, names_only)?;
    Ok(Pattern { target, ports })
}

/// Cuts off `:PORTS`. Two colons or more without brackets are an IPv6 address or network.
fn split_ports(text: &str) -> Result<(&str, Option<&str>), Fault> {
    if let Some(inner) = text.strip_prefix('[') {
        let Some((address, rest)) = inner.split_once(']') else {
            return fault(
                "bad_address",
                format!("`{}` has no closing bracket", shown(text)),
                "write [2001:db8::1]:443",
            );
        };
        let ports = rest.strip_prefix(':');
        if ports.is_none() && !rest.is_empty() {
            return fault(
                "bad_address",
                format!("`{}` has something other than a port after the bracket", shown(text)),
                "write [2001:db8::1]:443",
            );
        }
        if !address.contains(':') {
            let bare = text.replace(['[', ']'], "");
            return fault(
                "bad_address",
                format!("only IPv6 addresses are written in brackets, not `{}`", shown(address)),
                bare_fix(&bare),
            );
        }
        return Ok((address, ports));
    }
    match text.split_once(':') {
        Some((head, ports)) if !ports.contains(':') => Ok((head, Some(ports))),
        _ => Ok((text, None)),
    }
}

/// The ports of the destination `head`.
fn parse_ports(head: &str, text: &str) -> Result<Ports, Fault> {
    const FIX: &str =
        "write a port (443), a range (8000-8100), or * for any; ports go from 1 to 65535";
    if text == "*" {
        return Ok(Ports::ANY);
    }
    let number = |digits: &str| {
        let plain = (1..=5).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|port| plain && *port != 0)
    };
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    match (number(low), number(high)) {
        (Some(low), Some(high)) if low <= high => Ok(Ports { low, high }),
        (Some(low), Some(high)) => fault(
            "bad_port",
            format!("the range {low}-{high} of `{}` runs backwards", shown(head)),
            format!("write {}:{high}-{low}", bracketed(head)),
        ),
        _ if text.is_empty() => fault(
            "bad_port",
            format!("`{}:` has no port behind the colon", bracketed(head)),
            format!("leave the colon out, or {FIX}"),
        ),
        _ => {
            let fix = ports_fix(head, text).unwrap_or_else(|| FIX.to_owned());
            fault("bad_port", format!("`{}` is not a port", shown(text)), fix)
        }
    }
}

/// `after` is what follows in the destination: the ports with their colon.
fn parse_target(text: &str, after: &str, names_only: bool) -> Result<Target, Fault> {
    if text == "*" {
        return Ok(Target::Anywhere);
    }
    if text.contains('/') {
        return parse_net(text)
            .map(Target::Net)
            .map_err(|(code, message, fix)| (code, message, net_fix(text, after).unwrap_or(fix)));
    }
    let (form, rest) = match (text.strip_prefix("*."), text.strip_prefix('.')) {
        (Some(rest), _) => (form::BELOW, rest),
        (_, Some(rest)) => (form::TREE, rest),
        _ => (form::EXACT, text),
    };
    if rest.contains('*') {
        return fault(
            "bad_wildcard",
            format!("`*` stands for whole labels at the front only, not as in `{}`", shown(text)),
            wildcard_fix(rest, after),
        );
    }
    let word = form == form::EXACT && !names_only && !rest.contains(['.', ':']) && !rest.is_empty();
    if word && rest.is_ascii() {
        return Ok(Target::Reference(rest.to_owned()));
    }
    match parse_host(rest.as_bytes()) {
        // Other scripts have dots of their own.
        Ok(Host::Name(name)) if word && !name.as_str().contains('.') => {
            Ok(Target::Reference(rest.to_owned()))
        }
        Ok(Host::Name(name)) => Ok(Target::Name(form, name)),
        Ok(Host::Ip(ip)) if form == form::EXACT => Ok(Target::Net(IpNet::from(ip))),
        Ok(Host::Ip(_)) => fault(
            "bad_name",
            format!("`{}` puts a wildcard before an address", shown(text)),
            "write a network, such as 10.2.0.0/16",
        ),
        Err(why) => {
            fault("bad_name", format!("`{}` is not a host name: {why}", shown(text)), NAME_FIX)
        }
    }
}

/// What a host name looks like, for whoever wrote something else.
pub(crate) const NAME_FIX: &str =
    "write labels of a-z, 0-9 and -, joined by dots, such as api.stripe.com";

/// Reads an address or CIDR. IPv4 networks in their mapped form become IPv4, as addresses do.
pub(crate) fn parse_net(text: &str) -> Result<IpNet, Fault> {
    let parsed = match text.parse::<IpAddr>() {
        Ok(ip) => Ok(IpNet::from(ip)),
        Err(_) => text.parse::<IpNet>(),
    };
    let Ok(net) = parsed else {
        return fault(
            "bad_network",
            format!("`{}` is not an address or network", shown(text)),
            "write for example 10.20.0.0/16, 192.0.2.7 or 2001:db8::/32",
        );
    };
    if net.addr() != net.network() {
        return fault(
            "host_bits",
            format!("`{net}` has bits set beyond its prefix"),
            if is_wide(&net) {
                format!("write {} for the address alone", net.addr())
            } else {
                format!("write {}, or {} for the address alone", net.trunc(), net.addr())
            },
        );
    }
    match (net.addr().to_canonical(), net.prefix_len().checked_sub(96)) {
        (ip @ IpAddr::V4(_), Some(prefix)) if net.addr().is_ipv6() => IpNet::new(ip, prefix)
            .or_else(|_| {
                fault(
                    "bad_network",
                    format!("`{net}` is not a network"),
                    "write an IPv4 network as one, such as 10.20.0.0/16",
                )
            }),
        _ => Ok(net),
    }
}

/// Why `target` is so wide that it needs `anywhere: true`; `None` if it is not.
pub(crate) fn too_wide(target: &Target) -> Option<(String, String)> {
    let why = match target {
        Target::Anywhere => "`*` is every destination there is".to_owned(),
        Target::Name(form::BELOW | form::TREE, name) if is_public_suffix(name.as_str()) => {
            format!("`{name}` is a public suffix: everybody can register names below it")
        }
        Target::Net(net) if is_wide(net) => format!("`{net}` is a large part of the Internet"),
        _ => return None,
    };
    Some((why, "name the destinations, or say `anywhere: true` if you mean it".to_owned()))
}

/// A network that is no place; see [`crate::decide::names_a_place`].
pub(crate) fn is_wide(net: &IpNet) -> bool {
    net.prefix_len() < if net.addr().is_ipv4() { PLACE_V4 } else { PLACE_V6 }
}

/// A suffix that a registry hands out (the ICANN section of the public suffix list). Companies' own
/// suffixes (github.io) are single services to an egress policy, and private roots (corp) are not listed.
pub(crate) fn is_public_suffix(name: &str) -> bool {
    let listed = |name: &str| {
        psl::suffix(name.as_bytes()).is_some_and(|suffix| {
            suffix.typ() == Some(psl::Type::Icann) && suffix.as_bytes().len() == name.len()
        })
    };
    // The second probe finds parents of wildcard entries such as `*.ck`: all that lies below is a suffix.
    listed(name) || listed(&format!("0--0.{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match parse(text, false) {
            Ok(Pattern { target, ports }) => {
                let target = match target {
                    Target::Name(form, name) => {
                        format!("{}{name}", ["", "*.", "."][usize::from(form)])
                    }
                    Target::Net(net) => net.to_string(),
                    Target::Anywhere => "*".into(),
                    Target::Reference(word) => format!("@{word}"),
                };
                ports.map_or(target.clone(), |ports| format!("{target} {ports}"))
            }
            Err((code, _, _)) => format!("!{code}"),
        }
    }

    #[test]
    fn every_form_of_a_destination_is_read() {
        for (text, expected) in [
            ("api.stripe.com", "api.stripe.com"),
            ("API.Stripe.Com.", "api.stripe.com"),
            ("bücher.example:8443", "xn--bcher-kva.example 8443"),
            ("*.x.org", "*.x.org"),
            (".x.org:*", ".x.org any port"),
            ("x.org:8000-8100", "x.org 8000-8100"),
            ("aws", "@aws"),
            ("aws:8443", "@aws 8443"),
            ("bücher", "@bücher"),
            ("x。org", "x.org"),
            ("intranet.", "intranet"),
            ("*", "*"),
            ("*:53", "* 53"),
            ("10.20.0.0/16:9092", "10.20.0.0/16 9092"),
            ("10.20.0.7", "10.20.0.7/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("[2001:db8::/32]:443", "2001:db8::/32 443"),
            ("[2001:db8::1]:1-2", "2001:db8::1/128 1-2"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("", "!bad_name"),
            ("a..b", "!bad_name"),
            ("a*.b.com", "!bad_wildcard"),
            ("*.*.com", "!bad_wildcard"),
            ("*.10.0.0.1", "!bad_name"),
            ("1.2.3", "!bad_name"),
            ("x.org:0", "!bad_port"),
            ("x.org:65536", "!bad_port"),
            ("x.org:+1", "!bad_port"),
            ("x.org:9-8", "!bad_port"),
            ("x.org:", "!bad_port"),
            ("10.0.0.1/8", "!host_bits"),
            ("10.0.0.0/33", "!bad_network"),
            ("x.org/24", "!bad_network"),
            ("[10.0.0.1]:1", "!bad_address"),
            ("[::1", "!bad_address"),
            ("[::1]x", "!bad_address"),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn public_suffixes_are_icanns_only() {
        for wide in ["com", "co.uk", "ck", "kawasaki.jp", "zip", "org"] {
            assert!(is_public_suffix(wide), "{wide}");
        }
        for narrow in [
            "stripe.com",
            "github.io",
            "s3.amazonaws.com",
            "corp",
            "amazonaws.com",
            "bbc.co.uk",
            "svc.cluster.local",
        ] {
            assert!(!is_public_suffix(narrow), "{narrow}");
        }
    }
}
