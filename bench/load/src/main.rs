//! Load generator and backend: `egress-load serve|connect|message|bulk|hold …`, one thread, one JSON line of results.
//!
//! A flow begins with a ClientHello that names one of the given destinations, as a TLS client's does; what follows is
//! opaque to a gateway that passes TLS through, so both ends skip the handshake and keep their CPU for load.

mod backend;
mod client;
mod hello;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

/// What a run does to its flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Connect, hello, read a small reply until its end, again.
    Connect,
    /// Ping-pong of `size` bytes on held flows.
    Message,
    /// The backend sends without end.
    Down,
    /// The client sends without end.
    Up,
    /// Held open, silent.
    Hold,
}

#[derive(Debug, Clone)]
pub struct Load {
    pub shape: Shape,
    pub target: SocketAddr,
    pub names: Vec<String>,
    pub flows: usize,
    pub size: usize,
    pub seconds: Duration,
}

fn usage() -> ExitCode {
    eprintln!("usage: egress-load serve ADDRESS\n       egress-load connect|message|down|up|hold ADDRESS NAMES FLOWS SIZE SECONDS");
    ExitCode::from(2)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["serve", address] => match address.parse() {
            Ok(address) => backend::serve(address),
            Err(_) => return usage(),
        },
        [shape, address, names, flows, size, seconds] => {
            let shape = match *shape {
                "connect" => Shape::Connect,
                "message" => Shape::Message,
                "down" => Shape::Down,
                "up" => Shape::Up,
                "hold" => Shape::Hold,
                _ => return usage(),
            };
            let (Ok(target), Ok(flows), Ok(size), Ok(seconds)) =
                (address.parse(), flows.parse(), size.parse(), seconds.parse::<f64>())
            else {
                return usage();
            };
            let names = names.split(',').map(str::to_owned).collect();
            client::run(&Load { shape, target, names, flows, size, seconds: Duration::from_secs_f64(seconds) })
        }
        _ => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("egress-load: {error}");
            ExitCode::FAILURE
        }
    }
}
