//! Basic credentials of a client of an HTTP proxy (RFC 7617, RFC 9110 §11.7.2).
use std::fmt;

/// Most bytes of a user, as in SOCKS (RFC 1929 §2).
pub const MAX_USER: usize = 255;
/// Most bytes of a password: far above what anybody types or generates.
pub const MAX_PASSWORD: usize = 1024;

/// Who a client says it is. `Debug` does not print the password, and dropping it overwrites it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user, 1 to 255 bytes of the client's choosing: escape them before they are shown.
    pub user: Box<[u8]>,
    password: Box<[u8]>,
}

impl Credentials {
    /// A user and a password, as they came; `None` where one is too long, or the user empty.
    pub fn new(user: &[u8], password: &[u8]) -> Option<Self> {
        let sound = (1..=MAX_USER).contains(&user.len()) && password.len() <= MAX_PASSWORD;
        sound.then(|| Self { user: user.into(), password: password.into() })
    }

    /// The password, for whoever checks it.
    pub fn password(&self) -> &[u8] {
        &self.password
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        wipe(&mut self.password);
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, ..)", self.user.escape_ascii())
    }
}

/// Overwrites what was secret, in a way that the compiler cannot take for useless.
pub fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

/// What the Proxy-Authorization fields of a request say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ProxyLogin {
    /// There is none.
    #[default]
    Absent,
    /// One of the Basic scheme.
    Basic(Credentials),
    /// Another scheme, two of them, or credentials that cannot be read.
    Unreadable,
}

impl ProxyLogin {
    /// Reads the fields' values.
    pub fn read<'a>(mut fields: impl Iterator<Item = &'a [u8]>) -> Self {
        match (fields.next(), fields.next()) {
            (None, _) => Self::Absent,
            (Some(value), None) => credentials(value).map_or(Self::Unreadable, Self::Basic),
            (Some(_), Some(_)) => Self::Unreadable,
        }
    }
}

/// `Basic` and a base64 of user, colon, password. The user ends at the first colon (RFC 7617 §2).
fn credentials(value: &[u8]) -> Option<Credentials> {
    let value = value.trim_ascii();
    let (scheme, encoded) = value.split_at_checked(5)?;
    if !scheme.eq_ignore_ascii_case(b"basic") || encoded.first() != Some(&b' ') {
        return None;
    }
    let mut plain = base64(encoded.trim_ascii_start())?;
    let colon = plain.iter().position(|byte| *byte == b':');
    let found = colon.and_then(|colon| Credentials::new(&plain[..colon], &plain[colon + 1..]));
    wipe(&mut plain);
    found
}

/// Base64 with its padding (RFC 4648 §4). Bits that stand for nothing must be 0: one text has one spelling.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    // What would be longer than both parts and their colon is not read.
    const MOST: usize = (MAX_USER + 1 + MAX_PASSWORD).div_ceil(3) * 4;
    if text.len() > MOST || !text.len().is_multiple_of(4) {
        return None;
    }
    let pads = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if pads > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in &text[..text.len() - pads] {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    (bits == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        match ProxyLogin::read(std::iter::once(value)) {
            ProxyLogin::Basic(found) => Some((found.user.to_vec(), found.password().to_vec())),
            _ => None,
        }
    }

    #[test]
    fn credentials_are_read() {
        // RFC 7617 §2 and §2.1.
        let said = |user: &str, password: &str| Some((user.into(), password.into()));
        assert_eq!(read(b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), said("Aladdin", "open sesame"));
        assert_eq!(read(b"basic dGVzdDoxMjPCow=="), said("test", "123\u{a3}"));
        assert_eq!(read(b"BASIC  YTpiOmM="), said("a", "b:c"));
        assert_eq!(read(b"Basic YTo="), said("a", ""));
        assert_eq!(read(b"Basic YQA6Yg=="), Some((b"a\0".to_vec(), b"b".to_vec())));
    }

    #[test]
    fn what_is_no_basic_credential_is_unreadable() {
        for value in [
            &b""[..],
            b"Basic",
            b"Basic ",
            b"BasicYTpi",
            b"Bearer YTpi",
            b"Basic YTpi=",
            b"Basic YTp",
            b"Basic YWI=",
            b"Basic OmI=",
            b"Basic Y!pi",
            b"Basic YTo=YTo=",
            b"Basic ====",
            b"Basic YTp=",
            b"Basic YTpi YTpi",
            b"Basic \xff\xff\xff\xff",
        ] {
            assert_eq!(
                ProxyLogin::read(std::iter::once(value)),
                ProxyLogin::Unreadable,
                "{value:?}"
            );
        }
        let long = [b"Basic ".as_slice(), &b"YTph".repeat(500)].concat();
        assert_eq!(read(&long), None);
        assert_eq!(
            ProxyLogin::read([&b"Basic YTpi"[..], b"Basic YTpi"].into_iter()),
            ProxyLogin::Unreadable
        );
        assert_eq!(ProxyLogin::read(std::iter::empty()), ProxyLogin::Absent);
    }

    #[test]
    fn a_password_is_not_printed() {
        let found = Credentials::new(b"al\nice", b"hunter2");
        assert_eq!(format!("{found:?}"), "Some(Credentials(al\\nice, ..))");
    }
}
