//! Who a rule is about: the items of `from`, and the evidence that is demanded, checked.

use crate::document::{Rule, Source};
use crate::flat::NONE;
use crate::pattern::{Fault, parse_net};
use crate::problem::{Problems, nearest, place};
use crate::rules::MAX_ITEMS;
use crate::settings::shown;
use crate::source::{MAX_SPIFFE, MAX_TLV, MAX_USER, SPIFFE_SCHEME, is_spiffe_id};
use crate::sources::{SourceKey, SourcesBuilder};
use crate::vocab::Evidence;

/// The provisional numbers of a rule's sources, each once.
pub(crate) fn sources(
    rule: &Rule,
    index: usize,
    out: &mut SourcesBuilder,
    problems: &mut Problems,
) -> Vec<u32> {
    let evidence = evidence(rule, index, problems);
    if rule.from.is_empty() {
        let anybody = SourceKey::default().demanding(evidence);
        return vec![if anybody == SourceKey::default() { NONE } else { out.number(anybody) }];
    }
    if rule.from.len() > MAX_ITEMS {
        problems.add(
            place!["rules", index, "from"],
            "too_many",
            format!("{} sources; at most {MAX_ITEMS} are possible in a rule", rule.from.len()),
            "use wider networks, or several rules",
        );
        return Vec::new();
    }
    let mut found = Vec::with_capacity(rule.from.len());
    for (position, source) in rule.from.iter().enumerate() {
        let before = problems.len();
        let mut report = |key: &str, (code, message, fix): Fault| {
            problems.add(place!["rules", index, "from", position, key], code, message, fix);
        };
        let key = read(source, &mut report);
        if key == SourceKey::default() && problems.len() == before {
            problems.add(
                place!["rules", index, "from", position],
                "empty_source",
                "the source says nothing of who it is",
                "add cidr, user, spiffe or tlv, or remove `from` to mean anybody",
            );
        } else if problems.len() == before {
            found.push(out.number(key.demanding(evidence)));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn evidence(rule: &Rule, index: usize, problems: &mut Problems) -> Evidence {
    let Some(word) = &rule.evidence else { return Evidence::Address };
    let words = || Evidence::WORDS.iter().map(|(_, word)| *word);
    let found = Evidence::WORDS.iter().find(|(_, known)| known == word);
    let evidence = found.and_then(|(number, _)| Evidence::from_number(*number));
    let Some(evidence) = evidence else {
        let fix = nearest(word, words()).map_or_else(
            || format!("write one of {}", words().collect::<Vec<_>>().join(", ")),
            |near| format!("did you mean `{near}`?"),
        );
        let message = format!("`{}` is no evidence", shown(word));
        problems.add(place!["rules", index, "evidence"], "bad_evidence", message, fix);
        return Evidence::Address;
    };
    if rule.deny && evidence != Evidence::Address {
        problems.add(
            place!["rules", index, "evidence"],
            "deny_has_terms",
            "a deny rule that demands evidence would let through who shows less",
            "remove `evidence`; to let in only who shows it, put it into the allow rules",
        );
    }
    evidence
}

fn read(source: &Source, report: &mut impl FnMut(&str, Fault)) -> SourceKey {
    let mut key = SourceKey::default();
    let mut take =
        |name: &str, text: &Option<String>, check: &dyn Fn(&str) -> Result<(), Fault>| {
            let text = text.as_deref()?;
            match check(text) {
                Ok(()) => Some(text.to_owned()),
                Err(fault) => {
                    report(name, fault);
                    None
                }
            }
        };
    key.user = take("user", &source.user, &check_user);
    key.tlv = take("tlv", &source.tlv, &check_tlv);
    // Of `x/*` the star goes: what lies below x begins with `x/`.
    key.spiffe = take("spiffe", &source.spiffe, &check_spiffe)
        .map(|id| id.strip_suffix('*').map_or(id.clone(), str::to_owned));
    match source.cidr.as_deref().map(parse_net) {
        Some(Ok(net)) => key.net = Some(net),
        Some(Err(fault)) => report("cidr", fault),
        None => {}
    }
    key
}

/// No colon, which ends a user in HTTP (RFC 7617, section 2), and nothing that a log would have to escape.
pub(crate) fn check_user(user: &str) -> Result<(), Fault> {
    if !(1..=MAX_USER).contains(&user.len())
        || user.contains(':')
        || user.contains(char::is_control)
    {
        return Err((
            "bad_user",
            format!("`{}` is not a user", shown(user)),
            format!(
                "write 1 to {MAX_USER} bytes without colons and control characters, as in the users file"
            ),
        ));
    }
    Ok(())
}

fn check_tlv(value: &str) -> Result<(), Fault> {
    if (1..=MAX_TLV).contains(&value.len()) {
        return Ok(());
    }
    let message = format!("`{}` is not the value of a TLV that names a source", shown(value));
    Err(("bad_tlv", message, format!("write 1 to {MAX_TLV} bytes")))
}

fn check_spiffe(text: &str) -> Result<(), Fault> {
    let id = text.strip_suffix("/*").unwrap_or(text);
    if is_spiffe_id(id) && text.len() <= MAX_SPIFFE {
        return Ok(());
    }
    let rest = text.strip_prefix(SPIFFE_SCHEME).unwrap_or(text);
    let fix = if rest.strip_suffix("/*").unwrap_or(rest).contains('*') {
        "`*` stands for whole segments at the end only, such as spiffe://cluster.local/ns/payments/*".to_owned()
    } else if is_spiffe_id(&format!("{SPIFFE_SCHEME}{}", rest.strip_suffix("/*").unwrap_or(rest))) {
        format!("write {SPIFFE_SCHEME}{}", shown(rest))
    } else {
        "write spiffe://TRUST-DOMAIN/PATH, such as spiffe://cluster.local/ns/payments/sa/api"
            .to_owned()
    };
    Err(("bad_spiffe", format!("`{}` is not a SPIFFE ID", shown(text)), fix))
}
