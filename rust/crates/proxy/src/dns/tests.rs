//! DNS listeners with real sockets. Replies are read by hickory's parser, which did not write them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use egress_flowlog::{Geometry, Segment};
use egress_policy::{Snapshot, compile};
use hickory_resolver::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::opt::EdnsCode;
use hickory_resolver::proto::rr::{Name as WireName, RData, RecordType};
use serde_json::json;

use super::*;
use crate::resolver::{self, Handle, tests::name_server};

const PATIENCE: Duration = Duration::from_secs(10);

/// Who may resolve what: `rules` are pairs of a name and whether it is denied.
fn policy(server: SocketAddr, rules: &[(&str, bool)]) -> Arc<Installed> {
    let rules: Vec<_> = rules
        .iter()
        .enumerate()
        .map(|(index, (to, deny))| {
            let to = if *deny { json!({"pattern": to}) } else { json!({"name": to, "addresses": ["192.0.2.0/24"]}) };
            json!({"name": format!("r{index}"), "file": "policy.yaml", "line": 1, "to": [to], "deny": deny})
        })
        .collect();
    let document = json!({
        "v": 1,
        "settings": {
            "workers": 1, "max_flows": 64, "low_latency": false,
            "listeners": [{"name": "names", "bind": "127.0.0.1:0", "accept": ["dns"], "port": null, "to": null}],
            "timeouts": {"first_bytes_ms": 5000, "server_first_ms": 300, "connect_ms": 5000, "idle_ms": 60_000, "drain_ms": 1000, "grace_ms": 0},
            "resolver": {"servers": [server.to_string()], "hosts": {"hosts.example": ["10.0.0.7", "fd00::7"]}, "min_ttl_ms": 1000,
                "max_ttl_ms": 300_000, "negative_ttl_ms": 5000, "stale_ms": 0, "timeout_ms": 1000, "attempts": 1, "cache_names": 1000},
        },
        "default": {"action": "deny", "mode": "enforce", "message": "Not {name}.", "private_addresses": "deny", "no_name": "deny"},
        "rules": rules,
    });
    let snapshot = compile(&serde_json::to_vec(&document).unwrap()).unwrap();
    Arc::new(Installed::new(Snapshot::open(snapshot).unwrap(), None, 1, None))
}

/// A listener, and the handle that keeps its thread.
struct Served {
    address: SocketAddr,
    handle: Handle,
    counters: Counters,
}

/// Serves names of `rules`; of names that begin with "silent" the name server says nothing.
fn serve(rules: &[(&str, bool)]) -> (Served, SocketAddr) {
    let server = name_server(|name| !name.starts_with("silent"));
    let policy = policy(server, rules);
    let (datagrams, stream) = egress_sys::bind_both(([127, 0, 0, 1], 0).into()).unwrap();
    let address = stream.local_addr().unwrap();
    let geometry = Geometry { workers: 1, ring_capacity: 1024, live_capacity: 1 };
    let words = (0..geometry.total_size() / 8).map(|_| AtomicU64::new(0)).collect();
    let segment = Segment::format(Vec::leak(words), geometry, 1, 1).unwrap();
    let settings = policy.snapshot.settings().resolver.clone();
    let sockets = vec![Sockets { listener: 0, datagrams, stream }];
    let bound = Bound { sockets, policy, ring: segment.worker(0).ring, id_prefix: 0 };
    let counters = segment.resolver();
    let (handle, _) = resolver::start(settings, Vec::new(), counters, Some(bound)).unwrap();
    (Served { address, handle, counters }, server)
}

fn question(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(WireName::from_ascii(name).unwrap(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message.to_vec().unwrap()
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Message {
    let mut buffer = [0; 2048];
    let (len, _) = socket.recv_from(&mut buffer).unwrap();
    Message::from_vec(&buffer[..len]).unwrap()
}

fn ask(served: &Served, name: &str, kind: RecordType) -> Message {
    let socket = client();
    socket.send_to(&question(7, name, kind), served.address).unwrap();
    receive(&socket)
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    let of = |data: &RData| match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(a) => Some(IpAddr::V6(a.0)),
        _ => None,
    };
    message.answers.iter().filter_map(|record| of(&record.data)).collect()
}

/// The number and text of the extended error (RFC 8914, section 2).
fn extended(message: &Message) -> Option<(u16, String)> {
    let option = message.edns.as_ref()?.option(EdnsCode::from(15))?;
    let bytes = Vec::<u8>::try_from(option).unwrap();
    let (info, text) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*info), String::from_utf8(text.to_vec()).unwrap()))
}

#[test]
fn another_parser_reads_what_is_answered() {
    let (served, _) =
        serve(&[("a.example", false), ("hosts.example", false), ("no.example", true)]);
    let known = ask(&served, "A.Example.", RecordType::A);
    assert_eq!(known.metadata.response_code, ResponseCode::NoError);
    assert_eq!(known.queries[0].name().to_string(), "A.Example.", "as it was asked");
    assert_eq!(addresses(&known), [IpAddr::from(Ipv4Addr::new(192, 0, 2, 1))]);
    assert!((1..=60).contains(&known.answers[0].ttl));
    assert!(known.metadata.recursion_available && !known.metadata.authoritative);
    // The name server has no AAAA for it.
    let none = ask(&served, "a.example.", RecordType::AAAA);
    assert_eq!((none.metadata.response_code, none.answers.len()), (ResponseCode::NoError, 0));
    for (kind, address) in [(RecordType::A, "10.0.0.7"), (RecordType::AAAA, "fd00::7")] {
        let written = ask(&served, "hosts.example.", kind);
        assert_eq!(addresses(&written), [address.parse::<IpAddr>().unwrap()]);
    }
    for kind in [RecordType::HTTPS, RecordType::SVCB, RecordType::TXT, RecordType::ANY] {
        let other = ask(&served, "a.example.", kind);
        assert_eq!(
            (other.metadata.response_code, other.answers.len()),
            (ResponseCode::NoError, 0),
            "{kind}"
        );
    }
    for (name, info, text) in
        [("no.example.", 15, "Not no.example."), ("other.example.", 18, "Not other.example.")]
    {
        let refused = ask(&served, name, RecordType::HTTPS);
        assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
        assert_eq!(extended(&refused), Some((info, text.to_owned())));
    }
}

#[test]
fn questions_of_one_connection_are_answered_as_the_answers_come() {
    let (served, _) = serve(&[("*.example", false)]);
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sent = Vec::new();
    // The first waits for a name server that says nothing.
    let names =
        ["silent.example.".to_owned()].into_iter().chain((1..60).map(|n| format!("n{n}.example.")));
    for (id, name) in names.enumerate() {
        let message = question(id as u16, &name, RecordType::A);
        sent.extend((message.len() as u16).to_be_bytes());
        sent.extend(message);
    }
    for part in sent.chunks(7) {
        stream.write_all(part).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let mut rest = bytes.as_slice();
    let mut ids = Vec::new();
    while let Some((length, more)) = rest.split_first_chunk::<2>() {
        let (message, more) = more.split_at(u16::from_be_bytes(*length).into());
        let message = Message::from_vec(message).unwrap();
        let expected =
            if message.metadata.id == 0 { ResponseCode::ServFail } else { ResponseCode::NoError };
        assert_eq!(message.metadata.response_code, expected);
        ids.push(message.metadata.id);
        rest = more;
    }
    assert_eq!(ids.last(), Some(&0), "the slow one holds up no other");
    ids.sort_unstable();
    assert_eq!(ids, (0..60).collect::<Vec<u16>>());
}

/// Whether the connection is closed without an answer.
fn is_closed(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    matches!(stream.read(&mut [0; 16]), Ok(0) | Err(_))
}

#[test]
fn a_connection_that_asks_nothing_sensible_is_closed() {
    let (served, _) = serve(&[]);
    for message in
        [&b"\xff\xff"[..], b"GET / HTTP/1.1\r\n\r\n", b"\0\0", b"\0\x0c\0\0\x80\0\0\0\0\0\0\0\0\0"]
    {
        let mut stream = TcpStream::connect(served.address).unwrap();
        stream.write_all(message).unwrap();
        assert!(is_closed(&stream), "{}", message.escape_ascii());
    }
    // Half a question is waited for, and not for ever.
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream.write_all(b"\0\x20\0").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let early = stream.read(&mut [0; 16]);
    assert!(early.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    let began = Instant::now();
    assert!(is_closed(&stream) && began.elapsed() < PATIENCE);
}

#[test]
fn one_source_has_so_many_connections_and_no_more() {
    let (served, _) = serve(&[("a.example", false)]);
    let held: Vec<TcpStream> = (0..tcp::MAX_CONNECTIONS_OF_SOURCE)
        .map(|_| {
            let mut stream = TcpStream::connect(served.address).unwrap();
            stream.write_all(&[0]).unwrap();
            stream
        })
        .collect();
    assert!(is_closed(&TcpStream::connect(served.address).unwrap()));
    drop(held);
    let until = Instant::now() + PATIENCE;
    let message = question(1, "a.example.", RecordType::A);
    loop {
        let mut stream = TcpStream::connect(served.address).unwrap();
        let _ = stream.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat());
        if !is_closed(&stream) {
            break;
        }
        assert!(Instant::now() < until, "places are given back");
    }
}

#[test]
fn one_source_has_so_many_questions_waiting_and_no_more() {
    let (served, _) = serve(&[("*.example", false)]);
    let socket = client();
    let sent = MAX_WAITING_OF_SOURCE + 100;
    for id in 0..sent {
        let message = question(id as u16, &format!("silent{id}.example."), RecordType::A);
        socket.send_to(&message, served.address).unwrap();
        // A datagram too many would be lost in the socket's buffer, and not counted.
        while served.counters.get(Count::ClientQueries) <= id as u64 {
            std::thread::yield_now();
        }
    }
    let mut surplus = 0;
    while surplus < sent - MAX_WAITING_OF_SOURCE {
        let reply = receive(&socket);
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        surplus += usize::from(extended(&reply) == Some((0, "overloaded".to_owned())));
    }
    assert_eq!(served.counters.get(Count::ClientOverload), surplus as u64);
    // Whoever else asks is answered meanwhile.
    let other = UdpSocket::bind("127.0.0.2:0").unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    other.send_to(&question(1, "n.other.", RecordType::A), served.address).unwrap();
    assert_eq!(receive(&other).metadata.response_code, ResponseCode::Refused);
}

#[test]
fn who_waits_is_answered_by_the_policy_of_that_moment() {
    let (served, server) = serve(&[("*.example", false)]);
    let socket = client();
    socket.send_to(&question(1, "silent.example.", RecordType::A), served.address).unwrap();
    while served.counters.get(Count::Queries) == 0 {
        std::thread::yield_now();
    }
    let (done, answers) = std::sync::mpsc::channel();
    // The question that waits is asked again, of a name server that answers.
    let talkative = name_server(|_| true);
    assert_ne!(talkative, server);
    let changed = policy(talkative, &[("*.example", false), ("silent.example", true)]);
    // Before, or the answer could be there under the policy that it was asked under.
    let resolver = changed.snapshot.settings().resolver.clone();
    served.handle.install(changed, done);
    answers.recv_timeout(PATIENCE).unwrap();
    served.handle.configure(resolver, 1);
    assert_eq!(receive(&socket).metadata.response_code, ResponseCode::Refused);
}

#[test]
fn after_a_drain_nobody_is_served() {
    let (served, _) = serve(&[("a.example", false)]);
    let socket = client();
    socket.connect(served.address).unwrap();
    socket.send(&question(1, "a.example.", RecordType::A)).unwrap();
    assert_eq!(receive(&socket).metadata.response_code, ResponseCode::NoError);
    served.handle.drain();
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(served.address).is_ok() {
        assert!(Instant::now() < until);
    }
    // The port is closed, which clients are told; a datagram that came just before is lost.
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    loop {
        let _ = socket.send(&question(2, "a.example.", RecordType::A));
        let said = socket.recv(&mut [0; 512]).map_err(|error| error.kind());
        if said == Err(std::io::ErrorKind::ConnectionRefused) {
            break;
        }
        assert!(Instant::now() < until, "{said:?}");
    }
}
