//! The forms of steps.

use std::time::Duration;

use tidemill_dstream::{
    Function, JoinKey, JoinKind, MapWithState, NamedFunction, NativeCall, Operator, Reduction, SortKey, StateFunction,
    UpdateStateByKey,
};

use super::faults;
use super::reading::{column, operators, with_steps};

/// The operator that a step is.
fn operator(step: &str) -> Operator {
    let mut operators = operators(&format!("    - {step}"));
    assert_eq!(operators.len(), 1);
    operators.remove(0)
}

/// The operator of a step of a stream beside which there is `other`.
fn operator_with_other(step: &str) -> Operator {
    let text =
        with_steps(&format!("    - {step}")).replace("streams:", "streams:\n  other: {source: {text_file: {path: b}}}");
    super::read(&text).streams[1].steps[0].operator.clone()
}

fn native(name: &str, column: &str) -> NamedFunction {
    NamedFunction {
        function: Function::native(name),
        ..super::reading::column(column, "")
    }
}

fn fault(step: &str) -> String {
    let faults = faults(&with_steps(&format!("    - {step}")));
    let [fault] = faults.as_slice() else {
        panic!("{faults:#?}")
    };
    fault.replace("line 7: streams.lines.steps[0].", "")
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_native_function_stands_wherever_an_expression_can() {
    assert_eq!(
        operator("map: {native: f}"),
        Operator::Map {
            columns: vec![native("f", "value")]
        }
    );
    assert_eq!(
        operator("map: {a: {native: f, args: [x, \"y, z\"]}, b: c}"),
        Operator::Map {
            columns: vec![
                NamedFunction {
                    function: NativeCall::new("f").args(["x", "y, z"]).into(),
                    ..column("a", "")
                },
                column("b", "c")
            ]
        }
    );
    assert_eq!(
        operator("filter: {native: good, args: x}"),
        Operator::Filter {
            predicate: NativeCall::new("good").args(["x"]).into()
        }
    );
    assert_eq!(
        operator("transform: {native: f}"),
        Operator::Transform {
            function: Function::native("f")
        }
    );
    assert_eq!(
        operator("map_partitions: {native: f}"),
        Operator::MapPartitions {
            function: NativeCall::new("f")
        }
    );
    assert_eq!(
        operator("group_by_key: {native: f}"),
        Operator::GroupByKey {
            keys: vec![native("f", "key")],
            partitions: None
        }
    );
    assert_eq!(
        operator("map_values: {key: user, native: f}"),
        Operator::MapValues {
            keys: names(&["user"]),
            columns: vec![native("f", "value")]
        }
    );
    assert_eq!(
        fault("map: {native: f, arg: x}"),
        "map.arg: unknown key `arg` (did you mean `args`?)"
    );
    assert_eq!(
        fault("filter: {natve: f}"),
        "filter: expected an expression or {native: name}, found a mapping"
    );
    assert_eq!(
        fault("reduce: {native: f}"),
        "reduce.native: a column cannot be called `native` (a registered function stands after its column: `column: \
         {native: name}`)"
    );
    assert_eq!(
        fault("map_values: {key: user, native: f, n: x}"),
        "map_values.n: `n` stands beside `native` (a registered function stands after its column: `column: {native: \
         name}`)"
    );
}

#[test]
fn values_are_mapped_beside_their_key() {
    assert_eq!(
        operator("map_values: {key: user, total: total * 2}"),
        Operator::MapValues {
            keys: names(&["user"]),
            columns: vec![column("total", "total * 2")]
        }
    );
    assert_eq!(
        operator("map_values: upper(value)"),
        Operator::MapValues {
            keys: names(&["key"]),
            columns: vec![column("value", "upper(value)")]
        }
    );
    assert_eq!(
        operator("flat_map_values: {key: [a, b], part: f(c)}"),
        Operator::FlatMapValues {
            keys: names(&["a", "b"]),
            columns: vec![column("part", "f(c)")]
        }
    );
    assert_eq!(
        operator("flat_map_values: {part: f(c)}"),
        Operator::FlatMapValues {
            keys: names(&["key"]),
            columns: vec![column("part", "f(c)")]
        }
    );
}

#[test]
fn steps_that_need_no_settings_stand_alone() {
    for (name, expected) in [
        ("glom", Operator::Glom),
        ("count", Operator::Count),
        ("distinct", Operator::Distinct { partitions: None }),
        ("count_by_value", Operator::CountByValue { partitions: None }),
    ] {
        for form in [name.to_owned(), format!("{name}:"), format!("{name}: {{}}")] {
            assert_eq!(operator(&form), expected, "{form}");
        }
    }
    assert_eq!(
        operator("distinct: {partitions: 4}"),
        Operator::Distinct { partitions: Some(4) }
    );
    assert_eq!(
        operator("count_by_value: {partitions: 4}"),
        Operator::CountByValue { partitions: Some(4) }
    );
    assert_eq!(
        fault("distinct: {partition: 4}"),
        "distinct.partition: unknown key `partition` (did you mean `partitions`?)"
    );
    assert_eq!(
        fault("repartition"),
        "repartition: `repartition` stands here without its settings (write `repartition: ...`)"
    );
}

#[test]
fn samples_and_partitions_have_a_short_form() {
    assert_eq!(operator("sample: 0.1"), Operator::Sample { fraction: 0.1, seed: 0 });
    assert_eq!(
        operator("sample: {fraction: 0.1, seed: 7}"),
        Operator::Sample { fraction: 0.1, seed: 7 }
    );
    assert_eq!(fault("sample: tenth"), "sample: expected a number, found `tenth`");
    assert_eq!(fault("sample: 1.5"), "sample.fraction: 1.5 is not between 0 and 1");
    for form in ["repartition: 8", "repartition: {partitions: 8}"] {
        assert_eq!(operator(form), Operator::Repartition { partitions: 8 });
    }
    for (form, keys, partitions) in [
        ("partition_by: user", vec!["user"], None),
        ("partition_by: [user, city]", vec!["user", "city"], None),
        ("partition_by: {key: user, partitions: 8}", vec!["user"], Some(8)),
    ] {
        let keys = names(&keys);
        assert_eq!(operator(form), Operator::PartitionBy { keys, partitions });
    }
}

#[test]
fn reductions_are_aggregates_or_functions_of_two() {
    let reduce_by_key = |reduction, partitions| Operator::ReduceByKey {
        keys: vec![column("tag", "tag")],
        reduction,
        partitions,
    };
    let binary = |columns, inverse| Reduction::Binary { columns, inverse };
    assert_eq!(
        operator("reduce_by_key: {key: tag, count: count(*), partitions: 4}"),
        reduce_by_key(Reduction::Aggregates(vec![column("count", "count(*)")]), Some(4))
    );
    assert_eq!(
        operator("reduce_by_key: {key: tag, partitions: count(*)}"),
        reduce_by_key(Reduction::Aggregates(vec![column("partitions", "count(*)")]), None)
    );
    assert_eq!(
        operator("reduce_by_key: {key: tag, function: a + b}"),
        reduce_by_key(binary(vec![column("", "a + b")], vec![]), None)
    );
    assert_eq!(
        operator("reduce_by_key: {key: tag, function: {n: a + b, best: \"greatest(a, b)\"}, partitions: 2}"),
        reduce_by_key(
            binary(vec![column("n", "a + b"), column("best", "greatest(a, b)")], vec![]),
            Some(2)
        )
    );
    assert_eq!(
        operator("reduce: {function: {native: longest}}"),
        Operator::Reduce {
            reduction: binary(vec![native("longest", "")], vec![])
        }
    );
    assert_eq!(
        operator("reduce_by_window: {length: 2s, slide: 1s, function: a + b, inverse: a - b}"),
        Operator::ReduceByWindow {
            length: SECOND * 2,
            slide: Some(SECOND),
            reduction: binary(vec![column("", "a + b")], vec![column("", "a - b")])
        }
    );
    assert_eq!(
        operator("reduce_by_window: {length: 2s, total: sum(x)}"),
        Operator::ReduceByWindow {
            length: SECOND * 2,
            slide: None,
            reduction: Reduction::Aggregates(vec![column("total", "sum(x)")])
        }
    );
    assert_eq!(
        operator(
            "reduce_by_key_and_window: {key: tag, length: 2s, slide: 1s, count: count(*), filter: count > 1, partitions: 4}"
        ),
        Operator::ReduceByKeyAndWindow {
            keys: vec![column("tag", "tag")],
            length: SECOND * 2,
            slide: Some(SECOND),
            reduction: Reduction::Aggregates(vec![column("count", "count(*)")]),
            filter: Some(Function::expr("count > 1")),
            partitions: Some(4)
        }
    );
    assert_eq!(
        fault("reduce_by_key: {key: tag, function: a + b, n: count(*)}"),
        "reduce_by_key.n: `n` stands beside `function`, which is in place of aggregates (write `function: {column: a + \
         b}` for a function of a column)"
    );
    assert_eq!(
        fault("reduce_by_key: {key: tag, n: count(*), partition: 4}"),
        "reduce_by_key.partition: unknown key `partition` (did you mean `partitions`?)"
    );
    assert_eq!(
        fault("reduce_by_key: {key: tag, n: count(*), partitions: 2.5}"),
        "reduce_by_key.partitions: expected a whole number up to 4294967295, found `2.5`"
    );
    assert_eq!(
        faults(&with_steps("    - reduce_by_window: {lenght: 2s, n: sum(x)}")),
        [
            "line 7: streams.lines.steps[0].reduce_by_window: `length` is missing",
            "line 7: streams.lines.steps[0].reduce_by_window.lenght: unknown key `lenght` (did you mean `length`?)",
        ]
    );
    assert_eq!(fault("reduce: {inverse: a - b}"), "reduce: `function` is missing");
}

#[test]
fn aggregates_and_groups_have_keys() {
    assert_eq!(
        operator("aggregate: {n: count(*)}"),
        Operator::Aggregate {
            keys: vec![],
            aggregates: vec![column("n", "count(*)")],
            partitions: None
        }
    );
    assert_eq!(
        operator("aggregate: {key: [a, b], n: count(*), partitions: 4}"),
        Operator::Aggregate {
            keys: vec![column("a", "a"), column("b", "b")],
            aggregates: vec![column("n", "count(*)")],
            partitions: Some(4)
        }
    );
    let group = |keys, partitions| Operator::GroupByKey { keys, partitions };
    assert_eq!(
        operator("group_by_key: user"),
        group(vec![column("user", "user")], None)
    );
    assert_eq!(
        operator("group_by_key: lower(user)"),
        group(vec![column("key", "lower(user)")], None)
    );
    assert_eq!(
        operator("group_by_key: {key: {who: lower(user)}, partitions: 4}"),
        group(vec![column("who", "lower(user)")], Some(4))
    );
    assert_eq!(
        operator("group_by_key_and_window: {key: user, length: 2s, slide: 1s, partitions: 3}"),
        Operator::GroupByKeyAndWindow {
            keys: vec![column("user", "user")],
            length: SECOND * 2,
            slide: Some(SECOND),
            partitions: Some(3)
        }
    );
    assert_eq!(
        fault("group_by_key: {key: user, partition: 3}"),
        "group_by_key.partition: unknown key `partition` (did you mean `partitions`?)"
    );
    assert_eq!(
        fault("group_by_key: {partitions: 3}"),
        "group_by_key: `key` is missing (such as `key: user`)"
    );
}

#[test]
fn combinations_have_sparks_three_steps() {
    assert_eq!(
        operator(
            "combine_by_key: {key: user, create: {total: price, n: \"1\"}, merge_value: {total: total + value_price, n: n + \
             1}, merge_combiners: {total: a + b, n: a + b}, partitions: 4}"
        ),
        Operator::CombineByKey {
            keys: vec![column("user", "user")],
            create: vec![column("total", "price"), column("n", "1")],
            merge_value: vec![column("total", "total + value_price"), column("n", "n + 1")],
            merge_combiners: vec![column("total", "a + b"), column("n", "a + b")],
            partitions: Some(4)
        }
    );
    assert_eq!(
        operator("combine_by_key: {key: user, create: price, merge_combiners: a + b}"),
        Operator::CombineByKey {
            keys: vec![column("user", "user")],
            create: vec![column("value", "price")],
            merge_value: vec![],
            merge_combiners: vec![column("value", "a + b")],
            partitions: None
        }
    );
    assert_eq!(
        fault(
            "combine_by_key: {key: user, create: {t: price}, merge_combiner: {t: a + b}, merge_combiners: {t: a + b}}"
        ),
        "combine_by_key.merge_combiner: unknown key `merge_combiner` (did you mean `merge_combiners`?)"
    );
}

#[test]
fn sort_keys_are_said_as_in_sql_or_spelled_out() {
    let key = |function: Function, descending, nulls_first| SortKey {
        function,
        descending,
        nulls_first,
    };
    for (form, keys, limit) in [
        ("sort_by: count DESC", vec![key("count".into(), true, None)], None),
        (
            "sort_by: [count DESC NULLS LAST, word]",
            vec![key("count".into(), true, Some(false)), key("word".into(), false, None)],
            None,
        ),
        (
            "sort_by: {by: [count DESC], limit: 10}",
            vec![key("count".into(), true, None)],
            Some(10),
        ),
        (
            "sort_by: {native: rank}",
            vec![key(Function::native("rank"), false, None)],
            None,
        ),
        (
            "sort_by: [{by: {native: rank}, order: desc, nulls: first}]",
            vec![key(Function::native("rank"), true, Some(true))],
            None,
        ),
    ] {
        assert_eq!(operator(form), Operator::SortBy { keys, limit }, "{form}");
    }
    assert_eq!(
        fault("sort_by: {by: n, limt: 10}"),
        "sort_by.limt: unknown key `limt` (did you mean `limit`?)"
    );
    assert_eq!(
        fault("sort_by: [{by: n, order: down}]"),
        "sort_by[0].order: unknown order `down` (known: asc, desc)"
    );
}

#[test]
fn steps_with_other_streams_name_them() {
    let join = |kind, on, partitions| Operator::Join {
        kind,
        with: "other".to_owned(),
        on,
        partitions,
    };
    let same = |names: &[&str]| names.iter().map(|name| JoinKey::same(*name)).collect::<Vec<_>>();
    for (form, expected) in [
        (
            "join: {with: other, on: user}",
            join(JoinKind::Inner, same(&["user"]), None),
        ),
        (
            "left_outer_join: {with: other, on: [a, b]}",
            join(JoinKind::LeftOuter, same(&["a", "b"]), None),
        ),
        (
            "right_outer_join: {with: other, on: {l: r}}",
            join(
                JoinKind::RightOuter,
                vec![JoinKey {
                    left: "l".into(),
                    right: "r".into(),
                }],
                None,
            ),
        ),
        (
            "full_outer_join: {with: other, on: user, partitions: 4}",
            join(JoinKind::FullOuter, same(&["user"]), Some(4)),
        ),
        (
            "cogroup: {with: [other], key: [a, b]}",
            Operator::Cogroup {
                with: names(&["other"]),
                keys: names(&["a", "b"]),
                partitions: None,
            },
        ),
        (
            "transform_with: {with: [other], sql: SELECT * FROM other}",
            Operator::TransformWith {
                with: names(&["other"]),
                sql: "SELECT * FROM other".to_owned(),
            },
        ),
    ] {
        assert_eq!(operator_with_other(form), expected, "{form}");
    }
    assert_eq!(
        faults(&with_steps("    - join: {with: [a, b], key: user}")),
        [
            "line 7: streams.lines.steps[0].join.key: unknown key `key` (known: with, on, partitions)",
            "line 7: streams.lines.steps[0].join.with: expected the name of a stream, found a list",
            "line 7: streams.lines.steps[0].join: `on` is missing",
        ]
    );
    assert_eq!(fault("join: {with: othr, on: user}"), "join: unknown stream `othr`");
}

#[test]
fn windows_have_a_length_and_maybe_a_slide() {
    assert_eq!(
        operator("count_by_window: {length: 3s, slide: 1s}"),
        Operator::CountByWindow {
            length: SECOND * 3,
            slide: Some(SECOND)
        }
    );
    assert_eq!(
        operator("count_by_value_and_window: {length: 3s, partitions: 2}"),
        Operator::CountByValueAndWindow {
            length: SECOND * 3,
            slide: None,
            partitions: Some(2)
        }
    );
    assert_eq!(
        fault("count_by_window: {length: 3s, slid: 1s}"),
        "count_by_window.slid: unknown key `slid` (did you mean `slide`?)"
    );
}

#[test]
fn states_are_columns_or_a_native_function() {
    assert_eq!(
        operator(
            "update_state_by_key: {key: word, values: {n: count(*)}, state: {total: \"coalesce(total, 0) + n\"}, initial: \
             SELECT 1, partitions: 4}"
        ),
        Operator::UpdateStateByKey(UpdateStateByKey {
            keys: vec![column("word", "word")],
            values: vec![column("n", "count(*)")],
            state: StateFunction::Columns(vec![column("total", "coalesce(total, 0) + n")]),
            initial: Some("SELECT 1".to_owned()),
            partitions: Some(4)
        })
    );
    assert_eq!(
        operator("update_state_by_key: {key: word, state: {native: f, args: [x]}}"),
        Operator::UpdateStateByKey(UpdateStateByKey {
            keys: vec![column("word", "word")],
            values: vec![],
            state: StateFunction::Native(NativeCall::new("f").args(["x"])),
            initial: None,
            partitions: None
        })
    );
    assert_eq!(
        operator(
            "map_with_state: {key: user, values: {n: count(*)}, state: {total: total + n}, emit: {t: total, gone: \
             timing_out}, timeout: 30s, initial: old}"
        ),
        Operator::MapWithState(MapWithState {
            keys: vec![column("user", "user")],
            values: vec![column("n", "count(*)")],
            state: StateFunction::Columns(vec![column("total", "total + n")]),
            emit: vec![column("t", "total"), column("gone", "timing_out")],
            timeout: Some(SECOND * 30),
            initial: Some("old".to_owned()),
            partitions: None
        })
    );
    assert_eq!(
        fault("map_with_state: {key: user, stat: {a: b}, state: {a: b}}"),
        "map_with_state.stat: unknown key `stat` (did you mean `state`?)"
    );
}
