//! One request and its response on their way (RFC 9112): each message is looked at as it passes, so that what is
//! forwarded is what was judged, and so that its end is known.

use std::net::{IpAddr, SocketAddr};

use egress_hello::Answer;
use egress_hello::http::{
    Asked, Body, Framing, HttpError, Response, ResponseReader, rewrite_response,
};
use egress_hello::name::Host;
use rustix::io::Errno;

use super::{Lender, Peer, SCRATCH_BYTES, TURN_BYTES};
use crate::pool::{Buffer, FAIR_BYTES};

/// Interim responses to one request: nobody sends more than a few, and each starts the wait for the last one anew.
const MAX_INTERIMS: u8 = 16;
/// Bytes asked for at once while bodies are not known to be large.
const READ_BYTES: usize = 64 * 1024;

/// What an HTTP client's connection carries from one request to the next, and the request that is being served.
#[derive(Debug)]
pub(crate) struct Requests {
    /// Read of the client, and not looked at yet: what came with a head.
    pub ahead: Option<Buffer>,
    /// The upstream of the request before, for one like it.
    pub kept: Option<Kept>,
    pub asking: Option<Asking>,
    /// Requests came before this one.
    pub later: bool,
    /// The address that the connection was captured on its way to; an audit may lead one request elsewhere.
    pub captured: Option<IpAddr>,
    pub turn: Turn,
}

/// An event that was fetched for the upstream of the request before would be taken for one of a socket that is dialled
/// in the same turn of the worker's loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A dial has to wait for the next turn.
    Due,
    Awaited,
    Taken,
}

/// The request that is being served.
#[derive(Debug)]
pub(crate) struct Asking {
    pub asked: Asked,
    pub keep_alive: bool,
    pub body: Body,
    /// Host names another destination than the target.
    pub two_hosts: bool,
    /// May be sent twice (RFC 9110, section 9.2.2), and is in hand to do so.
    pub repeatable: bool,
}

/// An upstream that may take another request of the same client.
#[derive(Debug)]
pub(crate) struct Kept {
    pub upstream: Peer,
    pub side: u8,
    pub address: SocketAddr,
    pub host: Host,
    pub port: u16,
    pub rule: u32,
    pub generation: u64,
    /// Whose request it was: what an origin knows of a connection is not for others (RFC 4559, section 6).
    pub user: Option<Box<[u8]>>,
}

impl Requests {
    pub(crate) const fn new(captured: Option<IpAddr>) -> Self {
        Self { ahead: None, kept: None, asking: None, later: false, captured, turn: Turn::Taken }
    }

    /// The client can go on after an answer that is not the origin's.
    pub(crate) fn can_go_on(&self) -> bool {
        self.asking.as_ref().is_some_and(|asking| asking.keep_alive && asking.body.has_ended())
    }
}

/// Which part of the response is read.
#[derive(Debug)]
enum Part {
    /// Its head, or that of an interim response before it.
    Head(Option<Buffer>, ResponseReader),
    Body(Body),
    Ended,
}

/// One request and its response between a client and an upstream.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Bytes of the request that nobody was asked for, and that are not paid for yet: its head.
    pub owed: u64,
    pub upstream: Peer,
    pub side: u8,
    /// The rule and the generation under which the upstream was dialled.
    pub under: (u32, u64),
    /// Bytes that the upstream has not taken.
    up: Option<Buffer>,
    /// Bytes that the client has not taken.
    down: Option<Buffer>,
    part: Part,
    interims: u8,
    /// Bytes delivered up and down.
    pub carried: (u64, u64),
    /// The head once more, if it was sent to an upstream that may have been about to close.
    pub again: Option<Buffer>,
    /// The upstream takes no more bytes, but may still have some for the client.
    broken: bool,
    /// The client was told that its connection lives on.
    pub client_lives: bool,
    upstream_lives: bool,
    /// The last read of the upstream was full.
    bulk: bool,
    /// Keepalive probes are on.
    pub probed: bool,
    /// Milliseconds of the worker's clock when bytes last moved.
    pub active_ms: u64,
}

/// How far a message has come for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passed {
    /// It waits for an edge.
    Waiting,
    /// Its turn is over and there is more to do.
    More,
    /// It may read no more before it is allowed to.
    Spent,
    Done,
    /// The origin has switched to the protocol that it was asked for.
    Switched,
}

/// Why the exchange cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    ClientReset,
    /// The client left before its request was whole.
    ClientLeft,
    Request(HttpError),
    /// The upstream ended before its response began.
    NoResponse,
    /// The bytes of the upstream are no response.
    Response(&'static str),
    /// The upstream ended in the middle of its response.
    CutOff,
}

impl Exchange {
    pub(crate) fn new(
        upstream: Peer,
        side: u8,
        head: Buffer,
        under: (u32, u64),
        now_ms: u64,
    ) -> Self {
        Self {
            upstream,
            side,
            under,
            owed: head.rest().len() as u64,
            up: Some(head),
            down: None,
            part: Part::Head(None, ResponseReader::new()),
            interims: 0,
            carried: (0, 0),
            again: None,
            broken: false,
            client_lives: false,
            upstream_lives: false,
            bulk: false,
            probed: false,
            active_ms: now_ms,
        }
    }

    /// The client may still be given another response than the origin's, after these bytes.
    pub(crate) fn answerable(&self) -> Option<&[u8]> {
        let before = self.down.as_ref().map_or(&[][..], Buffer::rest);
        matches!(self.part, Part::Head(..)).then_some(before)
    }

    /// The upstream takes another request.
    pub(crate) fn upstream_lives(&self) -> bool {
        self.upstream_lives
            && self.up.is_none()
            && !(self.broken || self.upstream.ending || self.upstream.failed)
    }

    /// Sends on what is of the request, and reads at most `credit` bytes for it, of which it leaves the rest.
    pub(crate) fn pass_request(
        &mut self,
        client: &mut Peer,
        body: &mut Body,
        ahead: &mut Option<Buffer>,
        lender: &mut Lender,
        credit: &mut u64,
    ) -> Result<Passed, Broken> {
        let mut moved = 0;
        while !self.broken {
            match flush(&mut self.up, &mut self.upstream, &mut self.carried.0, lender) {
                Ok(true) => {}
                Ok(false) => return Ok(Passed::Waiting),
                Err(_) => {
                    self.broken = true;
                    break;
                }
            }
            if body.has_ended() {
                return Ok(Passed::Done);
            }
            if moved >= TURN_BYTES {
                return Ok(Passed::More);
            }
            if let Some(mut came) = ahead.take() {
                if *credit == 0 {
                    *ahead = Some(came);
                    return Ok(Passed::Spent);
                }
                let most = came.rest().len().min(usize::try_from(*credit).unwrap_or(usize::MAX));
                let taken = body.pass(&came.rest()[..most]).map_err(Broken::Request)?;
                *credit -= taken as u64;
                self.up = Some(lender.buffers.holding(&came.rest()[..taken]));
                came.advance(taken);
                moved += taken;
                if came.rest().is_empty() {
                    lender.buffers.give_back(came);
                } else {
                    *ahead = Some(came);
                }
                continue;
            }
            if !client.readable || !self.upstream.writable {
                return Ok(Passed::Waiting);
            }
            if *credit == 0 {
                return Ok(Passed::Spent);
            }
            let most = if lender.buffers.scarce() { FAIR_BYTES } else { READ_BYTES };
            // Not past a body whose length is known: what comes after it waits in the kernel.
            let want = match body.unseen() {
                0 => FAIR_BYTES,
                left => usize::try_from(left).unwrap_or(most).clamp(FAIR_BYTES, most),
            };
            let want = want.min(usize::try_from(*credit).unwrap_or(usize::MAX));
            let read = match client.recv(&mut lender.scratch[..want]) {
                Ok(0) => return Err(Broken::ClientLeft),
                Ok(read) => read,
                Err(Errno::AGAIN) => {
                    client.readable = false;
                    return Ok(Passed::Waiting);
                }
                Err(_) => return Err(Broken::ClientReset),
            };
            if read < want {
                client.drained();
            }
            *credit -= read as u64;
            let taken = body.pass(&lender.scratch[..read]).map_err(Broken::Request)?;
            if taken < read {
                *ahead = Some(lender.buffers.holding(&lender.scratch[taken..read]));
            }
            moved += taken;
            let sent = send(&mut self.up, &mut self.upstream, &mut self.carried.0, lender, taken);
            self.broken = sent.is_err();
        }
        Ok(Passed::Waiting)
    }

    /// Sends on what is of the response, as `pass_request` does. `client_lives`: the client's connection can take another request after this.
    pub(crate) fn pass_response(
        &mut self,
        client: &mut Peer,
        asked: Asked,
        client_lives: bool,
        lender: &mut Lender,
        credit: &mut u64,
    ) -> Result<Passed, Broken> {
        let mut moved = 0;
        loop {
            if !flush(&mut self.down, client, &mut self.carried.1, lender)
                .map_err(|_| Broken::ClientReset)?
            {
                return Ok(Passed::Waiting);
            }
            match &mut self.part {
                Part::Ended => return Ok(Passed::Done),
                Part::Head(..) => match self.read_head(asked, client_lives, lender)? {
                    // A 101 waits in `down`.
                    Some(response) if response.is_switch() => return Ok(Passed::Switched),
                    Some(_) => continue,
                    None => {}
                },
                Part::Body(_) => {}
            }
            if moved >= TURN_BYTES {
                return Ok(Passed::More);
            }
            if !self.upstream.readable || !client.writable {
                return Ok(Passed::Waiting);
            }
            if *credit == 0 {
                return Ok(Passed::Spent);
            }
            let read = self.read_upstream(client, lender, *credit)?;
            *credit -= read as u64;
            moved += read;
            if !self.upstream.readable && matches!(self.part, Part::Body(_)) {
                return Ok(Passed::Waiting);
            }
        }
    }

    /// Reads what has come of the response once; bytes of its body are sent on.
    fn read_upstream(
        &mut self,
        client: &mut Peer,
        lender: &mut Lender,
        credit: u64,
    ) -> Result<usize, Broken> {
        let want = match &self.part {
            Part::Head(..) => FAIR_BYTES,
            _ if lender.buffers.scarce() => FAIR_BYTES,
            _ if self.bulk => SCRATCH_BYTES,
            _ => READ_BYTES,
        }
        .min(usize::try_from(credit).unwrap_or(usize::MAX));
        let read = match self.upstream.recv(&mut lender.scratch[..want]) {
            Ok(read) => read,
            Err(Errno::AGAIN) => {
                self.upstream.readable = false;
                return Ok(0);
            }
            Err(_) => {
                return Err(match self.part {
                    Part::Head(..) => Broken::NoResponse,
                    _ => Broken::CutOff,
                });
            }
        };
        self.bulk = read == want;
        if read < want && read > 0 {
            self.upstream.drained();
        }
        match &mut self.part {
            Part::Ended => Ok(0),
            Part::Head(..) if read == 0 => Err(Broken::NoResponse),
            Part::Head(head, _) => {
                // It has been served: it is not to be sent again, whatever becomes of the rest.
                if let Some(again) = self.again.take() {
                    lender.buffers.give_back(again);
                }
                let head = head.get_or_insert_with(|| lender.buffers.holding(&[]));
                head.push(&lender.scratch[..read]);
                Ok(read)
            }
            Part::Body(body) if read == 0 => {
                if !body.is_whole_at_close() {
                    return Err(Broken::CutOff);
                }
                self.part = Part::Ended;
                Ok(0)
            }
            Part::Body(body) => {
                let taken = body.pass(&lender.scratch[..read]).map_err(|_| Broken::CutOff)?;
                if body.has_ended() {
                    self.part = Part::Ended;
                }
                // What an origin says before it is asked is part of no response.
                self.upstream_lives &= taken == read;
                send(&mut self.down, client, &mut self.carried.1, lender, taken)
                    .map_err(|_| Broken::ClientReset)?;
                Ok(taken)
            }
        }
    }

    /// Reads a head, if it is whole, and writes it for the client.
    fn read_head(
        &mut self,
        asked: Asked,
        client_lives: bool,
        lender: &mut Lender,
    ) -> Result<Option<Response>, Broken> {
        let Part::Head(head, reader) = &mut self.part else { return Ok(None) };
        let Some(bytes) = head.as_mut().filter(|bytes| !bytes.rest().is_empty()) else {
            return Ok(None);
        };
        let response = match reader.read(bytes.rest(), asked) {
            Answer::NeedMore => return Ok(None),
            Answer::Found(response) => response,
            Answer::Not => return Err(Broken::Response("not_http")),
            Answer::Malformed(error) => return Err(Broken::Response(error.word())),
        };
        if response.is_interim() {
            self.interims += 1;
            if self.interims > MAX_INTERIMS {
                return Err(Broken::Response("interims_many"));
            }
        }
        let mut out = lender.buffers.holding(&[]);
        let lives = client_lives && response.framing != Framing::UntilClose;
        out.write(|out| rewrite_response(bytes.rest(), &response, !lives, out));
        bytes.advance(response.head_len);
        if response.is_interim() {
            *reader = ResponseReader::new();
            self.down = Some(out);
            return Ok(Some(response));
        }
        let mut body = Body::new(response.framing);
        let taken = if response.is_switch() {
            bytes.rest().len()
        } else {
            body.pass(bytes.rest()).map_err(|error| Broken::Response(error.word()))?
        };
        out.push(&bytes.rest()[..taken]);
        self.client_lives = lives;
        self.upstream_lives = response.keep_alive && taken == bytes.rest().len();
        if let Some(head) = head.take() {
            lender.buffers.give_back(head);
        }
        self.part = if body.has_ended() { Part::Ended } else { Part::Body(body) };
        self.down = Some(out);
        Ok(Some(response))
    }

    /// What waits for the client, and the upstream: for a tunnel.
    pub(crate) fn into_tunnel(self, lender: &mut Lender) -> (Peer, u8, Option<Buffer>) {
        [self.up, self.again].into_iter().flatten().for_each(|bytes| {
            lender.buffers.give_back(bytes);
        });
        (self.upstream, self.side, self.down)
    }

    /// Gives back what was lent.
    pub(crate) fn release(&mut self, lender: &mut Lender) {
        let head = match &mut self.part {
            Part::Head(head, _) => head.take(),
            _ => None,
        };
        let lent = [self.up.take(), self.down.take(), self.again.take(), head];
        lent.into_iter().flatten().for_each(|bytes| lender.buffers.give_back(bytes));
    }
}

/// Writes what is pending; `true` when nothing is pending any more.
fn flush(
    pending: &mut Option<Buffer>,
    to: &mut Peer,
    delivered: &mut u64,
    lender: &mut Lender,
) -> Result<bool, Errno> {
    let Some(buffer) = pending else { return Ok(true) };
    while !buffer.rest().is_empty() {
        if !to.writable {
            return Ok(false);
        }
        match egress_sys::send(to.fd(), buffer.rest()) {
            Ok(sent) => {
                buffer.advance(sent);
                *delivered += sent as u64;
            }
            Err(Errno::AGAIN) => to.writable = false,
            Err(errno) => return Err(errno),
        }
    }
    if let Some(buffer) = pending.take() {
        lender.buffers.give_back(buffer);
    }
    Ok(true)
}

/// Sends the first `bytes` of the shared buffer; what is not taken is pending.
fn send(
    pending: &mut Option<Buffer>,
    to: &mut Peer,
    delivered: &mut u64,
    lender: &mut Lender,
    bytes: usize,
) -> Result<(), Errno> {
    let mut sent = 0;
    while sent < bytes {
        match egress_sys::send(to.fd(), &lender.scratch[sent..bytes]) {
            Ok(taken) => sent += taken,
            Err(Errno::AGAIN) => {
                to.writable = false;
                *pending = Some(lender.buffers.holding(&lender.scratch[sent..bytes]));
                break;
            }
            Err(errno) => {
                *delivered += sent as u64;
                return Err(errno);
            }
        }
    }
    *delivered += sent as u64;
    Ok(())
}
