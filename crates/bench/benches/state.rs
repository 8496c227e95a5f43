//! Keyed state: what a batch costs by the keys that it touches, and by all keys there are.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use arrow::array::RecordBatch;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use tidemill_bench::{Figure, Random};
use tidemill_client::{StateSpec, StateUpdate, StreamingContext};
use tidemill_dstream::JobGraph;
use tokio::task::block_in_place;

use crate::Size;
use crate::blocks::blocks;
use crate::in_memory::Job;
use crate::observe::milliseconds;

const PARTITIONS: usize = 2;
const UPDATES: u64 = 10_000;
const FEW: u64 = 10_000;
const MANY: u64 = 1_000_000;
const TOUCHED_RATIO: f64 = 2.0;
const ALL_RATIO: f64 = 3.0;
const ALL_MS: f64 = 100.0;

pub(crate) async fn run(size: Size) -> Result<()> {
    let batches = size.pick(40, 200);
    touched(batches).await?;
    all(size.pick(15, 40)).await
}

/// A key for each of some numbers, one a line.
fn lines(numbers: impl Iterator<Item = u64>) -> Result<String> {
    let mut lines = String::new();
    for number in numbers {
        writeln!(lines, "key{number}")?;
    }
    Ok(lines)
}

/// The updates of some batches: so many different keys of `keys` in each.
fn updates(keys: u64, batches: usize, seed: u64) -> Result<Vec<String>> {
    let mut random = Random::new(seed);
    let batches = (0..batches).map(|_| {
        let first = random.below(keys);
        // A stride without a common factor with the number of keys: all different.
        lines((0..UPDATES).map(|i| (first + i * 7_919) % keys))
    });
    batches.collect()
}

fn counting(touched: bool) -> Result<JobGraph> {
    let context = StreamingContext::new("state", Duration::from_secs(1));
    context.partitions(PARTITIONS as u32);
    let keys = context.queue_stream(vec![Vec::<String>::new()]);
    let (key, total, n) = (
        [("key", "value")],
        [("total", "coalesce(total, 0) + n")],
        [("n", "count(*)")],
    );
    if touched {
        keys.map_with_state(key, StateSpec::function(total).values(n))
            .print_rows(1);
    } else {
        keys.update_state_by_key(key, StateUpdate::function(total).values(n))
            .print_rows(1);
    }
    Ok(context.graph()?)
}

/// `map_with_state`: as many updates of a million keys and of ten thousand.
async fn touched(batches: usize) -> Result<()> {
    eprintln!("state: {batches} batches of {UPDATES} updates of {MANY} and of {FEW} keys");
    let mut few = Job::compile(&counting(true)?, PARTITIONS as u32).await?;
    let mut many = Job::compile(&counting(true)?, PARTITIONS as u32).await?;
    let of_few = updates(FEW, batches, 1)?;
    let of_many = updates(MANY, batches, 2)?;
    let (mut few_ms, mut many_ms) = (Vec::new(), Vec::new());
    block_in_place(|| -> Result<()> {
        few.run(&blocks(lines(0..FEW)?.into_bytes(), PARTITIONS)?, PARTITIONS)?;
        many.run(&blocks(lines(0..MANY)?.into_bytes(), PARTITIONS)?, PARTITIONS)?;
        for (of_few, of_many) in of_few.into_iter().zip(of_many) {
            let (of_few, of_many) = (
                blocks(of_few.into_bytes(), PARTITIONS)?,
                blocks(of_many.into_bytes(), PARTITIONS)?,
            );
            let started = Instant::now();
            let rows = few.run(&of_few, PARTITIONS)?.rows;
            few_ms.push(milliseconds(started.elapsed()));
            let started = Instant::now();
            let more = many.run(&of_many, PARTITIONS)?.rows;
            many_ms.push(milliseconds(started.elapsed()));
            ensure!(count(&rows) == UPDATES && count(&more) == UPDATES, "keys are missing");
        }
        Ok(())
    })?;
    Figure::new("state", "map_with_state_ms", "ms", &many_ms)
        .baseline(&few_ms)
        .target(TOUCHED_RATIO)
        .note(format!(
            "{UPDATES} updates a batch of {MANY} keys; baseline: of {FEW} keys"
        ))
        .print();
    Figure::new(
        "state",
        "map_with_state_bytes_a_key",
        "bytes",
        &[many.memory() as f64 / MANY as f64],
    )
    .print();
    Ok(())
}

/// `update_state_by_key` over a million keys beside a loop over a hash map.
async fn all(batches: usize) -> Result<()> {
    eprintln!("state: {batches} batches over all of {MANY} keys");
    let mut job = Job::compile(&counting(false)?, PARTITIONS as u32).await?;
    let (mut engine_ns, mut bare_ns, mut engine_ms) = (Vec::new(), Vec::new(), Vec::new());
    block_in_place(|| -> Result<()> {
        let all = lines(0..MANY)?;
        let mut states: HashMap<Vec<u8>, i64, RandomState> =
            HashMap::with_capacity_and_hasher(MANY as usize, RandomState::default());
        states.extend(all.lines().map(|key| (key.as_bytes().to_vec(), 1)));
        job.run(&blocks(all.into_bytes(), PARTITIONS)?, PARTITIONS)?;
        for text in updates(MANY, batches, 3)? {
            let started = Instant::now();
            let mut added: HashMap<&[u8], i64, RandomState> =
                HashMap::with_capacity_and_hasher(UPDATES as usize, RandomState::default());
            for key in text.lines() {
                *added.entry(key.as_bytes()).or_insert(0) += 1;
            }
            for (key, total) in &mut states {
                *total += added.get(key.as_slice()).copied().unwrap_or_default();
            }
            bare_ns.push(started.elapsed().as_nanos() as f64 / MANY as f64);
            let blocks = blocks(text.clone().into_bytes(), PARTITIONS)?;
            let started = Instant::now();
            let rows = job.run(&blocks, PARTITIONS)?.rows;
            let elapsed = started.elapsed();
            engine_ns.push(elapsed.as_nanos() as f64 / MANY as f64);
            engine_ms.push(milliseconds(elapsed));
            ensure!(count(&rows) == MANY, "keys are missing");
        }
        ensure!(
            states.values().sum::<i64>() as u64 == MANY + UPDATES * batches as u64,
            "updates are missing"
        );
        Ok(())
    })?;
    Figure::new("state", "update_state_by_key_ns_a_key", "ns", &engine_ns)
        .baseline(&bare_ns)
        .target(ALL_RATIO)
        .note(format!(
            "{MANY} keys, {UPDATES} of them updated, {PARTITIONS} threads; baseline: one loop over a hash map, one thread"
        ))
        .print();
    Figure::new("state", "update_state_by_key_ms", "ms", &engine_ms)
        .target(ALL_MS)
        .print();
    Ok(())
}

fn count(batches: &[RecordBatch]) -> u64 {
    batches.iter().map(|batch| batch.num_rows() as u64).sum()
}
