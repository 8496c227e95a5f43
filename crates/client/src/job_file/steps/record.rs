//! Steps that go record by record or move records between partitions.

use tidemill_dstream::{NamedFunction, Operator};

use super::super::document::{Data, Node};
use super::super::functions::{columns_or_value, is_native, mixed, names, partitions, required_key};
use super::super::keys;
use super::super::reader::Reader;
use crate::columns::KEY_COLUMN;

/// The kept keys and the columns of `map_values` and `flat_map_values`: `key` and columns beside it, or a function
/// whose result becomes the column `value`.
pub(super) fn values(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<(Vec<String>, Vec<NamedFunction>)> {
    let default = || vec![KEY_COLUMN.to_owned()];
    if !matches!(node.data, Data::Map(_)) || is_native(node) && !has_key(node) {
        return Some((default(), columns_or_value(reader, node, path)?));
    }
    let all = mixed(reader, node, path, keys::MAP_VALUES)?;
    let kept = reader.optional(&all.settings, "key", |reader, node, path| {
        names(reader, node, path, "a key column")
    });
    let columns = all.columns_or_value(reader);
    Some((kept?.unwrap_or_else(default), columns?))
}

fn has_key(node: &Node) -> bool {
    matches!(&node.data, Data::Map(entries) if entries.iter().any(|entry| entry.key == "key"))
}

/// A fraction, or `{fraction: .., seed: ..}`.
pub(super) fn sample(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    if matches!(node.data, Data::Scalar(_)) {
        let fraction = reader.decimal(node, path)?;
        return Some(Operator::Sample { fraction, seed: 0 });
    }
    let settings = reader.settings(node, path, keys::SAMPLE)?;
    let fraction = reader
        .required(&settings, "fraction")
        .and_then(|node| reader.decimal(node, &settings.at("fraction")));
    let seed = reader.optional(&settings, "seed", |reader, node, path| {
        reader.number(node, path, u64::MAX)
    });
    Some(Operator::Sample {
        fraction: fraction?,
        seed: seed?.unwrap_or(0),
    })
}

/// A number, or `{partitions: number}`.
pub(super) fn repartition(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let partitions = if matches!(node.data, Data::Scalar(_)) {
        reader.number(node, path, u32::MAX)
    } else {
        let settings = reader.settings(node, path, keys::PARTITIONS)?;
        let node = reader.required(&settings, "partitions")?;
        reader.number(node, &settings.at("partitions"), u32::MAX)
    };
    partitions.map(|partitions| Operator::Repartition { partitions })
}

/// A column, a list of them, or `{key: .., partitions: ..}`.
pub(super) fn partition_by(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let what = "a key column";
    if !matches!(node.data, Data::Map(_)) {
        let keys = names(reader, node, path, what)?;
        return Some(Operator::PartitionBy { keys, partitions: None });
    }
    let settings = reader.settings(node, path, keys::KEY_AND_PARTITIONS)?;
    let keys = required_key(reader, &settings).and_then(|node| names(reader, node, &settings.at("key"), what));
    let partitions = partitions(reader, &settings);
    Some(Operator::PartitionBy {
        keys: keys?,
        partitions: partitions?,
    })
}

/// Nothing, or `{partitions: number}`.
pub(super) fn only_partitions(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Option<u32>> {
    if node.is_null() {
        return Some(None);
    }
    let settings = reader.settings(node, path, keys::PARTITIONS)?;
    partitions(reader, &settings)
}
