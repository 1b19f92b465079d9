//! Small messages, one after the other, and how long each took, before the bulk and beside it.

use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use rustix::thread::gettid;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::Shared;
use super::plan::Probe;
use crate::hello::{Order, hello};

/// An answer that takes longer is an error.
const PATIENCE: Duration = Duration::from_secs(20);
/// Messages that are not counted: caches warm.
const WARM_UP: usize = 20;
/// Real-time priority of both ends of messages: one more than the least, which bulk has (`ahead_of_others` in
/// load_generator.py).
const AHEAD: &str = "2";
/// Where real-time priority is not allowed: the most of the usual kind, which may be refused, too.
const FIRST: i32 = -20;

/// The ends of bulk run beside the messages, often on the same CPU: no message is to wait for them. Linux takes it for
/// the calling thread alone. No safe crate of ours has sched_setscheduler(2), so chrt(1) says it, once for a thread.
fn ahead_of_bulk() {
    let mut chrt = Command::new("chrt");
    chrt.args(["--rr", "--pid", AHEAD, &gettid().as_raw_nonzero().to_string()]);
    let said = chrt.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !said.is_ok_and(|status| status.success()) {
        let _ = setpriority_process(None, FIRST);
    }
}

/// The asking end.
struct Talk {
    stream: TcpStream,
    message: Vec<u8>,
    answer: Vec<u8>,
    every: Duration,
    /// When the next message was to go.
    begun: Instant,
}

impl Talk {
    fn begin(to: SocketAddrV4, sni: &str, size: usize, every: u64) -> io::Result<Self> {
        ahead_of_bulk();
        let mut stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&hello(sni, Order::Echo, size))?;
        let (message, answer) = (vec![b'x'; size], vec![0; size]);
        let every = Duration::from_millis(every);
        Ok(Self { stream, message, answer, every, begun: Instant::now() })
    }

    /// A message and its answer: microseconds.
    fn exchange(&mut self) -> io::Result<u32> {
        self.stream.write_all(&self.message)?;
        self.stream.read_exact(&mut self.answer)?;
        Ok(self.begun.elapsed().as_micros() as u32)
    }

    /// Until the next one.
    fn rest(&mut self) {
        // One whose time came before the last answer has waited since then.
        self.begun += self.every;
        if let Some(wait) = self.begun.checked_duration_since(Instant::now()) {
            thread::sleep(wait);
            self.begun = Instant::now();
        }
    }
}

/// Runs until the run is done.
pub fn run(shared: &Shared, probe: &Probe) -> io::Result<Value> {
    let mut talk = Talk::begin(probe.to, &probe.sni, probe.size, probe.every)?;
    let (mut quiet, mut busy, mut count) = (Vec::new(), Vec::new(), 0);
    while !shared.done.load(Relaxed) {
        let was_quiet = shared.is_quiet();
        let took = talk.exchange()?;
        count += 1;
        if count > WARM_UP && was_quiet && shared.is_quiet() {
            quiet.push(took);
        } else if shared.now().is_some_and(|now| is_busy(shared, now)) {
            busy.push(took);
        }
        talk.rest();
    }
    Ok(json!({ "name": probe.name, "quiet": told(quiet), "busy": told(busy) }))
}

/// Prints when each answer came, in seconds of the clock that all processes share, and the microseconds that it took.
/// Ends with the flow, or when it is killed.
pub fn print(to: SocketAddrV4, sni: &str, size: usize, every: u64) -> io::Result<()> {
    let mut talk = Talk::begin(to, sni, size, every)?;
    for count in 1_usize.. {
        let took = talk.exchange()?;
        if count > WARM_UP {
            let now = clock_gettime(ClockId::Monotonic);
            println!("{}.{:09} {took}", now.tv_sec, now.tv_nsec);
        }
        talk.rest();
    }
    Ok(())
}

/// While bulk is measured.
fn is_busy(shared: &Shared, now: u64) -> bool {
    (0..shared.groups.len()).any(|group| shared.is_measured(group, now))
}

fn told(mut latencies: Vec<u32>) -> Value {
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = (latencies.len() as f64 * share) as usize;
        latencies.get(index.min(latencies.len().saturating_sub(1))).copied()
    };
    json!({ "count": latencies.len(), "p50_us": at(0.5), "p99_us": at(0.99), "most_us": at(1.0) })
}

/// The other end: sends back each message when it is whole.
pub fn echo(socket: OwnedFd, size: usize) -> io::Result<()> {
    ahead_of_bulk();
    let mut stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut message = vec![0; size];
    loop {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
}
