//! First bytes: read until they say what the client asks for, bounded in bytes and time.

use egress_flowlog::flags;
use egress_hello::connect::{HeadReader, MAX_HEAD};
use egress_hello::name::Host;
use egress_hello::tls::{HelloReader, MAX_FIRST_BYTES, Sni};
use egress_hello::{Answer, connect, tls};
use egress_policy::{Accept, End, Reason};
use rustix::io::Errno;

use crate::context::{Context, FlowToken, Step};
use crate::flow::{Flow, Work};
use crate::pool::FAIR_BYTES;

/// Reads first bytes by the rules of one protocol, and remembers how far.
#[derive(Debug)]
pub(crate) enum Reader {
    Tls(HelloReader),
    Connect(HeadReader),
}

/// What the first bytes say.
pub(crate) enum Said {
    More,
    Hello(tls::ClientHello),
    Head(connect::ConnectHead),
    NotAccepted,
    Malformed { word: &'static str, bad_name: bool },
}

impl Reader {
    pub(crate) fn new(accept: Accept) -> Self {
        match accept {
            Accept::Connect => Self::Connect(HeadReader::new()),
            Accept::Tls | Accept::Tcp => Self::Tls(HelloReader::new()),
        }
    }

    /// Reads all bytes so far; refuses to wait for more than the protocol could need.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Said {
        match self {
            Self::Tls(reader) => match reader.read(bytes) {
                Answer::NeedMore if bytes.len() >= MAX_FIRST_BYTES => {
                    Said::Malformed { word: "too_large", bad_name: false }
                }
                Answer::NeedMore => Said::More,
                Answer::Found(hello) => Said::Hello(hello),
                Answer::Not => Said::NotAccepted,
                Answer::Malformed(error) => {
                    Said::Malformed { word: error.word(), bad_name: error.is_bad_name() }
                }
            },
            Self::Connect(reader) => match reader.read(bytes) {
                Answer::NeedMore if bytes.len() > MAX_HEAD => {
                    Said::Malformed { word: "head_too_large", bad_name: false }
                }
                Answer::NeedMore => Said::More,
                Answer::Found(head) => Said::Head(head),
                Answer::Not => Said::NotAccepted,
                Answer::Malformed(error) => {
                    Said::Malformed { word: error.word(), bad_name: error.is_bad_name() }
                }
            },
        }
    }
}

impl Context {
    /// Reads what has come and goes on as soon as it is enough.
    pub(crate) fn hear(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        loop {
            if !flow.client.readable {
                return Step::Stay;
            }
            let read =
                match egress_sys::recv(flow.client.fd(), &mut self.lender.scratch[..FAIR_BYTES]) {
                    Ok(0) => return self.left(flow),
                    Ok(read) => read,
                    Err(Errno::AGAIN) => {
                        flow.client.readable = false;
                        return Step::Stay;
                    }
                    Err(_) => return self.left(flow),
                };
            if read < FAIR_BYTES {
                flow.client.drained();
            }
            let heard = match std::mem::replace(&mut flow.work, Work::Moving) {
                Work::Hear(heard) => heard,
                other => {
                    flow.work = other;
                    return Step::Stay;
                }
            };
            // Most first flights come whole in one read: then nothing is kept before the decision needs it.
            let said = match heard {
                None => {
                    let mut reader = Reader::new(flow.accept);
                    let said = reader.read(&self.lender.scratch[..read]);
                    let bytes = self.lender.buffers.holding(&self.lender.scratch[..read]);
                    if let Said::More = said {
                        flow.work = Work::Hear(Some(bytes.heard_by(reader)));
                        continue;
                    }
                    flow.work = Work::Resolve(bytes);
                    said
                }
                Some(mut so_far) => {
                    so_far.push(&self.lender.scratch[..read]);
                    let said = so_far.hear();
                    if let Said::More = said {
                        let too_much = so_far.len() > FAIR_BYTES && self.lender.buffers.scarce();
                        flow.work = Work::Hear(Some(so_far));
                        if too_much {
                            return self.refuse(token, flow, Reason::Overloaded, End::Refused);
                        }
                        continue;
                    }
                    flow.work = Work::Resolve(so_far);
                    said
                }
            };
            flow.first_bytes_us = flow.age_us();
            return self.heard(token, flow, said);
        }
    }

    fn left(&mut self, flow: &mut Flow) -> Step {
        flow.reason = Reason::ClientLeft;
        Step::End(End::ClientGone)
    }

    fn heard(&mut self, token: FlowToken, flow: &mut Flow, said: Said) -> Step {
        match said {
            Said::More => Step::Stay,
            Said::NotAccepted => self.refuse(token, flow, Reason::NotAccepted, End::Refused),
            Said::Malformed { word, bad_name } => {
                flow.other = Some(word.into());
                let reason = if bad_name { Reason::BadName } else { Reason::Malformed };
                self.refuse(token, flow, reason, End::Refused)
            }
            Said::Hello(hello) => {
                if hello.ech {
                    flow.flags |= flags::ECH;
                }
                match hello.sni {
                    Sni::Name(name) => {
                        let port = self.listener_port(flow);
                        self.judge(token, flow, Host::Name(name), port)
                    }
                    // A TLS listener learns the destination from the name alone: without one there is nowhere to go.
                    Sni::Absent | Sni::IpLiteral(_) => {
                        self.refuse(token, flow, Reason::NoName, End::Refused)
                    }
                }
            }
            Said::Head(head) => {
                flow.wants_json = head.wants_json;
                if let Work::Resolve(bytes) = &mut flow.work {
                    // What follows the head belongs to the tunnel.
                    bytes.advance(head.head_len);
                }
                self.judge(token, flow, head.host, head.port)
            }
        }
    }

    fn listener_port(&self, flow: &Flow) -> u16 {
        self.policy()
            .snapshot
            .settings()
            .listeners
            .get(usize::from(flow.listener))
            .map_or(443, |l| l.port)
    }
}
