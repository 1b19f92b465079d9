//! SSH: a disconnect before key exchange, whose description the client prints.

use egress_hello::ssh::{Disconnect, disconnect};
use egress_policy::{End, Reason};

use super::Refusal;

impl Refusal<'_> {
    pub(super) fn ssh(&self) -> Vec<u8> {
        let reason = match (self.end, self.reason) {
            (End::Refused, Reason::ConnectionLimit | Reason::ConnectionRate) => {
                Disconnect::TooManyConnections
            }
            (End::Refused, Reason::Overloaded) => Disconnect::ServiceNotAvailable,
            (End::Refused, _) => Disconnect::HostNotAllowed,
            _ => Disconnect::ServiceNotAvailable,
        };
        let decision = format!("{:016x}", self.flow_id);
        // A rule's own message need not name the decision, and this protocol has no field beside it.
        if self.message.contains(&decision) {
            disconnect(reason, self.message)
        } else {
            disconnect(reason, &format!("{} ({decision})", self.message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::refusal;
    use super::*;

    fn told(refusal: Refusal<'_>) -> (u8, String) {
        let told = refusal.ssh();
        (told[25], String::from_utf8_lossy(&told).into_owned())
    }

    #[test]
    fn the_decision_is_named_once() {
        let (reason, text) = told(refusal(Reason::DefaultDeny, End::Refused));
        assert_eq!(reason, 1);
        assert!(text.contains("Blocked \"here\". (0000000000000abc)"), "{text}");
        let message = "No. Quote 0000000000000abc.";
        let (_, text) = told(Refusal { message, ..refusal(Reason::RuleDeny, End::Refused) });
        assert_eq!(text.matches("abc").count(), 1, "{text}");
    }

    #[test]
    fn a_destination_that_is_away_is_not_a_refusal() {
        assert_eq!(told(refusal(Reason::Rule, End::ConnectRefused)).0, 7);
        assert_eq!(told(refusal(Reason::ConnectionRate, End::Refused)).0, 12);
    }
}
