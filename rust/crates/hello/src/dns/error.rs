//! How a message can fail to be a query that is answered, each way with a word of its own.
use super::Code;
use crate::errors::errors;

errors! {
    /// Why bytes are not a query to act on. The fault is the client's.
    DnsError;
    Short "dns_short" "shorter than a header",
    Response "dns_response" "a response, not a query",
    Opcode "dns_opcode" "not a standard query",
    Questions "dns_questions" "not exactly one question",
    Name "dns_name" "the question's name is cut short, too long or compressed",
    Records "dns_records" "the records after the question are cut short, or stand where a query has none",
    Trailing "dns_trailing" "bytes follow the last record",
    Edns "dns_edns" "two EDNS records, or one whose options do not fill it",
    Version "dns_edns_version" "a version of EDNS other than 0",
}

impl DnsError {
    /// What to tell the client. `None`: nothing, as an answer to no query could be turned on others, or would go
    /// round for ever between two servers.
    pub const fn code(self) -> Option<Code> {
        match self {
            Self::Short | Self::Response => None,
            Self::Opcode => Some(Code::NotImp),
            Self::Version => Some(Code::BadVers),
            Self::Questions | Self::Name | Self::Records | Self::Trailing | Self::Edns => {
                Some(Code::FormErr)
            }
        }
    }
}
