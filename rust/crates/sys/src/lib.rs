//! The unsafe ground, kept small: shared memory and the adoption of descriptors. Everything else here is a thin, safe
//! wrapper that gives a system call the name that the gateway uses for it.

mod channel;
mod cpus;
mod datagram;
mod pipe;
mod shm;
mod socket;
mod udp;

pub use channel::{Channel, MAX_DESCRIPTORS, MAX_MESSAGE, Received};
pub use cpus::{allowed_cpus, descriptor_limit, pin_thread, raise_descriptor_limit};
pub use datagram::{Datagram, Unreachable, captured_datagrams, receive};
pub use pipe::{PIPE_SIZE, Pipe};
pub use shm::{SealedMap, SharedMemory, seal};
pub use socket::{
    BACKLOG, Listening, abort_on_close, accept, connect_error, keepalive, listen, local_address,
    local_addresses, original_destination, recv, send, send_last, stream_socket,
};
pub use udp::{Arrived, answer_datagram, bind_both, receive_datagram};
