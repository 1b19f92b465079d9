//! How an SSH client is turned away before any key is agreed on (RFC 4253).

/// Whose fault it is, as a code of the message (§11.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disconnect {
    /// The client may not go there.
    HostNotAllowed = 1,
    /// The destination cannot be had.
    ServiceNotAvailable = 7,
    /// There are too many of them.
    TooManyConnections = 12,
}

/// An identification string without which no client reads on (§4.2).
const IDENTIFICATION: &[u8] = b"SSH-2.0-egress\r\n";
/// SSH_MSG_DISCONNECT.
const DISCONNECT: u8 = 1;
/// Longest description in bytes: every client takes a packet of 35,000 (§6.1), and nobody reads more than this.
pub const MAX_DESCRIPTION: usize = 4096;
/// What a packet's length is a multiple of, and the least padding, as long as there is no cipher (§6).
const BLOCK: usize = 8;
const LEAST_PADDING: usize = 4;
/// Length of the packet and of the padding.
const HEADER: usize = 5;

/// All that such a client is sent: an identification, then why, which it prints. A description that is too long is cut
/// between two characters.
pub fn disconnect(reason: Disconnect, description: &str) -> Vec<u8> {
    let mut end = description.len().min(MAX_DESCRIPTION);
    while !description.is_char_boundary(end) {
        end -= 1;
    }
    let description = &description[..end];
    let mut payload = vec![DISCONNECT];
    payload.extend((reason as u32).to_be_bytes());
    put_text(&mut payload, description);
    // No language.
    put_text(&mut payload, "");
    let unpadded = HEADER + payload.len();
    let padding = (unpadded + LEAST_PADDING).next_multiple_of(BLOCK) - unpadded;
    let length = u32::try_from(unpadded + padding - 4).unwrap_or(u32::MAX);
    let padding_length = u8::try_from(padding).unwrap_or(u8::MAX);
    let mut told = IDENTIFICATION.to_vec();
    told.extend(length.to_be_bytes());
    told.push(padding_length);
    told.extend(payload);
    told.resize(told.len() + padding, 0);
    told
}

/// A string (RFC 4251 §5).
fn put_text(into: &mut Vec<u8>, text: &str) {
    into.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    into.extend(text.as_bytes());
}
