use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::AtomicU64;

use egress_flowlog::{Geometry, Segment};
use egress_hello::name::{Host, parse_host};

use super::*;

impl Reply for Sender<(u64, Answer, u64)> {
    fn reply(&self, token: u64, _: &Name, answer: &Answer, epoch: u64) {
        let _ = self.send((token, answer.clone(), epoch));
    }

    fn handed(&self, _: u64, _: IpAddr, _: Vec<Name>) {}
}

fn name(text: &str) -> Name {
    match parse_host(text.as_bytes()).unwrap() {
        Host::Name(name) => name,
        Host::Ip(ip) => unreachable!("{ip}"),
    }
}

/// A name server that gives 192.0.2.1 to every name for which `speaks` holds, and says nothing of the others.
pub(crate) fn name_server(speaks: impl Fn(&str) -> bool + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, peer)) = socket.recv_from(&mut query) {
            let mut end = 12;
            let mut labels = Vec::new();
            while query[end] != 0 {
                let label = &query[end + 1..=end + usize::from(query[end])];
                labels.push(String::from_utf8_lossy(label).into_owned());
                end += 1 + label.len();
            }
            end += 5;
            assert!(end <= len);
            if !speaks(&labels.join(".")) {
                continue;
            }
            let is_a = query[end - 4..end - 2] == [0, 1];
            let mut reply = query[..end].to_vec();
            reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
            if is_a {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
            }
            let _ = socket.send_to(&reply, peer);
        }
    });
    address
}

pub(crate) fn settings(server: SocketAddr) -> Settings {
    Settings {
        servers: vec![server],
        hosts: HashMap::new(),
        min_ttl: Duration::from_secs(1),
        max_ttl: Duration::from_secs(60),
        negative_ttl: Duration::from_secs(1),
        stale: Duration::ZERO,
        timeout: Duration::from_secs(1),
        attempts: 1,
        cache_names: 1000,
    }
}

pub(crate) fn counters() -> Counters {
    let geometry = Geometry { workers: 1, ring_capacity: 1, live_capacity: 1 };
    let words = (0..geometry.total_size() / 8).map(|_| AtomicU64::new(0)).collect();
    Segment::format(Vec::leak(words), geometry, 1, 1).unwrap().resolver()
}

#[test]
fn a_domain_whose_servers_are_silent_holds_up_no_other() {
    let server = name_server(|name| !name.ends_with("slow.example"));
    let counters = counters();
    let (sender, answers) = std::sync::mpsc::channel();
    let (handle, _) = start(settings(server), vec![Box::new(sender)], counters, None).unwrap();
    let silent = 2 * MAX_QUERIES;
    for token in 0..silent {
        handle.ask(name(&format!("{token}.{}.slow.example", token % 7)), 0, token);
    }
    let asked = Instant::now();
    handle.ask(name("www.fast.example"), 0, silent);
    let (token, answer, _) = answers.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!((token, answer.is_ok()), (silent, true));
    assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());
    for _ in 0..silent {
        let (_, answer, _) = answers.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(answer.unwrap_err().end, End::ResolveTimeout);
    }
    // A second until their turn, one for the query; and what nobody waits for any more is not asked.
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    let share = most_queries() / DOMAIN_SHARE;
    assert!(counters.get(Count::Queries) <= 1 + 2 * share as u64);
    assert!(counters.get(Count::GivenUp) >= silent - 2 * share as u64);
}

#[test]
fn a_question_after_new_settings_waits_for_no_query_by_the_old() {
    let (old, new) = (name_server(|_| false), name_server(|_| true));
    let (sender, answers) = std::sync::mpsc::channel();
    let (handle, _) = start(settings(old), vec![Box::new(sender)], counters(), None).unwrap();
    // More than the domain's share, so that the last of them waits for its turn.
    let many = MAX_QUERIES;
    for token in 0..many {
        handle.ask(name(&format!("{token}.a.example")), 0, token);
    }
    handle.configure(settings(new), 7);
    let asked = Instant::now();
    for (token, first) in [(many, 0), (many + 1, many - 1)] {
        handle.ask(name(&format!("{first}.a.example")), 0, token);
        let (told, answer, epoch) = answers.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!((told, answer.is_ok(), epoch), (token, true, 7));
    }
    assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());
    let later = answers.recv_timeout(Duration::from_millis(1200));
    assert!(later.is_err(), "an answer to a question before: {later:?}");
}
