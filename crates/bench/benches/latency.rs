//! From sending a line to the committed result that it is in, at ten thousand lines a second.
//!
//! Each line begins with the time at which it was sent. The job counts all of them by that time, in slices of a
//! hundredth of the interval, with the first and the last time of each slice; a follower notes when it is told that the
//! batch is committed. Half of a slice's lines are taken to be as old as its first one, half as its last.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::StreamExt;
use tidemill_bench::{Figure, weighted_percentile};
use tidemill_client::{Client, JobEvent, StreamingContext, SubmitOptions};
use tidemill_dstream::JobGraph;

use crate::Size;
use crate::cluster;
use crate::observe::milliseconds;
use crate::sender::{Sender, epoch_micros};

const LINES_PER_SECOND: f64 = 10_000.0;
/// Makes lines of about 80 bytes.
const REST_OF_LINE: &str = "the quick brown fox jumps over the lazy dog and runs into the wood";
const EXECUTORS: usize = 2;
/// Slices of an interval; one is at least a millisecond.
const SLICES: i64 = 100;
const SHOWN_ROWS: u32 = 1000;
const RUNS: usize = 3;

struct Case {
    interval: Duration,
    p50_target_ms: f64,
    p99_target_ms: f64,
}

const CASES: [Case; 3] = [
    Case {
        interval: Duration::from_secs(1),
        p50_target_ms: 520.0,
        p99_target_ms: 1020.0,
    },
    Case {
        interval: Duration::from_millis(200),
        p50_target_ms: 120.0,
        p99_target_ms: 220.0,
    },
    Case {
        interval: Duration::from_millis(10),
        p50_target_ms: 15.0,
        p99_target_ms: 25.0,
    },
];

pub(crate) async fn run(size: Size) -> Result<()> {
    let cluster = cluster::start(EXECUTORS, 1).await?;
    let client = cluster.client().await?;
    for case in &CASES {
        let time = size
            .pick(Duration::from_secs(6), Duration::from_secs(30))
            .max(case.interval * 6);
        let (mut p50, mut p99, mut rates) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..RUNS {
            eprintln!("latency: {:?} for {time:?}", case.interval);
            let ages = ages(&client, case.interval, time).await?;
            p50.push(weighted_percentile(&ages, 50.0));
            p99.push(weighted_percentile(&ages, 99.0));
            rates.push(ages.iter().map(|(_, lines)| lines).sum::<f64>() / time.as_secs_f64());
        }
        let interval = case.interval.as_millis();
        let figure = |metric: &str, unit: &str, runs: &[f64]| Figure::new("latency", metric, unit, runs);
        figure(&format!("age_ms_p50_at_{interval}ms"), "ms", &p50)
            .target(case.p50_target_ms)
            .print();
        figure(&format!("age_ms_p99_at_{interval}ms"), "ms", &p99)
            .target(case.p99_target_ms)
            .print();
        figure(&format!("lines_per_s_at_{interval}ms"), "lines/s", &rates).print();
    }
    Ok(())
}

fn job(interval: Duration, sender: &Sender) -> Result<JobGraph> {
    let slice = (i64::try_from(interval.as_micros())? / SLICES).max(1000);
    let context = StreamingContext::new("latency", interval);
    context.partitions(EXECUTORS as u32);
    context
        .socket_text_stream("127.0.0.1", sender.address().port())
        .map([("sent", "CAST(split_part(value, ' ', 1) AS BIGINT)")])
        .reduce_by_key(
            [("slice", format!("sent / {slice}"))],
            [
                ("lines", "count(*)"),
                ("earliest", "min(sent)"),
                ("latest", "max(sent)"),
            ],
        )
        .name("ages")
        .print_rows(SHOWN_ROWS);
    Ok(context.graph()?)
}

/// How old lines were when their result was committed, in milliseconds, and how many lines.
type Ages = Vec<(f64, f64)>;

async fn ages(client: &Client, interval: Duration, time: Duration) -> Result<Ages> {
    let sender = Sender::stamped(LINES_PER_SECOND, REST_OF_LINE)?;
    let submitted = client
        .submit(&job(interval, &sender)?, &[], SubmitOptions::default())
        .await?;
    let job = submitted.job.to_string();
    let mut events = client.follow(&job, false).await?;
    // Connections are opened and memory gets warm in the first second; whole batches are looked at.
    let warm_up = Duration::from_secs(1).max(interval * 2);
    let (mut first, mut printed, mut ages) = (None, HashMap::new(), Ages::new());
    loop {
        match events.next().await.context("the driver ended")?? {
            JobEvent::Printed(batch) => {
                ensure!(!batch.more, "the driver showed only a part of the rows");
                printed.insert(batch.time, batch.rows);
            }
            JobEvent::Batch(batch) => {
                let now = epoch_micros();
                if let Some(error) = batch.error {
                    bail!("batch {}: {error}", batch.time);
                }
                let rows = printed.remove(&batch.time).unwrap_or_default();
                if batch.input_rows == 0 && first.is_none() {
                    continue;
                }
                let passed = batch.time.since(*first.get_or_insert(batch.time));
                if passed >= warm_up + time {
                    break;
                }
                if passed >= warm_up {
                    add(&mut ages, &rows, now)?;
                }
            }
            JobEvent::Ended(summary) => bail!("the job ended: {}", summary.error.unwrap_or_default()),
        }
    }
    client.stop(&job, true).await?;
    while let Some(event) = events.next().await {
        if let JobEvent::Ended(_) = event? {
            break;
        }
    }
    ensure!(!ages.is_empty(), "no line came back");
    Ok(ages)
}

fn add(ages: &mut Ages, rows: &[RecordBatch], now: i64) -> Result<()> {
    for batch in rows {
        let column = |name: &str| {
            let column = batch
                .column_by_name(name)
                .and_then(|column| column.as_primitive_opt::<Int64Type>());
            column.with_context(|| format!("no numbers in column {name}"))
        };
        let (lines, earliest, latest) = (column("lines")?, column("earliest")?, column("latest")?);
        for row in 0..batch.num_rows() {
            let half = lines.value(row) as f64 / 2.0;
            for sent in [earliest.value(row), latest.value(row)] {
                let age = Duration::from_micros(u64::try_from(now - sent).unwrap_or(0));
                ages.push((milliseconds(age), half));
            }
        }
    }
    Ok(())
}
