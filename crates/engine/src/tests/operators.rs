//! Each operator on its own, and outputs.

use tidemill_dstream::plan::{ExchangeKind, StageOutput};
use tidemill_dstream::{Compression, FileFormat, Operator, OutputKind, SaveOutput};

use super::support::*;

#[test]
fn map_gives_one_record_for_each() {
    let graph = job(
        vec![source(
            "lines",
            vec![map(&[("Word", "upper(value)"), ("length", "length(value)")])],
        )],
        vec![table("lines")],
    );
    check(
        &graph,
        "lines",
        &[(&["a", "bcd"], Some(&["A|1", "BCD|3"])), (&[], Some(&[]))],
    );
}

#[test]
fn flat_map_spreads_lists_and_repeats_the_rest() {
    let graph = job(
        vec![source(
            "lines",
            vec![flat_map(&[("word", "string_to_array(value, ' ')"), ("line", "value")])],
        )],
        vec![table("lines")],
    );
    check(
        &graph,
        "lines",
        &[(&["a b", "c", ""], Some(&["a|a b", "b|a b", "c|c"]))],
    );
}

#[test]
fn flat_map_pads_the_shorter_list_with_null() {
    let lists = &[
        ("a", "string_to_array(split_part(value, ';', 1), ' ')"),
        ("b", "string_to_array(split_part(value, ';', 2), ' ')"),
    ];
    let graph = job(vec![source("lines", vec![flat_map(lists)])], vec![table("lines")]);
    check(
        &graph,
        "lines",
        &[(&["x y;1", ";2"], Some(&["x|1", "y|null", "null|2"]))],
    );
}

#[test]
fn flat_map_drops_records_whose_list_is_null() {
    let list = &[(
        "a",
        "CASE WHEN value = 'x' THEN NULL ELSE string_to_array(value, ' ') END",
    )];
    let graph = job(vec![source("lines", vec![flat_map(list)])], vec![table("lines")]);
    check(&graph, "lines", &[(&["x", "y"], Some(&["y"]))]);
}

#[test]
fn filter_keeps_what_is_true() {
    let graph = job(
        vec![source(
            "lines",
            vec![filter("CASE value WHEN 'a' THEN true WHEN 'b' THEN false END")],
        )],
        vec![table("lines")],
    );
    check(&graph, "lines", &[(&["a", "b", "c"], Some(&["a"]))]);
}

#[test]
fn reduce_by_key_computes_scalars_over_aggregates() {
    let graph = job(
        vec![source(
            "lines",
            vec![
                map(&[
                    ("k", "split_part(value, ' ', 1)"),
                    ("n", "CAST(split_part(value, ' ', 2) AS BIGINT)"),
                ]),
                reduce_by_key(
                    &[("key", "upper(k)")],
                    &[
                        ("mean", "sum(n) / count(*)"),
                        ("top", "max(n)"),
                        ("distinct_n", "count(DISTINCT n)"),
                        ("half", "count(*) FILTER (WHERE n > 2)"),
                    ],
                ),
            ],
        )],
        vec![table("lines")],
    );
    check(
        &graph,
        "lines",
        &[
            (&["a 1", "a 3", "a 3", "b 5", "A 1"], Some(&["A|2|3|2|2", "B|5|5|1|1"])),
            (&[], Some(&[])),
        ],
    );
}

#[test]
fn reduce_gives_one_record_and_none_for_an_empty_batch() {
    let step = reduce(&[("longest", "max(length(value))"), ("n", "count(*) + 0")]);
    let graph = job(vec![source("lines", vec![step])], vec![table("lines")]);
    check(
        &graph,
        "lines",
        &[
            (&["a", "abc"], Some(&["3|2"])),
            (&[], Some(&[])),
            (&[""], Some(&["0|1"])),
        ],
    );
}

#[test]
fn count_gives_zero_for_an_empty_batch() {
    let graph = job(vec![source("lines", vec![Operator::Count])], vec![table("lines")]);
    check(
        &graph,
        "lines",
        &[(&["a", "b", "a"], Some(&["3"])), (&[], Some(&["0"]))],
    );
}

#[test]
fn union_matches_columns_by_name() {
    let graph = job(
        vec![
            source("lines", vec![map(&[("a", "value"), ("b", "1")])]),
            source("more", vec![map(&[("b", "2"), ("a", "value")])]),
            from(
                "both",
                "lines",
                vec![Operator::Union {
                    with: vec!["more".to_owned()],
                }],
            ),
        ],
        vec![table("both")],
    );
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        let outputs = mini.batch(&[("lines", &["x", "y"]), ("more", &["z"])]);
        assert_eq!(sorted(outputs["both"].clone()), ["x|1", "y|1", "z|2"]);
        assert_eq!(mini.compiled.plan.stages.len(), 1, "a union moves nothing");
    }
}

#[test]
fn a_stream_united_with_itself_has_every_record_twice() {
    let graph = job(
        vec![
            source("lines", vec![]),
            from(
                "both",
                "lines",
                vec![Operator::Union {
                    with: vec!["lines".to_owned()],
                }],
            ),
        ],
        vec![table("both")],
    );
    check(&graph, "both", &[(&["x", "y"], Some(&["x", "x", "y", "y"]))]);
}

#[test]
fn a_count_united_with_others_keeps_them_apart() {
    let graph = job(
        vec![
            source("lines", vec![]),
            from("all", "lines", vec![Operator::Count]),
            from(
                "distinct",
                "lines",
                vec![transform("SELECT count(DISTINCT value) AS count FROM input")],
            ),
            from(
                "both",
                "all",
                vec![Operator::Union {
                    with: vec!["distinct".to_owned()],
                }],
            ),
            from(
                "top",
                "both",
                vec![transform("SELECT max(count) AS count, count(*) AS n FROM input")],
            ),
        ],
        vec![table("both"), table("top")],
    );
    check(&graph, "both", &[(&["x", "y", "x"], Some(&["3", "2"]))]);
    check(&graph, "top", &[(&["x", "y", "x"], Some(&["3|2"]))]);
}

#[test]
fn streams_without_readers_are_left_out_with_a_warning() {
    let graph = job(
        vec![source("lines", vec![]), from("idle", "lines", vec![Operator::Count])],
        vec![table("lines")],
    );
    let compiled = try_compile(&graph, &[], 2).unwrap();
    assert_eq!(compiled.plan.stages.len(), 1);
    assert_eq!(compiled.warnings, ["stream `idle` is not used by any output"]);
    assert_eq!(compiled.stream_schemas.len(), 2);
}

#[test]
fn outputs_of_one_stream_share_its_stage() {
    let save = |files| {
        OutputKind::Save(SaveOutput {
            path: "out".to_owned(),
            format: FileFormat::Csv,
            files,
            compression: Compression::None,
            overwrite: false,
            empty: false,
        })
    };
    let graph = job(
        vec![source("lines", vec![])],
        vec![
            table("lines"),
            output("lines", OutputKind::Print { rows: 10 }),
            output("lines", save(None)),
        ],
    );
    let compiled = try_compile(&graph, &[], 4).unwrap();
    assert_eq!(compiled.plan.stages.len(), 1);
    assert!(compiled.plan.datasets.is_empty());

    let graph = job(vec![source("lines", vec![])], vec![output("lines", save(Some(3)))]);
    let mut mini = Mini::new(&graph, &[], 4);
    let spread = &mini.compiled.plan.stages[0].output;
    assert!(matches!(
        spread,
        StageOutput::Exchange {
            kind: ExchangeKind::RoundRobin { partitions: 3 },
            ..
        }
    ));
    assert_eq!(mini.compiled.plan.outputs[0].partitions, 3);
    let outputs = mini.batch(&[("lines", &["a", "b", "c", "d", "e"])]);
    assert_eq!(sorted(outputs["save"].clone()), ["a", "b", "c", "d", "e"]);

    let graph = job(vec![source("lines", vec![])], vec![output("lines", save(Some(1)))]);
    assert_eq!(try_compile(&graph, &[], 4).unwrap().plan.outputs[0].partitions, 1);
    assert_eq!(
        try_compile(&graph, &[], 1).unwrap().plan.stages.len(),
        1,
        "one partition is one file"
    );
}

#[test]
fn the_hashtags_job_equals_a_naive_count() {
    let graph = job(
        vec![
            source("lines", vec![]),
            from(
                "hashtags",
                "lines",
                vec![
                    window(2, None),
                    flat_map(&[("tag", "string_to_array(lower(value), ' ')")]),
                    filter("tag LIKE '#%'"),
                    reduce_by_key(&[("tag", "tag")], &[("count", "count(*)")]),
                ],
            ),
        ],
        vec![
            query(
                "hashtags",
                "tweets",
                "SELECT tag, count FROM hashtags ORDER BY count DESC, tag LIMIT 2",
            ),
            output("hashtags", OutputKind::Print { rows: 10 }),
        ],
    );
    let batches: [&[&str]; 4] = [&["#A b #c", "#a"], &["x #C #c", "nothing"], &[], &["#d"]];
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        for (i, lines) in batches.iter().enumerate() {
            let outputs = mini.batch(&[("lines", lines)]);
            let mut counts = std::collections::BTreeMap::new();
            for line in batches[i.saturating_sub(1)..=i].iter().copied().flatten() {
                for tag in line.to_lowercase().split(' ').filter(|word| word.starts_with('#')) {
                    *counts.entry(tag.to_owned()).or_insert(0) += 1;
                }
            }
            let all: Vec<String> = counts.iter().map(|(tag, n)| format!("{tag}|{n}")).collect();
            assert_eq!(
                sorted(outputs["print"].clone()),
                all,
                "batch {i}, {partitions} partitions"
            );
            let mut top: Vec<(&String, &i32)> = counts.iter().collect();
            top.sort_by_key(|(tag, n)| (-**n, (*tag).clone()));
            let top: Vec<String> = top.iter().take(2).map(|(tag, n)| format!("{tag}|{n}")).collect();
            assert_eq!(outputs["tweets"], top, "batch {i}, {partitions} partitions");
        }
        assert!(
            mini.compiled
                .plan
                .datasets
                .iter()
                .any(|d| d.name == "hashtags panes" && d.remember == 2)
        );
    }
}
