//! Back-pressure: a job that cannot keep up slows its source down, and loses nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use parking_lot::{Condvar, Mutex};
use tidemill::{Determinism, Registry};
use tidemill_client::{Client, JobDetail, StreamingContext, SubmitOptions};
use tidemill_dstream::{Function, NativeCall, SocketTextSource, Source};
use tidemill_engine::arrow::array::ArrayRef;
use tidemill_engine::arrow::datatypes::DataType;
use tidemill_local::LocalCluster;
use tidemill_testkit::{Feed, config, eventually, rows};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const DEADLINE: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(100);

/// Lines a second of the first batches: more than are processed.
const INITIAL_RATE: u64 = 100_000;

/// A function that gives what it takes and calls `on_rows` with the number of rows before.
fn through(on_rows: impl Fn(usize) + Send + Sync + 'static) -> Result<Registry> {
    let pass = move |columns: &[ArrayRef]| {
        on_rows(columns[0].len());
        Ok(Arc::clone(&columns[0]))
    };
    Ok(Registry::builder()
        .scalar(
            "through",
            Determinism::Deterministic,
            [DataType::Utf8View],
            DataType::Utf8View,
            pass,
        )
        .build()?)
}

/// Counts of the lines of `feed` that came through the function, as a table of all batches.
async fn start(feed: &Feed, registry: &Registry, max_queued: u32) -> Result<(LocalCluster, Client)> {
    let cluster = LocalCluster::of_build(&config()?, 2, registry).await?;
    let client = cluster.client().await?;
    let address = feed.address()?;
    let ctx = StreamingContext::new("slow", INTERVAL);
    ctx.max_queued_batches(max_queued);
    ctx.source(Source::SocketText(SocketTextSource {
        host: address.ip().to_string(),
        port: address.port(),
        block_interval: None,
        max_rate: None,
        initial_rate: Some(INITIAL_RATE),
    }))
    .map([("line", Function::Native(NativeCall::new("through").args(["value"])))])
    .filter("line <> ''")
    .count()
    .update_state_by_key("'all' AS all", total())
    .table("total");
    client.submit(&ctx.graph()?, &[], SubmitOptions::default()).await?;
    Ok((cluster, client))
}

fn total() -> tidemill_client::StateUpdate {
    tidemill_client::StateUpdate::function([("lines", "coalesce(lines, 0) + n")]).values([("n", "sum(count)")])
}

/// Sends numbered lines as fast as they are taken, until it is told to end; gives how many were sent.
fn send(mut stream: TcpStream, sent: &Arc<AtomicU64>, end: &Arc<AtomicBool>) -> JoinHandle<Result<()>> {
    let (sent, end) = (Arc::clone(sent), Arc::clone(end));
    tokio::spawn(async move {
        let lines = "a line of the source, of forty bytes....\n".repeat(100);
        while !end.load(Ordering::Relaxed) {
            stream.write_all(lines.as_bytes()).await?;
            sent.fetch_add(100, Ordering::Relaxed);
        }
        stream.shutdown().await?;
        Ok(())
    })
}

async fn detail(client: &Client) -> Result<JobDetail, String> {
    client.job("slow").await.map_err(|error| error.to_string())
}

async fn await_total(client: &Client, sent: u64) -> Result<()> {
    eventually(DEADLINE, "all lines that were sent", || async {
        let query = "SELECT lines FROM total";
        let (_, batches) = client.sql(query).await.map_err(|error| error.to_string())?;
        let seen = rows(&batches);
        if seen == [sent.to_string()] {
            Ok(())
        } else {
            Err(format!("{seen:?} of {sent}"))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_too_fast_is_slowed_to_what_is_processed_and_loses_nothing() -> Result<()> {
    // Each row costs 100 us: no slot takes more than 10,000 a second.
    let registry = through(|rows| std::thread::sleep(Duration::from_micros(100) * rows as u32))?;
    let feed = Feed::listen().await?;
    let (cluster, client) = start(&feed, &registry, 1000).await?;
    let (sent, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let sender = send(feed.accept().await?, &sent, &end);
    // What the slots can take is the bound of the rate; the queue is worked off at it.
    let slots: u64 = client
        .executors()
        .await?
        .iter()
        .map(|executor| u64::from(executor.slots))
        .sum();
    eventually(DEADLINE, "a rate that can be processed", || async {
        let detail = detail(&client).await?;
        let rate = detail.receivers.first().and_then(|receiver| receiver.rate_limit);
        let late = detail.summary.delays.scheduling > 2 * INTERVAL;
        match rate {
            Some(rate) if rate <= 10_000 * slots && !late && detail.summary.completed_batches > 10 => Ok(()),
            _ => Err(format!("{:?} {:?}", detail.summary, detail.receivers)),
        }
    })
    .await?;
    end.store(true, Ordering::Relaxed);
    sender.await??;
    await_total(&client, sent.load(Ordering::Relaxed)).await?;
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_stop_reading_while_too_many_batches_are_queued() -> Result<()> {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let held = Arc::clone(&gate);
    let registry = through(move |_| {
        let mut open = held.0.lock();
        held.1.wait_while(&mut open, |open| !*open);
    })?;
    let feed = Feed::listen().await?;
    let (cluster, client) = start(&feed, &registry, 3).await?;
    let (sent, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let sender = send(feed.accept().await?, &sent, &end);
    eventually(DEADLINE, "held sources", || async {
        let detail = detail(&client).await?;
        if detail.summary.sources_held && detail.summary.queued_batches == 3 {
            Ok(())
        } else {
            Err(format!("{:?}", detail.summary))
        }
    })
    .await?;
    // What was received when it was held, the socket's buffers, and no more.
    let rows_at = || async { Ok::<_, String>(detail(&client).await?.receivers.first().map_or(0, |r| r.rows)) };
    let stays = eventually(DEADLINE, "a receiver that reads no more", || async {
        let before = rows_at().await?;
        tokio::time::sleep(3 * INTERVAL).await;
        let after = rows_at().await?;
        if before == after {
            Ok(after)
        } else {
            Err(format!("{before}, then {after}"))
        }
    })
    .await?;
    assert!(stays < sent.load(Ordering::Relaxed), "more was received than sent");
    *gate.0.lock() = true;
    gate.1.notify_all();
    eventually(DEADLINE, "sources that are read again", || async {
        let rows = rows_at().await?;
        if rows > stays { Ok(()) } else { Err(format!("{rows}")) }
    })
    .await?;
    end.store(true, Ordering::Relaxed);
    sender.await?.context("the receiver closed the connection")?;
    await_total(&client, sent.load(Ordering::Relaxed)).await?;
    cluster.stop().await;
    Ok(())
}
