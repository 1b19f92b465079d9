//! Messages that two readers could read in two ways: each is refused, with the word that says how.
#[path = "common/cuts.rs"]
mod cuts;
#[path = "common/http.rs"]
mod http;
#[path = "common/shapes.rs"]
mod shapes;

use cuts::word;
use egress_hello::{Answer, http::*};
use http::*;
use shapes::*;

fn wrong(table: &[Row], read: impl Fn(&[u8]) -> &'static str) {
    let mut wrong = Vec::new();
    for (row, (expected, bytes)) in table.iter().enumerate() {
        let got = read(bytes);
        if got != *expected {
            let shown = bytes[..bytes.len().min(200)].escape_ascii();
            wrong.push(format!("row {row}: {got}, not {expected}: {shown}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_hostile_request_is_refused_with_its_word_at_any_cut() {
    wrong(&requests(), |bytes| match read(bytes) {
        Answer::Found(RequestHead::TwoHosts { .. }) => "two_hosts",
        other => word(other, HttpError::word),
    });
}

#[test]
fn each_hostile_response_is_refused_with_its_word_at_any_cut() {
    let to_11 = |bytes: &[u8]| word(read_for(bytes, Asked::default()), HttpError::word);
    wrong(&responses(), to_11);
    let to_10 = Asked { http_10: true, ..Asked::default() };
    wrong(&responses_to_10(), |bytes| word(read_for(bytes, to_10), HttpError::word));
    for (_, bytes) in responses_to_10() {
        assert_eq!(to_11(&bytes), "found");
    }
}

#[test]
fn each_hostile_body_is_refused_with_its_word_at_any_cut() {
    wrong(&bodies(), |bytes| {
        let (whole, mut body) = pass(Framing::Chunked, bytes, &[]);
        assert_eq!(body.pass(b""), whole, "the error stays");
        assert_eq!(pass(Framing::Chunked, bytes, &vec![1; bytes.len()]).0, whole);
        for cut in (0..bytes.len()).step_by(1 + bytes.len() / 500) {
            assert_eq!(pass(Framing::Chunked, bytes, &[cut]).0, whole);
        }
        whole.map_or_else(HttpError::word, |_| "passed")
    });
}

#[test]
fn no_error_goes_untested() {
    let table = [requests(), responses(), responses_to_10(), bodies()].concat();
    let faults = HeadFault::ALL.iter().map(|&fault| fault.into());
    for error in HttpError::ALL.iter().copied().chain(faults) {
        assert!(table.iter().any(|(word, _)| *word == error.word()), "{error:?}");
        assert!(error.word().len() <= 40 && !error.to_string().is_empty());
        assert!(!error.is_bad_name());
    }
}

#[test]
fn both_hosts_are_told() {
    let bytes = b"GET http://A.example:8080/ HTTP/1.1\r\nHost: b.example:80\r\nAccept: application/json\r\n\r\n";
    let Answer::Found(RequestHead::TwoHosts { request, field, field_port }) = read(bytes) else {
        unreachable!("the hosts differ");
    };
    assert_eq!((request.host.to_string().as_str(), request.port), ("a.example", 8080));
    assert_eq!((field.to_string().as_str(), field_port), ("b.example", Some(80)));
    assert_eq!(request.prefers, Preference::Json);
    let mut out = Vec::new();
    rewrite_request(bytes, &request, false, &mut out);
    assert!(out.starts_with(b"GET / HTTP/1.1\r\nHost: a.example:8080\r\nAccept: "));
    assert!(!out.escape_ascii().to_string().contains("b.example"));
}

#[test]
fn a_bad_destination_is_told_from_a_bad_head() {
    for bytes in [target("http://127.1/"), head("GET / HTTP/1.1", &["Host: 127.1"])] {
        assert!(matches!(read(&bytes), Answer::Malformed(error) if error.is_bad_name()));
    }
}
