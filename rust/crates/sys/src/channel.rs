//! The control socket: one datagram is one message, descriptors travel with it (unix(7), SOCK_SEQPACKET, SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// The largest message in bytes: every message is small by design, large things travel as descriptors.
pub const MAX_MESSAGE: usize = 32 * 1024;
/// The most descriptors that one message carries.
pub const MAX_DESCRIPTORS: usize = 4;

/// One end of the control socket; close-on-exec, non-blocking.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

/// One received message.
#[derive(Debug)]
pub enum Received {
    Message(Vec<u8>, Vec<OwnedFd>),
    /// Nothing is waiting.
    Empty,
    /// The other end is closed.
    Closed,
}

impl Channel {
    /// A connected pair; both ends are non-blocking and close-on-exec.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self { fd: a }, Self { fd: b }))
    }

    /// Lets a child process that is about to be started inherit this end.
    pub fn inheritable(&self) -> io::Result<()> {
        Ok(rustix::io::fcntl_setfd(&self.fd, rustix::io::FdFlags::empty())?)
    }

    /// Sends one message whole; `WouldBlock` when the other end does not read.
    pub fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if message.len() > MAX_MESSAGE || descriptors.len() > MAX_DESCRIPTORS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the message is larger than the channel's bound",
            ));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        rustix::net::sendmsg(
            &self.fd,
            &[IoSlice::new(message)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    /// Takes one message, if one is waiting. A message over the bounds is an error and is gone.
    pub fn receive(&self) -> io::Result<Received> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::net::recvmsg(
            &self.fd,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        );
        let got = match got {
            Ok(got) => got,
            Err(rustix::io::Errno::AGAIN) => return Ok(Received::Empty),
            Err(rustix::io::Errno::CONNRESET) => return Ok(Received::Closed),
            Err(error) => return Err(error.into()),
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                descriptors.extend(fds);
            }
        }
        // A SEQPACKET read of zero bytes is the end of the stream: empty messages are never sent.
        if got.bytes == 0 {
            return Ok(Received::Closed);
        }
        if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the message is larger than the channel's bound",
            ));
        }
        bytes.truncate(got.bytes);
        Ok(Received::Message(bytes, descriptors))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_bounds_and_carry_descriptors() {
        let (a, b) = Channel::pair().unwrap();
        assert!(matches!(b.receive().unwrap(), Received::Empty));
        let fd = crate::seal("x", b"inside").unwrap();
        a.send(b"one", &[]).unwrap();
        a.send(b"two", &[fd.as_fd()]).unwrap();
        let Received::Message(bytes, fds) = b.receive().unwrap() else { unreachable!() };
        assert_eq!((bytes.as_slice(), fds.len()), (b"one".as_slice(), 0));
        let Received::Message(bytes, fds) = b.receive().unwrap() else { unreachable!() };
        assert_eq!(bytes, b"two");
        assert_eq!(crate::SealedMap::map(&fds[0], 100).unwrap().as_ref(), b"inside");
        assert!(a.send(&vec![b'x'; MAX_MESSAGE + 1], &[]).is_err());
        drop(a);
        assert!(matches!(b.receive().unwrap(), Received::Closed));
    }
}
