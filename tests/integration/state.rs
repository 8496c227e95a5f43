//! Keyed state on executors: what batches give, what SQL sees while the job runs, what its loss does.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use tidemill_client::{Client, JobState, StateSpec, StateUpdate, StreamingContext, SubmitOptions};
use tidemill_local::LocalCluster;
use tidemill_testkit::{config, eventually, rows, run_to_end};

use crate::support::no_wait;

const DEADLINE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// Totals by word, made anew for every word in every batch.
fn totals() -> StateUpdate {
    StateUpdate::function([
        ("total", "coalesce(total, 0) + n"),
        ("batches", "coalesce(batches, 0) + 1"),
    ])
    .values([("n", "count(*)")])
}

fn word_batches() -> Vec<Vec<String>> {
    (0..8_usize)
        .map(|batch| {
            (0..batch % 4 * 10)
                .map(|line| format!("w{}", (batch * 7 + line * line) % 13))
                .collect()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn state_counts_as_a_loop_over_all_batches_does_on_one_and_on_three_executors() -> Result<()> {
    let input = word_batches();
    for (executors, partitions) in [(1, 1), (1, 4), (3, 7)] {
        let ctx = StreamingContext::new("counts", SECOND);
        ctx.partitions(partitions);
        let words = ctx.queue_stream(input.clone());
        words.update_state_by_key("value", totals()).name("all").print_rows(100);
        let touched = StateSpec::function([("total", "coalesce(total, 0) + n")]).values([("n", "count(*)")]);
        words.map_with_state("value", touched).name("touched").print_rows(100);
        let printed = run_to_end(&ctx.graph()?, executors, None).await?;
        let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (batch, lines) in input.iter().enumerate() {
            for (_, batches) in counts.values_mut() {
                *batches += 1;
            }
            for word in lines {
                let count = counts.entry(word).or_insert((0, 1));
                count.0 += 1;
            }
            let of = |stream: &str| {
                let time = (batch as i64 + 1) * 1000;
                let printed = printed
                    .iter()
                    .find(|batch| batch.stream == stream && batch.time == time);
                printed.map(|batch| batch.sorted()).unwrap_or_default()
            };
            let mut all: Vec<String> = counts.iter().map(|(word, (n, b))| format!("{word}|{n}|{b}")).collect();
            all.sort();
            assert_eq!(of("all"), all, "batch {batch} on {executors} executors");
            let touched = counts.iter().filter(|(word, _)| lines.iter().any(|line| line == *word));
            let mut touched: Vec<String> = touched.map(|(word, (n, _))| format!("{word}|{n}")).collect();
            touched.sort();
            assert_eq!(of("touched"), touched, "batch {batch} on {executors} executors");
        }
    }
    Ok(())
}

/// A job whose every batch has 100 lines, of 10 words each ten times, with the two kinds of state.
async fn start_counting(client: &Client, interval: Duration) -> Result<()> {
    let ctx = StreamingContext::new("word-count", interval);
    ctx.partitions(7);
    let rate = 100_000 / interval.as_millis() as u64;
    let words = ctx
        .generate(rate, "{index}")
        .map([("word", "CAST(value AS BIGINT) % 10")])
        .name("words");
    words.update_state_by_key("word", totals()).name("totals").table("out");
    let touched = StateSpec::function([
        ("total", "coalesce(total, 0) + n"),
        ("batches", "coalesce(batches, 0) + 1"),
    ])
    .values([("n", "count(*)")]);
    words.map_with_state("word", touched).name("touched").table("last");
    client.submit(&ctx.graph()?, &[], SubmitOptions::default()).await?;
    Ok(())
}

/// The batch up to which a state counts: every word has ten lines for each, and there is one batch time.
async fn counted_batches(client: &Client, state: &str) -> Result<i64> {
    let query = format!(
        "SELECT count(*), sum(total), min(batches), max(batches), count(DISTINCT batch_time) FROM \"word-count_state\".{state}"
    );
    let (_, found) = client.sql(&query).await?;
    let row = rows(&found).pop().context("a row")?;
    let cells: Vec<&str> = row.split('|').collect();
    if cells[0] == "0" {
        return Ok(0);
    }
    let batches: i64 = cells[2].parse()?;
    let expected = format!("10|{}|{batches}|{batches}|1", batches * 100);
    assert_eq!(row, expected, "the state of {state} is not that of one batch");
    Ok(batches)
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_sees_the_state_of_one_batch_while_the_job_runs() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 3).await?;
    let client = cluster.client().await?;
    start_counting(&client, Duration::from_millis(50)).await?;
    for state in ["totals", "touched"] {
        let (mut last, mut versions) = (0, 0);
        eventually(DEADLINE, "several versions", || {
            let client = client.clone();
            async move {
                counted_batches(&client, state)
                    .await
                    .map_err(|error| format!("{error:#}"))
            }
        })
        .await?;
        while versions < 5 {
            let batches = counted_batches(&client, state).await?;
            assert!(batches >= last, "{state} went back from {last} to {batches}");
            versions += i32::from(batches > last);
            last = batches;
        }
    }
    // What is joined is of one batch each, and can be joined with an output table.
    let (_, joined) = client
        .sql("SELECT count(*) FROM \"word-count_state\".totals s JOIN \"word-count\".out o ON s.word = o.word WHERE s.total >= 10")
        .await?;
    assert_eq!(rows(&joined), ["10"]);
    for (sql, hint) in [
        (r#"SELECT * FROM "word-count_state".total"#, "did you mean `totals`?"),
        (
            r#"SELECT * FROM "word-count_streams".words"#,
            "did you mean `word-count_state`?",
        ),
        ("SELECT * FROM other.totals", "unknown job `other`"),
    ] {
        let error = client.sql(sql).await.expect_err(sql).to_string();
        assert!(error.contains(hint), "{sql}: {error}");
    }
    client.stop("word-count", true).await?;
    let error = client
        .sql("SELECT * FROM \"word-count_state\".totals")
        .await
        .expect_err("the job has ended");
    assert!(error.to_string().contains("no job keeps `word-count_state`"), "{error}");
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_an_empty_table_before_the_first_batch() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 1).await?;
    let client = cluster.client().await?;
    let ctx = StreamingContext::new("slow", Duration::from_secs(3600));
    ctx.generate(1, "{index}")
        .update_state_by_key("value", totals())
        .name("totals")
        .print();
    client.submit(&ctx.graph()?, &[], SubmitOptions::default()).await?;
    let (schema, found) = client.sql("SELECT * FROM slow_state.totals").await?;
    let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(columns, ["value", "total", "batches", "batch_time"]);
    assert_eq!(found.iter().map(|batch| batch.num_rows()).sum::<usize>(), 0);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_dies_with_state_fails_the_job_by_the_name_of_the_state() -> Result<()> {
    let mut settings = config()?;
    settings.driver.reattach_grace = Duration::ZERO;
    let mut cluster = LocalCluster::start(&settings, 3).await?;
    let client = cluster.client().await?;
    start_counting(&client, Duration::from_millis(50)).await?;
    let job = |what: &'static str, enough: fn(&tidemill_client::JobSummary) -> bool| {
        let client = client.clone();
        async move {
            eventually(DEADLINE, what, || async {
                let summary = client
                    .job("word-count")
                    .await
                    .map_err(|error| error.to_string())?
                    .summary;
                if enough(&summary) {
                    Ok(summary)
                } else {
                    Err(format!("{summary:?}"))
                }
            })
            .await
        }
    };
    job("batches", |summary| summary.completed_batches > 2).await?;
    cluster.kill_executor(0);
    let summary = job("the end", |summary| summary.state.is_over()).await?;
    assert_eq!(summary.state, JobState::Failed);
    let error = summary.error.unwrap_or_default();
    assert!(
        error.contains("is lost") && error.contains("the state of totals, touched"),
        "{error}"
    );
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_streams_keep_can_be_asked_for_batch_by_batch_while_they_are_remembered() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 2).await?;
    let client = cluster.client().await?;
    let ctx = StreamingContext::new("remembering", Duration::from_millis(50));
    ctx.partitions(3).remember(Duration::from_millis(250));
    let lines = ctx.generate(200, "{index}").name("lines");
    lines.count().name("counts").table("counts");
    lines.filter("value LIKE '%7'").name("unused");
    client.submit(&ctx.graph()?, &[], SubmitOptions::default()).await?;
    let query = "SELECT count(*), count(DISTINCT batch_time), count(DISTINCT value) FROM remembering_streams.lines";
    eventually(DEADLINE, "five batches", || async {
        let (_, found) = client.sql(query).await.map_err(|error| error.to_string())?;
        let seen = rows(&found).join(",");
        if seen == "50|5|50" { Ok(()) } else { Err(seen) }
    })
    .await?;
    let (_, found) = client
        .sql("SELECT count, count(*) FROM remembering_streams.counts GROUP BY count")
        .await?;
    assert_eq!(rows(&found), ["10|5"]);
    let error = client
        .sql("SELECT * FROM remembering_streams.unused")
        .await
        .expect_err("nobody needs it");
    assert!(error.to_string().contains("known: counts, lines"), "{error}");
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_does_not_wait_can_be_read_between_its_batches() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 2).await?;
    let client = cluster.client().await?;
    let ctx = StreamingContext::new("fast", SECOND);
    ctx.partitions(4);
    let batches = (0..200).map(|_| vec!["a".to_owned(), "b".to_owned()]);
    ctx.queue_stream(batches)
        .update_state_by_key("value", totals())
        .name("totals")
        .print();
    client.submit(&ctx.graph()?, &[], no_wait()).await?;
    loop {
        match client.sql("SELECT min(total), max(total) FROM fast_state.totals").await {
            Ok((_, found)) => {
                let row = rows(&found).pop().context("a row")?;
                let (low, high) = row.split_once('|').context("two columns")?;
                assert_eq!(low, high, "partitions of different batches");
            }
            Err(error) => {
                let over = client.job("fast").await?.summary;
                assert_eq!(over.state, JobState::Finished, "{error}");
                break;
            }
        }
    }
    cluster.stop().await;
    Ok(())
}
