//! Broadcast variables: where the value comes from, and what it looks like.

use tidemill_dstream::{BroadcastDef, BroadcastFormat, BroadcastSource, Line, Literal, Shape, TableFormat};

use super::document::{Data, Entry, Node, Scalar};
use super::keys;
use super::reader::{Reader, Settings, join};
use super::sources::each;

pub(super) const FORMATS: &[(&str, BroadcastFormat)] = &[
    ("text", BroadcastFormat::Text),
    ("bytes", BroadcastFormat::Bytes),
    ("csv", BroadcastFormat::Table(TableFormat::Csv)),
    ("json", BroadcastFormat::Table(TableFormat::Json)),
    ("parquet", BroadcastFormat::Table(TableFormat::Parquet)),
];

pub(super) const SHAPES: &[(&str, Shape)] = &[
    ("scalar", Shape::Scalar),
    ("list", Shape::List),
    ("map", Shape::Map),
    ("table", Shape::Table),
];

/// The keys that say where the value comes from.
const SOURCES: [&str; 6] = ["file", "value", "list", "map", "rows", "query"];

pub(super) fn broadcast(reader: &mut Reader<'_>, entry: &Entry, path: &str) -> Option<BroadcastDef> {
    let settings = reader.settings(&entry.value, path, keys::BROADCAST)?;
    let given: Vec<&str> = SOURCES.into_iter().filter(|key| settings.get(key).is_some()).collect();
    let source = match given.as_slice() {
        [key] => source(reader, &settings, key),
        [] => {
            let hint = format!("give it one of {}", SOURCES.join(", "));
            reader.hinted(entry.line, path, "the broadcast has no value", hint);
            None
        }
        [first, second, ..] => {
            let message = format!("a broadcast has one value, found `{first}` and `{second}`");
            reader.fault(entry.line, path, message);
            None
        }
    };
    if settings.get("format").is_some() && !given.contains(&"file") && !given.is_empty() {
        reader.fault(entry.line, &settings.at("format"), "only a file has a format");
    }
    let shape = reader.optional(&settings, "as", |reader, node, path| {
        reader.choice(node, path, "shape", SHAPES)
    });
    let reload = reader.optional(&settings, "reload", Reader::duration);
    let updatable = reader.optional(&settings, "updatable", Reader::boolean);
    Some(BroadcastDef {
        name: entry.key.clone(),
        source: source?,
        shape: shape?,
        reload: reload?,
        updatable: updatable?.unwrap_or_default(),
        line: Line(Some(entry.line)),
    })
}

fn source(reader: &mut Reader<'_>, settings: &Settings<'_>, key: &str) -> Option<BroadcastSource> {
    let (node, path) = (settings.get(key)?, settings.at(key));
    Some(match key {
        "file" => {
            let file = reader.text(node, &path, "a path");
            let format = reader.optional(settings, "format", |reader, node, path| {
                reader.choice(node, path, "format", FORMATS)
            });
            BroadcastSource::File {
                path: file?,
                format: format?,
            }
        }
        "value" => BroadcastSource::Value(literal(reader, node, &path)?),
        "list" => {
            let items = reader.list(node, &path, "a list of values")?;
            BroadcastSource::List(each(items, &path, |item, at| literal(reader, item, at))?)
        }
        "map" => BroadcastSource::Map(map(reader, node, &path)?),
        "rows" => {
            let items = reader.list(node, &path, "a list of {column: value}")?;
            BroadcastSource::Rows(each(items, &path, |item, at| row(reader, item, at))?)
        }
        _ => BroadcastSource::Query(reader.text(node, &path, "a query")?),
    })
}

/// `{key: value}` with keys of text, or `[[key, value]]` with any keys.
fn map(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Vec<(Literal, Literal)>> {
    if let Data::List(items) = &node.data {
        return each(items, path, |item, at| {
            let Data::List(pair) = &item.data else {
                reader.expected(item, at, "[key, value]");
                return None;
            };
            let [key, value] = pair.as_slice() else {
                reader.fault(
                    item.line,
                    at,
                    format!("expected [key, value], found {} values", pair.len()),
                );
                return None;
            };
            let key = literal(reader, key, &format!("{at}[0]"));
            let value = literal(reader, value, &format!("{at}[1]"));
            Some((key?, value?))
        });
    }
    let settings = reader.mapping(node, path, "{key: value}")?;
    let entries: Vec<Option<(Literal, Literal)>> = settings
        .entries()
        .map(|entry| {
            let value = literal(reader, &entry.value, &join(path, &entry.key))?;
            Some((Literal::Text(entry.key.clone()), value))
        })
        .collect();
    entries.into_iter().collect()
}

fn row(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Vec<(String, Literal)>> {
    let settings = reader.mapping(node, path, "{column: value}")?;
    let cells: Vec<Option<(String, Literal)>> = settings
        .entries()
        .map(|entry| {
            let value = literal(reader, &entry.value, &join(path, &entry.key))?;
            Some((entry.key.clone(), value))
        })
        .collect();
    cells.into_iter().collect()
}

/// A value of the type that it is written as: quoted it is text.
fn literal(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Literal> {
    if node.is_null() {
        return Some(Literal::Null);
    }
    let plain = matches!(&node.data, Data::Scalar(Scalar { plain: true, .. }));
    let text = reader.text(node, path, "a value")?;
    let word = text.trim();
    Some(match word {
        _ if !plain => Literal::Text(text),
        "true" | "True" | "TRUE" => Literal::Bool(true),
        "false" | "False" | "FALSE" => Literal::Bool(false),
        word if word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) => {
            let number = word.parse().map(Literal::Int);
            number
                .or_else(|_| word.parse().map(Literal::Float))
                .unwrap_or(Literal::Text(text))
        }
        _ => Literal::Text(text),
    })
}
