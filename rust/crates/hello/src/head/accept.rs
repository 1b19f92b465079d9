//! In which form a client would rather read a refusal (RFC 9110 §12.5.1).

/// Weights are thousandths: a qvalue has at most three decimals (RFC 9110 §12.4.2).
const FULL: u16 = 1000;

/// A form that a refusal can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preference {
    /// What a person at a terminal can read; also where nothing is asked for by name, as `*/*` does.
    #[default]
    Text,
    /// `application/json`, or a type that ends in `+json`, is asked for, and no text is wanted more.
    Json,
    /// `text/html` is asked for, and neither plain text nor JSON is wanted more: a browser.
    Page,
}

/// Reads the values of all Accept fields.
pub(crate) fn preference<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Preference {
    let (mut json, mut page, mut plain) = (0, 0, 0);
    for range in fields.flat_map(|field| field.split(|&byte| byte == b',')) {
        let mut parts = range.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        let kind = parts.next().unwrap_or_default();
        let weight = parts.find_map(weight).unwrap_or(FULL);
        if kind.eq_ignore_ascii_case(b"application/json")
            || (begins(kind, b"application/") && ends(kind, b"+json"))
        {
            json = weight.max(json);
        } else if kind.eq_ignore_ascii_case(b"text/html")
            || kind.eq_ignore_ascii_case(b"application/xhtml+xml")
        {
            page = weight.max(page);
        } else if begins(kind, b"text/") {
            plain = weight.max(plain);
        }
    }
    if json > 0 && json >= plain.max(page) {
        Preference::Json
    } else if page > 0 && page >= plain {
        Preference::Page
    } else {
        Preference::Text
    }
}

fn begins(kind: &[u8], with: &[u8]) -> bool {
    kind.get(..with.len()).is_some_and(|part| part.eq_ignore_ascii_case(with))
}

fn ends(kind: &[u8], with: &[u8]) -> bool {
    let at = kind.len().checked_sub(with.len());
    at.and_then(|at| kind.get(at..)).is_some_and(|part| part.eq_ignore_ascii_case(with))
}

/// `q=0.8` as 800; a parameter of another name is `None`, a weight that is not one counts as 0.
fn weight(parameter: &[u8]) -> Option<u16> {
    let digits = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="))?;
    Some(match digits {
        [b'1'] => FULL,
        [b'1', b'.', zeros @ ..] if zeros.len() <= 3 && zeros.iter().all(|&byte| byte == b'0') => {
            FULL
        }
        [b'0'] => 0,
        [b'0', b'.', decimals @ ..]
            if decimals.len() <= 3 && decimals.iter().all(u8::is_ascii_digit) =>
        {
            let places = [100, 10, 1];
            decimals.iter().zip(places).map(|(&digit, place)| u16::from(digit - b'0') * place).sum()
        }
        _ => 0,
    })
}
