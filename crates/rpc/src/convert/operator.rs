//! Steps.

use std::time::Duration;

use tidemill_dstream::{JoinKey, JoinKind, Line, MapWithState, Operator, SortKey, Step, UpdateStateByKey};

use super::function::{call, from_reduction, reduction, transformation};
use super::{Error, each, every, required, to_millis};
use crate::plan;
use crate::plan::step::Operator as Wire;

impl From<&Step> for plan::Step {
    fn from(step: &Step) -> Self {
        Self {
            operator: Some((&step.operator).into()),
            line: step.line.0,
        }
    }
}

impl TryFrom<plan::Step> for Step {
    type Error = Error;

    fn try_from(step: plan::Step) -> Result<Self, Error> {
        Ok(Self {
            operator: operator(step.operator.ok_or_else(|| Error::missing("operator"))?)?,
            line: Line(step.line),
        })
    }
}

impl From<&Operator> for Wire {
    fn from(operator: &Operator) -> Self {
        match operator {
            Operator::Map { columns } => Self::Map(plan::Map {
                columns: every(columns),
            }),
            Operator::FlatMap { columns } => Self::FlatMap(plan::FlatMap {
                columns: every(columns),
            }),
            Operator::Filter { predicate } => Self::Filter(plan::Filter {
                predicate: Some(predicate.into()),
            }),
            Operator::MapValues { keys, columns } => Self::MapValues(plan::MapValues {
                keys: keys.clone(),
                columns: every(columns),
            }),
            Operator::FlatMapValues { keys, columns } => Self::FlatMapValues(plan::FlatMapValues {
                keys: keys.clone(),
                columns: every(columns),
            }),
            Operator::Sample { fraction, seed } => Self::Sample(plan::Sample {
                fraction: *fraction,
                seed: *seed,
            }),
            Operator::Accumulate { additions } => Self::Accumulate(plan::Accumulate {
                additions: every(additions),
            }),
            Operator::MapPartitions { function } => Self::MapPartitions(plan::MapPartitions {
                function: Some(function.into()),
            }),
            Operator::Glom => Self::Glom(plan::Glom {}),
            Operator::Union { with } => Self::Union(plan::Union { with: with.clone() }),
            Operator::Repartition { partitions } => Self::Repartition(plan::Repartition {
                partitions: *partitions,
            }),
            Operator::PartitionBy { keys, partitions } => Self::PartitionBy(plan::PartitionBy {
                keys: keys.clone(),
                partitions: *partitions,
            }),
            Operator::Count => Self::Count(plan::Count {}),
            Operator::CountByValue { partitions } => Self::CountByValue(plan::CountByValue {
                partitions: *partitions,
            }),
            Operator::Distinct { partitions } => Self::Distinct(plan::Distinct {
                partitions: *partitions,
            }),
            Operator::Reduce { reduction } => {
                let (aggregates, binary) = from_reduction(reduction);
                Self::Reduce(plan::Reduce { aggregates, binary })
            }
            Operator::ReduceByKey {
                keys,
                reduction,
                partitions,
            } => {
                let (aggregates, binary) = from_reduction(reduction);
                Self::ReduceByKey(plan::ReduceByKey {
                    keys: every(keys),
                    aggregates,
                    binary,
                    partitions: *partitions,
                })
            }
            Operator::Aggregate {
                keys,
                aggregates,
                partitions,
            } => Self::Aggregate(plan::Aggregate {
                keys: every(keys),
                aggregates: every(aggregates),
                partitions: *partitions,
            }),
            Operator::GroupByKey { keys, partitions } => Self::GroupByKey(plan::GroupByKey {
                keys: every(keys),
                partitions: *partitions,
            }),
            Operator::CombineByKey {
                keys,
                create,
                merge_value,
                merge_combiners,
                partitions,
            } => Self::CombineByKey(plan::CombineByKey {
                keys: every(keys),
                create: every(create),
                merge_value: every(merge_value),
                merge_combiners: every(merge_combiners),
                partitions: *partitions,
            }),
            Operator::SortBy { keys, limit } => Self::SortBy(plan::SortBy {
                keys: every(keys),
                limit: *limit,
            }),
            Operator::Transform { function } => Self::Transform(function.into()),
            Operator::TransformWith { with, sql } => Self::TransformWith(plan::TransformWith {
                with: with.clone(),
                sql: sql.clone(),
            }),
            Operator::Join {
                kind,
                with,
                on,
                partitions,
            } => Self::Join(plan::Join {
                kind: plan::JoinKind::from(*kind).into(),
                with: with.clone(),
                on: every(on),
                partitions: *partitions,
            }),
            Operator::Cogroup { with, keys, partitions } => Self::Cogroup(plan::Cogroup {
                with: with.clone(),
                keys: keys.clone(),
                partitions: *partitions,
            }),
            Operator::Window { length, slide } => Self::Window(plan::Window {
                length_ms: to_millis(*length),
                slide_ms: slide.map(to_millis),
            }),
            Operator::CountByWindow { length, slide } => Self::CountByWindow(plan::CountByWindow {
                length_ms: to_millis(*length),
                slide_ms: slide.map(to_millis),
            }),
            Operator::CountByValueAndWindow {
                length,
                slide,
                partitions,
            } => Self::CountByValueAndWindow(plan::CountByValueAndWindow {
                length_ms: to_millis(*length),
                slide_ms: slide.map(to_millis),
                partitions: *partitions,
            }),
            Operator::ReduceByWindow {
                length,
                slide,
                reduction,
            } => {
                let (aggregates, binary) = from_reduction(reduction);
                Self::ReduceByWindow(plan::ReduceByWindow {
                    length_ms: to_millis(*length),
                    slide_ms: slide.map(to_millis),
                    aggregates,
                    binary,
                })
            }
            Operator::ReduceByKeyAndWindow {
                keys,
                length,
                slide,
                reduction,
                filter,
                partitions,
            } => {
                let (aggregates, binary) = from_reduction(reduction);
                Self::ReduceByKeyAndWindow(plan::ReduceByKeyAndWindow {
                    keys: every(keys),
                    length_ms: to_millis(*length),
                    slide_ms: slide.map(to_millis),
                    aggregates,
                    binary,
                    filter: filter.as_ref().map(Into::into),
                    partitions: *partitions,
                })
            }
            Operator::GroupByKeyAndWindow {
                keys,
                length,
                slide,
                partitions,
            } => Self::GroupByKeyAndWindow(plan::GroupByKeyAndWindow {
                keys: every(keys),
                length_ms: to_millis(*length),
                slide_ms: slide.map(to_millis),
                partitions: *partitions,
            }),
            Operator::UpdateStateByKey(update) => Self::UpdateStateByKey(plan::UpdateStateByKey {
                keys: every(&update.keys),
                values: every(&update.values),
                state: Some((&update.state).into()),
                initial: update.initial.clone(),
                partitions: update.partitions,
            }),
            Operator::MapWithState(map) => Self::MapWithState(plan::MapWithState {
                keys: every(&map.keys),
                values: every(&map.values),
                state: Some((&map.state).into()),
                emit: every(&map.emit),
                timeout_ms: map.timeout.map(to_millis),
                initial: map.initial.clone(),
                partitions: map.partitions,
            }),
            Operator::StateSnapshots => Self::StateSnapshots(plan::StateSnapshots {}),
        }
    }
}

fn operator(operator: Wire) -> Result<Operator, Error> {
    Ok(match operator {
        Wire::Map(map) => Operator::Map {
            columns: each("map.columns", map.columns)?,
        },
        Wire::FlatMap(map) => Operator::FlatMap {
            columns: each("flat_map.columns", map.columns)?,
        },
        Wire::Filter(filter) => Operator::Filter {
            predicate: required("filter.predicate", filter.predicate)?,
        },
        Wire::MapValues(map) => Operator::MapValues {
            keys: map.keys,
            columns: each("map_values.columns", map.columns)?,
        },
        Wire::FlatMapValues(map) => Operator::FlatMapValues {
            keys: map.keys,
            columns: each("flat_map_values.columns", map.columns)?,
        },
        Wire::Sample(plan::Sample { fraction, seed }) => Operator::Sample { fraction, seed },
        Wire::Accumulate(plan::Accumulate { additions }) => Operator::Accumulate {
            additions: each("accumulate.additions", additions)?,
        },
        Wire::MapPartitions(map) => Operator::MapPartitions {
            function: call("map_partitions.function", map.function)?,
        },
        Wire::Glom(plan::Glom {}) => Operator::Glom,
        Wire::Union(union) => Operator::Union { with: union.with },
        Wire::Repartition(plan::Repartition { partitions }) => Operator::Repartition { partitions },
        Wire::PartitionBy(plan::PartitionBy { keys, partitions }) => Operator::PartitionBy { keys, partitions },
        Wire::Count(plan::Count {}) => Operator::Count,
        Wire::CountByValue(plan::CountByValue { partitions }) => Operator::CountByValue { partitions },
        Wire::Distinct(plan::Distinct { partitions }) => Operator::Distinct { partitions },
        Wire::Reduce(reduce) => Operator::Reduce {
            reduction: reduction("reduce", reduce.aggregates, reduce.binary)?,
        },
        Wire::ReduceByKey(reduce) => Operator::ReduceByKey {
            keys: each("reduce_by_key.keys", reduce.keys)?,
            reduction: reduction("reduce_by_key", reduce.aggregates, reduce.binary)?,
            partitions: reduce.partitions,
        },
        Wire::Aggregate(aggregate) => Operator::Aggregate {
            keys: each("aggregate.keys", aggregate.keys)?,
            aggregates: each("aggregate.aggregates", aggregate.aggregates)?,
            partitions: aggregate.partitions,
        },
        Wire::GroupByKey(group) => Operator::GroupByKey {
            keys: each("group_by_key.keys", group.keys)?,
            partitions: group.partitions,
        },
        Wire::CombineByKey(combine) => Operator::CombineByKey {
            keys: each("combine_by_key.keys", combine.keys)?,
            create: each("combine_by_key.create", combine.create)?,
            merge_value: each("combine_by_key.merge_value", combine.merge_value)?,
            merge_combiners: each("combine_by_key.merge_combiners", combine.merge_combiners)?,
            partitions: combine.partitions,
        },
        Wire::SortBy(sort) => Operator::SortBy {
            keys: each("sort_by.keys", sort.keys)?,
            limit: sort.limit,
        },
        Wire::Transform(transform) => Operator::Transform {
            function: transformation(transform),
        },
        Wire::TransformWith(plan::TransformWith { with, sql }) => Operator::TransformWith { with, sql },
        Wire::Join(join) => Operator::Join {
            kind: match join.kind() {
                plan::JoinKind::Inner => JoinKind::Inner,
                plan::JoinKind::LeftOuter => JoinKind::LeftOuter,
                plan::JoinKind::RightOuter => JoinKind::RightOuter,
                plan::JoinKind::FullOuter => JoinKind::FullOuter,
                plan::JoinKind::Unspecified => return Err(Error::unknown("join.kind", join.kind)),
            },
            with: join.with,
            on: join.on.into_iter().map(Into::into).collect(),
            partitions: join.partitions,
        },
        Wire::Cogroup(plan::Cogroup { with, keys, partitions }) => Operator::Cogroup { with, keys, partitions },
        Wire::Window(window) => Operator::Window {
            length: Duration::from_millis(window.length_ms),
            slide: window.slide_ms.map(Duration::from_millis),
        },
        Wire::CountByWindow(window) => Operator::CountByWindow {
            length: Duration::from_millis(window.length_ms),
            slide: window.slide_ms.map(Duration::from_millis),
        },
        Wire::CountByValueAndWindow(window) => Operator::CountByValueAndWindow {
            length: Duration::from_millis(window.length_ms),
            slide: window.slide_ms.map(Duration::from_millis),
            partitions: window.partitions,
        },
        Wire::ReduceByWindow(window) => Operator::ReduceByWindow {
            length: Duration::from_millis(window.length_ms),
            slide: window.slide_ms.map(Duration::from_millis),
            reduction: reduction("reduce_by_window", window.aggregates, window.binary)?,
        },
        Wire::ReduceByKeyAndWindow(window) => {
            let filter = window
                .filter
                .map(|filter| required("reduce_by_key_and_window.filter", Some(filter)));
            Operator::ReduceByKeyAndWindow {
                keys: each("reduce_by_key_and_window.keys", window.keys)?,
                length: Duration::from_millis(window.length_ms),
                slide: window.slide_ms.map(Duration::from_millis),
                reduction: reduction("reduce_by_key_and_window", window.aggregates, window.binary)?,
                filter: filter.transpose()?,
                partitions: window.partitions,
            }
        }
        Wire::GroupByKeyAndWindow(window) => Operator::GroupByKeyAndWindow {
            keys: each("group_by_key_and_window.keys", window.keys)?,
            length: Duration::from_millis(window.length_ms),
            slide: window.slide_ms.map(Duration::from_millis),
            partitions: window.partitions,
        },
        Wire::UpdateStateByKey(update) => Operator::UpdateStateByKey(UpdateStateByKey {
            keys: each("update_state_by_key.keys", update.keys)?,
            values: each("update_state_by_key.values", update.values)?,
            state: required("update_state_by_key.state", update.state)?,
            initial: update.initial,
            partitions: update.partitions,
        }),
        Wire::MapWithState(map) => Operator::MapWithState(MapWithState {
            keys: each("map_with_state.keys", map.keys)?,
            values: each("map_with_state.values", map.values)?,
            state: required("map_with_state.state", map.state)?,
            emit: each("map_with_state.emit", map.emit)?,
            timeout: map.timeout_ms.map(Duration::from_millis),
            initial: map.initial,
            partitions: map.partitions,
        }),
        Wire::StateSnapshots(plan::StateSnapshots {}) => Operator::StateSnapshots,
    })
}

// === What only one step has ===

impl From<&SortKey> for plan::SortKey {
    fn from(key: &SortKey) -> Self {
        Self {
            function: Some((&key.function).into()),
            descending: key.descending,
            nulls_first: key.nulls_first,
        }
    }
}

impl TryFrom<plan::SortKey> for SortKey {
    type Error = Error;

    fn try_from(key: plan::SortKey) -> Result<Self, Error> {
        Ok(Self {
            function: required("function", key.function)?,
            descending: key.descending,
            nulls_first: key.nulls_first,
        })
    }
}

impl From<JoinKind> for plan::JoinKind {
    fn from(kind: JoinKind) -> Self {
        match kind {
            JoinKind::Inner => Self::Inner,
            JoinKind::LeftOuter => Self::LeftOuter,
            JoinKind::RightOuter => Self::RightOuter,
            JoinKind::FullOuter => Self::FullOuter,
        }
    }
}

impl From<&JoinKey> for plan::JoinKey {
    fn from(key: &JoinKey) -> Self {
        Self {
            left: key.left.clone(),
            right: key.right.clone(),
        }
    }
}

impl From<plan::JoinKey> for JoinKey {
    fn from(key: plan::JoinKey) -> Self {
        Self {
            left: key.left,
            right: key.right,
        }
    }
}
