//! Sockets and readiness, as cheap as the kernel has them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::sockopt::{set_socket_reuseaddr, set_socket_send_buffer_size, set_tcp_nodelay};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, connect,
    getsockname, listen, recv, send, socket_with,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Bytes moved per system call of a bulk flow.
const BULK: usize = 1 << 20;
/// Connections waiting to be accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Descriptors up to the hard limit.
pub fn raise_limits() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn nonblocking() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
}

/// A listener, and its address when the port was left to the kernel.
pub fn listener(address: SocketAddrV4) -> io::Result<(OwnedFd, SocketAddrV4)> {
    let socket = nonblocking()?;
    set_socket_reuseaddr(&socket, true)?;
    // Inherited by what is accepted.
    set_tcp_nodelay(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    let bound = SocketAddr::try_from(getsockname(&socket)?)?;
    match bound {
        SocketAddr::V4(bound) => Ok((socket, bound)),
        SocketAddr::V6(_) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// The next connection of a listener, if there is one.
pub fn accept(listener: &OwnedFd) -> Option<OwnedFd> {
    accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC).ok()
}

/// A connection on its way. On loopback the handshake is over when this returns, so the first bytes may follow.
pub fn dial(address: SocketAddrV4) -> io::Result<OwnedFd> {
    dial_from(None, address)
}

pub fn dial_from(source: Option<Ipv4Addr>, address: SocketAddrV4) -> io::Result<OwnedFd> {
    let socket = nonblocking()?;
    if let Some(source) = source {
        bind(&socket, &SocketAddrV4::new(source, 0))?;
    }
    match connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Bytes that wait to be sent, at most; the kernel doubles it for its own needs.
pub fn send_buffer(socket: &OwnedFd, bytes: usize) -> io::Result<()> {
    Ok(set_socket_send_buffer_size(socket, bytes)?)
}

pub fn no_delay(socket: &OwnedFd) -> io::Result<()> {
    Ok(set_tcp_nodelay(socket, true)?)
}

/// Reads what is there into `buffer`.
pub fn read(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(recv(socket, buffer, RecvFlags::empty())?.1)
}

/// Writes all of a message that the socket has room for; less is a fault of the measurement, so it is an error.
pub fn write_all(socket: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    match send(socket, bytes, SendFlags::NOSIGNAL)? {
        sent if sent == bytes.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// What bulk flows are sent from and read into.
///
/// Sending copies, from a buffer that stays in the cache: 0.09 CPU s a GiB. sendfile(2) from a memfd was tried. It costs
/// the sender as much (0.15 s), because its skbs hold pages of 4 KiB instead of 32 KiB, and all who receive them pay for
/// that too: nginx 1.4 instead of 0.5 s a GiB.
#[derive(Debug)]
pub struct Bulk(Vec<u8>);

impl Bulk {
    pub fn new() -> Self {
        Self(vec![0; BULK])
    }

    pub fn send(&self, socket: &OwnedFd) -> io::Result<usize> {
        self.send_at_most(socket, BULK)
    }

    pub fn send_at_most(&self, socket: &OwnedFd, most: usize) -> io::Result<usize> {
        Ok(send(socket, &self.0[..most.min(BULK)], SendFlags::NOSIGNAL)?)
    }

    /// tcp(7): with MSG_TRUNC the bytes are thrown away instead of copied.
    pub fn discard(&mut self, socket: &OwnedFd) -> io::Result<usize> {
        Ok(recv(socket, &mut self.0[..], RecvFlags::TRUNC)?.1)
    }
}

/// What a socket is watched for. `Readable` and `Both` tell once per change, `Sink` and `Source` as long as it holds.
#[derive(Debug, Clone, Copy)]
pub enum Watch {
    Readable,
    Both,
    Sink,
    Source,
}

impl Watch {
    fn flags(self) -> EventFlags {
        match self {
            Self::Readable => EventFlags::IN | EventFlags::RDHUP | EventFlags::ET,
            Self::Both => EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET,
            Self::Sink => EventFlags::IN,
            Self::Source => EventFlags::OUT,
        }
    }
}

/// A socket has something to tell.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    pub token: usize,
    /// The other side has ended, or the connection is broken.
    pub ended: bool,
}

pub struct Poll {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poll {
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(1024) })
    }

    pub fn add(&self, socket: impl AsFd, token: usize, watch: Watch) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token as u64), watch.flags())?)
    }

    pub fn change(&self, socket: impl AsFd, token: usize, watch: Watch) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, EventData::new_u64(token as u64), watch.flags())?)
    }

    pub fn remove(&self, socket: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, socket)?)
    }

    /// Waits, and puts what is ready into `ready`.
    pub fn wait(&mut self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(TryInto::try_into).transpose().map_err(io::Error::other)?;
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        ready.clear();
        ready.extend(self.events.iter().map(|event| {
            // The kernel's struct is packed: by value only.
            let (data, flags) = (event.data, event.flags);
            Ready { token: data.u64() as usize, ended: flags.intersects(ended) }
        }));
        Ok(())
    }
}
