//! The `steps` of a stream.

use tidemill_dstream::{Diagnostic, Function, Line, NamedFunction, Operator, Step};

use super::document::{Data, Entry, Node};
use super::keys;
use super::reader::{Reader, join};
use super::sources::each;
use crate::columns::{DEFAULT_COLUMN, is_plain_identifier, key_name};

pub(super) fn steps(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Vec<Step>> {
    if node.is_null() {
        return Some(Vec::new());
    }
    let items = reader.list(node, path, "a list of steps, each after a `-`")?;
    each(items, path, |item, at| step(reader, item, at))
}

fn step(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Step> {
    // `- count` is short for `- count: {}`.
    if let Data::Scalar(scalar) = &node.data
        && !node.is_null()
    {
        let operator = match scalar.text.as_str() {
            "count" => Some(Operator::Count),
            known if Operator::NAMES.contains(&known) => {
                let message = format!("`{known}` stands here without its settings");
                reader.hinted(node.line, &join(path, known), message, format!("write `{known}: ...`"));
                None
            }
            other => {
                reader.unknown(node.line, path, "step", other, Operator::NAMES);
                None
            }
        };
        return operator.map(|operator| Step {
            operator,
            line: Line(Some(node.line)),
        });
    }
    let entry = reader.kind(node, path, "step", Operator::NAMES)?;
    let operator = operator(reader, entry, &join(path, &entry.key))?;
    Some(Step {
        operator,
        line: Line(Some(entry.line)),
    })
}

fn operator(reader: &mut Reader<'_>, entry: &Entry, path: &str) -> Option<Operator> {
    let node = &entry.value;
    match entry.key.as_str() {
        "map" => map_columns(reader, node, path).map(|columns| Operator::Map { columns }),
        "flat_map" => map_columns(reader, node, path).map(|columns| Operator::FlatMap { columns }),
        "filter" => {
            let sql = reader.expression(node, path)?;
            Some(Operator::Filter {
                predicate: Function::Expr(sql),
            })
        }
        "union" => union(reader, node, path),
        "window" => window(reader, node, path),
        "reduce_by_key" => reduce_by_key(reader, node, path),
        "reduce" => columns(reader, node, path).map(|aggregates| Operator::Reduce { aggregates }),
        "count" => {
            if !node.is_null() {
                reader.settings(node, path, &[])?;
            }
            Some(Operator::Count)
        }
        "transform" => reader
            .text(node, path, "an SQL query")
            .map(|sql| Operator::Transform { sql }),
        other => {
            reader.unknown(entry.line, path, "step", other, Operator::NAMES);
            None
        }
    }
}

fn column(reader: &mut Reader<'_>, entry: &Entry, path: &str) -> Option<NamedFunction> {
    let sql = reader.expression(&entry.value, &join(path, &entry.key))?;
    Some(named(&entry.key, sql, entry.line))
}

fn named(name: &str, sql: String, line: u32) -> NamedFunction {
    NamedFunction {
        name: name.to_owned(),
        function: Function::Expr(sql),
        line: Line(Some(line)),
    }
}

/// `{column: expression}`.
fn columns(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Vec<NamedFunction>> {
    let settings = reader.mapping(node, path, "{column: expression}")?;
    let all: Vec<_> = settings.entries().map(|entry| column(reader, entry, path)).collect();
    all.into_iter().collect()
}

/// `{column: expression}`, or an expression that becomes the column `value`.
fn map_columns(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Vec<NamedFunction>> {
    match &node.data {
        Data::Scalar(_) => {
            let sql = reader.expression(node, path)?;
            Some(vec![named(DEFAULT_COLUMN, sql, node.line)])
        }
        _ => columns(reader, node, path),
    }
}

/// `{with: name}`, `{with: [names]}`, `[names]` or `name`.
fn union(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let (node, path) = match &node.data {
        Data::Map(_) => {
            let settings = reader.settings(node, path, keys::UNION)?;
            (reader.required(&settings, "with")?, settings.at("with"))
        }
        _ => return stream_names(reader, node, path).map(|with| Operator::Union { with }),
    };
    stream_names(reader, node, &path).map(|with| Operator::Union { with })
}

fn stream_names(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Vec<String>> {
    match &node.data {
        Data::List(items) => each(items, path, |item, at| reader.text(item, at, "the name of a stream")),
        _ => reader
            .text(node, path, "the name of a stream, or a list of them")
            .map(|name| vec![name]),
    }
}

fn window(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let settings = reader.settings(node, path, keys::WINDOW)?;
    let length = reader
        .required(&settings, "length")
        .and_then(|node| reader.duration(node, &settings.at("length")));
    let slide = reader.optional(&settings, "slide", Reader::duration);
    Some(Operator::Window {
        length: length?,
        slide: slide?,
    })
}

/// `key`, and aggregates by their columns' names beside it.
fn reduce_by_key(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let settings = reader.mapping(node, path, "{key: expression, column: aggregate}")?;
    let keys = match settings.get("key") {
        Some(node) => keys(reader, node, &settings.at("key")),
        None => {
            let fault = Diagnostic::new(Some(settings.line), path, "`key` is missing").hint("such as `key: user`");
            reader.faults.push(fault);
            None
        }
    };
    let aggregates = settings.entries().filter(|entry| entry.key != "key");
    let aggregates: Vec<_> = aggregates.map(|entry| column(reader, entry, path)).collect();
    Some(Operator::ReduceByKey {
        keys: keys?,
        aggregates: aggregates.into_iter().collect::<Option<_>>()?,
    })
}

/// An expression, a list of columns, or `{column: expression}`.
fn keys(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Vec<NamedFunction>> {
    match &node.data {
        Data::Scalar(_) => {
            let sql = reader.expression(node, path)?;
            Some(vec![named(key_name(&sql), sql.clone(), node.line)])
        }
        Data::List(items) => each(items, path, |item, at| {
            let sql = reader.text(item, at, "a column")?;
            if is_plain_identifier(&sql) {
                return Some(named(&sql, sql.clone(), item.line));
            }
            let hint = "in a list of keys each is a column; write {name: expression} for expressions";
            reader.hinted(item.line, at, "an expression here has no name", hint);
            None
        }),
        Data::Map(_) => columns(reader, node, path),
    }
}
