//! A worker's mailbox: what other threads tell it, and the way in.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use egress_front::{Adopted, Lost};
use egress_hello::name::Name;
use mio::{Poll, Waker};

use super::WAKER;
use crate::installed::Installed;
use crate::logins::{self, Outcome};
use crate::resolver::{Answer, Reply};

/// What other threads tell a worker.
#[derive(Debug)]
pub(crate) enum Mail {
    Resolved {
        token: u64,
        name: Name,
        answer: Answer,
        epoch: u64,
    },
    /// The names under which the flow's source was told `address`, newest first.
    Handed {
        token: u64,
        address: IpAddr,
        names: Vec<Name>,
    },
    /// A login that was asked for is verified.
    LoggedIn {
        token: u64,
        outcome: Outcome,
    },
    /// A login that was right, by what `Remembered` calls it.
    Remember([u8; 32]),
    /// A new policy; the worker answers with the flows that it closes for it.
    Install {
        policy: Arc<Installed>,
        /// Of the resolver's settings in it.
        epoch: u64,
        done: Sender<u64>,
    },
    /// A client that the front has made of a stream, or of a TLS connection.
    Adopt(Box<Adopted>),
    /// A connection that came to nothing in the front: it leaves its record here.
    Lost(Lost),
    /// The front holds no connection: a worker that has drained may end.
    FrontIdle,
    /// A rule's time is up: judge all flows again by the same policy.
    JudgeAgain,
    /// Stop accepting, and say so; the worker ends when its last flow has.
    Drain {
        done: Sender<u64>,
    },
    /// End now.
    Stop,
}

/// The way into a worker's mailbox.
#[derive(Debug, Clone)]
pub(crate) struct Mailbox {
    sender: Sender<Mail>,
    waker: Arc<Waker>,
}

impl Mailbox {
    /// `false` when the worker has ended: then it needs no mail.
    pub(crate) fn post(&self, mail: Mail) -> bool {
        let there = self.sender.send(mail).is_ok();
        if there {
            let _ = self.waker.wake();
        }
        there
    }
}

impl Reply for Mailbox {
    fn reply(&self, token: u64, name: &Name, answer: &Answer, epoch: u64) {
        self.post(Mail::Resolved { token, name: name.clone(), answer: answer.clone(), epoch });
    }

    fn handed(&self, token: u64, address: IpAddr, names: Vec<Name>) {
        self.post(Mail::Handed { token, address, names });
    }
}

impl logins::Reply for Mailbox {
    fn reply(&self, token: u64, outcome: Outcome) {
        self.post(Mail::LoggedIn { token, outcome });
    }

    fn remember(&self, name: [u8; 32]) {
        self.post(Mail::Remember(name));
    }
}

/// A mailbox and the parts that belong to its other end.
pub(crate) fn mailbox() -> std::io::Result<(Mailbox, Poll, Receiver<Mail>)> {
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
    let (sender, receiver) = std::sync::mpsc::channel();
    Ok((Mailbox { sender, waker }, poll, receiver))
}
