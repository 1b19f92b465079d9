//! One HTTP/2 stream: a request handed to a worker, its answer, and, in a tunnel, bytes both ways under flow control.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::answer;
use crate::pair::FrontEnd;
use crate::request::head_of;
use crate::up::up;

/// Bytes read from a worker at once, and held while the client's window is closed: at first, and of a stream of many.
const FIRST_CHUNK: usize = 2 * 1024;
const CHUNK: usize = 32 * 1024;
/// How long a client may take for the last bytes after its worker has closed.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// Why a stream stops before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The client has reset the stream, or the connection is gone.
    ByClient,
    /// The worker has broken off, or nothing was served: the client is told by a reset for this reason.
    Here(Reason),
}

/// The client's side of the answer: nothing sent yet, or its body.
enum Out {
    Request(SendResponse<Bytes>),
    Body(SendStream<Bytes>),
}

impl Out {
    fn reset(&mut self, reason: Reason) {
        match self {
            Self::Request(respond) => respond.send_reset(reason),
            Self::Body(body) => body.send_reset(reason),
        }
    }

    /// Comes back when the client has reset the stream.
    async fn reset_by_client(&mut self) -> Broken {
        // Either way the client is gone: an error is one of the connection.
        let _ = match self {
            Self::Request(respond) => poll_fn(|cx| respond.poll_reset(cx)).await,
            Self::Body(body) => poll_fn(|cx| body.poll_reset(cx)).await,
        };
        Broken::ByClient
    }

    fn answer(&mut self, answer: Response<()>) -> Result<(), Broken> {
        if let Self::Request(respond) = self {
            let body = respond.send_response(answer, false).map_err(|_| Broken::ByClient)?;
            *self = Self::Body(body);
        }
        Ok(())
    }

    /// Sends as the client's windows allow.
    async fn send(&mut self, mut bytes: Bytes) -> Result<(), Broken> {
        let Self::Body(body) = self else { return Ok(()) };
        while !bytes.is_empty() {
            body.reserve_capacity(bytes.len());
            while body.capacity() == 0 {
                match poll_fn(|cx| body.poll_capacity(cx)).await {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Err(Broken::ByClient),
                }
            }
            let part = bytes.split_to(bytes.len().min(body.capacity()));
            body.send_data(part, false).map_err(|_| Broken::ByClient)?;
        }
        // What is reserved and not used would be taken from the other streams of the connection.
        body.reserve_capacity(0);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Broken> {
        let Self::Body(body) = self else { return Ok(()) };
        body.send_data(Bytes::new(), true).map_err(|_| Broken::ByClient)
    }
}

/// Serves a stream until its end. `open` hands a new client to a worker; `stalls` bounds the streams of the whole front
/// whose worker takes nothing: each of them may fill its receive window.
pub(crate) async fn serve(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    open: impl FnOnce() -> Option<(FrontEnd, UnixStream)>,
    stalls: Arc<Semaphore>,
) {
    let (parts, body) = request.into_parts();
    let mut out = Out::Request(respond);
    let head = match head_of(&parts) {
        Ok(head) => head,
        Err(status) => {
            let mut answer = Response::new(());
            *answer.status_mut() = status;
            let _ = out.answer(answer).and_then(|()| out.end());
            return;
        }
    };
    let tunnel = parts.method == Method::CONNECT;
    drop(parts);
    // Safe to try again, elsewhere or later (RFC 9113, section 8.7): nobody has looked at the request.
    let Some((mut front, stream)) = open() else { return out.reset(Reason::REFUSED_STREAM) };
    match carry(&mut out, &front, &stream, &head, tunnel.then_some(body), &stalls).await {
        Ok(()) => front.ended_in_order(),
        // Dropping the front's end tells the worker.
        Err(Broken::ByClient) => {}
        Err(Broken::Here(_)) if front.turned_away() => out.reset(Reason::REFUSED_STREAM),
        Err(Broken::Here(reason)) => out.reset(reason),
    }
    // Before the socket: the worker asks what kind of end it was when it has seen the end.
    drop(front);
    drop(stream);
}

async fn carry(
    out: &mut Out,
    front: &FrontEnd,
    stream: &UnixStream,
    head: &[u8],
    body: Option<RecvStream>,
    stalls: &Semaphore,
) -> Result<(), Broken> {
    let mut up = pin!(up(stream, head, body, stalls));
    let mut over = pin!(front.over());
    let mut last_words = pin!(sleep(LAST_WORDS));
    let (mut up_done, mut closed) = (false, false);
    {
        let mut down = pin!(down(out, front, stream));
        loop {
            tokio::select! {
                biased;
                cut = &mut over, if !closed => {
                    tell(cut)?;
                    closed = true;
                    last_words.as_mut().reset(Instant::now() + LAST_WORDS);
                }
                () = &mut last_words, if closed => return Err(Broken::Here(Reason::CANCEL)),
                done = &mut up, if !up_done => {
                    done?;
                    up_done = true;
                }
                tunnel = &mut down => {
                    if !tunnel? {
                        return Ok(());
                    }
                    break;
                }
            }
        }
    }
    // The destination has ended, and the client may still have something to say.
    while !(up_done || closed) {
        tokio::select! {
            biased;
            cut = &mut over => {
                tell(cut)?;
                closed = true;
            }
            done = &mut up => {
                done?;
                up_done = true;
            }
            gone = out.reset_by_client() => return Err(gone),
        }
    }
    Ok(())
}

/// A worker that broke off says what its client is to be told: a reset (RFC 9113, section 8.5).
fn tell(cut: bool) -> Result<(), Broken> {
    if cut { Err(Broken::Here(Reason::CONNECT_ERROR)) } else { Ok(()) }
}

/// The worker's answer and what follows it to the client; `false` when the answer was a refusal.
async fn down(out: &mut Out, front: &FrontEnd, stream: &UnixStream) -> Result<bool, Broken> {
    let mut reader = Reader { stream, want: FIRST_CHUNK };
    let mut head = BytesMut::new();
    let (answer, len) = loop {
        let Some(bytes) = reader.read(out).await? else {
            tell(front.worker_cut())?;
            // A worker that has ended before it took the stream.
            return Err(Broken::Here(Reason::REFUSED_STREAM));
        };
        head.extend_from_slice(&bytes);
        match answer::read(&head) {
            Ok(Some(found)) => break found,
            Ok(None) => {}
            Err(answer::NotHttp) => return Err(Broken::Here(Reason::INTERNAL_ERROR)),
        }
    };
    let tunnel = answer.status().is_success();
    out.answer(answer)?;
    out.send(head.split_off(len).freeze()).await?;
    drop(head);
    while let Some(bytes) = reader.read(out).await? {
        out.send(bytes).await?;
    }
    tell(front.worker_cut())?;
    out.end()?;
    Ok(tunnel)
}

struct Reader<'a> {
    stream: &'a UnixStream,
    /// Bytes asked for at once: few as long as few come.
    want: usize,
}

impl Reader<'_> {
    /// What the worker sends next; `None` at its end. Nothing is held while nothing comes.
    async fn read(&mut self, out: &mut Out) -> Result<Option<Bytes>, Broken> {
        loop {
            tokio::select! {
                biased;
                gone = out.reset_by_client() => return Err(gone),
                ready = self.stream.readable() => {
                    if ready.is_err() {
                        return Ok(None);
                    }
                }
            }
            let mut buffer = BytesMut::with_capacity(self.want);
            match self.stream.try_read_buf(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(read) => {
                    self.want = if read >= self.want {
                        (self.want * 4).min(CHUNK)
                    } else if read < self.want / 8 {
                        FIRST_CHUNK
                    } else {
                        self.want
                    };
                    return Ok(Some(buffer.freeze()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A worker that closes with bytes of the client's unread; whether that is a reset it says itself.
                Err(_) => return Ok(None),
            }
        }
    }
}
