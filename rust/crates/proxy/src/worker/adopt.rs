//! A worker's second way in: clients that come through the front, and connections that go there.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use egress_flowlog::{Delays, NONE_U32, Record, WorkerCounter};
use egress_front::{Adopted, Handle, Loss, Lost, Taken};
use egress_policy::{Accept, Accepts, End, Identity, Reason, Verdict};

use super::Worker;
use super::accept::{Client, Listening};
use crate::flow::{Beside, evidence};
use crate::relay::Peer;

impl Worker {
    /// No flow is open, and none can come any more from a connection that was promised to be served.
    pub(super) fn is_empty(&self) -> bool {
        self.open == 0 && self.context.front.as_ref().is_none_or(Handle::is_idle)
    }

    /// What the policy says that the listener accepts: it still does for clients of a connection that came in time.
    fn accepts(&self, listener: usize) -> Accepts {
        let policy = self.context.policy();
        let settings = policy.snapshot.settings().listeners.get(listener);
        settings.map_or(Accepts::only(Accept::Connect), |settings| settings.accept)
    }

    /// Gives a connection that begins with TLS to the front, or turns it away.
    pub(super) fn give_away(&mut self, index: usize, fd: OwnedFd, source: SocketAddr) {
        let worker = self.context.worker;
        let Listening { number, accept, .. } = self.listeners[index];
        let listener = usize::from(number);
        let (introduced, first_bytes) = (None, Vec::new());
        let taken = Taken { fd, source, introduced, listener, worker, tls: true, first_bytes };
        let refused = match &self.context.front {
            Some(front) => front.take(taken).err(),
            None => Some(Box::new(taken)),
        };
        let Some(taken) = refused else {
            return self.context.count(WorkerCounter::HandedOver);
        };
        self.turn_away(number, accept.one(), Client::accepted(taken.fd, source));
    }

    pub(super) fn adopt(&mut self, client: Adopted) {
        let Adopted { fd, end, source, local, introduced, listener, http2, spiffe } = client;
        self.context.count(WorkerCounter::Adopted);
        let accept = if http2 { Accept::Connect } else { self.accepts(listener).one() };
        let mut identity = spiffe.map(|id| Identity::default().with_spiffe(&id));
        if let Some(tlv) = introduced.as_ref().and_then(|introduced| introduced.tlv.as_ref()) {
            identity = Some(identity.unwrap_or_default().with_tlv(tlv));
        }
        let client = Client {
            peer: Peer::adopted(fd),
            source,
            beside: Some(Box::new(Beside {
                identity,
                pair: Some(end),
                local,
                introduced,
                ..Beside::default()
            })),
        };
        self.admit(u16::try_from(listener).unwrap_or(u16::MAX), accept, client);
    }

    /// Writes the record of a connection that ended in the front before it asked for anything.
    pub(super) fn lose(&mut self, lost: &Lost) {
        let (reason, end, word) = match lost.why {
            Loss::Late => (Reason::FirstBytesTimeout, End::Refused, ""),
            Loss::Left => (Reason::ClientLeft, End::ClientGone, ""),
            Loss::NoRoom => (Reason::Overloaded, End::OutOfResources, ""),
            Loss::NotAccepted => (Reason::NotAccepted, End::Refused, ""),
            Loss::Malformed(word) => (Reason::Malformed, End::Refused, word),
        };
        let duration_ns = u64::try_from(lost.lasted.as_nanos()).unwrap_or(u64::MAX);
        let began_ns = self.context.now_ns().saturating_sub(duration_ns);
        let policy = self.context.policy();
        let listener = policy.snapshot.settings().listeners.get(lost.listener);
        let flow_id = self.context.new_id();
        let recorder = &self.context.recorder;
        recorder.ring.borrow_mut().push(&Record {
            flow_id,
            generation: policy.generation,
            start_unix_ns: recorder.wall.unix_ns(began_ns),
            duration_ns,
            bytes_up: 0,
            bytes_down: 0,
            first_bytes_us: NONE_U32,
            resolve_us: NONE_U32,
            connect_us: NONE_U32,
            rule_line: 0,
            source: lost.source,
            peer: lost.introduced.as_ref().map(|introduced| introduced.by),
            upstream: None,
            port: 0,
            verdict: if end == End::ClientGone { Verdict::None } else { Verdict::Deny },
            reason,
            end,
            accept: self.accepts(lost.listener).one(),
            listener: u16::try_from(lost.listener).unwrap_or(u16::MAX),
            flags: 0,
            rule: NONE_U32,
            name: b"",
            rule_name: b"",
            listener_name: listener.map_or(b"", |listener| listener.name.as_bytes()),
            other: word.as_bytes(),
            evidence: evidence(lost.introduced.as_ref()),
            identity: b"",
            delays: Delays::default(),
        });
    }
}
