//! A build with functions of its own: foreach outputs, and what is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;
use parking_lot::Mutex;
use tidemill::{Determinism, ForeachBatch, Registry};
use tidemill_client::JobState;
use tidemill_engine::arrow::array::{ArrayRef, AsArray};
use tidemill_engine::arrow::datatypes::DataType;
use tidemill_local::LocalCluster;
use tidemill_testkit::{config, rows};

use crate::support::{job, outcome};

/// The rows of each call, by batch time and partition.
type Calls = Arc<Mutex<BTreeMap<(i64, Option<u32>), Vec<Vec<String>>>>>;

fn collect(calls: &Calls) -> impl Fn(ForeachBatch) -> Result<(), tidemill::BoxError> + Send + Sync + 'static {
    let calls = Arc::clone(calls);
    move |batch: ForeachBatch| {
        assert_eq!(batch.job, "native");
        let key = (batch.batch_time.millis(), batch.partition);
        calls.lock().entry(key).or_default().push(rows(&batch.rows));
        Ok(())
    }
}

fn shout(columns: &[ArrayRef]) -> Result<ArrayRef, tidemill::BoxError> {
    let loud = columns[0].as_string_view().iter();
    let loud = loud.map(|text| text.map(str::to_uppercase));
    Ok(Arc::new(
        loud.collect::<tidemill_engine::arrow::array::StringViewArray>(),
    ))
}

const JOB: &str = "
name: native
batch_interval: 1s
partitions: 2
streams:
  lines: {source: {queue: {lines: [[a, b, c], [], [d]]}}}
  loud:
    from: lines
    steps:
      - map: {text: {native: shout}}
outputs:
  - foreach: {from: loud, native: whole}
  - foreach: {from: loud, native: parts, per: partition, args: [text, length(text) AS n]}
  - print: {from: loud, rows: 10}
";

#[tokio::test(flavor = "multi_thread")]
async fn foreach_outputs_are_given_batches_on_the_driver_and_partitions_where_they_are() -> Result<()> {
    let (whole, parts) = (Calls::default(), Calls::default());
    let registry = Registry::builder()
        .scalar(
            "shout",
            Determinism::Deterministic,
            [DataType::Utf8View],
            DataType::Utf8View,
            shout,
        )
        .foreach_blocking("whole", collect(&whole))
        .foreach_blocking("parts", collect(&parts))
        .build()?;
    let cluster = LocalCluster::of_build(&config()?, 2, &registry).await?;
    let dir = tempfile::tempdir()?;
    let outcome = outcome(&cluster.client().await?, &job(JOB, dir.path())?).await?;
    cluster.stop().await;
    assert_eq!(outcome.summary.state, JobState::Finished, "{}", outcome.error());

    let mut seen: Vec<(i64, Vec<String>)> = Vec::new();
    for ((time, partition), calls) in whole.lock().iter() {
        assert_eq!((*partition, calls.len()), (None, 1));
        let mut rows = calls[0].clone();
        rows.sort();
        seen.push((*time, rows));
    }
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        seen,
        [
            (1000, texts(&["A", "B", "C"])),
            (2000, texts(&[])),
            (3000, texts(&["D"]))
        ]
    );

    let parts = parts.lock();
    let keys: BTreeSet<(i64, Option<u32>)> = parts.keys().copied().collect();
    let expected = [1000, 2000, 3000]
        .into_iter()
        .flat_map(|time| [(time, Some(0)), (time, Some(1))]);
    assert_eq!(keys, expected.collect());
    let mut first: Vec<String> = parts
        .iter()
        .filter(|((time, _), _)| *time == 1000)
        .flat_map(|(_, calls)| calls[0].clone())
        .collect();
    first.sort();
    assert_eq!(first, ["A|1", "B|1", "C|1"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreach_that_fails_fails_its_batch_after_the_attempts_of_its_task() -> Result<()> {
    // Of a partition up to the job's attempts, of a batch once.
    for (per, calls) in [("batch", 1), ("partition", 4)] {
        let attempts = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&attempts);
        let registry = Registry::builder()
            .foreach_blocking("full", move |batch: ForeachBatch| {
                if batch.batch_time.millis() == 1000 {
                    return Ok(());
                }
                *counted.lock() += 1;
                Err("the disk is full".into())
            })
            .build()?;
        let cluster = LocalCluster::of_build(&config()?, 1, &registry).await?;
        let dir = tempfile::tempdir()?;
        let text = format!(
            "
name: full
batch_interval: 1s
partitions: 1
streams:
  lines: {{source: {{queue: {{lines: [[a], [b], [c]]}}}}}}
outputs:
  - foreach: {{from: lines, native: full, per: {per}}}
"
        );
        let outcome = outcome(&cluster.client().await?, &job(&text, dir.path())?).await?;
        cluster.stop().await;
        assert_eq!(outcome.summary.state, JobState::Failed);
        assert!(
            outcome.error().contains("foreach `full` failed: the disk is full"),
            "{per}: {}",
            outcome.error()
        );
        assert_eq!(*attempts.lock(), calls, "{per}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_names_an_unregistered_function_is_refused_with_those_that_exist() -> Result<()> {
    let registry = Registry::builder()
        .scalar(
            "shout",
            Determinism::Deterministic,
            [DataType::Utf8View],
            DataType::Utf8View,
            shout,
        )
        .build()?;
    let cluster = LocalCluster::of_build(&config()?, 1, &registry).await?;
    let dir = tempfile::tempdir()?;
    let refused = cluster.client().await?.explain(&job(JOB, dir.path())?, &[]).await;
    cluster.stop().await;
    let error = refused.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(
        error.contains("outputs[0].foreach.native: no function `whole` is registered (this build has `shout`)"),
        "{error}"
    );
    Ok(())
}
