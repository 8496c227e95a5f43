//! What a job's author is told about each operator of the algebra.

use tidemill_dstream::{Function, JoinKey, JoinKind, NativeCall, Operator, Reduction, SortKey};

use super::support::*;

/// The faults of a stream `out` with this step over columns `k` (text) and `n` (a number), beside a stream `more` with
/// columns `k` (a number) and `w`.
#[track_caller]
fn faults_of(step: Operator) -> String {
    let graph = job(
        vec![
            source("lines", vec![map(&[("k", "value"), ("n", "length(value)")])]),
            source("more", vec![map(&[("k", "length(value)"), ("w", "value")])]),
            from("out", "lines", vec![step]),
        ],
        vec![table("out")],
    );
    faults(&graph)
}

#[track_caller]
fn assert_fault(step: Operator, expected: &str) {
    let path = format!("line 2: streams.out.steps[0].{}", step.name());
    assert_eq!(faults_of(step), format!("{path}{expected}"));
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn by_key(columns_: &[(&str, &str)]) -> Operator {
    Operator::ReduceByKey {
        keys: columns(&[("k", "k")]),
        reduction: Reduction::Binary {
            columns: columns(columns_),
            inverse: Vec::new(),
        },
        partitions: None,
    }
}

#[test]
fn keys_are_columns() {
    let columns = columns(&[("n", "n")]);
    for step in [
        Operator::MapValues {
            keys: names(&["key"]),
            columns: columns.clone(),
        },
        Operator::PartitionBy {
            keys: names(&["key"]),
            partitions: None,
        },
        Operator::Cogroup {
            with: names(&["lines"]),
            keys: names(&["key"]),
            partitions: None,
        },
    ] {
        let text = faults_of(step);
        assert!(text.contains("unknown column `key` (known: k, n)"), "{text}");
    }
    assert_fault(
        Operator::FlatMapValues {
            keys: names(&["n"]),
            columns,
        },
        ".n: `n` is a key, which stays as it is",
    );
    assert_fault(
        Operator::PartitionBy {
            keys: names(&["k", "k"]),
            partitions: None,
        },
        ": key `k` is there twice",
    );
}

#[test]
fn a_binary_function_gives_the_type_of_its_column() {
    assert_fault(
        by_key(&[("n", "a / 2.0")]),
        ".function.n: gives Float64, and the column `n` is Int32 (cast the result, or the column in a map before; for \
         example CAST(a + b AS BIGINT))",
    );
    assert_fault(
        by_key(&[("n", "a + c")]),
        ".function.n: unknown column `c` (did you mean `a`?)",
    );
    assert_fault(
        by_key(&[("n", "a + random()")]),
        ".function.n: gives something else each time, so the order of reducing would show (call it in a map before)",
    );
    assert_fault(
        by_key(&[("n", "sum(a)")]),
        ".function.n: `sum(a)` is an aggregate, and this step sees one record at a time (use reduce_by_key, reduce or \
         transform)",
    );
    let unknown = faults_of(by_key(&[("m", "a + b")]));
    assert!(
        unknown.contains(".function.m: there is no value column `m` (did you mean `n`?)"),
        "{unknown}"
    );
    assert!(
        unknown.contains("no function for the value column `n` (give one, or leave the column out in a map)"),
        "{unknown}"
    );
}

#[test]
fn the_inverse_is_checked() {
    let step = Operator::ReduceByWindow {
        length: INTERVAL * 2,
        slide: None,
        reduction: Reduction::Binary {
            columns: columns(&[("n", "a + b"), ("k", "a")]),
            inverse: columns(&[("n", "a - c"), ("k", "a")]),
        },
    };
    assert_fault(step, ".inverse.n: unknown column `c` (did you mean `a`?)");
}

#[test]
fn one_function_without_a_name_is_for_one_column() {
    let Operator::ReduceByKey {
        keys, mut reduction, ..
    } = by_key(&[("n", "a + b")])
    else {
        unreachable!()
    };
    let Reduction::Binary { columns, .. } = &mut reduction else {
        unreachable!()
    };
    columns[0].name.clear();
    assert_fault(
        Operator::Reduce {
            reduction: reduction.clone(),
        },
        ".function: there are 2 value columns: `k`, `n` (give a function for each of them by its name)",
    );
    let all = crate::tests::support::columns(&[("k", "k"), ("n", "n")]);
    assert_eq!(keys.len(), 1);
    assert_fault(
        Operator::ReduceByKey {
            keys: all,
            reduction,
            partitions: None,
        },
        ".function: every column is a key, so there is nothing to reduce",
    );
}

#[test]
fn combined_columns_are_told_apart_and_typed() {
    let combine = |create: &[(&str, &str)], merge_value: &[(&str, &str)], merge_combiners: &[(&str, &str)]| {
        Operator::CombineByKey {
            keys: columns(&[("k", "k")]),
            create: columns(create),
            merge_value: columns(merge_value),
            merge_combiners: columns(merge_combiners),
            partitions: None,
        }
    };
    assert_fault(
        combine(&[("sum", "n")], &[("sum", "sum + n")], &[("sum", "a + b")]),
        ".merge_value.sum: unknown column `n` (known: sum, value_k, value_n)",
    );
    assert_fault(
        combine(&[("sum", "n")], &[("sum", "concat(value_k, '')")], &[("sum", "a + b")]),
        ".merge_value.sum: gives Utf8View, and the column `sum` is Int32 (cast the result, or the column in a map \
         before; for example CAST(a + b AS BIGINT))",
    );
    assert_fault(
        combine(&[("sum", "n")], &[], &[("sum", "a + b"), ("top", "a")]),
        ".merge_combiners.top: there is no value column `top` (known: sum)",
    );
    assert_fault(
        combine(&[("value_n", "n")], &[("value_n", "value_n")], &[("value_n", "a")]),
        ".merge_value: `value_n` is a combined column and one of the record (give the combined column another name)",
    );
    assert_fault(
        combine(&[("x", "NULL")], &[], &[("x", "a")]),
        ".create: the type of `x` cannot be told (cast it, such as `CAST(NULL AS BIGINT)`)",
    );
    assert_fault(
        combine(&[("k", "n")], &[], &[("k", "a")]),
        ".k: column `k` is defined twice",
    );
}

#[test]
fn lists_and_counts_do_not_hide_columns() {
    let graph = job(
        vec![source(
            "lines",
            vec![map(&[("count", "value")]), Operator::CountByValue { partitions: None }],
        )],
        vec![table("lines")],
    );
    assert_eq!(
        faults(&graph),
        "line 3: streams.lines.steps[1].count_by_value: the records have a column `count` already (give it another \
         name in a map)"
    );
    assert_fault(
        Operator::GroupByKey {
            keys: columns(&[("values", "k")]),
            partitions: None,
        },
        ".values: a key cannot be called `values`, as the list of values is",
    );
    assert_fault(
        Operator::GroupByKey {
            keys: columns(&[("k", "k"), ("n", "n")]),
            partitions: None,
        },
        ": every column is a key, so there are no values (use distinct or count_by_value)",
    );
}

#[test]
fn joined_keys_are_of_one_type() {
    let join = |left: &str, right: &str, with: &str| Operator::Join {
        kind: JoinKind::Inner,
        with: with.to_owned(),
        on: vec![JoinKey {
            left: left.to_owned(),
            right: right.to_owned(),
        }],
        partitions: None,
    };
    assert_fault(
        join("k", "k", "more"),
        ": key `k` is Utf8View here and Int32 in stream `more` (cast one of them in a map)",
    );
    assert_fault(
        join("n", "w", "more"),
        ": key `n` is Int32 here and `w` of stream `more` is Utf8View (cast one of them in a map)",
    );
    assert_fault(
        join("n", "m", "more"),
        ": stream `more` has no column `m` (did you mean `k`?)",
    );
    assert_fault(join("m", "k", "more"), ": unknown column `m` (did you mean `k`?)");
    assert_fault(join("k", "k", "mor"), ": unknown stream `mor` (did you mean `more`?)");
    let cogroup = Operator::Cogroup {
        with: names(&["more"]),
        keys: names(&["k"]),
        partitions: None,
    };
    assert_fault(
        cogroup,
        ": key `k` is Utf8View here and Int32 in stream `more` (cast one of them in a map)",
    );
}

#[test]
fn joined_columns_have_distinct_names() {
    let join = Operator::Join {
        kind: JoinKind::Inner,
        with: "more".to_owned(),
        on: vec![JoinKey::same("k")],
        partitions: None,
    };
    let graph = job(
        vec![
            source("lines", vec![map(&[("k", "value"), ("n", "1"), ("more_n", "1")])]),
            source("more", vec![map(&[("k", "value"), ("n", "2")])]),
            from("out", "lines", vec![join]),
        ],
        vec![table("out")],
    );
    assert_eq!(
        faults(&graph),
        "line 2: streams.out.steps[0].join: the result has two columns `more_n` (give one of them another name in a map)"
    );
    let cogroup = Operator::Cogroup {
        with: names(&["k"]),
        keys: names(&["k"]),
        partitions: None,
    };
    let graph = job(
        vec![
            source("lines", vec![map(&[("k", "value"), ("n", "1")])]),
            source("k", vec![map(&[("k", "value"), ("n", "2")])]),
            from("out", "lines", vec![cogroup]),
        ],
        vec![table("out")],
    );
    assert_eq!(
        faults(&graph),
        "line 2: streams.out.steps[0].cogroup: two columns would be called `k` (a list is called as its stream is; rename \
         the key or the stream)"
    );
}

#[test]
fn a_transform_with_reads_what_it_names() {
    let step = |with: &[&str], sql: &str| Operator::TransformWith {
        with: names(with),
        sql: sql.to_owned(),
    };
    assert_fault(
        step(&["more"], "SELECT k FROM input"),
        ": the query does not read the stream `more` (read it, or leave it out of `with`)",
    );
    assert_fault(
        step(&["nowhere"], "SELECT k FROM input JOIN nowhere"),
        ": unknown stream `nowhere` (known: lines, more, out)",
    );
    let text = faults_of(step(&["more"], "SELECT k FROM input JOIN more WHERE"));
    assert!(text.contains("not valid SQL"), "{text}");
}

#[test]
fn settings_are_in_range() {
    assert_fault(
        Operator::Sample { fraction: 1.5, seed: 0 },
        ".fraction: 1.5 is not between 0 and 1",
    );
    assert_fault(
        Operator::Distinct { partitions: Some(0) },
        ".partitions: is 0, it has to be at least 1",
    );
    assert_fault(
        Operator::Repartition { partitions: 0 },
        ".partitions: is 0, it has to be at least 1",
    );
    let key = SortKey {
        function: "cuont".into(),
        descending: false,
        nulls_first: None,
    };
    assert_fault(
        Operator::SortBy {
            keys: vec![key],
            limit: None,
        },
        ".keys[0]: unknown column `cuont` (known: k, n)",
    );
}

#[test]
fn unregistered_functions_are_refused() {
    let call = NativeCall {
        name: "clean".to_owned(),
        args: Vec::new(),
        accumulators: Vec::new(),
    };
    for (step, path) in [
        (
            Operator::Filter {
                predicate: Function::Native(call.clone()),
            },
            ".native",
        ),
        (Operator::MapPartitions { function: call.clone() }, ".native"),
        (
            Operator::Transform {
                function: Function::Native(call.clone()),
            },
            ".native",
        ),
    ] {
        assert_fault(
            step,
            &format!(
                "{path}: no function `clean` is registered (this build has none; register it in a build of your own)"
            ),
        );
    }
}
