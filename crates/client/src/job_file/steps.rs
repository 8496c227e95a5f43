//! The `steps` of a stream.

mod by_key;
mod join;
mod record;
mod sort;
mod state;
mod window;

use tidemill_dstream::{Function, JoinKind, Line, Operator, Step};

use super::accumulators;
use super::document::{Data, Entry, Node};
use super::functions::{columns_or_value, function, is_native, native};
use super::keys;
use super::reader::{Reader, join};
use super::sources::each;

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
            "glom" => Some(Operator::Glom),
            "distinct" => Some(Operator::Distinct { partitions: None }),
            "count_by_value" => Some(Operator::CountByValue { partitions: None }),
            "state_snapshots" => Some(Operator::StateSnapshots),
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
    let node = &*entry.value;
    match entry.key.as_str() {
        "map" => columns_or_value(reader, node, path).map(|columns| Operator::Map { columns }),
        "flat_map" => columns_or_value(reader, node, path).map(|columns| Operator::FlatMap { columns }),
        "filter" => function(reader, node, path).map(|predicate| Operator::Filter { predicate }),
        "map_values" => record::values(reader, node, path).map(|(keys, columns)| Operator::MapValues { keys, columns }),
        "flat_map_values" => {
            record::values(reader, node, path).map(|(keys, columns)| Operator::FlatMapValues { keys, columns })
        }
        "sample" => record::sample(reader, node, path),
        "accumulate" => accumulators::accumulate(reader, node, path),
        "map_partitions" => native(reader, node, path).map(|function| Operator::MapPartitions { function }),
        "glom" => nothing(reader, node, path).map(|()| Operator::Glom),
        "union" => join::union(reader, node, path),
        "repartition" => record::repartition(reader, node, path),
        "partition_by" => record::partition_by(reader, node, path),
        "count" => nothing(reader, node, path).map(|()| Operator::Count),
        "count_by_value" => {
            record::only_partitions(reader, node, path).map(|partitions| Operator::CountByValue { partitions })
        }
        "distinct" => record::only_partitions(reader, node, path).map(|partitions| Operator::Distinct { partitions }),
        "reduce" => by_key::reduce(reader, node, path),
        "reduce_by_key" => by_key::reduce_by_key(reader, node, path),
        "aggregate" => by_key::aggregate(reader, node, path),
        "group_by_key" => by_key::group_by_key(reader, node, path),
        "combine_by_key" => by_key::combine_by_key(reader, node, path),
        "sort_by" => sort::sort_by(reader, node, path),
        "transform" => transform(reader, node, path).map(|function| Operator::Transform { function }),
        "transform_with" => join::transform_with(reader, node, path),
        "join" => join::join_with(reader, node, path, JoinKind::Inner),
        "left_outer_join" => join::join_with(reader, node, path, JoinKind::LeftOuter),
        "right_outer_join" => join::join_with(reader, node, path, JoinKind::RightOuter),
        "full_outer_join" => join::join_with(reader, node, path, JoinKind::FullOuter),
        "cogroup" => join::cogroup(reader, node, path),
        "window" => window::window(reader, node, path),
        "count_by_window" => window::count_by_window(reader, node, path),
        "count_by_value_and_window" => window::count_by_value_and_window(reader, node, path),
        "reduce_by_window" => window::reduce_by_window(reader, node, path),
        "reduce_by_key_and_window" => window::reduce_by_key_and_window(reader, node, path),
        "group_by_key_and_window" => window::group_by_key_and_window(reader, node, path),
        "update_state_by_key" => state::update_state_by_key(reader, node, path).map(Operator::UpdateStateByKey),
        "map_with_state" => state::map_with_state(reader, node, path).map(Operator::MapWithState),
        "state_snapshots" => nothing(reader, node, path).map(|()| Operator::StateSnapshots),
        other => {
            reader.unknown(entry.line, path, "step", other, Operator::NAMES);
            None
        }
    }
}

/// `{}`, or nothing at all.
fn nothing(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<()> {
    if !node.is_null() {
        reader.settings(node, path, keys::NONE)?;
    }
    Some(())
}

/// A query, or `{native: name}`.
fn transform(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Function> {
    if is_native(node) {
        native(reader, node, path).map(Function::Native)
    } else {
        reader
            .text(node, path, "an SQL query or {native: name}")
            .map(Function::Expr)
    }
}
