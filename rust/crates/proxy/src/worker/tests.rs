//! A worker with real sockets, in a thread of the test's.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::AtomicU64;

use egress_flowlog::{Geometry, Segment};
use egress_hello::name::{Host, parse_host};
use egress_policy::{Accept, Snapshot, compile};
use serde_json::json;

use super::*;
use crate::resolver::{self, Addresses};

const NAME: &str = "a-name-of-some-length.service.region.example";

/// A ClientHello in one record that names `NAME` and offers next to nothing else (RFC 8446, section 4.1.2; RFC 6066).
fn hello() -> Vec<u8> {
    let sized = |width: usize, body: &[u8]| {
        let length = (body.len() as u64).to_be_bytes();
        [&length[8 - width..], body].concat()
    };
    let server_name = sized(2, &[&[0], sized(2, NAME.as_bytes()).as_slice()].concat());
    let extensions = sized(2, &[&[0, 0], sized(2, &server_name).as_slice()].concat());
    let fields: [&[u8]; 5] = [&[3, 3], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]];
    let body = [fields.concat(), extensions].concat();
    let handshake = [&[1], sized(3, &body).as_slice()].concat();
    [&[0x16, 3, 1], sized(2, &handshake).as_slice()].concat()
}

fn policy(upstream: u16) -> Arc<Installed> {
    let document = json!({
        "v": 1,
        "settings": {
            "workers": 1, "max_flows": 64, "low_latency": false,
            "listeners": [
                {"name": "tls", "bind": "127.0.0.1:0", "accept": ["tls"], "port": upstream, "to": null},
                {"name": "proxy", "bind": "127.0.0.1:0", "accept": ["connect"], "port": null, "to": null},
            ],
            "timeouts": {"first_bytes_ms": 5000, "server_first_ms": 300, "connect_ms": 5000, "idle_ms": 60_000, "drain_ms": 1000, "grace_ms": 0},
            "resolver": {"servers": ["127.0.0.1:9"], "hosts": {}, "min_ttl_ms": 1000, "max_ttl_ms": 300_000,
                "negative_ttl_ms": 5000, "stale_ms": 0, "timeout_ms": 2000, "attempts": 1, "cache_names": 10},
        },
        "default": {"action": "deny", "mode": "enforce", "message": "no", "private_addresses": "deny", "no_name": "deny"},
        "rules": [{"name": "r", "file": "policy.yaml", "line": 1,
            "to": [{"name": format!("{NAME}:{upstream}"), "addresses": ["127.0.0.0/8"]}]}],
    });
    let snapshot = compile(&serde_json::to_vec(&document).unwrap()).unwrap();
    Arc::new(Installed::new(Snapshot::open(snapshot).unwrap(), None, 1, None))
}

/// Answers each hello with a few bytes and closes.
fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut bytes = vec![0; hello().len()];
        if stream.read_exact(&mut bytes).is_ok() {
            stream.write_all(b"served").unwrap();
        }
    }
}

fn visit(to: SocketAddr, tunnel: Option<u16>) {
    let mut stream = TcpStream::connect(to).unwrap();
    if let Some(port) = tunnel {
        write!(stream, "CONNECT {NAME}:{port} HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n").unwrap();
        let mut answer = [0; 39];
        stream.read_exact(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    }
    stream.write_all(&hello()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"served");
}

/// Allocations of a worker from its start to its end, with `rounds` of a flow on each listener between.
fn allocations(rounds: usize) -> u64 {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream_port = upstream.local_addr().unwrap().port();
    std::thread::spawn(move || serve(&upstream));
    let geometry = Geometry { workers: 1, ring_capacity: 64, live_capacity: 64 };
    let words = (0..geometry.total_size() / 8).map(|_| AtomicU64::new(0)).collect();
    let segment = Segment::format(Vec::leak(words), geometry, 1, 1).unwrap();
    let policy = policy(upstream_port);
    let settings = policy.snapshot.settings().resolver.clone();
    let (resolver, _) = resolver::start(settings, Vec::new(), segment.resolver(), None).unwrap();
    let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
    for (number, accept) in [(0, Accept::Tls), (1, Accept::Connect)] {
        let listening = egress_sys::listen(([127, 0, 0, 1], 0).into(), 1, false).unwrap();
        addresses.push(listening.address);
        let sockets = listening.sockets.into_iter();
        listeners.extend(sockets.map(|fd| (number, Accepts::only(accept), fd)));
    }
    let (mailbox, poll, mail) = mailbox().unwrap();
    let parts = Parts {
        index: 0,
        workers: 1,
        started: Instant::now(),
        poll,
        mail,
        area: segment.worker(0),
        listeners,
        front: None,
        datagrams: Vec::new(),
        own: addresses.clone().into(),
        policy,
        resolver,
        logins: logins::start(Vec::new()).unwrap(),
        login_key: [0; 32],
        max_flows: 64,
        low_latency: false,
        id_prefix: 0,
    };
    let worker = std::thread::spawn(|| allocation_counter::measure(|| run(parts).unwrap()));
    let Ok(Host::Name(name)) = parse_host(NAME.as_bytes()) else { unreachable!("{NAME}") };
    let ips = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)].into();
    let until = Instant::now() + Duration::from_secs(600);
    let answer = Ok(Addresses { ips, until, stale: false });
    mailbox.post(Mail::Resolved { token: u64::MAX, name, answer, epoch: 0 });
    for _ in 0..rounds {
        visit(addresses[0], None);
        visit(addresses[1], Some(upstream_port));
    }
    mailbox.post(Mail::Stop);
    worker.join().unwrap().count_total
}

#[test]
fn a_warm_worker_allocates_nothing_for_a_flow() {
    const WARM: usize = 50;
    const MORE: usize = 400;
    let (warm, more) = (allocations(WARM), allocations(WARM + MORE));
    // A hundredth of one for each flow: now and then more of them overlap than before, and a list grows.
    assert!(
        more <= warm + 2 * MORE as u64 / 100,
        "{warm} for {WARM} rounds, {more} with {MORE} more"
    );
}
