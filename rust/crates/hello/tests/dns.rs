//! DNS queries as clients send them and as no client should, and the replies as a client reads them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::IpAddr;

use egress_hello::dns::{
    Code, DnsError, Edns, ExtendedError, MAX_TCP, MAX_TEXT, MAX_UDP, MIN_UDP, Query, Reply, kind,
    read_query, reject,
};
use egress_hello::name::NameError;

/// A query as dig writes it: recursion desired, one question.
fn ask(name: &[&[u8]], kind: u16, additional: &[&[u8]]) -> Vec<u8> {
    let mut message = vec![0xab, 0xcd, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, additional.len() as u8];
    for label in name {
        message.push(label.len() as u8);
        message.extend_from_slice(label);
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message.extend(additional.concat());
    message
}

fn opt(size: u16, flags: u16, options: &[u8]) -> Vec<u8> {
    let mut record = vec![0, 0, 41];
    record.extend_from_slice(&size.to_be_bytes());
    record.extend_from_slice(&[0, 0]);
    record.extend_from_slice(&flags.to_be_bytes());
    record.extend_from_slice(&(options.len() as u16).to_be_bytes());
    record.extend_from_slice(options);
    record
}

const NAME: &[&[u8]] = &[b"WwW", b"Allowed", b"example"];

fn query(additional: &[&[u8]]) -> Query {
    read_query(&ask(NAME, kind::A, additional)).unwrap()
}

#[test]
fn a_query_is_read_and_its_name_normalised() {
    let plain = query(&[]);
    assert_eq!((plain.id, plain.kind, plain.class, plain.edns), (0xabcd, kind::A, 1, None));
    assert_eq!(plain.name().unwrap().as_str(), "www.allowed.example");
    assert_eq!(plain.udp_limit(), MIN_UDP);
    // A cookie, and padding of nothing.
    let edns = query(&[&opt(4096, 0x8000, b"\0\x0a\0\x08abcdefgh\0\x0c\0\0")]);
    assert_eq!(edns.edns, Some(Edns { size: 4096, dnssec_ok: true }));
    assert_eq!(edns.udp_limit(), MAX_UDP);
    assert_eq!(query(&[&opt(100, 0, b"")]).udp_limit(), MIN_UDP);
    // A transaction signature of some other name is not ours to check.
    let signature = b"\x03key\0\0\xfa\0\xff\0\0\0\0\0\x02zz";
    assert_eq!(query(&[signature, &opt(1000, 0, b"")]).udp_limit(), 1000);
}

#[test]
fn the_longest_name_is_read_and_a_longer_one_is_not() {
    let label = [b'a'; 63];
    let longest = [&label[..], &label, &label, &label[..61]];
    let query = read_query(&ask(&longest, kind::A, &[])).unwrap();
    assert_eq!(query.name().unwrap().as_str().len(), 253);
    let longer = [&label[..], &label, &label, &label[..62]];
    assert_eq!(read_query(&ask(&longer, kind::A, &[])).unwrap_err(), DnsError::Name);
}

#[test]
fn what_is_no_host_name_is_not_made_one() {
    let name = |labels: &[&[u8]]| read_query(&ask(labels, kind::A, &[])).unwrap().name();
    assert_eq!(name(&[]), Err(NameError::Empty));
    assert_eq!(name(&[b"a.b", b"example"]), Err(NameError::ForbiddenByte(b'.')));
    assert_eq!(name(&[b"a\0b", b"example"]), Err(NameError::ForbiddenByte(0)));
    assert_eq!(name(&["bücher".as_bytes(), b"example"]), Err(NameError::ForbiddenByte(0xc3)));
    assert_eq!(name(&[b"127", b"0", b"0", b"1"]), Err(NameError::NumericTail));
    assert!(name(&[b"::1"]).is_err() && name(&[b"[::1]"]).is_err() && name(&[b"*", b"x"]).is_err());
    assert_eq!(name(&[b"_dns", b"x--y", b"example"]).unwrap().as_str(), "_dns.x--y.example");
}

#[test]
fn every_broken_message_has_its_word_and_its_answer() {
    let good = ask(NAME, kind::A, &[]);
    let with = |at: usize, byte: u8| {
        let mut message = good.clone();
        message[at] = byte;
        message
    };
    let pointer = [&good[..12], &[0xc0, 0x0c, 0, 1, 0, 1]].concat();
    let two_opts = ask(NAME, kind::A, &[&opt(512, 0, b""), &opt(512, 0, b"")]);
    let mut version = opt(512, 0, b"");
    version[6] = 1;
    let mut owned = opt(512, 0, b"");
    owned.splice(0..1, *b"\x01x\0");
    let cases = [
        (good[..11].to_vec(), DnsError::Short, None),
        (with(2, 0x81), DnsError::Response, None),
        (with(2, 0x28), DnsError::Opcode, Some(Code::NotImp)),
        (with(5, 0), DnsError::Questions, Some(Code::FormErr)),
        (with(5, 2), DnsError::Questions, Some(Code::FormErr)),
        (with(7, 1), DnsError::Records, Some(Code::FormErr)),
        (with(9, 1), DnsError::Records, Some(Code::FormErr)),
        (with(11, 1), DnsError::Records, Some(Code::FormErr)),
        (with(12, 0x43), DnsError::Name, Some(Code::FormErr)),
        (pointer, DnsError::Name, Some(Code::FormErr)),
        (good[..good.len() - 1].to_vec(), DnsError::Name, Some(Code::FormErr)),
        ([&good[..], b"x"].concat(), DnsError::Trailing, Some(Code::FormErr)),
        (two_opts, DnsError::Edns, Some(Code::FormErr)),
        (ask(NAME, kind::A, &[&owned]), DnsError::Edns, Some(Code::FormErr)),
        (
            ask(NAME, kind::A, &[&opt(512, 0, b"\0\x0a\0\x09x")]),
            DnsError::Edns,
            Some(Code::FormErr),
        ),
        (ask(NAME, kind::A, &[&version]), DnsError::Version, Some(Code::BadVers)),
    ];
    for (message, error, code) in cases {
        assert_eq!(read_query(&message), Err(error), "{error}");
        assert_eq!(error.code(), code);
        let told = reject(&message, error);
        assert_eq!(told.is_some(), code.is_some(), "{error}");
        if let (Some(told), Some(code)) = (told, code) {
            assert_eq!((&told[..2], told[2] & 0x80), (&message[..2], 0x80), "{error}");
            assert_eq!(u16::from(told[3] & 0xf), code as u16 & 0xf);
            assert!(told.len() < message.len());
        }
    }
}

fn records(reply: &[u8]) -> (u16, bool) {
    (u16::from_be_bytes([reply[6], reply[7]]), reply[2] & 2 != 0)
}

#[test]
fn a_reply_repeats_the_question_and_holds_the_addresses_of_its_type() {
    let addresses: Vec<IpAddr> =
        ["192.0.2.1", "2001:db8::1", "192.0.2.2"].map(|ip| ip.parse().unwrap()).to_vec();
    let reply = Reply { code: Code::NoError, addresses: &addresses, ttl: 300, error: None };
    let query = query(&[]);
    let told = reply.write(&query, query.udp_limit());
    let sent = ask(NAME, kind::A, &[]);
    let head = [&sent[..2], &[0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0], &sent[12..]].concat();
    let first = [0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 1];
    let second = [0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 2];
    assert_eq!(told, [&head[..], &first, &second].concat());
    let six = read_query(&ask(NAME, kind::AAAA, &[])).unwrap();
    assert_eq!(records(&reply.write(&six, MIN_UDP)), (1, false));
    let https = read_query(&ask(NAME, 65, &[])).unwrap();
    assert_eq!(records(&reply.write(&https, MIN_UDP)), (0, false));
}

#[test]
fn what_does_not_fit_is_cut_in_the_right_order() {
    let many: Vec<IpAddr> = (0..200).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    let text = "é".repeat(300);
    let error = Some(ExtendedError { info: ExtendedError::BLOCKED, text: &text });
    let reply = Reply { code: Code::NoError, addresses: &many, ttl: 1, error };
    let query = query(&[&opt(512, 0, b"")]);
    let told = reply.write(&query, query.udp_limit());
    assert_eq!(records(&told), (0, true));
    assert!(told.len() <= MIN_UDP);
    assert_eq!(records(&reply.write(&query, MAX_TCP)), (200, false));
    // All addresses fit, the error's text does not: it goes, and the addresses stay.
    let head = ask(NAME, kind::A, &[&opt(512, 0, b"")]).len();
    let addresses = 28 * 16;
    let few = Reply { addresses: &many[..28], ..reply };
    for (room, taken) in [(6, 6), (5, 0), (6 + MAX_TEXT - 1, 6), (6 + MAX_TEXT, 6 + MAX_TEXT)] {
        let told = few.write(&query, head + addresses + room);
        assert_eq!((records(&told), told.len()), ((28, false), head + addresses + taken));
    }
    let whole = few.write(&query, MAX_TCP);
    let cut = std::str::from_utf8(&whole[head + addresses + 6..]).unwrap();
    assert_eq!(cut, "é".repeat(MAX_TEXT / 2));
}

#[test]
fn only_types_that_names_have_are_data() {
    let asks = |kind| read_query(&ask(NAME, kind, &[])).unwrap().asks_for_data();
    for data in [kind::A, kind::AAAA, 16, 64, 65, kind::ANY, 257, 65535] {
        assert!(asks(data), "{data}");
    }
    for meta in [0, kind::OPT, 128, 249, 250, 251, 252, 254] {
        assert!(!asks(meta), "{meta}");
    }
}
