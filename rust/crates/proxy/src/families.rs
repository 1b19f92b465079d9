//! One name, two questions: A and AAAA at once, neither held up by the other for long (RFC 8305, section 3).
//!
//! Name servers and load balancers that answer A and stay silent, fail or deny the name for AAAA are common: what one
//! family's failure must not do is take the other with it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use egress_hello::name::Name;
use egress_policy::End;
use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

/// Addresses kept of one family; dialling gives up long before it has tried as many.
const MAX_ADDRESSES: usize = 8;
/// How long one family's addresses wait for the other's. A question that was lost is sent again after 333 ms, which
/// this leaves room for; beyond that a connection now is worth more than a choice.
const RESOLUTION_DELAY: Duration = Duration::from_millis(500);

/// How a resolution has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub end: End,
    /// The name does not exist, for any type (RFC 8020).
    pub absent: bool,
}

impl Failure {
    pub(crate) fn of(end: End) -> Self {
        Self { end, absent: false }
    }
}

/// The addresses of `name` and until when they hold.
///
/// # Errors
/// `ResolveNoName` when both families say so; otherwise the worst that either met. hickory bounds each attempt;
/// `patience` bounds the whole, servers and transports together.
pub(crate) async fn lookup(
    resolver: &TokioResolver,
    name: &Name,
    patience: Duration,
) -> Result<(Arc<[IpAddr]>, Instant), Failure> {
    let mut families = JoinSet::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        families.spawn_local(family(resolver.clone(), format!("{name}."), kind));
    }
    let mut deadline = tokio::time::Instant::now() + patience;
    let mut found: Option<(Vec<IpAddr>, Instant)> = None;
    let mut failure = Failure { end: End::ResolveNoName, absent: true };
    loop {
        let outcome = match timeout_at(deadline, families.join_next()).await {
            Ok(None) => break,
            Ok(Some(joined)) => joined.unwrap_or(Err(Failure::of(End::ResolveFailed))),
            Err(_) => Err(Failure::of(End::ResolveTimeout)),
        };
        match outcome {
            Ok((ips, until)) => {
                let (all, earliest) = found.get_or_insert((Vec::new(), until));
                all.extend(ips);
                *earliest = until.min(*earliest);
                deadline = deadline.min(tokio::time::Instant::now() + RESOLUTION_DELAY);
            }
            Err(met) => {
                failure = worse(failure, met);
                if tokio::time::Instant::now() >= deadline {
                    break;
                }
            }
        }
    }
    match found {
        Some((ips, until)) => Ok((ips.into(), until)),
        None => Err(failure),
    }
}

async fn family(
    resolver: TokioResolver,
    name: String,
    kind: RecordType,
) -> Result<(Vec<IpAddr>, Instant), Failure> {
    let lookup = resolver.lookup(name, kind).await.map_err(|error| failure_of(&error))?;
    // Aliases on the way are records of other types.
    let addresses = lookup.answers().iter().filter_map(|record| match record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    });
    let addresses: Vec<IpAddr> = addresses.take(MAX_ADDRESSES).collect();
    if addresses.is_empty() {
        return Err(Failure::of(End::ResolveNoName));
    }
    Ok((addresses, lookup.valid_until()))
}

/// That a name does not exist is only believed when nothing else went wrong.
fn worse(one: Failure, other: Failure) -> Failure {
    let end = match (one.end, other.end) {
        (End::ResolveFailed, _) | (_, End::ResolveFailed) => End::ResolveFailed,
        (End::ResolveTimeout, _) | (_, End::ResolveTimeout) => End::ResolveTimeout,
        _ => End::ResolveNoName,
    };
    Failure { end, absent: one.absent && other.absent }
}

fn failure_of(error: &NetError) -> Failure {
    let end = match error {
        NetError::Timeout => End::ResolveTimeout,
        error if error.is_nx_domain() || error.is_no_records_found() => End::ResolveNoName,
        _ => End::ResolveFailed,
    };
    Failure { end, absent: error.is_nx_domain() }
}
