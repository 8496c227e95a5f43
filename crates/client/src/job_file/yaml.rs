//! Writes YAML: the sections of a job in blocks, short settings in braces on one line.

use std::fmt::Write;

/// A value to write.
pub(super) enum Value {
    /// A word that needs no quotes: a number, a truth value, a duration.
    Word(String),
    Text(String),
    List(Vec<Value>, Layout),
    Map(Vec<(String, Value)>, Layout),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Each element on lines of its own.
    Block,
    /// On one line, in brackets or braces, where that fits.
    Short,
}

impl Value {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    pub(super) fn word(word: impl ToString) -> Self {
        Self::Word(word.to_string())
    }

    /// Settings, on one line where they fit.
    pub(super) fn map(entries: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        Self::Map(
            entries
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
            Layout::Short,
        )
    }

    /// Texts, on one line where they fit.
    pub(super) fn list<'a>(items: impl IntoIterator<Item = &'a String>) -> Self {
        Self::List(items.into_iter().map(|item| Self::text(item)).collect(), Layout::Short)
    }

    /// On one line, in braces or brackets.
    fn flow(&self, out: &mut String) {
        match self {
            Self::Word(word) => out.push_str(word),
            Self::Text(text) => write_text(&escaped(text), out),
            Self::List(items, _) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    item.flow(out);
                }
                out.push(']');
            }
            Self::Map(entries, _) => {
                out.push('{');
                for (index, (key, value)) in entries.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    write_key(key, out);
                    out.push_str(": ");
                    value.flow(out);
                }
                out.push('}');
            }
        }
    }
}

/// Writes a mapping as a document.
pub(super) fn document(entries: &[(&str, Value)]) -> String {
    let mut out = String::new();
    for (key, value) in entries {
        write_text(key, &mut out);
        out.push(':');
        below(value, 0, &mut out);
    }
    out
}

const WIDTH: usize = 110;

/// Writes what stands behind `key:`: on the same line, or below it, indented.
fn below(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::List(items, layout) if !items.is_empty() && (*layout == Layout::Block || !fits(value, indent)) => {
            out.push('\n');
            for item in items {
                pad(indent + 2, out);
                out.push('-');
                in_list(item, indent + 2, out);
            }
        }
        Value::Map(entries, layout) if !entries.is_empty() && (*layout == Layout::Block || !fits(value, indent)) => {
            out.push('\n');
            for (key, value) in entries {
                pad(indent + 2, out);
                write_key(key, out);
                out.push(':');
                below(value, indent + 2, out);
            }
        }
        value => {
            out.push(' ');
            value.flow(out);
            out.push('\n');
        }
    }
}

/// Writes what stands behind `-`. A mapping of one key keeps the key on the line.
fn in_list(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Map(entries, _) if entries.len() == 1 => {
            out.push(' ');
            write_text(&entries[0].0, out);
            out.push(':');
            below(&entries[0].1, indent + 2, out);
        }
        value => {
            out.push(' ');
            value.flow(out);
            out.push('\n');
        }
    }
}

fn fits(value: &Value, indent: usize) -> bool {
    let mut line = String::new();
    value.flow(&mut line);
    line.len() + indent <= WIDTH
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// A text that is not a reference to a variable.
fn escaped(text: &str) -> String {
    text.replace("${", "$${")
}

/// A key. Only readers of old YAML take `on` for a truth value.
fn write_key(key: &str, out: &mut String) {
    if key == "on" {
        out.push_str(key);
    } else {
        write_text(key, out);
    }
}

/// A plain scalar where that is safe anywhere, else one in double quotes.
fn write_text(text: &str, out: &mut String) {
    if is_plain(text) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Controls, other line breaks and the byte order mark.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') => {
                // A String takes all that is written.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn is_plain(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '/' | '.'))
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ' ' | '(' | ')' | '*'))
        && !text.ends_with(' ')
        // Readers take a dash before a comma or brace, which may follow, for the begin of a list.
        && !text.ends_with(" -")
        && !text.starts_with("...")
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "null" | "true" | "false" | "yes" | "no" | "on" | "off" | ".nan" | ".inf"
        )
}
