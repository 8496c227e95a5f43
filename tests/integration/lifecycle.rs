//! The life of a context on a cluster: started, awaited, sliced, stopped.

use std::time::Duration;

use anyhow::Result;
use tidemill_client::{ContextState, Error, JobState, StreamingContext, SubmitOptions};
use tidemill_dstream::FailurePolicy;
use tidemill_local::LocalCluster;
use tidemill_testkit::{Feed, config, eventually, rows};
use tidemill_types::BatchTime;
use tokio::io::AsyncWriteExt;

use crate::support::no_wait;

const DEADLINE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

fn one_by_one<const N: usize>(lines: [&str; N]) -> [Vec<String>; N] {
    lines.map(|line| vec![line.to_owned()])
}

#[tokio::test(flavor = "multi_thread")]
async fn awaiting_ends_with_the_job_and_gives_what_failed_first() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 2).await?;
    let good = StreamingContext::new("good", SECOND);
    good.queue_stream(one_by_one(["1", "2"])).print();
    cluster.start_job(&good, no_wait()).await?;
    good.await_termination().await?;
    assert_eq!(good.state(), ContextState::Stopped);

    for (policy, end) in [
        (FailurePolicy::Stop, JobState::Failed),
        (FailurePolicy::Skip, JobState::Finished),
    ] {
        let bad = StreamingContext::new("bad", SECOND);
        bad.on_batch_failure(policy);
        let numbers = bad.queue_stream(one_by_one(["1", "two", "3", "four"]));
        numbers.map([("n", "CAST(value AS BIGINT)")]).print();
        let handle = cluster.start_job(&bad, no_wait()).await?;
        for _ in 0..2 {
            let error = bad.await_termination().await.expect_err("a batch failed");
            let Error::Failed { job, batch, message } = &error else {
                panic!("{error}");
            };
            assert_eq!((*job, *batch), (handle.id(), Some(BatchTime(2000))), "{error}");
            assert!(message.contains("two"), "{error}");
        }
        let ended = eventually(DEADLINE, "the end", || async {
            let summary = handle.summary().await.map_err(|error| error.to_string())?;
            if summary.state.is_over() {
                Ok(summary)
            } else {
                Err(format!("{summary:?}"))
            }
        })
        .await?;
        assert_eq!(ended.state, end);
        assert_eq!(ended.first_failure.map(|failure| failure.time), Some(BatchTime(2000)));
        // What failed stays what failed, also when the job is over.
        assert!(matches!(handle.await_termination().await, Err(Error::Failed { .. })));
    }
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_processes_what_was_received() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 1).await?;
    let feed = Feed::listen().await?;
    let ctx = StreamingContext::new("graceful", Duration::from_millis(100));
    ctx.partitions(1);
    let lines = ctx.socket_text_stream("127.0.0.1", feed.address()?.port());
    lines.count().reduce([("n", "sum(count)")]).print();
    let handle = cluster.start_job(&ctx, SubmitOptions::default()).await?;
    let mut connection = feed.accept().await?;
    let text = "line\n".repeat(1000);
    connection.write_all(text.as_bytes()).await?;
    connection.flush().await?;
    eventually(DEADLINE, "the lines to be received", || async {
        let client = cluster.client().await.map_err(|error| error.to_string())?;
        let detail = client.job("graceful").await.map_err(|error| error.to_string())?;
        let received: u64 = detail.receivers.iter().map(|receiver| receiver.rows).sum();
        if received == 1000 {
            Ok(())
        } else {
            Err(format!("{received} rows"))
        }
    })
    .await?;
    ctx.stop(true).await?;
    let summary = handle.summary().await?;
    assert_eq!((summary.state, summary.input_rows), (JobState::Stopped, 1000));
    assert_eq!(ctx.state(), ContextState::Stopped);
    ctx.stop(true).await?;
    ctx.await_termination().await?;
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_once_ends_a_job_that_has_no_end() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 1).await?;
    let ctx = StreamingContext::new("endless", Duration::from_millis(50));
    ctx.generate(100, "{index}").print();
    let handle = cluster.start_job(&ctx, SubmitOptions::default()).await?;
    assert!(!ctx.await_termination_or_timeout(Duration::from_millis(120)).await?);
    ctx.stop(false).await?;
    assert_eq!(handle.summary().await?.state, JobState::Stopped);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_has_the_batches_of_its_times_with_both_ends() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 3).await?;
    let interval = Duration::from_millis(100);
    let ctx = StreamingContext::new("slicing", interval);
    ctx.partitions(3).remember(SECOND * 600);
    let lines = ctx
        .queue_stream((1..=9).map(|batch| vec![format!("{batch}a"), format!("{batch}b")]))
        .name("lines");
    lines.print();
    let pairs = lines.window(interval * 2, Some(interval * 2)).name("pairs");
    pairs.print();
    let counts = lines.count();
    counts.print();
    let step = lines.filter("value LIKE '%a'");
    step.map([("upper", "upper(value)")]).print();
    let handle = cluster.start_job(&ctx, SubmitOptions::default()).await?;
    let summary = eventually(DEADLINE, "ten batches", || async {
        let summary = handle.summary().await.map_err(|error| error.to_string())?;
        if summary.completed_batches >= 10 {
            Ok(summary)
        } else {
            Err(format!("{summary:?}"))
        }
    })
    .await?;
    let last = summary.last_batch.map_or(0, |batch| batch.0);
    let zero = last - summary.completed_batches as i64 * 100;
    let at = |batch: i64| BatchTime(zero + batch * 100);
    let seen = |batches: Vec<tidemill_client::RememberedBatch>| -> Vec<(i64, Vec<String>)> {
        let batch = |batch: tidemill_client::RememberedBatch| {
            let mut rows = rows(&batch.rows);
            rows.sort();
            ((batch.time.0 - zero) / 100, rows)
        };
        batches.into_iter().map(batch).collect()
    };
    let of = |batches: &[i64]| -> Vec<String> {
        batches
            .iter()
            .flat_map(|batch| [format!("{batch}a"), format!("{batch}b")])
            .collect()
    };
    let expected = [(3, of(&[3])), (4, of(&[4])), (5, of(&[5]))];
    assert_eq!(seen(lines.slice(at(3), at(5)).await?), expected);
    let within = (BatchTime(at(3).0 + 99), BatchTime(at(5).0 + 1));
    assert_eq!(
        seen(handle.slice("lines", within.0, within.1).await?),
        expected,
        "floored"
    );
    assert_eq!(
        seen(lines.slice(at(-5), at(1)).await?),
        [(1, of(&[1]))],
        "there is none before the first"
    );
    assert!(
        seen(lines.slice(at(9), at(1_000_000)).await?).len() >= 2,
        "up to the last that is completed"
    );
    assert_eq!(
        seen(pairs.slice(at(3), at(5)).await?),
        [(2, of(&[1, 2])), (4, of(&[3, 4]))]
    );
    assert_eq!(seen(counts.slice(at(2), at(2)).await?), [(2, vec!["2".to_owned()])]);

    let error = step.slice(at(1), at(2)).await.expect_err("a step").to_string();
    assert!(error.contains("give it a name"), "{error}");
    let error = handle
        .slice("line", at(1), at(2))
        .await
        .expect_err("unknown")
        .to_string();
    assert!(error.contains("did you mean `lines`?"), "{error}");
    let error = lines.slice(at(2), at(1)).await.expect_err("backwards").to_string();
    assert!(error.contains("which is before it"), "{error}");
    ctx.stop(false).await?;
    let error = lines.slice(at(1), at(2)).await.expect_err("it has ended").to_string();
    assert!(error.contains("has ended"), "{error}");
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_remembered_is_no_slice() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 1).await?;
    for (name, remember) in [("short", Some(Duration::from_millis(100))), ("never", None)] {
        let ctx = StreamingContext::new(name, Duration::from_millis(50));
        if let Some(remember) = remember {
            ctx.remember(remember);
        }
        let lines = ctx.generate(100, "{index}").name("lines");
        lines.print();
        let handle = cluster.start_job(&ctx, SubmitOptions::default()).await?;
        let summary = eventually(DEADLINE, "five batches", || async {
            let summary = handle.summary().await.map_err(|error| error.to_string())?;
            if summary.completed_batches >= 5 {
                Ok(summary)
            } else {
                Err(format!("{summary:?}"))
            }
        })
        .await?;
        let last = summary.last_batch.unwrap_or_default();
        let early = BatchTime(last.0 - 200);
        let error = lines.slice(early, last).await.expect_err(name).to_string();
        let expected = match remember {
            Some(_) => format!("is not remembered from {early} on, only from "),
            None => "set the job's option `remember`".to_owned(),
        };
        assert!(error.contains(&expected), "{error}");
        ctx.stop(false).await?;
    }
    cluster.stop().await;
    Ok(())
}
