//! Who may log in: what a snapshot knows of them, and what of a listener's `login` is refused.
#![allow(clippy::unwrap_used, clippy::panic)]
mod support;

use std::path::PathBuf;

use egress_policy::{Login, Problem, Snapshot, reseal};
use serde_json::{Value, json};
use support::*;

const HASH: &str = "$2b$10$abcdefghijklmnopqrstuuqflPDzB6gcMhKa1rZqKiun2YGL5sa2u";
const OTHER: &str = "$2a$10$WvvTPHKwdBJ3uk0Z37EMR.hLA2W6N9AEBhEgrAOljy2Ae5MtaSIUi";

fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn listening(
    accept: &[&str],
    login: &str,
    users: Option<&PathBuf>,
) -> Result<Snapshot, Vec<Problem>> {
    try_open(json!([]), |document: &mut Value| {
        document["settings"]["listeners"] = json!([
            {"name": "in", "bind": "127.0.0.1:1", "accept": accept, "port": null, "to": null, "login": login}
        ]);
        document["users"] = users.map_or(Value::Null, |file| json!({ "file": file }));
    })
}

fn users(name: &str, text: &str) -> Snapshot {
    listening(&["connect"], "required", Some(&file(name, text))).unwrap()
}

#[test]
fn users_are_found_by_their_very_bytes() {
    let three = users("three", &format!("bob:{OTHER}\nalice:{HASH}\nb\u{fc}cher:{HASH}\n"));
    assert_eq!(three.user_hash(b"alice"), Some(HASH));
    assert_eq!(three.user_hash(b"bob"), Some(OTHER));
    assert_eq!(three.user_hash("b\u{fc}cher".as_bytes()), Some(HASH));
    for unknown in [&b""[..], b"Alice", b"alic", b"alicea", b"alice\0", b"b\xfccher", b"$2b$"] {
        assert_eq!(three.user_hash(unknown), None, "{unknown:?}");
    }
    for choice in 0..9 {
        let decoy = three.decoy_hash(choice);
        assert!(decoy == Some(HASH) || decoy == Some(OTHER));
        assert_eq!(decoy, three.decoy_hash(choice));
    }
    assert_eq!(three.settings().listeners[0].login, Login::Required);
    let nobody = open(json!([]));
    assert_eq!((nobody.user_hash(b"alice"), nobody.decoy_hash(7)), (None, None));
}

#[test]
fn a_changed_file_is_another_policy() {
    let one = users("one", &format!("alice:{HASH}\n"));
    let same = users("same", &format!("# comments do not count\nalice:{HASH}:of the team\n"));
    assert!(one.same_users(&same));
    for text in [format!("alice:{OTHER}\n"), format!("alicf:{HASH}\n"), String::new()] {
        let other = users("other", &text);
        assert!(!one.same_users(&other), "{text}");
        assert_ne!(one.digest(), other.digest(), "{text}");
    }
}

#[test]
fn a_forged_snapshot_never_panics() {
    let path = file("forged", &format!("alice:{HASH}\nbob:{OTHER}\n"));
    let bytes = egress_policy::compile(&document(json!([]), |document| {
        document["users"] = json!({ "file": path });
    }))
    .unwrap();
    let mut opened = 0;
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xff, bytes[at].wrapping_add(1), bytes[at].wrapping_sub(1)] {
            let mut forged = bytes.clone();
            forged[at] = value;
            reseal(&mut forged);
            if let Ok(snapshot) = Snapshot::open(forged) {
                opened += 1;
                let _ = (snapshot.user_hash(b"alice"), snapshot.user_hash(b"zoe"));
                let _ = (snapshot.decoy_hash(0), snapshot.decoy_hash(u64::MAX));
                assert!(snapshot.same_users(&snapshot));
            }
        }
    }
    assert!(opened > 100, "the forgeries must get past the checksum: {opened}");
}

#[test]
fn a_login_needs_a_way_to_say_it_and_somebody_who_can() {
    let file = file("fine", &format!("alice:{HASH}\n"));
    for accept in [&["connect"][..], &["http"], &["socks5"], &["connect", "http", "socks5"]] {
        for login in ["off", "optional", "required"] {
            assert!(listening(accept, login, Some(&file)).is_ok(), "{accept:?} {login}");
        }
    }
    assert!(listening(&["tls", "connect"], "optional", Some(&file)).is_ok());
    for (accept, login, users, code) in [
        (&["tls"][..], "optional", Some(&file), "no_login"),
        (&["tls"], "required", Some(&file), "no_login"),
        (&["transparent"], "optional", Some(&file), "no_login"),
        (&["postgres"], "required", Some(&file), "no_login"),
        (&["tls", "connect"], "required", Some(&file), "no_login"),
        (&["connect"], "required", None, "no_users"),
        (&["socks5"], "optional", None, "no_users"),
    ] {
        let problems = listening(accept, login, users).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].code, code, "{accept:?} {login}");
        assert!(!problems[0].fix.is_empty());
    }
}
