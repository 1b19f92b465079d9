//! Questions in datagrams: each is answered by one datagram, from the address that it came to.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use egress_hello::dns::MAX_QUERY;
use egress_sys::{Arrived, answer_datagram, receive_datagram};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::Front;
use super::question::{Client, Heard};

/// Datagrams taken before everything else on this thread gets its turn, answers to workers among it.
const BATCH: usize = 32;
/// How soon a socket that cannot be read is tried again.
const RETRY: Duration = Duration::from_millis(100);

pub(super) async fn serve(front: Rc<Front>, listener: u16, socket: Rc<UdpSocket>) {
    let mut buffer = vec![0; MAX_QUERY];
    loop {
        let mut failed = socket.readable().await.is_err();
        for _ in 0..BATCH {
            let arrived =
                socket.try_io(Interest::READABLE, || receive_datagram(socket.as_fd(), &mut buffer));
            match arrived {
                Ok(arrived) => {
                    let message = buffer.get(..arrived.len).unwrap_or_default();
                    take(&front, listener, &socket, message, arrived);
                }
                Err(error) => {
                    failed |= error.kind() != ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        if failed {
            tokio::time::sleep(RETRY).await;
        }
        tokio::task::yield_now().await;
    }
}

fn take(
    front: &Rc<Front>,
    listener: u16,
    socket: &Rc<UdpSocket>,
    message: &[u8],
    arrived: Arrived,
) {
    let client = Client { source: arrived.from, listener, tcp: false, came: Instant::now() };
    // A full buffer loses an answer, as the network may: the client asks again.
    match front.hear(message, client) {
        Heard::Nothing => {}
        Heard::Reply(reply) => drop(answer_datagram(socket.as_fd(), &arrived, &reply)),
        Heard::Wait(question) => {
            let (front, socket) = (Rc::clone(front), Rc::clone(socket));
            tokio::task::spawn_local(async move {
                let reply = front.resolve(question).await;
                let _ = answer_datagram(socket.as_fd(), &arrived, &reply);
            });
        }
    }
}
