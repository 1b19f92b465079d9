//! HTML: a page for people, without a script, an image or a link that would have to be fetched.

use super::Refusal;

const STYLE: &str = "body{font:1.1em/1.5 sans-serif;max-width:38em;margin:3em auto;padding:0 1em}\
                     dt{color:#666}dd{margin:0 0 .6em;overflow-wrap:anywhere}";

impl Refusal<'_> {
    pub(super) fn page(&self, status: u16, phrase: &str, word: &str) -> String {
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\">\
             <title>{status} {phrase}</title><style>{STYLE}</style></head>\n\
             <body>\n<h1>{phrase}</h1>\n<p>"
        );
        escape(&mut page, self.message);
        page.push_str("</p>\n<dl>\n");
        let decision = format!("{:016x}", self.flow_id);
        let destination = match self.name {
            "" => String::new(),
            name if name.contains(':') => format!("[{name}]:{}", self.port),
            name => format!("{name}:{}", self.port),
        };
        for (title, value) in [
            ("Destination", destination.as_str()),
            ("Reason", word),
            ("Detail", self.detail),
            ("Rule", self.rule),
            ("Decision", decision.as_str()),
        ] {
            if !value.is_empty() {
                page.push_str("<dt>");
                page.push_str(title);
                page.push_str("</dt><dd>");
                escape(&mut page, value);
                page.push_str("</dd>\n");
            }
        }
        page.push_str("</dl>\n</body>\n</html>\n");
        page
    }
}

/// Text in which a client or the author of a rule had a say, as text between tags.
fn escape(into: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => into.push_str("&amp;"),
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '"' => into.push_str("&quot;"),
            '\'' => into.push_str("&#39;"),
            c => into.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use egress_hello::http::Preference;
    use egress_policy::{Accept, End, Reason};

    use super::super::tests::refusal;
    use super::*;

    #[test]
    fn nothing_of_a_client_or_a_rule_is_markup() {
        let hostile = "<script>'&\"";
        let page = Refusal {
            message: hostile,
            name: hostile,
            rule: hostile,
            detail: hostile,
            prefers: Preference::Page,
            ..refusal(Reason::RuleDeny, End::Refused)
        }
        .answer(Accept::Connect);
        let text = String::from_utf8(page).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("Content-Type: text/html; charset=utf-8\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        assert_eq!(body.matches("&lt;script&gt;&#39;&amp;&quot;").count(), 4, "{body}");
        assert!(!body.contains("<script"), "{body}");
        assert!(body.contains("<dd>0000000000000abc</dd>"), "{body}");
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let told = Refusal { name: "", ..refusal(Reason::Malformed, End::Refused) };
        let page = told.page(400, "Bad Request", "malformed");
        assert!(!page.contains("Destination") && !page.contains("Rule"), "{page}");
        let told = Refusal { name: "::1", ..refusal(Reason::DefaultDeny, End::Refused) };
        assert!(told.page(403, "Forbidden", "default_deny").contains("<dd>[::1]:443</dd>"));
    }
}
