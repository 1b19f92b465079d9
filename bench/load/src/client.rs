//! The client: keeps `flows` busy for some seconds and says how it went.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde_json::json;

use crate::hello::hello;
use crate::{Load, Shape};

/// Bytes moved per system call of a bulk flow.
const BULK: usize = 256 * 1024;

struct Flow {
    stream: TcpStream,
    begun: Instant,
    greeted: bool,
    got: usize,
    answered: bool,
}

#[derive(Default)]
struct Tally {
    done: u64,
    failed: u64,
    bytes: u64,
    /// Microseconds of each exchange.
    latencies: Vec<u32>,
}

struct Run<'a> {
    load: &'a Load,
    hellos: Vec<Vec<u8>>,
    poll: Poll,
    tally: Tally,
    opened: usize,
    scratch: Vec<u8>,
}

/// Runs the load and prints one line of JSON.
pub fn run(load: &Load) -> io::Result<()> {
    let hellos = load.names.iter().map(|name| hello(name, load.shape, load.size)).collect();
    let mut run =
        Run { load, hellos, poll: Poll::new()?, tally: Tally::default(), opened: 0, scratch: vec![b'x'; BULK] };
    let mut flows = Vec::with_capacity(load.flows);
    let mut events = Events::with_capacity(1024);
    for slot in 0..load.flows {
        flows.push(run.open(slot)?);
        // A queue of SYNs deeper than the listener's would measure retransmissions.
        if slot % 256 == 255 {
            run.turn(&mut flows, &mut events, Duration::from_millis(20))?;
        }
    }
    let cpu = cpu_seconds();
    let started = Instant::now();
    run.tally = Tally::default();
    while started.elapsed() < load.seconds {
        run.turn(&mut flows, &mut events, Duration::from_millis(50))?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let mut tally = run.tally;
    tally.latencies.sort_unstable();
    let at = |share: f64| {
        let index = (tally.latencies.len() as f64 * share) as usize;
        tally.latencies.get(index.min(tally.latencies.len().saturating_sub(1))).copied()
    };
    println!(
        "{}",
        json!({
            "seconds": seconds, "done": tally.done, "failed": tally.failed, "bytes": tally.bytes,
            "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999),
            "own_cpu": (cpu_seconds() - cpu) / seconds,
        })
    );
    Ok(())
}

/// User and system time of this process, from /proc/self/stat in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

impl Run<'_> {
    fn open(&mut self, slot: usize) -> io::Result<Flow> {
        let mut stream = TcpStream::connect(self.load.target)?;
        stream.set_nodelay(true)?;
        self.poll.registry().register(&mut stream, Token(slot), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Flow { stream, begun: Instant::now(), greeted: false, got: 0, answered: false })
    }

    fn turn(&mut self, flows: &mut [Flow], events: &mut Events, wait: Duration) -> io::Result<()> {
        self.poll.poll(events, Some(wait))?;
        for event in events.iter() {
            let slot = event.token().0;
            let over = match self.step(&mut flows[slot]) {
                Ok(over) => over,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
                Err(_) => {
                    self.tally.failed += 1;
                    true
                }
            };
            if over {
                flows[slot] = self.open(slot)?;
            }
        }
        Ok(())
    }

    /// Goes on as far as the socket lets it; `true` when the flow is over and another takes its place.
    fn step(&mut self, flow: &mut Flow) -> io::Result<bool> {
        if !flow.greeted {
            let name = self.opened % self.hellos.len();
            flow.stream.write_all(&self.hellos[name])?;
            flow.greeted = true;
            self.opened += 1;
            if self.load.shape == Shape::Message {
                flow.stream.write_all(&self.scratch[..self.load.size])?;
            }
        }
        if self.load.shape == Shape::Up {
            loop {
                self.tally.bytes += flow.stream.write(&self.scratch)? as u64;
            }
        }
        loop {
            let n = flow.stream.read(&mut self.scratch)?;
            if n > 0 && !flow.answered {
                flow.answered = true;
                if self.load.shape == Shape::Connect {
                    self.tally.latencies.push(flow.begun.elapsed().as_micros() as u32);
                }
            }
            flow.got += n;
            self.tally.bytes += n as u64;
            if n == 0 {
                let whole = self.load.shape == Shape::Connect && flow.got == self.load.size;
                if whole {
                    self.tally.done += 1;
                } else {
                    self.tally.failed += 1;
                }
                return Ok(true);
            }
            if self.load.shape == Shape::Message && flow.got >= self.load.size {
                self.tally.done += 1;
                self.tally.latencies.push(flow.begun.elapsed().as_micros() as u32);
                flow.got -= self.load.size;
                flow.begun = Instant::now();
                flow.stream.write_all(&self.scratch[..self.load.size])?;
            }
        }
    }
}
