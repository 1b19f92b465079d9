//! The client: keeps its flows busy for some seconds, or holds them, and says how it went.

use std::io::{self, Write};
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::hello::hello;
use crate::net::{self, Bulk, Poll, Ready, Watch};
use crate::report::{Meter, Tally};
use crate::way::{Ask, Way};
use crate::{Load, Shape};

/// Flows on their way at a time while held ones are opened: below every listener's queue.
const OPENING: usize = 128;
/// Not measured: buffers fill and caches warm.
const WARM_UP: Duration = Duration::from_millis(300);
/// How long a flow may take to open.
const PATIENCE: Duration = Duration::from_secs(30);
/// Failures without one success between them after which nothing good is to be expected.
const HOPELESS: u64 = 1000;
/// Bytes of one read.
const READ: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing sent yet.
    New,
    /// So many asks sent, the answer to the last awaited.
    Asked(usize),
    /// The last words sent.
    Served,
}

struct Flow {
    socket: OwnedFd,
    begun: Instant,
    name: usize,
    stage: Stage,
    got: usize,
    answered: bool,
}

/// What is sent first, for one name.
struct Words {
    asks: Vec<Ask>,
    last: Vec<u8>,
}

struct Run<'a> {
    load: &'a Load,
    words: Vec<Words>,
    poll: Poll,
    bulk: Bulk,
    tally: Tally,
    opened: usize,
    hopeless: u64,
    answered: usize,
    /// Flows make one exchange and rest.
    resting: bool,
    message: Vec<u8>,
    scratch: Vec<u8>,
}

/// Runs the load and prints one line of JSON.
pub fn run(load: &Load) -> io::Result<()> {
    let mut run = Run {
        words: load.names.iter().map(|name| words(name, load)).collect(),
        load,
        poll: Poll::new()?,
        bulk: Bulk::new(),
        tally: Tally::default(),
        opened: 0,
        hopeless: 0,
        answered: 0,
        resting: matches!(load.shape, Shape::Message | Shape::Hold),
        message: vec![b'x'; load.size],
        scratch: vec![0; READ],
    };
    let mut flows = Vec::with_capacity(load.flows);
    let mut ready = Vec::new();
    run.open_all(&mut flows, &mut ready)?;
    if load.shape == Shape::Hold {
        return run.hold(&mut flows, &mut ready);
    }
    if load.shape == Shape::Message {
        run.resting = false;
        for flow in &mut flows {
            flow.begun = Instant::now();
            net::write_all(&flow.socket, &run.message)?;
        }
    }
    run.keep_on(&mut flows, &mut ready, WARM_UP)?;
    // What went wrong while it warmed up went wrong.
    let failed = run.tally.failed;
    run.tally = Tally { failed, ..Tally::default() };
    let meter = Meter::start(load);
    run.keep_on(&mut flows, &mut ready, load.seconds)?;
    println!("{}", meter.report(run.tally));
    Ok(())
}

/// `name` may have a port.
fn words(name: &str, load: &Load) -> Words {
    let bare = name.split(':').next().unwrap_or(name);
    let mut hello = hello(bare, load.shape.order(load.client_closes), load.size);
    if matches!(load.shape, Shape::Message | Shape::Hold) {
        hello.resize(hello.len() + load.size, b'x');
    }
    Words { asks: load.way.asks(name), last: load.way.last(name, hello, load.size) }
}

impl Run<'_> {
    fn open_all(&mut self, flows: &mut Vec<Flow>, ready: &mut Vec<Ready>) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        // A flow of a shape that never rests may be opened anew while others are still missing.
        let rests = self.resting;
        while flows.len() < self.load.flows || (rests && self.answered < flows.len()) {
            let on_the_way = if rests { flows.len() - self.answered } else { 0 };
            if flows.len() < self.load.flows && on_the_way < OPENING {
                let flow = self.open(flows.len())?;
                flows.push(flow);
                continue;
            }
            self.turn(flows, ready, Duration::from_millis(20))?;
            if Instant::now() > until {
                let text = format!("{} of {} flows were answered", self.answered, flows.len());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
        }
        Ok(())
    }

    /// Says that all are there, and waits for the end of stdin.
    fn hold(&mut self, flows: &mut [Flow], ready: &mut Vec<Ready>) -> io::Result<()> {
        println!("{}", json!({ "held": flows.len() }));
        io::stdout().flush()?;
        let (sender, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            let _ = sender.send(());
        });
        while ended.try_recv().is_err() {
            self.turn(flows, ready, Duration::from_millis(50))?;
        }
        println!("{}", json!({ "held": flows.len(), "failed": self.tally.failed }));
        Ok(())
    }

    fn open(&mut self, slot: usize) -> io::Result<Flow> {
        let to = &self.load.to;
        let address: SocketAddrV4 = to[self.opened % to.len()];
        let name = self.opened % self.words.len();
        self.opened += 1;
        let begun = Instant::now();
        let socket = net::dial(address)?;
        let mut flow = Flow { socket, begun, name, stage: Stage::New, got: 0, answered: false };
        if self.load.shape != Shape::Connect {
            net::no_delay(&flow.socket)?;
        }
        let watch = match (self.greet(&mut flow), self.load.shape, flow.stage) {
            (Ok(()), Shape::Up, Stage::Served) => Watch::Source,
            (Ok(()), Shape::Down, Stage::Served) => Watch::Sink,
            (Ok(()), ..) => Watch::Readable,
            // Not through yet, or refused: the first event will say.
            (Err(_), ..) => Watch::Both,
        };
        self.poll.add(&flow.socket, slot, watch)?;
        Ok(flow)
    }

    /// The first bytes.
    fn greet(&mut self, flow: &mut Flow) -> io::Result<()> {
        let words = &self.words[flow.name];
        let asked = match flow.stage {
            Stage::Asked(asked) => asked,
            _ => 0,
        };
        if let Some(ask) = words.asks.get(asked) {
            net::write_all(&flow.socket, &ask.words)?;
            flow.stage = Stage::Asked(asked + 1);
        } else {
            net::write_all(&flow.socket, &words.last)?;
            flow.stage = Stage::Served;
        }
        Ok(())
    }

    fn keep_on(
        &mut self,
        flows: &mut [Flow],
        ready: &mut Vec<Ready>,
        time: Duration,
    ) -> io::Result<()> {
        let started = Instant::now();
        while started.elapsed() < time {
            self.turn(flows, ready, Duration::from_millis(50))?;
        }
        Ok(())
    }

    fn turn(
        &mut self,
        flows: &mut [Flow],
        ready: &mut Vec<Ready>,
        wait: Duration,
    ) -> io::Result<()> {
        self.poll.wait(ready, Some(wait))?;
        let mut over = Vec::new();
        for event in ready.iter() {
            let flow = &mut flows[event.token];
            match self.step(flow, event) {
                Ok(false) => {}
                Ok(true) => {
                    self.hopeless = 0;
                    over.push(event.token);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.tally.failed += 1;
                    self.hopeless += 1;
                    self.answered -= usize::from(flow.answered);
                    if self.hopeless > HOPELESS {
                        return Err(error);
                    }
                    over.push(event.token);
                }
            }
        }
        for slot in over {
            flows[slot] = self.open(slot)?;
        }
        Ok(())
    }

    /// Goes on as far as the socket lets it; `true` when the flow is over as it should be and another takes its place.
    fn step(&mut self, flow: &mut Flow, event: &Ready) -> io::Result<bool> {
        if flow.stage == Stage::New {
            self.greet(flow)?;
            self.settle(flow, event.token)?;
        }
        while let Stage::Asked(asked) = flow.stage {
            self.granted(flow, asked, event)?;
        }
        match self.load.shape {
            Shape::Connect => self.connect(flow, event),
            Shape::Message | Shape::Hold => self.message(flow, event),
            Shape::Down => match self.bulk.discard(&flow.socket)? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    self.answer(flow);
                    self.tally.bytes += n as u64;
                    Ok(false)
                }
            },
            Shape::Up => {
                self.tally.bytes += self.bulk.send(&flow.socket)? as u64;
                self.answer(flow);
                Ok(false)
            }
        }
    }

    fn answer(&mut self, flow: &mut Flow) {
        if !flow.answered {
            flow.answered = true;
            self.answered += 1;
        }
    }

    /// Reads the answer to an ask and goes on. The backend sends nothing before it has the last words.
    fn granted(&mut self, flow: &mut Flow, asked: usize, event: &Ready) -> io::Result<()> {
        let n = net::read(&flow.socket, &mut self.scratch)?;
        if !self.words[flow.name].asks[asked - 1].is_granted_by(&self.scratch[..n]) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.greet(flow)?;
        self.settle(flow, event.token)
    }

    /// What a flow is watched for once its hello is out.
    fn settle(&self, flow: &Flow, token: usize) -> io::Result<()> {
        match (self.load.shape, flow.stage) {
            (Shape::Up, Stage::Served) => self.poll.change(&flow.socket, token, Watch::Source),
            (Shape::Down, Stage::Served) => self.poll.change(&flow.socket, token, Watch::Sink),
            _ => Ok(()),
        }
    }

    fn connect(&mut self, flow: &mut Flow, event: &Ready) -> io::Result<bool> {
        loop {
            let n = net::read(&flow.socket, &mut self.scratch)?;
            if n > 0 && !flow.answered {
                flow.answered = true;
                self.tally.latency(flow.begun);
                if self.load.way == Way::Http && !self.scratch[..n].starts_with(b"HTTP/1.1 200 ") {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
            flow.got += n;
            self.tally.bytes += n as u64;
            // How long a head is when it has been through a proxy is the proxy's affair.
            let whole = match self.load.way {
                Way::Http => n == 0 && flow.got > self.load.size,
                _ => flow.got == self.load.size,
            };
            // The backend's end is either seen with the last bytes or the next event.
            if whole && (self.load.client_closes || n == 0 || event.ended) {
                self.tally.done += 1;
                return Ok(true);
            }
            if n == 0 || (flow.got > self.load.size && self.load.way != Way::Http) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if n < READ && !event.ended {
                return Ok(false);
            }
        }
    }

    fn message(&mut self, flow: &mut Flow, event: &Ready) -> io::Result<bool> {
        loop {
            let n = net::read(&flow.socket, &mut self.scratch)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            flow.got += n;
            self.tally.bytes += n as u64;
            if flow.got >= self.load.size {
                self.answer(flow);
                self.tally.done += 1;
                self.hopeless = 0;
                self.tally.latency(flow.begun);
                flow.got -= self.load.size;
                if !self.resting {
                    flow.begun = Instant::now();
                    net::write_all(&flow.socket, &self.message)?;
                }
            }
            if n < READ && !event.ended {
                return Ok(false);
            }
        }
    }
}
