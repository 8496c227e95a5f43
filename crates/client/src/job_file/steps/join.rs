//! Steps that take in other streams.

use tidemill_dstream::{JoinKey, JoinKind, Operator};

use super::super::document::{Data, Node};
use super::super::functions::{names, partitions, required_key};
use super::super::keys;
use super::super::reader::{Reader, Settings};
use super::super::sources::each;

const STREAM: &str = "the name of a stream";

/// `{with: name}`, `{with: [names]}`, `[names]` or `name`.
pub(super) fn union(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let with = match &node.data {
        Data::Map(_) => {
            let settings = reader.settings(node, path, keys::UNION)?;
            with(reader, &settings)
        }
        _ => names(reader, node, path, STREAM),
    };
    with.map(|with| Operator::Union { with })
}

/// The streams after `with`.
fn with(reader: &mut Reader<'_>, settings: &Settings<'_>) -> Option<Vec<String>> {
    let node = reader.required(settings, "with")?;
    names(reader, node, &settings.at("with"), STREAM)
}

pub(super) fn transform_with(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let settings = reader.settings(node, path, keys::TRANSFORM_WITH)?;
    let with = with(reader, &settings);
    let sql = reader
        .required(&settings, "sql")
        .and_then(|node| reader.text(node, &settings.at("sql"), "an SQL query"));
    Some(Operator::TransformWith { with: with?, sql: sql? })
}

pub(super) fn join_with(reader: &mut Reader<'_>, node: &Node, path: &str, kind: JoinKind) -> Option<Operator> {
    let settings = reader.settings(node, path, keys::JOIN)?;
    let with = reader
        .required(&settings, "with")
        .and_then(|node| reader.text(node, &settings.at("with"), STREAM));
    let on = reader
        .required(&settings, "on")
        .and_then(|node| join_keys(reader, node, &settings.at("on")));
    let partitions = partitions(reader, &settings);
    Some(Operator::Join {
        kind,
        with: with?,
        on: on?,
        partitions: partitions?,
    })
}

/// A column that both streams have, a list of such columns, or `{column of this stream: column of the other}`.
fn join_keys(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Vec<JoinKey>> {
    let what = "a key column";
    match &node.data {
        Data::Map(_) => {
            let settings = reader.mapping(node, path, "{column: column of the other stream}")?;
            let pair = |entry: &super::Entry| {
                let right = reader.text(&entry.value, &settings.at(&entry.key), what)?;
                Some(JoinKey {
                    left: entry.key.clone(),
                    right,
                })
            };
            let all: Vec<_> = settings.entries().map(pair).collect();
            all.into_iter().collect()
        }
        Data::List(items) => each(items, path, |item, at| reader.text(item, at, what).map(JoinKey::same)),
        Data::Scalar(_) => {
            let what = "a key column, a list of them, or {column: column of the other stream}";
            reader.text(node, path, what).map(|name| vec![JoinKey::same(name)])
        }
    }
}

pub(super) fn cogroup(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let settings = reader.settings(node, path, keys::COGROUP)?;
    let with = with(reader, &settings);
    let keys =
        required_key(reader, &settings).and_then(|node| names(reader, node, &settings.at("key"), "a key column"));
    let partitions = partitions(reader, &settings);
    Some(Operator::Cogroup {
        with: with?,
        keys: keys?,
        partitions: partitions?,
    })
}
