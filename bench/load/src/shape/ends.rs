//! The two ends of bulk: each sends what its groups may send, or counts what arrives.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use std::thread::Scope;
use std::time::Duration;

use super::curve::Curve;
use super::plan::Way;
use super::{Shared, probe};
use crate::hello::{HELLO, Order, hello, order};
use crate::net::{self, Bulk, Poll, Ready, Watch};

/// Tokens of listeners begin here; below are flows.
const LISTENERS: usize = 1 << 32;
/// Flows on their way at a time: below every listener's queue.
const OPENING: usize = 128;
/// Bytes sent at a time: a hundred flows have had their turn before the next millisecond.
const CHUNK: u64 = 128 << 10;
/// How often groups are looked at whose time may have come.
const LOOK: Duration = Duration::from_millis(2);

/// What an end has received: a curve for each group, and bytes of each flow while its group was measured.
pub struct Counted {
    pub curves: Vec<Curve>,
    pub got: Vec<Vec<u64>>,
}

enum Role {
    /// The backend's: this much of its hello is there.
    Greeted(Vec<u8>),
    /// The client's: not through yet.
    Opens,
    Sends,
    Counts,
}

struct Flow {
    socket: OwnedFd,
    group: usize,
    role: Role,
    got: u64,
}

struct End<'a> {
    shared: &'a Shared,
    poll: Poll,
    bulk: Bulk,
    flows: Vec<Option<Flow>>,
    /// Flows that would send, by group.
    resting: Vec<Vec<usize>>,
    curves: Vec<Curve>,
}

/// Serves until the run is over; says when it listens. Flows of messages have threads of their own.
pub fn backend<'scope>(
    shared: &'scope Shared,
    scope: &'scope Scope<'scope, '_>,
    listening: &Sender<()>,
) -> io::Result<Counted> {
    let mut end = End::new(shared)?;
    let mut listeners = Vec::new();
    for (index, address) in shared.plan.listen.iter().enumerate() {
        let (listener, _) = net::listener(*address)?;
        end.poll.add(&listener, LISTENERS + index, Watch::Sink)?;
        listeners.push(listener);
    }
    let _ = listening.send(());
    let mut ready = Vec::new();
    while !shared.done.load(Relaxed) {
        end.poll.wait(&mut ready, Some(LOOK))?;
        for event in &ready {
            let listener = event.token.checked_sub(LISTENERS).and_then(|at| listeners.get(at));
            let accepted =
                listener.into_iter().flat_map(|one| std::iter::from_fn(|| net::accept(one)));
            for socket in accepted.take(OPENING) {
                end.add(socket, 0, Role::Greeted(Vec::new()), Watch::Readable)?;
            }
            if let Some((socket, size)) = end.turn(event) {
                scope.spawn(move || probe::echo(socket, size));
            }
        }
        end.rouse()?;
    }
    Ok(end.counted())
}

/// Opens all flows, and goes on until the run is over.
pub fn client(shared: &Shared) -> io::Result<Counted> {
    let mut end = End::new(shared)?;
    let groups = shared.plan.groups.iter().enumerate();
    let mut missing = groups.flat_map(|(group, of)| (0..of.flows).map(move |at| (group, at)));
    let mut next = missing.next();
    let mut ready = Vec::new();
    while !shared.done.load(Relaxed) {
        while let Some((group, at)) = next.filter(|_| end.on_the_way() < OPENING) {
            let of = &shared.plan.groups[group];
            let to: SocketAddrV4 = of.to[at % of.to.len()];
            let socket = net::dial_from(of.from, to)?;
            net::no_delay(&socket)?;
            end.add(socket, group, Role::Opens, Watch::Both)?;
            next = missing.next();
        }
        end.poll.wait(&mut ready, Some(LOOK))?;
        for event in &ready {
            end.turn(event);
        }
        end.rouse()?;
    }
    Ok(end.counted())
}

impl<'a> End<'a> {
    fn new(shared: &'a Shared) -> io::Result<Self> {
        let groups = shared.plan.groups.len();
        let (resting, curves) = (vec![Vec::new(); groups], vec![Curve::default(); groups]);
        Ok(Self {
            shared,
            poll: Poll::new()?,
            bulk: Bulk::new(),
            flows: Vec::new(),
            resting,
            curves,
        })
    }

    fn add(&mut self, socket: OwnedFd, group: usize, role: Role, watch: Watch) -> io::Result<()> {
        self.poll.add(&socket, self.flows.len(), watch)?;
        self.flows.push(Some(Flow { socket, group, role, got: 0 }));
        Ok(())
    }

    /// Flows that the backend has not heard of.
    fn on_the_way(&self) -> usize {
        self.flows.len().saturating_sub(self.shared.arrived.load(Relaxed))
    }

    /// A flow goes on as far as its socket lets it. One that ends is lost; one of messages is handed out with their size.
    fn turn(&mut self, event: &Ready) -> Option<(OwnedFd, usize)> {
        let mut flow = self.flows.get_mut(event.token)?.take()?;
        match self.step(&mut flow, event.token) {
            Ok(Some(size)) => {
                let _ = self.poll.remove(&flow.socket);
                return Some((flow.socket, size));
            }
            Ok(None) => self.flows[event.token] = Some(flow),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.flows[event.token] = Some(flow);
            }
            // Who has not said what it is may be anybody; at the end one of the two goes first.
            Err(_) if matches!(flow.role, Role::Greeted(_)) || self.shared.done.load(Relaxed) => {}
            Err(_) => {
                if let Some(live) = self.shared.groups.get(flow.group) {
                    live.failed.fetch_add(1, Relaxed);
                }
            }
        }
        None
    }

    fn step(&mut self, flow: &mut Flow, token: usize) -> io::Result<Option<usize>> {
        match &mut flow.role {
            Role::Greeted(heard) => {
                let mut rest = vec![0; HELLO - heard.len()];
                let n = net::read(&flow.socket, &mut rest)?;
                heard.extend_from_slice(&rest[..n]);
                let said = match heard.len() {
                    HELLO => order(heard),
                    _ if n > 0 => return Ok(None),
                    _ => None,
                };
                let role = match said {
                    Some((Order::Echo, size)) => {
                        self.shared.arrived.fetch_add(1, Relaxed);
                        return Ok(Some(size));
                    }
                    Some((Order::Send, _)) => Role::Sends,
                    Some((Order::Discard, _)) => Role::Counts,
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                };
                let group = said.map_or(0, |(_, group)| group);
                self.shared.plan.groups.get(group).ok_or(io::ErrorKind::InvalidData)?;
                flow.group = group;
                self.begin(flow, role, token)?;
                self.shared.arrived.fetch_add(1, Relaxed);
            }
            Role::Opens => {
                let of = &self.shared.plan.groups[flow.group];
                let (order, role) = match of.way {
                    Way::Down => (Order::Send, Role::Counts),
                    Way::Up => (Order::Discard, Role::Sends),
                };
                net::write_all(&flow.socket, &hello(&of.sni, order, flow.group))?;
                self.begin(flow, role, token)?;
            }
            Role::Sends => self.send(flow, token)?,
            Role::Counts => self.count(flow)?,
        }
        Ok(None)
    }

    fn begin(&mut self, flow: &mut Flow, role: Role, token: usize) -> io::Result<()> {
        if matches!(role, Role::Counts) {
            self.poll.change(&flow.socket, token, Watch::Sink)?;
        } else {
            if let Some(bytes) = self.shared.plan.groups[flow.group].send_buffer {
                net::send_buffer(&flow.socket, bytes)?;
            }
            self.rest(flow, token)?;
        }
        flow.role = role;
        Ok(())
    }

    fn rest(&mut self, flow: &Flow, token: usize) -> io::Result<()> {
        self.resting[flow.group].push(token);
        self.poll.change(&flow.socket, token, Watch::Readable)
    }

    fn send(&mut self, flow: &Flow, token: usize) -> io::Result<()> {
        match self.shared.allowed(flow.group).min(CHUNK) {
            0 => self.rest(flow, token),
            most => {
                let sent = self.bulk.send_at_most(&flow.socket, most as usize)?;
                self.shared.groups[flow.group].sent.fetch_add(sent as u64, Relaxed);
                Ok(())
            }
        }
    }

    fn count(&mut self, flow: &mut Flow) -> io::Result<()> {
        let n = match self.bulk.discard(&flow.socket)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => n as u64,
        };
        // Nothing is sent before the time of the groups.
        let Some(now) = self.shared.now() else { return Ok(()) };
        self.curves[flow.group].add(now, n);
        if self.shared.is_measured(flow.group, now) {
            flow.got += n;
        }
        let live = &self.shared.groups[flow.group];
        live.last.store(now, Relaxed);
        live.received.fetch_add(n, Relaxed);
        Ok(())
    }

    /// Wakes the flows of groups that may send.
    fn rouse(&mut self) -> io::Result<()> {
        for group in 0..self.resting.len() {
            if self.resting[group].is_empty() || self.shared.allowed(group) == 0 {
                continue;
            }
            for token in std::mem::take(&mut self.resting[group]) {
                if let Some(Some(flow)) = self.flows.get(token) {
                    self.poll.change(&flow.socket, token, Watch::Source)?;
                }
            }
        }
        Ok(())
    }

    fn counted(self) -> Counted {
        let mut got = vec![Vec::new(); self.curves.len()];
        for flow in self.flows.iter().flatten().filter(|flow| matches!(flow.role, Role::Counts)) {
            got[flow.group].push(flow.got);
        }
        Counted { curves: self.curves, got }
    }
}
