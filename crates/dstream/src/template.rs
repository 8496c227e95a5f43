//! The template of a `generate` source, parsed.
//!
//! A template is text with `{placeholders}`; [`Template::parse`] is the one place that knows them, so that validation
//! and the connector that makes the lines cannot disagree.

use crate::nearest;

/// A parsed template: its pieces in order make one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pub pieces: Vec<Piece>,
}

/// A part of a generated line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Itself.
    Text(String),
    /// The line's number since zero time.
    Index,
    /// The batch's time in milliseconds.
    BatchTime,
    Word,
    /// Few are frequent, many are rare.
    Hashtag,
    User,
    /// A number in `low..high`, where `low` is below `high`.
    Int {
        low: i64,
        high: i64,
    },
    /// One of these, at least one.
    Pick(Vec<String>),
}

const PLACEHOLDERS: [&str; 7] = ["index", "batch_time", "word", "hashtag", "user", "int", "pick"];

impl Template {
    /// Parses a template; the error is a sentence about its first fault.
    pub fn parse(template: &str) -> Result<Self, String> {
        if template.is_empty() {
            return Err("the template is empty".to_owned());
        }
        if template.contains(['\n', '\r']) {
            return Err("the template has more than one line".to_owned());
        }
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            let after = &rest[at + 1..];
            if let Some(after) = after.strip_prefix(brace) {
                text.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err("a `}` closes nothing; write `}}` for a brace".to_owned());
            }
            let Some(end) = after.find('}') else {
                return Err("a `{` is not closed; write `{{` for a brace".to_owned());
            };
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(placeholder(&after[..end])?);
            rest = &after[end + 1..];
        }
        text.push_str(rest);
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Ok(Self { pieces })
    }
}

fn placeholder(text: &str) -> Result<Piece, String> {
    let (name, argument) = match text.split_once(':') {
        Some((name, argument)) => (name, Some(argument)),
        None => (text, None),
    };
    let piece = match (name, argument) {
        ("index", None) => Piece::Index,
        ("batch_time", None) => Piece::BatchTime,
        ("word", None) => Piece::Word,
        ("hashtag", None) => Piece::Hashtag,
        ("user", None) => Piece::User,
        ("int", Some(range)) => int(range)?,
        ("pick", Some(options)) => Piece::Pick(options.split('|').map(str::to_owned).collect()),
        ("int", None) => return Err("`{int}` needs a range, such as `{int:0..100}`".to_owned()),
        ("pick", None) => return Err("`{pick}` needs choices, such as `{pick:red|green}`".to_owned()),
        (known, Some(_)) if PLACEHOLDERS.contains(&known) => return Err(format!("`{{{known}}}` takes no argument")),
        (unknown, _) => {
            let hint = match nearest(unknown, PLACEHOLDERS) {
                Some(name) => format!("did you mean `{{{name}}}`?"),
                None => format!("known: {}; write `{{{{` for a brace", PLACEHOLDERS.join(", ")),
            };
            return Err(format!("unknown placeholder `{{{unknown}}}`, {hint}"));
        }
    };
    Ok(piece)
}

fn int(range: &str) -> Result<Piece, String> {
    let bounds = range
        .split_once("..")
        .and_then(|(low, high)| Some((low.trim().parse::<i64>().ok()?, high.trim().parse::<i64>().ok()?)));
    match bounds {
        Some((low, high)) if low < high => Ok(Piece::Int { low, high }),
        Some((low, high)) => Err(format!("the range {low}..{high} is empty")),
        None => Err(format!(
            "`{{int:{range}}}` is not a range of whole numbers, such as `{{int:0..100}}`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_is_known_and_doubled_braces_are_text() {
        let template =
            Template::parse("{index} {batch_time}{word} {hashtag} {user} {{x}} {int:-5..5}{pick:a||b}").unwrap();
        let text = |text: &str| Piece::Text(text.to_owned());
        assert_eq!(
            template.pieces,
            [
                Piece::Index,
                text(" "),
                Piece::BatchTime,
                Piece::Word,
                text(" "),
                Piece::Hashtag,
                text(" "),
                Piece::User,
                text(" {x} "),
                Piece::Int { low: -5, high: 5 },
                Piece::Pick(vec!["a".into(), String::new(), "b".into()]),
            ]
        );
    }

    #[test]
    fn a_fault_is_said_in_a_sentence() {
        for (template, message) in [
            ("", "the template is empty"),
            ("a\nb", "the template has more than one line"),
            ("a}b", "a `}` closes nothing; write `}}` for a brace"),
            ("a{b", "a `{` is not closed; write `{{` for a brace"),
            ("{hastag}", "unknown placeholder `{hastag}`, did you mean `{hashtag}`?"),
            ("{int:5..5}", "the range 5..5 is empty"),
            (
                "{int:a..5}",
                "`{int:a..5}` is not a range of whole numbers, such as `{int:0..100}`",
            ),
            ("{int}", "`{int}` needs a range, such as `{int:0..100}`"),
            ("{word:3}", "`{word}` takes no argument"),
        ] {
            assert_eq!(Template::parse(template).unwrap_err(), message);
        }
    }
}
