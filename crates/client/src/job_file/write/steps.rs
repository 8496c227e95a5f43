//! Steps.

use std::time::Duration;

use tidemill_dstream::{
    Addition, Function, JoinKey, MapWithState, NamedFunction, Operator, SortKey, StateFunction, UpdateStateByKey,
};

use super::super::accumulators::ONE;
use super::super::yaml::{Layout, Value};
use super::duration;
use super::functions::{Entries, columns, function, keys, map, names, native, reduction};
use crate::columns::KEY_COLUMN;
use crate::sort_key::sort_key;

/// A step by its name alone, or with its settings.
pub(super) fn step(operator: &Operator) -> Value {
    let name = operator.name();
    match settings(operator) {
        Some(settings) => Value::map([(name, settings)]),
        None => Value::text(name),
    }
}

fn settings(operator: &Operator) -> Option<Value> {
    let value = match operator {
        Operator::Glom | Operator::Count | Operator::StateSnapshots => return None,
        Operator::CountByValue { partitions } | Operator::Distinct { partitions } => {
            return partitions.map(|partitions| Value::map([("partitions", Value::word(partitions))]));
        }
        Operator::Map { columns } | Operator::FlatMap { columns } => map(columns),
        Operator::Filter { predicate } => function(predicate),
        Operator::MapValues { keys, columns } | Operator::FlatMapValues { keys, columns } => map_values(keys, columns),
        Operator::Sample { fraction, seed: 0 } => Value::word(fraction),
        Operator::Sample { fraction, seed } => {
            Value::map([("fraction", Value::word(fraction)), ("seed", Value::word(seed))])
        }
        Operator::Accumulate { additions } => match additions.as_slice() {
            [addition] => accumulate(addition),
            several => Value::List(several.iter().map(accumulate).collect(), Layout::Short),
        },
        Operator::MapPartitions { function } => native(function),
        Operator::Union { with } => Value::map([("with", Value::list(with))]),
        Operator::Repartition { partitions } => Value::word(partitions),
        Operator::PartitionBy { keys, partitions } => key_or_settings(names(keys), *partitions),
        Operator::Reduce { reduction: how } => Value::Map(reduction(how), Layout::Short),
        Operator::ReduceByKey {
            keys: list,
            reduction: how,
            partitions,
        } => Settings::default()
            .with("key", keys(list))
            .columns(reduction(how))
            .partitions(*partitions),
        Operator::Aggregate {
            keys: list,
            aggregates,
            partitions,
        } => {
            let key = (!list.is_empty()).then(|| keys(list));
            Settings::default()
                .maybe("key", key)
                .columns(columns(aggregates))
                .partitions(*partitions)
        }
        Operator::GroupByKey { keys: list, partitions } => key_or_settings(keys(list), *partitions),
        Operator::CombineByKey {
            keys: list,
            create,
            merge_value,
            merge_combiners,
            partitions,
        } => Settings::default()
            .with("key", keys(list))
            .with("create", map(create))
            .maybe("merge_value", unless_empty(merge_value))
            .with("merge_combiners", map(merge_combiners))
            .partitions(*partitions),
        Operator::SortBy { keys, limit } => sort_by(keys, *limit),
        Operator::Transform { function: how } => function(how),
        Operator::TransformWith { with, sql } => Value::map([("with", names(with)), ("sql", Value::text(sql))]),
        Operator::Join {
            kind: _,
            with,
            on,
            partitions,
        } => Settings::default()
            .with("with", Value::text(with))
            .with("on", join_keys(on))
            .partitions(*partitions),
        Operator::Cogroup { with, keys, partitions } => Settings::default()
            .with("with", names(with))
            .with("key", names(keys))
            .partitions(*partitions),
        Operator::Window { length, slide } | Operator::CountByWindow { length, slide } => {
            Settings::default().window(*length, *slide).partitions(None)
        }
        Operator::CountByValueAndWindow {
            length,
            slide,
            partitions,
        } => Settings::default().window(*length, *slide).partitions(*partitions),
        Operator::ReduceByWindow {
            length,
            slide,
            reduction: how,
        } => Settings::default()
            .window(*length, *slide)
            .columns(reduction(how))
            .partitions(None),
        Operator::ReduceByKeyAndWindow {
            keys: list,
            length,
            slide,
            reduction: how,
            filter,
            partitions,
        } => Settings::default()
            .with("key", keys(list))
            .window(*length, *slide)
            .columns(reduction(how))
            .maybe("filter", filter.as_ref().map(function))
            .partitions(*partitions),
        Operator::GroupByKeyAndWindow {
            keys: list,
            length,
            slide,
            partitions,
        } => Settings::default()
            .with("key", keys(list))
            .window(*length, *slide)
            .partitions(*partitions),
        Operator::UpdateStateByKey(update) => update_state_by_key(update),
        Operator::MapWithState(map) => map_with_state(map),
    };
    Some(value)
}

/// The settings of a step in the order in which one writes them.
#[derive(Default)]
struct Settings(Entries);

impl Settings {
    fn with(mut self, key: &str, value: Value) -> Self {
        self.0.push((key.to_owned(), value));
        self
    }

    fn maybe(self, key: &str, value: Option<Value>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    fn columns(mut self, columns: Entries) -> Self {
        self.0.extend(columns);
        self
    }

    fn window(self, length: Duration, slide: Option<Duration>) -> Self {
        self.with("length", duration(length))
            .maybe("slide", slide.map(duration))
    }

    /// The last setting, and the end.
    fn partitions(self, partitions: Option<u32>) -> Value {
        Value::Map(self.maybe("partitions", partitions.map(Value::word)).0, Layout::Short)
    }
}

fn accumulate(addition: &Addition) -> Value {
    let one = matches!(&addition.add, Function::Expr(sql) if sql == ONE);
    Settings::default()
        .with("into", Value::text(&addition.into))
        .maybe("add", (!one).then(|| function(&addition.add)))
        .maybe("when", addition.when.as_ref().map(function))
        .partitions(None)
}

fn unless_empty(columns: &[NamedFunction]) -> Option<Value> {
    (!columns.is_empty()).then(|| map(columns))
}

fn map_values(kept: &[String], list: &[NamedFunction]) -> Value {
    let key = (kept != [KEY_COLUMN]).then(|| names(kept));
    Settings::default()
        .maybe("key", key)
        .columns(columns(list))
        .partitions(None)
}

/// A key alone, or with the number of partitions. Only settings hold a key that is a mapping.
fn key_or_settings(key: Value, partitions: Option<u32>) -> Value {
    match (&key, partitions) {
        (Value::Map(..), _) | (_, Some(_)) => Settings::default().with("key", key).partitions(partitions),
        (_, None) => key,
    }
}

fn sort_by(keys: &[SortKey], limit: Option<u64>) -> Value {
    let by = match keys {
        [key] => one_sort_key(key),
        keys => Value::List(keys.iter().map(one_sort_key).collect(), Layout::Short),
    };
    match (&by, limit) {
        (Value::Map(..), _) | (_, Some(_)) => Settings::default()
            .with("by", by)
            .maybe("limit", limit.map(Value::word))
            .partitions(None),
        (_, None) => by,
    }
}

/// As SQL has it, where that reads as the same key.
fn one_sort_key(key: &SortKey) -> Value {
    if let Function::Expr(sql) = &key.function {
        let nulls = key
            .nulls_first
            .map_or("", |first| if first { " NULLS FIRST" } else { " NULLS LAST" });
        for order in if key.descending { [" DESC", ""] } else { ["", " ASC"] } {
            let text = format!("{sql}{order}{nulls}");
            if sort_key(&text) == *key {
                return Value::Text(text);
            }
        }
    }
    let order = key.descending.then(|| Value::text("desc"));
    let nulls = key
        .nulls_first
        .map(|first| Value::text(if first { "first" } else { "last" }));
    Settings::default()
        .with("by", function(&key.function))
        .maybe("order", order)
        .maybe("nulls", nulls)
        .partitions(None)
}

fn join_keys(keys: &[JoinKey]) -> Value {
    match keys {
        [key] if key.left == key.right => Value::text(&key.left),
        keys if keys.iter().all(|key| key.left == key.right) => Value::list(keys.iter().map(|key| &key.left)),
        keys => {
            let pairs = keys.iter().map(|key| (key.left.clone(), Value::text(&key.right)));
            Value::Map(pairs.collect(), Layout::Short)
        }
    }
}

fn state(state: &StateFunction) -> Value {
    match state {
        StateFunction::Columns(columns) => map(columns),
        StateFunction::Native(call) => native(call),
    }
}

fn update_state_by_key(update: &UpdateStateByKey) -> Value {
    Settings::default()
        .with("key", keys(&update.keys))
        .maybe("values", unless_empty(&update.values))
        .with("state", state(&update.state))
        .maybe("initial", update.initial.as_deref().map(Value::text))
        .partitions(update.partitions)
}

fn map_with_state(map: &MapWithState) -> Value {
    Settings::default()
        .with("key", keys(&map.keys))
        .maybe("values", unless_empty(&map.values))
        .with("state", state(&map.state))
        .maybe("emit", unless_empty(&map.emit))
        .maybe("timeout", map.timeout.map(duration))
        .maybe("initial", map.initial.as_deref().map(Value::text))
        .partitions(map.partitions)
}
