mod operators;

use std::time::Duration;

use operators::{call, operator};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use tidemill_dstream::{
    AccumulatorDef, AccumulatorKind, BackPressure, BroadcastDef, BroadcastFormat, BroadcastSource, Compression,
    FileFormat, ForeachUnit, GenerateSource, Literal, NativeCall, OutputDef, OutputKind, QueueItem, SaveOutput, Shape,
    SocketTextSource, Source, Step, TextFileSource, TextFilesSource, ValueType,
};

use tidemill_types::StorageLevel;

use super::super::*;

/// Reads without validating, so that texts may be anything.
fn read_any(text: &str) -> JobGraph {
    let document = document::load(text).unwrap_or_else(|fault| panic!("{fault}\n{text}"));
    let options = ParseOptions::default();
    let mut reader = Reader::new(&options);
    let graph = job(&mut reader, &document);
    assert!(reader.faults.is_empty(), "{:#?}\n{text}", reader.faults);
    graph.expect("no faults were found")
}

/// Text that YAML, variables or the writer could mistake for something else.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z_]{1,8}",
        ".{0,12}",
        "[ \"'\\\\{}\\[\\],:#&*!|>%@`~?$\\-.0-9a-z]{0,12}",
        "\\PC{0,6}",
        any::<String>(),
        Just("null".to_owned()),
        Just("${X}$${Y}$$${Z}".to_owned()),
        Just("SELECT a,\n  b -- c\nFROM input".to_owned()),
    ]
}

fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![any::<u32>(), 0u32..100_000].prop_map(|ms| Duration::from_millis(ms.into()))
}

fn source() -> impl Strategy<Value = Source> {
    let item = prop_oneof![
        text().prop_map(QueueItem::File),
        vec(text(), 0..3).prop_map(QueueItem::Lines)
    ];
    prop_oneof![
        (text(), any::<u16>(), option::of(duration()), any::<[Option<u64>; 2]>()).prop_map(
            |(host, port, block_interval, [max_rate, initial_rate])| Source::SocketText(SocketTextSource {
                host,
                port,
                block_interval,
                max_rate,
                initial_rate,
            })
        ),
        (text(), option::of(any::<u64>()))
            .prop_map(|(path, batch_lines)| Source::TextFile(TextFileSource { path, batch_lines })),
        (text(), any::<bool>(), duration(), option::of(any::<u32>())).prop_map(
            |(dir, new_files_only, remember, files_per_batch)| Source::TextFiles(TextFilesSource {
                dir,
                new_files_only,
                remember,
                files_per_batch
            })
        ),
        vec(item, 0..3).prop_map(Source::Queue),
        (any::<u64>(), text(), any::<u64>()).prop_map(|(rate, template, seed)| Source::Generate(GenerateSource {
            rate,
            template,
            seed
        })),
    ]
}

fn output() -> impl Strategy<Value = OutputDef> {
    let format = prop_oneof![Just(FileFormat::Text), Just(FileFormat::Csv), Just(FileFormat::Json)];
    let compression = prop_oneof![
        Just(Compression::None),
        Just(Compression::Gzip),
        Just(Compression::Zstd)
    ];
    let kind = prop_oneof![
        any::<u32>().prop_map(|rows| OutputKind::Print { rows }),
        (
            text(),
            format,
            option::of(any::<u32>()),
            compression,
            any::<bool>(),
            any::<bool>()
        )
            .prop_map(
                |(path, format, files, compression, overwrite, empty)| OutputKind::Save(SaveOutput {
                    path,
                    format,
                    files,
                    compression,
                    overwrite,
                    empty
                })
            ),
        (text(), option::of(text())).prop_map(|(name, query)| OutputKind::Table { name, query }),
        (
            call().prop_map(|call| NativeCall::new(call.name).args(call.args)),
            prop_oneof![Just(ForeachUnit::Batch), Just(ForeachUnit::Partition)]
        )
            .prop_map(|(function, per)| OutputKind::Foreach { function, per }),
    ];
    (text(), kind).prop_map(|(from, kind)| OutputDef {
        from,
        kind,
        line: Line(None),
    })
}

fn graph() -> impl Strategy<Value = JobGraph> {
    let format = prop_oneof![
        Just(TableFormat::Csv),
        Just(TableFormat::Json),
        Just(TableFormat::Parquet)
    ];
    let table = (text(), option::of(format), option::of(duration()));
    let tables = proptest::collection::btree_map(text(), table, 0..3).prop_map(|tables| {
        let define = |(name, (path, format, reload))| TableDef {
            name,
            path,
            format,
            reload,
            line: Line(None),
        };
        tables.into_iter().map(define).collect()
    });
    let input = prop_oneof![
        source().prop_map(StreamInput::Source),
        text().prop_map(StreamInput::From)
    ];
    let steps = vec(
        operator().prop_map(|operator| Step {
            operator,
            line: Line(None),
        }),
        0..4,
    )
    .boxed();
    let persist = option::of(proptest::sample::select(StorageLevel::ALL.to_vec()));
    let streams = proptest::collection::btree_map(text(), (input, steps, persist), 0..3).prop_map(|streams| {
        let define = |(name, (input, steps, persist))| StreamDef {
            name,
            input,
            steps,
            persist,
            line: Line(None),
        };
        streams.into_iter().map(define).collect()
    });
    let policy = prop_oneof![Just(FailurePolicy::Stop), Just(FailurePolicy::Skip)];
    let pressure = option::of(
        any::<[f64; 4]>().prop_map(|[proportional, integral, derived, min_rate]| BackPressure {
            proportional,
            integral,
            derived,
            min_rate,
        }),
    );
    let options = (
        option::of(any::<u32>()),
        any::<[u8; 4]>(),
        policy,
        option::of(duration()),
        pressure,
        (option::of(text()), option::of(duration())),
    )
        .prop_map(
            |(partitions, numbers, policy, remember, back_pressure, checkpoint)| JobOptions {
                partitions,
                weight: numbers[0].into(),
                max_attempts: numbers[1].into(),
                concurrent_batches: numbers[2].into(),
                on_batch_failure: policy,
                remember,
                back_pressure,
                max_queued_batches: numbers[3].into(),
                checkpoint: checkpoint.0,
                checkpoint_interval: checkpoint.1,
            },
        );
    let accumulators = btree_map(text(), accumulator(), 0..4).prop_map(|accumulators| {
        let named = accumulators.into_iter();
        named
            .map(|(name, accumulator)| AccumulatorDef { name, ..accumulator })
            .collect()
    });
    // Boxed, since what they have made of a graph would not fit on the stack of a test together.
    let parts = (
        text(),
        duration(),
        options.boxed(),
        accumulators.boxed(),
        tables.boxed(),
        broadcasts().boxed(),
        streams.boxed(),
        vec(output(), 0..4).boxed(),
    );
    parts.prop_map(
        |(name, batch_interval, options, accumulators, tables, broadcasts, streams, outputs)| JobGraph {
            name,
            batch_interval,
            options,
            accumulators,
            tables,
            broadcasts,
            streams,
            outputs,
        },
    )
}

fn literal() -> impl Strategy<Value = Literal> {
    prop_oneof![
        Just(Literal::Null),
        any::<bool>().prop_map(Literal::Bool),
        any::<i64>().prop_map(Literal::Int),
        any::<i32>().prop_map(|number| Literal::Float(f64::from(number) / 8.0)),
        text().prop_map(Literal::Text),
    ]
}

fn broadcasts() -> impl Strategy<Value = Vec<BroadcastDef>> {
    let format = prop_oneof![
        Just(BroadcastFormat::Text),
        Just(BroadcastFormat::Bytes),
        Just(BroadcastFormat::Table(TableFormat::Csv))
    ];
    let row = proptest::collection::btree_map(text(), literal(), 1..3);
    let source = prop_oneof![
        (text(), option::of(format)).prop_map(|(path, format)| BroadcastSource::File { path, format }),
        literal().prop_map(BroadcastSource::Value),
        vec(literal(), 0..3).prop_map(BroadcastSource::List),
        vec((literal(), literal()), 1..3).prop_map(BroadcastSource::Map),
        vec(row.prop_map(|row| row.into_iter().collect()), 0..3).prop_map(BroadcastSource::Rows),
        text().prop_map(BroadcastSource::Query),
    ];
    let shape = option::of(proptest::sample::select(Shape::ALL.to_vec()));
    let settings = (source, shape, option::of(duration()), any::<bool>());
    proptest::collection::btree_map(text(), settings, 0..3).prop_map(|broadcasts| {
        let define = |(name, (source, shape, reload, updatable))| BroadcastDef {
            name,
            source,
            shape,
            reload,
            updatable,
            line: Line(None),
        };
        broadcasts.into_iter().map(define).collect()
    })
}

fn accumulator() -> impl Strategy<Value = AccumulatorDef> {
    let kind = prop_oneof![
        Just(AccumulatorKind::Sum),
        Just(AccumulatorKind::Count),
        Just(AccumulatorKind::Min),
        Just(AccumulatorKind::Max),
        Just(AccumulatorKind::Average),
        any::<u32>().prop_map(|limit| AccumulatorKind::Distinct { limit }),
        Just(AccumulatorKind::ApproxDistinct),
        vec(any::<f64>().prop_filter("NaN", |n| !n.is_nan()), 0..4)
            .prop_map(|bounds| AccumulatorKind::Histogram { bounds }),
        text().prop_map(|name| AccumulatorKind::Native { name }),
    ];
    let types: Vec<ValueType> = ValueType::ALL.iter().map(|(_, value_type)| *value_type).collect();
    let value_type = option::of(proptest::sample::select(types));
    (kind, value_type, any::<bool>()).prop_map(|(kind, value_type, listed)| AccumulatorDef {
        value_type,
        listed,
        ..AccumulatorDef::new("", kind)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn what_is_written_reads_as_the_same_graph_and_is_written_the_same(graph in graph()) {
        let text = to_yaml(&graph);
        let there = read_any(&text);
        prop_assert_eq!(&there, &graph, "{}", text);
        prop_assert_eq!(to_yaml(&there), text);
    }
}

#[test]
fn a_written_job_is_as_one_would_write_it() {
    let text = "\
name: trending-hashtags
batch_interval: 10s
tables:
  users: {file: users.csv, reload: 30s}
streams:
  tweets:
    source: {socket_text: {host: \"127.0.0.1\", port: 5555}}
  hashtags:
    from: tweets
    steps:
      - window: {length: 20s}
      - flat_map: {tag: \"string_to_array(lower(value), ' ')\"}
      - filter: \"tag LIKE '#%'\"
      - reduce_by_key: {key: tag, count: count(*)}
      - count
      - map_values: {key: tag, twice: count * 2}
      - map: {value: {native: clean, args: [value, \"'x'\"]}}
      - sample: 0.1
      - sample: {fraction: 0.5, seed: 7}
      - distinct
      - distinct: {partitions: 4}
      - repartition: 8
      - partition_by: tag
      - partition_by: {key: [tag, user], partitions: 8}
      - group_by_key: tag
      - reduce_by_key: {key: tag, function: \"a + b\", partitions: 4}
      - reduce_by_window: {length: 20s, slide: 10s, function: \"a + b\", inverse: a - b}
      - sort_by: count DESC
      - sort_by: {by: [count DESC NULLS LAST, tag], limit: 10}
      - join: {with: tweets, on: tag}
      - left_outer_join: {with: tweets, on: {tag: value}, partitions: 2}
      - cogroup: {with: tweets, key: tag}
      - transform_with: {with: tweets, sql: SELECT * FROM tweets}
      - map_with_state:
          key: user
          values: {n: count(*)}
          state: {total: \"coalesce(total, 0) + n\"}
          emit: {user: user, total: total, gone: timing_out}
          timeout: 30s
outputs:
  - foreach: {from: hashtags, native: post, per: partition}
  - table: {from: hashtags, name: tweets}
  - print: {from: hashtags}
  - save:
      from: hashtags
      path: ./a/path/that/is/so/long/that/it/does/not/fit/on/one/line/with/the/other/settings/of/this/output
      format: csv
      compression: gzip
";
    let graph = parse(text, &ParseOptions::default()).unwrap();
    assert_eq!(to_yaml(&graph), text);
}
