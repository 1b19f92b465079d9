//! Sockets as the gateway uses them: TCP, non-blocking, close-on-exec.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Connections that may wait in one listener's accept queue; the kernel cuts it to net.core.somaxconn.
pub const BACKLOG: i32 = 4096;
/// An idle connection is probed after this long, then every `KEEPALIVE_EVERY`, and given up after `KEEPALIVE_TRIES`:
/// a peer that vanished is noticed in under three minutes.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEPALIVE_TRIES: u32 = 5;

/// One address served by one socket per worker.
#[derive(Debug)]
pub struct Listening {
    /// The address with the port that the kernel chose, if 0 was asked for.
    pub address: SocketAddr,
    /// One SO_REUSEPORT socket per worker: the kernel spreads connections, workers share no queue.
    pub sockets: Vec<OwnedFd>,
}

/// Binds `address` once per worker and listens. `[::]` serves IPv4 too.
///
/// A port that another process already serves is an error although SO_REUSEPORT would let the same user share it:
/// two gateways on one port would each get half of the connections.
///
/// With `captures`, connections to any address are accepted that a TPROXY rule leads here (IP_TRANSPARENT in ip(7));
/// without CAP_NET_ADMIN only those that REDIRECT leads here.
pub fn listen(address: SocketAddr, workers: usize, captures: bool) -> io::Result<Listening> {
    let open = |address: SocketAddr, share: bool| -> io::Result<Socket> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(share)?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        // Inherited by accepted sockets (tcp(7)), which saves a system call for each.
        socket.set_tcp_nodelay(true)?;
        if captures {
            accept_captured(&socket, address);
        }
        socket.bind(&address.into())?;
        Ok(socket)
    };
    let probe = open(address, false)?;
    probe.listen(1)?;
    drop(probe);
    let mut sockets = Vec::with_capacity(workers);
    let mut bound = address;
    for _ in 0..workers.max(1) {
        let socket = open(bound, true)?;
        bound = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        socket.listen(BACKLOG)?;
        sockets.push(OwnedFd::from(socket));
    }
    Ok(Listening { address: bound, sockets })
}

/// Lets a socket take what a TPROXY rule leads to it (IP_TRANSPARENT in ip(7)); best effort, as REDIRECT needs no
/// capability.
pub(crate) fn accept_captured(socket: &Socket, address: SocketAddr) {
    let _ = if address.is_ipv6() {
        socket.set_ip_transparent_v6(true).and_then(|()| socket.set_ip_transparent_v4(true))
    } else {
        socket.set_ip_transparent_v4(true)
    };
}

/// Accepts one connection: its socket and the peer, IPv4-mapped addresses as IPv4.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (fd, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    // accept4(2) on TCP always gives the peer; an unspecified one is never allowed by a CIDR of a policy.
    let peer = peer.unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    Ok((fd, SocketAddr::new(peer.ip().to_canonical(), peer.port())))
}

/// Where a captured connection was going: what REDIRECT has replaced (SO_ORIGINAL_DST), else the socket's own address,
/// which TPROXY leaves as it was. For a connection that nobody captured that is the listener's.
pub fn original_destination(fd: BorrowedFd<'_>, ipv4: bool) -> io::Result<SocketAddr> {
    let replaced = if ipv4 {
        rustix::net::sockopt::ip_original_dst(fd).map(SocketAddr::V4)
    } else {
        rustix::net::sockopt::ipv6_original_dst(fd).map(SocketAddr::V6)
    };
    let address = match replaced {
        Ok(address) => address,
        Err(_) => return local_address(fd),
    };
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// What the peer of an accepted socket has connected to.
pub fn local_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let address = SocketAddr::try_from(rustix::net::getsockname(fd)?)?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// A socket that is connecting to `address`; writable (or failed, see `connect_error`) when it is decided.
///
/// With `speaks_first`, the last ACK of the handshake waits for the first bytes and travels with them.
pub fn stream_socket(address: SocketAddr, speaks_first: bool) -> io::Result<OwnedFd> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if speaks_first {
        socket.set_tcp_quickack(false)?;
    }
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(OwnedFd::from(socket))
}

/// SO_ERROR: how the connection attempt ended; `None` when it is connected (or still on its way).
pub fn connect_error(fd: BorrowedFd<'_>) -> Option<io::Error> {
    SockRef::from(&fd).take_error().unwrap_or_else(Some)
}

/// Turns on keepalive probes, so that a vanished peer ends the flow; best effort.
pub fn keepalive(fd: BorrowedFd<'_>) {
    let probes = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    let _ = SockRef::from(&fd).set_tcp_keepalive(&probes);
}

/// Makes the coming close send a reset (SO_LINGER with 0): how a reset on one side is carried to the other.
pub fn abort_on_close(fd: BorrowedFd<'_>) {
    let _ = SockRef::from(&fd).set_linger(Some(Duration::ZERO));
}

/// Reads what is there; `Ok(0)` is the end of the stream.
#[inline]
pub fn recv(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match rustix::net::recv(fd, &mut *buffer, RecvFlags::empty()) {
            Ok((read, _)) => return Ok(read),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Writes what the socket takes; never raises SIGPIPE.
#[inline]
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    send_with(fd, bytes, SendFlags::NOSIGNAL)
}

/// Writes the last bytes before a shutdown or close, which follows at once: the FIN then travels in their segment
/// (MSG_MORE in send(2)) instead of one of its own.
#[inline]
pub fn send_last(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    send_with(fd, bytes, SendFlags::NOSIGNAL | SendFlags::MORE)
}

#[inline]
fn send_with(fd: BorrowedFd<'_>, bytes: &[u8], flags: SendFlags) -> Result<usize, Errno> {
    loop {
        match rustix::net::send(fd, bytes, flags) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The addresses of this machine's interfaces (getifaddrs(3)).
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    Ok(if_addrs::get_if_addrs()?.iter().map(if_addrs::Interface::ip).collect())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_port_that_is_served_already_is_refused() {
        let first = listen("127.0.0.1:0".parse().unwrap(), 2, false).unwrap();
        assert_eq!(first.sockets.len(), 2);
        assert_ne!(first.address.port(), 0);
        let second = listen(first.address, 2, false);
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn an_accepted_peer_is_canonical_and_its_socket_sends_at_once() {
        let listening = listen("[::]:0".parse().unwrap(), 1, false).unwrap();
        let client = std::net::TcpStream::connect(("127.0.0.1", listening.address.port())).unwrap();
        let (fd, peer) = loop {
            match accept(listening.sockets[0].as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                other => break other.unwrap(),
            }
        };
        assert_eq!(peer, client.local_addr().unwrap());
        assert!(SockRef::from(&fd).tcp_nodelay().unwrap());
        let local = local_addresses().unwrap();
        assert!(local.contains(&peer.ip()) && !local.contains(&"192.0.2.1".parse().unwrap()));
    }
}
