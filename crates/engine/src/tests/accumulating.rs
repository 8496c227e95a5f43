//! Accumulators: what is counted, where, and how often.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use futures::StreamExt;
use tidemill_dstream::accumulator::Scalar;
use tidemill_dstream::{
    AccumulatorDef, AccumulatorKind, Addition, Function, JobGraph, JoinKey, JoinKind, NativeCall, Operator, OutputDef,
    SortKey, StreamDef, ValueType,
};
use tidemill_types::{BatchTime, JobId, SlotId, StageId, TaskKey};

use super::support::*;
use crate::{
    Accumulator, Accumulators, BatchContext, BatchStream, BoxError, CompileOptions, Determinism, MapPartitions,
    Registry, SlotInput, TaskBinding, Template, Transform, compile,
};

fn count(name: &str) -> AccumulatorDef {
    AccumulatorDef::new(name, AccumulatorKind::Count)
}

fn add(into: &str, sql: &str) -> Operator {
    Operator::Accumulate {
        additions: vec![Addition::new(into, sql)],
    }
}

/// Counts the records at its place.
fn tick(into: &str) -> Operator {
    add(into, "1")
}

fn counting(streams: Vec<StreamDef>, outputs: Vec<OutputDef>, accumulators: Vec<AccumulatorDef>) -> JobGraph {
    JobGraph {
        accumulators,
        ..job(streams, outputs)
    }
}

/// The lines of a batch, and the totals after it by name.
type Counted<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);

/// Runs batches of the source `lines` under every partition count; each leaves the totals that stand with it.
#[track_caller]
fn totals(graph: &JobGraph, batches: &[Counted<'_>]) {
    for partitions in PARTITIONS {
        let mut mini = Mini::new(graph, &[], partitions);
        for (i, (lines, expected)) in batches.iter().enumerate() {
            mini.batch(&[("lines", lines)]);
            for (name, total) in *expected {
                let place = format!("{name} after batch {}, {partitions} partitions", i + 1);
                assert_eq!(mini.total(name), *total, "{place}");
            }
        }
    }
}

#[test]
fn every_kind_takes_what_passes_and_passes_it_on() {
    let numbers = vec![
        map(&[
            ("n", "TRY_CAST(value AS BIGINT)"),
            ("x", "TRY_CAST(value AS DOUBLE)"),
            ("value", "value"),
        ]),
        Operator::Accumulate {
            additions: vec![
                Addition::new("sum", "n"),
                Addition::new("sum_x", "x"),
                Addition::new("lines", "1"),
                Addition::new("numbers", "n"),
                Addition::new("least", "value"),
                Addition::new("greatest", "x"),
                Addition::new("average", "n"),
                Addition::new("users", "value"),
                Addition::new("rough", "value"),
                Addition::new("sizes", "n"),
                Addition::new("big", "x > 2"),
                Addition::new("day", "to_timestamp(n * 86400)"),
                Addition {
                    when: Some(Function::expr("n > 1")),
                    ..Addition::new("over_one", "10 / (n - 1)")
                },
            ],
        },
    ];
    let bounds = vec![1.0, 2.0];
    let of = AccumulatorDef::new;
    let accumulators = vec![
        of("sum", AccumulatorKind::Sum),
        of("sum_x", AccumulatorKind::Sum),
        of("lines", AccumulatorKind::Count),
        of("numbers", AccumulatorKind::Count),
        of("least", AccumulatorKind::Min),
        of("greatest", AccumulatorKind::Max),
        of("average", AccumulatorKind::Average),
        of("users", AccumulatorKind::Distinct { limit: 5 }),
        of("rough", AccumulatorKind::ApproxDistinct),
        of("sizes", AccumulatorKind::Histogram { bounds }),
        of("big", AccumulatorKind::Distinct { limit: 5 }),
        of("day", AccumulatorKind::Max),
        of("over_one", AccumulatorKind::Sum),
    ];
    let graph = counting(vec![source("lines", numbers)], vec![table("lines")], accumulators);
    let first: &[(&str, &str)] = &[
        ("sum", "6"),
        ("sum_x", "6.5"),
        ("lines", "5"),
        ("numbers", "3"),
        ("least", "0.5"),
        ("greatest", "3.0"),
        ("average", "2.0"),
        ("users", "5"),
        ("rough", "5"),
        ("sizes", "3"),
        ("big", "2"),
        ("day", "1970-01-04T00:00:00Z"),
        ("over_one", "15"),
    ];
    let second: &[(&str, &str)] = &[
        ("sum", "7"),
        ("lines", "7"),
        ("average", "1.75"),
        ("least", "0.5"),
        (
            "users",
            "more than 5 different values, or too long ones; approx_distinct has no limit",
        ),
        ("rough", "6"),
    ];
    totals(
        &graph,
        &[
            (&["1", "2", "3", "0.5", "x"], first),
            (&[], first),
            (&["1", "y"], second),
        ],
    );
    check(&graph, "lines", &[(&["2", "x"], Some(&["2|2.0|2", "null|null|x"]))]);
}

#[test]
fn sums_of_fractions_are_the_same_over_any_number_of_partitions() {
    let accumulators = vec![AccumulatorDef::new("sum", AccumulatorKind::Sum)];
    let steps = vec![map(&[("x", "CAST(value AS DOUBLE)")]), add("sum", "x")];
    let graph = counting(vec![source("lines", steps)], vec![table("lines")], accumulators);
    let lines = ["1e16", "0.1", "-1e16", "0.2", "1e-9", "0.3", "3.14"];
    // In order of the lines floating-point numbers would lose the tenths.
    totals(&graph, &[(&lines, &[("sum", "3.7400000010000003")])]);
}

#[test]
fn nan_is_left_out_and_what_is_beyond_a_type_is_told() {
    let accumulators = vec![
        AccumulatorDef::new("sum", AccumulatorKind::Sum),
        AccumulatorDef::new("whole", AccumulatorKind::Sum),
        AccumulatorDef::new("rough", AccumulatorKind::ApproxDistinct),
    ];
    let steps = vec![
        add("sum", "CAST(value AS DOUBLE)"),
        add("rough", "CAST(value AS DOUBLE)"),
        add("whole", "CASE WHEN value <> 'NaN' THEN 9223372036854775807 END"),
    ];
    let graph = counting(vec![source("lines", steps)], vec![table("lines")], accumulators);
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        mini.batch(&[("lines", &["1", "NaN", "2", "NaN", "-0", "0"])]);
        let readings = mini.readings();
        let of = |name: &str| (readings[name].value.clone(), readings[name].count, readings[name].nan);
        assert_eq!(of("sum"), (Some(Scalar::Float(3.0)), 4, 2));
        assert_eq!(of("rough"), (Some(Scalar::Integer(3)), 4, 2));
        assert_eq!(of("whole"), (None, 4, 0));
        let problem = readings["whole"].problem.clone().unwrap();
        assert_eq!(
            problem,
            "the sum 36893488147419103228 is beyond whole numbers of 64 bits"
        );
    }
}

#[test]
fn a_value_that_cannot_be_computed_fails_the_batch() {
    let graph = counting(
        vec![source("lines", vec![add("sum", "CAST(value AS BIGINT)")])],
        vec![table("lines")],
        vec![AccumulatorDef::new("sum", AccumulatorKind::Sum)],
    );
    let mut mini = Mini::new(&graph, &[], 2);
    let failure = mini.try_batch(&[("lines", &["1", "x"])]).unwrap_err();
    assert!(failure.to_string().contains("Cannot cast string 'x'"), "{failure}");
    assert_eq!(mini.total("sum"), "0");
}

#[test]
fn no_step_moves_across_it() {
    let streams = vec![
        source(
            "lines",
            vec![
                tick("all"),
                filter("value <> 'a'"),
                tick("filtered"),
                map(&[("b", "value = 'b'"), ("value", "value")]),
                filter("b"),
                tick("bs"),
            ],
        ),
        // Nothing of these rows is needed, not all of them, or none.
        from("counted", "lines", vec![Operator::Count]),
    ];
    let accumulators = ["all", "filtered", "bs"].map(count).to_vec();
    let graph = counting(streams, vec![table("counted")], accumulators);
    totals(
        &graph,
        &[
            (&["a", "b", "c"], &[("all", "3"), ("filtered", "2"), ("bs", "1")]),
            (&["b"], &[("all", "4"), ("filtered", "3"), ("bs", "2")]),
        ],
    );
}

#[test]
fn it_counts_what_a_limit_or_a_filter_behind_it_leaves_out() {
    let lines: Vec<String> = (0..20_000).map(|i| i.to_string()).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    for query in [
        "SELECT * FROM input LIMIT 1",
        "SELECT * FROM input LIMIT 0",
        "SELECT value FROM input WHERE false",
        "SELECT value FROM input ORDER BY value LIMIT 3 OFFSET 2",
        "SELECT 1 AS one FROM input LIMIT 2",
        "SELECT count(*) AS n FROM input",
        "SELECT count(*) AS n FROM (SELECT * FROM input LIMIT 1)",
        "SELECT a.value FROM input a JOIN (SELECT value FROM input WHERE value = 'none') b ON a.value = b.value",
        "SELECT value FROM input WHERE value IN (SELECT value FROM input WHERE value = 'none')",
        "SELECT value FROM input UNION ALL SELECT value FROM input LIMIT 1",
    ] {
        let streams = vec![source("lines", vec![tick("below"), tick("again"), transform(query)])];
        let graph = counting(streams, vec![table("lines")], vec![count("below"), count("again")]);
        for partitions in PARTITIONS {
            let mut mini = Mini::new(&graph, &[], partitions);
            mini.batch(&[("lines", &lines)]);
            for name in ["below", "again"] {
                assert_eq!(mini.total(name), "20000", "{query}, {partitions} partitions");
            }
        }
    }
}

#[test]
fn rows_keep_their_order_and_their_place() {
    let key = SortKey {
        function: Function::expr("value"),
        descending: true,
        nulls_first: None,
    };
    let sort = Operator::SortBy {
        keys: vec![key],
        limit: None,
    };
    let graph = counting(
        vec![source("lines", vec![sort, tick("n")])],
        vec![table("lines")],
        vec![count("n")],
    );
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        let rows = mini.batch(&[("lines", &["b", "d", "a", "c"])]).remove("lines").unwrap();
        assert_eq!(rows, ["d", "c", "b", "a"]);
    }
    // By key they are where they were, so nothing is sent again.
    let keyed = |between: Vec<Operator>| {
        let partition = Operator::PartitionBy {
            keys: vec!["value".to_owned()],
            partitions: None,
        };
        let group = Operator::GroupByKey {
            keys: columns(&[("value", "value")]),
            partitions: None,
        };
        let steps = [map(&[("value", "value"), ("n", "1")]), partition].into_iter();
        let steps = steps.chain(between).chain([group]).collect();
        let graph = counting(vec![source("lines", steps)], vec![table("lines")], vec![count("n")]);
        let mut mini = Mini::new(&graph, &[], 3);
        mini.batch(&[("lines", &["a", "b", "a"])]);
        mini.shuffled
    };
    assert_eq!(keyed(vec![tick("n")]), keyed(Vec::new()));
}

#[test]
fn a_stream_with_several_readers_is_counted_once() {
    let streams = vec![
        source("lines", vec![tick("lines")]),
        from("a", "lines", vec![Operator::Count]),
        from("b", "lines", vec![filter("value = 'a'")]),
        from(
            "pairs",
            "lines",
            vec![Operator::Join {
                kind: JoinKind::FullOuter,
                with: "b".to_owned(),
                on: vec![JoinKey::same("value")],
                partitions: None,
            }],
        ),
        from(
            "all",
            "lines",
            vec![
                Operator::Union {
                    with: vec!["b".to_owned()],
                },
                tick("united"),
            ],
        ),
    ];
    let outputs = ["a", "b", "pairs", "all", "lines"].map(table).to_vec();
    let graph = counting(streams, outputs, vec![count("lines"), count("united")]);
    totals(
        &graph,
        &[
            (&["a", "b", "a"], &[("lines", "3"), ("united", "5")]),
            (&[], &[("lines", "3"), ("united", "5")]),
            (&["a"], &[("lines", "4"), ("united", "7")]),
        ],
    );
}

#[test]
fn the_small_side_of_a_join_is_counted_once_for_all_tasks() {
    // A stream of a table alone, which every task could compute.
    let streams = vec![
        source("lines", vec![]),
        from(
            "names",
            "lines",
            vec![transform("SELECT name AS value FROM people"), tick("people")],
        ),
        from(
            "known",
            "lines",
            vec![transform(
                "SELECT value FROM lines WHERE value IN (SELECT value FROM names)",
            )],
        ),
    ];
    let graph = counting(streams, vec![table("known")], vec![count("people")]);
    let people = static_table("people", &["name"], &[&["ann"], &["bob"]]);
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, std::slice::from_ref(&people), partitions);
        for total in ["2", "4"] {
            let rows = mini.batch(&[("lines", &["ann", "eve"])]).remove("known").unwrap();
            assert_eq!(
                (sorted(rows), mini.total("people")),
                (vec!["ann".to_owned()], total.to_owned())
            );
        }
    }
}

#[test]
fn below_a_window_each_record_counts_once_and_above_it_in_every_window() {
    let graph = |steps: Vec<Operator>| {
        let accumulators = vec![count("below"), count("above")];
        counting(vec![source("lines", steps)], vec![table("lines")], accumulators)
    };
    let batches: [&[&str]; 4] = [&["a", "b"], &["a"], &[], &["c"]];
    let reduce = || reduce_by_key(&[("value", "value")], &[("n", "count(*)")]);
    for (window, above) in [
        (window(2, None), ["2", "5", "6", "7"]),
        (window(4, Some(2)), ["0", "3", "3", "7"]),
    ] {
        for last in [vec![], vec![reduce()], vec![reduce(), filter("n > 1")]] {
            let mut steps = vec![tick("below"), window.clone(), tick("above")];
            steps.extend(last);
            let expected: Vec<[(&str, &str); 2]> = ["2", "3", "3", "4"]
                .into_iter()
                .zip(above)
                .map(|(below, above)| [("below", below), ("above", above)])
                .collect();
            let tables: Vec<_> = batches.iter().zip(&expected).map(|(b, e)| (*b, e.as_slice())).collect();
            totals(&graph(steps), &tables);
        }
        // Panes stand below the window, and make nothing count twice.
        let steps = vec![tick("below"), window, reduce(), tick("above")];
        let tables: Vec<_> = batches.iter().zip(["2", "3", "3", "4"]).collect();
        let tables: Vec<_> = tables.iter().map(|(b, total)| (**b, [("below", *total)])).collect();
        let tables: Vec<_> = tables.iter().map(|(b, total)| (*b, total.as_slice())).collect();
        totals(&graph(steps), &tables);
    }
}

#[test]
fn every_batch_counts_also_for_a_reader_that_looks_at_every_second() {
    let steps = |window| {
        vec![
            tick("lines"),
            map(&[("value", "upper(value)")]),
            window,
            Operator::Count,
        ]
    };
    for window in [window(1, Some(2)), window(2, Some(2))] {
        let graph = counting(
            vec![source("lines", steps(window))],
            vec![table("lines")],
            vec![count("lines")],
        );
        totals(
            &graph,
            &[
                (&["a"], &[("lines", "1")]),
                (&["a", "b"], &[("lines", "3")]),
                (&["a"], &[("lines", "4")]),
            ],
        );
    }
}

#[test]
fn a_batch_that_runs_again_counts_once() {
    let graph = counting(
        vec![source(
            "lines",
            vec![tick("lines"), window(2, None), tick("above"), Operator::Count],
        )],
        vec![table("lines")],
        vec![count("lines"), count("above")],
    );
    let mut mini = Mini::new(&graph, &[], 2);
    mini.batch(&[("lines", &["a"])]);
    mini.batch(&[("lines", &["b", "c"])]);
    assert_eq!((mini.total("lines").as_str(), mini.total("above").as_str()), ("3", "4"));
    mini.again(&[("lines", &["b", "c"])]);
    assert_eq!((mini.total("lines").as_str(), mini.total("above").as_str()), ("3", "4"));
    mini.forget_memory();
    mini.batch(&[("lines", &["d"])]);
    assert_eq!((mini.total("lines").as_str(), mini.total("above").as_str()), ("4", "7"));
}

// === What is refused ===

#[track_caller]
fn refused(accumulators: Vec<AccumulatorDef>, step: Operator, expected: &str) {
    let streams = vec![source(
        "lines",
        vec![map(&[("n", "length(value)"), ("value", "value")]), step],
    )];
    assert_eq!(faults(&counting(streams, vec![table("lines")], accumulators)), expected);
}

#[test]
fn values_of_another_type_are_refused_with_their_line() {
    let sum = || AccumulatorDef::new("total", AccumulatorKind::Sum);
    let at = "line 3: streams.lines.steps[1].accumulate";
    refused(
        vec![sum()],
        add("total", "value"),
        &format!("{at}.add: `total` is of kind sum, which takes numbers, and this is text (cast it, or use a count)"),
    );
    refused(
        vec![sum()],
        add("total", "n > 1"),
        &format!(
            "{at}.add: `total` is of kind sum, which takes numbers, and this is boolean (write CASE WHEN .. THEN 1 ELSE 0 \
             END, or `when` with a count)"
        ),
    );
    refused(
        vec![sum()],
        add("total", "CAST(n AS DECIMAL(10, 2))"),
        &format!(
            "{at}.add: `total` is of kind sum, which cannot take Decimal128(10, 2) (CAST(.. AS DOUBLE), or count the \
             smallest unit as BIGINT)"
        ),
    );
    refused(
        vec![sum()],
        add("totl", "n"),
        &format!("{at}.add: unknown accumulator `totl` (did you mean `total`?)"),
    );
    refused(
        vec![sum()],
        add("total", "m"),
        &format!("{at}.add: unknown column `m` (did you mean `n`?)"),
    );
    let two = Operator::Accumulate {
        additions: vec![Addition::new("total", "n"), Addition::new("total", "n * 0.5")],
    };
    refused(
        vec![sum()],
        two.clone(),
        &format!(
            "{at}[1].add: `total` takes integer values by streams.lines.steps[1].accumulate[0].add, and this is float \
             (declare it with `type: float`, or cast one of them)"
        ),
    );
    let declared = AccumulatorDef {
        value_type: Some(ValueType::Float),
        ..sum()
    };
    let graph = counting(
        vec![source("lines", vec![map(&[("n", "length(value)")]), two])],
        vec![table("lines")],
        vec![declared],
    );
    totals(&graph, &[(&["ab", "c"], &[("total", "4.5")])]);
    let condition = Operator::Accumulate {
        additions: vec![Addition {
            when: Some(Function::expr("n")),
            ..Addition::new("total", "n")
        }],
    };
    refused(
        vec![sum()],
        condition,
        &format!("{at}.when: the condition is Int32, it has to be Boolean"),
    );
}

#[test]
fn what_adds_nothing_is_warned_of() {
    let streams = vec![source("lines", vec![]), from("idle", "lines", vec![tick("n")])];
    let graph = counting(streams, vec![table("lines")], vec![count("n"), count("other")]);
    let compiled = try_compile(&graph, &[], 1).unwrap();
    assert_eq!(
        compiled.warnings,
        [
            "stream `idle` is not used by any output, so it adds nothing to accumulators",
            "nothing adds to accumulator `other`"
        ]
    );
}

// === In Rust ===

/// The longest text.
struct Longest;

impl Accumulator for Longest {
    fn takes(&self) -> DataType {
        DataType::Utf8View
    }

    fn zero(&self) -> Vec<u8> {
        Vec::new()
    }

    fn add(&self, state: &mut Vec<u8>, values: &ArrayRef) -> Result<(), BoxError> {
        for text in values.as_string_view().iter().flatten() {
            if text == "bad" {
                return Err("a bad text".into());
            }
            if text == "huge" {
                *state = vec![0; 17 << 20];
                return Ok(());
            }
            self.merge(state, text.as_bytes())?;
        }
        Ok(())
    }

    fn merge(&self, state: &mut Vec<u8>, other: &[u8]) -> Result<(), BoxError> {
        // Of two of one length the lesser, so that the order makes no difference.
        if (other.len(), state.as_slice()) > (state.len(), other) {
            *state = other.to_vec();
        }
        Ok(())
    }

    fn value(&self, state: &[u8]) -> Result<Scalar, BoxError> {
        Ok(std::str::from_utf8(state)?.into())
    }
}

/// Passes records on and counts them.
struct Counting;

impl MapPartitions for Counting {
    fn schema(&self, input: &SchemaRef) -> Result<SchemaRef, BoxError> {
        Ok(Arc::clone(input))
    }

    fn map(&self, context: BatchContext, input: BatchStream) -> Result<BatchStream, BoxError> {
        let (rows, texts) = (context.accumulator("rows")?, context.accumulator("texts")?);
        Ok(Box::pin(input.map(move |batch| {
            let batch = batch?;
            rows.add(batch.num_rows() as i64)?;
            texts.add_all(batch.column(0))?;
            Ok(batch)
        })))
    }
}

impl Transform for Counting {
    fn schema(&self, input: &SchemaRef) -> Result<SchemaRef, BoxError> {
        Ok(Arc::clone(input))
    }

    fn transform(&self, context: BatchContext, input: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, BoxError> {
        let rows: usize = input.iter().map(RecordBatch::num_rows).sum();
        context.accumulator("rows")?.add(rows as i64)?;
        Ok(input)
    }
}

/// The number in a text; what is none is counted.
fn number(accumulators: &Accumulators, columns: &[ArrayRef]) -> Result<ArrayRef, BoxError> {
    let bad = accumulators.get("bad")?;
    let mut numbers = arrow::array::Int64Builder::new();
    for text in columns[0].as_string_view().iter().flatten() {
        match text.parse() {
            Ok(number) => numbers.append_value(number),
            Err(_) => {
                bad.add(text)?;
                numbers.append_null();
            }
        }
    }
    Ok(Arc::new(numbers.finish()))
}

fn registry() -> Registry {
    let text = [DataType::Utf8View];
    Registry::builder()
        .accumulator("longest", Longest)
        .map_partitions("counting", Determinism::Deterministic, Counting)
        .accumulates("counting", "rows", DataType::Int64)
        .accumulates("counting", "texts", DataType::Utf8View)
        .transform("counting_all", Determinism::Deterministic, Counting)
        .accumulates("counting_all", "rows", DataType::Int64)
        .scalar_with("number", Determinism::Deterministic, text, DataType::Int64, number)
        .accumulates("number", "bad", DataType::Utf8View)
        .build()
        .unwrap()
}

fn longest(name: &str) -> AccumulatorDef {
    let kind = AccumulatorKind::Native {
        name: "longest".to_owned(),
    };
    AccumulatorDef::new(name, kind)
}

fn faults_in_build(graph: &JobGraph) -> String {
    let options = CompileOptions {
        partitions: 2,
        registry: registry(),
    };
    block_on(compile(graph, &[], &options)).unwrap_err().to_string()
}

#[test]
fn a_registered_kind_merges_as_it_says() {
    let graph = counting(
        vec![source("lines", vec![add("text", "value")])],
        vec![table("lines")],
        vec![longest("text")],
    );
    for partitions in PARTITIONS {
        let mut mini = Mini::of_build(&graph, &[], partitions, &registry());
        assert_eq!(mini.total("text"), "");
        for (lines, total) in [
            (&["a", "ccc", "bbb", "d"][..], "bbb"),
            (&["aaa"], "aaa"),
            (&[], "aaa"),
            (&["zzzz"], "zzzz"),
        ] {
            mini.batch(&[("lines", lines)]);
            assert_eq!(mini.total("text"), total, "{partitions} partitions");
        }
        let failure = mini.try_batch(&[("lines", &["bad"])]).unwrap_err();
        assert_eq!(failure.to_string(), "user error: function `text` failed: a bad text");
        let failure = mini.try_batch(&[("lines", &["huge"])]).unwrap_err();
        assert!(failure.to_string().contains("a state of 17825792 bytes"), "{failure}");
    }
    let streams = vec![source("lines", vec![add("text", "length(value)")])];
    assert_eq!(
        faults_in_build(&counting(streams, vec![table("lines")], vec![longest("text")])),
        "line 2: streams.lines.steps[0].accumulate.add: `text` takes text values by accumulators.text, and this is \
         integer (cast it, or declare another accumulator)"
    );
    let kind = AccumulatorKind::Native {
        name: "longes".to_owned(),
    };
    let streams = || vec![source("lines", vec![])];
    let unknown = counting(streams(), vec![table("lines")], vec![AccumulatorDef::new("text", kind)]);
    assert_eq!(
        faults_in_build(&unknown),
        "accumulators.text.native: no accumulator `longes` is registered (did you mean `longest`?)"
    );
    assert_eq!(
        faults(&counting(streams(), vec![table("lines")], vec![longest("text")])),
        "accumulators.text.native: no accumulator `longest` is registered (this build has none; register it in a build \
         of your own)"
    );
}

#[test]
fn functions_add_by_their_handles() {
    let counting_call = NativeCall::new("counting").accumulator("texts", "long");
    let steps = vec![
        Operator::MapPartitions {
            function: counting_call,
        },
        Operator::Transform {
            function: Function::Native(NativeCall::new("counting_all").accumulator("rows", "all")),
        },
        Operator::Map {
            columns: {
                let mut columns = columns(&[("n", "")]);
                columns[0].function = Function::Native(NativeCall::new("number").accumulator("bad", "bad_texts"));
                columns
            },
        },
        filter("n > 1"),
        add("sum", "n"),
    ];
    let accumulators = vec![
        AccumulatorDef::new("rows", AccumulatorKind::Sum),
        longest("long"),
        AccumulatorDef::new("all", AccumulatorKind::Sum),
        AccumulatorDef::new("bad_texts", AccumulatorKind::Distinct { limit: 10 }),
        AccumulatorDef::new("sum", AccumulatorKind::Sum),
    ];
    let graph = counting(vec![source("lines", steps)], vec![table("lines")], accumulators);
    for partitions in PARTITIONS {
        let mut mini = Mini::of_build(&graph, &[], partitions, &registry());
        let rows = mini
            .batch(&[("lines", &["1", "20", "x", "yyy", "x", "3"])])
            .remove("lines")
            .unwrap();
        assert_eq!(sorted(rows), ["20", "3"]);
        let expected = [
            ("rows", "6"),
            ("long", "yyy"),
            ("all", "6"),
            ("bad_texts", "2"),
            ("sum", "23"),
        ];
        for (name, total) in expected {
            assert_eq!(mini.total(name), total, "{name}, {partitions} partitions");
        }
        assert_eq!(mini.readings()["bad_texts"].count, 3, "each bad text is added once");
    }
}

#[test]
fn handles_that_nothing_is_bound_to_are_refused() {
    let with = |call: NativeCall, accumulators: Vec<AccumulatorDef>| {
        let steps = vec![Operator::Transform {
            function: Function::Native(call),
        }];
        faults_in_build(&counting(
            vec![source("lines", steps)],
            vec![table("lines")],
            accumulators,
        ))
    };
    let at = "line 2: streams.lines.steps[0].transform.accumulators";
    let call = || NativeCall::new("counting_all");
    assert_eq!(
        with(call(), Vec::new()),
        format!(
            "{at}: `counting_all` adds to `rows`, which nothing is bound to (declare an accumulator `rows`, or \
             write `accumulators: {{rows: ..}}`)"
        )
    );
    assert_eq!(
        with(call().accumulator("row", "n"), vec![count("n")]),
        format!("{at}: `counting_all` has no handle `row` (did you mean `rows`?)")
    );
    assert_eq!(
        with(call().accumulator("rows", "m"), vec![count("n")]),
        format!("{at}.rows: unknown accumulator `m` (did you mean `n`?)")
    );
    assert_eq!(
        with(call().accumulator("rows", "text"), vec![longest("text")]),
        format!(
            "{at}.rows: `text` takes text values by accumulators.text, and this is integer (cast it, or declare \
             another accumulator)"
        )
    );
    let by_name = counting(
        vec![source("lines", vec![map(&[("n", "number(value)")])])],
        vec![table("lines")],
        vec![count("bad")],
    );
    assert_eq!(
        faults_in_build(&by_name),
        "line 2: streams.lines.steps[0].map.n: unknown function `number` (it adds to accumulators, so it is called as \
         {native: number})"
    );
    for builder in [
        Registry::builder().accumulates("nothing", "a", DataType::Int64),
        Registry::builder()
            .accumulator("longest", Longest)
            .accumulates("longest", "a", DataType::Int64),
        Registry::builder()
            .transform("t", Determinism::Deterministic, Counting)
            .accumulates("t", "a", DataType::Int64)
            .accumulates("t", "a", DataType::Int64),
        Registry::builder()
            .transform("t", Determinism::Deterministic, Counting)
            .accumulates("t", "a", DataType::Binary),
    ] {
        assert!(builder.build().is_err());
    }
}

#[test]
fn a_handle_takes_values_of_its_type_only() {
    let handle = |columns: &[ArrayRef]| columns[0].as_primitive_opt::<Int64Type>().is_some();
    let registry = Registry::builder()
        .scalar_with(
            "add_all",
            Determinism::Deterministic,
            [DataType::Utf8View],
            DataType::Utf8View,
            move |accumulators, columns| {
                assert!(!handle(columns));
                assert!(accumulators.get("other").is_err());
                let total = accumulators.get("total")?;
                assert_eq!(format!("{total:?}"), "AccumulatorHandle(total)");
                total.add(1_i64)?;
                total.add_all(&columns[0])?;
                Ok(Arc::clone(&columns[0]))
            },
        )
        .accumulates("add_all", "total", DataType::Int64)
        .build()
        .unwrap();
    let mut mapped = columns(&[("value", "")]);
    mapped[0].function = Function::native("add_all");
    let graph = counting(
        vec![source("lines", vec![Operator::Map { columns: mapped }])],
        vec![table("lines")],
        vec![AccumulatorDef::new("total", AccumulatorKind::Sum)],
    );
    let mut mini = Mini::of_build(&graph, &[], 1, &registry);
    let failure = mini.try_batch(&[("lines", &["a"])]).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "user error: function `add_all` failed: accumulator `total` takes Int64, and Utf8View was added"
    );
}

#[test]
fn a_task_that_is_given_up_leaves_nothing() {
    let held = Arc::new(());
    let reader = Arc::clone(&held);
    let mut columns = columns(&[("n", "")]);
    columns[0].function = Function::Native(NativeCall::new("number"));
    let call = Operator::MapPartitions {
        function: NativeCall::new("counting"),
    };
    let steps = vec![tick("lines"), call, tick("again"), Operator::Map { columns }];
    let accumulators = vec![
        count("lines"),
        count("again"),
        count("rows"),
        count("texts"),
        count("bad"),
    ];
    let graph = counting(vec![source("lines", steps)], vec![table("lines")], accumulators);
    let options = CompileOptions {
        partitions: 1,
        registry: registry(),
    };
    let compiled = block_on(compile(&graph, &[], &options)).unwrap();
    let template = Template::decode(&compiled.templates[0], &compiled.registry).unwrap();
    let lines = (0..2).map(move |_| {
        let _ = &reader;
        Ok(text(&["1", "x"]))
    });
    let mut task = template
        .run(TaskBinding {
            key: TaskKey {
                job: JobId(1),
                batch: BatchTime(1000),
                stage: StageId(0),
                partition: 0,
            },
            inputs: HashMap::from([((SlotId(0), 0), SlotInput::Reader(Box::new(lines)))]),
            index: 1,
            previous: None,
            memory: None,
            broadcasts: Arc::default(),
        })
        .unwrap();
    assert_eq!(block_on(task.next()).unwrap().unwrap().num_rows(), 2);
    assert_eq!(Arc::strong_count(&held), 2);
    drop(task);
    assert_eq!(Arc::strong_count(&held), 1, "the input is still there");
}
