//! In how many partitions rows are, which are together, and that nothing moves them without need.

use tidemill_dstream::plan::{ExchangeKind, JobPlan, StageOutput};
use tidemill_dstream::{JobGraph, JoinKey, JoinKind, Operator, StateFunction, StreamDef, UpdateStateByKey};

use super::support::*;

fn pairs() -> Operator {
    map(&[("k", "split_part(value, ' ', 1)"), ("n", "length(value)")])
}

fn by_key(partitions: Option<u32>) -> Operator {
    let Operator::ReduceByKey { keys, reduction, .. } = reduce_by_key(&[("k", "k")], &[("n", "sum(n)")]) else {
        unreachable!()
    };
    Operator::ReduceByKey {
        keys,
        reduction,
        partitions,
    }
}

fn partition_by(partitions: Option<u32>) -> Operator {
    Operator::PartitionBy {
        keys: vec!["k".to_owned()],
        partitions,
    }
}

fn join(with: &str, partitions: Option<u32>) -> Operator {
    Operator::Join {
        kind: JoinKind::Inner,
        with: with.to_owned(),
        on: vec![JoinKey::same("k")],
        partitions,
    }
}

fn one(steps: Vec<Operator>) -> JobGraph {
    job(vec![source("lines", steps)], vec![table("lines")])
}

fn exchanges(plan: &JobPlan) -> Vec<ExchangeKind> {
    let kinds = plan.stages.iter().filter_map(|stage| match stage.output {
        StageOutput::Exchange { kind, .. } => Some(kind),
        StageOutput::Result { .. } => None,
    });
    kinds.collect()
}

fn exchanges_of(graph: &JobGraph) -> Vec<ExchangeKind> {
    exchanges(&try_compile(graph, &[], 4).unwrap().plan)
}

/// The rows of each partition: of what is put in lists by `glom`.
fn lists(graph: &JobGraph, output: &str, partitions: u32, lines: &[&str]) -> Rows {
    Mini::new(graph, &[], partitions)
        .batch(&[("lines", lines)])
        .remove(output)
        .unwrap()
}

#[test]
fn repartition_spreads_records_evenly_by_position() {
    let graph = one(vec![Operator::Repartition { partitions: 3 }, Operator::Glom]);
    for partitions in PARTITIONS {
        let lines: Vec<String> = (0..30).map(|i| i.to_string()).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let lists = lists(&graph, "lines", partitions, &lines);
        assert_eq!(lists.len(), 3, "{partitions} partitions");
        for list in &lists {
            let records = list.split(", ").count();
            assert!((8..=13).contains(&records), "{lists:?} of {partitions} partitions");
        }
    }
    let kinds = exchanges_of(&one(vec![
        Operator::Repartition { partitions: 3 },
        filter("value <> ''"),
    ]));
    assert_eq!(kinds, [ExchangeKind::RoundRobin { partitions: 3 }]);
}

#[test]
fn partition_by_brings_records_of_a_key_together() {
    let lines = ["a 1", "b 2", "a 3", "c 4", "b 5", "a 6"];
    for (own, expected) in [(None, 7), (Some(3), 3), (Some(1), 1)] {
        let graph = one(vec![
            map(&[("k", "split_part(value, ' ', 1)")]),
            partition_by(own),
            Operator::Glom,
        ]);
        let lists = lists(&graph, "lines", 7, &lines);
        assert_eq!(lists.len(), expected);
        for key in ["a", "b", "c"] {
            assert_eq!(lists.iter().filter(|list| list.contains(key)).count(), 1, "{lists:?}");
        }
    }
}

#[test]
fn operators_have_as_many_partitions_as_they_are_told() {
    let cogroup = |partitions| Operator::Cogroup {
        with: vec!["more".to_owned()],
        keys: vec!["k".to_owned()],
        partitions,
    };
    let operators: Vec<Box<dyn Fn(Option<u32>) -> Operator>> = vec![
        Box::new(by_key),
        Box::new(|partitions| Operator::CountByValue { partitions }),
        Box::new(|partitions| Operator::Distinct { partitions }),
        Box::new(|partitions| Operator::Aggregate {
            keys: columns(&[("k", "k")]),
            aggregates: columns(&[("n", "max(n)")]),
            partitions,
        }),
        Box::new(|partitions| Operator::GroupByKey {
            keys: columns(&[("k", "k")]),
            partitions,
        }),
        Box::new(|partitions| Operator::CombineByKey {
            keys: columns(&[("k", "k")]),
            create: columns(&[("n", "n")]),
            merge_value: Vec::new(),
            merge_combiners: columns(&[("n", "a + b")]),
            partitions,
        }),
        Box::new(|partitions| join("more", partitions)),
        Box::new(cogroup),
    ];
    // Also where the rows are partitioned by the key already, and where they are in one partition.
    let before: [Vec<Operator>; 4] = [
        vec![pairs()],
        vec![pairs(), partition_by(None)],
        vec![pairs(), partition_by(Some(2))],
        vec![pairs(), Operator::Repartition { partitions: 1 }],
    ];
    let lines: &[&str] = &["a 1", "b 22", "a 3", "c 4"];
    for operator in &operators {
        let name = operator(None).name();
        for (i, before) in before.iter().enumerate() {
            let run = |own: Option<u32>, partitions, glom: bool| {
                let steps = before.iter().cloned().chain([operator(own)]);
                let steps = steps.chain(glom.then_some(Operator::Glom)).collect();
                let graph = job(
                    vec![source("more", vec![pairs()]), source("lines", steps)],
                    vec![table("lines")],
                );
                let mut outputs =
                    Mini::new(&graph, &[], partitions).batch(&[("lines", lines), ("more", &["a 7", "z 1"])]);
                sorted(outputs.remove("lines").unwrap())
            };
            let expected = run(None, 1, false);
            for (own, partitions) in [(1, 7), (3, 7), (3, 2), (7, 2), (2, 1)] {
                assert_eq!(
                    run(Some(own), partitions, false),
                    expected,
                    "{name}, {i}, {own} of {partitions}"
                );
                assert_eq!(
                    run(Some(own), partitions, true).len(),
                    own as usize,
                    "{name}, {i}, {own} of {partitions}"
                );
            }
        }
    }
}

#[test]
fn an_operator_with_fewer_partitions_leaves_those_before_it_alone() {
    let graph = one(vec![pairs(), by_key(None), by_key(Some(2))]);
    let kinds = exchanges_of(&graph);
    assert_eq!(
        kinds,
        [
            ExchangeKind::Hash { partitions: 4 },
            ExchangeKind::Hash { partitions: 2 }
        ]
    );
}

#[test]
fn windows_have_panes_in_the_partitions_of_their_operator() {
    let graph = one(vec![pairs(), window(3, None), by_key(Some(2))]);
    let compiled = try_compile(&graph, &[], 4).unwrap();
    assert_eq!(exchanges(&compiled.plan), [ExchangeKind::Hash { partitions: 2 }]);
    assert!(compiled.plan.datasets.iter().any(|dataset| dataset.partitions == 2));
    check(
        &graph,
        "lines",
        &[
            (&["a 1", "b 1"], Some(&["a|3", "b|3"])),
            (&["a 1"], Some(&["a|6", "b|3"])),
        ],
    );
}

/// Streams `left` and `right` by key of one source, and `out`, which reads both.
fn two(step: Operator, own: Option<u32>) -> Vec<StreamDef> {
    vec![
        source("lines", vec![pairs()]),
        from("left", "lines", vec![by_key(own)]),
        from("right", "lines", vec![by_key(own), map(&[("k", "k"), ("m", "n")])]),
        from("out", "left", vec![step]),
    ]
}

#[test]
fn a_join_of_streams_by_its_key_moves_nothing() {
    // Read once, the streams are parts of one plan; read again by outputs, they are datasets.
    for outputs in [vec![table("out")], vec![table("out"), table("left"), table("right")]] {
        for own in [None, Some(3)] {
            let graph = job(two(join("right", own), own), outputs.clone());
            let kinds = exchanges_of(&graph);
            let expected = ExchangeKind::Hash {
                partitions: own.unwrap_or(4),
            };
            assert_eq!(kinds, [expected, expected], "{} outputs, {own:?}", outputs.len());
            for partitions in PARTITIONS {
                let outputs = Mini::new(&graph, &[], partitions).batch(&[("lines", &["a 1", "b 22", "a 3"])]);
                assert_eq!(sorted(outputs["out"].clone()), ["a|6|6", "b|4|4"]);
            }
        }
    }
}

#[test]
fn a_cogroup_of_streams_by_its_key_moves_nothing() {
    let cogroup = Operator::Cogroup {
        with: vec!["right".to_owned()],
        keys: vec!["k".to_owned()],
        partitions: None,
    };
    for outputs in [vec![table("out")], vec![table("out"), table("left"), table("right")]] {
        let graph = job(two(cogroup.clone(), None), outputs);
        assert_eq!(exchanges_of(&graph), [ExchangeKind::Hash { partitions: 4 }; 2]);
    }
}

#[test]
fn an_aggregate_of_rows_that_are_by_its_key_moves_nothing() {
    let hash = ExchangeKind::Hash { partitions: 4 };
    let more: Vec<Vec<Operator>> = vec![
        vec![partition_by(None), by_key(None)],
        vec![by_key(None), by_key(None)],
        vec![by_key(None), filter("n > 1"), partition_by(None)],
        vec![by_key(None), filter("n > 1"), Operator::Distinct { partitions: None }],
        vec![
            partition_by(None),
            Operator::MapValues {
                keys: vec!["k".to_owned()],
                columns: columns(&[("n", "n + 1")]),
            },
            by_key(None),
        ],
        vec![
            partition_by(None),
            Operator::FlatMapValues {
                keys: vec!["k".to_owned()],
                columns: columns(&[("n", "make_array(n, n + 1)")]),
            },
            by_key(None),
        ],
        vec![partition_by(None), window(3, None), by_key(None)],
    ];
    for steps in more {
        let names: Vec<&str> = steps.iter().map(Operator::name).collect();
        let steps = [pairs()].into_iter().chain(steps).collect();
        assert_eq!(exchanges_of(&one(steps)), [hash], "{names:?}");
    }
    // A dataset with other readers remembers where its rows are.
    let graph = job(
        vec![
            source("lines", vec![pairs(), partition_by(None)]),
            from("sums", "lines", vec![by_key(None)]),
            from("recent", "lines", vec![window(2, None), by_key(None)]),
        ],
        vec![table("lines"), table("sums"), table("recent")],
    );
    assert_eq!(exchanges_of(&graph), [hash]);
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        mini.batch(&[("lines", &["a 1", "b 2", "a 2"])]);
        let outputs = mini.batch(&[("lines", &["a 5"])]);
        assert_eq!(outputs["sums"], ["a|3"]);
        assert_eq!(sorted(outputs["recent"].clone()), ["a|9", "b|3"]);
    }
}

#[test]
fn a_key_that_is_made_anew_is_exchanged_again() {
    let hash = ExchangeKind::Hash { partitions: 4 };
    let other_key = map(&[("k", "upper(k)"), ("n", "n")]);
    let graph = one(vec![pairs(), by_key(None), other_key, by_key(None)]);
    assert_eq!(exchanges_of(&graph), [hash, hash]);
    check(&graph, "lines", &[(&["a 1", "A 2", "b 3"], Some(&["A|6", "B|3"]))]);
    // A list that was the key is other records when it is spread.
    let lists = vec![
        map(&[("k", "string_to_array(value, ' ')"), ("n", "1")]),
        reduce_by_key(&[("k", "k")], &[("n", "sum(n)")]),
        flat_map(&[("k", "k"), ("n", "n")]),
        by_key(None),
    ];
    let graph = one(lists);
    assert_eq!(exchanges_of(&graph).len(), 2);
    check(
        &graph,
        "lines",
        &[(&["a b", "a c", "a b"], Some(&["a|3", "b|2", "c|1"]))],
    );
}

#[test]
fn state_is_in_the_partitions_of_its_operator_and_rows_by_its_key_stay() {
    let update = |partitions| {
        Operator::UpdateStateByKey(UpdateStateByKey {
            keys: columns(&[("k", "k")]),
            values: columns(&[("added", "sum(n)")]),
            state: StateFunction::Columns(columns(&[("total", "coalesce(total, 0) + coalesce(added, 0)")])),
            initial: None,
            partitions,
        })
    };
    let hash = |partitions| ExchangeKind::Hash { partitions };
    assert_eq!(exchanges_of(&one(vec![pairs(), update(None)])), [hash(4)]);
    assert_eq!(exchanges_of(&one(vec![pairs(), by_key(None), update(None)])), [hash(4)]);
    let graph = job(
        vec![
            source("lines", vec![pairs(), partition_by(None)]),
            from("out", "lines", vec![update(None)]),
        ],
        vec![table("lines"), table("out")],
    );
    assert_eq!(exchanges_of(&graph), [hash(4)]);
    for (own, partitions) in [(1, 7), (3, 7), (7, 2)] {
        for before in [vec![pairs()], vec![pairs(), partition_by(None)]] {
            let steps = before.into_iter().chain([update(Some(own))]);
            let graph = one(steps.clone().collect());
            let mut mini = Mini::new(&graph, &[], partitions);
            mini.batch(&[("lines", &["a 1", "b 22"])]);
            let rows = mini.batch(&[("lines", &["a 1"])]).remove("lines").unwrap();
            assert_eq!(sorted(rows), ["a|6", "b|4"], "{own} of {partitions}");
            let graph = one(steps.chain([Operator::Glom]).collect());
            assert_eq!(lists(&graph, "lines", partitions, &["a 1"]).len(), own as usize);
        }
    }
}
