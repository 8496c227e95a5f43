//! Accumulators: where their values are seen, and that they are exact whatever fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use tidemill::{Accumulator, Accumulators, BoxError, Determinism, Registry};
use tidemill_client::job_file::{ParseOptions, parse};
use tidemill_client::{AccumulatorSummary, Client, JobState, ListenerEvent, Reading, Scalar};
use tidemill_dstream::{JobGraph, QueueItem, Source, StreamInput};
use tidemill_engine::arrow::array::{ArrayRef, AsArray, Int64Array};
use tidemill_engine::arrow::datatypes::DataType;
use tidemill_local::LocalCluster;
use tidemill_testkit::{config, eventually};

use crate::support::{job, no_wait, outcome};

const DEADLINE: Duration = Duration::from_secs(300);

fn named<'a>(accumulators: &'a [AccumulatorSummary], name: &str) -> Result<&'a AccumulatorSummary> {
    let found = accumulators.iter().find(|accumulator| accumulator.name == name);
    found.with_context(|| format!("no accumulator {name}"))
}

fn value(reading: &Reading) -> String {
    reading
        .value
        .as_ref()
        .map_or_else(|| "none".to_owned(), ToString::to_string)
}

const COUNTS: &str = "
name: counts
batch_interval: 1s
partitions: 3
on_batch_failure: skip
accumulators:
  lines: count
  blank: sum
  hidden: {kind: max, listed: false}
streams:
  text:
    source: {queue: {lines: [[a, '', bb], [], ['', oops], [ccc]]}}
    steps:
      - accumulate:
          - {into: lines}
          - {into: blank, add: \"CASE WHEN value = '' THEN 1 ELSE 0 END\"}
          - {into: hidden, add: octet_length(value)}
  words:
    from: text
    steps:
      - reduce_by_key: {key: value, n: count(*)}
      - accumulate: {kind: count}
      - filter: \"value <> 'oops' OR CAST(value AS BIGINT) > 0\"
outputs:
  - print: {from: words}
";

#[tokio::test(flavor = "multi_thread")]
async fn values_are_of_committed_batches_and_a_skipped_one_adds_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cluster = LocalCluster::start(&config()?, 2).await?;
    let client = cluster.client().await?;
    let handle = client.start(&job(COUNTS, dir.path())?, &[], no_wait()).await?;
    let mut events = handle.listen().await?;
    let mut heard = Vec::new();
    while let Some(event) = events.next().await {
        match event? {
            ListenerEvent::AccumulatorsUpdated(updated) => {
                let lines = &updated.accumulators[0];
                assert_eq!((lines.name.as_str(), lines.listed), ("lines", true));
                heard.push((updated.time.0 / 1000, value(&lines.batch), value(&lines.total)));
            }
            ListenerEvent::BatchCompleted(batch) if batch.failure.is_none() => {
                // Its accumulators come before it.
                assert_eq!(heard.last().map(|(time, ..)| *time), Some(batch.time.0 / 1000));
            }
            _ => {}
        }
    }
    // The lines of the third batch were counted by tasks that succeeded; the batch failed in a later stage.
    let expected = [(1, "3", "3"), (2, "0", "3"), (4, "1", "4")];
    let expected = expected.map(|(time, batch, total)| (time, batch.to_owned(), total.to_owned()));
    assert_eq!(heard, expected);

    let summary = handle.summary().await?;
    assert_eq!((summary.state, summary.failed_batches), (JobState::Finished, 1));
    let all = handle.accumulators().await?;
    let names: Vec<(&str, bool)> = all.iter().map(|a| (a.name.as_str(), a.listed)).collect();
    let words = "words_1_accumulate";
    assert_eq!(
        names,
        [("lines", true), ("blank", true), ("hidden", false), (words, false)]
    );
    let blank = named(&all, "blank")?;
    assert_eq!(
        (blank.kind.as_str(), blank.value_type.as_deref()),
        ("sum", Some("integer"))
    );
    assert_eq!((value(&blank.total), blank.total.count), ("1".to_owned(), 4));
    assert_eq!(value(&named(&all, "hidden")?.total), "3");
    assert_eq!(value(&named(&all, words)?.total), "4");
    let batches: Vec<(i64, String)> = named(&all, "lines")?
        .batches
        .iter()
        .map(|batch| (batch.time.0 / 1000, value(&batch.reading)))
        .collect();
    assert_eq!(batches, [(4, "1".to_owned()), (2, "0".to_owned()), (1, "3".to_owned())]);

    let listed = client.accumulators("counts", false, 1).await?;
    let listed: Vec<(&str, usize)> = listed.iter().map(|a| (a.name.as_str(), a.batches.len())).collect();
    assert_eq!(listed, [("lines", 1), ("blank", 1)]);
    let detail = client.job("counts").await?;
    assert_eq!(detail.accumulators.len(), 2);
    let unknown = client.accumulators("count", false, 0).await.unwrap_err().to_string();
    assert!(unknown.contains("did you mean `counts`?"), "{unknown}");
    let unknown = handle.accumulator("line").await.unwrap_err().to_string();
    assert!(unknown.contains("did you mean `lines`?"), "{unknown}");
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_type_is_refused_with_the_line_of_the_job_file() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cluster = LocalCluster::start(&config()?, 1).await?;
    let client = cluster.client().await?;
    let wrong = COUNTS
        .replace("add: octet_length(value)", "add: value")
        .replace("kind: max", "kind: average");
    let refused = client.explain(&job(&wrong, dir.path())?, &[]).await;
    let refused = refused.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(
        refused.contains(
            "line 17: streams.text.steps[0].accumulate[2].add: `hidden` is of kind average, which takes numbers, and \
             this is text (cast it, or use a count)"
        ),
        "{refused}"
    );
    cluster.stop().await;
    Ok(())
}

// === Exactness ===

/// The longest text, and of those the least.
struct Longest;

impl Accumulator for Longest {
    fn takes(&self) -> DataType {
        DataType::Utf8View
    }

    fn zero(&self) -> Vec<u8> {
        Vec::new()
    }

    fn add(&self, state: &mut Vec<u8>, values: &ArrayRef) -> Result<(), BoxError> {
        let texts = values.as_string_view().iter().flatten();
        texts.map(str::as_bytes).try_for_each(|text| self.merge(state, text))
    }

    fn merge(&self, state: &mut Vec<u8>, other: &[u8]) -> Result<(), BoxError> {
        if (other.len(), state.as_slice()) > (state.len(), other) {
            *state = other.to_vec();
        }
        Ok(())
    }

    fn value(&self, state: &[u8]) -> Result<Scalar, BoxError> {
        Ok(std::str::from_utf8(state)?.into())
    }
}

/// A build with a function that passes texts on and fails now and then, after it has counted.
fn build(failures: Option<&Arc<AtomicU64>>) -> Result<Registry> {
    let calls = AtomicU64::new(0);
    let failures = failures.cloned();
    let flaky = move |accumulators: &Accumulators, columns: &[ArrayRef]| {
        let each: ArrayRef = Arc::new(Int64Array::from(vec![1; columns[0].len()]));
        accumulators.get("calls")?.add_all(&each)?;
        let call = calls.fetch_add(1, Ordering::Relaxed);
        match &failures {
            // SplitMix64's increment: as good as random, one time of eleven.
            Some(failures) if call.wrapping_mul(0x9E37_79B9_7F4A_7C15).is_multiple_of(11) => {
                failures.fetch_add(1, Ordering::Relaxed);
                Err("it fails now and then".into())
            }
            _ => Ok(Arc::clone(&columns[0])),
        }
    };
    let text = [DataType::Utf8View];
    let registry = Registry::builder()
        .accumulator("longest", Longest)
        .scalar_with("flaky", Determinism::Deterministic, text, DataType::Utf8View, flaky)
        .accumulates("flaky", "calls", DataType::Int64)
        .build();
    Ok(registry?)
}

const EXACT: &str = "
name: exact
batch_interval: 1s
max_attempts: 100
concurrent_batches: 2
accumulators:
  lines: count
  fractions: sum
  whole: {kind: sum}
  least: min
  greatest: max
  average: average
  different: {kind: distinct, limit: 100000}
  rough: approx_distinct
  sizes: {kind: histogram, bounds: [100, 1000, 5000]}
  longest: {native: longest}
  calls: {kind: sum}
  keys: count
  in_windows: sum
  window_keys: count
streams:
  text: {source: {queue: {lines: [[a]]}}}
  lines:
    from: text
    steps:
      - accumulate: [{into: lines}, {into: fractions, add: 1.0 / (octet_length(value) + 0.1)}, {into: longest, add: value}]
      - map:
          value: {native: flaky, args: [value], accumulators: {calls: calls}}
      - map: {key: \"split_part(value, ' ', 1)\", n: \"CAST(split_part(value, ' ', 2) AS BIGINT)\"}
      - accumulate:
          - {into: whole, add: n}
          - {into: least, add: n}
          - {into: greatest, add: key}
          - {into: average, add: n}
          - {into: different, add: n}
          - {into: rough, add: n}
          - {into: sizes, add: n, when: n > 10}
  sums:
    from: lines
    steps:
      - reduce_by_key: {key: key, n: sum(n)}
      - accumulate: {into: keys}
  windows:
    from: lines
    steps:
      - window: {length: 5s}
      - accumulate: {into: in_windows, add: n}
      - filter: \"n % 2 = 0\"
  panes:
    from: lines
    steps:
      - window: {length: 4s, slide: 2s}
      - reduce_by_key: {key: key, n: sum(n)}
      - map: {key: {native: flaky, args: [key], accumulators: {calls: calls}}}
      - accumulate: {into: window_keys}
outputs:
  - print: {from: sums, rows: 1}
  - print: {from: windows, rows: 1}
  - print: {from: panes, rows: 1}
";

/// Batches of the test: `TIDEMILL_ACCUMULATOR_BATCHES=1000` for the full size.
fn batches() -> Result<u64> {
    match std::env::var("TIDEMILL_ACCUMULATOR_BATCHES") {
        Ok(batches) => Ok(batches.parse()?),
        Err(_) => Ok(300),
    }
}

fn exact(batches: u64, partitions: u32) -> Result<JobGraph> {
    let mut graph = parse(EXACT, &ParseOptions::default())?;
    let lines = |batch: u64| {
        let line = |i: u64| {
            let n = (batch * 31 + i * i * 7) % 9973;
            format!("k{} {n} {}", n % 17, "x".repeat((n % 40) as usize))
        };
        QueueItem::Lines((0..batch % 13).map(line).collect())
    };
    graph.options.partitions = Some(partitions);
    graph.streams[0].input = StreamInput::Source(Source::Queue((0..batches).map(lines).collect()));
    Ok(graph)
}

/// The totals, and what the last batches added.
async fn counted(client: &Client, failed: u64) -> Result<Vec<AccumulatorSummary>> {
    let summary = client.job("exact").await?.summary;
    ensure!(summary.state == JobState::Finished, "{summary:?}");
    assert_eq!(summary.failed_batches, failed);
    Ok(client.accumulators("exact", true, 50).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_equals_the_run_without_faults_whatever_fails() -> Result<()> {
    let batches = batches()?;
    let quiet = LocalCluster::of_build(&config()?, 1, &build(None)?).await?;
    let client = quiet.client().await?;
    let ended = outcome(&client, &exact(batches, 2)?).await?;
    assert_eq!((ended.error(), ended.summary.completed_batches), ("", batches));
    let expected = counted(&client, 0).await?;
    quiet.stop().await;

    let failures = Arc::new(AtomicU64::new(0));
    let mut config = config()?;
    config.driver.reattach_grace = Duration::from_millis(100);
    let mut cluster = LocalCluster::of_build(&config, 3, &build(Some(&failures))?).await?;
    let client = cluster.client().await?;
    client.submit(&exact(batches, 5)?, &[], no_wait()).await?;
    let kills = 4;
    for kill in 1..=kills {
        let after = batches * kill / (kills + 1);
        eventually(DEADLINE, "batches before the kill", || async {
            let summary = client.job("exact").await.map_err(|error| error.to_string())?.summary;
            if summary.completed_batches >= after {
                Ok(())
            } else {
                Err(format!("{summary:?}"))
            }
        })
        .await?;
        let summary = client.job("exact").await?.summary;
        ensure!(
            !summary.state.is_over(),
            "the kill comes too late to mean anything: {summary:?}"
        );
        cluster.kill_executor(0);
        cluster.add_executor().await?;
    }
    eventually(DEADLINE, "the end of the job", || async {
        let summary = client.job("exact").await.map_err(|error| error.to_string())?.summary;
        if summary.state.is_over() {
            Ok(())
        } else {
            Err(format!("{summary:?}"))
        }
    })
    .await?;
    let values = counted(&client, 0).await?;
    cluster.stop().await;
    ensure!(
        failures.load(Ordering::Relaxed) > batches / 10,
        "too little has failed: {failures:?}"
    );
    for (value, expected) in values.iter().zip(&expected) {
        assert_eq!(value, expected, "{}", value.name);
    }
    assert_eq!(values.len(), 14);
    assert!(
        values
            .iter()
            .all(|value| value.total.count > 0 && value.total.problem.is_none()),
        "{values:#?}"
    );
    Ok(())
}
