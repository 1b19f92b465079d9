//! A worker's way in: connections accepted, admitted while there is room, and turned away with a record when there is not.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use egress_flowlog::{NONE_U32, WorkerCounter};
use egress_hello::http::Preference;
use egress_hello::name::Host;
use egress_policy::{Accept, Accepts, End, Reason, Stage, Verdict};
use rustix::io::Errno;

use super::{Slot, Worker};
use crate::context::{CLIENT, FlowToken, millis};
use crate::flow::{Beside, Flow, Work, evidence};
use crate::relay::{Edge, Peer};

/// One worker's socket of a listener.
pub(super) struct Listening {
    /// Its place in the settings.
    pub number: u16,
    pub accept: Accepts,
    /// Connections begin with TLS to the proxy itself: they go to the front.
    pub tls: bool,
    pub fd: OwnedFd,
    /// More may wait in the queue than the last batch took.
    pub ready: bool,
    /// An accept failed for want of a resource: the queue raises no edge for what already waits in it.
    pub starved: bool,
}

/// Somebody who wants something, by the worker's own socket or through the front.
pub(super) struct Client {
    pub peer: Peer,
    pub source: SocketAddr,
    pub beside: Option<Box<Beside>>,
}

impl Client {
    pub(super) fn accepted(fd: OwnedFd, source: SocketAddr) -> Self {
        Self { peer: Peer::accepted(fd), source, beside: None }
    }
}

/// A descriptor to give up when they run out.
pub(super) fn spare() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}

impl Worker {
    pub(super) fn accept_batch(&mut self, index: usize, most: usize) {
        for _ in 0..most {
            let accepted = egress_sys::accept(self.listeners[index].fd.as_fd());
            match accepted {
                Ok((fd, source)) => {
                    self.context.count(WorkerCounter::Accepted);
                    let Listening { number, accept, tls, .. } = self.listeners[index];
                    if tls && !self.context.begins_with_header(number, source.ip()) {
                        self.give_away(index, fd, source);
                    } else {
                        self.admit(number, accept.one(), Client::accepted(fd, source));
                    }
                }
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN) => {
                        self.listeners[index].ready = false;
                        return;
                    }
                    // The connection was gone before it was accepted (accept(2)).
                    Some(Errno::CONNABORTED | Errno::INTR) => {}
                    Some(Errno::MFILE | Errno::NFILE) => {
                        if !self.shed(index) {
                            return;
                        }
                    }
                    _ => {
                        self.context.count(WorkerCounter::AcceptErrors);
                        self.listeners[index].ready = false;
                        self.listeners[index].starved = true;
                        return;
                    }
                },
            }
        }
    }

    /// Out of descriptors: the waiting connection is accepted on the spare one, recorded and closed, so that its client
    /// is told at once and the queue does not wake the worker for ever.
    fn shed(&mut self, index: usize) -> bool {
        self.context.count(WorkerCounter::OutOfDescriptors);
        drop(self.spare.take());
        let accepted = egress_sys::accept(self.listeners[index].fd.as_fd());
        let shed = accepted.is_ok();
        match accepted {
            Ok((fd, source)) => {
                self.context.count(WorkerCounter::Accepted);
                let Listening { number, accept, .. } = self.listeners[index];
                self.turn_away(number, accept.one(), Client::accepted(fd, source));
            }
            Err(error) => {
                self.listeners[index].ready = false;
                self.listeners[index].starved = Errno::from_io_error(&error) != Some(Errno::AGAIN);
            }
        }
        self.spare = spare();
        shed
    }

    fn flow(&mut self, listener: u16, accept: Accept, client: Client, slot: Option<u32>) -> Flow {
        let now_ns = self.context.now_ns();
        let id = self.context.new_id();
        let generation = self.context.recorder.policy.borrow().generation;
        Flow {
            id,
            client: client.peer,
            source: client.source,
            evidence: evidence(client.beside.as_ref().and_then(|it| it.introduced.as_ref())),
            beside: client.beside,
            listener,
            accept,
            start_ns: now_ns,
            stage: Stage::FirstBytes,
            destination: None,
            port: 0,
            captured: None,
            decision: None,
            generation,
            verdict: Verdict::None,
            reason: Reason::None,
            rule: NONE_U32,
            end: End::Open,
            flags: 0,
            first_bytes_us: NONE_U32,
            resolve_us: NONE_U32,
            connect_us: NONE_U32,
            prefers: Preference::Text,
            postgres_tls: false,
            upstream: None,
            other: None,
            held: None,
            judge: None,
            work: Work::Hear(None),
            slot,
            recorder: Rc::clone(&self.context.recorder),
        }
    }

    /// Records and resets a connection for which there is no room.
    pub(super) fn turn_away(&mut self, listener: u16, accept: Accept, client: Client) {
        let mut flow = self.flow(listener, accept, client, None);
        flow.verdict = Verdict::Deny;
        flow.reason = Reason::Overloaded;
        flow.end = End::OutOfResources;
        match flow.pair() {
            Some(pair) => pair.turn_away(),
            None => flow.abort_client(),
        }
    }

    pub(super) fn admit(&mut self, listener: u16, accept: Accept, client: Client) {
        let source = client.source;
        let slot = match self.free.pop() {
            Some(slot) => slot as usize,
            None if self.slots.len() < self.max_flows => {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            }
            None => {
                self.context.count(WorkerCounter::FlowsFull);
                return self.turn_away(listener, accept, client);
            }
        };
        let mut flow = self.flow(listener, accept, client, u32::try_from(slot).ok());
        let patience = self.context.patience(&mut flow);
        if flow.accept == Accept::Transparent {
            let fd = flow.client.fd();
            if let Ok(original) = egress_sys::original_destination(fd, source.is_ipv4()) {
                flow.captured = Some(original.ip());
                flow.destination = Some(Host::Ip(original.ip()));
                flow.port = original.port();
            }
        }
        self.open += 1;
        self.context.recorder.counters.set(WorkerCounter::Active, self.open as u64);
        let token = FlowToken { slot, generation: self.slots[slot].generation };
        let raw = flow.client.fd.as_raw_fd();
        self.slots[slot].flow = Some(flow);
        let deadline = self.context.now_ms + millis(patience);
        self.context.wake_at(token, deadline);
        self.with(token, |context, flow| {
            if flow.accept == Accept::Tcp && !flow.awaits_header() {
                flow.publish();
                let nothing = context.lender.buffers.holding(&[]);
                return context.go_to(token, flow, nothing);
            }
            // The first flight is often here already: then the flow is shown only once it is judged.
            let step = context.on_edge(token, flow, CLIENT, Edge::NONE);
            if flow.stage == Stage::FirstBytes {
                flow.publish();
            }
            step
        });
        // Registered last: edges that came before are reported by the registration (epoll(7)), and a flow that is over
        // by now never costs the call.
        if self.slots[slot].generation != token.generation {
            return;
        }
        let Some(flow) = &mut self.slots[slot].flow else { return };
        flow.client.reads_only = flow.client.writable;
        let watched = if flow.client.writable {
            self.context.watch_reads(raw, token.side(CLIENT))
        } else {
            self.context.watch(raw, token.side(CLIENT))
        };
        if watched.is_err() {
            self.end(slot, End::OutOfResources);
        }
    }
}
