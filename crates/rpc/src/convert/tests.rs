//! Round trips: what goes to the wire and back is the same, by bytes too.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message;
use tidemill_dstream::plan::{
    AccumulatorPlan, DatasetPlan, ExchangeKind, JobPlan, Keeps, OutputPlan, SlotKind, SlotPartition, SlotPlan,
    StageOutput, StagePlan, StreamPlan,
};
use tidemill_dstream::{
    BackPressure, BroadcastDef, BroadcastFormat, BroadcastSource, Compression, Diagnostic, Diagnostics, FailurePolicy,
    FileFormat, FilePart, FileRange, ForeachUnit, Function, GenerateSource, InputItem, JobGraph, JobOptions, Line,
    Literal, NamedFunction, Operator, OutputDef, OutputKind, QueueItem, Reduction, SaveOutput, Shape, SocketTextSource,
    Source, Step, StreamDef, StreamInput, TableDef, TableFormat, TextFileSource, TextFilesSource,
};
use tidemill_types::{
    AccumulatorId, BlockId, DatasetId, ExecutorId, FailureKind, JobId, OutputId, PlanVersion, ReceiverId, SlotId,
    StageId, StorageLevel, StreamId, TaskFailure,
};
use tonic::{Code, Status};

mod accumulators;
mod operators;

use accumulators::accumulator;
use operators::{call, operator, partitions};

use super::*;
use crate::{driver, plan};

/// To the wire, through its bytes, and back.
fn round_trip<'a, D, W>(domain: &'a D) -> D
where
    W: From<&'a D> + Message + Default,
    D: TryFrom<W> + 'a,
    D::Error: std::fmt::Debug,
{
    let bytes = W::from(domain).encode_to_vec();
    D::try_from(W::decode(bytes.as_slice()).unwrap()).unwrap()
}

fn text() -> impl Strategy<Value = String> {
    ".{0,12}"
}

fn duration() -> impl Strategy<Value = Duration> {
    any::<u32>().prop_map(|ms| Duration::from_millis(ms.into()))
}

fn line() -> impl Strategy<Value = Line> {
    option::of(any::<u32>()).prop_map(Line)
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

fn stream() -> impl Strategy<Value = StreamDef> {
    let input = prop_oneof![
        source().prop_map(StreamInput::Source),
        text().prop_map(StreamInput::From)
    ];
    let step = (operator(), line()).prop_map(|(operator, line)| Step { operator, line });
    let persist = option::of(prop::sample::select(StorageLevel::ALL.to_vec()));
    (text(), input, vec(step, 0..4), persist, line()).prop_map(|(name, input, steps, persist, line)| StreamDef {
        name,
        input,
        steps,
        persist,
        line,
    })
}

fn output_kind() -> impl Strategy<Value = OutputKind> {
    let format = prop_oneof![Just(FileFormat::Text), Just(FileFormat::Csv), Just(FileFormat::Json)];
    let compression = prop_oneof![
        Just(Compression::None),
        Just(Compression::Gzip),
        Just(Compression::Zstd)
    ];
    prop_oneof![
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
            call(),
            prop_oneof![Just(ForeachUnit::Batch), Just(ForeachUnit::Partition)]
        )
            .prop_map(|(function, per)| OutputKind::Foreach { function, per }),
    ]
}

fn table() -> impl Strategy<Value = TableDef> {
    let format = prop_oneof![
        Just(TableFormat::Csv),
        Just(TableFormat::Json),
        Just(TableFormat::Parquet)
    ];
    (text(), text(), option::of(format), option::of(duration()), line()).prop_map(
        |(name, path, format, reload, line)| TableDef {
            name,
            path,
            format,
            reload,
            line,
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

fn broadcast() -> impl Strategy<Value = BroadcastDef> {
    let format = prop_oneof![
        Just(BroadcastFormat::Text),
        Just(BroadcastFormat::Bytes),
        Just(BroadcastFormat::Table(TableFormat::Csv)),
        Just(BroadcastFormat::Table(TableFormat::Json)),
        Just(BroadcastFormat::Table(TableFormat::Parquet)),
    ];
    let source = prop_oneof![
        (text(), option::of(format)).prop_map(|(path, format)| BroadcastSource::File { path, format }),
        literal().prop_map(BroadcastSource::Value),
        vec(literal(), 0..3).prop_map(BroadcastSource::List),
        vec((literal(), literal()), 0..3).prop_map(BroadcastSource::Map),
        vec(vec((text(), literal()), 0..3), 0..3).prop_map(BroadcastSource::Rows),
        text().prop_map(BroadcastSource::Query),
        vec(any::<u8>(), 0..9).prop_map(|bytes| BroadcastSource::Bytes(bytes.into())),
        vec(any::<u8>(), 0..9).prop_map(|ipc| BroadcastSource::Arrow(ipc.into())),
    ];
    let shape = option::of(proptest::sample::select(Shape::ALL.to_vec()));
    (text(), source, shape, option::of(duration()), any::<bool>(), line()).prop_map(
        |(name, source, shape, reload, updatable, line)| BroadcastDef {
            name,
            source,
            shape,
            reload,
            updatable,
            line,
        },
    )
}

fn options() -> impl Strategy<Value = JobOptions> {
    let policy = prop_oneof![Just(FailurePolicy::Stop), Just(FailurePolicy::Skip)];
    let pressure = option::of(any::<[u16; 4]>().prop_map(|numbers| BackPressure {
        proportional: numbers[0].into(),
        integral: numbers[1].into(),
        derived: numbers[2].into(),
        min_rate: numbers[3].into(),
    }));
    (
        partitions(),
        any::<[u32; 4]>(),
        policy,
        option::of(duration()),
        pressure,
        option::of(text()),
        option::of(duration()),
    )
        .prop_map(
            |(partitions, numbers, on_batch_failure, remember, back_pressure, checkpoint, checkpoint_interval)| {
                JobOptions {
                    partitions,
                    weight: numbers[0],
                    max_attempts: numbers[1],
                    concurrent_batches: numbers[2],
                    on_batch_failure,
                    remember,
                    back_pressure,
                    max_queued_batches: numbers[3],
                    checkpoint,
                    checkpoint_interval,
                }
            },
        )
}

fn graph() -> impl Strategy<Value = JobGraph> {
    let output = (text(), output_kind(), line()).prop_map(|(from, kind, line)| OutputDef { from, kind, line });
    (
        text(),
        duration(),
        options(),
        vec(accumulator(), 0..3),
        vec(table(), 0..3),
        vec(broadcast(), 0..3),
        vec(stream(), 0..4),
        vec(output, 0..3),
    )
        .prop_map(
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

fn plan() -> impl Strategy<Value = JobPlan> {
    let slot = prop_oneof![
        any::<u32>().prop_map(|id| SlotKind::Source { stream: StreamId(id) }),
        any::<u32>().prop_map(|id| SlotKind::Shuffle { from: StageId(id) }),
        any::<[u32; 2]>().prop_map(|[id, batches]| SlotKind::Dataset {
            dataset: DatasetId(id),
            batches
        }),
        text().prop_map(|name| SlotKind::Table { name }),
    ];
    let slot = (any::<[u32; 2]>(), slot).prop_map(|([id, partitions], kind)| SlotPlan {
        id: SlotId(id),
        kind,
        partitions,
    });
    let exchange = prop_oneof![
        any::<u32>().prop_map(|partitions| ExchangeKind::Hash { partitions }),
        any::<u32>().prop_map(|partitions| ExchangeKind::RoundRobin { partitions }),
        Just(ExchangeKind::Single),
        Just(ExchangeKind::Broadcast),
    ];
    let output = prop_oneof![
        (any::<u32>(), exchange).prop_map(|(to, kind)| StageOutput::Exchange { to: StageId(to), kind }),
        (option::of(any::<u32>()), vec(any::<u32>(), 0..3)).prop_map(|(dataset, outputs)| StageOutput::Result {
            dataset: dataset.map(DatasetId),
            outputs: outputs.into_iter().map(OutputId).collect(),
        }),
    ];
    let read = any::<[u32; 2]>().prop_map(|[slot, partition]| SlotPartition {
        slot: SlotId(slot),
        partition,
    });
    let stage = (
        any::<[u32; 3]>(),
        vec(slot, 0..3),
        vec(vec(read, 0..3), 0..3),
        output,
        any::<[bool; 2]>(),
        prop_oneof![
            Just(Keeps::Nothing),
            Just(Keeps::Derived),
            text().prop_map(|name| Keeps::State { name }),
        ],
        text(),
    )
        .prop_map(
            |([id, partitions, every], slots, reads, output, [skip_empty, deterministic], keeps, description)| {
                StagePlan {
                    id: StageId(id),
                    partitions,
                    slots,
                    reads,
                    output,
                    every,
                    skip_empty,
                    keeps,
                    deterministic,
                    description,
                }
            },
        );
    let stream = (any::<[u32; 2]>(), text(), source()).prop_map(|([id, partitions], name, source)| StreamPlan {
        id: StreamId(id),
        name,
        source,
        partitions,
    });
    let level = prop::sample::select(StorageLevel::ALL.to_vec());
    let dataset =
        (any::<[u32; 5]>(), text(), level).prop_map(|([id, stage, partitions, remember, needed], name, level)| {
            DatasetPlan {
                id: DatasetId(id),
                name,
                stage: StageId(stage),
                partitions,
                remember,
                needed,
                level,
            }
        });
    let output =
        (any::<[u32; 3]>(), text(), text(), output_kind()).prop_map(|([id, stage, partitions], name, stream, kind)| {
            OutputPlan {
                id: OutputId(id),
                name,
                stream,
                kind,
                stage: StageId(stage),
                partitions,
            }
        });
    (
        any::<u32>(),
        duration(),
        vec(stage, 0..3),
        vec(stream, 0..3),
        vec(dataset, 0..3),
        vec(output, 0..3),
        vec(text(), 0..3),
        (vec((any::<u32>(), accumulator()), 0..3), vec(text(), 0..3)),
    )
        .prop_map(
            |(version, batch_interval, stages, streams, datasets, outputs, tables, (accumulators, broadcasts))| {
                JobPlan {
                    accumulators: accumulators
                        .into_iter()
                        .map(|(id, accumulator)| AccumulatorPlan {
                            id: AccumulatorId(id),
                            name: accumulator.name,
                            kind: accumulator.kind,
                            value_type: accumulator.value_type,
                            listed: accumulator.listed,
                        })
                        .collect(),
                    version: PlanVersion(version),
                    batch_interval,
                    stages,
                    streams,
                    datasets,
                    outputs,
                    tables,
                    broadcasts,
                }
            },
        )
}

fn input_items() -> Vec<InputItem> {
    let file = |part| {
        InputItem::File(FileRange {
            path: "a.txt".into(),
            part,
        })
    };
    let id = BlockId {
        job: JobId(7),
        receiver: ReceiverId(1),
        executor: ExecutorId(2),
        session: 3,
        sequence: 4,
    };
    vec![
        InputItem::Block { id, rows: 5 },
        file(FilePart::Whole),
        file(FilePart::Bytes { offset: 0, length: 0 }),
        file(FilePart::Bytes { offset: 10, length: 20 }),
        file(FilePart::Lines { first: 0, count: 3 }),
        InputItem::Lines(vec!["a".into(), String::new()]),
        InputItem::Generate { from: 1, until: 2 },
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_graph_survives_the_wire(graph in graph()) {
        let there = round_trip::<_, plan::JobGraph>(&graph);
        // Lines take no part in comparisons, so they are looked at apart.
        prop_assert_eq!(format!("{there:?}"), format!("{graph:?}"));
    }

    #[test]
    fn a_plan_survives_the_wire(plan in plan()) {
        prop_assert_eq!(round_trip::<_, plan::JobPlan>(&plan), plan);
    }
}

#[test]
fn every_kind_of_failure_survives_the_wire() {
    for kind in [
        FailureKind::InputLost,
        FailureKind::ExecutorLost,
        FailureKind::Cancelled,
        FailureKind::User,
        FailureKind::Resource,
        FailureKind::External,
        FailureKind::Internal,
    ] {
        let failure = TaskFailure::new(kind, "why");
        assert_eq!(round_trip::<_, driver::Failure>(&failure), failure);
    }
}

#[test]
fn every_kind_of_input_survives_the_wire_with_its_job_from_outside() {
    for item in input_items() {
        let bytes = driver::InputItem::from(&item).encode_to_vec();
        let wire = driver::InputItem::decode(bytes.as_slice()).unwrap();
        assert_eq!(input_item(JobId(7), wire), Ok(item));
    }
}

#[test]
fn what_is_missing_or_unspecified_is_named() {
    let error = |graph: plan::JobGraph| JobGraph::try_from(graph).unwrap_err().to_string();
    let stream = plan::Stream {
        input: Some(plan::stream::Input::From("a".into())),
        steps: vec![
            plan::Step {
                operator: Some(plan::step::Operator::Count(plan::Count {})),
                line: None,
            },
            plan::Step {
                operator: Some(plan::step::Operator::Filter(plan::Filter { predicate: None })),
                line: None,
            },
        ],
        ..plan::Stream::default()
    };
    assert_eq!(
        error(plan::JobGraph {
            streams: vec![stream],
            ..Default::default()
        }),
        "streams[0].steps[1].filter.predicate: missing, or of a later version"
    );
    assert_eq!(
        error(plan::JobGraph {
            options: Some(plan::JobOptions::default()),
            ..Default::default()
        }),
        "options.on_batch_failure: 0 is not a known value"
    );
    let save = plan::OutputKind {
        kind: Some(plan::output_kind::Kind::Save(plan::Save {
            format: 9,
            compression: 1,
            ..Default::default()
        })),
    };
    assert_eq!(
        OutputKind::try_from(save).unwrap_err().to_string(),
        "save.format: 9 is not a known value"
    );
    let foreach = plan::OutputKind {
        kind: Some(plan::output_kind::Kind::Foreach(plan::Foreach {
            function: None,
            per: 2,
        })),
    };
    assert_eq!(
        OutputKind::try_from(foreach).unwrap_err().to_string(),
        "foreach.function: missing, or of a later version"
    );
    for (operator, expected) in [
        (
            plan::step::Operator::Join(plan::Join::default()),
            "join.kind: 0 is not a known value",
        ),
        (
            plan::step::Operator::SortBy(plan::SortBy {
                keys: vec![plan::SortKey::default()],
                limit: None,
            }),
            "sort_by.keys[0].function: missing, or of a later version",
        ),
        (
            plan::step::Operator::ReduceByWindow(plan::ReduceByWindow {
                binary: Some(plan::BinaryReduction {
                    columns: vec![plan::NamedFunction::default()],
                    inverse: vec![],
                }),
                ..Default::default()
            }),
            "reduce_by_window.binary.columns[0].function: missing, or of a later version",
        ),
        (
            plan::step::Operator::MapWithState(plan::MapWithState {
                state: Some(plan::StateFunction::default()),
                ..Default::default()
            }),
            "map_with_state.state.kind: missing, or of a later version",
        ),
    ] {
        let step = plan::Step {
            operator: Some(operator),
            line: None,
        };
        assert_eq!(Step::try_from(step).unwrap_err().to_string(), expected);
    }
    let socket = plan::Source {
        source: Some(plan::source::Source::SocketText(plan::SocketText {
            port: 65536,
            ..Default::default()
        })),
    };
    assert_eq!(
        Source::try_from(socket).unwrap_err().to_string(),
        "socket_text.port: 65536 is not a port"
    );
    let exchange = plan::StageOutput {
        output: Some(plan::stage_output::Output::Exchange(plan::Exchange::default())),
    };
    assert_eq!(
        StageOutput::try_from(exchange).unwrap_err().to_string(),
        "exchange.kind: 0 is not a known value"
    );
    assert_eq!(
        TaskFailure::try_from(driver::Failure::default())
            .unwrap_err()
            .to_string(),
        "kind: 0 is not a known value"
    );
    let mixed = driver::FileRange {
        length: Some(1),
        lines: Some(1),
        ..Default::default()
    };
    let item = driver::InputItem {
        item: Some(driver::input_item::Item::File(mixed)),
    };
    assert_eq!(
        input_item(JobId(1), item).unwrap_err().to_string(),
        "file: names neither the whole file, nor bytes, nor lines alone"
    );
}

#[test]
fn steps_of_the_first_version_still_mean_the_same() {
    let step = |bytes: &[u8]| Step::try_from(plan::Step::decode(bytes).unwrap()).unwrap().operator;
    let column = |name: &str, sql: &str| NamedFunction {
        name: name.into(),
        function: Function::expr(sql),
        line: Line(None),
    };
    // reduce_by_key = 6 {keys = 1 {name = 1, function = 2 {expr = 1}}, aggregates = 2}
    let reduce = b"\x32\x16\x0a\x08\x0a\x01k\x12\x03\x0a\x01u\x12\x0a\x0a\x01n\x12\x05\x0a\x03f()";
    assert_eq!(
        step(reduce),
        Operator::ReduceByKey {
            keys: vec![column("k", "u")],
            reduction: Reduction::Aggregates(vec![column("n", "f()")]),
            partitions: None
        }
    );
    // transform = 9 {sql = 1}
    assert_eq!(
        step(b"\x4a\x03\x0a\x01s"),
        Operator::Transform {
            function: Function::expr("s")
        }
    );
}

#[test]
fn a_graph_without_options_has_the_defaults() {
    let graph = JobGraph::try_from(plan::JobGraph::default()).unwrap();
    assert_eq!(graph.options, JobOptions::default());
}

#[test]
fn diagnostics_travel_in_a_status() {
    let diagnostics = Diagnostics(vec![
        Diagnostic::new(Some(3), "streams.a", "unknown stream `b`").suggest("b", ["a"]),
        Diagnostic::new(None, "", "no outputs"),
    ]);
    let status = diagnostics_status(&diagnostics);
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), diagnostics.to_string());
    assert_eq!(diagnostics_from_status(&status), Some(diagnostics));
}

#[test]
fn more_diagnostics_than_a_status_holds_are_counted() {
    let long = "é".repeat(100_000);
    let diagnostics: Vec<_> = (0..1000)
        .map(|i| Diagnostic::new(None, format!("p{i}"), &long).hint(&long))
        .collect();
    let status = diagnostics_status(&Diagnostics(diagnostics));
    // Percent-encoded, the text takes three bytes for each; base64 takes four for three.
    assert!(status.message().len() * 3 + status.details().len() * 4 / 3 < 14 * 1024);
    let there = diagnostics_from_status(&status).unwrap().0;
    assert!(there.len() > 2);
    assert_eq!(
        there.last().unwrap().message,
        format!("{} more faults", 1000 - (there.len() - 1))
    );
}

#[test]
fn another_status_has_no_diagnostics() {
    assert_eq!(diagnostics_from_status(&Status::invalid_argument("bad")), None);
    assert_eq!(
        diagnostics_from_status(&Status::with_details(Code::Internal, "", vec![10, 0].into())),
        None
    );
    assert_eq!(
        diagnostics_from_status(&Status::with_details(Code::InvalidArgument, "", vec![255].into())),
        None
    );
}
