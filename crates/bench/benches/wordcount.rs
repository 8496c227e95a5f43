//! Word count, from blocks in memory to the ten most frequent words, beside a bare loop over the same text.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::StreamExt;
use tidemill_bench::{Figure, text};
use tidemill_client::{JobEvent, StreamingContext, SubmitOptions};
use tidemill_connectors::{ReadOptions, open};
use tidemill_dstream::{FilePart, FileRange, InputItem, JobGraph, Source, TextFileSource};
use tidemill_local::LocalCluster;
use tokio::task::block_in_place;

use crate::Size;
use crate::bare::{parts, top_words};
use crate::in_memory::Job;
use crate::observe::milliseconds;

/// Also the number of threads of the bare loop.
const PARTITIONS: usize = 2;
const TOP: usize = 10;
const RUNS: usize = 7;
const CLUSTER_RUNS: usize = 3;
const TARGET_RATIO: f64 = 0.75;

type Words = Vec<(String, u64)>;

pub(crate) async fn run(size: Size) -> Result<()> {
    let lines = size.pick(200_000, 1_000_000);
    eprintln!("wordcount: {RUNS} times {lines} lines");
    let text = text(lines, 1);
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("lines.txt");
    fs::write(&path, &text)?;

    let mut job = Job::compile(&job(&path)?, PARTITIONS as u32).await?;
    let blocks = blocks(&text, directory.path())?;
    let turns = block_in_place(|| beside_a_bare_loop(&text, &mut job, &blocks))?;
    report(&turns, lines, text.len());
    drop(blocks);

    let cluster = through_a_cluster(&path, &turns.top).await?;
    let rate = |seconds: &[f64]| per_second(seconds, lines as f64);
    Figure::new("wordcount", "cluster_lines_per_s", "lines/s", &rate(&cluster))
        .baseline(&rate(&turns.bare_seconds))
        .note("from the launch to the commit, one process with one executor; reads the file too, from memory")
        .print();
    Ok(())
}

/// The ten most frequent words of a file, all of it in one batch.
fn job(path: &Path) -> Result<JobGraph> {
    let context = StreamingContext::new("wordcount", std::time::Duration::from_secs(1));
    context.partitions(PARTITIONS as u32);
    let top = context
        .text_file(path.to_string_lossy())
        .flat_map([("word", "string_to_array(value, ' ')")])
        .reduce_by_key("word", [("count", "count(*)")])
        .transform(format!(
            "SELECT word, count FROM input ORDER BY count DESC, word LIMIT {TOP}"
        ))
        .name("top");
    top.print_rows(TOP as u32);
    Ok(context.graph()?)
}

/// The text as a connector makes blocks of it: views into large buffers. Outer: partitions.
fn blocks(text: &[u8], directory: &Path) -> Result<Vec<Vec<RecordBatch>>> {
    let read = |(number, part): (usize, &[u8])| {
        let path = directory
            .join(format!("part-{number}.txt"))
            .to_string_lossy()
            .into_owned();
        fs::write(&path, part)?;
        let source = Source::TextFile(TextFileSource {
            path: path.clone(),
            batch_lines: None,
        });
        let item = InputItem::File(FileRange {
            path,
            part: FilePart::Whole,
        });
        let batches = open(&item, &source, &ReadOptions::default())?;
        batches.map(|batch| Ok(batch?)).collect()
    };
    parts(text, PARTITIONS).into_iter().enumerate().map(read).collect()
}

struct Turns {
    bare_seconds: Vec<f64>,
    engine_seconds: Vec<f64>,
    /// For each turn, the time of each stage.
    stages_ms: Vec<Vec<f64>>,
    top: Words,
}

/// Both in turns, so that what else the machine does meets both.
fn beside_a_bare_loop(text: &[u8], job: &mut Job, blocks: &[Vec<RecordBatch>]) -> Result<Turns> {
    let mut turns = Turns {
        bare_seconds: Vec::new(),
        engine_seconds: Vec::new(),
        stages_ms: Vec::new(),
        top: Words::new(),
    };
    // The first turn is for warm memory.
    for turn in 0..=RUNS {
        let started = Instant::now();
        turns.top = top_words(text, PARTITIONS, TOP)?;
        let bare = started.elapsed();
        let started = Instant::now();
        let batch = job.run(blocks, PARTITIONS)?;
        let engine = started.elapsed();
        ensure!(
            words(&batch.rows)? == turns.top,
            "the engine counted other words than the bare loop"
        );
        if turn > 0 {
            turns.bare_seconds.push(bare.as_secs_f64());
            turns.engine_seconds.push(engine.as_secs_f64());
            turns
                .stages_ms
                .push(batch.stages.into_iter().map(milliseconds).collect());
        }
    }
    Ok(turns)
}

fn words(rows: &[RecordBatch]) -> Result<Words> {
    let mut words = Words::new();
    for batch in rows {
        let text = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8)?;
        let counts = batch
            .column(1)
            .as_primitive_opt::<Int64Type>()
            .context("the counts are not numbers")?;
        let pairs = text.as_string::<i32>().iter().zip(counts.iter());
        words.extend(pairs.map(|(word, count)| {
            let count = u64::try_from(count.unwrap_or_default()).unwrap_or_default();
            (word.unwrap_or_default().to_owned(), count)
        }));
    }
    Ok(words)
}

fn per_second(seconds: &[f64], amount: f64) -> Vec<f64> {
    seconds.iter().map(|seconds| amount / seconds).collect()
}

fn report(turns: &Turns, lines: usize, bytes: usize) {
    for (metric, unit, amount) in [
        ("engine_mb_per_s", "MB/s", bytes as f64 / 1e6),
        ("engine_lines_per_s", "lines/s", lines as f64),
    ] {
        Figure::new("wordcount", metric, unit, &per_second(&turns.engine_seconds, amount))
            .baseline(&per_second(&turns.bare_seconds, amount))
            .target(TARGET_RATIO)
            .note(format!(
                "{lines} lines of {:.1} bytes, {PARTITIONS} partitions on as many threads; baseline: the bare loop",
                bytes as f64 / lines as f64
            ))
            .print();
    }
    for stage in 0..turns.stages_ms.first().map_or(0, Vec::len) {
        let times: Vec<f64> = turns.stages_ms.iter().map(|times| times[stage]).collect();
        Figure::new("wordcount", &format!("engine_stage_{stage}_ms"), "ms", &times).print();
    }
}

/// Seconds from the launch to the commit of the same job over the whole file, on a cluster in this process.
async fn through_a_cluster(path: &Path, top: &Words) -> Result<Vec<f64>> {
    let mut config = tidemill_testkit::config()?;
    config.executor.slots = PARTITIONS as u32;
    let cluster = LocalCluster::start(&config, 1).await?;
    let client = cluster.client().await?;
    let options = SubmitOptions {
        no_wait: true,
        ..SubmitOptions::default()
    };
    let mut seconds = Vec::new();
    for run in 0..=CLUSTER_RUNS {
        let submitted = client.submit(&job(path)?, &[], options).await?;
        let mut events = client.follow(&submitted.job.to_string(), true).await?;
        loop {
            match events.next().await.context("the driver ended")?? {
                JobEvent::Printed(printed) => {
                    ensure!(
                        words(&printed.rows)? == *top,
                        "the cluster counted other words than the bare loop"
                    );
                }
                JobEvent::Batch(batch) if run > 0 && batch.input_rows > 0 => {
                    seconds.push(batch.delays.processing.as_secs_f64());
                }
                JobEvent::Batch(_) => {}
                JobEvent::Ended(summary) => match summary.error {
                    Some(error) => bail!("the job failed: {error}"),
                    None => break,
                },
            }
        }
    }
    cluster.stop().await;
    Ok(seconds)
}
