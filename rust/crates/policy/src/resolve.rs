//! May a source learn a name's addresses? Asked by DNS listeners, before any port is known.
//!
//! Nothing here matches by itself: [`Snapshot::decide`] and [`Snapshot::screen`] are asked for every port at which their
//! answer can change, until one of them lets the name, or the address, through.

use std::net::IpAddr;

use egress_hello::name::Name;

use crate::address::{classify, embedded_v4};
use crate::decide::{Decision, Destination};
use crate::flat::RuleRecord;
use crate::nets::ANY;
use crate::screen::{Origin, Screened};
use crate::snapshot::{Snapshot, SourceClass};
use crate::vocab::Verdict;

/// The port of most destinations, tried first; and the lowest, for what is open by default.
const FIRST: [u16; 2] = [443, 1];

/// A name that a source asks for, and what the policy says of it.
#[derive(Debug)]
pub struct Resolving<'a> {
    snapshot: &'a Snapshot,
    source: SourceClass,
    name: &'a Name,
    now: u64,
    /// On a port where the name is let through, by a rule if one does; where none is, the refusal.
    pub decision: Decision,
}

impl Snapshot {
    /// Whether some rule lets `source` reach `name` on any port. `now` is in unix seconds.
    pub fn may_resolve<'a>(
        &'a self,
        source: SourceClass,
        name: &'a Name,
        now: u64,
    ) -> Resolving<'a> {
        let decide = |port| self.decide(source, Destination::Name(name), port, now);
        let mut resolving =
            Resolving { snapshot: self, source, name, now, decision: decide(FIRST[0]) };
        let mut ports = Vec::new();
        if resolving.decision.verdict != Verdict::Allow {
            ports = resolving.ports(None);
        }
        for decision in ports.into_iter().map(decide) {
            if weight(&decision) > weight(&resolving.decision) {
                resolving.decision = decision;
            }
            if decision.verdict == Verdict::Allow {
                break;
            }
        }
        resolving
    }

    /// The ports at which a decision about what `atoms` stand for can change: where a range begins, and after its end.
    fn turning_points(
        &self,
        source: SourceClass,
        atoms: impl IntoIterator<Item = u32>,
        now: u64,
        out: &mut Vec<u16>,
    ) {
        let in_force = |rule: &&RuleRecord| now < rule.until.get();
        let holding = self.holding(source);
        for atom in atoms {
            for (group, edge) in self.edges_of(atom) {
                let rule = self.rules().get(edge.rule.get() as usize).filter(in_force);
                if rule.is_some() && holding.contains(&group.source.get()) {
                    out.push(edge.low.get().max(1));
                    out.extend(edge.high.get().checked_add(1));
                }
            }
        }
    }
}

/// Which of two decisions is told: the one that lets the name through, then the one that a rule has made.
fn weight(decision: &Decision) -> u8 {
    match decision.verdict {
        Verdict::Allow => 3,
        Verdict::WouldDeny => 2,
        _ => u8::from(decision.rule.is_some()),
    }
}

impl Resolving<'_> {
    /// Whether one of the name's addresses may be told: it could be dialled, on some port that the name is let through on.
    ///
    /// # Errors
    /// The refusal, when it may not be, or (`audit`) would not be.
    pub fn screen(&self, origin: Origin, ip: IpAddr) -> Result<(), Screened> {
        let try_port = |port| {
            let name = Destination::Name(self.name);
            let decision = self.snapshot.decide(self.source, name, port, self.now);
            (decision.verdict != Verdict::Deny)
                .then(|| self.snapshot.screen(self.source, &decision, origin, ip, port, self.now))
        };
        let mut refused: Option<Screened> = None;
        for port in FIRST.into_iter().chain(self.ports(Some(ip))) {
            match try_port(port) {
                None => {}
                Some(Ok(())) => return Ok(()),
                Some(Err(screened))
                    if refused.is_none_or(|first| screened.audit && !first.audit) =>
                {
                    refused = Some(screened);
                }
                Some(Err(_)) => {}
            }
        }
        // Without a refusal the name itself is let through on no port.
        let Decision { reason, rule, .. } = self.decision;
        Err(refused.unwrap_or(Screened { reason, class: classify(ip), rule, audit: false }))
    }

    /// The ports to try beside the first, for the name alone or for it at an address.
    fn ports(&self, ip: Option<IpAddr>) -> Vec<u16> {
        let snapshot = self.snapshot;
        let mut ports = vec![FIRST[1]];
        let atoms = snapshot.atoms_of_name(self.name.as_bytes());
        snapshot.turning_points(self.source, atoms, self.now, &mut ports);
        let nets = snapshot.nets();
        let mut of_address = |ip: IpAddr| {
            let nodes = nets.chain(nets.narrowest(ip)).take_while(|node| *node != ANY);
            let atoms = nodes.filter_map(|node| Some(nets.nodes.get(node as usize)?.atom.get()));
            snapshot.turning_points(self.source, atoms, self.now, &mut ports);
        };
        if let Some(ip) = ip.map(|ip| ip.to_canonical()) {
            of_address(ip);
            if let IpAddr::V6(v6) = ip {
                embedded_v4(v6).for_each(|(v4, _)| of_address(IpAddr::V4(v4)));
            }
        }
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}
