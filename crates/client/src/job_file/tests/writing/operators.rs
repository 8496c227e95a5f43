//! Any operator that a job file can say.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use tidemill_dstream::{
    Addition, Function, JoinKey, JoinKind, Line, MapWithState, NamedFunction, NativeCall, Operator, Reduction, SortKey,
    StateFunction, UpdateStateByKey,
};

use super::{duration, text};

/// Settings that stand beside columns somewhere, and what is no column anywhere.
const RESERVED: &[&str] = &[
    "key",
    "function",
    "inverse",
    "partitions",
    "length",
    "slide",
    "filter",
    "native",
];

pub(super) fn call() -> impl Strategy<Value = NativeCall> {
    let accumulators = btree_map(text(), text(), 0..3);
    (text(), vec(text(), 0..3), accumulators).prop_map(|(name, args, accumulators)| NativeCall {
        name,
        args,
        accumulators: accumulators.into_iter().collect(),
    })
}

fn function() -> impl Strategy<Value = Function> {
    prop_oneof![3 => text().prop_map(Function::Expr), 1 => call().prop_map(Function::Native)]
}

/// A text that is not taken for a setting that is not written right.
fn aggregate() -> impl Strategy<Value = Function> {
    let is_number = |sql: &str| sql.parse::<f64>().is_ok() || humantime::parse_duration(sql).is_ok();
    function().prop_filter("is a number", move |function| match function {
        Function::Expr(sql) => !is_number(sql),
        Function::Native(_) => true,
    })
}

fn named(name: impl Into<String>, function: impl Into<Function>) -> NamedFunction {
    NamedFunction {
        name: name.into(),
        function: function.into(),
        line: Line(None),
    }
}

/// Columns of one mapping.
fn columns_of(function: impl Strategy<Value = Function>) -> impl Strategy<Value = Vec<NamedFunction>> {
    let name = text().prop_filter("is a setting", |name| !RESERVED.contains(&name.as_str()));
    btree_map(name, function, 0..4).prop_map(|columns| {
        columns
            .into_iter()
            .map(|(name, function)| named(name, function))
            .collect()
    })
}

fn addition() -> impl Strategy<Value = Addition> {
    (text(), function(), option::of(function())).prop_map(|(into, add, when)| Addition {
        when,
        ..Addition::new(into, add)
    })
}

fn columns() -> BoxedStrategy<Vec<NamedFunction>> {
    columns_of(function()).boxed()
}

fn keys() -> BoxedStrategy<Vec<NamedFunction>> {
    let keys = prop_oneof![
        "[a-z_]{1,6}".prop_map(|name| vec![named(name.clone(), name)]),
        function().prop_map(|function| vec![named("key", function)]),
        vec("[a-z_]{1,6}".prop_map(|name| named(name.clone(), name)), 0..3),
        columns(),
    ];
    keys.boxed()
}

fn names() -> impl Strategy<Value = Vec<String>> {
    prop_oneof![Just(vec!["key".to_owned()]), vec(text(), 0..3)]
}

fn partitions() -> impl Strategy<Value = Option<u32>> {
    option::of(any::<u32>())
}

fn reduction() -> BoxedStrategy<Reduction> {
    let functions = || prop_oneof![function().prop_map(|function| vec![named("", function)]), columns()];
    let reduction = prop_oneof![
        columns_of(aggregate()).prop_map(Reduction::Aggregates),
        (functions(), functions()).prop_map(|(columns, inverse)| Reduction::Binary { columns, inverse }),
    ];
    reduction.boxed()
}

fn sort_key() -> impl Strategy<Value = SortKey> {
    let function = prop_oneof![
        function(),
        "[a-z]{0,3}( (ASC|DESC|NULLS|FIRST|last)){0,3} ?".prop_map(Function::Expr)
    ];
    (function, any::<bool>(), option::of(any::<bool>())).prop_map(|(function, descending, nulls_first)| SortKey {
        function,
        descending,
        nulls_first,
    })
}

fn join_keys() -> impl Strategy<Value = Vec<JoinKey>> {
    prop_oneof![
        vec(text().prop_map(JoinKey::same), 0..3),
        btree_map(text(), text(), 0..3).prop_map(|pairs| {
            let key = |(left, right)| JoinKey { left, right };
            pairs.into_iter().map(key).collect()
        })
    ]
}

fn record_step() -> impl Strategy<Value = Operator> {
    prop_oneof![
        columns().prop_map(|columns| Operator::Map { columns }),
        columns().prop_map(|columns| Operator::FlatMap { columns }),
        function().prop_map(|predicate| Operator::Filter { predicate }),
        (names(), columns()).prop_map(|(keys, columns)| Operator::MapValues { keys, columns }),
        (names(), columns()).prop_map(|(keys, columns)| Operator::FlatMapValues { keys, columns }),
        (0.0..=1.0, prop_oneof![Just(0), any::<u64>()])
            .prop_map(|(fraction, seed)| Operator::Sample { fraction, seed }),
        vec(addition(), 0..3).prop_map(|additions| Operator::Accumulate { additions }),
        call().prop_map(|function| Operator::MapPartitions { function }),
        Just(Operator::Glom),
        any::<u32>().prop_map(|partitions| Operator::Repartition { partitions }),
        (names(), partitions()).prop_map(|(keys, partitions)| Operator::PartitionBy { keys, partitions }),
    ]
}

fn batch_step() -> impl Strategy<Value = Operator> {
    prop_oneof![
        Just(Operator::Count),
        partitions().prop_map(|partitions| Operator::CountByValue { partitions }),
        partitions().prop_map(|partitions| Operator::Distinct { partitions }),
        reduction().prop_map(|reduction| Operator::Reduce { reduction }),
        (keys(), reduction(), partitions()).prop_map(|(keys, reduction, partitions)| Operator::ReduceByKey {
            keys,
            reduction,
            partitions
        }),
        (keys(), columns_of(aggregate()), partitions()).prop_map(|(keys, aggregates, partitions)| {
            Operator::Aggregate {
                keys,
                aggregates,
                partitions,
            }
        }),
        (keys(), partitions()).prop_map(|(keys, partitions)| Operator::GroupByKey { keys, partitions }),
        (keys(), columns(), columns(), columns(), partitions()).prop_map(
            |(keys, create, merge_value, merge_combiners, partitions)| Operator::CombineByKey {
                keys,
                create,
                merge_value,
                merge_combiners,
                partitions
            }
        ),
        (vec(sort_key(), 0..3), option::of(any::<u64>())).prop_map(|(keys, limit)| Operator::SortBy { keys, limit }),
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
    prop_oneof![
        names().prop_map(|with| Operator::Union { with }),
        (names(), text()).prop_map(|(with, sql)| Operator::TransformWith { with, sql }),
        (kind, text(), join_keys(), partitions()).prop_map(|(kind, with, on, partitions)| Operator::Join {
            kind,
            with,
            on,
            partitions
        }),
        (names(), names(), partitions()).prop_map(|(with, keys, partitions)| Operator::Cogroup {
            with,
            keys,
            partitions
        }),
    ]
}

fn window_step() -> impl Strategy<Value = Operator> {
    let window = || (duration(), option::of(duration()));
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
        (keys(), window(), reduction(), option::of(function()), partitions()).prop_map(
            |(keys, (length, slide), reduction, filter, partitions)| Operator::ReduceByKeyAndWindow {
                keys,
                length,
                slide,
                reduction,
                filter,
                partitions
            }
        ),
        (keys(), window(), partitions()).prop_map(|(keys, (length, slide), partitions)| {
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
    let state = || {
        prop_oneof![
            columns().prop_map(StateFunction::Columns),
            call().prop_map(StateFunction::Native)
        ]
    };
    let common = || (keys(), columns(), state(), option::of(text()), partitions());
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
