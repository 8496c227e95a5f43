//! Aggregates over windows that slide: what a slide costs, whatever the window's length.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use arrow::array::RecordBatch;
use tidemill_bench::{Figure, Random, text_of};
use tidemill_client::StreamingContext;
use tidemill_dstream::JobGraph;
use tokio::task::block_in_place;

use crate::Size;
use crate::blocks::blocks;
use crate::in_memory::Job;
use crate::observe::milliseconds;

const PARTITIONS: usize = 2;
const SECOND: Duration = Duration::from_secs(1);

pub(crate) async fn run(size: Size) -> Result<()> {
    long_against_short(size).await?;
    words_of_a_minute(size).await
}

const SHORT: u32 = 10;
const LONG: u32 = 3600;
/// All of them are in every batch, so that both windows have as many live keys.
const KEYS: u64 = 1_000;
const RATIO: f64 = 1.5;

/// Counts by key over 3,600 slides against 10, of the same input.
async fn long_against_short(size: Size) -> Result<()> {
    let slides = size.pick(300, 2_000);
    eprintln!("windows: {slides} slides over {LONG} and over {SHORT} batches");
    let mut random = Random::new(5);
    let mut batches = Vec::new();
    for _ in 0..50 {
        let mut lines = String::new();
        for key in 0..KEYS {
            writeln!(lines, "key{key}")?;
        }
        for _ in 0..4 * KEYS {
            writeln!(lines, "key{}", random.below(KEYS))?;
        }
        batches.push(blocks(lines.into_bytes(), PARTITIONS)?);
    }
    let counted = |length: u32| -> Result<JobGraph> {
        let context = StreamingContext::new("counts", SECOND);
        context.partitions(PARTITIONS as u32);
        context
            .queue_stream(vec![Vec::<String>::new()])
            .window(SECOND * length, None)
            .reduce_by_key([("key", "value")], [("count", "count(*)")])
            .print_rows(1);
        Ok(context.graph()?)
    };
    let mut short = Job::compile(&counted(SHORT)?, PARTITIONS as u32).await?;
    let mut long = Job::compile(&counted(LONG)?, PARTITIONS as u32).await?;
    let (mut short_ms, mut long_ms) = (Vec::new(), Vec::new());
    block_in_place(|| -> Result<()> {
        for i in 0..LONG as usize + slides {
            let batch = &batches[i % batches.len()];
            let started = Instant::now();
            let short_rows = rows(&short.run(batch, PARTITIONS)?.rows);
            let short_time = started.elapsed();
            let started = Instant::now();
            let long_rows = rows(&long.run(batch, PARTITIONS)?.rows);
            if i >= LONG as usize {
                short_ms.push(milliseconds(short_time));
                long_ms.push(milliseconds(started.elapsed()));
            }
            ensure!(
                short_rows == KEYS as usize && long_rows == KEYS as usize,
                "keys are missing"
            );
        }
        Ok(())
    })?;
    Figure::new("windows", "slide_of_3600_ms", "ms", &long_ms)
        .baseline(&short_ms)
        .target(RATIO)
        .note(format!(
            "counts of {KEYS} live keys, {} records a batch; baseline: a window of {SHORT} batches",
            5 * KEYS
        ))
        .print();
    memory("memory_of_3600", &long);
    Ok(())
}

const LINES: usize = 50_000;
const LIVE_KEYS: usize = 130_000;
const MINUTE: usize = 60;
const MEDIAN_MS: f64 = 100.0;
const MAX_MS: f64 = 250.0;

/// Ten words a line, counted over a minute by a second.
async fn words_of_a_minute(size: Size) -> Result<()> {
    let slides = size.pick(40, 120);
    eprintln!("windows: words of {LINES} lines a batch over {MINUTE} batches, {slides} slides");
    let different = size.pick(20, 60);
    let batches = (0..different)
        .map(|seed| blocks(text_of(LIVE_KEYS, LINES, seed), PARTITIONS))
        .collect::<Result<Vec<_>>>()?;
    let context = StreamingContext::new("words", SECOND);
    context.partitions(PARTITIONS as u32);
    context
        .queue_stream(vec![Vec::<String>::new()])
        .flat_map([("word", "string_to_array(value, ' ')")])
        .reduce_by_key_and_window("word", [("count", "count(*)")], SECOND * MINUTE as u32, Some(SECOND))
        .print_rows(1);
    let mut job = Job::compile(&context.graph()?, PARTITIONS as u32).await?;
    let mut times = Vec::new();
    let mut live = 0;
    block_in_place(|| -> Result<()> {
        for i in 0..MINUTE + slides {
            let batch = &batches[i % batches.len()];
            let started = Instant::now();
            live = rows(&job.run(batch, PARTITIONS)?.rows);
            if i >= MINUTE {
                times.push(milliseconds(started.elapsed()));
            }
        }
        Ok(())
    })?;
    let note = format!("{LINES} lines of ten words a batch, {live} live keys, {PARTITIONS} threads, no inverse");
    Figure::new("windows", "words_of_a_minute_ms", "ms", &times)
        .target(MEDIAN_MS)
        .note(&note)
        .print();
    let most = times.iter().copied().fold(0.0, f64::max);
    Figure::new("windows", "words_of_a_minute_max_ms", "ms", &[most])
        .target(MAX_MS)
        .print();
    memory("memory_of_a_minute", &job);
    Ok(())
}

fn rows(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}

fn memory(metric: &str, job: &Job) {
    Figure::new("windows", metric, "MB", &[job.memory() as f64 / 1e6])
        .baseline(&[job.remembered() as f64 / 1e6])
        .target(3.0)
        .note("what partitions keep, the panes in it included; baseline: the panes")
        .print();
}
