//! What must hold for any policy and any snapshot. The fuzz targets and the replay test of the policy crate share it.
use std::net::IpAddr;

use egress_hello::name::{Host, parse_host};
use egress_policy::{
    Destination, Evidence, Identity, Origin, Problem, RuleId, Snapshot, Source, Verdict, compile,
    reseal,
};
use serde_json::{Map, Value, json};

/// Between the `until`s that rules are given, in unix seconds.
const NOW: u64 = 1_000_000;
const SOURCES: [&str; 4] = ["10.1.2.3", "192.0.2.9", "fd00:1::9", "::ffff:10.9.9.9"];
/// What callers have shown besides: a user, a SPIFFE ID and a TLV, each of which may be empty.
const SHOWN: [[&str; 3]; 4] = [
    ["", "", ""],
    ["alice", "", "pod"],
    ["", "spiffe://td/a/b", ""],
    ["bob\n", "spiffe://td/a", "x"],
];
/// Destinations of every check, besides those that the input speaks of.
const HOSTS: [&str; 9] = [
    "x.org",
    "a.x.org",
    "b.a.x.org",
    "intranet",
    "10.1.2.3",
    "8.8.8.8",
    "169.254.169.254",
    "fd00::1",
    "64:ff9b::10.2.0.1",
];
const PORTS: [u16; 3] = [443, 8050, 1];
/// Destinations of an input that are asked for; more would only make the check slow.
const MAX_ASKED: usize = 8;

/// JSON is a normalised document as it stands; anything else is the shorthand of [`shorthand`].
pub fn policy_document(data: &[u8]) {
    if data.first() == Some(&b'{') {
        // Lists and users are files of whoever runs this: a policy may name a device or a pipe.
        let named = |value: &Value| {
            value.get("lists").is_some_and(|lists| *lists != json!({}))
                || value.get("users").is_some_and(|users| !users.is_null())
        };
        if !serde_json::from_slice(data).is_ok_and(|value| named(&value)) {
            compiled(data, &[]);
        }
        return;
    }
    let (rules, groups, asked) = shorthand(&String::from_utf8_lossy(data));
    let turned: Vec<Value> = rules.iter().rev().cloned().collect();
    let one = compiled(&document(&rules, &groups), &asked);
    let other = compiled(&document(&turned, &groups), &asked);
    assert_eq!(one.is_some(), other.is_some(), "the order of the rules makes it compile");
    if let (Some(one), Some(other)) = (one, other) {
        each_flow(&asked, |source, host, port| {
            assert_eq!(said(&one, source, host, port), said(&other, source, host, port));
        });
    }
}

/// As it is, and with its length and its checksum set right: whatever opens can be asked anything.
pub fn policy_snapshot(data: &[u8]) {
    if let Ok(snapshot) = Snapshot::open(data.to_vec()) {
        ask_all(&snapshot, &[]);
    }
    let mut forged = data.to_vec();
    if let Some(length) = forged.get_mut(16..24) {
        length.copy_from_slice(&(data.len() as u64).to_le_bytes());
    }
    reseal(&mut forged);
    match Snapshot::open(forged) {
        Ok(snapshot) => ask_all(&snapshot, &[]),
        Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error:?}"),
    }
}

/// What an input of [`policy_document`] compiles to.
pub fn snapshot_of(data: &[u8]) -> Option<Vec<u8>> {
    if data.first() == Some(&b'{') {
        return compile(data).ok();
    }
    let (rules, groups, _) = shorthand(&String::from_utf8_lossy(data));
    compile(&document(&rules, &groups)).ok()
}

fn compiled(document: &[u8], asked: &[Host]) -> Option<Snapshot> {
    match compile(document) {
        Ok(bytes) => {
            let snapshot = Snapshot::open(bytes).expect("what compiles opens");
            ask_all(&snapshot, asked);
            Some(snapshot)
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            problems.iter().for_each(readable);
            None
        }
    }
}

/// A problem has a fix, and its text can go to a terminal.
fn readable(problem: &Problem) {
    assert!(problem.code != "internal" && !problem.fix.is_empty(), "{problem:?}");
    for text in [&problem.message, &problem.fix, &problem.to_string()] {
        assert!(!text.chars().any(char::is_control), "{problem:?}");
    }
}

/// One rule a line: letters (d deny, a audit, w anywhere, o over, s soon, p `dial`), then destinations, then
/// `<` and sources, each a network, `u=user`, `c=spiffe-id`, `t=tlv`, or several joined by `+`; l demands a login.
/// `name=net,net` is a destination with addresses; a line `@name item item` is a group.
fn shorthand(text: &str) -> (Vec<Value>, Value, Vec<Host>) {
    let (mut rules, mut groups, mut asked) = (Vec::new(), Map::new(), Vec::new());
    for line in text.lines() {
        let (head, from) = line.split_once('<').unwrap_or((line, ""));
        let mut words = head.split(' ').filter(|word| !word.is_empty());
        let Some(flags) = words.next() else { continue };
        let words: Vec<&str> = words.collect();
        if let Some(name) = flags.strip_prefix('@') {
            groups.insert(name.to_owned(), json!(words));
            continue;
        }
        for word in words.iter().take(MAX_ASKED) {
            let bare = word.trim_start_matches("*.").trim_start_matches('.');
            let bare = bare.split(['=', ':', '/']).next().unwrap_or_default();
            asked.extend(parse_host(bare.as_bytes()));
        }
        let to = words.iter().map(|word| match word.split_once('=') {
            Some((name, nets)) => {
                json!({"name": name, "addresses": nets.split(',').collect::<Vec<_>>()})
            }
            None => json!({"pattern": word}),
        });
        let from = from.split(' ').filter(|source| !source.is_empty()).map(|source| {
            let part = |part: &str| match part.split_at_checked(2).unwrap_or((part, "")) {
                ("u=", user) => ("user".to_owned(), json!(user)),
                ("c=", id) => ("spiffe".to_owned(), json!(id)),
                ("t=", value) => ("tlv".to_owned(), json!(value)),
                _ => ("cidr".to_owned(), json!(part)),
            };
            source.split('+').map(part).collect::<Map<_, _>>()
        });
        let flag = |letter| flags.contains(letter);
        let mut rule = json!({
            "name": format!("r{}", rules.len()), "file": "f.yaml", "line": rules.len() + 1,
            "to": to.collect::<Vec<_>>(),
            "from": from.collect::<Vec<_>>(),
            "deny": flag('d'), "anywhere": flag('w'),
        });
        if flag('a') {
            rule["mode"] = json!("audit");
        }
        if flag('l') {
            rule["evidence"] = json!("login");
        }
        if flag('p') {
            rule["dial"] = json!("edge.x.org:8443");
        }
        if flag('o') || flag('s') {
            rule["until"] = json!(if flag('o') { NOW } else { NOW + 1 });
        }
        rules.push(rule);
    }
    asked.truncate(MAX_ASKED);
    (rules, groups.into(), asked)
}

fn document(rules: &[Value], groups: &Value) -> Vec<u8> {
    let document = json!({
        "v": 1,
        "settings": {
            "workers": 0, "max_flows": 0, "low_latency": false,
            "listeners": [{"name": "tls", "bind": "127.0.0.1:8443", "accept": ["tls"], "port": 443, "to": null}],
            "timeouts": {"first_bytes_ms": 5000, "server_first_ms": 300, "connect_ms": 5000, "idle_ms": 3_600_000, "drain_ms": 300_000, "grace_ms": 0},
            "resolver": {"servers": [], "hosts": {}, "min_ttl_ms": 1000, "max_ttl_ms": 300_000, "negative_ttl_ms": 5000,
                "stale_ms": 300_000, "timeout_ms": 2000, "attempts": 2, "cache_names": 10000},
        },
        "default": {"action": "deny", "mode": "enforce", "message": "{rule}", "private_addresses": "deny", "no_name": "deny"},
        "groups": groups, "lists": {}, "rules": rules,
    });
    document.to_string().into_bytes()
}

fn each_flow(asked: &[Host], mut check: impl FnMut(Source<'_>, &Host, u16)) {
    let shown = SHOWN.map(|[user, id, tlv]| {
        Identity::default().with_user(user.as_bytes()).with_spiffe(id).with_tlv(tlv.as_bytes())
    });
    let hosts = HOSTS.iter().map(|text| parse_host(text.as_bytes()).expect("a host"));
    for host in hosts.chain(asked.iter().cloned()) {
        for (index, source) in SOURCES.iter().enumerate() {
            let ip = source.parse().expect("an address");
            for identity in [&shown[0], &shown[1 + index % 3]] {
                let source = Source::new(ip, Evidence::Address, Some(identity));
                PORTS.iter().for_each(|port| check(source, &host, *port));
            }
        }
    }
}

/// Verdict, reason and the names of the rule and of the terms.
fn said(snapshot: &Snapshot, source: Source<'_>, host: &Host, port: u16) -> String {
    let destination = match host {
        Host::Name(name) => Destination::Name(name),
        Host::Ip(ip) => Destination::Ip(*ip),
    };
    let class = snapshot.source(source);
    let decision = snapshot.decide(class, destination, port, NOW);
    let screened = HOSTS.iter().filter_map(|text| text.parse::<IpAddr>().ok()).map(|ip| {
        [Origin::Client, Origin::Resolved, Origin::Operator].map(|origin| {
            snapshot
                .screen(class, &decision, origin, ip, port, NOW)
                .map_err(|why| (why.reason, why.audit))
        })
    });
    let name =
        |rule: Option<RuleId>| rule.and_then(|rule| snapshot.rule(rule)).map(|rule| rule.name);
    format!(
        "{} {} {:?} {:?} {:?}",
        decision.verdict,
        decision.reason,
        name(decision.rule),
        name(decision.terms),
        screened.collect::<Vec<_>>()
    )
}

/// Everything that a snapshot can be asked; a long answer agrees with the decision.
fn ask_all(snapshot: &Snapshot, asked: &[Host]) {
    each_flow(asked, |source, host, port| {
        let short = said(snapshot, source, host, port);
        let long = snapshot.explain(source, host, port, NOW);
        let screened = long.address.as_ref().is_some_and(|note| note.refused.is_some());
        assert!(screened || short.starts_with(&format!("{} {} ", long.verdict, long.reason)));
        assert!(long.message.is_none_or(|message| !message.chars().any(char::is_control)));
        if long.verdict == Verdict::Allow.word() {
            assert!(long.allow_with.is_none());
        }
    });
    for rule in (0..snapshot.rule_count() as u32).chain([u32::MAX]) {
        let _ = snapshot.rule(RuleId(rule));
    }
    let _ = snapshot.decide_no_name(snapshot.source(IpAddr::from([10, 0, 0, 1])));
    let (mut now, mut ends) = (0, 0);
    while let Some(next) = snapshot.next_expiry(now) {
        assert!(next > now, "time goes on");
        (now, ends) = (next, ends + 1);
        if ends > 100 {
            break;
        }
    }
    let _ =
        (snapshot.digest(), snapshot.size(), snapshot.default_message(), format!("{snapshot:?}"));
}
