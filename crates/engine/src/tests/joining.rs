//! Joins and cogroups of streams.

use tidemill_dstream::{JobGraph, JoinKey, JoinKind, Operator};

use super::support::*;

fn pairs(value: &str) -> Operator {
    map(&[
        ("k", "nullif(split_part(value, ' ', 1), '-')"),
        (value, "split_part(value, ' ', 2)"),
    ])
}

fn joined(kind: JoinKind, on: JoinKey, partitions: Option<u32>) -> JobGraph {
    let join = Operator::Join {
        kind,
        with: "more".to_owned(),
        on: vec![on],
        partitions,
    };
    job(
        vec![
            source("lines", vec![pairs("v")]),
            source("more", vec![pairs("v")]),
            from("out", "lines", vec![join]),
        ],
        vec![table("out")],
    )
}

#[test]
fn joins_of_every_kind_pair_records_of_equal_keys_also_null() {
    let left: &[&str] = &["a 1", "a 2", "b 3", "- 4"];
    let right: &[&str] = &["a x", "c y", "- z"];
    let both = ["a|1|x", "a|2|x", "null|4|z"];
    for (kind, alone) in [
        (JoinKind::Inner, vec![]),
        (JoinKind::LeftOuter, vec!["b|3|null"]),
        (JoinKind::RightOuter, vec!["c|null|y"]),
        (JoinKind::FullOuter, vec!["b|3|null", "c|null|y"]),
    ] {
        let mut expected: Vec<String> = both.iter().chain(&alone).map(ToString::to_string).collect();
        expected.sort();
        for (partitions, own) in PARTITIONS
            .into_iter()
            .flat_map(|n| [(n, None), (n, Some(1)), (n, Some(3))])
        {
            let graph = joined(kind, JoinKey::same("k"), own);
            let mut mini = Mini::new(&graph, &[], partitions);
            let fields = mini.compiled.stream_schemas[2].1.clone();
            let names: Vec<&str> = fields.fields().iter().map(|field| field.name().as_str()).collect();
            assert_eq!(names, ["k", "v", "more_v"]);
            let rows = mini.batch(&[("lines", left), ("more", right)]).remove("out").unwrap();
            assert_eq!(sorted(rows), expected, "{kind:?}, {own:?} of {partitions} partitions");
            // Nothing of it is left in the next batches, and an empty side is an empty side.
            let rows = mini.batch(&[("lines", &["c 1"])]).remove("out").unwrap();
            let is_left = matches!(kind, JoinKind::LeftOuter | JoinKind::FullOuter);
            assert_eq!(rows, if is_left { vec!["c|1|null"] } else { vec![] }, "{kind:?}");
            let rows = mini.batch(&[("more", &["b 1"])]).remove("out").unwrap();
            let is_right = matches!(kind, JoinKind::RightOuter | JoinKind::FullOuter);
            assert_eq!(rows, if is_right { vec!["b|null|1"] } else { vec![] }, "{kind:?}");
            assert!(mini.batch(&[])["out"].is_empty());
        }
    }
}

#[test]
fn keys_may_have_other_names_on_the_right() {
    let join = Operator::Join {
        kind: JoinKind::FullOuter,
        with: "more".to_owned(),
        on: vec![
            JoinKey {
                left: "k".to_owned(),
                right: "id".to_owned(),
            },
            JoinKey::same("n"),
        ],
        partitions: None,
    };
    let graph = job(
        vec![
            source(
                "lines",
                vec![map(&[("n", "length(value)"), ("k", "value"), ("l", "1")])],
            ),
            source(
                "more",
                vec![map(&[("id", "value"), ("k", "2"), ("n", "length(value)")])],
            ),
            from("out", "lines", vec![join]),
        ],
        vec![table("out")],
    );
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        let fields = mini.compiled.stream_schemas[2].1.clone();
        let names: Vec<&str> = fields.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["k", "n", "l", "more_k"]);
        let outputs = mini.batch(&[("lines", &["a", "bb"]), ("more", &["bb", "ccc"])]);
        assert_eq!(
            sorted(outputs["out"].clone()),
            ["a|1|1|null", "bb|2|1|2", "ccc|3|null|2"]
        );
    }
}

#[test]
fn a_stream_joins_itself() {
    let join = Operator::Join {
        kind: JoinKind::Inner,
        with: "lines".to_owned(),
        on: vec![JoinKey::same("k")],
        partitions: None,
    };
    let graph = job(
        vec![source("lines", vec![pairs("v")]), from("out", "lines", vec![join])],
        vec![table("out")],
    );
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        let outputs = mini.batch(&[("lines", &["a 1", "a 2", "b 3"])]);
        assert_eq!(
            sorted(outputs["out"].clone()),
            ["a|1|1", "a|1|2", "a|2|1", "a|2|2", "b|3|3"]
        );
    }
}

#[test]
fn windows_join_in_the_batches_in_which_both_are_due() {
    let join = Operator::Join {
        kind: JoinKind::LeftOuter,
        with: "more".to_owned(),
        on: vec![JoinKey::same("k")],
        partitions: None,
    };
    let graph = job(
        vec![
            source("lines", vec![pairs("v"), window(2, Some(2))]),
            source("more", vec![pairs("w"), window(4, Some(2))]),
            from("out", "lines", vec![join]),
        ],
        vec![table("out")],
    );
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        let mut run = |left: &[&str], right: &[&str]| {
            let mut outputs = mini.batch(&[("lines", left), ("more", right)]);
            outputs.remove("out").map(sorted)
        };
        assert_eq!(run(&["a 1"], &["a x"]), None);
        assert_eq!(run(&["b 2"], &[]).unwrap(), ["a|1|x", "b|2|null"]);
        assert_eq!(run(&["a 3"], &["b y"]), None);
        assert_eq!(run(&[], &[]).unwrap(), ["a|3|x"]);
        assert_eq!(run(&["a 4", "b 4"], &[]), None);
        assert_eq!(run(&[], &[]).unwrap(), ["a|4|null", "b|4|y"]);
    }
}

#[test]
fn cogroup_lists_the_values_of_each_stream() {
    let cogroup = Operator::Cogroup {
        with: vec!["more".to_owned(), "most".to_owned()],
        keys: vec!["k".to_owned()],
        partitions: None,
    };
    let graph = job(
        vec![
            source("lines", vec![pairs("v")]),
            source("more", vec![pairs("w")]),
            source("most", vec![pairs("x"), map(&[("x", "x"), ("k", "k"), ("y", "1")])]),
            from(
                "out",
                "lines",
                vec![
                    cogroup,
                    map(&[
                        ("k", "k"),
                        ("out", "array_sort(out)"),
                        ("more", "more"),
                        ("most", "most"),
                    ]),
                ],
            ),
        ],
        vec![table("out")],
    );
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        let outputs = mini.batch(&[
            ("lines", &["a 1", "a 2", "- 3"]),
            ("more", &["a x", "b y"]),
            ("most", &["b p", "- q"]),
        ]);
        assert_eq!(
            sorted(outputs["out"].clone()),
            [
                "a|[1, 2]|[x]|[]",
                "b|[]|[y]|[{x: p, y: 1}]",
                "null|[3]|[]|[{x: q, y: 1}]"
            ],
            "{partitions} partitions"
        );
        assert!(mini.batch(&[])["out"].is_empty());
    }
}

#[test]
fn a_filter_behind_a_join_is_not_a_key_of_it_for_which_nulls_are_equal() {
    for kind in [JoinKind::Inner, JoinKind::LeftOuter, JoinKind::FullOuter] {
        let join = Operator::Join {
            kind,
            with: "more".to_owned(),
            on: vec![JoinKey::same("k")],
            partitions: None,
        };
        let pairs = map(&[
            ("k", "nullif(split_part(value, ' ', 1), '-')"),
            ("v", "nullif(split_part(value, ' ', 2), '-')"),
        ]);
        let graph = job(
            vec![
                source("lines", vec![pairs.clone()]),
                source("more", vec![pairs]),
                from("out", "lines", vec![join, filter("more_v = v")]),
            ],
            vec![table("out")],
        );
        for partitions in PARTITIONS {
            let mut mini = Mini::new(&graph, &[], partitions);
            let lines: &[&str] = &["- -", "- 1", "a -", "a 1"];
            let rows = mini.batch(&[("lines", lines), ("more", lines)]).remove("out").unwrap();
            assert_eq!(sorted(rows), ["a|1|1", "null|1|1"], "{kind:?}");
        }
    }
}
