//! Submissions that are as large as they may be, and larger.

use std::time::Duration;

use anyhow::{Context, Result};
use tidemill_client::{AttachedFile, Client, Error, JobState, StreamingContext, SubmitOptions};
use tidemill_dstream::{JobGraph, QueueItem, Source};
use tidemill_local::LocalCluster;
use tidemill_testkit::{config, eventually};

use crate::support::{no_wait, outcome};

const DEADLINE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const LINE: usize = 100_000;

/// A job that measures queued lines of `bytes` bytes in all, over two batches.
fn measuring(bytes: usize) -> Result<JobGraph> {
    let ctx = StreamingContext::new("large", SECOND);
    ctx.partitions(2);
    let half = vec!["x".repeat(LINE); bytes / LINE / 2];
    ctx.queue_stream([half.clone(), half])
        .reduce([("lines", "count(*)"), ("bytes", "sum(octet_length(value))")])
        .print();
    Ok(ctx.graph()?)
}

async fn is_healthy(client: &Client) -> Result<()> {
    let ctx = StreamingContext::new("small", SECOND);
    ctx.queue_stream([vec!["a".to_owned()]]).print();
    let ended = outcome(client, &ctx.graph()?).await?;
    assert_eq!(ended.rows(), [(1000, vec!["a".to_owned()])], "{}", ended.error());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_fifty_megabytes_of_lines_runs_and_one_over_the_limit_is_not_sent() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 1).await?;
    let client = cluster.client().await?;
    let ended = outcome(&client, &measuring(50_000_000)?).await?;
    let half = vec!["250|25000000".to_owned()];
    assert_eq!(ended.rows(), [(1000, half.clone()), (2000, half)], "{}", ended.error());

    let refused = client.submit(&measuring(70_000_000)?, &[], no_wait()).await;
    let Err(Error::TooLarge { size, limit }) = refused else {
        anyhow::bail!("not refused: {refused:?}")
    };
    assert!(size > 70_000_000 && limit == 64 << 20, "{size} {limit}");
    is_healthy(&client).await?;
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_fifty_megabytes_travels_with_its_job_and_goes_with_it() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 2).await?;
    let client = cluster.client().await?;
    let ctx = StreamingContext::new("attached", SECOND);
    ctx.partitions(2);
    ctx.source(Source::Queue(vec![QueueItem::File("in.txt".to_owned())]))
        .reduce([("lines", "count(*)"), ("bytes", "sum(octet_length(value))")])
        .table("measured");
    let line = "x".repeat(LINE - 1) + "\n";
    let file = AttachedFile {
        path: "in.txt".to_owned(),
        content: line.repeat(500).into(),
    };
    client.submit(&ctx.graph()?, &[file], no_wait()).await?;
    let summary = eventually(DEADLINE, "the end of the job", || async {
        let summary = client.job("attached").await.map_err(|error| error.to_string())?.summary;
        if summary.state.is_over() {
            Ok(summary)
        } else {
            Err(format!("{summary:?}"))
        }
    })
    .await?;
    assert_eq!(
        (summary.state, summary.error, summary.input_rows),
        (JobState::Finished, None, 500)
    );
    is_healthy(&client).await?;

    let broken = AttachedFile {
        path: "in.txt.gz".to_owned(),
        content: "not compressed".into(),
    };
    let ctx = StreamingContext::new("broken", SECOND);
    ctx.source(Source::Queue(vec![QueueItem::File(broken.path.clone())]))
        .print();
    let refused = client.submit(&ctx.graph()?, &[broken], SubmitOptions::default()).await;
    let message = refused.err().context("it was accepted")?.to_string();
    assert!(message.contains("in.txt.gz"), "{message}");
    cluster.stop().await;
    Ok(())
}
