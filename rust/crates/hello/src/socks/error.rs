//! How the messages of a SOCKS client can be malformed, each way with a word of its own.
use super::Reply;
use crate::{errors::errors, name::NameError};

errors! {
    /// Why bytes that begin as SOCKS5 are not a message to act on. The fault is the client's.
    SocksError, from
        /// The domain is neither a name nor an address; the words are those of [`NameError`].
        Name(NameError) "domain";
    // The greeting.
    MethodsNone "socks_methods_none" "the greeting offers no method",
    // The login.
    LoginVersion "socks_login_version" "the login's version is not 1",
    UserEmpty "socks_user_empty" "the user is empty",
    PasswordEmpty "socks_password_empty" "the password is empty",
    // The request.
    RequestVersion "socks_request_version" "the request's version is not 5",
    CommandUnknown "socks_command" "the command is none of CONNECT, BIND and UDP ASSOCIATE",
    Reserved "socks_reserved" "the reserved byte of the request is not 0",
    AddressType "socks_address_type" "the address is none of IPv4, domain and IPv6",
    PortZero "socks_port_zero" "the port is 0",
}

impl SocksError {
    /// The request as such is sound, but what it names is not a host.
    pub const fn is_bad_name(self) -> bool {
        matches!(self, Self::Name(_))
    }

    /// What to tell a client whose request is malformed so; greetings and logins have answers of
    /// their own.
    pub const fn reply(self) -> Reply {
        match self {
            Self::CommandUnknown => Reply::CommandNotSupported,
            Self::AddressType => Reply::AddressTypeNotSupported,
            Self::Name(_)
            | Self::MethodsNone
            | Self::LoginVersion
            | Self::UserEmpty
            | Self::PasswordEmpty
            | Self::RequestVersion
            | Self::Reserved
            | Self::PortZero => Reply::GeneralFailure,
        }
    }
}
