//! Any operator with any settings.

use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tidemill_dstream::{
    Addition, Function, JoinKey, JoinKind, MapWithState, NamedFunction, NativeCall, Operator, Reduction, SortKey,
    StateFunction, UpdateStateByKey,
};

use super::{duration, line, text};

pub(super) fn call() -> impl Strategy<Value = NativeCall> {
    let accumulators = vec((text(), text()), 0..3);
    (text(), texts(), accumulators).prop_map(|(name, args, accumulators)| NativeCall {
        name,
        args,
        accumulators,
    })
}

fn function() -> impl Strategy<Value = Function> {
    prop_oneof![text().prop_map(Function::Expr), call().prop_map(Function::Native)]
}

fn named() -> impl Strategy<Value = NamedFunction> {
    (text(), function(), line()).prop_map(|(name, function, line)| NamedFunction { name, function, line })
}

fn addition() -> impl Strategy<Value = Addition> {
    (text(), function(), option::of(function()), line()).prop_map(|(into, add, when, line)| Addition {
        into,
        add,
        when,
        line,
    })
}

fn columns() -> impl Strategy<Value = Vec<NamedFunction>> {
    vec(named(), 0..3)
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..3)
}

pub(super) fn partitions() -> impl Strategy<Value = Option<u32>> {
    option::of(any::<u32>())
}

/// A length and a slide.
fn window() -> impl Strategy<Value = (Duration, Option<Duration>)> {
    (duration(), option::of(duration()))
}

fn reduction() -> impl Strategy<Value = Reduction> {
    prop_oneof![
        columns().prop_map(Reduction::Aggregates),
        (columns(), columns()).prop_map(|(columns, inverse)| Reduction::Binary { columns, inverse }),
    ]
}

fn state() -> impl Strategy<Value = StateFunction> {
    prop_oneof![
        columns().prop_map(StateFunction::Columns),
        call().prop_map(StateFunction::Native)
    ]
}

fn record_step() -> impl Strategy<Value = Operator> {
    prop_oneof![
        columns().prop_map(|columns| Operator::Map { columns }),
        columns().prop_map(|columns| Operator::FlatMap { columns }),
        function().prop_map(|predicate| Operator::Filter { predicate }),
        (texts(), columns()).prop_map(|(keys, columns)| Operator::MapValues { keys, columns }),
        (texts(), columns()).prop_map(|(keys, columns)| Operator::FlatMapValues { keys, columns }),
        (0.0..=1.0, any::<u64>()).prop_map(|(fraction, seed)| Operator::Sample { fraction, seed }),
        vec(addition(), 0..3).prop_map(|additions| Operator::Accumulate { additions }),
        call().prop_map(|function| Operator::MapPartitions { function }),
        Just(Operator::Glom),
        any::<u32>().prop_map(|partitions| Operator::Repartition { partitions }),
        (texts(), partitions()).prop_map(|(keys, partitions)| Operator::PartitionBy { keys, partitions }),
    ]
}

fn batch_step() -> impl Strategy<Value = Operator> {
    let sort_key =
        (function(), any::<bool>(), option::of(any::<bool>())).prop_map(|(function, descending, nulls_first)| {
            SortKey {
                function,
                descending,
                nulls_first,
            }
        });
    prop_oneof![
        Just(Operator::Count),
        partitions().prop_map(|partitions| Operator::CountByValue { partitions }),
        partitions().prop_map(|partitions| Operator::Distinct { partitions }),
        reduction().prop_map(|reduction| Operator::Reduce { reduction }),
        (columns(), reduction(), partitions()).prop_map(|(keys, reduction, partitions)| Operator::ReduceByKey {
            keys,
            reduction,
            partitions
        }),
        (columns(), columns(), partitions()).prop_map(|(keys, aggregates, partitions)| Operator::Aggregate {
            keys,
            aggregates,
            partitions
        }),
        (columns(), partitions()).prop_map(|(keys, partitions)| Operator::GroupByKey { keys, partitions }),
        (columns(), columns(), columns(), columns(), partitions()).prop_map(
            |(keys, create, merge_value, merge_combiners, partitions)| Operator::CombineByKey {
                keys,
                create,
                merge_value,
                merge_combiners,
                partitions
            }
        ),
        (vec(sort_key, 0..3), option::of(any::<u64>())).prop_map(|(keys, limit)| Operator::SortBy { keys, limit }),
        function().prop_map(|function| Operator::Transform { function }),
    ]
}

fn streams_step() -> impl Strategy<Value = Operator> {
    let kind = prop_oneof![
        Just(JoinKind::Inner),
        Just(JoinKind::LeftOuter),
        Just(JoinKind::RightOuter),
        Just(JoinKind::FullOuter),
    ];
    let key = (text(), text()).prop_map(|(left, right)| JoinKey { left, right });
    prop_oneof![
        texts().prop_map(|with| Operator::Union { with }),
        (texts(), text()).prop_map(|(with, sql)| Operator::TransformWith { with, sql }),
        (kind, text(), vec(key, 0..3), partitions()).prop_map(|(kind, with, on, partitions)| Operator::Join {
            kind,
            with,
            on,
            partitions
        }),
        (texts(), texts(), partitions()).prop_map(|(with, keys, partitions)| Operator::Cogroup {
            with,
            keys,
            partitions
        }),
    ]
}

fn window_step() -> impl Strategy<Value = Operator> {
    prop_oneof![
        window().prop_map(|(length, slide)| Operator::Window { length, slide }),
        window().prop_map(|(length, slide)| Operator::CountByWindow { length, slide }),
        (window(), partitions()).prop_map(|((length, slide), partitions)| Operator::CountByValueAndWindow {
            length,
            slide,
            partitions
        }),
        (window(), reduction()).prop_map(|((length, slide), reduction)| Operator::ReduceByWindow {
            length,
            slide,
            reduction
        }),
        (columns(), window(), reduction(), option::of(function()), partitions()).prop_map(
            |(keys, (length, slide), reduction, filter, partitions)| Operator::ReduceByKeyAndWindow {
                keys,
                length,
                slide,
                reduction,
                filter,
                partitions
            }
        ),
        (columns(), window(), partitions()).prop_map(|(keys, (length, slide), partitions)| {
            Operator::GroupByKeyAndWindow {
                keys,
                length,
                slide,
                partitions,
            }
        }),
    ]
}

fn state_step() -> impl Strategy<Value = Operator> {
    let common = || (columns(), columns(), state(), option::of(text()), partitions());
    prop_oneof![
        common().prop_map(|(keys, values, state, initial, partitions)| {
            Operator::UpdateStateByKey(UpdateStateByKey {
                keys,
                values,
                state,
                initial,
                partitions,
            })
        }),
        (common(), columns(), option::of(duration())).prop_map(
            |((keys, values, state, initial, partitions), emit, timeout)| Operator::MapWithState(MapWithState {
                keys,
                values,
                state,
                emit,
                timeout,
                initial,
                partitions
            })
        ),
        Just(Operator::StateSnapshots),
    ]
}

pub(super) fn operator() -> impl Strategy<Value = Operator> {
    prop_oneof![
        10 => record_step().boxed(),
        10 => batch_step().boxed(),
        4 => streams_step().boxed(),
        6 => window_step().boxed(),
        3 => state_step().boxed(),
    ]
}
