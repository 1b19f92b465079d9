//! The backend: does what the hello of each connection orders.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::hello::{HELLO, order};

const LISTENER: Token = Token(usize::MAX);
/// Bytes moved per system call of a bulk flow.
const BULK: usize = 256 * 1024;

struct Flow {
    stream: TcpStream,
    hello: Vec<u8>,
    kind: u8,
    size: usize,
    /// Bytes of the present message read but not echoed.
    owed: usize,
}

/// Serves until it is killed.
pub fn serve(address: SocketAddr) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(address)?;
    println!("{}", listener.local_addr()?);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut flows: Vec<Option<Flow>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Events::with_capacity(1024);
    let mut scratch = vec![0; BULK];
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let slot = free.pop().unwrap_or_else(|| {
                        flows.push(None);
                        flows.len() - 1
                    });
                    poll.registry().register(&mut stream, Token(slot), Interest::READABLE | Interest::WRITABLE)?;
                    flows[slot] = Some(Flow { stream, hello: Vec::new(), kind: 0, size: 0, owed: 0 });
                }
                continue;
            }
            let slot = event.token().0;
            if let Some(flow) = &mut flows[slot]
                && !matches!(step(flow, &mut scratch), Ok(true))
            {
                flows[slot] = None;
                free.push(slot);
            }
        }
    }
}

/// Goes on as far as the sockets let it; `false` when the flow is over.
fn step(flow: &mut Flow, scratch: &mut [u8]) -> io::Result<bool> {
    let would_block = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    while flow.kind == 0 {
        let want = HELLO - flow.hello.len();
        match flow.stream.read(&mut scratch[..want]) {
            Ok(0) => return Ok(false),
            Ok(n) => flow.hello.extend_from_slice(&scratch[..n]),
            Err(error) if would_block(&error) => return Ok(true),
            Err(error) => return Err(error),
        }
        if flow.hello.len() == HELLO {
            (flow.kind, flow.size) = order(&flow.hello);
            flow.hello = Vec::new();
        }
    }
    match flow.kind {
        1 => {
            flow.stream.write_all(&scratch[..flow.size])?;
            Ok(false)
        }
        3 => loop {
            match flow.stream.write(scratch) {
                Ok(_) => {}
                Err(error) if would_block(&error) => return Ok(true),
                Err(error) => return Err(error),
            }
        },
        kind => loop {
            match flow.stream.read(scratch) {
                Ok(0) => return Ok(false),
                Ok(n) if kind == 2 => {
                    flow.owed += n;
                    while flow.owed >= flow.size {
                        flow.stream.write_all(&scratch[..flow.size])?;
                        flow.owed -= flow.size;
                    }
                }
                Ok(_) => {}
                Err(error) if would_block(&error) => return Ok(true),
                Err(error) => return Err(error),
            }
        },
    }
}
