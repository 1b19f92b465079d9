//! A ClientHello of the size that curl sends, and the bytes in it that tell the backend what to do.

/// Bytes of a hello, record header included.
pub const HELLO: usize = 517;
/// Where the backend finds its order: in the hello's random (record header 5, handshake header 4, version 2).
const ORDER: usize = 11;

/// What the backend is to do with a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Reply with `size` bytes and close.
    ReplyAndClose,
    /// Reply with `size` bytes and wait for the client's close.
    ReplyAndWait,
    /// Send back each `size` bytes when they are whole.
    Echo,
    /// Send without end.
    Send,
    /// Read without end.
    Discard,
    /// Reply to a plain request with so much content, and close. No hello orders it.
    Respond,
}

const ORDERS: [Order; 5] =
    [Order::ReplyAndClose, Order::ReplyAndWait, Order::Echo, Order::Send, Order::Discard];

/// The hello for one destination; `size` is what the backend is to reply or to echo at a time.
pub fn hello(name: &str, order: Order, size: usize) -> Vec<u8> {
    let mut random = [7u8; 32];
    random[0] = ORDERS.iter().position(|one| *one == order).unwrap_or_default() as u8;
    random[1..5].copy_from_slice(&(size as u32).to_be_bytes());
    let u16s = |n: usize| (n as u16).to_be_bytes();
    let mut sni = Vec::new();
    sni.extend([0, 0]);
    sni.extend(u16s(name.len() + 5));
    sni.extend(u16s(name.len() + 3));
    sni.push(0);
    sni.extend(u16s(name.len()));
    sni.extend(name.as_bytes());
    let versions = [0, 43, 0, 3, 2, 3, 4];
    let mut body = vec![3, 3];
    body.extend(random);
    body.push(32);
    body.extend([9u8; 32]);
    body.extend([0, 2, 0x13, 0x01, 1, 0]);
    // Extensions, filled up with padding (RFC 7685) to the wanted size.
    let head = 5 + 4 + body.len() + 2;
    let padding = HELLO - head - sni.len() - versions.len() - 4;
    body.extend(u16s(sni.len() + versions.len() + 4 + padding));
    body.extend(&sni);
    body.extend(versions);
    body.extend([0, 21]);
    body.extend(u16s(padding));
    body.extend(vec![0; padding]);
    let mut bytes = vec![22, 3, 1];
    bytes.extend(u16s(body.len() + 4));
    bytes.push(1);
    bytes.extend(&(body.len() as u32).to_be_bytes()[1..]);
    bytes.extend(body);
    debug_assert_eq!(bytes.len(), HELLO);
    bytes
}

/// What a hello orders, and the size; nothing when it is not one of ours.
pub fn order(bytes: &[u8]) -> Option<(Order, usize)> {
    let order = *ORDERS.get(usize::from(*bytes.get(ORDER)?))?;
    let size = bytes.get(ORDER + 1..ORDER + 5)?.try_into().ok().map(u32::from_be_bytes)?;
    Some((order, size as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_back() {
        for wanted in ORDERS {
            let bytes = hello("one.bench.example", wanted, 4096);
            assert_eq!(bytes.len(), HELLO);
            assert_eq!(order(&bytes), Some((wanted, 4096)));
        }
        assert_eq!(order(&[22; HELLO]), None);
        assert_eq!(order(&[]), None);
    }
}
