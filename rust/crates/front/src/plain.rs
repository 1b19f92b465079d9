//! What is inside TLS, carried as it is between client and worker.

use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::pair::FrontEnd;
use crate::prefixed::Prefixed;

/// Bytes of each direction's buffer: a TLS record.
const BUFFER: usize = 16 * 1024;
/// How long a client may take to read the last bytes and to close once its worker has.
const LINGER: Duration = Duration::from_secs(30);

/// A client that closes without close_notify has ended too: what it carries has an end of its own, or is TLS again.
struct Lenient(TlsStream<Prefixed<TcpStream>>);

impl AsyncRead for Lenient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(match ready!(Pin::new(&mut self.0).poll_read(cx, buf)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            other => other,
        })
    }
}

impl AsyncWrite for Lenient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A worker whose end of the bytes is an error when it was a reset.
struct Told<'a> {
    stream: &'a mut UnixStream,
    front: &'a FrontEnd,
}

impl AsyncRead for Told<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut *self.stream).poll_read(cx, buf));
        if buf.filled().len() == before && self.front.worker_cut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Told<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

/// Carries bytes until both have ended, or one has broken off: then the other is told so.
pub(crate) async fn carry(
    tls: TlsStream<Prefixed<TcpStream>>,
    mut front: FrontEnd,
    mut worker: UnixStream,
) {
    let mut tls = Lenient(tls);
    let broken = {
        let mut told = Told { stream: &mut worker, front: &front };
        let copy = copy_bidirectional_with_sizes(&mut tls, &mut told, BUFFER, BUFFER);
        let mut copy = pin!(copy);
        tokio::select! {
            copied = &mut copy => copied.is_err(),
            // The worker's last bytes are still to be delivered, and the client's close to be awaited. Half of them is no
            // end in order.
            cut = front.over() => cut || !matches!(timeout(LINGER, copy).await, Ok(Ok(_))),
        }
    };
    if broken {
        egress_sys::abort_on_close(tls.0.get_ref().0.as_fd());
    } else {
        front.ended_in_order();
    }
    drop(front);
    drop(worker);
}
