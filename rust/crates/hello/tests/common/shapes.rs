//! Messages that two readers could read in two ways, each with the word that refuses it.
use egress_hello::http::{MAX_HEAD, MAX_HEADERS};

pub type Row = (&'static str, Vec<u8>);

/// A head with this first line and these header lines.
pub fn head(line: &str, headers: &[&str]) -> Vec<u8> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("{line}\r\n{headers}\r\n").into_bytes()
}

/// A request for a URI.
pub fn target(target: &str) -> Vec<u8> {
    head(&format!("GET {target} HTTP/1.1"), &["Host: a.example"])
}

fn line(line: &str) -> Vec<u8> {
    head(line, &["Host: a.example"])
}

fn post(headers: &[&str]) -> Vec<u8> {
    head("POST / HTTP/1.1", &[&["Host: a.example"], headers].concat())
}

fn raw(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn request_lines() -> Vec<Row> {
    vec![
        ("not", line("CONNECT a.example:443 HTTP/1.1")),
        ("not", raw("GET /\r\n")),
        ("not", raw("GET http://a.example/\r\n\r\n")),
        ("not", line("get / HTTP/1.1")),
        ("not", line("GE(T / HTTP/1.1")),
        ("not", line("G\u{1}T / HTTP/1.1")),
        ("not", line(" GET / HTTP/1.1")),
        ("not", raw("\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n")),
        ("not", line("HTTP/1.1 200 OK")),
        ("http_version", raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
        ("http_version", line("GET / HTTP/2.0")),
        ("http_version", line("GET / HTTP/1.2")),
        ("http_version", line("GET / HTTP/0.9")),
        ("http_version", line("GET / HTTP/1.10")),
        ("http_version", line("GET / HTTP/01.1")),
        ("http_version", line("GET / HTTP/1.1 ")),
        ("http_version", line("GET /a b HTTP/1.1")),
        ("http_version", line("GET / HTTP/1.1 HTTP/1.1")),
        ("request_line", line("GET  / HTTP/1.1")),
        ("request_line", line("GET /\u{1} HTTP/1.1")),
        ("request_line", line("GET /a\tb HTTP/1.1")),
        ("target_byte", target("/#fragment")),
        ("target_byte", target("http://a.example#@b.example/")),
        ("target_byte", target("/\u{e4}")),
        ("target_form", target("*")),
        ("target_form", target("a.example")),
        ("target_form", target("a.example:80")),
        ("target_form", target("http:/a.example/")),
        ("target_form", target("://a.example/")),
        ("target_form", target("1http://a.example/")),
        ("scheme_not_http", target("https://a.example/")),
        ("scheme_not_http", target("ws://a.example/")),
        ("scheme_not_http", target("ftp://a.example/")),
        ("user_info", target("http://user@a.example/")),
        ("user_info", target("http://a.example:80@b.example/")),
        ("user_info", target("http://@a.example/")),
        ("name_empty", target("http:///path")),
        ("name_empty", target("http://?q")),
        ("name_forbidden_byte", target("http://a.example\\b.example/")),
        ("name_forbidden_byte", target("http://a%2eexample/")),
        ("name_forbidden_byte", target("http://a.example,b.example/")),
        ("name_numeric_tail", target("http://127.1/")),
        ("port_missing", target("http://a.example:/")),
        ("port_bad", target("http://a.example:0/")),
        ("port_bad", target("http://a.example:65616/")),
        ("port_bad", target("http://a.example:+80/")),
    ]
}

fn request_hosts() -> Vec<Row> {
    let get = |headers: &[&str]| head("GET / HTTP/1.1", headers);
    let absolute = |headers: &[&str]| head("GET http://a.example/ HTTP/1.1", headers);
    vec![
        ("host_missing", get(&[])),
        ("host_missing", absolute(&[])),
        ("host_missing", head("GET / HTTP/1.0", &[])),
        ("host_twice", get(&["Host: a.example", "Host: a.example"])),
        ("host_twice", absolute(&["Host: a.example", "hOsT: b.example"])),
        ("host_twice", head("GET / HTTP/1.0", &["Host: a.example", "Host: a.example"])),
        ("name_empty", get(&["Host:"])),
        ("name_forbidden_byte", get(&["Host: a.example, b.example"])),
        ("name_forbidden_byte", get(&["Host: user@a.example"])),
        ("name_forbidden_byte", get(&["Host: a.example/"])),
        ("name_forbidden_byte", get(&["Host: b\u{fc}cher.example"])),
        ("name_numeric_tail", get(&["Host: 2130706433"])),
        ("port_bad", get(&["Host: http://a.example"])),
        ("port_bad", get(&["Host: a.example:080000"])),
        ("host_bad", absolute(&["Host:"])),
        ("host_bad", absolute(&["Host: a.example a.example"])),
        ("host_bad", absolute(&["Host: user@a.example"])),
        ("two_hosts", absolute(&["Host: b.example"])),
        ("two_hosts", absolute(&["Host: a.example:8080"])),
        ("two_hosts", absolute(&["Host: 192.0.2.1", "Content-Length: 5"])),
        ("content_length", absolute(&["Host: 192.0.2.1", "Content-Length: x"])),
        ("two_hosts", head("GET http://a.example/ HTTP/1.0", &["Host: b.example"])),
    ]
}

fn request_fields() -> Vec<Row> {
    let bare = |text: &str| raw(&format!("POST / HTTP/1.1\r\nHost: a.example\r\n{text}"));
    let options =
        |headers: &[&str]| head("OPTIONS * HTTP/1.1", &[&["Host: a.example"], headers].concat());
    let coding = "Transfer-Encoding: chunked";
    vec![
        ("bare_lf", bare("Content-Length: 5\nTransfer-Encoding: chunked\r\n\r\n")),
        ("bare_lf", bare("X: y\n\n")),
        ("bare_lf", raw("GET / HTTP/1.1\nHost: a.example\n\n")),
        ("bare_cr", bare("X: y\rTransfer-Encoding: chunked\r\n\r\n")),
        ("bare_cr", bare("X: y\r\r\n\r\n")),
        ("nul", post(&["X: a\0b"])),
        ("nul", line("GET /\0 HTTP/1.1")),
        ("obs_fold", post(&["X: y", " Transfer-Encoding: chunked"])),
        ("obs_fold", post(&["Transfer-Encoding:", "\tchunked"])),
        ("obs_fold", bare(" \r\n\r\n")),
        ("header_name", post(&["Transfer-Encoding : chunked"])),
        ("header_name", post(&["Content-Length\t: 5"])),
        ("header_name", post(&["Transfer-Encoding"])),
        ("header_name", post(&[": chunked"])),
        ("header_name", post(&["Transfer-Encoding\u{a0}: chunked"])),
        ("header_value", post(&["Transfer-Encoding: \u{b}chunked"])),
        ("header_value", post(&["X: \u{7f}"])),
        ("headers_many", post(&["A: b"; MAX_HEADERS])),
        ("head_too_large", post(&[&format!("X: {}", "x".repeat(MAX_HEAD))])),
        ("head_too_large", target(&format!("/{}", "x".repeat(MAX_HEAD)))),
        ("expect_other", post(&["Expect: y 100-continue"])),
        ("expect_other", post(&["Expect:"])),
        ("expect_other", post(&["Expect: 100-continue", "Expect: 100-continue"])),
        ("expect_other", post(&["Expect: 100-continue, 100-continue"])),
        ("connection_option", post(&["Connection: close; a"])),
        ("connection_option", post(&["Connection: \"close\""])),
        (
            "connection_option",
            post(&["Connection: a,b,c,d,e,f,g,h,i", "Connection: j,k,l,m,n,o,p,q"]),
        ),
        ("connection_names", post(&["Connection: close, Host"])),
        ("connection_names", post(&["Connection: content-length", "Content-Length: 5"])),
        ("connection_names", post(&["Connection: x", "Connection: Transfer-Encoding", coding])),
        ("connection_names", post(&["Connection: Expect"])),
        ("max_forwards", head("TRACE / HTTP/1.1", &["Host: a.example", "Max-Forwards: 0"])),
        ("max_forwards", options(&["Max-Forwards: -1"])),
        ("max_forwards", options(&["Max-Forwards: 5", "Max-Forwards: 6"])),
    ]
}

/// What is wrong in requests and in responses alike.
fn framing(head: impl Fn(&[&str]) -> Vec<u8>) -> Vec<Row> {
    vec![
        ("length_and_coding", head(&["Content-Length: 5", "Transfer-Encoding: chunked"])),
        ("length_and_coding", head(&["transfer-encoding: Chunked", "content-length: 0"])),
        ("content_lengths_differ", head(&["Content-Length: 5", "Content-Length: 6"])),
        ("content_lengths_differ", head(&["Content-Length: 0", "X: y", "content-length: 44"])),
        ("content_length", head(&["Content-Length: 5, 5"])),
        ("content_length", head(&["Content-Length: 5,6"])),
        ("content_length", head(&["Content-Length: 5", "Content-Length: "])),
        ("content_length", head(&["Content-Length: +5"])),
        ("content_length", head(&["Content-Length: -0"])),
        ("content_length", head(&["Content-Length: 0x5"])),
        ("content_length", head(&["Content-Length: 05"])),
        ("content_length", head(&["Content-Length: 5 5"])),
        ("content_length", head(&["Content-Length: 5."])),
        ("content_length", head(&["Content-Length: \"5\""])),
        ("content_length", head(&["Content-Length: \u{665}"])),
        ("content_length", head(&["Content-Length: 18446744073709551616"])),
        ("transfer_encoding", head(&["Transfer-Encoding: identity"])),
        ("transfer_encoding", head(&["Transfer-Encoding: gzip, chunked"])),
        ("transfer_encoding", head(&["Transfer-Encoding: chunked, chunked"])),
        ("transfer_encoding", head(&["Transfer-Encoding: chunked, identity"])),
        ("transfer_encoding", head(&["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"])),
        ("transfer_encoding", head(&["Transfer-Encoding: chunked", "Transfer-Encoding: x"])),
        ("transfer_encoding", head(&["Transfer-Encoding: xchunked"])),
        ("transfer_encoding", head(&["Transfer-Encoding: chunked;q=1"])),
        ("transfer_encoding", head(&["Transfer-Encoding: \"chunked\""])),
        ("transfer_encoding", head(&["Transfer-Encoding: ,chunked"])),
        ("transfer_encoding", head(&["Transfer-Encoding: chunked\u{85}"])),
        ("transfer_encoding", head(&["Transfer-Encoding:"])),
    ]
}

pub fn requests() -> Vec<Row> {
    let of_10 = |coding| head("POST / HTTP/1.0", &["Host: a.example", coding]);
    let coded = vec![("transfer_encoding_10", of_10("Transfer-Encoding: chunked"))];
    [request_lines(), request_hosts(), request_fields(), framing(post), coded].concat()
}

pub fn responses() -> Vec<Row> {
    let ok = |headers: &[&str]| head("HTTP/1.1 200 OK", headers);
    let status = |text: &str| head(text, &["Content-Length: 0"]);
    let (length, coding) = ("Content-Length: 5", "Transfer-Encoding: chunked");
    let own = vec![
        ("not", status("ICY 200 OK")),
        ("not", raw("\r\nHTTP/1.1 200 OK\r\n\r\n")),
        ("not", raw("<html>")),
        ("not", status("http/1.1 200 OK")),
        ("http_version", status("HTTP/2 200 OK")),
        ("http_version", status("HTTP/1.2 200 OK")),
        ("http_version", status("HTTP/1.1\t200 OK")),
        ("status_line", status("HTTP/1.1  200 OK")),
        ("status_line", status("HTTP/1.1 20 OK")),
        ("status_line", status("HTTP/1.1 2000 OK")),
        ("status_line", status("HTTP/1.1 +20 OK")),
        ("status_line", status("HTTP/1.1 200 O\u{1}K")),
        ("status_line", status("HTTP/1.1 200\tOK")),
        ("status_other", status("HTTP/1.1 099 Low")),
        ("switch_unasked", head("HTTP/1.1 101 Go", &["Connection: Upgrade", "Upgrade: websocket"])),
        ("bare_lf", raw("HTTP/1.1 200 OK\n\n")),
        ("bare_cr", raw("HTTP/1.1 200 OK\rX: y\r\n\r\n")),
        ("nul", ok(&["X: \0"])),
        ("obs_fold", ok(&["X: y", " z"])),
        ("header_name", ok(&["X : y"])),
        ("header_value", ok(&["X: \u{1}"])),
        ("headers_many", ok(&["A: b"; MAX_HEADERS + 1])),
        ("head_too_large", ok(&[&format!("X: {}", "x".repeat(MAX_HEAD))])),
        ("connection_names", ok(&["Connection: Content-Length", length])),
        ("connection_option", ok(&["Connection: a b"])),
        ("transfer_encoding_10", head("HTTP/1.0 200 OK", &[coding])),
        ("length_and_coding", head("HTTP/1.1 304 Same", &[length, coding])),
    ];
    [own, framing(ok)].concat()
}

/// What an origin may not answer to a client of HTTP/1.0.
pub fn responses_to_10() -> Vec<Row> {
    vec![
        ("newer_than_asked", head("HTTP/1.1 200 OK", &["Transfer-Encoding: chunked"])),
        ("newer_than_asked", head("HTTP/1.1 100 Continue", &[])),
        ("newer_than_asked", head("HTTP/1.1 103 Early Hints", &["Link: </a>"])),
    ]
}

pub fn bodies() -> Vec<Row> {
    let after = |text: &str| raw(&format!("3\r\nabc\r\n0\r\n{text}"));
    vec![
        ("chunk_size", raw("\r\n")),
        ("chunk_size", raw("x")),
        ("chunk_size", raw(" 5\r\nhello\r\n")),
        ("chunk_size", raw("5 \r\nhello\r\n")),
        ("chunk_size", raw("5\nhello\r\n")),
        ("chunk_size", raw("+5\r\nhello\r\n")),
        ("chunk_size", raw("-1\r\n")),
        ("chunk_size", raw("0x5\r\nhello\r\n")),
        ("chunk_size", raw("5_0\r\n")),
        ("chunk_size", raw("10000000000000\r\n")),
        ("chunk_size", raw("FFFFFFFFFFFFFFFF\r\n")),
        ("chunk_size", raw("00000000000005\r\nhello\r\n")),
        ("chunk_size", raw("\u{665}\r\n")),
        ("chunk_size", raw(";a\r\n")),
        ("chunk_size", raw("3\r\nabc\r\n\r\n0\r\n\r\n")),
        ("chunk_extension", raw("5;a=b\nhello\r\n")),
        ("chunk_extension", raw("5;\nhello\r\n")),
        ("chunk_extension", raw("5;a\0\r\nhello\r\n")),
        ("chunk_extension", raw(&format!("5;{}", "a".repeat(MAX_HEAD)))),
        ("chunk_extension", raw(&format!("1;{0}\r\na\r\n1;{0}\r\n", "a".repeat(MAX_HEAD / 2)))),
        ("chunk_end", raw("5;a\r hello\r\n")),
        ("chunk_end", raw("5\rhello\r\n")),
        ("chunk_end", raw("5\r\nhello\n0\r\n\r\n")),
        ("chunk_end", raw("5\r\nhello!\r\n")),
        ("chunk_end", raw("5\r\nhello\rX")),
        ("chunk_end", raw("5\r\nhello0\r\n\r\n")),
        ("trailer", after("\n")),
        ("trailer", after("\rGET / HTTP/1.1")),
        ("trailer", after("X: y\n\r\n")),
        ("trailer", after("X: y\r\r\n")),
        ("trailer", after("X : y\r\n\r\n")),
        ("trailer", after("X: y\r\n z\r\n\r\n")),
        ("trailer", after("X: \0\r\n\r\n")),
        ("trailer", after("GET / HTTP/1.1\r\n\r\n")),
        ("trailer_name", after("Content-Length: 5\r\n\r\n")),
        ("trailer_name", after("X: y\r\nTRANSFER-ENCODING: chunked\r\n\r\n")),
        ("trailer_name", after("host: b.example\r\n\r\n")),
        ("trailer_name", after("Proxy-Authorization: x\r\n\r\n")),
        ("trailer_name", after("Proxy-Authentication-Info: x\r\n\r\n")),
        ("trailer_name", after("te: x\r\n\r\n")),
        ("trailers_large", after(&format!("X: {}", "y".repeat(MAX_HEAD)))),
        ("trailers_large", after(&"X: y\r\n".repeat(MAX_HEADERS + 1))),
    ]
}
