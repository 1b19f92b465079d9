//! Hashes of a users file: which are taken, and whether a password is the one behind a hash.
//!
//! [`check`] is asked once for each line when a policy is loaded, [`verify`] for each login. Verifying takes tens of
//! milliseconds by design: it is nothing for a thread that carries connections.
#![forbid(unsafe_code)]

use argon2::{Argon2, PasswordHash};
use scrypt::Scrypt;
use scrypt::password_hash::PasswordVerifier;
use sha_crypt::ShaCrypt;

/// KiB that verifying one login may take, for Argon2 and scrypt: logins come one after the other, and the gateway's memory
/// is sized for connections.
const MAX_KIB: u64 = 256 * 1024;
/// KiB below which Argon2id is cheap to guess (OWASP, "Password Storage Cheat Sheet": its smallest setting).
const MIN_ARGON2_KIB: u64 = 7 * 1024;
/// Passes and lanes of Argon2: more would only make one login hold up the next.
const MAX_ARGON2: u64 = 16;
/// The logarithm of bcrypt's rounds: 10 is OWASP's least, 15 takes about 2 s.
const BCRYPT_COST: std::ops::RangeInclusive<u32> = 10..=15;
/// The logarithm of scrypt's N.
const MIN_SCRYPT_LOG_N: u64 = 14;
/// Rounds of SHA-512 crypt: 5,000 is what it has when it does not say, a million takes about a second.
const SHA_ROUNDS: std::ops::RangeInclusive<u64> = 5_000..=1_000_000;
/// Bytes of the longest hash that is looked at.
const MAX_HASH: usize = 512;

/// What to do instead.
const FIX: &str = "make it anew, such as by `htpasswd -nB -C 12 USER` (bcrypt) or `argon2 SALT -id -e` (Argon2id)";

/// Why a hash is not taken. Nothing of the hash stands in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub message: String,
    pub fix: String,
}

fn refused(message: impl Into<String>) -> Result<(), Refused> {
    Err(Refused { message: message.into(), fix: FIX.to_owned() })
}

/// How a hash was made, told by how it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Argon2id,
    Bcrypt,
    Scrypt,
    Sha512Crypt,
}

fn scheme(hash: &str) -> Option<Scheme> {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| hash.starts_with(prefix));
    if begins(&["$argon2id$"]) {
        Some(Scheme::Argon2id)
    } else if begins(&["$2a$", "$2b$", "$2y$"]) {
        Some(Scheme::Bcrypt)
    } else if begins(&["$scrypt$"]) {
        Some(Scheme::Scrypt)
    } else if begins(&["$6$"]) {
        Some(Scheme::Sha512Crypt)
    } else {
        None
    }
}

/// What a hash that is not taken probably is.
fn told(hash: &str) -> &'static str {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| hash.starts_with(prefix));
    if begins(&["$1$", "$apr1$"]) {
        "an MD5 hash, which is guessed in no time"
    } else if begins(&["{SHA}", "{SSHA}"]) {
        "a SHA-1 hash, which is guessed in no time"
    } else if begins(&["$argon2i$", "$argon2d$"]) {
        "an Argon2i or Argon2d hash; the one for passwords is Argon2id"
    } else if begins(&["$5$"]) {
        "a SHA-256 crypt hash; SHA-512 crypt (`$6$`) is taken"
    } else if begins(&["$y$", "$7$", "$gy$"]) {
        "a yescrypt hash, which this version does not verify"
    } else if begins(&["$"]) {
        "a hash of no kind that is taken"
    } else if hash.len() == 13
        && hash.bytes().all(|b| b.is_ascii_alphanumeric() || b"./".contains(&b))
    {
        "a hash of the old crypt, of which only 8 characters count"
    } else {
        "no hash: a password in plain words, or something else"
    }
}

/// Whether `hash` is one that logins may be checked against.
///
/// # Errors
/// When it is of a kind that is guessed too fast, so cheap or so costly that it would be of no use, or broken.
pub fn check(hash: &str) -> Result<(), Refused> {
    if hash.len() > MAX_HASH {
        return refused(format!("a hash of {} bytes; none is that long", hash.len()));
    }
    let Some(scheme) = scheme(hash) else { return refused(format!("this is {}", told(hash))) };
    match scheme {
        Scheme::Argon2id => check_argon2(hash),
        Scheme::Scrypt => check_scrypt(hash),
        Scheme::Bcrypt => check_bcrypt(hash),
        Scheme::Sha512Crypt => check_sha512(hash),
    }
}

fn between(what: &str, value: u64, least: u64, most: u64) -> Result<(), Refused> {
    if value < least {
        return refused(format!("{what} is {value}: cheap to guess; at least {least} is taken"));
    }
    if value > most {
        return refused(format!(
            "{what} is {value}: every login would hold up others; at most {most} is taken"
        ));
    }
    Ok(())
}

fn check_argon2(hash: &str) -> Result<(), Refused> {
    let Ok(parsed) = PasswordHash::new(hash) else { return refused("a broken Argon2id hash") };
    if ["m", "t", "p"].iter().any(|name| parsed.params.get_decimal(*name).is_none()) {
        return refused("a broken Argon2id hash");
    }
    let param = |name| parsed.params.get_decimal(name).map_or(0, u64::from);
    between("its memory (m, in KiB)", param("m"), MIN_ARGON2_KIB, MAX_KIB)?;
    between("its passes (t)", param("t"), 1, MAX_ARGON2)?;
    between("its lanes (p)", param("p"), 1, MAX_ARGON2)?;
    if parsed.salt.is_none() || parsed.hash.is_none() || parsed.version != Some(19) {
        return refused("an Argon2id hash without its version (19), its salt or its end");
    }
    Ok(())
}

fn check_scrypt(hash: &str) -> Result<(), Refused> {
    let Ok(parsed) = PasswordHash::new(hash) else { return refused("a broken scrypt hash") };
    let param = |name| parsed.params.get_decimal(name).map_or(0, u64::from);
    let (log_n, r, p) = (param("ln"), param("r"), param("p"));
    between("its N (ln)", log_n, MIN_SCRYPT_LOG_N, 24)?;
    between("its r", r, 1, 64)?;
    between("its p", p, 1, MAX_ARGON2)?;
    between("its memory (KiB)", (r << log_n) * 128 / 1024, 1, MAX_KIB)?;
    if parsed.salt.is_none() || parsed.hash.is_none() {
        return refused("a scrypt hash without its salt or its end");
    }
    Ok(())
}

fn check_bcrypt(hash: &str) -> Result<(), Refused> {
    let cost = hash.split('$').nth(2).and_then(|cost| cost.parse::<u32>().ok());
    let Some(cost) = cost else { return refused("a broken bcrypt hash") };
    between("its cost", cost.into(), (*BCRYPT_COST.start()).into(), (*BCRYPT_COST.end()).into())?;
    let rest = hash.splitn(4, '$').nth(3).unwrap_or_default();
    let base64 = |b: u8| b.is_ascii_alphanumeric() || b"./".contains(&b);
    if hash.len() != 60 || rest.len() != 53 || !rest.bytes().all(base64) {
        return refused("a broken bcrypt hash");
    }
    Ok(())
}

fn check_sha512(hash: &str) -> Result<(), Refused> {
    let fields: Vec<&str> = hash.split('$').skip(2).collect();
    let (rounds, rest) = match fields.as_slice() {
        [rounds, rest @ ..] if rounds.starts_with("rounds=") => {
            (rounds.trim_start_matches("rounds=").parse().unwrap_or(0), rest)
        }
        rest => (*SHA_ROUNDS.start(), rest),
    };
    between("its rounds", rounds, *SHA_ROUNDS.start(), *SHA_ROUNDS.end())?;
    let base64 = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"./".contains(&b));
    match rest {
        [salt, digest]
            if (1..=16).contains(&salt.len())
                && digest.len() == 86
                && base64(salt)
                && base64(digest) =>
        {
            Ok(())
        }
        _ => refused("a broken SHA-512 crypt hash"),
    }
}

/// Whether `password` is the one behind `hash`; `false` also for a hash that [`check`] refuses. None holds a NUL: scrypt,
/// through HMAC, takes a password and the same with NULs behind it for one.
pub fn verify(password: &[u8], hash: &str) -> bool {
    if password.contains(&0) {
        return false;
    }
    match scheme(hash) {
        Some(Scheme::Argon2id) => Argon2::default().verify_password(password, hash).is_ok(),
        Some(Scheme::Scrypt) => PasswordHash::new(hash)
            .is_ok_and(|hash| Scrypt::default().verify_password(password, &hash).is_ok()),
        // Of a longer password only 72 bytes would count.
        Some(Scheme::Bcrypt) => bcrypt::non_truncating_verify(password, hash).unwrap_or(false),
        Some(Scheme::Sha512Crypt) => ShaCrypt::default().verify_password(password, hash).is_ok(),
        None => false,
    }
}
