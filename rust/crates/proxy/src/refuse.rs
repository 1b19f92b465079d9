//! What a client is told when its flow cannot go on: bytes in the client's own protocol.

use egress_hello::http::Preference;
use egress_hello::protocol::Protocol;
use egress_hello::socks::{LOGIN_REFUSED, Method, Reply, SocksError};
use egress_policy::{Accept, End, Reason};

mod page;
mod postgres;
mod ssh;

/// TLS alert descriptions (RFC 8446, section 6).
const ALERT_ACCESS_DENIED: u8 = 49;
const ALERT_INTERNAL_ERROR: u8 = 80;
const ALERT_DECODE_ERROR: u8 = 50;
const ALERT_UNRECOGNIZED_NAME: u8 = 112;

/// A SOCKS client offers no method that the listener takes.
pub(crate) const NO_METHOD: &str = "socks_method";

/// A CONNECT on a listener that takes all other methods.
pub(crate) const METHOD_CONNECT: &str = "method_connect";

/// Too many logins wait to be verified; the source had too many wrong ones.
pub(crate) const LOGIN_QUEUE: &str = "login_queue_full";
pub(crate) const TOO_MANY_FAILURES: &str = "too_many_failures";

/// Why the flow stops, in the terms that choose an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal<'a> {
    pub reason: Reason,
    pub end: End,
    /// The rule's message, rendered; no control characters.
    pub message: &'a str,
    pub flow_id: u64,
    pub name: &'a str,
    pub port: u16,
    pub rule: &'a str,
    pub prefers: Preference,
    /// A parser's word for what was malformed.
    pub detail: &'a str,
    /// The connection lives on, for another request.
    pub goes_on: bool,
    /// The answer is to HEAD: it has no body.
    pub bodiless: bool,
}

impl Refusal<'_> {
    /// The answer's bytes; empty where the protocol has no words (raw TCP, or bytes that are no known protocol).
    pub(crate) fn answer(&self, accept: Accept) -> Vec<u8> {
        match accept {
            Accept::Tls => self.alert(),
            Accept::Connect | Accept::Http => self.http(),
            Accept::Socks5 => self.socks(),
            Accept::Postgres if self.reason == Reason::NotAccepted => Vec::new(),
            Accept::Postgres => self.postgres(),
            Accept::Tcp | Accept::Several | Accept::Transparent | Accept::Dns => Vec::new(),
        }
    }

    /// The answer to a captured client, in the protocol in which it began.
    pub(crate) fn answer_captured(&self, protocol: Protocol) -> Vec<u8> {
        match protocol {
            Protocol::Tls => self.alert(),
            Protocol::Http => self.http(),
            Protocol::Ssh => self.ssh(),
            Protocol::Postgres => self.postgres(),
            Protocol::Socks5 | Protocol::Http2 | Protocol::ProxyHeader => Vec::new(),
        }
    }

    /// A fatal alert record; version 3.3 is what every client from TLS 1.0 on reads.
    pub(crate) fn alert(&self) -> Vec<u8> {
        let description = match (self.end, self.reason) {
            (End::Refused, Reason::NotAccepted) => return Vec::new(),
            (End::Refused, Reason::Malformed) => ALERT_DECODE_ERROR,
            (End::Refused, Reason::BadName | Reason::NoName) => ALERT_UNRECOGNIZED_NAME,
            (End::Refused, Reason::Overloaded) => ALERT_INTERNAL_ERROR,
            (End::Refused, _) => ALERT_ACCESS_DENIED,
            _ => ALERT_INTERNAL_ERROR,
        };
        vec![21, 3, 3, 0, 2, 2, description]
    }

    /// A reply code (RFC 1928, section 6); to a client that offers no method that can be had, just that.
    fn socks(&self) -> Vec<u8> {
        let of_login = [
            LOGIN_QUEUE,
            SocksError::LoginVersion.word(),
            SocksError::UserEmpty.word(),
            SocksError::PasswordEmpty.word(),
        ];
        if self.end == End::Refused {
            match self.reason {
                // It has greeted, and not asked for anything yet.
                Reason::LoginRequired if self.name.is_empty() => {
                    return Method::NoneAcceptable.bytes().to_vec();
                }
                Reason::LoginFailed => return LOGIN_REFUSED.to_vec(),
                _ if of_login.contains(&self.detail) => return LOGIN_REFUSED.to_vec(),
                _ => {}
            }
        }
        let reply = match self.end {
            End::ConnectRefused => Reply::ConnectionRefused,
            End::ConnectTimeout
            | End::ConnectFailed
            | End::ResolveTimeout
            | End::ResolveNoName
            | End::ResolveFailed => Reply::HostUnreachable,
            End::OutOfResources => Reply::GeneralFailure,
            _ => match self.reason {
                Reason::Malformed => {
                    let of_greeting = [NO_METHOD, SocksError::MethodsNone.word()];
                    if of_greeting.contains(&self.detail) {
                        return Method::NoneAcceptable.bytes().to_vec();
                    }
                    let error = SocksError::ALL.iter().find(|error| error.word() == self.detail);
                    error.map_or(Reply::GeneralFailure, |error| error.reply())
                }
                Reason::BadName | Reason::FirstBytesTimeout | Reason::Overloaded => {
                    Reply::GeneralFailure
                }
                _ => Reply::NotAllowed,
            },
        };
        reply.without_address().to_vec()
    }

    fn status(&self) -> (u16, &'static str) {
        match self.end {
            End::ResolveTimeout | End::ConnectTimeout | End::IdleTimeout => {
                (504, "Gateway Timeout")
            }
            End::ResolveNoName
            | End::ResolveFailed
            | End::ConnectRefused
            | End::ConnectFailed
            | End::UpstreamReset => (502, "Bad Gateway"),
            End::OutOfResources => (503, "Service Unavailable"),
            _ => match self.reason {
                Reason::NotAccepted | Reason::Malformed | Reason::BadName => match self.detail {
                    "method_not_connect" | METHOD_CONNECT => (405, "Method Not Allowed"),
                    "head_too_large" | "headers_many" => (431, "Request Header Fields Too Large"),
                    "expect_other" => (417, "Expectation Failed"),
                    "scheme_not_http" => (501, "Not Implemented"),
                    _ => (400, "Bad Request"),
                },
                Reason::LoginFailed if self.detail == TOO_MANY_FAILURES => {
                    (429, "Too Many Requests")
                }
                // RFC 9110, section 15.5.8.
                Reason::LoginRequired | Reason::LoginFailed => {
                    (407, "Proxy Authentication Required")
                }
                Reason::FirstBytesTimeout => (408, "Request Timeout"),
                Reason::ConnectionLimit | Reason::ConnectionRate | Reason::BudgetSpent => {
                    (429, "Too Many Requests")
                }
                Reason::Overloaded => (503, "Service Unavailable"),
                _ => (403, "Forbidden"),
            },
        }
    }

    fn http(&self) -> Vec<u8> {
        let (status, phrase) = self.status();
        let word = if self.end == End::Refused { self.reason.word() } else { self.end.word() };
        let (kind, body) = self.body(status, phrase, word);
        let allow = match (status, self.detail) {
            (405, METHOD_CONNECT) => {
                "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, TRACE, PATCH\r\n"
            }
            (405, _) => "Allow: CONNECT\r\n",
            // RFC 7617, section 2.1: names and passwords are read as UTF-8.
            (407, _) => "Proxy-Authenticate: Basic realm=\"egress\", charset=\"UTF-8\"\r\n",
            _ => "",
        };
        let close =
            if self.goes_on { "" } else { "Connection: close\r\nProxy-Connection: close\r\n" };
        let length = body.len();
        let body = if self.bodiless { "" } else { body.as_str() };
        format!(
            "HTTP/1.1 {status} {phrase}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
             Cache-Control: no-store\r\n{close}{allow}\
             X-Egress-Reason: {word}\r\nX-Egress-Decision: {:016x}\r\n\r\n{body}",
            self.flow_id,
        )
        .into_bytes()
    }

    /// The type of the body, and the body, in the form that the client would rather read.
    fn body(&self, status: u16, phrase: &str, word: &str) -> (&'static str, String) {
        match self.prefers {
            Preference::Json => {
                let body = serde_json::json!({
                    "error": word,
                    "message": self.message,
                    "decision": format!("{:016x}", self.flow_id),
                    "rule": (!self.rule.is_empty()).then_some(self.rule),
                    "name": self.name,
                    "port": self.port,
                    "detail": (!self.detail.is_empty()).then_some(self.detail),
                });
                ("application/json", format!("{body}\n"))
            }
            Preference::Page => ("text/html; charset=utf-8", self.page(status, phrase, word)),
            Preference::Text => ("text/plain; charset=utf-8", format!("{}\n", self.message)),
        }
    }
}

/// What is said where no rule's message applies; ends with what the operator needs to find the record.
pub(crate) fn own_message(
    reason: Reason,
    end: End,
    detail: &str,
    name: &str,
    flow_id: u64,
) -> String {
    let told = match end {
        End::ResolveNoName => format!("{name} does not exist, or has no address"),
        End::ResolveTimeout => format!("the name servers did not answer for {name}"),
        End::ResolveFailed => format!("the name servers failed for {name}"),
        End::ConnectRefused => format!("{name} refused the connection"),
        End::ConnectTimeout => format!("{name} did not answer in time"),
        End::ConnectFailed => format!("{name} cannot be reached"),
        End::IdleTimeout => format!("{name} did not answer in time"),
        End::UpstreamReset if detail.is_empty() => {
            format!("{name} closed the connection without an answer")
        }
        End::UpstreamReset => format!("{name} answered in a way that is not HTTP ({detail})"),
        End::UpstreamNoTls => format!("{name} does not take TLS"),
        End::OutOfResources => "the egress gateway is out of resources".to_owned(),
        _ => match reason {
            Reason::NotAccepted => "this listener does not speak that protocol".to_owned(),
            Reason::NoName => "the connection names no host".to_owned(),
            Reason::Malformed if detail == "scheme_not_http" => {
                "only http:// is asked for this way; for https:// the client makes its own TLS in a tunnel (CONNECT)"
                    .to_owned()
            }
            Reason::Malformed => format!("the request is malformed ({detail})"),
            Reason::BadName => format!("the destination is not a valid name ({detail})"),
            Reason::LoginRequired => "log in with a user and a password".to_owned(),
            Reason::LoginFailed if detail == TOO_MANY_FAILURES => {
                "too many logins have failed; wait a moment".to_owned()
            }
            Reason::LoginFailed => "the user or the password is wrong".to_owned(),
            Reason::FirstBytesTimeout => "the request did not arrive in time".to_owned(),
            Reason::Overloaded => "the egress gateway is overloaded".to_owned(),
            _ => format!("refused: {reason}"),
        },
    };
    format!("Egress gateway: {told}. Quote {flow_id:016x}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn refusal(reason: Reason, end: End) -> Refusal<'static> {
        Refusal {
            reason,
            end,
            message: "Blocked \"here\".",
            flow_id: 0xabc,
            name: "x.example",
            port: 443,
            rule: "",
            prefers: Preference::Text,
            detail: "",
            goes_on: false,
            bodiless: false,
        }
    }

    #[test]
    fn a_denied_hello_gets_the_alert_access_denied() {
        assert_eq!(
            refusal(Reason::DefaultDeny, End::Refused).answer(Accept::Tls),
            [21, 3, 3, 0, 2, 2, 49]
        );
        assert_eq!(
            refusal(Reason::Rule, End::ConnectTimeout).answer(Accept::Tls),
            [21, 3, 3, 0, 2, 2, 80]
        );
        assert!(refusal(Reason::NotAccepted, End::Refused).answer(Accept::Tls).is_empty());
    }

    #[test]
    fn a_captured_client_is_answered_in_the_protocol_it_began_with() {
        let told = |protocol| refusal(Reason::DefaultDeny, End::Refused).answer_captured(protocol);
        assert_eq!(told(Protocol::Tls), [21, 3, 3, 0, 2, 2, 49]);
        assert!(told(Protocol::Http).starts_with(b"HTTP/1.1 403 Forbidden\r\n"));
        assert!(told(Protocol::Ssh).starts_with(b"SSH-2.0-"));
        assert!(told(Protocol::Postgres).starts_with(b"E\0\0"));
        assert!(told(Protocol::Socks5).is_empty());
    }

    #[test]
    fn a_socks_client_gets_its_reply_code() {
        let code = |refusal: Refusal<'_>| refusal.answer(Accept::Socks5)[1];
        assert_eq!(code(refusal(Reason::DefaultDeny, End::Refused)), 2);
        assert_eq!(code(refusal(Reason::Rule, End::ConnectRefused)), 5);
        assert_eq!(code(refusal(Reason::Rule, End::ResolveNoName)), 4);
        let malformed =
            |detail| code(Refusal { detail, ..refusal(Reason::Malformed, End::Refused) });
        assert_eq!(malformed("socks_command"), 7);
        assert_eq!(malformed("socks_address_type"), 8);
        assert_eq!(malformed(NO_METHOD), 0xff);
        assert_eq!(malformed("socks_reserved"), 1);
    }

    #[test]
    fn failures_are_told_apart_by_status() {
        let status = |reason, end| refusal(reason, end).status().0;
        assert_eq!(status(Reason::RuleDeny, End::Refused), 403);
        assert_eq!(status(Reason::Rule, End::ConnectRefused), 502);
        assert_eq!(status(Reason::Rule, End::ConnectTimeout), 504);
        assert_eq!(status(Reason::Rule, End::ResolveTimeout), 504);
        assert_eq!(status(Reason::Rule, End::ResolveNoName), 502);
        assert_eq!(status(Reason::ConnectionRate, End::Refused), 429);
        assert_eq!(status(Reason::FirstBytesTimeout, End::Refused), 408);
    }

    #[test]
    fn the_json_body_is_json_and_as_long_as_announced() {
        let answer =
            Refusal { prefers: Preference::Json, ..refusal(Reason::DefaultDeny, End::Refused) }
                .answer(Accept::Connect);
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        let json: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(json["message"], "Blocked \"here\".");
        assert_eq!(json["decision"], "0000000000000abc");
    }
}
