//! Socket sources that behave and that do not.

use std::time::Duration;

use anyhow::Result;
use tidemill_client::{Client, StreamingContext, SubmitOptions};
use tidemill_local::LocalCluster;
use tidemill_testkit::{Feed, config, eventually, rows};
use tokio::io::AsyncWriteExt;

const DEADLINE: Duration = Duration::from_secs(30);

/// A job that keeps every line of the last minutes in a table.
async fn start(feed: &Feed) -> Result<(LocalCluster, Client)> {
    let cluster = LocalCluster::start(&config()?, 2).await?;
    let client = cluster.client().await?;
    let address = feed.address()?;
    let interval = Duration::from_millis(50);
    let ctx = StreamingContext::new("socket", interval);
    ctx.socket_text_stream(address.ip().to_string(), address.port())
        .window(interval * 2000, None)
        .map([("line", "value"), ("length", "octet_length(value)")])
        .table("lines");
    client.submit(&ctx.graph()?, &[], SubmitOptions::default()).await?;
    Ok((cluster, client))
}

async fn await_lines(client: &Client, query: &str, expected: &[&str]) -> Result<()> {
    eventually(DEADLINE, "the lines", || async {
        let (_, batches) = client.sql(query).await.map_err(|error| error.to_string())?;
        let seen = rows(&batches);
        if seen == expected {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_arrive_whatever_they_hold_and_over_reconnections() -> Result<()> {
    let feed = Feed::listen().await?;
    let (cluster, client) = start(&feed).await?;
    let mut first = feed.accept().await?;
    first.write_all(b"plain\nwindows\r\n\xff\xfebad\nnul\0byte\n").await?;
    await_lines(
        &client,
        "SELECT line FROM lines ORDER BY line",
        &["nul\0byte", "plain", "windows", "\u{fffd}\u{fffd}bad"],
    )
    .await?;
    eventually(DEADLINE, "the count of repaired lines", || async {
        let detail = client.job("socket").await.map_err(|error| error.to_string())?;
        if detail.receivers[0].malformed_rows == 1 {
            Ok(())
        } else {
            Err(format!("{:?}", detail.receivers))
        }
    })
    .await?;
    // Closed in the middle of a line: the rest is a line, and the receiver comes back.
    first.write_all(b"half a li").await?;
    drop(first);
    let _second = feed.send(b"after\n").await?;
    await_lines(
        &client,
        "SELECT count(*) FROM lines WHERE line IN ('half a li', 'after')",
        &["2"],
    )
    .await?;
    let detail = client.job("socket").await?;
    assert!(detail.receivers[0].restarts >= 1, "{:?}", detail.receivers);
    assert_eq!(detail.summary.lost_rows, 0);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_a_hundred_megabytes_is_cut_and_the_next_one_is_whole() -> Result<()> {
    let feed = Feed::listen().await?;
    let (cluster, client) = start(&feed).await?;
    let mut stream = feed.accept().await?;
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        stream.write_all(&chunk).await?;
    }
    stream.write_all(b"\nshort\n").await?;
    await_lines(&client, "SELECT length FROM lines ORDER BY length", &["5", "16777216"]).await?;
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_refuses_or_says_nothing_stops_nobody() -> Result<()> {
    let feed = Feed::listen().await?;
    let address = feed.address()?;
    drop(feed);
    let cluster = LocalCluster::start(&config()?, 1).await?;
    let client = cluster.client().await?;
    let ctx = StreamingContext::new("silent", Duration::from_millis(50));
    ctx.socket_text_stream(address.ip().to_string(), address.port())
        .count()
        .table("counts");
    client.submit(&ctx.graph()?, &[], SubmitOptions::default()).await?;
    eventually(DEADLINE, "empty batches and a restarting receiver", || async {
        let detail = client.job("silent").await.map_err(|error| error.to_string())?;
        let restarting = detail.receivers.iter().any(|receiver| receiver.state == "restarting");
        if restarting && detail.summary.completed_batches >= 3 {
            Ok(())
        } else {
            Err(format!("{detail:?}"))
        }
    })
    .await?;
    let (_, batches) = client.sql("SELECT count FROM counts").await?;
    assert_eq!(rows(&batches), ["0"]);
    // Graceful stop with a receiver that never connected.
    client.stop("silent", false).await?;
    eventually(DEADLINE, "stopped", || async {
        let state = client
            .job("silent")
            .await
            .map_err(|error| error.to_string())?
            .summary
            .state;
        if state.is_over() {
            Ok(())
        } else {
            Err(state.to_string())
        }
    })
    .await?;
    cluster.stop().await;
    Ok(())
}
