//! The life of jobs: several at once, stopping, executors that die and come.

use std::time::Duration;

use anyhow::Result;
use tidemill_client::{Client, Error, JobState, StreamingContext, SubmitOptions};
use tidemill_dstream::JobGraph;
use tidemill_local::LocalCluster;
use tidemill_testkit::{Proxy, config, eventually};

const DEADLINE: Duration = Duration::from_secs(30);

/// A live job: counts generated lines by number modulo ten over a window, in a table named `counts`.
fn live(name: &str, interval: Duration) -> Result<JobGraph> {
    let ctx = StreamingContext::new(name, interval);
    ctx.partitions(4);
    ctx.generate(5000, "{index}")
        .map([("digit", "CAST(value AS BIGINT) % 10")])
        .window(interval * 5, None)
        .reduce_by_key("digit", [("count", "count(*)")])
        .table("counts");
    Ok(ctx.graph()?)
}

async fn completed(client: &Client, job: &str, at_least: u64) -> Result<u64> {
    eventually(DEADLINE, &format!("{at_least} batches of {job}"), || async {
        let detail = client.job(job).await.map_err(|error| error.to_string())?;
        match detail.summary.error {
            Some(error) => Err(format!("failed: {error}")),
            None if detail.summary.completed_batches >= at_least => Ok(detail.summary.completed_batches),
            None => Err(format!("{:?}", detail.summary)),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_run_at_once_and_stop_alone() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 2).await?;
    let client = cluster.client().await?;
    let interval = Duration::from_millis(100);
    client
        .submit(&live("one", interval)?, &[], SubmitOptions::default())
        .await?;
    client
        .submit(&live("two", interval)?, &[], SubmitOptions::default())
        .await?;
    let taken = client
        .submit(&live("one", interval)?, &[], SubmitOptions::default())
        .await;
    assert!(matches!(taken, Err(Error::AlreadyExists(_))), "{taken:?}");
    completed(&client, "one", 3).await?;
    completed(&client, "two", 3).await?;
    let ambiguous = client
        .sql("SELECT * FROM counts")
        .await
        .expect_err("two tables of that name");
    assert!(
        ambiguous.to_string().contains("one") && ambiguous.to_string().contains("two"),
        "{ambiguous}"
    );
    let (_, rows) = client.sql("SELECT count(*) AS n FROM one.counts").await?;
    assert_eq!(tidemill_testkit::rows(&rows), ["10"]);

    client.stop("one", false).await?;
    eventually(DEADLINE, "job one stopped", || async {
        let state = client
            .job("one")
            .await
            .map_err(|error| error.to_string())?
            .summary
            .state;
        if state == JobState::Stopped {
            Ok(())
        } else {
            Err(state.to_string())
        }
    })
    .await?;
    let before = completed(&client, "two", 1).await?;
    completed(&client, "two", before + 3).await?;
    // The name is free again, and the table's name means the only one.
    client
        .submit(&live("one", interval)?, &[], SubmitOptions::default())
        .await?;
    let gone = client.stop("three", false).await;
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_right_after_an_executor_died_and_another_came() -> Result<()> {
    let interval = Duration::from_millis(100);
    let mut cluster = LocalCluster::start(&config()?, 3).await?;
    let client = cluster.client().await?;
    client
        .submit(&live("survivor", interval)?, &[], SubmitOptions::default())
        .await?;
    completed(&client, "survivor", 8).await?;
    cluster.kill_executor(1);
    let before = completed(&client, "survivor", 1).await?;
    completed(&client, "survivor", before + 8).await?;
    // 5,000 lines a second, five batches of 100 ms: 500 lines a batch, 50 of each digit, 250 in a window.
    let (_, rows) = client.sql("SELECT DISTINCT count FROM survivor.counts").await?;
    assert_eq!(tidemill_testkit::rows(&rows), ["250"]);
    cluster.add_executor().await?;
    cluster.await_executors(3).await?;
    let newest = eventually(DEADLINE, "work for the new executor", || async {
        let executors = client.executors().await.map_err(|error| error.to_string())?;
        let newest = executors
            .iter()
            .max_by_key(|executor| executor.id)
            .ok_or("no executors")?;
        if newest.completed_tasks > 10 {
            Ok(newest.id)
        } else {
            Err(format!("{newest:?}"))
        }
    })
    .await?;
    assert_eq!(newest.0, 4);
    let (_, rows) = client.sql("SELECT DISTINCT count FROM survivor.counts").await?;
    assert_eq!(tidemill_testkit::rows(&rows), ["250"]);
    let summary = client.job("survivor").await?.summary;
    assert_eq!((summary.failed_batches, summary.lost_rows), (0, 0));
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_channel_that_breaks_is_resumed_and_loses_nothing() -> Result<()> {
    let mut config = config()?;
    // Time enough to come back on a busy machine.
    config.driver.reattach_grace = Duration::from_secs(20);
    config.driver.heartbeat_timeout = Duration::from_secs(30);
    let mut cluster = LocalCluster::start(&config, 1).await?;
    let proxy = Proxy::start(cluster.address()).await?;
    cluster.add_executor_through(proxy.address()).await?;
    cluster.await_executors(2).await?;
    let client = cluster.client().await?;
    let interval = Duration::from_millis(50);
    client
        .submit(&live("resumed", interval)?, &[], SubmitOptions::default())
        .await?;
    for round in 1..=5 {
        completed(&client, "resumed", round * 6).await?;
        assert!(proxy.cut() > 0, "no connection was open");
    }
    let before = completed(&client, "resumed", 1).await?;
    completed(&client, "resumed", before + 10).await?;
    let executors: Vec<u32> = client.executors().await?.iter().map(|executor| executor.id.0).collect();
    assert_eq!(executors, [1, 2], "an executor was registered anew");
    let (_, rows) = client.sql("SELECT DISTINCT count FROM resumed.counts").await?;
    assert_eq!(tidemill_testkit::rows(&rows), ["125"]);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_was_cut_off_for_too_long_registers_anew_and_works() -> Result<()> {
    let mut config = config()?;
    config.driver.reattach_grace = Duration::from_millis(1);
    let mut cluster = LocalCluster::start(&config, 1).await?;
    let proxy = Proxy::start(cluster.address()).await?;
    cluster.add_executor_through(proxy.address()).await?;
    cluster.await_executors(2).await?;
    let client = cluster.client().await?;
    let interval = Duration::from_millis(50);
    client
        .submit(&live("cut", interval)?, &[], SubmitOptions::default())
        .await?;
    completed(&client, "cut", 6).await?;
    assert!(proxy.cut() > 0, "no connection was open");
    eventually(DEADLINE, "a new number and work", || async {
        let executors = client.executors().await.map_err(|error| error.to_string())?;
        let again = executors.iter().find(|executor| executor.id.0 == 3);
        if again.is_some_and(|again| again.completed_tasks > 10) {
            Ok(())
        } else {
            Err(format!("{executors:?}"))
        }
    })
    .await?;
    let before = completed(&client, "cut", 1).await?;
    completed(&client, "cut", before + 8).await?;
    let (_, rows) = client.sql("SELECT DISTINCT count FROM cut.counts").await?;
    assert_eq!(tidemill_testkit::rows(&rows), ["125"]);
    cluster.stop().await;
    Ok(())
}
