//! The front's thread: connections taken from workers, bounded in number, each as a task.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::http2::{self, STREAM_WINDOW};
use crate::pair::{self, FrontEnd};
use crate::prefixed::Prefixed;
use crate::tls::{self, ServerTls};
use crate::turns::in_turns;
use crate::{Adopted, Introduced, Loss, Lost, Workers, plain};

/// Connections at a time: beyond it a worker turns them away.
const MAX_CONNECTIONS: usize = 8192;
/// Streams at a time, over all connections: with what may wait to be sent on each (64 KiB), 1 GiB.
const MAX_STREAMS: usize = 16_384;
/// Steps of TLS handshakes that are taken before all other tasks get their turn: one takes up to a millisecond.
const HANDSHAKE_TURNS: usize = 8;
/// The longest time that is waited for anything: what a policy says may be too far away for a clock to count.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// Bytes that streams whose worker takes nothing may hold in their receive windows.
const MAX_STALLED_BYTES: usize = 256 << 20;

/// What of the settings the front goes by; replaced whole.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// In the order of the settings.
    pub listeners: Vec<ListenerTerms>,
    /// From accept until the client has named its destination.
    pub first_bytes: Duration,
    /// A connection without a stream is closed after this.
    pub idle: Duration,
}

/// One listener, as the front sees it.
#[derive(Debug, Clone, Default)]
pub struct ListenerTerms {
    pub tls: Option<ServerTls>,
}

/// A connection that a worker gives away.
#[derive(Debug)]
pub struct Taken {
    pub fd: OwnedFd,
    pub source: SocketAddr,
    pub introduced: Option<Introduced>,
    pub listener: usize,
    /// The worker that accepted it.
    pub worker: usize,
    /// It begins with TLS, and else is HTTP/2.
    pub tls: bool,
    /// What was read of it already.
    pub first_bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Serving,
    Draining,
    Stopping,
}

#[derive(Debug)]
struct Shared {
    /// Connections that were taken and have not ended.
    live: AtomicUsize,
    terms: watch::Sender<Arc<Terms>>,
    stage: watch::Sender<Stage>,
}

/// The way to the front, for workers and the gateway.
#[derive(Debug, Clone)]
pub struct Handle {
    sender: mpsc::Sender<(Taken, Place)>,
    shared: Arc<Shared>,
}

/// A connection's place among those that may be, given back when dropped.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    /// Who is told when it was the last; nobody while the connection is on its way to the front.
    workers: Option<Arc<dyn Workers>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.shared.live.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(workers) = &self.workers
        {
            workers.idle();
        }
    }
}

impl Handle {
    /// Gives a connection to the front; never waits.
    ///
    /// # Errors
    /// The connection itself, when the front has no room for it.
    pub fn take(&self, taken: Taken) -> Result<(), Box<Taken>> {
        let before = self.shared.live.fetch_add(1, Ordering::AcqRel);
        let place = Place { shared: Arc::clone(&self.shared), workers: None };
        if before >= MAX_CONNECTIONS {
            return Err(Box::new(taken));
        }
        self.sender.try_send((taken, place)).map_err(|error| Box::new(error.into_inner().0))
    }

    /// Whether nothing that was taken may still become a client of a worker's.
    pub fn is_idle(&self) -> bool {
        self.shared.live.load(Ordering::Acquire) == 0
    }

    /// What holds now.
    pub fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.shared.terms.borrow())
    }

    /// What holds from now on, for new handshakes and streams.
    pub fn configure(&self, terms: Terms) {
        self.shared.terms.send_replace(Arc::new(terms));
    }

    /// No new streams on the connections that there are; they end with their last one.
    pub fn drain(&self) {
        self.shared.stage.send_if_modified(|stage| {
            let serving = *stage == Stage::Serving;
            if serving {
                *stage = Stage::Draining;
            }
            serving
        });
    }

    /// All connections end now.
    pub fn stop(&self) {
        self.shared.stage.send_replace(Stage::Stopping);
    }
}

/// Whom a connection comes from.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    source: SocketAddr,
    local: Option<SocketAddr>,
    introduced: Option<Introduced>,
    listener: usize,
    worker: usize,
    spiffe: Option<Arc<str>>,
    /// When it was taken.
    since: Instant,
}

impl Client {
    /// Until when it has to have asked for something.
    pub(crate) fn deadline(&self, terms: &Terms) -> Instant {
        self.since + terms.first_bytes.min(LONGEST)
    }
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Front {
    shared: Arc<Shared>,
    workers: Arc<dyn Workers>,
    /// The worker that gets the next stream: one connection may carry the flows of many clients.
    next: AtomicUsize,
    /// Turns of handshakes.
    handshakes: Semaphore,
    streams: Arc<Semaphore>,
    /// Streams whose worker takes nothing at the moment.
    pub(crate) stalls: Arc<Semaphore>,
}

/// Tells when the drain begins.
pub(crate) struct Drain(watch::Receiver<Stage>);

impl Drain {
    pub(crate) async fn begun(&mut self) {
        // The sender lives as long as the front.
        let _ = self.0.wait_for(|stage| *stage != Stage::Serving).await;
    }
}

impl Front {
    pub(crate) fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.shared.terms.borrow())
    }

    pub(crate) fn draining(&self) -> Drain {
        Drain(self.shared.stage.subscribe())
    }

    pub(crate) fn lost(&self, client: &Client, why: Loss) {
        let Client { source, listener, worker, ref introduced, since, .. } = *client;
        let (introduced, lasted) = (introduced.clone(), since.elapsed());
        self.workers.lost(worker, Lost { source, introduced, listener, lasted, why });
    }

    /// Room for one more stream, if its connection has some and the front has.
    pub(crate) fn room_for_stream(&self, in_connection: bool) -> Option<OwnedSemaphorePermit> {
        in_connection.then(|| Arc::clone(&self.streams).try_acquire_owned().ok()).flatten()
    }

    /// A new client for a worker; `None` when there is no descriptor or no worker for it.
    pub(crate) fn adopted(&self, client: &Client, http2: bool) -> Option<(FrontEnd, UnixStream)> {
        let ((fd, end), ours) = pair::open().ok()?;
        let worker = if http2 {
            self.next.fetch_add(1, Ordering::Relaxed) % self.workers.count()
        } else {
            client.worker
        };
        let Client { source, local, listener, ref introduced, ref spiffe, .. } = *client;
        let (introduced, spiffe) = (introduced.clone(), spiffe.clone());
        let adopted = Adopted { fd, end, source, local, introduced, listener, http2, spiffe };
        self.workers.adopt(worker, adopted).then_some(ours)
    }

    async fn serve(self: Arc<Self>, taken: Taken) {
        let Taken { fd, source, introduced, listener, worker, tls, first_bytes } = taken;
        let local = egress_sys::local_address(fd.as_fd()).ok();
        let since = Instant::now();
        let client = Client { source, local, introduced, listener, worker, spiffe: None, since };
        let Ok(stream) = TcpStream::from_std(fd.into()) else {
            return self.lost(&client, Loss::NoRoom);
        };
        egress_sys::keepalive(stream.as_fd());
        let io = Prefixed::new(Bytes::from(first_bytes), stream);
        if tls {
            self.serve_tls(client, io).await;
        } else {
            http2::serve(&self, client, io).await;
        }
    }

    async fn serve_tls(self: &Arc<Self>, mut client: Client, stream: Prefixed<TcpStream>) {
        let terms = self.terms();
        let tls = terms.listeners.get(client.listener).and_then(|listener| listener.tls.clone());
        // A policy cannot take TLS from a listener while the gateway runs.
        let Some(tls) = tls else { return self.lost(&client, Loss::NotAccepted) };
        let shaken = in_turns(&self.handshakes, TlsAcceptor::from(tls.0).accept(stream));
        let stream = match timeout_at(client.deadline(&terms), shaken).await {
            Err(_) => return self.lost(&client, Loss::Late),
            Ok(Err(error)) => return self.lost(&client, tls::loss(&error)),
            Ok(Ok(stream)) => stream,
        };
        let session = stream.get_ref().1;
        client.spiffe = tls::spiffe_id(session.peer_certificates());
        if session.alpn_protocol() == Some(b"h2") {
            return http2::serve(self, client, stream).await;
        }
        match self.adopted(&client, false) {
            Some((front, worker)) => plain::carry(stream, front, worker).await,
            None => self.lost(&client, Loss::NoRoom),
        }
    }
}

/// Starts the front's thread.
///
/// # Errors
/// What the operating system refused.
pub fn start(workers: Arc<dyn Workers>, terms: Terms) -> io::Result<(Handle, JoinHandle<()>)> {
    let (sender, receiver) = mpsc::channel(MAX_CONNECTIONS);
    let shared = Arc::new(Shared {
        live: AtomicUsize::new(0),
        terms: watch::Sender::new(Arc::new(terms)),
        stage: watch::Sender::new(Stage::Serving),
    });
    let front = Arc::new(Front {
        shared: Arc::clone(&shared),
        workers,
        next: AtomicUsize::new(0),
        handshakes: Semaphore::new(HANDSHAKE_TURNS),
        streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        stalls: Arc::new(Semaphore::new(MAX_STALLED_BYTES / STREAM_WINDOW as usize)),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new()
        .name("front".to_owned())
        .spawn(move || runtime.block_on(run(front, receiver)))?;
    Ok((Handle { sender, shared }, thread))
}

/// Until told to stop, or until nobody is left who could give a connection. Tasks end with the runtime.
async fn run(front: Arc<Front>, mut receiver: mpsc::Receiver<(Taken, Place)>) {
    let mut stage = front.shared.stage.subscribe();
    loop {
        tokio::select! {
            biased;
            _ = stage.wait_for(|stage| *stage == Stage::Stopping) => return,
            taken = receiver.recv() => {
                let Some((taken, mut place)) = taken else { return };
                place.workers = Some(Arc::clone(&front.workers));
                let front = Arc::clone(&front);
                tokio::spawn(async move {
                    front.serve(taken).await;
                    drop(place);
                });
            }
        }
    }
}
