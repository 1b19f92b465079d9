//! An HTTP/2 connection: bounds on all that a client may open, and each of its streams as a task.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, Connection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::Loss;
use crate::server::{Client, Front, LONGEST};
use crate::stream;

/// Streams of one connection at a time.
const MAX_STREAMS: u32 = 100;
/// Streams of one connection that are being served or cleaned up: one that its client has reset is not gone at once.
const MAX_TASKS: usize = 2 * MAX_STREAMS as usize;
/// Bytes that a client may send ahead on one stream. Clients are near; over 1 ms of round trip it is 256 MB/s.
pub(crate) const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for a connection: as much as all of its streams, so that none that stands still holds up another.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS;
/// Bytes of one stream that wait to be sent because the connection takes nothing.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of one header section: what a head may have in HTTP/1.1.
const MAX_HEADER: u32 = 16 * 1024;
/// Streams that a client may open and reset before they were looked at, and malformed ones that are answered with a reset,
/// before the connection is closed (CVE-2023-44487 and its like).
const MAX_RESETS: usize = 50;
/// How long a client may take to go after GOAWAY, with no stream open, and streams to end after their connection has.
const LEAVE: Duration = Duration::from_secs(5);

fn settings() -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEADER)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(Some(MAX_RESETS))
        .max_concurrent_reset_streams(MAX_RESETS);
    builder
}

/// Serves a connection until its end, with a record if it comes to nothing before the first stream.
pub(crate) async fn serve<S>(front: &Arc<Front>, client: Client, io: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match timeout_at(client.deadline(&front.terms()), settings().handshake(io)).await {
        Err(_) => front.lost(&client, Loss::Late),
        Ok(Err(error)) => front.lost(&client, loss(&error)),
        Ok(Ok(connection)) => {
            let mut streams = JoinSet::new();
            if let Some(loss) = accept(front, &client, connection, &mut streams).await {
                front.lost(&client, loss);
            }
            // What has come before the connection's end is still delivered; then streams end as cut.
            let _ = timeout(LEAVE, async { while streams.join_next().await.is_some() {} }).await;
        }
    }
}

fn loss(error: &h2::Error) -> Loss {
    if error.is_io() { Loss::Left } else { Loss::Malformed("http2_frames") }
}

/// Takes streams until the connection's end; a loss when the client broke the protocol's rules.
async fn accept<S>(
    front: &Arc<Front>,
    client: &Client,
    mut connection: Connection<S, Bytes>,
    streams: &mut JoinSet<()>,
) -> Option<Loss>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut draining = front.draining();
    let mut leaving = false;
    let mut asked = false;
    let mut alone_since = Instant::now();
    loop {
        let deadline = match (leaving, asked) {
            (true, _) => alone_since + LEAVE,
            (_, true) => alone_since + front.terms().idle.min(LONGEST),
            _ => client.deadline(&front.terms()),
        };
        tokio::select! {
            accepted = connection.accept() => match accepted {
                None => return None,
                Some(Err(error)) if error.is_library() && !error.is_io() => return Some(loss(&error)),
                Some(Err(_)) => return None,
                Some(Ok((request, mut respond))) => match front.room_for_stream(streams.len() < MAX_TASKS) {
                    None => respond.send_reset(Reason::REFUSED_STREAM),
                    Some(room) => {
                        asked = true;
                        let (front, client) = (Arc::clone(front), client.clone());
                        streams.spawn(async move {
                            let open = || front.adopted(&client, true);
                            stream::serve(request, respond, open, Arc::clone(&front.stalls)).await;
                            drop(room);
                        });
                    }
                },
            },
            Some(_) = streams.join_next(), if !streams.is_empty() => alone_since = Instant::now(),
            () = draining.begun(), if !leaving => {
                leaving = true;
                alone_since = Instant::now();
                connection.graceful_shutdown();
            }
            () = sleep_until(deadline), if streams.is_empty() => {
                if leaving {
                    return None;
                }
                if !asked {
                    return Some(Loss::Late);
                }
                leaving = true;
                alone_since = Instant::now();
                connection.graceful_shutdown();
            }
        }
    }
}
