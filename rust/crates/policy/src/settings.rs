//! The part of a policy that is not about who may reach what: listeners, timeouts, the resolver.
//! Checked once at compile, with a problem for each mistake; typed again when a snapshot is opened.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use egress_hello::name::{Host, Name, parse_authority, parse_host};

use crate::budgets::Keeping;
use crate::cluster::Cluster;
pub use crate::document::Login;
use crate::document::{self, ListenerTls};
use crate::explain::target;
use crate::pattern::NAME_FIX;
use crate::problem::{Problems, nearest, place};
use crate::proxied::Proxied;
use crate::vocab::Accept;

/// Bytes of a listener's name: what the flow record has room for.
const MAX_LISTENER_NAME: usize = 32;
/// Listeners of one gateway; the flow record counts them in 16 bits, and nobody needs more than this.
const MAX_LISTENERS: usize = 256;
/// Entries of `resolver.hosts`, and of name servers.
const MAX_HOSTS: usize = 100_000;
const MAX_SERVERS: usize = 16;
/// The port dialled for a TLS destination whose listener does not say another.
const TLS_PORT: u16 = 443;
/// The same for PostgreSQL.
const POSTGRES_PORT: u16 = 5432;

/// Everything that the data plane needs besides the rules.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Worker threads; 0 = as many as the cgroup's CPUs.
    pub workers: u32,
    /// Flows per worker; 0 = from the descriptor limit.
    pub max_flows: u32,
    /// Spin on the event loop before it blocks.
    pub low_latency: bool,
    pub listeners: Vec<Listener>,
    pub timeouts: Timeouts,
    pub resolver: Resolver,
    /// Where budgets are kept.
    pub budgets: Option<Keeping>,
    pub cluster: Option<Cluster>,
}

/// An address to accept on, and how the destination is learned there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// At most 32 bytes of `[a-z0-9._-]`.
    pub name: String,
    pub bind: SocketAddr,
    pub accept: Accepts,
    /// The port of destinations whose name comes without one (TLS).
    pub port: u16,
    /// The fixed destination of a `tcp` listener; `None` for all others.
    pub to: Option<(Host, u16)>,
    /// Clients speak TLS to the proxy, and inside it what the listener accepts.
    pub tls: Option<ListenerTls>,
    pub proxied: Proxied,
    pub login: Login,
}

/// The protocols that a listener accepts; several are told apart by a connection's first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts(u16);

impl Accepts {
    /// The words that a policy may say.
    const WORDS: [Accept; 8] = [
        Accept::Tls,
        Accept::Postgres,
        Accept::Connect,
        Accept::Http,
        Accept::Socks5,
        Accept::Transparent,
        Accept::Tcp,
        Accept::Dns,
    ];

    /// One protocol.
    pub const fn only(accept: Accept) -> Self {
        Self(1 << accept as u8)
    }

    /// Whether the listener accepts this protocol.
    pub const fn has(self, accept: Accept) -> bool {
        self.0 & 1 << accept as u8 != 0
    }

    /// The protocol, or `Several`.
    pub fn one(self) -> Accept {
        let mut all = self.iter();
        match (all.next(), all.next()) {
            (Some(accept), None) => accept,
            _ => Accept::Several,
        }
    }

    fn iter(self) -> impl Iterator<Item = Accept> {
        Self::WORDS.into_iter().filter(move |accept| self.has(*accept))
    }
}

impl std::fmt::Display for Accepts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, accept) in self.iter().enumerate() {
            write!(f, "{}{accept}", if index > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    pub first_bytes: Duration,
    /// How long a captured client may say nothing before its server is taken to speak first.
    pub server_first: Duration,
    pub connect: Duration,
    pub idle: Duration,
    pub drain: Duration,
    /// How long a flow that a new policy denies may still run.
    pub grace: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolver {
    /// Empty: the system's servers.
    pub servers: Vec<SocketAddr>,
    /// Names that the operator gave addresses himself; such addresses are dialled even if private.
    pub hosts: HashMap<Name, Vec<IpAddr>>,
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    pub negative_ttl: Duration,
    /// How long after its expiry an answer may still be used while the servers are down.
    pub stale: Duration,
    pub timeout: Duration,
    pub attempts: u32,
    /// Names that the cache holds.
    pub cache_names: u32,
}

impl Settings {
    /// Whether clients may ask us for names, and connect to the addresses that we told them.
    pub fn tells_names(&self) -> bool {
        self.listeners.iter().any(|listener| listener.accept.has(Accept::Dns))
    }

    /// The typed settings; mistakes are added to `problems`, and then the result is not to be used.
    pub(crate) fn check(raw: &document::Settings, problems: &mut Problems) -> Self {
        let t = &raw.timeouts;
        for (key, value) in
            [("first_bytes", t.first_bytes_ms), ("connect", t.connect_ms), ("idle", t.idle_ms)]
        {
            if value == 0 {
                problems.add(
                    place!["settings", "timeouts", format!("{key}_ms").as_str()],
                    "bad_timeout",
                    format!("`{key}: 0s` would end every connection at once"),
                    "write a duration such as 5s",
                );
            }
        }
        Self {
            workers: raw.workers,
            max_flows: raw.max_flows,
            low_latency: raw.low_latency,
            listeners: check_listeners(&raw.listeners, problems),
            timeouts: Timeouts {
                first_bytes: Duration::from_millis(t.first_bytes_ms),
                server_first: Duration::from_millis(t.server_first_ms),
                connect: Duration::from_millis(t.connect_ms),
                idle: Duration::from_millis(t.idle_ms),
                drain: Duration::from_millis(t.drain_ms),
                grace: Duration::from_millis(t.grace_ms),
            },
            resolver: check_resolver(&raw.resolver, problems),
            budgets: raw.budgets.as_ref().and_then(|given| Keeping::check(given, problems)),
            cluster: raw.cluster.as_ref().and_then(|given| Cluster::check(given, problems)),
        }
    }
}

fn check_listeners(raw: &[document::Listener], problems: &mut Problems) -> Vec<Listener> {
    let mut checked: Vec<Listener> = Vec::with_capacity(raw.len().min(MAX_LISTENERS));
    if raw.len() > MAX_LISTENERS {
        problems.add(
            place!["settings", "listeners"],
            "too_many",
            format!("{} listeners; at most {MAX_LISTENERS} are possible", raw.len()),
            "run several gateways",
        );
        return checked;
    }
    for (index, listener) in raw.iter().enumerate() {
        let at = |key: &str| place!["settings", "listeners", index, key];
        let before = problems.len();
        if !is_word(&listener.name, MAX_LISTENER_NAME) {
            problems.add(at("name"), "bad_listener_name", format!("`{}` is not a listener name", shown(&listener.name)), format!("use 1 to {MAX_LISTENER_NAME} of a-z 0-9 . _ -, beginning with a letter or digit"));
        }
        if let Some(other) = raw[..index].iter().position(|other| other.name == listener.name) {
            problems.add(
                at("name"),
                "duplicate_listener",
                format!("listeners[{other}] is already called `{}`", shown(&listener.name)),
                "give each listener its own name",
            );
        }
        let bind = listener.bind.parse::<SocketAddr>();
        match &bind {
            Err(_) => problems.add(
                at("bind"),
                "bad_bind",
                format!("`{}` is not an address with a port", shown(&listener.bind)),
                "write \"0.0.0.0:8443\" or \"[::]:8443\"",
            ),
            // Port 0 lets the kernel choose, so two of them do not collide.
            Ok(address) if address.port() != 0 => {
                if let Some(other) =
                    raw[..index].iter().position(|other| other.bind.parse() == bind)
                {
                    problems.add(
                        at("bind"),
                        "duplicate_bind",
                        format!(
                            "`{address}` is already the address of listener `{}`",
                            shown(&raw[other].name)
                        ),
                        "choose another port",
                    );
                }
            }
            Ok(_) => {}
        }
        let accept = check_accept(listener, &at, problems);
        let proxied = accept.map(|accept| Proxied::check(listener, accept, &at, problems));
        let port = match listener.port {
            None if accept.is_some_and(|accept| accept.has(Accept::Postgres)) => POSTGRES_PORT,
            None => TLS_PORT,
            Some(port) => u16::try_from(port).ok().filter(|port| *port != 0).unwrap_or_else(|| {
                problems.add(
                    at("port"),
                    "bad_port",
                    format!("{port} is not a port"),
                    "ports go from 1 to 65535",
                );
                TLS_PORT
            }),
        };
        let to = listener.to.as_deref().and_then(|to| match parse_authority(to.as_bytes()) {
            Ok(target) => Some(target),
            Err(why) => {
                problems.add(
                    at("to"),
                    "bad_destination",
                    format!("`{}` is not a destination: {why}", shown(to)),
                    authority_fix(to, "db.partner.com:5432"),
                );
                None
            }
        });
        if let (Ok(bind), Some(accept), Some(proxied), true) =
            (bind, accept, proxied, problems.len() == before)
        {
            let (name, tls) = (listener.name.clone(), listener.tls.clone());
            let login = listener.login;
            checked.push(Listener { name, bind, accept, port, to, tls, proxied, login });
        }
    }
    checked
}

fn check_accept(
    listener: &document::Listener,
    at: &impl Fn(&str) -> Vec<crate::PathPart>,
    problems: &mut Problems,
) -> Option<Accepts> {
    let mut accepts = Accepts(0);
    for word in &listener.accept {
        let Some(accept) = Accepts::WORDS.into_iter().find(|accept| accept.word() == word) else {
            let words = Accepts::WORDS.map(Accept::word);
            let fix = nearest(word, words).map_or_else(
                || format!("write one of {}", words.join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            problems.add(
                at("accept"),
                "bad_accept",
                format!("`{}` is not a protocol that a listener can accept", shown(word)),
                fix,
            );
            return None;
        };
        if accepts.has(accept) {
            let message = format!("`{accept}` stands there twice");
            problems.add(at("accept"), "bad_accept", message, "remove one of them");
        }
        accepts.0 |= Accepts::only(accept).0;
    }
    let for_us = [Accept::Connect, Accept::Http, Accept::Socks5];
    if listener.tls.is_some()
        && let Some(accept) = accepts.iter().find(|accept| !for_us.contains(accept))
    {
        problems.add(
            at("tls"),
            "unused_tls",
            format!("clients of a listener that accepts {accept} do not speak TLS to the proxy"),
            "remove `tls`, or give it a listener that accepts connect, http or socks5",
        );
    }
    match (accepts.one(), &listener.to) {
        (Accept::Several, _) if accepts.0 == 0 => problems.add(
            at("accept"),
            "bad_accept",
            "a listener accepts at least one protocol",
            format!("write one of {}", Accepts::WORDS.map(Accept::word).join(", ")),
        ),
        (Accept::Several, _) if accepts.has(Accept::Tcp) => problems.add(
            at("accept"),
            "bad_accept",
            format!("`[{accepts}]`: tcp leads to one destination whatever the first bytes are"),
            "give tcp a listener of its own",
        ),
        (Accept::Several, _) if accepts.has(Accept::Transparent) => problems.add(
            at("accept"),
            "bad_accept",
            format!("`[{accepts}]`: what is captured was not meant for the gateway"),
            "give transparent a listener of its own",
        ),
        (Accept::Several, _) if accepts.has(Accept::Postgres) && accepts.has(Accept::Tls) => problems
            .add(
                at("accept"),
                "bad_accept",
                format!("`[{accepts}]`: a hello does not say which of the two it is, and so not the port"),
                "give postgres a listener of its own",
            ),
        (Accept::Several, _) if accepts.has(Accept::Dns) => problems.add(
            at("accept"),
            "bad_accept",
            format!("`[{accepts}]`: dns answers questions and leads nowhere"),
            "give dns a listener of its own",
        ),
        (Accept::Tcp, None) => problems.add(
            at("to"),
            "needs_to",
            "a tcp listener cannot learn the destination from the client",
            "add what it leads to, such as `to: \"db.partner.com:5432\"`",
        ),
        (Accept::Tcp, Some(_)) | (_, None) => {}
        (_, Some(_)) => problems.add(
            at("to"),
            "unused_to",
            format!("a listener that accepts {accepts} learns the destination from the client"),
            "remove `to`, or write `accept: tcp`",
        ),
    }
    check_login(listener, accepts, at, problems);
    Some(accepts)
}

/// Where a login is asked for there must be a way to say it, and where it is required no way around it.
fn check_login(
    listener: &document::Listener,
    accepts: Accepts,
    at: &impl Fn(&str) -> Vec<crate::PathPart>,
    problems: &mut Problems,
) {
    let can = |accept: &Accept| matches!(accept, Accept::Connect | Accept::Http | Accept::Socks5);
    if listener.login != Login::Off && !accepts.iter().any(|accept| can(&accept)) {
        problems.add(
            at("login"),
            "no_login",
            format!("a client of a listener that accepts {accepts} has no way to log in"),
            "remove `login`, or accept connect, http or socks5",
        );
    } else if listener.login == Login::Required
        && let Some(without) = accepts.iter().find(|accept| !can(accept))
    {
        problems.add(
            at("login"),
            "no_login",
            format!(
                "`login: required`, but a client may speak {without}, which has no way to log in"
            ),
            format!("give {without} a listener of its own, or write `login: optional`"),
        );
    }
}

fn check_resolver(raw: &document::Resolver, problems: &mut Problems) -> Resolver {
    let at = |key: &str| place!["settings", "resolver", key];
    if raw.servers.len() > MAX_SERVERS {
        problems.add(
            at("servers"),
            "too_many",
            format!("{} name servers; at most {MAX_SERVERS} are possible", raw.servers.len()),
            "name the nearest few",
        );
    }
    if raw.hosts.len() > MAX_HOSTS {
        problems.add(
            at("hosts"),
            "too_many",
            format!("{} hosts; at most {MAX_HOSTS} are possible", raw.hosts.len()),
            "let a name server answer for them",
        );
    }
    let mut servers = Vec::new();
    for (index, server) in raw.servers.iter().take(MAX_SERVERS).enumerate() {
        match server.parse() {
            Ok(address) => servers.push(address),
            Err(_) => problems.add(
                place!["settings", "resolver", "servers", index],
                "bad_server",
                format!("`{}` is not an address with a port", shown(server)),
                match server.parse::<IpAddr>() {
                    Ok(ip) => format!("write \"{}\"", SocketAddr::new(ip, 53)),
                    Err(_) => "write \"10.0.0.10:53\"".to_owned(),
                },
            ),
        }
    }
    let mut hosts = HashMap::new();
    for (name, addresses) in raw.hosts.iter().take(MAX_HOSTS) {
        let here = || place!["settings", "resolver", "hosts", name.as_str()];
        let parsed: Vec<IpAddr> = addresses.iter().filter_map(|a| a.parse().ok()).collect();
        if parsed.len() != addresses.len() || parsed.is_empty() {
            let bad = addresses.iter().find(|address| address.parse::<IpAddr>().is_err());
            let message = match bad {
                Some(bad) => {
                    format!(
                        "`{}`, of `{}`, is not an IPv4 or IPv6 address",
                        shown(bad),
                        shown(name)
                    )
                }
                None => format!("`{}` is given no address", shown(name)),
            };
            problems.add(here(), "bad_address", message, "write for example 10.20.0.7");
        }
        match parse_host(name.as_bytes()) {
            Ok(Host::Name(host)) => {
                if hosts.insert(host, parsed).is_some() {
                    problems.add(
                        here(),
                        "duplicate_host",
                        format!("`{}` is given twice, in two spellings", shown(name)),
                        "put all its addresses under one of them",
                    );
                }
            }
            Ok(Host::Ip(_)) => problems.add(
                here(),
                "bad_name",
                format!("`{}` is an address, not a name", shown(name)),
                "remove it: an address is dialled as it is",
            ),
            Err(why) => problems.add(
                here(),
                "bad_name",
                format!("`{}` is not a host name: {why}", shown(name)),
                NAME_FIX,
            ),
        }
    }
    if raw.min_ttl_ms > raw.max_ttl_ms {
        problems.add(
            at("min_ttl_ms"),
            "bad_ttl",
            format!("min_ttl ({} ms) is above max_ttl ({} ms)", raw.min_ttl_ms, raw.max_ttl_ms),
            "lower min_ttl, or raise max_ttl",
        );
    }
    for (key, value) in [
        ("timeout_ms", raw.timeout_ms),
        ("attempts", raw.attempts.into()),
        ("cache_names", raw.cache_names.into()),
    ] {
        if value == 0 {
            problems.add(
                at(key),
                "bad_resolver",
                format!("`{}` must not be 0", key.trim_end_matches("_ms")),
                "leave it out to get the built-in value",
            );
        }
    }
    Resolver {
        servers,
        hosts,
        min_ttl: Duration::from_millis(raw.min_ttl_ms),
        max_ttl: Duration::from_millis(raw.max_ttl_ms),
        negative_ttl: Duration::from_millis(raw.negative_ttl_ms),
        stale: Duration::from_millis(raw.stale_ms),
        timeout: Duration::from_millis(raw.timeout_ms),
        attempts: raw.attempts,
        cache_names: raw.cache_names,
    }
}

/// What to write in place of `text`, which is no `host:port`.
pub(crate) fn authority_fix(text: &str, example: &str) -> String {
    match parse_host(text.as_bytes()) {
        Ok(host) => format!("add the port, such as \"{}\"", target(&host, TLS_PORT)),
        Err(_) => format!("write \"{example}\""),
    }
}

/// Names of listeners, rules, groups and lists: letters of one case, so that they sort, log and compare alike.
pub(crate) fn is_word(text: &str, max: usize) -> bool {
    let bytes = text.as_bytes();
    (1..=max).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

/// A text in which others had a say, without control characters: it goes to terminals and logs.
pub(crate) fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// Offending text as it may appear in a message: short, on one line, without control characters.
pub(crate) fn shown(text: &str) -> String {
    const MOST: usize = 80;
    let mut short = printable(&text.chars().take(MOST).collect::<String>());
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    short
}
