//! Drivers and executors that are killed while jobs with a checkpoint run: nothing is lost and nothing is there twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tidemill_client::job_file::{ParseOptions, parse};
use tidemill_client::{Client, JobState, JobSummary, Scalar, SubmitOptions};
use tidemill_testkit::{ProcessCluster, eventually};

use crate::binary;

const DEADLINE: Duration = Duration::from_secs(120);
/// Rows of a batch, and keys.
const ROWS: u64 = 100;
const KEYS: u64 = 10;
/// Batches of a window.
const WINDOW: u64 = 3;

fn job(directory: &Path) -> String {
    format!(
        "
name: exact
batch_interval: 200ms
checkpoint: {directory}/checkpoint
checkpoint_interval: 1s
partitions: 4
accumulators:
  lines: {{kind: count}}
streams:
  lines:
    source: {{generate: {{rate: 500, template: '{{index}}'}}}}
    steps:
      - accumulate: {{into: lines}}
      - map: {{key: 'CAST(value AS BIGINT) % {KEYS}', n: 'CAST(value AS BIGINT)'}}
  counts:
    from: lines
    steps:
      - map_with_state:
          key: key
          values: {{times: count(*), total: sum(n)}}
          state: {{all_times: 'coalesce(all_times, 0) + times', all_total: 'coalesce(all_total, 0) + total'}}
  totals:
    from: lines
    steps:
      - update_state_by_key:
          key: key
          values: {{total: sum(n)}}
          state: {{all_total: 'coalesce(all_total, 0) + coalesce(total, 0)'}}
  windows:
    from: lines
    steps:
      - window: {{length: 600ms}}
      - reduce_by_key: {{key: key, times: count(*), total: sum(n)}}
outputs:
  - save: {{from: counts, format: csv, path: {directory}/counts}}
  - save: {{from: totals, format: csv, path: {directory}/totals}}
  - save: {{from: windows, format: csv, path: {directory}/windows}}
",
        directory = directory.display()
    )
}

/// The rows of each batch that an output has saved, in the order of the batches.
fn saved(directory: &Path) -> Result<Vec<Vec<String>>> {
    let mut batches = BTreeMap::new();
    for batch in std::fs::read_dir(directory)? {
        let batch = batch?;
        let name = batch.file_name().into_string().unwrap_or_default();
        let Some(time) = name.strip_prefix("batch_time=") else {
            continue;
        };
        let mut rows: Vec<String> = Vec::new();
        for part in std::fs::read_dir(batch.path())? {
            let text = std::fs::read_to_string(part?.path())?;
            rows.extend(text.lines().skip(1).map(str::to_owned));
        }
        rows.sort();
        batches.insert(time.parse::<i64>()?, rows);
    }
    Ok(batches.into_values().collect())
}

/// By key the rows and the sum of the lines of these batches.
fn expected(batches: std::ops::RangeInclusive<u64>) -> BTreeMap<u64, (u64, u64)> {
    let mut sums: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for line in (batches.start() - 1) * ROWS..batches.end() * ROWS {
        let (times, total) = sums.entry(line % KEYS).or_default();
        *times += 1;
        *total += line;
    }
    sums
}

fn check(directory: &Path, batches: u64) -> Result<()> {
    let with_times = |sums: BTreeMap<u64, (u64, u64)>| -> Vec<String> {
        sums.iter()
            .map(|(key, (times, total))| format!("{key},{times},{total}"))
            .collect()
    };
    let without = |sums: BTreeMap<u64, (u64, u64)>| -> Vec<String> {
        sums.iter().map(|(key, (_, total))| format!("{key},{total}")).collect()
    };
    let outputs = [
        ("counts", saved(&directory.join("counts"))?),
        ("totals", saved(&directory.join("totals"))?),
        ("windows", saved(&directory.join("windows"))?),
    ];
    for (name, seen) in outputs {
        assert_eq!(seen.len() as u64, batches, "batches of {name}");
        for (batch, rows) in (1..).zip(seen) {
            let expected = match name {
                "counts" => with_times(expected(1..=batch)),
                "totals" => without(expected(1..=batch)),
                _ => with_times(expected((batch + 1).saturating_sub(WINDOW).max(1)..=batch)),
            };
            assert_eq!(rows, expected, "batch {batch} of {name}");
        }
    }
    Ok(())
}

async fn summary(client: &Client) -> Result<JobSummary, String> {
    let detail = client.job("exact").await.map_err(|error| error.to_string())?;
    Ok(detail.summary)
}

/// Waits until the job has committed a batch after `last`; the time of the newest.
async fn progress(client: &Client, last: i64) -> Result<i64> {
    eventually(DEADLINE, "the next batch", || async {
        let summary = summary(client).await?;
        if let JobState::Failed = summary.state {
            return Err(format!("{summary:?}"));
        }
        match summary.last_batch {
            Some(newest) if newest.0 > last => Ok(newest.0),
            _ if summary.state.is_over() => Ok(i64::MAX),
            _ => Err(format!("{summary:?}")),
        }
    })
    .await
}

/// Numbers after a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Runs the job while processes are killed, `faults` times.
async fn killed(seed: u64, faults: u32) -> Result<()> {
    let mut random = Random(seed);
    let dir = tempfile::tempdir()?;
    let journal = dir.path().join("journal").display().to_string();
    let settings = [("TIDEMILL__JOURNAL__URL", journal.as_str())];
    let mut cluster = ProcessCluster::start(binary(), 3, 1, &settings).await?;
    let mut alive: Vec<usize> = vec![0, 1, 2];
    let mut client = cluster.client().await?;
    let batches = 15 + 12 * u64::from(faults);
    let options = SubmitOptions {
        batches: Some(batches),
        ..SubmitOptions::default()
    };
    client
        .submit(&parse(&job(dir.path()), &ParseOptions::default())?, &[], options)
        .await?;
    let mut last = 0;
    for fault in 0..faults {
        for _ in 0..1 + random.below(6) {
            last = progress(&client, last).await?;
        }
        if last == i64::MAX {
            bail!("the job ended before fault {fault}");
        }
        let what = random.below(4);
        if what != 0 {
            let victims = if what == 3 { alive.len() } else { 1 };
            for _ in 0..victims {
                let victim = alive.swap_remove(random.below(alive.len() as u64) as usize);
                cluster.kill_executor(victim).await?;
                alive.push(cluster.add_executor().await?);
            }
        }
        if what != 1 {
            cluster.restart_driver().await?;
            client = cluster.client().await?;
        }
    }
    let ended = eventually(DEADLINE, "the end of the job", || async {
        let summary = summary(&client).await?;
        if summary.state.is_over() {
            Ok(summary)
        } else {
            Err(format!("{summary:?}"))
        }
    })
    .await?;
    assert_eq!((ended.state, ended.error), (JobState::Finished, None), "seed {seed}");
    check(dir.path(), batches).with_context(|| format!("seed {seed}"))?;
    let accumulators = client.accumulators("exact", true, 0).await?;
    let lines = accumulators
        .iter()
        .find(|accumulator| accumulator.name == "lines")
        .context("lines")?;
    assert_eq!(lines.total.value, Some(Scalar::Integer((batches * ROWS) as i64)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_state_windows_and_accumulators_are_exact_whoever_is_killed() -> Result<()> {
    let seeds: u64 = match std::env::var("TIDEMILL_KILLS") {
        Ok(seeds) => seeds.parse().context("TIDEMILL_KILLS")?,
        Err(_) => 1,
    };
    for seed in 0..seeds {
        killed(seed, 6).await?;
    }
    Ok(())
}
