//! Hashes that other programs made are verified; weak, costly and broken ones are refused, and never quoted.

use egress_password::{check, verify};

/// (password, hash, who made it).
const MADE: [(&str, &str, &str); 5] = [
    (
        "password",
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "the reference implementation's test",
    ),
    ("abc", "$2a$10$WvvTPHKwdBJ3uk0Z37EMR.hLA2W6N9AEBhEgrAOljy2Ae5MtaSIUi", "jBCrypt's test"),
    ("secret", BCRYPT, "libxcrypt"),
    (
        "secret",
        "$scrypt$ln=14,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$41uBuEIHgVau41v1q9BTZzisnSi/olB0DbA83e36fiY",
        "OpenSSL, through Python's hashlib",
    ),
    (
        "secret",
        "$6$saltsalt$TVLlQcbpFVof5W3Yz4DTP6gRstiNuHwwTt6GLc1E5n0U0aDehy0S5knV8wiOQSpT0Y77vwPZN.Pq.H91p5hVO1",
        "openssl passwd -6",
    ),
];
const BCRYPT: &str = "$2b$10$abcdefghijklmnopqrstuuqflPDzB6gcMhKa1rZqKiun2YGL5sa2u";

#[test]
fn hashes_of_others_are_verified_and_no_other_password_is() {
    for (password, hash, made_by) in MADE {
        assert_eq!(check(hash), Ok(()), "{made_by}");
        assert!(verify(password.as_bytes(), hash), "{made_by}");
        for wrong in ["", "Secret", "secre", "secrets", "secret\0", "password\0x", "abc\0"] {
            assert!(!verify(wrong.as_bytes(), hash), "{made_by}: {wrong:?}");
        }
    }
}

#[test]
fn of_a_long_password_every_byte_counts() {
    // bcrypt reads 72 bytes: two passwords that begin alike would be one.
    assert!(!verify(&[b'a'; 73], BCRYPT));
}

#[test]
fn weak_costly_and_broken_hashes_are_refused_without_being_quoted() {
    let [(_, argon2, _), (_, bcrypt, _), _, (_, scrypt, _), (_, sha, _)] = MADE;
    for (hash, message) in [
        ("hunter2".to_owned(), "no hash"),
        (String::new(), "no hash"),
        ("$apr1$x$y".to_owned(), "MD5"),
        ("$1$x$y".to_owned(), "MD5"),
        ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=".to_owned(), "SHA-1"),
        ("rl0uE0wU1k6/2".to_owned(), "old crypt"),
        ("$5$salt$hash".to_owned(), "SHA-256"),
        ("$y$j9T$salt$hash".to_owned(), "yescrypt"),
        ("$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1a".to_owned(), "Argon2i "),
        ("$unknown$x".to_owned(), "no kind"),
        (argon2.replace("m=65536", "m=1024"), "cheap"),
        (argon2.replace("m=65536", "m=4194304"), "hold up"),
        (argon2.replace("t=2", "t=999"), "hold up"),
        (argon2.replace("$m=", "$x="), "broken"),
        (argon2.replace("v=19$", ""), "version"),
        (argon2.replace("$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", ""), "end"),
        (bcrypt.replace("$10$", "$04$"), "cheap"),
        (bcrypt.replace("$10$", "$31$"), "hold up"),
        (bcrypt[..59].to_owned(), "broken"),
        (bcrypt.replace("MtaSIUi", "MtaSI:i"), "broken"),
        (scrypt.replace("ln=14", "ln=2"), "cheap"),
        (scrypt.replace("ln=14", "ln=24"), "hold up"),
        (scrypt.replace("ln=14", "ln=63"), "hold up"),
        (sha.replace("$6$", "$6$rounds=1000$"), "cheap"),
        (sha.replace("$6$", "$6$rounds=999999999$"), "hold up"),
        (sha.replace("saltsalt", "saltsaltsaltsalts"), "broken"),
        ("$2b$".repeat(500), "long"),
    ] {
        let refused = check(&hash).expect_err(&hash);
        assert!(refused.message.contains(message), "{hash}: {refused:?}");
        assert!(!refused.fix.is_empty());
        let end = hash.get(hash.len().saturating_sub(8)..).filter(|end| end.len() == 8);
        assert!(end.is_none_or(|end| !refused.message.contains(end)), "{refused:?}");
    }
}
