//! Small messages, one after the other, and how long each took, before the bulk and beside it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use serde_json::{Value, json};

use super::Shared;
use super::plan::Probe;
use crate::hello::{Order, hello};

/// An answer that takes longer is an error.
const PATIENCE: Duration = Duration::from_secs(20);
/// Messages that are not counted: caches warm.
const WARM_UP: usize = 20;
/// The ends of bulk run beside the probe, often on the same CPU: it is not to wait for them. Linux takes it for the calling
/// thread alone; who may not have it goes without.
const FIRST: i32 = -20;

fn ahead_of_bulk() {
    let _ = setpriority_process(None, FIRST);
}

/// Runs until the run is done.
pub fn run(shared: &Shared, probe: &Probe) -> io::Result<Value> {
    ahead_of_bulk();
    let mut stream = TcpStream::connect(probe.to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&hello(&probe.sni, Order::Echo, probe.size))?;
    let message = vec![b'x'; probe.size];
    let mut answer = vec![0; probe.size];
    let every = Duration::from_millis(probe.every);
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    let (mut count, mut begun) = (0, Instant::now());
    while !shared.done.load(Relaxed) {
        let was_quiet = shared.is_quiet();
        stream.write_all(&message)?;
        stream.read_exact(&mut answer)?;
        count += 1;
        let took = begun.elapsed().as_micros() as u32;
        if count > WARM_UP && was_quiet && shared.is_quiet() {
            quiet.push(took);
        } else if shared.now().is_some_and(|now| is_busy(shared, now)) {
            busy.push(took);
        }
        // One whose time came before the last answer has waited since then.
        begun += every;
        if let Some(wait) = begun.checked_duration_since(Instant::now()) {
            thread::sleep(wait);
            begun = Instant::now();
        }
    }
    Ok(json!({ "name": probe.name, "quiet": told(quiet), "busy": told(busy) }))
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
