//! The gateways that share limits, and the store through which they tell each other what they want.

use std::fmt;

use egress_hello::name::{Host, parse_authority, parse_host};
use serde::{Deserialize, Serialize};

use crate::document::Pem;
use crate::problem::{Problems, place};
use crate::settings::{is_word, shown};

/// The port of Valkey and Redis.
const STORE_PORT: u16 = 6379;
/// Bytes of a group's name: a part of the name of its key in the store.
const MAX_GROUP: usize = 64;
/// Gateways of one group: each tells the others what it wants ten times a second.
const MAX_REPLICAS: u32 = 1024;

/// As the document has it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Given {
    /// It may hold a password.
    pub store: Pem,
    pub password: Option<Pem>,
    pub ca: Option<Pem>,
    pub group: String,
    pub replicas: u32,
}

/// Who shares what is marked `scope: cluster`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub store: Store,
    pub group: String,
    /// Gateways that there are at the most.
    pub replicas: u32,
}

/// A Valkey or Redis server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    pub tls: bool,
    pub host: Host,
    pub port: u16,
    pub user: Option<String>,
    pub password: Option<Pem>,
    pub database: u16,
    /// Roots of its certificate; `None`: the system's.
    pub ca: Option<Pem>,
}

/// Without user and password.
impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        match self.host {
            Host::Ip(ip) if ip.is_ipv6() => write!(f, "{scheme}://[{ip}]:{}", self.port)?,
            Host::Ip(ip) => write!(f, "{scheme}://{ip}:{}", self.port)?,
            Host::Name(ref name) => write!(f, "{scheme}://{name}:{}", self.port)?,
        }
        write!(f, "/{}", self.database)
    }
}

impl Cluster {
    pub(crate) fn check(given: &Given, problems: &mut Problems) -> Option<Self> {
        let at = |key: &str| place!["settings", "cluster", key];
        let before = problems.len();
        if !is_word(&given.group, MAX_GROUP) {
            let message = format!("`{}` is not the name of a group", shown(&given.group));
            let fix =
                format!("use 1 to {MAX_GROUP} of a-z 0-9 . _ -, beginning with a letter or digit");
            problems.add(at("group"), "bad_group", message, fix);
        }
        if !(1..=MAX_REPLICAS).contains(&given.replicas) {
            let message = format!("{} gateways cannot share limits", given.replicas);
            let fix = format!("write 1 to {MAX_REPLICAS}");
            problems.add(at("replicas"), "bad_replicas", message, fix);
        }
        let mut store = match Store::read(given.store.text()) {
            Ok(store) => Some(store),
            Err(why) => {
                // Not what was written: a password may be in it.
                let message = format!("this is not the address of a store: {why}");
                let fix = "write \"redis://valkey.example:6379/0\", or rediss:// for TLS";
                problems.add(at("store"), "bad_store", message, fix);
                None
            }
        };
        if let Some(store) = &mut store {
            if given.password.is_some() && store.password.is_some() {
                let message = "the address of the store has a password, too";
                problems.add(at("password"), "two_passwords", message, "keep one of the two");
            }
            if given.ca.is_some() && !store.tls {
                let message = "without TLS the store shows no certificate";
                problems.add(at("ca"), "unused_ca", message, "remove `ca`, or write rediss://");
            }
            store.password = store.password.take().or_else(|| given.password.clone());
            store.ca = given.ca.clone();
        }
        let store = store.filter(|_| problems.len() == before)?;
        Some(Self { store, group: given.group.clone(), replicas: given.replicas })
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl Store {
    fn read(url: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = url.split_once("://").ok_or("it does not begin with redis://")?;
        let tls = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => return Err("it does not begin with redis://"),
        };
        let (login, rest) = rest.rsplit_once('@').map_or((None, rest), |(a, b)| (Some(a), b));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        if database.contains('?') {
            return Err("it takes no options");
        }
        let behind = authority.rsplit_once(':').map(|(_, port)| port);
        if behind.is_some_and(|port| is_number(port) && port.parse::<u16>().is_err()) {
            return Err("its port is not one from 1 to 65535");
        }
        let (host, port) = parse_authority(authority.as_bytes())
            .or_else(|_| parse_host(authority.as_bytes()).map(|host| (host, STORE_PORT)))
            .map_err(|_| "its host is neither a name nor an address")?;
        let database = if database.is_empty() { Ok(0) } else { database.parse() };
        let database = database.map_err(|_| "behind the host stands the number of a database")?;
        let (user, password) = login.map_or(("", None), |login| {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            (user, Some(password).filter(|password| !password.is_empty()))
        });
        let decoded = |text: &str| decode(text).ok_or("% begins a byte of two hexadecimal digits");
        let user = Some(decoded(user)?).filter(|user| !user.is_empty());
        let password = password.map(decoded).transpose()?.map(Pem::from);
        Ok(Self { tls, host, port, user, password, database, ca: None })
    }
}

/// Percent-decoding (RFC 3986, section 2.1).
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        bytes.push(match byte {
            b'%' => {
                let (digits, after) = rest.split_first_chunk::<2>()?;
                rest = after;
                let digit = |byte: u8| char::from(byte).to_digit(16);
                u8::try_from(digit(digits[0])? << 4 | digit(digits[1])?).ok()?
            }
            byte => *byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> (String, Option<String>, Option<String>) {
        let store = Store::read(url).unwrap();
        let password = store.password.as_ref().map(|password| password.text().to_owned());
        (store.to_string(), store.user, password)
    }

    #[test]
    fn an_address_is_read_with_what_may_be_left_out() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read("redis://valkey"), ("redis://valkey:6379/0".into(), None, None));
        assert_eq!(
            read("rediss://app:p%40%3A%2f@[2001:db8::1]:7000/3"),
            ("rediss://[2001:db8::1]:7000/3".into(), some("app"), some("p@:/"))
        );
        assert_eq!(
            read("redis://:s:e@cret@10.0.0.1/15"),
            ("redis://10.0.0.1:6379/15".into(), None, some("s:e@cret"))
        );
    }

    #[test]
    fn what_is_none_is_refused() {
        for url in [
            "valkey:6379",
            "http://valkey:6379",
            "redis://",
            "redis://valkey:0",
            "redis://valkey/zero",
            "redis://:%4@valkey",
            "redis://valkey:6379/0?protocol=resp3",
            "unix:///run/redis.sock",
        ] {
            assert!(Store::read(url).is_err(), "{url}");
        }
    }

    #[test]
    fn nobody_is_shown_a_password() {
        let given = Given {
            store: Pem::from("redis://user:secret@valkey/0".to_owned()),
            password: None,
            ca: None,
            group: "egress".to_owned(),
            replicas: 2,
        };
        let mut problems = Problems::default();
        let cluster = Cluster::check(&given, &mut problems).unwrap();
        let shown = format!("{given:?} {cluster:?} {}", cluster.store);
        assert!(!shown.contains("secret"), "{shown}");
        let broken = Given { store: Pem::from("redi://user:secret@valkey/0".to_owned()), ..given };
        assert!(Cluster::check(&broken, &mut problems).is_none());
        assert!(!format!("{:?}", problems.into_result()).contains("secret"));
    }
}
