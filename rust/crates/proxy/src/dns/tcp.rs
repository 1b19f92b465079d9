//! Questions over TCP (RFC 7766): several at once on one connection, answered as the answers come.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use egress_hello::dns::MAX_QUERY;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::Front;
use super::question::{Client, Heard};

/// Connections at once, of all clients and of one. Each takes a descriptor of those that are kept for the resolver.
pub(super) const MAX_CONNECTIONS: usize = 256;
pub(super) const MAX_CONNECTIONS_OF_SOURCE: usize = 32;
/// Questions of one connection that are under way at once; further ones wait in the socket.
const MAX_UNDER_WAY: usize = 16;
/// Bytes of answers that a client has not taken, beyond which its questions wait.
const MAX_UNSENT: usize = 64 * 1024;
/// A connection ends when this long nothing was asked, answered or taken (RFC 7766, section 6.2.3: a few seconds).
const IDLE: Duration = Duration::from_secs(10);
/// No connection is longer than this: one that keeps itself alive with a byte at a time makes room in the end.
const LIFE: Duration = Duration::from_secs(120);
/// How soon accepting is tried again when there is no descriptor.
const RETRY: Duration = Duration::from_millis(100);
/// Before each message stands its length (RFC 1035, section 4.2.2).
const PREFIX: usize = 2;

pub(super) async fn serve(front: Rc<Front>, listener: u16, socket: TcpListener) {
    loop {
        match socket.accept().await {
            Ok((stream, source)) => {
                let source = SocketAddr::new(source.ip().to_canonical(), source.port());
                let front = Rc::clone(&front);
                tokio::task::spawn_local(async move {
                    // Where there is no room the connection closes at once, and the client tries elsewhere.
                    if let Some(_place) = front.connections.enter(source.ip()) {
                        Conversation::new(&front, listener, source).run(&stream).await;
                    }
                });
            }
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// One connection.
struct Conversation<'a> {
    front: &'a Rc<Front>,
    listener: u16,
    source: SocketAddr,
    /// Bytes that are not a whole message yet.
    came: Vec<u8>,
    unsent: Vec<u8>,
    under_way: JoinSet<Vec<u8>>,
    /// The client asks no more.
    ended: bool,
}

/// The client has left, or does not speak this protocol.
struct Over;

impl<'a> Conversation<'a> {
    fn new(front: &'a Rc<Front>, listener: u16, source: SocketAddr) -> Self {
        Self {
            front,
            listener,
            source,
            came: Vec::new(),
            unsent: Vec::new(),
            under_way: JoinSet::new(),
            ended: false,
        }
    }

    async fn run(mut self, stream: &TcpStream) {
        let _ = stream.set_nodelay(true);
        let last = Instant::now() + LIFE;
        let mut idle = Instant::now() + IDLE;
        loop {
            let room = self.has_room();
            let done = self.ended && self.under_way.is_empty();
            if done && self.unsent.is_empty() {
                return;
            }
            let progress = tokio::select! {
                ready = stream.readable(), if room && !self.ended => match ready {
                    Ok(()) => self.read(stream),
                    Err(_) => Err(Over),
                },
                ready = stream.writable(), if !self.unsent.is_empty() => match ready {
                    Ok(()) => self.write(stream),
                    Err(_) => Err(Over),
                },
                Some(reply) = self.under_way.join_next(), if !self.under_way.is_empty() => {
                    // One that has failed is not answered; the client asks again.
                    reply.iter().for_each(|reply| self.answer(reply));
                    // Questions that had come already may have waited for this one's place.
                    self.hear().map(|_| true)
                }
                () = sleep_until(idle.min(last).into()) => Err(Over),
            };
            match progress {
                Ok(true) => idle = Instant::now() + IDLE,
                Ok(false) => {}
                Err(Over) => return,
            }
        }
    }

    fn has_room(&self) -> bool {
        self.under_way.len() < MAX_UNDER_WAY && self.unsent.len() < MAX_UNSENT
    }

    /// Whether a whole question came.
    fn read(&mut self, stream: &TcpStream) -> Result<bool, Over> {
        let mut buffer = [0; PREFIX + MAX_QUERY];
        match stream.try_read(&mut buffer) {
            Ok(0) => self.ended = true,
            Ok(read) => self.came.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(_) => return Err(Over),
        }
        self.hear()
    }

    fn write(&mut self, stream: &TcpStream) -> Result<bool, Over> {
        match stream.try_write(&self.unsent) {
            Ok(sent) => {
                self.unsent.drain(..sent);
                Ok(sent > 0)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(_) => Err(Over),
        }
    }

    /// Takes the whole questions that there is room for.
    fn hear(&mut self) -> Result<bool, Over> {
        let mut heard = false;
        let mut taken = 0;
        while self.has_room() {
            let rest = self.came.get(taken..).unwrap_or_default();
            let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX>() else { break };
            let length = usize::from(u16::from_be_bytes(*prefix));
            if length > MAX_QUERY {
                return Err(Over);
            }
            let Some(message) = rest.get(..length) else { break };
            let message = message.to_vec();
            taken += PREFIX + length;
            let client = Client {
                source: self.source,
                listener: self.listener,
                tcp: true,
                came: Instant::now(),
            };
            match self.front.hear(&message, client) {
                // What is not even answered is no client of this protocol.
                Heard::Nothing => return Err(Over),
                Heard::Reply(reply) => self.answer(&reply),
                Heard::Wait(question) => {
                    let front = Rc::clone(self.front);
                    self.under_way.spawn_local(async move { front.resolve(question).await });
                }
            }
            heard = true;
        }
        self.came.drain(..taken);
        Ok(heard)
    }

    fn answer(&mut self, reply: &[u8]) {
        let length = u16::try_from(reply.len()).unwrap_or(u16::MAX);
        self.unsent.extend_from_slice(&length.to_be_bytes());
        self.unsent.extend_from_slice(reply);
    }
}
