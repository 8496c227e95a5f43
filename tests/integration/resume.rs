//! A job goes on where the driver before left it: its outputs are those of a run without an interruption.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tidemill_client::{JobState, SubmitOptions};
use tidemill_local::LocalCluster;
use tidemill_testkit::{config, eventually, run_to_end};

use crate::support::job;

const DEADLINE: Duration = Duration::from_secs(120);
const LINES: usize = 600;
const BATCH_LINES: usize = 2;

const JOB: &str = "
name: NAME
batch_interval: 1s
partitions: 2
OPTIONS
streams:
  lines: {source: {text_file: {path: 'DIR/in-*.txt', batch_lines: 2}}}
  sums:
    from: lines
    steps:
      - map: {key: 'CAST(value AS BIGINT) % 5', n: 'CAST(value AS BIGINT)'}
      - accumulate: {into: all, add: n}
      - window: {length: 3s}
      - reduce_by_key: {key: key, total: sum(n)}
accumulators:
  all: {kind: sum}
outputs:
  - save: {from: sums, path: DIR/NAME/sums, format: csv}
  - save: {from: lines, path: DIR/NAME/lines, format: text}
";

async fn cluster(directory: &Path) -> Result<LocalCluster> {
    let mut config = config()?;
    config.journal.url = directory.join("journal").display().to_string();
    Ok(LocalCluster::start(&config, 2).await?)
}

/// The lines of each batch of an output, sorted.
fn saved(output: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let mut batches = BTreeMap::new();
    for entry in std::fs::read_dir(output)? {
        let batch = entry?;
        let name = batch.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        batches.insert(name, crate::support::saved(&batch.path())?);
    }
    Ok(batches)
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_job_whose_driver_was_stopped_equal_those_of_one_that_ran_through() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let lines: Vec<String> = (0..LINES).map(|i| (i * 7919).to_string()).collect();
    for (file, lines) in lines.chunks(LINES / 3 - 1).enumerate() {
        std::fs::write(dir.path().join(format!("in-{file}.txt")), lines.join("\n"))?;
    }
    let through = JOB.replace("NAME", "through").replace("OPTIONS\n", "");
    run_to_end(&job(&through, dir.path())?, 2, None).await?;

    let durable = JOB.replace("NAME", "durable").replace("OPTIONS", "checkpoint: DIR/cp");
    let graph = job(&durable, dir.path())?;
    let options = SubmitOptions {
        no_wait: true,
        ..SubmitOptions::default()
    };
    let out = dir.path().join("durable/lines");
    let mut submitted = None;
    // Stopped several times, each time after some more batches.
    for batches in [20, 60, 150] {
        let cluster = cluster(dir.path()).await?;
        if submitted.is_none() {
            submitted = Some(cluster.client().await?.submit(&graph, &[], options).await?.job);
        }
        eventually(DEADLINE, "some batches", || async {
            match saved(&out).map_or(0, |batches| batches.len()) {
                enough if enough >= batches => Ok(()),
                few => Err(format!("{few} of {batches} batches")),
            }
        })
        .await?;
        drop(cluster);
    }
    let last = cluster(dir.path()).await?;
    let client = last.client().await?;
    let summary = eventually(DEADLINE, "the end of the job", || async {
        let detail = client.job("durable").await.map_err(|error| error.to_string())?;
        if detail.summary.state.is_over() {
            Ok(detail.summary)
        } else {
            Err(format!("{:?}", detail.summary))
        }
    })
    .await?;
    assert_eq!((summary.state, summary.error.as_deref()), (JobState::Finished, None));
    assert_eq!(Some(summary.id), submitted);
    let accumulators = client.accumulators("durable", false, 0).await?;
    let expected: i64 = (0..LINES as i64).map(|i| i * 7919).sum();
    assert_eq!(
        accumulators[0].total.value.as_ref().map(ToString::to_string),
        Some(expected.to_string())
    );
    last.stop().await;

    for output in ["lines", "sums"] {
        let expected = saved(&dir.path().join("through").join(output))?;
        assert!(expected.len() >= LINES / BATCH_LINES, "{}", expected.len());
        let found = saved(&dir.path().join("durable").join(output))?;
        assert_eq!(found, expected, "{output}");
    }
    Ok(())
}
