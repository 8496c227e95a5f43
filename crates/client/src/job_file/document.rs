//! A YAML text as a tree that knows its lines.
//!
//! The tree is built from parser events with an explicit stack, so no text can exhaust the call stack: nesting and the
//! number of nodes, aliases counted as what they stand for, are bounded. Scalars keep their text; what it means
//! depends on where it stands and is decided by the reader.

use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};
use tidemill_dstream::Diagnostic;

/// A job file is four mappings deep where it is deepest; more than this is not a job file.
const MAX_DEPTH: usize = 64;
/// A queue of literal lines may be long; a few aliases of aliases can be longer than memory.
const MAX_NODES: usize = 1_000_000;

/// A value and the line that it begins on, from 1.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) data: Data,
    /// Nodes in it, itself included, with aliases counted in full.
    size: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Data {
    Scalar(Scalar),
    List(Vec<Rc<Node>>),
    /// In the order of the file; keys may repeat.
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Neither quoted nor a block.
    pub(super) plain: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: u32,
    pub(super) value: Rc<Node>,
}

impl Node {
    /// Whether it is written as nothing: an empty plain scalar, `~` or `null`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.data, Data::Scalar(Scalar { text, plain: true }) if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match &self.data {
            _ if self.is_null() => "nothing",
            Data::Scalar(_) => "a value",
            Data::List(_) => "a list",
            Data::Map(_) => "a mapping",
        }
    }
}

/// A collection that is not finished.
struct Open {
    line: u32,
    anchor: usize,
    size: usize,
    data: Partial,
}

enum Partial {
    List(Vec<Rc<Node>>),
    Map {
        entries: Vec<Entry>,
        key: Option<(String, u32)>,
    },
}

/// Parses the one document of `text`.
///
/// # Errors
/// The first fault: after it, the meaning of the rest is not known.
pub(super) fn load(text: &str) -> Result<Rc<Node>, Diagnostic> {
    let mut loader = Loader::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| syntax_fault(text, &error))?;
        loader.event(event, span.start)?;
    }
    loader
        .root
        .ok_or_else(|| Diagnostic::new(None, "", "the file is empty"))
}

fn line(marker: Marker) -> u32 {
    u32::try_from(marker.line()).unwrap_or(u32::MAX).max(1)
}

fn fault(marker: Marker, message: impl Into<String>) -> Diagnostic {
    Diagnostic::new(Some(line(marker)), "", message)
}

fn syntax_fault(text: &str, error: &ScanError) -> Diagnostic {
    let at = *error.marker();
    let fault = fault(at, format!("the file is not valid YAML: {}", error.info()));
    // The parser takes the brace of `${` for its own.
    let unquoted = |line: &str| line.contains(": ${") || line.contains(", ${") || line.contains("[${");
    if text.lines().nth(at.line().saturating_sub(1)).is_some_and(unquoted) {
        return fault.hint("inside of braces or brackets a variable has to stand in quotes: \"${NAME}\"");
    }
    fault
}

#[derive(Default)]
struct Loader {
    stack: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
}

impl Loader {
    fn event(&mut self, event: Event<'_>, at: Marker) -> Result<(), Diagnostic> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => Err(fault(at, "a job file has one document, not more")),
            Event::Scalar(text, style, anchor, tag) => {
                check_tag(tag.as_deref(), at)?;
                let plain = style == ScalarStyle::Plain;
                let data = Data::Scalar(Scalar {
                    text: text.into_owned(),
                    plain,
                });
                self.finish(
                    Node {
                        line: line(at),
                        data,
                        size: 1,
                    },
                    anchor,
                    at,
                )
            }
            Event::SequenceStart(anchor, tag) => {
                check_tag(tag.as_deref(), at)?;
                self.open(anchor, Partial::List(Vec::new()), at)
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(tag.as_deref(), at)?;
                self.open(
                    anchor,
                    Partial::Map {
                        entries: Vec::new(),
                        key: None,
                    },
                    at,
                )
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(at),
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => self.add(Rc::clone(node), at),
                None => Err(fault(at, "an alias stands inside of what it is an alias of")),
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
        }
    }

    fn open(&mut self, anchor: usize, data: Partial, at: Marker) -> Result<(), Diagnostic> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(fault(at, format!("more than {MAX_DEPTH} levels of nesting")));
        }
        if let Some(Open {
            data: Partial::Map { key: None, .. },
            ..
        }) = self.stack.last()
        {
            return Err(fault(at, "a key has to be a word, not a list or a mapping"));
        }
        self.stack.push(Open {
            line: line(at),
            anchor,
            size: 1,
            data,
        });
        Ok(())
    }

    fn close(&mut self, at: Marker) -> Result<(), Diagnostic> {
        let Some(Open {
            line,
            anchor,
            size,
            data,
        }) = self.stack.pop()
        else {
            return Err(fault(
                at,
                "the file is not valid YAML: a collection ends that did not begin",
            ));
        };
        let data = match data {
            Partial::List(items) => Data::List(items),
            Partial::Map { entries, .. } => Data::Map(entries),
        };
        self.finish(Node { line, data, size }, anchor, at)
    }

    fn finish(&mut self, node: Node, anchor: usize, at: Marker) -> Result<(), Diagnostic> {
        let node = Rc::new(node);
        // The parser numbers anchors from 1; 0 is none.
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.add(node, at)
    }

    /// Puts a finished node where it belongs.
    fn add(&mut self, node: Rc<Node>, at: Marker) -> Result<(), Diagnostic> {
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.size = open.size.saturating_add(node.size);
        if open.size > MAX_NODES {
            return Err(fault(at, format!("more than {MAX_NODES} values")));
        }
        match &mut open.data {
            Partial::List(items) => items.push(node),
            Partial::Map { entries, key } => match key.take() {
                Some((key, line)) => entries.push(Entry { key, line, value: node }),
                None => match &node.data {
                    Data::Scalar(scalar) => *key = Some((scalar.text.clone(), line(at))),
                    _ => return Err(fault(at, "a key has to be a word, not a list or a mapping")),
                },
            },
        }
        Ok(())
    }
}

/// Tags of YAML itself say nothing that the place of a value does not; others would be lost unseen.
fn check_tag(tag: Option<&Tag>, at: Marker) -> Result<(), Diagnostic> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() => {
            Err(fault(at, format!("the tag `{tag}` means nothing in a job file")))
        }
        _ => Ok(()),
    }
}
