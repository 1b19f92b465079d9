//! What is known of a client from the PROXY header of a proxy in front.

use std::net::SocketAddr;
use std::sync::Arc;

/// What a header says besides the client's address. All streams of a connection share it.
#[derive(Debug, Clone)]
pub struct Introduced {
    /// Who sent it: the other end of the socket.
    pub by: SocketAddr,
    /// What the client had connected to; `None` where the proxy speaks for itself.
    pub destination: Option<SocketAddr>,
    /// The TLV that names the client.
    pub tlv: Option<Arc<[u8]>>,
}
