//! PostgreSQL: an ErrorResponse. To a client that asked for encryption libpq shows only that there was an error, since
//! nobody vouches for its text.

use egress_hello::postgres::error_response;
use egress_policy::{End, Reason};

use super::Refusal;

/// SQLSTATEs (PostgreSQL's documentation, appendix A): invalid_authorization_specification, connection_failure,
/// too_many_connections, configuration_limit_exceeded.
const NOT_ALLOWED: &str = "28000";
const FAILED: &str = "08006";
const TOO_MANY: &str = "53300";
const TOO_MUCH: &str = "53400";

impl Refusal<'_> {
    pub(super) fn postgres(&self) -> Vec<u8> {
        let sqlstate = match (self.end, self.reason) {
            (
                End::Refused,
                Reason::ConnectionLimit | Reason::ConnectionRate | Reason::Overloaded,
            ) => TOO_MANY,
            (End::Refused, Reason::BudgetSpent) => TOO_MUCH,
            (End::Refused, _) => NOT_ALLOWED,
            _ => FAILED,
        };
        let advice = match (self.end, self.reason) {
            (End::Refused, Reason::NoName) => {
                "Connect under the server's name and with TLS, as sslmode=require does. "
            }
            _ => "",
        };
        let hint = format!("{advice}The egress gateway's decision is {:016x}.", self.flow_id);
        error_response(sqlstate, self.message, &hint)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::refusal;
    use super::*;

    #[test]
    fn a_refusal_and_a_failure_have_their_own_states() {
        for (reason, end, state) in [
            (Reason::DefaultDeny, End::Refused, "C28000\0"),
            (Reason::Rule, End::ConnectTimeout, "C08006\0"),
            (Reason::ConnectionLimit, End::Refused, "C53300\0"),
        ] {
            let told = refusal(reason, end).postgres();
            let text = String::from_utf8_lossy(&told);
            assert!(text.contains(state), "{text}");
            assert!(text.contains("MBlocked \"here\".\0"), "{text}");
            assert!(text.contains("decision is 0000000000000abc."), "{text}");
        }
    }
}
