//! Heads as they are forwarded. What is left out was decided when they were read; all other fields
//! pass as they came, in their order.
use std::{io::Write as _, net::IpAddr};

use super::{DEFAULT_PORT, Framing, Request, Response, hops::Dropped};
use crate::name::Host;

/// Most bytes by which a head is longer than the one that it was read from: a line such as `Connection:
/// close`, and a byte here and there where something is written in full.
pub const MAX_GROWTH: usize = 64;

/// `HTTP/1.1` and `HTTP/1.0` are as long.
const VERSION: usize = 8;

/// Appends the head of a request for its origin. `bytes` are those that the request was read from.
///
/// The target is in origin-form, and Host is first and the one that was judged (RFC 9112 §3.2). With
/// `close` the origin is told that no other request follows. What is appended is at most [`MAX_GROWTH`]
/// longer than the head that was read.
pub fn rewrite_request(bytes: &[u8], request: &Request, close: bool, out: &mut Vec<u8>) {
    let head = bytes.get(..request.head_len).unwrap_or(bytes);
    let (method, path) = (request.method(head), request.path(head));
    out.extend_from_slice(method);
    out.push(b' ');
    match path.first() {
        // RFC 9112 §3.2.4 and §3.2.1.
        None if method == b"OPTIONS" => out.push(b'*'),
        None | Some(b'?') => out.push(b'/'),
        Some(_) => {}
    }
    out.extend_from_slice(path);
    out.extend_from_slice(if request.asked.http_10 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });
    write_host(&request.host, request.port, out);
    fields(head, request.dropped, out);
    if let Some(left) = request.max_forwards {
        let _ = write!(out, "Max-Forwards: {left}\r\n");
    }
    end(request.framing, request.asked.upgrade, close, out);
}

/// Appends the head of a response for the client. `bytes` are those that the response was read from.
///
/// The version is the gateway's own (RFC 9110 §6.2). With `close` the client is told that the connection
/// ends after this; that is said anyway when only its end ends the body. It grows as a request's head does.
pub fn rewrite_response(bytes: &[u8], response: &Response, close: bool, out: &mut Vec<u8>) {
    let head = bytes.get(..response.head_len).unwrap_or(bytes);
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let status = line.get(VERSION..).unwrap_or_default();
    out.extend_from_slice(b"HTTP/1.1");
    out.extend_from_slice(status);
    // RFC 9112 §4: the space is there when the reason is not.
    if status.len() == b" 200".len() {
        out.push(b' ');
    }
    out.extend_from_slice(b"\r\n");
    fields(head, response.dropped, out);
    let close = (close || response.framing == Framing::UntilClose) && !response.is_interim();
    end(response.framing, response.is_switch(), close, out);
}

/// Writes the lines after the first, without those that were dropped and without the blank one.
fn fields(head: &[u8], dropped: Dropped, out: &mut Vec<u8>) {
    let lines = head.split_inclusive(|&byte| byte == b'\n').skip(1);
    for (at, line) in lines.take_while(|line| *line != b"\r\n").enumerate() {
        if !dropped.has(at) {
            out.extend_from_slice(line);
        }
    }
}

fn write_host(host: &Host, port: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Host: ");
    // Writing to a vector does not fail.
    let _ = match host {
        Host::Ip(IpAddr::V6(ip)) => write!(out, "[{ip}]"),
        host => write!(out, "{host}"),
    };
    if port != DEFAULT_PORT {
        let _ = write!(out, ":{port}");
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes what is said anew for the next connection, and the blank line.
fn end(framing: Framing, upgrade: bool, close: bool, out: &mut Vec<u8>) {
    if framing == Framing::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if upgrade {
        out.extend_from_slice(b"Connection: Upgrade\r\n");
    } else if close {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}
