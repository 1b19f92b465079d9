//! What the gateway says to a SOCKS client.
use std::net::{IpAddr, SocketAddr};

use super::{
    VERSION,
    greeting::{NO_AUTH, PASSWORD},
    login::LOGIN_VERSION,
    request::{IPV4, IPV6},
};

/// Most bytes of a reply: four fixed ones, an IPv6 address, a port.
pub const MAX_REPLY: usize = 4 + 16 + 2;

/// The answer to a login whose user and password are right (RFC 1929 §2).
pub const LOGIN_ACCEPTED: [u8; 2] = [LOGIN_VERSION, 0];

/// The answer to one whose are not. The connection must be closed after it.
pub const LOGIN_REFUSED: [u8; 2] = [LOGIN_VERSION, 1];

/// The answer to a greeting: the method that the client is to follow (RFC 1928 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// The request may come at once.
    NoAuth = NO_AUTH,
    /// A login comes first.
    Password = PASSWORD,
    /// None of the client's. It must close the connection.
    NoneAcceptable = 0xff,
}

impl Method {
    /// The answer's bytes.
    pub const fn bytes(self) -> [u8; 2] {
        [VERSION, self as u8]
    }
}

macro_rules! replies {
    ($($variant:ident = $code:literal, $word:literal, $text:literal;)+) => {
        /// What became of a request (RFC 1928 §6).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reply {
            $(#[doc = concat!("X'", stringify!($code), "': ", $text, ".")] $variant = $code,)+
        }

        impl Reply {
            /// Every reply, by its code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The reply as one word for logs and labels.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
    };
}

replies! {
    Succeeded = 0, "succeeded", "the tunnel is open";
    GeneralFailure = 1, "general_failure", "the server failed, or the request was malformed";
    NotAllowed = 2, "not_allowed", "the policy does not allow it";
    NetworkUnreachable = 3, "network_unreachable", "there is no way to the network";
    HostUnreachable = 4, "host_unreachable", "there is no way to the host, or its name has no address";
    ConnectionRefused = 5, "connection_refused", "the host refused the connection";
    TtlExpired = 6, "ttl_expired", "the connection took too long";
    CommandNotSupported = 7, "command_not_supported", "only CONNECT is done here";
    AddressTypeNotSupported = 8, "address_type_not_supported", "the address is of no known type";
}

impl Reply {
    /// The code on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The reply with no address, 0.0.0.0:0: for what did not succeed, and for a tunnel whose address on
    /// this side is nobody's business. After a refusal the connection must be closed within 10 s
    /// (RFC 1928 §6).
    pub const fn without_address(self) -> [u8; 10] {
        [VERSION, self.code(), 0, IPV4, 0, 0, 0, 0, 0, 0]
    }

    /// Appends the reply with the address that the connection to the host is bound to on this side;
    /// an IPv4-mapped one is written as IPv4.
    pub fn write(self, bound: SocketAddr, out: &mut Vec<u8>) {
        out.extend_from_slice(&[VERSION, self.code(), 0]);
        match bound.ip().to_canonical() {
            IpAddr::V4(ip) => {
                out.push(IPV4);
                out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(IPV6);
                out.extend_from_slice(&ip.octets());
            }
        }
        out.extend_from_slice(&bound.port().to_be_bytes());
    }
}
