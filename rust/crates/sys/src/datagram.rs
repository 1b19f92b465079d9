//! UDP as a transparent listener sees it: datagrams on their way to somebody else, and the word that nobody carries them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::socket::accept_captured;

/// Bytes of an IPv4 header without options (RFC 791), of an IPv6 header (RFC 8200), and of a UDP header (RFC 768).
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;
/// Type, code, checksum and an unused word, of ICMP (RFC 792) as of ICMPv6 (RFC 4443, section 3.1).
const ICMP: usize = 8;
const PROTOCOL_UDP: u8 = 17;

/// One datagram: how long it is, and between whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Bytes of payload; more than fit into the buffer are cut, and not counted.
    pub len: usize,
    pub source: SocketAddr,
    /// Where it was going: what TPROXY left as it was; after REDIRECT the listener's own address.
    pub destination: SocketAddr,
}

/// Binds `address` once per worker for datagrams that TPROXY or REDIRECT leads here.
pub fn captured_datagrams(address: SocketAddr, workers: usize) -> io::Result<Vec<OwnedFd>> {
    let open = || -> io::Result<OwnedFd> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
        socket.set_reuse_port(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
            setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true)?;
        }
        if address.is_ipv4() || address.ip().is_unspecified() {
            setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true)?;
        }
        accept_captured(&socket, address);
        socket.bind(&address.into())?;
        Ok(OwnedFd::from(socket))
    };
    (0..workers.max(1)).map(|_| open()).collect()
}

/// Reads one datagram (recvmsg(2)), IPv4-mapped addresses as IPv4.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Datagram, Errno> {
    let mut parts = [io::IoSliceMut::new(buffer)];
    let mut control = nix::cmsg_space!(nix::libc::sockaddr_in, nix::libc::sockaddr_in6);
    let got = recvmsg::<SockaddrStorage>(
        fd.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )
    .map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
    let source = got.address.as_ref().and_then(address).ok_or(Errno::AFNOSUPPORT)?;
    let destination = got
        .cmsgs()
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))?
        .find_map(|message| match message {
            ControlMessageOwned::Ipv4OrigDstAddr(to) => {
                Some(SocketAddr::V4(SocketAddrV4::from(nix::sys::socket::SockaddrIn::from(to))))
            }
            ControlMessageOwned::Ipv6OrigDstAddr(to) => {
                Some(SocketAddr::V6(SocketAddrV6::from(nix::sys::socket::SockaddrIn6::from(to))))
            }
            _ => None,
        })
        .ok_or(Errno::DESTADDRREQ)?;
    Ok(Datagram { len: got.bytes, source: canonical(source), destination: canonical(destination) })
}

pub(crate) fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}

pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The way to say "port unreachable", which needs CAP_NET_RAW.
#[derive(Debug)]
pub struct Unreachable {
    v4: Socket,
    /// `None` where there is no IPv6.
    v6: Option<Socket>,
}

impl Unreachable {
    pub fn open() -> io::Result<Self> {
        let raw = |domain, protocol| -> io::Result<Socket> {
            let kind = Type::RAW.nonblocking().cloexec();
            let socket = Socket::new(domain, kind, Some(protocol))?;
            // It gets a copy of every ICMP message, which nobody reads: the kernel's least.
            socket.set_recv_buffer_size(0)?;
            Ok(socket)
        };
        let v6 = raw(Domain::IPV6, Protocol::ICMPV6).ok();
        Ok(Self { v4: raw(Domain::IPV4, Protocol::ICMPV4)?, v6 })
    }

    /// Tells the sender of `datagram` that its destination's port takes nothing.
    pub fn tell(&self, datagram: &Datagram) -> io::Result<()> {
        let told = match (datagram.source.ip(), datagram.destination.ip(), &self.v6) {
            (IpAddr::V4(from), IpAddr::V4(to), _) => {
                let message = unreachable_v4(datagram, from, to);
                self.v4.send_to(&message, &SocketAddr::from((from, 0)).into())
            }
            (IpAddr::V6(from), IpAddr::V6(to), Some(v6)) => {
                let message = unreachable_v6(datagram, from, to);
                let mut back = SocketAddrV6::new(from, 0, 0, 0);
                if let SocketAddr::V6(source) = datagram.source {
                    back.set_scope_id(source.scope_id());
                }
                v6.send_to(&message, &SocketAddr::V6(back).into())
            }
            _ => return Err(io::ErrorKind::AddrNotAvailable.into()),
        };
        told.map(|_| ())
    }
}

/// The header of the datagram that is refused; its sender finds the socket by it.
fn udp_header(datagram: &Datagram) -> [u8; UDP] {
    let mut header = [0; UDP];
    header[..2].copy_from_slice(&datagram.source.port().to_be_bytes());
    header[2..4].copy_from_slice(&datagram.destination.port().to_be_bytes());
    header[4..6].copy_from_slice(&length(UDP + datagram.len).to_be_bytes());
    header
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

/// Destination unreachable (type 3), port unreachable (code 3), with the header it is about (RFC 792).
fn unreachable_v4(datagram: &Datagram, from: Ipv4Addr, to: Ipv4Addr) -> [u8; ICMP + IPV4 + UDP] {
    let mut ip = [0; IPV4];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&length(IPV4 + UDP + datagram.len).to_be_bytes());
    (ip[8], ip[9]) = (64, PROTOCOL_UDP);
    ip[12..16].copy_from_slice(&from.octets());
    ip[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut message = [0; ICMP + IPV4 + UDP];
    (message[0], message[1]) = (3, 3);
    message[ICMP..ICMP + IPV4].copy_from_slice(&ip);
    message[ICMP + IPV4..].copy_from_slice(&udp_header(datagram));
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Destination unreachable (type 1), port unreachable (code 4); the kernel fills in the checksum (raw(7), ipv6(7)).
fn unreachable_v6(datagram: &Datagram, from: Ipv6Addr, to: Ipv6Addr) -> [u8; ICMP + IPV6 + UDP] {
    let mut message = [0; ICMP + IPV6 + UDP];
    (message[0], message[1]) = (1, 4);
    let ip = &mut message[ICMP..ICMP + IPV6];
    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&length(UDP + datagram.len).to_be_bytes());
    (ip[6], ip[7]) = (PROTOCOL_UDP, 64);
    ip[8..24].copy_from_slice(&from.octets());
    ip[24..40].copy_from_slice(&to.octets());
    message[ICMP + IPV6..].copy_from_slice(&udp_header(datagram));
    message
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 =
        bytes.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_quotes_the_datagram_and_adds_up() {
        let datagram = Datagram {
            len: 1200,
            source: "10.1.2.3:40000".parse().unwrap(),
            destination: "192.0.2.1:443".parse().unwrap(),
        };
        let (from, to) = (Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(192, 0, 2, 1));
        let message = unreachable_v4(&datagram, from, to);
        // A sum over what contains its own checksum is zero (RFC 1071, section 1).
        assert_eq!((checksum(&message), checksum(&message[8..28])), (0, 0));
        assert_eq!(message[..2], [3, 3]);
        assert_eq!(message[28..32], [0x9c, 0x40, 1, 0xbb]);
        assert_eq!(u16::from_be_bytes([message[10], message[11]]), 1228);
    }
}
