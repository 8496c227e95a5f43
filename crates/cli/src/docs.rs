//! The documents against the command line: their commands can be parsed, their fields are the ones that are printed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use clap::{CommandFactory, Parser};
use serde_json::Value;
use tidemill_client::{
    AccumulatorBatch, AccumulatorSummary, BatchSummary, BroadcastSummary, Bucket, Delays, ExecutorSummary, JobDetail,
    JobState, JobSummary, KindSummary, PrintedBatch, Reading, ReceiverSummary, RememberedStream, Scalar, StageSummary,
    StorageSummary, Submitted,
};

use crate::args::Cli;
use crate::render::json;

const REFERENCE: &str = include_str!("../../../docs/cli.md");
const README: &str = include_str!("../../../README.md");
const JOB_FILE: &str = include_str!("../../../docs/job-file.md");

/// The words of a shell line; quotes hold words together, a `#` after a space begins a comment.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            '#' if !quoted && word.is_none() => break,
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The commands of `tidemill` in shell blocks.
fn commands(document: &str) -> Vec<Vec<String>> {
    let mut in_shell = false;
    let mut commands = Vec::new();
    for line in document.lines() {
        if let Some(kind) = line.strip_prefix("```") {
            in_shell = kind == "sh";
        } else if in_shell {
            let line = line.replace("cargo run -- ", "tidemill ");
            let words = words(&line);
            if let Some(at) = words.iter().position(|word| word == "tidemill") {
                commands.push(words[at..].to_vec());
            }
        }
    }
    commands
}

#[test]
fn every_command_in_the_documents_is_one() {
    let mut shown = BTreeSet::new();
    for document in [README, REFERENCE, JOB_FILE] {
        for command in commands(document) {
            if let Err(error) = Cli::try_parse_from(&command) {
                panic!("{command:?}: {error}");
            }
            shown.extend(command);
        }
    }
    let cli = Cli::command();
    for command in cli.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = command.get_name();
        assert!(shown.contains(name), "no example of {name}");
        for argument in command.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(
                REFERENCE.contains(&format!("--{argument}")),
                "{name} --{argument} is not in docs/cli.md"
            );
        }
    }
}

/// The fields in the table below a heading.
fn documented(heading: &str) -> BTreeSet<String> {
    let section = REFERENCE
        .split("\n### ")
        .find_map(|section| section.strip_prefix(heading)?.strip_prefix('\n'))
        .unwrap_or_else(|| panic!("no section {heading}"));
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split(" | ").next());
    names
        .flat_map(|names| names.split(", "))
        .map(|name| name.trim_matches('`').to_owned())
        .collect()
}

fn check(heading: &str, value: &Value) {
    let printed: BTreeSet<String> = value.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(documented(heading), printed, "{heading}");
}

fn parsed(text: anyhow::Result<String>) -> Value {
    serde_json::from_str(&text.unwrap()).unwrap()
}

fn summary() -> JobSummary {
    JobSummary {
        id: Default::default(),
        name: "words".to_owned(),
        state: JobState::Running,
        batch_interval: Duration::from_secs(1),
        completed_batches: 1,
        queued_batches: 0,
        failed_batches: 0,
        input_rows: 1,
        lost_rows: 0,
        last_batch: None,
        delays: Delays::default(),
        submitted_ms: 0,
        error: None,
        first_failure: None,
        sources_held: false,
        journal_error: None,
    }
}

fn broadcast() -> BroadcastSummary {
    BroadcastSummary {
        name: "stopwords".to_owned(),
        shape: "list".to_owned(),
        version: Some(1),
        newest: 1,
        rows: 2,
        bytes: 600,
        executors: vec![Default::default()],
        pieces_from_driver: 1,
        pieces_from_peers: 0,
        pieces_corrupt: 0,
        warning: None,
        kept_versions: 1,
    }
}

fn detail() -> JobDetail {
    let batch = BatchSummary {
        time: Default::default(),
        state: "completed".to_owned(),
        input_rows: 1,
        delays: Delays::default(),
        attempts_failed: 0,
        error: None,
    };
    let receiver = ReceiverSummary {
        stream: "lines".to_owned(),
        state: "active".to_owned(),
        executor: None,
        rows: 1,
        restarts: 0,
        malformed_rows: 0,
        rate_limit: None,
        message: None,
    };
    let stage = StageSummary {
        id: Default::default(),
        partitions: 1,
        description: "source lines".to_owned(),
        executors: vec![Default::default()],
    };
    JobDetail {
        summary: summary(),
        batches: vec![batch],
        receivers: vec![receiver],
        stages: vec![stage],
        tables: vec!["top_words".to_owned()],
        accumulators: vec![accumulator()],
        broadcasts: vec![broadcast()],
        remembered: vec![RememberedStream {
            stream: "lines".to_owned(),
            level: "memory".to_owned(),
            batches: 2,
        }],
    }
}

fn accumulator() -> AccumulatorSummary {
    let reading = || Reading {
        value: Some(Scalar::Float(f64::INFINITY)),
        buckets: vec![Bucket {
            bound: Some(1.0),
            count: 1,
        }],
        values: vec![Scalar::Date(0)],
        ..Reading::default()
    };
    AccumulatorSummary {
        name: "lines".to_owned(),
        kind: "max".to_owned(),
        value_type: Some("float".to_owned()),
        listed: true,
        total: reading(),
        batches: vec![AccumulatorBatch {
            time: Default::default(),
            reading: reading(),
        }],
    }
}

#[test]
fn the_fields_that_are_printed_are_the_documented_ones() {
    check("Job summary", &parsed(json::jobs(&[summary()]))[0]);
    check("Job summary", &parsed(json::summary(&summary())));
    let job = parsed(json::job(&detail()));
    check("Job", &job);
    check("Job summary", &job["summary"]);
    check("Delays", &job["summary"]["delays"]);
    check("Batch", &job["batches"][0]);
    check("Delays", &job["batches"][0]["delays"]);
    check("Receiver", &job["receivers"][0]);
    check("Stage", &job["stages"][0]);
    check("Accumulator", &job["accumulators"][0]);
    let accumulator = &parsed(json::accumulators(&[accumulator()]))[0];
    check("Accumulator", accumulator);
    check("Accumulated batch", &accumulator["batches"][0]);
    check("Reading", &accumulator["total"]);
    check("Bucket", &accumulator["total"]["buckets"][0]);
    let shown = (&accumulator["total"]["value"], &accumulator["total"]["values"][0]);
    assert_eq!(shown, (&Value::from("inf"), &Value::from("1970-01-01")));
    check("Closing accumulators", &parsed(json::closing(&[self::accumulator()])));
    check("Broadcast", &job["broadcasts"][0]);
    check("Broadcast", &parsed(json::broadcasts(&[broadcast()]))[0]);
    check(
        "Broadcast change",
        &parsed(json::broadcast_change("stopwords", Some(2))),
    );
    check("Remembered stream", &job["remembered"][0]);
    let executor = ExecutorSummary {
        id: Default::default(),
        state: "active".to_owned(),
        host: "here".to_owned(),
        data_address: "127.0.0.1:7078".to_owned(),
        slots: 1,
        running_tasks: 0,
        queued_tasks: 0,
        completed_tasks: 0,
        failed_tasks: 0,
        memory_bytes: 0,
        spilled_bytes: 0,
        receivers: 0,
        registered_ms: 0,
        broadcast_bytes: 0,
        pieces: Default::default(),
        storage: Some(StorageSummary {
            memory_limit: 0,
            peak_bytes: 0,
            disk_limit: 0,
            spilled_files: 0,
            written_bytes: 0,
            lost_files: 0,
            kinds: vec![KindSummary {
                kind: "blocks".to_owned(),
                memory_bytes: 0,
                peak_bytes: 0,
                disk_bytes: 0,
                evicted: 0,
                dropped: 0,
            }],
        }),
    };
    let executor = parsed(json::executors(&[executor]))[0].clone();
    check("Executor", &executor);
    check("Storage", &executor["storage"]);
    check("Kind", &executor["storage"]["kinds"]["blocks"]);
    let submitted = Submitted {
        job: Default::default(),
        warnings: Vec::new(),
    };
    check("Submitted job", &parsed(json::submitted(&submitted, "words")));
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    let rows = vec![RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(vec![1, 2]))]).unwrap()];
    check("Look", &parsed(json::top("numbers", &rows, 1)));
    let printed = PrintedBatch {
        time: Default::default(),
        stream: "numbers".to_owned(),
        schema,
        rows,
        more: false,
    };
    check("Printed batch", &parsed(json::printed(&printed)));
    check("Valid job", &parsed(json::valid(Path::new("words.yaml"))));
    check("Explanation", &parsed(json::explained(Path::new("words.yaml"), "text")));
}
