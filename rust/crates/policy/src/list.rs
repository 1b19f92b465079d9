//! List files: plain names, one a line, millions of them.

use std::io::Read;

use egress_hello::name::Name;
use memchr::memchr;

use crate::pattern::{Target, is_public_suffix, parse};
use crate::problem::{PathPart, Problems};
use crate::settings::shown;

/// Bytes of one list file: far above what anybody keeps, far below what would exhaust a node.
const MAX_FILE: u64 = 1 << 30;
/// Bad lines that are reported one by one; past that, a count.
const MAX_REPORTED: usize = 20;
/// Bytes of one line; names have at most 253, and UTF-8 spellings a few times that.
const MAX_LINE: usize = 2048;

/// The names of a list, normalised, by form.
#[derive(Debug, Default)]
pub(crate) struct List {
    /// All names, one after the other.
    bytes: Vec<u8>,
    /// (length, form) of each.
    entries: Vec<(u8, u8)>,
    /// Which of the forms exact, below, tree occur.
    pub forms: [bool; 3],
    /// Public suffixes with a wildcard form: (line, text). They need `anywhere` in the rules that use the list.
    pub wide: Vec<(usize, String)>,
}

impl List {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// (name, form) of each line, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], u8)> {
        let mut at = 0;
        self.entries.iter().map(move |(len, form)| {
            let start = at;
            at += usize::from(*len);
            (&self.bytes[start..at], *form)
        })
    }

    fn push(&mut self, form: u8, name: &Name) {
        self.bytes.extend_from_slice(name.as_bytes());
        self.entries.push((name.as_bytes().len() as u8, form));
        self.forms[usize::from(form)] = true;
    }

    /// Reads the text of a list file. `problem` gets bad lines: (line or 0, message).
    pub(crate) fn parse(text: &[u8], mut problem: impl FnMut(usize, String)) -> Self {
        let mut list = Self::default();
        let (mut rest, mut number, mut bad) = (text, 0, 0);
        list.bytes.reserve(text.len());
        while !rest.is_empty() {
            number += 1;
            let end = memchr(b'\n', rest).unwrap_or(rest.len());
            let line = rest[..end].trim_ascii();
            rest = rest.get(end + 1..).unwrap_or_default();
            let line = match memchr(b'#', line) {
                Some(comment) => line[..comment].trim_ascii(),
                None => line,
            };
            if line.is_empty() {
                continue;
            }
            if let Err(message) = list.line(line, number) {
                bad += 1;
                if bad <= MAX_REPORTED {
                    problem(number, message);
                }
            }
        }
        if bad > MAX_REPORTED {
            problem(0, format!("{} more bad lines", bad - MAX_REPORTED));
        }
        list
    }

    fn line(&mut self, line: &[u8], number: usize) -> Result<(), String> {
        let text = std::str::from_utf8(line).map_err(|_| "is not UTF-8".to_owned())?;
        if text.len() > MAX_LINE {
            return Err(format!("has {} bytes; no name is that long", text.len()));
        }
        if text.contains(':') {
            return Err(format!(
                "`{}` has a port or is an address; lists hold plain names, ports stand in the rule",
                shown(text)
            ));
        }
        match parse(text, true) {
            Ok(pattern) => match pattern.target {
                Target::Name(form, name) => {
                    if form != crate::flat::form::EXACT
                        && is_public_suffix(name.as_str())
                        && self.wide.len() < MAX_REPORTED
                    {
                        self.wide.push((number, text.to_owned()));
                    }
                    self.push(form, &name);
                    Ok(())
                }
                _ => Err(format!("`{}` is not a name; write x, *.x or .x", shown(text))),
            },
            Err((_, message, _)) => Err(message),
        }
    }
}

/// Reads the file of a list, and tells `problems` what is wrong with it.
pub(crate) fn load(file: &str, path: &[PathPart], problems: &mut Problems) -> (List, Vec<u8>) {
    let mut text = Vec::new();
    let read = std::fs::File::open(file)
        .and_then(|opened| opened.take(MAX_FILE + 1).read_to_end(&mut text));
    if let Err(error) = read {
        problems.add(
            path.to_vec(),
            "list_unreadable",
            format!("cannot read the list `{}`: {error}", shown(file)),
            "give the path of a readable file with one name a line",
        );
        return (List::default(), Vec::new());
    }
    if text.len() as u64 > MAX_FILE {
        problems.add(
            path.to_vec(),
            "too_many",
            format!("the list `{}` has more than {MAX_FILE} bytes", shown(file)),
            "split it",
        );
        return (List::default(), Vec::new());
    }
    let list = List::parse(&text, |line, message| {
        let place = if line == 0 { String::new() } else { format!(":{line}") };
        problems.add(
            path.to_vec(),
            "bad_list_line",
            format!("{}{place}: {message}", shown(file)),
            "one name a line: x, *.x or .x; # begins a comment",
        );
    });
    (list, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<String>, Vec<(usize, String)>) {
        let mut bad = Vec::new();
        let list = List::parse(text.as_bytes(), |line, message| bad.push((line, message)));
        let names =
            list.iter().map(|(name, form)| format!("{form}{}", String::from_utf8_lossy(name)));
        (names.collect(), bad)
    }

    #[test]
    fn the_three_forms_comments_and_blank_lines() {
        let (names, bad) = read("# ads\n\nAds.example.com \r\n*.b.org # all\n.c.org\nsingle");
        assert_eq!(names, ["0ads.example.com", "1b.org", "2c.org", "0single"]);
        assert!(bad.is_empty());
    }

    #[test]
    fn bad_lines_have_numbers_and_end_in_a_count() {
        let (names, bad) = read("ok.org\na..b\nx.org:443\n1.2.3.4\n*\na b");
        assert_eq!(names, ["0ok.org"]);
        assert_eq!(bad.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
        let (_, bad) = read(&"a..b\n".repeat(1000));
        assert_eq!(bad.len(), 21);
        assert_eq!(bad[20], (0, "980 more bad lines".into()));
    }

    #[test]
    fn public_suffixes_are_remembered() {
        let list = List::parse(b"*.com\n.co.uk\n*.corp\ncom", |_, _| {});
        assert_eq!(list.wide, [(1, "*.com".into()), (2, ".co.uk".into())]);
    }
}
