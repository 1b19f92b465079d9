//! The long answer: what was decided, every rule that was looked at and why it did not win, the
//! nearest miss in words, and the line that would allow the flow. Off the hot path; bounded.

use std::net::IpAddr;

use egress_hello::name::Host;
use serde::Serialize;

use crate::address::classify;
use crate::decide::{Decision, Destination};
use crate::message::{MessageValues, render_message};
use crate::nearest::Matched;
use crate::pattern::Ports;
use crate::screen::Origin;
use crate::settings::printable;
use crate::snapshot::{RuleId, RuleView, Snapshot};
use crate::source::{Identity, Source};
use crate::vocab::{Reason, Verdict};

/// Candidates that an explanation lists; the most specific come first.
const MAX_CANDIDATES: usize = 50;

/// A decision with its reasons.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    pub source: IpAddr,
    pub user: Option<String>,
    pub spiffe: Option<String>,
    pub tlv: Option<String>,
    /// The strongest evidence for the source.
    pub evidence: &'static str,
    pub host: String,
    pub port: u16,
    pub verdict: &'static str,
    pub reason: &'static str,
    pub rule: Option<RuleRef>,
    /// Later refusals would be recorded, not enforced.
    pub audit: bool,
    /// What a refused client reads; `-` stands for the decision's id.
    pub message: Option<String>,
    /// For an address: its class, and whether it may be dialled.
    pub address: Option<AddressNote>,
    /// One sentence.
    pub summary: String,
    pub candidates: Vec<Candidate>,
    pub nearest_miss: Option<String>,
    /// A rule, as a line of YAML, that would allow the flow; absent where a deny rule stands against it.
    pub allow_with: Option<String>,
}

/// Where a rule is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleRef {
    pub name: String,
    pub file: String,
    pub line: u32,
}

/// A rule that speaks of the destination.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    #[serde(flatten)]
    pub rule: RuleRef,
    /// `allow` or `deny`.
    pub action: &'static str,
    /// The destination as the rule has it, such as `*.stripe.com`.
    pub destination: String,
    pub ports: String,
    pub wins: bool,
    /// Why it decides, or why it does not.
    pub because: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct AddressNote {
    pub class: &'static str,
    /// The reason why it may not be dialled.
    pub refused: Option<&'static str>,
    pub rule: Option<RuleRef>,
}

impl Snapshot {
    /// Explains what becomes of a flow from `source` to `host`. `now` is in unix seconds.
    pub fn explain<'s>(
        &self,
        source: impl Into<Source<'s>>,
        host: &Host,
        port: u16,
        now: u64,
    ) -> Explanation {
        let source = source.into();
        let source = Source { ip: source.ip.to_canonical(), ..source };
        let class = self.source(source);
        let destination = match host {
            Host::Name(name) => Destination::Name(name),
            Host::Ip(ip) => Destination::Ip(*ip),
        };
        let decision = self.decide(class, destination, port, now);
        let (mut verdict, mut reason, mut rule) =
            (decision.verdict, decision.reason, decision.rule);
        let address = match host {
            Host::Ip(ip) => {
                let refused = match decision.verdict {
                    Verdict::Allow | Verdict::WouldDeny => {
                        self.screen(class, &decision, Origin::Client, *ip, port, now).err()
                    }
                    _ => None,
                };
                if let Some(refused) = refused {
                    verdict = if refused.audit { Verdict::WouldDeny } else { Verdict::Deny };
                    (reason, rule) = (refused.reason, refused.rule.or(rule));
                }
                let rule =
                    refused.and_then(|refused| refused.rule).and_then(|rule| self.rule_ref(rule));
                Some(AddressNote {
                    class: classify(*ip).word(),
                    refused: refused.map(|refused| refused.reason.word()),
                    rule,
                })
            }
            Host::Name(_) => None,
        };
        let matched = self.matched(host);
        let candidates = self.candidates(&matched, source, port, now, &decision);
        let refused = verdict != Verdict::Allow;
        let nearest_miss = if refused && reason == Reason::DefaultDeny {
            self.nearest_miss(source, host, port, now)
        } else {
            None
        };
        let view = rule.and_then(|rule| self.rule(rule));
        let values = MessageValues {
            rule: view.map_or("default", |view| view.name),
            decision: "-",
            name: &host.to_string(),
            port,
            source: &source.ip.to_string(),
            owner: view.and_then(|view| view.owner),
            why: view.and_then(|view| view.why),
        };
        let template = view.map_or(self.default_message(), |view| view.message);
        let summary = self.summary(host, port, verdict, reason, rule);
        let shown =
            |part: Option<&[u8]>| part.map(|part| printable(&String::from_utf8_lossy(part)));
        Explanation {
            source: source.ip,
            user: shown(source.identity.and_then(Identity::user)),
            spiffe: shown(source.identity.and_then(Identity::spiffe).map(str::as_bytes)),
            tlv: shown(source.identity.and_then(Identity::tlv)),
            evidence: source.evidence.word(),
            host: host.to_string(),
            port,
            verdict: verdict.word(),
            reason: reason.word(),
            rule: rule.and_then(|rule| self.rule_ref(rule)),
            audit: decision.audit,
            message: refused.then(|| render_message(template, &values)),
            address,
            summary,
            candidates,
            nearest_miss,
            allow_with: (refused && reason != Reason::RuleDeny)
                .then(|| allow_with(source, host, port)),
        }
    }

    pub(crate) fn rule_ref(&self, rule: RuleId) -> Option<RuleRef> {
        let view = self.rule(rule)?;
        Some(RuleRef { name: view.name.to_owned(), file: view.file.to_owned(), line: view.line })
    }

    fn summary(
        &self,
        host: &Host,
        port: u16,
        verdict: Verdict,
        reason: Reason,
        rule: Option<RuleId>,
    ) -> String {
        let target = target(host, port);
        let by = match rule.and_then(|rule| self.rule(rule)) {
            Some(rule) => format!("rule {} ({}:{})", rule.name, rule.file, rule.line),
            None => "the default".to_owned(),
        };
        match (verdict, reason) {
            (Verdict::Allow, _) => format!("{target} is allowed by {by}"),
            (_, Reason::PrivateAddress | Reason::ForbiddenAddress) => format!(
                "{target} is allowed by {by}, but no rule names this address, and it is not public"
            ),
            (Verdict::WouldDeny, _) => {
                format!("{target} would be denied by {by}; under audit it is let through")
            }
            _ => format!("{target} is denied by {by}"),
        }
    }

    fn candidates(
        &self,
        matched: &[Matched],
        source: Source<'_>,
        port: u16,
        now: u64,
        decision: &Decision,
    ) -> Vec<Candidate> {
        let sources = self.holding(self.source(source));
        let mut out: Vec<Candidate> = Vec::new();
        for matched in matched {
            for (group, edge) in self.edges_of(matched.atom) {
                let Some(rule) = self.rule(RuleId(edge.rule.get())) else { continue };
                if out.len() == MAX_CANDIDATES {
                    return out;
                }
                let ports = Ports { low: edge.low.get(), high: edge.high.get() };
                let id = Some(RuleId(edge.rule.get()));
                let miss = if !sources.contains(&group.source.get()) {
                    let number = group.source.get();
                    let is = if self.sources().network(number).is_some() {
                        "is not in"
                    } else {
                        "is not"
                    };
                    Some(format!("the source {source} {is} {}", self.source_words(number)))
                } else if !(ports.low..=ports.high).contains(&port) {
                    Some(format!("port {port} is not in {ports}"))
                } else if rule.until.is_some_and(|until| until <= now) {
                    Some("it has ended (until)".to_owned())
                } else {
                    None
                };
                // A rule may match more than once; the first, most specific match is the one that counts.
                let wins =
                    miss.is_none() && id == decision.rule && !out.iter().any(|other| other.wins);
                let because =
                    miss.unwrap_or_else(|| standing(&rule, id, wins, decision).to_owned());
                let rule_ref = RuleRef {
                    name: rule.name.to_owned(),
                    file: rule.file.to_owned(),
                    line: rule.line,
                };
                out.push(Candidate {
                    rule: rule_ref,
                    action: if rule.deny { "deny" } else { "allow" },
                    destination: matched.text.clone(),
                    ports: ports.to_string(),
                    wins,
                    because,
                });
            }
        }
        out
    }
}

/// Why a rule that matches decides, or does not.
fn standing(
    rule: &RuleView<'_>,
    id: Option<RuleId>,
    wins: bool,
    decision: &Decision,
) -> &'static str {
    match (rule.deny, rule.audit) {
        _ if !wins && id == decision.rule => "the same rule matches more specifically, too",
        (true, false) if wins => "it decides: a deny beats every allow",
        (true, true) if wins => "it denies under audit: recorded, not enforced",
        (false, _) if wins => "it decides: the most specific allow",
        (true, true) => "it denies under audit, and something else decides",
        (true, false) => "another deny, more specific, decides",
        (false, _) if decision.verdict == Verdict::Deny => "a deny beats it",
        (false, _) if id == decision.terms => "its terms apply while the deny is under audit",
        (false, _) => {
            "another allow is more specific, or has the same terms and comes first by name"
        }
    }
}

/// `host:port` as it is written in a policy.
pub(crate) fn target(host: &Host, port: u16) -> String {
    match host {
        Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        other => format!("{other}:{port}"),
    }
}

/// The source as an item of `from`: the strongest that is known of it.
fn from_item(source: Source<'_>) -> String {
    let text = |part: &[u8]| {
        std::str::from_utf8(part).ok().map(|text| serde_json::Value::from(text).to_string())
    };
    let known = source.identity.and_then(|identity| {
        let spiffe = identity.spiffe().map(|id| ("spiffe", id.as_bytes()));
        let user = identity.user().map(|user| ("user", user));
        spiffe.or(user).or(identity.tlv().map(|value| ("tlv", value)))
    });
    match known.and_then(|(key, part)| Some((key, text(part)?))) {
        Some((key, text)) => format!("{{ {key}: {text} }}"),
        None => {
            let bits = if source.ip.is_ipv4() { 32 } else { 128 };
            format!("{{ cidr: \"{}/{bits}\" }}", source.ip)
        }
    }
}

fn allow_with(source: Source<'_>, host: &Host, port: u16) -> String {
    let slug: String = host
        .to_string()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(48)
        .collect();
    let to = match host {
        // A lone label would be read as the name of a group.
        Host::Name(name) if !name.as_str().contains('.') => format!("{name}.:{port}"),
        other => target(other, port),
    };
    format!(
        "- {{ name: allow-{}, from: {}, to: [\"{to}\"] }}",
        slug.trim_matches('-'),
        from_item(source)
    )
}
