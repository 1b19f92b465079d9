//! The control process: started by the data plane, started again when it dies, never waited for by a connection.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use egress_sys::Channel;

use crate::log;
use crate::message::ToControl;

/// A control process that lived shorter than this failed by itself.
const SHORT_LIFE: Duration = Duration::from_secs(5);
/// Each early death in a row delays the next start by this much more, up to `MAX_DELAY`: it is back within a second.
const DELAY_STEP: Duration = Duration::from_millis(50);
const MAX_DELAY: Duration = Duration::from_millis(500);
/// How long one whose socket has closed may take to end: its exit code says whether the first policy was broken. On
/// a busy machine an interpreter's last steps take more than 0.2 s; one that was killed is gone already.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long an ending control process may take to write out the last records.
const GOODBYE: Duration = Duration::from_secs(5);

/// The running control process and our end of its socket.
#[derive(Debug)]
pub(crate) struct Control {
    python: String,
    pub channel: Option<Channel>,
    child: Option<Child>,
    started: Instant,
    early_deaths: u32,
    /// When the next one is to be started.
    pub start_at: Option<Instant>,
    pub restarts: u64,
}

impl Control {
    pub(crate) fn new(python: String) -> Self {
        Self {
            python,
            channel: None,
            child: None,
            started: Instant::now(),
            early_deaths: 0,
            start_at: None,
            restarts: 0,
        }
    }

    /// Starts `python -m egress_gateway` with its end of a new socket.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        let (ours, theirs) = Channel::pair()?;
        theirs.inheritable()?;
        let child = Command::new(&self.python)
            .args(["-m", "egress_gateway", "--control-fd", &theirs.as_fd().as_raw_fd().to_string()])
            .stdin(Stdio::null())
            .spawn()?;
        self.channel = Some(ours);
        self.child = Some(child);
        self.started = Instant::now();
        self.start_at = None;
        Ok(())
    }

    /// Sends one message; a control process that does not read loses it, and nothing here waits.
    pub(crate) fn send(&self, message: ToControl<'_>, descriptors: &[BorrowedFd<'_>]) {
        let Some(channel) = &self.channel else { return };
        let Ok(bytes) = message.bytes() else { return };
        if let Err(error) = channel.send(&bytes, descriptors) {
            log::warn(&format!("a message to the control plane was lost: {error}"));
        }
    }

    /// The socket has closed: reaps the process and plans the next start. Gives how it ended.
    pub(crate) fn died(&mut self) -> Option<ExitStatus> {
        self.channel = None;
        let status = self.reap(LAST_WORDS);
        self.early_deaths =
            if self.started.elapsed() < SHORT_LIFE { self.early_deaths + 1 } else { 0 };
        let delay = (DELAY_STEP * self.early_deaths.saturating_sub(1)).min(MAX_DELAY);
        self.start_at = Some(Instant::now() + delay);
        self.restarts += 1;
        status
    }

    pub(crate) fn early_deaths(&self) -> u32 {
        self.early_deaths
    }

    /// Closes the socket, which tells the process to write out what it has and to end; then makes sure that it did.
    pub(crate) fn end(&mut self) {
        self.channel = None;
        self.reap(GOODBYE);
    }

    /// Waits up to `patience` for the process to end by itself, then kills it.
    fn reap(&mut self, patience: Duration) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        let until = Instant::now() + patience;
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => {
                    std::thread::park_timeout(Duration::from_millis(5))
                }
                _ => break,
            }
        }
        let _ = child.kill();
        child.wait().ok()
    }
}
