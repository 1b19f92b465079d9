//! Datagrams that are answered from the address that they were sent to.
//!
//! A socket bound to a wildcard address answers from the address that the route back prefers, and on a machine with
//! several the client does not know that one. IP_PKTINFO (ip(7)) and IPV6_RECVPKTINFO (ipv6(7), RFC 3542 §6.2) say where
//! a datagram went, and where one comes from.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::datagram::{address, canonical};

/// Ports that are tried where any will do: the one that TCP was given may be taken for UDP.
const PORT_TRIES: usize = 64;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// One datagram that was received.
#[derive(Debug)]
pub struct Arrived {
    /// Bytes of it; 0 for one that did not fit into the buffer.
    pub len: usize,
    /// Its sender, IPv4-mapped addresses as IPv4.
    pub from: SocketAddr,
    /// The address of this machine that it came to, and the number of the interface.
    here: Option<(IpAddr, u32)>,
    /// The socket is one of IPv6, which serves IPv4 under mapped addresses.
    v6: bool,
}

/// UDP and TCP on one address and port, as name servers are served; non-blocking.
///
/// # Errors
/// When the address cannot be had, or another process serves it.
pub fn bind_both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries = 0;
    loop {
        let stream = open(address, Type::STREAM, Protocol::TCP)?;
        stream.set_reuse_address(true)?;
        stream.bind(&address.into())?;
        stream.listen(BACKLOG)?;
        let bound = stream.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let datagrams = open(address, Type::DGRAM, Protocol::UDP)?;
        tries += 1;
        match datagrams.bind(&bound.into()) {
            Err(_) if address.port() == 0 && tries < PORT_TRIES => continue,
            other => other?,
        }
        setsockopt(&datagrams, sockopt::Ipv4PacketInfo, &true)?;
        if address.is_ipv6() {
            setsockopt(&datagrams, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        return Ok((UdpSocket::from(datagrams), TcpListener::from(stream)));
    }
}

fn open(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let kind = kind.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    Ok(socket)
}

/// Takes one datagram, if one is waiting at a socket that [`bind_both`] gave.
///
/// # Errors
/// `WouldBlock` when none is.
pub fn receive_datagram(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Arrived> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut control = nix::cmsg_space!(in_pktinfo, in6_pktinfo);
    let flags = MsgFlags::empty();
    let got =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let from = got.address.as_ref();
    let v6 = from.is_some_and(|from| from.as_sockaddr_in6().is_some());
    let here = got.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some((Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into(), 0))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            Some((IpAddr::V6(ip).to_canonical(), info.ipi6_ifindex))
        }
        _ => None,
    });
    Ok(Arrived {
        len: if got.flags.contains(MsgFlags::MSG_TRUNC) { 0 } else { got.bytes },
        from: from.and_then(address).map(canonical).ok_or(io::ErrorKind::InvalidData)?,
        here,
        v6,
    })
}

/// Answers a datagram with another one; whole or not at all.
///
/// # Errors
/// `WouldBlock` when the socket's buffer is full; what the network said otherwise.
pub fn answer_datagram(socket: BorrowedFd<'_>, to: &Arrived, bytes: &[u8]) -> io::Result<()> {
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let client = match to.from.ip() {
        ip if to.v6 => SocketAddr::new(mapped(ip).into(), to.from.port()),
        _ => to.from,
    };
    let parts = [IoSlice::new(bytes)];
    let send = |control: &[ControlMessage<'_>]| {
        let client = SockaddrStorage::from(client);
        sendmsg(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, Some(&client))
    };
    match to.here {
        Some((ip, interface)) if to.v6 => {
            let ip = mapped(ip);
            // Routes decide, but for addresses that mean something on one interface only.
            let ipi6_ifindex = if ip.is_unicast_link_local() { interface } else { 0 };
            let ipi6_addr = in6_addr { s6_addr: ip.octets() };
            send(&[ControlMessage::Ipv6PacketInfo(&in6_pktinfo { ipi6_addr, ipi6_ifindex })])
        }
        Some((IpAddr::V4(ip), _)) => {
            let of = |ip: Ipv4Addr| in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
            let (ipi_spec_dst, ipi_addr) = (of(ip), of(Ipv4Addr::UNSPECIFIED));
            let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ipi_addr };
            send(&[ControlMessage::Ipv4PacketInfo(&info)])
        }
        _ => send(&[]),
    }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use super::*;

    fn receive(datagrams: &UdpSocket, buffer: &mut [u8]) -> Arrived {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            match receive_datagram(datagrams.as_fd(), buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    assert!(Instant::now() < until, "no datagram came");
                    std::thread::yield_now();
                }
                other => return other.unwrap(),
            }
        }
    }

    /// Sends to `target`, a loopback address; gives the address that the answer comes from.
    fn answered_from(bind: &str, target: &str) -> (IpAddr, IpAddr) {
        let (datagrams, stream) = bind_both(bind.parse().unwrap()).unwrap();
        let port = stream.local_addr().unwrap().port();
        let target: IpAddr = target.parse().unwrap();
        let client = UdpSocket::bind((target, 0)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.send_to(b"question", (target, port)).unwrap();
        let mut buffer = [0; 64];
        let arrived = receive(&datagrams, &mut buffer);
        assert_eq!(&buffer[..arrived.len], b"question");
        answer_datagram(datagrams.as_fd(), &arrived, b"answer").unwrap();
        let (len, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"answer");
        (arrived.from.ip(), from.ip())
    }

    #[test]
    fn an_answer_comes_from_where_the_question_went() {
        let second: IpAddr = "127.0.0.2".parse().unwrap();
        for bind in ["0.0.0.0:0", "[::]:0", "127.0.0.2:0"] {
            assert_eq!(answered_from(bind, "127.0.0.2"), (second, second), "{bind}");
        }
        let six: IpAddr = "::1".parse().unwrap();
        for bind in ["[::]:0", "[::1]:0"] {
            assert_eq!(answered_from(bind, "::1"), (six, six), "{bind}");
        }
    }

    #[test]
    fn a_datagram_that_does_not_fit_is_told_by_its_length() {
        let (datagrams, stream) = bind_both("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(&[1; 100], stream.local_addr().unwrap()).unwrap();
        assert_eq!(receive(&datagrams, &mut [0; 99]).len, 0);
    }

    #[test]
    fn a_port_that_is_served_already_is_refused() {
        let (_datagrams, stream) = bind_both("127.0.0.1:0".parse().unwrap()).unwrap();
        let again = bind_both(stream.local_addr().unwrap());
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
