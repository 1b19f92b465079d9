//! Handing a connection over to the front, HTTP/2 or, behind a PROXY header, TLS to the proxy: this flow leaves no record,
//! each of its streams leaves one.

use std::os::fd::AsRawFd;

use egress_flowlog::WorkerCounter;
use egress_front::Taken;
use egress_policy::{End, Reason, Verdict};
use mio::unix::SourceFd;

use crate::context::{Context, FlowToken, Step};
use crate::flow::{Flow, Work};

impl Context {
    pub(crate) fn hand_over(&mut self, token: FlowToken, flow: &mut Flow, tls: bool) -> Step {
        // Out of the front already: HTTP/2 inside TLS is agreed on by ALPN (RFC 9113, section 3.2).
        if flow.pair().is_some() || self.front.is_none() {
            return self.refuse(token, flow, Reason::NotAccepted, End::Refused);
        }
        let first_bytes = match &flow.work {
            Work::Resolve(bytes) => bytes.rest().to_vec(),
            _ => return Step::End(End::Aborted),
        };
        let taken = flow.client.fd.try_clone().is_ok_and(|fd| {
            // The registration is of what both descriptors stand for: it would outlive the closing of this one. It may
            // not have been made yet.
            let _ = self.registry.deregister(&mut SourceFd(&flow.client.fd.as_raw_fd()));
            let listener = usize::from(flow.listener);
            let taken = Taken {
                fd,
                source: flow.source,
                introduced: flow.introduced().cloned(),
                listener,
                worker: self.worker,
                tls,
                first_bytes,
            };
            self.front.as_ref().is_some_and(|front| front.take(taken).is_ok())
        });
        let before = std::mem::replace(&mut flow.work, Work::Handed);
        if let Work::Resolve(bytes) = before {
            self.lender.buffers.give_back(bytes);
        }
        if taken {
            self.count(WorkerCounter::HandedOver);
            return Step::End(End::Closed);
        }
        flow.work = Work::Over((0, 0));
        flow.verdict = Verdict::Deny;
        flow.reason = Reason::Overloaded;
        flow.abort_client();
        Step::End(End::OutOfResources)
    }
}
