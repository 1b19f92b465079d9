//! From the normalised document to a snapshot: everything is checked, all problems are told at once.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::budgets;
use crate::document::{self, Document};
use crate::flat::FORMAT;
use crate::layout;
use crate::list::{self, List};
use crate::message::check_template;
use crate::problem::{Problem, Problems, place};
use crate::rules::{self, References};
use crate::settings::{Login, Settings, printable};
use crate::shaping::Shaping;
use crate::users::{self, Users};

/// List files of one policy, and names over all of them (a name takes about 40 bytes in memory).
const MAX_LISTS: usize = 64;
const MAX_NAMES: usize = 16_000_000;

/// Compiles a normalised policy document (JSON), reading the list files that it names. The result
/// is what [`crate::Snapshot::open`] takes.
///
/// # Errors
/// All problems of the policy at once, in no particular order.
pub fn compile(document: &[u8]) -> Result<Vec<u8>, Vec<Problem>> {
    let mut problems = Problems::default();
    let parsed: Document = match serde_json::from_slice(document) {
        Ok(parsed) => parsed,
        Err(error) => {
            problems.add(
                Vec::new(),
                "bad_document",
                printable(&format!("not a normalised policy document: {error}")),
                "report this: the control plane and the data plane are of different versions",
            );
            problems.into_result()?;
            return Err(Vec::new());
        }
    };
    if parsed.v != document::VERSION {
        problems.add(
            place!["v"],
            "bad_version",
            format!("document version {}; this build reads {}", parsed.v, document::VERSION),
            "report this: the control plane and the data plane are of different versions",
        );
    }
    Settings::check(&parsed.settings, &mut problems);
    if let Err((message, fix)) = check_template(&parsed.default.message) {
        problems.add(place!["default", "message"], "bad_message", message, fix);
    }
    // Equal inputs give an equal digest, whatever the seed; a changed list is a changed policy.
    let mut digest = Sha256::new();
    digest.update(FORMAT.to_le_bytes());
    digest.update((document.len() as u64).to_le_bytes());
    digest.update(document);
    let lists = load_lists(&parsed, &mut digest, &mut problems);
    let users = load_users(&parsed, &mut digest, &mut problems);
    let references = References {
        groups: rules::groups(&parsed, &mut problems),
        lists: lists
            .iter()
            .enumerate()
            .map(|(number, (name, list))| (*name, (number as u16, list)))
            .collect::<HashMap<_, _>>(),
    };
    let mut found = rules::expand(&parsed, &references, &mut problems);
    budgets::check(&parsed, &mut problems);
    found.shaping = Shaping::check(&parsed, &mut problems);
    let edges = layout::edges(&parsed, &found, &mut problems);
    problems.into_result()?;
    let written = match random_seed() {
        Ok(seed) => {
            layout::write(&parsed, &found, &edges, &lists, &users, digest.finalize().into(), seed)
                .map_err(|error| error.to_string())
        }
        Err(error) => Err(format!("no random numbers: {error}")),
    };
    written.map_err(|message| {
        vec![Problem { path: Vec::new(), code: "internal", message, fix: String::new() }]
    })
}

/// Lists by name; their numbers are their places.
fn load_lists<'a>(
    document: &'a Document,
    digest: &mut Sha256,
    problems: &mut Problems,
) -> Vec<(&'a str, List)> {
    if document.lists.len() > MAX_LISTS {
        problems.add(
            place!["lists"],
            "too_many",
            format!("{} lists; at most {MAX_LISTS} are possible", document.lists.len()),
            "join their files",
        );
        return Vec::new();
    }
    let mut lists = Vec::with_capacity(document.lists.len());
    for (name, file) in &document.lists {
        rules::check_reference_name(name, place!["lists", name.as_str()], problems);
        let here = place!["lists", name.as_str(), "file"];
        let (list, text) = list::load(&file.file, &here, problems);
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(&text);
        lists.push((name.as_str(), list));
    }
    let names: usize = lists.iter().map(|(_, list)| list.len()).sum();
    if names > MAX_NAMES {
        problems.add(
            place!["lists"],
            "too_many",
            format!("{names} names in all lists; at most {MAX_NAMES} are possible"),
            "remove names that a shorter *.x covers",
        );
    }
    lists
}

/// Who may log in; a listener that asks for a login needs somebody who can.
fn load_users(document: &Document, digest: &mut Sha256, problems: &mut Problems) -> Users {
    if let Some(file) = &document.users {
        let (users, text) = users::load(&file.file, &["users".into(), "file".into()], problems);
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(&text);
        return users;
    }
    let asks = |listener: &document::Listener| listener.login != Login::Off;
    if let Some(index) = document.settings.listeners.iter().position(asks) {
        problems.add(
            place!["settings", "listeners", index, "login"],
            "no_users",
            "a login is asked for, but nobody may log in",
            "say who: add `users: { file: users.txt }`, lines of `name:hash`",
        );
    }
    Users::default()
}

fn random_seed() -> Result<u64, getrandom::Error> {
    getrandom::u64()
}
