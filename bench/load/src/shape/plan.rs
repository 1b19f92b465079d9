//! What a run is to do, read from JSON.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Up,
    Down,
}

/// A time in which a rate is expected: milliseconds from the run's beginning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    pub from: u64,
    pub till: u64,
    /// Bytes a second.
    pub rate: f64,
}

/// A sender's pause: after so many bytes, once they have arrived, for so many milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pause {
    pub after: u64,
    pub lasts: u64,
}

/// What a sender has to send: so many bytes at a time, and so many milliseconds from one time to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    pub bytes: u64,
    pub every: u64,
}

/// Flows that do the same at the same time.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub name: String,
    pub to: Vec<SocketAddrV4>,
    pub sni: String,
    /// The address that its flows come from.
    pub from: Option<Ipv4Addr>,
    pub way: Way,
    pub flows: usize,
    pub start: u64,
    pub stop: Option<u64>,
    pub pause: Option<Pause>,
    /// All of the group together; without it they send without end.
    pub pace: Option<Pace>,
    /// Bytes of the sender's socket buffer; as the kernel has it unless said.
    pub send_buffer: Option<usize>,
    pub spans: Vec<Span>,
    /// Bytes a second that it is to reach soon after its start.
    pub wants: Option<f64>,
}

impl Group {
    /// From its first span to its last.
    pub fn measured(&self) -> Option<(u64, u64)> {
        Some((self.spans.first()?.from, self.spans.last()?.till))
    }
}

/// A flow of small messages, each answered before the next.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    pub name: String,
    pub to: SocketAddrV4,
    pub sni: String,
    pub size: usize,
    /// Milliseconds from one to the next.
    pub every: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Where the backend listens.
    pub listen: Vec<SocketAddrV4>,
    /// Its network namespace, as a file.
    pub namespace: Option<String>,
    /// Milliseconds in which there are only probes.
    pub quiet: u64,
    pub proxy: Vec<u32>,
    pub groups: Vec<Group>,
    pub probes: Vec<Probe>,
}

fn wrong(key: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the plan's `{key}`"))
}

/// A value that may be missing, but not be of another kind.
fn get<T>(of: &Value, key: &str, read: impl Fn(&Value) -> Option<T>) -> io::Result<Option<T>> {
    let given = of.get(key).filter(|value| !value.is_null());
    given.map(|value| read(value).ok_or_else(|| wrong(key))).transpose()
}

fn need<T>(of: &Value, key: &str, read: impl Fn(&Value) -> Option<T>) -> io::Result<T> {
    get(of, key, read)?.ok_or_else(|| wrong(key))
}

fn each<T>(of: &Value, key: &str, read: impl Fn(&Value) -> io::Result<T>) -> io::Result<Vec<T>> {
    need(of, key, |value| value.as_array().cloned())?.iter().map(read).collect()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn parsed<T: FromStr>(value: &Value) -> Option<T> {
    value.as_str()?.parse().ok()
}

fn size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|number| number.try_into().ok())
}

impl Plan {
    pub fn parse(json: &str) -> io::Result<Self> {
        let plan: Value = serde_json::from_str(json)?;
        let address = |value: &Value| parsed(value).ok_or_else(|| wrong("listen"));
        let pid = |value: &Value| size(value)?.try_into().ok();
        Ok(Self {
            listen: each(&plan, "listen", address)?,
            namespace: get(&plan, "namespace", text)?,
            quiet: need(&plan, "quiet", Value::as_u64)?,
            proxy: each(&plan, "proxy", |value| pid(value).ok_or_else(|| wrong("proxy")))?,
            groups: each(&plan, "groups", group)?,
            probes: each(&plan, "probes", probe)?,
        })
    }
}

fn group(of: &Value) -> io::Result<Group> {
    let way = match need(of, "way", text)?.as_str() {
        "up" => Way::Up,
        "down" => Way::Down,
        _ => return Err(wrong("way")),
    };
    let pause = |of: &Value| {
        Some(Pause { after: of.get("after")?.as_u64()?, lasts: of.get("lasts")?.as_u64()? })
    };
    let pace = |of: &Value| {
        let every = of.get("every")?.as_u64().filter(|every| *every > 0)?;
        Some(Pace { bytes: of.get("bytes")?.as_u64()?, every })
    };
    let span = |of: &Value| {
        let (from, till) = (need(of, "from", Value::as_u64)?, need(of, "till", Value::as_u64)?);
        let rate = need(of, "rate", Value::as_f64)?;
        (from < till && rate > 0.0)
            .then_some(Span { from, till, rate })
            .ok_or_else(|| wrong("spans"))
    };
    let to = |value: &Value| parsed(value).ok_or_else(|| wrong("to"));
    Ok(Group {
        name: need(of, "name", text)?,
        to: each(of, "to", to)?,
        sni: need(of, "sni", text)?,
        from: get(of, "source", parsed)?,
        way,
        flows: need(of, "flows", size)?,
        start: need(of, "start", Value::as_u64)?,
        stop: get(of, "stop", Value::as_u64)?,
        pause: get(of, "pause", pause)?,
        pace: get(of, "pace", pace)?,
        send_buffer: get(of, "send_buffer", size)?,
        spans: each(of, "spans", span)?,
        wants: get(of, "wants", Value::as_f64)?,
    })
}

fn probe(of: &Value) -> io::Result<Probe> {
    Ok(Probe {
        name: need(of, "name", text)?,
        to: need(of, "to", parsed)?,
        sni: need(of, "sni", text)?,
        size: need(of, "size", size)?,
        every: need(of, "every", Value::as_u64)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = r#"{"listen": ["127.0.0.1:1"], "quiet": 100, "proxy": [7], "groups": [{"name": "a", "to":
        ["127.0.0.1:2"], "sni": "a.example", "way": "down", "flows": 2, "start": 0, "stop": null, "pause": {"after": 10,
        "lasts": 20}, "spans": [{"from": 1, "till": 2, "rate": 8.5}, {"from": 3, "till": 4, "rate": 1}]}], "probes": []}"#;

    #[test]
    fn a_plan_is_read() {
        let plan = Plan::parse(PLAN).unwrap();
        let group = &plan.groups[0];
        assert_eq!((group.way, group.flows, group.stop), (Way::Down, 2, None));
        assert_eq!(group.pause, Some(Pause { after: 10, lasts: 20 }));
        assert_eq!(group.measured(), Some((1, 4)));
    }

    #[test]
    fn what_is_wrong_with_a_plan_is_named() {
        for (key, found, wrong) in [
            ("way", r#""way": "down""#, r#""way": "left""#),
            ("flows", r#""flows": 2"#, r#""flows": "two""#),
            ("spans", r#""till": 2"#, r#""till": 1"#),
            ("proxy", "[7]", "[-7]"),
        ] {
            let error = Plan::parse(&PLAN.replace(found, wrong)).unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
