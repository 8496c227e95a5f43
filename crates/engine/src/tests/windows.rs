//! Windows, panes, and streams that do not have rows in every batch.

use tidemill_dstream::plan::{SlotKind, StageOutput};
use tidemill_dstream::{JobGraph, Operator, StreamDef};

use super::support::*;

const BATCHES: [&[&str]; 8] = [
    &["a 1", "b 2", "a 3"],
    &["c 4"],
    &[],
    &["a 5", "b 6", "d 1", "d 1"],
    &["b 7"],
    &["a 1"],
    &[],
    &["e 9", "a 2"],
];

/// The records of a batch as `key|number`, by the window's own definition.
fn naive(index: usize, length: usize) -> Vec<(String, i64)> {
    let first = index.saturating_sub(length - 1);
    BATCHES[first..=index]
        .iter()
        .copied()
        .flatten()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(key, n)| (key.to_owned(), n.parse().unwrap()))
        .collect()
}

fn parsed() -> Operator {
    map(&[
        ("k", "split_part(value, ' ', 1)"),
        ("n", "CAST(split_part(value, ' ', 2) AS BIGINT)"),
    ])
}

/// Runs the job under all partition counts and compares the output `out` with `expected` of each batch's index.
fn compare(graph: &JobGraph, expected: impl Fn(usize) -> Option<Vec<String>>) {
    for partitions in PARTITIONS {
        let mut mini = Mini::new(graph, &[], partitions);
        for (i, lines) in BATCHES.iter().enumerate() {
            let rows = mini.batch(&[("lines", lines)]).remove("out").map(sorted);
            assert_eq!(
                rows,
                expected(i).map(sorted),
                "batch {}, {partitions} partitions",
                i + 1
            );
        }
    }
}

fn is_due(index: usize, slide: usize) -> bool {
    (index + 1).is_multiple_of(slide)
}

fn has_panes(graph: &JobGraph) -> bool {
    try_compile(graph, &[], 3)
        .unwrap()
        .plan
        .datasets
        .iter()
        .any(|dataset| dataset.name.ends_with("panes"))
}

#[test]
fn a_window_has_the_records_of_the_last_batches() {
    for (length, slide) in [
        (1, None),
        (3, None),
        (2, Some(2)),
        (4, Some(2)),
        (1, Some(3)),
        (2, Some(3)),
        (20, Some(1)),
    ] {
        let graph = job(
            vec![
                source("lines", vec![parsed()]),
                from("out", "lines", vec![window(length, slide)]),
            ],
            vec![table("out")],
        );
        compare(&graph, |i| {
            let rows = naive(i, length as usize).into_iter().map(|(k, n)| format!("{k}|{n}"));
            is_due(i, slide.unwrap_or(1) as usize).then(|| rows.collect())
        });
    }
}

/// Aggregates of a window in the forms that a job can have, all with and without panes.
fn aggregated(steps: Vec<Operator>) -> Vec<StreamDef> {
    vec![source("lines", vec![parsed()]), from("out", "lines", steps)]
}

#[test]
fn panes_equal_an_aggregate_of_the_raw_window() {
    let aggregates: &[(&str, &str)] = &[
        ("count", "count(*)"),
        ("sum", "sum(n)"),
        ("mean", "avg(n)"),
        ("low", "min(n)"),
        ("high", "max(n)"),
        ("distinct_n", "count(DISTINCT n)"),
        ("numbers", "array_sort(array_agg(n))"),
        ("big", "count(*) FILTER (WHERE n > 1)"),
        ("spread", "round(stddev(n), 6)"),
    ];
    for (length, slide) in [(2, None), (3, Some(2)), (4, Some(4)), (2, Some(3))] {
        let with = job(
            aggregated(vec![
                window(length, slide),
                filter("k <> 'd'"),
                reduce_by_key(&[("k", "upper(k)")], aggregates),
            ]),
            vec![table("out")],
        );
        // A volatile step above the window keeps it raw.
        let without = job(
            aggregated(vec![
                window(length, slide),
                filter("k <> 'd' AND random() >= 0.0"),
                reduce_by_key(&[("k", "upper(k)")], aggregates),
            ]),
            vec![table("out")],
        );
        assert!(has_panes(&with));
        assert!(!has_panes(&without));
        for partitions in PARTITIONS {
            let (mut panes, mut raw) = (Mini::new(&with, &[], partitions), Mini::new(&without, &[], partitions));
            for (i, lines) in BATCHES.iter().enumerate() {
                let rows = panes.batch(&[("lines", lines)]).remove("out").map(sorted);
                assert_eq!(
                    rows,
                    raw.batch(&[("lines", lines)]).remove("out").map(sorted),
                    "batch {i}"
                );
                assert_eq!(rows.is_some(), is_due(i, slide.unwrap_or(1) as usize));
                if let Some(rows) = rows {
                    let mut keys: Vec<String> = naive(i, length as usize)
                        .into_iter()
                        .map(|(k, _)| k.to_uppercase())
                        .filter(|k| k != "D")
                        .collect();
                    keys.sort();
                    keys.dedup();
                    assert_eq!(
                        rows.iter()
                            .map(|row| row.split('|').next().unwrap())
                            .collect::<Vec<_>>(),
                        keys
                    );
                }
            }
        }
    }
}

#[test]
fn global_aggregates_have_panes_too() {
    let step = reduce(&[("sum", "sum(n)"), ("n", "count(*)")]);
    let graph = job(aggregated(vec![window(3, None), step]), vec![table("out")]);
    assert!(has_panes(&graph));
    compare(&graph, |i| {
        let rows = naive(i, 3);
        Some(if rows.is_empty() {
            vec![]
        } else {
            vec![format!("{}|{}", rows.iter().map(|row| row.1).sum::<i64>(), rows.len())]
        })
    });
    let graph = job(
        aggregated(vec![window(2, Some(2)), Operator::Count]),
        vec![table("out")],
    );
    assert!(has_panes(&graph));
    compare(&graph, |i| is_due(i, 2).then(|| vec![naive(i, 2).len().to_string()]));
}

#[test]
fn aggregates_of_a_window_without_any_of_their_records_are_null() {
    let step = reduce(&[
        ("n", "count(*)"),
        ("mean", "avg(n) FILTER (WHERE n > 4)"),
        ("total", "sum(n) FILTER (WHERE n > 4)"),
        ("high", "max(n) FILTER (WHERE n > 4)"),
        ("large", "count(*) FILTER (WHERE n > 4)"),
    ]);
    let number = map(&[("n", "CAST(value AS BIGINT)")]);
    for slide in [None, Some(2)] {
        let steps = vec![number.clone(), window(6, slide), step.clone()];
        let graph = job(vec![source("lines", steps)], vec![table("lines")]);
        let due = |rows: &'static [&'static str]| (slide.is_none()).then_some(rows);
        check(
            &graph,
            "lines",
            &[
                (&[], due(&[])),
                (&["4"], Some(&["1|null|null|null|0"])),
                (&["3"], due(&["2|null|null|null|0"])),
                (&["5"], Some(&["3|5.0|5|5|1"])),
            ],
        );
    }
}

#[test]
fn panes_aggregate_each_batch_once() {
    let graph = job(
        aggregated(vec![
            window(4, Some(2)),
            reduce_by_key(&[("k", "k")], &[("count", "count(*)")]),
        ]),
        vec![table("out")],
    );
    let plan = try_compile(&graph, &[], 4).unwrap().plan;
    let every: Vec<u32> = plan.stages.iter().map(|stage| stage.every).collect();
    assert_eq!(every, [1, 1, 2]);
    assert!(plan.stages[0].skip_empty);
    assert!(matches!(
        plan.stages[2].slots[0].kind,
        SlotKind::Dataset { batches: 4, .. }
    ));
    assert_eq!(plan.datasets.len(), 1);
    assert_eq!(plan.datasets[0].remember, 4);
    assert!(matches!(
        plan.stages[2].output,
        StageOutput::Result { dataset: None, .. }
    ));
}

#[test]
fn several_windows_over_one_stream_share_its_dataset() {
    let count = || reduce_by_key(&[("k", "k")], &[("count", "count(*)")]);
    let graph = job(
        vec![
            source("lines", vec![parsed()]),
            from("short", "lines", vec![window(2, None), count()]),
            from(
                "long",
                "lines",
                vec![window(5, Some(5)), transform("SELECT k, n FROM input ORDER BY n, k")],
            ),
            from(
                "out",
                "short",
                vec![transform(
                    "SELECT short.k, short.count, long.n FROM short JOIN long ON short.k = long.k",
                )],
            ),
        ],
        vec![table("out"), table("short")],
    );
    let plan = try_compile(&graph, &[], 3).unwrap().plan;
    let lines = plan.datasets.iter().find(|dataset| dataset.name == "lines").unwrap();
    assert_eq!(lines.remember, 5);
    compare(&graph, |i| {
        is_due(i, 5).then(|| {
            let short = naive(i, 2);
            let mut rows = Vec::new();
            for (k, n) in naive(i, 5) {
                let count = short.iter().filter(|(key, _)| *key == k).count();
                if count > 0 {
                    rows.push(format!("{k}|{count}|{n}"));
                }
            }
            rows
        })
    });
}

#[test]
fn a_window_over_a_reduced_stream_counts_its_results() {
    let graph = job(
        vec![
            source(
                "lines",
                vec![parsed(), reduce_by_key(&[("k", "k")], &[("sum", "sum(n)")])],
            ),
            from(
                "out",
                "lines",
                vec![
                    window(3, None),
                    reduce_by_key(&[("k", "k")], &[("batches", "count(*)"), ("sum", "sum(sum)")]),
                ],
            ),
        ],
        vec![table("out")],
    );
    compare(&graph, |i| {
        let mut keys: Vec<String> = naive(i, 3).into_iter().map(|row| row.0).collect();
        keys.sort();
        keys.dedup();
        let row = |k: &String| {
            let batches = (i.saturating_sub(2)..=i)
                .filter(|b| naive(*b, 1).iter().any(|row| row.0 == *k))
                .count();
            let sum: i64 = naive(i, 3).iter().filter(|row| row.0 == *k).map(|row| row.1).sum();
            format!("{k}|{batches}|{sum}")
        };
        Some(keys.iter().map(row).collect())
    });
}

#[test]
fn a_window_of_a_sliding_window_goes_by_its_slides() {
    let graph = job(
        vec![
            source("lines", vec![parsed()]),
            from("pairs", "lines", vec![window(2, Some(2)), Operator::Count]),
            from(
                "out",
                "pairs",
                vec![window(4, Some(4)), reduce(&[("max", "max(count)"), ("n", "count(*)")])],
            ),
        ],
        vec![table("out")],
    );
    compare(&graph, |i| {
        is_due(i, 4).then(|| {
            let max = naive(i, 2).len().max(naive(i - 2, 2).len());
            vec![format!("{max}|2")]
        })
    });
}

/// A window of one batch is the batch, but only where the window slides to.
#[test]
fn a_window_of_a_window_of_one_batch_goes_by_its_slides_too() {
    let graph = job(
        vec![
            source("lines", vec![parsed()]),
            from("out", "lines", vec![window(1, Some(4)), window(8, None)]),
        ],
        vec![table("out")],
    );
    compare(&graph, |i| {
        let slides = (0..=i).filter(|i| is_due(*i, 4));
        let rows = slides.flat_map(|i| naive(i, 1)).map(|(k, n)| format!("{k}|{n}"));
        is_due(i, 4).then(|| rows.collect())
    });
}

#[test]
fn a_stream_of_windows_is_read_where_all_are_due() {
    let graph = job(
        vec![
            source("lines", vec![]),
            from("twos", "lines", vec![window(2, Some(2)), Operator::Count]),
            from("threes", "lines", vec![window(3, Some(3)), Operator::Count]),
            from(
                "out",
                "twos",
                vec![Operator::Union {
                    with: vec!["threes".to_owned()],
                }],
            ),
        ],
        vec![table("out")],
    );
    compare(&graph, |i| {
        is_due(i, 6).then(|| vec![naive(i, 2).len().to_string(), naive(i, 3).len().to_string()])
    });
}

#[test]
fn a_shared_window_stream_is_computed_by_each_reader() {
    let graph = job(
        vec![
            source("lines", vec![parsed()]),
            from("recent", "lines", vec![window(3, None)]),
            from(
                "out",
                "recent",
                vec![reduce_by_key(&[("k", "k")], &[("count", "count(*)")])],
            ),
            from("total", "recent", vec![Operator::Count]),
        ],
        vec![table("out"), table("total"), table("recent")],
    );
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        for (i, lines) in BATCHES.iter().enumerate() {
            let outputs = mini.batch(&[("lines", lines)]);
            let rows = naive(i, 3);
            assert_eq!(outputs["total"], [rows.len().to_string()]);
            assert_eq!(outputs["recent"].len(), rows.len());
            let counted: usize = outputs["out"]
                .iter()
                .map(|row| row.split('|').nth(1).unwrap().parse::<usize>().unwrap())
                .sum();
            assert_eq!(counted, rows.len());
        }
    }
}

#[test]
fn rows_of_an_index_are_spread_by_their_values_since_their_order_is_its_own() {
    use tidemill_dstream::SaveOutput;
    use tidemill_dstream::plan::ExchangeKind;
    use tidemill_dstream::{Compression, FileFormat, OutputKind};

    let save = OutputKind::Save(SaveOutput {
        path: "/out".to_owned(),
        format: FileFormat::Csv,
        files: Some(3),
        compression: Compression::None,
        overwrite: false,
        empty: false,
    });
    for (length, by_hash) in [(2, false), (8, true)] {
        let counts = vec![
            window(length, None),
            reduce_by_key(&[("k", "value")], &[("n", "count(*)")]),
        ];
        let graph = job(
            vec![source("lines", vec![]), from("counts", "lines", counts)],
            vec![output("counts", save.clone())],
        );
        let plan = try_compile(&graph, &[], 2).unwrap().plan;
        let exchanges: Vec<ExchangeKind> = plan
            .stages
            .iter()
            .filter_map(|stage| match stage.output {
                StageOutput::Exchange { kind, .. } if kind.partitions() == 3 => Some(kind),
                _ => None,
            })
            .collect();
        let expected = if by_hash {
            ExchangeKind::Hash { partitions: 3 }
        } else {
            ExchangeKind::RoundRobin { partitions: 3 }
        };
        assert_eq!(exchanges, [expected], "a window of {length}");
    }
}
