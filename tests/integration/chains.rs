//! Graphs as long as only programs write them.

use std::time::Duration;

use anyhow::Result;
use tidemill_client::job_file::{ParseOptions, parse, to_yaml};
use tidemill_client::{DStream, StreamingContext};
use tidemill_dstream::JobGraph;
use tidemill_local::LocalCluster;
use tidemill_testkit::config;

use crate::support::outcome;

const LONG: usize = 10_000;

/// A job of two partitions, and its stream of the numbers 1 to 3 in the first batch and 4 in the second.
fn numbers(name: &str) -> (StreamingContext, DStream) {
    let ctx = StreamingContext::new(name, Duration::from_secs(1));
    ctx.partitions(2);
    let numbers = ctx
        .queue_stream([vec!["1", "2", "3"], vec!["4"]])
        .map([("n", "CAST(value AS BIGINT)")]);
    (ctx, numbers)
}

/// The rows of each batch of a job, on two executors.
async fn rows(graph: &JobGraph) -> Result<Vec<Vec<String>>> {
    let cluster = LocalCluster::start(&config()?, 2).await?;
    let outcome = outcome(&cluster.client().await?, graph).await?;
    cluster.stop().await;
    assert_eq!(outcome.error(), "");
    Ok(outcome.rows().into_iter().map(|(_, rows)| rows).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_steps_of_a_stream_run() -> Result<()> {
    let (ctx, numbers) = numbers("steps");
    let last = (0..LONG).fold(numbers, |stream, place| match place % 3 {
        0 => stream.map([("n", "n + 1")]),
        1 => stream.flat_map([("n", "[n]")]),
        _ => stream.filter("n < 100000"),
    });
    last.print();
    let graph = ctx.graph()?;
    assert_eq!(graph.streams.len(), 1);
    // As a job file too.
    assert_eq!(parse(&to_yaml(&graph), &ParseOptions::default())?, graph);
    let larger = |numbers: &[usize]| -> Vec<String> {
        let maps = LONG.div_ceil(3);
        numbers.iter().map(|n| (n + maps).to_string()).collect()
    };
    assert_eq!(rows(&graph).await?, [larger(&[1, 2, 3]), larger(&[4])]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_streams_each_from_the_one_before_run() -> Result<()> {
    let (ctx, numbers) = numbers("streams");
    let last = (0..LONG).fold(numbers, |stream, place| {
        stream.filter(format!("n <> 0 - {place}")).name(format!("s{place}"))
    });
    last.print();
    let graph = ctx.graph()?;
    assert_eq!(graph.streams.len(), LONG);
    assert_eq!(rows(&graph).await?, [vec!["1", "2", "3"], vec!["4"]]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_unions_one_over_the_other_run() -> Result<()> {
    let (ctx, numbers) = numbers("unions");
    let last = (0..1000).fold(numbers.clone(), |stream, _| stream.union(&numbers));
    last.count().print();
    assert_eq!(rows(&ctx.graph()?).await?, [["3003"], ["1001"]]);
    Ok(())
}
