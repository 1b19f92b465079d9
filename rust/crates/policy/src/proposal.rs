//! What a broken destination was probably meant to be. Whatever is proposed here compiles.

use std::net::IpAddr;

use crate::pattern::{Pattern, Target, parse, too_wide};
use crate::settings::shown;

/// Whether `text` may be proposed: it would be taken as it stands, and is short enough to be shown whole.
fn works(text: &str) -> bool {
    shown(text) == text
        && parse(text, false).is_ok_and(|Pattern { target, .. }| {
            too_wide(&target).is_none() && !matches!(target, Target::Reference(_))
        })
}

pub(crate) fn url_fix(scheme: &str, rest: &str) -> String {
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let with_port = format!("{host}:80");
    // HTTP without TLS has another port than a destination without one.
    let meant = if scheme == "http" && works(&with_port) { &with_port } else { host };
    if works(meant) {
        format!("write {meant}: a destination has no scheme and no path")
    } else {
        "write the host alone, such as api.stripe.com, without scheme and path".to_owned()
    }
}

/// What was probably meant by a `/` in what is no network: a name with a path, or IPv6 without its brackets.
pub(crate) fn net_fix(text: &str, after: &str) -> Option<String> {
    let (before, _) = text.split_once('/')?;
    let name = format!("{before}{after}");
    if before.parse::<IpAddr>().is_err() && works(&name) {
        return Some(format!("write {name}: a name has neither a prefix nor a path"));
    }
    let (net, ports) = text.rsplit_once(':')?;
    let bracketed = format!("[{net}]:{ports}");
    works(&bracketed).then(|| format!("write {bracketed}"))
}

/// What was probably meant by a `*` inside a label, or behind one.
pub(crate) fn wildcard_fix(rest: &str, after: &str) -> String {
    let (front, back) = rest.rsplit_once('*').unwrap_or(("", rest));
    // Of `*x.org` all is kept, of `a*b.x.org` the labels behind the broken one.
    let below = if front.trim_matches(['*', '.']).is_empty() {
        back.trim_start_matches('.')
    } else {
        back.split_once('.').map_or("", |(_, labels)| labels)
    };
    let (under, both) = (format!("*.{below}{after}"), format!(".{below}{after}"));
    let example = format!("{}{after}", rest.replace('*', "example"));
    if works(&under) {
        format!("write {under} (below it) or {both} (it and below)")
    } else if works(&example) {
        format!("write out each name that is meant, such as {example}")
    } else {
        "write out each name that is meant, such as api.stripe.com".to_owned()
    }
}

/// An address as it stands before a port.
pub(crate) fn bracketed(head: &str) -> String {
    if head.contains(':') { format!("[{}]", shown(head)) } else { shown(head) }
}

/// Without the brackets that only IPv6 addresses have.
pub(crate) fn bare_fix(bare: &str) -> String {
    if works(bare) { format!("write {bare}") } else { "leave the brackets out".to_owned() }
}

/// What was probably meant by ports that are a path, or several.
pub(crate) fn ports_fix(head: &str, text: &str) -> Option<String> {
    let with = |ports: &str| format!("{}:{}", bracketed(head), ports.trim());
    if let Some((ports, _)) = text.split_once('/') {
        let bare = with(ports);
        return works(&bare).then(|| format!("write {bare}: a destination has no path"));
    }
    let each: Vec<String> = text.split(',').map(with).collect();
    ((2..=8).contains(&each.len()) && each.iter().all(|one| works(one)))
        .then(|| format!("write a destination for each: {}", each.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (what was written, a part of the message, what the fix proposes): the proposal itself is taken.
    #[test]
    fn proposals_are_taken_as_they_stand() {
        for (text, message, proposals) in [
            ("api.*.com", "`api.*.com`", &["api.example.com"][..]),
            ("api.*.com:8443", "`api.*.com`", &["api.example.com:8443"]),
            ("api.*.amazonaws.com", "", &["*.amazonaws.com", ".amazonaws.com"]),
            ("a*.b.org:*", "`a*.b.org`", &["*.b.org:*", ".b.org:*"]),
            ("a*b.c.d.org", "`a*b.c.d.org`", &["*.c.d.org", ".c.d.org"]),
            ("*stripe.com", "`*stripe.com`", &["*.stripe.com", ".stripe.com"]),
            ("*.*.x.org", "`*.*.x.org`", &["*.x.org", ".x.org"]),
            ("*x.co.uk", "`*x.co.uk`", &["*.x.co.uk"]),
            ("*co.uk", "`*co.uk`", &["exampleco.uk"]),
            ("api.*", "`api.*`", &["api.example"]),
            ("**", "`**`", &["api.stripe.com"]),
            ("https://x.org/a?b", "`https://x.org/a?b` is a URL", &["x.org"]),
            ("http://x.org/", "URL", &["x.org:80"]),
            ("https://u:p@x.org:8443/", "URL", &["x.org:8443"]),
            ("http://[2001:db8::1]/", "URL", &["[2001:db8::1]:80"]),
            ("https://aws/", "URL", &["api.stripe.com"]),
            ("x.org/a", "`x.org/a`", &["x.org"]),
            ("x.org:8443/a", "`8443/a`", &["x.org:8443"]),
            ("x.org:80,443", "`80,443`", &["x.org:80", "x.org:443"]),
            ("x.org:", "`x.org:`", &[]),
            ("x.org:90-80", "90-80", &["x.org:80-90"]),
            ("[10.0.0.1]:1", "`10.0.0.1`", &["10.0.0.1:1"]),
            ("[..]:1", "`..`", &[]),
            ("[::1", "`[::1`", &["[2001:db8::1]:443"]),
            ("2001:db8::/32:443", "`2001:db8::/32:443`", &["[2001:db8::/32]:443"]),
            ("10.0.0.1/8", "`10.0.0.1/8`", &["10.0.0.0/8", "10.0.0.1"]),
            ("1.2.3.4/2", "`1.2.3.4/2`", &["1.2.3.4"]),
            ("10.0.0.0/33", "`10.0.0.0/33`", &["10.20.0.0/16", "192.0.2.7", "2001:db8::/32"]),
            ("*.10.0.0.1", "`*.10.0.0.1`", &["10.2.0.0/16"]),
            ("*.", "`*.`", &["api.stripe.com"]),
            ("a b.org", "`a b.org`", &["api.stripe.com"]),
        ] {
            let (_, told, fix) = parse(text, false).expect_err(text);
            assert!(told.contains(message), "{text}: {told}");
            for proposal in proposals {
                assert!(works(proposal) && fix.contains(proposal), "{text}: {fix}");
            }
            let wide = ["*.com", ".com", "*.co.uk", ".co.uk", "0.0.0.0/2"];
            let mut words = fix.split([' ', ',']);
            assert!(!words.any(|word| wide.contains(&word)), "{text}: {fix}");
        }
    }
}
