//! Every mistake has a place, a code and a fix, and all of them come at once.
#![allow(clippy::unwrap_used, clippy::panic)]
mod support;

use egress_policy::{Problem, compile};
use serde_json::{Value, json};
use support::*;

fn problems(rules: Value, change: impl FnOnce(&mut Value)) -> Vec<Problem> {
    try_open(rules, change).err().unwrap_or_default()
}

#[test]
fn each_mistake_in_a_rule_has_its_code_and_place() {
    for (to, other, code, place) in [
        ("*.com", json!({}), "too_wide", "rules[0].to[0]"),
        (".co.uk", json!({}), "too_wide", "rules[0].to[0]"),
        ("*", json!({}), "too_wide", "rules[0].to[0]"),
        ("0.0.0.0/0", json!({}), "too_wide", "rules[0].to[0]"),
        ("wide", json!({}), "too_wide", "rules[0].to[0]"),
        ("awz", json!({}), "unknown_reference", "rules[0].to[0]"),
        ("a..b", json!({}), "bad_name", "rules[0].to[0]"),
        ("a*.b.org", json!({}), "bad_wildcard", "rules[0].to[0]"),
        ("x.org:0", json!({}), "bad_port", "rules[0].to[0]"),
        ("10.0.0.1/8", json!({}), "host_bits", "rules[0].to[0]"),
        ("x.org", json!({"name": "Bad Name"}), "bad_rule_name", "rules[0].name"),
        ("x.org", json!({"from": [{"cidr": "10.0.0.1/8"}]}), "host_bits", "rules[0].from[0].cidr"),
        ("x.org", json!({"from": [{"cidr": "all"}]}), "bad_network", "rules[0].from[0].cidr"),
        ("x.org", json!({"message": "{decison}"}), "bad_message", "rules[0].message"),
        ("x.org", json!({"dial": "y.org"}), "bad_dial", "rules[0].dial"),
        (
            "x.org",
            json!({"connections": {"max": 0, "new_per_second": null}}),
            "bad_limit",
            "rules[0].connections.max",
        ),
        (
            "x.org",
            json!({"connections": {"per_source": {"max": 1, "new_per_second": 4_294_967_295u32}}}),
            "bad_limit",
            "rules[0].connections.per_source.new_per_second",
        ),
        (
            "x.org",
            json!({"connections": {"new_per_second": 1, "per_source": {"max": 1, "burst": 2}}}),
            "burst_without_rate",
            "rules[0].connections.per_source.burst",
        ),
        (
            "x.org",
            json!({"connections": {"max": 5, "per_source": {"max": 6, "new_per_second": null}}}),
            "never_reached",
            "rules[0].connections.per_source.max",
        ),
        (
            "x.org",
            json!({"connections": {"new_per_second": 5, "per_source": {"max": null, "new_per_second": 6}}}),
            "never_reached",
            "rules[0].connections.per_source.new_per_second",
        ),
        (
            "x.org",
            json!({"connections": {"max": 1, "wait_ms": 60_001}}),
            "bad_wait",
            "rules[0].connections.when_full",
        ),
        (
            "x.org",
            json!({"connections": {"wait_ms": 1}}),
            "wait_without_bound",
            "rules[0].connections.when_full",
        ),
        (
            "x.org",
            json!({"deny": true, "connections": {"per_source": {"max": 1}}}),
            "deny_has_terms",
            "rules[0].connections",
        ),
        ("x.org", json!({"deny": true, "dial": "y.org:1"}), "deny_has_terms", "rules[0].dial"),
        ("x.org", json!({"to": []}), "no_destination", "rules[0]"),
        (
            "x.org",
            json!({"to": [{"name": "10.0.0.1", "addresses": ["10.0.0.0/8"]}]}),
            "bad_name",
            "rules[0].to[0]",
        ),
        (
            "x.org",
            json!({"to": [{"name": "x.org", "addresses": []}]}),
            "bad_addresses",
            "rules[0].to[0]",
        ),
        (
            "x.org",
            json!({"to": [{"name": "x.org", "addresses": ["0.0.0.0/0"]}]}),
            "too_wide",
            "rules[0].to[0].addresses[0]",
        ),
    ] {
        let found = problems(json!([rule("r", &[to], other.clone())]), |d| {
            d["groups"] = json!({"aws": ["*.amazonaws.com"], "wide": ["*.org"]})
        });
        assert_eq!(found.len(), 1, "{to} {other}: {found:?}");
        let text = found[0].to_string();
        assert!(
            found[0].code == code && text.starts_with(&format!("{place}: ")),
            "{to} {other}: {} {text}",
            found[0].code
        );
    }
}

#[test]
fn anywhere_and_companies_suffixes_are_allowed() {
    let wide = json!({"anywhere": true});
    assert!(problems(json!([rule("r", &["*", "*.com", "0.0.0.0/0"], wide)]), |_| {}).is_empty());
    assert!(
        problems(
            json!([rule(
                "r",
                &["*.github.io", "*.s3.amazonaws.com", "*.corp", "intranet."],
                json!({})
            )]),
            |_| {}
        )
        .is_empty()
    );
}

#[test]
fn each_mistake_outside_the_rules_has_its_code() {
    let listener = |key: &'static str, value: Value| {
        move |d: &mut Value| d["settings"]["listeners"][0][key] = value
    };
    type Change = Box<dyn FnOnce(&mut Value)>;
    let cases: Vec<(&str, Change)> = vec![
        ("bad_listener_name", Box::new(listener("name", json!("x y")))),
        ("bad_bind", Box::new(listener("bind", json!("0.0.0.0")))),
        ("bad_accept", Box::new(listener("accept", json!(["tsl"])))),
        ("bad_accept", Box::new(listener("accept", json!(["tls", "several"])))),
        ("bad_accept", Box::new(listener("accept", json!(["tls", "tls"])))),
        ("bad_accept", Box::new(listener("accept", json!(["tls", "tcp"])))),
        ("bad_accept", Box::new(listener("accept", json!(["dns", "tls"])))),
        ("bad_accept", Box::new(listener("accept", json!([])))),
        ("needs_to", Box::new(listener("accept", json!(["tcp"])))),
        ("unused_to", Box::new(listener("to", json!("x.org:1")))),
        (
            "bad_destination",
            Box::new(
                |d| d["settings"]["listeners"] = json!([{"name": "t", "bind": "[::]:1", "accept": ["tcp"], "port": null, "to": "x.org"}]),
            ),
        ),
        ("bad_port", Box::new(listener("port", json!(65536)))),
        (
            "duplicate_listener",
            Box::new(|d| {
                let mut copy = d["settings"]["listeners"][0].clone();
                copy["bind"] = json!("127.0.0.1:9");
                d["settings"]["listeners"].as_array_mut().unwrap().push(copy);
            }),
        ),
        (
            "duplicate_bind",
            Box::new(|d| {
                let mut copy = d["settings"]["listeners"][0].clone();
                copy["name"] = json!("other");
                d["settings"]["listeners"].as_array_mut().unwrap().push(copy);
            }),
        ),
        ("bad_timeout", Box::new(|d| d["settings"]["timeouts"]["idle_ms"] = json!(0))),
        ("bad_server", Box::new(|d| d["settings"]["resolver"]["servers"] = json!(["dns"]))),
        ("bad_address", Box::new(|d| d["settings"]["resolver"]["hosts"] = json!({"x.org": ["y"]}))),
        (
            "bad_name",
            Box::new(|d| d["settings"]["resolver"]["hosts"] = json!({"x..org": ["1.1.1.1"]})),
        ),
        ("bad_message", Box::new(|d| d["default"]["message"] = json!("{x"))),
        ("nested_group", Box::new(|d| d["groups"] = json!({"a": ["b"], "b": ["x.org"]}))),
        ("bad_reference_name", Box::new(|d| d["groups"] = json!({"a.b": []}))),
        (
            "list_unreadable",
            Box::new(|d| d["lists"] = json!({"ads": {"file": "/nonexistent/ads"}})),
        ),
        ("bad_version", Box::new(|d| d["v"] = json!(2))),
        ("bad_document", Box::new(|d| d["surprise"] = json!(2))),
    ];
    for (code, change) in cases {
        let found = problems(json!([]), change);
        assert!(found.len() == 1 && found[0].code == code, "{code}: {found:?}");
    }
}

/// (what was written, the offending text in the message, what the fix proposes)
#[test]
fn each_mistake_is_quoted_and_its_fix_can_be_taken() {
    let item =
        |name: &str, addresses: Value| json!({"to": [{"name": name, "addresses": addresses}]});
    for (to, other, message, fix) in [
        ("api.*.com:8443", json!({}), "`api.*.com`", "api.example.com:8443"),
        ("AWS", json!({}), "`AWS`", "`aws`; the host of this one label is written `aws.`"),
        ("intranet", json!({}), "`intranet`", "`intranet.`"),
        ("a_b!", json!({}), "`a_b!`", "api.stripe.com"),
        ("x.org", json!({"dial": "y.org"}), "`y.org`", "\"y.org:443\""),
        ("x.org", json!({"dial": "2001:db8::1"}), "`2001:db8::1`", "\"[2001:db8::1]:443\""),
        ("x.org", json!({"dial": "y..org"}), "`y..org`", "\"edge.partner.com:8443\""),
        (
            "x.org",
            json!({"connections": {"max": null, "new_per_second": 0}}),
            "`new_per_second: 0`",
            "leave `new_per_second` out",
        ),
        (
            "",
            item("10.2.0.0/16", json!(["10.0.0.0/8"])),
            "`10.2.0.0/16`",
            "write 10.2.0.0/16 itself",
        ),
        ("", item("x.org", json!([])), "`x.org`", "leave `addresses` out"),
        ("", item("x.org", json!(vec!["10.0.0.1"; 1001])), "1001", "fewer"),
    ] {
        let found = problems(json!([rule("r", &[to], other.clone())]), |d| {
            d["groups"] = json!({"aws": ["*.amazonaws.com"]})
        });
        let [problem] = found.as_slice() else { panic!("{to} {other}: {found:?}") };
        assert!(problem.message.contains(message) && problem.fix.contains(fix), "{problem}");
    }
    type Change = fn(&mut Value);
    let cases: [(Change, &str, &str); 7] = [
        (
            |d| d["settings"]["listeners"] = json!([{"name": "t", "bind": "[::]:1", "accept": ["tcp"], "port": null, "to": "x.org"}]),
            "`x.org`",
            "\"x.org:443\"",
        ),
        (
            |d| d["settings"]["listeners"][0]["accept"] = json!(["tls", "transparent"]),
            "`[tls, transparent]`",
            "a listener of its own",
        ),
        (
            |d| d["settings"]["listeners"][0]["accept"] = json!(["tcp", "tls"]),
            "`[tls, tcp]`",
            "a listener of its own",
        ),
        (
            |d| d["settings"]["resolver"]["servers"] = json!(["fd00::53"]),
            "`fd00::53`",
            "\"[fd00::53]:53\"",
        ),
        (
            |d| d["settings"]["resolver"]["hosts"] = json!({"x.org": ["10.0.0.1", "y"]}),
            "`y`, of `x.org`",
            "10.20.0.7",
        ),
        (
            |d| {
                d["settings"]["resolver"]["hosts"] =
                    json!({"X.org": ["10.0.0.1"], "x.org.": ["10.0.0.2"]})
            },
            "`x.org.` is given twice",
            "one of them",
        ),
        (|d| d["settings"]["resolver"]["timeout_ms"] = json!(0), "`timeout`", "leave it out"),
    ];
    for (change, message, fix) in cases {
        let found = problems(json!([]), change);
        let [problem] = found.as_slice() else { panic!("{message}: {found:?}") };
        assert!(problem.message.contains(message) && problem.fix.contains(fix), "{problem}");
    }
}

/// Terminals act upon some of them.
#[test]
fn no_control_character_of_a_policy_gets_into_a_problem() {
    let mut found =
        problems(json!([rule("r\u{1b}", &["a\u{7f}s", "x\u{9b}.org"], json!({}))]), |d| {
            d["groups"] = json!({"a\u{18}s": ["\u{1b}[2J"]})
        });
    found.extend(problems(json!([]), |d| d["settings"]["w\u{7f}rkers"] = json!(1)));
    assert!(found.len() > 5, "{found:?}");
    for problem in found {
        assert!(!problem.to_string().chars().any(char::is_control), "{problem:?}");
    }
}

#[test]
fn all_problems_come_at_once() {
    let found = problems(
        json!([
            rule("a", &["a..b", "*.com"], json!({"dial": "x"})),
            rule("a", &["x.org:0"], json!({"line": 9}))
        ]),
        |_| {},
    );
    let mut codes: Vec<&str> = found.iter().map(|problem| problem.code).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["bad_dial", "bad_name", "bad_port", "duplicate_rule", "too_wide"]);
    let twice = found.iter().find(|problem| problem.code == "duplicate_rule").unwrap().to_string();
    assert!(twice.contains("policy.yaml:9") && twice.contains("policy.yaml:1"), "{twice}");
    assert!(compile(b"not json").is_err());
}
