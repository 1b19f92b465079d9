//! PostgreSQL's way to TLS (PostgreSQL's documentation, "SSL Session Encryption"): the client asks for it in the clear,
//! is answered by one byte, and sends its hello only then. Nobody is dialled before the name in the hello was judged, so
//! the gateway answers for the upstream first, and asks it the same afterwards.

use egress_hello::Answer;
use egress_hello::postgres::{First, StartupError, read_first};
use egress_hello::protocol::{Protocol, recognise};
use egress_policy::{End, Stage};
use rustix::io::Errno;

use crate::context::{Context, FlowToken, Step, millis};
use crate::flow::{Flow, Work};
use crate::pool::Buffer;
use crate::relay::Peer;

/// What follows the answer to a request for encryption is no ClientHello.
pub(super) const NOT_TLS: &str = "postgres_not_tls";
/// The same encryption is asked for a second time.
const REPEATED: &str = "postgres_repeated";
/// What an upstream answered that does not take TLS.
const REFUSED_TLS: &str = "postgres_no_tls";
/// The length of a request for encryption, and one for TLS.
const REQUEST: usize = 8;
const TLS_REQUEST: [u8; REQUEST] = [0, 0, 0, 8, 4, 210, 22, 47];
/// Answers to such requests.
const YES: u8 = b'S';
const NO: u8 = b'N';

/// Encryption that a client asks for in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encryption {
    Tls,
    Gss,
}

impl Encryption {
    /// The length of a request for it.
    pub(super) const LEN: usize = REQUEST;

    /// What the gateway answers for the upstream: names are read from TLS only.
    pub(super) fn answer(self) -> u8 {
        match self {
            Self::Tls => YES,
            Self::Gss => NO,
        }
    }
}

/// Which requests for encryption a client has made: each may be made once.
#[derive(Debug, Default)]
pub(crate) struct Encryptions {
    tls: bool,
    gss: bool,
}

impl Encryptions {
    /// One has been made.
    pub(super) fn any(&self) -> bool {
        self.tls || self.gss
    }

    /// Reads one request. `Not` is said to all else, a session in the clear and a cancellation among it; whether those are
    /// whole is for the server to say.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Answer<Encryption, &'static str> {
        match recognise(bytes) {
            Answer::NeedMore => return Answer::NeedMore,
            Answer::Found(Protocol::Postgres) => {}
            _ => return Answer::Not,
        }
        let (asked, encryption) = match read_first(bytes) {
            Answer::Found(first) => match first.kind {
                First::SslRequest => (&mut self.tls, Encryption::Tls),
                First::GssRequest => (&mut self.gss, Encryption::Gss),
                First::CancelRequest | First::Startup => return Answer::Not,
            },
            // Servers read a request for TLS of another length as one, too.
            Answer::Malformed(StartupError::Length) => {
                return Answer::Malformed(StartupError::Length.word());
            }
            _ => return Answer::Not,
        };
        if std::mem::replace(asked, true) {
            return Answer::Malformed(REPEATED);
        }
        Answer::Found(encryption)
    }
}

impl Context {
    /// The upstream is connected: it is asked for what its client was promised.
    pub(super) fn ask_for_tls(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        upstream: Peer,
        side: usize,
        hello: Buffer,
    ) -> Step {
        let mut words = self.announcement(flow).unwrap_or_else(|| self.lender.buffers.holding(&[]));
        words.push(&TLS_REQUEST);
        let asked = self.say_first(&upstream, words);
        let mut relay = self.relay_to(upstream, side);
        relay.gate = Some(hello);
        relay.awaits_tls = true;
        flow.work = Work::Relay(relay);
        flow.stage = Stage::Connecting;
        flow.publish();
        if !asked {
            return self.fail(token, flow, End::UpstreamReset);
        }
        let patience = millis(self.policy().snapshot.settings().timeouts.connect);
        self.wake_at(token, self.now_ms + patience);
        self.carry(token, flow)
    }

    /// Reads the upstream's answer. `None` once it takes TLS: then the hello goes on its way.
    pub(super) fn hear_upstream(&mut self, token: FlowToken, flow: &mut Flow) -> Option<Step> {
        let Flow { client, work: Work::Relay(relay), .. } = flow else { return None };
        if client.failed {
            return Some(Step::End(End::ClientReset));
        }
        if !relay.upstream.readable {
            return Some(Step::Stay);
        }
        // No more than the answer: what is behind it is the client's.
        let mut answer = [0];
        match relay.upstream.recv(&mut answer) {
            Ok(1) if answer == [YES] => {
                relay.awaits_tls = false;
                relay.up.pending = relay.gate.take();
                if flow.stage != Stage::Closing {
                    flow.enter(Stage::Relaying);
                    self.wake_at(token, self.idle_check_ms(flow));
                }
                None
            }
            Err(Errno::AGAIN) => {
                relay.upstream.readable = false;
                Some(Step::Stay)
            }
            Ok(1) => {
                flow.other = Some(REFUSED_TLS.into());
                Some(self.fail(token, flow, End::UpstreamNoTls))
            }
            Ok(_) | Err(_) => Some(self.fail(token, flow, End::UpstreamReset)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GSS_REQUEST: [u8; REQUEST] = [0, 0, 0, 8, 4, 210, 22, 48];

    #[test]
    fn each_encryption_is_asked_for_once() {
        let mut requests = Encryptions::default();
        assert_eq!(requests.read(&GSS_REQUEST), Answer::Found(Encryption::Gss));
        assert_eq!(requests.read(&TLS_REQUEST), Answer::Found(Encryption::Tls));
        assert_eq!(requests.read(&TLS_REQUEST), Answer::Malformed(REPEATED));
        assert_eq!(requests.read(&GSS_REQUEST), Answer::Malformed(REPEATED));
    }

    #[test]
    fn a_request_is_found_at_its_last_byte_and_nothing_else_is_one() {
        for end in 0..REQUEST {
            assert_eq!(Encryptions::default().read(&TLS_REQUEST[..end]), Answer::NeedMore);
        }
        let long = [&[0, 0, 0, 12], &TLS_REQUEST[4..], &[0; 4]].concat();
        assert_eq!(Encryptions::default().read(&long), Answer::Malformed("postgres_length"));
        let cancel = [&[0, 0, 0, 16, 4, 210, 22, 46][..], &[0; 8]].concat();
        let startup = b"\0\0\0\x11\0\x03\0\0user\0me\0\0";
        for other in [&cancel[..], startup, &startup[..9], b"\x16\x03\x01", b"\0x", b"GET / "] {
            assert_eq!(Encryptions::default().read(other), Answer::Not, "{}", other.escape_ascii());
        }
    }
}
