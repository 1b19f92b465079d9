//! The users file: who may log in, `name:hash` one a line, as `htpasswd` writes it.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use zerocopy::little_endian::U32;

use crate::flat::{Section, Text, UserRecord};
use crate::from::check_user;
use crate::problem::{PathPart, Problems};
use crate::settings::shown;
use crate::snapshot::Snapshot;

/// Bytes of a users file, and users in it: far above what one gateway serves.
const MAX_FILE: u64 = 64 << 20;
const MAX_USERS: usize = 100_000;
/// Who can write to it decides who may log in. Reading is another matter: Kubernetes mounts Secrets readable by all, and
/// the hashes are made to be hard to guess from.
const OTHERS_WRITE: u32 = 0o002;
/// Bad lines that are reported one by one; past that, a count.
const MAX_REPORTED: usize = 20;

/// Users with their hashes, sorted by name.
#[derive(Default)]
pub(crate) struct Users {
    pub records: Vec<UserRecord>,
    pub texts: Vec<u8>,
}

/// Reads the file, and tells `problems` what is wrong with it. No hash gets into a problem.
pub(crate) fn load(file: &str, path: &[PathPart], problems: &mut Problems) -> (Users, Vec<u8>) {
    let mut text = Vec::new();
    let read = std::fs::File::open(file).and_then(|opened| {
        let mode = opened.metadata()?.permissions().mode();
        opened.take(MAX_FILE + 1).read_to_end(&mut text)?;
        Ok(mode)
    });
    if read.as_ref().is_ok_and(|mode| mode & OTHERS_WRITE != 0) {
        problems.add(
            path.to_vec(),
            "users_writable",
            format!("anybody on this machine can write to the users file `{}`", shown(file)),
            "take that right away: chmod o-w",
        );
    }
    let failed = match read {
        Err(error) => Some(format!("cannot read the users file `{}`: {error}", shown(file))),
        Ok(_) if text.len() as u64 > MAX_FILE => {
            Some(format!("the users file `{}` has more than {MAX_FILE} bytes", shown(file)))
        }
        Ok(_) => None,
    };
    if let Some(message) = failed {
        problems.add(
            path.to_vec(),
            "users_unreadable",
            message,
            "give the path of a readable file of `name:hash` lines",
        );
        return (Users::default(), Vec::new());
    }
    let mut bad = 0;
    let mut report = |line: usize, message: String, fix: String| {
        bad += 1;
        if bad <= MAX_REPORTED {
            problems.add(
                path.to_vec(),
                "bad_users_line",
                format!("{}:{line}: {message}", shown(file)),
                fix,
            );
        }
    };
    let users = parse(&text, &mut report);
    if bad > MAX_REPORTED {
        let message = format!("{}: {} more bad lines", shown(file), bad - MAX_REPORTED);
        problems.add(
            path.to_vec(),
            "bad_users_line",
            message,
            "mend the lines that are named, and check again",
        );
    }
    (users, text)
}

fn parse(text: &[u8], report: &mut impl FnMut(usize, String, String)) -> Users {
    let mut found: Vec<(&str, &str)> = Vec::new();
    let mut lines: HashMap<&str, usize> = HashMap::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let Ok(line) = std::str::from_utf8(line) else {
            report(number, "is not UTF-8".to_owned(), "write the file in UTF-8".to_owned());
            continue;
        };
        // What follows the hash belongs to other programs (a comment, groups).
        let Some((name, rest)) = line.split_once(':') else {
            let fix = "write `name:hash`, as `htpasswd -nB -C 12 USER` prints it".to_owned();
            report(number, "has no colon between a name and a hash".to_owned(), fix);
            continue;
        };
        if let Err((_, message, fix)) = check_user(name) {
            report(number, message, fix);
            continue;
        }
        if let Some(first) = lines.insert(name, number) {
            let message = format!("`{}` stands in line {first} already", shown(name));
            report(number, message, "remove one of the two".to_owned());
            continue;
        }
        let hash = rest.split(':').next().unwrap_or_default().trim_ascii();
        if let Err(refused) = egress_password::check(hash) {
            report(number, format!("`{}`: {}", shown(name), refused.message), refused.fix);
            continue;
        }
        if found.len() == MAX_USERS {
            let message = format!("more than {MAX_USERS} users");
            report(number, message, "run several gateways, or use client certificates".to_owned());
            break;
        }
        found.push((name, hash));
    }
    found.sort_unstable();
    let mut users = Users::default();
    for (name, hash) in found {
        let mut put = |text: &str| {
            let at = U32::new(users.texts.len() as u32);
            users.texts.extend_from_slice(text.as_bytes());
            Text { at, len: U32::new(text.len() as u32) }
        };
        let record = UserRecord { name: put(name), hash: put(hash) };
        users.records.push(record);
    }
    users
}

impl Snapshot {
    pub(crate) fn user_text(&self, text: Text) -> &[u8] {
        let at = text.at.get() as usize;
        let all = self.raw(Section::UserTexts);
        all.get(at..at.saturating_add(text.len.get() as usize)).unwrap_or_default()
    }

    fn users(&self) -> &[UserRecord] {
        self.section(Section::Users)
    }

    /// The hash of a user's password; `None` for whoever may not log in.
    pub fn user_hash(&self, user: &[u8]) -> Option<&str> {
        let at =
            self.users().binary_search_by(|record| self.user_text(record.name).cmp(user)).ok()?;
        std::str::from_utf8(self.user_text(self.users().get(at)?.hash)).ok()
    }

    /// Whether the same users may log in by the same passwords.
    pub fn same_users(&self, other: &Self) -> bool {
        [Section::Users, Section::UserTexts]
            .into_iter()
            .all(|part| self.raw(part) == other.raw(part))
    }

    /// A hash to check the password of an unknown user against, so that the time that it takes does not tell: for equal
    /// `choice` the same. `None` where nobody may log in.
    pub fn decoy_hash(&self, choice: u64) -> Option<&str> {
        let users = self.users();
        let at = choice.checked_rem(users.len() as u64)?;
        std::str::from_utf8(self.user_text(users.get(at as usize)?.hash)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2b$10$abcdefghijklmnopqrstuuqflPDzB6gcMhKa1rZqKiun2YGL5sa2u";

    #[test]
    fn lines_are_read_and_bad_ones_are_named_without_their_hash() {
        let text = format!(
            "# who\n\nalice:{HASH}\n bob:{HASH}:a comment\r\nal:plain-secret\n:x\nno-colon-secret\nalice:{HASH}\nc\u{1b}:{HASH}\nd:$apr1$secret"
        );
        let mut said = Vec::new();
        let users =
            parse(text.as_bytes(), &mut |line, message, fix| said.push((line, message, fix)));
        assert_eq!(users.records.len(), 2);
        assert_eq!(said.iter().map(|(line, ..)| *line).collect::<Vec<_>>(), [5, 6, 7, 8, 9, 10]);
        for (line, message, fix) in said {
            assert!(
                !message.contains("secret") && !message.contains("$2b$") && !fix.is_empty(),
                "{line}: {message}"
            );
            assert!(!message.contains(char::is_control), "{message:?}");
        }
        let mut said = 0;
        parse(b"a:\xff", &mut |_, _, _| said += 1);
        assert_eq!(said, 1);
    }
}
