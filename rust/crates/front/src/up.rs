//! The client's half of a stream: its bytes to the worker, as the worker takes them.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use crate::stream::Broken;

/// The client's bytes to the worker, after the head that stands for its request. Without a tunnel there are none: in
/// HTTP/1.1 what follows a head may be another request.
pub(crate) async fn up(
    stream: &UnixStream,
    head: &[u8],
    mut body: Option<RecvStream>,
    stalls: &Semaphore,
) -> Result<(), Broken> {
    let mut open = pass(stream, head, None, stalls).await?;
    while open
        && let Some(body) = &mut body
        && let Some(chunk) = body.data().await
    {
        let chunk = chunk.map_err(|_| Broken::ByClient)?;
        open = pass(stream, &chunk, Some(body), stalls).await?;
    }
    if open {
        let _ = rustix::net::shutdown(stream, rustix::net::Shutdown::Write);
    }
    Ok(())
}

/// Whether the worker still takes bytes; that it does not is told elsewhere.
type Open = bool;

/// Gives bytes to the worker, those that have come in `body` meanwhile too.
async fn pass(
    stream: &UnixStream,
    bytes: &[u8],
    mut body: Option<&mut RecvStream>,
    stalls: &Semaphore,
) -> Result<Open, Broken> {
    let (written, open) = write(stream, bytes);
    release(&mut body, written);
    if open && written < bytes.len() {
        return stall(stream, &bytes[written..], body, stalls).await;
    }
    Ok(open)
}

/// Lets the client send so many bytes more.
fn release(body: &mut Option<&mut RecvStream>, taken: usize) {
    if let Some(body) = body {
        // It fails only for more than was received.
        let _ = body.flow_control().release_capacity(taken);
    }
}

/// The next bytes of a body, without end if there is none.
async fn next(body: &mut Option<&mut RecvStream>) -> Option<Result<Bytes, h2::Error>> {
    match body {
        Some(body) => body.data().await,
        None => std::future::pending().await,
    }
}

/// Writes what the worker takes at once: how much that was.
fn write(stream: &UnixStream, bytes: &[u8]) -> (usize, Open) {
    let mut written = 0;
    while written < bytes.len() {
        match stream.try_write(&bytes[written..]) {
            Ok(more) => written += more,
            Err(error) => return (written, error.kind() == io::ErrorKind::WouldBlock),
        }
    }
    (written, true)
}

/// Waits until the worker has taken `rest`, and what comes meanwhile. That is put together here and not left in the
/// frames in which it came: one of a single byte takes some hundred, and the window counts one.
async fn stall(
    stream: &UnixStream,
    rest: &[u8],
    mut body: Option<&mut RecvStream>,
    stalls: &Semaphore,
) -> Result<Open, Broken> {
    let Ok(_stalled) = stalls.try_acquire() else {
        return Err(Broken::Here(Reason::ENHANCE_YOUR_CALM));
    };
    let mut held = BytesMut::from(rest);
    let mut ended = false;
    while !held.is_empty() {
        tokio::select! {
            biased;
            ready = stream.writable() => {
                let (written, open) = write(stream, &held);
                if ready.is_err() || !open {
                    return Ok(false);
                }
                held.advance(written);
                release(&mut body, written);
            }
            chunk = next(&mut body), if !ended => match chunk {
                Some(chunk) => held.extend_from_slice(&chunk.map_err(|_| Broken::ByClient)?),
                None => ended = true,
            },
        }
    }
    Ok(true)
}
