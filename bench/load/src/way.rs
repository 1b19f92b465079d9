//! How a flow names its destination: what is sent, and which answer has to come before the next.

/// A source and a destination for PROXY headers: addresses of documentation (RFC 5737).
const PROXIED: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 7, 0xc3, 0x50, 0x01, 0xbb];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By the hello alone.
    Sni,
    /// CONNECT, then the hello.
    Connect,
    /// SOCKS5 without a login (RFC 1928), then the hello.
    Socks5,
    /// A PROXY header of version 2 and the hello in one segment.
    ProxyHeader,
    /// A plain request to a proxy, absolute form (RFC 9112, section 3.2.2).
    Http,
}

impl Way {
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "sni" => Self::Sni,
            "connect" => Self::Connect,
            "socks5" => Self::Socks5,
            "proxy-header" => Self::ProxyHeader,
            "http" => Self::Http,
            _ => return None,
        })
    }

    /// What is asked before the last words; `name` may have a port.
    pub fn asks(self, name: &str) -> Vec<Ask> {
        let (host, port) = name.split_once(':').unwrap_or((name, "443"));
        match self {
            Self::Sni | Self::ProxyHeader | Self::Http => Vec::new(),
            Self::Connect => {
                let head = format!("CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n\r\n");
                vec![Ask { words: head.into_bytes(), answer: Answer::Http }]
            }
            Self::Socks5 => {
                let mut request = vec![5, 1, 0, 3, host.len() as u8];
                request.extend(host.as_bytes());
                request.extend(port.parse().unwrap_or(443u16).to_be_bytes());
                vec![
                    Ask { words: vec![5, 1, 0], answer: Answer::Bytes(2) },
                    Ask { words: request, answer: Answer::Bytes(10) },
                ]
            }
        }
    }

    /// The last words, which go on to the backend. `size` is what it is to reply.
    pub fn last(self, name: &str, hello: Vec<u8>, size: usize) -> Vec<u8> {
        match self {
            Self::ProxyHeader => {
                let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
                bytes.extend(PROXIED);
                bytes.extend(hello);
                bytes
            }
            Self::Http => format!(
                "GET http://{name}/{size} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: egress-load\r\n\
                 Accept: */*\r\nConnection: close\r\n\r\n"
            )
            .into_bytes(),
            _ => hello,
        }
    }
}

/// One exchange with the proxy itself.
#[derive(Debug)]
pub struct Ask {
    pub words: Vec<u8>,
    answer: Answer,
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    /// A head with status 200 and no body.
    Http,
    /// So many bytes, the second of which is 0.
    Bytes(usize),
}

impl Ask {
    /// Proxies write an answer at once; one that came in parts would show up as a failure.
    pub fn is_granted_by(&self, answer: &[u8]) -> bool {
        match self.answer {
            Answer::Http => {
                answer.starts_with(b"HTTP/1.")
                    && answer.ends_with(b"\r\n\r\n")
                    && answer.get(9..12) == Some(b"200".as_slice())
            }
            Answer::Bytes(n) => answer.len() == n && answer[0] == 5 && answer[1] == 0,
        }
    }
}

/// The size that a request for `/SIZE` orders; nothing until its head is whole.
pub fn size_of_request(bytes: &[u8]) -> Option<usize> {
    let line =
        bytes.ends_with(b"\r\n\r\n").then(|| bytes.split(|byte| *byte == b'\r').next())??;
    let target = line.split(|byte| *byte == b' ').nth(1)?;
    let digits = target.rsplit(|byte| *byte == b'/').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What the backend replies to a request.
pub fn response(size: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n");
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + size, b'x');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_orders_its_reply() {
        for name in ["one.example", "127.0.0.1:8080"] {
            let request = Way::Http.last(name, Vec::new(), 512);
            assert_eq!(size_of_request(&request), Some(512));
            assert_eq!(size_of_request(&request[..request.len() - 1]), None);
        }
        assert_eq!(size_of_request(b"GET /64 HTTP/1.1\r\nHost: a\r\n\r\n"), Some(64));
        assert_eq!(size_of_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), None);
    }

    #[test]
    fn an_answer_grants_or_does_not() {
        let connect = &Way::Connect.asks("one.example:443")[0];
        assert!(connect.is_granted_by(b"HTTP/1.1 200 OK\r\n\r\n"));
        assert!(!connect.is_granted_by(b"HTTP/1.1 403 Forbidden\r\n\r\n"));
        assert!(!connect.is_granted_by(b"HTTP/1.1 200 OK\r\n"));
        let socks = Way::Socks5.asks("one.example:443");
        assert!(socks[0].is_granted_by(&[5, 0]));
        assert!(!socks[0].is_granted_by(&[5, 0xff]));
        assert!(socks[1].is_granted_by(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]));
        assert!(!socks[1].is_granted_by(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]));
    }
}
