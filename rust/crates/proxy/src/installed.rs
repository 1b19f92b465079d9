//! The policy in force, as a worker holds it, and what the next one may not change.

use std::ops::Deref;
use std::sync::Arc;

use egress_policy::{Listener, RuleId, Settings, Snapshot};

use crate::budget::{Budgets, Keeper};
use crate::limits::Limits;
use crate::message::Refusal;
use crate::shape::Plans;

/// One generation: immutable, shared by all workers, replaced whole.
#[derive(Debug)]
pub(crate) struct Installed {
    pub generation: u64,
    pub snapshot: Snapshot,
    pub limits: Limits,
    pub plans: Arc<Plans>,
    pub budgets: Budgets,
}

impl Installed {
    /// The generation that follows `before`; rules that stay keep what they have counted.
    pub(crate) fn new(
        snapshot: Snapshot,
        before: Option<&Self>,
        workers: usize,
        keeper: Option<&Keeper>,
    ) -> Self {
        let rules = 0..u32::try_from(snapshot.rule_count()).unwrap_or(u32::MAX);
        let limited = rules.filter_map(|index| {
            let rule = snapshot.rule(RuleId(index))?;
            Some((index, rule.name, rule.connections))
        });
        let limits = Limits::new(limited, workers, before.map(|before| &before.limits));
        let generation = before.map_or(0, |before| before.generation) + 1;
        let plans = Arc::new(Plans::new(&snapshot, workers, before.map(|before| &*before.plans)));
        let budgets = Budgets::new(&snapshot, &plans, keeper.map(|keeper| &keeper.books));
        Self { generation, snapshot, limits, plans, budgets }
    }

    /// The listener of this number.
    pub(crate) fn listener(&self, number: u16) -> Option<&Listener> {
        self.snapshot.settings().listeners.get(usize::from(number))
    }
}

/// A worker's own handle to the shared policy. Flows hold it through an `Rc`, so that taking it for a step changes no
/// counter that workers share.
#[derive(Debug)]
pub(crate) struct InForce(pub Arc<Installed>);

impl Deref for InForce {
    type Target = Installed;

    fn deref(&self) -> &Installed {
        &self.0
    }
}

/// A store of budgets that is open cannot be another.
pub(crate) fn other_store(open: &Keeper, path: &str) -> Refusal {
    let what = format!(
        "`store` of budgets cannot change while the gateway runs ({} to {path})",
        open.path
    );
    put_back(what).at(STORE.map(Into::into))
}

/// Where the document says which file keeps budgets.
pub(crate) const STORE: [&str; 3] = ["settings", "budgets", "store"];

/// What of the settings cannot change under a running gateway, with each difference named.
pub(crate) fn needs_restart(before: &Settings, after: &Settings) -> Vec<Refusal> {
    let mut errors = Vec::new();
    for (key, same) in [
        ("workers", before.workers == after.workers),
        ("max_flows", before.max_flows == after.max_flows),
        ("low_latency", before.low_latency == after.low_latency),
    ] {
        if !same {
            let what = format!("`{key}` cannot change while the gateway runs");
            errors.push(put_back(what).at(["settings".into(), key.into()]));
        }
    }
    listeners_differ(&before.listeners, &after.listeners, &mut errors);
    errors
}

fn listeners_differ(before: &[Listener], after: &[Listener], errors: &mut Vec<Refusal>) {
    let earlier = errors.len();
    for (index, listener) in after.iter().enumerate() {
        let name = &listener.name;
        let place = || ["settings".into(), "listeners".into(), index.into()];
        let Some(old) = before.iter().find(|old| old.name == *name) else {
            let what = format!("listener {name} cannot be added while the gateway runs");
            errors.push(put_back(what).at(place()));
            continue;
        };
        for ((key, was), (_, is)) in terms(old).into_iter().zip(terms(listener)) {
            if was != is {
                let what = format!(
                    "`{key}` of listener {name} cannot change while the gateway runs ({was} to {is})"
                );
                let [settings, listeners, index] = place();
                errors.push(put_back(what).at([settings, listeners, index, key.into()]));
            }
        }
    }
    for gone in before.iter().filter(|old| after.iter().all(|new| new.name != old.name)) {
        errors.push(put_back(format!(
            "listener {} cannot be removed while the gateway runs",
            gone.name
        )));
    }
    let names = |all: &[Listener]| all.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
    if errors.len() == earlier && names(before) != names(after) {
        errors.push(put_back(
            "the order of the listeners cannot change while the gateway runs".to_owned(),
        ));
    }
}

/// What a listener consists of besides its name, in the words of the policy.
fn terms(listener: &Listener) -> Vec<(&'static str, String)> {
    let to = listener.to.as_ref();
    let own = [
        ("bind", listener.bind.to_string()),
        ("accept", listener.accept.to_string()),
        ("port", listener.port.to_string()),
        // What is in the files may change.
        ("tls", if listener.tls.is_some() { "on" } else { "off" }.to_owned()),
        ("to", to.map_or_else(|| "nothing".to_owned(), |(host, port)| format!("{host}:{port}"))),
    ];
    own.into_iter().chain(listener.proxied.terms()).collect()
}

fn put_back(what: String) -> Refusal {
    Refusal::new("needs_restart", what, "put it back, or restart the gateway (it drains first)")
}

#[cfg(test)]
mod tests {
    use egress_policy::{Accept, Accepts, Proxied};

    use super::*;

    fn listener(name: &str, port: u16, to: Option<u16>) -> Listener {
        Listener {
            name: name.to_owned(),
            bind: ([127, 0, 0, 1], port).into(),
            accept: Accepts::only(Accept::Tls),
            port: 443,
            tls: None,
            login: egress_policy::Login::Off,
            to: to.map(|port| (egress_hello::name::parse_host(b"db.example").unwrap(), port)),
            proxied: Proxied::default(),
        }
    }

    fn said(before: &[Listener], after: &[Listener]) -> Vec<(String, usize)> {
        let mut errors = Vec::new();
        listeners_differ(before, after, &mut errors);
        errors.into_iter().map(|error| (error.message, error.at.len())).collect()
    }

    #[test]
    fn every_listener_that_is_added_removed_or_changed_is_named() {
        let before = [listener("a", 1, None), listener("b", 2, Some(5)), listener("c", 3, None)];
        let after = [listener("d", 1, None), listener("b", 4, None), listener("c", 3, None)];
        assert_eq!(
            said(&before, &after),
            [
                ("listener d cannot be added while the gateway runs", 3),
                ("`bind` of listener b cannot change while the gateway runs (127.0.0.1:2 to 127.0.0.1:4)", 4),
                ("`to` of listener b cannot change while the gateway runs (db.example:5 to nothing)", 4),
                ("listener a cannot be removed while the gateway runs", 0),
            ]
            .map(|(message, depth)| (message.to_owned(), depth))
        );
        assert!(said(&before, &before).is_empty());
    }

    #[test]
    fn another_order_is_said_to_be_that() {
        let (a, b) = (listener("a", 1, None), listener("b", 2, None));
        let errors = said(&[a.clone(), b.clone()], &[b, a]);
        assert_eq!(errors.len(), 1);
        assert!(errors[0].0.contains("order"));
    }
}
