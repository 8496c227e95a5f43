//! Executors that are killed while jobs run.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tidemill_client::{Scalar, StreamingContext, SubmitOptions};
use tidemill_dstream::accumulator::ExactSum;
use tidemill_dstream::{AccumulatorKind, Compression, FileFormat, SaveOutput, Source, TextFilesSource};
use tidemill_testkit::{Feed, ProcessCluster, eventually, rows};
use tokio::io::AsyncWriteExt;

use crate::binary;

const DEADLINE: Duration = Duration::from_secs(60);

/// Counts of one saved batch.
fn saved(directory: &Path) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for part in std::fs::read_dir(directory)? {
        for line in std::fs::read_to_string(part?.path())?.lines().skip(1) {
            if let Some((key, count)) = line.split_once(',') {
                assert!(
                    counts.insert(key.to_owned(), count.parse()?).is_none(),
                    "{key} stands twice in {directory:?}"
                );
            }
        }
    }
    Ok(counts)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_files_every_window_across_a_kill_equals_the_reference() -> Result<()> {
    const FILES: usize = 1200;
    const WINDOW: usize = 5;
    const PER_BATCH: usize = 2;
    let dir = tempfile::tempdir()?;
    let input = dir.path().join("in");
    std::fs::create_dir(&input)?;
    let mut contents: Vec<Vec<String>> = Vec::new();
    for file in 0..FILES {
        let lines: Vec<String> = (0..100).map(|i| format!("k{}", (file * 17 + i * i) % 23)).collect();
        std::fs::write(input.join(format!("{file:04}.txt")), lines.join("\n"))?;
        contents.push(lines);
    }
    // One time for all: names decide the order.
    let time = std::fs::metadata(input.join("0000.txt"))?.modified()?;
    for file in 0..FILES {
        std::fs::File::options()
            .write(true)
            .open(input.join(format!("{file:04}.txt")))?
            .set_modified(time)?;
    }
    let mut cluster = ProcessCluster::start(binary(), 3, 1, &[]).await?;
    let client = cluster.client().await?;
    let second = Duration::from_secs(1);
    let ctx = StreamingContext::new("files", second);
    ctx.partitions(6);
    let source = Source::TextFiles(TextFilesSource {
        dir: input.display().to_string(),
        new_files_only: false,
        remember: second * 60,
        files_per_batch: Some(PER_BATCH as u32),
    });
    let lines = ctx.accumulator("lines", AccumulatorKind::Count);
    let sizes = ctx.accumulator("sizes", AccumulatorKind::Sum);
    ctx.source(source)
        .accumulate(&lines, "1")
        .accumulate(&sizes, "length(value) * 0.1")
        .window(second * WINDOW as u32, None)
        .reduce_by_key("value", [("count", "count(*)")])
        .save_with(SaveOutput {
            path: dir.path().join("out").display().to_string(),
            format: FileFormat::Csv,
            files: None,
            compression: Compression::None,
            overwrite: false,
            empty: false,
        });
    let options = SubmitOptions {
        no_wait: true,
        ..SubmitOptions::default()
    };
    client.submit(&ctx.graph()?, &[], options).await?;
    for (kill, after) in [(1, 50), (0, 200)] {
        eventually(DEADLINE, "batches before the kill", || async {
            let summary = client.job("files").await.map_err(|error| error.to_string())?.summary;
            if summary.completed_batches >= after {
                Ok(())
            } else {
                Err(format!("{summary:?}"))
            }
        })
        .await?;
        cluster.kill_executor(kill).await?;
        let summary = client.job("files").await?.summary;
        assert!(
            !summary.state.is_over(),
            "the kill came too late to mean anything: {summary:?}"
        );
    }
    let summary = eventually(DEADLINE, "the end of the job", || async {
        let summary = client.job("files").await.map_err(|error| error.to_string())?.summary;
        if summary.state.is_over() {
            Ok(summary)
        } else {
            Err(format!("{summary:?}"))
        }
    })
    .await?;
    assert_eq!(
        (summary.error, summary.completed_batches),
        (None, (FILES / PER_BATCH) as u64)
    );
    // The kills have had tasks run again and old batches made again; each line has counted once.
    let accumulators = client.accumulators("files", false, 0).await?;
    let totals: Vec<_> = accumulators
        .iter()
        .map(|accumulator| accumulator.total.clone())
        .collect();
    let number = contents.iter().map(Vec::len).sum::<usize>();
    assert_eq!(totals[0].value, Some(Scalar::Integer(number as i64)));
    let mut exact = ExactSum::default();
    let lengths = contents.iter().flatten().map(|line| line.len() as f64 * 0.1);
    lengths.for_each(|length| exact.add(length));
    assert_eq!(totals[1].value, Some(Scalar::Float(exact.value())));
    cluster.await_executors(1).await?;
    for batch in 1..=FILES / PER_BATCH {
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for key in contents[batch.saturating_sub(WINDOW) * PER_BATCH..batch * PER_BATCH]
            .iter()
            .flatten()
        {
            *expected.entry(key.clone()).or_default() += 1;
        }
        let directory = dir.path().join(format!("out/batch_time={}", batch * 1000));
        assert_eq!(saved(&directory)?, expected, "batch {batch}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_socket_the_loss_is_counted_and_later_windows_are_right() -> Result<()> {
    let feed = Feed::listen().await?;
    let address = feed.address()?;
    let mut cluster = ProcessCluster::start(binary(), 3, 1, &[]).await?;
    let client = cluster.client().await?;
    let interval = Duration::from_millis(200);
    let ctx = StreamingContext::new("socket", interval);
    ctx.partitions(3);
    ctx.socket_text_stream(address.ip().to_string(), address.port())
        .window(interval * 1000, None)
        .reduce_by_key("value", [("count", "count(*)")])
        .table("counts");
    client.submit(&ctx.graph()?, &[], SubmitOptions::default()).await?;
    let mut first = feed.accept().await?;
    for _ in 0..1000 {
        first.write_all(b"before\n").await?;
    }
    let count_of = |key: &'static str| {
        let client = client.clone();
        move || {
            let client = client.clone();
            async move {
                let query = format!("SELECT count FROM counts WHERE value = '{key}'");
                let (_, batches) = client.sql(&query).await.map_err(|error| error.to_string())?;
                Ok::<Vec<String>, String>(rows(&batches))
            }
        }
    };
    let before = count_of("before");
    eventually(DEADLINE, "1000 lines", || async {
        let seen = before().await?;
        if seen == ["1000"] {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await?;
    let detail = client.job("socket").await?;
    let holder = detail.receivers[0].executor.expect("a place");
    // Executors register in the order of their start, so numbers of the driver are those of the cluster plus one.
    cluster.kill_executor(holder.0 as usize - 1).await?;
    drop(first);
    let mut second = feed.accept().await?;
    for _ in 0..500 {
        second.write_all(b"after\n").await?;
    }
    let after = count_of("after");
    eventually(DEADLINE, "500 lines after the kill", || async {
        let seen = after().await?;
        if seen == ["500"] {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await?;
    let summary = client.job("socket").await?.summary;
    assert_eq!((summary.failed_batches, summary.error), (0, None));
    Ok(())
}
