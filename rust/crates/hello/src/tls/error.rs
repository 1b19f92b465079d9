//! How a ClientHello can be malformed, each way with a word of its own.
use std::fmt;

use crate::name::NameError;

macro_rules! errors {
    ($($(#[$doc:meta])* $variant:ident $word:literal $text:literal,)+) => {
        /// Why bytes that begin as TLS are not a ClientHello to trust. The fault is the client's.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum TlsError {
            $($(#[$doc])* #[doc = concat!("`", $word, "`: ", $text, ".")] $variant,)+
            /// The server_name is not a name; the words are those of [`NameError`] after `sni_`.
            SniName(NameError),
        }

        impl TlsError {
            /// Every error but `SniName`, for tables and tests.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The error as one word for logs and labels, at most 40 bytes.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                    Self::SniName(NameError::Empty) => "sni_name_empty",
                    Self::SniName(NameError::TooLong) => "sni_name_too_long",
                    Self::SniName(NameError::LabelTooLong) => "sni_label_too_long",
                    Self::SniName(NameError::EmptyLabel) => "sni_label_empty",
                    Self::SniName(NameError::ForbiddenByte(_)) => "sni_name_forbidden_byte",
                    Self::SniName(NameError::Idna) => "sni_name_idna",
                    Self::SniName(NameError::NumericTail) => "sni_name_numeric_tail",
                }
            }
        }

        impl fmt::Display for TlsError {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($text),)+
                    Self::SniName(error) => write!(f, "server_name: {error}"),
                }
            }
        }
    };
}

errors! {
    // Records.
    RecordVersion "record_version" "the record's version is none of SSL 3.0 to TLS 1.3",
    RecordEmpty "record_empty" "a handshake record is empty",
    RecordTooLong "record_too_long" "a record announces more than 2^14 bytes",
    RecordType "record_type" "another record type stands between the fragments of the hello",
    // The handshake message.
    NotClientHello "not_client_hello" "the first handshake message is not a ClientHello",
    HelloTooLong "hello_too_long" "the hello announces more than 64 KiB",
    HelloTrailing "hello_trailing" "more bytes follow the hello in its last record",
    // The hello up to its extensions.
    HelloTruncated "hello_truncated" "the hello ends before its fixed fields do",
    HelloVersion "hello_version" "the hello's version is not 3.x",
    SessionId "session_id" "the session id is longer than 32 bytes",
    CiphersEmpty "ciphers_empty" "there are no cipher suites",
    CiphersOdd "ciphers_odd" "the cipher suites have an odd length",
    CiphersLength "ciphers_length" "the cipher suites are longer than the hello",
    Compression "compression" "the compression methods do not hold null, or for TLS 1.3 hold others",
    CompressionLength "compression_length" "the compression methods are longer than the hello",
    // Extensions.
    ExtensionsLength "extensions_length" "the extensions' length is not that of the rest of the hello",
    ExtensionLength "extension_length" "an extension is longer than the block that holds it",
    ExtensionsMany "extensions_many" "there are more than 128 extensions",
    ExtensionTwice "extension_twice" "two extensions have the same type",
    SniTwice "sni_twice" "there are two server_name extensions",
    SniTwoNames "sni_two_names" "the server_name holds two names",
    SniLength "sni_length" "a length in the server_name is a lie",
    SniListEmpty "sni_list_empty" "the server_name holds no name",
    SniType "sni_type" "the server_name is of another type than host_name",
    SniNotAscii "sni_not_ascii" "the server_name is not ASCII (RFC 6066 wants A-labels)",
    AlpnLength "alpn_length" "a length in the ALPN list is a lie",
    AlpnEmpty "alpn_empty" "the ALPN list, or a name in it, is empty",
    VersionsLength "versions_length" "the length of supported_versions is a lie, odd or nought",
    EchLength "ech_length" "a length in encrypted_client_hello is a lie",
}

impl std::error::Error for TlsError {}

impl TlsError {
    /// The hello as such is sound, but what it names is not a host.
    pub const fn is_bad_name(self) -> bool {
        matches!(self, Self::SniName(_) | Self::SniNotAscii)
    }
}
