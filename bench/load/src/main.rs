//! Load generator and backend: one thread each, one JSON line of results.
//!
//! A flow begins with a ClientHello that names one of the given destinations, as a TLS client's does; what follows is
//! opaque to a gateway that passes TLS through, so both ends skip the handshake and keep their CPU for load.

mod backend;
mod client;
mod cpu;
mod hello;
mod net;
mod report;
mod shape;
mod way;

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::process::ExitCode;
use std::time::Duration;

use hello::Order;
use way::Way;

const USAGE: &str = "\
usage: egress-load serve ADDRESS,…
       egress-load shape PLAN
       egress-load ping ADDRESS NAME SIZE MILLISECONDS
       egress-load connect|message|down|up|hold --to ADDRESS,… --names NAME,… [OPTION VALUE]…

  serve      one backend for all the addresses (port 0: any); prints them
  shape      groups of flows, with a backend of its own; the plan is JSON, see shape/plan.rs
  ping       a message every so many milliseconds; prints when each answer came and how long it took
  connect    connect, hello, read a small reply to its end, again
  message    ping-pong on held flows
  down, up   the backend, the client sends without end
  hold       opens flows, prints that they are there, waits for the end of stdin

  --flows N          1        at a time
  --size BYTES       512      of a reply or message
  --seconds S        2
  --close WHO        backend  or client: who closes first (connect)
  --way WAY          sni      connect, socks5, proxy-header or http: how the destination is named; names may have ports
  --backend PID               whose CPU is counted as the backend's
  --proxy PID,…               whose CPU is counted as the proxy's, with their threads and children
  --proxy-cpus N     1        that the proxy may fill";

/// What a run does to its flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Connect,
    Message,
    Down,
    Up,
    Hold,
}

impl Shape {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "connect" => Self::Connect,
            "message" => Self::Message,
            "down" => Self::Down,
            "up" => Self::Up,
            "hold" => Self::Hold,
            _ => return None,
        })
    }

    /// What the backend is told.
    fn order(self, client_closes: bool) -> Order {
        match self {
            Self::Connect if client_closes => Order::ReplyAndWait,
            Self::Connect => Order::ReplyAndClose,
            Self::Message | Self::Hold => Order::Echo,
            Self::Down => Order::Send,
            Self::Up => Order::Discard,
        }
    }
}

#[derive(Debug, Clone)]
struct Load {
    shape: Shape,
    to: Vec<SocketAddrV4>,
    names: Vec<String>,
    flows: usize,
    size: usize,
    seconds: Duration,
    client_closes: bool,
    way: Way,
    backend: Option<u32>,
    proxy: Vec<u32>,
    proxy_cpus: usize,
}

fn list<T: std::str::FromStr>(text: &str) -> Option<Vec<T>> {
    text.split(',').filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect()
}

fn parse(words: &[&str]) -> Option<Load> {
    let shape = Shape::parse(words.first()?)?;
    let mut given: HashMap<&str, &str> = HashMap::new();
    for pair in words[1..].chunks(2) {
        let [key, value] = pair else { return None };
        given.insert(key, value);
    }
    let mut take = |key: &str, built_in: &'static str| given.remove(key).unwrap_or(built_in);
    let client_closes = match take("--close", "backend") {
        "client" => true,
        "backend" => false,
        _ => return None,
    };
    let way = Way::parse(take("--way", "sni"))?;
    let load = Load {
        shape,
        to: list(take("--to", ""))?,
        names: list(take("--names", ""))?,
        flows: take("--flows", "1").parse().ok()?,
        size: take("--size", "512").parse().ok()?,
        seconds: Duration::try_from_secs_f64(take("--seconds", "2").parse().ok()?).ok()?,
        client_closes,
        way,
        backend: list(take("--backend", ""))?.first().copied(),
        proxy: list(take("--proxy", ""))?,
        proxy_cpus: take("--proxy-cpus", "1").parse().ok()?,
    };
    // A plain request is over with its reply.
    let fits = load.way != Way::Http || (load.shape == Shape::Connect && !load.client_closes);
    let sound = !load.to.is_empty() && !load.names.is_empty() && load.flows > 0 && fits;
    (given.is_empty() && sound && (1..=backend::LARGEST).contains(&load.size)).then_some(load)
}

fn ping(to: &str, name: &str, size: &str, every: &str) -> Option<std::io::Result<()>> {
    Some(shape::messages(to.parse().ok()?, name, size.parse().ok()?, every.parse().ok()?))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    net::raise_limits();
    let done = match words.as_slice() {
        ["serve", addresses] => list(addresses).map(|addresses| backend::serve(&addresses)),
        ["shape", plan] => Some(shape::run(plan)),
        ["ping", to, name, size, every] => ping(to, name, size, every),
        _ => parse(&words).map(|load| client::run(&load)),
    };
    match done {
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("egress-load: {error}");
            ExitCode::FAILURE
        }
    }
}
