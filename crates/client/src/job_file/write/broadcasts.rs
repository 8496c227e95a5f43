//! Broadcast variables.

use tidemill_dstream::{BroadcastDef, BroadcastSource, Literal};

use super::super::broadcasts::{FORMATS, SHAPES};
use super::super::yaml::{Layout, Value};
use super::{duration, word};

pub(super) fn broadcast(def: &BroadcastDef) -> Value {
    let mut entries = match &def.source {
        BroadcastSource::File { path, format } => {
            let mut entries = vec![("file", Value::text(path))];
            entries.extend(format.map(|format| ("format", word(FORMATS, &format))));
            entries
        }
        BroadcastSource::Value(value) => vec![("value", literal(value))],
        BroadcastSource::List(values) => vec![("list", list(values.iter().map(literal)))],
        BroadcastSource::Map(entries) => vec![("map", map(entries))],
        BroadcastSource::Rows(rows) => {
            let row = |row: &Vec<(String, Literal)>| {
                let cells = row.iter().map(|(name, value)| (name.clone(), literal(value)));
                Value::Map(cells.collect(), Layout::Short)
            };
            vec![("rows", list(rows.iter().map(row)))]
        }
        BroadcastSource::Query(sql) => vec![("query", Value::text(sql))],
        // A file has no bytes of a program. What is written in their place is no job.
        BroadcastSource::Bytes(_) | BroadcastSource::Arrow(_) => vec![("file", Value::text(""))],
    };
    entries.extend(def.shape.map(|shape| ("as", word(SHAPES, &shape))));
    entries.extend(def.reload.map(|reload| ("reload", duration(reload))));
    if def.updatable {
        entries.push(("updatable", Value::word(true)));
    }
    Value::map(entries)
}

fn list(items: impl Iterator<Item = Value>) -> Value {
    Value::List(items.collect(), Layout::Short)
}

fn map(entries: &[(Literal, Literal)]) -> Value {
    let mut named = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        match key {
            // A key that stands twice would be a fault of the file.
            Literal::Text(key) if !named.iter().any(|(other, _)| other == key) => {
                named.push((key.clone(), literal(value)));
            }
            _ => {
                return list(
                    entries
                        .iter()
                        .map(|(key, value)| list([literal(key), literal(value)].into_iter())),
                );
            }
        }
    }
    Value::Map(named, Layout::Short)
}

fn literal(literal: &Literal) -> Value {
    match literal {
        Literal::Null => Value::word("null"),
        Literal::Bool(value) => Value::word(value),
        Literal::Int(value) => Value::word(value),
        Literal::Float(value) => Value::word(format!("{value:?}")),
        Literal::Text(value) => Value::text(value),
    }
}
