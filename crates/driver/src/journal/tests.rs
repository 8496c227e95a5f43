use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use tidemill_dstream::accumulator::Ledger;
use tidemill_dstream::plan::{AccumulatorPlan, OutputPlan};
use tidemill_dstream::{
    AccumulatorKind, Compression, FileFormat, FilePart, FileRange, InputItem, JobGraph, JobOptions, Line, OutputDef,
    OutputKind, SaveOutput, Source, StreamDef, TextFileSource, ValueType,
};
use tidemill_engine::{Catalog, Registry as Functions, encode_ipc};
use tidemill_journal::{AppendError, Backend, Group, LocalLog, Recovered};
use tidemill_rpc::journal as wire;
use tidemill_scheduler::{OutputCommit, OutputPart, OutputPayload, RecordedBatch, Resume, StreamInput};
use tidemill_types::{
    AccumulatorId, BatchTime, BlockId, ExecutorId, Generation, JobId, OutputId, ReceiverId, StageId, StreamId,
};
use tokio::sync::mpsc;

use super::recorder::Recorder;
use super::registry::Registry;
use super::{allocated, committed, ended, prepared, records, skipped, source_position, state_saved, submitted};
use crate::committer::{CommitRequest, Committer};
use crate::event::Event;

const JOB: JobId = JobId(3);

fn time(index: i64) -> BatchTime {
    BatchTime(10_000 + index * 500)
}

fn job() -> wire::Record {
    let graph = JobGraph {
        name: "words".to_owned(),
        batch_interval: Duration::from_millis(500),
        options: JobOptions {
            checkpoint: Some("/cp".to_owned()),
            ..JobOptions::default()
        },
        ..JobGraph::default()
    };
    submitted(wire::JobSubmitted {
        job: JOB.0,
        name: "words".to_owned(),
        submitted_ms: 9_999,
        definition: Some(wire::JobDefinition {
            graph: Some((&graph).into()),
            options: None,
            partitions: 4,
            start_ms: 9_999,
            tables: vec![Bytes::from_static(b"ipc")],
            broadcasts: Vec::new(),
            generation: 1,
        }),
    })
}

fn inputs(index: i64) -> Vec<StreamInput> {
    let id = BlockId {
        job: JOB,
        receiver: ReceiverId(1),
        executor: ExecutorId(2),
        session: 1,
        sequence: index.unsigned_abs(),
    };
    let file = |part| {
        InputItem::File(FileRange {
            path: "a.txt".to_owned(),
            part,
        })
    };
    let offset = index.unsigned_abs() * 10;
    vec![
        StreamInput {
            stream: StreamId(0),
            partitions: vec![
                vec![file(FilePart::Bytes { offset, length: 10 }), file(FilePart::Whole)],
                vec![file(FilePart::Lines { first: 0, count: 2 })],
            ],
            rows: None,
            exhausted: index > 5,
        },
        StreamInput {
            stream: StreamId(1),
            partitions: vec![
                vec![InputItem::Block { id, rows: 7 }],
                vec![
                    InputItem::Lines(vec!["a".to_owned()]),
                    InputItem::Generate { from: 1, until: 3 },
                ],
                Vec::new(),
            ],
            rows: Some(8),
            exhausted: false,
        },
    ]
}

fn batch(index: i64) -> wire::Record {
    let position = source_position(StreamId(0), index.to_string().into_bytes());
    allocated(JOB, time(index), index, &inputs(index), vec![position])
}

fn plans() -> Vec<AccumulatorPlan> {
    let plan = |id, kind, value_type| AccumulatorPlan {
        id: AccumulatorId(id),
        name: format!("a{id}"),
        kind,
        value_type,
        listed: true,
    };
    vec![
        plan(0, AccumulatorKind::Count, None),
        plan(1, AccumulatorKind::Sum, Some(ValueType::Float)),
    ]
}

fn counted(values: u64) -> Ledger {
    let mut state = Ledger::zero(&plans()).states()[0].clone();
    state.add_count(values);
    Ledger::of_batch(&plans(), [&(AccumulatorId(0), state)], &Functions::default()).unwrap()
}

fn outputs() -> Vec<OutputCommit> {
    let part = |partition, payload| OutputPart {
        output: OutputId(1),
        partition,
        rows: 2,
        payload,
    };
    let file = OutputPayload::File {
        staged: "/out/.staging/x".to_owned(),
        name: "part-1.txt".to_owned(),
        bytes: 12,
    };
    vec![OutputCommit {
        output: OutputId(1),
        parts: vec![
            part(0, OutputPayload::Ipc(Bytes::from_static(b"rows"))),
            part(1, file),
            part(2, OutputPayload::Empty),
        ],
    }]
}

fn preparation(index: i64) -> wire::Record {
    prepared(
        JOB,
        time(index),
        &outputs(),
        &counted(index.unsigned_abs()),
        Generation(1),
    )
}

/// A life of a job: batches that are committed, one that is left out, one that is prepared, one that has its input.
fn life() -> Vec<wire::Record> {
    vec![
        job(),
        batch(1),
        batch(2),
        preparation(1),
        batch(3),
        skipped(JOB, time(2), 2),
        committed(JOB, time(1)),
        state_saved(JOB, StageId(1), time(1), 1),
        preparation(3),
        committed(JOB, time(3)),
        state_saved(JOB, StageId(1), time(3), 3),
        batch(4),
        batch(5),
        preparation(4),
    ]
}

fn registry(records: &[wire::Record]) -> Registry {
    let mut registry = Registry::default();
    for record in records {
        registry.apply(record.record.clone().unwrap());
    }
    registry
}

#[test]
fn a_job_goes_on_from_what_its_records_say() {
    let registry = registry(&life());
    let job = registry.job(JOB).unwrap();
    let recorded = |index, skipped| RecordedBatch {
        index,
        inputs: if skipped { Vec::new() } else { inputs(index) },
        skipped,
    };
    let expected = Resume {
        zero_time: BatchTime(10_000),
        completed: 3,
        batches: vec![
            recorded(1, false),
            recorded(2, true),
            recorded(3, false),
            recorded(4, false),
            recorded(5, false),
        ],
        state_bases: vec![(StageId(1), 3)],
    };
    assert_eq!(records::resume(job).unwrap(), Some(expected));
    assert_eq!(job.positions, [source_position(StreamId(0), b"5".to_vec())]);
    let prepared = job.prepared.clone().unwrap();
    assert_eq!(prepared.batch_time_ms, time(4).0);
    assert_eq!(records::outputs(prepared.outputs), outputs());
    // The prepared batch is not among them yet.
    let totals = records::states(job.totals.clone()).unwrap();
    let ledger = Ledger::of_states(&plans(), totals, &Functions::default()).unwrap();
    assert_eq!(ledger, counted(3));
    assert_eq!(registry.next_job(), JobId(4));
}

#[test]
fn a_batch_that_was_left_out_is_passed_when_those_before_it_are_done() {
    let completed = |records: &[wire::Record]| registry(records).job(JOB).unwrap().completed;
    let records = [
        job(),
        batch(1),
        batch(2),
        skipped(JOB, time(2), 2),
        preparation(1),
        committed(JOB, time(1)),
    ];
    assert_eq!(completed(&records[..4]), 0);
    assert_eq!(completed(&records[..5]), 0);
    assert_eq!(completed(&records), 2);
    assert_eq!(completed(&[job(), skipped(JOB, time(1), 1)]), 1, "without any input");
    let left_out = [job(), batch(1), preparation(1), skipped(JOB, time(1), 1)];
    let registry = registry(&left_out);
    let job = registry.job(JOB).unwrap();
    assert_eq!((job.completed, &job.prepared, job.totals.len()), (1, &None, 0));
}

#[test]
fn a_job_that_has_ended_is_gone_and_its_number_is_not_used_again() {
    let mut records = life();
    records.push(ended(JOB));
    let registry = registry(&records);
    assert_eq!(registry.jobs().count(), 0);
    assert_eq!(registry.next_job(), JobId(4));
}

#[test]
fn batches_that_nobody_asks_for_go_and_zero_time_stays() {
    let mut registry = registry(&life());
    registry.forget(JOB, 4);
    let resume = records::resume(registry.job(JOB).unwrap()).unwrap().unwrap();
    let indexes: Vec<i64> = resume.batches.iter().map(|batch| batch.index).collect();
    assert_eq!((indexes, resume.zero_time), (vec![4, 5], BatchTime(10_000)));
    registry.forget(JOB, 100);
    let resume = records::resume(registry.job(JOB).unwrap()).unwrap().unwrap();
    assert_eq!((resume.batches.len(), resume.zero_time), (1, BatchTime(10_000)));
}

fn recovered(snapshot: Option<(u64, Bytes)>, first: u64, records: &[wire::Record]) -> Recovered {
    let bytes = records.iter().map(records::encode);
    Recovered {
        generation: Generation(2),
        snapshot,
        records: (first..).zip(bytes).collect(),
    }
}

#[test]
fn a_snapshot_and_the_records_behind_it_come_to_the_same_as_all_records() {
    let records = life();
    let all = registry(&records);
    for at in 0..=records.len() {
        let snapshot = (at > 0).then(|| (at as u64, registry(&records[..at]).encode()));
        let recovered = recovered(snapshot, at as u64 + 1, &records[at..]);
        assert_eq!(Registry::replay(&recovered).unwrap(), all, "{at}");
    }
}

#[test]
fn a_record_of_a_later_version_is_an_error_and_not_left_out() {
    let mut recovered = recovered(None, 1, &life());
    // Field 99, which this build does not know.
    recovered.records.push((15, Bytes::from_static(&[0x9a, 6, 0])));
    let error = Registry::replay(&recovered).unwrap_err();
    assert_eq!(
        error.to_string(),
        "record 15 of the journal cannot be read by this build: it is of a later version"
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn records_have_these_bytes_for_ever() {
    let destroyed = super::broadcast_updated(JOB, tidemill_types::BroadcastId(1), None);
    let records = [
        (ended(JOB), "12020803"),
        (
            batch(1),
            "1a6408031084521801222d121a0a0d120b0a05612e747874100a180a0a0912070a05612e747874120f0a0d120b0a05612e7478742000280222270801120e0a0c0a0a08011002180120012807120f0a051a030a01610a06220408011003120018082a03120131",
        ),
        (skipped(JOB, time(2), 2), "2207080310f8551802"),
        (state_saved(JOB, StageId(1), time(3), 3), "2a090803100118ec592003"),
        (
            preparation(1),
            "325008031084521a390801120810021a04726f7773122508011002221f0a0f2f6f75742f2e73746167696e672f78120a706172742d312e747874180c12040802100222060801100122002204080132002801",
        ),
        (committed(JOB, time(1)), "3a050803108452"),
        (destroyed, "4208080310011a021801"),
        (
            job(),
            "0a5408031205776f726473188f4e22460a380a05776f72647310f4031a2c10011804200128013a1b09000000000000f03f119a9999999999c93f21000000000000594040644a032f63701804208f4e2a036970633801",
        ),
    ];
    let found = records.iter().map(|(record, _)| hex(&records::encode(record)));
    let golden = records.iter().map(|(_, golden)| (*golden).to_owned());
    assert_eq!(found.collect::<Vec<_>>(), golden.collect::<Vec<_>>());
}

#[tokio::test]
async fn what_was_recorded_is_what_the_next_driver_replays() {
    let directory = tempfile::tempdir().unwrap();
    let (log, recovered) = LocalLog::open(directory.path()).await.unwrap();
    let (events, _told) = mpsc::unbounded_channel();
    let recorder = Recorder::start(log, &recovered, Registry::default(), events.clone());
    for record in life() {
        recorder.append(record);
    }
    recorder.durable(recorder.last()).await.unwrap();
    let (_, recovered) = LocalLog::open(directory.path()).await.unwrap();
    assert_eq!(Registry::replay(&recovered).unwrap(), recorder.registry());
    assert_eq!(recovered.records.len(), life().len());
}

#[tokio::test]
async fn after_many_records_a_snapshot_stands_for_them() {
    let directory = tempfile::tempdir().unwrap();
    let (log, recovered) = LocalLog::open(directory.path()).await.unwrap();
    let (events, mut told) = mpsc::unbounded_channel();
    let recorder = Recorder::start(log, &recovered, Registry::default(), events);
    recorder.append(job());
    for index in 1..=700 {
        recorder.append(batch(index));
        recorder.append(preparation(index));
        recorder.append(committed(JOB, time(index)));
    }
    let last = recorder.last();
    while let Some(Event::Journal(event)) = told.recv().await {
        let tidemill_journal::JournalEvent::Durable { up_to } = event else {
            panic!("{event:?}")
        };
        recorder.on_durable(up_to, |_| Some(690));
        if up_to == last {
            break;
        }
    }
    // The snapshot goes before this record.
    recorder.append(batch(701));
    recorder.durable(last + 1).await.unwrap();
    let (_, recovered) = LocalLog::open(directory.path()).await.unwrap();
    assert_eq!(recovered.snapshot.as_ref().map(|(up_to, _)| *up_to), Some(last));
    let registry = Registry::replay(&recovered).unwrap();
    assert_eq!(registry, recorder.registry());
    let job = registry.job(JOB).unwrap();
    assert_eq!((job.completed, job.batches.len()), (700, 12));
}

/// A store that cannot be written until it is open.
struct Gated {
    open: Arc<AtomicBool>,
}

#[async_trait]
impl Backend for Gated {
    async fn append(&mut self, _: &Group) -> Result<(), AppendError> {
        if self.open.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(AppendError::Unavailable(tidemill_journal::Error::Place {
            place: "a test".to_owned(),
            reason: "it is closed".to_owned(),
        }))
    }

    async fn snapshot(&mut self, _: u64, _: Bytes) -> Result<(), AppendError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_visible_before_its_record_is_durable() {
    let open = Arc::new(AtomicBool::new(false));
    let (events, mut told) = mpsc::unbounded_channel();
    let gated = Gated {
        open: Arc::clone(&open),
    };
    let recorder = Recorder::start(gated, &recovered(None, 1, &[]), Registry::default(), events.clone());
    recorder.append(job());
    recorder.append(batch(1));
    let committer = Committer {
        job: JOB,
        name: "words".to_owned(),
        generation: Generation(1),
        outputs: vec![OutputPlan {
            id: OutputId(0),
            name: "print".to_owned(),
            stream: "lines".to_owned(),
            stage: StageId(0),
            partitions: 1,
            kind: OutputKind::Print { rows: 10 },
        }],
        catalog: Catalog::new(),
        registry: Functions::default(),
        accumulators: plans(),
        ledger: Ledger::zero(&plans()),
        recorder: Some(recorder.clone()),
        events,
    };
    let rows: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let rows = RecordBatch::try_from_iter([("n", rows)]).unwrap();
    let part = OutputPart {
        output: OutputId(0),
        partition: 0,
        rows: 2,
        payload: OutputPayload::Ipc(encode_ipc(&rows.schema(), &[rows]).unwrap()),
    };
    let request = CommitRequest {
        batch: time(1),
        outputs: vec![OutputCommit {
            output: OutputId(0),
            parts: vec![part],
        }],
        deltas: vec![(AccumulatorId(0), counted(5).states()[0].clone())],
    };
    let commits = committer.start();
    commits.send(request).unwrap();
    let mut stalled = false;
    let quiet = Duration::from_secs(60);
    while let Ok(event) = tokio::time::timeout(quiet, told.recv()).await {
        match event {
            Some(Event::Journal(tidemill_journal::JournalEvent::Stalled { .. })) => stalled = true,
            other => panic!("{other:?} while nothing is durable"),
        }
    }
    assert!(stalled, "it was said that the journal cannot be written");
    assert!(recorder.job(JOB).unwrap().prepared.is_some());

    open.store(true, Ordering::SeqCst);
    let mut printed = false;
    loop {
        match told.recv().await.unwrap() {
            Event::Printed { .. } => printed = true,
            Event::Committed { batch, result, .. } => {
                assert_eq!(batch, time(1));
                result.unwrap();
                break;
            }
            _ => {}
        }
    }
    assert!(printed);
    let job = recorder.job(JOB).unwrap();
    assert_eq!((job.completed, job.prepared.is_none()), (1, true));
    assert_eq!(records::states(job.totals).unwrap(), counted(5).states());
}

#[test]
fn a_snapshot_reads_as_it_was_written() {
    let registry = registry(&life());
    assert_eq!(Registry::decode(registry.encode()).unwrap(), registry);
    let snapshot = wire::Snapshot::decode(registry.encode()).unwrap();
    assert_eq!(snapshot.jobs.len(), 1);
}

#[tokio::test]
async fn a_prepared_batch_is_made_visible_by_the_next_driver() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("in.txt");
    std::fs::write(&input, "a\nb\n").unwrap();
    let out = directory.path().join("out");
    let text = |path: &std::path::Path| path.display().to_string();
    let graph = JobGraph {
        name: "words".to_owned(),
        batch_interval: Duration::from_millis(500),
        options: JobOptions {
            checkpoint: Some(text(directory.path())),
            ..JobOptions::default()
        },
        streams: vec![StreamDef {
            name: "lines".to_owned(),
            input: tidemill_dstream::StreamInput::Source(Source::TextFile(TextFileSource {
                path: text(&input),
                batch_lines: Some(1),
            })),
            steps: Vec::new(),
            persist: None,
            line: Line(None),
        }],
        outputs: vec![OutputDef {
            from: "lines".to_owned(),
            kind: OutputKind::Save(SaveOutput {
                path: text(&out),
                format: FileFormat::Text,
                compression: Compression::None,
                files: None,
                empty: false,
                overwrite: false,
            }),
            line: Line(None),
        }],
        ..JobGraph::default()
    };
    // As an executor of the first driver has left it.
    let staging = out.join(".staging-j3-g1");
    let staged = staging.join("batch_time=10500-o0").join("part-0.txt");
    std::fs::create_dir_all(staged.parent().unwrap()).unwrap();
    std::fs::write(&staged, "a\n").unwrap();
    std::fs::write(staging.join("of a batch that was not prepared"), "b").unwrap();
    let commit = OutputCommit {
        output: OutputId(0),
        parts: vec![OutputPart {
            output: OutputId(0),
            partition: 0,
            rows: 1,
            payload: OutputPayload::File {
                staged: text(&staged),
                name: "part-0.txt".to_owned(),
                bytes: 2,
            },
        }],
    };
    let place = directory.path().join("journal");
    let (log, found) = LocalLog::open(&place).await.unwrap();
    let (events, _told) = mpsc::unbounded_channel();
    let recorder = Recorder::start(log, &found, Registry::default(), events);
    recorder.append(submitted(wire::JobSubmitted {
        job: JOB.0,
        name: "words".to_owned(),
        submitted_ms: 9_999,
        definition: Some(wire::JobDefinition {
            graph: Some((&graph).into()),
            partitions: 1,
            start_ms: 9_999,
            generation: 1,
            ..wire::JobDefinition::default()
        }),
    }));
    recorder.append(allocated(JOB, time(1), 1, &[], Vec::new()));
    recorder.append(prepared(JOB, time(1), &[commit], &Ledger::default(), Generation(1)));
    recorder.durable(recorder.last()).await.unwrap();

    let config = tidemill_config::Loader::new()
        .environment(Default::default())
        .load()
        .unwrap();
    let mut options = crate::Options::from(&config);
    "127.0.0.1:0".clone_into(&mut options.bind);
    let (log, found) = LocalLog::open(&place).await.unwrap();
    let driver = crate::start_on(options, (Box::new(log), found)).await.unwrap();
    assert_eq!(
        std::fs::read_to_string(out.join("batch_time=10500/part-0.txt")).unwrap(),
        "a\n"
    );
    assert!(!staging.exists(), "what no batch will use is removed");
    driver.stop().await;
    let (_, found) = LocalLog::open(&place).await.unwrap();
    let registry = Registry::replay(&found).unwrap();
    let job = registry.job(JOB).unwrap();
    assert_eq!((job.completed, &job.prepared), (1, &None));
}
