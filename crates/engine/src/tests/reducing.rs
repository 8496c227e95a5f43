//! Operators that make records one: by keys or all of a batch.

use tidemill_dstream::{NamedFunction, Operator, Reduction};

use super::support::*;

fn pairs() -> Operator {
    map(&[
        ("k", "nullif(split_part(value, ' ', 1), '-')"),
        ("n", "CAST(nullif(split_part(value, ' ', 2), '') AS BIGINT)"),
    ])
}

fn binary(functions: &[(&str, &str)]) -> Reduction {
    Reduction::Binary {
        columns: columns(functions),
        inverse: Vec::new(),
    }
}

fn by_key(reduction: Reduction) -> Operator {
    Operator::ReduceByKey {
        keys: columns(&[("k", "k")]),
        reduction,
        partitions: None,
    }
}

fn over_pairs(steps: Vec<Operator>) -> tidemill_dstream::JobGraph {
    let steps = [pairs()].into_iter().chain(steps).collect();
    job(vec![source("lines", steps)], vec![table("lines")])
}

/// Lines in the order in which their partitions come.
fn in_map_order<'a>(lines: &[&'a str], partitions: u32) -> Vec<&'a str> {
    let of_partition = |partition| lines.iter().skip(partition as usize).step_by(partitions as usize);
    (0..partitions).flat_map(of_partition).copied().collect()
}

#[test]
fn count_by_value_counts_equal_records() {
    let step = Operator::CountByValue { partitions: None };
    check(
        &over_pairs(vec![step]),
        "lines",
        &[
            (
                &["a 1", "a 1", "a 2", "-", "-"],
                Some(&["a|1|2", "a|2|1", "null|null|2"]),
            ),
            (&[], Some(&[])),
        ],
    );
}

#[test]
fn aggregates_that_differ_by_a_cast_are_two() {
    let aggregates = columns(&[
        ("high", "max(n)"),
        ("last", "max(CAST(n AS VARCHAR))"),
        ("both", "concat(max(n), '/', max(CAST(n AS VARCHAR)))"),
    ]);
    let lines: &[&str] = &["a 10", "a 9", "b 1"];
    let reduction = Reduction::Aggregates(aggregates.clone());
    check(
        &over_pairs(vec![by_key(reduction.clone())]),
        "lines",
        &[(lines, Some(&["a|10|9|10/9", "b|1|1|1/1"]))],
    );
    let whole = [(lines, Some(&["10|9|10/9"][..]))];
    check(&over_pairs(vec![Operator::Reduce { reduction }]), "lines", &whole);
    let keys = Vec::new();
    let aggregate = Operator::Aggregate {
        keys,
        aggregates,
        partitions: None,
    };
    check(&over_pairs(vec![aggregate]), "lines", &whole);
}

#[test]
fn distinct_has_every_record_once() {
    let step = Operator::Distinct { partitions: None };
    check(
        &over_pairs(vec![step]),
        "lines",
        &[
            (&["a 1", "a 1", "a 2", "-", "-"], Some(&["a|1", "a|2", "null|null"])),
            (&[], Some(&[])),
        ],
    );
}

#[test]
fn aggregate_groups_by_keys() {
    let step = Operator::Aggregate {
        keys: columns(&[("k", "k")]),
        aggregates: columns(&[("n", "count(n)"), ("mean", "avg(n)")]),
        partitions: None,
    };
    check(
        &over_pairs(vec![step]),
        "lines",
        &[
            (
                &["a 1", "a 2", "- 7", "b"],
                Some(&["a|2|1.5", "b|0|null", "null|1|7.0"]),
            ),
            (&[], Some(&[])),
        ],
    );
}

#[test]
fn aggregate_without_keys_has_a_record_for_an_empty_batch() {
    for partitions in [None, Some(1), Some(7)] {
        let step = Operator::Aggregate {
            keys: Vec::new(),
            aggregates: columns(&[("n", "count(*)"), ("top", "max(n)")]),
            partitions,
        };
        check(
            &over_pairs(vec![step]),
            "lines",
            &[(&["a 1", "a 2"], Some(&["2|2"])), (&[], Some(&["0|null"]))],
        );
    }
}

#[test]
fn group_by_key_lists_values_in_the_order_of_records() {
    let step = Operator::GroupByKey {
        keys: columns(&[("k", "k")]),
        partitions: None,
    };
    let graph = over_pairs(vec![step]);
    let lines = ["a 3", "b 1", "a 1", "a", "- 5", "a 2"];
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        let rows = mini.batch(&[("lines", &lines)]).remove("lines").unwrap();
        let of_a: Vec<&str> = in_map_order(&lines, partitions)
            .into_iter()
            .filter_map(|line| line.strip_prefix('a'))
            .map(|n| if n.is_empty() { "null" } else { n.trim() })
            .collect();
        let of_a = format!("a|[{}]", of_a.join(", "));
        assert_eq!(
            sorted(rows),
            [of_a.as_str(), "b|[1]", "null|[5]"],
            "{partitions} partitions"
        );
        assert!(mini.batch(&[])["lines"].is_empty());
    }
}

#[test]
fn group_by_key_makes_structs_of_several_values() {
    let steps = vec![
        map(&[("k", "k"), ("n", "n"), ("m", "-n")]),
        Operator::GroupByKey {
            keys: columns(&[("k", "k")]),
            partitions: None,
        },
        map(&[("k", "k"), ("first", "values[1]['n']"), ("negative", "values[1]['m']")]),
    ];
    check(
        &over_pairs(steps),
        "lines",
        &[(&["a 1", "b 2"], Some(&["a|1|-1", "b|2|-2"]))],
    );
}

#[test]
fn a_binary_function_reduces_each_key() {
    check(
        &over_pairs(vec![by_key(binary(&[("n", "a + b")]))]),
        "lines",
        &[
            (
                &["a 1", "b 2", "a 3", "a 4", "- 1", "- 2"],
                Some(&["a|8", "b|2", "null|3"]),
            ),
            (&[], Some(&[])),
            // A null is a value as any other.
            (&["a 1", "a", "b"], Some(&["a|null", "b|null"])),
        ],
    );
}

#[test]
fn the_only_value_column_needs_no_name() {
    let function = NamedFunction {
        name: String::new(),
        ..columns(&[("n", "greatest(a, b)")]).remove(0)
    };
    let reduction = Reduction::Binary {
        columns: vec![function],
        inverse: Vec::new(),
    };
    check(
        &over_pairs(vec![by_key(reduction)]),
        "lines",
        &[(&["a 1", "a 9", "a 3"], Some(&["a|9"]))],
    );
}

#[test]
fn each_value_column_has_its_own_function() {
    let steps = vec![
        map(&[("low", "n"), ("k", "k"), ("high", "n"), ("text", "CAST(n AS VARCHAR)")]),
        by_key(binary(&[
            ("text", "CASE WHEN a < b THEN a ELSE b END"),
            ("high", "greatest(a, b)"),
            ("low", "least(a, b)"),
        ])),
    ];
    check(
        &over_pairs(steps),
        "lines",
        &[(&["a 3", "a 10", "a 2", "b 1"], Some(&["a|2|10|10", "b|1|1|1"]))],
    );
}

#[test]
fn an_associative_function_sees_records_in_their_order() {
    let steps = vec![
        map(&[("k", "split_part(value, ' ', 1)"), ("t", "split_part(value, ' ', 2)")]),
        by_key(binary(&[("t", "concat(a, b)")])),
    ];
    let graph = job(vec![source("lines", steps)], vec![table("lines")]);
    let lines: Vec<String> = (0..40).map(|i| format!("{} {i}.", i % 3)).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    for partitions in PARTITIONS {
        let mut expected = vec![String::new(); 3];
        for line in in_map_order(&lines, partitions) {
            let (k, t) = line.split_once(' ').unwrap();
            expected[k.parse::<usize>().unwrap()] += t;
        }
        let expected: Vec<String> = expected.iter().enumerate().map(|(k, t)| format!("{k}|{t}")).collect();
        let mut mini = Mini::new(&graph, &[], partitions);
        for _ in 0..2 {
            let rows = mini.batch(&[("lines", &lines)]).remove("lines").unwrap();
            assert_eq!(sorted(rows), expected, "{partitions} partitions");
        }
    }
}

#[test]
fn a_binary_reduction_of_everything_has_no_record_for_an_empty_batch() {
    let step = Operator::Reduce {
        reduction: binary(&[("n", "a * b"), ("k", "coalesce(a, b)")]),
    };
    check(
        &over_pairs(vec![step]),
        "lines",
        &[
            (&["- 2", "a 3", "a 7"], Some(&["a|42"])),
            (&[], Some(&[])),
            (&["-"], Some(&["null|null"])),
            (&["a 5"], Some(&["a|5"])),
        ],
    );
}

#[test]
fn binary_reductions_over_windows_equal_those_of_all_records() {
    let step = Operator::ReduceByKeyAndWindow {
        keys: columns(&[("k", "k")]),
        length: INTERVAL * 3,
        slide: None,
        reduction: Reduction::Binary {
            columns: columns(&[("n", "a + b")]),
            inverse: columns(&[("n", "a - b")]),
        },
        filter: Some("n > 1".into()),
        partitions: None,
    };
    check(
        &over_pairs(vec![step]),
        "lines",
        &[
            (&["a 1", "b 1", "a 2"], Some(&["a|3"])),
            (&["b 4"], Some(&["a|3", "b|5"])),
            (&[], Some(&["a|3", "b|5"])),
            (&["c 9"], Some(&["b|4", "c|9"])),
            (&[], Some(&["c|9"])),
        ],
    );
}

#[test]
fn reduce_by_window_folds_batch_by_batch() {
    let step = Operator::ReduceByWindow {
        length: INTERVAL * 2,
        slide: None,
        reduction: binary(&[("value", "concat(a, b)")]),
    };
    let graph = job(vec![source("lines", vec![step])], vec![table("lines")]);
    check(
        &graph,
        "lines",
        &[
            (&["a"], Some(&["a"])),
            (&["b"], Some(&["ab"])),
            (&[], Some(&["b"])),
            (&[], Some(&[])),
        ],
    );
}

#[test]
fn group_by_key_over_a_window_lists_all_its_batches() {
    let step = Operator::GroupByKeyAndWindow {
        keys: columns(&[("k", "k")]),
        length: INTERVAL * 2,
        slide: Some(INTERVAL * 2),
        partitions: None,
    };
    check(
        &over_pairs(vec![step]),
        "lines",
        &[
            (&["a 1"], None),
            (&["a 2", "b 3"], Some(&["a|[1, 2]", "b|[3]"])),
            (&["c 1"], None),
            (&[], Some(&["c|[1]"])),
        ],
    );
}

fn combine(create: &[(&str, &str)], merge_value: &[(&str, &str)], merge_combiners: &[(&str, &str)]) -> Operator {
    Operator::CombineByKey {
        keys: columns(&[("k", "k")]),
        create: columns(create),
        merge_value: columns(merge_value),
        merge_combiners: columns(merge_combiners),
        partitions: None,
    }
}

#[test]
fn combine_by_key_takes_records_into_combined_values() {
    let step = combine(
        &[("sum", "n"), ("count", "1"), ("top", "n")],
        &[
            ("sum", "sum + value_n"),
            ("count", "count + 1"),
            // It may look at the other combined columns, as they were.
            ("top", "CASE WHEN value_n > sum THEN value_n ELSE top END"),
        ],
        &[("sum", "a + b"), ("top", "greatest(a, b)"), ("count", "a + b")],
    );
    check(
        &over_pairs(vec![step]),
        "lines",
        &[(&["a 1", "b 5"], Some(&["a|1|1|1", "b|5|1|5"])), (&[], Some(&[]))],
    );
    let one = Mini::new(
        &over_pairs(vec![combine(
            &[("sum", "n"), ("top", "n")],
            &[
                ("sum", "sum + value_n"),
                ("top", "CASE WHEN value_n > sum THEN value_n ELSE top END"),
            ],
            &[("sum", "a + b"), ("top", "greatest(a, b)")],
        )]),
        &[],
        1,
    )
    .batch(&[("lines", &["a 1", "a 2", "a 3", "a 7"])])
    .remove("lines")
    .unwrap();
    // 2 > 1, 3 = 1 + 2, 7 > 1 + 2 + 3.
    assert_eq!(one, ["a|13|7"]);
}

#[test]
fn combine_by_key_without_merge_value_makes_every_record_combined() {
    let step = combine(
        &[("list", "make_array(n)"), ("sum", "n")],
        &[],
        &[("list", "array_concat(a, b)"), ("sum", "a + b")],
    );
    let steps = vec![step, map(&[("k", "k"), ("list", "array_sort(list)"), ("sum", "sum")])];
    check(
        &over_pairs(steps),
        "lines",
        &[(&["a 1", "b 5", "a 3", "a 2"], Some(&["a|[1, 2, 3]|6", "b|[5]|5"]))],
    );
}

#[test]
fn combine_by_key_counts_without_looking_at_the_record() {
    let step = combine(&[("count", "1")], &[("count", "count + 1")], &[("count", "a + b")]);
    check(
        &over_pairs(vec![step]),
        "lines",
        &[(&["a 1", "b 5", "a 3", "a 2"], Some(&["a|3", "b|1"]))],
    );
}

#[test]
fn combine_by_key_takes_the_records_of_another_stream() {
    let step = combine(&[("sum", "n")], &[("sum", "sum + value_n")], &[("sum", "a + b")]);
    let graph = job(
        vec![source("pairs", vec![pairs()]), from("out", "pairs", vec![step])],
        vec![table("out"), table("pairs")],
    );
    for partitions in PARTITIONS {
        let mut outputs = Mini::new(&graph, &[], partitions).batch(&[("pairs", &["a 1", "b 5", "a 3"])]);
        assert_eq!(sorted(outputs.remove("out").unwrap()), ["a|4", "b|5"]);
    }
}
