//! What a refused client is told: the template of a rule or of the default, filled in.

use std::fmt::Display;

/// Bytes of a template, and of what becomes of it: a denial fits one packet with room for its headers.
pub const MAX_MESSAGE: usize = 1024;

/// The placeholders that a template may hold.
pub(crate) const PLACEHOLDERS: [&str; 7] =
    ["rule", "decision", "name", "port", "source", "owner", "why"];

/// What the placeholders stand for. Absent values are rendered as `-`.
#[derive(Debug, Clone, Copy, Default)]
pub struct MessageValues<'a> {
    /// The rule's name, or `default`.
    pub rule: &'a str,
    /// The id that people quote to the operators.
    pub decision: &'a str,
    pub name: &'a str,
    pub port: u16,
    pub source: &'a str,
    pub owner: Option<&'a str>,
    pub why: Option<&'a str>,
}

/// Fills in `template`. The result has at most [`MAX_MESSAGE`] bytes and no control characters, as
/// names come from clients and the text goes to terminals and into header lines. `{{` is a brace.
pub fn render_message(template: &str, values: &MessageValues<'_>) -> String {
    let mut out = String::with_capacity(template.len().min(MAX_MESSAGE) + 64);
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        push(&mut out, &rest[..at]);
        let tail = &rest[at..];
        if tail.starts_with("{{") || tail.starts_with("}}") {
            push(&mut out, &tail[..1]);
            rest = &tail[2..];
            continue;
        }
        let word = tail.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let Some((word, after)) = word else {
            push(&mut out, &tail[..1]);
            rest = &tail[1..];
            continue;
        };
        match word {
            "rule" => push(&mut out, values.rule),
            "decision" => push(&mut out, values.decision),
            "name" => push(&mut out, values.name),
            "port" => push(&mut out, values.port),
            "source" => push(&mut out, values.source),
            "owner" => push(&mut out, values.owner.unwrap_or("-")),
            "why" => push(&mut out, values.why.unwrap_or("-")),
            // Compilation refuses other words; a hostile snapshot gets them back as they are.
            other => push(&mut out, format!("{{{other}}}")),
        }
        rest = after;
    }
    push(&mut out, rest);
    out
}

fn push(out: &mut String, value: impl Display) {
    for c in value.to_string().chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > MAX_MESSAGE {
            return;
        }
        out.push(c);
    }
}

/// The first thing in `template` that [`render_message`] would not understand, and what to do about it.
pub(crate) fn check_template(template: &str) -> Result<(), (String, String)> {
    if template.len() > MAX_MESSAGE {
        return Err((
            format!("the message has {} bytes; at most {MAX_MESSAGE} are possible", template.len()),
            "say less, or put a link".into(),
        ));
    }
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        let tail = &rest[at..];
        if tail.starts_with("{{") || tail.starts_with("}}") {
            rest = &tail[2..];
            continue;
        }
        let Some((word, after)) = tail.strip_prefix('{').and_then(|inner| inner.split_once('}'))
        else {
            return Err((
                "the message has a brace without its counterpart".into(),
                "a brace as such is written twice: {{ or }}".into(),
            ));
        };
        if !PLACEHOLDERS.contains(&word) {
            let known = PLACEHOLDERS.map(|p| format!("{{{p}}}")).join(" ");
            let fix = crate::problem::nearest(word, PLACEHOLDERS)
                .map_or(format!("the placeholders are {known}"), |near| {
                    format!("did you mean {{{near}}}?")
                });
            return Err((
                format!(
                    "the message has an unknown placeholder {{{}}}",
                    crate::settings::shown(word)
                ),
                fix,
            ));
        }
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values<'a>() -> MessageValues<'a> {
        MessageValues {
            rule: "ads",
            decision: "00ff",
            name: "a.b",
            port: 443,
            source: "10.0.0.1",
            owner: None,
            why: Some("x"),
        }
    }

    #[test]
    fn placeholders_are_filled_in() {
        let template = "{rule} {decision} {name}:{port} {source} {owner} {why} {{x}}";
        assert_eq!(render_message(template, &values()), "ads 00ff a.b:443 10.0.0.1 - x {x}");
    }

    #[test]
    fn the_result_is_bounded_and_has_no_control_characters() {
        let evil = "\u{1b}[2J\r\nü".repeat(2000);
        let text = render_message("{name}", &MessageValues { name: &evil, ..values() });
        assert!(text.len() <= MAX_MESSAGE && !text.chars().any(char::is_control));
        assert!(text.starts_with("[2Jü"));
    }

    #[test]
    fn unknown_placeholders_and_lone_braces_are_refused() {
        assert!(check_template("{rule} {{}} ok").is_ok());
        let (message, fix) = check_template("{decison}").expect_err("misspelt");
        assert!(message.contains("{decison}") && fix.contains("{decision}"));
        assert!(check_template("a { b").is_err());
        assert!(check_template("a } b").is_err());
        assert!(check_template(&"x".repeat(1025)).is_err());
    }

    #[test]
    fn rendering_never_panics_on_odd_templates() {
        for template in ["{", "}", "{}", "{{{", "}}}", "{a", "a}", "{ü}", "{{}", "{rule"] {
            render_message(template, &values());
        }
    }
}
