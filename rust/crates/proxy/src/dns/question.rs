//! One question: judged, resolved, its addresses screened, and answered.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use egress_flowlog::{ResolverCounter as Count, flags};
use egress_hello::dns::{
    CLASS_IN, Code, ExtendedError, MAX_TCP, Query, Reply, kind, read_query, reject,
};
use egress_hello::name::Name;
use egress_policy::{
    Decision, End, MessageValues, Origin, Reason, Resolving, Screened, Verdict, classify,
    render_message,
};

use super::Front;
use super::journal::Finding;
use crate::families::Failure;
use crate::installed::Installed;
use crate::refuse::own_message;
use crate::resolver::{Addresses, look_up};
use crate::steps::enforced;

/// Seconds for which clients may keep an address that the operator wrote down: he may write another one.
const HOSTS_TTL: Duration = Duration::from_secs(60);
/// How often a name is asked for: settings that change under way end the first question.
const TRIES: usize = 2;

/// Who asks, and since when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    pub source: SocketAddr,
    pub listener: u16,
    pub tcp: bool,
    pub came: Instant,
}

/// A question for addresses of a name that this client may resolve.
#[derive(Debug)]
pub(super) struct Question {
    query: Query,
    name: Name,
    client: Client,
}

/// What becomes of a message.
#[derive(Debug)]
pub(super) enum Heard {
    Nothing,
    Reply(Vec<u8>),
    /// The resolver has to be asked.
    Wait(Question),
}

/// The addresses of a name, and where they come from.
struct Found<'a> {
    ips: &'a [IpAddr],
    ttl: Duration,
    origin: Origin,
    stale: bool,
    resolved: Option<Duration>,
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn judge<'a>(policy: &'a Installed, client: &Client, name: &'a Name) -> Resolving<'a> {
    let source = policy.snapshot.source(client.source.ip());
    policy.snapshot.may_resolve(source, name, unix_seconds())
}

/// The type asked for, as records name it.
fn kind_word(kind: u16) -> String {
    match kind {
        kind::A => "A".to_owned(),
        kind::AAAA => "AAAA".to_owned(),
        other => format!("TYPE{other}"),
    }
}

impl Client {
    fn limit(&self, query: &Query) -> usize {
        if self.tcp { MAX_TCP } else { query.udp_limit() }
    }

    fn write(&self, query: &Query, reply: &Reply<'_>) -> Vec<u8> {
        reply.write(query, self.limit(query))
    }

    /// A reply without addresses.
    fn tell(&self, query: &Query, code: Code, error: Option<(u16, &str)>) -> Vec<u8> {
        let error = error.map(|(info, text)| ExtendedError { info, text });
        self.write(query, &Reply { code, addresses: &[], ttl: 0, error })
    }
}

impl Front {
    /// Reads and judges one message; answers it where nobody has to be asked for that.
    pub(super) fn hear(&self, message: &[u8], client: Client) -> Heard {
        self.count(Count::ClientQueries);
        let query = match read_query(message) {
            Ok(query) => query,
            Err(error) => {
                self.count(Count::ClientMalformed);
                return reject(message, error).map_or(Heard::Nothing, Heard::Reply);
            }
        };
        if query.class != CLASS_IN || !query.asks_for_data() {
            self.count(Count::ClientMalformed);
            let code = if query.class == CLASS_IN { Code::NotImp } else { Code::Refused };
            return Heard::Reply(client.tell(
                &query,
                code,
                Some((ExtendedError::NOT_SUPPORTED, "")),
            ));
        }
        let policy = self.policy();
        let name = match query.name() {
            Ok(name) => name,
            Err(error) => {
                let finding = Finding { detail: error.word(), ..refusal(Reason::BadName) };
                return Heard::Reply(self.refuse(&policy, &query, &client, &finding));
            }
        };
        let decision = judge(&policy, &client, &name).decision;
        let kind = kind_word(query.kind);
        let finding = Finding { name: name.as_str(), detail: &kind, ..finding(&decision) };
        if decision.verdict == Verdict::Deny {
            return Heard::Reply(self.refuse(&policy, &query, &client, &finding));
        }
        if !matches!(query.kind, kind::A | kind::AAAA) {
            self.note(&policy, &client, &finding);
            self.count(Count::ClientAnswered);
            return Heard::Reply(client.tell(&query, Code::NoError, None));
        }
        let hosts = policy.snapshot.settings().resolver.hosts.get(&name);
        match hosts {
            Some(ips) => {
                let (ttl, origin) = (HOSTS_TTL, Origin::Operator);
                let found = Found { ips, ttl, origin, stale: false, resolved: None };
                Heard::Reply(self.answer(&query, &name, &client, &found))
            }
            None => Heard::Wait(Question { query, name, client }),
        }
    }

    /// Asks the resolver, and answers.
    pub(super) async fn resolve(self: Rc<Self>, question: Question) -> Vec<u8> {
        let Question { query, name, client } = question;
        let Some(_place) = self.waiting.enter(client.source.ip()) else {
            self.count(Count::ClientOverload);
            let error = Some((ExtendedError::OTHER, Reason::Overloaded.word()));
            return client.tell(&query, Code::ServFail, error);
        };
        let asked = Instant::now();
        let mut answer = Err(Failure::of(End::ResolveFailed));
        for _ in 0..TRIES {
            if let Ok(told) = look_up(&self.resolver, name.clone()).await {
                answer = told;
                break;
            }
        }
        match answer {
            Ok(Addresses { ips, until, stale }) => {
                let ttl = until.saturating_duration_since(Instant::now());
                let resolved = Some(asked.elapsed());
                let found = Found { ips: &ips, ttl, origin: Origin::Resolved, stale, resolved };
                self.answer(&query, &name, &client, &found)
            }
            Err(failure) => self.fail(&query, &client, failure),
        }
    }

    fn fail(&self, query: &Query, client: &Client, failure: Failure) -> Vec<u8> {
        let info = match failure.end {
            End::ResolveNoName => {
                self.count(Count::ClientAnswered);
                let code = if failure.absent { Code::NxDomain } else { Code::NoError };
                return client.tell(query, code, None);
            }
            End::ResolveTimeout => ExtendedError::NO_REACHABLE,
            _ => ExtendedError::NETWORK,
        };
        self.count(Count::ClientFailed);
        client.tell(query, Code::ServFail, Some((info, failure.end.word())))
    }

    /// Answers with the addresses that pass the screen. The policy may have changed since the question came: it is judged
    /// by the one in force now.
    fn answer(&self, query: &Query, name: &Name, client: &Client, found: &Found<'_>) -> Vec<u8> {
        let policy = self.policy();
        let resolving = judge(&policy, client, name);
        let decision = resolving.decision;
        let kind = kind_word(query.kind);
        let finding = Finding {
            name: name.as_str(),
            detail: &kind,
            flags: if found.stale { flags::STALE } else { 0 },
            resolved: found.resolved,
            ..finding(&decision)
        };
        if decision.verdict == Verdict::Deny {
            return self.refuse(&policy, query, client, &finding);
        }
        let wanted = found.ips.iter().map(IpAddr::to_canonical);
        let wanted = wanted.filter(|ip| ip.is_ipv4() == (query.kind == kind::A));
        let (mut passed, mut audited) = (Vec::new(), Vec::new());
        let mut screened_out: Option<(Screened, IpAddr)> = None;
        for ip in wanted {
            match resolving.screen(found.origin, ip).map_err(enforced) {
                Ok(()) => passed.push(ip),
                Err(screened) if screened.audit => audited.push((screened, ip)),
                Err(screened) => screened_out = screened_out.or(Some((screened, ip))),
            }
        }
        // As in dialling: enforcement would tell those that pass; only where none does is there something to say.
        let shown = match audited.first() {
            Some((screened, ip)) if passed.is_empty() => {
                let verdict = Verdict::WouldDeny;
                passed.extend(audited.iter().map(|(_, ip)| *ip));
                Finding { verdict, ..about(finding, screened, *ip) }
            }
            _ => finding,
        };
        if passed.is_empty()
            && let Some((screened, ip)) = screened_out
        {
            self.count(Count::ClientScreened);
            let finding = Finding { verdict: Verdict::Deny, ..about(finding, &screened, ip) };
            return self.refuse(&policy, query, client, &finding);
        }
        self.note(&policy, client, &shown);
        self.count(Count::ClientAnswered);
        let now = Instant::now();
        let mut handed = self.handed.borrow_mut();
        for ip in &passed {
            handed.tell(client.source.ip(), *ip, name, now + found.ttl, now);
        }
        self.counters.set(Count::HandedNames, handed.len() as u64);
        let ttl = u32::try_from(found.ttl.as_secs()).unwrap_or(u32::MAX);
        let stale = ExtendedError { info: ExtendedError::STALE, text: "" };
        let error = found.stale.then_some(stale);
        client.write(query, &Reply { code: Code::NoError, addresses: &passed, ttl, error })
    }

    /// Records what is let through although it would have been refused.
    fn note(&self, policy: &Installed, client: &Client, finding: &Finding<'_>) {
        if finding.verdict == Verdict::WouldDeny {
            self.journal.write(policy, client, finding);
        }
    }

    /// Records the refusal, and tells it with the record's id.
    fn refuse(
        &self,
        policy: &Installed,
        query: &Query,
        client: &Client,
        finding: &Finding<'_>,
    ) -> Vec<u8> {
        self.count(Count::ClientRefused);
        let id = self.journal.write(policy, client, finding);
        let text = if finding.name.is_empty() {
            own_message(finding.reason, End::Refused, finding.detail, "", id)
        } else {
            let rule = finding.rule.and_then(|rule| policy.snapshot.rule(rule));
            let values = MessageValues {
                rule: rule.as_ref().map_or("default", |rule| rule.name),
                decision: &format!("{id:016x}"),
                name: finding.name,
                port: 0,
                source: &client.source.ip().to_string(),
                owner: rule.as_ref().and_then(|rule| rule.owner),
                why: rule.as_ref().and_then(|rule| rule.why),
            };
            let template =
                rule.as_ref().map_or(policy.snapshot.default_message(), |rule| rule.message);
            render_message(template, &values)
        };
        let info = match finding.reason {
            Reason::DefaultDeny => ExtendedError::PROHIBITED,
            Reason::BadName => ExtendedError::OTHER,
            _ => ExtendedError::BLOCKED,
        };
        client.tell(query, Code::Refused, Some((info, &text)))
    }
}

/// What a decision says of a question.
fn finding(decision: &Decision) -> Finding<'static> {
    let Decision { verdict, reason, rule, .. } = *decision;
    Finding { verdict, rule, ..refusal(reason) }
}

fn refusal(reason: Reason) -> Finding<'static> {
    Finding {
        verdict: Verdict::Deny,
        reason,
        rule: None,
        name: "",
        address: None,
        detail: "",
        flags: 0,
        resolved: None,
    }
}

/// The same question, whose address did not pass.
fn about<'a>(finding: Finding<'a>, screened: &Screened, ip: IpAddr) -> Finding<'a> {
    Finding {
        reason: screened.reason,
        rule: screened.rule.or(finding.rule),
        address: Some(ip),
        detail: classify(ip).word(),
        ..finding
    }
}
