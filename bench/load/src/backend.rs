//! The backend: several listeners, one thread; does what the hello of each connection orders.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;

use serde_json::json;

use crate::hello::{HELLO, Order, order};
use crate::net::{self, Bulk, Poll, Watch};
use crate::way::{response, size_of_request};

/// Tokens of listeners begin here; below are flows.
const LISTENERS: usize = 1 << 32;
/// Connections accepted before flows get their turn.
const BATCH: usize = 64;
/// Bytes of the largest head of a plain request.
const REQUEST: usize = 4 << 10;
/// Bytes of the largest reply or message.
pub const LARGEST: usize = 64 << 10;

struct Flow {
    socket: OwnedFd,
    /// Nothing until the hello is whole.
    order: Option<(Order, usize)>,
    hello: Vec<u8>,
    /// Bytes of the present message read but not echoed.
    owed: usize,
}

struct Backend {
    poll: Poll,
    bulk: Bulk,
    flows: Vec<Option<Flow>>,
    free: Vec<usize>,
    scratch: Vec<u8>,
}

/// Serves until it is killed; prints its addresses first.
pub fn serve(addresses: &[SocketAddrV4]) -> io::Result<()> {
    let mut backend = Backend {
        poll: Poll::new()?,
        bulk: Bulk::new(),
        flows: Vec::new(),
        free: Vec::new(),
        scratch: vec![0; LARGEST],
    };
    let mut listeners = Vec::new();
    let mut bound = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        let (listener, address) = net::listener(*address)?;
        backend.poll.add(&listener, LISTENERS + index, Watch::Sink)?;
        listeners.push(listener);
        bound.push(address.to_string());
    }
    println!("{}", json!({ "addresses": bound }));
    let mut ready = Vec::new();
    loop {
        backend.poll.wait(&mut ready, None)?;
        for event in &ready {
            if event.token >= LISTENERS {
                let listener = &listeners[event.token - LISTENERS];
                for socket in std::iter::from_fn(|| net::accept(listener)).take(BATCH) {
                    backend.begin(socket)?;
                }
                continue;
            }
            let slot = event.token;
            let Some(mut flow) = backend.flows[slot].take() else { continue };
            if backend.step(&mut flow, slot, event.ended).unwrap_or(false) {
                backend.flows[slot] = Some(flow);
            } else {
                backend.free.push(slot);
            }
        }
    }
}

impl Backend {
    /// The hello is often there already, and a reply that ends the connection needs no place in the tables then.
    fn begin(&mut self, socket: OwnedFd) -> io::Result<()> {
        let mut flow = Flow { socket, order: None, hello: Vec::new(), owed: 0 };
        let Ok(()) = self.hear(&mut flow) else { return Ok(()) };
        if let Some((Order::ReplyAndClose, size)) = flow.order {
            let _ = net::write_all(&flow.socket, &self.scratch[..size]);
            return Ok(());
        }
        if let Some((Order::Respond, size)) = flow.order {
            let _ = net::write_all(&flow.socket, &response(size));
            return Ok(());
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.flows.push(None);
            self.flows.len() - 1
        });
        self.poll.add(&flow.socket, slot, watch(flow.order))?;
        if matches!(flow.order, Some((Order::ReplyAndWait, _)))
            && self.step(&mut flow, slot, false).is_err()
        {
            self.free.push(slot);
        } else {
            self.flows[slot] = Some(flow);
        }
        Ok(())
    }

    /// Reads what there is of the hello, and not a byte more.
    fn hear(&mut self, flow: &mut Flow) -> io::Result<()> {
        while flow.order.is_none() {
            let most = if is_request(&flow.hello) { REQUEST } else { HELLO };
            let want = most - flow.hello.len();
            match net::read(&flow.socket, &mut self.scratch[..want]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) if n == HELLO && !is_request(&self.scratch) => {
                    flow.order = order(&self.scratch[..n]);
                }
                Ok(n) => {
                    flow.hello.extend_from_slice(&self.scratch[..n]);
                    if is_request(&flow.hello) {
                        flow.order =
                            size_of_request(&flow.hello).map(|size| (Order::Respond, size));
                        if flow.order.is_none() && flow.hello.len() < REQUEST {
                            continue;
                        }
                    } else if flow.hello.len() == HELLO {
                        flow.order = order(&flow.hello);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            let whole = flow.hello.is_empty() || flow.hello.len() >= HELLO;
            let fits = flow.order.is_none_or(|(_, size)| size <= LARGEST);
            if whole && (flow.order.is_none() || !fits) {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        flow.hello = Vec::new();
        Ok(())
    }

    /// Goes on as far as the socket lets it; `false` when the flow is over.
    fn step(&mut self, flow: &mut Flow, slot: usize, ended: bool) -> io::Result<bool> {
        if flow.order.is_none() {
            self.hear(flow)?;
            if matches!(flow.order, Some((Order::Send | Order::Discard, _))) {
                self.poll.change(&flow.socket, slot, watch(flow.order))?;
            }
        }
        let done = |result: io::Result<usize>| match result {
            Ok(n) => Ok(n > 0),
            Err(error) => Ok(error.kind() == io::ErrorKind::WouldBlock),
        };
        match flow.order {
            None => Ok(true),
            Some((Order::ReplyAndClose, size)) => {
                net::write_all(&flow.socket, &self.scratch[..size])?;
                Ok(false)
            }
            Some((Order::Respond, size)) => {
                net::write_all(&flow.socket, &response(size))?;
                Ok(false)
            }
            // `owed` says that the reply is out: what comes now is the end.
            Some((Order::ReplyAndWait, _)) if flow.owed == 1 => {
                Ok(!ended && done(net::read(&flow.socket, &mut self.scratch))?)
            }
            Some((Order::ReplyAndWait, size)) => {
                net::write_all(&flow.socket, &self.scratch[..size])?;
                flow.owed = 1;
                Ok(true)
            }
            Some((Order::Echo, size)) => self.echo(flow, size, ended),
            Some((Order::Send, _)) => done(self.bulk.send(&flow.socket)),
            Some((Order::Discard, _)) => done(self.bulk.discard(&flow.socket)),
        }
    }

    fn echo(&mut self, flow: &mut Flow, size: usize, ended: bool) -> io::Result<bool> {
        loop {
            let n = match net::read(&flow.socket, &mut self.scratch) {
                Ok(0) => return Ok(false),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            flow.owed += n;
            while flow.owed >= size {
                net::write_all(&flow.socket, &self.scratch[..size])?;
                flow.owed -= size;
            }
            // The next byte comes with the next event.
            if n < self.scratch.len() && !ended {
                return Ok(true);
            }
        }
    }
}

fn watch(order: Option<(Order, usize)>) -> Watch {
    match order {
        Some((Order::Send, _)) => Watch::Source,
        Some((Order::Discard, _)) => Watch::Sink,
        _ => Watch::Readable,
    }
}

/// No hello begins like this.
fn is_request(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'G')
}
