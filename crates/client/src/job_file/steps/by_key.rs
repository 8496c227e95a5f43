//! Steps that make several records one, of the batch or by key.

use tidemill_dstream::{NamedFunction, Operator};

use super::super::document::{Data, Node};
use super::super::functions::{columns_or_value, is_native, keys, mixed, partitions, required_keys};
use super::super::keys as known;
use super::super::reader::{Reader, Settings};

/// Aggregates, or `function`.
pub(super) fn reduce(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let all = mixed(reader, node, path, known::REDUCE)?;
    let reduction = all.reduction(reader, known::REDUCE)?;
    Some(Operator::Reduce { reduction })
}

/// `key`, and aggregates by their columns' names beside it, or `function`.
pub(super) fn reduce_by_key(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let all = mixed(reader, node, path, known::REDUCE_BY_KEY)?;
    let keys = required_keys(reader, &all.settings);
    let reduction = all.reduction(reader, known::REDUCE_BY_KEY);
    let partitions = partitions(reader, &all.settings);
    Some(Operator::ReduceByKey {
        keys: keys?,
        reduction: reduction?,
        partitions: partitions?,
    })
}

/// Aggregates by their columns' names, and maybe `key` beside them.
pub(super) fn aggregate(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let all = mixed(reader, node, path, known::KEY_AND_PARTITIONS)?;
    let keys = reader.optional(&all.settings, "key", keys);
    let aggregates = all.aggregates(reader, known::KEY_AND_PARTITIONS);
    let partitions = partitions(reader, &all.settings);
    Some(Operator::Aggregate {
        keys: keys?.unwrap_or_default(),
        aggregates: aggregates?,
        partitions: partitions?,
    })
}

/// A key, or `{key: .., partitions: ..}`.
pub(super) fn group_by_key(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    if !matches!(node.data, Data::Map(_)) || is_native(node) {
        let keys = keys(reader, node, path)?;
        return Some(Operator::GroupByKey { keys, partitions: None });
    }
    let settings = reader.settings(node, path, known::KEY_AND_PARTITIONS)?;
    let keys = required_keys(reader, &settings);
    let partitions = partitions(reader, &settings);
    Some(Operator::GroupByKey {
        keys: keys?,
        partitions: partitions?,
    })
}

pub(super) fn combine_by_key(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let settings = reader.settings(node, path, known::COMBINE_BY_KEY)?;
    let keys = required_keys(reader, &settings);
    let create = required_columns(reader, &settings, "create");
    let merge_value = reader.optional(&settings, "merge_value", columns_or_value);
    let merge_combiners = required_columns(reader, &settings, "merge_combiners");
    let partitions = partitions(reader, &settings);
    Some(Operator::CombineByKey {
        keys: keys?,
        create: create?,
        merge_value: merge_value?.unwrap_or_default(),
        merge_combiners: merge_combiners?,
        partitions: partitions?,
    })
}

fn required_columns(reader: &mut Reader<'_>, settings: &Settings<'_>, key: &str) -> Option<Vec<NamedFunction>> {
    let node = reader.required(settings, key)?;
    columns_or_value(reader, node, &settings.at(key))
}
