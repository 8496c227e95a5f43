//! Reads typed values out of a tree and collects what is wrong.
//!
//! A reading function gives `None` after it has recorded a fault, and its caller goes on with the next value, so that
//! one pass finds all faults. Nothing is built while there is one.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use tidemill_dstream::{AccumulatorDef, Diagnostic};

use super::document::{Data, Entry, Node};
use super::substitute::{ParseOptions, Substitution};

/// The faults of one file, and where its settings stand.
pub(super) struct Reader<'a> {
    pub(super) faults: Vec<Diagnostic>,
    substitution: Substitution<'a>,
    /// The line of each key by its path, for faults that are found later.
    lines: HashMap<String, u32>,
    /// Accumulators that steps have declared for themselves.
    pub(super) unnamed: Vec<AccumulatorDef>,
}

/// A mapping whose keys are known and there once.
pub(super) struct Settings<'n> {
    pub(super) path: String,
    pub(super) line: u32,
    entries: Vec<&'n Entry>,
}

impl<'n> Settings<'n> {
    pub(super) fn get(&self, key: &str) -> Option<&'n Rc<Node>> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &'n Entry> + '_ {
        self.entries.iter().copied()
    }

    pub(super) fn at(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// The entries of which something is true, and all others.
    pub(super) fn partition(self, is_true: impl FnMut(&&'n Entry) -> bool) -> (Self, Self) {
        let (entries, others) = self.entries.into_iter().partition(is_true);
        let others = Self {
            path: self.path.clone(),
            line: self.line,
            entries: others,
        };
        (Self { entries, ..self }, others)
    }
}

/// The path of a setting inside of another.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(options: &'a ParseOptions) -> Self {
        Self {
            faults: Vec::new(),
            substitution: Substitution::new(options),
            lines: HashMap::new(),
            unnamed: Vec::new(),
        }
    }

    pub(super) fn line_of(&self, path: &str) -> Option<u32> {
        self.lines.get(path).copied()
    }

    /// Records faults about values that nothing in the file uses. Called last.
    pub(super) fn finish(&mut self) {
        self.faults.extend(self.substitution.unused());
    }

    pub(super) fn fault(&mut self, line: u32, path: &str, message: impl Into<String>) {
        self.faults.push(Diagnostic::new(Some(line), path, message));
    }

    pub(super) fn hinted(&mut self, line: u32, path: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.faults.push(Diagnostic::new(Some(line), path, message).hint(hint));
    }

    pub(super) fn unknown(&mut self, line: u32, path: &str, what: &str, name: &str, known: &[&str]) {
        let fault = Diagnostic::new(Some(line), path, format!("unknown {what} `{name}`"));
        self.faults.push(fault.suggest(name, known.iter().copied()));
    }

    pub(super) fn expected(&mut self, node: &Node, path: &str, what: &str) {
        let found = match &node.data {
            Data::Scalar(scalar) if !node.is_null() => format!("`{}`", clipped(&scalar.text)),
            _ => node.kind().to_owned(),
        };
        self.fault(node.line, path, format!("expected {what}, found {found}"));
    }

    // === mappings and lists ===

    /// A mapping with any keys, each there once.
    pub(super) fn mapping<'n>(&mut self, node: &'n Node, path: &str, what: &str) -> Option<Settings<'n>> {
        let Data::Map(all) = &node.data else {
            self.expected(node, path, what);
            return None;
        };
        let mut seen = HashSet::new();
        let mut entries = Vec::with_capacity(all.len());
        for entry in all {
            let at = join(path, &entry.key);
            if seen.insert(entry.key.as_str()) {
                self.lines.insert(at, entry.line);
                entries.push(entry);
            } else {
                let first = self
                    .line_of(&at)
                    .map_or_else(String::new, |line| format!(", first on line {line}"));
                self.fault(
                    entry.line,
                    &at,
                    format!("the key `{}` is there twice{first}", entry.key),
                );
            }
        }
        Some(Settings {
            path: path.to_owned(),
            line: node.line,
            entries,
        })
    }

    /// A mapping with keys of `known` only.
    pub(super) fn settings<'n>(&mut self, node: &'n Node, path: &str, known: &[&str]) -> Option<Settings<'n>> {
        let what = match known {
            [] => "{}".to_owned(),
            known => format!("a mapping with {}", known.join(", ")),
        };
        let mut settings = self.mapping(node, path, &what)?;
        settings.entries.retain(|entry| {
            let is_known = known.contains(&entry.key.as_str());
            if !is_known {
                self.unknown(entry.line, &join(path, &entry.key), "key", &entry.key, known);
            }
            is_known
        });
        Some(settings)
    }

    /// A mapping with exactly one key: the name of a kind, and its settings.
    pub(super) fn kind<'n>(&mut self, node: &'n Node, path: &str, what: &str, known: &[&str]) -> Option<&'n Entry> {
        let settings = self.mapping(node, path, &format!("{{{what}: settings}}"))?;
        let mut entries = settings.entries();
        match (entries.next(), entries.next()) {
            (Some(entry), None) => Some(entry),
            (None, _) => {
                self.hinted(
                    node.line,
                    path,
                    format!("no {what}"),
                    format!("known: {}", known.join(", ")),
                );
                None
            }
            (Some(first), Some(second)) => {
                let message = format!(
                    "one {what} is expected here, found `{}` and `{}`",
                    first.key, second.key
                );
                let hint = "the settings belong under its name, in braces or indented further";
                self.hinted(second.line, path, message, hint);
                None
            }
        }
    }

    pub(super) fn list<'n>(&mut self, node: &'n Node, path: &str, what: &str) -> Option<&'n [Rc<Node>]> {
        match &node.data {
            Data::List(items) => Some(items),
            _ => {
                self.expected(node, path, what);
                None
            }
        }
    }

    // === scalars ===

    /// A text, with its variables' values in it.
    pub(super) fn text(&mut self, node: &Node, path: &str, what: &str) -> Option<String> {
        match &node.data {
            Data::Scalar(scalar) if !node.is_null() => match self.substitution.apply(&scalar.text) {
                Ok(text) => Some(text),
                Err((message, hint)) => {
                    let fault = Diagnostic::new(Some(node.line), path, message);
                    self.faults.push(Diagnostic { hint, ..fault });
                    None
                }
            },
            _ => {
                self.expected(node, path, what);
                None
            }
        }
    }

    /// An SQL expression; `null` is one.
    pub(super) fn expression(&mut self, node: &Node, path: &str) -> Option<String> {
        match &node.data {
            Data::Scalar(scalar) if scalar.plain && scalar.text.eq_ignore_ascii_case("null") => {
                Some(scalar.text.clone())
            }
            Data::Scalar(scalar) if scalar.plain && scalar.text.is_empty() => {
                let hint = "an expression with a comma or a brace has to stand in quotes";
                self.hinted(node.line, path, "expected an expression, found nothing", hint);
                None
            }
            _ => self.text(node, path, "an expression"),
        }
    }

    fn parsed<T>(&mut self, node: &Node, path: &str, what: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(node, path, what)?;
        let value = parse(text.trim());
        if value.is_none() {
            self.fault(node.line, path, format!("expected {what}, found `{}`", clipped(&text)));
        }
        value
    }

    pub(super) fn number<T: TryFrom<u64> + std::fmt::Display>(&mut self, node: &Node, path: &str, max: T) -> Option<T> {
        let what = format!("a whole number up to {max}");
        self.parsed(node, path, &what, |text| T::try_from(text.parse::<u64>().ok()?).ok())
    }

    pub(super) fn decimal(&mut self, node: &Node, path: &str) -> Option<f64> {
        self.parsed(node, path, "a number", |text| text.parse().ok())
    }

    /// What a scalar says, if it can be told; no faults are recorded.
    pub(super) fn peek(&mut self, node: &Node) -> Option<String> {
        match &node.data {
            Data::Scalar(scalar) => self.substitution.apply(&scalar.text).ok(),
            _ => None,
        }
    }

    pub(super) fn boolean(&mut self, node: &Node, path: &str) -> Option<bool> {
        self.parsed(node, path, "true or false", |text| match text {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            _ => None,
        })
    }

    /// A duration with its unit.
    pub(super) fn duration(&mut self, node: &Node, path: &str) -> Option<Duration> {
        let what = "a duration such as 10s, 200ms or 1m 30s";
        let text = self.text(node, path, what)?;
        let text = text.trim();
        if text.parse::<f64>().is_ok() {
            let message = format!("`{}` has no unit", clipped(text));
            self.hinted(
                node.line,
                path,
                message,
                format!("write {text}s for seconds, {text}ms for milliseconds"),
            );
            return None;
        }
        match humantime::parse_duration(text) {
            Ok(duration) => Some(duration),
            Err(error) => {
                self.hinted(
                    node.line,
                    path,
                    format!("expected {what}, found `{}`", clipped(text)),
                    error.to_string(),
                );
                None
            }
        }
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(&mut self, node: &Node, path: &str, what: &str, known: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let text = self.text(node, path, &names.join(" or "))?;
        let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if found.is_none() {
            self.unknown(node.line, path, what, &text, &names);
        }
        found
    }

    // === settings of a mapping ===

    /// The value of a key that has to be there.
    pub(super) fn required<'n>(&mut self, settings: &Settings<'n>, key: &str) -> Option<&'n Rc<Node>> {
        let node = settings.get(key);
        if node.is_none() {
            self.fault(settings.line, &settings.path, format!("`{key}` is missing"));
        }
        node
    }

    pub(super) fn required_text(&mut self, settings: &Settings<'_>, key: &str) -> Option<String> {
        let node = self.required(settings, key)?;
        self.text(node, &settings.at(key), "a text")
    }

    /// The value of a key that may be missing: `Some(None)`, where `None` is a fault.
    pub(super) fn optional<T>(
        &mut self,
        settings: &Settings<'_>,
        key: &str,
        read: impl FnOnce(&mut Self, &Node, &str) -> Option<T>,
    ) -> Option<Option<T>> {
        match settings.get(key) {
            None => Some(None),
            Some(node) => read(self, node, &settings.at(key)).map(Some),
        }
    }
}

/// As much of a text as fits a message.
fn clipped(text: &str) -> String {
    const LENGTH: usize = 100;
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
