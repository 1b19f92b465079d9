//! The front as the gateway sees it: what it is told of the settings, and how it reaches the workers.

use egress_front::{Adopted, Files, Handle, ListenerTerms, Lost, ServerTls, Terms, Workers};
use egress_policy::{Accept, Listener, Settings};

use crate::installed::Installed;
use crate::message::Refusal;
use crate::worker::{Mail, Mailbox};

/// The workers' mailboxes, in their order.
#[derive(Debug)]
pub(crate) struct Boxes(pub Vec<Mailbox>);

impl Workers for Boxes {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn adopt(&self, worker: usize, client: Adopted) -> bool {
        self.0.get(worker).is_some_and(|mailbox| mailbox.post(Mail::Adopt(Box::new(client))))
    }

    fn lost(&self, worker: usize, lost: Lost) {
        if let Some(mailbox) = self.0.get(worker) {
            mailbox.post(Mail::Lost(lost));
        }
    }

    fn idle(&self) {
        for mailbox in &self.0 {
            mailbox.post(Mail::FrontIdle);
        }
    }
}

/// Whether a listener takes HTTP/2 (every one that takes CONNECT does), or TLS to the proxy.
pub(crate) fn is_needed(settings: &Settings) -> bool {
    settings.listeners.iter().any(|one| one.tls.is_some() || one.accept.has(Accept::Connect))
}

/// What the front goes by under these settings. A listener whose files are what they were keeps its sessions.
pub(crate) fn terms(
    settings: &Settings,
    before: Option<(&Installed, &Handle)>,
) -> Result<Terms, Vec<Refusal>> {
    let mut errors = Vec::new();
    let old = before.map(|(installed, front)| (installed.snapshot.settings(), front.terms()));
    let mut terms = |(index, listener): (usize, &Listener)| {
        let kept = old.as_ref().and_then(|(settings, terms)| {
            let same = settings.listeners.get(index)?.tls == listener.tls;
            same.then(|| terms.listeners.get(index).cloned()).flatten()
        });
        kept.unwrap_or_else(|| ListenerTerms {
            tls: listener.tls.as_ref().and_then(|tls| {
                let files = Files {
                    certificate: tls.certificate.bytes(),
                    key: tls.key.bytes(),
                    client_ca: tls.client_ca.as_ref().map(egress_policy::Pem::bytes),
                    client_required: tls.client_required,
                    http: listener.accept.has(Accept::Connect),
                };
                let at = |key: &'static str| {
                    ["settings".into(), "listeners".into(), index.into(), "tls".into(), key.into()]
                };
                ServerTls::new(files)
                    .map_err(|problem| {
                        let refusal = Refusal::new("bad_tls", problem.message, problem.fix);
                        errors.push(refusal.at(at(problem.which.key())));
                    })
                    .ok()
            }),
        })
    };
    let listeners = settings.listeners.iter().enumerate().map(&mut terms).collect();
    if !errors.is_empty() {
        return Err(errors);
    }
    let timeouts = &settings.timeouts;
    Ok(Terms { listeners, first_bytes: timeouts.first_bytes, idle: timeouts.idle })
}
