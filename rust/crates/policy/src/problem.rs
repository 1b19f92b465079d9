//! What is wrong with a policy: every problem at once, each with the place in the document it is about.

use std::fmt;

use serde::Serialize;

use crate::settings::shown;

/// One step of the way from the document's root to the offending value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum PathPart {
    Key(String),
    Index(usize),
}

impl From<&str> for PathPart {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for PathPart {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// Something that the author of the policy has to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where, in the normalised document.
    pub path: Vec<PathPart>,
    /// A stable word for machines, such as `bad_name` or `tie`.
    pub code: &'static str,
    pub message: String,
    /// What to write or do instead; never empty.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, part) in self.path.iter().enumerate() {
            match part {
                PathPart::Key(key) if position == 0 => f.write_str(&shown(key))?,
                PathPart::Key(key) => write!(f, ".{}", shown(key))?,
                PathPart::Index(index) => write!(f, "[{index}]")?,
            }
        }
        write!(f, ": {}", self.message)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, " (fix: {})", self.fix) }
    }
}

/// Problems as they are found; compilation goes on so that the author sees all of them.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: Vec<Problem>,
}

impl Problems {
    pub(crate) fn add(
        &mut self,
        path: Vec<PathPart>,
        code: &'static str,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.found.push(Problem { path, code, message: message.into(), fix: fix.into() });
    }

    pub(crate) fn len(&self) -> usize {
        self.found.len()
    }

    pub(crate) fn into_result(self) -> Result<(), Vec<Problem>> {
        if self.found.is_empty() { Ok(()) } else { Err(self.found) }
    }
}

/// Builds a path: `place!["rules", 3, "to", 1]`.
macro_rules! place {
    ($($part:expr),* $(,)?) => { vec![$($crate::problem::PathPart::from($part)),*] };
}
pub(crate) use place;

/// The candidate closest to `word`, if it is close enough to be what the author meant
/// (at most a third of the letters differ).
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let limit = (word.len() / 3).max(1);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let distance = edit_distance(word.as_bytes(), candidate.as_bytes(), limit)?;
            Some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap of neighbours) that turn `a` into `b`; `None` above `limit`.
pub(crate) fn edit_distance(a: &[u8], b: &[u8], limit: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > limit {
        return None;
    }
    let width = b.len() + 1;
    let (mut before, mut last) = (vec![0; width], (0..width).collect::<Vec<usize>>());
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1; width];
        for (j, y) in b.iter().enumerate() {
            row[j + 1] = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        if row.iter().min().is_some_and(|least| *least > limit) {
            return None;
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().filter(|distance| *distance <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted_up_to_the_limit() {
        assert_eq!(edit_distance(b"stripe", b"stripe", 2), Some(0));
        assert_eq!(edit_distance(b"stirpe", b"stripe", 2), Some(1));
        assert_eq!(edit_distance(b"stpe", b"stripe", 2), Some(2));
        assert_eq!(edit_distance(b"paypal", b"stripe", 2), None);
        assert_eq!(edit_distance(b"", b"ab", 2), Some(2));
    }

    #[test]
    fn the_nearest_word_is_proposed_and_a_far_one_is_not() {
        assert_eq!(nearest("awz", ["aws", "gcp"]), Some("aws"));
        assert_eq!(nearest("azure", ["aws", "gcp"]), None);
    }

    #[test]
    fn a_problem_reads_as_a_line() {
        let problem = Problem {
            path: place!["rules", 3, "to", 1],
            code: "bad_name",
            message: "no".into(),
            fix: "yes".into(),
        };
        assert_eq!(problem.to_string(), "rules[3].to[1]: no (fix: yes)");
    }
}
