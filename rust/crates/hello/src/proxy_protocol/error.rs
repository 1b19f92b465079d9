//! How a PROXY header can be malformed, each way with a word of its own.
use crate::errors::errors;

errors! {
    /// Why bytes that begin as a PROXY header are not one. The fault is the proxy's that sent it.
    ProxyError;
    // Version 1.
    LineTooLong "pp1_line_too_long" "the line is longer than 107 bytes",
    BareLf "pp1_bare_lf" "the line ends with LF alone",
    BareCr "pp1_bare_cr" "a CR stands without its LF",
    Protocol "pp1_protocol" "the protocol is none of TCP4, TCP6 and UNKNOWN",
    Fields "pp1_fields" "there are not two addresses and two ports, one space apart",
    Address "pp1_address" "an address is not one of its family in canonical form",
    Port "pp1_port" "a port is not a number from 0 to 65535 without leading zeros",
    // Version 2.
    Version "pp2_version" "the version is not 2",
    Command "pp2_command" "the command is neither LOCAL nor PROXY",
    Family "pp2_family" "the address family or the transport is none of those assigned",
    TooLong "pp2_too_long" "the header is longer than 4 KiB",
    Addresses "pp2_addresses" "the header is shorter than its addresses",
    // What follows the addresses.
    TlvLength "pp2_tlv_length" "a TLV is longer than the header that holds it",
    TlvTwice "pp2_tlv_twice" "a TLV that says one thing comes twice",
    ChecksumLength "pp2_checksum_length" "the checksum has not four bytes",
    Checksum "pp2_checksum" "the checksum is not that of the header",
    Ssl "pp2_ssl" "what is said of TLS has not its first five bytes",
    UniqueId "pp2_unique_id" "the unique id is longer than 128 bytes",
}
