//! What a refused SSH client is sent: taken apart as a client does it.
use egress_hello::ssh::{Disconnect, MAX_DESCRIPTION, disconnect};

const IDENTIFICATION: &[u8] = b"SSH-2.0-egress\r\n";

/// Reason and description, after every length was checked.
fn read(told: &[u8]) -> (u32, String) {
    let packet = told.strip_prefix(IDENTIFICATION).expect("an identification comes first");
    let number = |at: usize| {
        let word = packet[at..].first_chunk::<4>().expect("a whole number");
        u32::from_be_bytes(*word)
    };
    assert_eq!(number(0) as usize + 4, packet.len());
    assert_eq!(packet.len() % 8, 0);
    let padding = usize::from(packet[4]);
    assert!((4..12).contains(&padding));
    assert_eq!(packet[5], 1);
    let len = number(10) as usize;
    let text = String::from_utf8(packet[14..14 + len].to_vec()).expect("whole characters");
    assert_eq!(number(14 + len), 0, "no language");
    assert_eq!(18 + len + padding, packet.len());
    (number(6), text)
}

#[test]
fn every_length_of_a_description_makes_a_whole_packet() {
    for len in 0..64 {
        let text = "x".repeat(len);
        assert_eq!(read(&disconnect(Disconnect::HostNotAllowed, &text)), (1, text));
    }
    assert_eq!(read(&disconnect(Disconnect::ServiceNotAvailable, "gone")).0, 7);
    assert_eq!(read(&disconnect(Disconnect::TooManyConnections, "full")).0, 12);
}

#[test]
fn a_long_description_is_cut_between_characters() {
    let long = format!("a{}", "ü".repeat(MAX_DESCRIPTION));
    let (_, text) = read(&disconnect(Disconnect::HostNotAllowed, &long));
    assert_eq!(text.len(), MAX_DESCRIPTION - 1);
    assert!(long.starts_with(&text));
}
